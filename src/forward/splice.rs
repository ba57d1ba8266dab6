//! Pipes for splice(2): bytes that cross the process without entering it.
//!
//! The rules, each the answer to a hang or a loss that a proxy has shipped: only an empty pipe is filled, and it is
//! flushed before it is filled again, so that EAGAIN on the way in never means a full pipe; bytes are counted from
//! return values, for a pipe may hold more than its nominal size; a pipe that still holds bytes is closed, never
//! pooled; SPLICE_F_MORE is never set; nothing moved is no proof of the end of a stream.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};

use rustix::pipe::{PipeFlags, SpliceFlags};

use crate::stream::Stream;

/// The size asked for each pipe, in bytes: pipe-max-size as every distribution leaves it.
const PIPE_SIZE: usize = 1024 * 1024;
/// After the kernel has refused a pipe of full size, turns of the clock (seconds) before it is asked again.
const SHORT_PAUSE: u32 = 10;

/// One worker's pipes.
#[derive(Debug)]
pub(crate) struct PipePool {
    /// Pipes that may be open, in use and idle together.
    most: usize,
    /// Boxed, as halves hold them: a half takes one and gives it back at every burst.
    #[expect(clippy::vec_box, reason = "the boxes are what is pooled")]
    idle: RefCell<Vec<Box<Pipe>>>,
    open: Cell<usize>,
    /// No new pipe before this second of the coarse clock.
    not_before: Cell<u32>,
}

#[derive(Debug)]
struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

/// A pipe in use by one half of one session.
#[derive(Debug)]
pub(crate) struct Pipe {
    ends: Ends,
    /// Bytes in the pipe.
    filled: usize,
}

impl PipePool {
    /// A pool that opens `most` pipes at the most.
    pub(crate) fn new(most: usize) -> PipePool {
        PipePool { most, idle: RefCell::default(), open: Cell::default(), not_before: Cell::default() }
    }

    /// An empty pipe of full size; `None` when all are in use or the kernel gives none (pipe-user-pages-soft,
    /// descriptors): the caller stays with copying.
    pub(crate) fn take(&self, now: u32) -> Option<Box<Pipe>> {
        if let Some(pipe) = self.idle.borrow_mut().pop() {
            return Some(pipe);
        }
        if self.open.get() >= self.most || now < self.not_before.get() {
            return None;
        }
        match open() {
            Ok(ends) => {
                self.open.set(self.open.get() + 1);
                Some(Box::new(Pipe { ends, filled: 0 }))
            }
            Err(_) => {
                self.not_before.set(now.saturating_add(SHORT_PAUSE));
                None
            }
        }
    }

    /// Takes a pipe back: for the next half if it is empty, to close it otherwise.
    pub(crate) fn give_back(&self, pipe: Box<Pipe>) {
        if pipe.filled == 0 {
            self.idle.borrow_mut().push(pipe);
        } else {
            self.open.set(self.open.get() - 1);
        }
    }

    /// Closes the idle pipes but for one.
    pub(crate) fn shrink(&self) {
        let mut idle = self.idle.borrow_mut();
        let closed = idle.len().saturating_sub(1);
        idle.truncate(1);
        self.open.set(self.open.get() - closed);
    }

    /// Pipes open now, in use and idle.
    pub(crate) fn open(&self) -> usize {
        self.open.get()
    }
}

impl Pipe {
    /// Bytes in the pipe.
    pub(crate) fn filled(&self) -> usize {
        self.filled
    }

    /// Moves what `from` has into the empty pipe. 0 is to be taken as [`Stream::poll_splice`] says.
    ///
    /// # Errors
    /// Those of splice(2).
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>, from: &Stream) -> Poll<io::Result<usize>> {
        debug_assert_eq!(self.filled, 0, "only an empty pipe is filled");
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        self.filled = ready!(from.poll_splice(cx, |socket| {
            rustix::pipe::splice(socket, None, &self.ends.write, None, PIPE_SIZE, flags)
        }))?;
        Poll::Ready(Ok(self.filled))
    }

    /// Moves bytes from the pipe to `to`; the count is at most what the pipe holds.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>, to: &Stream) -> Poll<io::Result<usize>> {
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        let moved = ready!(to.poll_write(cx, |socket| {
            rustix::pipe::splice(&self.ends.read, None, socket, None, self.filled, flags)
        }))?;
        self.filled -= moved.min(self.filled);
        Poll::Ready(Ok(moved))
    }
}

/// A pipe of full size, or an error: a shorter one means that the user's share of pipe memory is used up.
fn open() -> io::Result<Ends> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
    rustix::pipe::fcntl_setpipe_size(&write, PIPE_SIZE)?;
    if rustix::pipe::fcntl_getpipe_size(&write)? < PIPE_SIZE {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    Ok(Ends { read, write })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_that_holds_bytes_is_closed_and_an_empty_one_is_used_again() {
        let pool = PipePool::new(8);
        let mut pipe = pool.take(0).unwrap();
        rustix::io::write(&pipe.ends.write, b"left over").unwrap();
        pipe.filled = 9;
        pool.give_back(pipe);
        assert_eq!((pool.open(), pool.idle.borrow().len()), (0, 0));
        let pipe = pool.take(0).unwrap();
        pool.give_back(pipe);
        assert_eq!((pool.open(), pool.idle.borrow().len()), (1, 1));
        let pipe = pool.take(0).unwrap();
        assert_eq!(pool.open(), 1);
        let mut byte = [0];
        assert_eq!(rustix::io::read(&pipe.ends.read, &mut byte), Err(rustix::io::Errno::AGAIN), "it is empty");
    }

    #[test]
    fn the_pool_is_bounded_and_shrinks_to_one() {
        let pool = PipePool::new(8);
        let pipes: Vec<Box<Pipe>> = std::iter::from_fn(|| pool.take(0)).collect();
        assert!(!pipes.is_empty() && pipes.len() <= 8);
        let most = pool.open();
        assert_eq!(most, pipes.len());
        pipes.into_iter().for_each(|pipe| pool.give_back(pipe));
        pool.shrink();
        assert_eq!((pool.open(), pool.idle.borrow().len()), (1, 1));
    }
}
