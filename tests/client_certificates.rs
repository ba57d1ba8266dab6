//! Routes that ask their clients for certificates.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::KeyPair;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind};
use tempfile::TempDir;

use crate::harness::answering::{Authority, Identity};
use crate::harness::tls::connect;
use crate::harness::{Balancer, Endpoint, Line, Manner, eventually};

struct Scene {
    /// Of the clients, and of the balancer too.
    authority: Authority,
    balancer: Balancer,
    list: PathBuf,
    _endpoint: Endpoint,
    _folder: TempDir,
}

/// A route that asks as `client` says, beside one that asks nothing; LIST stands for the file of a list that revokes nobody.
fn scene(client: &str) -> Scene {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    let (identity, endpoint) = (authority.sign("a.test"), Endpoint::start(Manner::Echoes));
    let open = authority.sign("open.test");
    let list = folder.path().join("list.crl");
    std::fs::write(&list, authority.list(&[], 2099)).unwrap();
    let client = client.replace("LIST", &format!("crl = {list:?}"));
    let balancer = Balancer::start(&format!(
        r#"
        listener.edge.bind = "127.0.0.1:0"
        [route.a]
        listener = "edge"
        sni = "a.test"
        pool = "p"
        [route.a.tls]
        certificates = {:?}
        client = {{ ca = {:?}, {client} }}
        [route.open]
        listener = "edge"
        sni = "open.test"
        pool = "p"
        tls.certificates = {:?}
        [pool.p]
        endpoints = "{}"
        "#,
        identity.file("pem"),
        authority.file(),
        open.file("pem"),
        endpoint.address()
    ));
    Scene { authority, balancer, list, _endpoint: endpoint, _folder: folder }
}

impl Scene {
    fn shows(&self, identity: &Identity) -> Arc<ClientConfig> {
        Arc::new(self.authority.client_as(identity, &[&TLS13]))
    }

    /// The last line of the log, once there are so many.
    fn last(&self, count: usize) -> Line {
        self.balancer.records(count).pop().unwrap()
    }
}

/// How a session began, or what the client was told instead.
fn talk(to: SocketAddr, name: &str, config: &Arc<ClientConfig>) -> Result<HandshakeKind, String> {
    let mut session = connect(to, name, config);
    let mut back = [0; 2];
    let talked = session.write_all(b"hi").and_then(|()| session.read_exact(&mut back));
    talked.map_err(|error| error.to_string())?;
    assert_eq!(&back, b"hi");
    let kind = session.conn.handshake_kind().unwrap();
    session.conn.send_close_notify();
    session.flush().unwrap();
    assert_eq!(session.read(&mut back).unwrap(), 0);
    Ok(kind)
}

/// A certificate of an authority that nobody here trusts.
fn stranger() -> Identity {
    let folder = tempfile::tempdir().unwrap();
    Authority::called("strangers", folder.path()).sign("client-1.test")
}

fn replace(file: &Path, text: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, file).unwrap();
}

#[test]
fn only_those_with_a_certificate_of_the_authority_get_in() {
    let scene = scene("");
    let edge = scene.balancer.address("edge");
    let known = scene.authority.sign("client-1.test");
    let stranger = stranger();
    let late = scene.authority.sign_until("late.test", Some((2001, 1, 1)));
    assert_eq!(talk(edge, "a.test", &scene.shows(&known)), Ok(HandshakeKind::Full));
    let line = scene.last(1);
    assert_eq!(line["tls_client_names"], serde_json::json!(["DNS:client-1.test"]), "{line}");
    assert_eq!(line["tls_client_subject"], "CN=rcgen self signed cert", "{line}");
    let nobody = Arc::new(scene.authority.client());
    for (config, alert, cause, words, name) in [
        (nobody, "CertificateRequired", "certificate_missing", "no certificate was shown", ""),
        (scene.shows(&stranger), "UnknownCA", "certificate_untrusted", "issuer that is not trusted", "client-1.test"),
        (scene.shows(&late), "CertificateExpired", "certificate_expired", "expired on 2001-01-01", "late.test"),
    ] {
        let told = talk(edge, "a.test", &config).unwrap_err();
        assert!(told.contains(alert), "{told}");
        let line = eventually(&format!("the log says: {words}"), || {
            let lines = scene.balancer.log().lines();
            let said = |line: &Line| line["tls_error"].as_str().is_some_and(|error| error.contains(words));
            lines.into_iter().find(said).filter(|line| line["outcome"] == "handshake_failed")
        });
        let shown = line.get("tls_client_names").map(ToString::to_string).unwrap_or_default();
        assert!(shown.contains(name), "who that was: {line}");
        let failures = format!("pointsman_route_handshake_failures_total{{route=\"a\",cause=\"{cause}\"}}");
        assert_eq!(scene.balancer.metric(&failures), 1.0);
    }
    assert_eq!(talk(edge, "open.test", &Arc::new(scene.authority.client())), Ok(HandshakeKind::Full));
    let agreed = format!("version={},suite={},group={}", line["tls_version"], line["tls_suite"], line["tls_group"]);
    let succeeded = format!("pointsman_route_handshakes_total{{route=\"a\",{agreed},resumed=\"false\"}}");
    assert_eq!(scene.balancer.metric(&succeeded), 1.0);
}

#[test]
fn where_it_is_optional_only_a_bad_one_keeps_out() {
    let scene = scene("verify = 'optional'");
    let edge = scene.balancer.address("edge");
    assert_eq!(talk(edge, "a.test", &Arc::new(scene.authority.client())), Ok(HandshakeKind::Full));
    assert!(scene.last(1).get("tls_client_subject").is_none());
    let known = scene.authority.sign("client-1.test");
    assert_eq!(talk(edge, "a.test", &scene.shows(&known)), Ok(HandshakeKind::Full));
    let stranger = stranger();
    assert!(talk(edge, "a.test", &scene.shows(&stranger)).is_err());
}

