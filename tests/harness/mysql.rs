//! MariaDB and MySQL: servers with TLS, users and replicas, MariaDB's also as a cluster of one, and their clients.

use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::Signal;
use tempfile::TempDir;

use super::answering::Authority;
use super::daemon::{Daemon, ask, fetched};
use super::eventually;
use super::kept::{copy, kept, quick_folder, run};
use super::process::{free_address, run_if_there, skipped};

/// Which server of this protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Make {
    /// That of the system's packages.
    MariaDb,
    /// A current MySQL.
    MySql,
}

impl Make {
    /// Both.
    pub const ALL: [Make; 2] = [Make::MariaDb, Make::MySql];

    /// Its client, which reads nobody's settings; nothing where it is not installed.
    pub fn client(self) -> Option<Command> {
        let mut command = match self {
            Make::MariaDb => {
                run_if_there(Command::new("mariadb").arg("--version"))?;
                Command::new("mariadb")
            }
            Make::MySql => Command::new(fetched("mysql")?.join("mysql")),
        };
        command.arg("--no-defaults");
        Some(command)
    }

    /// Its server's program, without settings; nothing where it is not installed.
    fn server(self) -> Option<Command> {
        let mut command = match self {
            Make::MariaDb => {
                let paths = ["/usr/sbin/mariadbd", "/usr/local/sbin/mariadbd"];
                let Some(path) = paths.iter().find(|path| Path::new(path).exists()) else {
                    skipped("mariadbd is not installed");
                    return None;
                };
                let mut command = Command::new(path);
                command.arg("--no-defaults");
                command
            }
            Make::MySql => {
                let root = fetched("mysql")?;
                let mut command = Command::new(root.join("mysqld"));
                command.arg("--no-defaults").arg("--basedir").arg(root.join("usr"));
                command.arg("--plugin-dir").arg(root.join("usr/lib/mysql/plugin"));
                command.args(["--mysqlx=OFF", "--secure-file-priv="]);
                command
            }
        };
        // It asks to be told so where it runs as root.
        command.arg(user());
        Some(command)
    }

    /// What makes its files small, to be copied quickly, its start quick, and does not wait for the disk.
    fn quickly(self) -> [&'static str; 6] {
        let log = match self {
            Make::MariaDb => "--innodb-log-file-size=4M",
            Make::MySql => "--innodb-redo-log-capacity=16M",
        };
        let disk = ["--innodb-flush-method=nosync", "--innodb-use-native-aio=OFF", "--innodb-doublewrite=OFF"];
        [log, "--innodb-buffer-pool-size=16M", "--performance-schema=OFF", disk[0], disk[1], disk[2]]
    }

    /// Has an empty data directory made, in which root needs no password.
    fn make_data(self, to: &Path) {
        let mut command = self.server().expect("it is there");
        match self {
            Make::MySql => command.arg("--initialize-insecure"),
            Make::MariaDb => {
                command = Command::new("mariadb-install-db");
                command.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]);
                command.arg(user())
            }
        };
        run(command.args(self.quickly()).arg(format!("--datadir={}", to.display())));
        // Each server has an id of its own, which it makes if it has none.
        let _ = std::fs::remove_file(to.join("auto.cnf"));
    }
}

/// A running server; ends with the test.
pub struct Mysql {
    make: Make,
    daemon: Daemon,
    folder: TempDir,
    address: SocketAddr,
    words: Vec<String>,
}

impl Mysql {
    /// Starts one whose certificate of this authority is for `name`; nothing where it is not installed.
    pub fn start(make: Make, authority: &Authority, name: &str) -> Option<Mysql> {
        Mysql::start_with(make, authority, name, &[])
    }

