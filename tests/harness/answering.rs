//! A server for probes: what it answers can be changed at any time, in clear or in TLS, and it remembers how each
//! connection was used and ended.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use rcgen::{
    CertificateParams, CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair, PublicKeyData as _,
    RevokedCertParams,
};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion};

use super::PATIENCE;
use super::tls::authority;

/// When a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// At once, and then it ends.
    First,
    /// At once, and then it only listens.
    Greets,
    /// Each time it has received something.
    WhenAsked,
    /// Once it has received something, and then it ends.
    Once,
}

/// A running server; it takes no more connections once the test ends.
pub struct Server {
    listener: TcpListener,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    answer: Mutex<String>,
    talks: Mutex<Vec<Talk>>,
}

/// What one connection came to.
#[derive(Clone, Debug)]
pub struct Talk {
    /// Where it came from.
    pub from: SocketAddr,
    /// What was received.
    pub heard: String,
    /// How it ended: without an error if both sides said so.
    pub end: Result<(), io::ErrorKind>,
}

impl Server {
    /// Answers this on a free port of 127.0.0.1.
    pub fn start(speaks: Speaks, answer: &str) -> Server {
        Server::start_with(speaks, answer, None)
    }

    /// Answers this in TLS.
    pub fn start_tls(speaks: Speaks, answer: &str, config: ServerConfig) -> Server {
        Server::start_with(speaks, answer, Some(Arc::new(config)))
    }

    fn start_with(speaks: Speaks, answer: &str, config: Option<Arc<ServerConfig>>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Server { listener: listener.try_clone().unwrap(), shared: Arc::default() };
        server.answer(answer);
        let shared = Arc::clone(&server.shared);
        std::thread::spawn(move || {
            while let Ok((connection, from)) = listener.accept() {
                let (shared, config) = (Arc::clone(&shared), config.clone());
                std::thread::spawn(move || {
                    let mut heard = Vec::new();
                    let end = serve(connection, config, speaks, &shared.answer, &mut heard);
                    let heard = String::from_utf8_lossy(&heard).into_owned();
                    let talk = Talk { from, heard, end: end.map_err(|error| error.kind()) };
                    shared.talks.lock().unwrap().push(talk);
                });
            }
        });
        server
    }

    /// Answers this from now on.
    pub fn answer(&self, answer: &str) {
        *self.shared.answer.lock().unwrap() = answer.to_owned();
    }

    /// Answers this status from now on, over HTTP.
    pub fn answer_status(&self, status: &str, body: &str) {
        self.answer(&http(status, body));
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// The connections that have ended.
    pub fn talks(&self) -> Vec<Talk> {
        self.shared.talks.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Ends the accept in its thread.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
    }
}

/// An answer over HTTP.
pub fn http(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

fn serve(
    connection: TcpStream,
    config: Option<Arc<ServerConfig>>,
    speaks: Speaks,
    answer: &Mutex<String>,
    heard: &mut Vec<u8>,
) -> io::Result<()> {
    connection.set_read_timeout(Some(PATIENCE))?;
    let socket = connection.try_clone()?;
    match config {
        None => talk(connection, speaks, answer, heard)?,
        Some(config) => {
            let mut stream = StreamOwned::new(ServerConnection::new(config).map_err(io::Error::other)?, connection);
            talk(&mut stream, speaks, answer, heard)?;
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
    }
    let _ = socket.shutdown(Shutdown::Write);
    // The other side may not have ended yet.
    io::copy(&mut &socket, &mut io::sink()).map(drop)
}

fn talk(mut stream: impl Read + Write, speaks: Speaks, answer: &Mutex<String>, heard: &mut Vec<u8>) -> io::Result<()> {
    let say = |stream: &mut dyn Write| {
        let answer = answer.lock().unwrap().clone();
        stream.write_all(answer.as_bytes())?;
        stream.flush()
    };
    if matches!(speaks, Speaks::First | Speaks::Greets) {
        say(&mut stream)?;
    }
    if speaks == Speaks::First {
        return Ok(());
    }
    let mut buffer = [0; 4096];
    loop {
        let received = stream.read(&mut buffer)?;
        heard.extend_from_slice(&buffer[..received]);
        if received > 0 && speaks != Speaks::Greets {
            say(&mut stream)?;
        }
        if received == 0 || speaks == Speaks::Once {
            return Ok(());
        }
    }
}

/// An authority whose certificate is in a file.
pub struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    folder: PathBuf,
}

/// A certificate with its key, in files as well.
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
    serial: u64,
    folder: PathBuf,
}

impl Authority {
    /// A new one; its files go to `folder`, one authority each.
    pub fn new(folder: &Path) -> Authority {
        Authority::called("probes", folder)
    }

