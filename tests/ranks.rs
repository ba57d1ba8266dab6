//! Priorities, fail-back and shares that grow.

use std::net::SocketAddr;
use std::time::Duration;

use crate::harness::client::hello;
use crate::harness::{Balancer, Client, Endpoint, Manner, eventually};

const HEALTH: &str = "health = { probe = 'tcp', interval = '200ms', fast_interval = '100ms', rise = 1, fall = 2 }";

fn start(endpoints: &[(SocketAddr, u32)], more: &str) -> Balancer {
    let list: Vec<String> = endpoints
        .iter()
        .map(|(address, priority)| format!("{{ address = '{address}', priority = {priority} }}"))
        .collect();
    Balancer::with_pool(&format!(
        r#"
        endpoints = [{}]
        {HEALTH}
        {more}
        "#,
        list.join(", ")
    ))
}

fn sessions(balancer: &Balancer, endpoint: SocketAddr) -> f64 {
    balancer.metric(&format!("pointsman_endpoint_sessions_total{{pool=\"all\",endpoint=\"{endpoint}\"}}"))
}

/// Sessions that each endpoint gets of `count`.
fn shares<const N: usize>(balancer: &Balancer, count: usize, endpoints: [SocketAddr; N]) -> [f64; N] {
    let before = endpoints.map(|endpoint| sessions(balancer, endpoint));
    (0..count).for_each(|_| balancer.exchange());
    let mut now = endpoints.map(|endpoint| sessions(balancer, endpoint));
    now.iter_mut().zip(before).for_each(|(now, before)| *now -= before);
    now
}

fn serving(balancer: &Balancer, priority: Option<&str>) {
    eventually("another priority serves", || {
        let status = balancer.ask(&serde_json::json!({ "command": "status", "pool": "all" }));
        (status["pools"][0]["serving"].as_str() == priority).then_some(())
    });
}

#[test]
fn the_best_priority_that_can_serves() {
    let endpoints = [(); 3].map(|()| Some(Endpoint::start(Manner::Echoes)));
    let at = endpoints.each_ref().map(|endpoint| endpoint.as_ref().unwrap().address());
    let balancer = start(&[(at[2], 20), (at[0], 5), (at[1], 10)], "");
    let [mut first, mut second, _third] = endpoints;
    assert_eq!(shares(&balancer, 10, at), [10.0, 0.0, 0.0]);
    first.take();
    serving(&balancer, Some("10"));
    assert_eq!(shares(&balancer, 10, at), [0.0, 10.0, 0.0]);
    second.take();
    serving(&balancer, Some("20"));
    assert_eq!(shares(&balancer, 10, at), [0.0, 0.0, 10.0]);
    let _back = Endpoint::start_at(at[0], Manner::Echoes);
    serving(&balancer, Some("5"));
    assert_eq!(shares(&balancer, 10, at), [10.0, 0.0, 0.0]);
}

#[test]
fn without_failback_a_standby_serves_until_it_fails() {
    let endpoints = [(); 2].map(|()| Some(Endpoint::start(Manner::Echoes)));
    let at = endpoints.each_ref().map(|endpoint| endpoint.as_ref().unwrap().address());
    let balancer = start(&[(at[0], 0), (at[1], 1)], "failback = 'never'");
    let [mut primary, mut standby] = endpoints;
    assert_eq!(shares(&balancer, 10, at), [10.0, 0.0]);
    primary.take();
    serving(&balancer, Some("1"));
    let _back = Endpoint::start_at(at[0], Manner::Echoes);
    let up = format!("pointsman_endpoint_usable{{pool=\"all\",endpoint=\"{}\"}}", at[0]);
    eventually("the primary is up again", || (balancer.metric(&up) == 1.0).then_some(()));
    assert_eq!(shares(&balancer, 10, at), [0.0, 10.0], "the standby goes on");
    standby.take();
    serving(&balancer, Some("0"));
    assert_eq!(shares(&balancer, 10, at), [10.0, 0.0]);
}

#[test]
fn who_happens_to_be_found_first_does_not_become_the_one_that_serves() {
    // The primary's name is resolved after the standby is there, and its first verdict comes later still.
    let endpoints = [(); 2].map(|()| Endpoint::start(Manner::Echoes));
    let at = endpoints.each_ref().map(Endpoint::address);
    let balancer = Balancer::with_pool(&format!(
        r#"
        failback = "never"
        endpoints = ["localhost:{}", {{ address = "{}", backup = true }}]
        {HEALTH}
        "#,
        at[0].port(),
        at[1]
    ));
    serving(&balancer, Some("0"));
    (0..10).for_each(|_| balancer.exchange());
    assert_eq!(sessions(&balancer, at[1]), 0.0, "nobody is sent to the standby");
}

