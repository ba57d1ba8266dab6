//! Who the endpoints of a pool are: names that come, change and go, SRV records, files.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;

use crate::harness::{Balancer, Broken, Client, Dns, Endpoint, Manner, Process, eventually};

/// A TCP listener `edge` whose one pool, with each endpoint in turn, has these keys.
fn config(top: &str, pool: &str) -> String {
    format!(
        "{top}\nlistener.edge = {{ bind = '127.0.0.1:0', protocol = 'tcp' }}\n\
         route.all = {{ listener = 'edge', pool = 'all' }}\n[pool.all]\nbalance = 'round-robin'\n{pool}"
    )
}

/// A session, and its echo.
fn session(to: SocketAddr) -> Client {
    let mut client = Client::sending(to, b"one");
    client.expect(b"one");
    client
}

/// The endpoint of a session that is over at once, or how it failed.
fn reached(balancer: &Balancer) -> String {
    let mut client = Client::sending(balancer.address("edge"), b"one");
    client.finish();
    let _ = client.rest();
    let address = client.address();
    drop(client);
    let record = balancer.log().record_of(&address);
    record["endpoint"]
        .as_str()
        .filter(|_| record["outcome"] == "ok")
        .unwrap_or(record["outcome"].as_str().unwrap())
        .into()
}

/// Waits until sessions reach exactly these, however often they are in turn.
fn reaches(balancer: &Balancer, expected: &[&str]) {
    let mut last = Vec::new();
    eventually(&format!("sessions reach {expected:?}"), || {
        last = (0..2 * expected.len()).map(|_| reached(balancer)).collect::<Vec<_>>();
        last.sort();
        last.dedup();
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        (last == expected).then_some(())
    });
}

/// An endpoint at each of these addresses, all on one port.
fn endpoints<const N: usize>(addresses: [&str; N]) -> (u16, [Endpoint; N]) {
    let first = Endpoint::start_at(format!("{}:0", addresses[0]).parse().unwrap(), Manner::Echoes);
    let port = first.address().port();
    let mut first = Some(first);
    let start = |address: &str| Endpoint::start_at(format!("{address}:{port}").parse().unwrap(), Manner::Echoes);
    (port, addresses.map(|address| first.take().unwrap_or_else(|| start(address))))
}

fn failures(balancer: &Balancer) -> f64 {
    balancer.metric("pointsman_pool_discovery_failures_total{pool=\"all\"}")
}

#[test]
fn a_name_may_come_late() {
    let dns = Dns::start();
    let (port, _endpoints) = endpoints(["127.0.11.1"]);
    let began = Instant::now();
    let balancer = Balancer::start(&config(&dns.config(), &format!("endpoints = 'db.test:{port}'\nrefresh = '1d'")));
    assert!(began.elapsed() < Duration::from_secs(1), "that there is no such name is an answer: {:?}", began.elapsed());
    assert_eq!(reached(&balancer), "no_endpoint");
    assert!(failures(&balancer) >= 1.0);
    dns.set("db.test", 3600, &["127.0.11.1"]);
    reaches(&balancer, &[&format!("db.test:{port}#127.0.11.1")]);
}

#[test]
fn addresses_come_and_go_while_sessions_stay() {
    let dns = Dns::start();
    let (port, _endpoints) = endpoints(["127.0.12.1", "127.0.12.2"]);
    let [one, two] = [1, 2].map(|last| format!("db.test:{port}#127.0.12.{last}"));
    dns.set("db.test", 1, &["127.0.12.1"]);
    let balancer = Balancer::start(&config(&dns.config(), &format!("endpoints = 'db.test:{port}'\nrefresh = '1d'")));
    let mut long = session(balancer.address("edge"));
    let metric = |name: &str| balancer.metric(&format!("pointsman_endpoint_{name}{{pool=\"all\",endpoint=\"{one}\"}}"));
    dns.set("db.test", 1, &["127.0.12.2", "127.0.12.1"]);
    reaches(&balancer, &[&one, &two]);
    dns.set("db.test", 1, &["127.0.12.2"]);
    reaches(&balancer, &[&two]);
    let total = metric("sessions_total");
    assert_eq!(metric("active_sessions"), 1.0, "its session lives on");
    dns.set("db.test", 1, &["127.0.12.1"]);
    reaches(&balancer, &[&one]);
    assert!(metric("sessions_total") > total, "it goes on counting");
    assert_eq!(metric("active_sessions"), 1.0, "it still has its session");
    long.send(b"two");
    long.expect(b"two");
}

