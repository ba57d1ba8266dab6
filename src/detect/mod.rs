//! Detection: from a fresh connection to its opening, and to what the client says in it.
//!
//! One absolute deadline covers the whole opening. What is held of clients that are not routed yet is counted over the
//! whole process and bounded; a client that has sent nothing holds nothing.

mod header;
mod opening;

use std::io;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Instant;

use tokio::time::timeout_at;

pub(crate) use self::header::header;
pub(crate) use self::opening::{Memory, Opening, Openings};
use crate::config::model::Protocol;
use crate::forward::Tools;
use crate::observe::outcome::{Outcome, Side};
use crate::session::Failure;
use crate::stream::Stream;
use crate::wire::client_hello::{ClientHello, HelloError, Reader};

/// What was found out about a connection.
#[derive(Debug, Default)]
pub(crate) struct Detected {
    /// `None` where nothing was read.
    pub(crate) opening: Option<Box<Opening>>,
    /// The hello, on a TLS listener.
    pub(crate) hello: Option<ClientHello>,
}

/// The detection of one connection, as far as it has come.
pub(crate) struct Detection<'a> {
    protocol: Protocol,
    client: &'a Stream,
    tools: &'a Tools,
    memory: &'a Arc<Memory>,
    /// `None` until the client has sent something.
    opening: Option<Box<Opening>>,
    reader: Reader,
}

/// How far detection has come with what was already there.
pub(crate) enum Begun<'a> {
    Done(Result<Detected, Failure>),
    Incomplete(Detection<'a>),
}

impl<'a> Detection<'a> {
    /// Nothing has been read yet.
    pub(crate) fn of(protocol: Protocol, client: &'a Stream, tools: &'a Tools, memory: &'a Arc<Memory>) -> Self {
        Detection { protocol, client, tools, memory, opening: None, reader: Reader::default() }
    }

    /// This has come already.
    pub(crate) fn after(mut self, opening: Option<Box<Opening>>) -> Self {
        self.opening = opening;
        self
    }

    /// Takes what is already there, which with deferred accepting is nearly always all.
    pub(crate) fn begin(mut self) -> Begun<'a> {
        if self.protocol == Protocol::Tcp {
            return Begun::Done(Ok(Detected { opening: self.opening, hello: None }));
        }
        if let Some(detected) = self.look().transpose() {
            return Begun::Done(detected);
        }
        let mut scratch = self.tools.scratch.borrow_mut();
        let detected =
            self.client.try_recv(&mut scratch).and_then(|received| self.take_in(received, &scratch).transpose());
        drop(scratch);
        detected.map_or(Begun::Incomplete(self), Begun::Done)
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
        self.opening.get_or_insert_with(|| self.tools.openings.take(self.memory)).push(new)?;
        self.look()
    }

    /// Looks at what has come.
    fn look(&mut self) -> Result<Option<Detected>, Failure> {
        let Some(opening) = &mut self.opening else { return Ok(None) };
        let Some(hello) = self.reader.advance(&opening.bytes).map_err(refusal)? else { return Ok(None) };
        opening.asks = true;
        opening.replayable = hello.length == opening.bytes.len() && !hello.early_data;
        Ok(Some(Detected { opening: self.opening.take(), hello: Some(hello) }))
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
