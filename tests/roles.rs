//! Routes by role: writes go to the primary and nobody else, reads to replicas, whatever servers come to be.

use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;
use serde_json::{Value, json};

use crate::harness::{Balancer, Being, Client, Database, Dns, PATIENCE, Process, eventually};

/// Quick enough for a test.
const HEALTH: &str = "health = { probe = 'postgres', user = 'probe', interval = '200ms', fast_interval = '100ms', \
    timeout = '1s', rise = 2, fall = 3 }";

/// A balancer whose listeners `write` and `read` lead to the primary of these servers and, with `fallback`, to replicas.
fn start(databases: &[&Database], fallback: bool, more: &str) -> Balancer {
    let endpoint =
        |(database, name): (&&Database, &str)| format!("{{ name = '{name}', address = '{}' }}", database.address());
    let endpoints: Vec<String> = databases.iter().zip(["a", "b", "c"]).map(endpoint).collect();
    Balancer::start(&config(&endpoints.join(", "), fallback, more))
}

fn config(endpoints: &str, fallback: bool, more: &str) -> String {
    let fallback = if fallback { ", fallback = 'primary'" } else { "" };
    format!(
        r#"
        listener.write = {{ bind = "127.0.0.1:0", protocol = "tcp" }}
        listener.read = {{ bind = "127.0.0.1:0", protocol = "tcp" }}
        route.write = {{ listener = "write", pool = "pg", role = "primary" }}
        route.read = {{ listener = "read", pool = "pg", role = "replica"{fallback} }}
        [pool.pg]
        endpoints = [{endpoints}]
        {HEALTH}
        {more}
        "#
    )
}

/// Who answers a new session of this listener, which says the listener's name.
fn ask(balancer: &Balancer, listener: &str) -> Option<String> {
    Client::saying(balancer.address(listener), listener).1.ok()
}

/// Waits until new sessions of the listener are answered by this one.
fn answered_by(balancer: &Balancer, listener: &str, who: &str) {
    eventually(&format!("{who} answers"), || (ask(balancer, listener).as_deref() == Some(who)).then_some(()));
}

/// What is told of the part `part` of the pool.
fn status(balancer: &Balancer, part: &str) -> Value {
    let status = balancer.ask(&json!({ "command": "status", "pool": format!("pg/{part}") }));
    assert_eq!(status["pools"].as_array().map(Vec::len), Some(1), "{status}");
    status["pools"][0].clone()
}

/// Waits until the endpoint has this state in the part.
fn stands(balancer: &Balancer, part: &str, endpoint: &str, state: &str) {
    eventually(&format!("{endpoint} is {state} in {part}"), || {
        let status = status(balancer, part);
        let endpoints = status["endpoints"].as_array().unwrap();
        endpoints.iter().any(|known| known["name"] == endpoint && known["state"] == state).then_some(())
    });
}

fn metric(balancer: &Balancer, family: &str, part: &str) -> f64 {
    balancer.metric(&format!("pointsman_pool_{family}{{pool=\"pg/{part}\"}}"))
}

#[test]
fn writes_go_to_the_primary_and_reads_to_replicas() {
    let (a, b) = (Database::start("a", Being::Replica), Database::start("b", Being::Primary));
    let c = Database::start("c", Being::Replica);
    let balancer = start(&[&a, &b, &c], false, "");
    for _ in 0..10 {
        assert_eq!(ask(&balancer, "write").as_deref(), Some("b primary"));
        assert!(ask(&balancer, "read").unwrap().ends_with(" replica"));
    }
    assert_eq!((a.heard("read", "replica"), c.heard("read", "replica")), (5, 5), "each in turn");
    let records = balancer.records(20);
    let pools = |pool: &str| records.iter().filter(|record| record["pool"] == pool).count();
    assert_eq!((pools("pg/primary"), pools("pg/replica")), (10, 10), "{records:#?}");
    // Both parts listen to the same probes.
    let (began, before) = (Instant::now(), a.logins());
    std::thread::sleep(Duration::from_secs(1));
    let (logins, most) = (a.logins() - before, 1 + began.elapsed().as_millis() / 180);
    assert!((1..=most).contains(&(logins as u128)), "{logins} probes, at most {most} are due");
}

