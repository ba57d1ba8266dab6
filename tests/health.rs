//! Probes: endpoints that fail are found, left alone, and taken back.

use std::io::Read;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::harness::client::hello;
use crate::harness::process::free_address;
use crate::harness::{Balancer, Client, Endpoint, Manner, eventually};

/// Quick enough for a test.
const HEALTH: &str = "health = { probe = 'tcp', interval = '200ms', fast_interval = '100ms', rise = 2, fall = 2 }";

fn start(endpoints: &[SocketAddr], more: &str) -> Balancer {
    let list: Vec<String> = endpoints.iter().map(|endpoint| format!("'{endpoint}'")).collect();
    Balancer::with_pool(&format!(
        r#"
        endpoints = [{}]
        {HEALTH}
        {more}
        "#,
        list.join(", ")
    ))
}

fn of(balancer: &Balancer, family: &str, endpoint: SocketAddr, more: &str) -> f64 {
    balancer.metric(&format!("{family}{{pool=\"all\",endpoint=\"{endpoint}\"{more}}}"))
}

fn stands(balancer: &Balancer, endpoint: SocketAddr, up: bool) {
    let wanted = f64::from(up);
    eventually("the verdict has changed", || {
        (of(balancer, "pointsman_endpoint_up", endpoint, "") == wanted).then_some(())
    });
}

#[test]
fn an_endpoint_that_dies_is_left_alone_and_taken_back() {
    let (staying, dying) = (Endpoint::start(Manner::Echoes), Endpoint::start(Manner::Echoes));
    let (stays, dies) = (staying.address(), dying.address());
    let balancer = start(&[stays, dies], "");
    for endpoint in [stays, dies] {
        assert_eq!(of(&balancer, "pointsman_endpoint_up", endpoint, ""), 1.0, "the start waits for the first verdict");
    }
    drop(dying);
    let began = Instant::now();
    stands(&balancer, dies, false);
    // Two misses, at most 220 ms and 110 ms after one another, and a gauge that is looked at now and then.
    assert!(began.elapsed() < Duration::from_secs(2), "found after {:?}", began.elapsed());
    let failures = of(&balancer, "pointsman_endpoint_connect_failures_total", dies, "");
    for _ in 0..50 {
        balancer.exchange();
    }
    let now = of(&balancer, "pointsman_endpoint_connect_failures_total", dies, "");
    assert_eq!(now, failures, "no client is sent to it");

    let back = Endpoint::start_at(dies, Manner::Echoes);
    stands(&balancer, dies, true);
    let before = of(&balancer, "pointsman_endpoint_sessions_total", dies, "");
    for _ in 0..20 {
        balancer.exchange();
    }
    assert_eq!(of(&balancer, "pointsman_endpoint_sessions_total", dies, "") - before, 10.0, "it has its share again");
    assert_eq!(of(&balancer, "pointsman_endpoint_transitions_total", dies, ",to=\"down\""), 1.0);
    assert_eq!(of(&balancer, "pointsman_endpoint_transitions_total", dies, ",to=\"up\""), 2.0);
    drop(back);
}

#[test]
fn who_is_down_at_the_start_never_sees_a_client() {
    let (good, bad) = (Endpoint::start(Manner::Echoes), free_address());
    let balancer = start(&[bad, good.address()], "");
    for _ in 0..20 {
        balancer.exchange();
    }
    assert_eq!(of(&balancer, "pointsman_endpoint_connect_failures_total", bad, ""), 0.0);
    assert_eq!(of(&balancer, "pointsman_endpoint_up", bad, ""), 0.0);
}

#[test]
fn with_every_endpoint_down_the_outcome_says_so() {
    let nobody = free_address();
    let balancer = start(&[nobody], "");
    let mut client = Client::sending(balancer.address("edge"), &hello("www.example.com"));
    let alert = client.rest().unwrap();
    assert_eq!(alert, [21, 3, 3, 0, 2, 2, 80], "internal_error");
    let record = balancer.record();
    assert_eq!(
        (&record["outcome"], &record["endpoint"]),
        (&"no_endpoint".into(), &serde_json::Value::Null),
        "{record}"
    );

    let _endpoint = Endpoint::start_at(nobody, Manner::Echoes);
    stands(&balancer, nobody, true);
    balancer.exchange();
}

