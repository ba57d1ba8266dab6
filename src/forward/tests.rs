//! The forwarder between two loopback connections, driven by hand: moments that no test could wait for from outside.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use socket2::SockRef;
use tokio::time::timeout;

use super::*;
use crate::stream::Family;
use crate::table::{Identity, Limits};

/// The balancer's ends of a session and what it works with.
struct Near {
    client: Stream,
    endpoint: Stream,
    tools: Tools,
    entry: Entry,
}

impl Near {
    fn forward(&self, opening: Option<Box<Opening>>) -> Forward<'_> {
        Forward::new(&self.client, &self.endpoint, opening, &self.tools, &self.entry)
    }
}

/// A session: the balancer's side, the client and the endpoint.
fn session() -> (Near, TcpStream, TcpStream) {
    let ((far_client, client), (far_endpoint, endpoint)) = (connection(), connection());
    let (tools, entry) = (Tools::new(8), Entry::new(Identity::nobody(), 0, Limits::default()));
    (Near { client, endpoint, tools, entry }, far_client, far_endpoint)
}

/// A connection on loopback: its far end, and the balancer's.
pub(super) fn connection() -> (TcpStream, Stream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (near, _) = listener.accept().unwrap();
    near.set_nonblocking(true).unwrap();
    far.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    (far, Stream::new(OwnedFd::from(near), Family::Tcp).unwrap())
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { timeout(Duration::from_secs(20), test).await.expect("the forwarder hangs") });
}

/// Lets the forwarder run for as long as it has something to do.
async fn settle(forward: &mut Forward<'_>) {
    let end = timeout(Duration::from_millis(200), forward).await;
    assert!(end.is_err(), "ended early: {end:?}");
}

/// Sends from a far end until every buffer on the way is full; gives the bytes it took.
async fn fill(mut far: &TcpStream, forward: &mut Forward<'_>) -> usize {
    far.set_nonblocking(true).unwrap();
    let (mut taken, bytes) = (0, vec![7; 1 << 20]);
    loop {
        let before = taken;
        while let Ok(count) = far.write(&bytes) {
            taken += count;
        }
        if taken == before {
            far.set_nonblocking(false).unwrap();
            return taken;
        }
        settle(forward).await;
    }
}

fn reset(far: TcpStream) {
    SockRef::from(&far).set_linger(Some(Duration::ZERO)).unwrap();
}

/// Reads until the end on a thread of its own; gives the bytes and whether the end was a clean one.
fn drain(mut far: TcpStream) -> thread::JoinHandle<(usize, bool)> {
    thread::spawn(move || {
        let (mut total, mut buffer) = (0, vec![0; 1 << 20]);
        loop {
            match far.read(&mut buffer) {
                Ok(0) => return (total, true),
                Ok(count) => total += count,
                Err(_) => return (total, false),
            }
        }
    })
}

#[test]
fn a_look_finds_the_reset_of_a_client_whose_endpoint_is_blocked() {
    run(async {
        let (near, client, _endpoint) = session();
        let mut forward = near.forward(None);
        fill(&client, &mut forward).await;
        reset(client);
        settle(&mut forward).await;
        near.entry.ask(Ask::Look);
        settle(&mut forward).await;
        near.entry.ask(Ask::End { outcome: Outcome::HalfClose, how: Close::Plain });
        let end = forward.await;
        assert!(matches!(end, End::Lost(Side::Client, Outcome::ClientReset)), "{end:?}");
    });
}

#[test]
fn after_such_a_look_everything_still_arrives_and_the_reset_stays_one() {
    run(async {
        let (near, client, endpoint) = session();
        let mut forward = near.forward(None);
        fill(&client, &mut forward).await;
        reset(client);
        settle(&mut forward).await;
        near.entry.ask(Ask::Look);
        settle(&mut forward).await;
        let draining = drain(endpoint);
        let end = forward.await;
        assert!(matches!(end, End::Lost(Side::Client, Outcome::ClientReset)), "{end:?}");
        closing::reset_after_delivery(near.endpoint).await;
        let delivered = usize::try_from(near.entry.bytes().0).unwrap();
        assert_eq!(draining.join().unwrap(), (delivered, false));
    });
}

