//! Probes that go on for as long as somebody wants to know: one task for each endpoint and way to ask it, on the control
//! runtime, whatever number of pools listens to it.

use std::collections::{HashMap, HashSet};
use std::future::pending;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::probe::lag::Memory;
use super::probe::mysql::Conversation;
use super::probe::{self, Call, Ending, tls};
use super::verdict::{Observation, Text};
use super::{AGAIN, Finding, Health};
use crate::config::model::{Dialogue, Probe, Secret, SendProxy, WatchedTls};
use crate::pool::{Endpoint, Pool, Target};
use crate::wire::proxy_header;

/// The longest pause: as long as an interval may be.
const LONGEST: Duration = Duration::from_secs(3600);

/// What makes two probes the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    /// Who gives up early must not wait for who is patient, so that the time is a part of it.
    call: Call,
    ask: Ask,
}

impl Key {
    /// The most connections that asking takes at once.
    fn connections(&self) -> u32 {
        match &self.ask {
            Ask::Endpoint { dialogue, .. } => u32::try_from(dialogue.probe.connections()).unwrap_or(u32::MAX),
            Ask::Agent(_) => 1,
        }
    }
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Ask {
    Endpoint {
        dialogue: Arc<Dialogue>,
        /// What the endpoint is called in a request.
        host: Arc<str>,
        /// Whose certificate it has to have.
        name: Arc<str>,
    },
    Agent(Secret),
}

/// All probes of a balancer.
pub(crate) struct Watch {
    watched: HashMap<Key, Watched>,
    /// Probes that may be under way at once: each takes a descriptor.
    room: Arc<Semaphore>,
    /// How many that are.
    places: u32,
}

/// One endpoint that is probed.
struct Watched {
    prober: Arc<Prober>,
    task: JoinHandle<()>,
}

/// What it takes to go on asking.
struct Prober {
    key: Key,
    tls: Option<Result<tls::Client, Observation>>,
    listeners: Listeners,
    /// Of how far it was behind.
    memory: Mutex<Memory>,
    room: Arc<Semaphore>,
    /// How many of its places one probe takes.
    places: u32,
}

/// Who wants to know of it.
struct Listeners {
    endpoints: Mutex<Vec<Weak<Endpoint>>>,
    /// Somebody new wants to know at once.
    changed: Notify,
}

impl Watch {
    /// Nothing yet; at most `room` probes at once.
    pub(crate) fn new(room: usize) -> Watch {
        let places = u32::try_from(room).unwrap_or(u32::MAX);
        Watch { watched: HashMap::new(), room: Arc::new(Semaphore::new(room)), places }
    }

    /// Probes what the pools have now, and nothing else. Endpoints that are probed already go on as they are.
    #[expect(clippy::mutable_key_type, reason = "the TLS of a pool is hashed and compared by identity")]
    pub(crate) fn follow(&mut self, pools: &[Arc<Pool>]) {
        let mut wanted: HashMap<Key, Vec<Arc<Endpoint>>> = HashMap::new();
        for pool in pools {
            for endpoint in pool.endpoints() {
                if let Some(health) = &endpoint.health {
                    for key in keys(pool, &endpoint.target, health) {
                        wanted.entry(key).or_default().push(Arc::clone(&endpoint));
                    }
                }
            }
        }
        self.watched.retain(|key, _| wanted.contains_key(key));
        for (key, endpoints) in wanted {
            match self.watched.get(&key) {
                Some(watched) => watched.prober.listeners.set(&endpoints),
                None => {
                    let tls = Watch::tls(&key.ask);
                    let listeners = Listeners::new(&endpoints);
                    let (memory, room) = (Mutex::default(), Arc::clone(&self.room));
                    let places = self.places.min(key.connections());
                    let prober = Prober { key: key.clone(), tls, listeners, memory, room, places };
                    self.watched.insert(key, Watched::start(Arc::new(prober)));
                }
            }
        }
    }

