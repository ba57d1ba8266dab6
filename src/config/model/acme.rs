//! `[acme.NAME]`: accounts with authorities that certificates are obtained from (RFC 8555).

use std::net::SocketAddr;
use std::path::PathBuf;

use super::{Config, NamePattern, Secret, Trust};
use crate::wire::name::Name;

/// `[acme.NAME]`
#[derive(Clone, Debug, PartialEq)]
pub struct Acme {
    /// The NAME.
    pub name: String,
    /// URL of the authority's directory, over HTTPS.
    pub directory: String,
    /// Whose certificates the directory may have.
    pub trust: Trust,
    /// E-mail addresses that the authority may write to.
    pub contact: Vec<String>,
    /// Absolute path of the folder in which account, certificates and challenges are kept.
    pub storage: PathBuf,
    /// How it is shown that names are ours.
    pub challenge: Challenge,
    /// What keys new certificates get.
    pub key: KeyKind,
    /// `[acme.NAME.eab]`: what binds the account to one that the authority has already.
    pub eab: Option<Eab>,
}

/// How an authority is shown that a name is ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// `"tls-alpn-01"`: by a certificate, shown on the listeners for TLS (RFC 8737).
    TlsAlpn01,
    /// `"http-01"`: by a page (RFC 8555, section 8.3).
    Http01 {
        /// Addresses that it is served on, at least one, none twice.
        bind: Vec<SocketAddr>,
        /// Whether nobody has written them: then one of a family that the system does not have is left out.
        by_default: bool,
    },
}

/// A kind of key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// `"ecdsa-p256"`
    EcdsaP256,
    /// `"ecdsa-p384"`
    EcdsaP384,
    /// `"rsa-2048"`
    Rsa2048,
}

/// `[acme.NAME.eab]`: an external account binding (RFC 8555, section 7.3.4).
#[derive(Clone, Debug, PartialEq)]
pub struct Eab {
    /// What the authority calls the key.
    pub key_id: String,
    /// The key of the HMAC. Empty if no files were read ([`crate::config::parse_str`]).
    pub key: Secret,
}

impl Config {
    /// The names for which the account of this index obtains certificates, each once, sorted.
    pub(crate) fn acme_names(&self, account: usize) -> Vec<Name> {
        let routes = self.routes.iter().filter(|route| route.acme == Some(account));
        let exact = routes.flat_map(|route| &route.sni).filter_map(|pattern| match pattern {
            NamePattern::Exact(name) => Some(name.clone()),
            NamePattern::OneLabel(_) | NamePattern::AnyDepth(_) => None,
        });
        let mut names: Vec<Name> = exact.collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}
