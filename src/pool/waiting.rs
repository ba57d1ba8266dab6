//! Clients that wait for an endpoint: in turn, bounded in number, and woken as soon as there may be one.
//!
//! They belong to the pool and outlive its sets of endpoints. The lock is taken only while somebody waits.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The clients of one pool that wait.
#[derive(Debug)]
pub(crate) struct Waiting {
    most: usize,
    /// Who leaves lets the next one try: what they wait for is not for all.
    in_turn: bool,
    /// Length of the queue, for those who would not take the lock for nothing.
    length: AtomicUsize,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    /// The next ticket.
    next: u64,
    /// Who waits, by ticket.
    waiters: BTreeMap<u64, Waiter>,
}

#[derive(Debug)]
struct Waiter {
    woken: Arc<Notify>,
    /// It could not reach an endpoint that it was given: another chance like that is not for it.
    tried_in_vain: bool,
}

/// One client's place in the queue; given back by Drop.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    waiting: &'a Waiting,
    ticket: u64,
    woken: Arc<Notify>,
}

impl Waiting {
    /// Nobody waits; at most `most` may. `in_turn`: for what only one of them can have, so that who leaves lets the next one
    /// try.
    pub(crate) fn new(most: usize, in_turn: bool) -> Waiting {
        Waiting { most, in_turn, length: AtomicUsize::new(0), queue: Mutex::default() }
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.length.load(Ordering::SeqCst)
    }

    /// Whether somebody waits, behind whom others have to wait too.
    pub(crate) fn has_queue(&self) -> bool {
        self.len() > 0
    }

    /// A place at the end of the queue; `None` if it is full. `tried_in_vain`: it could not reach the endpoint that it was
    /// given.
    pub(crate) fn join(&self, tried_in_vain: bool) -> Option<Place<'_>> {
        let mut queue = self.queue();
        if queue.waiters.len() >= self.most {
            return None;
        }
        let (ticket, woken) = (queue.next, Arc::new(Notify::new()));
        queue.next += 1;
        self.enter(&mut queue, ticket, Waiter { woken: Arc::clone(&woken), tried_in_vain });
        Some(Place { waiting: self, ticket, woken })
    }

    /// A place at an endpoint has become free: wakes who is first.
    pub(crate) fn wake_first(&self) {
        self.wake(|_| true);
    }

    /// There may be a place, at an endpoint that may not be reached: wakes the first of those that have not tried in vain.
    /// The others would only go on to wake each other.
    pub(crate) fn wake_untried(&self) {
        self.wake(|waiter| !waiter.tried_in_vain);
    }

    /// Endpoints have changed: wakes everybody.
    pub(crate) fn wake_all(&self) {
        if self.has_queue() {
            self.queue().waiters.values().for_each(|waiter| waiter.woken.notify_one());
        }
    }

    fn wake(&self, is_meant: impl Fn(&Waiter) -> bool) {
        if self.has_queue()
            && let Some(first) = self.queue().waiters.values().find(|waiter| is_meant(waiter))
        {
            first.woken.notify_one();
        }
    }

    fn enter(&self, queue: &mut Queue, ticket: u64, waiter: Waiter) {
        queue.waiters.insert(ticket, waiter);
        self.length.store(queue.waiters.len(), Ordering::SeqCst);
    }

    /// Whether it was there.
    fn leave(&self, ticket: u64) -> bool {
        let mut queue = self.queue();
        let was_there = queue.waiters.remove(&ticket).is_some();
        self.length.store(queue.waiters.len(), Ordering::SeqCst);
        was_there
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place<'_> {
    /// Waits until it is worth trying. A wake-up before the call counts.
    pub(crate) async fn woken(&self) {
        self.woken.notified().await;
    }

    /// Whether nobody is in front.
    pub(crate) fn is_first(&self) -> bool {
        self.waiting.queue().waiters.first_key_value().is_none_or(|(first, _)| *first >= self.ticket)
    }

    /// Steps out of the queue to try an endpoint, and lets the next one try as well.
    pub(crate) fn step_out(&self) {
        if self.waiting.leave(self.ticket) && self.waiting.in_turn {
            self.waiting.wake_untried();
        }
    }

    /// Has tried in vain: takes the old place again, in front of all who came later, however many wait.
    pub(crate) fn step_back(&self) {
        let waiter = Waiter { woken: Arc::clone(&self.woken), tried_in_vain: true };
        self.waiting.enter(&mut self.waiting.queue(), self.ticket, waiter);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.waiting.leave(self.ticket) && self.waiting.in_turn {
            // It may have been woken for a place that it did not take.
            self.waiting.wake_first();
        }
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
        let waiting = Waiting::new(2, true);
        assert!(!waiting.has_queue());
        let (first, second) = (waiting.join(false).unwrap(), waiting.join(false).unwrap());
        assert!(waiting.join(false).is_none(), "full");
        assert!(first.is_first() && !second.is_first());
        waiting.wake_first();
        assert!(is_woken(&first) && !is_woken(&second));
        assert!(!is_woken(&first), "woken once");
        drop(first);
        assert!(second.is_first());
        assert!(is_woken(&second), "its turn has come");
        drop(second);
        assert_eq!(waiting.len(), 0);
    }

    #[test]
    fn who_leaves_passes_the_call_on() {
        let waiting = Waiting::new(3, true);
        let (first, second, third) =
            (waiting.join(false).unwrap(), waiting.join(false).unwrap(), waiting.join(false).unwrap());
        waiting.wake_first();
        drop(first);
        assert!(is_woken(&second) && !is_woken(&third));
        waiting.wake_all();
        assert!(is_woken(&second) && is_woken(&third));
    }

    #[test]
    fn who_tries_in_vain_has_its_old_place_again() {
        let waiting = Waiting::new(2, true);
        let (first, second) = (waiting.join(false).unwrap(), waiting.join(false).unwrap());
        first.step_out();
        assert!(is_woken(&second), "the next one tries as well");
        let third = waiting.join(false).expect("there is room for another");
        first.step_back();
        assert_eq!(waiting.len(), 3, "it had a place before");
        assert!(first.is_first() && !second.is_first() && !third.is_first());
        first.step_out();
        drop(first);
        assert_eq!(waiting.len(), 2, "left once");
        assert!(second.is_first());
    }

    #[test]
    fn only_a_place_that_became_free_is_for_who_tried_in_vain() {
        let waiting = Waiting::new(3, true);
        let (first, second, third) =
            (waiting.join(true).unwrap(), waiting.join(false).unwrap(), waiting.join(true).unwrap());
        waiting.wake_untried();
        assert!(!is_woken(&first) && is_woken(&second) && !is_woken(&third));
        second.step_out();
        second.step_back();
        waiting.wake_untried();
        assert!(!is_woken(&first) && !is_woken(&second) && !is_woken(&third), "they would wake each other without end");
        waiting.wake_first();
        assert!(is_woken(&first) && !is_woken(&second));
        drop(first);
        assert!(is_woken(&second), "the place may still be free");
    }
}
