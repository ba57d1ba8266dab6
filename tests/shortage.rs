//! Clients for whom there is no endpoint, or no place at one: they wait, are sent away, or are refused.

use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::client::hello;
use crate::harness::process::free_address;
use crate::harness::{Balancer, Client, Endpoint, Manner, Process, eventually};

const HEALTH: &str = "health = { probe = 'tcp', interval = '200ms', fast_interval = '100ms', rise = 1, fall = 2 }";

fn start(endpoints: &str, more: &str) -> Balancer {
    Balancer::start(&config(endpoints, more))
}

fn config(endpoints: &str, more: &str) -> String {
    let endpoints = if endpoints.is_empty() { String::new() } else { format!("endpoints = [{endpoints}]") };
    format!(
        r#"
        listener.edge.bind = "127.0.0.1:0"
        route.all = {{ listener = "edge", pool = "all" }}
        [pool.all]
        {endpoints}
        {more}
        "#
    )
}

fn gauge(balancer: &Balancer, name: &str) -> f64 {
    balancer.metric(&format!("pointsman_pool_{name}{{pool=\"all\"}}"))
}

/// A client that has said its name.
fn waits(balancer: &Balancer) -> Client {
    Client::sending(balancer.address("edge"), &hello("www.example.com"))
}

fn is_served(mut client: Client) {
    client.expect(&hello("www.example.com"));
    client.end();
}

#[test]
fn held_clients_are_served_as_soon_as_there_is_an_endpoint() {
    let nobody = free_address();
    let balancer = start(&format!("'{nobody}'"), &format!("no_endpoint = 'hold'\nhold = '30s'\n{HEALTH}"));
    let clients: Vec<Client> = (0..200).map(|_| waits(&balancer)).collect();
    eventually("all are held", || (gauge(&balancer, "held_sessions") == 200.0).then_some(()));
    assert!(balancer.log().lines().is_empty(), "nobody was sent away");
    let endpoint = Endpoint::start_at(nobody, Manner::Echoes);
    clients.into_iter().for_each(is_served);
    let records = balancer.records(200);
    assert!(records.iter().all(|record| record["outcome"] == "ok"), "{records:#?}");
    let bytes: u64 = records.iter().map(|record| record["bytes_up"].as_u64().unwrap()).sum();
    let sent = 200 * hello("www.example.com").len() as u64;
    assert_eq!(bytes, sent, "every byte arrived");
    let heard: usize = endpoint.heard().iter().map(|heard| heard.bytes.len()).sum();
    assert_eq!(heard as u64, sent);
    assert_eq!(gauge(&balancer, "wait_seconds_count"), 200.0);
}

#[test]
fn an_endpoint_that_restarts_unnoticed_costs_no_held_client() {
    // No probe: only the clients themselves find out, both when it goes and when it is back.
    let endpoint = Endpoint::start(Manner::Echoes);
    let address = endpoint.address();
    let balancer = start(&format!("'{address}'"), "no_endpoint = 'hold'");
    is_served(waits(&balancer));
    drop(endpoint);
    let clients: Vec<Client> = (0..20).map(|_| waits(&balancer)).collect();
    thread::sleep(Duration::from_secs(1));
    let _back = Endpoint::start_at(address, Manner::Echoes);
    clients.into_iter().for_each(is_served);
}

#[test]
fn held_clients_are_served_by_an_endpoint_that_is_discovered() {
    let (endpoint, folder) = (Endpoint::start(Manner::Echoes), tempfile::tempdir().unwrap());
    let (file, new) = (folder.path().join("endpoints.json"), folder.path().join("new"));
    let balancer = start("", &format!("endpoints_file = {file:?}\nno_endpoint = 'hold'\nhold = '30s'"));
    let clients: Vec<Client> = (0..20).map(|_| waits(&balancer)).collect();
    eventually("all are held", || (gauge(&balancer, "held_sessions") == 20.0).then_some(()));
    std::fs::write(&new, format!("[\"{}\"]", endpoint.address())).unwrap();
    std::fs::rename(&new, &file).unwrap();
    clients.into_iter().for_each(is_served);
}

#[test]
fn who_is_held_too_long_is_told_so_and_only_so_many_wait() {
    let nobody = free_address();
    let more = format!("no_endpoint = 'hold'\nhold = '1s'\nmax_waiting = 3\n{HEALTH}");
    let balancer = start(&format!("'{nobody}'"), &more);
    let (began, mut clients): (Instant, Vec<Client>) = (Instant::now(), (0..5).map(|_| waits(&balancer)).collect());
    for client in &mut clients {
        assert_eq!(client.rest().unwrap(), [21, 3, 3, 0, 2, 2, 80], "internal_error");
    }
    assert!(began.elapsed() >= Duration::from_secs(1));
    let mut outcomes: Vec<String> =
        balancer.records(5).iter().map(|record| record["outcome"].as_str().unwrap().to_owned()).collect();
    outcomes.sort();
    assert_eq!(outcomes, ["no_endpoint", "no_endpoint", "no_endpoint", "queue_full", "queue_full"]);
}

