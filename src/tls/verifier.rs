//! Whether an endpoint is who it should be, where roots alone do not tell: by the keys that it may have, or not at all.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Verifies by `roots`, if there are any, and by `pins`, SHA-256 of the public keys of which an endpoint has to have one, if
/// there are any. Signatures are verified in any case, or there would be no TLS at all.
///
/// # Errors
/// There are roots, but none in them.
pub(super) fn new(
    provider: &Arc<CryptoProvider>,
    roots: Option<RootCertStore>,
    pins: Vec<[u8; 32]>,
) -> Result<Arc<dyn ServerCertVerifier>, Error> {
    let by_roots = roots.map(|roots| {
        let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
        builder.build().map_err(|error| Error::General(error.to_string()))
    });
    Ok(Arc::new(Verifier { by_roots: by_roots.transpose()?, pins, provider: Arc::clone(provider) }))
}

#[derive(Debug)]
struct Verifier {
    by_roots: Option<Arc<WebPkiServerVerifier>>,
    pins: Vec<[u8; 32]>,
    provider: Arc<CryptoProvider>,
}

/// The endpoint has a key that it should not have.
#[derive(Debug, thiserror::Error)]
#[error("its public key is none of those that are pinned")]
struct OtherKey;

impl Verifier {
    fn is_pinned(&self, certificate: &CertificateDer<'_>) -> bool {
        let Ok((_, read)) = X509Certificate::from_der(certificate) else { return false };
        let key = digest(&SHA256, read.public_key().raw);
        self.pins.iter().any(|pin| key.as_ref() == pin)
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(by_roots) = &self.by_roots {
            by_roots.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        }
        if !self.pins.is_empty() && !self.is_pinned(end_entity) {
            return Err(CertificateError::Other(OtherError(Arc::new(OtherKey))).into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
