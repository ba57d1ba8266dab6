//! Admission: how many connections are served at once, by the process and by each listener.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A limit on things that exist at once, counted over all workers.
#[derive(Debug)]
pub(crate) struct Capacity {
    limit: usize,
    used: AtomicUsize,
}

/// One admitted connection; given back by Drop.
#[derive(Debug)]
pub(crate) struct Permit {
    _process: Claim,
    _listener: Claim,
}

#[derive(Debug)]
struct Claim(Arc<Capacity>);

impl Capacity {
    /// Room for `limit`.
    pub(crate) fn new(limit: usize) -> Arc<Capacity> {
        Arc::new(Capacity { limit, used: AtomicUsize::new(0) })
    }

    /// How many there are now.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn claim(self: &Arc<Self>) -> Option<Claim> {
        if self.used.fetch_add(1, Ordering::Relaxed) < self.limit {
            return Some(Claim(Arc::clone(self)));
        }
        self.used.fetch_sub(1, Ordering::Relaxed);
        None
    }
}

impl Permit {
    /// Admits one connection, if both have room.
    pub(crate) fn take(process: &Arc<Capacity>, listener: &Arc<Capacity>) -> Option<Permit> {
        Some(Permit { _process: process.claim()?, _listener: listener.claim()? })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.used.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_limits_hold_and_come_back() {
        let (process, listener) = (Capacity::new(3), Capacity::new(2));
        let permits: Vec<Permit> = (0..2).map(|_| Permit::take(&process, &listener).unwrap()).collect();
        assert!(Permit::take(&process, &listener).is_none(), "the listener is full");
        assert_eq!((process.used(), listener.used()), (2, 2), "a refusal leaves no trace");
        let other = Capacity::new(9);
        let third = Permit::take(&process, &other).unwrap();
        assert!(Permit::take(&process, &other).is_none(), "the process is full");
        drop((permits, third));
        assert_eq!((process.used(), listener.used(), other.used()), (0, 0, 0));
    }
}