#[test]
fn a_failover_moves_writes_and_reads_never_stop() {
    let (a, b) = (Database::start("a", Being::Primary), Database::start("b", Being::Replica));
    let balancer =
        start(&[&a, &b], true, "single_writer = true\nsessions = { on_down = 'close', on_recovery = 'close' }");
    let (mut writes, answer) = Client::saying(balancer.address("write"), "write");
    assert_eq!(answer.unwrap(), "a primary");
    let (mut reads, answer) = Client::saying(balancer.address("read"), "read");
    assert_eq!(answer.unwrap(), "b replica");

    a.becomes(Being::Silent);
    stands(&balancer, "primary", "a", "down");
    assert!(writes.rest().is_err(), "its session is cut off with the endpoint");
    // Nobody can write now: who wants to is kept waiting.
    let mut waiting = Client::sending(balancer.address("write"), b"write\n");
    eventually("it waits", || (metric(&balancer, "held_sessions", "primary") == 1.0).then_some(()));
    assert_eq!(reads.say("read").unwrap(), "b replica");
    assert_eq!(ask(&balancer, "read").as_deref(), Some("b replica"));

    b.becomes(Being::Primary);
    waiting.expect(b"b primary\n");
    // The only server there is takes the reads as well, and those that it had before stay.
    eventually("the primary stands in", || {
        (status(&balancer, "replica-or-primary")["serving"] == "fallback").then_some(())
    });
    assert_eq!(ask(&balancer, "read").as_deref(), Some("b primary"));
    assert_eq!(reads.say("read").unwrap(), "b primary");

    // The old primary comes back as a replica: new reads go to it, and those of before leave the primary.
    a.becomes(Being::Replica);
    answered_by(&balancer, "read", "a replica");
    assert!(reads.rest().is_err(), "it makes room");
    assert_eq!(waiting.say("write").unwrap(), "b primary", "writes stay where they are");
    for _ in 0..10 {
        assert_eq!(ask(&balancer, "write").as_deref(), Some("b primary"));
    }
    assert_eq!((a.heard("write", "replica"), b.heard("write", "replica")), (0, 0), "no write ever reached a replica");
    let log = balancer.log();
    assert_eq!(log.record_of(&writes.address())["outcome"], "killed_down");
    assert_eq!(log.record_of(&reads.address())["outcome"], "killed_recovery");
}

#[test]
fn a_demoted_primary_loses_its_sessions_at_once() {
    let (a, b) = (Database::start("a", Being::Primary), Database::start("b", Being::Replica));
    let balancer = start(&[&a, &b], false, "single_writer = true\nsessions.on_demotion = 'close'");
    let (mut writes, answer) = Client::saying(balancer.address("write"), "write");
    assert_eq!(answer.unwrap(), "a primary");
    let (mut reads, answer) = Client::saying(balancer.address("read"), "read");
    assert_eq!(answer.unwrap(), "b replica");
    a.becomes(Being::Replica);
    let began = Instant::now();
    assert!(writes.rest().is_err(), "a reset");
    // One definite answer is enough: an interval of up to 220 ms, and what a busy machine adds.
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(balancer.log().record_of(&writes.address())["outcome"], "killed_demotion");
    let mut waiting = Client::sending(balancer.address("write"), b"write\n");
    eventually("there is no primary now", || (metric(&balancer, "held_sessions", "primary") == 1.0).then_some(()));
    // Without a fallback a promoted replica is none of the replicas any more.
    b.becomes(Being::Primary);
    waiting.expect(b"b primary\n");
    assert!(reads.rest().is_err(), "a reset");
    answered_by(&balancer, "read", "a replica");
    assert_eq!((a.heard("write", "replica"), b.heard("write", "replica")), (0, 0));
}

