//! Listeners for databases in front of the real servers, with the clients that people use.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::harness::answering::Authority;
use crate::harness::daemon::{ask, ask_within};
use crate::harness::mysql::Make;
use crate::harness::postgres::{Version, certificate_of, psycopg};
use crate::harness::process::free_address;
use crate::harness::{Balancer, Mysql, Postgres, eventually};

/// A balancer with a listener `pg`; of the route and the pool, which are called so too, the keys are given.
fn balancer(route: &str, endpoints: &[SocketAddr], pool: &str) -> Balancer {
    let endpoints: Vec<String> = endpoints.iter().map(SocketAddr::to_string).collect();
    Balancer::start(&format!(
        "listener.pg = {{ bind = '127.0.0.1:0', protocol = 'postgres' }}\n[route.pg]\nlistener = 'pg'\npool = 'pg'\n{route}\n\
         [pool.pg]\nendpoints = {endpoints:?}\n{pool}\n"
    ))
}

/// The words by which clients get to `at` and ask for `name`.
fn words(at: SocketAddr, name: &str, more: &str) -> String {
    format!("hostaddr={} port={} host={name} dbname=postgres connect_timeout=20 {more}", at.ip(), at.port())
}

/// How a client verifies a server, whoever stands in between.
fn verified(authority: &Authority) -> String {
    format!("sslmode=verify-full sslrootcert='{}'", authority.file())
}

/// What psql says to a statement.
fn psql(version: Version, words: &str, statement: &str) -> Result<String, String> {
    ask(version.client("psql").unwrap().args(["-XAtc", statement, words]))
}

/// How long a load goes on.
fn load_seconds() -> u64 {
    if std::env::var_os("POINTSMAN_LONG").is_some() { 60 } else { 4 }
}

/// Fifty clients of pgbench, each transaction a session of its own (`-C`) or all in one.
fn pgbench(version: Version, words: &str, each_its_own: bool) {
    let seconds = load_seconds();
    let mut pgbench = version.client("pgbench").unwrap();
    pgbench.args(["-n", "-c", "50", "-j", "2", "-T", &seconds.to_string()]);
    if each_its_own {
        pgbench.arg("-C");
    }
    let said = ask_within(Duration::from_secs(seconds + 60), pgbench.arg(words)).unwrap();
    println!("{version:?}, {words}:\n{said}");
    assert!(said.contains("number of failed transactions: 0 "), "{version:?}: {said}");
    let done = said.lines().find_map(|line| line.strip_prefix("number of transactions actually processed: "));
    assert!(done.unwrap().parse::<u32>().unwrap() > 50, "{version:?}: {said}");
}

#[test]
fn pgbench_passes_through_by_name_with_tls_that_is_asked_for_or_direct() {
    let folder = TempDir::new().unwrap();
    let authority = Authority::new(folder.path());
    for version in Version::ALL {
        let Some(server) = Postgres::start(version, &authority, "one.test") else { continue };
        server.user("alice", "scram-sha-256", "secret");
        server.sql("GRANT CREATE ON SCHEMA public TO alice");
        let balancer = balancer("sni = 'one.test'", &[server.address()], "");
        let login = format!("user=alice password=secret channel_binding=require {}", verified(&authority));
        let words = words(balancer.address("pg"), "one.test", &login);
        ask(version.client("pgbench").unwrap().args(["-i", "-q", &words])).unwrap();
        pgbench(version, &words, false);
        pgbench(version, &words, true);
        if version == Version::Current {
            pgbench(version, &format!("{words} sslnegotiation=direct"), true);
        }
        let odd: Vec<_> = balancer.log().lines().into_iter().filter(|line| line["outcome"] != "ok").collect();
        assert!(odd.is_empty(), "{version:?}: {odd:#?}");
    }
}

