//! Certificates that are obtained from a real authority, pebble: challenges of both kinds, restarts, pairs, refusals.

use std::fs::DirEntry;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hickory_proto::rr::RecordType;
use pointsman::wire::sample::Sample;
use rustix::process::Signal;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme, StreamOwned};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::client::{get, hello};
use crate::harness::process::free_address;
use crate::harness::tls::Backend;
use crate::harness::{
    Balancer, Broken, Client, Endpoint, Manner, PATIENCE, Pebble, Process, eventually, eventually_within,
};

/// For an order with all that it takes, on a machine that does other things as well.
const ORDER: Duration = Duration::from_secs(60);

/// An authority, a balancer's address that it asks at, and a storage.
struct Scene {
    pebble: Pebble,
    edge: SocketAddr,
    http: SocketAddr,
    storage: TempDir,
    endpoint: Endpoint,
}

/// Nothing where there is no authority.
fn scene(more: &Value) -> Option<Scene> {
    let (edge, http) = (free_address(), free_address());
    let pebble = Pebble::start(edge, http, more)?;
    for name in ["a.test", "b.test", "c.test"] {
        pebble.dns.set(name, 1, &["127.0.0.1"]);
    }
    Some(Scene { pebble, edge, http, storage: tempfile::tempdir().unwrap(), endpoint: Endpoint::start(Manner::Echoes) })
}

impl Scene {
    /// A balancer at the address that is asked, whose route for these names ends TLS.
    fn config(&self, names: &str, account: &str) -> String {
        self.config_at(self.edge, names, account)
    }

    fn config_at(&self, edge: SocketAddr, names: &str, account: &str) -> String {
        format!(
            r#"
            listener.edge.bind = "{edge}"
            acme.ca = {{ {}, storage = "{}", {account} }}
            route.a = {{ listener = "edge", sni = [{names}], pool = "a", acme = "ca", tls = {{}} }}
            pool.a.endpoints = "{}"
            "#,
            self.pebble.keys(),
            self.storage.path().display(),
            self.endpoint.address()
        )
    }

    fn certificate(&self, name: &str) -> PathBuf {
        self.storage.path().join("certificates").join(format!("{name}.pem"))
    }

    /// Waits until a client that trusts the authority is served under this name.
    fn serves(&self, at: SocketAddr, name: &str) -> Vec<u8> {
        let config = self.pebble.client();
        eventually_within(ORDER, &format!("{name} is served at {at}"), || exchange(at, name, &config).ok())
    }
}

/// One exchange with an endpoint that echoes; gives the certificate that was shown.
fn exchange(at: SocketAddr, name: &str, config: &Arc<ClientConfig>) -> std::io::Result<Vec<u8>> {
    let connection = ClientConnection::new(Arc::clone(config), name.to_owned().try_into().unwrap()).unwrap();
    let stream = TcpStream::connect(at)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut stream = StreamOwned::new(connection, stream);
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0])?;
    let shown = stream.conn.peer_certificates().and_then(|chain| chain.first()).map(|leaf| leaf.to_vec());
    shown.ok_or_else(|| ErrorKind::InvalidData.into())
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_name_is_proven_on_the_port_that_serves_it() {
    let Some(scene) = scene(&json!({})) else { return };
    let balancer = Balancer::start(&scene.config("'a.test'", ""));
    scene.serves(scene.edge, "a.test");
    let lines = balancer.log().lines();
    let proof = lines.iter().find(|line| line["outcome"] == "acme_challenge").expect("the authority has asked");
    assert_eq!((&proof["sni"], &proof["by"]), (&"a.test".into(), &"policy".into()), "{proof}");
    assert_eq!(proof["alpn"], json!(["acme-tls/1"]), "{proof}");
    assert!(proof["tls_version"].is_string() && proof.get("tls_error").is_none(), "{proof}");
    assert_eq!(mode(&scene.certificate("a.test")), 0o600);
    let left = |folder: &str| std::fs::read_dir(scene.storage.path().join(folder)).unwrap().count();
    eventually("nothing is left behind", || (left("challenges") + left("locks") == 0).then_some(()));
    assert_eq!(balancer.metric("pointsman_acme_orders_total{account=\"ca\",result=\"issued\"}"), 1.0);
    let next = balancer.metric("pointsman_acme_next_renewal_timestamp_seconds{account=\"ca\",name=\"a.test\"}");
    assert!(next > SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64() + 86_400.0, "{next}");
}

