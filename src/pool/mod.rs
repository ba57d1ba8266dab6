//! Pools: the endpoints that serve the same thing, and the leases that sessions hold on them.
//!
//! A pool never connects; it says who is to be tried. Its endpoints may change at any time (`discovery`),
//! and those that stay keep their sessions and counters. Workers take leases; the control side [settles](Pool::settle)
//! what they go by whenever something has changed.

pub(crate) mod commons;
pub(crate) mod discovery;
pub(crate) mod endpoint;
pub(crate) mod leaving;
pub(crate) mod operator;
pub(crate) mod parts;
mod places;
mod tier;
mod tiers;
pub(crate) mod waiting;
mod writers;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use metrics::Gauge;

use self::commons::{Bell, Commons};
pub(crate) use self::endpoint::{Endpoint, Lease, Target};
use self::leaving::Cause;
use self::operator::Operator;
use self::parts::Parts;
use self::tier::Chooser;
pub(crate) use self::tier::Lack;
use self::tiers::Tiers;
use self::writers::Writers;
use crate::balance::maglev;
use crate::config::model::{self, Role, WatchedTls};
use crate::health::outlier::Outlier;
use crate::health::{Health, Standing};
use crate::observe::metrics::{Metrics, PoolMetrics, TlsMetrics};
use crate::table::{Limits, seconds};
use crate::tls::endpoint::EndpointTls;
use crate::tls::outgoing::Outgoing;

/// The shortest time between two orders of a pool that are made for nothing but other shares.
const BETWEEN_ORDERS: Duration = Duration::from_millis(200);

/// One pool of the configuration, at work.
pub(crate) struct Pool {
    pub(crate) name: Arc<str>,
    pub(crate) timeouts: model::PoolTimeouts,
    pub(crate) shortage: model::Shortage,
    pub(crate) metrics: PoolMetrics,
    /// What its endpoints share.
    pub(crate) commons: Arc<Commons>,
    balance: model::Balance,
    health: Option<Arc<model::Health>>,
    outliers: Option<model::Outliers>,
    slow_start: Option<Duration>,
    /// The primary stands behind all others.
    falls_back: bool,
    /// `None` where the pool is not for the primary.
    writers: Option<Writers>,
    /// Sessions at once of an endpoint that has no limit of its own.
    most: Option<u32>,
    source: Vec<IpAddr>,
    /// Endpoints are connected to from the client's own address.
    pub(crate) is_transparent: bool,
    /// What endpoints are told of a client before anything else.
    pub(crate) send_proxy: Option<model::SendProxy>,
    /// TLS with its endpoints; `None`: they are spoken to as clients speak.
    pub(crate) tls: Option<model::PoolTls>,
    /// `None` where there is no TLS of ours.
    pub(crate) tls_metrics: Option<TlsMetrics>,
    tiers: ArcSwap<Tiers>,
    /// Choices made so far.
    position: AtomicUsize,
    /// Its first endpoints are still to be found.
    gathers: AtomicBool,
    /// There was an endpoint that clients could be sent to.
    served: AtomicBool,
    /// There was one at some time.
    has_served: AtomicBool,
    /// When orders were last made anew for other shares.
    shared_out: Mutex<Option<Instant>>,
    /// Only the control side takes this lock.
    members: Mutex<Members>,
}

/// An endpoint that a pool is to have, however it became known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) target: Target,
    pub(crate) weight: u16,
    /// Its rank: it serves only while none of a lower number can.
    pub(crate) priority: u32,
    /// Sessions at once; `None`: no limit.
    pub(crate) max_connections: Option<u32>,
    /// The host name that led to it.
    pub(crate) host: Option<Arc<str>>,
}

/// Every endpoint that is in the set or still has sessions.
#[derive(Default)]
struct Members {
    /// By name: who comes back finds its sessions, its counters and what operators said again.
    known: HashMap<Arc<str>, Known>,
    /// Those whose name another one has now.
    former: Vec<Weak<Endpoint>>,
}

