//! Forwarding of a session with TLS of ours on one side or both: records there, plain bytes between. While nothing moves it
//! owns no buffer.
//!
//! Every byte is opened or sealed in buffers of the worker and goes straight out; only what the sink would not take is kept,
//! and then its source is not read until that is gone.

mod party;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustls::Error;

use self::party::{Kept, Party, Phase, Stop, send, send_ahead};
use super::half::TURN;
use super::{End, SCRATCH, Tools, finding, has_unsent, is_dead, lost_end, lost_outcome, other};
use crate::detect::Opening;
use crate::observe::outcome::{Outcome, Side};
use crate::refusal::Manner;
use crate::stream::Stream;
use crate::sys;
use crate::table::{Ask, Close, Entry};
use crate::tls::handshake::{self, Accepted, Joined};

/// Bytes that are taken at once where what was opened is sealed again: with what that adds they have room in the scratch
/// buffer.
const PIECE: usize = 48 * 1024;
/// What a full scratch buffer may come to when it is sealed.
const ROOM: usize = SCRATCH + 2 * 1024;

/// Both directions of one session.
pub(crate) struct ForwardTls<'a> {
    client: Party<'a>,
    endpoint: Party<'a>,
    tools: &'a Tools,
    entry: &'a Entry,
    first_end: Option<Side>,
    lost: Option<(Side, Outcome)>,
    /// Who has broken the rules of TLS, and how.
    broken: Option<(Side, Box<Error>)>,
    /// The endpoint has not sent a byte yet.
    silent: bool,
    /// A client in clear has said what the endpoint has to answer.
    awaits_answer: bool,
    /// How a client in TLS can be told that it is not served.
    manner: Manner,
}

