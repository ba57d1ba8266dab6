//! Authorities that want to see that a name is ours (RFC 8737): answered on any listener for TLS, wherever the name
//! leads.

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

/// Answers a hello that asks for a proof, if there is one. Others go on, and cost a look at the protocols they offer.
///
/// # Errors
/// [`Outcome::AcmeChallenge`]: it was answered, and nothing is left to be done. Else why it could not be.
pub(super) async fn answer(
    worker: &Worker,
    story: &mut Story,
    client: &Stream,
    detected: &mut Detected,
) -> Result<(), Failure> {
    match worker.shared.challenges.asked(detected.hello.as_ref()) {
        // Boxed, because sessions keep room for the largest of their stages.
        Some(asked) => Box::pin(prove(worker, story, client, detected, asked)).await,
        None => Ok(()),
    }
}

async fn prove(
    worker: &Worker,
    story: &mut Story,
    client: &Stream,
    detected: &mut Detected,
    asked: &Asked,
) -> Result<(), Failure> {
    let deadline = Instant::now() + HANDSHAKE;
    let find = async {
        let found = tokio::time::timeout_at(deadline.into(), worker.shared.challenges.answer(asked)).await;
        Ok(found.ok().flatten())
    };
    // Where the proof is not ours to give, an endpoint may have it.
    let Some(answer) = unless_asked(story.entry(), find).await? else { return Ok(()) };
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
