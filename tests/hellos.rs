//! Hellos of real clients, in every shape that a network can give them: each arrives byte for byte, and none that is
//! cut short is taken for a whole one.

use std::net::SocketAddr;
use std::time::Duration;

use pointsman::wire::sample::{self, Sample};

use crate::harness::client::{hello, recorded};
use crate::harness::{Balancer, Client, Endpoint, Log, Manner};

/// Long enough for what was sent to be read before the next piece comes. Nothing fails where it is not.
const PAUSE: Duration = Duration::from_millis(2);

/// A balancer that takes any name, in front of an endpoint that echoes.
fn echoing() -> (Balancer, Endpoint) {
    let endpoint = Endpoint::start(Manner::Echoes);
    let balancer = Balancer::start(&format!(
        r#"
        listener.edge.bind = "127.0.0.1:0"
        route.all = {{ listener = "edge", pool = "all" }}
        pool.all.endpoints = ["{}"]
        "#,
        endpoint.address()
    ));
    (balancer, endpoint)
}

/// Sends the pieces with a pause after each, and fails unless exactly they come back.
fn round_trip(at: SocketAddr, log: &Log, case: &str, pieces: &[&[u8]], pause: Duration) {
    let whole = pieces.concat();
    let mut client = Client::connect(at);
    for piece in pieces {
        client.send(piece);
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
    }
    client.finish();
    let back = client.rest();
    let told = || log.record_of(&client.address());
    assert!(
        back.as_ref().is_ok_and(|back| *back == whole),
        "{case}: sent {} bytes, got back {:?} bytes; {}",
        whole.len(),
        back.map(|back| back.len()),
        told()
    );
}

#[test]
fn every_recorded_hello_arrives_in_whatever_pieces() {
    let (balancer, _endpoint) = echoing();
    let (at, log) = (balancer.address("edge"), &balancer.log());
    let round_trip = |case: String, pieces: &[&[u8]], pause| round_trip(at, log, &case, pieces, pause);
    std::thread::scope(|scope| {
        let round_trip = &round_trip;
        for (name, hello) in recorded() {
            scope.spawn(move || {
                let none = Duration::ZERO;
                round_trip(format!("{name} whole"), &[&hello], none);
                let bytes: Vec<&[u8]> = hello.chunks(1).collect();
                round_trip(format!("{name} byte by byte"), &bytes, none);
                let middle = hello.len() / 2;
                for at in [1, 2, 3, 4, 5, 6, 8, 9, 10, 43, 44, 76, 77, middle, hello.len() - 2, hello.len() - 1] {
                    let (first, second) = hello.split_at(at);
                    round_trip(format!("{name} split at {at}"), &[first, second], PAUSE);
                }
                let message = sample::unframe(&hello);
                for size in [2, 3, 4, 5, 100, 1000] {
                    let wire = sample::records(&message, size.max(message.len().div_ceil(1000)));
                    round_trip(format!("{name} in records of {size} bytes"), &[&wire], none);
                    let pieces: Vec<&[u8]> = wire.chunks(7).collect();
                    round_trip(format!("{name} in records of {size}, 7 bytes a time"), &pieces, none);
                }
            });
        }
    });
    let sent = recorded().len() * (2 + 16 + 12);
    for record in balancer.records(sent) {
        assert_eq!((&record["outcome"], &record["sni"]), (&"ok".into(), &"www.hello.example".into()), "{record}");
    }
}

#[test]
fn large_hellos_arrive() {
    let (balancer, _endpoint) = echoing();
    let (at, log) = (balancer.address("edge"), balancer.log());
    for padding in [1, 1000, 15_900, 16_300, 20_000, 40_000, 63_000] {
        let sample = Sample { name: Some(b"www.hello.example"), padding, ..Sample::default() };
        let wire = sample.wire();
        round_trip(at, &log, &format!("padded with {padding}"), &[&wire], Duration::ZERO);
        let (first, second) = wire.split_at(wire.len() - 1);
        round_trip(at, &log, &format!("padded with {padding}, the last byte late"), &[first, second], PAUSE);
        let small = sample::records(&sample.message(), 64.max(padding / 300));
        round_trip(at, &log, &format!("padded with {padding}, in small records"), &[&small], Duration::ZERO);
    }
    for record in balancer.records(21) {
        assert_eq!((&record["outcome"], &record["sni"]), (&"ok".into(), &"www.hello.example".into()), "{record}");
    }
}

#[test]
fn what_follows_the_hello_goes_with_it() {
    let (balancer, _endpoint) = echoing();
    let (at, log) = (balancer.address("edge"), balancer.log());
    let hello = hello("www.hello.example");
    let more = vec![0x17; 300_000];
    round_trip(at, &log, "hello and data in one write", &[&[hello.as_slice(), &more].concat()], Duration::ZERO);
    round_trip(at, &log, "data a moment after the hello", &[&hello, &more], PAUSE);
}

#[test]
fn a_hello_that_is_cut_short_is_never_taken_for_a_whole_one() {
    let (balancer, endpoint) = echoing();
    let at = balancer.address("edge");
    let cuts: Vec<(String, Vec<u8>)> = recorded()
        .into_iter()
        .flat_map(|(name, hello)| {
            let step = hello.len() / 300 + 1;
            let every = (0..hello.len()).step_by(step).chain(hello.len() - 10..hello.len());
            every.map(|cut| (format!("{name} cut at {cut}"), hello[..cut].to_vec())).collect::<Vec<_>>()
        })
        .collect();
    std::thread::scope(|scope| {
        for part in cuts.chunks(cuts.len().div_ceil(8)) {
            scope.spawn(move || {
                for (case, bytes) in part {
                    let mut client = Client::sending(at, bytes);
                    client.finish();
                    let answer = client.rest();
                    assert!(answer.as_ref().is_ok_and(Vec::is_empty), "{case}: {answer:02x?}");
                }
            });
        }
    });
    for record in balancer.records(cuts.len()) {
        assert_eq!((&record["outcome"], &record["by"]), (&"client_gone".into(), &"client".into()), "{record}");
    }
    assert_eq!(endpoint.connections(), 0, "no endpoint has heard of it");
}
