//! Probes that ask something: TLS, HTTP, scripts and agents, between a balancer and servers that answer as they are told.

use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::harness::answering::{Authority, Server, Speaks, http};
use crate::harness::daemon::Daemon;
use crate::harness::process::free_address;
use crate::harness::{Balancer, Endpoint, Manner, Process, Redis, eventually};

/// Quick enough for a test.
const QUICK: &str = "interval = '200ms', fast_interval = '100ms', timeout = '1s'";

fn config(endpoint: SocketAddr, health: &str) -> String {
    format!(
        r#"
        listener.edge.bind = "127.0.0.1:0"
        route.all = {{ listener = "edge", pool = "all" }}
        [pool.all]
        endpoints = ["{endpoint}"]
        health = {{ {health}, {QUICK} }}
        "#
    )
}

/// A balancer that probes one endpoint like this.
fn start(endpoint: SocketAddr, health: &str) -> Balancer {
    Balancer::start(&config(endpoint, health))
}

fn of(balancer: &Balancer, family: &str, endpoint: SocketAddr) -> f64 {
    balancer.metric(&format!("{family}{{pool=\"all\",endpoint=\"{endpoint}\"}}"))
}

fn is_up(balancer: &Balancer, endpoint: SocketAddr) -> bool {
    of(balancer, "pointsman_endpoint_up", endpoint) == 1.0
}

fn comes_up(balancer: &Balancer, endpoint: SocketAddr) {
    eventually("it is up", || is_up(balancer, endpoint).then_some(()));
}

fn goes_down(balancer: &Balancer, endpoint: SocketAddr) {
    eventually("it is down", || (!is_up(balancer, endpoint)).then_some(()));
}

/// Whether the first probe has an endpoint up: the start waits for it.
fn is_well(endpoint: SocketAddr, health: &str) -> bool {
    let balancer = start(endpoint, health);
    let up = is_up(&balancer, endpoint);
    let found = balancer.metric(&format!(
        "pointsman_endpoint_transitions_total{{pool=\"all\",endpoint=\"{endpoint}\",to=\"{}\"}}",
        if up { "up" } else { "down" }
    ));
    assert_eq!(found, 1.0, "it was found to be so");
    up
}

/// What a process says of one endpoint, once it has this in it.
fn says(process: &Process, what: &str) -> String {
    eventually(what, || Some(process.messages()).filter(|messages| messages.contains(what)))
}

#[test]
fn a_wrong_status_acts_at_once() {
    let server = Server::start(Speaks::Once, &http("200 OK", ""));
    let at = server.address();
    let balancer = start(at, "probe = 'http', http.path = '/healthz?full=1', rise = 2, fall = 3");
    assert!(is_up(&balancer, at));
    assert!(of(&balancer, "pointsman_endpoint_probe_seconds", at) > 0.0);
    let before = server.talks().len();
    server.answer_status("503 Service Unavailable", "");
    goes_down(&balancer, at);
    let probes = server.talks().len() - before;
    // One may have been under way, and one more may have gone out since.
    assert!(probes <= 3, "{probes} probes, where three without an answer would have been needed");
    assert!(of(&balancer, "pointsman_endpoint_last_transition_timestamp_seconds", at) > 1e9);
    server.answer_status("204 No Content", "");
    comes_up(&balancer, at);
    let talk = server.talks().remove(0);
    let lines: Vec<String> = talk.heard.lines().map(str::to_ascii_lowercase).collect();
    assert_eq!(lines[0], "get /healthz?full=1 http/1.1");
    for header in [&format!("host: {at}"), "connection: close"] {
        assert!(lines.iter().any(|line| line == header), "{header} is not in {lines:?}");
    }
    assert!(server.talks().iter().all(|talk| talk.end.is_ok()), "no reset: {:?}", server.talks());
}

