//! How a session ends: the matrix of who ends first, how, with what under way, moved by which means.
//!
//! All cases of a group run at once through one balancer of their own. Whoever ends first has sent its load before;
//! the other side answers, or reads on, and must see exactly the bytes and the kind of end.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::flow::{
    Ended, Pairs, receive, receive_up_to, reset, send, send_until_blocked, unacknowledged, wait_acknowledged,
};
use crate::harness::process::free_address;
use crate::harness::{Line, Pattern, Process, eventually};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    Client,
    Endpoint,
    Both,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// A FIN; the other side answers and ends as well.
    Fin,
    /// A FIN, after which the other side neither sends nor ends.
    FinThenSilence,
    /// A reset.
    Reset,
    /// Nothing more.
    Silence,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Load {
    /// Everything has arrived before.
    Empty,
    /// On its way, to a reader that reads.
    Flight,
    /// As much as all buffers hold, to a reader that does not read until the end has happened.
    Blocked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Means {
    Copy,
    Splice,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    first: First,
    how: How,
    load: Load,
    means: Means,
}

const HALF_CLOSE: Duration = Duration::from_secs(2);
const IDLE: Duration = Duration::from_secs(3);
/// What the sweep of the session table may add to a limit: it looks once a second.
const SWEEP: Duration = Duration::from_secs(2);

impl Case {
    /// Bytes that whoever ends first has sent before.
    fn load(self) -> u64 {
        match self.means {
            Means::Copy => 100_000,
            Means::Splice => 8 * 1024 * 1024 + 4711,
        }
    }

    /// Bytes a write.
    fn piece(self) -> u64 {
        match self.means {
            Means::Copy => 500,
            Means::Splice => 256 * 1024,
        }
    }

    /// The outcome and `by` that the access log must tell.
    fn expected(self) -> (&'static [&'static str], &'static [&'static str]) {
        match (self.how, self.first) {
            (How::Fin, First::Client) => (&["ok"], &["client"]),
            (How::Fin, First::Endpoint) => (&["ok"], &["endpoint"]),
            (How::Fin, First::Both) => (&["ok"], &["client", "endpoint"]),
            // The FIN waits behind bytes that nobody takes.
            (How::FinThenSilence, _) if self.load == Load::Blocked => (&["idle"], &["policy"]),
            (How::FinThenSilence, _) => (&["half_close"], &["policy"]),
            (How::Reset, First::Client) => (&["client_reset"], &["client"]),
            (How::Reset, First::Endpoint) => (&["endpoint_reset"], &["endpoint"]),
            (How::Reset, First::Both) => (&["client_reset", "endpoint_reset"], &["client", "endpoint"]),
            (How::Silence, _) => (&["idle"], &["policy"]),
        }
    }
}

#[test]
fn small_writes_end_as_they_should() {
    let pipes = run_group(Means::Copy, &[Load::Empty, Load::Flight]);
    assert_eq!(pipes, 0, "small writes are copied");
}

#[test]
fn small_writes_that_nobody_reads_end_as_they_should() {
    run_group(Means::Copy, &[Load::Blocked]);
}

#[test]
fn bulk_ends_as_it_should() {
    let pipes = run_group(Means::Splice, &[Load::Empty, Load::Flight]);
    assert_ne!(pipes, 0, "bulk goes through pipes");
}

#[test]
fn bulk_that_nobody_reads_ends_as_it_should() {
    let pipes = run_group(Means::Splice, &[Load::Blocked]);
    assert_ne!(pipes, 0, "bulk goes through pipes");
}

