//! The MySQL probe with real servers: MariaDB and MySQL.

use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tempfile::TempDir;

use crate::harness::answering::Authority;
use crate::harness::mysql::Make;
use crate::harness::{Balancer, Mysql, eventually};

/// Quick enough for a test.
const QUICK: &str = "interval = '200ms', fast_interval = '100ms', timeout = '2s', rise = 1, fall = 1";

/// How users of this server usually log in.
fn plugin(make: Make) -> &'static str {
    match make {
        Make::MariaDb => "mysql_native_password",
        Make::MySql => "caching_sha2_password",
    }
}

/// Files that a probe reads.
struct Files {
    folder: TempDir,
    authority: Authority,
}

impl Files {
    fn new() -> Files {
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("secret"), "correct horse\n").unwrap();
        let authority = Authority::new(folder.path());
        Files { folder, authority }
    }

    /// What logs in as this user.
    fn login(&self, user: &str) -> String {
        format!("probe = 'mysql', user = '{user}', password_file = '{}'", self.path("secret"))
    }

    /// What logs in in verified TLS.
    fn login_in_tls(&self, user: &str) -> String {
        format!("{}, tls = {{ name = 'one.test', ca = '{}' }}", self.login(user), self.authority.file())
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }
}

/// A balancer that probes one endpoint like this.
fn start(endpoint: SocketAddr, health: &str) -> Balancer {
    start_with(endpoint, &format!("{health}, {QUICK}"))
}

fn start_with(endpoint: SocketAddr, health: &str) -> Balancer {
    Balancer::start(&format!(
        "listener.edge = {{ bind = '127.0.0.1:0', protocol = 'tcp' }}\nroute.all = {{ listener = 'edge', pool = 'all' }}\n\
         [pool.all]\nendpoints = '{endpoint}'\nhealth = {{ {health} }}"
    ))
}

/// Whether the endpoint is up, and what the last probe has found.
fn state(balancer: &Balancer) -> (bool, String) {
    let answer = balancer.ask(&json!({ "command": "status" }));
    let endpoint = &answer["pools"][0]["endpoints"][0];
    (endpoint["state"] == "up", endpoint["health"]["last"].as_str().unwrap_or_default().to_owned())
}

/// Waits until it is up or not, with this in what was found.
fn becomes(balancer: &Balancer, up: bool, what: &str) {
    eventually(&format!("{what}, and not {:?}", state(balancer)), || {
        let (is_up, found) = state(balancer);
        (is_up == up && found.contains(what)).then_some(())
    });
}

/// What a first probe finds.
fn found(endpoint: SocketAddr, health: &str) -> (bool, String) {
    let balancer = start(endpoint, health);
    eventually("it was probed", || Some(state(&balancer)).filter(|(_, found)| !found.is_empty()))
}

/// The same of the only probe that there is.
fn found_once(endpoint: SocketAddr, health: &str) -> (bool, String) {
    let balancer = start_with(endpoint, &format!("{health}, interval = '1h', fast_interval = '1h', timeout = '10s'"));
    eventually("it was probed", || Some(state(&balancer)).filter(|(_, found)| !found.is_empty()))
}

fn aborted(server: &Mysql) -> u64 {
    let status = server.sql("SHOW GLOBAL STATUS LIKE 'Aborted_connects'");
    status.split_ascii_whitespace().last().unwrap().parse().unwrap()
}

/// Lines of a server's log, without those on that the address has no name.
fn complaints(server: &Mysql) -> Vec<String> {
    let lines = server.log();
    lines.lines().filter(|line| !line.contains("could not be resolved")).map(str::to_owned).collect()
}