#[test]
fn names_lead_to_servers_and_client_certificates_reach_them() {
    let folder = TempDir::new().unwrap();
    let authority = Authority::new(folder.path());
    for version in Version::ALL {
        let names = ["one.test", "two.test"];
        let servers = names.map(|name| Postgres::start(version, &authority, name));
        let [Some(one), Some(two)] = &servers else { continue };
        for server in [one, two] {
            server.user("carol", "scram-sha-256", "secret");
            server.allow(&["hostssl all carol all cert", "host all all all scram-sha-256"]);
        }
        let balancer = Balancer::start(&format!(
            "listener.pg = {{ bind = '127.0.0.1:0', protocol = 'postgres' }}\n\
             route.one = {{ listener = 'pg', sni = 'one.test', pool = 'one' }}\npool.one.endpoints = '{}'\n\
             route.rest = {{ listener = 'pg', pool = 'two' }}\npool.two.endpoints = '{}'\n",
            one.address(),
            two.address()
        ));
        let at = balancer.address("pg");
        let ours = certificate_of(&authority, "carol");
        let shown = format!("user=carol sslcert='{}' sslkey='{}'", ours.file("pem"), ours.file("key"));
        for (name, server) in [("one.test", one), ("two.test", two)] {
            let words = words(at, name, &format!("{shown} {}", verified(&authority)));
            let said = psql(version, &words, "SELECT inet_server_port() || ' ' || current_user");
            assert_eq!(said, Ok(format!("{} carol", server.address().port())), "{version:?}: {name}");
        }
        // A client that asks by address has no name.
        let nameless = format!("host=127.0.0.1 port={} dbname=postgres {shown} sslmode=require", at.port());
        let said = psql(version, &nameless, "SELECT inet_server_port()");
        assert_eq!(said, Ok(two.address().port().to_string()), "{version:?}");
        let said = psql(version, &words(at, "one.test", "user=carol sslmode=disable"), "SELECT 1").unwrap_err();
        assert!(said.contains("connections without TLS are not accepted here"), "{version:?}: {said}");
    }
}

#[test]
fn python_and_rust_begin_in_their_own_ways() {
    const SCRIPT: &str = "
import sys, psycopg
with psycopg.connect(sys.argv[1]) as session:
    print(*session.execute('SELECT ssl, current_user FROM pg_stat_ssl WHERE pid = pg_backend_pid()').fetchone())
";
    let folder = TempDir::new().unwrap();
    let authority = Authority::new(folder.path());
    let Some(server) = Postgres::start(Version::Current, &authority, "one.test") else { return };
    server.user("alice", "scram-sha-256", "secret");
    let balancer = balancer("allow_cleartext = true", &[server.address()], "");
    let at = balancer.address("pg");
    for (more, said) in [
        ("sslmode=disable", "False alice"),
        ("sslmode=prefer", "True alice"),
        (&*verified(&authority), "True alice"),
        (&*format!("sslnegotiation=direct {}", verified(&authority)), "True alice"),
    ] {
        let Some(mut client) = psycopg(SCRIPT) else { continue };
        let words = words(at, "one.test", &format!("user=alice password=secret {more}"));
        assert_eq!(ask(client.arg(&words)).as_deref(), Ok(said), "{more}; log: {}", server.log());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let words = format!("host={} port={} user=alice password=secret dbname=postgres", at.ip(), at.port());
        let (client, connection) = tokio_postgres::connect(&words, tokio_postgres::NoTls).await.unwrap();
        let connection = tokio::spawn(connection);
        let rows = client.query("SELECT $1 || '!'", &[&"hello"]).await.unwrap();
        assert_eq!(rows[0].get::<_, String>(0), "hello!");
        // Its request to cancel comes in clear, while the statement runs.
        let token = client.cancel_token();
        let slow = client.batch_execute("SELECT pg_sleep(60)");
        let cancel = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            token.cancel_query(tokio_postgres::NoTls).await.unwrap();
        };
        let (slow, ()) = tokio::join!(slow, cancel);
        let code = slow.unwrap_err().code().cloned();
        assert_eq!(code, Some(tokio_postgres::error::SqlState::QUERY_CANCELED));
        drop(client);
        connection.await.unwrap().unwrap();
    });
}

/// A client in a query that takes a minute.
struct Busy {
    child: std::process::Child,
}

impl Busy {
    fn start(version: Version, words: &str) -> Busy {
        let mut psql = version.client("psql").unwrap();
        psql.args(["-XAtc", "SELECT pg_sleep(60)", words]);
        let child = psql.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        Busy { child }
    }

