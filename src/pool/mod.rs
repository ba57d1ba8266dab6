//! Pools: the endpoints that serve the same thing, and the leases that sessions hold on them.
//!
//! A pool never connects; it says who is to be tried. Its endpoints may change at any time (names are resolved again),
//! and those that stay keep their sessions and counters.

pub(crate) mod endpoint;
pub(crate) mod resolve;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use arc_swap::ArcSwap;
use metrics::Gauge;

pub(crate) use self::endpoint::{Endpoint, Lease, Target};
use crate::balance::{Load, least_connections, round_robin};
use crate::config::model;
use crate::observe::metrics::{Metrics, PoolMetrics};
use crate::table::{Limits, seconds};

/// One pool of the configuration, at work.
pub(crate) struct Pool {
    pub(crate) name: Arc<str>,
    pub(crate) timeouts: model::PoolTimeouts,
    pub(crate) metrics: PoolMetrics,
    balance: model::Balance,
    written: Vec<model::Endpoint>,
    source: Vec<IpAddr>,
    set: ArcSwap<Set>,
    /// Every endpoint that is in the set or still has sessions, by name: who comes back finds them again. Only the
    /// control side takes this lock.
    known: Mutex<HashMap<Arc<str>, Known>>,
    /// Counts choices: the turn of round-robin, and who wins a tie of least-connections.
    position: AtomicUsize,
}

/// An endpoint, and the gauge that must not outlive it.
struct Known {
    endpoint: Weak<Endpoint>,
    active: Gauge,
}

/// The endpoints of one moment.
#[derive(Default)]
struct Set {
    endpoints: Vec<Arc<Endpoint>>,
    /// The order of turns, where the pool goes by turns.
    turns: Vec<u32>,
}

impl Pool {
    /// The pool as configured; endpoints with host names join once they are resolved.
    pub(crate) fn new(pool: &model::Pool, metrics: &Metrics) -> Pool {
        let new = Pool {
            name: pool.name.as_str().into(),
            timeouts: pool.timeouts.clone(),
            metrics: metrics.pool(&pool.name),
            balance: pool.balance,
            written: pool.endpoints.clone(),
            source: pool.source.clone(),
            set: ArcSwap::default(),
            known: Mutex::default(),
            position: AtomicUsize::new(0),
        };
        new.resolved(&HashMap::new(), metrics);
        new
    }

    /// Takes a claim on the endpoint whose turn it is, of those that are not in `tried`.
    pub(crate) fn lease(&self, tried: &[Option<Arc<Endpoint>>]) -> Option<Lease> {
        let set = self.set.load();
        let position = self.position.fetch_add(1, Ordering::Relaxed);
        let may = |index: usize| {
            set.endpoints
                .get(index)
                .is_some_and(|endpoint| !tried.iter().flatten().any(|tried| tried.name == endpoint.name))
        };
        match self.balance {
            model::Balance::RoundRobin => {
                let index = round_robin::pick(&set.turns, position, may)?;
                set.endpoints.get(index).map(Lease::take)
            }
            model::Balance::LeastConnections => loop {
                let loads = set.endpoints.iter().map(|endpoint| endpoint.load());
                let (index, Load { active, .. }) = least_connections::pick(loads, position, may)?;
                if let Some(lease) = set.endpoints.get(index).and_then(|endpoint| Lease::take_if(endpoint, active)) {
                    return Some(lease);
                }
            },
        }
    }

    /// Puts the endpoints of this moment in place: those written with an address, and for each host name the
    /// addresses it has in `resolved`.
    pub(crate) fn resolved(&self, resolved: &HashMap<(String, u16), Vec<std::net::SocketAddr>>, metrics: &Metrics) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut endpoints = Vec::new();
        for written in &self.written {
            for (name, target) in written_targets(written, resolved) {
                let before = known.get(name.as_str()).and_then(|known| known.endpoint.upgrade());
                let same = before.filter(|known| known.target == target && known.weight == written.weight);
                endpoints.push(same.unwrap_or_else(|| {
                    let metrics = metrics.endpoint(&self.name, &name);
                    let active = metrics.active.clone();
                    let endpoint = Arc::new(Endpoint::new(&name, target, written.weight, metrics));
                    let entry = Known { endpoint: Arc::downgrade(&endpoint), active };
                    known.insert(Arc::clone(&endpoint.name), entry);
                    endpoint
                }));
            }
        }
        let turns = match self.balance {
            model::Balance::RoundRobin => {
                round_robin::turns(&endpoints.iter().map(|endpoint| endpoint.weight).collect::<Vec<_>>())
            }
            model::Balance::LeastConnections => Vec::new(),
        };
        self.set.store(Arc::new(Set { endpoints, turns }));
    }

    /// Host names and ports to resolve.
    pub(crate) fn hosts(&self) -> Vec<(String, u16)> {
        let host = |endpoint: &model::Endpoint| match &endpoint.address {
            model::Address::Host { host, port } => Some((host.clone(), *port)),
            _ => None,
        };
        self.written.iter().filter_map(host).collect()
    }

    /// The local address to connect to `target` from, where one is set for its family.
    pub(crate) fn source_for(&self, target: &Target) -> Option<IpAddr> {
        let Target::Ip(target) = target else { return None };
        self.source.iter().copied().find(|source| source.is_ipv4() == target.is_ipv4())
    }

    /// The limits of this pool's sessions.
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            idle: self.timeouts.idle.map(seconds),
            half_close: self.timeouts.half_close.map(seconds),
            drain: self.timeouts.drain,
        }
    }

    /// Brings the gauges of the endpoints up to date, and tells of those that could not be used lately.
    pub(crate) fn publish(&self) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, known| match known.endpoint.upgrade() {
            Some(endpoint) => {
                endpoint.publish(&self.name);
                true
            }
            None => {
                known.active.set(0.0);
                false
            }
        });
    }
}

