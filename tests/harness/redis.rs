//! Redis: servers in clear and in TLS, with users and replicas, and the sentinels that watch them.

use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use tempfile::TempDir;

use super::answering::Authority;
use super::daemon::{Daemon, ask};
use super::eventually;
use super::kept::quick_folder;
use super::process::free_address;

/// The user of the tests themselves, of replicas and of sentinels: any password is right.
const TESTS: [&str; 4] = ["--user", "tests", "--pass", "any"];
const USER: &str = "user tests on nopass ~* &* +@all\nmasteruser tests\nmasterauth any\n";

/// A running server or sentinel; ends with the test.
pub struct Redis {
    daemon: Daemon,
    folder: TempDir,
    address: SocketAddr,
    tls_address: SocketAddr,
}

impl Redis {
    /// Starts one that everybody may use, whose certificate of this authority is for `name`; nothing where it is not
    /// installed.
    pub fn start(authority: &Authority, name: &str) -> Option<Redis> {
        Redis::start_with(authority, name, "")
    }

    /// Starts one with further lines of `redis.conf`, such as `requirepass secret`.
    pub fn start_with(authority: &Authority, name: &str, settings: &str) -> Option<Redis> {
        Redis::start_as("server", authority, name, settings)
    }

    /// Starts a replica of it, whose certificate is for `name`.
    pub fn replica(&self, authority: &Authority, name: &str, settings: &str) -> Redis {
        let of = format!("replicaof {} {}\n{settings}", self.address.ip(), self.address.port());
        let replica = Redis::start_as("server", authority, name, &of).expect("it is there");
        eventually("the replica is one", || {
            replica.ask("INFO replication").contains("master_link_status:up").then_some(())
        });
        replica
    }

    /// Starts a sentinel that calls it by this `master` name, finds it down after half a second, and decides alone; the
    /// sentinel's certificate is for `name`.
    pub fn sentinel(&self, master: &str, authority: &Authority, name: &str) -> Redis {
        let settings = format!(
            "sentinel monitor {master} {} {} 1\nsentinel auth-user {master} tests\nsentinel auth-pass {master} any\n\
             sentinel down-after-milliseconds {master} 500\nsentinel failover-timeout {master} 2000\n",
            self.address.ip(),
            self.address.port()
        );
        Redis::start_as("sentinel", authority, name, &settings).expect("it is there")
    }

    fn start_as(kind: &str, authority: &Authority, name: &str, settings: &str) -> Option<Redis> {
        let folder = quick_folder();
        let identity = authority.sign(name);
        let (address, tls_address) = (free_address(), free_address());
        // A sentinel watches others, and is no replica of any.
        let user = if kind == "sentinel" { USER.lines().next().unwrap() } else { USER };
        let config = format!(
            "bind 127.0.0.1\nport {}\ntls-port {}\nunixsocket {folder}/socket\ndir {folder}\n{user}\n\
             tls-cert-file '{}'\ntls-key-file '{}'\ntls-ca-cert-file '{}'\ntls-auth-clients optional\n{}{settings}\n",
            address.port(),
            tls_address.port(),
            identity.file("pem"),
            identity.file("key"),
            authority.file(),
            if kind == "sentinel" { "" } else { "save ''\nappendonly no\nrepl-diskless-sync-delay 0\n" },
            folder = folder.path().display(),
        );
        std::fs::write(folder.path().join(kind), config).unwrap();
        let daemon = serve(folder.path())?;
        Some(Redis { daemon, folder, address, tls_address })
    }

    /// Where it listens in clear.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens in TLS.
    pub fn tls_address(&self) -> SocketAddr {
        self.tls_address
    }

    /// The answer to a command, whose words are apart by blanks, from one who may do all. Panics where there is none.
    pub fn ask(&self, command: &str) -> String {
        self.try_ask(command).unwrap_or_else(|error| panic!("{command}: {error}; log: {}", self.log()))
    }

    /// The same, or why there is none.
    pub fn try_ask(&self, command: &str) -> Result<String, String> {
        cli(self.folder.path(), command)
    }

    /// Makes a replica a primary.
    pub fn promote(&self) {
        assert_eq!(self.ask("REPLICAOF NO ONE"), "OK");
    }

    /// What it has written to its log.
    pub fn log(&self) -> String {
        self.daemon.log()
    }

    /// Ends it as a failure does.
    pub fn stop_now(&mut self) {
        self.daemon.end(Signal::KILL);
    }

    /// Starts it again, at the same addresses, after it was ended.
    pub fn start_again(&mut self) {
        self.daemon = serve(self.folder.path()).expect("it is there");
    }
}

/// Starts the server or sentinel whose settings are in this folder, and waits until it answers.
fn serve(folder: &Path) -> Option<Daemon> {
    let mut command = Command::new("redis-server");
    let sentinel = folder.join("sentinel");
    if sentinel.exists() {
        command.arg(sentinel).arg("--sentinel");
    } else {
        command.arg(folder.join("server"));
    }
    let mut daemon = Daemon::start(&mut command, &folder.join("log"))?;
    daemon.wait_until("Redis serves", || {
        UnixStream::connect(folder.join("socket")).is_ok() && cli(folder, "PING").as_deref() == Ok("PONG")
    });
    Some(daemon)
}

fn cli(folder: &Path, command: &str) -> Result<String, String> {
    let mut cli = Command::new("redis-cli");
    cli.arg("-e").arg("-s").arg(folder.join("socket")).args(TESTS).arg("--no-auth-warning");
    ask(cli.args(command.split_whitespace()))
}