#[test]
fn pools_that_ask_the_same_share_the_probes() {
    let endpoint = Endpoint::start(Manner::Echoes);
    let address = endpoint.address();
    let more = format!(
        "[pool.other]\nendpoints = ['{address}']\n{}\n[route.other]\nlistener = 'edge'\nsni = 'other.example.com'\npool = 'other'",
        HEALTH.replace("200ms", "20s")
    );
    let balancer = start(&[address], &more);
    assert_eq!(balancer.metric(&format!("pointsman_endpoint_up{{pool=\"other\",endpoint=\"{address}\"}}")), 1.0);
    let (before, time) = (endpoint.connections(), Duration::from_secs(3));
    std::thread::sleep(time);
    let probes = endpoint.connections() - before;
    // One every 180 to 220 ms: of two pools, the shorter interval counts, once.
    assert!((8..=17).contains(&probes), "{probes} probes in {time:?}");
}

#[test]
fn an_endpoint_at_which_sessions_fail_is_left_out_without_any_probe() {
    let (good, bad) = (Endpoint::start(Manner::Echoes), free_address());
    let balancer = Balancer::with_pool(&format!(
        r#"
        balance = "round-robin"
        endpoints = ["{}", "{bad}"]
        outliers = {{ failures = 3, ejection = "2s" }}
        "#,
        good.address()
    ));
    let failures = || of(&balancer, "pointsman_endpoint_connect_failures_total", bad, "");
    let began = Instant::now();
    // The second attempt of each session reaches the other endpoint: no client notices.
    (0..40).for_each(|_| balancer.exchange());
    assert!(began.elapsed() < Duration::from_secs(2), "too slow for this test: {:?}", began.elapsed());
    assert_eq!(failures(), 3.0);
    assert_eq!(of(&balancer, "pointsman_endpoint_ejections_total", bad, ""), 1.0);
    eventually("it is told", || (of(&balancer, "pointsman_endpoint_ejected", bad, "") == 1.0).then_some(()));
    eventually("it is let back in", || (of(&balancer, "pointsman_endpoint_ejected", bad, "") == 0.0).then_some(()));
    (0..40).for_each(|_| balancer.exchange());
    assert_eq!(failures(), 4.0, "one more failure is enough");
}

#[test]
fn the_last_endpoint_is_never_left_out() {
    let nobody = free_address();
    let balancer = Balancer::with_pool(&format!(
        r#"
        endpoints = ["{nobody}"]
        outliers = {{ failures = 1, most_percent = 100 }}
        "#
    ));
    for _ in 0..3 {
        let mut client = Client::sending(balancer.address("edge"), &hello("www.example.com"));
        assert!(client.rest().is_ok());
    }
    assert!(balancer.records(3).iter().all(|record| record["outcome"] == "connect_failed"));
    let _endpoint = Endpoint::start_at(nobody, Manner::Echoes);
    balancer.exchange();
}

#[test]
fn backups_serve_while_nobody_else_can() {
    let (serving, backup) = (Endpoint::start(Manner::Echoes), Endpoint::start(Manner::Echoes));
    let (serves, stands_in) = (serving.address(), backup.address());
    let balancer = Balancer::with_pool(&format!(
        r#"
        endpoints = ["{serves}", {{ address = "{stands_in}", backup = true }}]
        {HEALTH}
        "#
    ));
    let sessions = |endpoint| of(&balancer, "pointsman_endpoint_sessions_total", endpoint, "");
    (0..10).for_each(|_| balancer.exchange());
    assert_eq!((sessions(serves), sessions(stands_in)), (10.0, 0.0));

    // Before it is found to be down, and afterwards.
    drop(serving);
    (0..10).for_each(|_| balancer.exchange());
    stands(&balancer, serves, false);
    (0..10).for_each(|_| balancer.exchange());
    assert_eq!(sessions(stands_in), 20.0, "no client was sent away");

    let _back = Endpoint::start_at(serves, Manner::Echoes);
    stands(&balancer, serves, true);
    let before = sessions(serves);
    (0..10).for_each(|_| balancer.exchange());
    assert_eq!((sessions(serves) - before, sessions(stands_in)), (10.0, 20.0));
}

