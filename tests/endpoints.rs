//! Where connections go out: every kind of endpoint address, the source they come from, and how they are shared out.

use crate::harness::client::hello;
use crate::harness::{Balancer, Client, Endpoint, Manner, eventually};

/// A TLS listener `edge` whose one pool has these keys.
fn start(pool: &str) -> Balancer {
    Balancer::with_pool(&format!(
        r#"
        {pool}
        "#
    ))
}

/// A session that stands: its hello has come back.
fn session(balancer: &Balancer) -> Client {
    let hello = hello("www.example.com");
    let mut client = Client::sending(balancer.address("edge"), &hello);
    client.expect(&hello);
    client
}

#[test]
fn a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("web.sock");
    let endpoint = Endpoint::start_on_path(&path, Manner::Echoes);
    let balancer = start(&format!("endpoints = ['unix:{}']", path.display()));
    let mut client = session(&balancer);
    let large = vec![7; 1_000_000];
    let sent = large.clone();
    let mut writer = Client(client.0.try_clone().unwrap());
    let writing = std::thread::spawn(move || writer.send(&sent));
    client.expect(&large);
    writing.join().unwrap();
    client.finish();
    assert!(client.rest().is_ok_and(|rest| rest.is_empty()));
    let record = balancer.record();
    assert_eq!(
        (&record["outcome"], &record["endpoint"]),
        (&"ok".into(), &format!("unix:{}", path.display()).into()),
        "{record}"
    );
    assert_eq!(endpoint.connections(), 1);
}

#[test]
fn a_host_name_stands_for_its_addresses() {
    let endpoint = Endpoint::start(Manner::Echoes);
    let port = endpoint.address().port();
    let balancer = start(&format!("endpoints = ['localhost:{port}']"));
    // Where localhost is ::1 as well, nobody listens there, and the session moves on.
    for _ in 0..4 {
        drop(session(&balancer));
    }
    for record in balancer.records(4) {
        let told = (&record["outcome"], &record["endpoint"]);
        assert_eq!(told, (&"ok".into(), &format!("localhost:{port}#127.0.0.1").into()), "{record}");
    }
}

#[test]
fn the_source_is_the_one_asked_for() {
    let endpoint = Endpoint::start(Manner::Echoes);
    let balancer = start(&format!("endpoints = ['{}']\nsource = '127.0.0.2'", endpoint.address()));
    let clients: Vec<Client> = (0..5).map(|_| session(&balancer)).collect();
    drop(clients);
    for heard in endpoint.heard() {
        assert_eq!(heard.from.unwrap().ip().to_string(), "127.0.0.2", "{heard:?}");
    }
    assert_eq!(endpoint.connections(), 5);
}

#[test]
fn a_source_that_is_not_ours_is_our_fault() {
    let endpoint = Endpoint::start(Manner::Echoes);
    let balancer = start(&format!("endpoints = ['{}']\nsource = '192.0.2.1'", endpoint.address()));
    let mut client = Client::sending(balancer.address("edge"), &hello("www.example.com"));
    let answer = client.rest();
    assert!(answer.as_ref().is_ok_and(|answer| *answer == [21, 3, 3, 0, 2, 2, 80]), "{answer:02x?}");
    let record = balancer.record();
    assert_eq!((&record["outcome"], &record["by"]), (&"connect_failed".into(), &"pointsman".into()), "{record}");
}

#[test]
fn sessions_are_shared_out_by_the_rule_of_the_pool() {
    struct Case {
        balance: &'static str,
        weights: [u16; 3],
        /// Whether sessions stay while others come.
        stay: bool,
        expected: [usize; 3],
    }
    for Case { balance, weights, stay, expected } in [
        Case { balance: "round-robin", weights: [1, 1, 1], stay: false, expected: [20, 20, 20] },
        Case { balance: "round-robin", weights: [3, 2, 1], stay: false, expected: [30, 20, 10] },
        Case { balance: "round-robin", weights: [1, 0, 1], stay: true, expected: [30, 0, 30] },
        Case { balance: "least-connections", weights: [1, 1, 1], stay: true, expected: [20, 20, 20] },
        Case { balance: "least-connections", weights: [3, 2, 1], stay: true, expected: [30, 20, 10] },
        Case { balance: "least-connections", weights: [0, 1, 1], stay: true, expected: [0, 30, 30] },
    ] {
        let endpoints = [(); 3].map(|()| Endpoint::start(Manner::Echoes));
        let written: Vec<String> = endpoints
            .iter()
            .zip(weights)
            .map(|(endpoint, weight)| format!("{{ address = '{}', weight = {weight} }}", endpoint.address()))
            .collect();
        let balancer = start(&format!("balance = '{balance}'\nendpoints = [{}]", written.join(", ")));
        let mut clients = Vec::new();
        for _ in 0..60 {
            clients.push(session(&balancer));
            if !stay {
                clients.clear();
            }
        }
        let reached = endpoints.each_ref().map(Endpoint::connections);
        assert_eq!(reached, expected, "{balance}, weights {weights:?}, sessions stay: {stay}");
        if !stay {
            continue;
        }
        for (endpoint, count) in endpoints.iter().zip(expected) {
            let series = format!("{{pool=\"all\",endpoint=\"{}\"}}", endpoint.address());
            assert_eq!(balancer.metric(&format!("pointsman_endpoint_active_sessions{series}")), count as f64);
            assert_eq!(balancer.metric(&format!("pointsman_endpoint_sessions_total{series}")), count as f64);
        }
    }
}

