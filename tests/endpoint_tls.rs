//! Pools whose endpoints are spoken to over TLS.

use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, SupportedProtocolVersion};
use tempfile::TempDir;

use crate::harness::answering::{Authority, Identity, Server, Speaks};
use crate::harness::tls::{Session, connect};
use crate::harness::{Balancer, Client, Line, PATIENCE, eventually};

struct Scene {
    folder: TempDir,
    authority: Authority,
    own: Identity,
}

impl Scene {
    fn new() -> Scene {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new(folder.path());
        let own = authority.sign("a.test");
        Scene { folder, authority, own }
    }

    /// A listener that reads nothing, and the pool p behind it with these endpoints and this TLS; CA stands for the authority.
    fn plain(&self, endpoints: &[&Server], tls: &str) -> Balancer {
        Balancer::start(&format!(
            "listener.edge = {{ bind = '127.0.0.1:0', protocol = 'tcp' }}\n\
             route.a = {{ listener = 'edge', pool = 'p' }}\n{}",
            self.pool(endpoints, tls)
        ))
    }

    /// The same where TLS with clients ends.
    fn terminating(&self, route: &str, endpoints: &[&Server], tls: &str) -> Balancer {
        Balancer::start(&format!(
            "listener.edge.bind = '127.0.0.1:0'\n[route.a]\nlistener = 'edge'\npool = 'p'\n[route.a.tls]\ncertificates = {:?}\n{route}\n{}",
            self.own.file("pem"),
            self.pool(endpoints, tls)
        ))
    }

    fn pool(&self, endpoints: &[&Server], tls: &str) -> String {
        let endpoints: Vec<String> = endpoints.iter().map(|server| server.address().to_string()).collect();
        let ca = format!("ca = {:?}", self.authority.file());
        let tls: String = tls.lines().map(|line| if line == "CA" { &ca } else { line }.to_owned() + "\n").collect();
        format!("[pool.p]\nendpoints = {endpoints:?}\nbalance = 'round-robin'\n[pool.p.tls]\n{tls}\n")
    }

    fn server(&self, name: &str) -> Server {
        Server::start_tls(Speaks::WhenAsked, "answer", self.authority.sign(name).server())
    }
}

/// What is answered to a client that sends a question.
fn asked(stream: &mut (impl Read + Write)) -> String {
    stream.write_all(b"question").unwrap();
    let mut answer = [0; 6];
    let read = stream.read_exact(&mut answer);
    read.map_or_else(|error| format!("{:?}", error.kind()), |()| String::from_utf8_lossy(&answer).into_owned())
}

fn ask(balancer: &Balancer) -> String {
    let mut client = Client::connect(balancer.address("edge"));
    let answer = asked(&mut client.0);
    let _ = client.0.shutdown(std::net::Shutdown::Write);
    let _ = client.0.read_to_end(&mut Vec::new());
    answer
}

#[test]
fn what_is_in_clear_goes_on_over_tls() {
    let scene = Scene::new();
    let server = scene.server("b.test");
    let balancer = scene.plain(&[&server], "name = 'b.test'\nCA");
    assert_eq!(ask(&balancer), "answer");
    let first = balancer.record();
    assert_eq!((&first["outcome"], &first["endpoint_tls_version"]), (&"ok".into(), &"1.3".into()), "{first}");
    assert_eq!((&first["bytes_up"], &first["bytes_down"]), (&8.into(), &6.into()), "plain bytes: {first}");
    assert_eq!(first["endpoint_tls_resumed"], false);
    assert!(first.get("tls_version").is_none(), "the client speaks none: {first}");
    assert_eq!(ask(&balancer), "answer");
    assert_eq!(balancer.records(2)[1]["endpoint_tls_resumed"], true, "the second session with the same endpoint");
    let talk = eventually("the endpoint has seen both ends", || server.talks().into_iter().next());
    assert_eq!((talk.heard.as_str(), talk.end), ("question", Ok(())), "a clean end in TLS");
}

