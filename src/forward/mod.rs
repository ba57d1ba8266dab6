//! Forwarding: both directions of one session, driven by one future that owns nothing while nothing moves.
//!
//! It never closes a socket and never decides what an end means to the other side; [`closing`] does the first, the
//! session the second.

pub(crate) mod closing;
mod half;
pub(crate) mod splice;
#[cfg(test)]
mod tests;
pub(crate) mod tls;

use std::cell::{RefCell, RefMut};
use std::future::Future;
use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use self::half::{Half, Moved, Stop};
use self::splice::PipePool;
use crate::clock::Clock;
use crate::detect::{Opening, Openings};
use crate::observe::outcome::{Outcome, Side};
use crate::stream::Stream;
use crate::sys::{self, Health};
use crate::table::{Ask, Close, Entry, Finding};

/// Bytes of the scratch buffer that all sessions of a worker read into.
const SCRATCH: usize = 64 * 1024;

/// What the sessions of one worker share to move bytes.
#[derive(Debug)]
pub(crate) struct Tools {
    /// Read into and written from within one turn; never holds anything between turns.
    pub(crate) scratch: RefCell<Box<[u8]>>,
    /// Beside it, for sessions with TLS of ours: see [`Tools::room`].
    room: RefCell<Vec<u8>>,
    /// Pipes for splice.
    pub(crate) pipes: PipePool,
    /// Buffers for openings.
    pub(crate) openings: Openings,
    /// Coarse time.
    pub(crate) clock: Clock,
}

impl Tools {
    /// Fresh tools for one worker, with at most so many pipes.
    pub(crate) fn new(pipes: usize) -> Tools {
        Tools {
            scratch: RefCell::new(vec![0; SCRATCH].into_boxed_slice()),
            room: RefCell::default(),
            pipes: PipePool::new(pipes),
            openings: Openings::default(),
            clock: Clock::default(),
        }
    }

    /// So many bytes to seal or to open into what is in the scratch buffer, and to write from within the same turn. There are
    /// none until a session needs them.
    fn room(&self, bytes: usize) -> RefMut<'_, [u8]> {
        RefMut::map(self.room.borrow_mut(), |room| {
            if room.len() < bytes {
                room.resize(bytes, 0);
            }
            room.get_mut(..bytes).unwrap_or_default()
        })
    }
}

/// How forwarding ended.
#[derive(Debug)]
pub(crate) enum End {
    /// Both sides have finished and everything was delivered; `Side` finished first.
    Finished(Side),
    /// One side is gone; everything that it sent was written to the other, which must be reset once that is delivered.
    Lost(Side, Outcome),
    /// The client has reset the connection once it had all that the endpoint had sent and ended; `Side` ended first.
    Left(Side),
    /// A side has broken the rules of TLS and was told so by an alert.
    Broken(Side, Box<rustls::Error>),
    /// A limit was reached. `clean` where neither side has anything under way.
    Asked {
        /// Which limit.
        outcome: Outcome,
        /// Whether a plain close tells the truth.
        clean: bool,
    },
    /// The endpoint ended before it answered the opening with a byte. The opening comes back where nothing else was sent
    /// to it, so that it may be sent to another.
    Unanswered(Option<Box<Opening>>),
}

impl End {
    /// Whether it was the endpoint that ended, or was lost, first.
    pub(crate) fn is_the_endpoints(&self) -> bool {
        matches!(self, End::Finished(Side::Endpoint) | End::Lost(Side::Endpoint, _) | End::Broken(Side::Endpoint, _))
    }
}

/// Both directions of one session.
pub(crate) struct Forward<'a> {
    client: &'a Stream,
    endpoint: &'a Stream,
    tools: &'a Tools,
    entry: &'a Entry,
    up: Half,
    down: Half,
    opening: Option<Unspent>,
    /// An opening that asks for something was there to be sent, and no byte of an answer has come.
    awaits_answer: bool,
    /// The endpoint has not sent a byte yet.
    silent: bool,
    first_end: Option<Side>,
    lost: Option<(Side, Outcome)>,
}

/// The opening on its way to the endpoint, and afterwards until it is clear that it arrived.
#[derive(Debug)]
struct Unspent {
    opening: Box<Opening>,
    sent: usize,
}

