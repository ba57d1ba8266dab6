//! Certificates of authorities, and their lists of revoked certificates, as they are in files.

use std::path::Path;
use std::time::SystemTime;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

use super::expiry::time;
use super::problem::Flaw;
use crate::bounded;

/// The longest file of certificates, in bytes.
const LONGEST_BUNDLE: u64 = 4 << 20;
/// The longest file of lists, in bytes.
const LONGEST_LISTS: u64 = 64 << 20;

/// The certificate of an authority, which can be used to verify others.
pub(crate) struct Authority {
    pub(crate) der: CertificateDer<'static>,
}

/// A list of revoked certificates.
pub(crate) struct List {
    pub(crate) der: CertificateRevocationListDer<'static>,
    /// When a newer one was to be there.
    pub(crate) until: Option<SystemTime>,
    /// Who made it, in DER.
    issuer: Vec<u8>,
}

impl Authority {
    /// The certificates of a file in PEM, at least one.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub(crate) fn all(file: &Path) -> Result<Vec<Authority>, Flaw> {
        let pem = bounded::read_regular(file, LONGEST_BUNDLE).map_err(|error| Flaw::Unreadable(error.to_string()))?;
        let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
        let authorities: Vec<_> = read.map_err(|_| Flaw::Pem)?.into_iter().map(|der| Authority { der }).collect();
        // A store of roots takes what can be used to verify.
        let unfit = |authority: &Authority| RootCertStore::empty().add(authority.der.clone()).is_err();
        match authorities.iter().position(unfit) {
            Some(index) => Err(Flaw::Authority(index + 1)),
            None if authorities.is_empty() => Err(Flaw::NoCertificate),
            None => Ok(authorities),
        }
    }
}

impl List {
    /// The lists of a file, in PEM or a single one in DER; at least one.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub(crate) fn all(file: &Path) -> Result<Vec<List>, Flaw> {
        let bytes = bounded::read_regular(file, LONGEST_LISTS).map_err(|error| Flaw::Unreadable(error.to_string()))?;
        // DER begins with a sequence (X.690), PEM with text.
        let lists = match bytes.first() {
            Some(0x30) => vec![CertificateRevocationListDer::from(bytes)],
            _ => {
                CertificateRevocationListDer::pem_slice_iter(&bytes).collect::<Result<_, _>>().map_err(|_| Flaw::Pem)?
            }
        };
        if lists.is_empty() { Err(Flaw::NoList) } else { lists.into_iter().map(List::read).collect() }
    }

    /// Whether there should be a newer one.
    pub(crate) fn has_ended(&self, now: SystemTime) -> bool {
        self.until.is_some_and(|until| until < now)
    }

    fn read(der: CertificateRevocationListDer<'static>) -> Result<List, Flaw> {
        let (until, issuer) = match CertificateRevocationList::from_der(&der) {
            // Version 2 counts as 1 (RFC 5280, section 5.1.2.1).
            Ok(([], list)) if list.version().is_none_or(|version| version.0 != 1) => return Err(Flaw::OldList),
            Ok(([], list)) => (list.next_update().map(time), list.issuer().as_raw().to_vec()),
            _ => return Err(Flaw::NoList),
        };
        Ok(List { der, until, issuer })
    }
}

/// The names of those authorities of which there is no list.
pub(crate) fn unlisted<'l>(authorities: &[Authority], lists: impl Iterator<Item = &'l List>) -> Vec<String> {
    let issuers: Vec<&[u8]> = lists.map(|list| &*list.issuer).collect();
    let unlisted = authorities.iter().filter_map(|authority| {
        let (_, read) = X509Certificate::from_der(&authority.der).ok()?;
        (!issuers.contains(&read.subject().as_raw())).then(|| read.subject().to_string())
    });
    unlisted.collect()
}
