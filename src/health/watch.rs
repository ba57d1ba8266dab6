//! Probes that go on for as long as somebody wants to know: one task for each endpoint and way to ask it, on the control
//! runtime, whatever number of pools listens to it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::probe;
use crate::config::model::{self, Probe};
use crate::pool::{Endpoint, Pool, Target};

/// Pauses between probes differ by up to this share of their length, so that they do not all go out together.
const JITTER: f64 = 0.1;
/// The longest pause: as long as an interval may be.
const LONGEST: Duration = Duration::from_secs(3600);

/// What makes two probes the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    target: Target,
    what: Probe,
    source: Option<IpAddr>,
    /// For one probe: who gives up early must not wait for who is patient.
    timeout: Duration,
}

/// All probes of a balancer.
pub(crate) struct Watch {
    watched: HashMap<Key, Watched>,
    /// Probes that may be under way at once: each takes a descriptor.
    room: Arc<Semaphore>,
}

/// One endpoint that is probed.
struct Watched {
    listeners: Arc<Listeners>,
    task: JoinHandle<()>,
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
        Watch { watched: HashMap::new(), room: Arc::new(Semaphore::new(room)) }
    }

    /// Probes what the pools have now, and nothing else. Endpoints that are probed already go on as they are.
    pub(crate) fn follow(&mut self, pools: &[Arc<Pool>]) {
        let mut wanted: HashMap<Key, Vec<Arc<Endpoint>>> = HashMap::new();
        for pool in pools {
            for endpoint in pool.endpoints() {
                if let Some(health) = &endpoint.health {
                    let (target, source) = (endpoint.target.clone(), pool.source_for(&endpoint.target));
                    let model::Health { probe: what, timeout, .. } = health.settings;
                    wanted.entry(Key { target, what, source, timeout }).or_default().push(endpoint);
                }
            }
        }
        self.watched.retain(|key, _| wanted.contains_key(key));
        for (key, endpoints) in wanted {
            match self.watched.get(&key) {
                Some(watched) => watched.listeners.set(&endpoints),
                None => {
                    let listeners = Arc::new(Listeners::new(&endpoints));
                    let task = start(key.clone(), Arc::clone(&listeners), Arc::clone(&self.room));
                    self.watched.insert(key, Watched { listeners, task });
                }
            }
        }
    }

    /// Starts probes again that have ended by themselves, which only a panic can bring about.
    pub(crate) fn mend(&mut self) {
        for (key, watched) in &mut self.watched {
            if watched.task.is_finished() {
                tracing::error!(target = ?key.target, "a probe panicked and is started again");
                watched.task = start(key.clone(), Arc::clone(&watched.listeners), Arc::clone(&self.room));
            }
        }
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
        let is_new =
            |endpoint: &Arc<Endpoint>| !known.iter().any(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(endpoint)));
        if endpoints.iter().any(is_new) {
            self.changed.notify_one();
        }
        *known = endpoints.iter().map(Arc::downgrade).collect();
    }

    fn get(&self) -> Vec<Arc<Endpoint>> {
        let endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        endpoints.iter().filter_map(Weak::upgrade).collect()
    }
}

#[expect(clippy::disallowed_methods, reason = "this runs on the control runtime, and is aborted with its guard")]
fn start(key: Key, listeners: Arc<Listeners>, room: Arc<Semaphore>) -> JoinHandle<()> {
    tokio::spawn(watch(key, listeners, room))
}

/// Probes one endpoint until it is aborted.
async fn watch(key: Key, listeners: Arc<Listeners>, room: Arc<Semaphore>) {
    let mut told = false;
    loop {
        let observation = {
            let _place = room.acquire().await;
            probe::run(key.what, &key.target, key.source, key.timeout).await
        };
        match &observation {
            Ok(_) => told = false,
            Err(error) if !std::mem::replace(&mut told, true) => {
                tracing::error!(target = ?key.target, "cannot probe: {error}");
            }
            Err(_) => {}
        }
        let mut pause = LONGEST;
        for endpoint in listeners.get() {
            if let Some(health) = &endpoint.health {
                pause = pause.min(match &observation {
                    Ok(observation) => {
                        endpoint.observe(observation);
                        health.pause()
                    }
                    Err(_) => health.settings.fast_interval,
                });
            }
        }
        let pause = pause.mul_f64(1.0 + JITTER * (2.0 * fastrand::f64() - 1.0));
        // Somebody new wants an answer at once.
        let _ = timeout(pause, listeners.changed.notified()).await;
    }
}
