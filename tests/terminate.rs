//! Routes on which TLS ends here, beside others on the same port through which it passes.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustls::HandshakeKind;
use tempfile::TempDir;

use crate::harness::answering::{Authority, Server, Speaks, http};
use crate::harness::client::hello;
use crate::harness::process::{free_address, skipped};
use crate::harness::tls::{Backend, Session, connect};
use crate::harness::{Balancer, Client, Endpoint, Manner, eventually};

struct Scene {
    authority: Authority,
    balancer: Balancer,
    _endpoint: Endpoint,
    folder: TempDir,
}

/// One route that terminates a.test, in front of an endpoint that echoes.
fn scene(tls: &str, more: &str) -> Scene {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    let identity = authority.sign("a.test");
    let endpoint = Endpoint::start(Manner::Echoes);
    let balancer = Balancer::terminating(&[&identity], tls, endpoint.address(), more);
    Scene { authority, balancer, _endpoint: endpoint, folder }
}

impl Scene {
    fn edge(&self) -> SocketAddr {
        self.balancer.address("edge")
    }
}

fn echoes(session: &mut Session, text: &[u8]) {
    session.write_all(text).unwrap();
    let mut back = vec![0; text.len()];
    session.read_exact(&mut back).unwrap();
    assert_eq!(back, text);
}

fn ends(mut session: Session) {
    session.conn.send_close_notify();
    session.flush().unwrap();
    assert_eq!(session.read(&mut [0; 1]).unwrap(), 0, "a clean end is answered by one");
}

#[test]
fn one_port_terminates_some_names_and_passes_others_through() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    let identity = authority.sign("a.test");
    let (plain, sealed) = (Endpoint::start(Manner::Echoes), Backend::start("b.test", folder.path()));
    let balancer = Balancer::start(&format!(
        r#"
        listener.edge.bind = "127.0.0.1:0"
        route.a = {{ listener = "edge", sni = "a.test", pool = "a", tls.certificates = "{}" }}
        route.b = {{ listener = "edge", sni = "b.test", pool = "b" }}
        pool.a.endpoints = "{}"
        pool.b.endpoints = "{}"
        "#,
        identity.file("pem"),
        plain.address(),
        sealed.address()
    ));
    let mut session = connect(balancer.address("edge"), "a.test", &Arc::new(authority.client()));
    echoes(&mut session, b"in clear behind");
    ends(session);
    assert!(sealed.ask(balancer.address("edge"), &sealed).unwrap().contains("asked for b.test"));
    let records = balancer.records(2);
    let terminated = &records[0];
    assert_eq!((&terminated["outcome"], &terminated["tls_version"]), (&"ok".into(), &"1.3".into()), "{terminated}");
    assert_eq!(terminated["tls_resumed"], false);
    assert_eq!((&terminated["bytes_up"], &terminated["bytes_down"]), (&15.into(), &15.into()), "plain bytes");
    assert!(records[1].get("tls_version").is_none(), "nothing was agreed on here: {}", records[1]);
    assert_eq!(plain.heard()[0].bytes, b"in clear behind");
}

#[test]
fn a_client_that_says_nothing_gets_its_tickets_all_the_same() {
    let scene = scene("", "");
    let mut session = connect(scene.edge(), "a.test", &Arc::new(scene.authority.client()));
    session.conn.complete_io(&mut session.sock).unwrap();
    while session.conn.tls13_tickets_received() == 0 {
        assert_ne!(session.conn.read_tls(&mut session.sock).unwrap(), 0, "the end comes before them");
        session.conn.process_new_packets().unwrap();
    }
}

#[test]
fn bulk_passes_in_both_directions_at_once() {
    let scene = scene("", "");
    let mut session = connect(scene.edge(), "a.test", &Arc::new(scene.authority.client()));
    let piece: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    for _ in 0..40 {
        echoes(&mut session, &piece);
    }
    ends(session);
    let record = scene.balancer.record();
    assert_eq!((&record["bytes_up"], &record["bytes_down"]), (&16_000_000.into(), &16_000_000.into()));
}

