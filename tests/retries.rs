//! When a session may move on to another endpoint: as long as nothing but a lone hello went out, and never after.

use pointsman::wire::sample::Sample;

use crate::harness::client::hello;
use crate::harness::process::free_address;
use crate::harness::{Balancer, Client, Endpoint, Manner};

fn in_turns(endpoints: &[String]) -> Balancer {
    Balancer::start(&format!(
        r#"
        listener.edge.bind = "127.0.0.1:0"
        route.all = {{ listener = "edge", pool = "all" }}
        pool.all.balance = "round-robin"
        pool.all.endpoints = {endpoints:?}
        "#
    ))
}

#[test]
fn a_lone_hello_goes_to_another_endpoint() {
    let hello = hello("www.example.com");
    let closes_at_once = Endpoint::start(Manner::HangsUpAfter(0));
    let closes_after = Endpoint::start(Manner::HangsUpAfter(hello.len()));
    let good = Endpoint::start(Manner::Answers("here"));
    for (case, bad) in [
        ("closes at once", closes_at_once.address()),
        ("closes after the hello", closes_after.address()),
        ("refuses", free_address()),
    ] {
        let balancer = in_turns(&[bad.to_string(), good.address().to_string()]);
        let before = good.connections();
        for turn in 0..6 {
            let mut client = Client::sending(balancer.address("edge"), &hello);
            client.expect(b"here");
            client.finish();
            let end = client.rest();
            assert!(end.as_ref().is_ok_and(Vec::is_empty), "{case}, client {turn}: {end:02x?}");
        }
        let heard = good.heard().split_off(before);
        assert_eq!(heard.len(), 6, "{case}");
        assert!(heard.iter().all(|heard| heard.bytes == hello), "{case}: {heard:02x?}");
        for record in balancer.records(6) {
            let told = (&record["outcome"], &record["endpoint"], &record["bytes_down"]);
            assert_eq!(told, (&"ok".into(), &good.address().to_string().into(), &4.into()), "{case}: {record}");
        }
        let failures = format!("pointsman_endpoint_connect_failures_total{{pool=\"all\",endpoint=\"{bad}\"}}");
        assert!(balancer.metric(&failures) >= 3.0, "{case}: the bad one had its turns");
    }
    assert!(closes_after.heard().iter().all(|heard| heard.bytes == hello), "{:02x?}", closes_after.heard());
}

#[test]
fn anything_more_than_a_hello_is_never_sent_twice() {
    let plain = hello("www.example.com");
    let more = [22, 3, 3, 0, 2, 1, 1];
    let early = Sample { name: Some(b"www.example.com"), extensions: &[(42, b"")], ..Sample::default() }.wire();
    for (case, at_once, later) in [
        ("the hello and more at once", [plain.as_slice(), &more].concat(), Vec::new()),
        ("more after the hello", plain.clone(), more.to_vec()),
        ("a hello that announces early data", early.clone(), Vec::new()),
        ("early data with its hello", [early.as_slice(), &more].concat(), Vec::new()),
    ] {
        let sent = [at_once.as_slice(), &later].concat();
        let endpoints = [(); 2].map(|()| Endpoint::start(Manner::HangsUpAfter(sent.len())));
        let balancer = in_turns(&endpoints.each_ref().map(|endpoint| endpoint.address().to_string()));
        let mut client = Client::sending(balancer.address("edge"), &at_once);
        if !later.is_empty() {
            crate::harness::eventually("the hello is there", || {
                endpoints.iter().flat_map(Endpoint::heard).find(|heard| heard.bytes == plain)
            });
            client.send(&later);
        }
        let end = client.rest();
        assert!(end.as_ref().is_ok_and(Vec::is_empty), "{case}: {end:02x?}");
        drop(client);
        let record = balancer.record();
        let heard: Vec<_> = endpoints.iter().flat_map(Endpoint::heard).collect();
        assert_eq!(heard.len(), 1, "{case}: {heard:02x?}; {record}");
        assert_eq!(heard[0].bytes, sent, "{case}; {record}");
    }
}

#[test]
fn a_plain_session_is_never_replayed_but_may_move_on_before_it_is_connected() {
    let good = Endpoint::start(Manner::Answers("here"));
    let config = |endpoints: [String; 2]| {
        format!(
            r#"
            listener.db = {{ bind = "127.0.0.1:0", protocol = "tcp" }}
            route.db = {{ listener = "db", pool = "db" }}
            pool.db.balance = "round-robin"
            pool.db.endpoints = {endpoints:?}
            "#
        )
    };
    let balancer = Balancer::start(&config([free_address().to_string(), good.address().to_string()]));
    for _ in 0..4 {
        let mut client = Client::sending(balancer.address("db"), b"INCR a\r\n");
        client.expect(b"here");
    }
    assert_eq!(good.connections(), 4);

    let bad = [(); 2].map(|()| Endpoint::start(Manner::HangsUpAfter(8)));
    let balancer = Balancer::start(&config(bad.each_ref().map(|endpoint| endpoint.address().to_string())));
    let mut client = Client::sending(balancer.address("db"), b"INCR a\r\n");
    let end = client.rest();
    assert!(end.as_ref().is_ok_and(Vec::is_empty), "{end:02x?}");
    drop(client);
    let heard: Vec<_> = bad.iter().flat_map(Endpoint::heard).collect();
    assert_eq!(heard.len(), 1, "{heard:02x?}; {}", balancer.record());
}
