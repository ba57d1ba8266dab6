//! The session table: one worker's live sessions, and all that acts on them from outside.
//!
//! Sessions carry no timer, select or cancellation token. Once a second the sweep looks at every entry and, where
//! something is due, leaves word in it and wakes the session's task, which acts on its own sockets.

mod entry;

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use slab::Slab;
use tokio::sync::Notify;

pub(crate) use self::entry::{Entry, Identity};
use crate::observe::outcome::Outcome;
use crate::pool::Endpoint;

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
    End {
        /// What it is called.
        outcome: Outcome,
        /// In which way.
        how: Close,
    },
    /// Look at TCP_INFO of both sockets.
    Look,
}

/// In which way a session is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Close {
    /// With a reset, so that nobody takes it for its own end.
    Reset,
    /// With a plain end if nothing is under way, else with a reset.
    Plain,
    /// With a plain end, and not at all while something is under way.
    OnlyPlain,
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

/// What is told of one session.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) identity: Identity,
    /// Where the client is; `None` behind a unix socket.
    pub(crate) client: Option<SocketAddr>,
    /// Whoever connected has spoken for the client.
    pub(crate) is_proxied: bool,
    pub(crate) route: Option<Arc<str>>,
    pub(crate) pool: Option<Arc<str>>,
    pub(crate) endpoint: Option<Arc<str>>,
    /// A connection to the endpoint stands.
    pub(crate) connected: bool,
    pub(crate) bytes_up: u64,
    pub(crate) bytes_down: u64,
    /// Seconds without a byte.
    pub(crate) silent: u32,
}

/// One worker's live sessions.
#[derive(Debug, Default)]
pub(crate) struct Table {
    entries: RefCell<Slab<Rc<Entry>>>,
    /// Sessions by listener and client, where somebody may ask for those of one client.
    clients: RefCell<HashMap<(usize, Option<IpAddr>), usize>>,
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
            entry.ask(Ask::End { outcome, how: Close::Reset });
        }
    }

    /// Tells of those sessions that `wanted` picks, as far as there is `room`, which gets smaller; and how many they are.
    pub(crate) fn list(&self, now: u32, room: &AtomicUsize, wanted: impl Fn(&Entry) -> bool) -> (Vec<Told>, usize) {
        let (mut listed, mut count) = (Vec::new(), 0);
        for (_, entry) in self.entries.borrow().iter().filter(|(_, entry)| wanted(entry)) {
            count += 1;
            if room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |room| room.checked_sub(1)).is_ok() {
                listed.push(entry.tell(now));
            }
        }
        (listed, count)
    }

    /// Tells of those sessions of which `find` finds something, and of what that is.
    pub(crate) fn find<T>(&self, now: u32, find: impl Fn(&Entry) -> Option<T>) -> Vec<(Told, T)> {
        let entries = self.entries.borrow();
        let found = entries.iter().filter_map(|(_, entry)| find(entry).map(|found| (entry, found)));
        found.map(|(entry, found)| (entry.tell(now), found)).collect()
    }

    /// Endpoints with a session of this listener and client, on one `route` or on any, each with its route's name; of those
    /// that are [`Registered::known_by_client`]. Costs nobody anything who has none.
    pub(crate) fn connected(
        &self,
        listener: usize,
        client: Option<IpAddr>,
        route: Option<&str>,
    ) -> Vec<(Arc<str>, Arc<Endpoint>)> {
        if !self.clients.borrow().contains_key(&(listener, client)) {
            return Vec::new();
        }
        let entries = self.entries.borrow();
        let own = entries.iter().map(|(_, entry)| entry).filter(|entry| {
            entry.identity.listener == listener
                && entry.client().map(|from| from.ip()) == client
                && entry.is_of(route, None, None)
        });
        let mut found: Vec<(Arc<str>, Arc<Endpoint>)> = own.filter_map(|entry| entry.connection()).collect();
        found.sort_by_key(|(_, endpoint)| Arc::as_ptr(endpoint));
        found.dedup_by_key(|(_, endpoint)| Arc::as_ptr(endpoint));
        found
    }

    /// Asks those sessions to end that `wanted` picks; how many they are.
    pub(crate) fn kill(&self, wanted: impl Fn(&Entry) -> bool) -> usize {
        let entries = self.entries.borrow();
        let chosen = entries.iter().filter(|(_, entry)| wanted(entry));
        chosen.map(|(_, entry)| entry.ask(Ask::End { outcome: Outcome::Killed, how: Close::Reset })).count()
    }

    /// Gives back memory that a spike of sessions left behind.
    pub(crate) fn shrink(&self) {
        self.entries.borrow_mut().shrink_to_fit();
        self.clients.borrow_mut().shrink_to_fit();
    }
}

/// A session's place in the table.
#[derive(Debug)]
pub(crate) struct Registered {
    table: Rc<Table>,
    key: usize,
    entry: Rc<Entry>,
}

impl Registered {
    /// From here on it is found by its client, who is known.
    pub(crate) fn known_by_client(&self) {
        if !self.entry.is_found_by_client.replace(true) {
            *self.table.clients.borrow_mut().entry(self.client_key()).or_default() += 1;
        }
    }

    fn client_key(&self) -> (usize, Option<IpAddr>) {
        (self.entry.identity.listener, self.entry.client().map(|client| client.ip()))
    }
}

impl std::ops::Deref for Registered {
    type Target = Entry;

    fn deref(&self) -> &Entry {
        &self.entry
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        if self.entry.is_found_by_client.get() {
            let mut clients = self.table.clients.borrow_mut();
            let key = self.client_key();
            match clients.get_mut(&key) {
                Some(sessions) if *sessions > 1 => *sessions -= 1,
                _ => drop(clients.remove(&key)),
            }
        }
        let mut entries = self.table.entries.borrow_mut();
        entries.remove(self.key);
        if entries.is_empty() {
            self.table.emptied.notify_one();
        }
    }
}