    /// A new one that is called so.
    pub fn called(name: &str, folder: &Path) -> Authority {
        let (certificate, issuer) = authority(name);
        std::fs::write(folder.join("ca.pem"), certificate.pem()).unwrap();
        Authority { certificate: certificate.der().clone(), issuer, folder: folder.to_owned() }
    }

    /// The file of its certificate.
    pub fn file(&self) -> String {
        self.folder.join("ca.pem").to_str().unwrap().to_owned()
    }

    /// A certificate for this name.
    pub fn sign(&self, name: &str) -> Identity {
        self.sign_until(name, None)
    }

    /// A certificate for this name that ends at the beginning of a day.
    pub fn sign_until(&self, name: &str, end: Option<(i32, u8, u8)>) -> Identity {
        self.sign_as(name, name, KeyPair::generate().unwrap(), |params| {
            if let Some((year, month, day)) = end {
                params.not_after = rcgen::date_time_ymd(year, month, day);
            }
        })
    }

    /// A certificate for this name and this key, among whose other contents `change` may do as it likes. Its files go to a
    /// folder of their own, that of this `label`.
    pub fn sign_as(
        &self,
        label: &str,
        name: &str,
        key: KeyPair,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Identity {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.use_authority_key_identifier_extension = true;
        let serial = fastrand::u64(1..1 << 63);
        params.serial_number = Some(serial.into());
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let folder = self.folder.join(format!("of {label}"));
        let identity = Identity { chain: vec![certificate.der().clone()], key, serial, folder };
        let _ = std::fs::create_dir(&identity.folder);
        std::fs::write(identity.file("pem"), certificate.pem()).unwrap();
        std::fs::write(identity.file("key"), identity.key.serialize_pem()).unwrap();
        identity
    }

    /// A client that trusts this authority.
    pub fn client(&self) -> ClientConfig {
        self.client_that_can(aws_lc_rs::default_provider())
    }

    /// A client that trusts this authority and can do no more than this.
    pub fn client_that_can(&self, provider: CryptoProvider) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(provider));
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        builder.with_root_certificates(roots).with_no_client_auth()
    }

    /// A client that trusts this authority and shows this certificate, in one of these versions.
    pub fn client_as(&self, identity: &Identity, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let builder = ClientConfig::builder_with_protocol_versions(versions).with_root_certificates(roots);
        builder.with_client_auth_cert(identity.chain.clone(), identity.private_key()).unwrap()
    }

    /// A list of revoked certificates in PEM that ends at the beginning of a year.
    pub fn list(&self, revoked: &[&Identity], end: i32) -> String {
        self.list_until(revoked, rcgen::date_time_ymd(end, 1, 1).into())
    }

    /// A list of revoked certificates in PEM that ends then.
    pub fn list_until(&self, revoked: &[&Identity], end: SystemTime) -> String {
        let long_ago = rcgen::date_time_ymd(2020, 1, 1);
        let revoked = revoked.iter().map(|identity| RevokedCertParams {
            serial_number: identity.serial.into(),
            revocation_time: long_ago,
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: long_ago,
            next_update: end.into(),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    /// A server that demands a certificate of this authority.
    pub fn demanding(&self, identity: &Identity) -> ServerConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap();
        let builder = ServerConfig::builder().with_client_cert_verifier(verifier);
        builder.with_single_cert(identity.chain.clone(), identity.private_key()).unwrap()
    }
}

impl Identity {
    /// A server with this certificate.
    pub fn server(&self) -> ServerConfig {
        let builder = ServerConfig::builder().with_no_client_auth();
        builder.with_single_cert(self.chain.clone(), self.private_key()).unwrap()
    }

    /// The folder of both files.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file of its certificate (`pem`) or its key (`key`).
    pub fn file(&self, what: &str) -> String {
        self.folder.join(format!("own.{what}")).to_str().unwrap().to_owned()
    }

    /// The certificate, with what leads to its root.
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.chain.clone()
    }

    /// SHA-256 of the public key.
    pub fn key_digest(&self) -> Vec<u8> {
        ::aws_lc_rs::digest::digest(&::aws_lc_rs::digest::SHA256, &self.key.subject_public_key_info()).as_ref().to_vec()
    }

    /// The key.
    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::try_from(self.key.serialize_der()).unwrap()
    }
}
