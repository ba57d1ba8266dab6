//! `[route.NAME.tls]`: how TLS ends here; `[pool.NAME.tls]`: how it begins.

use std::hash::{Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;

use super::Secret;
use crate::tls::certificates::Certificates;
use crate::tls::clients::Clients;
use crate::tls::outgoing::Outgoing;
use crate::wire::name::Name;

/// `[route.NAME.tls]`
#[derive(Clone, Debug)]
pub struct RouteTls {
    /// Absolute paths of files and folders, at least one, none twice.
    pub certificates: Vec<PathBuf>,
    /// The name whose certificate clients get that ask for none, or for one that no certificate has; `None`: they get the
    /// first certificate.
    pub default: Option<Name>,
    /// Protocols that are taken, the one to take first in front; empty: none is negotiated.
    pub alpn: Vec<Box<[u8]>>,
    /// The oldest version that is taken.
    pub min_version: MinVersion,
    /// How long a handshake may take once the ClientHello is complete.
    pub handshake: Duration,
    /// `[route.NAME.tls.client]`, with what was found in its files; `None`: clients are not asked for certificates.
    pub(crate) clients: Option<Arc<Clients>>,
    /// The certificates as the check found them, to be used and watched from there on. There are none if no files were
    /// read ([`crate::config::parse_str`]).
    pub(crate) loaded: Arc<Certificates>,
}

/// `[route.NAME.tls.client]`: the certificates that clients are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientRules {
    /// Whether a client without a certificate is refused; one with a bad certificate always is.
    pub required: bool,
    /// Absolute paths of files of authorities, at least one, none twice.
    pub ca: Vec<PathBuf>,
    /// Absolute paths of files of lists of revoked certificates, none twice; empty: none is asked whether it is revoked.
    pub crl: Vec<PathBuf>,
    /// Whether there has to be a list for every certificate of a chain, or for the client's own alone.
    pub whole_chain: bool,
    /// Whether a list that has ended keeps its authority's clients out, or is gone by all the same.
    pub refuses_by_expired_lists: bool,
}

/// The oldest version of TLS that a route takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MinVersion {
    /// `"1.2"`
    Tls12,
    /// `"1.3"`
    Tls13,
}

/// `[pool.NAME.tls]`
#[derive(Clone, Debug)]
pub struct PoolTls {
    /// Protocols that are offered; `None`: the one that was agreed on with the client, if any was.
    pub alpn: Option<Vec<Box<[u8]>>>,
    /// How endpoints are told that TLS begins; `None`: not at all, and nothing is known of what is spoken inside.
    pub negotiation: Option<Negotiation>,
    /// How long a handshake may take once the connection stands.
    pub handshake: Duration,
    /// With whom, as found in the files that are watched from there on. Its own protocols do not count.
    pub(crate) outgoing: Arc<Outgoing>,
}

/// How TLS with a server of PostgreSQL begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Negotiation {
    /// After an SSLRequest that it agrees to.
    #[default]
    Postgres,
    /// At once, as servers from version 17 on take it.
    Direct,
}

/// TLS with endpoints whose files are watched.
#[derive(Clone, Debug)]
pub struct WatchedTls(pub(crate) Arc<Outgoing>);

impl PartialEq for WatchedTls {
    fn eq(&self, other: &WatchedTls) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for WatchedTls {}

impl Hash for WatchedTls {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

/// Compares what was written: files change on their own.
impl PartialEq for PoolTls {
    fn eq(&self, other: &PoolTls) -> bool {
        (&self.alpn, self.negotiation, self.handshake) == (&other.alpn, other.negotiation, other.handshake)
            && self.outgoing.written() == other.outgoing.written()
    }
}

/// `[pool.NAME.tls]` and `[pool.NAME.health.tls]`: TLS with an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutgoingTls {
    /// The name that is sent and verified; `None`: the host name that is written, else the address.
    pub name: Option<String>,
    /// Protocols that are offered, of which one has to be taken; empty: none are offered.
    pub alpn: Vec<Box<[u8]>>,
    /// Whose certificates are trusted.
    pub trust: Trust,
    /// Who we are, if we are asked.
    pub identity: Option<Identity>,
    /// SHA-256 of public keys (SubjectPublicKeyInfo, RFC 7469, section 2.4) of which the endpoint has to have one; empty: it
    /// may have any.
    pub pins: Vec<[u8; 32]>,
}

impl OutgoingTls {
    /// Whether certificates are verified by the names of endpoints, which therefore have to have some.
    pub(crate) fn verifies_names_of_endpoints(&self) -> bool {
        self.name.is_none() && self.trust != Trust::Anybody
    }
}

/// Whose certificates are trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Everybody's: nothing is verified.
    Anybody,
    /// Those that lead to one of these roots.
    Roots {
        /// Whether the system's roots are among them.
        system: bool,
        /// Certificates from files.
        files: Vec<CertificateDer<'static>>,
    },
}

/// A client certificate that was found to fit its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The certificate, then what leads to its root.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key in DER.
    pub key: Secret,
}

impl Hash for OutgoingTls {
    /// Leaves certificates to the comparison: there may be hundreds of them, and everybody has the same.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
        self.alpn.hash(state);
        self.pins.hash(state);
        self.identity.is_some().hash(state);
    }
}

/// Compares what was written: the certificates change on their own.
impl PartialEq for RouteTls {
    fn eq(&self, other: &RouteTls) -> bool {
        fn written(tls: &RouteTls) -> impl PartialEq {
            let clients = tls.clients.as_ref().map(|clients| clients.rules());
            (&tls.certificates, &tls.default, &tls.alpn, tls.min_version, tls.handshake, clients)
        }
        written(self) == written(other)
    }
}
