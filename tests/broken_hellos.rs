//! Hellos that are cut, changed, blown up or scattered, where TLS ends here: every connection ends in one outcome, with an
//! alert where TLS has one for it, no endpoint hears of it, nothing is kept, and a good client is served right after.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;

use pointsman::wire::sample::{self, Sample};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, StreamOwned};
use serde_json::json;

use crate::harness::answering::Authority;
use crate::harness::client::recorded;
use crate::harness::{Balancer, Client, Endpoint, Line, Manner, eventually};

const HANDSHAKE: u8 = 22;
const DECODE_ERROR: &[u8] = &[21, 3, 3, 0, 2, 2, 50];
/// How a sealed alert begins in TLS 1.3: two bytes of its own, one for the type, 16 of the tag.
const SEALED_ALERT: &[u8] = &[23, 3, 3, 0, 19];

/// How clients may end that never had a chance.
const MAY: &[&str] = &["client_gone", "handshake_failed", "hello_malformed", "hello_too_large", "not_tls"];

/// A route that takes whatever name, in front of an endpoint that echoes.
struct Scene {
    authority: Authority,
    balancer: Balancer,
    endpoint: Endpoint,
    _folder: tempfile::TempDir,
}

impl Scene {
    fn new() -> Scene {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new(folder.path());
        let identity = authority.sign("a.test");
        let endpoint = Endpoint::start(Manner::Echoes);
        let balancer = Balancer::terminating(&[&identity], "", endpoint.address(), "");
        Scene { authority, balancer, endpoint, _folder: folder }
    }

    fn edge(&self) -> SocketAddr {
        self.balancer.address("edge")
    }

    fn client(&self) -> ClientConnection {
        self.client_with(&Arc::new(self.authority.client()))
    }

    fn client_with(&self, config: &Arc<ClientConfig>) -> ClientConnection {
        ClientConnection::new(Arc::clone(config), "a.test".try_into().unwrap()).unwrap()
    }

    /// Tries all of these, and fails unless each ends as it may.
    fn all_end(&self, cases: &[(String, Vec<u8>)], may: &[&str]) {
        let at = self.edge();
        let heard: Vec<_> = std::thread::scope(|scope| {
            let parts = cases.chunks(cases.len().div_ceil(6));
            let clients: Vec<_> = parts
                .map(|part| scope.spawn(move || part.iter().map(|(_, bytes)| hears(at, bytes)).collect::<Vec<_>>()))
                .collect();
            clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
        });
        let records = self.balancer.records(cases.len());
        for ((case, _), (client, answer)) in cases.iter().zip(heard) {
            let record = records.iter().find(|record| record["client"] == client);
            let record = record.unwrap_or_else(|| panic!("{case}: nothing is told of {client}"));
            let answer =
                answer.unwrap_or_else(|error| panic!("{case}: {error} instead of an answer and an end; {record}"));
            assert_fits(case, &answer, record);
            assert!(may.contains(&record["outcome"].as_str().unwrap()), "{case}: {record}");
        }
        self.is_as_before(cases.len());
    }

    /// After so many broken clients a good one is served, as the only one of which an endpoint has heard.
    fn is_as_before(&self, broken: usize) {
        assert_eq!(self.balancer.records(broken).len(), broken, "one record a connection");
        let mut session = StreamOwned::new(self.client(), Client::connect(self.edge()).0);
        session.write_all(b"x").unwrap();
        session.read_exact(&mut [0]).unwrap();
        session.conn.send_close_notify();
        session.flush().unwrap();
        assert_eq!(session.read(&mut [0]).unwrap(), 0);
        assert_eq!(self.balancer.records(broken + 1)[broken]["outcome"], "ok");
        eventually("everything was given back", || {
            let status = self.balancer.ask(&json!({ "command": "status" }));
            let of = [&status, &status["listeners"][0], &status["pools"][0]["endpoints"][0]];
            (of.iter().all(|of| of["sessions"] == 0) && self.balancer.metric("pointsman_opening_memory_bytes") == 0.0)
                .then_some(())
        });
        assert_eq!(self.endpoint.connections(), 1);
    }
}

/// Sends `bytes` and says that nothing more will come. Gives the client's address and what came back.
fn hears(at: SocketAddr, bytes: &[u8]) -> (String, std::io::Result<Vec<u8>>) {
    let mut client = Client::connect(at);
    // It may be sent away before all of it was taken.
    let _ = client.0.write_all(bytes);
    client.finish();
    (client.address(), client.rest())
}

