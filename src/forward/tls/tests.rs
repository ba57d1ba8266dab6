//! Handshake and forwarder between real sockets, with a client of rustls and an endpoint that echoes or is told what to do.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned, SupportedProtocolVersion};
use tokio::time::timeout;

use super::*;
use crate::detect::Opening;
use crate::forward::closing;
use crate::forward::tests::connection;
use crate::refusal::Manner;
use crate::stream::Family;
use crate::table::{Identity, Limits};
use crate::tls::sealed::Sealed;

type Client = StreamOwned<ClientConnection, TcpStream>;

fn configs(versions: &[&'static SupportedProtocolVersion]) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
    let (der, key) = (CertificateDer::from(cert), PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap());
    let mut roots = RootCertStore::empty();
    roots.add(der.clone()).unwrap();
    let client =
        ClientConfig::builder_with_protocol_versions(versions).with_root_certificates(roots).with_no_client_auth();
    let server = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![der], key).unwrap();
    (Arc::new(server), Arc::new(client))
}

/// Runs a session between what `client` and `endpoint` do on threads of their own; gives how it ended. It is run once with an
/// endpoint in clear, and once with one over TLS, which has to make no difference to anybody.
fn session(
    versions: &[&'static SupportedProtocolVersion],
    client: impl FnOnce(Client) + Clone + Send + 'static,
    endpoint: impl FnOnce(TcpStream) + Clone + Send + 'static,
) -> (End, (u64, u64)) {
    let clear = one_session(versions, client.clone(), endpoint.clone(), false);
    let sealed = one_session(versions, client, endpoint, true);
    assert_eq!(format!("{:?}", clear.0), format!("{:?}", sealed.0), "in clear and over TLS");
    // How much of what a lost side had sent could still be read is up to the system.
    if !matches!(clear.0, End::Lost(..)) {
        assert_eq!(clear.1, sealed.1, "in clear and over TLS");
    }
    clear
}

/// With `sealed` there are two forwarders in a row, the second of which is the endpoint of the first, over TLS.
fn one_session(
    versions: &[&'static SupportedProtocolVersion],
    client: impl FnOnce(Client) + Send + 'static,
    endpoint: impl FnOnce(TcpStream) + Send + 'static,
    sealed: bool,
) -> (End, (u64, u64)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let ((far_client, near_client), (far_endpoint, near_endpoint)) = (connection(), connection());
        let (server, config) = configs(versions);
        let endpoints = Arc::clone(&config);
        let client = thread::spawn(move || {
            let connection = ClientConnection::new(config, ServerName::try_from("a.test").unwrap()).unwrap();
            client(StreamOwned::new(connection, far_client));
        });
        let endpoint = thread::spawn(move || endpoint(far_endpoint));
        let tools = Tools::new(1);
        let accepted = accept(&near_client, &server, &tools).await;
        let (end, bytes) = if sealed {
            let (far, between) = connection();
            far.set_nonblocking(true).unwrap();
            let between_far = Stream::new(far.into(), Family::Tcp).unwrap();
            let sealed = Sealed::with_endpoint(endpoints, ServerName::try_from("a.test").unwrap(), Vec::new()).unwrap();
            let (joined, second) =
                tokio::join!(handshake::greet(&between, sealed, &tools), accept(&between_far, &server, &tools));
            let joined = joined.unwrap_or_else(|_| panic!("no handshake"));
            let (first, _) = tokio::join!(
                forward((near_client, Some(accepted)), (between, Some(Box::new(joined))), &tools),
                forward((between_far, Some(second)), (near_endpoint, None), &tools),
            );
            first
        } else {
            forward((near_client, Some(accepted)), (near_endpoint, None), &tools).await
        };
        client.join().unwrap();
        endpoint.join().unwrap();
        (end, bytes)
    })
}

async fn accept(client: &Stream, server: &Arc<ServerConfig>, tools: &Tools) -> Box<Accepted> {
    let deadline = Instant::now() + Duration::from_secs(5);
    let accepted = handshake::accept(client, Opening::of(Vec::new(), true), server, tools, deadline).await;
    accepted.unwrap_or_else(|refused| panic!("{:?}", refused.why))
}

