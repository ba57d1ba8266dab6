//! What becomes of sessions whose endpoint is no longer to be used: counted by session, and byte for byte.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::answering::{Server, Speaks, http};
use crate::harness::client::hello;
use crate::harness::endpoint::Unreachable;
use crate::harness::{Balancer, Client, Endpoint, Manner, eventually};

const HEALTH: &str = "health = { probe = 'tcp', interval = '200ms', fast_interval = '100ms', rise = 1, fall = 2 }";

fn start(endpoints: &[(&str, SocketAddr, u32)], more: &str) -> Balancer {
    let list: Vec<String> = endpoints
        .iter()
        .map(|(name, address, priority)| format!("{{ name = '{name}', address = '{address}', priority = {priority} }}"))
        .collect();
    Balancer::with_pool(&format!(
        r#"
        endpoints = [{}]
        {more}
        "#,
        list.join(", ")
    ))
}

/// How many sessions of each endpoint there are.
fn active<const N: usize>(balancer: &Balancer, names: [&str; N]) -> [u64; N] {
    let status = balancer.ask(&json!({ "command": "status", "pool": "all" }));
    let endpoints = status["pools"][0]["endpoints"].as_array().unwrap().clone();
    names.map(|name| {
        let endpoint = endpoints.iter().find(|endpoint| endpoint["name"] == name);
        endpoint.map_or(0, |endpoint| endpoint["sessions"].as_u64().unwrap())
    })
}

/// Still echoes.
fn goes_on(client: &mut Client) {
    client.send(b"more");
    client.expect(b"more");
}

fn was_reset(client: &mut Client) -> bool {
    client.rest().is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
}

/// Outcomes of the log with their number, once it has `count` lines.
fn outcomes(balancer: &Balancer, count: usize) -> Vec<(String, usize)> {
    let mut outcomes: Vec<(String, usize)> = Vec::new();
    for record in balancer.records(count) {
        let outcome = record["outcome"].as_str().unwrap().to_owned();
        match outcomes.iter_mut().find(|(known, _)| *known == outcome) {
            Some((_, count)) => *count += 1,
            None => outcomes.push((outcome, 1)),
        }
    }
    outcomes.sort();
    outcomes
}

#[test]
fn sessions_of_an_endpoint_that_goes_down_are_killed_and_no_others() {
    // The endpoint only stops listening: its sessions would live on.
    let (staying, dying) = (Endpoint::start(Manner::Echoes), Endpoint::start(Manner::Echoes));
    let balancer = start(
        &[("stays", staying.address(), 0), ("dies", dying.address(), 0)],
        &format!("sessions.on_down = 'close'\n{HEALTH}"),
    );
    let mut clients = balancer.sessions(40);
    assert_eq!(active(&balancer, ["stays", "dies"]), [20, 20]);
    let began = Instant::now();
    drop(dying);
    let records = balancer.records(20);
    // Found by two probes, 100 ms apart after the first; the sessions end at once when it is.
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert!(records.iter().all(|record| record["outcome"] == "killed_down" && record["endpoint"] == "dies"));
    assert!(records.iter().all(|record| record["by"] == "policy"), "{records:#?}");
    assert_eq!(active(&balancer, ["stays", "dies"]), [20, 0]);
    let (mut reset, mut going) = (0, 0);
    let bytes = hello("www.example.com").len() as u64;
    for client in &mut clients {
        if records.iter().any(|record| record["client"] == client.address()) {
            assert!(was_reset(client), "in the middle of a session, so that nobody takes it for its end");
            reset += 1;
        } else {
            goes_on(client);
            going += 1;
        }
    }
    assert_eq!((reset, going), (20, 20));
    assert!(records.iter().all(|record| record["bytes_up"] == bytes && record["bytes_down"] == bytes));
}

#[test]
fn by_default_nobody_is_cut() {
    let (staying, dying) = (Endpoint::start(Manner::Echoes), Endpoint::start(Manner::Echoes));
    let balancer = start(&[("stays", staying.address(), 0), ("dies", dying.address(), 0)], HEALTH);
    let mut clients = balancer.sessions(10);
    drop(dying);
    balancer.set("maint", "all", "stays");
    sleep(Duration::from_secs(2));
    clients.iter_mut().for_each(goes_on);
    assert!(balancer.log().lines().is_empty());
}

