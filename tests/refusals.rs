//! Who is sent away: each with its outcome, its alert or a plain close, within its deadline, and without a trace.

use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use pointsman::wire::sample::{self, Sample};

use crate::harness::client::{get, hello};
use crate::harness::endpoint::Unreachable;
use crate::harness::process::free_address;
use crate::harness::{Client, Endpoint, Log, Manner, Process, eventually};

const DECODE_ERROR: Option<u8> = Some(50);
const ACCESS_DENIED: Option<u8> = Some(49);
const INTERNAL_ERROR: Option<u8> = Some(80);
const UNRECOGNIZED_NAME: Option<u8> = Some(112);

/// What one client sends, and what must come of it.
struct Case {
    name: &'static str,
    /// Each with the pause in front of it.
    sends: Vec<(Duration, Vec<u8>)>,
    outcome: &'static str,
    by: &'static str,
    /// The description in the alert; none: the connection is closed without a word.
    alert: Option<u8>,
    /// At least and at most.
    takes: (Duration, Duration),
    /// Whether nothing changes if the client goes on talking.
    whatever_follows: bool,
}

const AT_ONCE: (Duration, Duration) = (Duration::ZERO, Duration::from_secs(1));
const OPEN: Duration = Duration::from_millis(1500);
/// The deadline of the opening, the second of defer_accept, and what a busy machine may add.
const OPEN_OVER: (Duration, Duration) = (OPEN, Duration::from_millis(1500 + 1000 + 1000));
const CONNECT_OVER: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(2));

fn refused(name: &'static str, sends: Vec<u8>, (outcome, by): (&'static str, &'static str), alert: Option<u8>) -> Case {
    Case { name, sends: vec![(Duration::ZERO, sends)], outcome, by, alert, takes: AT_ONCE, whatever_follows: true }
}

fn with(extensions: &[(u16, &[u8])]) -> Vec<u8> {
    Sample { name: Some(b"www.example.com"), extensions, ..Sample::default() }.wire()
}

fn with_alpn(name: &str, alpn: &[&str]) -> Vec<u8> {
    Sample { name: Some(name.as_bytes()), alpn, ..Sample::default() }.wire()
}

/// `bytes` with some of them replaced.
fn altered(mut bytes: Vec<u8>, at: usize, new: &[u8]) -> Vec<u8> {
    bytes[at..at + new.len()].copy_from_slice(new);
    bytes
}

fn not_a_hello() -> Vec<Case> {
    const NOT_TLS: (&str, &str) = ("not_tls", "client");
    vec![
        refused("HTTP", b"GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n".to_vec(), NOT_TLS, None),
        refused("SSH", b"SSH-2.0-OpenSSH_9.6\r\n".to_vec(), NOT_TLS, None),
        refused("a TLS alert", vec![21, 3, 3, 0, 2, 2, 80], NOT_TLS, None),
        refused("SSL 2", vec![0x80, 0x2e, 1, 0, 2], NOT_TLS, None),
        refused("one wrong byte", b"\0".to_vec(), NOT_TLS, None),
    ]
}