/// Forwards, and closes both as a session does.
async fn forward(
    (client, accepted): (Stream, Option<Box<Accepted>>),
    (endpoint, joined): (Stream, Option<Box<Joined>>),
    tools: &Tools,
) -> (End, (u64, u64)) {
    let entry = Entry::new(Identity::nobody(), 0, Limits::default());
    let forward = ForwardTls::new((&client, accepted, None), (&endpoint, joined), Manner::Silent, tools, &entry);
    let end = timeout(Duration::from_secs(30), forward).await.expect("the forwarder hangs");
    match end {
        End::Lost(Side::Client, _) | End::Broken(Side::Client, _) => closing::reset_after_delivery(endpoint).await,
        End::Lost(..) | End::Broken(..) => closing::reset_after_delivery(client).await,
        _ => {}
    }
    (end, entry.bytes())
}

fn echo(mut endpoint: TcpStream) {
    let mut buffer = vec![0; 100_000];
    loop {
        match endpoint.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(received) => endpoint.write_all(&buffer[..received]).unwrap(),
        }
    }
}

/// Bytes of which no two places look the same.
fn pattern(length: usize) -> Vec<u8> {
    (0..length as u32).flat_map(|index| index.wrapping_mul(2_654_435_761).to_le_bytes()).take(length).collect()
}

const BOTH: [&[&SupportedProtocolVersion]; 2] = [&[&rustls::version::TLS13], &[&rustls::version::TLS12]];

#[test]
fn what_is_said_comes_back_in_both_versions() {
    for versions in BOTH {
        let talk = |mut client: Client| {
            for length in [1, 200, 16_384, 16_385, 300_000] {
                let sent = pattern(length);
                client.write_all(&sent).unwrap();
                let mut back = vec![0; length];
                client.read_exact(&mut back).unwrap();
                assert!(back == sent, "{length} bytes");
            }
            client.conn.send_close_notify();
            client.flush().unwrap();
            assert_eq!(client.read(&mut [0; 1]).unwrap(), 0, "a clean end is answered by one");
        };
        let (end, bytes) = session(versions, talk, echo);
        assert!(matches!(end, End::Finished(Side::Client)), "{end:?}");
        assert_eq!(bytes, (332_970, 332_970));
    }
}

#[test]
fn bulk_survives_slow_readers_on_either_side() {
    const LENGTH: usize = 8 << 20;
    // Down: the client sleeps before it reads.
    let slow = |mut client: Client| {
        client.write_all(b"go").unwrap();
        thread::sleep(Duration::from_millis(300));
        let mut back = Vec::new();
        client.read_to_end(&mut back).unwrap();
        assert!(back == pattern(LENGTH));
    };
    let source = |mut endpoint: TcpStream| {
        endpoint.read_exact(&mut [0; 2]).unwrap();
        endpoint.write_all(&pattern(LENGTH)).unwrap();
    };
    let (end, bytes) = session(BOTH[0], slow, source);
    assert!(matches!(end, End::Finished(Side::Endpoint)), "{end:?}");
    assert_eq!(bytes, (2, LENGTH as u64));
    // Up: the endpoint does.
    let sends = |mut client: Client| {
        client.write_all(&pattern(LENGTH)).unwrap();
        client.conn.send_close_notify();
        client.flush().unwrap();
        assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    };
    let sink = |mut endpoint: TcpStream| {
        thread::sleep(Duration::from_millis(300));
        let mut came = Vec::new();
        endpoint.read_to_end(&mut came).unwrap();
        assert!(came == pattern(LENGTH));
    };
    let (end, bytes) = session(BOTH[0], sends, sink);
    assert!(matches!(end, End::Finished(Side::Client)), "{end:?}");
    assert_eq!(bytes, (LENGTH as u64, 0));
}

#[test]
fn half_closed_sessions_go_on_in_the_other_direction() {
    let client = |mut client: Client| {
        client.write_all(b"question").unwrap();
        client.conn.send_close_notify();
        client.flush().unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, b"answer");
    };
    let endpoint = |mut endpoint: TcpStream| {
        let mut question = Vec::new();
        endpoint.read_to_end(&mut question).unwrap();
        assert_eq!(question, b"question");
        thread::sleep(Duration::from_millis(200));
        endpoint.write_all(b"answer").unwrap();
    };
    let (end, bytes) = session(BOTH[0], client, endpoint);
    assert!(matches!(end, End::Finished(Side::Client)), "{end:?}");
    assert_eq!(bytes, (8, 6));
}

