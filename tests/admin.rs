//! The admin socket and the commands that use it.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::json;

use crate::harness::process::free_address;
use crate::harness::{Balancer, Endpoint, Manner, Process, eventually};

fn start(endpoints: &[&Endpoint]) -> Balancer {
    let list: Vec<String> = endpoints
        .iter()
        .zip(["a", "b", "c"])
        .map(|(endpoint, name)| format!("{{ name = '{name}', address = '{}' }}", endpoint.address()))
        .collect();
    Balancer::start(&format!(
        r#"
        listener.edge.bind = "127.0.0.1:0"
        route.all = {{ listener = "edge", pool = "pg" }}
        [pool.pg]
        endpoints = [{}]
        "#,
        list.join(", ")
    ))
}

#[test]
fn sessions_are_listed_and_killed_by_what_they_are() {
    let endpoints = [(); 2].map(|()| Endpoint::start(Manner::Echoes));
    let balancer = start(&[&endpoints[0], &endpoints[1]]);
    let mut clients = balancer.sessions(6);
    let list = |only: serde_json::Value| balancer.ask(&json!({ "command": "sessions", "only": only }));
    let all = list(json!({}));
    assert_eq!(all["total"], 6);
    let first = &all["sessions"][0];
    assert_eq!(
        (&first["listener"], &first["route"], &first["pool"], &first["connected"]),
        (&json!("edge"), &json!("all"), &json!("pg"), &json!(true)),
        "{first}"
    );
    for (only, total) in [
        (json!({ "endpoint": "a" }), 3),
        (json!({ "pool": "pg" }), 6),
        (json!({ "pool": "other" }), 0),
        (json!({ "listener": "edge", "route": "all", "client": "127.0.0.0/8" }), 6),
        (json!({ "listener": "other" }), 0),
        (json!({ "client": "10.0.0.0/8" }), 0),
        (json!({ "id": first["id"] }), 1),
    ] {
        assert_eq!(list(only.clone())["total"], total, "{only}");
    }
    let limited = balancer.ask(&json!({ "command": "sessions", "only": {}, "limit": 2 }));
    assert_eq!((limited["sessions"].as_array().unwrap().len(), &limited["total"]), (2, &json!(6)));

    let killed = balancer.ask(&json!({ "command": "kill", "only": { "endpoint": "a" } }));
    assert_eq!(killed, json!({ "killed": 3 }));
    let records = balancer.records(3);
    assert!(records.iter().all(|record| record["outcome"] == "killed" && record["endpoint"] == "a"), "{records:#?}");
    let ended = clients.iter_mut().filter(|client| records.iter().any(|record| record["client"] == client.address()));
    assert_eq!(ended.map(|client| assert!(client.rest().is_err(), "a reset")).count(), 3);
    let refusal = balancer.ask(&json!({ "command": "kill", "only": {} }));
    assert!(refusal["error"].as_str().unwrap().contains("which sessions"), "{refusal}");
    assert_eq!(list(json!({}))["total"], 3, "an empty request kills nobody");
}

#[test]
fn what_cannot_be_done_is_said_with_what_there_is() {
    let endpoint = Endpoint::start(Manner::Echoes);
    let balancer = start(&[&endpoint]);
    for (request, part) in [
        (json!({ "command": "drain", "pool": "pq", "endpoint": "a" }), "there is no pool \"pq\"; there are pg"),
        (json!({ "command": "drain", "pool": "pg", "endpoint": "z" }), "has no endpoint \"z\"; there are a"),
        (json!({ "command": "weight", "pool": "pg", "endpoint": "a", "weight": 257 }), "expected 0 to 256"),
        (json!({ "command": "stop" }), "not a request"),
        (json!({ "command": "status", "pool": "x" }), "there is no pool"),
        (json!([]), "not a request"),
    ] {
        let answer = balancer.ask(&request);
        assert!(answer["error"].as_str().is_some_and(|error| error.contains(part)), "{request}: {answer}");
    }
}

