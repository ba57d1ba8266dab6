//! Who says that it is the primary: in a pool for the primary that is one endpoint. More are told of, but where servers may
//! all be primaries, and where it is written so (`single_writer`) nobody gets new sessions while there are more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use metrics::Gauge;

use super::Endpoint;
use super::tiers::Tiers;

/// What a pool for the primary makes of those that say that they are.
pub(super) struct Writers {
    /// Only one may say so.
    is_single: bool,
    /// Several may say so, and all is well.
    may_be_many: bool,
    /// There were several when it was last looked at.
    are_rivals: AtomicBool,
    gauge: Gauge,
}

impl Writers {
    /// Nobody has said anything yet. `is_single`: only one may say so; else `may_be_many`: several may, and all is well.
    pub(super) fn new(is_single: bool, may_be_many: bool, gauge: Gauge) -> Writers {
        Writers { is_single, may_be_many, are_rivals: AtomicBool::new(false), gauge }
    }

    /// Whether no other endpoint than `endpoint` says that it is the primary, where only one may; where several may, whether it
    /// says so itself: one that no longer tells gives way to one that does. Each choice asks this by itself, so that none is late.
    pub(super) fn allow(&self, tiers: &Tiers, endpoint: &Endpoint) -> bool {
        if self.is_single {
            tiers.writers().all(|writer| writer.target == endpoint.target)
        } else {
            endpoint.claims_primary() || tiers.writers().next().is_none()
        }
    }

    /// Counts them, and tells where they are too many, or no longer. Whether nobody gets new sessions for that.
    pub(super) fn look(&self, pool: &str, tiers: &Tiers) -> bool {
        let mut writers: Vec<&Arc<Endpoint>> = Vec::new();
        for writer in tiers.writers() {
            // One server may be called by two names.
            if !writers.iter().any(|known| known.target == writer.target) {
                writers.push(writer);
            }
        }
        self.gauge.set(writers.len() as f64);
        let are_rivals = (self.is_single || !self.may_be_many) && writers.len() > 1;
        let endpoints = || writers.iter().map(|writer| &*writer.name).collect::<Vec<_>>().join(", ");
        match (self.are_rivals.swap(are_rivals, Ordering::Relaxed), are_rivals) {
            (false, true) => {
                let endpoints = endpoints();
                let what_then = match self.is_single {
                    true => "no new sessions until it is one",
                    false => "all of them get new sessions, as single_writer is false",
                };
                tracing::error!(pool, endpoints, "several endpoints say that they are the primary: {what_then}");
            }
            (true, false) => {
                let endpoints = endpoints();
                let what_then = if self.is_single { ": new sessions go on" } else { "" };
                tracing::info!(
                    pool,
                    endpoints,
                    "no longer do several endpoints say that they are the primary{what_then}"
                );
            }
            _ => {}
        }
        are_rivals && self.is_single
    }

    /// Those that all say so, where only one may.
    pub(super) fn rivals(&self, tiers: &Tiers) -> Vec<Arc<Endpoint>> {
        let are_rivals = self.is_single && self.are_rivals.load(Ordering::Relaxed);
        if are_rivals { tiers.writers().cloned().collect() } else { Vec::new() }
    }
}
