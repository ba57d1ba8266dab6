//! The Redis probe, with real servers, replicas and Sentinels.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::harness::answering::Authority;
use crate::harness::{Balancer, PATIENCE, Redis, eventually, eventually_within};

/// Quick enough for a test.
const QUICK: &str = "interval = '200ms', fast_interval = '100ms', timeout = '1s', rise = 1, fall = 3";
/// How long a Sentinel may take to do what it does every ten seconds.
const SLOWLY: Duration = Duration::from_secs(40);

/// A balancer with a TCP listener and a pool for each of these names and health tables, over the same endpoints.
fn start(endpoints: &[SocketAddr], pools: &[(&str, &str)]) -> Balancer {
    let endpoints: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
    let pool = |(name, health): &(&str, &str)| {
        format!(
            "[listener.{name}]\nbind = '127.0.0.1:0'\nprotocol = 'tcp'\n[route.{name}]\nlistener = '{name}'\n\
             pool = '{name}'\n[pool.{name}]\nendpoints = {endpoints:?}\n\
             sessions = {{ on_down = 'close', on_demotion = 'close' }}\n\
             health = {{ probe = 'redis', {health}, {QUICK} }}\n"
        )
    };
    Balancer::start(&pools.iter().map(pool).collect::<String>())
}

fn is_up(balancer: &Balancer, pool: &str, endpoint: SocketAddr) -> bool {
    balancer.metric(&format!("pointsman_endpoint_up{{pool=\"{pool}\",endpoint=\"{endpoint}\"}}")) == 1.0
}

/// What the last probe of an endpoint has found.
fn told(balancer: &Balancer, pool: &str, endpoint: SocketAddr) -> String {
    let status = balancer.ask(&serde_json::json!({ "command": "status" }));
    let pools = status["pools"].as_array().unwrap().iter().filter(|found| found["name"] == pool);
    let mut endpoints = pools.flat_map(|pool| pool["endpoints"].as_array().unwrap());
    let found = endpoints.find(|found| found["name"] == endpoint.to_string());
    found.unwrap_or_else(|| panic!("{endpoint} is not in {status}")).to_string()
}

/// Waits until the last probe has found this.
fn tells(balancer: &Balancer, pool: &str, endpoint: SocketAddr, what: &str) {
    eventually_within(SLOWLY, &format!("{what} of {endpoint}"), || {
        told(balancer, pool, endpoint).contains(what).then_some(())
    });
}

fn comes_up(balancer: &Balancer, pool: &str, endpoint: SocketAddr) {
    eventually_within(SLOWLY, &format!("{endpoint} is up in {pool}"), || is_up(balancer, pool, endpoint).then_some(()));
}

fn goes_down(balancer: &Balancer, pool: &str, endpoint: SocketAddr) {
    eventually_within(SLOWLY, &format!("{endpoint} is down in {pool}"), || {
        (!is_up(balancer, pool, endpoint)).then_some(())
    });
}

/// What is answered to a command on a connection of its own; nothing where that ends without an answer.
fn ask(at: SocketAddr, command: &str) -> Option<String> {
    let mut connection = TcpStream::connect(at).ok()?;
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    connection.write_all(format!("{command}\r\n").as_bytes()).ok()?;
    let (mut answer, mut buffer) = (Vec::new(), [0; 512]);
    while !answer.ends_with(b"\n") {
        match connection.read(&mut buffer) {
            Ok(0) | Err(_) => return None,
            Ok(count) => answer.extend_from_slice(&buffer[..count]),
        }
    }
    Some(String::from_utf8_lossy(&answer).trim_end().to_owned())
}

