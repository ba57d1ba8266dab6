//! One direction of a session: from one socket to the other, adaptively by copy or by splice.
//!
//! While nothing moves a half owns no buffer and no pipe. A read goes into the worker's one scratch buffer and
//! straight out; only what the sink would not take is kept. A source that keeps filling the whole buffer is bulk: it is
//! moved by splice(2), through a pipe that goes back to its pool whenever the source is dry, until it sends little.

use std::io;
use std::task::{Context, Poll, ready};

use super::splice::Pipe;
use super::{SCRATCH, Tools};
use crate::stream::Stream;

/// A source is bulk from this score on.
const BULK: u8 = 4;
/// The highest score: a source that was bulk for a while stays so over a few small reads.
const MOST: u8 = 8;
/// What a read that fills the buffer adds to the score.
const FULL: u8 = 2;
/// Bytes that a source sends at least with each read, to keep its score: with less, copying is as cheap as splice(2).
const LITTLE: usize = 8 * 1024;
/// Bytes that one direction moves in one turn before it lets other sessions run.
pub(super) const TURN: usize = 512 * 1024;

/// One direction of a session.
#[derive(Debug, Default)]
pub(super) struct Half {
    held: Held,
    pace: Pace,
    state: State,
    /// The source was lost: its end is no clean one and is not passed on as such.
    silent: bool,
}

/// What was read and has not been taken by the sink.
#[derive(Debug, Default)]
enum Held {
    #[default]
    Nothing,
    Bytes(Box<Rest>),
    /// In splice mode; the pipe may be empty.
    Pipe(Box<Pipe>),
}

/// How much a source sends, as a score from 0 to [`MOST`].
#[derive(Debug, Default)]
struct Pace(u8);

impl Pace {
    fn is_bulk(&self) -> bool {
        self.0 >= BULK
    }

    /// Takes in that so much was read at once, into a buffer of `size`.
    fn read(&mut self, bytes: usize, size: usize) {
        self.0 = match bytes {
            full if full >= size => (self.0 + FULL).min(MOST),
            little if little < LITTLE => self.0.saturating_sub(1),
            _ => self.0,
        };
    }
}

#[derive(Debug)]
struct Rest {
    bytes: Vec<u8>,
    /// Bytes of it already sent.
    sent: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// The source has ended; what is held must still go out.
    Ending,
    /// The end was passed on.
    Ended,
    /// The sink takes nothing any more.
    Broken,
}

/// Why a half stopped for good.
#[derive(Debug)]
pub(super) enum Stop {
    /// The source ended and everything went out; the sink is still to be told.
    Ended,
    /// Reading failed; everything read before went out.
    Source(io::Error),
    /// Writing failed.
    Sink(io::Error),
}

/// What moved in one poll.
#[derive(Debug, Default)]
pub(super) struct Moved {
    /// Bytes taken from the source.
    pub(super) read: usize,
    /// Bytes taken by the sink.
    pub(super) written: usize,
}

