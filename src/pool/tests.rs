//! Choices, and what is kept over sets.

use super::*;

/// A pool of no endpoint yet, as it is configured.
pub(super) fn described(balance: model::Balance) -> model::Pool {
    model::Pool {
        name: "p".into(),
        written: "p".into(),
        part: None,
        balance,
        endpoints: Vec::new(),
        endpoints_file: None,
        tls: None,
        source: vec!["10.0.0.9".parse().unwrap(), "::9".parse().unwrap()],
        transparent: false,
        send_proxy: None,
        refresh: Duration::from_secs(30),
        timeouts: model::PoolTimeouts {
            connect: Duration::from_secs(5),
            idle: None,
            half_close: None,
            drain: Duration::ZERO,
        },
        health: None,
        outliers: None,
        fails_back: true,
        slow_start: None,
        panic_percent: None,
        single_writer: false,
        max_connections_per_endpoint: None,
        shortage: model::Shortage::default(),
        sessions: model::Sessions::default(),
    }
}

/// A member that is called by its address.
pub(super) fn member(address: &str) -> Member {
    let target = Target::Ip(address.parse().unwrap());
    Member { name: address.into(), target, weight: 1, priority: 0, max_connections: None, host: None }
}

fn pool(balance: model::Balance, endpoints: &[(&str, u16)]) -> Pool {
    let endpoints = endpoints.iter().map(|(written, weight)| entry(written, *weight)).collect();
    Pool::new(&model::Pool { endpoints, ..described(balance) }, &Metrics::new(), &Arc::default())
}

fn entry(written: &str, weight: u16) -> model::Endpoint {
    let address = match written.parse() {
        Ok(address) => model::Address::Ip(address),
        Err(_) => model::Address::Host { host: written.into(), port: 5432 },
    };
    model::Endpoint { name: written.into(), address, weight, priority: 0, max_connections: None }
}

fn names(leases: &[Lease]) -> Vec<&str> {
    leases.iter().map(|lease| &*lease.endpoint().name).collect()
}

#[test]
fn leases_count_and_come_back() {
    let pool = pool(model::Balance::LeastConnections, &[("10.0.0.1:1", 1), ("10.0.0.2:1", 1)]);
    let mut leases: Vec<Lease> = (0..4).map(|_| pool.lease(0, &[]).unwrap()).collect();
    leases.sort_by(|a, b| a.endpoint().name.cmp(&b.endpoint().name));
    assert_eq!(names(&leases), ["10.0.0.1:1", "10.0.0.1:1", "10.0.0.2:1", "10.0.0.2:1"]);
    leases.truncate(2);
    let next = pool.lease(0, &[]).unwrap();
    assert_eq!(&*next.endpoint().name, "10.0.0.2:1", "the one whose sessions ended");
    let tried = [Some(Arc::clone(next.endpoint()))];
    assert_eq!(&*pool.lease(0, &tried).unwrap().endpoint().name, "10.0.0.1:1");
}

#[test]
fn turns_are_shared_by_all() {
    let pool = pool(model::Balance::RoundRobin, &[("10.0.0.1:1", 2), ("10.0.0.2:1", 1)]);
    let leases: Vec<Lease> = (0..6).map(|_| pool.lease(0, &[]).unwrap()).collect();
    assert_eq!(names(&leases).iter().filter(|name| **name == "10.0.0.1:1").count(), 4);
}

#[test]
fn endpoints_that_stay_keep_their_sessions() {
    let pool = pool(model::Balance::LeastConnections, &[]);
    assert_eq!(pool.lease(0, &[]).err(), Some(Lack::Nobody), "not resolved yet");
    let set = |addresses: &[&str]| {
        let member = |address: &&str| Member { name: format!("db#{address}"), ..member(&format!("{address}:5432")) };
        pool.set(addresses.iter().map(member).collect(), &Metrics::new());
    };
    set(&["10.0.0.1"]);
    let first = pool.lease(0, &[]).unwrap();
    assert_eq!(&*first.endpoint().name, "db#10.0.0.1");
    set(&["10.0.0.1", "10.0.0.2"]);
    let second = pool.lease(0, &[]).unwrap();
    assert_eq!(&*second.endpoint().name, "db#10.0.0.2", "the first still has its session");
    set(&["10.0.0.2"]);
    set(&["10.0.0.1", "10.0.0.2"]);
    drop(second);
    assert_eq!(
        &*pool.lease(0, &[]).unwrap().endpoint().name,
        "db#10.0.0.2",
        "nor has it lost it by leaving for a while"
    );
}

#[test]
fn a_source_of_the_right_family() {
    let pool = pool(model::Balance::LeastConnections, &[("10.0.0.1:1", 1)]);
    assert_eq!(pool.source_for(&Target::Ip("10.0.0.1:1".parse().unwrap())), "10.0.0.9".parse().ok());
    assert_eq!(pool.source_for(&Target::Ip("[::1]:1".parse().unwrap())), "::9".parse().ok());
    assert_eq!(pool.source_for(&Target::Unix("/x".into())), None);
}

#[test]
fn least_connections_is_exact_over_threads() {
    let pool = pool(model::Balance::LeastConnections, &[("10.0.0.1:1", 1), ("10.0.0.2:1", 1), ("10.0.0.3:1", 2)]);
    let leases: Vec<Lease> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..4).map(|_| scope.spawn(|| (0..100).map(|_| pool.lease(0, &[]).unwrap()).collect::<Vec<_>>())).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let count = |name: &str| names(&leases).iter().filter(|lease| **lease == name).count();
    assert_eq!([count("10.0.0.1:1"), count("10.0.0.2:1"), count("10.0.0.3:1")], [100, 100, 200]);
}

#[test]
fn what_operators_said_stays_with_the_name() {
    use super::operator::Mode;
    let pool = pool(model::Balance::LeastConnections, &[]);
    let set = |addresses: &[&str]| {
        let members = addresses.iter().map(|address| Member { name: "a".into(), ..member(address) }).collect();
        pool.set(members, &Metrics::new());
        pool.settle(Instant::now());
        pool.publish(Duration::ZERO);
    };
    set(&["10.0.0.1:1"]);
    let first = pool.lease(0, &[]).unwrap();
    pool.find("a").unwrap().operator.set_mode(Mode::Drain);
    assert_eq!(pool.lease(0, &[]).err(), Some(Lack::Nobody));
    assert_eq!(first.endpoint().leaving.get().map(|(cause, _)| cause), None, "not settled yet");
    pool.settle(Instant::now());
    assert_eq!(first.endpoint().leaving.get().map(|(cause, _)| cause), Some(Cause::Drain));
    // Gone for a while, and back with another address.
    set(&[]);
    assert_eq!(first.endpoint().leaving.get().map(|(cause, _)| cause), Some(Cause::Removal));
    set(&["10.0.0.2:1"]);
    assert_eq!(pool.lease(0, &[]).err(), Some(Lack::Nobody), "it still drains");
    assert_eq!(first.endpoint().leaving.get().map(|(cause, _)| cause), Some(Cause::Removal), "that is another one");
    pool.find("a").unwrap().operator.set_mode(Mode::Ready);
    pool.settle(Instant::now());
    let second = pool.lease(0, &[]).unwrap();
    assert_eq!((second.endpoint().active(), first.endpoint().active()), (1, 1));
}
