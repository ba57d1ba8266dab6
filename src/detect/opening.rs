//! The client's first bytes: held until an endpoint has answered them, counted and bounded over the whole process, in
//! buffers that each worker uses again.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::observe::outcome::{Outcome, Side};
use crate::session::Failure;

/// The client's first bytes, to be sent to the endpoint before anything else.
#[derive(Debug, Default)]
pub(crate) struct Opening {
    /// Everything received before the session was routed.
    pub(crate) bytes: Vec<u8>,
    /// May be sent to another endpoint if one ends without an answer.
    pub(crate) replayable: bool,
    /// Nothing was read of it: nobody knows whether the client waits for an answer.
    pub(crate) unread: bool,
    /// What the client wants with it.
    pub(crate) wish: Wish,
    /// Its share of the memory, for as long as it is kept.
    share: Share,
}

/// What a client wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Wish {
    /// A session, as its opening begins one.
    #[default]
    Session,
    /// A session of PostgreSQL that has been promised TLS: an endpoint has to promise it as well, before it gets the opening.
    Promised,
    /// A session of PostgreSQL in clear.
    Clear,
    /// The end of a query of another session: the opening says of which one.
    Cancel,
}

impl Opening {
    /// Appends what was received.
    ///
    /// # Errors
    /// [`Outcome::OpeningMemory`]: all openings together would be over their limit.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.share.grow(bytes.len() as u64)?;
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// Counts for at least so many bytes: those that are kept elsewhere in place of its own.
    ///
    /// # Errors
    /// As [`Opening::push`].
    pub(crate) fn hold(&mut self, bytes: usize) -> Result<(), Failure> {
        self.share.grow((bytes as u64).saturating_sub(self.share.bytes))
    }
}

#[cfg(test)]
impl Opening {
    /// An opening that nobody counts.
    pub(crate) fn of(bytes: Vec<u8>, replayable: bool) -> Box<Opening> {
        Box::new(Opening { bytes, replayable, ..Opening::default() })
    }
}

/// One worker's buffers for openings.
#[derive(Debug, Default)]
pub(crate) struct Openings {
    /// Boxed, as sessions hold them.
    #[expect(clippy::vec_box, reason = "the boxes are what is kept")]
    idle: RefCell<Vec<Box<Opening>>>,
}

impl Openings {
    /// Buffers that are kept.
    const KEPT: usize = 32;
    /// Bytes of the largest buffer that is kept.
    const LARGEST: usize = 4096;

    /// An empty opening whose bytes count for `memory`.
    pub(super) fn take(&self, memory: &Arc<Memory>) -> Box<Opening> {
        let mut opening = self.idle.borrow_mut().pop().unwrap_or_default();
        opening.wish = Wish::Session;
        opening.share = Share::none(memory);
        opening
    }

    /// Takes an opening that is no longer needed; its bytes count no more.
    pub(crate) fn give_back(&self, mut opening: Box<Opening>) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < Openings::KEPT && opening.bytes.capacity() <= Openings::LARGEST {
            opening.bytes.clear();
            (opening.replayable, opening.unread) = (false, false);
            opening.share = Share::default();
            idle.push(opening);
        }
    }
}

/// Memory that openings hold together.
#[derive(Debug)]
pub(crate) struct Memory {
    limit: u64,
    held: AtomicU64,
}

/// One connection's share of it; given back by Drop.
#[derive(Debug, Default)]
struct Share {
    /// `None` where nothing is counted.
    memory: Option<Arc<Memory>>,
    bytes: u64,
}

impl Memory {
    /// At most `limit` bytes.
    pub(crate) fn new(limit: u64) -> Arc<Memory> {
        Arc::new(Memory { limit, held: AtomicU64::new(0) })
    }

    /// Bytes held now.
    pub(crate) fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }
}

impl Share {
    fn none(memory: &Arc<Memory>) -> Share {
        Share { memory: Some(Arc::clone(memory)), bytes: 0 }
    }

    /// Grows by `bytes`, unless the memory would be over its limit.
    fn grow(&mut self, bytes: u64) -> Result<(), Failure> {
        if let Some(memory) = &self.memory
            && memory.held.fetch_add(bytes, Ordering::Relaxed) + bytes > memory.limit
        {
            memory.held.fetch_sub(bytes, Ordering::Relaxed);
            return Err(Failure::new(Outcome::OpeningMemory, Side::Us));
        }
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Some(memory) = &self.memory {
            memory.held.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_and_comes_back() {
        let memory = Memory::new(100);
        let openings = Openings::default();
        let (mut one, mut two) = (openings.take(&memory), openings.take(&memory));
        one.push(&[1; 60]).unwrap();
        assert_eq!(two.push(&[2; 60]).unwrap_err().outcome, Outcome::OpeningMemory);
        assert_eq!(two.bytes, b"", "what is refused is not kept");
        two.push(&[2; 40]).unwrap();
        assert_eq!(memory.held(), 100);
        assert!(two.hold(30).is_ok() && two.hold(40).is_ok(), "that is counted already");
        assert!(two.hold(41).is_err());
        openings.give_back(one);
        two.hold(100).unwrap();
        assert_eq!(memory.held(), 100);
        (one, two) = (openings.take(&memory), openings.take(&memory));
        two.push(&[2; 40]).unwrap();
        openings.give_back(one);
        two.push(&[2; 60]).unwrap();
        drop(two);
        assert_eq!(memory.held(), 0);
    }

    #[test]
    fn buffers_are_used_again_empty_and_only_small_ones_are_kept() {
        let (memory, openings) = (Memory::new(u64::MAX), Openings::default());
        for (length, kept) in [(2_000, true), (Openings::LARGEST + 1, false)] {
            let mut opening = openings.take(&memory);
            opening.push(&vec![7; length]).unwrap();
            openings.give_back(opening);
            assert_eq!(!openings.idle.borrow().is_empty(), kept, "{length}");
            assert_eq!((openings.take(&memory).bytes.as_slice(), memory.held()), (&[][..], 0), "{length}");
        }
        let many: Vec<_> = (0..2 * Openings::KEPT).map(|_| openings.take(&memory)).collect();
        many.into_iter().for_each(|opening| openings.give_back(opening));
        assert_eq!(openings.idle.borrow().len(), Openings::KEPT);
    }
}
