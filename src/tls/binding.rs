//! What binds a login to the TLS that it runs in: `tls-server-end-point` (RFC 5929, section 4), a hash of the server's
//! certificate.

use aws_lc_rs::digest::{self, Algorithm, SHA256, SHA384, SHA512};
use x509_parser::oid_registry::{
    OID_PKCS1_MD5WITHRSAENC, OID_PKCS1_SHA1WITHRSA, OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA,
    OID_PKCS1_SHA512WITHRSA, OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384, OID_SIG_ECDSA_WITH_SHA512,
};
use x509_parser::prelude::{FromDer, X509Certificate};

/// The hash of a server's certificate in DER. `None` where the standard does not say which hash it is, as for Ed25519.
pub(crate) fn end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let (_, read) = X509Certificate::from_der(certificate).ok()?;
    let algorithm = hash(&read)?;
    Some(digest::digest(algorithm, certificate).as_ref().to_vec())
}

/// That of its signature, with SHA-256 in place of MD5 and SHA-1.
fn hash(certificate: &X509Certificate<'_>) -> Option<&'static Algorithm> {
    let signature = &certificate.signature_algorithm.algorithm;
    let is = |all: &[x509_parser::asn1_rs::Oid<'_>]| all.contains(signature);
    if is(&[OID_PKCS1_SHA256WITHRSA, OID_SIG_ECDSA_WITH_SHA256, OID_PKCS1_SHA1WITHRSA, OID_PKCS1_MD5WITHRSAENC]) {
        Some(&SHA256)
    } else if is(&[OID_PKCS1_SHA384WITHRSA, OID_SIG_ECDSA_WITH_SHA384]) {
        Some(&SHA384)
    } else if is(&[OID_PKCS1_SHA512WITHRSA, OID_SIG_ECDSA_WITH_SHA512]) {
        Some(&SHA512)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};

    use super::*;

    #[test]
    fn the_hash_is_that_of_the_signature() {
        for (case, kind, algorithm) in [
            ("P-256", &PKCS_ECDSA_P256_SHA256, Some(&SHA256)),
            ("P-384", &PKCS_ECDSA_P384_SHA384, Some(&SHA384)),
            ("Ed25519", &PKCS_ED25519, None),
        ] {
            let key = KeyPair::generate_for(kind).unwrap();
            let certificate = CertificateParams::new(vec!["a.test".to_owned()]).unwrap().self_signed(&key).unwrap();
            let wanted = algorithm.map(|algorithm| digest::digest(algorithm, certificate.der()).as_ref().to_vec());
            assert_eq!(end_point(certificate.der()), wanted, "{case}");
        }
        assert_eq!(end_point(b"no certificate"), None);
    }
}