#[test]
fn a_name_is_looked_up_again_when_its_ttl_is_over_and_when_it_is_time() {
    let dns = Dns::start();
    for name in ["short.test", "long.test", "seldom.test"] {
        dns.set(name, if name == "short.test" { 1 } else { 3600 }, &["127.0.0.1"]);
    }
    let pool = |name: &str, refresh: &str| {
        format!(
            "[pool.{name}]\nendpoints = '{name}.test:1'\nrefresh = '{refresh}'\n\
                 [listener.{name}]\nbind = '127.0.0.1:0'\nprotocol = 'tcp'\n[route.{name}]\nlistener = '{name}'\npool = '{name}'\n"
        )
    };
    let pools = pool("short", "1d") + &pool("long", "1s") + &pool("seldom", "1d");
    let _balancer = Balancer::start(&format!("{}\n{pools}", dns.config()));
    let began = Instant::now();
    for name in ["short.test", "long.test"] {
        eventually(name, || (dns.queries(name, RecordType::A) >= 3).then_some(()));
    }
    assert!(began.elapsed() >= Duration::from_secs(2), "a second each time: {:?}", began.elapsed());
    assert_eq!((dns.queries("seldom.test", RecordType::A), dns.queries("seldom.test", RecordType::AAAA)), (1, 1));
}

#[test]
fn what_was_found_last_is_kept_while_look_ups_fail() {
    let dns = Dns::start();
    let (port, _endpoints) = endpoints(["127.0.13.1", "127.0.13.2"]);
    let [one, two] = [1, 2].map(|last| format!("db.test:{port}#127.0.13.{last}"));
    dns.set("db.test", 1, &["127.0.13.1"]);
    let balancer = Balancer::start(&config(&dns.config(), &format!("endpoints = 'db.test:{port}'\nrefresh = '1s'")));
    reaches(&balancer, &[&one]);
    let more_failures = |what: &str| {
        // The look-up that is under way may fail for the reason of before.
        let before = failures(&balancer);
        eventually(what, || (failures(&balancer) >= before + 2.0).then_some(()));
        assert_eq!(reached(&balancer), one, "{what}");
    };
    dns.break_kind(RecordType::A, Some(Broken::Silent));
    dns.break_kind(RecordType::AAAA, Some(Broken::Silent));
    more_failures("no server answers");
    dns.break_kind(RecordType::AAAA, None);
    dns.break_kind(RecordType::A, Some(Broken::Fails));
    more_failures("SERVFAIL");
    dns.break_kind(RecordType::A, None);
    dns.remove("db.test");
    more_failures("there is no such name");
    dns.set("db.test", 1, &["127.0.13.2"]);
    reaches(&balancer, &[&two]);
}

#[test]
fn a_server_that_cannot_help_hides_no_other() {
    let (first, second) = (Dns::start(), Dns::start());
    let (port, _endpoints) = endpoints(["127.0.16.1", "127.0.16.2"]);
    let [one, two] = [1, 2].map(|last| format!("db.test:{port}#127.0.16.{last}"));
    let pool = format!("endpoints = 'db.test:{port}'\nrefresh = '1s'");
    for broken in [Broken::Fails, Broken::Refuses, Broken::Silent] {
        for kind in [RecordType::A, RecordType::AAAA] {
            first.break_kind(kind, Some(broken));
        }
        second.set("db.test", 1, &["127.0.16.1"]);
        let balancer = Balancer::start(&config(&Dns::config_of(&[&first, &second], "300ms"), &pool));
        assert_eq!(reached(&balancer), one, "{broken:?}");
        second.set("db.test", 1, &["127.0.16.2"]);
        reaches(&balancer, &[&two]);
        assert_eq!(failures(&balancer), 0.0, "{broken:?}");
    }
}