    /// Starts probes again that have ended by themselves, which only a panic can bring about.
    pub(crate) fn mend(&mut self) {
        for watched in self.watched.values_mut() {
            if watched.task.is_finished() {
                tracing::error!(address = %watched.prober.key.call.target, "a probe panicked and is started again");
                *watched = Watched::start(Arc::clone(&watched.prober));
            }
        }
    }

    /// The TLS of what is asked.
    fn tls(ask: &Ask) -> Option<Result<tls::Client, Observation>> {
        let Ask::Endpoint { dialogue, name, .. } = ask else { return None };
        let WatchedTls(watched) = dialogue.watched.as_ref()?;
        Some(tls::Client::new(watched, dialogue.tls.as_ref()?, dialogue.is_pools, name))
    }
}

/// The ways in which an endpoint of `pool`, which sessions reach at `target`, is asked.
fn keys(pool: &Pool, target: &Target, health: &Health) -> Vec<Key> {
    let settings = &health.settings;
    let call = |target: Target, preface: &'static [u8]| {
        let source = match &target {
            Target::Ip(_) if settings.source.is_empty() => pool.source_for(&target),
            Target::Ip(at) => settings.source.iter().copied().find(|source| source.is_ipv4() == at.is_ipv4()),
            Target::Unix(_) => None,
        };
        Call { target, source, preface, patience: settings.timeout }
    };
    let probe = settings.dialogue.as_ref().map(|dialogue| {
        let target = health.probed(target);
        let (host, name) = called(dialogue, health, &target);
        // Elsewhere there is no reason why anybody should expect a header.
        let is_own = settings.address.is_none() && settings.port.is_none();
        let preface = match pool.send_proxy.filter(|_| is_own) {
            Some(SendProxy::V1) => proxy_header::UNKNOWN,
            Some(SendProxy::V2(_)) => proxy_header::LOCAL,
            None => &[],
        };
        Key { call: call(target, preface), ask: Ask::Endpoint { dialogue: Arc::clone(dialogue), host, name } }
    });
    let agent = settings.agent.as_ref().and_then(|agent| {
        Some(Key { call: call(health.agent_at(target, agent)?, &[]), ask: Ask::Agent(agent.send.clone()) })
    });
    probe.into_iter().chain(agent).collect()
}

/// What an endpoint that is probed at `target` is called in a request, and in its certificate. Nothing where it is not
/// called by any name: probes that are the same otherwise are shared.
fn called(dialogue: &Dialogue, health: &Health, target: &Target) -> (Arc<str>, Arc<str>) {
    let host = health.host();
    let address = || match target {
        Target::Ip(address) => address.ip().to_string(),
        // A server at a socket has no other name.
        Target::Unix(_) => "localhost".to_owned(),
    };
    let name: Option<Arc<str>> = dialogue.tls.as_ref().map(|tls| match (&tls.name, &host) {
        (Some(name), _) => name.as_str().into(),
        (None, Some(host)) => Arc::clone(host),
        (None, None) => address().into(),
    });
    let usual = || {
        let bare = |address: String| if address.contains(':') { format!("[{address}]") } else { address };
        let name = name.as_deref().or(host.as_deref()).map_or_else(address, str::to_owned);
        let port = if dialogue.tls.is_some() { 443 } else { 80 };
        match target {
            Target::Ip(target) if target.port() != port => format!("{}:{}", bare(name), target.port()),
            _ => bare(name),
        }
    };
    let request = match &dialogue.probe {
        Probe::Http(probe) => probe.host.clone().unwrap_or_else(usual),
        Probe::Patroni(_) => usual(),
        // Sentinels may name it.
        Probe::Redis(probe) if probe.sentinels.is_some() => host.as_deref().unwrap_or_default().to_owned(),
        Probe::Tcp | Probe::Script(_) | Probe::Postgres(_) | Probe::Mysql(_) | Probe::Redis(_) => String::new(),
    };
    (request.into(), name.unwrap_or_default())
}

