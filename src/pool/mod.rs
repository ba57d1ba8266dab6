//! Pools: the endpoints that serve the same thing, and the leases that sessions hold on them.
//!
//! A pool never connects; it says who is to be tried. Its endpoints may change at any time (names are resolved again),
//! and those that stay keep their sessions and counters.

pub(crate) mod endpoint;
pub(crate) mod resolve;

use std::cell::Cell;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use arc_swap::ArcSwap;
use metrics::Gauge;
use tokio::sync::Notify;

pub(crate) use self::endpoint::{Endpoint, Lease, Target};
use crate::balance::random_two::Urn;
use crate::balance::{Load, least_connections, maglev, round_robin};
use crate::config::model;
use crate::health::{Health, Standing};
use crate::observe::metrics::{Metrics, PoolMetrics};
use crate::table::{Limits, seconds};

/// One pool of the configuration, at work.
pub(crate) struct Pool {
    pub(crate) name: Arc<str>,
    pub(crate) timeouts: model::PoolTimeouts,
    pub(crate) metrics: PoolMetrics,
    balance: model::Balance,
    health: Option<model::Health>,
    written: Vec<model::Endpoint>,
    source: Vec<IpAddr>,
    set: ArcSwap<Set>,
    /// Every endpoint that is in the set or still has sessions, by name: who comes back finds them again. Only the
    /// control side takes this lock.
    known: Mutex<HashMap<Arc<str>, Known>>,
    /// Told whenever the set was replaced.
    changed: Arc<Notify>,
    /// Counts choices: the turn of round-robin, and who wins a tie of least-connections.
    position: AtomicUsize,
    /// Sessions of all endpoints, those included that have left; only where their number is bounded by it.
    active: Option<Arc<AtomicU32>>,
    /// The weights of the endpoints that are not down, as of the last second.
    weights_up: AtomicU64,
}

/// An endpoint, and the gauges that must not outlive it.
struct Known {
    endpoint: Weak<Endpoint>,
    active: Gauge,
    up: Option<Gauge>,
}

/// The endpoints of one moment.
#[derive(Default)]
struct Set {
    endpoints: Vec<Arc<Endpoint>>,
    order: Order,
}

/// What an algorithm has worked out beforehand for a set of endpoints.
#[derive(Default)]
enum Order {
    #[default]
    LeastConnections,
    Turns(Vec<u32>),
    Urn(Urn),
    Maglev {
        table: maglev::Table,
        /// The most sessions of an endpoint in percent of its share.
        bound: Option<u32>,
    },
}

impl Pool {
    /// The pool as configured; endpoints with host names join once they are resolved. `changed` is told of every new set.
    pub(crate) fn new(pool: &model::Pool, metrics: &Metrics, changed: &Arc<Notify>) -> Pool {
        let new = Pool {
            name: pool.name.as_str().into(),
            timeouts: pool.timeouts.clone(),
            metrics: metrics.pool(&pool.name),
            balance: pool.balance,
            health: pool.health,
            written: pool.endpoints.clone(),
            source: pool.source.clone(),
            set: ArcSwap::default(),
            known: Mutex::default(),
            changed: Arc::clone(changed),
            position: AtomicUsize::new(0),
            weights_up: AtomicU64::new(0),
            active: pool.balance.is_bounded().then(Arc::default),
        };
        new.resolved(&HashMap::new(), metrics);
        new
    }

    /// What the pool's algorithm knows a client by: 0 where it does not go by clients.
    pub(crate) fn key(&self, client: Option<IpAddr>, name: Option<&str>) -> u64 {
        let model::Balance::Maglev(hash) = self.balance else { return 0 };
        match (hash.key, name) {
            (model::HashKey::Sni, Some(name)) => maglev::key(name.as_bytes()),
            (model::HashKey::Sni, None) => key_of_network(client, 32, 64),
            (model::HashKey::Source { ipv4, ipv6 }, _) => key_of_network(client, ipv4, ipv6),
        }
    }

