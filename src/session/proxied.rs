//! Clients that a proxy speaks for: it says so in a PROXY header in front of everything else.

use super::story::Story;
use super::{Stage, none, some, unless_asked};
use crate::detect::{self, Opening};
use crate::listen::senders::Proxied;
use crate::stream::Stream;
use crate::supervise::worker::Worker;

/// Reads the header, where whoever connected has to send one, and notes whom it speaks for. Gives what came behind it.
/// Others go on as they were.
///
/// # Errors
/// Those of [`detect::header`].
pub(super) fn read<'a>(worker: &'a Worker, story: &'a Story, client: &'a Stream) -> Stage<'a, Option<Box<Opening>>> {
    if !story.awaits_header() {
        return none(None);
    }
    some(async {
        let read = detect::header(client, &worker.tools, worker.memory(), story.deadline());
        let (header, behind) = unless_asked(story.entry(), read).await?;
        story.entry().set_proxied(Proxied::new(header, story.entry().identity.peer));
        Ok(behind)
    })
}
