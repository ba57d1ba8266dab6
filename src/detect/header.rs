//! The PROXY header in front of an opening: read under the same deadline, and its bytes count like those of the opening.

use std::sync::Arc;
use std::time::Instant;

use super::{Memory, Opening, receive, receive_at_once};
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
    let mut take_in = |received: &[u8]| {
        let held = opening.get_or_insert_with(|| tools.openings.take(memory));
        held.push(received)?;
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
    // With deferred accepting it is nearly always there.
    match receive_at_once(client, tools, &mut take_in)? {
        Some(read) => Ok(read),
        None => receive(client, tools, deadline, take_in).await,
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