#[test]
fn a_name_that_is_passed_through_is_proven_as_well() {
    let Some(scene) = scene(&json!({})) else { return };
    let folder = tempfile::tempdir().unwrap();
    let backend = Backend::start("b.test", folder.path());
    let balancer = Balancer::start(&format!(
        "listener.edge.bind = '{}'\nacme.ca = {{ {}, storage = '{}', key = 'rsa-2048' }}\n\
         route.b = {{ listener = 'edge', sni = 'b.test', pool = 'b', acme = 'ca' }}\npool.b.endpoints = '{}'",
        scene.edge,
        scene.pebble.keys(),
        scene.storage.path().display(),
        backend.address()
    ));
    let bundle = eventually_within(ORDER, "the certificate is there", || {
        std::fs::read_to_string(scene.certificate("b.test")).ok()
    });
    assert!(bundle.matches("BEGIN CERTIFICATE").count() >= 2 && bundle.contains("PRIVATE KEY"), "a chain and a key");
    assert!(backend.ask(scene.edge, &backend).unwrap().contains("asked for b.test"), "it is still passed through");
    assert!(balancer.log().lines().iter().any(|line| line["outcome"] == "acme_challenge"));
}

#[test]
fn a_name_is_proven_over_http() {
    let Some(scene) = scene(&json!({})) else { return };
    let account = format!("challenge = 'http-01', http_bind = '{}'", scene.http);
    let balancer = Balancer::start(&scene.config("'a.test'", &account));
    scene.serves(scene.edge, "a.test");
    assert!(balancer.log().lines().iter().all(|line| line["outcome"] != "acme_challenge"));
    for path in ["/", "/.well-known/acme-challenge/", "/.well-known/acme-challenge/x", "/../etc/passwd"] {
        assert_eq!(get(scene.http, path).0, 404, "{path}");
    }
}

#[test]
fn an_account_is_made_once_and_again_when_the_authority_has_forgotten_it() {
    let Some(mut scene) = scene(&json!({})) else { return };
    let process = Process::start(&scene.config("'a.test'", ""));
    scene.serves(scene.edge, "a.test");
    assert!(process.messages().contains("account made with"), "{}", process.messages());
    drop(process);
    let process = Process::start(&scene.config("'a.test', 'b.test'", ""));
    scene.serves(scene.edge, "b.test");
    assert!(!process.messages().contains("account made with"), "{}", process.messages());
    assert_eq!(process.messages().matches("certificate obtained").count(), 1, "the other one was there");
    drop(process);
    scene.pebble.restart();
    let process = Process::start(&scene.config("'b.test', 'c.test'", ""));
    scene.serves(scene.edge, "c.test");
    assert!(process.messages().contains("account made with"), "{}", process.messages());
}

#[test]
fn a_certificate_is_renewed() {
    let Some(scene) = scene(&json!({ "certificateValidityPeriod": 24 })) else { return };
    let balancer = Balancer::start(&scene.config("'a.test'", "key = 'ecdsa-p384'"));
    let first = scene.serves(scene.edge, "a.test");
    eventually_within(ORDER, "another one is shown", || {
        exchange(scene.edge, "a.test", &scene.pebble.client()).ok().filter(|shown| *shown != first)
    });
    assert_eq!(balancer.metric("pointsman_acme_orders_total{account=\"ca\",result=\"failed\"}"), 0.0);
}

