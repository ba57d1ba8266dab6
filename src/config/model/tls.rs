//! `[route.NAME.tls]`: how TLS ends here.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::tls::certificates::Certificates;
use crate::tls::clients::Clients;
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