#[test]
fn sessions_leave_a_primary_that_was_lost_and_comes_back_as_a_replica() {
    // It is kept while it is only silent, and goes once it says what it is.
    let (a, b) = (Database::start("a", Being::Primary), Database::start("b", Being::Replica));
    let balancer = start(&[&a, &b], false, "sessions.on_demotion = 'close'");
    let (mut writes, answer) = Client::saying(balancer.address("write"), "write");
    assert_eq!(answer.unwrap(), "a primary");
    a.becomes(Being::Silent);
    stands(&balancer, "primary", "a", "down");
    writes.say("still here").unwrap();
    a.becomes(Being::Replica);
    assert!(writes.rest().is_err(), "a reset");
    assert_eq!(balancer.log().record_of(&writes.address())["outcome"], "killed_demotion");
}

#[test]
fn while_two_say_that_they_are_the_primary_nobody_writes() {
    let (a, b) = (Database::start("a", Being::Primary), Database::start("b", Being::Replica));
    let balancer = start(&[&a, &b], true, "single_writer = true\nhold = '60s'");
    assert_eq!(metric(&balancer, "writers", "primary"), 1.0);
    let (mut writes, answer) = Client::saying(balancer.address("write"), "write");
    assert_eq!(answer.unwrap(), "a primary");
    b.becomes(Being::Primary);
    eventually("it is seen", || (status(&balancer, "primary")["rivals"] == json!(["a", "b"])).then_some(()));
    assert_eq!(metric(&balancer, "writers", "primary"), 2.0);
    let mut waiting: Vec<Client> = (0..5).map(|_| Client::sending(balancer.address("write"), b"write\n")).collect();
    eventually("they wait", || (metric(&balancer, "held_sessions", "primary") == 5.0).then_some(()));
    assert_eq!(writes.say("write").unwrap(), "a primary", "who has begun goes on");
    assert!(ask(&balancer, "read").is_some(), "reads are no concern of it");
    // One that falls silent may still be there.
    b.becomes(Being::Silent);
    std::thread::sleep(Duration::from_millis(150));
    b.becomes(Being::Primary);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!((a.heard("write", "primary"), b.heard("write", "primary")), (2, 0), "nobody was chosen");
    // An operator decides.
    balancer.set("maint", "pg", "a");
    waiting.iter_mut().for_each(|client| client.expect(b"b primary\n"));
    assert_eq!(status(&balancer, "primary")["rivals"], json!([]));
    balancer.set("ready", "pg", "a");
    let mut waits = Client::sending(balancer.address("write"), b"write\n");
    eventually("it waits", || (metric(&balancer, "held_sessions", "primary") == 1.0).then_some(()));
    // Or the servers do.
    b.becomes(Being::Replica);
    waits.expect(b"a primary\n");
    assert_eq!(b.heard("write", "replica"), 0);
}

#[test]
fn an_alarm_is_raised_once() {
    for (keys, then) in [("single_writer = true", "no new sessions"), ("", "all of them get new sessions")] {
        let (a, b) = (Database::start("a", Being::Primary), Database::start("b", Being::Primary));
        let endpoints = format!("{{ name = 'a', address = '{}' }}, '{}'", a.address(), b.address());
        let process = Process::start(&config(&endpoints, true, keys));
        let lines = |level: &str, part: &str| {
            let messages = process.messages();
            messages.lines().filter(|line| line.contains(level) && line.contains(part)).count()
        };
        let alarm = format!("several endpoints say that they are the primary: {then}");
        eventually("the alarm", || (lines("ERROR", &alarm) == 1).then_some(()));
        assert_eq!(lines("ERROR", &format!("a, {}", b.address())), 1, "{keys}: {}", process.messages());
        b.becomes(Being::Replica);
        eventually("its end", || (lines("INFO", "no longer do several endpoints") == 1).then_some(()));
        let counts = (lines("ERROR", ""), lines("WARN", "is not for this pool"));
        assert_eq!(counts, (1, 0), "{keys}: {}", process.messages());
    }
}

