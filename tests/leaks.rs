//! Whatever clients, endpoints and operators do, every lease, place and permit is given back.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use serde_json::json;
use socket2::SockRef;

use crate::harness::client::hello;
use crate::harness::process::free_address;
use crate::harness::{Balancer, Client, Endpoint, Manner, eventually};

/// One client that behaves in one of many ways, drawn by lot.
fn behave(edge: SocketAddr, dice: &mut fastrand::Rng) {
    let hello = hello("www.example.com");
    let mut client = Client::connect(edge);
    let _ = client.0.set_read_timeout(Some(Duration::from_millis(dice.u64(1..200))));
    let all = dice.bool();
    let _ = std::io::Write::write_all(&mut client.0, if all { &hello } else { &hello[..dice.usize(..hello.len())] });
    if dice.bool() {
        let _ = std::io::Read::read(&mut client.0, &mut [0; 256]);
    }
    match dice.u8(..3) {
        0 => client.finish(),
        1 => SockRef::from(&client.0).set_linger(Some(Duration::ZERO)).unwrap(),
        _ => thread::sleep(Duration::from_millis(dice.u64(..20))),
    }
}

#[test]
fn counts_are_exact_after_any_number_of_cut_sessions() {
    let endpoints = [Manner::Echoes, Manner::Echoes, Manner::HangsUpAfter(1)].map(Endpoint::start);
    let list: Vec<String> = endpoints
        .iter()
        .zip(["a", "b", "c"])
        .map(|(endpoint, name)| {
            format!("{{ name = '{name}', address = '{}', max_connections = 3 }}", endpoint.address())
        })
        .collect();
    let balancer = Balancer::start(&format!(
        r#"
        timeouts.open = "300ms"
        listener.edge.bind = "127.0.0.1:0"
        route.all = {{ listener = "edge", pool = "all" }}
        [pool.all]
        balance = "maglev"
        hash_balance_factor = 150
        endpoints = [{}, {{ name = "d", address = "{}" }}]
        no_endpoint = "hold"
        hold = "500ms"
        queue = "500ms"
        max_waiting = 8
        outliers.failures = 3
        sessions = {{ on_drain = "close", on_down = "close", max_age = "1s" }}
        "#,
        list.join(", "),
        free_address()
    ));
    let edge = balancer.address("edge");
    let served = thread::scope(|scope| {
        let clients: Vec<_> = (0..12)
            .map(|seed| {
                scope.spawn(move || {
                    let mut dice = fastrand::Rng::with_seed(seed);
                    (0..60).for_each(|_| behave(edge, &mut dice));
                })
            })
            .collect();
        let mut dice = fastrand::Rng::with_seed(99);
        while clients.iter().any(|client| !client.is_finished()) {
            let (command, name) = (dice.choice(["drain", "maint", "ready"]), dice.choice(["a", "b", "c", "d"]));
            balancer.set(command.unwrap(), "all", name.unwrap());
            let weight = dice.u16(..4);
            balancer.ask(&json!({ "command": "weight", "pool": "all", "endpoint": name, "weight": weight }));
            balancer.ask(&json!({ "command": "kill", "only": { "endpoint": name } }));
            thread::sleep(Duration::from_millis(20));
        }
        60 * clients.into_iter().map(|client| client.join().unwrap()).count()
    });
    eventually("everything was given back", || {
        let status = balancer.ask(&json!({ "command": "status" }));
        let pool = &status["pools"][0];
        let free = |of: &serde_json::Value, key: &str| of[key] == 0;
        let all = free(&status, "sessions")
            && free(&status["listeners"][0], "sessions")
            && free(pool, "held")
            && free(pool, "queued")
            && pool["endpoints"].as_array().unwrap().iter().all(|endpoint| free(endpoint, "sessions"));
        all.then_some(())
    });
    let outcomes: std::collections::BTreeSet<String> =
        balancer.records(served).iter().map(|record| record["outcome"].as_str().unwrap().to_owned()).collect();
    assert_eq!(balancer.log().lines().len(), served, "one record a connection");
    assert!(!outcomes.contains("internal"), "{outcomes:?}");
    assert!(outcomes.len() >= 5, "hardly anything happened: {outcomes:?}");
    // And everything still works.
    for name in ["a", "b"] {
        balancer.set("ready", "all", name);
        balancer.ask(&json!({ "command": "weight", "pool": "all", "endpoint": name }));
    }
    for name in ["c", "d"] {
        balancer.set("maint", "all", name);
    }
    for _ in 0..10 {
        let mut client = Client::sending(edge, &hello("www.example.com"));
        client.expect(&hello("www.example.com"));
    }
}
