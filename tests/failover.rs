//! The examples of `conf/examples` for PostgreSQL and Galera, run against real servers, and what a failover is like for their
//! clients. That for Redis is in `redis_probe`.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::harness::answering::Authority;
use crate::harness::daemon::ask;
use crate::harness::mysql::Make;
use crate::harness::postgres::Version;
use crate::harness::{Balancer, Mysql, Patroni, Postgres, eventually};

/// Of the example: its probes, and the bound on a failover that follows.
const INTERVAL: Duration = Duration::from_secs(1);
const FALL: u32 = 3;

/// The text of an example with some of its words replaced, each of which stands in it.
pub fn example(name: &str, changes: &[(&str, String)]) -> String {
    let path = format!("{}/conf/examples/{name}", env!("CARGO_MANIFEST_DIR"));
    let mut text = std::fs::read_to_string(path).unwrap();
    for (word, put) in changes {
        assert!(text.contains(word), "{name} has {word}");
        text = text.replace(word, put);
    }
    // The balancers of tests have an admin socket of their own.
    let (before, admin) = text.split_once("[admin]").unwrap();
    let (_, after) = admin.split_once("\n\n").unwrap();
    format!("{before}{after}")
}

/// Servers, and a balancer by the example in front of them.
struct Trio {
    folder: TempDir,
    authority: Authority,
    servers: Vec<Postgres>,
    balancer: Balancer,
}

impl Trio {
    /// A primary with two replicas; nothing where PostgreSQL is not installed.
    fn start(version: Version) -> Option<Trio> {
        let folder = TempDir::new().unwrap();
        let authority = Authority::new(folder.path());
        // The three have the name that clients ask for, whoever is the primary.
        let primary = Postgres::start(version, &authority, "db.example.com")?;
        primary.user("pointsman", "scram-sha-256", "secret");
        primary.sql("GRANT pg_read_all_stats TO pointsman");
        primary.user("alice", "scram-sha-256", "secret");
        primary.sql("CREATE TABLE kept (number integer); GRANT ALL ON kept TO alice");
        let replicas = [(); 2].map(|()| primary.replica(&authority, "db.example.com"));
        let mut servers = vec![primary];
        servers.extend(replicas);
        let secret = folder.path().join("pg.secret");
        std::fs::write(&secret, "secret\n").unwrap();
        let mut changes = vec![
            ("/etc/pointsman/pg.secret", secret.display().to_string()),
            ("/etc/pointsman/pg-ca.pem", authority.file()),
            ("0.0.0.0:5432", "127.0.0.1:0".to_owned()),
            ("0.0.0.0:5433", "127.0.0.1:0".to_owned()),
        ];
        let words = ["10.0.0.11:5432", "10.0.0.12:5432", "10.0.0.13:5432"];
        changes.extend(words.into_iter().zip(&servers).map(|(word, server)| (word, server.address().to_string())));
        let balancer = Balancer::start(&example("postgres-primary-replica.toml", &changes));
        Some(Trio { folder, authority, servers, balancer })
    }

    /// The words by which alice gets to this listener.
    fn words(&self, listener: &str) -> String {
        let at = self.balancer.address(listener);
        format!(
            "hostaddr={} port={} host=db.example.com dbname=postgres user=alice password=secret connect_timeout=20 \
             sslmode=verify-full sslrootcert='{}'",
            at.ip(),
            at.port(),
            self.authority.file()
        )
    }
}

/// When a statement was over, and what came of it.
type Came = (Instant, Result<String, String>);

/// What clients of one listener have seen.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<Came>>>);

impl Seen {
    fn all(&self) -> Vec<Came> {
        self.0.lock().unwrap().clone()
    }

    fn failures(&self) -> Vec<String> {
        self.all().into_iter().filter_map(|(_, came)| came.err()).collect()
    }
}