impl Half {
    /// Moves bytes until neither side can go on, the turn is over, or the half stops.
    ///
    /// A half that has stopped is not polled again.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &Stream,
        to: &Stream,
        tools: &Tools,
        moved: &mut Moved,
    ) -> Poll<Stop> {
        loop {
            if let Err(error) = ready!(self.poll_flush(cx, to, moved)) {
                self.break_off(tools);
                return Poll::Ready(Stop::Sink(error));
            }
            if self.state == State::Ending {
                self.release(tools);
                return Poll::Ready(Stop::Ended);
            }
            if moved.read >= TURN {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            match ready!(self.poll_read(cx, from, to, tools, moved)) {
                Ok(()) => {}
                Err(stop) => {
                    self.break_off(tools);
                    return Poll::Ready(stop);
                }
            }
        }
    }

    /// The source has ended, all of it went out, and the sink was told.
    pub(super) fn has_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// Still has work to do.
    pub(super) fn is_running(&self) -> bool {
        matches!(self.state, State::Open | State::Ending)
    }

    /// Holds bytes that were read and not yet written.
    pub(super) fn holds_bytes(&self) -> bool {
        match &self.held {
            Held::Nothing => false,
            Held::Bytes(_) => true,
            Held::Pipe(pipe) => pipe.filled() > 0,
        }
    }

    /// The source is known to be lost: what it sent before is still moved, but its end is not passed on.
    pub(super) fn keep_end_to_itself(&mut self) {
        self.silent = true;
    }

    /// Tells the sink that the source has ended, after [`Stop::Ended`].
    ///
    /// # Errors
    /// The sink is lost.
    pub(super) fn pass_end_on(&mut self, to: &Stream) -> io::Result<()> {
        if !self.silent {
            to.shutdown_write()?;
        }
        self.state = State::Ended;
        Ok(())
    }

    /// The sink takes nothing any more: a half that runs stops here.
    pub(super) fn break_off(&mut self, tools: &Tools) {
        if self.is_running() {
            self.state = State::Broken;
            self.release(tools);
        }
    }

    /// Gives the pipe back and drops what is held.
    pub(super) fn release(&mut self, tools: &Tools) {
        if let Held::Pipe(pipe) = std::mem::take(&mut self.held) {
            tools.pipes.give_back(pipe);
        }
    }

    /// Sends what is held until nothing is.
    fn poll_flush(&mut self, cx: &mut Context<'_>, to: &Stream, moved: &mut Moved) -> Poll<io::Result<()>> {
        match &mut self.held {
            Held::Nothing => {}
            Held::Bytes(rest) => {
                while let Some(left) = rest.bytes.get(rest.sent..).filter(|left| !left.is_empty()) {
                    let sent = ready!(to.poll_send(cx, left))?;
                    rest.sent += sent;
                    moved.written += sent;
                }
                self.held = Held::Nothing;
            }
            Held::Pipe(pipe) => {
                while pipe.filled() > 0 {
                    match ready!(pipe.poll_flush(cx, to))? {
                        0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                        sent => moved.written += sent,
                    }
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// One read, by the means of the moment. Nothing is held when it is called.
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        from: &Stream,
        to: &Stream,
        tools: &Tools,
        moved: &mut Moved,
    ) -> Poll<Result<(), Stop>> {
        if self.pace.is_bulk() && matches!(self.held, Held::Nothing) {
            self.held = tools.pipes.take(tools.clock.now()).map_or(Held::Nothing, Held::Pipe);
        }
        if let Held::Pipe(pipe) = &mut self.held {
            let filled = pipe.poll_fill(cx, from);
            if let Poll::Ready(Ok(read @ 1..)) = filled {
                self.pace.read(read, SCRATCH);
                moved.read += read;
                return Poll::Ready(Ok(()));
            }
            self.release(tools);
            ready!(filled).map_err(Stop::Source)?;
        }
        let mut scratch = tools.scratch.borrow_mut();
        let read = ready!(from.poll_recv(cx, &mut scratch)).map_err(Stop::Source)?;
        moved.read += read;
        if read == 0 {
            self.state = State::Ending;
            return Poll::Ready(Ok(()));
        }
        self.pace.read(read, scratch.len());
        let bytes = scratch.get(..read).unwrap_or_default();
        match to.poll_send(cx, bytes) {
            Poll::Ready(Ok(sent)) => {
                moved.written += sent;
                self.keep(bytes.get(sent..).unwrap_or_default());
            }
            Poll::Ready(Err(error)) => return Poll::Ready(Err(Stop::Sink(error))),
            Poll::Pending => self.keep(bytes),
        }
        Poll::Ready(Ok(()))
    }

    fn keep(&mut self, left: &[u8]) {
        if !left.is_empty() {
            self.held = Held::Bytes(Box::new(Rest { bytes: left.to_vec(), sent: 0 }));
        }
    }
}