#[test]
fn tls_that_ends_here_begins_anew() {
    let scene = Scene::new();
    for version in [&TLS13, &TLS12] {
        let server = Server::start_tls(Speaks::WhenAsked, "answer", speaking(&scene.authority.sign("b.test"), version));
        let balancer = scene.terminating("", &[&server], "name = 'b.test'\nCA");
        let mut session = connect(balancer.address("edge"), "a.test", &Arc::new(scene.authority.client()));
        assert_eq!(asked(&mut session), "answer");
        ends(session);
        let record = balancer.record();
        let expected = if *version == TLS13 { "1.3" } else { "1.2" };
        assert_eq!((&record["tls_version"], &record["endpoint_tls_version"]), (&"1.3".into(), &expected.into()));
        assert_eq!((&record["bytes_up"], &record["bytes_down"]), (&8.into(), &6.into()), "{record}");
    }
}

fn speaking(identity: &Identity, version: &'static SupportedProtocolVersion) -> ServerConfig {
    let builder = ServerConfig::builder_with_protocol_versions(&[version]).with_no_client_auth();
    builder.with_single_cert(identity.chain(), identity.private_key()).unwrap()
}

fn ends(mut session: Session) {
    session.conn.send_close_notify();
    session.flush().unwrap();
    assert_eq!(session.read(&mut [0; 1]).unwrap(), 0, "a clean end is answered by one");
}

#[test]
fn an_endpoint_that_is_somebody_else_is_passed_over() {
    let scene = Scene::new();
    let stranger = {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::called("strangers", folder.path());
        Server::start_tls(Speaks::WhenAsked, "answer", authority.sign("b.test").server())
    };
    let (named, good) = (scene.server("c.test"), scene.server("b.test"));
    let expired = scene.authority.sign_until("b.test", Some((2001, 1, 1)));
    let expired = Server::start_tls(Speaks::WhenAsked, "answer", expired.server());
    let clear = Server::start(Speaks::First, "220 no TLS here\r\n");
    for (bad, words, cause) in [
        (&stranger, "issuer that is not trusted", "certificate_untrusted"),
        (&named, "c.test", "certificate_name"),
        (&expired, "certificate expired on 2001-01-01", "certificate_expired"),
        (&clear, "cannot be read", "malformed"),
    ] {
        let balancer = scene.plain(&[bad], "name = 'b.test'\nCA");
        assert_ne!(ask(&balancer), "answer");
        let record = balancer.record();
        assert_eq!(
            (&record["outcome"], &record["by"]),
            (&"endpoint_tls_failed".into(), &"endpoint".into()),
            "{record}"
        );
        assert!(record["endpoint_tls_error"].as_str().unwrap().contains(words), "{record}");
        let failures = format!("pointsman_pool_handshake_failures_total{{pool=\"p\",cause=\"{cause}\"}}");
        assert!(balancer.metric(&failures) >= 1.0);
        // Nothing of the client is lost on it.
        let balancer = scene.plain(&[bad, &good], "name = 'b.test'\nCA");
        for _ in 0..4 {
            assert_eq!(ask(&balancer), "answer", "{words}");
        }
    }
}

#[test]
fn whom_to_trust_may_be_left_to_keys() {
    let scene = Scene::new();
    let folder = tempfile::tempdir().unwrap();
    let unknown = Authority::called("strangers", folder.path()).sign("nobody.test");
    let server = Server::start_tls(Speaks::WhenAsked, "answer", unknown.server());
    let (right, wrong) = (pin(&unknown), pin(&scene.own));
    assert_eq!(ask(&scene.plain(&[&server], "verify = false")), "answer");
    assert_eq!(ask(&scene.plain(&[&server], &format!("verify = false\npins = ['{wrong}', '{right}']"))), "answer");
    for tls in [
        format!("verify = false\npins = '{wrong}'"),
        // What is pinned is asked for besides.
        format!("name = 'nobody.test'\nCA\npins = '{right}'"),
    ] {
        let balancer = scene.plain(&[&server], &tls);
        assert_ne!(ask(&balancer), "answer", "{tls}");
        assert_eq!(balancer.record()["outcome"], "endpoint_tls_failed");
    }
}

