//! The session table: one worker's live sessions, and all that acts on them from outside.
//!
//! Sessions carry no timer, select or cancellation token. Once a second the sweep looks at every entry and, where
//! something is due, leaves word in it and wakes the session's task, which acts on its own sockets.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use slab::Slab;
use tokio::sync::Notify;

use crate::observe::outcome::{Outcome, Side};
use crate::pool::Endpoint;

/// Seconds without a byte from a peer that was sent something, after which its connection is looked at.
const LOOK_AFTER: u32 = 30;
/// Seconds until the next look at a connection that retransmits.
const LOOK_AGAIN: u32 = 5;

/// What a look at a side's connection has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// Nothing is under way to it.
    Well,
    /// It has not acknowledged all output, or has no room for it: a slow reader, until it no longer answers.
    Stalled,
    /// It owes answers to retransmits or probes.
    Suspect,
}

/// What the session is asked to do at its next turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// End with this outcome.
    End(Outcome),
    /// Look at TCP_INFO of both sockets.
    Look,
}

/// The limits that a session lives under, the first two in whole seconds; `None` is off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Since the last byte.
    pub(crate) idle: Option<u32>,
    /// Since the last byte, once one side has finished.
    pub(crate) half_close: Option<u32>,
    /// Since draining began.
    pub(crate) drain: Duration,
}

/// Whole seconds that are not less than `duration`.
pub(crate) fn seconds(duration: Duration) -> u32 {
    let whole = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    u32::try_from(whole).unwrap_or(u32::MAX)
}

/// One live session as others see it. All numbers are written by the session's own task.
#[derive(Debug)]
pub(crate) struct Entry {
    limits: Cell<Limits>,
    ask: Cell<Option<Ask>>,
    waker: RefCell<Option<Waker>>,
    half_closed: Cell<bool>,
    client: Activity,
    endpoint: Activity,
    bytes_up: Cell<u64>,
    bytes_down: Cell<u64>,
    account: RefCell<Option<Account>>,
}

/// The endpoint whose counters the session's bytes go to, and how many it has been told of.
#[derive(Debug)]
struct Account {
    endpoint: Arc<Endpoint>,
    up: u64,
    down: u64,
}

/// One side's last signs of life, in coarse seconds.
#[derive(Debug)]
struct Activity {
    /// Last byte received from it.
    heard: Cell<u32>,
    /// Last byte sent to it.
    told: Cell<u32>,
    /// Last look at its connection.
    looked: Cell<u32>,
    /// Seconds from the last look to the next; `None`: none, unless there is something new.
    again: Cell<Option<u32>>,
}

impl Activity {
    fn new(now: u32) -> Activity {
        Activity { heard: Cell::new(now), told: Cell::new(now), looked: Cell::new(now), again: Cell::new(None) }
    }

    /// It was sent something and has been silent for long.
    fn wants_look(&self, now: u32) -> bool {
        let (heard, looked, told) = (self.heard.get(), self.looked.get(), self.told.get());
        let since_look = now.saturating_sub(looked);
        let due = match self.again.get() {
            Some(pause) => since_look >= pause,
            None => since_look >= LOOK_AFTER && told.max(heard) >= looked,
        };
        due && now.saturating_sub(heard) >= LOOK_AFTER
    }
}

impl Entry {
    /// A session that has just been accepted.
    pub(crate) fn new(now: u32, limits: Limits) -> Entry {
        Entry {
            limits: Cell::new(limits),
            ask: Cell::default(),
            waker: RefCell::default(),
            half_closed: Cell::default(),
            client: Activity::new(now),
            endpoint: Activity::new(now),
            bytes_up: Cell::default(),
            bytes_down: Cell::default(),
            account: RefCell::default(),
        }
    }

    /// Sets the limits of the session's pool; they count from now, when a connection to an endpoint stands.
    pub(crate) fn set_limits(&self, limits: Limits, now: u32) {
        self.limits.set(limits);
        self.half_closed.set(false);
        self.client.heard.set(now);
        self.endpoint.heard.set(now);
    }