#[test]
fn a_drained_endpoint_loses_its_sessions_at_their_idle_points() {
    let endpoints = [(); 2].map(|()| Endpoint::start(Manner::Echoes));
    let balancer = start(
        &[("a", endpoints[0].address(), 0), ("b", endpoints[1].address(), 0)],
        "sessions = { on_drain = 'close-when-idle', idle = '2s' }",
    );
    let mut clients = balancer.sessions(20);
    let before = active(&balancer, ["a", "b"]);
    assert_eq!(before, [10, 10]);
    balancer.set("drain", "all", "a");
    // New ones go elsewhere.
    clients.extend(balancer.sessions(10));
    assert_eq!(active(&balancer, ["a", "b"]), [10, 20]);
    // Five of the ten are busy for 5 s, and are not touched.
    let of_a = balancer.ask(&json!({ "command": "sessions", "only": { "endpoint": "a" } }));
    let of_a: Vec<String> =
        of_a["sessions"].as_array().unwrap().iter().map(|told| told["client"].as_str().unwrap().to_owned()).collect();
    let (mut of_a, mut others): (Vec<Client>, Vec<Client>) =
        clients.into_iter().partition(|client| of_a.contains(&client.address()));
    let mut idle = of_a.split_off(5);
    for _ in 0..5 {
        of_a.iter_mut().for_each(goes_on);
        sleep(Duration::from_secs(1));
    }
    assert_eq!(active(&balancer, ["a", "b"])[0], 5);
    for client in &mut idle {
        assert_eq!(client.rest().unwrap(), b"", "a plain end, at an idle point");
    }
    of_a.iter_mut().for_each(goes_on);
    eventually("the busy ones end once they are idle", || (active(&balancer, ["a", "b"])[0] == 0).then_some(()));
    others.iter_mut().for_each(goes_on);
    assert_eq!(outcomes(&balancer, 10), [("killed_drain".to_owned(), 10)]);
}

#[test]
fn who_reads_slowly_is_not_idle() {
    // The endpoint sends back what it gets; the client does not read, so that bytes are under way all the time.
    let endpoint = Endpoint::start(Manner::Echoes);
    let balancer = start(
        &[("a", endpoint.address(), 0)],
        "sessions = { on_drain = 'close-when-idle', idle = '1s', max_age = '1s', max_age_jitter = 0 }",
    );
    let mut client = balancer.sessions(1).remove(0);
    let sent = vec![7; 16 << 20];
    let mut writer = Client(client.0.try_clone().unwrap());
    let bytes = sent.clone();
    let writing = std::thread::spawn(move || writer.send(&bytes));
    balancer.set("drain", "all", "a");
    sleep(Duration::from_secs(5));
    assert!(balancer.log().lines().is_empty(), "nobody was cut");
    client.expect(&sent);
    writing.join().unwrap();
    // Now it is idle.
    assert_eq!(client.rest().unwrap(), b"");
    assert!(["killed_drain", "max_age"].contains(&balancer.record()["outcome"].as_str().unwrap()));
}

#[test]
fn an_endpoint_that_drains_and_goes_down_is_down() {
    let endpoint = Endpoint::start(Manner::Echoes);
    let balancer = start(&[("a", endpoint.address(), 0)], &format!("sessions.on_down = 'close'\n{HEALTH}"));
    let mut clients = balancer.sessions(3);
    balancer.set("drain", "all", "a");
    sleep(Duration::from_millis(1500));
    clients.iter_mut().for_each(goes_on);
    drop(endpoint);
    assert_eq!(outcomes(&balancer, 3), [("killed_down".to_owned(), 3)]);
    let status = balancer.ask(&json!({ "command": "status" }));
    let told = &status["pools"][0]["endpoints"][0];
    assert_eq!((&told["state"], &told["mode"]), (&json!("down"), &json!("drain")), "{status}");
}

#[test]
fn in_a_panic_nobody_is_killed_for_what_probes_found() {
    let endpoints = [(); 2].map(|()| Endpoint::start(Manner::Echoes));
    let at = endpoints.each_ref().map(Endpoint::address);
    let balancer = start(
        &[("a", at[0], 0), ("b", at[1], 0)],
        &format!("panic_percent = 60\nsessions.on_down = 'close'\n{HEALTH}"),
    );
    let mut clients = balancer.sessions(6);
    let [first, _second] = endpoints;
    drop(first);
    let panic = "pointsman_pool_panic{pool=\"all\"}";
    eventually("it panics", || (balancer.metric(panic) == 1.0).then_some(()));
    sleep(Duration::from_millis(1500));
    clients.iter_mut().for_each(goes_on);
    balancer.set("maint", "all", "a");
    assert_eq!(outcomes(&balancer, 3), [("killed_down".to_owned(), 3)], "an operator is believed");
}

#[test]
fn who_came_to_a_standby_that_does_not_serve_stays() {
    // The primary refuses but is not found to be down: sessions go on to the standby.
    let (refusing, standby) = (crate::harness::process::free_address(), Endpoint::start(Manner::Echoes));
    let balancer = start(
        &[("primary", refusing, 0), ("standby", standby.address(), 1)],
        "sessions.on_recovery = 'close'\noutliers.failures = 'off'",
    );
    let mut clients = balancer.sessions(3);
    sleep(Duration::from_millis(2500));
    clients.iter_mut().for_each(goes_on);
}