#[test]
fn who_leaves_while_it_waits_makes_room_at_once() {
    let nobody = free_address();
    let balancer = start(&format!("'{nobody}'"), &format!("no_endpoint = 'hold'\nhold = '30s'\n{HEALTH}"));
    let clients: Vec<Client> = (0..5).map(|_| waits(&balancer)).collect();
    eventually("all are held", || (gauge(&balancer, "held_sessions") == 5.0).then_some(()));
    drop(clients);
    let records = balancer.records(5);
    assert!(records.iter().all(|record| record["outcome"] == "client_gone"), "{records:#?}");
    eventually("nobody is held", || (gauge(&balancer, "held_sessions") == 0.0).then_some(()));
}

#[test]
fn a_full_endpoint_makes_clients_queue_in_turn() {
    let endpoint = Endpoint::start(Manner::Echoes);
    let address = endpoint.address();
    let balancer =
        start(&format!("{{ address = '{address}', max_connections = 2 }}"), "queue = '20s'\nbalance = 'round-robin'");
    let (first, second) = (waits(&balancer), waits(&balancer));
    eventually("two are served", || (endpoint.connections() == 2).then_some(()));
    // They come one after the other, so that the order of the queue is known.
    let queued: Vec<Client> = (1..=3)
        .map(|count| {
            let client = waits(&balancer);
            eventually("it queues", || (gauge(&balancer, "queued_sessions") == f64::from(count)).then_some(()));
            client
        })
        .collect();
    assert_eq!(endpoint.connections(), 2, "never more than two");
    let [third, fourth, fifth] = <[Client; 3]>::try_from(queued).map_err(|_| ()).unwrap();
    is_served(first);
    eventually("the next is served", || (endpoint.connections() == 3).then_some(()));
    is_served(third);
    is_served(second);
    is_served(fourth);
    is_served(fifth);
    let records = balancer.records(5);
    assert!(records.iter().all(|record| record["outcome"] == "ok"), "{records:#?}");
}

#[test]
fn places_are_never_overbooked_by_many_at_once() {
    let endpoints = [(); 2].map(|()| Endpoint::start(Manner::Echoes));
    let list = endpoints.each_ref().map(|endpoint| format!("'{}'", endpoint.address())).join(", ");
    let balancer = start(&list, "max_connections_per_endpoint = 4\nqueue = '30s'");
    let edge = balancer.address("edge");
    let worst = thread::scope(|scope| {
        let clients: Vec<_> = (0..16)
            .map(|_| {
                scope.spawn(move || {
                    for _ in 0..25 {
                        is_served(Client::sending(edge, &hello("www.example.com")));
                    }
                })
            })
            .collect();
        let mut worst = 0;
        while clients.iter().any(|client| !client.is_finished()) {
            let status = balancer.ask(&serde_json::json!({ "command": "status" }));
            for endpoint in status["pools"][0]["endpoints"].as_array().unwrap() {
                worst = worst.max(endpoint["sessions"].as_u64().unwrap());
            }
        }
        worst
    });
    assert_eq!(worst, 4, "as many as there are places, and never more");
    assert_eq!(balancer.records(400).len(), 400);
    assert!(balancer.log().lines().iter().all(|record| record["outcome"] == "ok"));
    eventually("every place is free", || (gauge(&balancer, "queued_sessions") == 0.0).then_some(()));
}

#[test]
fn an_endpoint_that_refuses_beside_a_full_one_is_not_tried_without_end() {
    let (full, refusing) = (Endpoint::start(Manner::Echoes), free_address());
    let endpoints = format!(
        "{{ address = '{}', max_connections = 1 }}, {{ address = '{refusing}', max_connections = 4 }}",
        full.address()
    );
    let balancer = start(&endpoints, "queue = '2s'\noutliers.failures = 'off'");
    let mut served = waits(&balancer);
    served.expect(&hello("www.example.com"));
    let clients: Vec<Client> = (0..10).map(|_| waits(&balancer)).collect();
    thread::sleep(Duration::from_secs(1));
    let tries = format!("pointsman_endpoint_connect_failures_total{{pool=\"all\",endpoint=\"{refusing}\"}}");
    let tries = balancer.metric(&tries);
    assert!((2.0..=100.0).contains(&tries), "{tries} tries of 10 clients in a second");
    // One of them takes the place when it is free, the others learn that there was none.
    drop(served);
    eventually("another has the place", || (gauge(&balancer, "connect_seconds_count") == 2.0).then_some(()));
    for mut client in clients {
        client.finish();
        let _ = client.rest();
    }
    let outcomes: Vec<String> =
        balancer.records(11).iter().map(|record| record["outcome"].as_str().unwrap().to_owned()).collect();
    assert!(outcomes.iter().filter(|outcome| *outcome == "ok").count() >= 2, "{outcomes:?}");
}

