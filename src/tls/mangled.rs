//! Clients that break the rules, for tests and fuzzing. Whatever they say nothing panics, what is kept stays small, nothing
//! is opened but what a client has sealed, and after an error nothing at all.

#![cfg_attr(fuzzing, allow(clippy::unwrap_used, clippy::indexing_slicing))]
#![cfg_attr(not(fuzzing), allow(unreachable_pub, reason = "what fuzzing calls"))]

use std::io::{Read, Write};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use rustls::{ClientConfig, ClientConnection, Error, HandshakeKind, RootCertStore, ServerConfig, version};

use super::certificates::Certificates;
use super::sample::{Folder, bundle};
use super::sealed::{MOST_UNOPENED, Sealed};
use super::server::server_config;
use super::tickets::{Secrets, Tickets};
use crate::config::model::{MinVersion, RouteTls};

const HELLOS: [&[u8]; 8] = [
    include_bytes!("../../tests/data/hellos/chromium-156-a.bin"),
    include_bytes!("../../tests/data/hellos/chromium-156-b.bin"),
    include_bytes!("../../tests/data/hellos/curl-openssl-3.0.bin"),
    include_bytes!("../../tests/data/hellos/firefox-esr.bin"),
    include_bytes!("../../tests/data/hellos/go-1.19.bin"),
    include_bytes!("../../tests/data/hellos/java-17.bin"),
    include_bytes!("../../tests/data/hellos/node-20.bin"),
    include_bytes!("../../tests/data/hellos/openssl-3.0-s_client.bin"),
];

/// The most that is to be sent to a client at once, in bytes, whatever it says: a few times the largest flight.
const MOST_OUTGOING: usize = 16 * 1024;
/// What the endpoint says each time that it is asked to.
const ANSWER: &[u8] = b"an answer";

/// One conversation with a client that does what `choices` say.
pub fn converse(choices: &[u8]) {
    let mut choices = Choices(choices);
    match choices.byte() % 2 {
        0 => recorded(&mut choices),
        _ => mangled(&mut choices),
    }
}

/// A recorded hello and then whatever comes.
fn recorded(choices: &mut Choices<'_>) {
    let mut hello = HELLOS[usize::from(choices.byte()) % HELLOS.len()].to_vec();
    let is_damaged = choices.byte() % 8 == 7 && damage(&mut hello, choices);
    let mut server = Server::new();
    let answer = server.take_all(&hello, choices);
    assert!(is_damaged || (server.error.is_none() && !answer.is_empty()), "{:?}", server.error);
    let rest = choices.rest();
    server.take_all(rest, choices);
    assert_eq!(server.opened, b"", "nobody has the keys");
}

/// A client that knows TLS, whose flights are damaged on their way.
fn mangled(choices: &mut Choices<'_>) {
    let kind = choices.byte();
    let mut config = scene().clients[usize::from(kind) % CLIENTS].clone();
    config.resumption = Resumption::in_memory_sessions(8);
    let config = Arc::new(config);
    if kind & 0x80 > 0 {
        // The one that is damaged has a ticket.
        conversation(&config, &mut Choices(&[]));
    }
    conversation(&config, choices);
}

fn conversation(config: &Arc<ClientConfig>, choices: &mut Choices<'_>) -> Option<HandshakeKind> {
    let mut client = ClientConnection::new(Arc::clone(config), "a.example".try_into().unwrap()).unwrap();
    let mut server = Server::new();
    let text: Vec<u8> = (0..=250).cycle().take(30 * usize::from(choices.number() % 1_000)).collect();
    let (mut said, mut is_damaged) = (false, false);
    let (mut answered, mut heard) = (Vec::<u8>::new(), Vec::new());
    loop {
        if !client.is_handshaking() && !said {
            said = true;
            // A client that was lied to says no more.
            let _ = client.writer().write_all(&text);
            if choices.byte() % 4 == 1 {
                // It asks for new ones in turn.
                let _ = client.refresh_traffic_keys();
            }
            client.send_close_notify();
        }
        let mut flight = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut flight).unwrap();
        }
        if flight.is_empty() {
            break;
        }
        is_damaged |= damage(&mut flight, choices);
        let mut back = server.take_all(&flight, choices);
        if !server.sealed.is_handshaking() && server.error.is_none() {
            answered.extend(ANSWER);
            back.extend(server.say(ANSWER));
        }
        let mut back = &back[..];
        while !back.is_empty() && client.read_tls(&mut back).is_ok_and(|bytes| bytes > 0) {
            if client.process_new_packets().is_err() {
                // What it has to say to that is the last that comes of it.
                break;
            }
        }
        let _ = client.reader().read_to_end(&mut heard);
    }
    assert!(text.starts_with(&server.opened), "opened what was never sealed");
    if !is_damaged {
        assert_eq!((&server.error, server.opened == text, heard == answered), (&None, true, true));
        assert!(server.sealed.has_peer_closed());
    }
    client.handshake_kind()
}