#[test]
fn a_deadline_ends_who_is_never_idle() {
    let endpoint = Endpoint::start(Manner::Echoes);
    let balancer =
        start(&[("a", endpoint.address(), 0)], "sessions = { on_drain = 'deadline', deadline = '3s', idle = '60s' }");
    let mut clients = balancer.sessions(2);
    let began = Instant::now();
    balancer.set("drain", "all", "a");
    balancer.records(2);
    let took = began.elapsed();
    assert!((Duration::from_secs(3)..Duration::from_secs(5)).contains(&took), "{took:?}");
    assert!(clients.iter_mut().all(was_reset));
}

#[test]
fn a_drain_that_is_taken_back_ends_nobody() {
    let endpoint = Endpoint::start(Manner::Echoes);
    let balancer =
        start(&[("a", endpoint.address(), 0)], "sessions = { on_drain = 'deadline', deadline = '2s', idle = '60s' }");
    let mut clients = balancer.sessions(2);
    balancer.set("drain", "all", "a");
    balancer.set("ready", "all", "a");
    sleep(Duration::from_secs(4));
    clients.iter_mut().for_each(goes_on);
}

#[test]
fn who_answers_that_it_should_not_serve_is_demoted_and_not_down() {
    let (endpoint, role) = (Endpoint::start(Manner::Echoes), Server::start(Speaks::Once, &http("200 OK", "")));
    let health = format!(
        "health = {{ probe = 'http', http.path = '/primary', port = {}, interval = '200ms', fast_interval = '100ms' }}",
        role.address().port()
    );
    for (rules, outcome) in [("on_down = 'close'", None), ("on_demotion = 'close'", Some("killed_demotion"))] {
        role.answer_status("200 OK", "");
        let balancer = start(&[("a", endpoint.address(), 0)], &format!("sessions.{rules}\n{health}"));
        let mut clients = balancer.sessions(3);
        role.answer_status("503 Service Unavailable", "");
        let state = || balancer.ask(&json!({ "command": "status" }))["pools"][0]["endpoints"][0].clone();
        let refused = eventually("it is refused", || Some(state()).filter(|state| state["state"] == "refused"));
        let last = refused["health"]["last"].as_str().unwrap();
        assert!(last.contains("503"), "{refused}");
        match outcome {
            Some(outcome) => assert_eq!(outcomes(&balancer, 3), [(outcome.to_owned(), 3)]),
            None => {
                sleep(Duration::from_millis(1500));
                clients.iter_mut().for_each(goes_on);
            }
        }
    }
}

#[test]
fn sessions_of_who_is_removed_leave_and_those_of_who_stays_stay() {
    let (stays, goes) = (Endpoint::start(Manner::Echoes), Endpoint::start(Manner::Echoes));
    let folder = tempfile::tempdir().unwrap();
    let (file, new) = (folder.path().join("endpoints.json"), folder.path().join("new"));
    let both = json!([stays.address().to_string(), goes.address().to_string()]);
    std::fs::write(&file, both.to_string()).unwrap();
    let balancer = Balancer::with_pool(&format!(
        r#"
        endpoints_file = {file:?}
        sessions.on_removal = "close"
        "#
    ));
    let mut clients = balancer.sessions(10);
    let names = [stays.address().to_string(), goes.address().to_string()];
    assert_eq!(active(&balancer, names.each_ref().map(String::as_str)), [5, 5]);
    std::fs::write(&new, json!([names[0]]).to_string()).unwrap();
    std::fs::rename(&new, &file).unwrap();
    assert_eq!(outcomes(&balancer, 5), [("killed_removal".to_owned(), 5)]);
    let ended: Vec<String> =
        balancer.records(5).iter().map(|record| record["client"].as_str().unwrap().to_owned()).collect();
    for client in &mut clients {
        if ended.contains(&client.address()) {
            assert!(was_reset(client));
        } else {
            goes_on(client);
        }
    }
    // Who comes back starts with nothing, and is used again.
    std::fs::write(&new, both.to_string()).unwrap();
    std::fs::rename(&new, &file).unwrap();
    eventually("it is back", || {
        let status = balancer.ask(&json!({ "command": "status" }));
        (status["pools"][0]["endpoints"].as_array().unwrap().len() == 2).then_some(())
    });
    balancer.sessions(5).iter_mut().for_each(goes_on);
}

