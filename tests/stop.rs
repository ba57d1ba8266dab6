//! The end of the process: listeners close, sessions may go on for a while, everybody gets a proper end and a record.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::client::{get, hello};
use crate::harness::process::{free_address, listening};
use crate::harness::{Client, Endpoint, Manner, Process, eventually};

/// A process in front of an endpoint that echoes.
struct Serving {
    process: Process,
    at: SocketAddr,
    admin: SocketAddr,
    _endpoint: Endpoint,
}

impl Serving {
    fn with_drain(drain: &str) -> Serving {
        let endpoint = Endpoint::start(Manner::Echoes);
        let (at, admin) = (free_address(), free_address());
        let process = Process::start(&format!(
            r#"
            runtime.workers = 2
            admin.http = "{admin}"
            timeouts.drain = "{drain}"
            listener.edge.bind = "{at}"
            route.all = {{ listener = "edge", pool = "all" }}
            pool.all.endpoints = ["{}"]
            "#,
            endpoint.address()
        ));
        Serving { process, at, admin, _endpoint: endpoint }
    }

    fn session(&self) -> Client {
        let hello = hello("www.example.com");
        let mut client = Client::sending(self.at, &hello);
        client.expect(&hello);
        client
    }

    /// Sends the signal and waits until new connections are refused.
    fn stop(&self, signal: Signal) {
        self.process.signal(signal);
        // Trying it with connections would make sessions of those that come early.
        eventually("the listener is closed", || (listening(self.at) == 0).then_some(()));
        let tried = TcpStream::connect(self.at);
        assert!(tried.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused), "{tried:?}");
    }

    /// Waits for the end: its records' outcomes, and how long it took.
    fn ends(mut self) -> (Vec<String>, Duration) {
        let began = Instant::now();
        let status = self.process.wait();
        let took = began.elapsed();
        assert_eq!(status.code(), Some(0), "{}", self.process.messages());
        let lines = self.process.log().lines();
        (lines.iter().map(|line| line["outcome"].as_str().unwrap().to_owned()).collect(), took)
    }
}

fn reset(client: &mut Client) {
    let end = client.rest();
    let was_reset = end.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionReset);
    assert!(was_reset, "a cut session must not look finished: {end:02x?}");
}

#[test]
fn sessions_go_on_while_draining_and_are_ended_after_it() {
    let serving = Serving::with_drain("2s");
    let mut clients = [serving.session(), serving.session()];
    assert_eq!(get(serving.admin, "/ready").0, 200);
    let began = Instant::now();
    serving.stop(Signal::TERM);
    for client in &mut clients {
        client.send(b"a transaction goes on");
        client.expect(b"a transaction goes on");
    }
    let messages = serving.process.messages();
    assert!(messages.contains("SIGTERM: draining") && messages.contains("\"sessions\":2"), "{messages}");
    assert_eq!(get(serving.admin, "/ready").0, 503);
    assert!(get(serving.admin, "/metrics").1.contains("pointsman_draining 1\n"));
    clients.iter_mut().for_each(reset);
    let lived = began.elapsed();
    assert!(lived > Duration::from_secs(2) && lived < Duration::from_secs(5), "ended after {lived:?}");
    assert_eq!(serving.ends().0, ["shutdown", "shutdown"]);
}

#[test]
fn sessions_that_end_by_themselves_let_it_go_early() {
    let serving = Serving::with_drain("30s");
    let clients = [serving.session(), serving.session()];
    serving.stop(Signal::INT);
    for mut client in clients {
        client.finish();
        assert!(client.rest().is_ok_and(|rest| rest.is_empty()));
    }
    let (words, took) = serving.ends();
    assert_eq!(words, ["ok", "ok"]);
    assert!(took < Duration::from_secs(3), "ended after {took:?}");
}

#[test]
fn a_second_signal_ends_everything_at_once() {
    for (first, second) in [(Signal::TERM, Signal::TERM), (Signal::INT, Signal::TERM)] {
        let serving = Serving::with_drain("30s");
        let mut clients = [serving.session(), serving.session()];
        // This one is still being read, and is told in its own protocol.
        let mut opening = Client::sending(serving.at, &hello("www.example.com")[..50]);
        eventually("its bytes are held", || {
            get(serving.admin, "/metrics").1.contains("pointsman_opening_memory_bytes 50\n").then_some(())
        });
        serving.stop(first);
        serving.process.signal(second);
        clients.iter_mut().for_each(reset);
        let told = opening.rest();
        assert!(told.as_ref().is_ok_and(|told| *told == [21, 3, 3, 0, 2, 2, 80]), "{told:02x?}");
        let (words, took) = serving.ends();
        assert_eq!(words, ["shutdown", "shutdown", "shutdown"]);
        assert!(took < Duration::from_secs(3), "ended after {took:?}");
    }
}

#[test]
fn no_time_to_drain_ends_sessions_at_once() {
    let serving = Serving::with_drain("0s");
    let mut client = serving.session();
    serving.stop(Signal::TERM);
    reset(&mut client);
    let (words, took) = serving.ends();
    assert_eq!(words, ["shutdown"]);
    assert!(took < Duration::from_secs(4), "ended after {took:?}");
}

#[test]
fn whoever_was_queued_when_the_listener_closed_is_served() {
    let serving = Serving::with_drain("30s");
    drop(serving.session());
    serving.process.records(1);
    // Nobody accepts while these connect.
    serving.process.signal(Signal::STOP);
    let hello = hello("www.example.com");
    let clients: Vec<Client> = (0..200).map(|_| Client::sending(serving.at, &hello)).collect();
    serving.process.signal(Signal::TERM);
    serving.process.signal(Signal::CONT);
    for mut client in clients {
        client.finish();
        let back = client.rest();
        assert!(back.as_ref().is_ok_and(|back| *back == hello), "{back:02x?}\n{}", serving.process.messages());
    }
    let (words, _) = serving.ends();
    assert_eq!(words.len(), 201, "the log is complete");
    assert!(words.iter().all(|word| word == "ok"), "{words:?}");
}

#[test]
fn every_session_before_the_end_is_in_the_log() {
    let serving = Serving::with_drain("0s");
    let hello = hello("www.example.com");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..100 {
                    let mut client = Client::sending(serving.at, &hello);
                    client.finish();
                    assert!(client.rest().is_ok_and(|back| back == hello));
                }
            });
        }
    });
    serving.process.signal(Signal::TERM);
    let (words, _) = serving.ends();
    assert_eq!(words.len(), 400);
}