    /// Starts one with further words of its command line.
    pub fn start_with(make: Make, authority: &Authority, name: &str, more: &[&str]) -> Option<Mysql> {
        static SERVERS: AtomicU32 = AtomicU32::new(1);
        let mut server = make.server()?;
        make.client()?;
        let folder = quick_folder();
        let version = run(server.arg("--version"));
        let whose = format!("{make:?} {}", version.split("Ver").last().unwrap());
        copy(&kept(&whose, |kept| make.make_data(kept)), &folder.path().join("data"));
        let (address, identity) = (free_address(), authority.sign(name));
        let mut words = vec![
            format!("--datadir={}", folder.path().join("data").display()),
            format!("--socket={}", socket(folder.path())),
            format!("--pid-file={}", folder.path().join("pid").display()),
            format!("--bind-address={}", address.ip()),
            format!("--port={}", address.port()),
            format!("--ssl-cert={}", identity.file("pem")),
            format!("--ssl-key={}", identity.file("key")),
            format!("--ssl-ca={}", authority.file()),
            format!("--server-id={}", SERVERS.fetch_add(1, Ordering::Relaxed)),
            "--log-bin=log".to_owned(),
            "--sync-binlog=0".to_owned(),
        ];
        if make == Make::MySql {
            words.extend(["--gtid-mode=ON", "--enforce-gtid-consistency=ON"].map(str::to_owned));
        }
        words.extend(make.quickly().iter().chain(more).map(|word| (*word).to_owned()));
        let daemon = serve(make, folder.path(), &words)?;
        Some(Mysql { make, daemon, folder, address, words })
    }

    /// Starts a cluster of one; nothing where MariaDB or its Galera library is not installed.
    pub fn start_cluster(authority: &Authority, name: &str) -> Option<Mysql> {
        const LIBRARY: &str = "/usr/lib/galera/libgalera_smm.so";
        if !Path::new(LIBRARY).exists() {
            skipped("galera is not installed");
            return None;
        }
        let (talks, provider) = (free_address(), format!("--wsrep-provider={LIBRARY}"));
        let options = format!("--wsrep-provider-options=gmcast.listen_addr=tcp://{talks};base_port={}", talks.port());
        let words = ["--wsrep-on=ON", &provider, "--wsrep-cluster-address=gcomm://", "--wsrep-node-address=127.0.0.1"];
        let more = ["--binlog-format=ROW", "--wsrep-new-cluster", &options];
        let cluster = Mysql::start_with(Make::MariaDb, authority, name, &[&words[..], &more].concat())?;
        eventually("the cluster is ready", || cluster.is_ready().then_some(()));
        Some(cluster)
    }

    /// Whether the cluster that it is in takes statements.
    pub fn is_ready(&self) -> bool {
        self.sql("SHOW STATUS LIKE 'wsrep_ready'").ends_with("ON")
    }

