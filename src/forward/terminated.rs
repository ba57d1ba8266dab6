//! Forwarding of a session whose TLS ends here: records of the client on one side, plain bytes of the endpoint on the
//! other. While nothing moves it owns no buffer.
//!
//! Every byte is opened or sealed in buffers of the worker and goes straight out; only what the sink would not take is kept,
//! and then its source is not read until that is gone.

#[cfg(test)]
mod tests;

use std::future::Future;
use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustls::Error;

use super::half::TURN;
use super::{End, SCRATCH, Tools, finding, has_unsent, is_dead, lost_outcome, other};
use crate::observe::outcome::{Outcome, Side};
use crate::stream::Stream;
use crate::sys;
use crate::table::{Ask, Close, Entry};
use crate::tls::handshake::{self, Accepted};
use crate::tls::sealed::Sealed;

/// Bytes of the endpoint that are sealed at once: three full records.
const PIECE: usize = 48 * 1024;

/// Both directions of one terminated session.
pub(crate) struct Terminated<'a> {
    client: &'a Stream,
    endpoint: &'a Stream,
    tools: &'a Tools,
    entry: &'a Entry,
    sealed: Sealed,
    /// Records for the client that its socket did not take.
    outgoing: Kept,
    /// How many plain bytes are in the last of them, which count as delivered once that was taken.
    sealed_bytes: usize,
    /// Plain bytes for the endpoint that its socket did not take.
    plain: Kept,
    up: Phase,
    down: Phase,
    first_end: Option<Side>,
    lost: Option<(Side, Outcome)>,
    /// The endpoint has not sent a byte yet.
    silent: bool,
}

/// What a sink would not take.
#[derive(Debug, Default)]
struct Kept {
    bytes: Vec<u8>,
    sent: usize,
}

/// Where one direction is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    /// Its source has ended; what is kept is still to be sent.
    Ending,
    Ended,
}

/// Why a direction cannot go on.
enum Stop {
    /// The endpoint has ended before it answered.
    Unanswered,
    /// A side cannot be read any more.
    Source(Side, io::Error),
    /// A side takes no more.
    Sink(Side, io::Error),
    /// A side broke the rules of TLS.
    Broken(Error),
}

