//! The servers of databases that other tests use: each by itself, and behind a balancer that only carries what they
//! speak.

use std::net::SocketAddr;
use std::process::Command;

use tempfile::TempDir;

use crate::harness::answering::Authority;
use crate::harness::daemon::ask;
use crate::harness::mysql::Make;
use crate::harness::postgres::{Version, certificate_of, psycopg};
use crate::harness::{Balancer, Mysql, Postgres, Redis, eventually};

/// A balancer with one TCP listener, `edge`, in front of this.
fn in_front_of(endpoint: SocketAddr) -> Balancer {
    Balancer::start(&format!(
        "listener.edge = {{ bind = '127.0.0.1:0', protocol = 'tcp' }}\n\
         route.all = {{ listener = 'edge', pool = 'all' }}\npool.all.endpoints = '{endpoint}'"
    ))
}

/// The words by which clients of PostgreSQL get to `at`, verify that it is `name`, and log in.
fn conninfo(at: SocketAddr, name: &str, authority: &Authority, more: &str) -> String {
    format!(
        "hostaddr={} port={} host={name} dbname=postgres sslmode=verify-full sslrootcert={} connect_timeout=10 {more}",
        at.ip(),
        at.port(),
        authority.file()
    )
}

#[test]
fn postgres_by_itself_and_through_a_balancer() {
    for version in Version::ALL {
        let folder = TempDir::new().unwrap();
        let authority = Authority::new(folder.path());
        let Some(server) = Postgres::start(version, &authority, "one.test") else { continue };
        server.user("alice", "scram-sha-256", "secret");
        let balancer = in_front_of(server.address());
        for at in [server.address(), balancer.address("edge")] {
            let mut psql = version.client("psql").unwrap();
            let words = conninfo(at, "one.test", &authority, "user=alice password=secret channel_binding=require");
            let said = ask(psql.args(["-XAtc", "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", &words]));
            assert_eq!(said.as_deref(), Ok("t"), "{version:?} at {at}; log: {}", server.log());
            let mut psql = version.client("psql").unwrap();
            let said = ask(psql.args(["-XAtc", "SELECT 1", &words.replace("secret", "wrong")])).unwrap_err();
            assert!(said.contains("password authentication failed"), "{version:?}: {said}");
        }
    }
}

#[test]
fn postgres_knows_every_way_to_log_in() {
    for version in Version::ALL {
        let folder = TempDir::new().unwrap();
        let authority = Authority::new(folder.path());
        let Some(server) = Postgres::start(version, &authority, "one.test") else { continue };
        server.user("alice", "scram-sha-256", "secret");
        server.user("bob", "md5", "secret");
        server.user("carol", "scram-sha-256", "secret");
        server.allow(&["host all alice all scram-sha-256", "host all bob all md5", "hostssl all carol all cert"]);
        let ours = certificate_of(&authority, "carol");
        let shown = format!("user=carol sslcert='{}' sslkey='{}'", ours.file("pem"), ours.file("key"));
        let cases = [
            ("scram", "user=alice password=secret", Ok("alice")),
            ("md5", "user=bob password=secret", Ok("bob")),
            ("a certificate", &shown, Ok("carol")),
            ("no certificate", "user=carol", Err("connection requires a valid client certificate")),
            ("nobody", "user=dave password=secret", Err("no pg_hba.conf entry")),
        ];
        for (case, words, expected) in cases {
            let mut psql = version.client("psql").unwrap();
            let words = conninfo(server.address(), "one.test", &authority, words);
            match (ask(psql.args(["-XAtc", "SELECT current_user", &words])), expected) {
                (Ok(said), Ok(expected)) => assert_eq!(said, expected, "{version:?}: {case}"),
                (Err(said), Err(expected)) => assert!(said.contains(expected), "{version:?}: {case}: {said}"),
                (said, expected) => panic!("{version:?}: {case}: {said:?}, not {expected:?}; log: {}", server.log()),
            }
        }
    }
}