    /// Takes it out of its cluster, or back in.
    pub fn set_ready(&self, ready: bool) {
        self.sql(&format!("SET GLOBAL wsrep_cluster_address = '{}'", if ready { "gcomm://" } else { "" }));
        eventually("the cluster follows", || (self.is_ready() == ready).then_some(()));
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What a statement of root comes to: a line a row, the columns apart by tabs. Panics where it fails.
    pub fn sql(&self, statement: &str) -> String {
        self.try_sql(statement).unwrap_or_else(|error| panic!("{statement}: {error}; log: {}", self.log()))
    }

    /// The same, or what is wrong with it.
    pub fn try_sql(&self, statement: &str) -> Result<String, String> {
        sql(self.make, self.folder.path(), statement)
    }

    /// Makes a user whose password is kept by this plugin, such as `caching_sha2_password` or `mysql_native_password`.
    pub fn user(&self, name: &str, plugin: &str, password: &str) {
        let identified = match self.make {
            Make::MariaDb => format!("VIA {plugin} USING PASSWORD('{password}')"),
            Make::MySql => format!("WITH {plugin} BY '{password}'"),
        };
        self.sql(&format!("CREATE USER {name}@'%' IDENTIFIED {identified}"));
    }

    /// Has it refuse writes, or take them, of all but administrators.
    pub fn set_read_only(&self, read_only: bool) {
        self.sql(&format!("SET GLOBAL read_only = {}", u8::from(read_only)));
    }

    /// Starts a replica of it that takes no writes, whose certificate is for `name`.
    pub fn replica(&self, authority: &Authority, name: &str) -> Mysql {
        self.sql("CREATE USER IF NOT EXISTS replica@'%' IDENTIFIED BY 'any'");
        self.sql("GRANT REPLICATION SLAVE ON *.* TO replica@'%'");
        let replica = Mysql::start_with(self.make, authority, name, &["--read-only=1"]).expect("it is there");
        let (host, port) = (self.address.ip(), self.address.port());
        let (change, login, start) = match self.make {
            Make::MariaDb => ("MASTER", "MASTER_USE_GTID = slave_pos, MASTER_CONNECT_RETRY = 1", "START SLAVE"),
            Make::MySql => {
                ("SOURCE", "SOURCE_AUTO_POSITION = 1, SOURCE_SSL = 1, SOURCE_CONNECT_RETRY = 1", "START REPLICA")
            }
        };
        let object = if self.make == Make::MariaDb { "MASTER" } else { "REPLICATION SOURCE" };
        replica.sql(&format!(
            "CHANGE {object} TO {change}_HOST = '{host}', {change}_PORT = {port}, {change}_USER = 'replica', \
             {change}_PASSWORD = 'any', {login}; {start}"
        ));
        replica
    }

    /// Waits until this replica has everything that its primary has written so far.
    pub fn catch_up_with(&self, primary: &Mysql) {
        let (position, wait) = match self.make {
            Make::MariaDb => ("@@gtid_binlog_pos", "MASTER_GTID_WAIT"),
            Make::MySql => ("@@gtid_executed", "WAIT_FOR_EXECUTED_GTID_SET"),
        };
        let there = primary.sql(&format!("SELECT {position}")).replace("\\n", "");
        assert_eq!(self.sql(&format!("SELECT {wait}('{there}', 10)")), "0", "{there}; log: {}", self.log());
    }

    /// Makes a replica a primary.
    pub fn promote(&self) {
        self.sql(match self.make {
            Make::MariaDb => "STOP SLAVE; RESET SLAVE ALL",
            Make::MySql => "STOP REPLICA; RESET REPLICA ALL",
        });
        self.set_read_only(false);
    }

    /// What it has written to its log.
    pub fn log(&self) -> String {
        self.daemon.log()
    }

    /// Ends it as an administrator does.
    pub fn stop(&mut self) {
        self.daemon.end(Signal::TERM);
    }

    /// Ends it as a failure does.
    pub fn stop_now(&mut self) {
        self.daemon.end(Signal::KILL);
    }

    /// Starts it again, at the same address and with its data, after it was ended.
    pub fn start_again(&mut self) {
        self.daemon = serve(self.make, self.folder.path(), &self.words).expect("it is there");
    }
}

fn socket(folder: &Path) -> String {
    folder.join("socket").display().to_string()
}

/// The word by which its programs know that they run as who they are meant to, root or not.
fn user() -> String {
    format!("--user={}", run(Command::new("id").arg("-un")))
}

fn serve(make: Make, folder: &Path, words: &[String]) -> Option<Daemon> {
    let mut daemon = Daemon::start(make.server()?.args(words), &folder.join("log"))?;
    daemon.wait_until("the server serves", || {
        UnixStream::connect(socket(folder)).is_ok() && sql(make, folder, "SELECT 1").is_ok()
    });
    Some(daemon)
}

fn sql(make: Make, folder: &Path, statement: &str) -> Result<String, String> {
    let mut client = make.client().expect("it is there");
    client.arg(format!("--socket={}", socket(folder))).args(["--user=root", "--batch", "--skip-column-names"]);
    ask(client.arg("--execute").arg(statement))
}
