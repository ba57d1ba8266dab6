//! Authorities that want to see that a name is ours (RFC 8737): answered on any listener for TLS, wherever the name
//! leads.

use std::future::Future;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::story::Story;
use super::{Failure, unless_asked};
use crate::acme::challenges::Asked;
use crate::detect::Detected;
use crate::observe::outcome::{Outcome, Side};
use crate::stream::Stream;
use crate::supervise::worker::Worker;
use crate::tls::handshake;

/// How long the handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// Answers a hello that asks for a proof, if there is one. Others go on as they were, and cost a look at the protocols they
/// offer.
///
/// # Errors
/// [`Outcome::AcmeChallenge`]: it was answered, and nothing is left to be done. Else why it could not be.
pub(super) fn answer<'a>(
    worker: &'a Worker,
    story: &'a mut Story,
    client: &'a Stream,
    detected: Detected,
) -> impl Future<Output = Result<Detected, Failure>> + 'a {
    // Boxed where there is anything to be done, because sessions keep room for the largest of their stages.
    let mut proof = match worker.shared.challenges.asked(detected.hello.as_ref()) {
        Some(asked) => Ok(Box::pin(prove(worker, story, client, detected, asked))),
        None => Err(Some(detected)),
    };
    std::future::poll_fn(move |cx| match &mut proof {
        Ok(proof) => proof.as_mut().poll(cx),
        Err(detected) => Poll::Ready(detected.take().ok_or(Failure::new(Outcome::Internal, Side::Us))),
    })
}

async fn prove(
    worker: &Worker,
    story: &mut Story,
    client: &Stream,
    mut detected: Detected,
    asked: &Asked,
) -> Result<Detected, Failure> {
    let deadline = Instant::now() + HANDSHAKE;
    let find = async {
        let found = tokio::time::timeout_at(deadline.into(), worker.shared.challenges.answer(asked)).await;
        Ok(found.ok().flatten())
    };
    // Where the proof is not ours to give, an endpoint may have it.
    let Some(answer) = unless_asked(story.entry(), find).await? else { return Ok(detected) };
    let opening = detected.opening.take().ok_or(Failure::new(Outcome::Internal, Side::Us))?;
    story.heard(detected.hello.take());
    story.seals();
    let began = Instant::now();
    let handshake = handshake::accept(client, opening, &answer.config, &worker.tools, deadline);
    let made = unless_asked(story.entry(), async { Ok(handshake.await) }).await?;
    let mut accepted = story.shook_hands(None, made, began.elapsed())?;
    handshake::part(&mut accepted.sealed, client);
    Err(Failure::new(Outcome::AcmeChallenge, Side::Policy))
}
