//! The demo's endpoints: HTTP over TLS, each with a certificate of its own.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::client::Seen;

/// The only protocol that is spoken.
pub(super) const HTTP: &[u8] = b"http/1.1";
/// For the handshake, and for the head of a request.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a client may take to close after it was answered.
const LAST_BYTES: Duration = Duration::from_secs(1);
/// Pause after an accept that failed.
const BACK_OFF: Duration = Duration::from_millis(50);

/// One server; it runs as long as the tasks it was started with.
pub(super) struct Endpoint {
    /// What it calls itself.
    pub(super) name: &'static str,
    /// The name in its certificate.
    pub(super) host: String,
    pub(super) address: SocketAddr,
    pub(super) certificate: CertificateDer<'static>,
    /// The certificate in PEM.
    pub(super) file: PathBuf,
}

impl Endpoint {
    /// Starts a server with a fresh self-signed certificate, which is written to `folder`; the key never leaves the
    /// process.
    pub(super) async fn start(
        name: &'static str,
        folder: &Path,
        tasks: &mut JoinSet<Infallible>,
    ) -> anyhow::Result<Endpoint> {
        let host = format!("{name}.demo.test");
        let made = rcgen::generate_simple_self_signed([host.clone()]).context("making a certificate")?;
        let file = folder.join(format!("{name}.pem"));
        std::fs::write(&file, made.cert.pem()).with_context(|| format!("writing {}", file.display()))?;
        let certificate = made.cert.der().clone();
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)?;
        config.alpn_protocols = vec![HTTP.to_vec()];
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("no free port on loopback")?;
        let address = listener.local_addr()?;
        tasks.spawn(serve(name, listener, Arc::new(config).into()));
        Ok(Endpoint { name, host, address, certificate, file })
    }

    /// Whether this endpoint gave what a client saw.
    pub(super) fn gave(&self, seen: &Seen) -> bool {
        match seen {
            Seen::Answer { text, certificate } => {
                text.starts_with(&greeting(self.name)) && *certificate == self.certificate
            }
            Seen::Alert(_) => false,
        }
    }
}

fn greeting(name: &str) -> String {
    format!("Hello from {name}.\n")
}

async fn serve(name: &'static str, listener: TcpListener, tls: TlsAcceptor) -> Infallible {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(connections.spawn(answer(name, stream, tls.clone()))),
                Err(_) => sleep(BACK_OFF).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Answers one request. What goes wrong is the client's affair: its connection only ends.
async fn answer(name: &'static str, stream: TcpStream, tls: TlsAcceptor) {
    let Ok(Ok(stream)) = timeout(PATIENCE, tls.accept(stream)).await else { return };
    let host = stream.get_ref().1.server_name().unwrap_or("no name").to_owned();
    let text = format!(
        "{}This connection was opened for {host}, and its TLS ends here: pointsman has read no more than that name.\n",
        greeting(name)
    );
    let service = service_fn(move |_: Request<Incoming>| {
        let response = Response::new(Full::new(Bytes::from(text.clone())));
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let Ok(parts) = connection.without_shutdown().await else { return };
    // The client is the one to close: with its last bytes still unread, ours would be a reset.
    let mut stream = parts.io.into_inner();
    let _ = timeout(LAST_BYTES, async {
        stream.shutdown().await?;
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
    })
    .await;
}