#[test]
fn roles_and_how_far_a_replica_is_behind() {
    let folder = TempDir::new().unwrap();
    let authority = Authority::new(folder.path());
    let Some(mut primary) = Redis::start_with(&authority, "one.test", "repl-ping-replica-period 1") else { return };
    let replica = primary.replica(&authority, "two.test", "");
    let pools = [
        ("any", "role = 'any'"),
        ("writes", "role = 'primary'"),
        ("reads", "role = 'replica', max_lag = '3s'"),
        ("linked", "info = { master_link_status = 'up', loading = '0' }"),
    ];
    let (one, two) = (primary.address(), replica.address());
    let balancer = start(&[one, two], &pools);
    for (pool, first, second) in
        [("any", true, true), ("writes", true, false), ("reads", false, true), ("linked", false, true)]
    {
        assert_eq!((is_up(&balancer, pool, one), is_up(&balancer, pool, two)), (first, second), "{pool}");
    }
    tells(&balancer, "writes", two, "is a replica");
    tells(&balancer, "linked", one, "INFO has no field master_link_status");
    // It serves what it has for as long as the pool allows.
    primary.stop_now();
    let gone = Instant::now();
    goes_down(&balancer, "linked", two);
    assert!(is_up(&balancer, "reads", two), "after {:?}: {}", gone.elapsed(), told(&balancer, "reads", two));
    goes_down(&balancer, "reads", two);
    assert!(gone.elapsed() > Duration::from_secs(2), "{:?}", gone.elapsed());
    tells(&balancer, "reads", two, "behind, allowed are 3s");
    assert!(is_up(&balancer, "any", two));
    // Without its master it may serve nothing at all.
    assert_eq!(replica.ask("CONFIG SET replica-serve-stale-data no"), "OK");
    goes_down(&balancer, "any", two);
    tells(&balancer, "any", two, "not ready: MASTERDOWN");
}

#[test]
fn users_rights_and_tls() {
    let folder = TempDir::new().unwrap();
    let authority = Authority::new(folder.path());
    let settings = "requirepass secret\nuser full on >hidden +ping +role +info\nuser role on >hidden +ping +role\n\
                    user ping on >hidden +ping";
    let Some(server) = Redis::start_with(&authority, "redis.test", settings) else { return };
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (secret, hidden, wrong) = (file("secret", "secret\n"), file("hidden", "hidden\n"), file("wrong", "wrong"));
    let of = |user: &str| format!("user = '{user}', password_file = '{hidden}'");
    let tls = format!("tls = {{ name = 'redis.test', ca = '{}' }}", authority.file());
    for (case, health, up, what) in [
        ("no password", "role = 'any'".to_owned(), true, "asks for a password, and none is set"),
        ("no password, and a role", "role = 'primary'".to_owned(), false, "asks for a password, and none is set"),
        ("the default user", format!("password_file = '{secret}', role = 'primary'"), true, "PONG, primary"),
        ("the wrong password", format!("password_file = '{wrong}'"), false, "cannot log in: the user or the password"),
        ("a user", format!("{}, role = 'primary', info = {{ loading = '0' }}", of("full")), true, "PONG, primary"),
        ("no right to INFO", format!("{}, info = {{ loading = '0' }}", of("role")), false, "lacks +info in its ACL"),
        ("no right to ROLE", format!("{}, role = 'primary'", of("ping")), false, "lacks +role in its ACL"),
        ("no role is needed", of("ping"), true, "PONG"),
        ("in TLS", format!("{}, role = 'primary', {tls}", of("full")), true, "PONG, primary; certificate expires"),
        ("another name in TLS", "tls.name = 'other.test'".to_owned(), false, "certificate"),
    ] {
        let at = if health.contains("tls") { server.tls_address() } else { server.address() };
        let balancer = start(&[at], &[("all", &health)]);
        assert_eq!(is_up(&balancer, "all", at), up, "{case}: {}", told(&balancer, "all", at));
        let told = told(&balancer, "all", at);
        assert!(told.contains(what) && !told.contains("hidden"), "{case}: {told}");
    }
    let balancer = start(&[server.tls_address()], &[("all", "role = 'any'")]);
    assert!(!is_up(&balancer, "all", server.tls_address()), "nothing is answered in clear");
}

