//! How a session introduces its client to endpoints: by a PROXY header in front of everything else, or by connecting from
//! the client's own address.

use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::time::SystemTime;

use crate::config::model::{SendProxy, SentTlvs};
use crate::listen::senders::Proxied;
use crate::pool::Pool;
use crate::stream::Stream;
use crate::table::Entry;
use crate::tls::handshake::Accepted;
use crate::tls::presented::common_name;
use crate::tls::sealed::Sealed;
use crate::wire::proxy_header::{self, Addresses, Kind, Ssl, SslKind, Tlvs};

/// What endpoints of one pool are to know of one client.
#[derive(Debug)]
pub(crate) struct Introduction {
    header: Option<Unsent>,
    /// Where the client is; `None` behind a unix socket.
    client: Option<IpAddr>,
    /// The client has said something that is sent at once.
    something_follows: bool,
}

/// A header that is not complete yet, or no longer needs to be changed.
#[derive(Debug)]
struct Unsent {
    how: SendProxy,
    addresses: Option<Addresses>,
    tlvs: Tlvs,
    bytes: Vec<u8>,
}

impl Introduction {
    /// Of the session of `entry`, which has this socket with its client, who asks for `name`. `None` where nothing is to be
    /// known, as with most pools.
    pub(crate) fn of(pool: &Pool, entry: &Entry, socket: &Stream, name: Option<&str>) -> Option<Box<Introduction>> {
        let header = pool.send_proxy.map(|how| Unsent {
            how,
            addresses: addresses(entry, socket),
            tlvs: match how {
                SendProxy::V1 => Tlvs::default(),
                SendProxy::V2(wanted) => tlvs(wanted, entry, name),
            },
            bytes: Vec::new(),
        });
        let client = entry.client().map(|client| client.ip());
        (header.is_some() || pool.is_transparent)
            .then(|| Box::new(Introduction { header, client, something_follows: false }))
    }

    /// All that is to be said of the client is known: its TLS, where it ends here, and whether it has said something that is
    /// sent at once.
    pub(crate) fn complete(mut self: Box<Self>, accepted: Option<&Accepted>, something_follows: bool) -> Box<Self> {
        self.something_follows = something_follows;
        if let Some(Unsent { how, addresses, tlvs, bytes }) = &mut self.header {
            *bytes = match *how {
                SendProxy::V1 => proxy_header::v1(*addresses),
                SendProxy::V2(wanted) => {
                    if let Some(accepted) = accepted {
                        add_tls(wanted, &accepted.sealed, tlvs);
                    }
                    proxy_header::v2(*addresses, &std::mem::take(tlvs), wanted.crc32c)
                }
            };
        }
        self
    }

    /// Sends the header, if there is one; `ahead` where something of ours follows at once, so that both may leave in one segment.
    ///
    /// # Errors
    /// Those of send(2).
    pub(crate) async fn send(&self, endpoint: &Stream, ahead: bool) -> io::Result<()> {
        let bytes = self.header.as_ref().map_or(&[][..], |header| &header.bytes);
        send(endpoint, bytes, ahead || self.something_follows).await
    }

    /// The address to connect from, if that is the client's.
    pub(crate) fn client(&self) -> Option<IpAddr> {
        self.client
    }
}

/// Sends all of these bytes in front of everything else.
///
/// # Errors
/// Those of send(2).
pub(crate) async fn send(endpoint: &Stream, mut bytes: &[u8], ahead: bool) -> io::Result<()> {
    while !bytes.is_empty() {
        let sent = poll_fn(|cx| match ahead {
            true => endpoint.poll_send_ahead(cx, bytes),
            false => endpoint.poll_send(cx, bytes),
        });
        bytes = bytes.get(sent.await?..).unwrap_or_default();
    }
    Ok(())
}

/// Both ends of the client's connection, as far as somebody knows them.
fn addresses(entry: &Entry, socket: &Stream) -> Option<Addresses> {
    let told = entry.proxied().and_then(|proxied| proxied.destination);
    Some(Addresses { source: entry.client()?, destination: told.or_else(|| socket.local_address())? })
}

/// What is said of a client before its TLS is known. What a proxy in front of us has said of it comes first, for that is
/// nearer to the client.
fn tlvs(wanted: SentTlvs, entry: &Entry, name: Option<&str>) -> Tlvs {
    let mut tlvs = Tlvs::default();
    if let Some(Proxied { tlvs: came, .. }) = entry.proxied().filter(|_| wanted.relayed) {
        // The checksum is of another header, and what fills up fills nothing here.
        let is_of_use = |kind| kind != Kind::Checksum as u8 && kind != Kind::Noop as u8;
        came.iter().filter(|(kind, _)| is_of_use(*kind)).for_each(|(kind, value)| {
            tlvs.add(kind, value);
        });
    }
    if let Some(name) = name.filter(|_| wanted.authority) {
        add(Kind::Authority, name.as_bytes(), &mut tlvs);
    }
    if wanted.unique_id {
        let since = entry.identity.start.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        add(Kind::UniqueId, format!("{}-{}", entry.identity.id, since.as_millis()).as_bytes(), &mut tlvs);
    }
    tlvs
}

/// What is said of TLS that ended here.
fn add_tls(wanted: SentTlvs, sealed: &Sealed, tlvs: &mut Tlvs) {
    if let Some(protocol) = sealed.protocol().filter(|_| wanted.alpn) {
        add(Kind::Alpn, protocol, tlvs);
    }
    if !wanted.ssl {
        return;
    }
    let agreed = sealed.agreed();
    let version = agreed.version.map(|version| format!("TLSv{version}"));
    let name = sealed.peer_certificate().and_then(|certificate| common_name(certificate));
    let (mut client, shown) = (Ssl::TLS, sealed.peer_certificate().is_some());
    if shown {
        client |= Ssl::CERTIFICATE_OF_SESSION | if agreed.resumed { 0 } else { Ssl::CERTIFICATE };
    }
    // As IANA calls it, which is what OpenSSL says of TLS 1.3 too.
    let suite = agreed.suite.map(|suite| suite.replacen("TLS13_", "TLS_", 1));
    let values = [
        (SslKind::Version, version.as_deref()),
        (SslKind::CommonName, name.as_deref()),
        (SslKind::Cipher, suite.as_deref()),
    ];
    let values: Vec<_> = values.into_iter().filter_map(|(kind, value)| Some((kind, value?.as_bytes()))).collect();
    // A client whose certificate is not good does not get this far.
    add(Kind::Ssl, &Ssl::write(client, shown, &values), tlvs);
}

/// Says it, unless it was said already.
fn add(kind: Kind, value: &[u8], tlvs: &mut Tlvs) {
    if tlvs.get(kind).is_none() {
        // What has no room is left out.
        tlvs.add(kind as u8, value);
    }
}
