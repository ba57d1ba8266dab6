//! Clients that a proxy speaks for: it says so in a PROXY header in front of everything else.

use std::future::Future;
use std::task::Poll;

use super::story::Story;
use super::{Failure, unless_asked};
use crate::detect::{self, Opening};
use crate::listen::senders::Proxied;
use crate::stream::Stream;
use crate::supervise::worker::Worker;

/// Reads the header, where whoever connected has to send one, and notes whom it speaks for. Gives what came behind it.
/// Others go on as they were.
///
/// # Errors
/// Those of [`detect::header`].
pub(super) fn read<'a>(
    worker: &'a Worker,
    story: &'a Story,
    client: &'a Stream,
) -> impl Future<Output = Result<Option<Box<Opening>>, Failure>> + 'a {
    // Boxed where there is anything to be done, because sessions keep room for the largest of their stages.
    let mut reading = story.awaits_header().then(|| {
        Box::pin(async move {
            let read = detect::header(client, &worker.tools, worker.memory(), story.deadline());
            let (header, behind) = unless_asked(story.entry(), read).await?;
            story.entry().set_proxied(Proxied::new(header, story.entry().identity.peer));
            Ok(behind)
        })
    });
    std::future::poll_fn(move |cx| match &mut reading {
        Some(reading) => reading.as_mut().poll(cx),
        None => Poll::Ready(Ok(None)),
    })
}