#[test]
fn what_an_http_answer_has_to_be() {
    let long = format!("{}ready", "x".repeat(100_000));
    for (case, answer, table, up) in [
        ("another range", http("404 Not Found", ""), "status = [204, '400-404']", true),
        ("just outside", http("405 Method Not Allowed", ""), "status = [204, '400-404']", false),
        ("a redirect", http("301 Moved Permanently", ""), "path = '/'", true),
        ("the body", http("200 OK", "all is ready"), "body = 'ready'", true),
        ("another body", http("200 OK", "starting"), "body = 'ready'", false),
        ("too far behind", http("200 OK", &long), "body = 'ready'", false),
        ("until the end", "HTTP/1.0 200 OK\r\n\r\nall is ready".to_owned(), "body = 'ready'", true),
        ("no HTTP", "SSH-2.0-x\r\n".to_owned(), "path = '/'", false),
        ("nothing", String::new(), "path = '/'", false),
    ] {
        let server = Server::start(Speaks::Once, &answer);
        assert_eq!(is_well(server.address(), &format!("probe = 'http', http = {{ {table} }}")), up, "{case}");
    }
}

#[test]
fn a_request_as_it_is_asked_for() {
    let server = Server::start(Speaks::Once, &http("200 OK", ""));
    let table = "method = 'HEAD', host = 'www.example.com', headers = { Authorization = 'Basic eDp5' }";
    assert!(is_well(server.address(), &format!("probe = 'http', http = {{ {table} }}")));
    let heard = eventually("a probe has ended", || server.talks().into_iter().next()).heard.to_ascii_lowercase();
    for line in ["head / http/1.1\r\n", "\r\nhost: www.example.com\r\n", "\r\nauthorization: basic edp5\r\n"] {
        assert!(heard.contains(line), "{line:?} is not in {heard:?}");
    }
}

#[test]
fn another_place_is_probed() {
    let server = Server::start(Speaks::Once, &http("200 OK", ""));
    let (nobody, port) = (free_address(), server.address().port());
    assert!(is_well(nobody, &format!("probe = 'http', port = {port}")));
    let elsewhere = SocketAddr::from(([192, 0, 2, 1], 1));
    let table = format!("probe = 'http', address = '127.0.0.1', port = {port}, source = '127.0.0.9'");
    assert!(is_well(elsewhere, &table));
    let from: Vec<String> = server.talks().iter().map(|talk| talk.from.ip().to_string()).collect();
    assert!(from.iter().any(|from| from == "127.0.0.9"), "{from:?}");
}

#[test]
fn http_runs_in_tls_that_is_verified() {
    let folder = TempDir::new().unwrap();
    let authority = Authority::new(folder.path());
    let identity = authority.sign("web.test");
    let server = Server::start_tls(Speaks::Once, &http("200 OK", "ready"), identity.server());
    let ca = authority.file();
    for (case, tls, up) in [
        ("its name", format!("name = 'web.test', ca = '{ca}'"), true),
        ("another name", format!("name = 'other.test', ca = '{ca}'"), false),
        ("no name, so its address", format!("ca = '{ca}'"), false),
        ("an authority that it does not have", "name = 'web.test'".to_owned(), false),
        ("nothing is verified", "verify = false".to_owned(), true),
    ] {
        let health = format!("probe = 'http', http.body = 'ready', tls = {{ {tls} }}");
        assert_eq!(is_well(server.address(), &health), up, "{case}");
    }
    let clear = Server::start(Speaks::Once, &http("200 OK", ""));
    assert!(!is_well(clear.address(), "probe = 'http', tls.verify = false"), "it does not speak TLS");
    assert!(!is_well(server.address(), "probe = 'http'"), "nothing is answered in clear");
}

#[test]
fn an_address_may_be_in_a_certificate() {
    let folder = TempDir::new().unwrap();
    let authority = Authority::new(folder.path());
    let server = Server::start_tls(Speaks::WhenAsked, "", authority.sign("127.0.0.1").server());
    assert!(is_well(server.address(), &format!("probe = 'tls', tls.ca = '{}'", authority.file())));
}