#[test]
fn probes_are_polite() {
    let folder = TempDir::new().unwrap();
    let authority = Authority::new(folder.path());
    let Some(server) = Redis::start(&authority, "redis.test") else { return };
    let number = |section: &str, field: &str| {
        let info = server.ask(&format!("INFO {section}"));
        let line = info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap().trim().to_owned();
        line.parse::<u64>().unwrap()
    };
    let balancer = start(&[server.address()], &[("all", "role = 'primary'")]);
    let (log, before) = (server.log(), number("stats", "total_connections_received"));
    eventually("there were many probes", || {
        (number("stats", "total_connections_received") > before + 20).then_some(())
    });
    assert_eq!(server.log(), log, "nobody is told of it");
    assert_eq!(server.ask("ACL LOG"), "");
    assert!(number("clients", "connected_clients") <= 3, "no connection is left behind");
    assert!(!server.ask("INFO errorstats").contains("errorstat_"), "{}", server.ask("INFO errorstats"));
    drop(balancer);
}

#[test]
fn one_that_is_full_is_not_down() {
    let folder = TempDir::new().unwrap();
    let authority = Authority::new(folder.path());
    let Some(server) = Redis::start_with(&authority, "redis.test", "maxclients 20") else { return };
    let at = server.address();
    let balancer = start(&[at], &[("any", "role = 'any'"), ("writes", "role = 'primary'")]);
    comes_up(&balancer, "writes", at);
    let clients: Vec<TcpStream> = (0..30).map(|_| TcpStream::connect(at).unwrap()).collect();
    tells(&balancer, "writes", at, "has as many clients as it may");
    std::thread::sleep(Duration::from_secs(1));
    assert!(is_up(&balancer, "any", at) && is_up(&balancer, "writes", at), "{}", told(&balancer, "writes", at));
    drop(clients);
    tells(&balancer, "writes", at, "PONG, primary");
}

#[test]
fn a_promoted_replica_gets_the_writes() {
    let folder = TempDir::new().unwrap();
    let authority = Authority::new(folder.path());
    let Some(mut primary) = Redis::start(&authority, "one.test") else { return };
    let replica = primary.replica(&authority, "two.test", "");
    let pools = [("writes", "role = 'primary'"), ("reads", "role = 'replica'")];
    let balancer = start(&[primary.address(), replica.address()], &pools);
    let writes = balancer.address("writes");
    assert_eq!(ask(writes, "SET a 1").as_deref(), Some("+OK"));
    let mut session = TcpStream::connect(writes).unwrap();
    session.set_read_timeout(Some(PATIENCE)).unwrap();
    session.write_all(b"PING\r\n").unwrap();
    let mut pong = [0; 7];
    session.read_exact(&mut pong).unwrap();

    primary.stop_now();
    let stopped = Instant::now();
    for _ in 0..20 {
        let answer = ask(writes, "SET a 2");
        assert!(answer.is_none(), "a replica is no place to write: {answer:?}");
    }
    replica.promote();
    let promoted = Instant::now();
    let answered = eventually("the new primary is found", || ask(writes, "SET a 3"));
    assert_eq!(answered, "+OK");
    assert!(promoted.elapsed() < Duration::from_millis(3 * 200 + 1000), "{:?}", promoted.elapsed());
    assert!(!matches!(session.read(&mut pong), Ok(1..)), "a session with who is gone has ended");
    // The old one comes back as a replica, which nobody writes to.
    primary.start_again();
    assert_eq!(primary.ask(&format!("REPLICAOF 127.0.0.1 {}", replica.address().port())), "OK");
    comes_up(&balancer, "reads", primary.address());
    for _ in 0..50 {
        assert_eq!(ask(writes, "SET a 4").as_deref(), Some("+OK"), "{:?} after the stop", stopped.elapsed());
    }
}