#[test]
fn pgbench_works_through_a_balancer() {
    for version in Version::ALL {
        let folder = TempDir::new().unwrap();
        let authority = Authority::new(folder.path());
        let Some(server) = Postgres::start(version, &authority, "one.test") else { continue };
        server.user("alice", "scram-sha-256", "secret");
        server.sql("GRANT CREATE ON SCHEMA public TO alice");
        let balancer = in_front_of(server.address());
        let words = conninfo(balancer.address("edge"), "one.test", &authority, "user=alice password=secret");
        ask(version.client("pgbench").unwrap().args(["-i", "-q", &words])).unwrap();
        let said = ask(version.client("pgbench").unwrap().args(["-c", "8", "-j", "2", "-T", "1", &words])).unwrap();
        assert!(said.contains("number of failed transactions: 0 "), "{version:?}: {said}");
        assert!(server.sql("SELECT count(*) FROM pgbench_history").parse::<u32>().unwrap() > 0, "{version:?}: {said}");
    }
}

/// A current server is found by its name where its clients start with TLS at once.
#[test]
fn clients_of_postgres_start_with_tls() {
    const SCRIPT: &str = "
import sys, psycopg
with psycopg.connect(sys.argv[1]) as session:
    print(*session.execute('SELECT ssl, current_user FROM pg_stat_ssl WHERE pid = pg_backend_pid()').fetchone())
";
    let folder = TempDir::new().unwrap();
    let authority = Authority::new(folder.path());
    let Some(server) = Postgres::start(Version::Current, &authority, "one.test") else { return };
    server.user("alice", "scram-sha-256", "secret");
    let balancer = Balancer::start(&format!(
        "listener.edge.bind = '127.0.0.1:0'\n\
         route.one = {{ listener = 'edge', sni = ['one.test'], pool = 'one' }}\npool.one.endpoints = '{}'",
        server.address()
    ));
    for at in [server.address(), balancer.address("edge")] {
        let more = "user=alice password=secret sslnegotiation=direct channel_binding=require";
        let words = conninfo(at, "one.test", &authority, more);
        let mut psql = Version::Current.client("psql").unwrap();
        let said = ask(psql.args(["-XAtc", "SELECT 'alice' = current_user", &words]));
        assert_eq!(said.as_deref(), Ok("t"), "at {at}; log: {}", server.log());
        let Some(mut client) = psycopg(SCRIPT) else { continue };
        assert_eq!(ask(client.arg(&words)).as_deref(), Ok("True alice"), "at {at}; log: {}", server.log());
    }
}

#[test]
fn a_replica_of_postgres_becomes_the_primary() {
    for version in Version::ALL {
        let folder = TempDir::new().unwrap();
        let authority = Authority::new(folder.path());
        let Some(mut primary) = Postgres::start(version, &authority, "one.test") else { continue };
        primary.user("alice", "scram-sha-256", "secret");
        primary.sql("CREATE TABLE kept (number integer); INSERT INTO kept VALUES (1)");
        let replica = primary.replica(&authority, "two.test");
        assert!(!primary.in_recovery() && replica.in_recovery(), "{version:?}");
        primary.sql("INSERT INTO kept VALUES (2)");
        replica.catch_up_with(&primary);
        let refused = replica.try_sql("INSERT INTO kept VALUES (3)").unwrap_err();
        assert!(refused.contains("read-only"), "{version:?}: {refused}");
        primary.stop_now();
        assert!(primary.try_sql("SELECT 1").is_err(), "{version:?}: it has ended");
        replica.promote();
        assert!(!replica.in_recovery(), "{version:?}");
        replica.sql("INSERT INTO kept VALUES (3)");
        assert_eq!(replica.sql("SELECT count(*) FROM kept"), "3", "{version:?}");
        let balancer = in_front_of(replica.address());
        let words = conninfo(balancer.address("edge"), "two.test", &authority, "user=alice password=secret");
        let said = ask(version.client("psql").unwrap().args(["-XAtc", "SELECT pg_is_in_recovery()", &words]));
        assert_eq!(said.as_deref(), Ok("f"), "{version:?}");
        primary.start_again();
        assert_eq!(primary.sql("SELECT count(*) FROM kept"), "2", "{version:?}: the old one knows nothing of it");
        primary.stop();
    }
}

