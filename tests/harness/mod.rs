//! Balancers, clients and endpoints for the tests: all on loopback, on free ports, ended by the test that made them.

pub mod balancer;
pub mod bulk;
pub mod flow;
pub mod network;
pub mod pattern;
pub mod process;

pub use balancer::Balancer;
pub use pattern::Pattern;
pub use process::Process;

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

/// The lines of an access log in JSON.
pub fn lines(log: &std::path::Path) -> Vec<Line> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let complete = text.rsplit_once('\n').map_or("", |(complete, _)| complete);
    complete.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}