    /// Presses Ctrl-C, and gives what is said of that.
    fn interrupt(mut self) -> String {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
        eventually("psql ends", || self.child.try_wait().unwrap());
        let mut said = String::new();
        std::io::Read::read_to_string(&mut self.child.stderr.take().unwrap(), &mut said).unwrap();
        said
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Queries that run on a server.
fn busy(server: &Postgres) -> usize {
    let count =
        server.sql("SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT pg_sleep%'");
    count.parse().unwrap()
}

/// Three servers with a query of the same client each: Ctrl-C ends the one that it is meant for.
fn cancels(version: Version, servers: &[Postgres; 3], balancer: &Balancer, words: &str) {
    let mut clients: Vec<Busy> = Vec::new();
    let mut where_to = Vec::new();
    for _ in servers {
        let before: Vec<usize> = servers.iter().map(busy).collect();
        clients.push(Busy::start(version, words));
        where_to
            .push(eventually("the query runs", || servers.iter().zip(&before).position(|(one, was)| busy(one) > *was)));
    }
    let (second, at) = (clients.remove(1), where_to[1]);
    let others = servers.iter().map(busy).sum::<usize>() - 1;
    let said = second.interrupt();
    assert!(said.contains("canceling statement due to user request"), "{version:?}: {said}");
    assert_eq!(servers.iter().map(busy).sum::<usize>(), others, "{version:?}: the others go on");
    assert_eq!(busy(&servers[at]), where_to.iter().filter(|other| **other == at).count() - 1, "{version:?}");
    drop(clients);
    eventually("sessions are over", || (balancer.running().metrics().contains("outcome=\"cancel\"")).then_some(()));
    servers.iter().for_each(|server| {
        drop(server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'"))
    });
}

#[test]
fn ctrl_c_cancels_the_right_query_of_three_servers() {
    let folder = TempDir::new().unwrap();
    let authority = Authority::new(folder.path());
    for version in Version::ALL {
        let servers = ["one.test"; 3].map(|name| Postgres::start(version, &authority, name));
        let [Some(one), Some(two), Some(three)] = servers else { continue };
        let servers = [one, two, three];
        servers.iter().for_each(|server| server.user("alice", "scram-sha-256", "secret"));
        let addresses = servers.each_ref().map(Postgres::address);
        let login = "user=alice password=secret";

        // In clear: to all on which the client has sessions.
        let clear = balancer("allow_cleartext = true", &addresses, "balance = 'round-robin'");
        cancels(
            version,
            &servers,
            &clear,
            &words(clear.address("pg"), "one.test", &format!("{login} sslmode=disable")),
        );

        // TLS ends here: the request is seen, however the client sends it.
        let identity = authority.sign("one.test");
        let tls = format!("tls.certificates = '{}'", identity.file("pem"));
        let ending = balancer(&tls, &addresses, "balance = 'round-robin'");
        let verified = verified(&authority);
        cancels(version, &servers, &ending, &words(ending.address("pg"), "one.test", &format!("{login} {verified}")));

        // psql sends its request in clear, whatever its session has.
        let passing = balancer("", &addresses, "balance = 'round-robin'");
        cancels(version, &servers, &passing, &words(passing.address("pg"), "one.test", &format!("{login} {verified}")));

        // One within TLS looks like any session: it has to lead to the same endpoint.
        let passing = balancer("", &addresses, "balance = 'maglev'");
        let Some(mut client) = psycopg(CANCELS_ITSELF) else { continue };
        let words = words(passing.address("pg"), "one.test", &format!("{login} {verified}"));
        assert_eq!(ask(client.arg(&words)).as_deref(), Ok("cancelled"), "{version:?}");
    }
}

/// A client that ends its own query, by a request within TLS.
const CANCELS_ITSELF: &str = "
import sys, threading, psycopg
with psycopg.connect(sys.argv[1]) as session:
    threading.Timer(0.5, session.cancel_safe).start()
    try:
        session.execute('SELECT pg_sleep(60)')
    except psycopg.errors.QueryCanceled:
        print('cancelled')
";

#[test]
fn tls_may_end_here_and_begin_again_towards_the_servers() {
    let folder = TempDir::new().unwrap();
    let authority = Authority::new(folder.path());
    let identity = authority.sign("front.test");
    let front = format!("tls.certificates = '{}'", identity.file("pem"));
    for version in Version::ALL {
        let Some(server) = Postgres::start(version, &authority, "back.test") else { continue };
        server.user("alice", "scram-sha-256", "secret");
        // In clear libpq does not log in by SCRAM to a server that offers to bind it to TLS.
        server.user("bob", "md5", "secret");
        server.allow(&["host all bob all md5", "host all all all scram-sha-256"]);
        let clear = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        let pool = |negotiation: &str| {
            format!("tls = {{ name = 'back.test', ca = '{}', negotiation = '{negotiation}' }}", authority.file())
        };
        let mut cases = vec![
            ("ends here", &*front, String::new(), "f"),
            ("begins again", &*front, pool("postgres"), "t"),
            ("begins here", "allow_cleartext = true", pool("postgres"), "t"),
        ];
        if version == Version::Current {
            cases.push(("begins again at once", &*front, pool("direct"), "t"));
            cases.push(("begins here at once", "allow_cleartext = true", pool("direct"), "t"));
        }
        for (case, route, pool, said) in cases {
            let balancer = balancer(route, &[server.address()], &pool);
            let (user, mode) =
                if route == front { ("alice", verified(&authority)) } else { ("bob", "sslmode=disable".into()) };
            let login = format!("user={user} password=secret channel_binding=disable {mode}");
            let words = words(balancer.address("pg"), "front.test", &login);
            assert_eq!(psql(version, &words, clear).as_deref(), Ok(said), "{version:?}: {case}; {}", server.log());
            if version == Version::Current && route == front {
                let said = psql(version, &format!("{words} sslnegotiation=direct"), clear);
                assert!(said.is_ok(), "{case}: {said:?}");
            }
        }
    }
}

/// What a person sees who cannot be served.
#[test]
fn psql_shows_why_it_is_not_served() {
    let folder = TempDir::new().unwrap();
    let authority = Authority::new(folder.path());
    let identity = authority.sign("one.test");
    let tls = format!("tls.certificates = '{}'", identity.file("pem"));
    let nobody = free_address();
    for version in Version::ALL {
        if version.client("psql").is_none() {
            continue;
        }
        let verified = verified(&authority);
        for (case, route, mode, said) in [
            ("in clear", "allow_cleartext = true", "sslmode=disable", "no server can be reached at the moment"),
            ("within TLS of ours", &*tls, &*verified, "no server can be reached at the moment"),
            ("passing through", "", &*verified, "tlsv1 alert internal error"),
            ("by an unknown name", "sni = 'other.test'", &*verified, "unrecognized name"),
            ("from elsewhere", "allow_cleartext = true\nfrom = '192.0.2.0/24'", "sslmode=disable", "not accepted here"),
        ] {
            let balancer = balancer(route, &[nobody], "");
            let began = Instant::now();
            let words = words(balancer.address("pg"), "one.test", &format!("user=alice {mode}"));
            let told = psql(version, &words, "SELECT 1").unwrap_err();
            assert!(told.contains(said), "{version:?}, {case}: {told}");
            assert!(began.elapsed() < Duration::from_secs(10), "{version:?}, {case}");
        }
    }
}

#[test]
fn clients_of_mysql_show_why_they_are_not_served() {
    let folder = TempDir::new().unwrap();
    let authority = Authority::new(folder.path());
    for make in Make::ALL {
        let Some(server) = Mysql::start(make, &authority, "one.test") else { continue };
        let plugin = if make == Make::MySql { "caching_sha2_password" } else { "mysql_native_password" };
        server.user("alice", plugin, "secret");
        let mysql = |endpoint: SocketAddr, listener: &str| {
            Balancer::start(&format!(
                "listener.my = {{ bind = '127.0.0.1:0', protocol = 'mysql'{listener} }}\n\
                 route.my = {{ listener = 'my', pool = 'my' }}\npool.my.endpoints = '{endpoint}'"
            ))
        };
        let client = |at: SocketAddr, statement: &str| {
            let mut client: Command = make.client().unwrap();
            client.args(["--host=127.0.0.1", "--user=alice", "--password=secret", "--batch", "--skip-column-names"]);
            client.args([format!("--port={}", at.port()), format!("--ssl-ca={}", authority.file())]);
            client.args(["--execute", statement]);
            client
        };
        let balancer = mysql(server.address(), ", max_connections = 1");
        let at = balancer.address("my");
        assert_eq!(ask(&mut client(at, "SELECT CURRENT_USER()")).as_deref(), Ok("alice@%"), "{make:?}");
        let mut first = client(at, "SELECT SLEEP(60)").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        eventually("it is served", || server.sql("SHOW PROCESSLIST").contains("SLEEP").then_some(()));
        let told = ask(&mut client(at, "SELECT 1")).unwrap_err();
        first.kill().unwrap();
        first.wait().unwrap();
        assert!(told.contains("1040") && told.contains("too many connections"), "{make:?}: {told}");
        let told = ask(&mut client(mysql(free_address(), "").address("my"), "SELECT 1")).unwrap_err();
        assert!(told.contains("3168") && told.contains("no server can be reached"), "{make:?}: {told}");
    }
}
