//! What is answered on the way, whatever route it would take: an authority that wants to see a proof, and the request to
//! cancel a query.

use std::future::Future;
use std::pin::Pin;
use std::task::Poll;

use super::story::Story;
use super::{Failure, cancel, challenge};
use crate::detect::{Detected, Wish};
use crate::observe::outcome::{Outcome, Side};
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
) -> impl Future<Output = Result<Detected, Failure>> + 'a {
    // Boxed where there is anything to be done, because sessions keep room for the largest of their stages.
    let mut answered: Result<Pin<Box<dyn Future<Output = _>>>, _> = if detected.wish() == Wish::Cancel {
        Ok(Box::pin(cancel::heard(worker, story, client, detected)))
    } else {
        match worker.shared.challenges.asked(detected.hello.as_ref()) {
            Some(asked) => Ok(Box::pin(challenge::prove(worker, story, client, detected, asked))),
            None => Err(Some(detected)),
        }
    };
    std::future::poll_fn(move |cx| match &mut answered {
        Ok(answered) => answered.as_mut().poll(cx),
        Err(detected) => Poll::Ready(detected.take().ok_or(Failure::new(Outcome::Internal, Side::Us))),
    })
}
