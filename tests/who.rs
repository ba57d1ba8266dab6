//! `pointsman who`: from what a server sees of a connection to the client behind it.

use std::net::SocketAddr;
use std::process::{Command, Output};

use serde_json::json;

use crate::harness::client::hello;
use crate::harness::process::free_address;
use crate::harness::{Balancer, Client, Endpoint, Manner, Process, eventually};

fn who(balancer: &Balancer, seen: SocketAddr) -> serde_json::Value {
    balancer.ask(&json!({ "command": "who", "address": seen.ip(), "port": seen.port() }))
}

#[test]
fn a_client_is_found_by_what_its_server_sees() {
    let endpoint = Endpoint::start(Manner::Echoes);
    let balancer = Balancer::with_pool(&format!("endpoints = '{}'", endpoint.address()));
    let clients = balancer.sessions(20);
    let seen: Vec<SocketAddr> = endpoint.heard().iter().map(|heard| heard.from.unwrap()).collect();
    for (client, seen) in clients.iter().zip(&seen) {
        let found = who(&balancer, *seen);
        let sessions = found["sessions"].as_array().unwrap_or_else(|| panic!("{found}"));
        assert_eq!((sessions.len(), &found["total"]), (1, &json!(1)), "{found}");
        let session = &sessions[0];
        assert_eq!(
            (&session["client"], &session["source"], &session["pool"], &session["connected"]),
            (&json!(client.address()), &json!(seen.to_string()), &json!("all"), &json!(true))
        );
        let by_port = balancer.ask(&json!({ "command": "who", "port": seen.port() }));
        assert_eq!(by_port["sessions"][0]["id"], session["id"]);
        let elsewhere = who(&balancer, SocketAddr::from(([127, 0, 0, 9], seen.port())));
        assert!(elsewhere["error"].as_str().unwrap().contains("no session is connected"), "{elsewhere}");
    }
    // The port of the listener is that of all clients' sockets, and of no endpoint's.
    let of_the_listener = who(&balancer, balancer.address("edge"));
    assert!(of_the_listener["error"].is_string(), "{of_the_listener}");
    clients.into_iter().for_each(Client::end);
    eventually("all have ended", || (balancer.running().sessions() == 0).then_some(()));
    assert!(who(&balancer, seen[0])["error"].is_string());
}

#[test]
fn as_an_operator_types_it() {
    let (endpoint, at) = (Endpoint::start(Manner::Echoes), free_address());
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin.sock");
    let _process = Process::start(&format!(
        "admin.socket = {socket:?}\nlistener.edge = {{ bind = '{at}', proxy_from = '127.0.0.1' }}\n\
         route.all = {{ listener = 'edge', pool = 'pg' }}\npool.pg.endpoints = '{}'\n",
        endpoint.address()
    ));
    let hello = hello("db.example.com");
    let mut client = Client::sending(at, &[b"PROXY TCP4 192.0.2.1 192.0.2.2 4711 5432\r\n", &hello[..]].concat());
    client.expect(&hello);
    let seen = endpoint.heard()[0].from.unwrap();
    let run = |words: &[&str]| -> Output {
        let run =
            Command::new(env!("CARGO_BIN_EXE_pointsman")).arg("who").args(words).arg("--socket").arg(&socket).output();
        run.unwrap()
    };
    let text = |output: &[u8]| String::from_utf8_lossy(output).into_owned();
    for words in [&[&*seen.to_string()][..], &[&*seen.port().to_string()]] {
        let output = run(words);
        let said = text(&output.stdout);
        for part in
            [format!("192.0.2.1:4711 via {}", client.address()), format!("pg/{} from {seen}", endpoint.address())]
        {
            assert!(output.status.success() && said.contains(&part), "{part:?} is not in\n{said}");
        }
    }
    let output = run(&[&seen.to_string(), "--json"]);
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["sessions"][0]["peer"], client.address());
    let output = run(&["192.0.2.77:1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("no session is connected to its endpoint from 192.0.2.77:1"));
    assert_eq!(run(&["nowhere"]).status.code(), Some(2));
}
