//! Detection: from a fresh connection to its opening, and to what the client says in it.
//!
//! One absolute deadline covers the whole opening. What is held of clients that are not routed yet is counted over the
//! whole process and bounded; a client that has sent nothing holds nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
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
    _share: Option<Share>,
}

#[cfg(test)]
impl Opening {
    /// An opening that nobody counts.
    pub(crate) fn of(bytes: Vec<u8>, replayable: bool) -> Opening {
        Opening { bytes, replayable, _share: None }
    }
}

/// Memory that unrouted connections hold together.
#[derive(Debug)]
pub(crate) struct Memory {
    limit: u64,
    held: AtomicU64,
}

/// One connection's share of it; given back by Drop.
#[derive(Debug)]
pub(crate) struct Share {
    memory: Arc<Memory>,
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
        Share { memory: Arc::clone(memory), bytes: 0 }
    }

    /// Grows by `bytes`, unless the memory would be over its limit.
    fn grow(&mut self, bytes: u64) -> Result<(), Failure> {
        if self.memory.held.fetch_add(bytes, Ordering::Relaxed) + bytes > self.memory.limit {
            self.memory.held.fetch_sub(bytes, Ordering::Relaxed);
            return Err(Failure::new(Outcome::OpeningMemory, Side::Us));
        }
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.memory.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Reads the opening of a connection, as far as its protocol needs to be routed.
///
/// # Errors
/// What is wrong with the opening, that it took too long, or that the client left.
pub(crate) async fn opening(
    protocol: Protocol,
    client: &Stream,
    deadline: Instant,
    tools: &Tools,
    memory: &Arc<Memory>,
) -> Result<Detected, Failure> {
    match protocol {
        Protocol::Tcp => Ok(Detected::default()),
        Protocol::Tls => match timeout_at(deadline.into(), client_hello(client, tools, memory)).await {
            Ok(detected) => detected,
            Err(_) => Err(Failure::new(Outcome::HelloTimeout, Side::Client)),
        },
    }
}

async fn client_hello(client: &Stream, tools: &Tools, memory: &Arc<Memory>) -> Result<Detected, Failure> {
    let mut share = Share::none(memory);
    let mut reader = Reader::default();
    let mut bytes = Vec::new();
    loop {
        receive(client, tools, &mut bytes, &mut share).await?;
        if let Some(hello) = reader.advance(&bytes).map_err(refusal)? {
            let replayable = hello.length == bytes.len() && !hello.early_data;
            let opening = Opening { bytes, replayable, _share: Some(share) };
            return Ok(Detected { opening, hello: Some(hello) });
        }
    }
}

/// Appends what the client has sent, through the worker's scratch buffer: until it has sent something, no memory is
/// held for it.
async fn receive(client: &Stream, tools: &Tools, bytes: &mut Vec<u8>, share: &mut Share) -> Result<(), Failure> {
    let received = std::future::poll_fn(|cx| {
        let mut scratch = tools.scratch.borrow_mut();
        client.poll_recv(cx, &mut scratch).map_ok(|received| {
            let new = scratch.get(..received).unwrap_or_default();
            share.grow(new.len() as u64).map(|()| {
                bytes.extend_from_slice(new);
                received
            })
        })
    });
    match received.await {
        Ok(Ok(0)) => Err(Failure::new(Outcome::ClientGone, Side::Client)),
        Ok(grown) => grown.map(|_| ()),
        Err(_) => Err(Failure::new(Outcome::ClientGone, Side::Client)),
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