impl<'a> Terminated<'a> {
    /// Forwards between a client whose handshake is over and a connected endpoint.
    pub(crate) fn new(
        client: &'a Stream,
        endpoint: &'a Stream,
        accepted: Box<Accepted>,
        tools: &'a Tools,
        entry: &'a Entry,
    ) -> Terminated<'a> {
        let Accepted { sealed, plain, opening } = *accepted;
        tools.openings.give_back(opening);
        entry.moved(Side::Client, plain.len(), 0, tools.clock.now());
        let up = if sealed.has_peer_closed() { Phase::Ending } else { Phase::Running };
        Terminated {
            client,
            endpoint,
            tools,
            entry,
            sealed,
            outgoing: Kept::default(),
            sealed_bytes: 0,
            plain: Kept { bytes: plain, sent: 0 },
            up,
            down: Phase::Running,
            first_end: None,
            lost: None,
            silent: true,
        }
    }

    fn poll_session(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if let Some(end) = self.answer_ask() {
            return Poll::Ready(end);
        }
        loop {
            let stop = match self.poll_down(cx) {
                Ok(()) => self.poll_up(cx),
                stopped => stopped,
            };
            match stop {
                Ok(()) => break,
                Err(Stop::Unanswered) => {
                    self.sealed.close();
                    let _ = self.flush_down(cx);
                    // It was told what the client said, which cannot be said again to another.
                    return Poll::Ready(End::Unanswered(None));
                }
                Err(Stop::Source(side, error)) => self.lose_source(side, &error),
                Err(Stop::Sink(side, error)) => self.lose(side, &error),
                Err(Stop::Broken(Error::EncryptError)) => {
                    return Poll::Ready(End::Asked { outcome: Outcome::KeysUsedUp, clean: false });
                }
                Err(Stop::Broken(why)) => {
                    tracing::debug!("TLS was broken: {why}");
                    // The alert goes out as far as it can: the session ends in any case.
                    let _ = self.flush_down(cx);
                    return Poll::Ready(End::Lost(Side::Client, Outcome::TlsBroken));
                }
            }
        }
        if (self.up, self.down) != (Phase::Ended, Phase::Ended) {
            return Poll::Pending;
        }
        Poll::Ready(match self.lost {
            Some((side, outcome)) => End::Lost(side, outcome),
            None => End::Finished(self.first_end.unwrap_or(Side::Client)),
        })
    }

    /// A side can no longer be read: what it has sent is still to be delivered.
    fn lose_source(&mut self, side: Side, error: &io::Error) {
        self.lose(side, error);
        let from_it = if side == Side::Client { &mut self.up } else { &mut self.down };
        if *from_it == Phase::Running {
            *from_it = Phase::Ending;
        }
    }

    /// A side is gone. Nothing more goes to it; what it has sent may still be readable, and its end is not passed on as a
    /// clean one.
    fn lose(&mut self, side: Side, error: &io::Error) {
        self.lost.get_or_insert((side, lost_outcome(side, error)));
        self.entry.set_half_closed();
        match side {
            Side::Client => {
                self.down = Phase::Ended;
                self.outgoing = Kept::default();
                self.sealed_bytes = 0;
                self.sealed.sent(usize::MAX);
            }
            _ => {
                self.up = Phase::Ended;
                self.plain = Kept::default();
            }
        }
    }

    /// From the endpoint to the client.
    fn poll_down(&mut self, cx: &mut Context<'_>) -> Result<(), Stop> {
        let lost = |error| Stop::Sink(Side::Client, error);
        let mut moved = 0;
        while self.flush_down(cx).map_err(lost)? && self.reads_on(Side::Endpoint, moved, cx)? {
            let mut scratch = self.tools.scratch.borrow_mut();
            let piece = scratch.get_mut(..PIECE).unwrap_or_default();
            let received = match self.endpoint.poll_recv(cx, piece) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Err(_) | Ok(0)) if self.silent && self.waits() => return Err(Stop::Unanswered),
                Poll::Ready(Err(error)) => return Err(Stop::Source(Side::Endpoint, error)),
                Poll::Ready(Ok(received)) => received,
            };
            if received == 0 {
                if self.lost.is_none() {
                    self.sealed.close();
                }
                self.down = Phase::Ending;
                continue;
            }
            if std::mem::take(&mut self.silent) {
                self.entry.answered();
            }
            moved += received;
            self.entry.moved(Side::Endpoint, received, 0, self.tools.clock.now());
            let plain = scratch.get(..received).unwrap_or_default();
            let mut records = self.tools.room(self.sealed.room_for(received));
            let length = self.sealed.seal(plain, &mut records).map_err(Stop::Broken)?;
            self.sealed_bytes = received;
            let records = records.get(..length).unwrap_or_default();
            let sent = send(self.client, cx, records).map_err(lost)?;
            if self.outgoing.keep(records, sent) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Sends what is kept for the client, and what the connection itself has to say; whether all of it went.
    fn flush_down(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        self.outgoing.send(self.client, cx)?;
        if !self.outgoing.is_empty() {
            return Ok(false);
        }
        let delivered = std::mem::take(&mut self.sealed_bytes);
        self.entry.moved(Side::Endpoint, 0, delivered, self.tools.clock.now());
        let outgoing = self.sealed.outgoing();
        let sent = match self.down {
            // The end of the connection follows at once on that of TLS.
            Phase::Ending => send_by(outgoing, |left| self.client.poll_send_ahead(cx, left))?,
            _ => send(self.client, cx, outgoing)?,
        };
        self.sealed.sent(sent);
        Ok(self.sealed.outgoing().is_empty())
    }

    /// From the client to the endpoint.
    fn poll_up(&mut self, cx: &mut Context<'_>) -> Result<(), Stop> {
        let lost = |error| Stop::Sink(Side::Endpoint, error);
        let mut moved = 0;
        while self.flush_up(cx).map_err(lost)? && self.reads_on(Side::Client, moved, cx)? {
            let mut scratch = self.tools.scratch.borrow_mut();
            let before = self.sealed.put_unopened(&mut scratch);
            let received = match self.client.poll_recv(cx, scratch.get_mut(before..).unwrap_or_default()) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Err(error)) => return Err(Stop::Source(Side::Client, error)),
                Poll::Ready(Ok(received)) => received,
            };
            if received == 0 {
                // What comes without an end of its own may have been cut short; whoever reads it has to know by its contents,
                // as with every proxy.
                self.up = Phase::Ending;
                continue;
            }
            // What is sealed costs as much to open as what is in it, and more if that is little.
            moved += received;
            self.entry.moved(Side::Client, received, 0, self.tools.clock.now());
            let incoming = scratch.get_mut(..before + received).unwrap_or_default();
            let mut plain = self.tools.room(SCRATCH);
            let mut length = 0;
            let opened = self.sealed.open(incoming, |payload| {
                let end = length + payload.len();
                plain.get_mut(length..end).unwrap_or_default().copy_from_slice(payload);
                length = end;
            });
            let plain = plain.get(..length).unwrap_or_default();
            let sent = send(self.endpoint, cx, plain).map_err(lost)?;
            self.entry.moved(Side::Client, 0, sent, self.tools.clock.now());
            let is_full = self.plain.keep(plain, sent);
            // What came before the rules were broken is good.
            opened.map_err(Stop::Broken)?;
            if self.sealed.has_peer_closed() {
                self.up = Phase::Ending;
            }
            if is_full {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Sends what is kept for the endpoint; whether all of it went.
    fn flush_up(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let sent = self.plain.send(self.endpoint, cx)?;
        self.entry.moved(Side::Client, 0, sent, self.tools.clock.now());
        Ok(self.plain.is_empty())
    }

    /// Whether `source` is to be read on, after so many bytes of it in this turn. If it has ended its end is passed on, for all
    /// that it sent was delivered.
    fn reads_on(&mut self, source: Side, moved: usize, cx: &mut Context<'_>) -> Result<bool, Stop> {
        let (phase, opposite, sink) = match source {
            Side::Client => (&mut self.up, self.down, self.endpoint),
            _ => (&mut self.down, self.up, self.client),
        };
        match phase {
            Phase::Running if moved < TURN => return Ok(true),
            Phase::Running => cx.waker().wake_by_ref(),
            Phase::Ending => {
                *phase = Phase::Ended;
                self.first_end.get_or_insert(source);
                self.entry.set_half_closed();
                // The sink may still have to say something; once it has not, closing the socket tells it.
                if opposite != Phase::Ended && self.lost.is_none() {
                    sink.shutdown_write().map_err(|error| Stop::Sink(other(source), error))?;
                }
            }
            Phase::Ended => {}
        }
        Ok(false)
    }

    /// Whether the client has said something and waits for an answer.
    fn waits(&self) -> bool {
        self.entry.bytes().0 > 0 && self.first_end.is_none() && self.lost.is_none()
    }

    fn answer_ask(&mut self) -> Option<End> {
        match self.entry.take_ask()? {
            Ask::End { how: Close::OnlyPlain, .. } if self.is_busy() => {
                self.entry.is_busy(self.tools.clock.now());
                None
            }
            Ask::End { how, .. } if how != Close::Reset && self.lost.is_some() => {
                self.lost.map(|(side, outcome)| End::Lost(side, outcome))
            }
            Ask::End { outcome, how } => {
                let clean = how != Close::Reset && !self.holds_bytes();
                if clean && self.down == Phase::Running {
                    // A plain end in TLS has to be said, or the client takes it for a cut.
                    handshake::part(&mut self.sealed, self.client);
                }
                Some(End::Asked { outcome, clean })
            }
            Ask::Look => {
                self.endpoint.keep_alive();
                let sides = [(Side::Client, self.client), (Side::Endpoint, self.endpoint)];
                sides.into_iter().find_map(|(side, socket)| self.look(side, socket))
            }
        }
    }

    /// Looks at one side's connection; `Some` where that ends the session.
    fn look(&mut self, side: Side, socket: &Stream) -> Option<End> {
        // A unix socket has no such thing, and no network that could be cut.
        let health = sys::tcp_health(socket.as_fd()).unwrap_or_default();
        if is_dead(&health) {
            let from_it = if side == Side::Client { &self.plain } else { &self.outgoing };
            if from_it.is_empty() {
                return Some(End::Lost(side, Outcome::PeerDead));
            }
            // What it sent before is still on its way to the other side.
            self.lose_source(side, &io::ErrorKind::TimedOut.into());
        }
        if health.closed
            && let Some(error) = socket.take_error()
        {
            // Its reset waits unread behind bytes that the other side does not take.
            self.lose(side, &error);
        }
        self.entry.looked(side, finding(&health, socket), self.tools.clock.now());
        None
    }

    fn is_busy(&self) -> bool {
        self.holds_bytes() || self.first_end.is_some() || has_unsent(self.client) || has_unsent(self.endpoint)
    }

    fn holds_bytes(&self) -> bool {
        !self.outgoing.is_empty() || !self.plain.is_empty()
    }
}