#[test]
fn of_a_pair_one_orders_the_other_answers_and_both_serve() {
    let Some(scene) = scene(&json!({})) else { return };
    // The authority only ever asks the other node.
    let other = SocketAddr::from(([127, 0, 0, 2], scene.edge.port()));
    scene.pebble.dns.set("a.test", 1, &["127.0.0.2"]);
    // Which has found that somebody is at it, and waits.
    let lock = scene.storage.path().join("locks").join("a.test");
    std::fs::create_dir_all(lock.parent().unwrap()).unwrap();
    std::fs::write(&lock, format!("{} elsewhere 1 0", SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs())).unwrap();
    let waiting = Process::start(&format!("log.level = 'debug'\n{}", scene.config_at(other, "'a.test'", "")));
    eventually("it waits", || waiting.messages().contains("the other node obtains").then_some(()));
    std::fs::remove_file(&lock).unwrap();
    let ordering = Process::start(&scene.config("'a.test'", ""));
    let shown = scene.serves(scene.edge, "a.test");
    assert_eq!(scene.serves(other, "a.test"), shown);
    let proofs =
        |process: &Process| process.log().lines().iter().filter(|line| line["outcome"] == "acme_challenge").count();
    assert!(proofs(&waiting) > 0 && proofs(&ordering) == 0, "the other node has answered");
    assert!(ordering.messages().contains("certificate obtained"));
    assert!(!waiting.messages().contains("certificate obtained"), "{}", waiting.messages());
}

#[test]
fn an_order_that_is_broken_off_keeps_nobody_from_making_it_again() {
    let Some(scene) = scene(&json!({})) else { return };
    // The authority looks for the name, and looks.
    scene.pebble.dns.break_kind(RecordType::A, Some(Broken::Silent));
    scene.pebble.dns.break_kind(RecordType::AAAA, Some(Broken::Silent));
    let files = |folder: &str| {
        let folder = std::fs::read_dir(scene.storage.path().join(folder));
        // What is hidden is still being written; one that is killed then leaves it there.
        let is_whole = |file: &DirEntry| !file.file_name().as_encoded_bytes().starts_with(b".");
        folder.map_or(0, |files| files.filter(|file| file.as_ref().is_ok_and(is_whole)).count())
    };
    let is_under_way = || (files("locks") == 1 && files("challenges") == 1).then_some(());
    let mut stopped = Process::start(&scene.config("'a.test'", ""));
    eventually_within(ORDER, "the order is under way", is_under_way);
    stopped.signal(Signal::TERM);
    assert!(stopped.wait().success());
    assert_eq!((files("locks"), files("challenges")), (0, 0), "{}", stopped.messages());
    let killed = Process::start(&scene.config("'a.test'", ""));
    eventually_within(ORDER, "the order is under way again", is_under_way);
    drop(killed);
    assert_eq!(files("locks"), 1, "it could not tidy up");
    scene.pebble.dns.break_kind(RecordType::A, None);
    scene.pebble.dns.break_kind(RecordType::AAAA, None);
    let _again = Process::start(&scene.config("'a.test'", ""));
    scene.serves(scene.edge, "a.test");
    eventually("nothing is left", || (files("locks") + files("challenges") == 0).then_some(()));
}

/// Trusts everybody.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