/// What is known under one name.
struct Known {
    endpoint: Weak<Endpoint>,
    operator: Arc<Operator>,
    /// The gauges that must not outlive it.
    gauges: Vec<Gauge>,
}

/// What became of a pool that was settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settled {
    /// Sessions of some endpoint are asked for something else than before.
    pub(crate) leaving: bool,
    /// There is an endpoint that clients can be sent to.
    pub(crate) serves: bool,
}

impl Pool {
    /// The pool as configured; those that are to be discovered join later. `bell` is told of every change.
    pub(crate) fn new(pool: &model::Pool, metrics: &Metrics, bell: &Arc<Bell>) -> Pool {
        Pool::part(pool, None, metrics, bell)
    }

    /// The same of a pool that has others beside it over the same endpoints, and shares `parts` with them.
    pub(crate) fn part(pool: &model::Pool, parts: Option<&Arc<Parts>>, metrics: &Metrics, bell: &Arc<Bell>) -> Pool {
        // There is one primary: what share of the endpoints it is says nothing.
        let is_for_primary = pool.role() == Some(Role::Primary);
        let panic_percent = pool.panic_percent.filter(|_| !is_for_primary);
        let mut new = Pool {
            name: pool.name.as_str().into(),
            timeouts: pool.timeouts.clone(),
            shortage: pool.shortage,
            metrics: metrics.pool(&pool.name),
            commons: Arc::new(Commons::new(pool, parts, bell)),
            balance: pool.balance,
            health: pool.health.clone(),
            outliers: pool.outliers,
            slow_start: pool.slow_start,
            falls_back: pool.part == Some(model::Part::ReplicaOrPrimary),
            writers: is_for_primary.then(|| {
                // Nodes of Galera, and of group replication in multi-primary mode, are all primaries.
                let dialogue = pool.health.as_ref().and_then(|health| health.dialogue.as_ref());
                let may_be_many = dialogue.is_some_and(|dialogue| matches!(dialogue.probe, model::Probe::Mysql(_)));
                Writers::new(pool.single_writer, may_be_many, metrics.pool_writers(&pool.name))
            }),
            most: pool.max_connections_per_endpoint,
            source: pool.source.clone(),
            is_transparent: pool.transparent,
            send_proxy: pool.send_proxy,
            tls: pool.tls.clone(),
            tls_metrics: None,
            tiers: ArcSwap::from_pointee(Tiers::none(pool.fails_back, panic_percent)),
            position: AtomicUsize::new(0),
            gathers: AtomicBool::new(true),
            served: AtomicBool::new(false),
            has_served: AtomicBool::new(false),
            shared_out: Mutex::default(),
            members: Mutex::default(),
        };
        let is_over_tls = new.outgoing().next().is_some();
        new.tls_metrics = is_over_tls.then(|| metrics.pool_tls(&new.name));
        new.set(discovery::members(&pool.endpoints, |_| None), metrics);
        new
    }

    /// What TLS with its endpoints is made of, of sessions and of probes.
    pub(crate) fn outgoing(&self) -> impl Iterator<Item = &Arc<Outgoing>> {
        let probes = self.health.as_ref().and_then(|health| health.dialogue.as_ref()?.watched.as_ref());
        let probes = probes.map(|WatchedTls(outgoing)| outgoing);
        let sessions = self.tls.as_ref().map(|tls| &tls.outgoing);
        let is_other = |probes: &&Arc<Outgoing>| sessions.is_none_or(|sessions| !Arc::ptr_eq(sessions, probes));
        sessions.into_iter().chain(probes.filter(is_other))
    }

    /// Brings the gauge of files of TLS up to date.
    pub(crate) fn publish_tls(&self) {
        let problems = self.outgoing().filter(|outgoing| outgoing.is_broken()).count();
        self.tls_metrics.iter().for_each(|metrics| metrics.problems.set(problems as f64));
    }