/// Has `statement` run again and again, each time in a session of its own, for as long as `goes_on`.
fn clients<'s>(
    scope: &'s std::thread::Scope<'s, '_>,
    version: Version,
    words: &str,
    statement: &'static str,
    goes_on: &'s AtomicBool,
) -> Seen {
    let seen = Seen::default();
    for _ in 0..2 {
        let (seen, words) = (seen.clone(), words.to_owned());
        scope.spawn(move || {
            while goes_on.load(Ordering::Relaxed) {
                let mut psql = version.client("psql").unwrap();
                let came = ask(psql.args(["-XAtq", "-F", " ", "-c", statement, &words]));
                seen.0.lock().unwrap().push((Instant::now(), came));
            }
        });
    }
    seen
}

const WRITE: &str = "INSERT INTO kept VALUES (1) RETURNING inet_server_port()";
const READ: &str = "SELECT inet_server_port(), pg_is_in_recovery()";

/// The port at which this came from a server.
fn port(came: &Result<String, String>) -> Option<u16> {
    came.as_ref().ok()?.split(' ').next()?.parse().ok()
}

#[test]
fn postgres_fails_over_in_time_and_no_write_reaches_a_replica() {
    for version in Version::ALL {
        let Some(mut trio) = Trio::start(version) else { continue };
        let ports: Vec<u16> = trio.servers.iter().map(|server| server.address().port()).collect();
        let (writes, reads) = (trio.words("writes"), trio.words("reads"));
        let goes_on = AtomicBool::new(true);
        std::thread::scope(|scope| {
            let written = clients(scope, version, &writes, WRITE, &goes_on);
            let read = clients(scope, version, &reads, READ, &goes_on);
            let done = |seen: &Seen, port_of: u16| seen.all().iter().any(|(_, came)| port(came) == Some(port_of));
            eventually("it is written to the primary", || done(&written, ports[0]).then_some(()));
            eventually("it is read from both replicas", || {
                (done(&read, ports[1]) && done(&read, ports[2])).then_some(())
            });

            // Both say that they are the primary: nobody gets to either, until one of them is gone.
            trio.servers[1].promote();
            let metric = "pointsman_pool_writers{pool=\"pg/primary\"}";
            eventually("two claim to be the primary", || {
                (trio.balancer.metric_if_there(metric) == Some(2.0)).then_some(())
            });
            trio.servers[0].stop_now();
            let gone = Instant::now();
            eventually("it is written to the new primary", || done(&written, ports[1]).then_some(()));
            let all = written.all();
            let first = all.iter().find(|(_, came)| port(came) == Some(ports[1])).unwrap().0;
            let took = first.saturating_duration_since(gone);
            println!("{version:?}: written to the new primary {took:?} after the old one was gone");
            // A busy machine may add to it.
            let most = INTERVAL * FALL + Duration::from_secs(1);
            assert!(took <= most, "{version:?}: {took:?}, at most {most:?}");
            std::thread::sleep(INTERVAL * 2);
            goes_on.store(false, Ordering::Relaxed);

            let failures = written.failures();
            assert!(failures.iter().all(|failure| !failure.contains("read-only")), "{version:?}: {failures:#?}");
            // Whoever was connected when it was killed has seen that; nobody else has seen anything.
            assert!(failures.len() <= 4, "{version:?}: {failures:#?}");
            let stopped = read.failures();
            assert!(stopped.is_empty(), "{version:?}: reads never stop: {stopped:#?}");
            let last = read.all().into_iter().next_back().unwrap().1;
            assert!(port(&last).is_some_and(|port| port != ports[0]), "{version:?}: {last:?}");
        });
        let to_replicas = trio.servers[2].sql("SELECT pg_is_in_recovery()");
        assert_eq!(to_replicas, "t", "{version:?}: the third is still one");
        drop(trio.folder);
    }
}

