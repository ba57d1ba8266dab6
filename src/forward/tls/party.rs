//! One side of a session with TLS of ours: how it is spoken to, and what it did not take.

use std::io;
use std::task::{Context, Poll};

use rustls::Error;

use crate::observe::outcome::Side;
use crate::stream::Stream;
use crate::tls::sealed::Sealed;

/// One side of it.
pub(super) struct Party<'a> {
    pub(super) stream: &'a Stream,
    /// `None`: it is spoken to in clear.
    pub(super) tls: Option<Box<Sealed>>,
    /// For it: what its socket did not take.
    pub(super) kept: Kept,
    /// How many plain bytes are in what was sealed last, which count as delivered once it was taken.
    pub(super) sealed: usize,
    /// Bytes that tell it that nothing more will come, once it was told.
    pub(super) last_words: usize,
    /// Of what comes from it.
    pub(super) phase: Phase,
}

/// What a sink would not take.
#[derive(Debug, Default)]
pub(super) struct Kept {
    bytes: Vec<u8>,
    sent: usize,
}

/// Where one direction is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Running,
    /// Its source has ended; what is kept is still to be sent.
    Ending,
    Ended,
}

/// Why a direction cannot go on.
pub(super) enum Stop {
    /// The endpoint has ended before it answered; `said`: by an end of its own, not a cut.
    Unanswered { said: bool },
    /// A side cannot be read any more.
    Source(Side, io::Error),
    /// A side takes no more.
    Sink(Side, io::Error),
    /// A side broke the rules of TLS, or our keys for it are used up.
    Broken(Side, Error),
}

impl<'a> Party<'a> {
    pub(super) fn new(stream: &'a Stream, tls: Option<Box<Sealed>>) -> Party<'a> {
        Party { stream, tls, kept: Kept::default(), sealed: 0, last_words: 0, phase: Phase::Running }
    }

    pub(super) fn has_closed(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.has_peer_closed())
    }

    /// Something is under way: for it, or from it as a part of a record.
    pub(super) fn holds_bytes(&self) -> bool {
        let in_tls = |tls: &Sealed| tls.unopened() > 0 || !tls.outgoing().is_empty();
        !self.kept.is_empty() || self.tls.as_deref().is_some_and(in_tls)
    }

    /// Opens what has come from it into `room`. Gives how many plain bytes that were, of which what is in clear stays where it
    /// is.
    pub(super) fn open(&mut self, incoming: &mut [u8], room: &mut [u8]) -> (usize, Result<(), Error>) {
        let Some(tls) = &mut self.tls else { return (incoming.len(), Ok(())) };
        let mut length = 0;
        let opened = tls.open(incoming, |payload| {
            let end = length + payload.len();
            room.get_mut(length..end).unwrap_or_default().copy_from_slice(payload);
            length = end;
        });
        (length, opened)
    }

    /// Sends it plain bytes, sealed into `space` if that is how it is spoken to, and keeps what it does not take. Gives how
    /// many count as delivered by that.
    pub(super) fn put(
        &mut self,
        side: Side,
        plain: &[u8],
        space: &mut [u8],
        cx: &mut Context<'_>,
    ) -> Result<usize, Stop> {
        if plain.is_empty() {
            return Ok(0);
        }
        let lost = |error| Stop::Sink(side, error);
        let Some(tls) = &mut self.tls else {
            let sent = send(self.stream, cx, plain).map_err(lost)?;
            self.kept.keep(plain, sent);
            return Ok(sent);
        };
        let length = tls.seal(plain, space).map_err(|why| Stop::Broken(side, why))?;
        self.sealed += plain.len();
        let records = space.get(..length).unwrap_or_default();
        let sent = send(self.stream, cx, records).map_err(lost)?;
        self.kept.keep(records, sent);
        Ok(0)
    }

    /// Keeps for it what came before there was anybody to send it.
    pub(super) fn put_first(&mut self, plain: Vec<u8>) -> Result<(), Error> {
        let Some(tls) = self.tls.as_mut().filter(|_| !plain.is_empty()) else {
            self.kept = Kept { bytes: plain, sent: 0 };
            return Ok(());
        };
        let mut records = vec![0; tls.room_for(plain.len())];
        let length = tls.seal(&plain, &mut records)?;
        records.truncate(length);
        (self.kept, self.sealed) = (Kept { bytes: records, sent: 0 }, plain.len());
        Ok(())
    }
}

impl Kept {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Keeps all but the first `sent` bytes.
    fn keep(&mut self, bytes: &[u8], sent: usize) {
        self.bytes.extend_from_slice(bytes.get(sent..).unwrap_or_default());
    }

    /// Sends as much of it as `sink` takes now. Gives how many bytes that was.
    pub(super) fn send(&mut self, sink: &Stream, cx: &mut Context<'_>) -> io::Result<usize> {
        let sent = send(sink, cx, self.bytes.get(self.sent..).unwrap_or_default())?;
        self.sent += sent;
        if self.sent == self.bytes.len() {
            *self = Kept::default();
        }
        Ok(sent)
    }
}

/// Sends as much as `sink` takes now. Gives how many bytes that was; if not all, the task is woken when it takes more.
pub(super) fn send(sink: &Stream, cx: &mut Context<'_>, bytes: &[u8]) -> io::Result<usize> {
    send_by(bytes, |left| sink.poll_send(cx, left))
}

/// The same of what something else follows on at once.
pub(super) fn send_ahead(sink: &Stream, cx: &mut Context<'_>, bytes: &[u8]) -> io::Result<usize> {
    send_by(bytes, |left| sink.poll_send_ahead(cx, left))
}

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