    /// What the pool's algorithm knows a client by: 0 where it does not go by clients.
    pub(crate) fn key(&self, client: Option<IpAddr>, name: Option<&str>) -> u64 {
        let model::Balance::Maglev(hash) = self.balance else { return 0 };
        match (hash.key, name) {
            (model::HashKey::Sni, Some(name)) => maglev::key(name.as_bytes()),
            (model::HashKey::Sni, None) => maglev::key_of_network(client, 32, 64),
            (model::HashKey::Source { ipv4, ipv6 }, _) => maglev::key_of_network(client, ipv4, ipv6),
        }
    }

    /// Takes a claim on the endpoint whose turn it is, of those that are not in `tried`; `key` is what [`Pool::key`]
    /// gave for the client.
    ///
    /// Endpoints of a worse priority come after all others; after those come endpoints that are left out, or of which
    /// nothing is known yet. Those that are down or taken out of service are left alone, and so are those that have not
    /// said that they have the role which the pool is for.
    ///
    /// # Errors
    /// Why none was chosen. Where those whose turn it is are merely full, nobody else takes it.
    pub(crate) fn lease(&self, key: u64, tried: &[Option<Arc<Endpoint>>]) -> Result<Lease, Lack> {
        let tiers = self.tiers.load();
        let again = tried.iter().any(Option::is_some);
        let new = |endpoint: &Endpoint| !again || !tried.iter().flatten().any(|tried| tried.name == endpoint.name);
        let chooser = Chooser { position: &self.position, active: self.commons.active.as_ref(), key, again };
        match &self.writers {
            None => tiers.lease(&chooser, new),
            Some(writers) => tiers.lease(&chooser, |endpoint| new(endpoint) && writers.allow(&tiers, endpoint)),
        }
    }

    /// Whether a session that was given `endpoint` may begin now that it is connected to it, which may have taken a while:
    /// there is no harm in one that is silent, but in one that has another role, or has said that it should not serve, as
    /// one that was deposed may say without a role.
    pub(crate) fn may_begin(&self, endpoint: &Endpoint) -> bool {
        let tiers = self.tiers.load();
        let by_role = self.falls_back || self.health.as_ref().is_some_and(|health| health.expect.role.is_some());
        // In panic probes are not believed but for the role.
        let is_refused = by_role && endpoint.was_refused() && !tiers.panics();
        !is_refused && endpoint.suits() && self.is_sole(&tiers, endpoint)
    }

    /// Whether no other endpoint says that it is the primary, where only one may.
    fn is_sole(&self, tiers: &Tiers, endpoint: &Endpoint) -> bool {
        self.writers.as_ref().is_none_or(|writers| writers.allow(tiers, endpoint))
    }

    /// A session could not be served by `endpoint`, and that was its own fault: leaves it out if it happens too often.
    pub(crate) fn failed(&self, endpoint: &Endpoint) {
        let (Some(rules), Some(outlier)) = (self.outliers, &endpoint.outlier) else { return };
        if outlier.failed()
            && self.tiers.load().can_spare(endpoint, rules.most_percent)
            && outlier.put_out(Instant::now())
        {
            endpoint.metrics.ejections.increment(1);
            self.commons.stir();
        }
    }

    /// Puts `members` in place. Who was there before and stays keeps its sessions, counters and health.
    pub(crate) fn set(&self, members: Vec<Member>, metrics: &Metrics) {
        let mut guard = self.members();
        let Members { known: by_name, former } = &mut *guard;
        let before = self.endpoints();
        before.iter().for_each(|endpoint| endpoint.leave());
        let (now, gathers) = (Instant::now(), self.gathers.load(Ordering::Relaxed));
        let mut endpoints = Vec::with_capacity(members.len());
        for member in members {
            let known = by_name.get(member.name.as_str());
            let same = known.and_then(|known| known.endpoint.upgrade()).filter(|known| known.target == member.target);
            let operator = known.map(|known| Arc::clone(&known.operator));
            let operator = operator.unwrap_or_else(|| self.operator(&member.name));
            let endpoint = same.unwrap_or_else(|| {
                let (endpoint, gauges) = self.endpoint(&member, operator, metrics);
                // A pool that serves is not to send everything to who has just come.
                if !before.is_empty() && !gathers {
                    endpoint.warm_up(now);
                }
                let (name, operator) = (Arc::clone(&endpoint.name), Arc::clone(&endpoint.operator));
                let new = Known { endpoint: Arc::downgrade(&endpoint), operator, gauges };
                former.extend(by_name.insert(name, new).map(|known| known.endpoint));
                endpoint
            });
            endpoint.join(&member, self.most);
            endpoint.reckon(self.slow_start, now);
            endpoint.rank_anew(self.falls_back);
            endpoints.push(endpoint);
        }
        self.tiers.store(Arc::new(self.tiers.load().with(endpoints, self.balance, gathers)));
        self.commons.replaced();
    }