#[test]
fn a_self_signed_certificate_is_trusted_where_it_is_named() {
    let scene = Scene::new();
    let folder = tempfile::tempdir().unwrap();
    // As openssl req -x509 makes it: an authority of its own.
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["b.test".to_owned()]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).unwrap();
    let file = folder.path().join("self.pem");
    std::fs::write(&file, certificate.pem()).unwrap();
    let config = ServerConfig::builder().with_no_client_auth();
    let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = config.with_single_cert(vec![certificate.der().clone()], key).unwrap();
    let server = Server::start_tls(Speaks::WhenAsked, "answer", config);
    assert_eq!(ask(&scene.plain(&[&server], &format!("name = 'b.test'\nca = {file:?}"))), "answer");
    for (tls, words) in [
        (format!("name = 'c.test'\nca = {file:?}"), "certificate is for b.test, not for c.test"),
        ("name = 'b.test'\nCA".to_owned(), "trusted as an endpoint's own only where it is itself in ca"),
    ] {
        let balancer = scene.plain(&[&server], &tls);
        assert_ne!(ask(&balancer), "answer");
        let record = balancer.record();
        assert!(record["endpoint_tls_error"].as_str().unwrap().contains(words), "{record}");
    }
}

/// The pin of a certificate's key, by the words of the reference if openssl is there.
fn pin(identity: &Identity) -> String {
    use base64::prelude::{BASE64_STANDARD, Engine as _};
    let own = format!("sha256/{}", BASE64_STANDARD.encode(identity.key_digest()));
    let script = format!(
        "openssl x509 -pubkey -noout -in '{}' | openssl pkey -pubin -outform der | openssl dgst -sha256 -binary | base64",
        identity.file("pem")
    );
    if let Ok(output) = Command::new("sh").args(["-c", &script]).output()
        && Command::new("openssl").arg("version").output().is_ok()
    {
        assert_eq!(format!("sha256/{}", String::from_utf8_lossy(&output.stdout).trim()), own);
    }
    own
}

#[test]
fn we_show_a_certificate_where_one_is_asked_for() {
    let scene = Scene::new();
    let (ours, theirs) = (scene.authority.sign("we.test"), scene.authority.sign("b.test"));
    let server = Server::start_tls(Speaks::WhenAsked, "answer", scene.authority.demanding(&theirs));
    let identity = format!("certificate = {:?}\nkey = {:?}", ours.file("pem"), ours.file("key"));
    let balancer = scene.plain(&[&server], &format!("name = 'b.test'\nCA\n{identity}"));
    assert_eq!(ask(&balancer), "answer");
    // In TLS 1.3 the refusal comes only after what we take for the end of the handshake.
    let balancer = scene.terminating("", &[&server], "name = 'b.test'\nCA");
    let mut session = connect(balancer.address("edge"), "a.test", &Arc::new(scene.authority.client()));
    assert_ne!(asked(&mut session), "answer");
    let record = balancer.record();
    assert_eq!((&record["outcome"], &record["by"]), (&"tls_broken".into(), &"endpoint".into()), "{record}");
    assert!(record["endpoint_tls_error"].as_str().unwrap().contains("wants a certificate"), "{record}");
}

#[test]
fn files_that_change_count_for_the_next_session() {
    let scene = Scene::new();
    let other = tempfile::tempdir().unwrap();
    let others = Authority::called("others", other.path());
    let server = Server::start_tls(Speaks::WhenAsked, "answer", others.sign("b.test").server());
    let health = "[pool.p.health]\nprobe = 'tls'\ninterval = '100ms'\nfast_interval = '100ms'";
    let balancer = scene.plain(&[&server], &format!("name = 'b.test'\nCA\n{health}"));
    assert_ne!(ask(&balancer), "answer");
    let put = |text: &str| {
        let (new, file) = (scene.folder.path().join("new"), scene.authority.file());
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, Path::new(&file)).unwrap();
    };
    put(&std::fs::read_to_string(others.file()).unwrap());
    eventually("the new authority is trusted", || {
        std::thread::sleep(Duration::from_millis(100));
        (ask(&balancer) == "answer").then_some(())
    });
    put("nonsense");
    // Longer than it takes to be looked at, and to be down.
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(ask(&balancer), "answer");
}