#[test]
fn versions_and_protocols_are_those_of_the_route() {
    let scene = scene("alpn = ['h2', 'http/1.1'], min_version = '1.3'", "");
    let mut config = scene.authority.client();
    config.alpn_protocols = vec![b"http/1.1".to_vec(), b"h2".to_vec()];
    let mut session = connect(scene.edge(), "a.test", &Arc::new(config.clone()));
    echoes(&mut session, b"x");
    assert_eq!(session.conn.alpn_protocol(), Some(&b"h2"[..]), "the order is the route's");
    ends(session);
    config.alpn_protocols = vec![b"smtp".to_vec()];
    let mut session = connect(scene.edge(), "a.test", &Arc::new(config));
    let error = session.write_all(b"x").and_then(|()| session.read(&mut [0; 1])).unwrap_err();
    assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
    let old = openssl(scene.edge(), &["-tls1_2", "-servername", "a.test"], "");
    assert!(old.is_none_or(|said| said.contains("protocol version")), "an alert says why");
    let failed = eventually("the refusal is told", || {
        scene
            .balancer
            .log()
            .lines()
            .into_iter()
            .find(|record| record["tls_error"].as_str().is_some_and(|error| error.contains("protocol")))
    });
    assert_eq!((&failed["outcome"], &failed["by"]), (&"handshake_failed".into(), &"client".into()), "{failed}");
}

#[test]
fn who_says_nothing_after_its_hello_is_sent_away_in_time() {
    let scene = scene("handshake = '300ms'", "");
    let mut silent = Client::sending(scene.edge(), &hello("a.test"));
    let mut answer = Vec::new();
    let _ = silent.0.read_to_end(&mut answer);
    assert_eq!(scene.balancer.record()["outcome"], "handshake_timeout");
    let mut broken = Client::sending(scene.edge(), &hello("a.test"));
    broken.send(b"\x16\x03\x03\x00\x04\xff\x00\x00\x00");
    let _ = broken.0.read_to_end(&mut answer);
    let record = scene.balancer.records(2)[1].clone();
    assert_eq!(record["outcome"], "handshake_failed", "{record}");
}

#[test]
fn without_an_endpoint_a_client_is_cut_off_and_takes_nothing_for_an_answer() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    let identity = authority.sign("a.test");
    let balancer = Balancer::terminating(&[&identity], "", free_address(), "");
    let mut session = connect(balancer.address("edge"), "a.test", &Arc::new(authority.client()));
    session.write_all(b"x").unwrap();
    assert_eq!(session.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    assert_eq!(balancer.record()["outcome"], "connect_failed");
}

#[test]
fn a_certificate_is_replaced_while_sessions_go_on() {
    let scene = scene("", "");
    let config = Arc::new(scene.authority.client());
    let mut long = connect(scene.edge(), "a.test", &config);
    echoes(&mut long, b"before");
    let serial = |session: &Session| session.conn.peer_certificates().unwrap()[0].to_vec();
    let before = serial(&long);
    // The same files, of another authority; half of a pair changes nothing.
    let other = Authority::new(tempfile::tempdir().unwrap().keep().as_path());
    let new = other.sign("a.test");
    let own = |what: &str| scene.folder.path().join("of a.test").join(format!("own.{what}"));
    replace(Path::new(&new.file("pem")), &own("pem"));
    std::thread::sleep(Duration::from_secs(5));
    let mut still = connect(scene.edge(), "a.test", &config);
    echoes(&mut still, b"the old one");
    assert_eq!(serial(&still), before);
    replace(Path::new(&new.file("key")), &own("key"));
    let config = Arc::new(other.client());
    eventually("the new certificate is shown", || {
        let mut session = connect(scene.edge(), "a.test", &config);
        session.write_all(b"x").ok().filter(|()| serial(&session) != before)
    });
    echoes(&mut long, b"after");
}

fn replace(from: &Path, to: &Path) {
    let new = to.with_extension("new");
    std::fs::copy(from, &new).unwrap();
    std::fs::rename(new, to).unwrap();
}

