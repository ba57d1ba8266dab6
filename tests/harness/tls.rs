//! TLS backends with certificates of their own, and a TLS client that trusts one of them.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use super::PATIENCE;

/// A TLS server that answers one line with its name, under a certificate that nobody else could have.
pub struct Backend {
    name: &'static str,
    address: SocketAddr,
    authority: CertificateDer<'static>,
    authority_file: PathBuf,
}

impl Backend {
    /// Starts one for this host name; its authority's certificate is written to `folder`.
    pub fn start(name: &'static str, folder: &Path) -> Backend {
        let (authority, issuer) = authority(name);
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &issuer).unwrap();
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
            .unwrap();
        let authority_file = folder.join(format!("{name}.pem"));
        std::fs::write(&authority_file, authority.pem()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let config = Arc::new(config);
        std::thread::spawn(move || {
            // The thread waits for its next client until the tests end.
            for connection in listener.incoming().flatten() {
                let config = Arc::clone(&config);
                std::thread::spawn(move || {
                    // A client that does not trust the certificate leaves; it says so itself.
                    let _ = answer(name, config, connection);
                });
            }
        });
        Backend { name, address, authority: authority.der().clone(), authority_file }
    }

    /// Its host name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The file of the certificate that clients have to trust.
    pub fn authority_file(&self) -> &str {
        self.authority_file.to_str().unwrap()
    }

    /// What a rustls client hears at `at` that asks for this backend's name and trusts `trusted` only.
    pub fn ask(&self, at: SocketAddr, trusted: &Backend) -> io::Result<String> {
        let mut roots = RootCertStore::empty();
        roots.add(trusted.authority.clone()).unwrap();
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let connection = ClientConnection::new(Arc::new(config), self.name.try_into().unwrap()).unwrap();
        let stream = TcpStream::connect(at)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut stream = StreamOwned::new(connection, stream);
        stream.write_all(REQUEST.as_bytes())?;
        let mut heard = String::new();
        stream.read_to_string(&mut heard)?;
        Ok(heard)
    }
}

/// A client's session in TLS.
pub type Session = StreamOwned<ClientConnection, TcpStream>;

/// Connects to `to` and asks for `name`.
pub fn connect(to: SocketAddr, name: &str, config: &Arc<ClientConfig>) -> Session {
    let connection = ClientConnection::new(Arc::clone(config), name.to_owned().try_into().unwrap()).unwrap();
    let stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    StreamOwned::new(connection, stream)
}

/// What every client sends.
pub const REQUEST: &str = "GET / HTTP/1.0\r\n\r\n";

/// A certificate that may sign others, and what it takes to do so.
pub fn authority(name: &str) -> (rcgen::Certificate, Issuer<'static, KeyPair>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, format!("authority of {name}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key).unwrap();
    (certificate, Issuer::new(params, key))
}

fn answer(name: &str, config: Arc<ServerConfig>, connection: TcpStream) -> io::Result<()> {
    let connection_state = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(connection_state, connection);
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        request.extend(byte);
    }
    let asked = stream.conn.server_name().unwrap_or("nobody").to_owned();
    let body = format!("{name} was asked for {asked}\n");
    write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
    stream.conn.send_close_notify();
    stream.flush()
}