/// The lines of the example for Patroni, in place of those that ask the servers themselves.
#[test]
fn patroni_may_say_who_is_the_primary() {
    let Some([one, two]) = Patroni::pair() else { return };
    let servers = format!("\"{}\", \"{}\"", one.server(), two.server());
    let text = example(
        "postgres-primary-replica.toml",
        &[
            ("\"10.0.0.11:5432\", \"10.0.0.12:5432\", \"10.0.0.13:5432\"", servers),
            ("0.0.0.0:5432", "127.0.0.1:0".to_owned()),
            ("0.0.0.0:5433", "127.0.0.1:0".to_owned()),
            // These servers have no certificates.
            ("pool = \"pg\"", "pool = \"pg\"\nallow_cleartext = true".to_owned()),
        ],
    );
    let (before, variant) = text.split_once("# With Patroni").unwrap();
    let (before, _) = before.split_once("[pool.pg.health]").unwrap();
    let lines = variant.lines().filter_map(|line| line.strip_prefix('#')).filter(|line| !line.starts_with(' '));
    let variant: String = lines.map(|line| format!("{line}\n")).collect();
    assert!(variant.contains("probe = \"patroni\""), "{variant}");
    // Its timeout is that of an idle machine.
    let variant = variant.replace("timeout = \"1s\"", "timeout = \"10s\"");
    let balancer = Balancer::start(&format!("{before}{variant}port = {}\n", one.api().port()));
    let port = |listener: &str| {
        let at = balancer.address(listener);
        let words = format!("host={} port={} user=postgres dbname=postgres sslmode=disable", at.ip(), at.port());
        let mut psql = Version::System.client("psql").unwrap();
        ask(psql.args(["-XAtqc", "SELECT inet_server_port()", &words])).unwrap()
    };
    let [first, second] = [&one, &two].map(|patroni| patroni.server().port().to_string());
    assert_eq!((port("writes"), port("reads")), (first.clone(), second.clone()));
    one.switch_over_to(&two);
    eventually("writes follow", || (port("writes") == second).then_some(()));
    eventually("and so do reads", || (port("reads") == first).then_some(()));
}

/// A primary that no longer answers, but whose sessions go on as if nothing was: they are cut off with it.
#[test]
fn sessions_of_a_primary_that_hangs_are_closed() {
    let Some(trio) = Trio::start(Version::System) else { return };
    let mut psql = Version::System.client("psql").unwrap();
    psql.args(["-XAtq", &trio.words("writes")]).stdin(std::process::Stdio::piped());
    psql.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut stale = psql.spawn().unwrap();
    let mut says = stale.stdin.take().unwrap();
    std::io::Write::write_all(&mut says, b"INSERT INTO kept VALUES (1);\n").unwrap();
    let server = &trio.servers[0];
    eventually("it has written", || (server.sql("SELECT count(*) FROM kept") == "1").then_some(()));
    server.freeze();
    let frozen = Instant::now();
    let ended = eventually("its session is closed", || {
        trio.balancer.log().lines().into_iter().find(|line| line["outcome"] == "killed_down")
    });
    let took = frozen.elapsed();
    server.thaw();
    println!("closed {took:?} after its server hung; {ended}");
    // Each probe takes as long as it may, and the next one comes soon.
    assert!(took <= INTERVAL * (2 * FALL + 1), "{took:?}");
    std::io::Write::write_all(&mut says, b"INSERT INTO kept VALUES (2);\n").unwrap();
    drop(says);
    let told = stale.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(told.contains("connection to server was lost"), "{told}");
}

