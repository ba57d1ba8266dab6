//! A certificate with its key: read from what its files hold, checked, and ready for handshakes.
//!
//! The DER of both is kept once, in what rustls takes.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::SignatureScheme;
use rustls::pki_types::pem::{PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::expiry::{self, time};
use super::key::{Key, Kind, Misfit, Thorough};
use super::problem::{Flaw, Problem};
use super::staple::Staple;
use crate::wire::name::{Name, Written};

/// A certificate with its key.
#[derive(Debug)]
pub(crate) struct Pair {
    /// As a handshake takes it.
    certified: Arc<CertifiedKey>,
    kind: Kind,
    /// Host names, none twice.
    pub(super) exact: Box<[Arc<str>]>,
    /// What is behind the "*." of its other names.
    pub(super) wildcard: Box<[Arc<str>]>,
    from: SystemTime,
    until: SystemTime,
    /// When its OCSP response ends, if it has one that does.
    pub(super) staple_until: Option<SystemTime>,
}

/// What one file in PEM holds of a pair.
#[derive(Default)]
pub(crate) struct Parts {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: Option<PrivateKeyDer<'static>>,
}

impl Parts {
    /// Reads PEM. What is neither certificate nor key is left out.
    ///
    /// # Errors
    /// [`Flaw::Pem`], [`Flaw::Encrypted`], [`Flaw::SeveralKeys`].
    pub(crate) fn of_pem(pem: &[u8]) -> Result<Parts, Flaw> {
        let is_encrypted = || pem.windows(ENCRYPTED.len()).any(|window| window == ENCRYPTED);
        let mut parts = Parts::default();
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem) {
            // What the error says may quote the file.
            let Ok((kind, der)) = section else { return Err(if is_encrypted() { Flaw::Encrypted } else { Flaw::Pem }) };
            let key = match kind {
                SectionKind::Certificate => {
                    parts.chain.push(der.into());
                    continue;
                }
                SectionKind::PrivateKey => PrivatePkcs8KeyDer::from(der).into(),
                SectionKind::RsaPrivateKey => PrivatePkcs1KeyDer::from(der).into(),
                SectionKind::EcPrivateKey => PrivateSec1KeyDer::from(der).into(),
                _ => continue,
            };
            if parts.key.replace(key).is_some() {
                return Err(Flaw::SeveralKeys);
            }
        }
        if parts.key.is_none() && is_encrypted() { Err(Flaw::Encrypted) } else { Ok(parts) }
    }
}

/// Stands in the label or in a header of every private key with a pass phrase.
const ENCRYPTED: &[u8] = b"ENCRYPTED";

impl Pair {
    /// Puts the certificates from the file `certificate`, the first of which is the one of the key, together with the key
    /// from the file `key`.
    ///
    /// # Errors
    /// What is wrong with either.
    pub(super) fn new(
        (certificate, mut chain): (&Path, Vec<CertificateDer<'static>>),
        (key, key_der): (&Path, PrivateKeyDer<'static>),
        staple: Option<Staple>,
        thorough: &Thorough,
    ) -> Result<Pair, Problem> {
        let of = |file: &Path, flaw| Problem { file: file.to_owned(), flaw };
        chain.iter_mut().for_each(shrink);
        chain.shrink_to_fit();
        let leaf = chain.first().ok_or_else(|| of(certificate, Flaw::NoCertificate))?;
        let (_, read) = X509Certificate::from_der(leaf).map_err(|_| of(certificate, Flaw::Certificate))?;
        let names = names(&read).map_err(|flaw| of(certificate, flaw))?;
        let key = Key::new(key_der, read.public_key().raw, thorough).map_err(|misfit| match misfit {
            Misfit::Unusable => of(key, Flaw::Key),
            Misfit::Other if key == certificate => of(key, Flaw::Mismatch),
            Misfit::Other => of(key, Flaw::KeyOfAnother(certificate.to_owned())),
        })?;
        let kind = key.kind();
        let (from, until) = (time(read.validity.not_before), time(read.validity.not_after));
        let mut certified = CertifiedKey::new(chain, Arc::new(key));
        let staple_until = staple.as_ref().and_then(Staple::until);
        certified.ocsp = staple.map(Staple::into_der);
        let Names { exact, wildcard } = names;
        let (exact, wildcard) = (exact.into(), wildcard.into());
        Ok(Pair { certified: Arc::new(certified), kind, exact, wildcard, from, until, staple_until })
    }

    /// The pair in one file that has the certificates and the key, of which these are the bytes.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn of_bundle(file: &Path, pem: &[u8]) -> Result<Pair, Problem> {
        let of = |flaw| Problem { file: file.to_owned(), flaw };
        let Parts { chain, key } = Parts::of_pem(pem).map_err(of)?;
        let key = key.ok_or_else(|| of(Flaw::NoKey))?;
        Pair::new((file, chain), (file, key), None, &Thorough::new())
    }

    /// Whether it has this name, and not only a wildcard over it.
    pub(crate) fn has(&self, name: &Name) -> bool {
        self.exact.iter().any(|exact| **exact == *name.as_str())
    }

    /// What a handshake takes of it.
    pub(crate) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }

    /// Whether a client that takes these schemes can take it.
    pub(super) fn suits(&self, schemes: &[SignatureScheme]) -> bool {
        self.kind.suits(schemes)
    }

    /// Orders pairs that a client could take: the one to take first is the least.
    pub(super) fn rank(&self) -> impl Ord + use<> {
        (self.kind, std::cmp::Reverse(self.until))
    }

    /// Whether it has begun and not ended.
    pub(super) fn is_valid(&self, now: SystemTime) -> bool {
        self.from <= now && now <= self.until
    }

    /// When it begins.
    pub(crate) fn from(&self) -> SystemTime {
        self.from
    }

    /// Whether it is time to warn of its end.
    pub(super) fn is_ending(&self, now: SystemTime) -> bool {
        expiry::is_ending(self.from, self.until, now)
    }

    /// When it ends.
    pub(crate) fn until(&self) -> SystemTime {
        self.until
    }
}

/// Names of a certificate, each once.
#[derive(Default)]
struct Names {
    exact: Vec<Arc<str>>,
    wildcard: Vec<Arc<str>>,
}

/// The names that a client can ask for. The common name counts no more (RFC 9525, section 2).
fn names(certificate: &X509Certificate<'_>) -> Result<Names, Flaw> {
    let mut names = Names::default();
    let mut has_address = false;
    let listed = certificate.subject_alternative_name().map_err(|_| Flaw::Certificate)?;
    for name in listed.iter().flat_map(|extension| &extension.value.general_names) {
        let GeneralName::DNSName(text) = name else {
            has_address |= matches!(name, GeneralName::IPAddress(_));
            continue;
        };
        let (list, text) = match text.strip_prefix("*.") {
            Some(rest) => (&mut names.wildcard, rest),
            None => (&mut names.exact, *text),
        };
        if let Ok(Written::Name(name)) = Name::read(text.as_bytes())
            && !list.iter().any(|known| **known == *name.as_str())
        {
            list.push(name.into_inner().into());
        }
    }
    // One for addresses alone serves clients without a name.
    if names.exact.is_empty() && names.wildcard.is_empty() && !has_address { Err(Flaw::NoName) } else { Ok(names) }
}

/// Gives back what decoding has taken too much.
fn shrink(certificate: &mut CertificateDer<'static>) {
    let mut der = std::mem::replace(certificate, CertificateDer::from_slice(&[])).to_vec();
    der.shrink_to_fit();
    *certificate = der.into();
}