    /// Bytes delivered: from the client to the endpoint, and back.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        (self.bytes_up.get(), self.bytes_down.get())
    }

    /// Counts bytes read from one side and written to the other.
    pub(crate) fn moved(&self, from: Side, read: usize, written: usize, now: u32) {
        let (source, sink, total) = if from == Side::Client {
            (&self.client, &self.endpoint, &self.bytes_up)
        } else {
            (&self.endpoint, &self.client, &self.bytes_down)
        };
        if read > 0 {
            source.heard.set(now);
        }
        if written > 0 {
            sink.told.set(now);
            total.set(total.get() + written as u64);
        }
    }

    /// From here on the session's bytes count for `endpoint`.
    pub(crate) fn set_endpoint(&self, endpoint: &Arc<Endpoint>) {
        self.publish_bytes();
        // What an earlier endpoint got and did not answer was not delivered.
        self.bytes_up.set(0);
        *self.account.borrow_mut() = Some(Account { endpoint: Arc::clone(endpoint), up: 0, down: 0 });
    }

    /// The endpoint has answered the session with a first byte.
    pub(crate) fn answered(&self) {
        if let Some(account) = self.account.borrow().as_ref() {
            account.endpoint.answered();
        }
    }

    /// Name of the endpoint that the bytes count for.
    pub(crate) fn endpoint_name(&self) -> Option<Arc<str>> {
        self.account.borrow().as_ref().map(|account| Arc::clone(&account.endpoint.name))
    }

    /// Brings the endpoint's byte counters up to date.
    pub(crate) fn publish_bytes(&self) {
        if let Some(account) = self.account.borrow_mut().as_mut() {
            let (up, down) = self.bytes();
            if up > account.up {
                account.endpoint.metrics.bytes_up.increment(up - account.up);
            }
            if down > account.down {
                account.endpoint.metrics.bytes_down.increment(down - account.down);
            }
            (account.up, account.down) = (up, down);
        }
    }

    /// One direction has ended.
    pub(crate) fn set_half_closed(&self) {
        self.half_closed.set(true);
    }

    /// Takes in that a side's connection was looked at and found alive.
    pub(crate) fn looked(&self, side: Side, finding: Finding, now: u32) {
        let activity = if side == Side::Client { &self.client } else { &self.endpoint };
        activity.looked.set(now);
        activity.again.set(match finding {
            Finding::Well => None,
            Finding::Stalled => Some(LOOK_AFTER),
            Finding::Suspect => Some(LOOK_AGAIN),
        });
    }

    /// What the session was asked to do, once.
    pub(crate) fn take_ask(&self) -> Option<Ask> {
        self.ask.take()
    }

    /// Remembers the task to wake when something is asked.
    pub(crate) fn set_waker(&self, waker: Waker) {
        *self.waker.borrow_mut() = Some(waker);
    }

    /// Asks the session for something. An end that was asked for stays asked for.
    pub(crate) fn ask(&self, ask: Ask) {
        if !matches!(self.ask.get(), Some(Ask::End(_))) {
            self.ask.set(Some(ask));
        }
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    /// What is due at `now`; `draining` is for how long the process has been draining.
    fn due(&self, now: u32, draining: Option<Duration>) -> Option<Ask> {
        let limits = self.limits.get();
        let silent = now.saturating_sub(self.last_byte());
        let over = |limit: Option<u32>, since: u32| limit.is_some_and(|limit| since > limit);
        if draining.is_some_and(|passed| passed >= limits.drain) {
            return Some(Ask::End(Outcome::Shutdown));
        }
        if self.half_closed.get() && over(limits.half_close, silent) {
            return Some(Ask::End(Outcome::HalfClose));
        }
        if over(limits.idle, silent) {
            return Some(Ask::End(Outcome::Idle));
        }
        (self.client.wants_look(now) || self.endpoint.wants_look(now)).then_some(Ask::Look)
    }

    fn last_byte(&self) -> u32 {
        let (client, endpoint) = (&self.client, &self.endpoint);
        client.heard.get().max(client.told.get()).max(endpoint.heard.get()).max(endpoint.told.get())
    }
}

/// One worker's live sessions.
#[derive(Debug, Default)]
pub(crate) struct Table {
    entries: RefCell<Slab<Rc<Entry>>>,
    emptied: Notify,
}

impl Table {
    /// Adds a session; it stays until the guard is dropped.
    pub(crate) fn add(self: &Rc<Self>, entry: Entry) -> Registered {
        let entry = Rc::new(entry);
        let key = self.entries.borrow_mut().insert(Rc::clone(&entry));
        Registered { table: Rc::clone(self), key, entry }
    }

    /// Waits until the last session has left.
    pub(crate) async fn emptied(&self) {
        self.emptied.notified().await;
    }

    /// Sessions now.
    pub(crate) fn len(&self) -> usize {
        self.entries.borrow().len()
    }

    /// Whether there is no session.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.borrow().is_empty()
    }

    /// Brings counters up to date and asks every session for what is due.
    pub(crate) fn sweep(&self, now: u32, draining: Option<Duration>) {
        for (_, entry) in self.entries.borrow().iter() {
            entry.publish_bytes();
            if let Some(ask) = entry.due(now, draining) {
                entry.ask(ask);
            }
        }
    }

    /// Asks every session to end.
    pub(crate) fn end_all(&self, outcome: Outcome) {
        for (_, entry) in self.entries.borrow().iter() {
            entry.ask(Ask::End(outcome));
        }
    }

    /// Gives back memory that a spike of sessions left behind.
    pub(crate) fn shrink(&self) {
        self.entries.borrow_mut().shrink_to_fit();
    }
}