#[test]
fn without_a_role_that_is_known_nobody_is_chosen() {
    // The other server never says anything, so that it may be the primary or not.
    let (a, b) = (Database::start("a", Being::Replica), Database::start("b", Being::Silent));
    let balancer = start(&[&a, &b], false, "panic_percent = 100");
    for _ in 0..5 {
        assert_eq!(ask(&balancer, "write"), None);
    }
    assert_eq!(ask(&balancer, "read").as_deref(), Some("a replica"));
    assert_eq!((a.heard("write", "replica"), b.heard("write", "primary")), (0, 0));
    let records = balancer.records(6);
    assert_eq!(records.iter().filter(|record| record["outcome"] == "no_endpoint").count(), 5, "{records:#?}");
}

#[test]
fn operators_speak_of_all_parts_at_once() {
    let (a, b) = (Database::start("a", Being::Primary), Database::start("b", Being::Replica));
    let balancer = start(&[&a, &b], true, "");
    let parts = balancer.ask(&json!({ "command": "status", "pool": "pg" }));
    let names: Vec<&str> =
        parts["pools"].as_array().unwrap().iter().map(|pool| pool["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["pg/primary", "pg/replica-or-primary"]);

    let drained = balancer.ask(&json!({ "command": "drain", "pool": "pg", "endpoint": "b" }));
    assert_eq!(drained["endpoint"]["state"], "drain", "{drained}");
    answered_by(&balancer, "read", "a primary");
    balancer.set("maint", "pg", "a");
    stands(&balancer, "replica-or-primary", "a", "maint");
    assert_eq!(ask(&balancer, "write"), None);
    assert_eq!(ask(&balancer, "read"), None);
    balancer.set("ready", "pg", "a");
    balancer.set("ready", "pg", "b");
    answered_by(&balancer, "write", "a primary");
    answered_by(&balancer, "read", "b replica");
    let weight = json!({ "command": "weight", "pool": "pg", "endpoint": "b", "weight": 7 });
    assert_eq!(balancer.ask(&weight)["endpoint"]["weight"], 7);
    for part in ["primary", "replica-or-primary"] {
        let status = status(&balancer, part);
        let endpoints = status["endpoints"].as_array().unwrap();
        assert!(endpoints.iter().any(|known| known["name"] == "b" && known["weight"] == 7), "{status}");
    }

    let mut clients: Vec<Client> =
        ["write", "read", "read"].map(|listener| Client::saying(balancer.address(listener), listener).0).into();
    let list = |only: Value| balancer.ask(&json!({ "command": "sessions", "only": only }))["total"].clone();
    assert_eq!(list(json!({ "pool": "pg" })), 3);
    assert_eq!(list(json!({ "pool": "pg/primary" })), 1);
    assert_eq!(list(json!({ "pool": "pg", "endpoint": "primary/a" })), 1);
    assert_eq!(list(json!({ "pool": "p" })), 0);
    let killed = balancer.ask(&json!({ "command": "kill", "only": { "pool": "pg" } }));
    assert_eq!(killed, json!({ "killed": 3 }));
    assert!(clients.iter_mut().all(|client| client.rest().is_err()));
    let unknown = balancer.ask(&json!({ "command": "drain", "pool": "pg", "endpoint": "x" }));
    assert!(unknown["error"].as_str().unwrap().contains("has no endpoint \"x\"; there are"), "{unknown}");
}

#[test]
fn nothing_is_said_of_a_part_alone() {
    let (a, b) = (Database::start("a", Being::Primary), Database::start("b", Being::Replica));
    let balancer = start(&[&a, &b], true, "");
    answered_by(&balancer, "read", "b replica");
    // As the command line takes it apart: what is behind the first slash is the endpoint, or a part and the endpoint.
    for (pool, endpoint) in [("pg", "replica-or-primary/a"), ("pg/replica-or-primary", "a")] {
        for command in ["drain", "maint", "ready", "weight"] {
            let answer = balancer.ask(&json!({ "command": command, "pool": pool, "endpoint": endpoint }));
            let error = answer["error"].as_str().unwrap_or_default();
            assert!(error.contains("is a part of pool \"pg\""), "{command} {pool} {endpoint}: {answer}");
            assert!(error.ends_with("expected pg/a"), "{command} {pool} {endpoint}: {answer}");
        }
    }
    // Drained in one part it would take no writes in the other.
    assert_eq!(ask(&balancer, "write").as_deref(), Some("a primary"));
    stands(&balancer, "primary", "a", "up");
}

#[test]
fn a_limit_of_sessions_holds_over_all_parts() {
    let a = Database::start("a", Being::Primary);
    let balancer = start(&[&a], true, "max_connections_per_endpoint = 2\nqueue = '60s'");
    let (first, _) = Client::saying(balancer.address("write"), "write");
    let (second, answer) = Client::saying(balancer.address("read"), "read");
    assert_eq!(answer.unwrap(), "a primary");
    let mut waits = ["write", "read"].map(|listener| Client::sending(balancer.address(listener), b"more\n"));
    for part in ["primary", "replica-or-primary"] {
        eventually("it waits", || (metric(&balancer, "queued_sessions", part) == 1.0).then_some(()));
        stands(&balancer, part, "a", "full");
    }
    // A place that a reader leaves is for a writer as well, and at once.
    let began = Instant::now();
    second.end();
    eventually("one is served", || (a.heard("more", "primary") == 1).then_some(()));
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    first.end();
    waits.iter_mut().for_each(|client| client.expect(b"a primary\n"));
    for (part, sessions) in [("primary", 1), ("replica-or-primary", 1)] {
        let status = status(&balancer, part);
        assert_eq!(status["endpoints"][0]["sessions"], sessions, "each counts its own: {status}");
    }
}

#[test]
fn a_listener_refuses_while_there_is_no_primary() {
    let (a, b) = (Database::start("a", Being::Primary), Database::start("b", Being::Replica));
    let write = crate::harness::process::free_address();
    let balancer = Balancer::start(&format!(
        r#"
        listener.write = {{ bind = "{write}", protocol = "tcp" }}
        route.write = {{ listener = "write", pool = "pg", role = "primary" }}
        [pool.pg]
        endpoints = ["{}", "{}"]
        no_endpoint = "refuse"
        single_writer = true
        {HEALTH}
        "#,
        a.address(),
        b.address()
    ));
    assert_eq!(ask(&balancer, "write").as_deref(), Some("a primary"));
    let refuses = || std::net::TcpStream::connect(write).is_err();
    a.becomes(Being::Replica);
    eventually("nobody is let in", || refuses().then_some(()));
    b.becomes(Being::Primary);
    eventually("they are", || (!refuses()).then_some(()));
    answered_by(&balancer, "write", "b primary");
    a.becomes(Being::Primary);
    eventually("two are as bad as none", || refuses().then_some(()));
}

#[test]
fn one_look_up_is_for_all_parts() {
    let a = Database::start("a", Being::Primary);
    let dns = Dns::start();
    dns.set("db.test", 3600, &["127.0.0.1"]);
    let endpoint = format!("'db.test:{}'", a.address().port());
    let balancer = Balancer::start(&format!("{}\n{}", dns.config(), config(&endpoint, true, "")));
    assert_eq!(ask(&balancer, "write").as_deref(), Some("a primary"));
    assert_eq!(ask(&balancer, "read").as_deref(), Some("a primary"));
    assert_eq!([RecordType::A, RecordType::AAAA].map(|kind| dns.queries("db.test", kind)), [1, 1]);
}