fn broken_hellos() -> Vec<Case> {
    const MALFORMED: (&str, &str) = ("hello_malformed", "client");
    let good = hello("www.example.com");
    let longest = [b"a".repeat(63), b"b".repeat(63), b"c".repeat(63), b"d".repeat(62)].join(&b'.');
    assert_eq!(longest.len(), 254);
    let named = |name: &[u8]| Sample { name: Some(name), ..Sample::default() }.wire();
    let malformed = |name, sends| refused(name, sends, MALFORMED, DECODE_ERROR);
    vec![
        malformed("an empty record", altered(good.clone(), 3, &[0, 0])),
        malformed("a record of more than 16 KiB", altered(good.clone(), 3, &[0x40, 0x01])),
        malformed("a ServerHello", altered(good.clone(), 5, &[2])),
        malformed("data before the hello is complete", [&altered(good.clone(), 6, &[0, 0, 250])[..], &[23]].concat()),
        malformed("a message shorter than its record", altered(good.clone(), 6, &[0, 0, 50])),
        malformed("a session id of 200 bytes", altered(good.clone(), 43, &[200])),
        malformed("server_name twice", with(&[(0, b"\0\x04\0\0\x01a")])),
        malformed("another extension twice", with(&[(10, b"\0\x02\0\x1d")])),
        malformed("an unknown extension twice", with(&[(4711, b""), (4711, b"")])),
        malformed("an empty list of protocols", with(&[(16, b"\0\0")])),
        malformed("an empty protocol", with(&[(16, b"\0\x01\0")])),
        malformed("a name of 254 characters", named(&longest)),
        malformed("an empty name", named(b"")),
        malformed("a name with a space", named(b"www example")),
        malformed("a name with an empty label", named(b"www..example.com")),
        malformed("a label of 64 characters", named(&b"a".repeat(64))),
        refused(
            "more than 64 KiB by its own account",
            altered(good.clone(), 6, &[2, 0, 0]),
            ("hello_too_large", "client"),
            DECODE_ERROR,
        ),
        refused(
            "more than 1,024 records",
            sample::records(&Sample { padding: 2000, ..Sample::default() }.message(), 1),
            ("hello_too_large", "client"),
            DECODE_ERROR,
        ),
    ]
}

fn no_way_to_go() -> Vec<Case> {
    const NO_ROUTE: (&str, &str) = ("no_route", "policy");
    const DENIED: (&str, &str) = ("denied", "policy");
    let nameless = |name| Sample { name, ..Sample::default() }.wire();
    vec![
        refused("an unknown name", hello("unknown.example.com"), NO_ROUTE, UNRECOGNIZED_NAME),
        refused("a name above the known one", hello("example.com"), NO_ROUTE, UNRECOGNIZED_NAME),
        refused("a name below the known one", hello("a.www.example.com"), NO_ROUTE, UNRECOGNIZED_NAME),
        refused("no name", nameless(None), NO_ROUTE, UNRECOGNIZED_NAME),
        refused("an IPv4 name", nameless(Some(b"127.0.0.1")), NO_ROUTE, UNRECOGNIZED_NAME),
        refused("an IPv6 name", nameless(Some(b"2001:db8::1")), NO_ROUTE, UNRECOGNIZED_NAME),
        refused("no protocol where one is asked for", hello("h2.example.com"), DENIED, ACCESS_DENIED),
        refused("another protocol", with_alpn("h2.example.com", &["http/1.1"]), DENIED, ACCESS_DENIED),
        refused("another source", hello("far.example.com"), DENIED, ACCESS_DENIED),
        refused("acme-tls/1 for a name that has it not", with_alpn("www.example.com", &["acme-tls/1"]), NO_ROUTE, {
            UNRECOGNIZED_NAME
        }),
        refused("no protocol for a name that has acme-tls/1 only", hello("acme.example.com"), NO_ROUTE, {
            UNRECOGNIZED_NAME
        }),
    ]
}

fn endpoints_that_fail() -> Vec<Case> {
    let mut slow = refused("nobody answers", hello("unreachable.example.com"), ("connect_timeout", "endpoint"), {
        INTERNAL_ERROR
    });
    slow.takes = CONNECT_OVER;
    let silent = |name, sni| Case {
        whatever_follows: false,
        ..refused(name, hello(sni), ("endpoint_silent", "endpoint"), INTERNAL_ERROR)
    };
    vec![
        slow,
        refused("both refuse", hello("refusing.example.com"), ("connect_failed", "endpoint"), INTERNAL_ERROR),
        refused("no socket there", hello("absent.example.com"), ("connect_failed", "endpoint"), INTERNAL_ERROR),
        refused("no such host", hello("unresolved.example.com"), ("no_endpoint", "policy"), INTERNAL_ERROR),
        silent("both hang up at once", "rude.example.com"),
        silent("both hang up after the hello", "deaf.example.com"),
        silent("the only one hangs up after the hello", "alone.example.com"),
    ]
}

