//! Probes that ask Patroni: a real cluster of it, and a stand-in for what that would not say.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;

use crate::harness::answering::{Authority, Server, Speaks, http};
use crate::harness::{Balancer, Patroni, eventually_within};

/// A balancer that asks at this port of these endpoints, each table for a pool of its own: `p0`, `p1` and so on.
fn start(endpoints: &[SocketAddr], port: u16, tables: &[&str]) -> Balancer {
    let endpoints: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
    let mut text = "listener.edge.bind = '127.0.0.1:0'\n".to_owned();
    for index in 0..tables.len() {
        text += &format!("route.r{index} = {{ listener = 'edge', sni = 'p{index}.test', pool = 'p{index}' }}\n");
    }
    for (index, table) in tables.iter().enumerate() {
        let pace = "interval = '200ms', fast_interval = '100ms', timeout = '5s'";
        let health = format!("probe = 'patroni', port = {port}, {pace}, {table}");
        text += &format!("[pool.p{index}]\nendpoints = {endpoints:?}\nhealth = {{ {health} }}\n");
    }
    Balancer::start(&text)
}

/// Waits until an endpoint is this, by a probe that has found something with this in it.
fn becomes(balancer: &Balancer, pool: usize, endpoint: SocketAddr, state: &str, last: &str) {
    let what = format!("{endpoint} of p{pool} is {state}: {last}");
    eventually_within(Duration::from_secs(20), &what, || {
        let status = balancer.ask(&json!({ "command": "status", "pool": format!("p{pool}") }));
        let endpoints = status["pools"][0]["endpoints"].as_array().unwrap();
        let told = endpoints.iter().find(|told| told["address"] == endpoint.to_string()).unwrap();
        let found = told["health"]["last"].as_str().unwrap_or_default();
        (told["state"] == state && found.contains(last)).then_some(())
    });
}

#[test]
fn what_patroni_says_counts() {
    let Some([one, two]) = Patroni::pair() else { return };
    let servers = [one.server(), two.server()];
    let tables = ["role = 'primary'", "role = 'replica', max_lag = '64KiB'", "role = 'any'"];
    let balancer = start(&servers, one.api().port(), &tables);
    let roles = |primary: SocketAddr, replica: SocketAddr| {
        becomes(&balancer, 0, primary, "up", "Patroni, running, primary");
        becomes(&balancer, 0, replica, "refused", "is a replica");
        becomes(&balancer, 1, primary, "refused", "is a primary");
        becomes(&balancer, 1, replica, "up", "Patroni, running, replica");
        servers.iter().for_each(|server| becomes(&balancer, 2, *server, "up", "Patroni, running"));
    };
    roles(one.server(), two.server());
    two.sql("SELECT pg_wal_replay_pause()");
    one.sql("CREATE TABLE much AS SELECT generate_series(1, 50000)");
    becomes(&balancer, 1, two.server(), "refused", "no server to use, by Patroni: replica, running");
    two.sql("SELECT pg_wal_replay_resume()");
    roles(one.server(), two.server());
    one.switch_over_to(&two);
    roles(two.server(), one.server());
    // Whatever it is asked, a handler of it that fails leaves a trace.
    for patroni in [&one, &two] {
        assert!(!patroni.log().contains("Traceback"), "{}", patroni.log());
    }
}

/// Answers as Patroni does, in HTTP/1.0 and each request on a connection of its own.
struct StandIn {
    listener: TcpListener,
    asked: Arc<Mutex<Vec<String>>>,
}

impl StandIn {
    /// What it answers to which path: a status and a body. To others it is not found.
    fn start(answers: HashMap<&'static str, (&'static str, &'static str)>) -> StandIn {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let stand_in = StandIn { listener: listener.try_clone().unwrap(), asked: Arc::clone(&asked) };
        std::thread::spawn(move || {
            while let Ok((connection, _)) = listener.accept() {
                let mut lines = BufReader::new(&connection).lines().map_while(Result::ok);
                let Some(first) = lines.next() else { continue };
                lines.take_while(|line| !line.is_empty()).for_each(drop);
                let path = first.split(' ').nth(1).unwrap_or_default();
                let (status, body) = answers.get(path).unwrap_or(&("404 Not Found", ""));
                let _ = write!(&connection, "HTTP/1.0 {status}\r\nContent-Type: application/json\r\n\r\n{body}");
                asked.lock().unwrap().push(path.to_owned());
            }
        });
        stand_in
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        // Ends the accept in its thread.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
    }
}