/// What a client heard goes with what is told of it.
fn assert_fits(case: &str, answer: &[u8], record: &Line) {
    // In clear, or sealed behind a flight that was taken for an answer to a good hello.
    let sealed = answer.last_chunk::<24>().is_some_and(|last| last.starts_with(SEALED_ALERT));
    let is_alert = sealed || matches!(answer, [21, 3, 1..=4, 0, 2, 2, _]);
    let fits = match record["outcome"].as_str().unwrap() {
        "hello_malformed" | "hello_too_large" => answer == DECODE_ERROR,
        "handshake_failed" => is_alert && record["tls_error"].is_string(),
        // There was not enough to go by, or it was good enough to begin with.
        "client_gone" => answer.is_empty() || answer[0] == HANDSHAKE,
        "not_tls" => answer.is_empty(),
        _ => false,
    };
    assert!(fits, "{case}: heard {answer:02x?}; {record}");
    assert_eq!(record["by"], "client", "{case}: {record}");
}

/// Cases made of each recorded hello.
fn of_each(make: impl Fn(&[u8]) -> Vec<(String, Vec<u8>)>) -> Vec<(String, Vec<u8>)> {
    let named = |(name, hello): (String, Vec<u8>)| {
        make(&hello).into_iter().map(move |(case, bytes)| (format!("{name}, {case}"), bytes))
    };
    recorded().into_iter().flat_map(named).collect()
}

#[test]
fn cut_anywhere() {
    let cases = of_each(|hello| {
        let cuts = (1..hello.len()).step_by(hello.len() / 60 + 1).chain([hello.len() - 1]);
        cuts.map(|cut| (format!("cut at {cut}"), hello[..cut].to_vec())).collect()
    });
    Scene::new().all_end(&cases, &["client_gone"]);
}

#[test]
fn a_bit_is_flipped_anywhere() {
    let cases = of_each(|hello| {
        // All that is near the front, where the lengths are.
        let places = (0..80).chain((80..hello.len()).step_by(hello.len() / 80 + 1));
        let flipped = |at: usize| {
            let mut bytes = hello.to_vec();
            bytes[at] ^= 1 << (at % 8);
            (format!("a bit of byte {at} flipped"), bytes)
        };
        places.map(flipped).collect()
    });
    Scene::new().all_end(&cases, MAY);
}

/// Where lengths stand in a hello in one record, and how many bytes each takes (RFC 8446, section 4.1.2).
fn lengths(hello: &[u8]) -> Vec<(usize, usize)> {
    let at = |place: usize, bytes: usize| {
        hello[place..place + bytes].iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte))
    };
    let session = 5 + 4 + 2 + 32;
    let suites = session + 1 + at(session, 1);
    let compression = suites + 2 + at(suites, 2);
    let extensions = compression + 1 + at(compression, 1);
    let mut lengths = vec![(3, 2), (6, 3), (session, 1), (suites, 2), (compression, 1), (extensions, 2)];
    let mut extension = extensions + 2;
    while extension < hello.len() {
        lengths.push((extension + 2, 2));
        // Of most extensions the first thing is a length as well.
        if at(extension + 2, 2) > 1 {
            lengths.push((extension + 4, 2));
        }
        extension += 4 + at(extension + 2, 2);
    }
    assert_eq!(extension, hello.len());
    lengths
}

#[test]
fn lengths_are_wrong() {
    let cases = of_each(|hello| {
        let changed = |(place, bytes): (usize, usize)| {
            let last = place + bytes - 1;
            let write = |what: &str, change: &dyn Fn(&mut [u8])| {
                let mut wrong = hello.to_vec();
                change(&mut wrong[place..=last]);
                (format!("{what} at {place}"), wrong)
            };
            [
                write("one more", &|length| length[bytes - 1] = length[bytes - 1].wrapping_add(1)),
                write("one less", &|length| length[bytes - 1] = length[bytes - 1].wrapping_sub(1)),
                write("nothing", &|length| length.fill(0)),
                write("the most", &|length| length.fill(255)),
            ]
        };
        lengths(hello).into_iter().flat_map(changed).collect()
    });
    Scene::new().all_end(&cases, MAY);
}

#[test]
fn far_too_long() {
    let padded = |padding| Sample { name: Some(b"a.test"), padding, ..Sample::default() };
    let largest = padded(63_000).wire();
    let scattered = sample::records(&padded(0).message(), 1);
    let mut promised = padded(0).wire();
    promised[6..9].copy_from_slice(&[0xff; 3]);
    let cases = [
        ("as long as it may be", largest.clone()),
        ("in records of a byte", scattered),
        ("longer than it may be", padded(65_000).wire()),
        ("16 MiB are promised", promised.clone()),
        ("16 MiB are promised, and much comes", [promised, vec![0; 100_000]].concat()),
        ("in too many records", sample::records(&padded(2_000).message(), 1)),
        ("another hello behind it", largest.repeat(2)),
    ];
    let cases = cases.map(|(case, bytes)| (case.to_owned(), bytes));
    Scene::new().all_end(&cases, MAY);
}