    /// Takes a claim on the endpoint whose turn it is, of those that are not in `tried`; `key` is what [`Pool::key`]
    /// gave for the client.
    ///
    /// Endpoints of which nothing is known yet come after those that are up; those that are down are left alone.
    pub(crate) fn lease(&self, key: u64, tried: &[Option<Arc<Endpoint>>]) -> Option<Lease> {
        let set = self.set.load();
        let new = |endpoint: &Endpoint| !tried.iter().flatten().any(|tried| tried.name == endpoint.name);
        if self.health.is_none() {
            return self.lease_of(&set, key, new);
        }
        let is_up = |endpoint: &Endpoint| endpoint.standing() == Standing::Up && new(endpoint);
        let up =
            set.endpoints.iter().any(|endpoint| is_up(endpoint)).then(|| self.lease_of(&set, key, is_up)).flatten();
        up.or_else(|| self.lease_of(&set, key, |endpoint| endpoint.standing() != Standing::Down && new(endpoint)))
    }

    fn lease_of(&self, set: &Set, key: u64, may: impl Fn(&Endpoint) -> bool) -> Option<Lease> {
        let may = |index: usize| set.endpoints.get(index).is_some_and(|endpoint| may(endpoint));
        // Of what the choice was made by, the number of sessions may be another one by the time it is acted on: then
        // the choice is made again.
        loop {
            let (index, active) = match &set.order {
                Order::LeastConnections => self.least(set, may)?,
                Order::Turns(turns) => (round_robin::pick(turns, || self.next_position(), may)?, None),
                Order::Urn(urn) => {
                    let load = |index: usize| set.endpoints.get(index).map_or(Load::NONE, |endpoint| endpoint.load());
                    let (index, load) = urn.pick(|below| fastrand::u32(..below), load, may)?;
                    (index, Some(load.active))
                }
                Order::Maglev { table, bound } => self.hashed(set, table, *bound, key, may)?,
            };
            let endpoint = set.endpoints.get(index)?;
            let lease = match active {
                None => Some(Lease::take(endpoint)),
                Some(active) => Lease::take_if(endpoint, active),
            };
            if lease.is_some() {
                if matches!(set.order, Order::Urn(_)) {
                    endpoint.chosen();
                }
                return lease;
            }
        }
    }

    /// The least loaded endpoint, and the sessions it was chosen by.
    fn least(&self, set: &Set, may: impl Fn(usize) -> bool) -> Option<(usize, Option<u32>)> {
        let loads = set.endpoints.iter().map(|endpoint| endpoint.load());
        let (index, load) = least_connections::pick(loads, self.next_position(), may)?;
        Some((index, Some(load.active)))
    }

    /// The endpoint that `key` leads to, with the sessions it was chosen by where they are bounded.
    fn hashed(
        &self,
        set: &Set,
        table: &maglev::Table,
        bound: Option<u32>,
        key: u64,
        may: impl Fn(usize) -> bool,
    ) -> Option<(usize, Option<u32>)> {
        let anyone = || {
            // Where nobody near can be chosen, those who can are so few that looking at all of them is what is left.
            table.pick(key, &may).map(|index| (index, None)).ok().or_else(|| self.least(set, &may))
        };
        let Some(percent) = bound else { return anyone() };
        let weights = self.weights_up.load(Ordering::Relaxed);
        let sessions = self.active.as_ref().map_or(0, |active| active.load(Ordering::Relaxed)).into();
        let seen = Cell::new(None);
        let has_room = |index: usize| {
            let load = set.endpoints.get(index).map(|endpoint| endpoint.load());
            load.filter(|load| maglev::has_room(load, sessions, weights, percent))
        };
        let found = table.pick(key, |index| {
            may(index)
                && has_room(index).is_some_and(|load| {
                    seen.set(Some(load.active));
                    true
                })
        });
        match found {
            Ok(index) => Some((index, seen.get())),
            Err(maglev::NoneNear) => anyone(),
        }
    }