impl<'a> ForwardTls<'a> {
    /// Forwards between a client and a connected endpoint, with whichever of them a handshake is over; the opening first of a
    /// client in clear. `manner` is how a client in TLS is told if the endpoint ends without a byte.
    pub(crate) fn new(
        (client, accepted, opening): (&'a Stream, Option<Box<Accepted>>, Option<Box<Opening>>),
        (endpoint, joined): (&'a Stream, Option<Box<Joined>>),
        manner: Manner,
        tools: &'a Tools,
        entry: &'a Entry,
    ) -> ForwardTls<'a> {
        let awaits_answer = accepted.is_none() && opening.is_some();
        let (client_tls, up) = match (accepted.map(|accepted| *accepted), opening) {
            (Some(Accepted { sealed, plain, opening }), _) => {
                tools.openings.give_back(opening);
                (Some(sealed), plain)
            }
            (None, Some(mut opening)) => {
                let said = std::mem::take(&mut opening.bytes);
                tools.openings.give_back(opening);
                (None, said)
            }
            (None, None) => (None, Vec::new()),
        };
        let (endpoint_tls, down) = joined.map_or((None, Vec::new()), |joined| (Some(joined.sealed), joined.plain));
        let silent = down.is_empty();
        let mut new = ForwardTls {
            client: Party::new(client, client_tls),
            endpoint: Party::new(endpoint, endpoint_tls),
            tools,
            entry,
            first_end: None,
            lost: None,
            broken: None,
            silent,
            awaits_answer,
            manner,
        };
        if !silent {
            entry.answered();
        }
        for (source, plain) in [(Side::Client, up), (Side::Endpoint, down)] {
            new.entry.moved(source, plain.len(), 0, tools.clock.now());
            let (from, to) = new.sides(source);
            let (put, has_closed) = (to.put_first(plain), from.has_closed());
            if let Err(why) = put {
                new.broken = Some((other(source), Box::new(why)));
                new.lose_source(other(source), &io::ErrorKind::InvalidData.into());
            }
            if has_closed {
                new.ended(source, true);
            }
        }
        new
    }

    fn poll_session(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if let Some(end) = self.answer_ask() {
            return Poll::Ready(end);
        }
        loop {
            let stop = match self.poll_from(Side::Endpoint, cx) {
                Ok(()) => self.poll_from(Side::Client, cx),
                stopped => stopped,
            };
            match stop {
                Ok(()) => break,
                Err(Stop::Unanswered { said }) => {
                    match &mut self.client.tls {
                        // Where there are words for it, an end is not taken for an empty answer.
                        Some(tls) if self.manner != Manner::Silent => {
                            handshake::say(tls, self.client.stream, &self.manner.words(Outcome::EndpointSilent));
                        }
                        // A cut is passed on as one, or it would be taken for that.
                        Some(tls) if said => tls.close(),
                        _ => {}
                    }
                    let _ = self.flush_to(Side::Client, cx);
                    // It was told what the client said, which cannot be said again to another.
                    return Poll::Ready(End::Unanswered(None));
                }
                Err(Stop::Source(side, error)) => self.lose_source(side, &error),
                Err(Stop::Sink(side, error)) => self.lose(side, &error),
                Err(Stop::Broken(_, Error::EncryptError)) => {
                    return Poll::Ready(End::Asked { outcome: Outcome::KeysUsedUp, clean: false });
                }
                Err(Stop::Broken(side, why)) => {
                    // The alert goes out as far as it can: nothing else will. What came before is still to be delivered.
                    let _ = self.flush_to(side, cx);
                    self.broken.get_or_insert((side, Box::new(why)));
                    self.lose_source(side, &io::ErrorKind::InvalidData.into());
                }
            }
        }
        if (self.client.phase, self.endpoint.phase) != (Phase::Ended, Phase::Ended) {
            return Poll::Pending;
        }
        Poll::Ready(match (self.broken.take(), lost_end(self.lost, self.first_end)) {
            (Some((side, why)), _) => End::Broken(side, why),
            (None, Some(lost)) => lost,
            (None, None) => End::Finished(self.first_end.unwrap_or(Side::Client)),
        })
    }

    /// Who is read from, and who gets it.
    fn sides(&mut self, source: Side) -> (&mut Party<'a>, &mut Party<'a>) {
        match source {
            Side::Client => (&mut self.client, &mut self.endpoint),
            _ => (&mut self.endpoint, &mut self.client),
        }
    }

    /// A side can no longer be read: what it has sent is still to be delivered.
    fn lose_source(&mut self, side: Side, error: &io::Error) {
        self.lose(side, error);
        let (lost, _) = self.sides(side);
        if lost.phase == Phase::Running {
            lost.phase = Phase::Ending;
        }
    }

    /// A side is gone. Nothing more goes to it; what it has sent may still be readable, and its end is not passed on as a
    /// clean one.
    fn lose(&mut self, side: Side, error: &io::Error) {
        let is_over = self.endpoint.phase == Phase::Ended && self.lost.is_none() && self.broken.is_none();
        let outcome = lost_outcome(side, error, self.client.stream, is_over.then_some(self.client.last_words));
        self.lost.get_or_insert((side, outcome));
        self.entry.set_half_closed();
        let (lost, left) = self.sides(side);
        left.phase = Phase::Ended;
        (lost.kept, lost.sealed) = (Kept::default(), 0);
        lost.tls.iter_mut().for_each(|tls| tls.sent(usize::MAX));
    }

    /// A side sends nothing more. `said`: in a way that nobody else could have done it for it.
    fn ended(&mut self, source: Side, said: bool) {
        let passed_on = said && self.lost.is_none();
        let (from, to) = self.sides(source);
        from.phase = Phase::Ending;
        if let Some(tls) = to.tls.as_mut().filter(|_| passed_on) {
            let before = tls.outgoing().len();
            tls.close();
            to.last_words = tls.outgoing().len() - before;
        }
    }

    /// From one side to the other.
    fn poll_from(&mut self, source: Side, cx: &mut Context<'_>) -> Result<(), Stop> {
        let (tools, entry, mut moved) = (self.tools, self.entry, 0);
        while self.flush_to(other(source), cx)? && self.reads_on(source, moved, cx)? {
            let waits = source == Side::Endpoint && self.waits();
            let (from, to) = self.sides(source);
            let mut scratch = tools.scratch.borrow_mut();
            let before = from.tls.as_ref().map_or(0, |tls| tls.put_unopened(&mut scratch));
            let most = if from.tls.is_some() && to.tls.is_some() { PIECE } else { SCRATCH };
            let received = match from.stream.poll_recv(cx, scratch.get_mut(before..most).unwrap_or_default()) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(0)) if waits => return Err(Stop::Unanswered { said: from.tls.is_none() }),
                Poll::Ready(Err(_)) if waits => return Err(Stop::Unanswered { said: false }),
                Poll::Ready(Err(error)) => return Err(Stop::Source(source, error)),
                Poll::Ready(Ok(received)) => received,
            };
            if received == 0 {
                // What comes in TLS without an end of its own may have been cut short by anybody. It is passed on like that.
                let said = from.tls.is_none();
                self.ended(source, said);
                continue;
            }
            // What is sealed costs as much to open as what is in it, and more if that is little.
            moved += received;
            entry.moved(source, received, 0, tools.clock.now());
            let mut room = tools.room(ROOM);
            let incoming = scratch.get_mut(..before + received).unwrap_or_default();
            let (length, opened) = from.open(incoming, &mut room);
            // What was opened is in the one buffer, and the other one is free to seal it into.
            let (plain, space) = match from.tls {
                Some(_) => (&*room, &mut scratch[..]),
                None => (&scratch[..], &mut *room),
            };
            let plain = plain.get(..length).unwrap_or_default();
            let sent = to.put(other(source), plain, space, cx)?;
            let (is_full, has_closed) = (!to.kept.is_empty(), from.has_closed());
            drop((scratch, room));
            entry.moved(source, 0, sent, tools.clock.now());
            if source == Side::Endpoint && length > 0 && std::mem::take(&mut self.silent) {
                entry.answered();
            }
            // What came before the rules were broken is good.
            opened.map_err(|why| Stop::Broken(source, why))?;
            if has_closed {
                if waits && self.silent {
                    return Err(Stop::Unanswered { said: true });
                }
                self.ended(source, true);
            }
            if is_full {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Sends what is kept for a side, and what its connection itself has to say; whether all of it went.
    fn flush_to(&mut self, side: Side, cx: &mut Context<'_>) -> Result<bool, Stop> {
        let (tools, entry) = (self.tools, self.entry);
        let (to, from) = self.sides(side);
        let lost = |error| Stop::Sink(side, error);
        let sent = to.kept.send(to.stream, cx).map_err(lost)?;
        let Some(tls) = &mut to.tls else {
            entry.moved(other(side), 0, sent, tools.clock.now());
            return Ok(to.kept.is_empty());
        };
        if !to.kept.is_empty() {
            return Ok(false);
        }
        entry.moved(other(side), 0, std::mem::take(&mut to.sealed), tools.clock.now());
        let sent = match from.phase {
            // The end of the connection follows at once on that of TLS.
            Phase::Ending => send_ahead(to.stream, cx, tls.outgoing()),
            _ => send(to.stream, cx, tls.outgoing()),
        };
        let sent = sent.map_err(lost)?;
        tls.sent(sent);
        Ok(tls.outgoing().is_empty())
    }

    /// Whether `source` is to be read on, after so many bytes of it in this turn. If it has ended its end is passed on, for all
    /// that it sent was delivered.
    fn reads_on(&mut self, source: Side, moved: usize, cx: &mut Context<'_>) -> Result<bool, Stop> {
        let is_lost = self.lost.is_some();
        let (from, to) = self.sides(source);
        match from.phase {
            Phase::Running if moved < TURN => return Ok(true),
            Phase::Running => cx.waker().wake_by_ref(),
            Phase::Ending => {
                from.phase = Phase::Ended;
                // The sink may still have to say something; once it has not, closing the socket tells it.
                let told = to.phase == Phase::Ended || is_lost;
                let told = if told { Ok(()) } else { to.stream.shutdown_write() };
                self.first_end.get_or_insert(source);
                self.entry.set_half_closed();
                told.map_err(|error| Stop::Sink(other(source), error))?;
            }
            Phase::Ended => {}
        }
        Ok(false)
    }

    /// Whether the client has said something and waits for an answer.
    fn waits(&self) -> bool {
        self.silent
            && (self.client.tls.is_some() || self.awaits_answer)
            && self.entry.bytes().0 > 0
            && self.first_end.is_none()
            && self.lost.is_none()
    }

    fn answer_ask(&mut self) -> Option<End> {
        match self.entry.take_ask()? {
            Ask::End { how: Close::OnlyPlain, .. } if self.is_busy() => {
                self.entry.is_busy(self.tools.clock.now());
                None
            }
            Ask::End { how, .. } if how != Close::Reset && self.lost.is_some() => lost_end(self.lost, self.first_end),
            Ask::End { outcome, how } => {
                let clean = how != Close::Reset && !self.holds_bytes();
                if clean {
                    // A plain end in TLS has to be said, or it is taken for a cut.
                    self.part(Side::Client);
                    self.part(Side::Endpoint);
                }
                Some(End::Asked { outcome, clean })
            }
            Ask::Look => {
                self.endpoint.stream.keep_alive();
                self.look(Side::Client).or_else(|| self.look(Side::Endpoint))
            }
        }
    }

    /// Says to a side that nothing more will come, unless that was said.
    fn part(&mut self, side: Side) {
        let (to, from) = self.sides(side);
        if let Some(tls) = to.tls.as_mut().filter(|_| from.phase == Phase::Running) {
            handshake::part(tls, to.stream);
        }
    }

    /// Looks at one side's connection; `Some` where that ends the session.
    fn look(&mut self, side: Side) -> Option<End> {
        let (party, other) = self.sides(side);
        let (socket, is_delivered) = (party.stream, other.kept.is_empty());
        // A unix socket has no such thing, and no network that could be cut.
        let health = sys::tcp_health(socket.as_fd()).unwrap_or_default();
        if is_dead(&health) {
            if is_delivered {
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
        self.holds_bytes()
            || self.first_end.is_some()
            || has_unsent(self.client.stream)
            || has_unsent(self.endpoint.stream)
    }

    fn holds_bytes(&self) -> bool {
        self.client.holds_bytes() || self.endpoint.holds_bytes()
    }
}

impl Future for ForwardTls<'_> {
    type Output = End;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<End> {
        self.get_mut().poll_session(cx)
    }
}