#[test]
fn sessions_are_resumed_on_their_own_route_only() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    let (a, b) = (authority.sign("a.test"), authority.sign("b.test"));
    let endpoint = Endpoint::start(Manner::Echoes);
    let balancer = Balancer::start(&format!(
        r#"
        listener.edge.bind = "127.0.0.1:0"
        route.a = {{ listener = "edge", sni = "a.test", pool = "p", tls.certificates = ["{0}", "{1}"] }}
        route.b = {{ listener = "edge", sni = "b.test", pool = "p", tls.certificates = ["{0}", "{1}"] }}
        pool.p.endpoints = "{2}"
        "#,
        a.file("pem"),
        b.file("pem"),
        endpoint.address()
    ));
    let config = Arc::new(authority.client());
    let kind = |name: &str| {
        let mut session = connect(balancer.address("edge"), name, &config);
        echoes(&mut session, b"x");
        let kind = session.conn.handshake_kind();
        ends(session);
        kind
    };
    assert_eq!(kind("a.test"), Some(HandshakeKind::Full));
    assert_eq!(kind("a.test"), Some(HandshakeKind::Resumed));
    assert_eq!(kind("b.test"), Some(HandshakeKind::Full), "the client has no ticket for it yet");
    assert_eq!(balancer.records(3)[1]["tls_resumed"], true);
    // A ticket of the one route, shown at the other: openssl does as it is told.
    let ticket = folder.path().join("ticket");
    let ticket = ticket.to_str().unwrap();
    let edge = balancer.address("edge");
    for version in ["-tls1_3", "-tls1_2"] {
        let Some(_) = openssl(edge, &[version, "-servername", "a.test", "-sess_out", ticket], "x\n") else { return };
        let same = openssl(edge, &[version, "-servername", "a.test", "-sess_in", ticket], "x\n").unwrap();
        assert!(same.contains("\nReused, "), "{version}: {same}");
        let other = openssl(edge, &[version, "-servername", "b.test", "-sess_in", ticket], "x\n").unwrap();
        assert!(other.contains("\nNew, "), "{version}: {other}");
    }
}

#[test]
fn a_pair_with_the_same_secrets_resumes_the_sessions_of_either() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    let (identity, endpoint) = (authority.sign("a.test"), Endpoint::start(Manner::Echoes));
    let keys = folder.path().join("ticket.keys");
    let line = |digit: &str| format!("{}\n", digit.repeat(64));
    std::fs::write(&keys, line("1")).unwrap();
    let start = || {
        Balancer::start(&format!(
            "tls.ticket_keys = {keys:?}\nlistener.edge.bind = '127.0.0.1:0'\n\
             route.a = {{ listener = 'edge', pool = 'a', tls.certificates = '{}' }}\npool.a.endpoints = '{}'",
            identity.file("pem"),
            endpoint.address()
        ))
    };
    let (one, other) = (start(), start());
    let config = Arc::new(authority.client());
    let kind = |at: &Balancer| {
        let mut session = connect(at.address("edge"), "a.test", &config);
        echoes(&mut session, b"x");
        let kind = session.conn.handshake_kind().unwrap();
        ends(session);
        kind
    };
    assert_eq!(
        (kind(&one), kind(&other), kind(&one)),
        (HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed)
    );
    // The file is changed: tickets of the old secret are taken as long as it stands.
    let put = |text: String| {
        let new = keys.with_extension("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, &keys).unwrap();
    };
    // Files are looked at every two seconds.
    put(line("3"));
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!((kind(&other), kind(&one)), (HandshakeKind::Full, HandshakeKind::Resumed), "the old secret is gone");
    put(line("4") + &line("3"));
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(kind(&other), HandshakeKind::Resumed);
}

#[test]
fn an_endpoint_that_hangs_up_without_an_answer_is_found_out() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    let (identity, endpoint) = (authority.sign("a.test"), Endpoint::start(Manner::HangsUpAfter(1)));
    let balancer = Balancer::terminating(&[&identity], "", endpoint.address(), "outliers.failures = 2");
    let mut session = connect(balancer.address("edge"), "a.test", &Arc::new(authority.client()));
    session.write_all(b"question").unwrap();
    assert_eq!(session.read(&mut [0; 1]).unwrap(), 0, "a clean end");
    let record = balancer.record();
    assert_eq!((&record["outcome"], &record["by"]), (&"endpoint_silent".into(), &"endpoint".into()), "{record}");
    let failures =
        format!("pointsman_endpoint_connect_failures_total{{pool=\"a\",endpoint=\"{}\"}}", endpoint.address());
    assert_eq!(balancer.metric(&failures), 1.0);
}

/// What openssl says as a client; `None` where it is not installed.
fn openssl(to: SocketAddr, words: &[&str], input: &str) -> Option<String> {
    let client = Command::new("openssl")
        .args(["s_client", "-connect", &to.to_string()])
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut client = match client {
        Ok(client) => client,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            skipped("openssl is not installed");
            return None;
        }
        Err(error) => panic!("{error}"),
    };
    // The end of the input ends the session; tickets of TLS 1.3 come after the first answer.
    let mut stdin = client.stdin.take().unwrap();
    let _ = stdin.write_all(input.as_bytes());
    std::thread::sleep(Duration::from_millis(500));
    drop(stdin);
    let output = client.wait_with_output().unwrap();
    Some(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}

