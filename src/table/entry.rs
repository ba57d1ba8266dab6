//! One live session as others see it: who it is, what it has moved, and what it is asked.

use std::cell::{Cell, OnceCell, RefCell};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant, SystemTime};

use super::{Ask, Close, Finding, Limits, Told, seconds};
use crate::config::model::{Leave, MaxAge};
use crate::listen::senders::Proxied;
use crate::observe::outcome::{Outcome, Side};
use crate::pool::leaving::Cause;
use crate::pool::{Endpoint, is_of};

/// Seconds without a byte from a peer that was sent something, after which its connection is looked at.
const LOOK_AFTER: u32 = 30;
/// Seconds until the next look at a connection that retransmits.
const LOOK_AGAIN: u32 = 5;

/// No socket.
const NONE: RawFd = -1;

/// One live session as others see it. All numbers are written by the session's own task.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) identity: Identity,
    limits: Cell<Limits>,
    ask: Cell<Option<Ask>>,
    waker: RefCell<Option<Waker>>,
    half_closed: Cell<bool>,
    /// It is among those that the table finds by their clients.
    pub(super) is_found_by_client: Cell<bool>,
    client: Activity,
    endpoint: Activity,
    bytes_up: Cell<u64>,
    bytes_down: Cell<u64>,
    account: RefCell<Option<Account>>,
    /// What a proxy has said of it.
    proxied: OnceCell<Box<Proxied>>,
    /// Names of the route and its pool, once they are known.
    names: OnceCell<(Arc<str>, Arc<str>)>,
    /// Since when a connection to the endpoint stands.
    connected: Cell<Option<Instant>>,
    /// Number of the socket of that connection; negative: there is none.
    socket: Cell<RawFd>,
    /// Until then it is not asked again to leave at an idle point: it was not at one.
    busy_until: Cell<u32>,
}

