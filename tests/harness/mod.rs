//! Balancers, clients and endpoints for the tests: all on loopback, on free ports, ended by the test that made them.

pub mod answering;
pub mod balancer;
pub mod bulk;
pub mod client;
pub mod daemon;
pub mod database;
pub mod dns;
pub mod endpoint;
pub mod flow;
pub mod kept;
pub mod mysql;
pub mod network;
pub mod patroni;
pub mod pattern;
pub mod pebble;
pub mod postgres;
pub mod process;
pub mod redis;
pub mod tls;

pub use balancer::Balancer;
pub use client::Client;
pub use database::{Being, Database};
pub use dns::{Broken, Dns};
pub use endpoint::{Endpoint, Manner};
pub use mysql::Mysql;
pub use patroni::Patroni;
pub use pattern::Pattern;
pub use pebble::Pebble;
pub use postgres::Postgres;
pub use process::Process;
pub use redis::Redis;

use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long anything that must happen may take before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Waits until `done` gives something; fails with `what` after [`PATIENCE`].
pub fn eventually<T>(what: &str, done: impl FnMut() -> Option<T>) -> T {
    eventually_within(PATIENCE, what, done)
}

/// Waits until `done` gives something; fails with `what` after `patience`.
pub fn eventually_within<T>(patience: Duration, what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + patience;
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(Instant::now() < until, "did not happen within {patience:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// One line of the access log.
pub type Line = serde_json::Value;

/// An access log in JSON, and how a test waits for what must come to stand in it.
#[derive(Clone, Debug)]
pub struct Log(pub PathBuf);

impl Log {
    /// The lines so far.
    pub fn lines(&self) -> Vec<Line> {
        let text = std::fs::read_to_string(&self.0).unwrap_or_default();
        let complete = text.rsplit_once('\n').map_or("", |(complete, _)| complete);
        let read = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        complete.lines().map(read).collect()
    }

    /// All lines, once there are `count`.
    pub fn records(&self, count: usize) -> Vec<Line> {
        eventually(&format!("{count} lines in the access log"), || {
            let lines = self.lines();
            (lines.len() >= count).then_some(lines)
        })
    }

    /// The line on this client, the last one where a port was used again.
    pub fn record_of(&self, client: &str) -> Line {
        eventually(&format!("a line on {client}"), || self.lines().into_iter().rfind(|line| line["client"] == client))
    }
}
