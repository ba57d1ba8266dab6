//! The TLS that a probe runs in: the handshake, and what a failure means.
//!
//! No session is ever resumed: that would leave out the certificates, and an endpoint whose certificate has expired or
//! which no longer takes ours would look well.

use std::borrow::Cow;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::{AlertDescription, ClientConfig, Error, ProtocolVersion};
use tokio_rustls::TlsConnector;

use super::channel::{Channel, Line};
use crate::config::model::OutgoingTls;
use crate::health::verdict::{Observation, Text};
use crate::tls::outgoing::{self, Outgoing};
use crate::tls::{presented, words};

/// TLS towards one endpoint.
#[derive(Clone)]
pub(crate) struct Client {
    watched: Arc<Outgoing>,
    protocols: Vec<Vec<u8>>,
    name: ServerName<'static>,
    /// The name is written, and no endpoint's own.
    is_written: bool,
    /// One of several protocols has to be taken.
    wants_protocol: bool,
}

/// What a handshake has come to.
pub(super) struct Opened {
    pub(super) channel: Channel,
    /// When the endpoint's certificate ends.
    pub(super) expires: Option<SystemTime>,
}

impl Client {
    /// TLS by what is made of `tls`, with an endpoint of this name; `is_pools`: of the protocols one has to be taken only where
    /// sessions would have it so.
    ///
    /// # Errors
    /// No certificate could have the name.
    pub(crate) fn new(
        watched: &Arc<Outgoing>,
        tls: &OutgoingTls,
        is_pools: bool,
        name: &str,
    ) -> Result<Client, Observation> {
        let refused = |_| Observation::Refused(format!("no certificate could have the name {name:?}").into());
        let name = ServerName::try_from(name.to_owned()).map_err(refused)?;
        let protocols: Vec<Vec<u8>> = tls.alpn.iter().map(|protocol| protocol.to_vec()).collect();
        let wants_protocol = if is_pools { outgoing::needs_one(&protocols) } else { !protocols.is_empty() };
        Ok(Client { watched: Arc::clone(watched), protocols, name, is_written: tls.name.is_some(), wants_protocol })
    }

    /// The same for another who is asked besides, at this address.
    pub(super) fn for_another(&self, at: IpAddr) -> Client {
        let name = if self.is_written { self.name.clone() } else { at.into() };
        Client { name, ..self.clone() }
    }

    /// Makes the handshake.
    ///
    /// # Errors
    /// What is to be told of the endpoint, and the connection if it is worth an end.
    pub(super) async fn open(&self, line: Line) -> Result<Opened, (Observation, Channel)> {
        match self.watched.probing(&self.protocols) {
            Some(config) => self.handshake(config, line).await,
            None => Err((NO_SETTINGS, Channel::Clear(line))),
        }
    }

    /// Makes the handshake with a server that takes it amiss if it breaks: a certificate that does not hold is told only
    /// when it is done, and then there is a connection on which nothing must be said but what anybody may hear.
    ///
    /// # Errors
    /// As [`Client::open`].
    pub(super) async fn open_whole(&self, line: Line) -> Result<Opened, (Observation, Channel)> {
        let Some((config, verifier)) = self.watched.verifying_later(&self.protocols) else {
            return Err((NO_SETTINGS, Channel::Clear(line)));
        };
        let opened = self.handshake(config, line).await?;
        match self.verify(&opened.channel, verifier.as_ref()) {
            Ok(()) => Ok(opened),
            Err(error) => Err((Observation::Refused(meaning(&error)), opened.channel)),
        }
    }

    /// Verifies what the endpoint has shown of itself.
    fn verify(&self, channel: &Channel, verifier: &dyn ServerCertVerifier) -> Result<(), Error> {
        let shown = match channel {
            Channel::Tls(stream) => stream.get_ref().1.peer_certificates(),
            Channel::Clear(_) => None,
        };
        let (own, others) = shown.and_then(<[_]>::split_first).ok_or(Error::NoCertificatesPresented)?;
        verifier.verify_server_cert(own, others, &self.name, &[], UnixTime::now()).map(|_| ())
    }

    async fn handshake(&self, config: Arc<ClientConfig>, line: Line) -> Result<Opened, (Observation, Channel)> {
        let handshake = TlsConnector::from(config).connect(self.name.clone(), line).into_fallible();
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

const NO_SETTINGS: Observation = Observation::Missing(Cow::Borrowed("TLS cannot be set up"));
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
    Some(meaning(error.get_ref()?.downcast_ref::<Error>()?))
}

fn meaning(error: &Error) -> Text {
    match error {
        Error::InvalidCertificate(error) => words::certificate(error),
        Error::AlertReceived(AlertDescription::NoApplicationProtocol) | Error::NoApplicationProtocol => {
            NO_PROTOCOL.into()
        }
        Error::AlertReceived(alert) => format!("TLS alert {alert:?}").into(),
        Error::InvalidMessage(_) => "it does not answer in TLS".into(),
        other => format!("TLS: {other}").into(),
    }
}
