//! One endpoint, and the lease that a session holds on it.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::balance::Load;
use crate::health::outlier::Outlier;
use crate::health::{Finding, Health, Standing};
use crate::observe::metrics::EndpointMetrics;

/// Where an endpoint is reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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
    /// Name of its pool.
    pub(crate) pool: Arc<str>,
    pub(crate) target: Target,
    pub(crate) weight: u16,
    pub(crate) metrics: EndpointMetrics,
    /// `None` where it is not probed.
    pub(crate) health: Option<Health>,
    /// `None` where that is off.
    pub(crate) outlier: Option<Outlier>,
    /// Whether it was told of that it is left out.
    told_out: AtomicBool,
    active: AtomicU32,
    /// Times it was chosen, halved every second, where the algorithm wants to know.
    recent: AtomicU32,
    /// Sessions of all endpoints of the pool, where the algorithm wants to know.
    pub(super) pool_active: Option<Arc<AtomicU32>>,
    trouble: Trouble,
}

/// Failures to use an endpoint, counted where they happen and told elsewhere.
#[derive(Debug, Default)]
struct Trouble {
    failures: AtomicU32,
    /// The system's number for the last one.
    last: AtomicI32,
    /// How many have been told, and when.
    told: Mutex<(u32, Option<Instant>)>,
}

impl Endpoint {
    /// An endpoint of the pool called `pool`, without sessions, that nothing judges.
    pub(crate) fn new(pool: &Arc<str>, name: &str, target: Target, weight: u16, metrics: EndpointMetrics) -> Endpoint {
        Endpoint {
            name: name.into(),
            pool: Arc::clone(pool),
            target,
            weight,
            metrics,
            health: None,
            outlier: None,
            told_out: AtomicBool::new(false),
            active: AtomicU32::new(0),
            recent: AtomicU32::new(0),
            pool_active: None,
            trouble: Trouble::default(),
        }
    }

    /// Whether it may be chosen, as far as its health goes. Without probes it always may.
    pub(crate) fn standing(&self) -> Standing {
        self.health.as_ref().map_or(Standing::Up, Health::standing)
    }

    /// Takes in what a probe or an agent has found at `now`. Who comes up starts anew: what sessions found before is over.
    pub(crate) fn observe(&self, finding: &Finding, now: SystemTime) {
        let changed = self.health.as_ref().and_then(|health| health.observe(&self.pool, &self.name, finding, now));
        if changed == Some(Standing::Up) {
            self.outlier.iter().for_each(Outlier::start_anew);
        }
    }

    /// Whether it is left out because sessions failed.
    pub(crate) fn is_out(&self) -> bool {
        self.outlier.as_ref().is_some_and(Outlier::is_out)
    }

    /// Whether it is up and not left out.
    pub(crate) fn is_fit(&self) -> bool {
        self.standing() == Standing::Up && !self.is_out()
    }

    /// It has answered a session.
    pub(crate) fn answered(&self) {
        self.outlier.iter().for_each(Outlier::answered);
    }

    /// What balancing goes by.
    pub(crate) fn load(&self) -> Load {
        Load {
            weight: self.weight,
            active: self.active.load(Ordering::Relaxed),
            recent: self.recent.load(Ordering::Relaxed),
        }
    }

    /// Counts an attempt that failed with the system's error `code`, or [`NO_ANSWER`]. Never logs: sessions call it.
    pub(crate) fn failed(&self, code: i32) {
        self.metrics.connect_failures.increment(1);
        self.trouble.last.store(code, Ordering::Relaxed);
        self.trouble.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts that it was chosen, for [`Load::recent`].
    pub(crate) fn chosen(&self) {
        self.recent.fetch_add(1, Ordering::Relaxed);
    }

    /// What is done once a second: lets it pass for [`Load::recent`] and for outliers, brings gauges up to date, and tells
    /// of changes and of failures, of these not more often than every [`TELL_EVERY`].
    pub(crate) fn publish(&self) {
        self.recent.fetch_sub(self.recent.load(Ordering::Relaxed).div_ceil(2), Ordering::Relaxed);
        self.metrics.active.set(f64::from(self.active.load(Ordering::Relaxed)));
        self.outlier.iter().for_each(|outlier| outlier.look(Instant::now()));
        let out = self.is_out();
        if self.told_out.swap(out, Ordering::Relaxed) != out {
            self.metrics.ejected.set(f64::from(out));
            if out {
                tracing::warn!(pool = &*self.pool, endpoint = &*self.name, "is left out for a while: sessions failed");
            } else {
                tracing::info!(pool = &*self.pool, endpoint = &*self.name, "is no longer left out");
            }
        }
        let failures = self.trouble.failures.load(Ordering::Relaxed);
        let mut told = self.trouble.told.lock().unwrap_or_else(PoisonError::into_inner);
        let new = failures.wrapping_sub(told.0);
        if new > 0 && told.1.is_none_or(|last| last.elapsed() >= TELL_EVERY) {
            *told = (failures, Some(Instant::now()));
            let reason = match self.trouble.last.load(Ordering::Relaxed) {
                NO_ANSWER => "it ended the connection without an answer".to_owned(),
                code => io::Error::from_raw_os_error(code).to_string(),
            };
            tracing::warn!(pool = &*self.pool, endpoint = &*self.name, failures = new, "cannot be used: {reason}");
        }
    }
}

/// For [`Endpoint::failed`]: the endpoint took a connection and ended it without an answer.
pub(crate) const NO_ANSWER: i32 = -1;
/// The least time between two messages about the same endpoint.
const TELL_EVERY: Duration = Duration::from_secs(10);

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
        if let Some(all) = &endpoint.pool_active {
            all.fetch_add(1, Ordering::Relaxed);
        }
        Lease(Arc::clone(endpoint))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
        if let Some(all) = &self.0.pool_active {
            all.fetch_sub(1, Ordering::Relaxed);
        }
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
