//! `pointsman check`: every problem of a configuration, in one go.

use std::path::Path;
use std::process::ExitCode;

use crate::config;
use crate::listen::sockets;

/// Reports on the configuration at `path`; with `bind`, tries its addresses too.
pub(super) fn check(path: &Path, bind: bool) -> ExitCode {
    let config = match config::load(path) {
        Ok(loaded) => loaded.config,
        Err(problems) => {
            eprintln!("{problems}");
            return ExitCode::FAILURE;
        }
    };
    for variable in &config.environment {
        println!("taken from the environment: {variable}");
    }
    if bind && let Err(errors) = sockets::try_all(&config.listeners) {
        for error in errors {
            eprintln!("{error}");
        }
        return ExitCode::FAILURE;
    }
    println!(
        "{}: ok ({} listeners, {} routes, {} pools{})",
        path.display(),
        config.listeners.len(),
        config.routes.len(),
        config.pools.len(),
        if bind { ", all addresses free" } else { "" }
    );
    ExitCode::SUCCESS
}
