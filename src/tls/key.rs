//! A private key: whether it is the one of a certificate, and signing with it.
//!
//! A key is parsed to see whether it fits, and again when it is first signed with: parsed it takes several times the room,
//! and of fifty thousand certificates few are asked for at once. Parsing an RSA key proves that its parts belong together,
//! which takes as long as fifteen ECDSA keys; of very many of them only the public part is compared.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use rustls::crypto::aws_lc_rs::sign;
use rustls::pki_types::{PrivateKeyDer, SubjectPublicKeyInfoDer};
use rustls::sign::{Signer, SigningKey};
use rustls::{SignatureAlgorithm, SignatureScheme};

use super::der::{BIT_STRING, Der, INTEGER, OCTET_STRING, SEQUENCE};

/// What a key signs with: an index into [`KINDS`]. The least is to be taken first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kind(usize);

/// Kinds of keys by the schemes that they sign with, the one to take first in front. An ECDSA key signs with one.
const KINDS: &[&[SignatureScheme]] = &[
    &[SignatureScheme::ECDSA_NISTP256_SHA256],
    &[SignatureScheme::ECDSA_NISTP384_SHA384],
    &[SignatureScheme::ECDSA_NISTP521_SHA512],
    &[SignatureScheme::ED25519],
    RSA,
    &[SignatureScheme::ML_DSA_44],
    &[SignatureScheme::ML_DSA_65],
    &[SignatureScheme::ML_DSA_87],
];

const RSA: &[SignatureScheme] = &[
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PSS_SHA384,
    SignatureScheme::RSA_PSS_SHA512,
    SignatureScheme::RSA_PKCS1_SHA256,
    SignatureScheme::RSA_PKCS1_SHA384,
    SignatureScheme::RSA_PKCS1_SHA512,
];

/// A private key that is parsed when it is first signed with.
pub(super) struct Key {
    der: PrivateKeyDer<'static>,
    algorithm: SignatureAlgorithm,
    kind: Kind,
    parsed: OnceLock<Option<Arc<dyn SigningKey>>>,
}

/// Why a key cannot be that of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Misfit {
    /// It is broken, or of a kind that is not known.
    Unusable,
    /// It is that of another certificate.
    Other,
}

/// How many RSA keys are still parsed before they are used.
#[derive(Debug)]
pub(super) struct Thorough(AtomicUsize);

impl Thorough {
    /// As many as take a third of a second.
    const RSA_KEYS: usize = 1_000;

    /// From the first key on.
    pub(super) fn new() -> Thorough {
        Thorough(AtomicUsize::new(0))
    }

    fn takes(&self) -> bool {
        self.0.fetch_add(1, Ordering::Relaxed) < Thorough::RSA_KEYS
    }
}

impl Kind {
    /// Whether a client that takes these schemes takes what such a key signs.
    pub(super) fn suits(self, schemes: &[SignatureScheme]) -> bool {
        KINDS.get(self.0).is_some_and(|ours| ours.iter().any(|scheme| schemes.contains(scheme)))
    }

    fn of(key: &dyn SigningKey) -> Option<Kind> {
        KINDS.iter().position(|schemes| key.choose_scheme(schemes).is_some()).map(Kind)
    }

    fn rsa() -> Option<Kind> {
        KINDS.iter().position(|schemes| *schemes == RSA).map(Kind)
    }
}

impl Key {
    /// The key of the certificate with the public key `public` (SubjectPublicKeyInfo in DER).
    ///
    /// # Errors
    /// It is not.
    pub(super) fn new(der: PrivateKeyDer<'static>, public: &[u8], thorough: &Thorough) -> Result<Key, Misfit> {
        if let Some(numbers) = rsa_numbers(&der)
            && !thorough.takes()
        {
            let kind = Kind::rsa().ok_or(Misfit::Unusable)?;
            return match rsa_public_numbers(public) == Some(numbers) {
                true => Ok(Key { algorithm: SignatureAlgorithm::RSA, kind, parsed: OnceLock::new(), der }),
                false => Err(Misfit::Other),
            };
        }
        let parsed = parse(&der).ok_or(Misfit::Unusable)?;
        let kind = Kind::of(&*parsed).ok_or(Misfit::Unusable)?;
        if parsed.public_key().is_none_or(|ours| *ours != *public) {
            return Err(Misfit::Other);
        }
        Ok(Key { algorithm: parsed.algorithm(), kind, parsed: OnceLock::new(), der })
    }