#[test]
fn answers_and_what_they_mean() {
    const RUNNING: &str = r#"{"state": "running", "role": "replica", "patroni": {"version": "4.0.4"}}"#;
    const STARTING: &str = r#"{"state": "starting", "role": "replica", "patroni": {"version": "4.0.4"}}"#;
    const LEADER: &str = r#"{"state": "running", "role": "standby_leader"}"#;
    let (yes, no) = ("200 OK", "503 Service Unavailable");
    for (case, primary, replica, table, state, last) in [
        ("a primary", (yes, RUNNING), (no, RUNNING), "role = 'primary'", "up", "Patroni, running, primary"),
        ("a replica", (no, RUNNING), (yes, RUNNING), "role = 'replica'", "up", "Patroni, running, replica"),
        ("either", (no, RUNNING), (yes, RUNNING), "role = 'any'", "up", "Patroni, running, replica"),
        ("starting", (no, STARTING), (no, STARTING), "role = 'any'", "refused", "by Patroni: replica, starting"),
        ("a standby leader", (no, LEADER), (no, LEADER), "role = 'any'", "refused", "standby_leader, running"),
        ("another status", ("401 Unauthorized", ""), (yes, RUNNING), "role = 'any'", "refused", "HTTP 401"),
        ("something else", (yes, "<html>"), (yes, RUNNING), "role = 'any'", "refused", "as Patroni does"),
        ("half of it", (no, RUNNING), (yes, "{\"state"), "role = 'any'", "refused", "as Patroni does"),
    ] {
        let stand_in = StandIn::start(HashMap::from([("/primary", primary), ("/replica", replica)]));
        let at = stand_in.address();
        let balancer = start(&[at], at.port(), &[table]);
        becomes(&balancer, 0, at, state, last);
        let asked = stand_in.asked.lock().unwrap().clone();
        let expected = if primary.0 == no { vec!["/primary", "/replica"] } else { vec!["/primary"; 2] };
        assert_eq!(asked[..2.min(asked.len())], expected[..2.min(asked.len())], "{case}");
    }
}

#[test]
fn a_lag_is_asked_for_in_bytes() {
    let body = r#"{"state": "running", "role": "replica"}"#;
    let answers = [("/primary", ("503 Service Unavailable", body)), ("/replica?lag=16777216", ("200 OK", body))];
    let stand_in = StandIn::start(HashMap::from(answers));
    let at = stand_in.address();
    let balancer = start(&[at], at.port(), &["max_lag = '16MiB'", "role = 'any'"]);
    becomes(&balancer, 0, at, "up", "replica");
    becomes(&balancer, 1, at, "refused", "HTTP 404 Not Found to GET /replica");
}

#[test]
fn patroni_may_be_asked_in_tls() {
    let folder = TempDir::new().unwrap();
    let authority = Authority::new(folder.path());
    let (identity, ours) = (authority.sign("pg.test"), authority.sign("probe.test"));
    let body = r#"{"state": "running", "role": "primary"}"#;
    let server = Server::start_tls(Speaks::Once, &http("200 OK", body), authority.demanding(&identity));
    let at = server.address();
    let tls = |name: &str| {
        let (certificate, key) = (ours.file("pem"), ours.file("key"));
        format!(
            "tls = {{ name = '{name}', ca = {:?}, certificate = '{certificate}', key = '{key}' }}",
            authority.file()
        )
    };
    let tables = [tls("pg.test"), tls("other.test"), "role = 'any'".to_owned()];
    let balancer = start(&[at], at.port(), &tables.each_ref().map(|table| &**table));
    becomes(&balancer, 0, at, "up", "Patroni, running, primary");
    becomes(&balancer, 1, at, "refused", "pg.test");
    becomes(&balancer, 2, at, "refused", "it does not answer in HTTP/1.1");
}
