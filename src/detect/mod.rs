//! Detection: from a fresh connection to its opening, and to what the client says in it.
//!
//! One absolute deadline covers the whole opening. What is held of clients that are not routed yet is counted over the
//! whole process and bounded; a client that has sent nothing holds nothing.

mod header;
mod opening;
mod postgres;

use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Instant;

use tokio::time::timeout_at;

pub(crate) use self::header::header;
pub(crate) use self::opening::{Memory, Opening, Openings, Wish};
use self::postgres::{Asked, Heard};
use crate::config::model::Protocol;
use crate::forward::Tools;
use crate::observe::outcome::{Outcome, Side};
use crate::refusal::Manner;
use crate::session::Failure;
use crate::stream::Stream;
use crate::wire::client_hello::{ClientHello, HelloError, Reader};

/// What was found out about a connection.
#[derive(Debug, Default)]
pub(crate) struct Detected {
    /// `None` where nothing was read, and nothing has to be sent again if an endpoint ends without an answer.
    pub(crate) opening: Option<Box<Opening>>,
    /// The hello, where the client speaks TLS.
    pub(crate) hello: Option<ClientHello>,
}

impl Detected {
    /// What the client wants.
    pub(crate) fn wish(&self) -> Wish {
        self.opening.as_ref().map_or(Wish::Session, |opening| opening.wish)
    }
}

/// The detection of one connection, as far as it has come.
pub(crate) struct Detection<'a> {
    protocol: Protocol,
    client: &'a Stream,
    tools: &'a Tools,
    memory: &'a Arc<Memory>,
    /// How the client can be told that it is not served.
    manner: &'a Cell<Manner>,
    /// `None` until the client has sent something.
    opening: Option<Box<Opening>>,
    /// What a client of PostgreSQL has asked for so far.
    asked: Asked,
    reader: Reader,
}

/// How far detection has come with what was already there.
pub(crate) enum Begun<'a> {
    Done(Result<Detected, Failure>),
    Incomplete(Detection<'a>),
}

impl<'a> Detection<'a> {
    /// Nothing has been read yet.
    pub(crate) fn of(
        protocol: Protocol,
        client: &'a Stream,
        tools: &'a Tools,
        memory: &'a Arc<Memory>,
        manner: &'a Cell<Manner>,
    ) -> Self {
        let (opening, asked, reader) = (None, Asked::default(), Reader::default());
        Detection { protocol, client, tools, memory, manner, opening, asked, reader }
    }

    /// This has come already.
    pub(crate) fn after(mut self, opening: Option<Box<Opening>>) -> Self {
        self.opening = opening;
        self
    }

    /// Takes what is already there, which with deferred accepting is nearly always all.
    pub(crate) fn begin(mut self) -> Begun<'a> {
        match self.protocol {
            Protocol::Tls | Protocol::Postgres => {}
            Protocol::Tcp => {
                self.opening.iter_mut().for_each(|opening| opening.unread = true);
                return Begun::Done(Ok(Detected { opening: self.opening, hello: None }));
            }
            Protocol::Mysql => return Begun::Done(Ok(self.nothing_to_say())),
        }
        if let Some(detected) = self.look().transpose() {
            return Begun::Done(detected);
        }
        let (client, tools) = (self.client, self.tools);
        let detected = receive_at_once(client, tools, |received| self.take_in(received));
        detected.transpose().map_or(Begun::Incomplete(self), Begun::Done)
    }

    /// A client that waits for the server to begin: until it does, nothing is lost with it.
    fn nothing_to_say(self) -> Detected {
        // Unless it has said something all the same.
        if let Some(opening) = self.opening {
            return Detected { opening: Some(opening), hello: None };
        }
        let mut opening = self.tools.openings.take(self.memory);
        opening.replayable = true;
        Detected { opening: Some(opening), hello: None }
    }

    /// Waits for the rest of the opening.
    ///
    /// # Errors
    /// What is wrong with the opening, that it was not complete by `deadline`, or that the client left.
    pub(crate) async fn wait(mut self, deadline: Instant) -> Result<Detected, Failure> {
        let (client, tools) = (self.client, self.tools);
        receive(client, tools, deadline, |received| self.take_in(received)).await
    }

    /// Takes in what was received: until a client has sent something, no memory is held for it.
    fn take_in(&mut self, received: &[u8]) -> Result<Option<Detected>, Failure> {
        self.opening.get_or_insert_with(|| self.tools.openings.take(self.memory)).push(received)?;
        self.look()
    }

    /// Looks at what has come.
    fn look(&mut self) -> Result<Option<Detected>, Failure> {
        let Some(opening) = &mut self.opening else { return Ok(None) };
        if self.protocol == Protocol::Postgres && !self.asked.for_tls() {
            match self.asked.next(opening, self.client, self.manner)? {
                Heard::Tls => {}
                Heard::Message => return Ok(Some(Detected { opening: self.opening.take(), hello: None })),
                Heard::Part => return Ok(None),
            }
        }
        let Some(hello) = self.reader.advance(&opening.bytes).map_err(refusal)? else { return Ok(None) };
        opening.replayable = hello.length == opening.bytes.len() && !hello.early_data;
        opening.wish = self.asked.wish();
        Ok(Some(Detected { opening: self.opening.take(), hello: Some(hello) }))
    }
}

/// Has `take_in` look at what is already there, if anything is.
fn receive_at_once<T>(
    client: &Stream,
    tools: &Tools,
    mut take_in: impl FnMut(&[u8]) -> Result<Option<T>, Failure>,
) -> Result<Option<T>, Failure> {
    let mut scratch = tools.scratch.borrow_mut();
    match client.try_recv(&mut scratch) {
        Some(received) => take_in(came(received, &scratch)?),
        None => Ok(None),
    }
}

/// Has `take_in` look at each piece that is received, until it has found something or it is `deadline`.
async fn receive<T>(
    client: &Stream,
    tools: &Tools,
    deadline: Instant,
    mut take_in: impl FnMut(&[u8]) -> Result<Option<T>, Failure>,
) -> Result<T, Failure> {
    let complete = std::future::poll_fn(move |cx| {
        let mut scratch = tools.scratch.borrow_mut();
        loop {
            let received = ready!(client.poll_recv(cx, &mut scratch));
            if let Some(found) = came(received, &scratch).and_then(&mut take_in).transpose() {
                return Poll::Ready(found);
            }
        }
    });
    let late = |_| Err(Failure::new(Outcome::HelloTimeout, Side::Client));
    timeout_at(deadline.into(), complete).await.unwrap_or_else(late)
}

/// What was received into `scratch`.
fn came(received: io::Result<usize>, scratch: &[u8]) -> Result<&[u8], Failure> {
    let new = received.ok().and_then(|received| scratch.get(..received)).filter(|new| !new.is_empty());
    new.ok_or(Failure::new(Outcome::ClientGone, Side::Client))
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
