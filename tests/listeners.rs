//! Where connections come in: every kind of listening socket, and how the workers share what arrives.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::harness::client::{get, hello};
use crate::harness::process::{free_address, listening};
use crate::harness::{Balancer, Client, Endpoint, Manner, PATIENCE, Process, eventually};

/// Whether this machine speaks IPv6 at all; containers often do not.
fn has_ipv6() -> bool {
    let has = std::net::TcpListener::bind("[::1]:0").is_ok();
    if !has {
        eprintln!("without IPv6 on loopback this test proves nothing");
    }
    has
}

fn unix_client(path: &Path) -> UnixStream {
    let client = UnixStream::connect(path).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
}

#[test]
fn a_unix_socket_and_what_becomes_of_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.sock");
    let endpoint = Endpoint::start(Manner::Echoes);
    let config = format!(
        r#"
        listener.edge.bind = "unix:{}"
        route.all = {{ listener = "edge", sni = "www.example.com", pool = "all" }}
        pool.all.endpoints = ["{}"]
        "#,
        path.display(),
        endpoint.address()
    );
    // A file that an earlier process left behind is no obstacle.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let balancer = Balancer::start(&config);
    let hello = hello("www.example.com");
    for _ in 0..5 {
        let mut client = unix_client(&path);
        client.write_all(&hello).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let mut back = Vec::new();
        client.read_to_end(&mut back).unwrap();
        assert_eq!(back, hello);
    }
    for record in balancer.records(5) {
        assert_eq!((&record["outcome"], &record["client"]), (&"ok".into(), &"unix".into()), "{record}");
    }
    let mut refused = unix_client(&path);
    refused.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(refused.read_to_end(&mut Vec::new()).unwrap(), 0);
    balancer.running().drain();
    assert!(!path.exists(), "the file goes when nobody listens any more");
    let successor = Balancer::start(&config);
    drop(balancer);
    assert!(path.exists(), "the file of a successor is left alone");
    drop(successor);
    assert!(!path.exists());
}

#[test]
fn ipv6_stands_beside_ipv4_on_the_same_port() {
    if !has_ipv6() {
        return;
    }
    let port = free_address().port();
    let endpoint = Endpoint::start(Manner::Echoes);
    let balancer = Balancer::start(&format!(
        r#"
        listener.edge.bind = ["0.0.0.0:{port}", "[::]:{port}"]
        route.all = {{ listener = "edge", pool = "all" }}
        pool.all.endpoints = ["{}"]
        "#,
        endpoint.address()
    ));
    let hello = hello("www.example.com");
    for to in [format!("127.0.0.1:{port}"), format!("[::1]:{port}")] {
        let mut client = Client::sending(to.parse().unwrap(), &hello);
        client.expect(&hello);
        let address = client.address();
        drop(client);
        let record = balancer.log().record_of(&address);
        assert_eq!(record["outcome"], "ok", "{to}: {record}");
    }
}

#[test]
fn a_plain_listener_lets_the_server_speak_first() {
    let endpoint = Endpoint::start(Manner::Greets("5.5.5-server ready\n"));
    let balancer = Balancer::start(&format!(
        r#"
        listener.db = {{ bind = "127.0.0.1:0", protocol = "tcp" }}
        route.db = {{ listener = "db", pool = "db" }}
        pool.db.endpoints = ["{}"]
        "#,
        endpoint.address()
    ));
    let mut client = Client::connect(balancer.address("db"));
    client.expect(b"5.5.5-server ready\n");
    client.send(b"login");
    client.expect(b"login");
    client.finish();
    assert!(client.rest().is_ok_and(|rest| rest.is_empty()));
    let record = balancer.record();
    assert_eq!((&record["outcome"], &record["sni"]), (&"ok".into(), &serde_json::Value::Null), "{record}");
    assert_eq!((&record["bytes_up"], &record["bytes_down"]), (&5.into(), &24.into()), "{record}");
}

/// Sessions in each worker's table, as the metrics tell them.
fn by_worker(balancer: &Balancer) -> [f64; 2] {
    [0, 1].map(|worker| balancer.metric(&format!("pointsman_worker_active_sessions{{worker=\"{worker}\"}}")))
}

