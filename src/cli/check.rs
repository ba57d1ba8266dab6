//! `pointsman check`: every problem of a configuration, in one go.

use std::fmt::Display;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use crate::config;
use crate::observe::program_log;
use crate::supervise;

/// Reports on the configuration at `path`; with `bind`, tries its addresses too.
pub(super) fn check(path: &Path, bind: bool) -> ExitCode {
    let (config, warnings) = match config::load(path) {
        Ok(loaded) => (loaded.config, loaded.warnings),
        Err(problems) => {
            say(io::stderr(), &problems);
            return ExitCode::FAILURE;
        }
    };
    for warning in &warnings {
        say(io::stderr(), &format_args!("warning: {warning}"));
    }
    for variable in &config.environment {
        say(io::stdout(), &format_args!("taken from the environment: {variable}"));
    }
    for path in config.written_pools().filter_map(|pool| pool.endpoints_file.as_deref()) {
        // That is no mistake: it may come later, and a name that is misspelt never does.
        if !path.try_exists().unwrap_or(true) {
            say(io::stderr(), &format_args!("warning: the file of endpoints {} does not exist", path.display()));
        }
    }
    if bind {
        let _flush = program_log::init(&config.log);
        if let Err(errors) = supervise::try_addresses(&config) {
            errors.iter().for_each(|error| say(io::stderr(), error));
            return ExitCode::FAILURE;
        }
    }
    let (listeners, routes, pools) = (config.listeners.len(), config.routes.len(), config.written_pools().count());
    let count = format!("listeners: {listeners}, routes: {routes}, pools: {pools}");
    let addresses = if bind { "; all addresses are free" } else { "" };
    say(io::stdout(), &format_args!("{}: ok ({count}){addresses}", path.display()));
    ExitCode::SUCCESS
}

/// Writes a line; one that nobody reads is no reason to fail.
fn say(mut to: impl Write, line: &dyn Display) {
    let _ = writeln!(to, "{line}");
}