impl Kept {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Keeps all but the first `sent` bytes; whether those are any.
    fn keep(&mut self, bytes: &[u8], sent: usize) -> bool {
        let left = bytes.get(sent..).unwrap_or_default();
        self.bytes.extend_from_slice(left);
        !left.is_empty()
    }

    /// Sends as much of it as `sink` takes now. Gives how many bytes that was.
    fn send(&mut self, sink: &Stream, cx: &mut Context<'_>) -> io::Result<usize> {
        let sent = send(sink, cx, self.bytes.get(self.sent..).unwrap_or_default())?;
        self.sent += sent;
        if self.sent == self.bytes.len() {
            *self = Kept::default();
        }
        Ok(sent)
    }
}

/// Sends as much as `sink` takes now. Gives how many bytes that was; if not all, the task is woken when it takes more.
fn send(sink: &Stream, cx: &mut Context<'_>, bytes: &[u8]) -> io::Result<usize> {
    send_by(bytes, |left| sink.poll_send(cx, left))
}

/// The same by whatever call.
fn send_by(bytes: &[u8], mut call: impl FnMut(&[u8]) -> Poll<io::Result<usize>>) -> io::Result<usize> {
    let mut sent = 0;
    while let Some(left) = bytes.get(sent..).filter(|left| !left.is_empty()) {
        match call(left)? {
            Poll::Ready(more) => sent += more,
            Poll::Pending => break,
        }
    }
    Ok(sent)
}

impl Future for Terminated<'_> {
    type Output = End;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<End> {
        self.get_mut().poll_session(cx)
    }
}
