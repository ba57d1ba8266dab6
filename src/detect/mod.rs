//! Detection: from a fresh connection to its opening, and to what the client says in it.
//!
//! One absolute deadline covers the whole opening. What is held of clients that are not routed yet is counted over the
//! whole process and bounded; a client that has sent nothing holds nothing.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Poll, ready};
use std::time::Instant;

use tokio::time::timeout_at;

use crate::config::model::Protocol;
use crate::forward::Tools;
use crate::observe::outcome::{Outcome, Side};
use crate::session::Failure;
use crate::stream::Stream;
use crate::wire::client_hello::{ClientHello, HelloError, Reader};

/// What was found out about a connection.
#[derive(Debug, Default)]
pub(crate) struct Detected {
    pub(crate) opening: Opening,
    /// The hello, on a TLS listener.
    pub(crate) hello: Option<ClientHello>,
}

/// The client's first bytes, to be sent to the endpoint before anything else.
#[derive(Debug, Default)]
pub(crate) struct Opening {
    /// Everything received before the session was routed.
    pub(crate) bytes: Vec<u8>,
    /// May be sent to another endpoint if one ends without an answer.
    pub(crate) replayable: bool,
    /// Its share of the memory, for as long as it is kept.
    _share: Share,
}

#[cfg(test)]
impl Opening {
    /// An opening that nobody counts.
    pub(crate) fn of(bytes: Vec<u8>, replayable: bool) -> Opening {
        Opening { bytes, replayable, _share: Share::default() }
    }
}

/// Memory that unrouted connections hold together.
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

/// The detection of one connection, as far as it has come.
pub(crate) struct Detection<'a> {
    protocol: Protocol,
    client: &'a Stream,
    tools: &'a Tools,
    bytes: Vec<u8>,
    reader: Reader,
    share: Share,
}

impl<'a> Detection<'a> {
    /// Nothing has been read yet.
    pub(crate) fn of(protocol: Protocol, client: &'a Stream, tools: &'a Tools, memory: &Arc<Memory>) -> Detection<'a> {
        let (bytes, reader) = (Vec::new(), Reader::default());
        Detection { protocol, client, tools, bytes, reader, share: Share::none(memory) }
    }

    /// Takes what is already there, which with deferred accepting is nearly always all; `None` if more is needed.
    pub(crate) fn at_once(&mut self) -> Option<Result<Detected, Failure>> {
        if self.protocol == Protocol::Tcp {
            return Some(Ok(Detected::default()));
        }
        let mut scratch = self.tools.scratch.borrow_mut();
        let received = self.client.try_recv(&mut scratch)?;
        self.take_in(received, &scratch).transpose()
    }

    /// Waits for the rest of the opening.
    ///
    /// # Errors
    /// What is wrong with the opening, that it was not complete by `deadline`, or that the client left.
    pub(crate) async fn wait(mut self, deadline: Instant) -> Result<Detected, Failure> {
        let complete = std::future::poll_fn(move |cx| {
            let mut scratch = self.tools.scratch.borrow_mut();
            loop {
                let received = ready!(self.client.poll_recv(cx, &mut scratch));
                if let Some(detected) = self.take_in(received, &scratch).transpose() {
                    return Poll::Ready(detected);
                }
            }
        });
        match timeout_at(deadline.into(), complete).await {
            Ok(detected) => detected,
            Err(_) => Err(Failure::new(Outcome::HelloTimeout, Side::Client)),
        }
    }

    /// Takes in what was received into `scratch`: until a client has sent something, no memory is held for it.
    fn take_in(&mut self, received: io::Result<usize>, scratch: &[u8]) -> Result<Option<Detected>, Failure> {
        let new = received.ok().and_then(|received| scratch.get(..received)).unwrap_or_default();
        if new.is_empty() {
            return Err(Failure::new(Outcome::ClientGone, Side::Client));
        }
        self.share.grow(new.len() as u64)?;
        self.bytes.extend_from_slice(new);
        let Some(hello) = self.reader.advance(&self.bytes).map_err(refusal)? else { return Ok(None) };
        let replayable = hello.length == self.bytes.len() && !hello.early_data;
        let share = std::mem::take(&mut self.share);
        let opening = Opening { bytes: std::mem::take(&mut self.bytes), replayable, _share: share };
        Ok(Some(Detected { opening, hello: Some(hello) }))
    }
}

fn refusal(error: HelloError) -> Failure {
    tracing::debug!("refused: {error}");
    let outcome = match error {
        HelloError::NotTls { .. } => Outcome::NotTls,
        HelloError::TooLarge(_) | HelloError::TooManyRecords => Outcome::HelloTooLarge,
        HelloError::ForeignRecord { .. }
        | HelloError::RecordLength(_)
        | HelloError::NotHello(_)
        | HelloError::BadName(_)
        | HelloError::Malformed(_) => Outcome::HelloMalformed,
    };
    Failure::new(outcome, Side::Client)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_and_comes_back() {
        let memory = Memory::new(100);
        let mut one = Share::none(&memory);
        let mut two = Share::none(&memory);
        one.grow(60).unwrap();
        assert_eq!(two.grow(60).unwrap_err().outcome, Outcome::OpeningMemory);
        two.grow(40).unwrap();
        assert_eq!(memory.held(), 100);
        drop(one);
        two.grow(60).unwrap();
        drop(two);
        assert_eq!(memory.held(), 0);
    }
}