#[test]
fn an_endpoint_that_resets_before_it_has_the_opening_does_not_leave_a_half_running() {
    run(async {
        let (near, client, endpoint) = session();
        let mut forward = near.forward(Some(Opening::of(vec![1; 32 << 20], true)));
        let answered = fill(&endpoint, &mut forward).await;
        reset(endpoint);
        settle(&mut forward).await;
        let draining = drain(client);
        let end = forward.await;
        assert!(matches!(end, End::Lost(Side::Endpoint, Outcome::EndpointReset)), "{end:?}");
        closing::reset_after_delivery(near.client).await;
        let (delivered, clean) = draining.join().unwrap();
        assert!(!clean && 0 < delivered && delivered <= answered, "{delivered} of {answered}");
    });
}

#[test]
fn an_endpoint_that_ends_without_an_answer_leaves_the_client_as_it_was() {
    run(async {
        let (near, mut client, mut endpoint) = session();
        let mut forward = near.forward(Some(Opening::of(b"hello".to_vec(), true)));
        settle(&mut forward).await;
        endpoint.read_exact(&mut [0; 5]).unwrap();
        drop(endpoint);
        let End::Unanswered(Some(back)) = forward.await else { panic!("it may be replayed") };
        assert_eq!(back.bytes, b"hello");
        rustix::net::send(&near.client, b"still here", rustix::net::SendFlags::NOSIGNAL).unwrap();
        drop(near);
        let mut received = Vec::new();
        client.read_to_end(&mut received).unwrap();
        assert_eq!(received, b"still here");
    });
}

#[test]
fn a_limit_ends_cleanly_only_where_nothing_is_under_way() {
    let opening = |length| Some(Opening::of(vec![1; length], false));
    for (name, length, blocked, outcome, expected) in [
        ("idle", 0, false, Outcome::Idle, true),
        ("idle, with bytes that the endpoint does not take", 0, true, Outcome::Idle, false),
        ("idle, with an opening that went out", 100, false, Outcome::Idle, true),
        ("idle, with a part of the opening", 32 << 20, false, Outcome::Idle, false),
        ("shutdown", 0, false, Outcome::Shutdown, false),
    ] {
        run(async {
            let (near, client, _endpoint) = session();
            let mut forward = near.forward(opening(length));
            settle(&mut forward).await;
            if blocked {
                fill(&client, &mut forward).await;
            }
            near.entry
                .ask(Ask::End { outcome, how: if outcome == Outcome::Shutdown { Close::Reset } else { Close::Plain } });
            match forward.await {
                End::Asked { outcome: ended, clean } => assert_eq!((ended, clean), (outcome, expected), "{name}"),
                end => panic!("{name}: {end:?}"),
            }
        });
    }
}

#[test]
fn an_idle_session_holds_no_pipe_and_bulk_returns_what_it_took() {
    run(async {
        let (near, client, endpoint) = session();
        let mut forward = near.forward(None);
        let taken = fill(&client, &mut forward).await;
        assert_eq!(near.tools.pipes.open(), 1, "bulk goes through a pipe");
        let draining = drain(endpoint);
        while near.entry.bytes().0 < taken as u64 {
            settle(&mut forward).await;
        }
        assert!(near.tools.pipes.take(0).is_some());
        assert_eq!(near.tools.pipes.open(), 1, "the pipe was given back");
        drop(client);
        let end = forward.await;
        assert!(matches!(end, End::Finished(Side::Client)), "{end:?}");
        assert_eq!(near.entry.bytes(), (taken as u64, 0));
        assert_eq!(draining.join().unwrap(), (taken, true));
    });
}