#[test]
fn a_protocol_has_to_be_taken() {
    let folder = TempDir::new().unwrap();
    let identity = Authority::new(folder.path()).sign("web.test");
    let mut config = identity.server();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let with = Server::start_tls(Speaks::WhenAsked, "", config);
    let without = Server::start_tls(Speaks::WhenAsked, "", identity.server());
    for (case, server, alpn, up) in [
        ("taken", &with, "'h2'", true),
        ("one of two", &with, "['postgresql', 'http/1.1']", true),
        ("refused", &with, "'postgresql'", false),
        ("not understood", &without, "'h2'", false),
    ] {
        let health = format!("probe = 'tls', tls = {{ verify = false, alpn = {alpn} }}");
        assert_eq!(is_well(server.address(), &health), up, "{case}");
    }
}

#[test]
fn who_demands_a_certificate_is_shown_ours() {
    let folder = TempDir::new().unwrap();
    let authority = Authority::new(folder.path());
    let (identity, ours) = (authority.sign("web.test"), authority.sign("probe.test"));
    let elsewhere = TempDir::new().unwrap();
    let stranger = Authority::new(elsewhere.path()).sign("probe.test");
    let server = Server::start_tls(Speaks::Once, &http("200 OK", ""), authority.demanding(&identity));
    let show = |identity: &crate::harness::answering::Identity| {
        format!(", certificate = '{}', key = '{}'", identity.file("pem"), identity.file("key"))
    };
    for probe in ["tls", "http"] {
        for (case, certificate, up) in
            [("ours", show(&ours), true), ("of a stranger", show(&stranger), false), ("none", String::new(), false)]
        {
            let tls = format!("tls = {{ name = 'web.test', ca = '{}'{certificate} }}", authority.file());
            assert_eq!(is_well(server.address(), &format!("probe = '{probe}', {tls}")), up, "{probe}, {case}");
        }
    }
}

#[test]
fn an_expired_certificate_is_told_of() {
    let folder = TempDir::new().unwrap();
    let authority = Authority::new(folder.path());
    let expired = authority.sign_until("old.test", Some((2020, 2, 2)));
    let server = Server::start_tls(Speaks::WhenAsked, "", expired.server());
    let tls = format!("name = 'old.test', ca = '{}'", authority.file());
    let process = Process::start(&config(server.address(), &format!("probe = 'tls', tls = {{ {tls} }}")));
    says(&process, "is down: certificate expired on 2020-02-02");

    // Who does not verify it is warned all the same, once.
    let process = Process::start(&config(server.address(), "probe = 'tls', tls.verify = false"));
    says(&process, "\"certificate expired on 2020-02-02\"");
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(process.messages().matches("certificate expired").count(), 1, "{}", process.messages());
    let process =
        Process::start(&config(server.address(), "probe = 'tls', tls = { verify = false, warn_expiry = 'off' }"));
    says(&process, "is up");
    assert!(!process.messages().contains("certificate expired"), "{}", process.messages());
}

#[test]
fn scripts_ask_and_expect() {
    for (case, script, up) in [
        ("text", "{ send = \"PING\\r\\n\" }, { expect = '+PONG' }", true),
        ("hex", "{ send_hex = '50494e47 0d0a' }, { expect_hex = '2b504f4e47' }", true),
        ("twice", "{ send = 'a' }, { expect = '+PONG' }, { send = 'b' }, { expect = 'PONG' }", true),
        ("a farewell", "{ send = 'a' }, { expect = '+PONG' }, { send = \"QUIT\\r\\n\" }", true),
        ("something else", "{ send = 'a' }, { expect = '+OK' }", false),
        ("more than comes", "{ send = 'a' }, { expect = '+PONG' }, { expect = '+PONG' }", false),
    ] {
        let server = Server::start(Speaks::WhenAsked, "+PONG\r\n");
        let balancer = start(server.address(), &format!("probe = 'script', script = [{script}]"));
        assert_eq!(is_up(&balancer, server.address()), up, "{case}");
        let talk = eventually("a probe has ended", || server.talks().into_iter().next());
        assert!(talk.end.is_ok(), "{case}: {talk:?}");
        if case == "a farewell" {
            assert_eq!(talk.heard, "aQUIT\r\n");
        }
    }
    let greets = Endpoint::start(Manner::Greets("220 mail ESMTP\r\n"));
    assert!(is_well(greets.address(), "probe = 'script', script = [{ expect = '220 ' }, { send = \"QUIT\\r\\n\" }]"));
}

