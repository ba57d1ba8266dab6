//! A real authority that speaks ACME: pebble, which issues certificates that nobody trusts and forgets everything.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::answering::Authority;
use super::process::{free_address, skipped};
use super::{Dns, PATIENCE, eventually};

/// A running authority; ends with the test.
pub struct Pebble {
    child: Child,
    folder: TempDir,
    authority: Authority,
    directory: SocketAddr,
    management: SocketAddr,
    /// Where it looks names up; a test says what they stand for.
    pub dns: Dns,
}

impl Pebble {
    /// Starts one that asks for proofs at the port of `tls` and of `http`, with further settings; nothing where it is not
    /// installed.
    pub fn start(tls: SocketAddr, http: SocketAddr, more: &Value) -> Option<Pebble> {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new(folder.path());
        let identity = authority.sign("127.0.0.1");
        let (directory, management, dns) = (free_address(), free_address(), Dns::start());
        let mut settings = json!({
            "listenAddress": directory.to_string(),
            "managementListenAddress": management.to_string(),
            "certificate": identity.file("pem"),
            "privateKey": identity.file("key"),
            "tlsPort": tls.port(),
            "httpPort": http.port(),
        });
        for (key, value) in more.as_object().unwrap() {
            settings[key] = value.clone();
        }
        std::fs::write(folder.path().join("pebble.json"), json!({ "pebble": settings }).to_string()).unwrap();
        let child = run(&folder, &dns)?;
        let pebble = Pebble { child, folder, authority, directory, management, dns };
        pebble.wait();
        Some(pebble)
    }

    /// Ends it and starts it anew: it has forgotten everything.
    pub fn restart(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.child = run(&self.folder, &self.dns).unwrap();
        self.wait();
    }

    fn wait(&self) {
        for address in [self.directory, self.management] {
            eventually("pebble listens", || TcpStream::connect(address).ok());
        }
    }

    /// The keys of an account with it.
    pub fn keys(&self) -> String {
        format!(
            "directory = 'https://{}/dir', ca = '{}', contact = 'admin@example.com', terms_agreed = true",
            self.directory,
            self.authority.file()
        )
    }

    /// A client that trusts what it has issued since it was started.
    pub fn client(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&self.get("/roots/0")).unwrap()).unwrap();
        Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
    }

    /// A page of its management.
    fn get(&self, path: &str) -> Vec<u8> {
        let name = self.management.ip().to_string().try_into().unwrap();
        let connection = ClientConnection::new(Arc::new(self.authority.client()), name).unwrap();
        let stream = TcpStream::connect(self.management).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut stream = StreamOwned::new(connection, stream);
        write!(stream, "GET {path} HTTP/1.0\r\nHost: test\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        if let Err(error) = stream.read_to_end(&mut answer) {
            // It ends without the words for it.
            assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{path}: {error}");
        }
        answer
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            eprintln!("what pebble says:\n{log}");
        }
    }
}

fn run(folder: &TempDir, dns: &Dns) -> Option<Child> {
    let log = File::options().create(true).append(true).open(folder.path().join("log")).unwrap();
    let child = Command::new("pebble")
        .args(["-config", folder.path().join("pebble.json").to_str().unwrap()])
        .args(["-dnsserver", &dns.address().to_string()])
        .env("PEBBLE_VA_NOSLEEP", "1")
        .env("PEBBLE_WFE_NONCEREJECT", "5")
        // What was proven once has to be proven again.
        .env("PEBBLE_AUTHZREUSE", "0")
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .stdin(Stdio::null())
        .spawn();
    match child {
        Ok(child) => Some(child),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            skipped("pebble is not installed");
            None
        }
        Err(error) => panic!("{error}"),
    }
}