fn too_slow() -> Vec<Case> {
    let good = hello("www.example.com");
    let slow = |name, sends| Case {
        name,
        sends,
        outcome: "hello_timeout",
        by: "client",
        alert: None,
        takes: OPEN_OVER,
        whatever_follows: false,
    };
    let dripped = vec![(Duration::ZERO, good[..1].to_vec()), (Duration::from_secs(1), good[1..2].to_vec())];
    vec![
        slow("silent", Vec::new()),
        slow("silent after a byte", vec![(Duration::ZERO, good[..1].to_vec())]),
        slow("silent before the last byte", vec![(Duration::ZERO, good[..good.len() - 1].to_vec())]),
        slow("a byte a second", dripped),
    ]
}

impl Case {
    /// The same client, which goes on talking before it listens.
    fn talkative(mut self) -> Case {
        if let Some((_, last)) = self.sends.last_mut() {
            last.extend(sample::records(&[0x55; 20_000], 1000));
        }
        self
    }

    /// Plays the client and compares.
    fn play(&self, at: SocketAddr, log: &Log) {
        let began = Instant::now();
        let mut client = Client::connect(at);
        for (pause, bytes) in &self.sends {
            std::thread::sleep(*pause);
            // One that was sent away meanwhile learns it below.
            let _ = client.0.write_all(bytes);
        }
        let answer = client.rest();
        let took = began.elapsed();
        let expected = self.alert.map_or(Vec::new(), |alert| vec![21, 3, 3, 0, 2, 2, alert]);
        let name = self.name;
        let record = log.record_of(&client.address());
        assert!(
            answer.as_ref().is_ok_and(|answer| *answer == expected),
            "{name}: sent {:02x?}...; expected {expected:02x?} and a clean end, got {answer:02x?}; {record}",
            self.sends.iter().flat_map(|(_, bytes)| bytes).take(200).collect::<Vec<_>>()
        );
        assert_eq!((&record["outcome"], &record["by"]), (&self.outcome.into(), &self.by.into()), "{name}: {record}");
        let (least, most) = self.takes;
        assert!(least <= took && took <= most, "{name}: took {took:?}, not {least:?} to {most:?}; {record}");
    }
}

