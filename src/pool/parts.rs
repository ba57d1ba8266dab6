//! What the parts of one pool share. A pool that routes lead to by role is at work once for each role, over the same
//! endpoints: what operators said of an endpoint holds in all parts, and its sessions are counted together.
//!
//! Locks are taken only where sets of endpoints are put in place; a session reads and counts in atomics.

use std::collections::HashMap;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::Target;
use super::operator::Operator;
use super::waiting::Waiting;
use crate::config::model::Pool;

/// What the parts of one pool share.
#[derive(Debug)]
pub(crate) struct Parts {
    /// Who waits for a place in each part: one that a session leaves may be for any of them.
    queues: Vec<(String, Arc<Waiting>)>,
    known: Mutex<Known>,
}

/// What is shared of endpoints, for as long as any part knows them.
#[derive(Debug, Default)]
struct Known {
    /// By name.
    operators: HashMap<Arc<str>, Weak<Operator>>,
    /// Sessions of all parts: an endpoint that has the name of another one has its own.
    sessions: HashMap<(Arc<str>, Target), Weak<AtomicU32>>,
}

impl Parts {
    /// Of these pools, which are the parts of one.
    pub(crate) fn of(pools: &[Pool]) -> Parts {
        let queue = |pool: &Pool| (pool.name.clone(), Arc::new(Waiting::new(pool.shortage.most_waiting, true)));
        Parts { queues: pools.iter().map(queue).collect(), known: Mutex::default() }
    }

    /// Who waits for a place in the part that is called so.
    pub(super) fn queue(&self, name: &str) -> Option<&Arc<Waiting>> {
        self.queues.iter().find_map(|(known, queue)| (known == name).then_some(queue))
    }

    /// Who waits for a place in any part.
    pub(super) fn queues(&self) -> impl Iterator<Item = &Waiting> {
        self.queues.iter().map(|(_, queue)| &**queue)
    }

    /// What operators said of the endpoint that is called so.
    pub(super) fn operator(&self, name: &str) -> Arc<Operator> {
        let mut known = self.known();
        known.operators.get(name).and_then(Weak::upgrade).unwrap_or_else(|| {
            let new = Arc::default();
            known.operators.insert(name.into(), Arc::downgrade(&new));
            new
        })
    }

    /// The number of sessions of the endpoint that is called so and is reached there.
    pub(super) fn sessions(&self, name: &str, target: &Target) -> Arc<AtomicU32> {
        let (mut known, key) = (self.known(), (name.into(), target.clone()));
        known.sessions.get(&key).and_then(Weak::upgrade).unwrap_or_else(|| {
            let new = Arc::default();
            known.sessions.insert(key, Arc::downgrade(&new));
            new
        })
    }

    /// Forgets what no part knows any more.
    pub(super) fn forget(&self) {
        let mut known = self.known();
        known.operators.retain(|_, operator| operator.strong_count() > 0);
        known.sessions.retain(|_, sessions| sessions.strong_count() > 0);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