/// The side that is tried.
struct Server {
    sealed: Sealed,
    /// All that was opened.
    opened: Vec<u8>,
    error: Option<Error>,
}

impl Server {
    fn new() -> Server {
        Server { sealed: Sealed::with_client(&scene().server).unwrap(), opened: Vec::new(), error: None }
    }

    /// Takes these bytes in such pieces as the choices say. Gives what is sent back.
    fn take_all(&mut self, mut bytes: &[u8], choices: &mut Choices<'_>) -> Vec<u8> {
        let in_pieces = choices.byte() % 2 == 1;
        let mut back = Vec::new();
        while !bytes.is_empty() {
            let size = if in_pieces { 1 + usize::from(choices.byte()) * 7 } else { bytes.len() };
            let piece = bytes.split_off(..size.min(bytes.len())).unwrap();
            back.extend(self.take(piece));
        }
        back
    }

    fn take(&mut self, piece: &[u8]) -> Vec<u8> {
        let mut incoming = vec![0; MOST_UNOPENED];
        let before = self.sealed.put_unopened(&mut incoming);
        assert!(before <= MOST_UNOPENED, "{before} bytes are kept");
        incoming.truncate(before);
        incoming.extend_from_slice(piece);
        let opened_before = self.opened.len();
        let result = self.sealed.open(&mut incoming, |plain| self.opened.extend_from_slice(plain));
        let back = self.flush();
        if self.error.is_some() {
            assert!(result.is_err(), "it has failed already");
            assert_eq!((self.opened.len(), &back[..]), (opened_before, &b""[..]), "after an error");
            return back;
        }
        self.error = result.err();
        if self.error.is_some() {
            assert!(self.sealed.seal(b"more", &mut [0; 1024]).is_err(), "sealed after an error");
            self.sealed.close();
            assert_eq!(self.sealed.outgoing(), b"", "an end was said after an error");
        }
        back
    }

    fn say(&mut self, plain: &[u8]) -> Vec<u8> {
        let mut room = vec![0; self.sealed.room_for(plain.len())];
        let length = self.sealed.seal(plain, &mut room).unwrap();
        room.truncate(length);
        room
    }

    fn flush(&mut self) -> Vec<u8> {
        let back = self.sealed.outgoing().to_vec();
        assert!(back.len() <= MOST_OUTGOING, "{} bytes are to be sent", back.len());
        self.sealed.sent(back.len());
        back
    }
}

/// Damages a flight in one of many ways, or not; whether it is another one now.
fn damage(flight: &mut Vec<u8>, choices: &mut Choices<'_>) -> bool {
    let original = flight.clone();
    let how = choices.byte() % 16;
    let at = if how == 0 || flight.is_empty() { 0 } else { usize::from(choices.number()) % flight.len() };
    let end = |choices: &mut Choices<'_>| (at + 1 + usize::from(choices.byte())).min(original.len());
    match how {
        1 => flight[at] ^= choices.byte(),
        2 => flight.truncate(at),
        3 => drop(flight.drain(at..end(choices))),
        4 => {
            let again = original[at..end(choices)].to_vec();
            drop(flight.splice(at..at, again));
        }
        5 => {
            let length = usize::from(choices.byte());
            drop(flight.splice(at..at, choices.bytes(length).to_vec()));
        }
        6 => {
            let length = usize::from(choices.number());
            drop(flight.splice(at.., choices.bytes(length).to_vec()));
        }
        7 => flight.extend_from_slice(&original),
        8 => {
            // The type, the version or the length of a record.
            let heads = heads(&original);
            let byte = heads[at % heads.len()] + usize::from(choices.byte()) % 5;
            if let Some(byte) = flight.get_mut(byte) {
                *byte = choices.byte();
            }
        }
        9 => {
            // Another order of records.
            let heads = heads(&original);
            let cut = heads[at % heads.len()].min(original.len());
            flight.rotate_left(cut);
        }
        _ => {}
    }
    *flight != original
}

/// Where the records of a flight begin.
fn heads(flight: &[u8]) -> Vec<usize> {
    let mut heads = vec![0];
    while let Some(&[high, low]) = heads.last().and_then(|head| flight.get(head + 3..head + 5)) {
        let next = heads[heads.len() - 1] + 5 + usize::from(u16::from_be_bytes([high, low]));
        if next >= flight.len() {
            break;
        }
        heads.push(next);
    }
    heads
}