    /// What it signs with.
    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    fn parsed(&self) -> Option<&Arc<dyn SigningKey>> {
        let parsed = self.parsed.get_or_init(|| {
            let parsed = parse(&self.der);
            if parsed.is_none() {
                tracing::error!("a private key is broken, though it has the numbers of its certificate");
            }
            parsed
        });
        parsed.as_ref()
    }
}

impl SigningKey for Key {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        self.parsed()?.choose_scheme(offered)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        self.parsed()?.public_key()
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.algorithm
    }
}

/// Says nothing of the key itself.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

fn parse(der: &PrivateKeyDer<'static>) -> Option<Arc<dyn SigningKey>> {
    // Most keys of many are of elliptic curves; tried last they would be parsed twice.
    let is_elliptic = matches!(der, PrivateKeyDer::Sec1(_)) || algorithm(der) == Some(ELLIPTIC);
    if is_elliptic { sign::any_ecdsa_type(der).ok() } else { sign::any_supported_type(der).ok() }
}

/// The identifiers of keys of elliptic curves and of RSA (RFC 5480, section 2.1.1; RFC 8017, appendix C), in DER.
const ELLIPTIC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const RSA_ENCRYPTION: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const IDENTIFIER: u8 = 0x06;

/// What kind of key is in PKCS #8 (RFC 5958, section 2).
fn algorithm<'d>(der: &'d PrivateKeyDer<'static>) -> Option<&'d [u8]> {
    let PrivateKeyDer::Pkcs8(_) = der else { return None };
    let mut key = Der::inside(der.secret_der(), SEQUENCE)?;
    key.take(INTEGER)?;
    Der(key.take(SEQUENCE)?).take(IDENTIFIER)
}

/// Modulus and public exponent of an RSA key (RFC 8017, appendix A.1.2), as they stand in DER.
fn rsa_numbers<'d>(der: &'d PrivateKeyDer<'static>) -> Option<[&'d [u8]; 2]> {
    let inner = match der {
        PrivateKeyDer::Pkcs1(key) => key.secret_pkcs1_der(),
        PrivateKeyDer::Pkcs8(_) if algorithm(der) == Some(RSA_ENCRYPTION) => {
            let mut key = Der::inside(der.secret_der(), SEQUENCE)?;
            key.take(INTEGER)?;
            key.take(SEQUENCE)?;
            key.take(OCTET_STRING)?
        }
        _ => return None,
    };
    let mut numbers = Der::inside(inner, SEQUENCE)?;
    numbers.take(INTEGER)?; // the version
    Some([numbers.take(INTEGER)?, numbers.take(INTEGER)?])
}