#[test]
fn mysql_by_itself_and_through_a_balancer() {
    for make in Make::ALL {
        let folder = TempDir::new().unwrap();
        let authority = Authority::new(folder.path());
        let Some(server) = Mysql::start(make, &authority, "one.test") else { continue };
        let plugin = if make == Make::MySql { "caching_sha2_password" } else { "mysql_native_password" };
        server.user("alice", plugin, "secret");
        let balancer = in_front_of(server.address());
        for at in [server.address(), balancer.address("edge")] {
            let mut client = make.client().unwrap();
            client.args(["--host=127.0.0.1", "--user=alice", "--batch", "--skip-column-names"]);
            client.args([format!("--port={}", at.port()), format!("--ssl-ca={}", authority.file())]);
            let statement = "SELECT CURRENT_USER(); SHOW STATUS LIKE 'Ssl_version'";
            let said = ask(client.args(["--password=secret", "--execute", statement]));
            assert_eq!(said.as_deref(), Ok("alice@%\nSsl_version\tTLSv1.3"), "{make:?} at {at}; log: {}", server.log());
        }
    }
}

/// Without TLS a password crosses under the server's key, until the server has seen it once.
#[test]
fn mysql_gives_its_key_to_clients_without_tls() {
    let folder = TempDir::new().unwrap();
    let authority = Authority::new(folder.path());
    let Some(server) = Mysql::start(Make::MySql, &authority, "one.test") else { return };
    server.user("alice", "caching_sha2_password", "secret");
    let try_with = |more: &str| {
        let mut client = Make::MySql.client().unwrap();
        client.args(["--host=127.0.0.1", "--user=alice", "--password=secret", "--ssl-mode=DISABLED", "--batch"]);
        client.args([&format!("--port={}", server.address().port()), "--skip-column-names"]);
        ask(client.args([more, "--execute=SELECT CURRENT_USER()"]))
    };
    let refused = try_with("--skip-get-server-public-key").unwrap_err();
    assert!(refused.contains("Authentication requires secure connection"), "{refused}");
    assert_eq!(try_with("--get-server-public-key").as_deref(), Ok("alice@%"));
    assert_eq!(try_with("--skip-get-server-public-key").as_deref(), Ok("alice@%"));
}

#[test]
fn a_replica_of_mysql_becomes_the_primary() {
    for make in Make::ALL {
        let folder = TempDir::new().unwrap();
        let authority = Authority::new(folder.path());
        let Some(mut primary) = Mysql::start(make, &authority, "one.test") else { continue };
        primary.sql(
            "CREATE DATABASE it; CREATE TABLE it.kept (number integer PRIMARY KEY); INSERT INTO it.kept VALUES (1)",
        );
        let replica = primary.replica(&authority, "two.test");
        primary.sql("INSERT INTO it.kept VALUES (2)");
        replica.catch_up_with(&primary);
        let state = |server: &Mysql| server.sql("SELECT @@read_only; SELECT COUNT(*) FROM it.kept");
        assert_eq!((state(&primary), state(&replica)), ("0\n2".to_owned(), "1\n2".to_owned()), "{make:?}");
        primary.stop_now();
        assert!(primary.try_sql("SELECT 1").is_err(), "{make:?}: it has ended");
        replica.promote();
        replica.sql("INSERT INTO it.kept VALUES (3)");
        assert_eq!(state(&replica), "0\n3", "{make:?}");
        primary.start_again();
        assert_eq!(state(&primary), "0\n2", "{make:?}: the old one knows nothing of it");
        primary.set_read_only(true);
        assert_eq!(state(&primary), "1\n2", "{make:?}");
        primary.stop();
    }
}

#[test]
fn a_cluster_of_one_is_ready_or_not() {
    let folder = TempDir::new().unwrap();
    let authority = Authority::new(folder.path());
    let Some(server) = Mysql::start_cluster(&authority, "one.test") else { return };
    server.sql("CREATE DATABASE it");
    server.set_ready(false);
    let refused = server.try_sql("CREATE DATABASE more").unwrap_err();
    assert!(refused.contains("WSREP has not yet prepared node"), "{refused}");
    server.set_ready(true);
    server.sql("CREATE DATABASE more");
}