/// What is still to be decided by; zeros once there is nothing left.
struct Choices<'c>(&'c [u8]);

impl<'c> Choices<'c> {
    fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    fn number(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// So many, or as many as there are.
    fn bytes(&mut self, count: usize) -> &'c [u8] {
        self.0.split_off(..count.min(self.0.len())).unwrap_or_default()
    }

    fn rest(&mut self) -> &'c [u8] {
        self.bytes(usize::MAX)
    }
}

/// How many kinds of clients there are.
const CLIENTS: usize = 4;

struct Scene {
    server: Arc<ServerConfig>,
    clients: [ClientConfig; CLIENTS],
}

/// A route with a certificate for a.example, and clients that trust it.
fn scene() -> &'static Scene {
    static SCENE: OnceLock<Scene> = OnceLock::new();
    SCENE.get_or_init(|| {
        let folder = Folder::new();
        folder.write("a.pem", bundle(&["a.example"], "p256"));
        let (loaded, problems) = Certificates::load(&[folder.path()], Vec::new(), None, SystemTime::now());
        assert!(problems.is_empty());
        let tls = RouteTls {
            certificates: vec![folder.path()],
            default: None,
            alpn: Vec::new(),
            min_version: MinVersion::Tls12,
            handshake: Duration::from_secs(5),
            clients: None,
            loaded: Arc::new(loaded),
        };
        let tickets = Tickets::new(Secrets::random(Instant::now()).unwrap(), "www", b"");
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(folder.join("a.pem")).unwrap()).unwrap();
        let client = |versions: &[&'static _], groups: &[&'static _]| {
            let provider = CryptoProvider { kx_groups: groups.to_vec(), ..aws_lc_rs::default_provider() };
            let builder = ClientConfig::builder_with_provider(Arc::new(provider));
            let builder = builder.with_protocol_versions(versions).unwrap();
            builder.with_root_certificates(roots.clone()).with_no_client_auth()
        };
        use aws_lc_rs::kx_group::{MLKEM768, SECP256R1, X25519, X25519MLKEM768};
        Scene {
            server: server_config(&tls, Arc::clone(&tls.loaded), tickets, None),
            clients: [
                client(&[&version::TLS13, &version::TLS12], &[X25519MLKEM768, X25519]),
                client(&[&version::TLS12], &[X25519]),
                client(&[&version::TLS13], &[X25519]),
                // Offers first what nobody here takes, and has to say hello once more.
                client(&[&version::TLS13], &[MLKEM768, SECP256R1]),
            ],
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn undamaged_conversations_succeed() {
        for (kind, whole) in [(0, HandshakeKind::Full), (1, HandshakeKind::Full), (2, HandshakeKind::Full)] {
            let mut config = scene().clients[kind].clone();
            config.resumption = Resumption::in_memory_sessions(8);
            let config = Arc::new(config);
            for expected in [whole, HandshakeKind::Resumed] {
                // 4,800 bytes.
                let kind = conversation(&config, &mut Choices(&[0, 160]));
                assert_eq!(kind, Some(expected));
            }
        }
        let kind = conversation(&Arc::new(scene().clients[3].clone()), &mut Choices(&[1, 0]));
        assert_eq!(kind, Some(HandshakeKind::FullWithHelloRetryRequest));
    }

    #[test]
    fn whatever_is_said() {
        let mut dice = fastrand::Rng::with_seed(1);
        for _ in 0..1_500 {
            // Few of the many ways to damage a flight are chosen by lot alone.
            let choices: Vec<u8> =
                (0..dice.usize(..400)).map(|_| if dice.bool() { dice.u8(..12) } else { dice.u8(..) }).collect();
            converse(&choices);
        }
    }

    #[test]
    fn what_comes_behind_the_last_word_is_ignored() {
        let mut client =
            ClientConnection::new(Arc::new(scene().clients[0].clone()), "a.example".try_into().unwrap()).unwrap();
        let mut server = Server::new();
        while client.is_handshaking() {
            let mut flight = Vec::new();
            client.write_tls(&mut flight).unwrap();
            let back = server.take(&flight);
            client.read_tls(&mut &back[..]).unwrap();
            client.process_new_packets().unwrap();
        }
        client.writer().write_all(b"the last word").unwrap();
        client.send_close_notify();
        let mut flight = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut flight).unwrap();
        }
        flight.resize(flight.len() + 3 * MOST_UNOPENED, 0x17);
        server.take(&flight);
        assert_eq!((&server.error, &server.opened[..]), (&None, &b"the last word"[..]));
        assert!(server.sealed.has_peer_closed());
        assert!(!server.say(b"but here goes on").is_empty());
    }
}