#[test]
fn logins_in_clear_and_in_tls() {
    for make in Make::ALL {
        let files = Files::new();
        let Some(server) = Mysql::start(make, &files.authority, "one.test") else { continue };
        server.user("pm", plugin(make), "correct horse");
        server.user("other", plugin(make), "another");
        server.sql("CREATE DATABASE shop; GRANT SELECT ON shop.* TO pm@'%'");
        let (at, name) = (server.address(), format!("{make:?}").replace("Db", "DB").replace("Sql", "SQL"));
        let primary = |(up, said): (bool, String), case: &str| {
            assert!(
                up && said.starts_with(&name) && said.contains(", primary"),
                "{case}: {said}; log: {}",
                server.log()
            );
        };
        if make == Make::MySql {
            let (up, said) = found(at, &files.login("pm"));
            assert!(!up && said.contains("it asks for the password itself"), "in clear, unknown so far: {said}");
            let key = Path::new(&server.sql("SELECT @@datadir")).join("public_key.pem").display().to_string();
            let with_key = format!("{}, server_key_file = '{key}'", files.login("pm"));
            primary(found(at, &with_key), "in clear, with the server's key");
            primary(found(at, &files.login("pm")), "in clear, known by now");
            server.sql("FLUSH PRIVILEGES");
        }
        primary(found(at, &files.login_in_tls("pm")), "in TLS");
        primary(found(at, &files.login_in_tls("pm")), "in TLS, known by now");
        primary(found(at, &files.login("pm")), "in clear");
        primary(found(at, &format!("{}, database = 'shop'", files.login_in_tls("pm"))), "with a database");
        let query = format!("{}, query = 'SELECT 1 + 1'", files.login_in_tls("pm"));
        primary(found(at, &format!("{query}, value = '2'")), "a query");
        for (case, health, expected) in [
            ("another value", format!("{query}, value = '3'"), "the query gave \"2\""),
            ("another password", files.login_in_tls("other"), "Access denied for user 'other'"),
            // MySQL hides that there is no such user, and may ask for a login of any kind.
            ("nobody", files.login_in_tls("nobody"), if make == Make::MySql { "" } else { "user 'nobody'" }),
            ("no database", format!("{}, database = 'none'", files.login_in_tls("pm")), "'none'"),
            ("another name", files.login_in_tls("pm").replace("one.test", "two.test"), "two.test"),
            ("another authority", format!("{}, tls = {{ name = 'one.test' }}", files.login("pm")), "not trusted"),
            ("a query that fails", query.replace("1 + 1", "x"), "Unknown column 'x'"),
        ] {
            let (up, said) = found(at, &health);
            assert!(!up && said.contains(expected), "{make:?}: {case}: {said}");
        }
    }
}

#[test]
fn a_server_without_tls_is_not_spoken_to() {
    for make in Make::ALL {
        let files = Files::new();
        let without = if make == Make::MariaDb { "--skip-ssl" } else { "--tls-version=" };
        let Some(server) = Mysql::start_with(make, &files.authority, "one.test", &[without]) else { continue };
        server.user("pm", plugin(make), "correct horse");
        let (up, said) = found(server.address(), &files.login_in_tls("pm"));
        assert_eq!((up, &*said), (false, "it does not speak TLS"), "{make:?}");
    }
}

#[test]
fn roles_and_lag() {
    for make in Make::ALL {
        let files = Files::new();
        let Some(primary) = Mysql::start(make, &files.authority, "one.test") else { continue };
        let replica = primary.replica(&files.authority, "one.test");
        primary.user("pm", plugin(make), "correct horse");
        replica.catch_up_with(&primary);
        let login = files.login_in_tls("pm");
        let as_primary = start(primary.address(), &format!("{login}, role = 'primary'"));
        let as_replica = start(replica.address(), &format!("{login}, role = 'replica'"));
        let wrong = start(replica.address(), &format!("{login}, role = 'primary'"));
        becomes(&as_primary, true, ", primary");
        becomes(&as_replica, true, ", replica");
        becomes(&wrong, false, "is a replica");

        let near = start(replica.address(), &format!("{login}, max_lag = '3s'"));
        becomes(&near, false, "(error 1227)");
        let right = if make == Make::MariaDb { "SLAVE MONITOR" } else { "REPLICATION CLIENT" };
        primary.sql(&format!("GRANT {right} ON *.* TO pm@'%'"));
        becomes(&near, true, ", replica, 0.0 s behind");
        let stop = if make == Make::MariaDb { "STOP SLAVE SQL_THREAD" } else { "STOP REPLICA SQL_THREAD" };
        replica.sql(stop);
        // It says nothing any more, and is behind by what it was and the time since.
        becomes(&near, false, "s behind, allowed are 3s");
        becomes(&as_replica, true, ", replica");

        replica.promote();
        becomes(&wrong, true, ", primary");
        becomes(&near, true, ", primary");
        becomes(&as_replica, false, "is a primary");
        primary.set_read_only(true);
        becomes(&as_primary, false, "is a replica");
    }
}