#[test]
fn what_the_first_server_says_for_certain_holds() {
    let (first, second) = (Dns::start(), Dns::start());
    second.set("db.test", 1, &["127.0.0.1"]);
    let balancer = Balancer::start(&config(&Dns::config_of(&[&first, &second], "300ms"), "endpoints = 'db.test:1'"));
    assert_eq!(reached(&balancer), "no_endpoint");
    assert!(failures(&balancer) >= 1.0);
    assert_eq!(second.queries("db.test", RecordType::A), 0);
}

#[test]
fn servers_that_do_not_answer_are_asked_twice() {
    let dns = Dns::start();
    dns.break_kind(RecordType::A, Some(Broken::Fails));
    dns.break_kind(RecordType::AAAA, Some(Broken::Fails));
    let balancer = Balancer::start(&config(&dns.config(), "endpoints = 'db.test:1'\nrefresh = '1d'"));
    assert_eq!(failures(&balancer), 1.0);
    assert_eq!(dns.queries("db.test", RecordType::A), 2);
}

#[test]
fn names_that_nobody_answers_for_hold_up_no_other_pool() {
    let dns = Dns::start();
    dns.break_kind(RecordType::SRV, Some(Broken::Silent));
    dns.set("db.test", 60, &["127.0.0.1"]);
    let endpoint = Endpoint::start(Manner::Echoes);
    let port = endpoint.address().port();
    // More than can be looked up at once, each for as long as the start waits, and those of the first pool.
    let names: Vec<String> = (0..200).map(|index| format!("{{ srv = '_{index}._tcp.test' }}")).collect();
    let top = format!(
        "{}\npool.a.endpoints = [{}]\nroute.a = {{ listener = 'edge', from = '10.0.0.0/8', pool = 'a' }}",
        Dns::config_of(&[&dns], "2s"),
        names.join(", ")
    );
    let balancer = Balancer::start(&config(&top, &format!("endpoints = 'db.test:{port}'")));
    assert_eq!(reached(&balancer), format!("db.test:{port}#127.0.0.1"));
}

#[test]
fn what_nobody_can_connect_to_replaces_nothing() {
    let dns = Dns::start();
    let endpoints = [(); 2].map(|()| Endpoint::start(Manner::Echoes));
    let [host, service] = endpoints.each_ref().map(|endpoint| endpoint.address().port());
    dns.set("db.test", 1, &["127.0.0.1"]);
    dns.set_services("_pg._tcp.test", 1, &[(0, 1, service, "db.test")]);
    let pool = format!("endpoints = ['db.test:{host}', {{ srv = '_pg._tcp.test' }}]\nrefresh = '1s'");
    let balancer = Balancer::start(&config(&dns.config(), &pool));
    let all = [format!("db.test:{host}#127.0.0.1"), format!("_pg._tcp.test#127.0.0.1:{service}")];
    let all = all.each_ref().map(String::as_str);
    let many: Vec<String> = (0..1100).map(|last| format!("127.1.{}.{}", last / 250, last % 250)).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for (case, addresses, port) in [
        ("at first", &["127.0.0.1"][..], service),
        ("a name that is blocked", &["0.0.0.0", "::"], service),
        ("a service that is", &["127.0.0.1"], 0),
        ("more than anybody has", &many, service),
    ] {
        dns.set("db.test", 1, addresses);
        dns.set_services("_pg._tcp.test", 1, &[(0, 1, port, "db.test")]);
        if case != "at first" {
            let before = failures(&balancer);
            eventually(case, || (failures(&balancer) >= before + 4.0).then_some(()));
        }
        reaches(&balancer, &all);
    }
}

#[test]
fn a_family_that_fails_keeps_its_addresses_while_the_other_changes() {
    let dns = Dns::start();
    let (port, _endpoints) = endpoints(["127.0.14.1", "127.0.14.2"]);
    dns.set("db.test", 1, &["127.0.14.1"]);
    dns.break_kind(RecordType::AAAA, Some(Broken::Silent));
    let balancer = Balancer::start(&config(&dns.config(), &format!("endpoints = 'db.test:{port}'\nrefresh = '1s'")));
    assert_eq!(reached(&balancer), format!("db.test:{port}#127.0.14.1"), "half an answer is enough to start with");
    assert!(failures(&balancer) >= 1.0);
    dns.set("db.test", 1, &["127.0.14.2"]);
    reaches(&balancer, &[&format!("db.test:{port}#127.0.14.2")]);
}