#[test]
fn least_connections_fills_up_where_sessions_have_ended() {
    let endpoints = [(); 2].map(|()| Endpoint::start(Manner::Echoes));
    let [one, two] = endpoints.each_ref().map(Endpoint::address);
    let balancer = start(&format!("endpoints = ['{one}', '{two}']"));
    let mut clients: Vec<(Client, String)> = Vec::new();
    for _ in 0..10 {
        let before = endpoints[0].connections();
        let client = session(&balancer);
        let at = if endpoints[0].connections() > before { one } else { two };
        clients.push((client, at.to_string()));
    }
    clients.retain(|(_, at)| *at != one.to_string());
    eventually("the sessions of the first have ended", || (balancer.running().sessions() == 5).then_some(()));
    let before = endpoints.each_ref().map(Endpoint::connections);
    let _more: Vec<Client> = (0..5).map(|_| session(&balancer)).collect();
    let after = endpoints.each_ref().map(Endpoint::connections);
    assert_eq!([after[0] - before[0], after[1] - before[1]], [5, 0]);
}

#[test]
fn maglev_leads_a_name_to_the_same_endpoint_on_every_balancer() {
    let endpoints: Vec<Endpoint> = (0..3).map(|_| Endpoint::start(Manner::Echoes)).collect();
    let list: Vec<String> = endpoints.iter().map(|endpoint| format!("'{}'", endpoint.address())).collect();
    let mut turned = list.clone();
    turned.rotate_left(1);
    let pool = |list: &[String]| format!("balance = 'maglev'\nhash_key = 'sni'\nendpoints = [{}]", list.join(", "));
    let balancers = [start(&pool(&list)), start(&pool(&turned))];
    let names: Vec<String> = (0..30).map(|index| format!("n{index}.example.com")).collect();
    let chosen = balancers.each_ref().map(|balancer| {
        for name in names.iter().chain(&names) {
            let hello = hello(name);
            let mut client = Client::sending(balancer.address("edge"), &hello);
            client.expect(&hello);
        }
        let mut records = balancer.records(2 * names.len());
        records.sort_by_key(|record| record["id"].as_u64());
        let told = |record: &serde_json::Value| (record["sni"].to_string(), record["endpoint"].to_string());
        let mut told: Vec<_> = records.iter().map(told).collect();
        told.sort();
        told.dedup();
        told
    });
    assert_eq!(chosen[0].len(), names.len(), "every name has one endpoint: {:#?}", chosen[0]);
    assert_eq!(chosen[0], chosen[1]);
    assert!(endpoints.iter().all(|endpoint| endpoint.connections() > 0), "every endpoint has some of the names");
}

#[test]
fn maglev_leads_a_network_to_the_same_endpoint_and_keeps_to_the_bound() {
    let endpoints: Vec<Endpoint> = (0..4).map(|_| Endpoint::start(Manner::Echoes)).collect();
    let list: Vec<String> = endpoints.iter().map(|endpoint| format!("'{}'", endpoint.address())).collect();
    let pool = |more: &str| format!("balance = 'maglev'\n{more}\nendpoints = [{}]", list.join(", "));
    let free = start(&pool(""));
    let sessions: Vec<Client> = (0..40).map(|_| session(&free)).collect();
    let counts: Vec<usize> = endpoints.iter().map(Endpoint::connections).collect();
    assert_eq!(counts.iter().filter(|&&count| count == 40).count(), 1, "one client, one endpoint: {counts:?}");
    drop((sessions, free));

    let bound = start(&pool("hash_balance_factor = 150"));
    let sessions: Vec<Client> = (0..40).map(|_| session(&bound)).collect();
    let counts: Vec<usize> =
        endpoints.iter().zip(counts).map(|(endpoint, before)| endpoint.connections() - before).collect();
    assert!(counts.iter().all(|&count| count <= 15), "at most 1.5 times 10 of 40: {counts:?}");
    assert_eq!(counts.iter().sum::<usize>(), sessions.len());
}

#[test]
fn random_two_spreads_sessions_evenly() {
    let endpoints: Vec<Endpoint> = (0..5).map(|_| Endpoint::start(Manner::Echoes)).collect();
    let list: Vec<String> = endpoints.iter().map(|endpoint| format!("'{}'", endpoint.address())).collect();
    let balancer = start(&format!("balance = 'random-two'\nendpoints = [{}]", list.join(", ")));
    let _sessions: Vec<Client> = (0..100).map(|_| session(&balancer)).collect();
    let counts: Vec<usize> = endpoints.iter().map(Endpoint::connections).collect();
    assert!(counts.iter().all(|count| (15..=25).contains(count)), "{counts:?}");
}