#[test]
fn a_record_that_was_changed_ends_the_session_with_an_alert() {
    let client = |mut client: Client| {
        client.write_all(b"good").unwrap();
        client.read_exact(&mut [0; 4]).unwrap();
        client.sock.write_all(&[23, 3, 3, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
        let error = client.read(&mut [0; 1]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
    };
    let (end, _) = session(BOTH[0], client, echo);
    assert!(matches!(end, End::Broken(Side::Client, _)), "{end:?}");
}

#[test]
fn what_came_before_a_broken_record_is_delivered_to_a_slow_endpoint() {
    const LENGTH: usize = 6 << 20;
    let client = |mut client: Client| {
        client.write_all(&pattern(LENGTH)).unwrap();
        client.sock.write_all(&[23, 3, 3, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
        assert!(client.read(&mut [0; 1]).is_err());
    };
    let endpoint = |mut endpoint: TcpStream| {
        thread::sleep(Duration::from_millis(300));
        let mut received = vec![0; LENGTH];
        endpoint.read_exact(&mut received).unwrap();
        assert!(received == pattern(LENGTH));
        assert!(endpoint.read(&mut [0; 1]).is_err(), "a cut, and no end");
    };
    let (end, bytes) = session(BOTH[0], client, endpoint);
    assert!(matches!(end, End::Broken(Side::Client, _)), "{end:?}");
    assert_eq!(bytes, (LENGTH as u64, 0));
}

#[test]
fn the_reset_of_an_endpoint_is_its_own() {
    let client = |mut client: Client| {
        client.write_all(b"hello").unwrap();
        client.read_exact(&mut [0; 2]).unwrap();
        assert!(client.read(&mut [0; 1]).is_err(), "cut, and not ended");
    };
    let endpoint = |mut endpoint: TcpStream| {
        endpoint.read_exact(&mut [0; 5]).unwrap();
        endpoint.write_all(b"hi").unwrap();
        thread::sleep(Duration::from_millis(200));
        socket2::SockRef::from(&endpoint).set_linger(Some(Duration::ZERO)).unwrap();
    };
    let (end, _) = session(BOTH[0], client, endpoint);
    assert!(matches!(end, End::Lost(Side::Endpoint, Outcome::EndpointReset)), "{end:?}");
}

#[test]
fn an_endpoint_that_ends_without_an_answer_is_told_apart() {
    for reset in [false, true] {
        let client = move |mut client: Client| {
            client.write_all(b"hello").unwrap();
            // A cut is no end.
            assert_eq!(client.read(&mut [0; 1]).is_err(), reset);
        };
        let endpoint = move |mut endpoint: TcpStream| {
            endpoint.read_exact(&mut [0; 5]).unwrap();
            if reset {
                socket2::SockRef::from(&endpoint).set_linger(Some(Duration::ZERO)).unwrap();
            }
        };
        let (end, _) = session(BOTH[0], client, endpoint);
        assert!(matches!(end, End::Unanswered(None)), "{end:?}");
    }
}

#[test]
fn what_an_endpoint_sent_before_its_reset_still_arrives() {
    const LENGTH: usize = 3 << 20;
    let client = |mut client: Client| {
        client.write_all(b"go").unwrap();
        thread::sleep(Duration::from_millis(500));
        let mut came = vec![0; LENGTH];
        let mut count = 0;
        while let Ok(received @ 1..) = client.read(&mut came[count..]) {
            count += received;
        }
        // How much of it the kernel still had when the reset came is not ours to say, but what we had read is delivered.
        assert!(count > 100_000 && came[..count] == pattern(LENGTH)[..count], "{count}");
    };
    let endpoint = |mut endpoint: TcpStream| {
        endpoint.read_exact(&mut [0; 2]).unwrap();
        endpoint.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
        let _ = endpoint.write_all(&pattern(LENGTH));
        socket2::SockRef::from(&endpoint).set_linger(Some(Duration::ZERO)).unwrap();
    };
    let (end, _) = session(BOTH[0], client, endpoint);
    assert!(matches!(end, End::Lost(Side::Endpoint, Outcome::EndpointReset)), "{end:?}");
}

/// What comes of a handshake with a client that does this on a thread of its own.
fn handshake(client: impl FnOnce(Client) + Send + 'static) -> Result<Box<handshake::Accepted>, handshake::Refused> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (far, near) = connection();
        let (server, config) = configs(BOTH[1]);
        let client = thread::spawn(move || {
            let connection = ClientConnection::new(config, ServerName::try_from("a.test").unwrap()).unwrap();
            client(StreamOwned::new(connection, far));
        });
        let deadline = Instant::now() + Duration::from_secs(5);
        let made = handshake::accept(&near, Opening::of(Vec::new(), true), &server, &Tools::new(1), deadline).await;
        drop(near);
        client.join().unwrap();
        made
    })
}

#[test]
fn half_a_message_and_then_nonsense_is_refused_with_an_alert() {
    for nonsense in [
        // A message that says it is longer than any may be.
        &b"\x16\x03\x03\x00\x04\x10\x01\x00\x00"[..],
        // Half a message, and then something else.
        b"\x16\x03\x03\x00\x02\x10\x00\x17\x03\x03\x00\x01\x00",
        b"\x16\x03\x03\x00\x01\x10\x14\x03\x03\x00\x01\x07",
        b"\x99\x99\x99\x99\x99\x99",
    ] {
        let refused = handshake(move |mut client| {
            client.conn.write_tls(&mut client.sock).unwrap();
            let _ = client.sock.read(&mut [0; 4096]).unwrap();
            client.sock.write_all(nonsense).unwrap();
            let mut answer = Vec::new();
            let _ = client.sock.read_to_end(&mut answer);
        });
        let refused = refused.err().unwrap_or_else(|| panic!("{nonsense:02x?} was taken"));
        assert_eq!(refused.failure.outcome, Outcome::HandshakeFailed, "{nonsense:02x?}");
        assert!(refused.why.is_some());
    }
}

#[test]
fn a_handshake_message_without_end_is_not_kept() {
    let refused = handshake(|mut client| {
        client.conn.write_tls(&mut client.sock).unwrap();
        let _ = client.sock.read(&mut [0; 4096]).unwrap();
        // A ClientKeyExchange of 65,535 bytes, in records of 1,000.
        let mut message = vec![0x10, 0, 0xff, 0xff];
        message.resize(65_000, 7);
        for piece in message.chunks(1_000) {
            let header = [0x16, 3, 3, (piece.len() >> 8) as u8, piece.len() as u8];
            if client.sock.write_all(&header).and_then(|()| client.sock.write_all(piece)).is_err() {
                return;
            }
        }
        let _ = client.sock.read_to_end(&mut Vec::new());
    });
    let refused = refused.err().expect("it has no end");
    assert_eq!(refused.failure.outcome, Outcome::HandshakeFailed);
}

#[test]
fn an_end_right_behind_the_handshake_reaches_the_endpoint() {
    let client = |mut client: Client| {
        // All that is left to say goes out together.
        while client.conn.is_handshaking() {
            if client.conn.wants_write() && client.conn.negotiated_cipher_suite().is_none() {
                client.conn.write_tls(&mut client.sock).unwrap();
            } else {
                client.conn.read_tls(&mut client.sock).unwrap();
                client.conn.process_new_packets().unwrap();
            }
        }
        client.conn.send_close_notify();
        let mut last = Vec::new();
        while client.conn.wants_write() {
            client.conn.write_tls(&mut last).unwrap();
        }
        client.sock.write_all(&last).unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, b"bye");
    };
    let endpoint = |mut endpoint: TcpStream| {
        assert_eq!(endpoint.read(&mut [0; 1]).unwrap(), 0);
        endpoint.write_all(b"bye").unwrap();
    };
    let (end, bytes) = session(BOTH[0], client, endpoint);
    assert!(matches!(end, End::Finished(Side::Client)), "{end:?}");
    assert_eq!(bytes, (0, 3));
}

#[test]
fn many_small_records_are_gathered() {
    let client = |mut client: Client| {
        for byte in 0..3_000_u32 {
            client.write_all(&[byte as u8]).unwrap();
        }
        let mut back = vec![0; 3_000];
        client.read_exact(&mut back).unwrap();
        assert!(back.iter().zip(0_u32..).all(|(byte, index)| *byte == index as u8));
        client.conn.send_close_notify();
        client.flush().unwrap();
        assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    };
    let (end, bytes) = session(BOTH[0], client, echo);
    assert!(matches!(end, End::Finished(Side::Client)), "{end:?}");
    assert_eq!(bytes, (3_000, 3_000));
}
