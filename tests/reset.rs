//! What comes last must arrive: a message before a reset, an alert before a close; and a reset stays a reset.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use crate::harness::flow::{
    Ended, Pairs, Received, receive, receive_up_to, reset, send, send_until_blocked, wait_acknowledged,
};
use crate::harness::{Balancer, PATIENCE, Pattern, eventually};

/// Lengths of a last message: a line of text, more than one buffer, as much as a pipe holds and more.
const LENGTHS: [u64; 4] = [1, 120, 100_000, 3_000_000];

fn plain(timeouts: &str) -> (Balancer, Pairs) {
    let endpoint = TcpListener::bind("127.0.0.1:0").unwrap();
    let balancer = Balancer::start(&format!(
        r#"
        timeouts = {{ {timeouts} }}
        listener.door = {{ bind = "127.0.0.1:0", protocol = "tcp" }}
        route.all = {{ listener = "door", pool = "one" }}
        pool.one.endpoints = ["{}"]
        "#,
        endpoint.local_addr().unwrap()
    ));
    let pairs = Pairs::new(balancer.address("door"), endpoint);
    (balancer, pairs)
}

#[test]
fn a_last_message_arrives_before_the_reset() {
    let (balancer, pairs) = plain("");
    let mut failures = Vec::new();
    for length in LENGTHS {
        for client_resets in [true, false] {
            for _ in 0..10 {
                let (client, server) = pairs.connect();
                let (last, reader) = if client_resets { (client, server) } else { (server, client) };
                let reading = thread::spawn(move || receive(&reader, &mut Pattern::new(length)));
                send(&last, &mut Pattern::new(length), length, length).unwrap();
                wait_acknowledged(&last);
                reset(last);
                let seen = reading.join().unwrap();
                if seen != Ok((length, Ended::Reset)) {
                    failures.push(format!("{length} bytes, client_resets={client_resets}: {seen:?}"));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
    for record in balancer.records(LENGTHS.len() * 20) {
        let words = (record["outcome"].as_str().unwrap(), record["by"].as_str().unwrap());
        assert!(matches!(words, ("client_reset", "client") | ("endpoint_reset", "endpoint")), "{record}");
    }
}

/// A server that gives a client up mid-upload: its error message must arrive although the client still sends.
#[test]
fn a_last_message_arrives_at_a_side_that_is_sending() {
    let (_balancer, pairs) = plain("");
    let mut failures = Vec::new();
    for length in LENGTHS {
        for client_resets in [true, false] {
            for _ in 0..10 {
                let (client, server) = pairs.connect();
                let (last, busy) = if client_resets { (client, server) } else { (server, client) };
                let (seen, sending) = while_sending(last, busy, length);
                // The system tells of a reset once: whichever call asks first.
                let told = matches!(seen, Ok((_, Ended::Reset))) || sending == ErrorKind::ConnectionReset;
                if !matches!(seen, Ok((bytes, _)) if bytes == length) || !told {
                    failures.push(format!("{length} bytes, client_resets={client_resets}: {seen:?}, {sending:?}"));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// `last` sends a last message and resets while `busy` sends without end; gives what `busy` has read and how its
/// sending failed.
fn while_sending(last: TcpStream, busy: TcpStream, length: u64) -> (Received, ErrorKind) {
    let sender = busy.try_clone().unwrap();
    let sending = thread::spawn(move || send(&sender, &mut Pattern::new(1), u64::MAX, 16 * 1024).unwrap_err().kind());
    let reading = thread::spawn(move || receive(&busy, &mut Pattern::new(length)));
    receive_up_to(&last, &mut Pattern::new(1), 200_000).unwrap();
    send(&last, &mut Pattern::new(length), length, length).unwrap();
    wait_acknowledged(&last);
    reset(last);
    (reading.join().unwrap(), sending.join().unwrap())
}

/// The reset of a side whose bytes nobody takes is not seen behind them; once they are taken all of them arrive.
#[test]
fn a_client_that_vanishes_while_its_endpoint_is_blocked_loses_nothing() {
    let (balancer, pairs) = plain("");
    let (client, server) = pairs.connect();
    let mut out = Pattern::new(7);
    send_until_blocked(&client, &mut out, 256 * 1024);
    let least = out.at() - crate::harness::flow::unacknowledged(&client);
    reset(client);
    let (bytes, end) = receive(&server, &mut Pattern::new(7)).unwrap();
    assert_eq!(end, Ended::Reset);
    assert!((least..=out.at()).contains(&bytes), "{bytes} of {least} to {}", out.at());
    assert_eq!(balancer.record()["outcome"], "client_reset");
}

/// Both FINs have gone by and bytes are still on their way: they arrive, and the end is clean.
#[test]
fn the_last_bytes_of_a_clean_end_reach_a_reader_that_is_late() {
    let (balancer, pairs) = plain("");
    let (client, server) = pairs.connect();
    send(&server, &mut Pattern::new(3), 2_000_000, 1 << 20).unwrap();
    drop(server);
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(balancer.record()["outcome"], "ok", "the balancer is done before the client reads");
    assert_eq!(receive(&client, &mut Pattern::new(3)), Ok((2_000_000, Ended::Fin)));
}

fn tls(endpoints: &[SocketAddr]) -> Balancer {
    let endpoints: Vec<String> = endpoints.iter().map(SocketAddr::to_string).collect();
    Balancer::start(&format!(
        r#"
        listener.edge.bind = "127.0.0.1:0"
        route.www = {{ listener = "edge", sni = "www.hello.example", pool = "web" }}
        pool.web = {{ endpoints = {endpoints:?}, balance = "round-robin" }}
        "#
    ))
}

fn hello(balancer: &Balancer, more: &[u8]) -> TcpStream {
    let hello = std::fs::read("tests/data/hellos/firefox-esr.bin").unwrap();
    let mut client = TcpStream::connect(balancer.address("edge")).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(&[&hello, more].concat()).unwrap();
    client
}

/// Endpoints that take one connection each, read until they have `read` bytes and end it by `end`.
fn endpoint_that_ends(read: usize, end: fn(TcpStream)) -> SocketAddr {
    let endpoint = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = endpoint.local_addr().unwrap();
    thread::spawn(move || {
        let (mut server, _) = endpoint.accept().unwrap();
        server.read_exact(&mut vec![0; read]).unwrap();
        end(server);
    });
    address
}

fn answer(mut server: TcpStream) {
    server.write_all(b"answer").unwrap();
}

/// A backend that is starting up or shutting down closes without a word: the next one gets the same hello.
#[test]
fn a_hello_that_was_not_answered_goes_to_another_endpoint() {
    let length = std::fs::read("tests/data/hellos/firefox-esr.bin").unwrap().len();
    for (name, end) in [("fin", drop as fn(TcpStream)), ("reset", reset)] {
        let endpoints = [endpoint_that_ends(length, end), endpoint_that_ends(length, answer)];
        let balancer = tls(&endpoints);
        // Round-robin begins with either: the first client may be the lucky one.
        let mut client = hello(&balancer, b"");
        let mut received = Vec::new();
        client.read_to_end(&mut received).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(received, b"answer", "{name}: {}", balancer.record());
    }
}

#[test]
fn a_hello_that_nobody_answers_ends_with_an_alert() {
    let length = std::fs::read("tests/data/hellos/firefox-esr.bin").unwrap().len();
    for (name, end) in [("fin", drop as fn(TcpStream)), ("reset", reset)] {
        let balancer = tls(&[endpoint_that_ends(length, end), endpoint_that_ends(length, end)]);
        let mut client = hello(&balancer, b"");
        let mut received = Vec::new();
        client.read_to_end(&mut received).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(received, [21, 3, 3, 0, 2, 2, 80], "{name}");
        drop(client);
        let record = balancer.record();
        assert_eq!((&record["outcome"], &record["by"]), (&"endpoint_silent".into(), &"endpoint".into()), "{name}");
    }
}

/// More than the hello is unread when the alert is sent: a plain close would turn it into a reset.
#[test]
fn an_alert_arrives_at_a_client_that_has_sent_more() {
    let balancer = Balancer::start(
        r#"
        listener.edge.bind = "127.0.0.1:0"
        route.other = { listener = "edge", sni = "other.example", pool = "none" }
        pool.none.endpoints = ["127.0.0.1:1"]
        "#,
    );
    for more in [0, 1, 20_000, 60_000] {
        let mut client = hello(&balancer, &vec![23; more]);
        let mut received = Vec::new();
        client.read_to_end(&mut received).unwrap_or_else(|error| panic!("{more} bytes more: {error}"));
        assert_eq!(received, [21, 3, 3, 0, 2, 2, 112], "{more} bytes more");
    }
    let records = balancer.records(4);
    assert!(records.iter().all(|record| record["outcome"] == "no_route"), "{records:#?}");
    eventually("no session is left", || (balancer.running().sessions() == 0).then_some(()));
}