/// A primary that could serve, its standby that does so, and their balancer, which does not fail back.
fn standing_in() -> (Balancer, Endpoint, Endpoint) {
    let (primary, standby) = (Endpoint::start(Manner::Echoes), Endpoint::start(Manner::Echoes));
    let balancer = start(&[(primary.address(), 0), (standby.address(), 1)], "failback = 'never'");
    balancer.set("maint", "all", &primary.address().to_string());
    serving(&balancer, Some("1"));
    balancer.set("ready", "all", &primary.address().to_string());
    (balancer, primary, standby)
}

#[test]
fn a_session_that_fails_at_the_standby_does_not_go_back_for_it() {
    let (balancer, _primary, standby) = standing_in();
    drop(standby);
    // Until that is found, its clients are sent away rather than to the old primary.
    let mut client = Client::sending(balancer.address("edge"), &hello("www.example.com"));
    let _ = client.rest();
    assert_eq!(balancer.record()["outcome"], "connect_failed");
    serving(&balancer, Some("0"));
    balancer.exchange();
}

#[test]
fn an_operator_can_fail_back_by_draining_the_standby() {
    let (balancer, primary, standby) = standing_in();
    let at = [primary.address(), standby.address()];
    assert_eq!(shares(&balancer, 10, at), [0.0, 10.0]);
    balancer.set("drain", "all", &at[1].to_string());
    serving(&balancer, Some("0"));
    balancer.set("ready", "all", &at[1].to_string());
    assert_eq!(shares(&balancer, 10, at), [10.0, 0.0], "and stays there");
}

#[test]
fn who_comes_back_gets_its_share_step_by_step() {
    let endpoints = [(); 2].map(|()| Some(Endpoint::start(Manner::Echoes)));
    let at = endpoints.each_ref().map(|endpoint| endpoint.as_ref().unwrap().address());
    let balancer = start(&[(at[0], 0), (at[1], 0)], "balance = 'round-robin'\nslow_start = '4s'");
    let weight = format!("pointsman_endpoint_weight{{pool=\"all\",endpoint=\"{}\"}}", at[1]);
    assert_eq!(balancer.metric(&weight), 1.0, "at the start all have their whole share");
    assert_eq!(shares(&balancer, 20, at), [10.0, 10.0]);
    let [_first, mut second] = endpoints;
    second.take();
    let usable = format!("pointsman_endpoint_usable{{pool=\"all\",endpoint=\"{}\"}}", at[1]);
    eventually("it is down", || (balancer.metric(&usable) == 0.0).then_some(()));
    let _back = Endpoint::start_at(at[1], Manner::Echoes);
    eventually("it is up again", || (balancer.metric(&usable) == 1.0).then_some(()));
    let mut steps = vec![balancer.metric(&weight)];
    assert!(steps[0] < 0.5, "it begins with little: {steps:?}");
    let [whole, part] = shares(&balancer, 22, at);
    assert!(part < whole / 2.0, "{whole} and {part}");
    eventually("it has its whole share", || {
        std::thread::sleep(Duration::from_millis(100));
        steps.push(balancer.metric(&weight));
        (steps.last() == Some(&1.0)).then_some(())
    });
    assert!(steps.is_sorted(), "{steps:?}");
    steps.dedup();
    assert!(steps.len() >= 3, "{steps:?}");
    assert_eq!(shares(&balancer, 20, at), [10.0, 10.0]);
}

#[test]
fn a_weight_set_at_run_time_counts_at_once_for_every_algorithm() {
    for balance in ["round-robin", "random-two", "maglev", "least-connections"] {
        let endpoints = [(); 2].map(|()| Endpoint::start(Manner::Echoes));
        let at = endpoints.each_ref().map(Endpoint::address);
        let balancer = start(&[(at[0], 0), (at[1], 0)], &format!("balance = '{balance}'"));
        let weight = |weight: serde_json::Value| {
            let mut request = serde_json::json!({ "command": "weight", "pool": "all", "endpoint": at[1].to_string() });
            request["weight"] = weight;
            assert!(balancer.ask(&request)["endpoint"].is_object());
        };
        weight(0.into());
        eventually("it has no share", || (shares(&balancer, 5, at)[1] == 0.0).then_some(()));
        assert_eq!(shares(&balancer, 20, at), [20.0, 0.0], "{balance}");
        weight(serde_json::Value::Null);
        // All clients here are one for a hash.
        if balance != "maglev" {
            eventually("it has its share", || (shares(&balancer, 10, at)[1] >= 2.0).then_some(()));
        }
    }
}