#[test]
fn a_cluster_that_is_ready_or_not() {
    let files = Files::new();
    let Some(server) = Mysql::start_cluster(&files.authority, "one.test") else { return };
    server.user("pm", "mysql_native_password", "correct horse");
    let node = start(server.address(), &format!("{}, galera = true", files.login_in_tls("pm")));
    becomes(&node, true, ", primary");
    server.set_ready(false);
    becomes(&node, false, "not ready for its cluster");
    server.set_ready(true);
    becomes(&node, true, ", primary");
    let Some(alone) = Mysql::start(Make::MySql, &files.authority, "one.test") else { return };
    alone.user("pm", "caching_sha2_password", "correct horse");
    let (up, said) = found(alone.address(), &format!("{}, galera = true", files.login_in_tls("pm")));
    assert!(!up && said.starts_with("it has no Galera (wsrep_ready)"), "{said}");
}

/// The server is told to block an address after one handshake that was left. It does not do so with the usual one.
#[test]
fn probes_are_polite() {
    for make in Make::ALL {
        let files = Files::new();
        let Some(server) = Mysql::start_with(make, &files.authority, "one.test", &["--max-connect-errors=1"]) else {
            continue;
        };
        server.user("pm", plugin(make), "correct horse");
        let at = server.address();
        let login = format!("{}, source = '127.0.0.2'", files.login_in_tls("pm"));
        let (complaints_before, aborted_before) = (complaints(&server), aborted(&server));
        let sessions = || -> u64 {
            server
                .sql("SHOW GLOBAL STATUS LIKE 'Connections'")
                .split_ascii_whitespace()
                .last()
                .unwrap()
                .parse()
                .unwrap()
        };
        let before = sessions();
        let often = "interval = '100ms', fast_interval = '100ms', timeout = '2s', rise = 1, fall = 1";
        let balancer = start_with(at, &format!("{login}, {often}"));
        becomes(&balancer, true, ", primary");
        eventually("it was probed 50 times", || (sessions() > before + 60).then_some(()));

        // One that hangs for longer than a probe may take.
        let pid = std::fs::read_to_string(server.sql("SELECT @@pid_file")).unwrap();
        let pid = Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
        let impatient = start_with(at, &format!("{login}, {}", often.replace("2s", "50ms")));
        becomes(&impatient, true, ", primary");
        kill_process(pid, Signal::STOP).unwrap();
        eventually("its silence is found", || state(&impatient).1.contains("in 50ms").then_some(()));
        thread::sleep(Duration::from_secs(1));
        kill_process(pid, Signal::CONT).unwrap();
        becomes(&impatient, true, ", primary");
        becomes(&balancer, true, ", primary");
        assert_eq!(complaints(&server), complaints_before, "{make:?}");
        assert_eq!(aborted(&server), aborted_before, "{make:?}");
        // A balancer that ends may leave one.
        drop((balancer, impatient));
        server.sql(match make {
            Make::MariaDb => "FLUSH HOSTS",
            Make::MySql => "TRUNCATE TABLE performance_schema.host_cache",
        });

        // Those that cannot succeed are failed logins, and nothing worse.
        for (case, health) in [
            ("another name", login.replace("one.test", "two.test")),
            (
                "another authority",
                format!("{}, source = '127.0.0.2', tls = {{ name = 'one.test' }}", files.login("pm")),
            ),
            ("nobody", login.replace("'pm'", "'nobody'")),
        ] {
            for _ in 0..3 {
                let (up, said) = found_once(at, &health);
                assert!(!up && !said.contains("blocked"), "{make:?}: {case}: {said}");
            }
            let (up, said) = found_once(at, &login);
            assert!(up, "{make:?}: {case}: {said}");
        }
    }
}