/// Runs every case of these loads at once through a balancer of their own, which must be as before at the end; gives
/// the number of pipes that it has.
fn run_group(means: Means, loads: &[Load]) -> usize {
    let mut cases = Vec::new();
    for first in [First::Client, First::Endpoint, First::Both] {
        for how in [How::Fin, How::FinThenSilence, How::Reset, How::Silence] {
            for &load in loads {
                // Where both send a FIN nobody is left to be silent.
                if (first, how) != (First::Both, How::FinThenSilence) {
                    cases.push(Case { first, how, load, means });
                }
            }
        }
    }
    let endpoint = TcpListener::bind("127.0.0.1:0").unwrap();
    let (door, admin) = (free_address(), free_address());
    let balancer = Process::start(&format!(
        r#"
        runtime.workers = 2
        admin.http = "{admin}"
        timeouts = {{ idle = "{}s", half_close = "{}s" }}
        listener.door = {{ bind = "{door}", protocol = "tcp" }}
        route.all = {{ listener = "door", pool = "one" }}
        pool.one.endpoints = ["{}"]
        "#,
        IDLE.as_secs(),
        HALF_CLOSE.as_secs(),
        endpoint.local_addr().unwrap()
    ));
    let before = balancer.settled_descriptors();
    let pairs = Arc::new(Pairs::new(door, endpoint));
    let running: Vec<_> = (0u64..)
        .zip(&cases)
        .map(|(number, &case)| {
            let pairs = Arc::clone(&pairs);
            thread::Builder::new().name(format!("{case:?}")).spawn(move || run(case, number, &pairs)).unwrap()
        })
        .collect();
    let ran: Vec<_> = running.into_iter().map(|case| case.join()).collect();
    let records = balancer.records(cases.len());
    let mut failures = Vec::new();
    for (case, ran) in cases.iter().zip(ran) {
        let failed = match ran {
            Ok(Ok(client)) => check_record(*case, client, &records).err(),
            Ok(Err(failure)) => Some(failure),
            Err(panic) => Some(format!("panicked: {:?}", panic.downcast_ref::<String>())),
        };
        failures.extend(failed.map(|failure| format!("{case:?}: {failure}")));
    }
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), cases.len(), failures.join("\n"));
    eventually("no session is left", || {
        let left = |family| balancer.sum(admin, family) > 0.0;
        (!left("pointsman_listener_active_sessions") && !left("pointsman_worker_active_sessions")).then_some(())
    });
    eventually("every descriptor but those of idle pipes is closed", || {
        let pipes = balancer.pipes();
        (balancer.descriptors() == before + 2 * pipes).then_some(pipes)
    })
}

fn check_record(case: Case, client: SocketAddr, records: &[Line]) -> Result<(), String> {
    let record = records.iter().find(|record| record["client"] == client.to_string()).ok_or("there is no record")?;
    let (outcomes, by) = case.expected();
    let told = |key: &str, expected: &[&str]| expected.iter().any(|word| record[key] == *word);
    if told("outcome", outcomes) && told("by", by) {
        return Ok(());
    }
    Err(format!("expected {outcomes:?} by {by:?}: {record}"))
}

/// Runs one case; gives the client's address.
fn run(case: Case, number: u64, pairs: &Pairs) -> Result<SocketAddr, String> {
    let (client, server) = pairs.connect();
    let address = client.local_addr().unwrap();
    match case.first {
        First::Client => one_first(case, number, client, server)?,
        First::Endpoint => one_first(case, number, server, client)?,
        First::Both => both(case, number, client, server)?,
    }
    Ok(address)
}

/// `ending` sends its load and ends; `other` reads what it sent.
fn one_first(case: Case, seed: u64, ending: TcpStream, other: TcpStream) -> Result<(), String> {
    let (mut out, mut into) = (Pattern::new(seed), Pattern::new(seed));
    let reader = (case.load == Load::Flight).then(|| {
        let (other, mut into) = (other.try_clone().unwrap(), Pattern::new(seed));
        thread::spawn(move || receive(&other, &mut into))
    });
    match case.load {
        Load::Empty => {
            let (out, into) = (&mut out, &mut into);
            thread::scope(|scope| {
                scope.spawn(|| send(&ending, out, case.load(), case.piece()).unwrap());
                receive_up_to(&other, into, case.load())
            })?;
        }
        Load::Flight => send(&ending, &mut out, case.load(), case.piece()).unwrap(),
        Load::Blocked => send_until_blocked(&ending, &mut out, case.piece()),
    }
    let read = || match reader {
        Some(reader) => reader.join().unwrap(),
        None => receive(&other, &mut into),
    };
    let began = Instant::now();
    match case.how {
        How::Fin => {
            ending.shutdown(std::net::Shutdown::Write).unwrap();
            expect("what the other side reads", read()?, out.at(), Ended::Fin)?;
            let mut answer = Pattern::new(!seed);
            send(&other, &mut answer, case.load(), case.piece()).map_err(|error| format!("the answer: {error}"))?;
            drop(other);
            expect("the answer", receive(&ending, &mut Pattern::new(!seed))?, answer.at(), Ended::Fin)
        }
        How::FinThenSilence | How::Silence => {
            let limit = if case.expected().0 == ["idle"] { IDLE } else { HALF_CLOSE };
            if case.how == How::FinThenSilence {
                ending.shutdown(std::net::Shutdown::Write).unwrap();
            }
            // The side that has sent hears of the end when it comes; the other reads afterwards where it is blocked.
            let cut = case.load == Load::Blocked;
            let told = receive(&ending, &mut Pattern::new(!seed))?;
            let took = began.elapsed();
            expect("what the ending side reads", told, 0, if cut { Ended::Reset } else { Ended::Fin })?;
            // Where nobody reads, the balancer's last byte is older than the sender's.
            if !cut && took < limit || took > limit + SWEEP {
                return Err(format!("the limit of {limit:?} took {took:?}"));
            }
            let (bytes, end) = read()?;
            if cut {
                let sent = out.at();
                (bytes < sent && end == Ended::Reset).then_some(()).ok_or(format!("{end:?} after {bytes} of {sent}"))
            } else {
                expect("what the other side reads", (bytes, end), out.at(), Ended::Fin)
            }
        }
        How::Reset => {
            if case.load != Load::Blocked {
                wait_acknowledged(&ending);
            }
            let (sent, least) = (out.at(), out.at() - unacknowledged(&ending));
            reset(ending);
            let (bytes, end) = read()?;
            let right = (least..=sent).contains(&bytes) && end == Ended::Reset;
            right.then_some(()).ok_or(format!("{end:?} after {bytes} bytes, of {sent} sent and {least} acknowledged"))
        }
    }
}