#[test]
fn sentinels_say_who_is_the_master() {
    let folder = TempDir::new().unwrap();
    let authority = Authority::new(folder.path());
    let Some(mut primary) = Redis::start(&authority, "one.test") else { return };
    let replica = primary.replica(&authority, "two.test", "");
    let mut sentinels = ["a.test", "b.test", "c.test"].map(|name| primary.sentinel("main", &authority, name));
    let at = sentinels.each_ref().map(|sentinel| sentinel.address().to_string());
    let health = format!("role = 'primary', master_name = 'main', sentinels = {at:?}");
    let other = format!("role = 'primary', master_name = 'other', sentinels = {at:?}");
    let (one, two) = (primary.address(), replica.address());
    let balancer = start(&[one, two], &[("writes", &health), ("unknown", &other), ("simple", "role = 'primary'")]);
    let writes = balancer.address("writes");
    assert!(is_up(&balancer, "writes", one) && !is_up(&balancer, "writes", two));
    assert_eq!(ask(writes, "SET a 1").as_deref(), Some("+OK"));
    tells(&balancer, "unknown", one, "knows no master called other");
    let stats = sentinels[0].ask("INFO stats");
    assert!(stats.contains("total_error_replies:0"), "probes are polite: {stats}");
    assert!(!is_up(&balancer, "unknown", one));

    // The old master comes back and believes in itself, until the Sentinels get round to it.
    for sentinel in &sentinels {
        eventually("they know each other and the replica", || {
            let info = sentinel.ask("INFO sentinel");
            (info.contains("slaves=1") && info.contains("sentinels=3")).then_some(())
        });
    }
    primary.stop_now();
    comes_up(&balancer, "writes", two);
    primary.start_again();
    comes_up(&balancer, "simple", one);
    let (mut believed, mut written) = (false, 0);
    eventually_within(SLOWLY, "the old master is a replica", || {
        believed |= told(&balancer, "writes", one).contains("calls itself master, but Sentinels name");
        assert!(!is_up(&balancer, "writes", one), "{}", told(&balancer, "writes", one));
        // Nobody may answer while Sentinels are too busy to; whoever does is the new master.
        if let Some(answer) = ask(writes, "SET a 2") {
            assert_eq!(answer, "+OK");
            written += 1;
        }
        told(&balancer, "writes", one).contains("is a replica").then_some(())
    });
    assert!(believed && written > 0, "it never called itself master, or nobody could write");

    // One that is gone does not matter; without a majority nobody is believed, after a while.
    sentinels[0].stop_now();
    std::thread::sleep(Duration::from_secs(1));
    assert!(is_up(&balancer, "writes", two), "{}", told(&balancer, "writes", two));
    sentinels[1].stop_now();
    goes_down(&balancer, "writes", two);
    tells(&balancer, "writes", two, "calls itself master, but 1 of 3 Sentinels say so");
    sentinels[1].start_again();
    comes_up(&balancer, "writes", two);
}

#[test]
fn sentinels_in_tls_with_a_password() {
    let folder = TempDir::new().unwrap();
    let authority = Authority::new(folder.path());
    let settings = "user probe on >hidden +ping +role";
    let Some(primary) = Redis::start_with(&authority, "redis.test", settings) else { return };
    let sentinel = primary.sentinel("main", &authority, "redis.test");
    for line in
        ["default on resetpass >closed", "probe on >hidden +sentinel|get-master-addr-by-name", "none on >hidden"]
    {
        assert_eq!(sentinel.ask(&format!("ACL SETUSER {line}")), "OK");
    }
    let file = |name: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, name).unwrap();
        path.display().to_string()
    };
    let (hidden, wrong) = (file("hidden"), file("wrong"));
    let login = |user: &str, file: &str| format!(", sentinel_user = '{user}', sentinel_password_file = '{file}'");
    for (case, login, up, what) in [
        ("a user", login("probe", &hidden), true, "PONG, primary"),
        ("nobody", String::new(), false, "asks for a password, and none is set"),
        ("the wrong password", login("probe", &wrong), false, "cannot log in"),
        ("no right", login("none", &hidden), false, "lacks +sentinel|get-master-addr-by-name in its ACL"),
    ] {
        // The server is known to Sentinels by its clear address, and verified by the name of its certificate.
        let of = |at: SocketAddr, tls: &str| {
            format!(
                "role = 'primary', master_name = 'main', sentinels = '{at}'{login}, user = 'probe', \
                 password_file = '{hidden}'{tls}"
            )
        };
        let clear = of(sentinel.address(), "");
        let balancer = start(&[primary.address()], &[("writes", &clear)]);
        let told = told(&balancer, "writes", primary.address());
        assert!(is_up(&balancer, "writes", primary.address()) == up && told.contains(what), "{case}: {told}");
        let tls = format!(", tls = {{ name = 'redis.test', ca = '{}' }}", authority.file());
        let sealed = of(sentinel.tls_address(), &tls);
        let balancer = start(&[primary.tls_address()], &[("writes", &sealed)]);
        let what = if up { "but Sentinels name 127.0.0.1" } else { what };
        tells(&balancer, "writes", primary.tls_address(), what);
    }
}

