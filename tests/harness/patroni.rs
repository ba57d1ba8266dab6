//! Patroni: two agents, each with a PostgreSQL server of the system's packages of its own, which agree on who is the primary.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, geteuid, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::daemon::{Daemon, ask, fetched};
use super::eventually_within;
use super::postgres::{NOBODY, Version, folder, write};
use super::process::{free_address, skipped};

/// How long a cluster may take to be made, or to change its mind.
const PATIENCE: Duration = Duration::from_secs(60);

/// One agent with its server; both end with the test.
pub struct Patroni {
    daemon: Daemon,
    folder: TempDir,
    name: &'static str,
    api: SocketAddr,
    server: SocketAddr,
}

impl Patroni {
    /// Starts two of a cluster, and waits until one has a primary and the other a replica, in this order. Their agents listen
    /// at the same port, each at an address of its own. Nothing where they are not installed.
    pub fn pair() -> Option<[Patroni; 2]> {
        let programs = Version::System.programs()?;
        let packages = [fetched("patroni")?, fetched("psycopg")?];
        // The program itself: what stands in the path may be a script of whoever runs the tests.
        let python = ask(Command::new("python3").args(["-c", "import sys; print(sys.executable)"])).ok()?;
        let mut probe = Command::new(&python);
        as_nobody(&mut probe).args(["-c", "import patroni"]).env("PYTHONPATH", &packages[0]);
        if let Err(why) = ask(&mut probe) {
            skipped(&format!("patroni cannot be run by nobody: {why}"));
            return None;
        }
        let api = port_of_both();
        let stores = [free_address(), free_address()];
        let start = |index: usize| {
            let address = |port| SocketAddr::from(([127, 0, 0, if index == 0 { 1 } else { 2 }], port));
            let (name, api, server) = (["one", "two"][index], address(api), address(free_address().port()));
            let folder = folder();
            let settings = settings(name, api, server, [stores[index], stores[1 - index]], folder.path(), &programs);
            let file = folder.path().join("patroni.yml");
            write(&file, settings.to_string());
            let mut command = Command::new(&python);
            as_nobody(&mut command).args(["-m", "patroni"]).arg(&file).env("HOME", folder.path());
            command.env("PYTHONPATH", std::env::join_paths(&packages).unwrap());
            let daemon = Daemon::start(&mut command, &folder.path().join("log")).expect("python was there");
            Patroni { daemon, folder, name, api, server }
        };
        let mut pair = [start(0), start(1)];
        let primary = || pair.iter().position(|patroni| patroni.says("primary"));
        let primary = eventually_within(PATIENCE, "a cluster of Patroni has a primary", primary);
        pair.swap(0, primary);
        pair[1].comes_to("replica");
        Some(pair)
    }

    /// Where its server is.
    pub fn server(&self) -> SocketAddr {
        self.server
    }

    /// Where it is itself.
    pub fn api(&self) -> SocketAddr {
        self.api
    }

    /// What it has written to its log.
    pub fn log(&self) -> String {
        self.daemon.log()
    }

    /// What a statement of the superuser comes to.
    pub fn sql(&self, statement: &str) -> String {
        let mut psql = Version::System.client("psql").expect("it runs");
        psql.args(["-XAtq", "-h", &self.server.ip().to_string(), "-p", &self.server.port().to_string()]);
        let said = ask(psql.args(["-U", "postgres", "-d", "postgres", "-c", statement]));
        said.unwrap_or_else(|error| panic!("{statement}: {error}; log: {}", self.daemon.log()))
    }

    /// Has the other one take over, and waits until it has.
    pub fn switch_over_to(&self, other: &Patroni) {
        let wish = json!({ "leader": self.name, "candidate": other.name }).to_string();
        let url = format!("http://{}/switchover", self.api);
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--fail-with-body", "-X", "POST", "-H", "Content-Type: application/json", "-d", &wish, &url]);
        let said = ask(&mut curl).unwrap_or_else(|error| panic!("{error}; log: {}", self.daemon.log()));
        assert!(said.starts_with("Successfully"), "{said}");
        other.comes_to("primary");
        self.comes_to("replica");
    }

    /// Waits until it says this of its server.
    fn comes_to(&self, role: &str) {
        eventually_within(PATIENCE, &format!("{} has a {role}", self.name), || self.says(role).then_some(()));
    }

    fn says(&self, role: &str) -> bool {
        let mut answer = String::new();
        let ask = |answer: &mut String| {
            let mut connection = TcpStream::connect(self.api)?;
            write!(connection, "GET /{role} HTTP/1.0\r\n\r\n")?;
            connection.read_to_string(answer)
        };
        ask(&mut answer).is_ok() && answer.starts_with("HTTP/1.0 200 ")
    }
}

impl Drop for Patroni {
    fn drop(&mut self) {
        // It ends its server first.
        self.daemon.leave(Signal::TERM);
        let file = std::fs::read_to_string(self.folder.path().join("data/postmaster.pid")).unwrap_or_default();
        let id = file.lines().next().and_then(|id| Pid::from_raw(id.parse().ok()?));
        if let Some(id) = id {
            let _ = kill_process(id, Signal::QUIT);
        }
    }
}

/// As little as it takes: nobody has a password, and everything is done at once.
fn settings(
    name: &str,
    api: SocketAddr,
    server: SocketAddr,
    [store, partner]: [SocketAddr; 2],
    folder: &Path,
    programs: &Path,
) -> Value {
    json!({
        "scope": "demo",
        "name": name,
        "restapi": { "listen": api.to_string(), "connect_address": api.to_string() },
        "raft": {
            "data_dir": folder.join("raft"),
            "self_addr": store.to_string(),
            "partner_addrs": [partner.to_string()],
        },
        "bootstrap": {
            "dcs": { "ttl": 20, "loop_wait": 1, "retry_timeout": 3 },
            "initdb": [{ "encoding": "UTF8" }, { "locale": "C" }, { "auth": "trust" }, "no-sync"],
        },
        "postgresql": {
            "listen": server.to_string(),
            "connect_address": server.to_string(),
            "data_dir": folder.join("data"),
            "bin_dir": programs,
            "pgpass": folder.join("pgpass"),
            "authentication": { "superuser": { "username": "postgres" }, "replication": { "username": "postgres" } },
            "pg_hba": ["local all all trust", "host all all all trust", "host replication all all trust"],
            "parameters": {
                "unix_socket_directories": folder,
                "fsync": "off",
                "shared_buffers": "16MB",
                "dynamic_shared_memory_type": "mmap",
            },
        },
    })
}

/// A port that is free at both addresses.
fn port_of_both() -> u16 {
    loop {
        let port = free_address().port();
        if TcpListener::bind(("127.0.0.2", port)).is_ok() {
            return port;
        }
    }
}

fn as_nobody(command: &mut Command) -> &mut Command {
    if geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command.current_dir("/")
}