    /// What operators said of an endpoint that is not known yet.
    fn operator(&self, name: &str) -> Arc<Operator> {
        self.commons.parts.as_ref().map_or_else(Arc::default, |parts| parts.operator(name))
    }

    /// A new endpoint, and the gauges that must not outlive it.
    fn endpoint(&self, member: &Member, operator: Arc<Operator>, metrics: &Metrics) -> (Arc<Endpoint>, Vec<Gauge>) {
        let health = self.health.as_ref().map(|settings| (settings, metrics.health(&self.name, &member.name)));
        let probed = health.iter().flat_map(|(_, metrics)| metrics.gauges()).collect::<Vec<_>>();
        let metrics = metrics.endpoint(&self.name, &member.name);
        let gauges = [&metrics.active, &metrics.ejected, &metrics.usable, &metrics.weight]
            .map(Gauge::clone)
            .into_iter()
            .chain(probed)
            .collect();
        let mut endpoint = Endpoint::new(&self.commons, &member.name, member.target.clone(), metrics);
        endpoint.health = health.map(|(settings, metrics)| Health::new(settings, member.host.clone(), metrics));
        let tls = self.tls.as_ref();
        endpoint.tls = tls.map(|tls| EndpointTls::new(&tls.outgoing, member.host.as_deref(), &member.target));
        endpoint.outlier = self.outliers.map(Outlier::new);
        endpoint.operator = operator;
        (Arc::new(endpoint), gauges)
    }

    /// All that its sources have to say at the start is said.
    pub(crate) fn has_gathered(&self) {
        self.gathers.store(false, Ordering::Relaxed);
    }

    /// Lets shares follow weights and time, and makes the orders anew that depend on them.
    fn share_out(&self, all: &[Arc<Endpoint>], now: Instant) {
        for endpoint in all {
            endpoint.reckon(self.slow_start, now);
            endpoint.rank_anew(self.falls_back);
        }
        let mut last = self.shared_out.lock().unwrap_or_else(PoisonError::into_inner);
        // Orders may be much work, and agents may talk all the time.
        let rests = last.is_some_and(|last| now.saturating_duration_since(last) < BETWEEN_ORDERS);
        let tiers = self.tiers.load();
        if tiers.is_disordered() || (!rests && tiers.is_outdated()) {
            *last = Some(now);
            self.tiers.store(Arc::new(tiers.with(
                self.endpoints(),
                self.balance,
                self.gathers.load(Ordering::Relaxed),
            )));
        }
    }

    /// The endpoints that all say that they are the primary, where only one may.
    pub(crate) fn rivals(&self) -> Vec<Arc<Endpoint>> {
        self.writers.as_ref().map(|writers| writers.rivals(&self.tiers.load())).unwrap_or_default()
    }

