//! Certificates that have ended, where TLS ends here: a valid one goes first, and what is there is served and told of.

use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;

use rcgen::KeyPair;
use rustls::{CertificateError, ClientConnection, Error};
use tempfile::TempDir;

use crate::harness::answering::{Authority, Identity};
use crate::harness::{Balancer, Endpoint, Manner, eventually};

/// 2020-02-02 and 2090-02-02, in Unix time.
const PAST: ((i32, u8, u8), f64) = ((2020, 2, 2), 1_580_601_600.0);
const FUTURE: ((i32, u8, u8), f64) = ((2090, 2, 2), 3_789_676_800.0);

struct Scene {
    authority: Authority,
    endpoint: Endpoint,
    folder: TempDir,
}

impl Scene {
    fn new() -> Scene {
        let folder = tempfile::tempdir().unwrap();
        Scene { authority: Authority::new(folder.path()), endpoint: Endpoint::start(Manner::Echoes), folder }
    }

    /// A certificate for a.test of the same kind as every other.
    fn sign(&self, label: &str, (year, month, day): (i32, u8, u8)) -> Identity {
        self.authority.sign_as(label, "a.test", KeyPair::generate().unwrap(), |params| {
            params.not_after = rcgen::date_time_ymd(year, month, day);
        })
    }

    /// The configuration of a route with these.
    fn config(&self, identities: &[&Identity]) -> String {
        let files: Vec<_> = identities.iter().map(|identity| identity.file("pem")).collect();
        format!(
            "listener.edge.bind = '127.0.0.1:0'\nroute.a = {{ listener = 'edge', pool = 'a', tls.certificates = {files:?} }}\n\
             pool.a.endpoints = '{}'\n",
            self.endpoint.address()
        )
    }

    /// What `pointsman check` says, which has nothing against it.
    fn check(&self, config: &str) -> String {
        let path = self.folder.path().join("pointsman.toml");
        std::fs::write(&path, config).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_pointsman")).arg("check").arg(path).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        said
    }

    /// Makes a handshake with a client that trusts the authority.
    fn shake(&self, at: SocketAddr) -> Result<(), Error> {
        let config = Arc::new(self.authority.client());
        let mut client = ClientConnection::new(config, "a.test".try_into().unwrap()).unwrap();
        let mut stream = TcpStream::connect(at).unwrap();
        while client.is_handshaking() {
            // What is wrong with a certificate comes wrapped.
            if let Err(error) = client.complete_io(&mut stream) {
                return Err(error.downcast().expect("it is of TLS"));
            }
        }
        Ok(())
    }
}

/// The metrics come to say when this one ends.
fn tells_end(balancer: &Balancer, identity: &Identity, end: f64) {
    let file = identity.file("pem");
    let series = format!("pointsman_certificate_expiry_timestamp_seconds{{route=\"a\",file={file:?}}} {end}\n");
    eventually(&series, || balancer.running().metrics().contains(&series).then_some(()));
}

#[test]
fn of_two_the_valid_one_is_served() {
    let scene = Scene::new();
    let (old, valid) = (scene.sign("old", PAST.0), scene.sign("valid", FUTURE.0));
    for order in [[&old, &valid], [&valid, &old]] {
        let config = scene.config(&order);
        let said = scene.check(&config);
        let told = format!("{:?}: certificate expired on 2020-02-02", old.file("pem"));
        assert!(said.contains(&told) && !said.contains(&valid.file("pem")), "{said}");
        let balancer = Balancer::start(&config);
        assert_eq!(scene.shake(balancer.address("edge")), Ok(()));
        tells_end(&balancer, &old, PAST.1);
        tells_end(&balancer, &valid, FUTURE.1);
    }
}

#[test]
fn the_only_one_is_served_though_it_has_ended() {
    let scene = Scene::new();
    let old = scene.sign("old", PAST.0);
    let config = scene.config(&[&old]);
    let said = scene.check(&config);
    assert!(said.starts_with("warning: ") && said.contains("certificate expired on 2020-02-02"), "{said}");
    let balancer = Balancer::start(&config);
    let error = scene.shake(balancer.address("edge")).unwrap_err();
    let is_told =
        matches!(error, Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }));
    assert!(is_told, "the client gets it, and judges by itself: {error}");
    let record = balancer.record();
    assert_eq!((&record["outcome"], &record["by"]), (&"handshake_failed".into(), &"client".into()), "{record}");
    assert_eq!(record["tls_error"], "the other side finds our certificate expired: alert certificate_expired");
    tells_end(&balancer, &old, PAST.1);
}