/// Each node is a cluster of its own here: what counts is what it says of itself.
#[test]
fn writes_stay_with_one_node_of_galera_while_it_is_ready() {
    let folder = TempDir::new().unwrap();
    let authority = Authority::new(folder.path());
    let nodes = ["db.example.com"; 3].map(|name| Mysql::start_cluster(&authority, name));
    let [Some(a), Some(b), Some(c)] = &nodes else { return };
    for node in [a, b, c] {
        node.sql("CREATE USER pointsman@'%' IDENTIFIED BY 'secret' REQUIRE SSL");
        node.sql("CREATE USER alice@'%' IDENTIFIED BY 'secret'");
    }
    let secret = folder.path().join("mysql.secret");
    std::fs::write(&secret, "secret\n").unwrap();
    let mut changes = vec![
        ("/etc/pointsman/mysql.secret", secret.display().to_string()),
        ("/etc/pointsman/mysql-ca.pem", authority.file()),
        ("0.0.0.0:3306", "127.0.0.1:0".to_owned()),
        ("0.0.0.0:3307", "127.0.0.1:0".to_owned()),
    ];
    let words = ["10.0.0.11:3306", "10.0.0.12:3306", "10.0.0.13:3306"];
    changes.extend(words.into_iter().zip([a, b, c]).map(|(word, node)| (word, node.address().to_string())));
    let balancer = Balancer::start(&example("mysql-galera.toml", &changes));
    let port = |listener: &str| {
        let mut client = Make::MariaDb.client().unwrap();
        client.args(["--host=127.0.0.1", "--user=alice", "--password=secret", "--batch", "--skip-column-names"]);
        client
            .args([format!("--port={}", balancer.address(listener).port()), format!("--ssl-ca={}", authority.file())]);
        // Who is with a node that is no longer ready is cut off.
        ask(client.args(["--execute", "SELECT @@port"])).unwrap_or_else(|error| format!("nobody: {error}"))
    };
    let [at_a, at_b, at_c] = [a, b, c].map(|node| node.address().port().to_string());
    let read = || (0..6).map(|_| port("reads")).collect::<BTreeSet<String>>();
    assert_eq!((0..4).map(|_| port("writes")).collect::<BTreeSet<_>>(), BTreeSet::from([at_a.clone()]));
    assert_eq!(read(), BTreeSet::from([at_a.clone(), at_b.clone(), at_c.clone()]));
    a.set_ready(false);
    eventually("the next one takes over", || (port("writes") == at_b).then_some(()));
    eventually("nobody reads there", || (read() == BTreeSet::from([at_b.clone(), at_c.clone()])).then_some(()));
    a.set_ready(true);
    eventually("it is read from again", || read().contains(&at_a).then_some(()));
    assert_eq!(port("writes"), at_b, "and the one that took over stays");
}

/// A replica whose primary is gone does not say how far it is behind any more; for a while that is no reason not to read.
#[test]
fn reads_go_on_where_a_primary_of_mysql_dies() {
    for make in Make::ALL {
        let folder = TempDir::new().unwrap();
        let authority = Authority::new(folder.path());
        let Some(mut primary) = Mysql::start(make, &authority, "db.test") else { continue };
        let plugin = if make == Make::MySql { "caching_sha2_password" } else { "mysql_native_password" };
        primary.user("pointsman", plugin, "secret");
        primary.sql(match make {
            Make::MySql => "GRANT REPLICATION CLIENT ON *.* TO pointsman@'%'",
            Make::MariaDb => "GRANT SLAVE MONITOR ON *.* TO pointsman@'%'",
        });
        let replica = primary.replica(&authority, "db.test");
        replica.catch_up_with(&primary);
        let secret = folder.path().join("secret");
        std::fs::write(&secret, "secret").unwrap();
        let balancer = Balancer::start(&format!(
            "listener.reads = {{ bind = '127.0.0.1:0', protocol = 'mysql' }}\n\
             route.reads = {{ listener = 'reads', pool = 'my', role = 'replica', fallback = 'primary' }}\n\
             [pool.my]\nendpoints = ['{}', '{}']\nsessions.on_demotion = 'close'\n\
             [pool.my.health]\nprobe = 'mysql'\nuser = 'pointsman'\npassword_file = {secret:?}\nmax_lag = '60s'\n\
             interval = '200ms'\nfast_interval = '100ms'\ntls = {{ name = 'db.test', ca = '{}' }}\n",
            primary.address(),
            replica.address(),
            authority.file()
        ));
        let read = || {
            let mut client = make.client().unwrap();
            client.args([
                "--host=127.0.0.1",
                "--user=pointsman",
                "--password=secret",
                "--batch",
                "--skip-column-names",
            ]);
            client.args([
                format!("--port={}", balancer.address("reads").port()),
                format!("--ssl-ca={}", authority.file()),
            ]);
            ask(client.args(["--execute", "SELECT @@port"]))
        };
        let port = replica.address().port().to_string();
        eventually("it is read from the replica", || (read().as_ref() == Ok(&port)).then_some(()));
        primary.stop_now();
        let until = Instant::now() + Duration::from_secs(3);
        while Instant::now() < until {
            assert_eq!(read().as_ref(), Ok(&port), "{make:?}");
        }
    }
}