impl<'a> Forward<'a> {
    /// Forwards between two connected sockets, the opening first.
    pub(crate) fn new(
        client: &'a Stream,
        endpoint: &'a Stream,
        opening: Option<Box<Opening>>,
        tools: &'a Tools,
        entry: &'a Entry,
    ) -> Forward<'a> {
        let awaits_answer = opening.as_ref().is_some_and(|opening| !opening.unread);
        let opening = opening.map(|opening| Unspent { opening, sent: 0 });
        Forward {
            client,
            endpoint,
            tools,
            entry,
            up: Half::default(),
            down: Half::default(),
            awaits_answer,
            silent: true,
            opening,
            first_end: None,
            lost: None,
        }
    }

    fn poll_session(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if let Some(end) = self.answer_ask() {
            return Poll::Ready(end);
        }
        if let Some(stop) = self.poll_down(cx)
            && let Some(end) = self.stopped(Side::Endpoint, stop)
        {
            return Poll::Ready(end);
        }
        if let Some(stop) = self.poll_up(cx)
            && let Some(end) = self.stopped(Side::Client, stop)
        {
            return Poll::Ready(end);
        }
        if self.up.is_running() || self.down.is_running() {
            return Poll::Pending;
        }
        Poll::Ready(
            lost_end(self.lost, self.first_end).unwrap_or(End::Finished(self.first_end.unwrap_or(Side::Client))),
        )
    }

    /// What the loss of a side by this error is called.
    fn loss(&self, side: Side, error: &io::Error) -> Outcome {
        let is_over = self.down.has_ended() && self.lost.is_none();
        lost_outcome(side, error, self.client, is_over.then_some(0))
    }

    fn poll_down(&mut self, cx: &mut Context<'_>) -> Option<Stop> {
        if !self.down.is_running() {
            return None;
        }
        let mut moved = Moved::default();
        let stop = self.down.poll(cx, self.endpoint, self.client, self.tools, &mut moved);
        self.entry.moved(Side::Endpoint, moved.read, moved.written, self.tools.clock.now());
        if moved.read > 0 {
            self.answered();
        }
        ready_or_none(stop)
    }

    fn poll_up(&mut self, cx: &mut Context<'_>) -> Option<Stop> {
        if !self.up.is_running() {
            return None;
        }
        match self.poll_opening(cx) {
            Poll::Pending => return None,
            Poll::Ready(Err(error)) => return Some(Stop::Sink(error)),
            Poll::Ready(Ok(())) => {}
        }
        let mut moved = Moved::default();
        let stop = self.up.poll(cx, self.client, self.endpoint, self.tools, &mut moved);
        self.entry.moved(Side::Client, moved.read, moved.written, self.tools.clock.now());
        if moved.read > 0 {
            self.forget_opening();
        }
        ready_or_none(stop)
    }

    /// Sends the opening, and keeps it as long as it may have to be sent to another endpoint.
    fn poll_opening(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(unspent) = &mut self.opening else { return Poll::Ready(Ok(())) };
        while let Some(left) = unspent.opening.bytes.get(unspent.sent..).filter(|left| !left.is_empty()) {
            let sent = ready!(self.endpoint.poll_send(cx, left))?;
            unspent.sent += sent;
            self.entry.moved(Side::Client, 0, sent, self.tools.clock.now());
        }
        if !unspent.opening.replayable {
            self.forget_opening();
        }
        Poll::Ready(Ok(()))
    }

    /// The endpoint has answered: drops the opening, unless part of it is still to be sent.
    fn answered(&mut self) {
        self.awaits_answer = false;
        if std::mem::take(&mut self.silent) {
            self.entry.answered();
        }
        if let Some(unspent) = &mut self.opening {
            unspent.opening.replayable = false;
            if unspent.sent == unspent.opening.bytes.len() {
                self.forget_opening();
            }
        }
    }

    fn forget_opening(&mut self) {
        if let Some(unspent) = self.opening.take() {
            self.tools.openings.give_back(unspent.opening);
        }
    }

    /// Takes in that the half that reads from `source` has stopped; `Some` where that ends the session.
    fn stopped(&mut self, source: Side, stop: Stop) -> Option<End> {
        // Who has ended does not wait for an answer.
        let waits = self.awaits_answer && self.first_end.is_none();
        if waits && source == Side::Endpoint && !matches!(stop, Stop::Sink(_)) {
            let opening = self.opening.take().map(|unspent| unspent.opening);
            return Some(End::Unanswered(opening.filter(|opening| opening.replayable)));
        }
        match stop {
            Stop::Ended => {
                let (half, sink) = match source {
                    Side::Client => (&mut self.up, self.endpoint),
                    _ => (&mut self.down, self.client),
                };
                if self.first_end.is_some() {
                    // Both sides have ended: the closing of the sockets tells it.
                    half.keep_end_to_itself();
                }
                match half.pass_end_on(sink) {
                    Ok(()) => {
                        self.first_end.get_or_insert(source);
                        self.entry.set_half_closed();
                    }
                    Err(error) => {
                        let side = other(source);
                        self.lose(side, self.loss(side, &error));
                    }
                }
                None
            }
            Stop::Source(error) => {
                let outcome = self.loss(source, &error);
                self.lost.get_or_insert((source, outcome));
                lost_end(self.lost, self.first_end)
            }
            Stop::Sink(error) => {
                let side = other(source);
                self.lose(side, self.loss(side, &error));
                None
            }
        }
    }

    /// One side is gone. Nothing more goes to it; what it has sent may still be readable, so that the other half goes
    /// on until it is not, and does not pass its end on as a clean one.
    fn lose(&mut self, side: Side, outcome: Outcome) {
        self.lost.get_or_insert((side, outcome));
        self.entry.set_half_closed();
        let (from, to) = match side {
            Side::Client => (&mut self.up, &mut self.down),
            _ => (&mut self.down, &mut self.up),
        };
        from.keep_end_to_itself();
        to.break_off(self.tools);
    }

    fn answer_ask(&mut self) -> Option<End> {
        match self.entry.take_ask()? {
            Ask::End { how: Close::OnlyPlain, .. } if self.is_busy() => {
                self.entry.is_busy(self.tools.clock.now());
                None
            }
            Ask::End { outcome, how } => match lost_end(self.lost, self.first_end) {
                // The limit only ends what the loss of a side has begun.
                Some(lost) if how != Close::Reset => Some(lost),
                _ => Some(End::Asked { outcome, clean: how != Close::Reset && !self.holds_bytes() }),
            },
            Ask::Look => {
                // Only now that the session has been silent for a while: short ones go without the system calls.
                self.endpoint.keep_alive();
                [(Side::Client, self.client), (Side::Endpoint, self.endpoint)].into_iter().find_map(|(side, socket)| {
                    // A unix socket has no such thing, and no network that could be cut.
                    let health = sys::tcp_health(socket.as_fd()).unwrap_or_default();
                    self.take_in(side, socket, health)
                })
            }
        }
    }

    /// Whether anything is on its way to either side, or one of them has ended and waits for the other.
    fn is_busy(&self) -> bool {
        self.holds_bytes() || self.first_end.is_some() || has_unsent(self.client) || has_unsent(self.endpoint)
    }

    /// Takes in what a look at one side's connection has found; `Some` where that ends the session.
    fn take_in(&mut self, side: Side, socket: &Stream, health: Health) -> Option<End> {
        if is_dead(&health) {
            let from_it = if side == Side::Client { &self.up } else { &self.down };
            if !from_it.holds_bytes() {
                return Some(End::Lost(side, Outcome::PeerDead));
            }
            // What it sent before is still on its way to the other side; the next look is soon.
            self.lose(side, Outcome::PeerDead);
        }
        if health.closed {
            self.entry.set_half_closed();
            // Its reset waits unread behind bytes that the other side does not take.
            if let Some(error) = socket.take_error() {
                self.lose(side, self.loss(side, &error));
            }
        }
        self.entry.looked(side, finding(&health, socket), self.tools.clock.now());
        None
    }

    /// Holds bytes that have not been sent to where they belong.
    fn holds_bytes(&self) -> bool {
        let opening = self.opening.as_ref().is_some_and(|unspent| unspent.sent < unspent.opening.bytes.len());
        opening || self.up.holds_bytes() || self.down.holds_bytes()
    }
}