/// Both sides send their load and end at the same time.
fn both(case: Case, seed: u64, client: TcpStream, server: TcpStream) -> Result<(), String> {
    let together = Arc::new(Barrier::new(2));
    let sides = [(client, seed, !seed), (server, !seed, seed)].map(|(socket, out, into)| {
        let together = Arc::clone(&together);
        thread::spawn(move || one_of_both(case, socket, Pattern::new(out), Pattern::new(into), &together))
    });
    let [client, server] = sides.map(|side| side.join().unwrap_or_else(|_| Err("panicked".to_owned())));
    let (client, server) = (client?, server?);
    for (who, reader, writer) in [("client", &client, &server), ("endpoint", &server, &client)] {
        let Some((bytes, end)) = reader.read else { continue };
        let cut = case.load == Load::Blocked && case.how == How::Silence;
        let (right, expected) =
            if cut { (bytes < writer.sent, Ended::Reset) } else { (bytes == writer.sent, Ended::Fin) };
        if !right || end != expected {
            return Err(format!("{who}: {end:?} after {bytes} of {} bytes, expected {expected:?}", writer.sent));
        }
    }
    Ok(())
}

/// What one of two sides has sent, and read, unless it has reset the connection.
struct Told {
    sent: u64,
    read: Option<(u64, Ended)>,
}

fn one_of_both(
    case: Case,
    socket: TcpStream,
    mut out: Pattern,
    mut into: Pattern,
    together: &Barrier,
) -> Result<Told, String> {
    let reads_on = case.load == Load::Flight && case.how != How::Reset;
    let reader = reads_on.then(|| {
        let (socket, mut into) = (socket.try_clone().unwrap(), Pattern::new(into.seed()));
        thread::spawn(move || receive(&socket, &mut into))
    });
    match case.load {
        Load::Blocked => send_until_blocked(&socket, &mut out, case.piece()),
        Load::Flight if case.how == How::Reset => {
            socket.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
            let _ = send(&socket, &mut out, case.load(), case.piece());
        }
        Load::Flight => send(&socket, &mut out, case.load(), case.piece()).unwrap(),
        Load::Empty => {
            let out = &mut out;
            thread::scope(|scope| {
                scope.spawn(|| send(&socket, out, case.load(), case.piece()).unwrap());
                receive_up_to(&socket, &mut into, case.load())
            })?;
        }
    }
    together.wait();
    match case.how {
        How::Reset => {
            reset(socket);
            return Ok(Told { sent: out.at(), read: None });
        }
        How::Fin => socket.shutdown(std::net::Shutdown::Write).unwrap(),
        How::Silence | How::FinThenSilence => {}
    }
    if case.load == Load::Blocked && case.how == How::Silence {
        thread::sleep(IDLE + SWEEP);
    }
    let read = match reader {
        Some(reader) => reader.join().unwrap()?,
        None => receive(&socket, &mut into)?,
    };
    Ok(Told { sent: out.at(), read: Some(read) })
}

fn expect(what: &str, seen: (u64, Ended), bytes: u64, end: Ended) -> Result<(), String> {
    (seen == (bytes, end)).then_some(()).ok_or(format!("{what}: {seen:?} instead of {:?}", (bytes, end)))
}