#[test]
fn who_queues_too_long_is_told_so() {
    let endpoint = Endpoint::start(Manner::Echoes);
    let endpoints = format!("{{ address = '{}', max_connections = 1 }}", endpoint.address());
    for (more, outcome) in [("queue = '300ms'", "queue_timeout"), ("queue = 'off'", "queue_full")] {
        let balancer = start(&endpoints, more);
        let served = waits(&balancer);
        eventually("it has a place", || (gauge(&balancer, "connect_seconds_count") == 1.0).then_some(()));
        assert_eq!(waits(&balancer).rest().unwrap(), [21, 3, 3, 0, 2, 2, 80]);
        assert_eq!(balancer.record()["outcome"], outcome);
        is_served(served);
    }
}

/// Whether connections to `at` are refused.
fn refuses(at: SocketAddr) -> bool {
    TcpStream::connect_timeout(&at, Duration::from_secs(5))
        .is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
}

#[test]
fn a_listener_refuses_while_there_is_nobody_and_keeps_its_address() {
    let (nobody, edge) = (free_address(), free_address());
    let config = config(&format!("'{nobody}'"), &format!("no_endpoint = 'refuse'\n{HEALTH}"));
    let process = Process::start(&config.replace("127.0.0.1:0", &edge.to_string()));
    eventually("connections are refused", || refuses(edge).then_some(()));
    for round in 0..3 {
        let endpoint = Endpoint::start_at(nobody, Manner::Echoes);
        eventually("connections are accepted", || (!refuses(edge)).then_some(()));
        // Every worker has to listen again before it takes its share.
        for _ in 0..20 {
            is_served(Client::sending(edge, &hello("www.example.com")));
        }
        let mut staying = Client::sending(edge, &hello("www.example.com"));
        staying.expect(&hello("www.example.com"));
        drop(endpoint);
        eventually("connections are refused", || refuses(edge).then_some(()));
        (0..20).for_each(|_| assert!(refuses(edge), "by every worker, round {round}"));
        // Those who are there stay.
        staying.send(b"more");
        staying.expect(b"more");
    }
    let messages = process.messages();
    assert!(messages.matches("refuses connections: there is no endpoint").count() >= 3, "{messages}");
}

#[test]
fn a_process_that_refuses_still_stops() {
    let (nobody, edge) = (free_address(), free_address());
    let config = config(&format!("'{nobody}'"), &format!("no_endpoint = 'refuse'\n{HEALTH}"));
    let mut process = Process::start(&config.replace("127.0.0.1:0", &edge.to_string()));
    eventually("connections are refused", || refuses(edge).then_some(()));
    process.signal(rustix::process::Signal::TERM);
    assert!(process.wait().success());
}

#[test]
fn with_too_few_fit_endpoints_probes_are_not_believed() {
    let (good, dying) = (Endpoint::start(Manner::Echoes), [(); 2].map(|()| Endpoint::start(Manner::Echoes)));
    let addresses: Vec<SocketAddr> =
        dying.iter().map(Endpoint::address).chain(std::iter::once(good.address())).collect();
    let list: Vec<String> = addresses.iter().map(|address| format!("'{address}'")).collect();
    let balancer = start(&list.join(", "), &format!("panic_percent = 50\n{HEALTH}"));
    assert_eq!(gauge(&balancer, "panic"), 0.0);
    drop(dying);
    eventually("it panics", || (gauge(&balancer, "panic") == 1.0).then_some(()));
    let picks =
        |address| balancer.metric(&format!("pointsman_endpoint_picks_total{{pool=\"all\",endpoint=\"{address}\"}}"));
    let before = picks(addresses[0]);
    (0..30).for_each(|_| drop(waits(&balancer)));
    balancer.records(30);
    assert!(picks(addresses[0]) > before, "those that are down are tried as well");
    balancer.set("maint", "all", &addresses[1].to_string());
    let before = picks(addresses[1]);
    (0..30).for_each(|_| drop(waits(&balancer)));
    balancer.records(60);
    assert_eq!(picks(addresses[1]), before, "but never who was taken out of service");
}