/// A session's place in the table.
#[derive(Debug)]
pub(crate) struct Registered {
    table: Rc<Table>,
    key: usize,
    entry: Rc<Entry>,
}

impl std::ops::Deref for Registered {
    type Target = Entry;

    fn deref(&self) -> &Entry {
        &self.entry
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut entries = self.table.entries.borrow_mut();
        entries.remove(self.key);
        if entries.is_empty() {
            self.table.emptied.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { idle: Some(10), half_close: Some(3), drain: Duration::from_secs(5) };

    #[test]
    fn limits_count_from_the_last_byte_and_end_late_rather_than_early() {
        let idle = Some(Ask::End(Outcome::Idle));
        let half_close = Some(Ask::End(Outcome::HalfClose));
        let shutdown = Some(Ask::End(Outcome::Shutdown));
        let never = Limits { idle: None, half_close: None, drain: Duration::MAX };
        let for_ms = |passed| Some(Duration::from_millis(passed));
        // name, limits, half closed, last byte, draining for, now, due
        let cases = [
            ("at the idle limit", LIMITS, false, 100, None, 110, None),
            ("over the idle limit", LIMITS, false, 100, None, 111, idle),
            ("at the half-close limit", LIMITS, true, 100, None, 103, None),
            ("over the half-close limit", LIMITS, true, 100, None, 104, half_close),
            ("half-close counts from the last byte, not from the end", LIMITS, true, 200, None, 203, None),
            ("no half-close limit, but an idle one", Limits { half_close: None, ..LIMITS }, true, 100, None, 111, idle),
            ("no limits", never, true, 100, for_ms(20_000), 120, None),
            ("draining", LIMITS, false, 100, for_ms(4_999), 103, None),
            ("drained", LIMITS, false, 100, for_ms(5_000), 104, shutdown),
            ("drained before idle", LIMITS, true, 100, for_ms(101_000), 200, shutdown),
        ];
        for (name, limits, half_closed, last, draining, now, due) in cases {
            let entry = Entry::new(last - 5, limits);
            entry.moved(Side::Endpoint, 1, 0, last);
            if half_closed {
                entry.set_half_closed();
            }
            assert_eq!(entry.due(now, draining), due, "{name}");
        }
    }

    /// Seconds, of those from 1 to `until`, at which a session is looked at; every look has the same finding.
    fn looks(entry: &Entry, until: u32, finding: Finding, mut each: impl FnMut(u32)) -> Vec<u32> {
        let mut looks = Vec::new();
        for now in 1..=until {
            each(now);
            if entry.due(now, None) == Some(Ask::Look) {
                looks.push(now);
                entry.looked(Side::Client, finding, now);
                entry.looked(Side::Endpoint, Finding::Well, now);
            }
        }
        looks
    }

    fn unlimited() -> Entry {
        Entry::new(0, Limits { drain: Duration::MAX, ..Limits::default() })
    }

    #[test]
    fn who_is_silent_is_looked_at_as_often_as_the_last_look_calls_for() {
        assert_eq!(looks(&unlimited(), 200, Finding::Well, |_| {}), [30], "nothing new since");
        assert_eq!(looks(&unlimited(), 100, Finding::Stalled, |_| {}), [30, 60, 90], "output is stuck");
        assert_eq!(looks(&unlimited(), 46, Finding::Suspect, |_| {}), [30, 35, 40, 45], "it does not answer");
    }

    #[test]
    fn output_to_a_silent_peer_calls_for_another_look() {
        let entry = unlimited();
        let told_at_50 = |now| {
            if now == 50 {
                entry.moved(Side::Endpoint, 1, 1, now);
            }
        };
        assert_eq!(looks(&entry, 200, Finding::Well, told_at_50), [30, 60]);
    }

    #[test]
    fn a_peer_that_is_heard_is_not_looked_at() {
        let entry = unlimited();
        let both_talk = |now| {
            entry.moved(Side::Client, 1, 1, now);
            entry.moved(Side::Endpoint, 1, 1, now);
        };
        assert!(looks(&entry, 200, Finding::Well, both_talk).is_empty());
    }

    #[test]
    fn an_end_that_was_asked_for_stays_asked_for_and_is_taken_once() {
        let entry = unlimited();
        entry.ask(Ask::Look);
        entry.ask(Ask::End(Outcome::Idle));
        entry.ask(Ask::Look);
        entry.ask(Ask::End(Outcome::Shutdown));
        assert_eq!(entry.take_ask(), Some(Ask::End(Outcome::Idle)));
        assert_eq!(entry.take_ask(), None);
    }
}