#[test]
fn a_wrong_word_is_definite_and_silence_is_not() {
    let server = Server::start(Speaks::Once, "+PONG\r\n");
    let at = server.address();
    let script = "probe = 'script', script = [{ send = \"PING\\r\\n\" }, { expect = '+PONG' }], fall = 3, rise = 1";
    let process = Process::start(&config(at, script));
    says(&process, "is up");
    server.answer("-LOADING the dataset\r\n");
    says(&process, r#"is down: it answered \"-LOADING the dataset\", expected \"+PONG\" at step 2 of 2"#);
    server.answer("+PONG\r\n");
    eventually("it is up again", || (process.messages().matches("is up").count() == 2).then_some(()));
    let before = server.talks().len();
    server.answer("");
    says(&process, "is down: it ended the connection at step 2 of 2");
    // A talk is known once it has ended, which may be after it was told of.
    eventually("there were three probes", || (server.talks().len() - before >= 3).then_some(()));
}

#[test]
fn silence_after_a_greeting_is_silence() {
    // It greets and then says nothing more: that takes `fall` probes, and is no definite answer.
    let server = Server::start(Speaks::Greets, "220 mail ESMTP\r\n");
    let at = server.address();
    let script = "script = [{ expect = '220' }, { send = \"EHLO x\\r\\n\" }, { expect = '250' }]";
    let balancer = start(at, &format!("probe = 'script', {script}, fall = 3"));
    goes_down(&balancer, at);
    let status = balancer.ask(&serde_json::json!({ "command": "status" }));
    let told = &status["pools"][0]["endpoints"][0];
    assert_eq!(told["state"], "down", "not refused: {told}");
}

#[test]
fn scripts_run_in_tls() {
    let folder = TempDir::new().unwrap();
    let authority = Authority::new(folder.path());
    let server = Server::start_tls(Speaks::WhenAsked, "+PONG\r\n", authority.sign("redis.test").server());
    let script = "probe = 'script', script = [{ send = \"PING\\r\\n\" }, { expect = '+PONG' }]";
    let tls = format!("tls = {{ name = 'redis.test', ca = '{}' }}", authority.file());
    assert!(is_well(server.address(), &format!("{script}, {tls}")));
    let talk = eventually("a probe has ended", || server.talks().into_iter().next());
    assert!(talk.end.is_ok(), "an end without close_notify is an error: {talk:?}");
}

#[test]
fn an_agent_says_how_an_endpoint_is_to_be_treated() {
    let (endpoint, agent) = (Endpoint::start(Manner::Echoes), Server::start(Speaks::First, "up 100%\n"));
    let at = endpoint.address();
    let table = format!("agent = {{ port = {}, interval = '100ms' }}", agent.address().port());
    let balancer = start(at, &format!("probe = 'tcp', {table}"));
    assert!(is_up(&balancer, at));
    agent.answer("down#maintenance\n");
    goes_down(&balancer, at);
    agent.answer("up\n");
    comes_up(&balancer, at);
    assert!(agent.talks().iter().all(|talk| talk.end.is_ok()), "no reset: {:?}", agent.talks());

    // Without a probe it counts as up, and the log tells of every change, once.
    agent.answer("50%\n");
    let alone = format!("health = {{ {table}, timeout = '1s' }}");
    let (text, health) = (config(at, "probe = 'tcp'"), format!("health = {{ probe = 'tcp', {QUICK} }}"));
    assert!(text.contains(&health));
    let process = Process::start(&format!("log.level = 'debug'\n{}", text.replace(&health, &alone)));
    for line in ["50%", "drain", "up maint", "ready 75%"] {
        agent.answer(&format!("{line}\n"));
        says(&process, &format!(r#"the agent says \"{line}\""#));
    }
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(process.messages().matches("the agent says").count(), 4, "{}", process.messages());
    assert!(!process.messages().contains("is down"), "{}", process.messages());
    // Silence changes nothing, and is told once.
    drop(agent);
    says(&process, "the agent does not answer");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(process.messages().matches("the agent does not answer").count(), 1, "{}", process.messages());
    assert!(!process.messages().contains("is down"), "{}", process.messages());
}

#[test]
fn an_agent_is_sent_what_it_wants_to_hear() {
    let (endpoint, agent) = (Endpoint::start(Manner::Echoes), Server::start(Speaks::Once, "up\n"));
    let table = format!("agent = {{ port = {}, interval = '100ms', send = \"web\\n\" }}", agent.address().port());
    let balancer = start(endpoint.address(), &format!("probe = 'tcp', {table}"));
    let talk = eventually("it is asked", || agent.talks().into_iter().next());
    assert_eq!(talk.heard, "web\n");
    drop(balancer);
}

#[test]
fn pools_share_probes_and_judge_by_themselves() {
    let server = Server::start(Speaks::Once, &http("404 Not Found", ""));
    let at = server.address();
    let second = format!(
        "[pool.other]\nendpoints = ['{at}']\nhealth = {{ probe = 'http', http.status = 404, {QUICK} }}\n\
         [route.other]\nlistener = 'edge'\nsni = 'other.example.com'\npool = 'other'"
    );
    let balancer = Balancer::start(&(config(at, "probe = 'http'") + &second));
    assert!(!is_up(&balancer, at));
    assert_eq!(balancer.metric(&format!("pointsman_endpoint_up{{pool=\"other\",endpoint=\"{at}\"}}")), 1.0);
    let (before, time) = (server.talks().len(), Duration::from_secs(3));
    std::thread::sleep(time);
    let probes = server.talks().len() - before;
    // One every 180 to 220 ms, whatever number of pools asks.
    assert!((8..=17).contains(&probes), "{probes} probes in {time:?}");
}

/// A server that is installed, once it listens; nothing where it is not.
fn installed(words: &[&str], at: SocketAddr, folder: &TempDir) -> Option<Daemon> {
    let mut daemon = Daemon::start(Command::new(words[0]).args(&words[1..]), &folder.path().join("log"))?;
    daemon.wait_until("it listens", || TcpStream::connect(at).is_ok());
    Some(daemon)
}

#[test]
fn openssl_answers_in_every_version_of_tls() {
    let folder = TempDir::new().unwrap();
    let authority = Authority::new(folder.path());
    let (identity, ours) = (authority.sign("web.test"), authority.sign("probe.test"));
    let (ca, certificate, key) = (authority.file(), identity.file("pem"), identity.file("key"));
    let shown = format!("certificate = '{}', key = '{}'", ours.file("pem"), ours.file("key"));
    for version in ["-tls1_2", "-tls1_3"] {
        let at = free_address();
        let accept = at.to_string();
        let words = ["openssl", "s_server", "-accept", &accept, version, "-www", "-cert", &certificate, "-key", &key];
        let demand = ["-Verify", "1", "-verify_return_error", "-CAfile", &ca];
        let Some(_server) = installed(&[&words[..], &demand].concat(), at, &folder) else { return };
        for probe in ["tls", "http"] {
            let tls = |more: &str| format!("probe = '{probe}', tls = {{ name = 'web.test', ca = '{ca}', {more} }}");
            assert!(is_well(at, &tls(&shown)), "{probe} over {version}");
            assert!(!is_well(at, &tls("warn_expiry = 'off'")), "{probe} over {version} without a certificate");
        }
    }
}

#[test]
fn redis_follows_the_script() {
    let folder = TempDir::new().unwrap();
    let Some(server) = Redis::start(&Authority::new(folder.path()), "redis.test") else { return };
    let script = |expected: &str| {
        format!(
            "probe = 'script', script = [{{ send = \"INFO replication\\r\\n\" }}, {{ expect = '{expected}' }}, \
             {{ send = \"QUIT\\r\\n\" }}]"
        )
    };
    assert!(is_well(server.address(), &script("role:master")));
    assert!(!is_well(server.address(), &script("role:slave")));
}
