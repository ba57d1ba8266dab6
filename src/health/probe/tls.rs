//! The TLS that a probe runs in: its settings, the handshake, and what a failure means.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, ClientConfig, DigitallySignedStruct, Error, ProtocolVersion, RootCertStore, SignatureScheme,
};
use tokio_rustls::TlsConnector;

use super::channel::{Channel, Line};
use crate::config::model::{ProbeTls, Trust};
use crate::health::verdict::{Observation, Text};
use crate::tls::{presented, words};

/// TLS towards one endpoint.
#[derive(Clone)]
pub(crate) struct Client {
    connector: TlsConnector,
    name: ServerName<'static>,
    /// One of several protocols has to be taken.
    wants_protocol: bool,
}

/// What a handshake has come to.
pub(super) struct Opened {
    pub(super) channel: Channel,
    /// When the endpoint's certificate ends.
    pub(super) expires: Option<SystemTime>,
}

/// The settings of `tls`, to be made once and shared; `system` gives the system's roots.
///
/// No session is ever resumed: that would leave out the certificates, and an endpoint whose certificate has expired or
/// which no longer takes ours would look well.
pub(crate) fn config(tls: &ProbeTls, system: impl FnOnce() -> RootCertStore) -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let builder = match &tls.trust {
        Trust::Anybody => builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider))),
        Trust::Roots { system: by_system, files } => {
            let mut roots = if *by_system { system() } else { RootCertStore::empty() };
            roots.add_parsable_certificates(files.iter().cloned());
            builder.with_root_certificates(roots)
        }
    };
    let mut config = match &tls.identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let key = PrivateKeyDer::try_from(identity.key.0.to_vec()).map_err(|why| Error::General(why.to_owned()))?;
            builder.with_client_auth_cert(identity.chain.clone(), key)?
        }
    };
    config.alpn_protocols = tls.alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// The root certificates of the system. Reading them takes milliseconds.
pub(crate) fn system_roots() -> RootCertStore {
    let mut store = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (used, _) = store.add_parsable_certificates(found.certs);
    if used == 0 {
        let why = found.errors.first().map(ToString::to_string).unwrap_or_default();
        tracing::error!("the system has no root certificates, so nobody is trusted by them: {why}");
    }
    store
}

impl Client {
    /// TLS under `config`, which is that of `tls`, with an endpoint of this name.
    ///
    /// # Errors
    /// No certificate could have the name.
    pub(crate) fn new(config: Arc<ClientConfig>, tls: &ProbeTls, name: &str) -> Result<Client, Observation> {
        match ServerName::try_from(name.to_owned()) {
            Ok(name) => Ok(Client { connector: config.into(), name, wants_protocol: !tls.alpn.is_empty() }),
            Err(_) => Err(Observation::Refused(format!("no certificate could have the name {name:?}").into())),
        }
    }

    /// Makes the handshake.
    ///
    /// # Errors
    /// What is to be told of the endpoint, and the connection if it is worth an end.
    pub(super) async fn open(&self, line: Line) -> Result<Opened, (Observation, Channel)> {
        let handshake = self.connector.connect(self.name.clone(), line).into_fallible();
        let stream = handshake.await.map_err(|(error, line)| (observation(&error), Channel::Clear(line)))?;
        let (_, connection) = stream.get_ref();
        let no_protocol = self.wants_protocol && connection.alpn_protocol().is_none();
        let expires = connection.peer_certificates().and_then(|chain| presented::until(chain.first()?));
        let channel = Channel::Tls(Box::new(stream));
        if no_protocol {
            return Err((Observation::Refused(NO_PROTOCOL.into()), channel));
        }
        Ok(Opened { channel, expires })
    }
}

const NO_PROTOCOL: &str = "it takes none of the protocols offered (alpn)";

/// For a probe that asks no more than a handshake: tells what the endpoint makes of our certificate, or of that we have
/// none. In TLS 1.3 it says so only after the handshake, and is sure to have done so when it has ended too;
/// where that is not waited for, the connection is still to be ended.
pub(super) async fn confirm(mut channel: Channel) -> (Observation, Option<Channel>) {
    let Channel::Tls(stream) = &channel else { return (Observation::Pass("connected".into()), Some(channel)) };
    let version = stream.get_ref().1.protocol_version();
    let text = match version {
        Some(ProtocolVersion::TLSv1_3) => "TLS 1.3",
        Some(ProtocolVersion::TLSv1_2) => "TLS 1.2",
        _ => "TLS",
    };
    if version != Some(ProtocolVersion::TLSv1_3) {
        return (Observation::Pass(text.into()), Some(channel));
    }
    // Any other error comes of an endpoint that ends without a word, as many do.
    let refusal = channel.part().await.err().as_ref().and_then(refusal);
    (refusal.map_or(Observation::Pass(text.into()), Observation::Refused), None)
}

/// What the failure of a handshake, or of a talk in TLS, tells of the endpoint.
pub(super) fn observation(error: &io::Error) -> Observation {
    match refusal(error) {
        Some(refusal) => Observation::Refused(refusal),
        None if error.kind() == io::ErrorKind::UnexpectedEof => Observation::Missing("it ended the connection".into()),
        None => Observation::Missing(error.to_string().into()),
    }
}

/// What a definite answer within TLS means; nothing if there was none.
fn refusal(error: &io::Error) -> Option<Text> {
    let error = error.get_ref()?.downcast_ref::<Error>()?;
    Some(match error {
        Error::InvalidCertificate(error) => words::certificate(error),
        Error::AlertReceived(AlertDescription::NoApplicationProtocol) | Error::NoApplicationProtocol => {
            NO_PROTOCOL.into()
        }
        Error::AlertReceived(alert) => format!("TLS alert {alert:?}").into(),
        Error::InvalidMessage(_) => "it does not answer in TLS".into(),
        other => format!("TLS: {other}").into(),
    })
}

/// Trusts every certificate; signatures are still verified, or there would be no TLS at all.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
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
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