/// Makes a handshake whose flights of the client go through `change`, and has a few bytes echoed.
fn echoes_through(
    scene: &Scene,
    mut client: ClientConnection,
    change: impl Fn(Vec<u8>) -> Vec<Vec<u8>>,
) -> HandshakeKind {
    let mut socket = Client::connect(scene.edge()).0;
    client.writer().write_all(b"there and back").unwrap();
    let mut heard = Vec::new();
    while heard.len() < 14 {
        let mut flight = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut flight).unwrap();
        }
        for segment in change(flight) {
            socket.write_all(&segment).unwrap();
        }
        assert!(client.read_tls(&mut socket).unwrap() > 0, "it was sent away");
        client.process_new_packets().unwrap();
        let _ = client.reader().read_to_end(&mut heard);
    }
    assert_eq!(heard, b"there and back");
    client.handshake_kind().unwrap()
}

/// A flight of which the first record is in clear, that one in records of `size` bytes.
fn scatter(flight: &[u8], size: usize) -> Vec<u8> {
    match *flight {
        [HANDSHAKE, _, _, high, low, ..] => {
            let (first, rest) = flight.split_at(5 + usize::from(u16::from_be_bytes([high, low])));
            [&sample::records(&sample::unframe(first), size)[..], rest].concat()
        }
        _ => flight.to_vec(),
    }
}

#[test]
fn scattered_over_records_and_segments_it_is_as_good() {
    let scene = Scene::new();
    for (size, segment) in [(16_384, 1), (1_000, 999), (100, 7), (64, 1_000), (7, 300), (2, 1_000)] {
        let change = |flight: Vec<u8>| {
            let wire = if size < 16_384 { scatter(&flight, size) } else { flight };
            wire.chunks(segment).map(<[u8]>::to_vec).collect()
        };
        let kind = echoes_through(&scene, scene.client(), change);
        assert_eq!(kind, HandshakeKind::Full, "records of {size} in segments of {segment}");
    }
    let record = &scene.balancer.records(6)[5];
    assert_eq!(record["tls_version"], "1.3", "{record}");
}

/// A client that has to say hello twice: it offers first what nobody takes here.
fn asked_twice(scene: &Scene) -> ClientConnection {
    use aws_lc_rs::kx_group::{MLKEM768, SECP256R1};
    let provider = CryptoProvider { kx_groups: vec![MLKEM768, SECP256R1], ..aws_lc_rs::default_provider() };
    scene.client_with(&Arc::new(scene.authority.client_that_can(provider)))
}

#[test]
fn the_second_hello_is_like_the_first() {
    let scene = Scene::new();
    for (size, segment) in [(1_000, 999), (64, 7), (2, 1_000)] {
        let change = |flight: Vec<u8>| scatter(&flight, size).chunks(segment).map(<[u8]>::to_vec).collect();
        let kind = echoes_through(&scene, asked_twice(&scene), change);
        assert_eq!(kind, HandshakeKind::FullWithHelloRetryRequest, "records of {size} in segments of {segment}");
    }
    let second = |broken: &dyn Fn(&[u8]) -> Vec<u8>| {
        let mut client = asked_twice(&scene);
        let mut socket = Client::connect(scene.edge());
        client.write_tls(&mut socket.0).unwrap();
        client.read_tls(&mut socket.0).unwrap();
        client.process_new_packets().unwrap();
        let mut flight = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut flight).unwrap();
        }
        let _ = socket.0.write_all(&broken(&flight));
        socket.finish();
        let mut answer = Vec::new();
        // Where much is left unread the end is a reset.
        let _ = socket.0.read_to_end(&mut answer);
        (answer, scene.balancer.log().record_of(&socket.address()))
    };
    type Broken<'b> = &'b dyn Fn(&[u8]) -> Vec<u8>;
    let changed = |place: usize, to: fn(u8) -> u8| {
        move |flight: &[u8]| {
            let mut wrong = flight.to_vec();
            // In front of it stands a record that says nothing, for middleboxes (RFC 8446, D.4).
            assert_eq!((flight[0], flight[6]), (20, HANDSHAKE));
            wrong[6 + place] = to(wrong[6 + place]);
            wrong
        }
    };
    let cases: [(&str, &str, bool, Broken<'_>); 5] = [
        ("cut", "client_gone", false, &|flight| flight[..flight.len() - 3].to_vec()),
        ("of another length", "handshake_failed", true, &changed(8, |length| length.wrapping_sub(1))),
        ("another message", "handshake_failed", true, &changed(5, |_| 20)),
        // Who gets these says nothing, which is allowed (RFC 8446, section 6.2).
        ("for another name", "handshake_failed", false, &|_| {
            Sample { name: Some(b"b.test"), ..Sample::default() }.wire()
        }),
        ("without end", "handshake_failed", false, &|_| {
            Sample { padding: 60_000, ..Sample::default() }.wire()[..50_000].to_vec()
        }),
    ];
    for (case, outcome, has_alert, broken) in cases {
        let (answer, record) = second(broken);
        assert_eq!((&record["outcome"], &record["by"]), (&outcome.into(), &"client".into()), "{case}: {record}");
        if has_alert {
            assert!(matches!(answer[..], [21, 3, 1..=4, 0, 2, 2, _]), "{case}: heard {answer:02x?}; {record}");
        }
    }
}