/// A process with its admin socket.
fn process(endpoints: &str) -> (Process, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin.sock");
    let config = format!(
        r#"
        admin.socket = {socket:?}
        listener.edge.bind = "{}"
        route.all = {{ listener = "edge", pool = "pg" }}
        [pool.pg]
        endpoints = [{endpoints}]
        "#,
        free_address()
    );
    (Process::start(&config), folder)
}

fn run(folder: &Path, words: &[&str]) -> Output {
    let socket = folder.join("admin.sock");
    Command::new(env!("CARGO_BIN_EXE_pointsman"))
        .args(words)
        .args(["--socket", socket.to_str().unwrap()])
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn commands_as_an_operator_types_them() {
    let endpoint = Endpoint::start(Manner::Echoes);
    let endpoints = format!(
        "{{ name = 'b', address = '{}', weight = 2 }}, {{ name = 'c', address = '127.0.0.1:1', backup = true }}",
        endpoint.address()
    );
    let (_process, folder) = process(&endpoints);
    let folder = folder.path();
    let status = said(&run(folder, &["status"]));
    for part in ["serving, workers", "listener edge: sessions 0", "pool pg: priority 0 serves", "backup"] {
        assert!(status.contains(part), "{part:?} is not in\n{status}");
    }
    for (words, part) in [
        (&["drain", "pg/b"][..], "b: drain, weight 2, sessions 0"),
        (&["maint", "pg/b"], "b: maint"),
        (&["ready", "pg/b"], "b: up"),
        (&["weight", "pg/b", "7"], "b: up, weight 7"),
        (&["weight", "pg/b", "reset"], "b: up, weight 2"),
        (&["sessions"], "endpoint  age"),
        (&["sessions", "--client", "10.0.0.0/8", "--pool", "pg"], "endpoint  age"),
        (&["kill", "--endpoint", "pg/b"], "sessions told to end: 0"),
        (&["kill", "12345"], "sessions told to end: 0"),
        (&["status", "pg", "--json"], "\"endpoints\":["),
    ] {
        let output = run(folder, words);
        assert!(output.status.success() && said(&output).contains(part), "{words:?}: {}", said(&output));
    }
    for (words, part) in [
        (&["drain", "pg"][..], "expected POOL/ENDPOINT"),
        (&["drain", "pg/x"], "has no endpoint \"x\"; there are b, c"),
        (&["weight", "pg/b", "300"], "expected 0 to 256"),
        (&["kill"], "which sessions?"),
        (&["sessions", "--client", "nobody"], "expected an address"),
        (&["status", "nothing"], "there is no pool \"nothing\"; there are pg"),
    ] {
        let output = run(folder, words);
        assert!(!output.status.success() && said(&output).contains(part), "{words:?}: {}", said(&output));
    }
    let nobody = run(Path::new("/nowhere"), &["status"]);
    assert!(said(&nobody).contains("cannot reach a running process at /nowhere/admin.sock"), "{}", said(&nobody));
}

#[test]
fn the_socket_is_its_owners_alone_and_goes_with_the_process() {
    let (mut process, folder) = process("'127.0.0.1:1'");
    let path = folder.path().join("admin.sock");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // Clients that behave badly hurt nobody.
    let mut idle: Vec<UnixStream> = (0..12).map(|_| UnixStream::connect(&path).unwrap()).collect();
    let mut large = UnixStream::connect(&path).unwrap();
    let _ = large.write_all(&vec![b'x'; 200_000]);
    let mut answer = String::new();
    let _ = large.read_to_string(&mut answer);
    assert!(answer.contains("at most 65536 bytes"), "{answer}");
    assert!(said(&run(folder.path(), &["status"])).contains("serving"));
    idle.iter_mut().for_each(|stream| stream.write_all(b"\n").unwrap());
    process.signal(rustix::process::Signal::TERM);
    assert!(process.wait().success());
    eventually("the file is gone", || (!path.exists()).then_some(()));
}