/// The example as it stands, with these words in place of others.
fn example(name: &str, changes: &[(&str, String)]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/examples").join(name);
    let mut text = std::fs::read_to_string(path).unwrap();
    for (word, other) in changes {
        assert!(text.contains(word), "{word} is not in {name}");
        text = text.replace(word, other);
    }
    // The balancers of tests have an admin socket of their own.
    let (before, admin) = text.split_once("[admin]").unwrap();
    let (_, after) = admin.split_once("\n\n").unwrap();
    format!("{before}{after}")
}

#[test]
fn the_example() {
    let folder = TempDir::new().unwrap();
    let authority = Authority::new(folder.path());
    let password = folder.path().join("redis.secret");
    std::fs::write(&password, "secret\n").unwrap();
    let settings = "user pointsman on >secret +ping +role +info\nrepl-ping-replica-period 1";
    let Some(mut first) = Redis::start_with(&authority, "one.test", settings) else { return };
    let second = first.replica(&authority, "two.test", settings);
    let third = first.replica(&authority, "three.test", settings);
    let sentinels = ["a.test", "b.test", "c.test"].map(|name| first.sentinel("mymaster", &authority, name));
    for sentinel in &sentinels {
        let user = "ACL SETUSER pointsman on >secret +sentinel|get-master-addr-by-name";
        assert_eq!(sentinel.ask(user), "OK");
        eventually("they know each other and the replicas", || {
            let info = sentinel.ask("INFO sentinel");
            (info.contains("slaves=2") && info.contains("sentinels=3")).then_some(())
        });
    }
    let mut changes = vec![
        ("/etc/pointsman/redis.secret", password.display().to_string()),
        ("0.0.0.0:6379", "127.0.0.1:0".to_owned()),
        ("0.0.0.0:6380", "127.0.0.1:0".to_owned()),
    ];
    let servers = [("10.0.0.11:6379", &first), ("10.0.0.12:6379", &second), ("10.0.0.13:6379", &third)];
    changes.extend(servers.map(|(word, server)| (word, server.address().to_string())));
    let words = ["10.0.0.11:26379", "10.0.0.12:26379", "10.0.0.13:26379"];
    changes.extend(words.into_iter().zip(&sentinels).map(|(word, sentinel)| (word, sentinel.address().to_string())));
    let balancer = Balancer::start(&example("redis-sentinel.toml", &changes));
    let (writes, reads) = (balancer.address("writes"), balancer.address("reads"));
    assert_eq!(ask(writes, "SET a 1").as_deref(), Some("+OK"));
    for _ in 0..6 {
        assert!(ask(reads, "SET a 2").unwrap().starts_with("-READONLY"), "replicas are for reading");
    }
    // A client that comes while there is no master waits for the new one; reads go on.
    first.stop_now();
    let writer = std::thread::spawn(move || {
        let until = Instant::now() + SLOWLY;
        while Instant::now() < until {
            match ask(writes, "SET a 3") {
                Some(answer) => return answer,
                None => std::thread::sleep(Duration::from_millis(50)),
            }
        }
        "nobody".to_owned()
    });
    while !writer.is_finished() {
        let answer = ask(reads, "PING");
        assert_eq!(answer.as_deref(), Some("+PONG"), "reads go on");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(writer.join().unwrap(), "+OK");
}
