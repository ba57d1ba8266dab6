//! Probes that log in to PostgreSQL: real servers of the system's packages and a current one, and some that only pretend.

mod replicas;

use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::answering::{Authority, Server, Speaks};
use crate::harness::postgres::{Version, certificate_of};
use crate::harness::{Balancer, Postgres, Process, eventually, eventually_within};

/// Often enough for a test, and patient enough for a busy machine.
const PACE: &str = "interval = '200ms', fast_interval = '100ms', timeout = '5s'";

/// A balancer that probes these endpoints like this, each table for a pool of its own: `p0`, `p1` and so on.
fn start(endpoints: &[SocketAddr], tables: &[&str]) -> Balancer {
    Balancer::start(&config(endpoints, tables))
}

fn config(endpoints: &[SocketAddr], tables: &[&str]) -> String {
    let endpoints: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
    let pool = |(index, table): (usize, &&str)| {
        format!(
            "route.r{index} = {{ listener = 'edge', sni = 'p{index}.test', pool = 'p{index}' }}\n\
             [pool.p{index}]\nendpoints = {endpoints:?}\nhealth = {{ probe = 'postgres', {PACE}, {table} }}\n"
        )
    };
    let pools: Vec<String> = tables.iter().enumerate().map(pool).collect();
    // Routes stand in tables of their own: a line behind a pool would belong to it.
    let (routes, pools): (Vec<_>, Vec<_>) = pools.iter().map(|text| text.split_once('\n').unwrap()).unzip();
    format!("listener.edge.bind = '127.0.0.1:0'\n{}\n{}", routes.join("\n"), pools.join("\n"))
}

/// The status of an endpoint of a pool, once a probe is over.
fn status(balancer: &Balancer, pool: usize, endpoint: SocketAddr) -> Value {
    eventually("a probe is over", || {
        let status = balancer.ask(&json!({ "command": "status", "pool": format!("p{pool}") }));
        let mut endpoints = status["pools"][0]["endpoints"].as_array().unwrap().clone();
        endpoints.retain(|told| told["address"] == endpoint.to_string());
        let told = endpoints.remove(0);
        told["health"]["last"].is_string().then_some(told)
    })
}

/// What an endpoint is, and what the last probe has found.
fn told(balancer: &Balancer, pool: usize, endpoint: SocketAddr) -> (String, String) {
    let status = status(balancer, pool, endpoint);
    (status["state"].as_str().unwrap().to_owned(), status["health"]["last"].as_str().unwrap().to_owned())
}