/// The same of the public key of a certificate.
fn rsa_public_numbers(public: &[u8]) -> Option<[&[u8]; 2]> {
    let mut public = Der::inside(public, SEQUENCE)?;
    if Der(public.take(SEQUENCE)?).take(IDENTIFIER)? != RSA_ENCRYPTION {
        return None;
    }
    // In front of the bits stands how many of the last byte are not used: none.
    let mut numbers = Der::inside(public.take(BIT_STRING)?.strip_prefix(&[0])?, SEQUENCE)?;
    Some([numbers.take(INTEGER)?, numbers.take(INTEGER)?])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{KeyPair, PublicKeyData};
    use rustls::pki_types::{PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};

    use super::*;
    use crate::tls::sample;

    fn pkcs8(der: Vec<u8>) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(der).into()
    }

    /// What is inside PKCS #8: the form that the kind of key had before.
    fn inside(key: &KeyPair) -> Vec<u8> {
        let mut outer = Der::inside(key.serialized_der(), SEQUENCE).unwrap();
        outer.take(INTEGER).unwrap();
        outer.take(SEQUENCE).unwrap();
        outer.take(OCTET_STRING).unwrap().to_vec()
    }

    /// As if many keys had been parsed already.
    fn exhausted() -> Thorough {
        Thorough(AtomicUsize::new(Thorough::RSA_KEYS))
    }

    fn signs(key: &Key) -> bool {
        KINDS.iter().any(|schemes| key.choose_scheme(schemes).is_some_and(|signer| signer.sign(b"message").is_ok()))
    }

    #[test]
    fn keys_of_all_kinds_and_forms() {
        let (p256, p384, ed25519, rsa) =
            (sample::key("p256"), sample::key("p384"), sample::key("ed25519"), sample::key("rsa"));
        let sec1 = |key: &KeyPair| PrivateKeyDer::from(PrivateSec1KeyDer::from(inside(key)));
        let pkcs1 = |key: &KeyPair| PrivateKeyDer::from(PrivatePkcs1KeyDer::from(inside(key)));
        let other = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
        for (case, key, der, scheme) in [
            ("P-256", &p256, pkcs8(p256.serialize_der()), SignatureScheme::ECDSA_NISTP256_SHA256),
            ("P-256 in SEC 1", &p256, sec1(&p256), SignatureScheme::ECDSA_NISTP256_SHA256),
            ("P-384", &p384, pkcs8(p384.serialize_der()), SignatureScheme::ECDSA_NISTP384_SHA384),
            ("Ed25519", &ed25519, pkcs8(ed25519.serialize_der()), SignatureScheme::ED25519),
            ("RSA", &rsa, pkcs8(rsa.serialize_der()), SignatureScheme::RSA_PSS_SHA384),
            ("RSA in PKCS #1", &rsa, pkcs1(&rsa), SignatureScheme::RSA_PKCS1_SHA256),
        ] {
            let (public, another) = (key.subject_public_key_info(), other.subject_public_key_info());
            for thorough in [Thorough::new(), exhausted()] {
                let made = Key::new(der.clone_key(), &public, &thorough).unwrap();
                let all: Vec<_> = KINDS.iter().flat_map(|schemes| schemes.iter().copied()).collect();
                let suiting: Vec<_> = all.into_iter().filter(|scheme| made.kind().suits(&[*scheme])).collect();
                assert!(suiting.contains(&scheme) && [1, RSA.len()].contains(&suiting.len()), "{case}: {suiting:?}");
                assert!(signs(&made), "{case}");
                assert_eq!(Some(made.algorithm()), made.parsed().map(|parsed| parsed.algorithm()), "{case}");
                for wrong in [&another[..], &public[..public.len() - 1], b"", b"\x30\x00"] {
                    assert_eq!(Key::new(der.clone_key(), wrong, &thorough).err(), Some(Misfit::Other), "{case}");
                }
            }
        }
    }

    #[test]
    fn an_rsa_key_that_only_looks_right() {
        let rsa = sample::key("rsa");
        let mut der = rsa.serialize_der();
        let (at, public) = (der.len() - 400, rsa.subject_public_key_info());
        der[at] ^= 1;
        assert_eq!(Key::new(pkcs8(der.clone()), &public, &Thorough::new()).err(), Some(Misfit::Unusable));
        let key = Key::new(pkcs8(der), &public, &exhausted()).unwrap();
        assert!(!signs(&key), "the handshake fails");
        assert_eq!(key.public_key(), None);
    }

    proptest! {
        #[test]
        fn nothing_panics(
            bytes in proptest::collection::vec(any::<u8>(), 0..100), at in any::<prop::sample::Index>(), byte: u8,
        ) {
            let rsa = sample::key("rsa");
            let (mut der, mut public) = (rsa.serialize_der(), rsa.subject_public_key_info());
            let _ = Key::new(pkcs8(bytes.clone()), &public, &exhausted());
            let _ = Key::new(pkcs8(der.clone()), &bytes, &exhausted());
            let (in_der, in_public) = (at.index(der.len()), at.index(public.len()));
            (der[in_der], public[in_public]) = (byte, byte);
            let _ = Key::new(pkcs8(der), &public, &exhausted());
        }
    }
}