#[test]
fn curl_gets_a_page_of_a_server_that_knows_no_tls() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    let identity = authority.sign("a.test");
    let server = Server::start(Speaks::Once, &http("200 OK", "a page"));
    let balancer = Balancer::start(&format!(
        "listener.edge.bind = '127.0.0.1:0'\n[route.a]\nlistener = 'edge'\npool = 'a'\n\
         tls = {{ certificates = '{}', alpn = ['http/1.1'] }}\n[pool.a]\nendpoints = '{}'",
        identity.folder().display(),
        server.address()
    ));
    let edge = balancer.address("edge");
    for version in ["--tlsv1.3", "--tls-max=1.2"] {
        let output = Command::new("curl")
            .args(["-sS", "--max-time", "10", "--cacert", &authority.file()])
            .args(version.split('='))
            .args(["--resolve", &format!("a.test:{}:127.0.0.1", edge.port())])
            .arg(format!("https://a.test:{}/", edge.port()))
            .output();
        match output {
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr);
                assert_eq!(String::from_utf8_lossy(&output.stdout), "a page", "{version}: {said}");
            }
            Err(error) if error.kind() == ErrorKind::NotFound => return skipped("curl is not installed"),
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn operators_see_and_end_terminated_sessions() {
    let scene = scene("", "sessions.on_drain = 'close'");
    let mut session = connect(scene.edge(), "a.test", &Arc::new(scene.authority.client()));
    echoes(&mut session, b"x");
    let name =
        scene.balancer.ask(&serde_json::json!({ "command": "status" }))["pools"][0]["endpoints"][0]["name"].clone();
    scene.balancer.set("drain", "a", name.as_str().unwrap());
    assert!(session.read(&mut [0; 1]).is_err(), "a cut, which nobody takes for an end");
    assert_eq!(scene.balancer.record()["outcome"], "killed_drain");
}

#[test]
fn a_client_that_has_said_all_may_wait_for_an_endpoint() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    let (identity, address) = (authority.sign("a.test"), free_address());
    let balancer = Balancer::terminating(&[&identity], "", address, "no_endpoint = 'hold'");
    let mut session = connect(balancer.address("edge"), "a.test", &Arc::new(authority.client()));
    session.write_all(b"question").unwrap();
    session.conn.send_close_notify();
    session.flush().unwrap();
    session.sock.shutdown(std::net::Shutdown::Write).unwrap();
    std::thread::sleep(Duration::from_millis(700));
    let listener = std::net::TcpListener::bind(address).unwrap();
    let (mut endpoint, _) = listener.accept().unwrap();
    let mut question = Vec::new();
    endpoint.read_to_end(&mut question).unwrap();
    assert_eq!(question, b"question");
    endpoint.write_all(b"answer").unwrap();
    drop(endpoint);
    let mut answer = Vec::new();
    session.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"answer");
    assert_eq!(balancer.record()["outcome"], "ok");
}

#[test]
fn who_has_the_whole_answer_may_close_as_it_likes() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    let identity = authority.sign("a.test");
    for (answer, leaves_early) in [("answer".to_owned(), false), ("x".repeat(8_000_000), true)] {
        let server = Server::start(Speaks::Once, &answer);
        let balancer = Balancer::start(&format!(
            "listener.edge.bind = '127.0.0.1:0'\nroute.a = {{ listener = 'edge', pool = 'a', tls.certificates = '{}' }}\n\
             listener.clear = {{ bind = '127.0.0.1:0', protocol = 'tcp' }}\nroute.b = {{ listener = 'clear', pool = 'a' }}\n\
             pool.a.endpoints = '{}'",
            identity.file("pem"),
            server.address()
        ));
        let mut session = connect(balancer.address("edge"), "a.test", &Arc::new(authority.client()));
        session.write_all(b"question").unwrap();
        session.read_exact(&mut [0; 6]).unwrap();
        let mut clear = Client::sending(balancer.address("clear"), b"question");
        clear.0.read_exact(&mut [0; 5]).unwrap();
        // The end has come meanwhile, and is not read: to close is a reset.
        std::thread::sleep(Duration::from_millis(300));
        drop((session, clear));
        for record in balancer.records(2) {
            let expected = if leaves_early { ("client_reset", "client") } else { ("ok", "endpoint") };
            assert_eq!((&record["outcome"], &record["by"]), (&expected.0.into(), &expected.1.into()), "{record}");
        }
    }
}