    /// Brings what choices go by up to date with the state of the endpoints, and lets those try who wait for one.
    pub(crate) fn settle(&self, now: Instant) -> Settled {
        let all = self.all();
        self.share_out(&all, now);
        let stirred = self.commons.was_stirred();
        let tiers = self.tiers.load();
        let in_use = tiers.settle();
        let mut leaving = false;
        for endpoint in &all {
            let stands_in = in_use.is_some_and(|in_use| endpoint.rank() > in_use);
            let cause = endpoint.cause(tiers.panics()).or(stands_in.then_some(Cause::Recovery));
            leaving |= endpoint.leaving.set(cause, &self.commons.sessions, now);
        }
        let are_rivals = self.writers.as_ref().is_some_and(|writers| writers.look(&self.name, &tiers));
        let serves = tiers.serves() && !are_rivals;
        let served = self.served.swap(serves, Ordering::Relaxed);
        match (served, serves) {
            (true, false) => tracing::error!(pool = &*self.name, "no endpoint is left for new sessions"),
            (false, true) if self.has_served.swap(true, Ordering::Relaxed) => {
                tracing::info!(pool = &*self.name, "there is an endpoint for new sessions again");
            }
            _ => {}
        }
        if served != serves || stirred {
            self.commons.held.wake_all();
            self.commons.queued.wake_first();
        }
        Settled { leaving, serves }
    }

    /// Whether anything has changed since it was settled.
    pub(crate) fn is_stirred(&self) -> bool {
        self.commons.is_stirred()
    }

    /// The endpoints of this moment, by priority.
    pub(crate) fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.tiers.load().endpoints().cloned().collect()
    }

    /// The endpoint that is called so, or was and still has sessions.
    pub(crate) fn find(&self, name: &str) -> Option<Arc<Endpoint>> {
        self.members().known.get(name)?.endpoint.upgrade()
    }

    /// Names of which operators have said something, and that no endpoint has at the moment.
    pub(crate) fn absent(&self) -> Vec<(Arc<str>, Arc<Operator>)> {
        let members = self.members();
        let absent = members.known.iter().filter(|(_, known)| known.endpoint.strong_count() == 0);
        let said = absent.filter(|(_, known)| !known.operator.is_default());
        said.map(|(name, known)| (Arc::clone(name), Arc::clone(&known.operator))).collect()
    }

    /// Priority of the endpoints that serve.
    pub(crate) fn in_use(&self) -> Option<u32> {
        self.tiers.load().in_use()
    }

    /// Whether it is as if all endpoints were fit.
    pub(crate) fn panics(&self) -> bool {
        self.tiers.load().panics()
    }

    /// Whether probes of it have still to give their first answer.
    pub(crate) fn awaits_verdicts(&self) -> bool {
        let unknown = |endpoint: &Arc<Endpoint>| endpoint.standing() == Standing::Unknown;
        self.health.is_some() && self.tiers.load().endpoints().any(unknown)
    }

    /// Those of the set, and those that have left it and still have sessions, in no order.
    pub(crate) fn all(&self) -> Vec<Arc<Endpoint>> {
        let members = self.members();
        let known = members.known.values().map(|known| &known.endpoint);
        known.chain(&members.former).filter_map(Weak::upgrade).collect()
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// What is done once a second: gauges of the pool and its endpoints are brought up to date, failures are told of, and
    /// `time` passes for what is counted by the minute.
    pub(crate) fn publish(&self, time: Duration) {
        self.tiers.load().weigh();
        self.commons.passed(time);
        self.metrics.held.set(self.commons.held.len() as f64);
        self.metrics.queued.set(self.commons.queued.len() as f64);
        self.metrics.panic.set(f64::from(self.panics()));
        let mut members = self.members();
        members.former.retain(|endpoint| endpoint.strong_count() > 0);
        members.known.retain(|_, known| match known.endpoint.upgrade() {
            Some(endpoint) => {
                endpoint.publish();
                true
            }
            None => {
                known.gauges.iter().for_each(|gauge| gauge.set(0.0));
                !known.operator.is_default()
            }
        });
        self.commons.parts.iter().for_each(|parts| parts.forget());
    }
}

/// Whether the pool at work that is called `name` is the pool `asked`, or a part of it. Only names of parts have a slash.
pub(crate) fn is_of(name: &str, asked: &str) -> bool {
    name == asked || name.split_once('/').is_some_and(|(written, _)| written == asked)
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod role_properties;
#[cfg(test)]
mod tests;
