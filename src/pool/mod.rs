//! Pools: the endpoints that serve the same thing, and the leases that sessions hold on them.
//!
//! A pool never connects; it says who is to be tried. Its endpoints may change at any time (names are resolved again),
//! and those that stay keep their sessions and counters.

pub(crate) mod endpoint;
pub(crate) mod resolve;
mod tier;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use arc_swap::ArcSwap;
use metrics::Gauge;
use tokio::sync::Notify;

pub(crate) use self::endpoint::{Endpoint, Lease, Target};
use self::tier::{Counts, Tier};
use crate::balance::maglev;
use crate::config::model;
use crate::health::outlier::Outlier;
use crate::health::{Health, Standing};
use crate::observe::metrics::{Metrics, PoolMetrics};
use crate::table::{Limits, seconds};

/// One pool of the configuration, at work.
pub(crate) struct Pool {
    pub(crate) name: Arc<str>,
    pub(crate) timeouts: model::PoolTimeouts,
    pub(crate) metrics: PoolMetrics,
    balance: model::Balance,
    health: Option<Arc<model::Health>>,
    outliers: Option<model::Outliers>,
    written: Vec<model::Endpoint>,
    source: Vec<IpAddr>,
    tiers: ArcSwap<Tiers>,
    /// Every endpoint that is in the set or still has sessions, by name: who comes back finds them again. Only the
    /// control side takes this lock.
    known: Mutex<HashMap<Arc<str>, Known>>,
    /// Told whenever the set was replaced.
    changed: Arc<Notify>,
    counts: Counts,
}

/// An endpoint, and the gauges that must not outlive it.
struct Known {
    endpoint: Weak<Endpoint>,
    gauges: Vec<Gauge>,
}

/// The endpoints of one moment: those that serve, and those that stand in for them.
type Tiers = [Tier; 2];

impl Pool {
    /// The pool as configured; endpoints with host names join once they are resolved. `changed` is told of every new set.
    pub(crate) fn new(pool: &model::Pool, metrics: &Metrics, changed: &Arc<Notify>) -> Pool {
        let new = Pool {
            name: pool.name.as_str().into(),
            timeouts: pool.timeouts.clone(),
            metrics: metrics.pool(&pool.name),
            balance: pool.balance,
            health: pool.health.clone(),
            outliers: pool.outliers,
            written: pool.endpoints.clone(),
            source: pool.source.clone(),
            tiers: ArcSwap::from_pointee([Vec::new(), Vec::new()].map(|none| Tier::new(none, pool.balance))),
            known: Mutex::default(),
            changed: Arc::clone(changed),
            counts: Counts::new(pool.balance.is_bounded()),
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
    /// Backups come after all others; after those come endpoints that are left out, or of which nothing is known yet.
    /// Those that are down are left alone.
    pub(crate) fn lease(&self, key: u64, tried: &[Option<Arc<Endpoint>>]) -> Option<Lease> {
        let tiers = self.tiers.load();
        let new = |endpoint: &Endpoint| !tried.iter().flatten().any(|tried| tried.name == endpoint.name);
        let fit = |endpoint: &Endpoint| endpoint.is_fit() && new(endpoint);
        let left = |endpoint: &Endpoint| endpoint.standing() != Standing::Down && new(endpoint);
        let again = tried.iter().any(Option::is_some);
        let lease = tiers.iter().find_map(|tier| tier.lease(&self.counts, key, again, fit));
        lease.or_else(|| tiers.iter().find_map(|tier| tier.lease(&self.counts, key, again, left)))
    }

    /// A session could not be served by `endpoint`, and that was its own fault: leaves it out if it happens too often.
    pub(crate) fn failed(&self, endpoint: &Endpoint) {
        let (Some(rules), Some(outlier)) = (self.outliers, &endpoint.outlier) else { return };
        if !outlier.failed() {
            return;
        }
        let tiers = self.tiers.load();
        let own = tiers.iter().position(|tier| tier.endpoints.iter().any(|other| std::ptr::eq(&**other, endpoint)));
        let crowds = [0, 1].map(|index| tiers.get(index).map(Tier::crowd).unwrap_or_default());
        let can = match (own, crowds) {
            // Where backups are fit, those they stand in for must not stop anybody from reaching them.
            (Some(0), [serving, backups]) => backups.usable > 0 || serving.can_spare_one(rules.most_percent),
            (Some(_), [serving, backups]) => serving.usable > 0 || backups.can_spare_one(rules.most_percent),
            (None, _) => false,
        };
        if can && outlier.put_out(Instant::now()) {
            endpoint.metrics.ejections.increment(1);
        }
    }

    /// Puts the endpoints of this moment in place: those written with an address, and for each host name the
    /// addresses it has in `resolved`.
    pub(crate) fn resolved(&self, resolved: &HashMap<(String, u16), Vec<std::net::SocketAddr>>, metrics: &Metrics) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut serving, mut backups) = (Vec::new(), Vec::new());
        for written in &self.written {
            let endpoints = if written.backup { &mut backups } else { &mut serving };
            for (name, target) in written_targets(written, resolved) {
                let before = known.get(name.as_str()).and_then(|known| known.endpoint.upgrade());
                let same = before.filter(|known| known.target == target && known.weight == written.weight);
                endpoints.push(same.unwrap_or_else(|| {
                    let health = self.health.as_ref().map(|settings| (settings, metrics.health(&self.name, &name)));
                    let probed = health.iter().flat_map(|(_, metrics)| metrics.gauges()).collect::<Vec<_>>();
                    let metrics = metrics.endpoint(&self.name, &name);
                    let gauges = [metrics.active.clone(), metrics.ejected.clone()].into_iter().chain(probed).collect();
                    let mut endpoint = Endpoint::new(&self.name, &name, target, written.weight, metrics);
                    endpoint.health =
                        health.map(|(settings, metrics)| Health::new(settings, &written.address, metrics));
                    endpoint.outlier = self.outliers.map(Outlier::new);
                    endpoint.pool_active = self.counts.active.clone();
                    let endpoint = Arc::new(endpoint);
                    let entry = Known { endpoint: Arc::downgrade(&endpoint), gauges };
                    known.insert(Arc::clone(&endpoint.name), entry);
                    endpoint
                }));
            }
        }
        self.tiers.store(Arc::new([serving, backups].map(|endpoints| Tier::new(endpoints, self.balance))));
        self.changed.notify_one();
    }

    /// The endpoints of this moment.
    pub(crate) fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.tiers.load().iter().flat_map(|tier| &tier.endpoints).cloned().collect()
    }

    /// Whether probes of it have still to give their first answer.
    pub(crate) fn awaits_verdicts(&self) -> bool {
        let unknown = |endpoint: &Arc<Endpoint>| endpoint.standing() == Standing::Unknown;
        self.health.is_some() && self.tiers.load().iter().flat_map(|tier| &tier.endpoints).any(unknown)
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
        self.tiers.load().iter().for_each(Tier::weigh);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, known| match known.endpoint.upgrade() {
            Some(endpoint) => {
                endpoint.publish();
                true
            }
            None => {
                known.gauges.iter().for_each(|gauge| gauge.set(0.0));
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
            outliers: None,
        };
        Pool::new(&pool, &Metrics::new(), &Arc::default())
    }

    fn entry(written: &str, weight: u16) -> model::Endpoint {
        let address = match written.parse() {
            Ok(address) => model::Address::Ip(address),
            Err(_) => model::Address::Host { host: written.into(), port: 5432 },
        };
        model::Endpoint { name: written.into(), address, weight, backup: false }
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
