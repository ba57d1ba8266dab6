//! The clients: what they say first, in clear or in TLS, and whether the handshake was the one that is to be measured.
//!
//! In TLS they offer one version, one suite and one group, so that every balancer does the same work.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, HandshakeKind, RootCertStore, version};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use crate::hello::{NAME, Task};

/// A session, in clear or in TLS.
pub type Session = Either<TcpStream, TlsStream<TcpStream>>;

/// The certificate of the balancers that end TLS and its key, ECDSA P-256, made for one run.
pub struct Identity {
    /// Both in PEM, the certificate first.
    pub pem: String,
    certificate: CertificateDer<'static>,
}

impl Identity {
    pub fn new() -> anyhow::Result<Identity> {
        let made = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
        let pem = made.cert.pem() + &made.signing_key.serialize_pem();
        Ok(Identity { pem, certificate: made.cert.into() })
    }

    fn client(&self, resumption: Resumption) -> anyhow::Result<TlsConnector> {
        let provider = CryptoProvider {
            cipher_suites: vec![cipher_suite::TLS13_AES_128_GCM_SHA256],
            kx_groups: vec![kx_group::X25519],
            ..aws_lc_rs::default_provider()
        };
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone())?;
        let builder = ClientConfig::builder_with_provider(Arc::new(provider));
        let builder = builder.with_protocol_versions(&[&version::TLS13])?;
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.resumption = resumption;
        Ok(Arc::new(config).into())
    }
}

/// How clients come to a balancer.
#[derive(Clone)]
pub enum Clients {
    /// With the hello of a browser, behind which nothing is TLS.
    Passing(SocketAddr),
    /// Each handshake has a certificate and a key exchange.
    Full(SocketAddr, TlsConnector),
    /// Each client has a ticket of its own from the session before and resumes that.
    Resuming(SocketAddr, Vec<TlsConnector>),
}

impl Clients {
    /// Clients that never resume a session.
    pub fn full(to: SocketAddr, identity: &Identity) -> anyhow::Result<Clients> {
        Ok(Clients::Full(to, identity.client(Resumption::disabled())?))
    }

    /// Clients that resume every session; each has had its first one already.
    pub async fn resuming(to: SocketAddr, identity: &Identity, count: usize) -> anyhow::Result<Clients> {
        let mut clients = Vec::new();
        for _ in 0..count {
            let client = identity.client(Resumption::in_memory_sessions(8))?;
            let first = Clients::Full(to, client.clone());
            crate::work::connections(first, 1, 1).await?;
            clients.push(client);
        }
        Ok(Clients::Resuming(to, clients))
    }

    /// Opens a session of the client with this number and says what the endpoint is to do.
    pub async fn open(&self, number: usize, task: Task) -> io::Result<Session> {
        match self {
            Clients::Passing(to) => {
                let mut stream = connect(*to).await?;
                stream.write_all(&task.hello()).await?;
                Ok(Either::Left(stream))
            }
            Clients::Full(to, client) => in_tls(*to, client, HandshakeKind::Full, task).await,
            Clients::Resuming(to, clients) => in_tls(*to, &clients[number], HandshakeKind::Resumed, task).await,
        }
    }
}

async fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn in_tls(to: SocketAddr, client: &TlsConnector, due: HandshakeKind, task: Task) -> io::Result<Session> {
    let name = NAME.try_into().map_err(io::Error::other)?;
    let mut stream = client.connect(name, connect(to).await?).await?;
    let kind = stream.get_ref().1.handshake_kind();
    if kind != Some(due) {
        return Err(io::Error::other(format!("the handshake was {kind:?} and not {due:?}")));
    }
    stream.write_all(&task.opening()).await?;
    Ok(Either::Right(stream))
}