#[test]
fn what_an_agent_says_is_done() {
    let (endpoint, other) = (Endpoint::start(Manner::Echoes), Endpoint::start(Manner::Echoes));
    let agent = Server::start(Speaks::First, "up 100%\n");
    let health = format!("health = {{ agent = {{ port = {}, interval = '100ms' }} }}", agent.address().port());
    let endpoints = [("a", endpoint.address(), 0)];
    let rules = "sessions = { on_drain = 'close-when-idle', on_down = 'close', idle = '1s' }";
    let more = format!(
        "{rules}\n{health}\n[pool.standby]\nendpoints = '{}'\n[route.standby]\nlistener = 'edge'\nsni = 'x.test'\npool = 'standby'",
        other.address()
    );
    let balancer = start(&endpoints, &more);
    let is = |key: &str, wanted: serde_json::Value| {
        eventually("the endpoint follows its agent", || {
            let status = balancer.ask(&json!({ "command": "status", "pool": "all" }));
            (status["pools"][0]["endpoints"][0][key] == wanted).then_some(())
        });
    };
    is("state", "up".into());
    agent.answer("50%\n");
    is("share", 0.5.into());
    agent.answer("100%\n");
    is("share", 1.0.into());
    let mut clients = balancer.sessions(4);
    agent.answer("drain\n");
    is("state", "drain".into());
    for client in &mut clients {
        assert_eq!(client.rest().unwrap(), b"", "at an idle point");
    }
    agent.answer("ready\n");
    is("state", "up".into());
    let mut clients = balancer.sessions(2);
    agent.answer("maint\n");
    is("state", "maint".into());
    assert!(clients.iter_mut().all(was_reset));
    assert_eq!(outcomes(&balancer, 6), [("killed_down".to_owned(), 2), ("killed_drain".to_owned(), 4)]);
    agent.answer("up\n");
    is("state", "up".into());
    balancer.sessions(1).iter_mut().for_each(goes_on);
}

#[test]
fn sessions_of_a_standby_end_when_the_primary_is_back() {
    let (primary, standby) = (Endpoint::start(Manner::Echoes), Endpoint::start(Manner::Echoes));
    let at = primary.address();
    let balancer = start(
        &[("primary", at, 0), ("standby", standby.address(), 1)],
        &format!("sessions.on_recovery = 'close'\n{HEALTH}"),
    );
    drop(primary);
    eventually("the primary is down", || {
        let status = balancer.ask(&json!({ "command": "status", "pool": "all" }));
        (status["pools"][0]["serving"] == "1").then_some(())
    });
    let mut clients = balancer.sessions(5);
    assert_eq!(active(&balancer, ["primary", "standby"]), [0, 5]);
    let _back = Endpoint::start_at(at, Manner::Echoes);
    assert_eq!(outcomes(&balancer, 5), [("killed_recovery".to_owned(), 5)]);
    assert!(clients.iter_mut().all(was_reset));
    balancer.sessions(5).iter_mut().for_each(goes_on);
    assert_eq!(active(&balancer, ["standby"]), [0]);
}

#[test]
fn old_sessions_are_closed_at_idle_points_and_not_all_at_once() {
    let endpoint = Endpoint::start(Manner::Echoes);
    let balancer = start(
        &[("a", endpoint.address(), 0)],
        "sessions = { max_age = '2s', max_age_jitter = 0, max_age_per_minute = 60, idle = '1s' }",
    );
    let mut busy = balancer.sessions(1);
    let mut idle = balancer.sessions(6);
    let began = Instant::now();
    let mut ended = Vec::new();
    while ended.len() < 6 && began.elapsed() < Duration::from_secs(20) {
        busy.iter_mut().for_each(goes_on);
        sleep(Duration::from_millis(100));
        ended.resize_with(balancer.log().lines().len(), || began.elapsed());
    }
    assert_eq!(ended.len(), 6);
    // One a second: the sixth at the earliest five seconds after the first.
    assert!(ended[5] - ended[0] > Duration::from_secs(4), "{ended:?}");
    assert!(ended[0] >= Duration::from_secs(2), "{ended:?}");
    assert_eq!(outcomes(&balancer, 6), [("max_age".to_owned(), 6)]);
    for client in &mut idle {
        assert_eq!(client.rest().unwrap(), b"");
    }
    busy.iter_mut().for_each(goes_on);
}

#[test]
fn a_session_that_is_still_looking_for_an_endpoint_is_not_killed_with_the_one_it_left() {
    // The first endpoint takes the opening and hangs up; the second answers no SYN for a while; meanwhile the first drains.
    let (bad, unreachable) = (Endpoint::start(Manner::HangsUpAfter(1)), Unreachable::start());
    let balancer = start(
        &[("bad", bad.address(), 0), ("slow", unreachable.address(), 1)],
        "sessions.on_drain = 'close'\ntimeouts.connect = '4s'",
    );
    let mut client = Client::sending(balancer.address("edge"), &hello("www.example.com"));
    eventually("the first has hung up", || (bad.connections() == 1).then_some(()));
    sleep(Duration::from_millis(200));
    balancer.set("drain", "all", "bad");
    let _ = client.rest();
    assert_eq!(balancer.record()["outcome"], "connect_timeout");
}