/// What is known of a session from the start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    /// No other session of this process has it.
    pub(crate) id: u64,
    /// Index of the listener.
    pub(crate) listener: usize,
    /// Where whoever connected is, which may be a proxy; `None` behind a unix socket.
    pub(crate) peer: Option<SocketAddr>,
    /// When it was accepted.
    pub(crate) at: Instant,
    /// The same by the calendar.
    pub(crate) start: SystemTime,
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
    pub(crate) fn new(identity: Identity, now: u32, limits: Limits) -> Entry {
        Entry {
            identity,
            limits: Cell::new(limits),
            ask: Cell::default(),
            waker: RefCell::default(),
            half_closed: Cell::default(),
            is_found_by_client: Cell::default(),
            client: Activity::new(now),
            endpoint: Activity::new(now),
            bytes_up: Cell::default(),
            bytes_down: Cell::default(),
            account: RefCell::default(),
            proxied: OnceCell::new(),
            names: OnceCell::new(),
            connected: Cell::default(),
            socket: Cell::new(NONE),
            busy_until: Cell::default(),
        }
    }

    /// A connection to an endpoint stands: the limits of the session's pool count from now.
    pub(crate) fn connected(&self, socket: BorrowedFd<'_>, limits: Limits, now: u32) {
        self.socket.set(socket.as_raw_fd());
        self.limits.set(limits);
        self.connected.set(Some(Instant::now()));
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
        self.disconnected();
        *self.account.borrow_mut() = Some(Account { endpoint: Arc::clone(endpoint), up: 0, down: 0 });
    }

    /// The session leaves its endpoint, for another one or for good: what becomes of that is no longer its business.
    pub(crate) fn disconnected(&self) {
        self.socket.set(NONE);
        self.connected.set(None);
    }

    /// A proxy has said whom it speaks for.
    pub(crate) fn set_proxied(&self, proxied: Proxied) {
        // It does so once.
        let _ = self.proxied.set(Box::new(proxied));
    }

    /// What a proxy has said of it.
    pub(crate) fn proxied(&self) -> Option<&Proxied> {
        self.proxied.get().map(|proxied| &**proxied)
    }

    /// Where the client is; `None` behind a unix socket.
    pub(crate) fn client(&self) -> Option<SocketAddr> {
        self.proxied().map_or(self.identity.peer, |proxied| proxied.client)
    }

    /// The route and its pool are known.
    pub(crate) fn set_route(&self, route: &Arc<str>, pool: &Arc<str>) {
        // A session is routed once.
        let _ = self.names.set((Arc::clone(route), Arc::clone(pool)));
    }

    /// Names of the route and its pool, once they are known.
    pub(crate) fn names(&self) -> (Option<&Arc<str>>, Option<&Arc<str>>) {
        self.names.get().map(|(route, pool)| (route, pool)).unzip()
    }

    /// Whether its route, its pool and its endpoint are called so, where that is asked. A pool's name goes for its parts.
    pub(crate) fn is_of(&self, route: Option<&str>, pool: Option<&str>, endpoint: Option<&str>) -> bool {
        let (own, account) = (self.names(), self.account.borrow());
        let same = |wanted: Option<&str>, is: Option<&Arc<str>>| {
            wanted.is_none_or(|wanted| is.is_some_and(|is| &**is == wanted))
        };
        same(route, own.0)
            && pool.is_none_or(|wanted| own.1.is_some_and(|name| is_of(name, wanted)))
            && same(endpoint, account.as_ref().map(|account| &account.endpoint.name))
    }

    /// Number of the socket that it has with its endpoint.
    pub(crate) fn socket(&self) -> Option<RawFd> {
        Some(self.socket.get()).filter(|socket| *socket != NONE)
    }

    /// Name of the route and the endpoint, while a connection stands.
    pub(crate) fn connection(&self) -> Option<(Arc<str>, Arc<Endpoint>)> {
        self.connected.get()?;
        let endpoint = self.account.borrow().as_ref().map(|account| Arc::clone(&account.endpoint))?;
        self.names().0.map(|route| (Arc::clone(route), endpoint))
    }

    /// It was asked to leave at an idle point, and is not at one.
    pub(crate) fn is_busy(&self, now: u32) {
        let account = self.account.borrow();
        let idle = account.as_ref().map_or(1, |account| seconds(account.endpoint.commons.sessions.idle));
        self.busy_until.set(now.saturating_add(idle));
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
        if !matches!(self.ask.get(), Some(Ask::End { .. })) {
            self.ask.set(Some(ask));
        }
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    /// What is due at `now`; `draining` is for how long the process has been draining.
    pub(super) fn due(&self, now: u32, draining: Option<Duration>) -> Option<Ask> {
        let limits = self.limits.get();
        let silent = now.saturating_sub(self.last_byte());
        let over = |limit: Option<u32>, since: u32| limit.is_some_and(|limit| since > limit);
        if draining.is_some_and(|passed| passed >= limits.drain) {
            return Some(Ask::End { outcome: Outcome::Shutdown, how: Close::Reset });
        }
        if self.half_closed.get() && over(limits.half_close, silent) {
            return Some(Ask::End { outcome: Outcome::HalfClose, how: Close::Plain });
        }
        if over(limits.idle, silent) {
            return Some(Ask::End { outcome: Outcome::Idle, how: Close::Plain });
        }
        if let Some(ask) = self.leave(silent, now) {
            return Some(ask);
        }
        (self.client.wants_look(now) || self.endpoint.wants_look(now)).then_some(Ask::Look)
    }

    /// Whether the session should leave its endpoint, after `silent` seconds without a byte.
    fn leave(&self, silent: u32, now: u32) -> Option<Ask> {
        let connected = self.connected.get()?;
        let account = self.account.borrow();
        let endpoint = &account.as_ref()?.endpoint;
        let rules = &endpoint.commons.sessions;
        let idle = silent > seconds(rules.idle) && now >= self.busy_until.get();
        if let Some((cause, since)) = endpoint.leaving.get()
            && !(cause == Cause::Recovery && connected > since)
        {
            let at_once = if idle { Close::Plain } else { Close::Reset };
            let how = match cause.rule(rules) {
                Leave::Keep => None,
                Leave::Now => Some(at_once),
                Leave::Deadline if since.max(connected).elapsed() >= rules.deadline => Some(at_once),
                Leave::WhenIdle | Leave::Deadline => idle.then_some(Close::OnlyPlain),
            };
            if let Some(how) = how {
                return Some(Ask::End { outcome: cause.outcome(), how });
            }
        }
        let too_old = rules.max_age.is_some_and(|limit| self.identity.is_older_than(&limit));
        let ages = too_old && idle && endpoint.commons.may_age();
        ages.then_some(Ask::End { outcome: Outcome::MaxAge, how: Close::OnlyPlain })
    }

    /// What is told of it to who asks at `now`.
    pub(super) fn tell(&self, now: u32) -> Told {
        let (bytes_up, bytes_down) = self.bytes();
        let account = self.account.borrow();
        let endpoint = account.as_ref().map(|account| &account.endpoint);
        let (route, pool) = self.names();
        Told {
            identity: self.identity,
            client: self.client(),
            is_proxied: self.proxied().is_some(),
            route: route.cloned(),
            pool: pool.cloned(),
            endpoint: endpoint.map(|endpoint| Arc::clone(&endpoint.name)),
            connected: self.connected.get().is_some(),
            bytes_up,
            bytes_down,
            silent: now.saturating_sub(self.last_byte()),
        }
    }

    fn last_byte(&self) -> u32 {
        let (client, endpoint) = (&self.client, &self.endpoint);
        client.heard.get().max(client.told.get()).max(endpoint.heard.get()).max(endpoint.told.get())
    }
}

impl Identity {
    /// Of a session that was just accepted and has nothing to tell.
    pub(crate) fn nobody() -> Identity {
        Identity { id: 1, listener: 0, peer: None, at: Instant::now(), start: SystemTime::now() }
    }

    /// Whether the session is older than the limit, each by a little more or less.
    fn is_older_than(&self, limit: &MaxAge) -> bool {
        // The same for a session each time, and spread over all of them: the fraction of the golden ratio's multiples.
        let spread = (self.id.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as f64 / f64::from(u32::MAX);
        let jitter = f64::from(limit.jitter_percent) / 100.0 * (2.0 * spread - 1.0);
        self.at.elapsed() > limit.age.mul_f64(1.0 + jitter)
    }
}

#[cfg(test)]
mod tests;
