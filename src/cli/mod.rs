//! The command line.

mod check;
mod demo;
mod operate;
mod run;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Where the configuration is looked for.
const CONFIG: &str = "/etc/pointsman/pointsman.toml";

/// A layer-4 TCP/TLS load balancer: reads the name in the ClientHello and forwards to a pool of endpoints.
#[derive(Debug, Parser)]
#[command(name = "pointsman", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until SIGTERM or SIGINT; then drain, and at a second signal end at once
    Run {
        /// The configuration file
        #[arg(default_value = CONFIG)]
        config: PathBuf,
    },
    /// Report every problem of a configuration; exit status 0 if there is none, else 1
    Check {
        /// The configuration file
        config: PathBuf,
        /// Also try every address that would be listened on
        #[arg(long)]
        bind: bool,
    },
    /// Show the main job on this machine: two TLS servers, pointsman in front of them, and clients by name
    Demo {
        /// End after the demo's own checks instead of serving until Ctrl-C; exit status 0 if they pass, else 1
        #[arg(long)]
        once: bool,
    },
    #[command(flatten)]
    Operate(operate::Operate),
}

/// Runs what the command line asks for.
pub fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run { config } => run::run(&config),
        Command::Check { config, bind } => check::check(&config, bind),
        Command::Demo { once } => demo::demo(once),
        Command::Operate(command) => operate::operate(command),
    }
}
