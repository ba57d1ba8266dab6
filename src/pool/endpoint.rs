//! One endpoint, and the lease that a session holds on it.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::balance::Load;
use crate::observe::metrics::EndpointMetrics;

/// Where an endpoint is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// TCP.
    Ip(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

/// One address that connections are forwarded to.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) name: Arc<str>,
    pub(crate) target: Target,
    pub(crate) weight: u16,
    pub(crate) metrics: EndpointMetrics,
    active: AtomicU32,
}

impl Endpoint {
    /// An endpoint without sessions.
    pub(crate) fn new(name: &str, target: Target, weight: u16, metrics: EndpointMetrics) -> Endpoint {
        Endpoint { name: name.into(), target, weight, metrics, active: AtomicU32::new(0) }
    }

    /// What balancing goes by.
    pub(crate) fn load(&self) -> Load {
        Load { weight: self.weight, active: self.active.load(Ordering::Relaxed) }
    }

    /// Brings the gauge of active sessions up to date.
    pub(crate) fn publish(&self) {
        self.metrics.active.set(f64::from(self.active.load(Ordering::Relaxed)));
    }
}

/// One session's claim on an endpoint; given back by Drop.
#[derive(Debug)]
pub(crate) struct Lease(Arc<Endpoint>);

impl Lease {
    /// A claim, whatever the endpoint's load.
    pub(crate) fn take(endpoint: &Arc<Endpoint>) -> Lease {
        endpoint.active.fetch_add(1, Ordering::Relaxed);
        Lease::counted(endpoint)
    }

    /// A claim, provided that the endpoint still has `active` sessions.
    pub(crate) fn take_if(endpoint: &Arc<Endpoint>, active: u32) -> Option<Lease> {
        endpoint.active.compare_exchange(active, active + 1, Ordering::Relaxed, Ordering::Relaxed).ok()?;
        Some(Lease::counted(endpoint))
    }

    /// The endpoint.
    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.0
    }

    fn counted(endpoint: &Arc<Endpoint>) -> Lease {
        endpoint.metrics.sessions.increment(1);
        Lease(Arc::clone(endpoint))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Ip(address) => address.fmt(f),
            Target::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
