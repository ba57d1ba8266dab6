//! More than there is room for: the excess is closed with an outcome of its own, nothing spins, and everything recovers.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pointsman::wire::sample::Sample;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};

use crate::harness::client::{get, hello};
use crate::harness::process::free_address;
use crate::harness::{Balancer, Client, Endpoint, Manner, Process, eventually};

/// How long memory of ended sessions may stay with the process.
const GIVEN_BACK: Duration = Duration::from_secs(90);

/// A session that stands: its hello has come back.
fn session(at: SocketAddr) -> Client {
    let hello = hello("www.example.com");
    let mut client = Client::sending(at, &hello);
    client.expect(&hello);
    client
}

/// Fails unless the client is closed without a word. Its hello may not have been read, which makes that a reset.
fn closed_without_a_word(mut client: Client, case: &str) {
    let end = client.rest();
    let closed = match &end {
        Ok(bytes) => bytes.is_empty(),
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    };
    assert!(closed, "{case}: {end:02x?}");
}

/// Fails if the process uses more than a fifth of a CPU over a second.
fn does_not_spin(process: &Process, when: &str) {
    let (before, began) = (process.cpu(), Instant::now());
    std::thread::sleep(Duration::from_secs(1));
    let share = (process.cpu() - before) / began.elapsed().as_secs_f64();
    assert!(share < 0.2, "{:.0} % of a CPU {when}\n{}", share * 100.0, process.messages());
}

/// Waits until a session stands again.
fn recovers(at: SocketAddr, what: &str) -> Client {
    let hello = hello("www.example.com");
    eventually(what, || {
        let mut client = Client::sending(at, &hello);
        client.finish();
        client.rest().is_ok_and(|back| back == hello).then_some(())
    });
    session(at)
}