#[test]
fn whoever_is_revoked_is_out_at_once_and_resumes_nothing() {
    let scene = scene("LIST");
    let edge = scene.balancer.address("edge");
    let (good, bad) = (scene.authority.sign("good.test"), scene.authority.sign("bad.test"));
    let clients = [&TLS13, &TLS12].map(|version| {
        let shows = |identity| Arc::new(scene.authority.client_as(identity, &[version]));
        (shows(&good), shows(&bad))
    });
    for (good, bad) in &clients {
        for config in [good, bad] {
            assert_eq!(talk(edge, "a.test", config), Ok(HandshakeKind::Full));
            assert_eq!(talk(edge, "a.test", config), Ok(HandshakeKind::Resumed));
        }
    }
    assert_eq!(scene.last(8)["tls_client_names"], serde_json::json!(["DNS:bad.test"]), "of the session before");
    replace(&scene.list, &scene.authority.list(&[&bad], 2099));
    for (good, bad) in &clients {
        let told = eventually("the new list holds", || talk(edge, "a.test", bad).err());
        assert!(told.contains("CertificateRevoked"), "{told}");
        assert_eq!(talk(edge, "a.test", good), Ok(HandshakeKind::Full), "its ticket was given under other rules");
        assert_eq!(talk(edge, "a.test", good), Ok(HandshakeKind::Resumed));
    }
    // What cannot be used changes nothing.
    replace(&scene.list, "nonsense");
    std::thread::sleep(Duration::from_secs(5));
    for (good, bad) in &clients {
        assert!(talk(edge, "a.test", bad).is_err());
        assert_eq!(talk(edge, "a.test", good), Ok(HandshakeKind::Resumed));
    }
}

#[test]
fn a_list_that_has_ended() {
    for (what, expected) in [("refuse", Err("UnknownCA")), ("use", Ok(HandshakeKind::Full))] {
        let scene = scene(&format!("LIST, expired_crl = '{what}'"));
        let (edge, client) = (scene.balancer.address("edge"), scene.authority.sign("client.test"));
        assert_eq!(talk(edge, "a.test", &scene.shows(&client)), Ok(HandshakeKind::Full));
        replace(&scene.list, &scene.authority.list(&[], 2021));
        let expiry = format!("pointsman_crl_expiry_timestamp_seconds{{route=\"a\",file={:?}}}", scene.list);
        eventually("the new list is there", || scene.balancer.metric_if_there(&expiry).filter(|end| *end < 1.7e9));
        let said = talk(edge, "a.test", &scene.shows(&client));
        match expected {
            Ok(kind) => assert_eq!(said, Ok(kind)),
            Err(part) => assert!(said.as_ref().is_err_and(|said| said.contains(part)), "{said:?}"),
        }
    }
}

#[test]
fn a_session_ends_its_life_with_the_certificate() {
    let scene = scene("");
    let edge = scene.balancer.address("edge");
    let soon = SystemTime::now() + Duration::from_secs(6);
    let short = scene.authority.sign_as("short.test", "short.test", KeyPair::generate().unwrap(), |params| {
        params.not_after = soon.into();
    });
    let config = scene.shows(&short);
    assert_eq!(talk(edge, "a.test", &config), Ok(HandshakeKind::Full));
    assert_eq!(talk(edge, "a.test", &config), Ok(HandshakeKind::Resumed));
    std::thread::sleep(Duration::from_secs(8));
    // The same client with a new certificate, which still has tickets of the old one.
    let new = scene.authority.sign("new.test");
    let mut renewed = scene.authority.client_as(&new, &[&TLS13]);
    renewed.resumption = config.resumption.clone();
    let told = talk(edge, "a.test", &config).unwrap_err();
    assert!(told.contains("CertificateExpired"), "{told}");
    let line = scene.last(3);
    assert_eq!((&line["outcome"], &line["tls_error"]), (&"handshake_failed".into(), &"certificate expired".into()));
    let renewed = Arc::new(renewed);
    let tries: Vec<_> = (0..12).map(|_| talk(edge, "a.test", &renewed)).collect();
    let good = tries.iter().position(Result::is_ok).expect("no try gets in");
    assert_eq!(tries[good], Ok(HandshakeKind::Full), "no old ticket is left: {tries:?}");
    assert!(tries[good..].iter().all(Result::is_ok), "{tries:?}");
}

#[test]
fn a_list_that_ends_keeps_out_those_with_tickets_too() {
    let scene = scene("LIST");
    let (edge, client) = (scene.balancer.address("edge"), scene.authority.sign("client.test"));
    let config = scene.shows(&client);
    let end = SystemTime::now() + Duration::from_secs(6);
    replace(&scene.list, &scene.authority.list_until(&[], end));
    let expiry = format!("pointsman_crl_expiry_timestamp_seconds{{route=\"a\",file={:?}}}", scene.list);
    eventually("the list is there", || scene.balancer.metric_if_there(&expiry).filter(|end| *end < 4e9));
    assert_eq!(talk(edge, "a.test", &config), Ok(HandshakeKind::Full));
    assert_eq!(talk(edge, "a.test", &config), Ok(HandshakeKind::Resumed));
    let told = eventually("it counts that the list has ended", || {
        std::thread::sleep(Duration::from_millis(200));
        talk(edge, "a.test", &config).err()
    });
    assert!(told.contains("UnknownCA") && SystemTime::now() > end, "{told}");
}
