//! Whether an endpoint is who it should be, where roots alone do not tell: by the keys that it may have, or not at all.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::presented;

/// Verifies by `roots`, if there are any, among which `files` are trusted as an endpoint's own too, and by `pins`, SHA-256 of the public keys of which an endpoint has to have one, if
/// there are any. Signatures are verified in any case, or there would be no TLS at all.
///
/// # Errors
/// The provider cannot be used.
pub(super) fn new(
    provider: &Arc<CryptoProvider>,
    roots: Option<(RootCertStore, Vec<CertificateDer<'static>>)>,
    pins: Vec<[u8; 32]>,
) -> Result<Arc<dyn ServerCertVerifier>, Error> {
    let by_roots = match roots {
        Some((roots, known)) if roots.is_empty() => Some((None, known)),
        Some((roots, known)) => {
            let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
            Some((Some(builder.build().map_err(|error| Error::General(error.to_string()))?), known))
        }
        None => None,
    };
    Ok(Arc::new(Verifier { by_roots, pins, provider: Arc::clone(provider) }))
}

/// Takes anybody for who it says it is, if it has the key to the certificate that it shows. Whether that certificate is one
/// to trust is to be asked of the one within when the handshake is done, before anything is said.
#[derive(Debug)]
pub(super) struct Later(pub(super) Arc<dyn ServerCertVerifier>);

#[derive(Debug)]
struct Verifier {
    /// Roots, if there are any, and what is trusted as it is. `None`: anybody is.
    by_roots: Option<(Option<Arc<WebPkiServerVerifier>>, Vec<CertificateDer<'static>>)>,
    pins: Vec<[u8; 32]>,
    provider: Arc<CryptoProvider>,
}

/// The endpoint has a key that it should not have.
#[derive(Debug, thiserror::Error)]
#[error("its public key is none of those that are pinned")]
pub(super) struct OtherKey;

/// Verifies a certificate that is trusted as it is: who made it does not matter, but its name and its time do.
fn verify_known(certificate: &CertificateDer<'_>, name: &ServerName<'_>, now: UnixTime) -> Result<(), Error> {
    verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
    let (from, until) = presented::validity(certificate).ok_or(CertificateError::BadEncoding)?;
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs());
    match () {
        () if now < from => Err(CertificateError::NotValidYet.into()),
        () if now > until => Err(CertificateError::Expired.into()),
        () => Ok(()),
    }
}

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
        match &self.by_roots {
            // An authority's own certificate is no endpoint's for others, but tools make self-signed ones like that.
            Some((_, known)) if known.contains(end_entity) => verify_known(end_entity, server_name, now)?,
            Some((Some(by_roots), _)) => {
                by_roots.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
            }
            Some((None, _)) => return Err(CertificateError::UnknownIssuer.into()),
            None => {}
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

impl ServerCertVerifier for Later {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