#[test]
fn max_connections_of_a_listener_and_of_the_process() {
    for limit in ["listener.edge.max_connections = 3", "runtime.max_connections = 3"] {
        let endpoint = Endpoint::start(Manner::Echoes);
        let balancer = Balancer::start(&format!(
            r#"
            {limit}
            listener.edge.bind = "127.0.0.1:0"
            route.all = {{ listener = "edge", pool = "all" }}
            pool.all.endpoints = ["{}"]
            "#,
            endpoint.address()
        ));
        let at = balancer.address("edge");
        for round in 1..=2 {
            let mut sessions: Vec<Client> = (0..3).map(|_| session(at)).collect();
            for _ in 0..3 {
                let excess = Client::sending(at, &hello("www.example.com"));
                let address = excess.address();
                closed_without_a_word(excess, limit);
                let record = balancer.log().record_of(&address);
                let told = (&record["outcome"], &record["by"]);
                assert_eq!(told, (&"full".into(), &"policy".into()), "{limit}, round {round}: {record}");
            }
            sessions.remove(1);
            eventually("its session ends", || (balancer.running().sessions() == 2).then_some(()));
            let mut again = session(at);
            again.send(b"there");
            again.expect(b"there");
            drop((sessions, again));
            eventually("all sessions end", || (balancer.running().sessions() == 0).then_some(()));
        }
        assert_eq!(balancer.metric(r#"pointsman_listener_outcomes_total{listener="edge",outcome="full"}"#), 6.0);
    }
}

#[test]
fn without_descriptors_nothing_spins_and_everything_recovers() {
    let endpoint = Endpoint::start(Manner::Echoes);
    let at = free_address();
    let process = Process::start(&format!(
        r#"
        runtime.workers = 2
        timeouts.open = "20s"
        listener.edge = {{ bind = "{at}", defer_accept = false }}
        route.all = {{ listener = "edge", pool = "all" }}
        pool.all.endpoints = ["{}"]
        "#,
        endpoint.address()
    ));
    drop(session(at));
    process.records(1);
    // The budget was worked out at the start; now the limit falls below it.
    let pid = Some(Pid::from_raw(process.id() as i32).unwrap());
    let before = getrlimit(Resource::Nofile);
    let few = Some(process.descriptors() as u64 + 6);
    prlimit(pid, Resource::Nofile, Rlimit { current: few, maximum: before.maximum }).unwrap();

    let silent: Vec<Client> = (0..60).map(|_| Client::connect(at)).collect();
    does_not_spin(&process, "while clients wait for descriptors");
    // Six are held, by clients that say nothing. Those beyond them are sent away with the spare descriptors, or wait
    // where one worker has taken the descriptor that another had just given up.
    let records = process.records(2);
    assert!(records[1..].iter().all(|record| record["outcome"] == "full"), "{records:#?}");
    assert!(process.messages().contains("cannot accept"), "{}", process.messages());
    does_not_spin(&process, "with no descriptor left");
    for client in silent {
        drop(client);
    }
    drop(recovers(at, "a session stands, with the descriptors of those that left"));

    prlimit(pid, Resource::Nofile, before).unwrap();
    drop(recovers(at, "a session stands, with the limit back"));
    let opened = process.messages().matches("cannot accept").count();
    assert!(opened <= 4, "{opened} complaints:\n{}", process.messages());
}

#[test]
fn openings_share_a_bounded_memory() {
    let endpoint = Endpoint::start(Manner::Echoes);
    let balancer = Balancer::start(&format!(
        r#"
        runtime.opening_memory = "64KiB"
        timeouts.open = "30s"
        listener.edge.bind = "127.0.0.1:0"
        route.all = {{ listener = "edge", pool = "all" }}
        pool.all.endpoints = ["{}"]
        "#,
        endpoint.address()
    ));
    let at = balancer.address("edge");
    let large = Sample { padding: 40_000, ..Sample::default() }.wire();
    let held = |bytes: usize| {
        eventually(&format!("{bytes} bytes are held"), || {
            (balancer.metric("pointsman_opening_memory_bytes") == bytes as f64).then_some(())
        });
    };
    let mut waiting: Vec<Client> = (0..4).map(|_| Client::sending(at, &large[..16_000])).collect();
    held(64_000);
    let mut refused = Client::sending(at, &large[..16_000]);
    let answer = refused.rest();
    assert!(answer.as_ref().is_ok_and(|answer| *answer == [21, 3, 3, 0, 2, 2, 80]), "{answer:02x?}");
    let record = balancer.log().record_of(&refused.address());
    assert_eq!((&record["outcome"], &record["by"]), (&"opening_memory".into(), &"pointsman".into()), "{record}");
    held(64_000);
    drop(session(at));

    drop(waiting.split_off(1));
    held(16_000);
    waiting[0].send(&large[16_000..]);
    waiting[0].expect(&large);
    held(0);
}

/// An endpoint in a process of its own, which echoes for as many connections as it is asked to.
struct Crowd(Child);

const CROWD: &str = "
import resource, select, socket, sys
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
host, port = sys.argv[1].rsplit(':', 1)
listener.bind((host, int(port)))
listener.listen(4096)
poll, clients = select.epoll(), {}
poll.register(listener, select.EPOLLIN)
while True:
    for number, _ in poll.poll():
        if number == listener.fileno():
            client, _ = listener.accept()
            clients[client.fileno()] = client
            poll.register(client, select.EPOLLIN)
            continue
        try:
            data = clients[number].recv(65536)
            clients[number].sendall(data)
        except OSError:
            data = b''
        if not data:
            poll.unregister(number)
            clients.pop(number).close()
";

impl Crowd {
    fn start(at: SocketAddr) -> Crowd {
        let child = Command::new("python3").args(["-c", CROWD, &at.to_string()]).stdin(Stdio::null()).spawn();
        let crowd = Crowd(child.expect("python3 has to be installed"));
        eventually("the endpoint listens", || std::net::TcpStream::connect(at).ok());
        crowd
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn twenty_thousand_descriptors_carry_nine_thousand_nine_hundred_sessions() {
    const DESCRIPTORS: u64 = 20_000;
    let own = getrlimit(Resource::Nofile);
    let enough = own.maximum.is_none_or(|maximum| maximum >= 11_000);
    assert!(enough, "the test needs a hard limit of 11,000 descriptors for its clients, not {own:?}");
    setrlimit(Resource::Nofile, Rlimit { current: own.maximum, maximum: own.maximum }).unwrap();

    let (at, admin, crowd) = (free_address(), free_address(), free_address());
    let _crowd = Crowd::start(crowd);
    let process = Process::start_under(
        &["prlimit", &format!("--nofile={DESCRIPTORS}:{DESCRIPTORS}")],
        &format!(
            r#"
            runtime.workers = 2
            admin.http = "{admin}"
            listener.edge.bind = "{at}"
            route.all = {{ listener = "edge", pool = "all" }}
            pool.all.endpoints = ["{crowd}"]
            "#
        ),
    );
    let serving = process.messages();
    let room: usize = serving
        .split_once("\"max_connections\":")
        .and_then(|(_, rest)| rest.split(|character: char| !character.is_ascii_digit()).next()?.parse().ok())
        .unwrap_or_else(|| panic!("{serving}"));
    assert!((9_850..10_000).contains(&room), "room for {room} sessions with {DESCRIPTORS} descriptors");

    let hello = hello("www.example.com");
    let warm = 200;
    drop((0..warm).map(|_| session(at)).collect::<Vec<_>>());
    process.records(warm);
    let idle = process.memory();
    let mut sessions: Vec<Client> = Vec::with_capacity(room);
    while sessions.len() < room {
        let wave = (room - sessions.len()).min(250);
        let first = sessions.len();
        sessions.extend((0..wave).map(|_| Client::sending(at, &hello)));
        sessions[first..].iter_mut().for_each(|client| client.expect(&hello));
    }
    assert!(process.descriptors() as u64 <= DESCRIPTORS);
    let full = process.memory();
    assert!(full > 2 * idle, "{full} bytes at the peak, {idle} before: nothing is shown by what is given back");
    for _ in 0..50 {
        closed_without_a_word(Client::sending(at, &hello), "one too many");
    }
    let records = process.records(warm + 50);
    assert!(records[warm..].iter().all(|record| record["outcome"] == "full"), "{records:#?}");
    does_not_spin(&process, "with every place taken");
    let active = |page: &str| -> f64 {
        let workers = page.lines().filter_map(|line| line.strip_prefix("pointsman_worker_active_sessions{"));
        workers.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
    };
    eventually("the metrics tell of every session", || {
        (active(&get(admin, "/metrics").1) == room as f64).then_some(())
    });

    sessions.truncate(room - 100);
    process.records(warm + 150);
    sessions.extend((0..100).map(|_| session(at)));
    for client in sessions.iter_mut().step_by(97) {
        client.send(b"still there");
        client.expect(b"still there");
    }
    assert_eq!(process.records(warm + 150).len(), warm + 150, "nobody else was sent away");
    drop(sessions);
    process.records(warm + 150 + room);
    drop(recovers(at, "a session stands after all have ended"));
    let began = Instant::now();
    while process.memory() > 2 * idle {
        let now = process.memory();
        assert!(began.elapsed() < GIVEN_BACK, "{now} bytes long after the peak of {full}, {idle} before it");
        std::thread::sleep(Duration::from_secs(1));
    }
    assert!(!process.messages().contains("ERROR"), "{}", process.messages());
}
