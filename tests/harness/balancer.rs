//! A balancer inside the test process, for everything that needs no process of its own.

use std::net::SocketAddr;

use pointsman::config::{self, model::Bind};
use tempfile::TempDir;

use super::{Line, Log};

/// A running balancer; ends with the test.
pub struct Balancer {
    running: Option<pointsman::supervise::Balancer>,
    folder: TempDir,
}

impl Balancer {
    /// Starts a balancer with this configuration, two workers and a JSON access log of its own.
    pub fn start(config: &str) -> Balancer {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let log = folder.path().join("access.log");
        let text = format!("log.access = {:?}\nruntime.workers = 2\n{config}", log.to_str().unwrap());
        let loaded = config::parse_str("test.toml".as_ref(), &text).unwrap_or_else(|problems| panic!("{problems}"));
        let running = pointsman::supervise::Balancer::start(&loaded.config).unwrap_or_else(|error| panic!("{error}"));
        Balancer { running: Some(running), folder }
    }

    /// The address of a listener that has one TCP address.
    pub fn address(&self, listener: &str) -> SocketAddr {
        match self.running().addresses(listener)[..] {
            [Bind::Tcp(address)] => *address,
            ref other => panic!("{listener:?} listens on {other:?}"),
        }
    }

    /// The library's handle.
    pub fn running(&self) -> &pointsman::supervise::Balancer {
        self.running.as_ref().expect("it runs until it is dropped")
    }

    /// The access log.
    pub fn log(&self) -> Log {
        Log(self.folder.path().join("access.log"))
    }

    /// The access log, once it has `count` lines.
    pub fn records(&self, count: usize) -> Vec<Line> {
        self.log().records(count)
    }

    /// The one line of the access log.
    pub fn record(&self) -> Line {
        let mut records = self.records(1);
        assert_eq!(records.len(), 1, "{records:#?}");
        records.remove(0)
    }

    /// The value of a metric's series, as rendered, such as `pointsman_route_sessions_total{route="a"}`.
    pub fn metric(&self, series: &str) -> f64 {
        let page = self.running().metrics();
        let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{series} is not in\n{page}")).parse().expect("a metric is a number")
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.end();
            running.join();
        }
    }
}
