//! The record of one connection: what is known of it by its end, and what the access log says of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::outcome::{Outcome, Side};
use crate::wire::client_hello::Versions;
use crate::wire::protocols::Protocols;

/// Everything that is told about one connection once it has ended.
#[derive(Clone, Debug)]
pub struct Record {
    /// Unique within this process, counting from 1.
    pub id: u64,
    /// When it was accepted.
    pub start: SystemTime,
    /// Name of the listener.
    pub listener: Arc<str>,
    /// Where the client is; `None` behind a unix socket.
    pub client: Option<SocketAddr>,
    /// Who has spoken for the client in a PROXY header, if anybody has.
    pub proxy: Option<Box<Peer>>,
    /// What the ClientHello said; `None` where none was read.
    pub hello: Option<Said>,
    /// How the handshake went; `None` where TLS does not end here, or the connection did not get that far.
    pub handshake: Option<Box<Handshake>>,
    /// How the last handshake with an endpoint went; `None` where TLS does not begin here, or none was reached.
    pub endpoint_handshake: Option<Box<Handshake>>,
    /// Name of the route, once one was found.
    pub route: Option<Arc<str>>,
    /// Name of the route's pool.
    pub pool: Option<Arc<str>>,
    /// Name of the endpoint tried last.
    pub endpoint: Option<Arc<str>>,
    /// How it ended.
    pub outcome: Outcome,
    /// Who ended it.
    pub by: Side,
    /// From the first attempt to connect to the established connection; `None` if none was established.
    pub connect: Option<Duration>,
    /// From accept to the end.
    pub total: Duration,
    /// Bytes delivered from the client to the endpoint.
    pub bytes_up: u64,
    /// Bytes delivered from the endpoint to the client.
    pub bytes_down: u64,
}

/// Where whoever connected is; `None` behind a unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer(pub Option<SocketAddr>);

/// What a ClientHello said, as far as it is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// The host name; `None`: none, or an address.
    pub sni: Option<Box<str>>,
    /// Protocols offered, in the client's order.
    pub alpn: Protocols,
    /// TLS versions offered as code points, GREASE left out, in the client's order.
    pub versions: Versions,
    /// Encrypted Client Hello was offered: `sni` is only the outer name.
    pub ech: bool,
}

/// What became of a handshake.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Handshake {
    /// The version that was agreed on, `1.3` or `1.2`.
    pub version: Option<&'static str>,
    /// The cipher suite, as IANA calls it.
    pub suite: Option<&'static str>,
    /// The group of the key exchange, as IANA calls it.
    pub group: Option<&'static str>,
    /// The protocol that was agreed on (ALPN).
    pub protocol: Option<Box<[u8]>>,
    /// A session of before was resumed.
    pub resumed: bool,
    /// The certificate that the client has shown, also where it was refused.
    pub client: Option<Presented>,
    /// How long it took.
    pub took: Duration,
    /// Why it failed, in words.
    pub error: Option<Box<str>>,
}

/// Who the client is by its certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Presented {
    /// The subject as text (RFC 4514).
    pub subject: Box<str>,
    /// Who issued the certificate, in the same way.
    pub issuer: Box<str>,
    /// The number that the issuer gave it, hexadecimal.
    pub serial: Box<str>,
    /// Alternative names, each with its kind in front, such as `DNS:a.example`.
    pub names: Vec<Box<str>>,
}

impl Record {
    /// The record of a connection that was sent away before anything was known of it.
    pub fn unserved(id: u64, listener: &Arc<str>, client: Option<SocketAddr>, outcome: Outcome, by: Side) -> Record {
        Record {
            id,
            start: SystemTime::now(),
            listener: Arc::clone(listener),
            client,
            proxy: None,
            hello: None,
            handshake: None,
            endpoint_handshake: None,
            route: None,
            pool: None,
            endpoint: None,
            outcome,
            by,
            connect: None,
            total: Duration::ZERO,
            bytes_up: 0,
            bytes_down: 0,
        }
    }
}