/// No authority is needed: the other node of a pair has put a challenge there.
#[test]
fn only_what_is_asked_for_is_shown_and_the_rest_goes_where_it_did() {
    let storage = tempfile::tempdir().unwrap();
    let (endpoint, proofs) = (Endpoint::start(Manner::Echoes), Endpoint::start(Manner::Echoes));
    let balancer = Balancer::start(&format!(
        r#"
        listener.edge.bind = "127.0.0.1:0"
        acme.ca = {{ directory = "https://{}/", terms_agreed = true, storage = "{}" }}
        route.a = {{ listener = "edge", sni = "a.test", pool = "a", acme = "ca" }}
        route.proofs = {{ listener = "edge", sni = "a.test", alpn = "acme-tls/1", pool = "proofs" }}
        pool.a.endpoints = "{}"
        pool.proofs.endpoints = "{}"
        "#,
        free_address(),
        storage.path().display(),
        endpoint.address(),
        proofs.address()
    ));
    let edge = balancer.address("edge");
    let asking = Sample { name: Some(b"a.test"), alpn: &["acme-tls/1"], ..Sample::default() }.wire();
    passes(edge, &asking);
    assert_eq!(balancer.records(1)[0]["route"], "proofs", "there is nothing to show, so the endpoints may have it");
    let file = storage.path().join("challenges").join("a.test");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, "token.thumbprint").unwrap();
    let mut config =
        ClientConfig::builder().dangerous().with_custom_certificate_verifier(Arc::new(Anybody)).with_no_client_auth();
    config.alpn_protocols = vec![b"acme-tls/1".to_vec()];
    let config = Arc::new(config);
    let shown = eventually("the proof is shown", || {
        let connection = ClientConnection::new(Arc::clone(&config), "a.test".try_into().unwrap()).unwrap();
        let mut stream = StreamOwned::new(connection, TcpStream::connect(edge).unwrap());
        let ended = stream.read(&mut [0; 1]).ok()?;
        let shown = stream.conn.peer_certificates()?[0].to_vec();
        Some((ended, stream.conn.alpn_protocol()?.to_vec(), shown))
    });
    assert_eq!((shown.0, shown.1.as_slice()), (0, &b"acme-tls/1"[..]), "a clean end");
    // The extension of RFC 8737 begins with this identifier.
    let identifier = [0x2b, 6, 1, 5, 5, 7, 1, 31];
    assert!(shown.2.windows(identifier.len()).any(|window| window == identifier));
    let lines = eventually("it is told", || {
        let lines = balancer.log().lines();
        lines.iter().any(|line| line["outcome"] == "acme_challenge").then_some(lines)
    });
    assert!(lines.iter().all(|line| line["outcome"] != "acme_challenge" || line["route"].is_null()), "{lines:#?}");
    passes(edge, &hello("a.test"));
    assert_eq!(endpoint.heard().len(), 1, "other sessions go where they did");
}

/// A hello that goes to an endpoint, and comes back.
fn passes(to: SocketAddr, hello: &[u8]) {
    let mut client = Client::sending(to, hello);
    client.expect(hello);
    client.end();
}

#[test]
fn a_name_that_is_refused_harms_nobody_and_is_told_of() {
    let Some(scene) = scene(&json!({ "domainBlocklist": ["blocked.test"] })) else { return };
    let process = Process::start(&scene.config("'blocked.test', 'nowhere.test', 'c.test'", ""));
    scene.serves(scene.edge, "c.test");
    let told = |name: &str| {
        eventually_within(ORDER, &format!("{name} is told of"), || {
            let messages = process.messages();
            let about = |line: &&str| line.contains("no certificate was obtained") && line.contains(name);
            messages.lines().find(about).map(str::to_owned)
        })
    };
    let blocked = told("blocked.test");
    assert!(blocked.contains("rejectedIdentifier") && blocked.contains("there is no certificate"), "{blocked}");
    let nowhere = told("nowhere.test");
    assert!(nowhere.contains("the authority says") && nowhere.contains("tried again in"), "{nowhere}");
    // Nobody gets the certificate of another name in its place.
    let mut client = Client::sending(scene.edge, &hello("nowhere.test"));
    assert_eq!(client.rest().unwrap(), [21, 3, 3, 0, 2, 2, 80], "a fatal internal_error");
    let record = process.log().record_of(&client.address());
    assert_eq!((&record["outcome"], &record["by"]), (&"no_certificate".into(), &"pointsman".into()), "{record}");
    assert_eq!(record["route"], "a");
}

#[test]
fn an_account_is_bound_to_one_that_the_authority_has() {
    let key = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
    let binding = json!({ "externalAccountBindingRequired": true, "externalAccountMACKeys": { "kid-1": key } });
    let Some(scene) = scene(&binding) else { return };
    let file = scene.storage.path().join("eab.key");
    std::fs::write(&file, format!("{key}\n")).unwrap();
    let _balancer =
        Balancer::start(&scene.config("'a.test'", &format!("eab = {{ key_id = 'kid-1', hmac_file = {file:?} }}")));
    scene.serves(scene.edge, "a.test");
}