/// The name and target of each endpoint that one written entry stands for now.
fn written_targets(
    written: &model::Endpoint,
    resolved: &HashMap<(String, u16), Vec<std::net::SocketAddr>>,
) -> Vec<(String, Target)> {
    match &written.address {
        model::Address::Ip(address) => vec![(written.name.clone(), Target::Ip(*address))],
        model::Address::Unix(path) => vec![(written.name.clone(), Target::Unix(path.clone()))],
        model::Address::Host { host, port } => {
            let addresses = resolved.get(&(host.clone(), *port)).map(Vec::as_slice).unwrap_or_default();
            addresses.iter().map(|at| (format!("{}#{}", written.name, at.ip()), Target::Ip(*at))).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(balance: model::Balance, endpoints: &[(&str, u16)]) -> Pool {
        let pool = model::Pool {
            name: "p".into(),
            balance,
            endpoints: endpoints.iter().map(|(written, weight)| entry(written, *weight)).collect(),
            source: vec!["10.0.0.9".parse().unwrap(), "::9".parse().unwrap()],
            refresh: std::time::Duration::from_secs(30),
            timeouts: model::PoolTimeouts {
                connect: std::time::Duration::from_secs(5),
                idle: None,
                half_close: None,
                drain: std::time::Duration::ZERO,
            },
        };
        Pool::new(&pool, &Metrics::new())
    }

    fn entry(written: &str, weight: u16) -> model::Endpoint {
        let address = match written.parse() {
            Ok(address) => model::Address::Ip(address),
            Err(_) => model::Address::Host { host: written.into(), port: 5432 },
        };
        model::Endpoint { name: written.into(), address, weight }
    }

    fn names(leases: &[Lease]) -> Vec<&str> {
        leases.iter().map(|lease| &*lease.endpoint().name).collect()
    }

    #[test]
    fn leases_count_and_come_back() {
        let pool = pool(model::Balance::LeastConnections, &[("10.0.0.1:1", 1), ("10.0.0.2:1", 1)]);
        let mut leases: Vec<Lease> = (0..4).map(|_| pool.lease(&[]).unwrap()).collect();
        leases.sort_by(|a, b| a.endpoint().name.cmp(&b.endpoint().name));
        assert_eq!(names(&leases), ["10.0.0.1:1", "10.0.0.1:1", "10.0.0.2:1", "10.0.0.2:1"]);
        leases.truncate(2);
        let next = pool.lease(&[]).unwrap();
        assert_eq!(&*next.endpoint().name, "10.0.0.2:1", "the one whose sessions ended");
        let tried = [Some(Arc::clone(next.endpoint()))];
        assert_eq!(&*pool.lease(&tried).unwrap().endpoint().name, "10.0.0.1:1");
    }

    #[test]
    fn turns_are_shared_by_all() {
        let pool = pool(model::Balance::RoundRobin, &[("10.0.0.1:1", 2), ("10.0.0.2:1", 1)]);
        let leases: Vec<Lease> = (0..6).map(|_| pool.lease(&[]).unwrap()).collect();
        assert_eq!(names(&leases).iter().filter(|name| **name == "10.0.0.1:1").count(), 4);
    }

    #[test]
    fn endpoints_that_stay_keep_their_sessions() {
        let pool = pool(model::Balance::LeastConnections, &[("db", 1)]);
        assert!(pool.lease(&[]).is_none(), "not resolved yet");
        let at = |addresses: &[&str]| {
            let addresses = addresses.iter().map(|address| format!("{address}:5432").parse().unwrap()).collect();
            HashMap::from([(("db".to_owned(), 5432), addresses)])
        };
        pool.resolved(&at(&["10.0.0.1"]), &Metrics::new());
        let first = pool.lease(&[]).unwrap();
        assert_eq!(&*first.endpoint().name, "db#10.0.0.1");
        pool.resolved(&at(&["10.0.0.1", "10.0.0.2"]), &Metrics::new());
        let second = pool.lease(&[]).unwrap();
        assert_eq!(&*second.endpoint().name, "db#10.0.0.2", "the first still has its session");
        pool.resolved(&at(&["10.0.0.2"]), &Metrics::new());
        pool.resolved(&at(&["10.0.0.1", "10.0.0.2"]), &Metrics::new());
        drop(second);
        assert_eq!(
            &*pool.lease(&[]).unwrap().endpoint().name,
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
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..100).map(|_| pool.lease(&[]).unwrap()).collect::<Vec<_>>()))
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        let count = |name: &str| names(&leases).iter().filter(|lease| **lease == name).count();
        assert_eq!([count("10.0.0.1:1"), count("10.0.0.2:1"), count("10.0.0.3:1")], [100, 100, 200]);
    }
}
