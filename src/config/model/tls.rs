//! `[route.NAME.tls]`: how TLS ends here.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::tls::certificates::Certificates;
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
    /// The certificates as the check found them, to be used and watched from there on. There are none if no files were
    /// read ([`crate::config::parse_str`]).
    pub(crate) loaded: Arc<Certificates>,
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
        let written =
            |tls: &RouteTls| (tls.certificates.clone(), tls.default.clone(), tls.alpn.clone(), tls.min_version);
        written(self) == written(other)
    }
}