impl Watched {
    #[expect(clippy::disallowed_methods, reason = "this runs on the control runtime, and is aborted with its guard")]
    fn start(prober: Arc<Prober>) -> Watched {
        Watched { task: tokio::spawn(watch(Arc::clone(&prober))), prober }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Listeners {
    fn new(endpoints: &[Arc<Endpoint>]) -> Listeners {
        let endpoints = endpoints.iter().map(Arc::downgrade).collect();
        Listeners { endpoints: Mutex::new(endpoints), changed: Notify::new() }
    }

    fn set(&self, endpoints: &[Arc<Endpoint>]) {
        let mut known = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        let before: HashSet<*const Endpoint> = known.iter().map(Weak::as_ptr).collect();
        if endpoints.iter().any(|endpoint| !before.contains(&Arc::as_ptr(endpoint))) {
            self.changed.notify_one();
        }
        *known = endpoints.iter().map(Arc::downgrade).collect();
    }

    fn get(&self) -> Vec<Arc<Endpoint>> {
        let endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        endpoints.iter().filter_map(Weak::upgrade).collect()
    }
}

impl Prober {
    /// Asks once. The outer error is our own; the inner one is why an agent has not said anything.
    async fn ask(&self, left: &mut Option<Conversation>) -> io::Result<(Result<Finding, Text>, Ending)> {
        match &self.key.ask {
            Ask::Endpoint { dialogue, host, .. } => {
                let (mut found, ending) = probe::run(&self.key.call, dialogue, host, self.tls.as_ref(), left).await?;
                found.settle_lag(&mut self.memory.lock().unwrap_or_else(PoisonError::into_inner), Instant::now());
                Ok((Ok(Finding::Probe(found)), ending))
            }
            Ask::Agent(send) => {
                let (said, ending) = probe::ask_agent(&self.key.call, send).await?;
                Ok((said.map(Finding::Agent), ending))
            }
        }
    }

    /// Tells everybody who wants to know that nothing was found out, for something of our own.
    fn admit(&self, why: &io::Error) {
        // What an agent says is not what probes find.
        if matches!(self.key.ask, Ask::Endpoint { .. }) {
            let (why, now) = (why.to_string(), SystemTime::now());
            let endpoints = self.listeners.get();
            endpoints
                .iter()
                .filter_map(|endpoint| endpoint.health.as_ref())
                .for_each(|health| health.cannot_probe(&why, now));
        }
    }

    /// Tells everybody who wants to know, and gives the shortest pause that any of them asks for.
    fn tell(&self, finding: Option<&Finding>) -> Duration {
        let mut pause = LONGEST;
        for endpoint in self.listeners.get() {
            let Some(health) = &endpoint.health else { continue };
            if let Some(finding) = finding {
                endpoint.observe(finding, SystemTime::now());
            }
            let own = match (&self.key.ask, &health.settings.agent) {
                (Ask::Agent(_), Some(agent)) => agent.interval,
                _ if finding.is_none() => health.settings.fast_interval,
                _ => health.pause(),
            };
            let jitter = f64::from(health.settings.jitter) / 100.0;
            pause = pause.min(own.mul_f64(1.0 + jitter * (2.0 * fastrand::f64() - 1.0)));
        }
        pause
    }
}

/// Probes one endpoint until it is aborted.
async fn watch(prober: Arc<Prober>) {
    let (mut told, mut left, mut place) = (None, None, None);
    let address = &prober.key.call.target;
    loop {
        let pause = {
            // A talk that was left keeps its place, as it keeps its descriptor.
            if place.is_none() {
                place = Arc::clone(&prober.room).acquire_many_owned(prober.places).await.ok();
            }
            match prober.ask(&mut left).await {
                Ok((Ok(finding), ending)) => {
                    told = None;
                    let (pause, since) = (prober.tell(Some(&finding)), Instant::now());
                    ending.end().await;
                    pause.saturating_sub(since.elapsed())
                }
                Ok((Err(why), ending)) => {
                    if is_due(&mut told, Instant::now()) {
                        tracing::warn!(%address, "the agent does not answer, so what it said last holds: {why}");
                    }
                    ending.end().await;
                    prober.tell(None)
                }
                Err(error) => {
                    if is_due(&mut told, Instant::now()) {
                        tracing::error!(%address, "cannot probe: {error}");
                    }
                    prober.admit(&error);
                    prober.tell(None)
                }
            }
        };
        if left.is_none() {
            place = None;
        }
        // Somebody new wants an answer at once, and what a talk that was left comes to is one.
        let _ = timeout(pause, async {
            tokio::select! {
                () = prober.listeners.changed.notified() => {}
                () = finish(left.as_mut()) => {}
            }
        })
        .await;
    }
}

/// Whether it is time to say what was said at `told`, which is now then.
fn is_due(told: &mut Option<Instant>, now: Instant) -> bool {
    let is_due = told.is_none_or(|told| now.saturating_duration_since(told) >= AGAIN);
    if is_due {
        *told = Some(now);
    }
    is_due
}

/// Has a talk that was left go on to its end; without one there is nothing to wait for.
async fn finish(left: Option<&mut Conversation>) {
    match left {
        Some(conversation) => conversation.finish().await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::tests::health_of;

    #[test]
    fn trouble_is_told_now_and_then() {
        let (mut told, start) = (None, Instant::now());
        for (at, due) in [(0, true), (1, false), (599, false), (600, true), (601, false), (1200, true)] {
            assert_eq!(is_due(&mut told, start + Duration::from_secs(at)), due, "{at}");
        }
    }

    #[test]
    fn what_an_endpoint_is_called() {
        for (endpoint, table, target, host, name) in [
            ("10.0.0.1:80", "probe = 'http'", "10.0.0.1:80", "10.0.0.1", ""),
            ("10.0.0.1:8080", "probe = 'http'", "10.0.0.1:8080", "10.0.0.1:8080", ""),
            ("[::1]:8080", "probe = 'http'", "[::1]:8080", "[::1]:8080", ""),
            ("[::1]:443", "probe = 'http', tls = {}", "[::1]:443", "[::1]", "::1"),
            ("web.test:443", "probe = 'http', tls = {}", "10.0.0.1:443", "web.test", "web.test"),
            ("web.test:80", "probe = 'http', tls = {}", "10.0.0.1:80", "web.test:80", "web.test"),
            ("web.test:1", "probe = 'http', tls.name = 'a.test'", "10.0.0.1:1", "a.test:1", "a.test"),
            ("web.test:1", "probe = 'http', http.host = 'a.test'", "10.0.0.1:1", "a.test", ""),
            ("web.test:1", "probe = 'tls'", "10.0.0.1:1", "", "web.test"),
            ("pg.test:1", "probe = 'patroni'", "10.0.0.1:8008", "pg.test:8008", ""),
            ("pg.test:1", "probe = 'postgres'", "10.0.0.1:1", "", ""),
            ("pg.test:1", "probe = 'postgres', tls = {}", "10.0.0.1:1", "", "pg.test"),
            // Nothing is said by which they could differ: endpoints at one address share their probes.
            ("web.test:1", "probe = 'tcp'", "10.0.0.1:1", "", ""),
        ] {
            let health = health_of(endpoint, table);
            let dialogue = health.settings.dialogue.clone().unwrap();
            let (found_host, found_name) = called(&dialogue, &health, &Target::Ip(target.parse().unwrap()));
            assert_eq!((&*found_host, &*found_name), (host, name), "{endpoint} with {table}");
        }
        let health = health_of("unix:/run/x", "probe = 'http'");
        let dialogue = health.settings.dialogue.clone().unwrap();
        assert_eq!(&*called(&dialogue, &health, &Target::Unix("/run/x".into())).0, "localhost");
    }
}
