//! A certificate as it is kept: the chain and the key in one file, below a line that says where it is from.

use std::path::Path;
use std::time::SystemTime;

use instant_acme::CertificateIdentifier;
use rustls::pki_types::Der;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use super::schedule::Validity;
use crate::tls::pair::Pair;
use crate::wire::name::Name;

/// In front of the URL of the directory. PEM allows for text in front of it (RFC 7468, section 2).
const FROM: &str = "Obtained from: ";

/// What there is of a name's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) validity: Validity,
    /// Where it is from; `None`: somebody else has put it there.
    directory: Option<String>,
    /// By which the authority knows it.
    id: Option<Id>,
}

/// The key identifier of who has issued a certificate, and its serial number (RFC 9773, section 4.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Id {
    authority: Vec<u8>,
    serial: Vec<u8>,
}

/// Why a bundle is not one.
#[derive(Debug, thiserror::Error)]
pub(super) enum Flaw {
    #[error(transparent)]
    Pair(#[from] crate::tls::problem::Problem),
    #[error("it has no certificate for the name")]
    Name,
    #[error("it has ended")]
    Ended,
}

/// Puts a bundle together.
pub(super) fn write(directory: &str, chain: &str, key: &str) -> Zeroizing<String> {
    Zeroizing::new(format!("{FROM}{directory}\n{}\n{}\n", chain.trim(), key.trim()))
}

impl Held {
    /// What the bundle in `pem` holds for `name`; `file` is what it is called in errors.
    ///
    /// # Errors
    /// It cannot be used for the name.
    pub(super) fn read(file: &Path, pem: &[u8], name: &Name, now: SystemTime) -> Result<Held, Flaw> {
        let pair = Pair::of_bundle(file, pem)?;
        if !pair.has(name) {
            return Err(Flaw::Name);
        }
        if pair.until() <= now {
            return Err(Flaw::Ended);
        }
        let first = pem.split(|byte| *byte == b'\n').next().and_then(|line| std::str::from_utf8(line).ok());
        let directory = first.and_then(|line| line.strip_prefix(FROM)).map(|url| url.trim().to_owned());
        let id = pair.certified().cert.first().and_then(|leaf| Id::of(leaf));
        Ok(Held { validity: Validity { from: pair.from(), until: pair.until() }, directory, id })
    }

    /// Whether it may stay for an account with the directory at `url`. One from the staging directory of an authority
    /// goes once the real one is written in its place.
    pub(super) fn may_be_from(&self, url: &str) -> bool {
        self.directory.as_deref().is_none_or(|directory| directory == url)
    }

    /// By which the authority knows it, if it is one that the authority can know.
    pub(super) fn id(&self) -> Option<CertificateIdentifier<'static>> {
        let id = self.id.as_ref().filter(|_| self.directory.is_some())?;
        Some(CertificateIdentifier::new(Der::from_slice(&id.authority), Der::from_slice(&id.serial)).into_owned())
    }
}

impl Id {
    fn of(leaf: &[u8]) -> Option<Id> {
        let (_, leaf) = X509Certificate::from_der(leaf).ok()?;
        let authority = leaf.iter_extensions().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(found) => found.key_identifier.as_ref().map(|key| key.0.to_vec()),
            _ => None,
        });
        Some(Id { authority: authority?, serial: leaf.tbs_certificate.raw_serial().to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, Issuer, KeyPair, SerialNumber, date_time_ymd};

    use super::*;
    use crate::wire::name::Written;

    fn name(text: &str) -> Name {
        let Ok(Written::Name(name)) = Name::read(text.as_bytes()) else { panic!("{text}") };
        name
    }

    /// A chain for a.example that ends in `year`, and its key.
    fn signed(year: i32) -> (String, String) {
        let mut authority = CertificateParams::default();
        authority.key_identifier_method = rcgen::KeyIdMethod::PreSpecified(vec![0xc0, 0xff, 0xee]);
        let issuer = Issuer::new(authority, KeyPair::generate().unwrap());
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["a.example".to_owned()]).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(year, 1, 1);
        params.serial_number = Some(SerialNumber::from_slice(&[0xca, 0xfe]));
        params.use_authority_key_identifier_extension = true;
        (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn what_is_written_is_read() {
        let (chain, key) = signed(2090);
        let bundle = write("https://ca.example/dir", &chain, &key);
        let read = |pem: &str, of: &str| Held::read(Path::new("a.pem"), pem.as_bytes(), &name(of), SystemTime::now());
        let held = read(&bundle, "a.example").unwrap();
        assert!(held.may_be_from("https://ca.example/dir") && !held.may_be_from("https://staging.example/dir"));
        assert_eq!(held.id().unwrap().to_string(), "wP_u.AMr-");
        let own = read(&format!("{chain}{key}"), "a.example").unwrap();
        assert!(own.may_be_from("https://ca.example/dir"), "somebody has put it there, and it is used");
        assert!(own.id().is_none());
        for (case, pem, of, said) in [
            ("another name", bundle.to_string(), "b.example", "no certificate for the name"),
            ("no key", chain.clone(), "a.example", "no private key"),
            ("another key", write("x", &chain, &signed(2090).1).to_string(), "a.example", "not the one"),
            ("half of it", bundle[..bundle.len() / 2].to_owned(), "a.example", "not whole PEM"),
        ] {
            let flaw = read(&pem, of).unwrap_err().to_string();
            assert!(flaw.contains(said), "{case}: {flaw}");
        }
        let (chain, key) = signed(2021);
        assert!(matches!(read(&write("x", &chain, &key), "a.example"), Err(Flaw::Ended)));
    }
}
