//! Clients that wait for an endpoint: in turn, bounded in number, and woken as soon as there may be one.
//!
//! They belong to the pool and outlive its sets of endpoints. The lock is taken only while somebody waits.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// The clients of one pool that wait.
#[derive(Debug)]
pub(crate) struct Waiting {
    most: usize,
    /// Length of the queue, for those who would not take the lock for nothing.
    length: AtomicUsize,
    queue: Mutex<VecDeque<Arc<Waiter>>>,
}

#[derive(Debug, Default)]
struct Waiter {
    woken: Notify,
}

/// One client's place in the queue; given back by Drop.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    waiting: &'a Waiting,
    waiter: Arc<Waiter>,
}

impl Waiting {
    /// Nobody waits; at most `most` may.
    pub(crate) fn new(most: usize) -> Waiting {
        Waiting { most, length: AtomicUsize::new(0), queue: Mutex::default() }
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.length.load(Ordering::SeqCst)
    }

    /// Whether somebody waits.
    pub(crate) fn has_queue(&self) -> bool {
        self.len() > 0
    }

    /// A place at the end of the queue; `None` if it is full.
    pub(crate) fn join(&self) -> Option<Place<'_>> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.len() >= self.most {
            return None;
        }
        let waiter = Arc::new(Waiter::default());
        queue.push_back(Arc::clone(&waiter));
        self.length.store(queue.len(), Ordering::SeqCst);
        Some(Place { waiting: self, waiter })
    }

    /// There is, or may be, a place at an endpoint: wakes who is first.
    pub(crate) fn wake_first(&self) {
        if self.has_queue() {
            let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.front().iter().for_each(|waiter| waiter.woken.notify_one());
        }
    }

    /// Endpoints have changed: wakes everybody.
    pub(crate) fn wake_all(&self) {
        if self.has_queue() {
            let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.iter().for_each(|waiter| waiter.woken.notify_one());
        }
    }
}

impl Place<'_> {
    /// Waits until it is worth trying. A wake-up before the call counts.
    pub(crate) async fn woken(&self) {
        self.waiter.woken.notified().await;
    }
}

impl Place<'_> {
    /// Whether nobody is in front.
    pub(crate) fn is_first(&self) -> bool {
        let queue = self.waiting.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.front().is_some_and(|first| Arc::ptr_eq(first, &self.waiter))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        {
            let mut queue = self.waiting.queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.retain(|waiter| !Arc::ptr_eq(waiter, &self.waiter));
            self.waiting.length.store(queue.len(), Ordering::SeqCst);
        }
        // Who is first now tries too: the one that leaves may have been woken for a place that it did not take.
        self.waiting.wake_first();
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    fn is_woken(place: &Place<'_>) -> bool {
        pin!(place.woken()).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn places_are_taken_in_turn_and_bounded() {
        let waiting = Waiting::new(2);
        assert!(!waiting.has_queue());
        let (first, second) = (waiting.join().unwrap(), waiting.join().unwrap());
        assert!(waiting.join().is_none(), "full");
        assert!(first.is_first() && !second.is_first());
        waiting.wake_first();
        assert!(is_woken(&first) && !is_woken(&second));
        assert!(!is_woken(&first), "woken once");
        drop(first);
        assert!(is_woken(&second), "its turn has come");
        drop(second);
        assert_eq!(waiting.len(), 0);
    }

    #[test]
    fn who_leaves_passes_the_call_on() {
        let waiting = Waiting::new(3);
        let (first, second, third) = (waiting.join().unwrap(), waiting.join().unwrap(), waiting.join().unwrap());
        waiting.wake_first();
        drop(first);
        assert!(is_woken(&second) && !is_woken(&third));
        waiting.wake_all();
        assert!(is_woken(&second) && is_woken(&third));
    }
}
