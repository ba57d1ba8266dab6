//! PostgreSQL: servers with TLS, users and streaming replicas, of the system's packages and a current one, and their
//! clients.
//!
//! The first test that needs a version has its empty cluster made, which the others copy. PostgreSQL does not run as
//! root: where the tests do, its programs run as `nobody`, to whom everything in its folder then belongs.

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;

use super::answering::{Authority, Identity};
use super::daemon::{Daemon, ask, fetched};
use super::eventually;
use super::kept::{copy, kept, quick_folder, run};
use super::process::{free_address, skipped};

/// Who runs it where the tests are root: nobody and nogroup, the same on every system of the family.
pub(super) const NOBODY: u32 = 65534;

const SETTINGS: &str = "
listen_addresses = '127.0.0.1'
fsync = off
full_page_writes = off
shared_buffers = 16MB
dynamic_shared_memory_type = mmap
wal_retrieve_retry_interval = 100ms
ssl = on
ssl_cert_file = 'server.pem'
ssl_key_file = 'server.key'
ssl_ca_file = 'ca.pem'
";

/// Who may log in: the tests themselves by its socket, without a word, and others by [`Postgres::allow`].
const LOCAL: &str = "local all all trust\nlocal replication all trust\n";

/// Everybody with a password, in TLS or in clear.
const USUAL: &str = "host all all all scram-sha-256";

/// Which PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// That of the system's packages.
    System,
    /// A current one, which knows direct TLS.
    Current,
}

impl Version {
    /// Both.
    pub const ALL: [Version; 2] = [Version::System, Version::Current];

    /// The folder of its programs; nothing where it is not installed.
    pub(super) fn programs(self) -> Option<PathBuf> {
        match self {
            Version::Current => fetched("postgres").map(|folder| folder.join("bin")),
            Version::System => {
                let folders = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
                let version = |folder: &Path| folder.file_name()?.to_str()?.parse::<u32>().ok();
                let folders = folders.map(|folder| folder.path()).filter(|folder| folder.join("bin/postgres").exists());
                let found = folders.max_by_key(|folder| version(folder)).map(|folder| folder.join("bin"));
                if found.is_none() {
                    skipped("postgresql is not installed");
                }
                found
            }
        }
    }

    /// One of its clients, such as psql or pgbench, which knows nothing of the user who runs the tests.
    pub fn client(self, name: &str) -> Option<Command> {
        Some(client(&self.programs()?, name))
    }
}

/// A running server; ends with the test.
pub struct Postgres {
    daemon: Daemon,
    folder: TempDir,
    programs: PathBuf,
    address: SocketAddr,
}

impl Postgres {
    /// Starts one whose certificate of this authority is for `name`; nothing where it is not installed.
    pub fn start(version: Version, authority: &Authority, name: &str) -> Option<Postgres> {
        Postgres::start_with(version, authority, name, "")
    }

    /// Starts one with further lines of `postgresql.conf`.
    pub fn start_with(version: Version, authority: &Authority, name: &str, settings: &str) -> Option<Postgres> {
        let programs = version.programs()?;
        let folder = folder();
        let programs = reachable(programs, &folder);
        let data = folder.path().join("data");
        copy_cluster(&programs, &data);
        write(&data.join("postgresql.conf"), format!("{SETTINGS}{settings}"));
        write(&data.join("pg_hba.conf"), format!("{LOCAL}{USUAL}\n"));
        Some(Postgres::serving(folder, programs, authority, name))
    }