#[test]
fn long_lived_sessions_are_spread_evenly_over_the_workers() {
    const SESSIONS: usize = 300;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db.sock");
    let endpoint = Endpoint::start(Manner::Greets("hello"));
    for bind in ["127.0.0.1:0".to_owned(), format!("unix:{}", path.display())] {
        let balancer = Balancer::start(&format!(
            r#"
            listener.db = {{ bind = "{bind}", protocol = "tcp" }}
            route.db = {{ listener = "db", pool = "db" }}
            pool.db.endpoints = ["{}"]
            "#,
            endpoint.address()
        ));
        let mut tcp = Vec::new();
        let mut unix = Vec::new();
        for _ in 0..SESSIONS {
            if bind.starts_with("unix:") {
                let mut client = unix_client(&path);
                client.read_exact(&mut [0; 5]).unwrap();
                unix.push(client);
            } else {
                let mut client = Client::connect(balancer.address("db"));
                client.expect(b"hello");
                tcp.push(client);
            }
        }
        let [one, other] = eventually(&format!("{bind}: the metrics tell of every session"), || {
            let sessions = by_worker(&balancer);
            (sessions.iter().sum::<f64>() == SESSIONS as f64).then_some(sessions)
        });
        assert!((one - other).abs() <= 4.0, "{bind}: {one} and {other} sessions");
        if bind.starts_with("unix:") {
            let handed = [0, 1]
                .map(|worker| balancer.metric(&format!("pointsman_worker_handed_over_total{{worker=\"{worker}\"}}")));
            let total: f64 = handed.iter().sum();
            assert!((total - SESSIONS as f64 / 2.0).abs() <= 4.0, "one worker accepts, and hands half on: {handed:?}");
        }
    }
}

/// Binds an address, then becomes pointsman with that socket as its first inherited one (sd_listen_fds(3)).
const MANAGER: &str = "
import fcntl, os, socket, sys
host, port = sys.argv[1].rsplit(':', 1)
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind((host, int(port)))
listener.listen(128)
early = socket.create_connection((host, int(port)))
early.sendall(bytes.fromhex(sys.argv[2]))
fcntl.fcntl(early, fcntl.F_DUPFD, 10)
inherited = fcntl.fcntl(listener, fcntl.F_DUPFD, 10)
os.dup2(inherited, 3)
os.close(inherited)
os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[3], sys.argv[3:])
";

#[test]
fn an_inherited_socket_is_served_by_all_workers() {
    let (at, admin) = (free_address(), free_address());
    let endpoint = Endpoint::start(Manner::Echoes);
    let hello = hello("www.example.com");
    let hex: String = hello.iter().map(|byte| format!("{byte:02x}")).collect();
    let process = Process::start_under(
        &["python3", "-c", MANAGER, &at.to_string(), &hex],
        &format!(
            r#"
            runtime.workers = 2
            admin.http = "{admin}"
            listener.edge.bind = "{at}"
            route.all = {{ listener = "edge", pool = "all" }}
            pool.all.endpoints = ["{}"]
            "#,
            endpoint.address()
        ),
    );
    eventually("the connection made before the start is served", || {
        endpoint.heard().first().filter(|heard| heard.bytes == hello).map(|_| ())
    });
    assert_eq!(listening(at), 1, "the inherited socket shares its port with nobody\n{}", process.messages());
    let mut clients: Vec<Client> = (0..20).map(|_| Client::sending(at, &hello)).collect();
    clients.iter_mut().for_each(|client| client.expect(&hello));
    eventually("both workers have their share", || {
        let page = get(admin, "/metrics").1;
        let share = |worker| page.contains(&format!("pointsman_worker_active_sessions{{worker=\"{worker}\"}} 1"));
        (share(0) && share(1)).then_some(())
    });
}

#[test]
fn without_inheritance_every_worker_has_a_socket_of_its_own() {
    let at = free_address();
    let _process = Process::start(&format!(
        r#"
        runtime.workers = 3
        listener.edge.bind = "{at}"
        route.all = {{ listener = "edge", pool = "all" }}
        pool.all.endpoints = ["127.0.0.1:1"]
        "#
    ));
    assert_eq!(listening(at), 3);
}