#[test]
fn everyone_is_refused_in_their_own_way_and_nothing_is_left_of_them() {
    let (edge, admin, refusing) = (free_address(), free_address(), [free_address(), free_address()]);
    let good = Endpoint::start(Manner::Echoes);
    let rude = [Endpoint::start(Manner::HangsUpAfter(0)), Endpoint::start(Manner::HangsUpAfter(0))];
    let deaf = [Endpoint::start(Manner::HangsUpAfter(1)), Endpoint::start(Manner::HangsUpAfter(1))];
    let unreachable = Unreachable::start();
    let pool = |name: &str, endpoints: String| {
        format!(
            "route.{name} = {{ listener = 'edge', sni = '{name}.example.com', pool = '{name}' }}\n\
             pool.{name}.endpoints = {endpoints}\n"
        )
    };
    let pair = |addresses: [SocketAddr; 2]| format!("['{}', '{}']", addresses[0], addresses[1]);
    let config = [
        format!("runtime.workers = 2\nadmin.http = '{admin}'\ntimeouts.open = '1500ms'\ntimeouts.connect = '500ms'\n"),
        format!("listener.edge.bind = '{edge}'\n"),
        pool("www", format!("['{}']", good.address())),
        "route.h2 = { listener = 'edge', sni = 'h2.example.com', alpn = 'h2', pool = 'www' }\n".into(),
        "route.far = { listener = 'edge', sni = 'far.example.com', from = '192.0.2.0/24', pool = 'www' }\n".into(),
        "route.acme = { listener = 'edge', sni = 'acme.example.com', alpn = 'acme-tls/1', pool = 'www' }\n".into(),
        pool("unreachable", format!("['{}']", unreachable.address())),
        pool("refusing", pair(refusing)),
        pool("absent", "['unix:/nonexistent/a.sock', 'unix:/nonexistent/b.sock']".into()),
        pool("unresolved", "['nowhere.invalid:443']".into()),
        pool("rude", pair(rude.each_ref().map(Endpoint::address))),
        pool("deaf", pair(deaf.each_ref().map(Endpoint::address))),
        pool("alone", format!("['{}']", deaf[0].address())),
    ];
    let process = Process::start(&config.concat());
    let log = process.log();
    let serve = || {
        let hello = hello("www.example.com");
        Client::sending(edge, &hello).expect(&hello);
    };
    serve();
    let metrics = || get(admin, "/metrics").1;
    settled(&metrics);
    // The connection of the page may still be there at the first look.
    let look = |_| {
        std::thread::sleep(Duration::from_millis(10));
        process.descriptors()
    };
    let descriptors = (0..20).map(look).min().unwrap();

    let cases: Vec<Case> = [not_a_hello(), broken_hellos(), no_way_to_go(), endpoints_that_fail(), too_slow()]
        .into_iter()
        .flatten()
        .collect();
    let talkative = cases.iter().filter(|case| case.whatever_follows).count();
    let count = cases.len() + talkative;
    std::thread::scope(|scope| {
        for case in cases {
            let log = &log;
            scope.spawn(move || {
                case.play(edge, log);
                if case.whatever_follows {
                    case.talkative().play(edge, log);
                }
            });
        }
    });

    serve();
    process.records(count + 2);
    settled(&metrics);
    let left = (0..200).map(look).find(|count| *count <= descriptors);
    assert!(left.is_some(), "{} descriptors, {descriptors} at the start", process.descriptors());
    assert_eq!(good.connections(), 2, "nobody else has reached an endpoint");
}

/// Waits until every gauge that counts something of a session is zero.
fn settled(metrics: &impl Fn() -> String) {
    let gauges = [
        "pointsman_listener_active_sessions",
        "pointsman_worker_active_sessions",
        "pointsman_endpoint_active_sessions",
        "pointsman_opening_memory_bytes",
    ];
    eventually("every gauge is zero", || {
        let page = metrics();
        let mut lines = page.lines().filter(|line| gauges.iter().any(|gauge| line.starts_with(gauge)));
        lines.all(|line| line.ends_with(" 0")).then_some(())
    });
}

#[test]
fn a_route_without_names_and_one_for_acme_take_what_is_theirs() {
    let (plain, acme) = (Endpoint::start(Manner::Answers("plain")), Endpoint::start(Manner::Answers("acme")));
    let balancer = crate::harness::Balancer::start(&format!(
        r#"
        listener.edge.bind = "127.0.0.1:0"
        route.plain = {{ listener = "edge", pool = "plain" }}
        route.acme = {{ listener = "edge", sni = "www.example.com", alpn = "acme-tls/1", pool = "acme" }}
        pool.plain.endpoints = ["{}"]
        pool.acme.endpoints = ["{}"]
        "#,
        plain.address(),
        acme.address()
    ));
    for (case, sent, answer) in [
        ("no name", Sample::default().wire(), "plain"),
        ("an address", hello("192.0.2.1"), "plain"),
        ("any name", hello("any.example.com"), "plain"),
        ("the name of the acme route", hello("www.example.com"), "plain"),
        ("its name and protocol", with_alpn("www.example.com", &["acme-tls/1"]), "acme"),
    ] {
        let mut client = Client::sending(balancer.address("edge"), &sent);
        client.finish();
        let heard = client.rest();
        assert!(heard.as_ref().is_ok_and(|heard| heard == answer.as_bytes()), "{case}: {heard:?}, not {answer}");
    }
}
