//! A balancer inside the test process, for everything that needs no process of its own.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;

use pointsman::config::{self, model::Bind};
use serde_json::json;
use tempfile::TempDir;

use super::answering::Identity;
use super::client::hello;
use super::{Client, Line, Log, PATIENCE};

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
        let socket = folder.path().join("admin.sock");
        let text = format!("log.access = {log:?}\nruntime.workers = 2\nadmin.socket = {socket:?}\n{config}");
        let path = folder.path().join("test.toml");
        std::fs::write(&path, text).unwrap();
        let loaded = config::load(&path).unwrap_or_else(|problems| panic!("{problems}"));
        let running = pointsman::supervise::Balancer::start(&loaded.config).unwrap_or_else(|error| panic!("{error}"));
        Balancer { running: Some(running), folder }
    }

    /// Starts one whose listener `edge` leads to the pool `all`, with these keys of the pool.
    pub fn with_pool(keys: &str) -> Balancer {
        let route = "listener.edge.bind = '127.0.0.1:0'\nroute.all = { listener = 'edge', pool = 'all' }";
        Balancer::start(&format!("{route}\n[pool.all]\n{keys}"))
    }

    /// Starts one whose listener `edge` leads to the pool `a` by the route `a`, on which TLS ends by these certificates and keys
    /// of its table; `endpoint` is that of the pool, and `more` are further keys of it, a line each.
    pub fn terminating(identities: &[&Identity], tls: &str, endpoint: SocketAddr, more: &str) -> Balancer {
        let files: Vec<String> = identities.iter().map(|identity| identity.file("pem")).collect();
        Balancer::start(&format!(
            "listener.edge.bind = '127.0.0.1:0'\n[route.a]\nlistener = 'edge'\npool = 'a'\n\
             tls = {{ certificates = {files:?}, {tls} }}\n[pool.a]\nendpoints = '{endpoint}'\n{more}\n"
        ))
    }

    /// One session from its beginning to its end, over the listener `edge` to an endpoint that echoes.
    pub fn exchange(&self) {
        self.session().end();
    }

    /// A session that stands, with its first bytes there and back.
    pub fn session(&self) -> Client {
        let hello = hello("www.example.com");
        let mut client = Client::sending(self.address("edge"), &hello);
        client.expect(&hello);
        client
    }

    /// So many of them.
    pub fn sessions(&self, count: usize) -> Vec<Client> {
        (0..count).map(|_| self.session()).collect()
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

    /// The answer to a request over the admin socket.
    pub fn ask(&self, request: &Line) -> Line {
        let mut socket = UnixStream::connect(self.folder.path().join("admin.sock")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.write_all(format!("{request}\n").as_bytes()).unwrap();
        let mut answer = String::new();
        BufReader::new(socket).read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
    }

    /// Changes an endpoint over the admin socket: drain, maint or ready.
    pub fn set(&self, command: &str, pool: &str, endpoint: &str) {
        let answer = self.ask(&json!({ "command": command, "pool": pool, "endpoint": endpoint }));
        assert!(answer["endpoint"].is_object(), "{answer}");
    }

    /// The value of a metric's series, as rendered, such as `pointsman_route_sessions_total{route="a"}`.
    pub fn metric(&self, series: &str) -> f64 {
        self.metric_if_there(series).unwrap_or_else(|| panic!("{series} is not in\n{}", self.running().metrics()))
    }

    /// The same of a series that may come later.
    pub fn metric_if_there(&self, series: &str) -> Option<f64> {
        let page = self.running().metrics();
        let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
        Some(line.parse().expect("a metric is a number"))
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
