//! The demo's client: one HTTP request over TLS, by name.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{AlertDescription, ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::endpoint::HTTP;

/// For all of it.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of an answer that are read.
const MOST: u64 = 64 * 1024;

/// What a client sees.
pub(super) enum Seen {
    /// A server that was trusted has answered.
    Answer {
        /// The body.
        text: String,
        /// The server's certificate.
        certificate: CertificateDer<'static>,
    },
    /// The handshake ended with this alert.
    Alert(AlertDescription),
}

/// Connects to `address`, asks for `name` and trusts `trusted` alone.
///
/// # Errors
/// Everything but an answer or an alert.
pub(super) async fn ask(address: SocketAddr, name: &str, trusted: &CertificateDer<'static>) -> anyhow::Result<Seen> {
    timeout(PATIENCE, talk(address, name, trusted)).await.with_context(|| format!("no answer for {PATIENCE:?}"))?
}

async fn talk(address: SocketAddr, name: &str, trusted: &CertificateDer<'static>) -> anyhow::Result<Seen> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone())?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![HTTP.to_vec()];

    let stream = TcpStream::connect(address).await?;
    let connecting = TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(name.to_owned())?, stream);
    let mut stream = match connecting.await {
        Ok(stream) => stream,
        Err(error) => match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(rustls::Error::AlertReceived(alert)) => return Ok(Seen::Alert(*alert)),
            _ => return Err(error.into()),
        },
    };
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let certificate = certificates.first().context("a server without a certificate")?.clone().into_owned();

    stream.write_all(format!("GET / HTTP/1.1\r\nhost: {name}\r\nconnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    (&mut stream).take(MOST).read_to_string(&mut answer).await?;
    stream.shutdown().await?;
    match answer.split_once("\r\n\r\n") {
        Some((head, text)) if head.starts_with("HTTP/1.1 200 ") => {
            Ok(Seen::Answer { text: text.to_owned(), certificate })
        }
        _ => bail!("an unexpected answer: {answer:?}"),
    }
}

/// An alert as the RFCs call it.
pub(super) fn alert_name(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::UnrecognisedName => "unrecognized_name".to_owned(),
        other => format!("{other:?}"),
    }
}