/// A pool without probes behind a listener of this protocol.
fn unprobed(protocol: &str, endpoints: &str, more: &str) -> Balancer {
    Balancer::start(&format!(
        r#"
        listener.edge = {{ bind = "127.0.0.1:0", protocol = "{protocol}" }}
        route.all = {{ listener = "edge", pool = "all" }}
        [pool.all]
        endpoints = [{endpoints}]
        {more}
        "#
    ))
}

#[test]
fn a_backup_is_reached_past_any_number_of_dead_endpoints() {
    let backup = Endpoint::start(Manner::Echoes);
    let dead: Vec<String> = (0..4).map(|_| format!("'{}'", free_address())).collect();
    let endpoints = format!("{}, {{ address = '{}', backup = true }}", dead.join(", "), backup.address());
    let balancer = unprobed("tls", &endpoints, "outliers.failures = 2");
    // Until they are known, two of them take both attempts of a session.
    for _ in 0..8 {
        let _ = Client::sending(balancer.address("edge"), &hello("www.example.com")).rest();
    }
    (0..20).for_each(|_| balancer.exchange());
}

#[test]
fn an_endpoint_that_only_hangs_up_is_left_out_on_tcp_as_well() {
    let (good, bad) = (Endpoint::start(Manner::Echoes), Endpoint::start(Manner::HangsUpAfter(1)));
    let endpoints = format!("'{}', '{}'", good.address(), bad.address());
    let balancer = unprobed("tcp", &endpoints, "balance = 'round-robin'\noutliers.failures = 3");
    for _ in 0..20 {
        let mut client = Client::sending(balancer.address("edge"), b"hello");
        // Nothing comes from the endpoint that hangs up.
        if client.0.read(&mut [0; 5]).is_ok_and(|received| received > 0) {
            client.finish();
        }
        let _ = client.rest();
    }
    eventually("every session has ended", || (balancer.log().records(20).len() == 20).then_some(()));
    assert_eq!(of(&balancer, "pointsman_endpoint_ejections_total", bad.address(), ""), 1.0);
    assert_eq!(of(&balancer, "pointsman_endpoint_ejections_total", good.address(), ""), 0.0);
}

#[test]
fn silence_after_the_client_has_ended_is_nobodys_fault() {
    let quiet = [(); 2].map(|()| Endpoint::start(Manner::HangsUpAfter(usize::MAX)));
    let endpoints = quiet.each_ref().map(|endpoint| format!("'{}'", endpoint.address())).join(", ");
    let balancer = unprobed("tls", &endpoints, "outliers.failures = 1");
    for _ in 0..10 {
        let mut client = Client::sending(balancer.address("edge"), &hello("www.example.com"));
        client.finish();
        assert_eq!(client.rest().unwrap(), b"");
    }
    assert!(balancer.records(10).iter().all(|record| record["outcome"] == "ok" && record["by"] == "client"));
    for endpoint in &quiet {
        assert_eq!(of(&balancer, "pointsman_endpoint_ejections_total", endpoint.address(), ""), 0.0);
        assert_eq!(of(&balancer, "pointsman_endpoint_connect_failures_total", endpoint.address(), ""), 0.0);
    }
}

#[test]
fn who_tries_again_does_not_use_up_the_turns_of_others() {
    let (good, bad) = (Endpoint::start(Manner::Echoes), free_address());
    let endpoints = format!("'{}', '{bad}'", good.address());
    let balancer = unprobed("tls", &endpoints, "balance = 'round-robin'\noutliers.failures = 'off'");
    (0..20).for_each(|_| balancer.exchange());
    assert_eq!(of(&balancer, "pointsman_endpoint_connect_failures_total", bad, ""), 10.0, "every other session");
}
