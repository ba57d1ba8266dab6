//! Probes that go on for as long as somebody wants to know: one task for each endpoint and way to ask it, on the control
//! runtime, whatever number of pools listens to it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::probe;
use crate::config::model::Probe;
use crate::pool::{Endpoint, Pool, Target};

/// Pauses between probes differ by up to this share of their length, so that they do not all go out together.
const JITTER: f64 = 0.1;

/// What makes two probes the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    target: Target,
    what: Probe,
    source: Option<IpAddr>,
}

/// All probes of a balancer.
#[derive(Default)]
pub(crate) struct Watch {
    watched: HashMap<Key, Watched>,
}

/// One endpoint that is probed.
struct Watched {
    listeners: Arc<Listeners>,
    stop: CancellationToken,
}

/// Who wants to know of it.
#[derive(Default)]
struct Listeners {
    endpoints: Mutex<Vec<Weak<Endpoint>>>,
    /// Somebody new wants to know at once.
    changed: Notify,
}

impl Watch {
    /// Probes what the pools have now, and nothing else. Endpoints that are probed already go on as they are.
    pub(crate) fn follow(&mut self, pools: &[Arc<Pool>]) {
        let mut wanted: HashMap<Key, Vec<Arc<Endpoint>>> = HashMap::new();
        for pool in pools {
            for endpoint in pool.endpoints() {
                if let Some(health) = &endpoint.health {
                    let (target, source) = (endpoint.target.clone(), pool.source_for(&endpoint.target));
                    let key = Key { target, what: health.settings.probe, source };
                    wanted.entry(key).or_default().push(endpoint);
                }
            }
        }
        // A task whose token is dropped with its guard ends.
        self.watched.retain(|key, watched| {
            let stays = wanted.contains_key(key);
            if !stays {
                watched.stop.cancel();
            }
            stays
        });
        for (key, endpoints) in wanted {
            let watched = self.watched.entry(key).or_insert_with_key(Watched::start);
            watched.listeners.set(&endpoints);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.watched.values().for_each(|watched| watched.stop.cancel());
    }
}

impl Watched {
    #[expect(clippy::disallowed_methods, reason = "this runs on the control runtime, and ends by its token")]
    fn start(key: &Key) -> Watched {
        let (listeners, stop) = (Arc::<Listeners>::default(), CancellationToken::new());
        tokio::spawn(stop.clone().run_until_cancelled_owned(watch(key.clone(), Arc::clone(&listeners))));
        Watched { listeners, stop }
    }
}

impl Listeners {
    fn set(&self, endpoints: &[Arc<Endpoint>]) {
        let mut known = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        let new = endpoints.iter().any(|endpoint| !known.iter().any(|known| known.as_ptr() == Arc::as_ptr(endpoint)));
        if new {
            *known = endpoints.iter().map(Arc::downgrade).collect();
            self.changed.notify_one();
        } else if known.len() != endpoints.len() {
            *known = endpoints.iter().map(Arc::downgrade).collect();
        }
    }

    fn get(&self) -> Vec<Arc<Endpoint>> {
        let endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        endpoints.iter().filter_map(Weak::upgrade).collect()
    }
}

/// Probes one endpoint until it is cancelled.
async fn watch(key: Key, listeners: Arc<Listeners>) {
    loop {
        let patience = listeners
            .get()
            .iter()
            .filter_map(|endpoint| endpoint.health.as_ref())
            .map(|health| health.settings.timeout)
            .max();
        let Some(patience) = patience else {
            listeners.changed.notified().await;
            continue;
        };
        let observation = probe::run(key.what, &key.target, key.source, patience).await;
        let mut pause = Duration::MAX;
        for endpoint in listeners.get() {
            if let Some(health) = &endpoint.health {
                pause = pause.min(health.observe(&endpoint.pool, &endpoint.name, &observation));
            }
        }
        let pause = pause.min(Duration::from_secs(3600)).mul_f64(1.0 + JITTER * (2.0 * fastrand::f64() - 1.0));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = listeners.changed.notified() => {}
        }
    }
}