    fn next_position(&self) -> usize {
        self.position.fetch_add(1, Ordering::Relaxed)
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
                    let health = self.health.map(|settings| (settings, metrics.health(&self.name, &name)));
                    let up = health.as_ref().map(|(_, metrics)| metrics.up.clone());
                    let metrics = metrics.endpoint(&self.name, &name);
                    let active = metrics.active.clone();
                    let endpoint = Endpoint::new(&self.name, &name, target, written.weight, metrics)
                        .probed(health.map(|(settings, metrics)| Health::new(settings, metrics)))
                        .counted(self.active.as_ref());
                    let endpoint = Arc::new(endpoint);
                    let entry = Known { endpoint: Arc::downgrade(&endpoint), active, up };
                    known.insert(Arc::clone(&endpoint.name), entry);
                    endpoint
                }));
            }
        }
        let order = self.order(&endpoints);
        self.set.store(Arc::new(Set { endpoints, order }));
        self.weigh();
        self.changed.notify_one();
    }

    /// Works out what the algorithm needs to know of these endpoints.
    fn order(&self, endpoints: &[Arc<Endpoint>]) -> Order {
        let weights = || endpoints.iter().map(|endpoint| endpoint.weight);
        match self.balance {
            model::Balance::LeastConnections => Order::LeastConnections,
            model::Balance::RoundRobin => Order::Turns(round_robin::turns(&weights().collect::<Vec<_>>())),
            model::Balance::RandomTwo => Order::Urn(Urn::new(weights())),
            model::Balance::Maglev(hash) => Order::Maglev {
                table: maglev::Table::new(endpoints.iter().map(|endpoint| (&*endpoint.name, endpoint.weight))),
                bound: hash.balance_factor,
            },
        }
    }

    /// The endpoints of this moment.
    pub(crate) fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.set.load().endpoints.clone()
    }

    /// Whether probes of it have still to give their first answer.
    pub(crate) fn awaits_verdicts(&self) -> bool {
        self.health.is_some()
            && self.set.load().endpoints.iter().any(|endpoint| endpoint.standing() == Standing::Unknown)
    }

    /// Adds up the weights of the endpoints that are not down.
    fn weigh(&self) {
        let set = self.set.load();
        let standing = set.endpoints.iter().filter(|endpoint| endpoint.standing() != Standing::Down);
        self.weights_up.store(standing.map(|endpoint| u64::from(endpoint.weight)).sum(), Ordering::Relaxed);
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
        self.weigh();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, known| match known.endpoint.upgrade() {
            Some(endpoint) => {
                endpoint.publish();
                true
            }
            None => {
                known.active.set(0.0);
                known.up.iter().for_each(|up| up.set(0.0));
                false
            }
        });
    }
}

/// The key of the network of this length that a client is in. All clients behind a unix socket are one.
fn key_of_network(client: Option<IpAddr>, ipv4: u8, ipv6: u8) -> u64 {
    match client.map(|client| client.to_canonical()) {
        Some(IpAddr::V4(address)) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(ipv4)).unwrap_or(0);
            maglev::key(&Ipv4Addr::from_bits(address.to_bits() & mask).octets())
        }
        Some(IpAddr::V6(address)) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(ipv6)).unwrap_or(0);
            maglev::key(&Ipv6Addr::from_bits(address.to_bits() & mask).octets())
        }
        None => maglev::key(b""),
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
            health: None,
        };
        Pool::new(&pool, &Metrics::new(), &Arc::default())
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
        let pool = pool(model::Balance::LeastConnections, &[("db", 1)]);
        assert!(pool.lease(0, &[]).is_none(), "not resolved yet");
        let at = |addresses: &[&str]| {
            let addresses = addresses.iter().map(|address| format!("{address}:5432").parse().unwrap()).collect();
            HashMap::from([(("db".to_owned(), 5432), addresses)])
        };
        pool.resolved(&at(&["10.0.0.1"]), &Metrics::new());
        let first = pool.lease(0, &[]).unwrap();
        assert_eq!(&*first.endpoint().name, "db#10.0.0.1");
        pool.resolved(&at(&["10.0.0.1", "10.0.0.2"]), &Metrics::new());
        let second = pool.lease(0, &[]).unwrap();
        assert_eq!(&*second.endpoint().name, "db#10.0.0.2", "the first still has its session");
        pool.resolved(&at(&["10.0.0.2"]), &Metrics::new());
        pool.resolved(&at(&["10.0.0.1", "10.0.0.2"]), &Metrics::new());
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
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..100).map(|_| pool.lease(0, &[]).unwrap()).collect::<Vec<_>>()))
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        let count = |name: &str| names(&leases).iter().filter(|lease| **lease == name).count();
        assert_eq!([count("10.0.0.1:1"), count("10.0.0.2:1"), count("10.0.0.3:1")], [100, 100, 200]);
    }
}
