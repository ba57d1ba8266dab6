//! `pointsman run`: serve until a signal says to stop, drain, and go.

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::{self, Config};
use crate::observe::program_log;
use crate::supervise::Balancer;

/// Between two messages on how many sessions remain.
const TELL_REMAINING: Duration = Duration::from_secs(5);
/// Between two looks at whether the last session has ended.
const LOOK: Duration = Duration::from_millis(20);

/// Serves the configuration at `path`.
pub(super) fn run(path: &Path) -> ExitCode {
    let (config, warnings) = match config::load(path) {
        Ok(loaded) => (loaded.config, loaded.warnings),
        Err(problems) => {
            eprintln!("{problems}");
            return ExitCode::FAILURE;
        }
    };
    let _flush = program_log::init(&config.log);
    for variable in &config.environment {
        tracing::info!(variable, "taken from the environment");
    }
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    match serve(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pointsman: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(config: &Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut signals = {
        let _entered = runtime.enter();
        Signals::new()?
    };
    let balancer = Balancer::start_inheriting(config)?;
    runtime.block_on(async {
        let name = signals.next().await;
        tracing::info!(sessions = balancer.sessions(), "{name}: draining; a second signal ends all sessions at once");
        balancer.drain();
        tokio::select! {
            () = ended(&balancer) => {}
            name = signals.next() => {
                tracing::warn!(sessions = balancer.sessions(), "{name}: ending all sessions");
                balancer.end();
            }
        }
    });
    balancer.join();
    tracing::info!("stopped");
    Ok(())
}

/// Waits for the last session, and tells from time to time how many remain.
async fn ended(balancer: &Balancer) {
    let mut tell = tokio::time::interval(TELL_REMAINING);
    tell.tick().await;
    loop {
        tokio::select! {
            _ = tell.tick() => tracing::info!(sessions = balancer.sessions(), "draining: sessions remain"),
            () = tokio::time::sleep(LOOK) => {}
        }
        if balancer.has_ended() {
            return;
        }
    }
}

/// The signals that ask the process to stop.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// Listens for them from here on; to be called inside a runtime.
    pub(super) fn new() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The name of the next one that comes. SIGHUP, which elsewhere means to reload, is told of and otherwise ignored.
    pub(super) async fn next(&mut self) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.hangup.recv() => tracing::warn!("SIGHUP: ignored, the configuration cannot be reloaded"),
            }
        }
    }
}
