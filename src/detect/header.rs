//! The PROXY header in front of an opening: read under the same deadline, and its bytes count like those of the opening.

use std::io;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Instant;

use tokio::time::timeout_at;

use super::{Memory, Opening};
use crate::forward::Tools;
use crate::observe::outcome::{Outcome, Side};
use crate::session::Failure;
use crate::stream::Stream;
use crate::wire::proxy_header::{self, Header, HeaderError};

/// Reads the header that a connection has to begin with. What came right behind it is the beginning of the opening.
///
/// # Errors
/// [`Outcome::ProxyHeaderMissing`], [`Outcome::ProxyHeaderMalformed`]; [`Outcome::HelloTimeout`] where it was not complete by
/// `deadline`; [`Outcome::ClientGone`], [`Outcome::OpeningMemory`].
pub(crate) async fn header(
    client: &Stream,
    tools: &Tools,
    memory: &Arc<Memory>,
    deadline: Instant,
) -> Result<(Header, Option<Box<Opening>>), Failure> {
    let mut opening: Option<Box<Opening>> = None;
    let mut take_in = |received: io::Result<usize>, scratch: &[u8]| {
        let new = received.ok().and_then(|received| scratch.get(..received)).unwrap_or_default();
        if new.is_empty() {
            return Err(Failure::new(Outcome::ClientGone, Side::Client));
        }
        let held = opening.get_or_insert_with(|| tools.openings.take(memory));
        held.push(new)?;
        let Some(header) = proxy_header::read(&held.bytes).map_err(refusal)? else { return Ok(None) };
        held.bytes.drain(..header.length);
        let behind = opening.take().and_then(|held| match held.bytes.is_empty() {
            true => {
                tools.openings.give_back(held);
                None
            }
            false => Some(held),
        });
        Ok(Some((header, behind)))
    };
    {
        // With deferred accepting it is nearly always there.
        let mut scratch = tools.scratch.borrow_mut();
        if let Some(received) = client.try_recv(&mut scratch)
            && let Some(read) = take_in(received, &scratch)?
        {
            return Ok(read);
        }
    }
    let complete = std::future::poll_fn(|cx| {
        let mut scratch = tools.scratch.borrow_mut();
        loop {
            let received = ready!(client.poll_recv(cx, &mut scratch));
            if let Some(read) = take_in(received, &scratch).transpose() {
                return Poll::Ready(read);
            }
        }
    });
    match timeout_at(deadline.into(), complete).await {
        Ok(read) => read,
        Err(_) => Err(Failure::new(Outcome::HelloTimeout, Side::Client)),
    }
}

fn refusal(error: HeaderError) -> Failure {
    tracing::debug!("refused: {error}");
    let outcome = match error {
        HeaderError::Missing { .. } => Outcome::ProxyHeaderMissing,
        HeaderError::EndlessLine
        | HeaderError::TooLarge(_)
        | HeaderError::Command(_)
        | HeaderError::Family(_)
        | HeaderError::Checksum
        | HeaderError::Malformed(_) => Outcome::ProxyHeaderMalformed,
    };
    Failure::new(outcome, Side::Client)
}