/// What a client of Redis hears at `at` with these words.
fn redis_cli(at: SocketAddr, words: &[&str]) -> Result<String, String> {
    let mut client = Command::new("redis-cli");
    client.args(["-e", "--no-auth-warning", "-h", "127.0.0.1", "-p", &at.port().to_string()]);
    ask(client.args(words))
}

#[test]
fn redis_by_itself_and_through_a_balancer() {
    let folder = TempDir::new().unwrap();
    let authority = Authority::new(folder.path());
    let settings = "requirepass secret\nuser probe on >hidden +ping +role";
    let Some(server) = Redis::start_with(&authority, "one.test", settings) else { return };
    let balancer = in_front_of(server.address());
    for at in [server.address(), balancer.address("edge")] {
        assert_eq!(redis_cli(at, &["-a", "secret", "PING"]).as_deref(), Ok("PONG"), "at {at}");
        assert_eq!(redis_cli(at, &["--user", "probe", "--pass", "hidden", "PING"]).as_deref(), Ok("PONG"), "at {at}");
        assert!(redis_cli(at, &["PING"]).unwrap_err().contains("NOAUTH"), "at {at}");
    }
}

#[test]
fn redis_is_found_by_its_name_in_tls() {
    let folder = TempDir::new().unwrap();
    let authority = Authority::new(folder.path());
    let names = ["one.test", "two.test"];
    let servers = names.map(|name| Redis::start(&authority, name));
    let [Some(one), Some(two)] = &servers else { return };
    let balancer = Balancer::start(&format!(
        "listener.edge.bind = '127.0.0.1:0'\n\
         route.one = {{ listener = 'edge', sni = ['one.test'], pool = 'one' }}\npool.one.endpoints = '{}'\n\
         route.two = {{ listener = 'edge', sni = ['two.test'], pool = 'two' }}\npool.two.endpoints = '{}'",
        one.tls_address(),
        two.tls_address()
    ));
    for (name, server) in [("one.test", one), ("two.test", two)] {
        assert_eq!(server.ask(&format!("SET name {name}")), "OK");
        for at in [server.tls_address(), balancer.address("edge")] {
            let words = ["--tls", "--sni", name, "--cacert", &authority.file(), "GET", "name"];
            assert_eq!(redis_cli(at, &words).as_deref(), Ok(name), "at {at}; log: {}", server.log());
        }
    }
}

#[test]
fn a_sentinel_makes_a_replica_of_redis_the_primary() {
    let folder = TempDir::new().unwrap();
    let authority = Authority::new(folder.path());
    let Some(mut primary) = Redis::start(&authority, "one.test") else { return };
    let replica = primary.replica(&authority, "two.test", "");
    let sentinel = primary.sentinel("main", &authority, "three.test");
    let told = || sentinel.ask("SENTINEL GET-MASTER-ADDR-BY-NAME main");
    assert_eq!(told(), format!("127.0.0.1\n{}", primary.address().port()));
    eventually("it knows the replica", || sentinel.ask("INFO sentinel").contains("slaves=1").then_some(()));
    primary.stop_now();
    let now = format!("127.0.0.1\n{}", replica.address().port());
    eventually("the sentinel tells of the other", || (told() == now).then_some(()));
    assert!(replica.ask("ROLE").starts_with("master"));
}

#[test]
fn a_replica_of_redis_becomes_a_primary() {
    let folder = TempDir::new().unwrap();
    let authority = Authority::new(folder.path());
    let Some(mut primary) = Redis::start(&authority, "one.test") else { return };
    let replica = primary.replica(&authority, "two.test", "requirepass secret");
    let refused = redis_cli(replica.address(), &["-a", "secret", "SET", "name", "value"]).unwrap_err();
    assert!(refused.contains("READONLY"), "{refused}");
    replica.promote();
    assert_eq!(redis_cli(replica.address(), &["-a", "secret", "SET", "name", "value"]).as_deref(), Ok("OK"));
    primary.stop_now();
    assert!(primary.try_ask("PING").is_err());
    primary.start_again();
    assert!(primary.ask("ROLE").starts_with("master") && replica.ask("ROLE").starts_with("master"));
}