impl Future for Forward<'_> {
    type Output = End;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<End> {
        self.get_mut().poll_session(cx)
    }
}

impl Drop for Forward<'_> {
    fn drop(&mut self) {
        self.up.release(self.tools);
        self.down.release(self.tools);
    }
}

/// The verdict on a peer that has been silent: only retransmits or probes that pile up without any acknowledgement
/// condemn it. A peer that merely reads slowly acknowledges every zero-window probe.
fn is_dead(health: &Health) -> bool {
    const SILENCE: Duration = Duration::from_secs(30);
    health.last_ack >= SILENCE && (health.retransmits >= 6 || health.probes >= 3)
}

/// What is known of a peer that is not dead.
fn finding(health: &Health, socket: &Stream) -> Finding {
    if health.retransmits > 0 || health.probes > 0 {
        Finding::Suspect
    } else if has_unsent(socket) {
        Finding::Stalled
    } else {
        Finding::Well
    }
}

/// Whether the kernel has bytes for the peer that it has not acknowledged.
fn has_unsent(socket: &Stream) -> bool {
    sys::unsent(socket.as_fd()).unwrap_or(0) > 0
}

/// How a session ends that has lost a side.
fn lost_end(lost: Option<(Side, Outcome)>, first_end: Option<Side>) -> Option<End> {
    match lost? {
        (_, Outcome::Ok) => Some(End::Left(first_end.unwrap_or(Side::Endpoint))),
        (side, outcome) => Some(End::Lost(side, outcome)),
    }
}

/// `last_words`: the endpoint has ended, and of what was sent to the client since only so many bytes do not matter.
fn lost_outcome(side: Side, error: &io::Error, client: &Stream, last_words: Option<usize>) -> Outcome {
    // Who closes with something unread resets the connection, and so does every browser that has what it wanted.
    let has_all = |last_words| sys::unacknowledged(client.as_fd()).is_some_and(|bytes| bytes <= last_words as u64);
    match (error.kind(), side) {
        (io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable, _) => {
            Outcome::PeerDead
        }
        (_, Side::Client) if last_words.is_some_and(has_all) => Outcome::Ok,
        (_, Side::Client) => Outcome::ClientReset,
        (_, _) => Outcome::EndpointReset,
    }
}

fn other(side: Side) -> Side {
    if side == Side::Client { Side::Endpoint } else { Side::Client }
}

fn ready_or_none<T>(poll: Poll<T>) -> Option<T> {
    match poll {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}