    /// Starts what is in the folder, with a certificate for `name`.
    fn serving(folder: TempDir, programs: PathBuf, authority: &Authority, name: &str) -> Postgres {
        let data = folder.path().join("data");
        let identity = authority.sign(name);
        write(&data.join("server.pem"), std::fs::read(identity.file("pem")).unwrap());
        write(&data.join("server.key"), std::fs::read(identity.file("key")).unwrap());
        write(&data.join("ca.pem"), std::fs::read(authority.file()).unwrap());
        let address = free_address();
        let daemon = serve(&folder, &programs, address);
        Postgres { daemon, folder, programs, address }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What a statement of the superuser comes to: a line a row, the columns apart by `|`. Panics where it fails.
    pub fn sql(&self, statement: &str) -> String {
        self.try_sql(statement).unwrap_or_else(|error| panic!("{statement}: {error}; log: {}", self.log()))
    }

    /// The same, or what is wrong with it.
    pub fn try_sql(&self, statement: &str) -> Result<String, String> {
        let mut psql = self.program("psql");
        psql.args(["--no-psqlrc", "--no-align", "--tuples-only", "--quiet", "--set=ON_ERROR_STOP=1"]);
        ask(psql.args(self.socket()).args(["--dbname=postgres", "--command", statement]))
    }

    /// Makes a user whose password is kept by this method: `scram-sha-256` or `md5`.
    pub fn user(&self, name: &str, method: &str, password: &str) {
        let made = format!("CREATE ROLE {name} LOGIN PASSWORD '{password}'");
        self.sql(&format!("SET password_encryption = '{method}'; {made}"));
    }

    /// Has it let in by these lines of `pg_hba.conf` from now on, and by nothing else.
    pub fn allow(&self, lines: &[&str]) {
        write(&self.data().join("pg_hba.conf"), format!("{LOCAL}{}\n", lines.join("\n")));
        self.reload();
    }

    /// Has it read its files again, and waits until it has.
    pub fn reload(&self) {
        let before = self.sql("SELECT pg_conf_load_time()");
        self.sql("SELECT pg_reload_conf()");
        eventually("it has read its files", || (self.sql("SELECT pg_conf_load_time()") != before).then_some(()));
        let wrong = self.sql("SELECT error FROM pg_hba_file_rules WHERE error IS NOT NULL");
        assert_eq!(wrong, "", "in pg_hba.conf");
    }

    /// What it has written to its log.
    pub fn log(&self) -> String {
        self.daemon.log()
    }

    /// Ends it as an administrator does: sessions are told, and what is written is kept.
    pub fn stop(&mut self) {
        self.daemon.end(Signal::INT);
    }

    /// Has it end once its sessions have; until then it takes no others.
    pub fn stop_once_idle(&self) {
        self.daemon.signal(Signal::TERM);
    }

    /// Ends it as a failure of its machine does: all its processes at once.
    pub fn stop_now(&mut self) {
        let id = self.daemon.id();
        let others = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        self.daemon.end(Signal::KILL);
        for other in others.split_whitespace() {
            let pid = Pid::from_raw(other.parse().unwrap()).expect("the kernel counts from one");
            // It may have seen the end of the first already.
            let _ = kill_process(pid, Signal::KILL);
            eventually("its processes end", || has_ended(other).then_some(()));
        }
        self.forget_memory();
    }

    /// Has it take no new sessions and answer nobody who asks for one, while those that it has go on.
    pub fn freeze(&self) {
        self.daemon.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.daemon.signal(Signal::CONT);
    }

    /// Starts it again, at the same address and with its data, after it was ended.
    pub fn start_again(&mut self) {
        self.daemon = serve(&self.folder, &self.programs, self.address);
    }

    /// Starts a streaming replica of it, with a certificate for `name`.
    pub fn replica(&self, authority: &Authority, name: &str) -> Postgres {
        let folder = folder();
        let mut backup = self.program("pg_basebackup");
        backup.args(self.socket()).args(["--write-recovery-conf", "--checkpoint=fast", "--no-sync", "--pgdata"]);
        ask(backup.arg(folder.path().join("data"))).unwrap_or_else(|error| panic!("{error}; log: {}", self.log()));
        let programs = reachable(self.programs.clone(), &folder);
        Postgres::serving(folder, programs, authority, name)
    }

    /// Makes a replica a primary, and waits until it is one.
    pub fn promote(&self) {
        assert_eq!(self.sql("SELECT pg_promote()"), "t", "promoted; log: {}", self.log());
    }

    /// Whether it is a replica.
    pub fn in_recovery(&self) -> bool {
        self.sql("SELECT pg_is_in_recovery()") == "t"
    }

    /// Waits until this replica has everything that its primary has written so far.
    pub fn catch_up_with(&self, primary: &Postgres) {
        let position = primary.sql("SELECT pg_current_wal_lsn()");
        let there = format!("SELECT pg_last_wal_replay_lsn() >= '{position}'");
        eventually("the replica has everything", || (self.sql(&there) == "t").then_some(()));
    }

    fn program(&self, name: &str) -> Command {
        program(&self.programs, name)
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The words by which its clients find its socket.
    fn socket(&self) -> [String; 3] {
        let (folder, port) = (self.folder.path().display(), self.address.port());
        [format!("--host={folder}"), format!("--port={port}"), "--username=postgres".to_owned()]
    }

    /// Gives back the piece of shared memory that a server leaves that had no time to: its id stands in the file.
    fn forget_memory(&self) {
        let file = std::fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
        if let Some(id) = file.lines().nth(6).and_then(|line| line.split_whitespace().nth(1)) {
            let _ = ask(Command::new("ipcrm").args(["--shmem-id", id]));
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // At once, but not without its processes and its shared memory.
        self.daemon.leave(Signal::QUIT);
    }
}

/// A certificate by which `user` may log in where `pg_hba.conf` says `cert`.
pub fn certificate_of(authority: &Authority, user: &str) -> Identity {
    let identity = authority.sign_as(user, user, rcgen::KeyPair::generate().unwrap(), |params| {
        params.distinguished_name.push(rcgen::DnType::CommonName, user);
    });
    // Its clients use no key that others could read.
    std::fs::set_permissions(identity.file("key"), Permissions::from_mode(0o600)).unwrap();
    identity
}

/// Python with a client of a current PostgreSQL, which runs this script; nothing where it is not there.
pub fn psycopg(script: &str) -> Option<Command> {
    let packages = fetched("psycopg")?;
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", packages).args(["-c", script]);
    Some(command)
}

/// One of its programs, in English, with nobody's own settings.
fn client(programs: &Path, name: &str) -> Command {
    let mut command = Command::new(programs.join(name));
    command.env("LC_ALL", "C").env("HOME", "/nonexistent").current_dir("/");
    // Its pieces that are loaded later find the system's libpq otherwise.
    command.env("LD_LIBRARY_PATH", programs.join("../lib"));
    command
}

/// One of its programs, run by who may.
fn program(programs: &Path, name: &str) -> Command {
    let mut command = client(programs, name);
    if geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

/// Whether a process is no more, or no more than what its parent has to be told.
fn has_ended(id: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, fields)| fields.starts_with('Z'))
}

/// A new folder of who runs it.
pub(super) fn folder() -> TempDir {
    let folder = quick_folder();
    if geteuid().is_root() {
        chown(folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    folder
}

/// Writes a file of who runs it, which nobody else may read.
pub(super) fn write(path: &Path, content: impl AsRef<[u8]>) {
    std::fs::write(path, content).unwrap();
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
    if geteuid().is_root() {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
}

/// Starts the server of a folder and waits until it takes sessions.
fn serve(folder: &TempDir, programs: &Path, address: SocketAddr) -> Daemon {
    let data = folder.path().join("data");
    let mut command = program(programs, "postgres");
    command.arg("-D").arg(&data).arg("-k").arg(folder.path()).args(["-p", &address.port().to_string()]);
    let mut daemon = Daemon::start(&mut command, &folder.path().join("log")).expect("it is there");
    let id = daemon.id().to_string();
    daemon.wait_until("PostgreSQL serves", || {
        let file = std::fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
        let mut lines = file.lines().map(str::trim);
        // The first line is its id, so that one from before is told apart, and the last one how it is.
        lines.next() == Some(&id) && lines.next_back() == Some("ready")
    });
    daemon
}

/// Puts an empty cluster there.
fn copy_cluster(programs: &Path, to: &Path) {
    let version = run(program(programs, "postgres").arg("--version"));
    copy(&kept(&version, |kept| make_cluster(programs, kept)), to);
    if geteuid().is_root() {
        run(Command::new("chown").args(["-R", &format!("{NOBODY}:{NOBODY}")]).arg(to));
    }
}

/// Has an empty cluster made, with few bytes to copy.
fn make_cluster(programs: &Path, kept: &Path) {
    let folder = folder();
    let made = folder.path().join("data");
    let mut initdb = program(programs, "initdb");
    initdb.args(["--username=postgres", "--auth=trust", "--locale=C", "--encoding=UTF8", "--no-sync"]);
    run(initdb.args(["--wal-segsize=1", "--pgdata"]).arg(&made));
    copy(&made, kept);
}

/// Its programs where who runs them can read them: below a folder that is closed to others, that is a copy in `folder`.
fn reachable(programs: PathBuf, folder: &TempDir) -> PathBuf {
    const OTHERS_PASS: u32 = 0o001;
    let open = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & OTHERS_PASS != 0;
    if !geteuid().is_root() || programs.ancestors().all(open) {
        return programs;
    }
    let copied = folder.path().join("programs");
    copy(programs.parent().expect("they are in bin"), &copied);
    copied.join("bin")
}
