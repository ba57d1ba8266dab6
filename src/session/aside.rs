//! What is answered on the way, whatever route it would take: an authority that wants to see a proof, and the request to
//! cancel a query.

use super::story::Story;
use super::{Stage, cancel, challenge, none, some};
use crate::detect::{Detected, Wish};
use crate::stream::Stream;
use crate::supervise::worker::Worker;

/// Answers what asks for something else than a session, if it can be answered. Others go on as they were, and cost a look at
/// what they want.
///
/// # Errors
/// It was answered, and nothing is left to be done: [`Outcome::AcmeChallenge`], [`Outcome::Cancel`]. Else why it could not be.
pub(super) fn answer<'a>(
    worker: &'a Worker,
    story: &'a mut Story,
    client: &'a Stream,
    detected: Detected,
) -> Stage<'a, Detected> {
    if detected.wish() == Wish::Cancel {
        return some(cancel::heard(worker, story, client, detected));
    }
    match worker.shared.challenges.asked(detected.hello.as_ref()) {
        Some(asked) => some(challenge::prove(worker, story, client, detected, asked)),
        None => none(detected),
    }
}