#[test]
fn services_have_priorities_and_weights() {
    let dns = Dns::start();
    let [mut first, second, third] = [(); 3].map(|()| Some(Endpoint::start(Manner::Echoes)));
    let ports = [&first, &second, &third].map(|endpoint| endpoint.as_ref().unwrap().address().port());
    let names = ports.map(|port| format!("_pg._tcp.test#127.0.0.1:{port}"));
    dns.set("a.test", 1, &["127.0.0.1"]);
    let all = [(10, 3, ports[0], "a.test"), (10, 1, ports[1], "a.test"), (20, 1, ports[2], "a.test")];
    dns.set_services("_pg._tcp.test", 1, &all);
    let pool = "endpoints = [{ srv = '_pg._tcp.test' }]\noutliers.failures = 'off'";
    let balancer = Balancer::start(&config(&dns.config(), pool));
    let mut reached_all: Vec<String> = (0..40).map(|_| reached(&balancer)).collect();
    reached_all.sort();
    let count = |name: &String| reached_all.iter().filter(|reached| *reached == name).count();
    assert_eq!(names.each_ref().map(count), [30, 10, 0]);

    dns.set_services("_pg._tcp.test", 1, &[all[0], all[2]]);
    reaches(&balancer, &[&names[0]]);
    first = None;
    assert!(first.is_none());
    eventually("the first is refused", || (reached(&balancer) == names[2]).then_some(()));

    // There is decidedly no such service: an answer, not a failure.
    let before = failures(&balancer);
    dns.set_services("_pg._tcp.test", 1, &[(0, 0, 0, ".")]);
    reaches(&balancer, &["no_endpoint"]);
    assert_eq!(failures(&balancer), before);
    dns.set_services("_pg._tcp.test", 1, &[all[1]]);
    reaches(&balancer, &[&names[1]]);
}

#[test]
fn services_whose_targets_fail_keep_what_was_found() {
    let dns = Dns::start();
    let endpoints = [(); 2].map(|()| Endpoint::start(Manner::Echoes));
    let ports = endpoints.each_ref().map(|endpoint| endpoint.address().port());
    let names = ports.map(|port| format!("_pg._tcp.test#127.0.0.1:{port}"));
    dns.set("a.test", 1, &["127.0.0.1"]);
    dns.set("b.test", 1, &["127.0.0.1"]);
    dns.set_services("_pg._tcp.test", 1, &[(0, 1, ports[0], "a.test"), (0, 1, ports[1], "b.test")]);
    let balancer = Balancer::start(&config(&dns.config(), "endpoints = [{ srv = '_pg._tcp.test' }]\nrefresh = '1s'"));
    reaches(&balancer, &[&names[0], &names[1]]);
    dns.remove("b.test");
    let before = failures(&balancer);
    eventually("one target fails", || (failures(&balancer) > before).then_some(()));
    reaches(&balancer, &[&names[0], &names[1]]);
    dns.remove("_pg._tcp.test");
    let before = failures(&balancer);
    eventually("the name itself fails", || (failures(&balancer) > before).then_some(()));
    reaches(&balancer, &[&names[0], &names[1]]);
}

#[test]
fn an_answer_may_be_too_long_for_a_datagram() {
    let dns = Dns::start();
    dns.set("a.test", 60, &["127.0.0.1"]);
    let services: Vec<(u16, u16, u16, &str)> = (1..=200).map(|port| (0, 1, port, "a.test")).collect();
    dns.set_services("_pg._tcp.test", 60, &services);
    let balancer = Balancer::start(&config(&dns.config(), "endpoints = [{ srv = '_pg._tcp.test' }]"));
    let page = balancer.running().metrics();
    let known = page.lines().filter(|line| line.starts_with("pointsman_endpoint_sessions_total{pool=\"all\",")).count();
    assert_eq!(known, 200);
}

/// Puts a file in place as a whole.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(&new, path).unwrap();
}