/// Waits until an endpoint is this, by a probe that has found something with this in it.
fn becomes(balancer: &Balancer, pool: usize, endpoint: SocketAddr, state: &str, last: &str) {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let now = told(balancer, pool, endpoint);
        if now.0 == state && now.1.contains(last) {
            return;
        }
        assert!(Instant::now() < until, "{endpoint} of p{pool} is not {state:?} with {last:?}, but {now:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Words of a table by which `user` logs in with a password in a file.
fn login(folder: &TempDir, user: &str, password: &str) -> String {
    let file = folder.path().join(format!("{user}.secret"));
    std::fs::write(&file, format!("{password}\n")).unwrap();
    format!("user = '{user}', password_file = {file:?}")
}

#[test]
fn every_way_to_log_in() {
    for version in Version::ALL {
        let folder = TempDir::new().unwrap();
        let authority = Authority::new(folder.path());
        let Some(server) = Postgres::start(version, &authority, "one.test") else { continue };
        for (name, method) in [("alice", "scram-sha-256"), ("bob", "md5"), ("carol", "scram-sha-256"), ("dave", "md5")]
        {
            server.user(name, method, "secret");
        }
        server.allow(&[
            "host all alice all scram-sha-256",
            "host all bob all md5",
            "hostssl all carol all cert",
            "host all dave all password",
            "hostssl all erin all scram-sha-256",
            "host all frank all trust",
        ]);
        server.user("erin", "scram-sha-256", "secret");
        server.user("frank", "scram-sha-256", "secret");
        let ours = certificate_of(&authority, "carol");
        let tls = format!("tls = {{ name = 'one.test', ca = {:?} }}", authority.file());
        let direct = tls.replace("name =", "negotiation = 'direct', name =");
        let other = tls.replace("one.test", "two.test");
        let shown = format!("certificate = '{}', key = '{}', name =", ours.file("pem"), ours.file("key"));
        let shown = tls.replace("name =", &shown);
        let words = |user: &str, more: &str| format!("{}, {more}", login(&folder, user, "secret"));
        let with = |user: &str| words(user, "role = 'any'");
        let primary = format!(", {}", server.sql("SHOW server_version").split(' ').next().unwrap());
        let primary = format!("PostgreSQL {}, primary", &primary[2..]);
        let (direct_state, direct_last) =
            if version == Version::Current { ("up", &*primary) } else { ("down", "it ended the connection") };
        let cases = [
            ("scram", with("alice"), "up", &*primary),
            ("scram in TLS, bound to it", words("alice", &tls), "up", &primary),
            ("md5", with("bob"), "up", &primary),
            ("md5 in TLS", words("bob", &tls), "up", &primary),
            ("a certificate", format!("user = 'carol', {shown}"), "up", &primary),
            (
                "no certificate",
                format!("user = 'carol', {tls}"),
                "down",
                "connection requires a valid client certificate",
            ),
            ("the password itself in TLS", words("dave", &tls), "up", &primary),
            ("the password itself in clear", with("dave"), "down", "it wants the password in clear"),
            ("TLS alone in TLS", words("erin", &tls), "up", &primary),
            ("TLS alone in clear", with("erin"), "down", "no pg_hba.conf entry for host"),
            ("without a word", "user = 'frank'".to_owned(), "up", &primary),
            ("with a word that nobody asks for", words("frank", &tls), "up", &primary),
            ("without a password", "user = 'alice'".to_owned(), "down", "there is no password_file"),
            ("another password", login(&folder, "alice", "other"), "down", "password authentication failed"),
            ("another name", words("alice", &other), "refused", "one.test"),
            ("no such database", words("alice", "database = 'none'"), "down", "database \"none\" does not exist"),
            ("direct", words("alice", &direct), direct_state, direct_last),
            ("nobody", "role = 'any'".to_owned(), "up", "no pg_hba.conf entry for host"),
        ];
        for (case, table, state, last) in &cases {
            // One at a time: the file of a password is that of its user.
            if case == &"another password" {
                login(&folder, "alice", "other");
            } else {
                login(&folder, "alice", "secret");
            }
            let balancer = start(&[server.address()], &[table]);
            let found = told(&balancer, 0, server.address());
            assert!(found.0 == *state && found.1.contains(last), "{version:?}, {case}: {found:?}, not {state}: {last}");
        }
    }
}

/// A login asks nothing of a server's log, whatever is asked, and whoever asks.
#[test]
fn probes_leave_no_trace() {
    for version in Version::ALL {
        let folder = TempDir::new().unwrap();
        let authority = Authority::new(folder.path());
        let Some(server) = Postgres::start(version, &authority, "one.test") else { continue };
        server.user("alice", "scram-sha-256", "secret");
        let (login, tls) =
            (login(&folder, "alice", "secret"), format!("tls = {{ name = 'one.test', ca = {:?} }}", authority.file()));
        let before = server.log();
        let asked = format!("{login}, {tls}, max_lag = '1s', query = 'SELECT 1', value = '1'");
        let text = config(&[server.address()], &[&asked, "role = 'any'", &login]);
        let text = text.replace("interval = '200ms', fast_interval = '100ms'", "interval = '100ms'");
        let balancer = Balancer::start(&text);
        for pool in 0..3 {
            becomes(&balancer, pool, server.address(), "up", "PostgreSQL");
        }
        let probes = "SELECT sessions FROM pg_stat_database WHERE datname = 'postgres'";
        if version == Version::Current {
            let began: u32 = server.sql(probes).parse().unwrap();
            eventually_within(Duration::from_secs(30), "50 probes", || {
                (server.sql(probes).parse::<u32>().unwrap() > began + 50).then_some(())
            });
        } else {
            std::thread::sleep(Duration::from_secs(5));
        }
        // Before it is stopped: that cuts a probe off, which may leave a word.
        assert_eq!(server.log(), before, "{version:?}");
        drop(balancer);
        let left = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pointsman'";
        eventually("no session is left", || (server.sql(left) == "0").then_some(()));
    }
}

#[test]
fn queries_are_asked_and_their_values_expected() {
    let folder = TempDir::new().unwrap();
    let authority = Authority::new(folder.path());
    let Some(server) = Postgres::start(Version::System, &authority, "one.test") else { return };
    server.user("alice", "scram-sha-256", "secret");
    let login = login(&folder, "alice", "secret");
    for (case, query, state, last) in [
        ("any", "query = 'SELECT 5'", "up", "primary"),
        ("the right one", "query = 'SELECT 5, 6', value = '5'", "up", "primary"),
        ("another one", "query = 'SELECT 5', value = '6'", "refused", "the query gave \"5\""),
        ("a long one", "query = \"SELECT 'a secret thing'\", value = '6'", "refused", "\"a secret\"..., which"),
        ("true", "query = 'SELECT 1 = 1', value = 't'", "up", "primary"),
        ("NULL", "query = 'SELECT NULL', value = 't'", "refused", "the query gave NULL"),
        ("NULL and any", "query = 'SELECT NULL'", "up", "primary"),
        ("the first row", "query = 'SELECT * FROM generate_series(1, 5)', value = '1'", "up", "primary"),
        ("no row", "query = 'SELECT 1 WHERE false'", "refused", "the query gave no row"),
        ("no query", "query = 'SELEKT'", "refused", "syntax error"),
        ("not allowed", "query = 'SELECT * FROM pg_authid'", "refused", "permission denied"),
        ("a show", "query = 'SHOW transaction_read_only', value = 'off'", "up", "primary"),
        (
            "much",
            "query = \"SELECT repeat('x', 60000) FROM generate_series(1, 100)\"",
            "refused",
            "gave more than 1 MiB",
        ),
        ("too long", "query = \"SELECT repeat('x', 70000)\"", "refused", "gave a row of more than 64 KiB"),
        ("copy", "query = 'COPY (SELECT 1) TO STDOUT'", "refused", "the query gave no row"),
    ] {
        let balancer = start(&[server.address()], &[&format!("{login}, {query}")]);
        let found = told(&balancer, 0, server.address());
        assert!(found.0 == state && found.1.contains(last), "{case}: {found:?}, not {state}: {last}");
    }
}

#[test]
fn a_query_that_hangs_does_not_pile_up() {
    let folder = TempDir::new().unwrap();
    let authority = Authority::new(folder.path());
    let Some(server) = Postgres::start(Version::System, &authority, "one.test") else { return };
    server.user("alice", "scram-sha-256", "secret");
    let login = login(&folder, "alice", "secret");
    let text = config(&[server.address()], &[&format!("{login}, query = 'SELECT pg_sleep(60)'")]);
    let balancer = Balancer::start(&text.replace("timeout = '5s'", "timeout = '500ms'"));
    becomes(&balancer, 0, server.address(), "down", "no answer to a query in 500ms");
    std::thread::sleep(Duration::from_secs(3));
    let hanging = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)' AND state = 'active'";
    let hanging: u32 = server.sql(hanging).parse().unwrap();
    // One that goes on, and one that is about to be ended.
    assert!(hanging <= 2, "{hanging} queries");
}

/// What is wrong with our login, and what keeps a server busy, says nothing of the server.
#[test]
fn what_is_not_known_any_more_changes_nothing() {
    let folder = TempDir::new().unwrap();
    let authority = Authority::new(folder.path());
    let Some(server) = Postgres::start(Version::System, &authority, "one.test") else { return };
    server.user("alice", "scram-sha-256", "secret");
    let login_of = |password| login(&folder, "alice", password);
    let table = format!("{}, role = 'primary', fall = 1", login_of("secret"));
    let (at, any) = (server.address(), login_of("secret"));
    let balancer = start(&[at], &[&table, &any]);
    let both = |last: &str| (0..2).for_each(|pool| becomes(&balancer, pool, at, "up", last));
    both("primary");
    server.sql("ALTER ROLE alice CONNECTION LIMIT 0");
    both("full: too many connections for role \"alice\" (53300)");
    server.sql("ALTER ROLE alice CONNECTION LIMIT -1 PASSWORD 'other'");
    both("password authentication failed for user \"alice\" (28P01)");
    login_of("other");
    both("primary");
    let began = status(&balancer, 0, at)["health"]["since"].as_u64().unwrap();
    std::fs::remove_file(folder.path().join("alice.secret")).unwrap();
    both("cannot be read: No such file or directory");
    assert_eq!(balancer.metric(&format!("pointsman_endpoint_probe_blind{{pool=\"p0\",endpoint=\"{at}\"}}")), 1.0);
    login_of("other");
    both("primary");
    assert!(status(&balancer, 0, at)["health"]["since"].as_u64().unwrap() >= began, "it never went down");

    // It is told of once, and a start without a login finds nobody up.
    server.sql("ALTER ROLE alice CONNECTION LIMIT 0");
    let process = Process::start(&config(&[at], &[&table]));
    eventually("it is told of", || process.messages().contains("is down: full: ").then_some(()));
    server.sql("ALTER ROLE alice CONNECTION LIMIT -1");
    eventually("it is up", || process.messages().contains("is up").then_some(()));
    server.sql("ALTER ROLE alice CONNECTION LIMIT 0");
    eventually("it is told of", || process.messages().contains("what was known of it holds: full").then_some(()));
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(process.messages().matches("what was known of it holds").count(), 1, "{}", process.messages());
}

#[test]
fn a_server_that_ends_is_not_ready() {
    let folder = TempDir::new().unwrap();
    let authority = Authority::new(folder.path());
    let Some(server) = Postgres::start(Version::System, &authority, "one.test") else { return };
    server.user("alice", "scram-sha-256", "secret");
    let login = login(&folder, "alice", "secret");
    let balancer = start(&[server.address()], &[&login, "role = 'any'"]);
    for pool in 0..2 {
        becomes(&balancer, pool, server.address(), "up", "PostgreSQL");
    }
    let _session = Session::open(&server, "alice", "secret");
    server.stop_once_idle();
    for pool in 0..2 {
        becomes(
            &balancer,
            pool,
            server.address(),
            "refused",
            "not ready: the database system is shutting down (57P03)",
        );
    }
}

/// A session that lasts until it is dropped.
struct Session(Child);

impl Session {
    fn open(server: &Postgres, user: &str, password: &str) -> Session {
        let at = server.address();
        let mut psql = Version::System.client("psql").unwrap();
        psql.env("PGPASSWORD", password).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = psql.args(["-X", "-h", "127.0.0.1", "-p", &at.port().to_string(), "-U", user, "postgres"]).spawn();
        let there =
            format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{user}' AND application_name = 'psql'");
        let session = Session(child.unwrap());
        eventually("the session stands", || (server.sql(&there) == "1").then_some(()));
        session
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_server_without_tls_is_refused() {
    let folder = TempDir::new().unwrap();
    let authority = Authority::new(folder.path());
    let Some(server) = Postgres::start_with(Version::System, &authority, "one.test", "ssl = off\n") else { return };
    let balancer = start(&[server.address()], &["tls.verify = false", "role = 'any'"]);
    becomes(&balancer, 0, server.address(), "refused", "it does not speak TLS");
    becomes(&balancer, 1, server.address(), "up", "asks for a login");
}

#[test]
fn the_tls_of_a_pool_is_that_of_its_probes() {
    let folder = TempDir::new().unwrap();
    let authority = Authority::new(folder.path());
    let Some(server) = Postgres::start(Version::System, &authority, "one.test") else { return };
    server.user("alice", "scram-sha-256", "secret");
    server.allow(&["hostssl all alice all scram-sha-256"]);
    let table = login(&folder, "alice", "secret");
    for (name, state, last) in [("one.test", "up", "primary"), ("two.test", "refused", "one.test")] {
        let tls = format!("tls = {{ name = '{name}', ca = {:?}, alpn = 'postgresql' }}\n", authority.file());
        let text = config(&[server.address()], &[&table]).replace("health =", &format!("{tls}health ="));
        // A pool with TLS stands behind a listener that ends it, or takes what is clear.
        let text = text.replace("bind = '127.0.0.1:0'", "bind = '127.0.0.1:0'\nlistener.edge.protocol = 'tcp'");
        let balancer = Balancer::start(&text.replace("sni = 'p0.test', ", ""));
        becomes(&balancer, 0, server.address(), state, last);
    }
}

/// A message of a server, shorter than 120 bytes.
fn message(kind: char, body: &str) -> String {
    format!("{kind}\0\0\0{}{body}", char::from(u8::try_from(body.len() + 4).unwrap()))
}

#[test]
fn who_only_pretends_is_found_out() {
    let folder = TempDir::new().unwrap();
    let login = login(&folder, "alice", "secret");
    let tls = format!("{login}, tls.verify = false");
    let scram = message('R', "\0\0\0\u{a}SCRAM-SHA-256\0\0");
    let let_in = message('R', "\0\0\0\0");
    let ready = message('Z', "I");
    for (case, table, answer, state, last) in [
        ("another protocol", &login, "HTTP/1.1 400 Bad Request\r\n\r\n".to_owned(), "refused", "as PostgreSQL does"),
        ("another protocol, asked for TLS", &tls, "HTTP/1.1 400\r\n\r\n".to_owned(), "refused", "as PostgreSQL does"),
        ("nothing", &login, String::new(), "down", "no answer to the login in 1s"),
        ("nothing, asked for TLS", &tls, String::new(), "down", "no answer to SSLRequest in 1s"),
        ("an error, asked for TLS", &tls, message('E', "Mpay me\0\0"), "down", "an error where it is asked for TLS"),
        ("it only listens after S", &tls, "S".to_owned(), "refused", "it does not answer in TLS"),
        // What stands behind S in clear is no part of TLS (CVE-2021-23222).
        ("let in before TLS", &tls, format!("S{let_in}{ready}"), "refused", "it does not answer in TLS"),
        ("GSSAPI", &login, message('R', "\0\0\0\u{7}"), "down", "GSSAPI"),
        ("nothing that we know", &login, message('R', "\0\0\0\u{a}OAUTHBEARER\0\0"), "down", "one of OAUTHBEARER"),
        ("out of turn", &login, message('R', "\0\0\0\u{b}r=x,s=eA==,i=1"), "refused", "not its turn"),
        ("SCRAM is left out in the middle", &login, format!("{scram}{let_in}{ready}"), "refused", "does not prove"),
        (
            "another nonce",
            &login,
            format!("{scram}{}", message('R', "\0\0\0\u{b}r=x,s=eA==,i=1")),
            "down",
            "invalid nonce",
        ),
        (
            "it does not say its role",
            &login,
            format!("{let_in}{ready}{}{ready}", message('C', "SELECT 0\0")),
            "down",
            "does not say whether it is in recovery",
        ),
        ("half of a message", &login, "R\0\0\0\u{8}\0".to_owned(), "down", "no answer to the login in 1s"),
        (
            "a login that fails for want of memory",
            &login,
            message('E', "C53200\0Mout of memory\0\0"),
            "down",
            "out of memory",
        ),
    ] {
        let server = Server::start(Speaks::WhenAsked, &answer);
        let text = config(&[server.address()], &[table]);
        let balancer = Balancer::start(&text.replace("timeout = '5s'", "timeout = '1s'"));
        let found = told(&balancer, 0, server.address());
        assert!(found.0 == state && found.1.contains(last), "{case}: {found:?}, not {state}: {last}");
    }
}
