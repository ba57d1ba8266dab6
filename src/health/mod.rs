//! Health: what probes find out about endpoints, and what a pool makes of it.
//!
//! [`verdict`] is pure: observations in, a standing out. [`probe`] talks to one endpoint once. [`watch`] keeps probes
//! going on the control runtime; the same endpoint that several pools probe in the same way is probed once. [`outlier`] is
//! what clients find out by themselves. Workers only ever read a standing.

pub(crate) mod outlier;
mod probe;
mod verdict;
pub(crate) mod watch;

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

pub(crate) use self::verdict::{Observation, Standing};
use self::verdict::{Rules, Verdict};
use crate::config::model;
use crate::observe::metrics::HealthMetrics;

/// The health of one endpoint in one pool.
#[derive(Debug)]
pub(crate) struct Health {
    pub(crate) settings: model::Health,
    metrics: HealthMetrics,
    /// Only the control side takes this lock.
    verdict: Mutex<Verdict>,
    /// What came out of it, for workers.
    standing: AtomicU8,
}

impl Health {
    /// Nothing is known yet.
    pub(crate) fn new(settings: model::Health, metrics: HealthMetrics) -> Health {
        Health { settings, metrics, verdict: Mutex::default(), standing: AtomicU8::new(Standing::Unknown as u8) }
    }

    /// Whether the endpoint may be chosen.
    pub(crate) fn standing(&self) -> Standing {
        match self.standing.load(Ordering::Relaxed) {
            standing if standing == Standing::Up as u8 => Standing::Up,
            standing if standing == Standing::Down as u8 => Standing::Down,
            _ => Standing::Unknown,
        }
    }

    /// Takes in what a probe has found of the endpoint `endpoint` of `pool`; gives the new standing, if it is another one.
    pub(crate) fn observe(&self, pool: &str, endpoint: &str, observation: &Observation) -> Option<Standing> {
        let mut verdict = self.verdict.lock().unwrap_or_else(PoisonError::into_inner);
        let rules = Rules { rise: self.settings.rise, fall: self.settings.fall };
        let changed = verdict.observe(rules, observation);
        if let Some(standing) = changed {
            self.standing.store(standing as u8, Ordering::Relaxed);
            self.metrics.changed(standing == Standing::Up);
            match observation {
                Observation::Pass => tracing::info!(pool, endpoint, "is up"),
                Observation::Missing(why) => tracing::warn!(pool, endpoint, "is down: {why}"),
            }
        }
        changed
    }

    /// How long to wait for the next probe.
    fn pause(&self) -> Duration {
        let verdict = self.verdict.lock().unwrap_or_else(PoisonError::into_inner);
        if verdict.is_changing() { self.settings.fast_interval } else { self.settings.interval }
    }
}