#[test]
fn the_protocol_inside_is_the_same_on_both_sides() {
    let scene = Scene::new();
    let identity = scene.authority.sign("b.test");
    let mut config = identity.server();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let both = Server::start_tls(Speaks::WhenAsked, "answer", config);
    let none = Server::start_tls(Speaks::WhenAsked, "answer", identity.server());
    let talk = |server: &Server, protocol: &str, tls: &str| -> (String, Line) {
        let tls = format!("name = 'b.test'\nCA\n{tls}");
        let balancer = scene.terminating("alpn = ['h2', 'http/1.1']", &[server], &tls);
        let mut config = scene.authority.client();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let mut session = connect(balancer.address("edge"), "a.test", &Arc::new(config));
        let answer = asked(&mut session);
        session.conn.send_close_notify();
        let _ = session.flush();
        (answer, balancer.record())
    };
    for protocol in ["h2", "http/1.1"] {
        assert_eq!(talk(&both, protocol, "").0, "answer");
    }
    // One that knows no ALPN can only be meant to speak what needs no saying.
    assert_eq!(talk(&none, "http/1.1", "").0, "answer");
    let (answer, record) = talk(&none, "h2", "");
    assert_ne!(answer, "answer");
    assert_eq!(record["endpoint_tls_error"], "no protocol (ALPN) in common", "{record}");
    assert_eq!(record["by"], "client", "it has chosen the protocol: {record}");
    let (answer, record) = talk(&both, "http/1.1", "alpn = 'postgresql'");
    assert_ne!(answer, "answer");
    assert!(record["endpoint_tls_error"].as_str().unwrap().contains("protocol"), "{record}");
}

#[test]
fn who_does_not_answer_the_greeting_is_given_up_in_time() {
    let scene = Scene::new();
    let silent = Server::start(Speaks::WhenAsked, "");
    let good = scene.server("b.test");
    let balancer = scene.plain(&[&silent], "name = 'b.test'\nCA\nhandshake = '300ms'");
    assert_ne!(ask(&balancer), "answer");
    assert_eq!(balancer.record()["endpoint_tls_error"], "it was not over in time");
    let balancer = scene.plain(&[&silent, &good], "name = 'b.test'\nCA\nhandshake = '300ms'");
    for _ in 0..2 {
        assert_eq!(ask(&balancer), "answer");
    }
}

#[test]
fn probes_go_over_the_same_tls() {
    let scene = Scene::new();
    let (good, named) = (scene.server("b.test"), scene.server("c.test"));
    let health = "[pool.p.health]\nprobe = 'tls'\ninterval = '100ms'\nfast_interval = '100ms'\nrise = 1";
    // Neither knows of protocols, which is as good as HTTP/1.1 to sessions and therefore to probes.
    let tls = format!("name = 'b.test'\nCA\nalpn = ['h2', 'http/1.1']\n{health}");
    let balancer = scene.plain(&[&good, &named], &tls);
    let up = |server: &Server| {
        balancer.metric(&format!("pointsman_endpoint_up{{pool=\"p\",endpoint=\"{}\"}}", server.address()))
    };
    eventually("the one with the right name is up", || (up(&good) == 1.0).then_some(()));
    let why = eventually("the other one was asked", || {
        let status = balancer.ask(&serde_json::json!({ "command": "status" }));
        let endpoints = status["pools"][0]["endpoints"].as_array().unwrap().clone();
        let named = endpoints.into_iter().find(|each| each["name"] == named.address().to_string()).unwrap();
        Some(named.to_string()).filter(|told| told.contains("c.test"))
    });
    assert_eq!(up(&named), 0.0, "{why}");
    assert_eq!((ask(&balancer), ask(&balancer)), ("answer".into(), "answer".into()));
}

#[test]
fn who_speaks_first_is_heard_and_bulk_passes() {
    let scene = Scene::new();
    let text = "x".repeat(3_000_000);
    let server = Server::start_tls(Speaks::First, &text, scene.authority.sign("b.test").server());
    let balancer = scene.plain(&[&server], "name = 'b.test'\nCA");
    let mut client = Client::connect(balancer.address("edge"));
    client.0.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut heard = Vec::new();
    client.0.read_to_end(&mut heard).unwrap();
    assert_eq!(heard.len(), text.len());
    drop(client);
    assert_eq!(balancer.record()["bytes_down"], text.len());
}
