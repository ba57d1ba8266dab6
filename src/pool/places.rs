//! The places of one endpoint: how many sessions it has, and how many it may have.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Sessions of one endpoint of one pool.
#[derive(Debug)]
pub(super) struct Places {
    /// Those that this pool has sent there.
    own: AtomicU32,
    /// Those of all parts of the pool as it is written, where it has parts: what the limit and choices go by.
    all_parts: Option<Arc<AtomicU32>>,
    /// As many as there may be at once; [`u32::MAX`]: no limit.
    most: AtomicU32,
}

impl Places {
    /// None of them taken by this pool; `all_parts` are those that its parts have taken.
    pub(super) fn new(all_parts: Option<Arc<AtomicU32>>) -> Places {
        Places { own: AtomicU32::new(0), all_parts, most: AtomicU32::new(u32::MAX) }
    }

    /// Sessions that this pool has sent there.
    pub(super) fn own(&self) -> u32 {
        self.own.load(Ordering::Relaxed)
    }

    /// Sessions that are there.
    pub(super) fn taken(&self) -> u32 {
        self.count().load(Ordering::Relaxed)
    }

    /// As many as there may be; `None`: no limit.
    pub(super) fn most(&self) -> Option<u32> {
        Some(self.most.load(Ordering::Relaxed)).filter(|&most| most != u32::MAX)
    }

    /// Sets the limit.
    pub(super) fn limit(&self, most: Option<u32>) {
        self.most.store(most.unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    /// Whether there is one left.
    pub(super) fn has_one(&self) -> bool {
        self.taken() < self.most.load(Ordering::Relaxed)
    }

    /// Takes one, if there is one left.
    pub(super) fn take(&self) -> bool {
        let most = self.most.load(Ordering::Relaxed);
        let more = |taken| (taken < most).then_some(taken + 1);
        self.count().fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok() && self.counted()
    }

    /// Takes one, if there is one left and `taken` of them are still all that are taken.
    pub(super) fn take_if(&self, taken: u32) -> bool {
        let (order, count) = (Ordering::Relaxed, self.count());
        taken < self.most.load(order)
            && count.compare_exchange(taken, taken + 1, order, order).is_ok()
            && self.counted()
    }

    /// Gives one back that was taken.
    pub(super) fn leave(&self) {
        self.own.fetch_sub(1, Ordering::Relaxed);
        if let Some(all) = &self.all_parts {
            all.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn count(&self) -> &AtomicU32 {
        self.all_parts.as_deref().unwrap_or(&self.own)
    }

    fn counted(&self) -> bool {
        if self.all_parts.is_some() {
            self.own.fetch_add(1, Ordering::Relaxed);
        }
        true
    }
}