#[test]
fn a_file_comes_late_and_changes_while_sessions_stay() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("e.json");
    let endpoints = [(); 3].map(|()| Endpoint::start(Manner::Echoes));
    let names = endpoints.each_ref().map(|endpoint| endpoint.address().to_string());
    let [one, two, three] = names.each_ref().map(String::as_str);
    let balancer = Balancer::start(&config("", &format!("endpoints_file = '{}'", path.display())));
    assert_eq!(reached(&balancer), "no_endpoint");
    replace(&path, &format!("[{one:?}]"));
    reaches(&balancer, &[one]);
    let mut long = session(balancer.address("edge"));
    replace(&path, &format!("{{\"endpoints\": [{one:?}, {{\"address\": {two:?}, \"name\": \"b\"}}]}}"));
    reaches(&balancer, &[one, "b"]);
    replace(&path, &format!("[{{\"address\": {two:?}, \"name\": \"b\"}}, {three:?}]"));
    reaches(&balancer, &["b", three]);
    long.send(b"two");
    long.expect(b"two");

    let before = failures(&balancer);
    for wrong in ["", "[\"10.0.0.1\"]", "[{\"adress\": \"10.0.0.1:1\"}]", "{}"] {
        fs::write(&path, wrong).unwrap();
        let before = failures(&balancer);
        eventually(wrong, || (failures(&balancer) > before).then_some(()));
    }
    fs::remove_file(&path).unwrap();
    eventually("it is gone", || (failures(&balancer) >= before + 5.0).then_some(()));
    reaches(&balancer, &["b", three]);
    replace(&path, "[]");
    reaches(&balancer, &["no_endpoint"]);
}

#[test]
fn a_file_stands_beside_endpoints_and_may_hold_names() {
    let dns = Dns::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("e.toml");
    let (port, _endpoints) = endpoints(["127.0.15.1", "127.0.15.2"]);
    dns.set("db.test", 60, &["127.0.15.1"]);
    fs::write(&path, format!("[[endpoints]]\naddress = 'db.test:{port}'\nname = 'db'")).unwrap();
    let keys = format!("endpoints = '127.0.15.2:{port}'\nendpoints_file = '{}'", path.display());
    let balancer = Balancer::start(&config(&dns.config(), &keys));
    let own = format!("127.0.15.2:{port}");
    let mut at_once = [reached(&balancer), reached(&balancer)];
    at_once.sort();
    assert_eq!(at_once, [own.as_str(), "db#127.0.15.1"], "all is known when the first client comes");
    replace(&path, "endpoints = []");
    reaches(&balancer, &[&own]);
}

#[test]
fn a_file_that_changes_takes_nothing_away_before_its_names_are_known() {
    let dns = Dns::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("e.json");
    let (port, _endpoints) = endpoints(["127.0.17.1", "127.0.17.2"]);
    let [old, new] = [format!("127.0.17.1:{port}"), format!("db.test:{port}#127.0.17.2")];
    dns.set("db.test", 60, &["127.0.17.2"]);
    dns.break_kind(RecordType::A, Some(Broken::Slow(Duration::from_millis(800))));
    fs::write(&path, format!("[{old:?}]")).unwrap();
    let keys = format!("endpoints_file = '{}'", path.display());
    let balancer = Balancer::start(&config(&Dns::config_of(&[&dns], "5s"), &keys));
    assert_eq!(reached(&balancer), old);
    replace(&path, &format!("[\"db.test:{port}\"]"));
    eventually("the name serves", || match reached(&balancer) {
        reached if reached == old => None,
        reached => {
            assert_eq!(reached, new);
            Some(())
        }
    });
    // A name that does not answer holds nothing up for long.
    dns.break_kind(RecordType::A, Some(Broken::Silent));
    dns.break_kind(RecordType::AAAA, Some(Broken::Silent));
    replace(&path, &format!("[{old:?}, \"nowhere.test:{port}\"]"));
    reaches(&balancer, &[&old]);
}

#[test]
fn what_is_wrong_with_a_file_is_told_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("e.toml");
    fs::write(&path, "endpoints = ['127.0.0.1:1']").unwrap();
    let process = Process::start(&config("", &format!("endpoints_file = '{}'", path.display())));
    replace(&path, "[[endpoints]]\naddress = '127.0.0.1'\nwieght = 1");
    for told in ["e.toml:2:11: endpoints[0].address:", "has no port", "did you mean weight?", "kept\":1"] {
        eventually(told, || process.messages().contains(told).then_some(()));
    }
}
