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

/// Shows the proof, if there is one.
///
/// # Errors
/// [`Outcome::AcmeChallenge`]: it was shown, and nothing is left to be done. Else why it could not be.
pub(super) async fn prove(
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
