//! The handshake with a client whose hello has been read already.

use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Instant;

use rustls::ServerConfig;
use tokio::time::timeout_at;

use super::sealed::Sealed;
use crate::detect::Opening;
use crate::forward::Tools;
use crate::observe::outcome::{Outcome, Side};
use crate::session::Failure;
use crate::stream::Stream;

/// The most that a client may send before its handshake is over: hellos are bounded before, certificates of clients are the
/// largest thing that follows.
const MOST: usize = 128 * 1024;

/// A connection that is ready, and what its client has sent behind the handshake, still sealed.
pub(crate) struct Accepted {
    pub(crate) sealed: Box<Sealed>,
    pub(crate) incoming: Vec<u8>,
    /// What was in the first record behind the handshake.
    pub(crate) plain: Vec<u8>,
}

/// Why there was no handshake, in words for the log.
pub(crate) struct Refused {
    pub(crate) failure: Failure,
    pub(crate) why: Option<rustls::Error>,
}

/// Makes the handshake that `opening` begins, until `deadline`. A client that breaks the rules is sent the alert for it.
///
/// # Errors
/// [`Outcome::HandshakeFailed`], [`Outcome::HandshakeTimeout`], [`Outcome::ClientGone`].
pub(crate) async fn accept(
    client: &Stream,
    opening: Box<Opening>,
    config: &Arc<ServerConfig>,
    tools: &Tools,
    deadline: Instant,
) -> Result<Accepted, Refused> {
    let mut sealed = match Sealed::new(config) {
        Ok(sealed) => Box::new(sealed),
        Err(why) => return Err(Refused { failure: Failure::new(Outcome::Internal, Side::Us), why: Some(why) }),
    };
    let (mut incoming, mut plain) = (opening.bytes.clone(), Vec::new());
    tools.openings.give_back(opening);
    let talk = async {
        loop {
            // What comes right behind the handshake is the session's.
            let opened = sealed.open(&mut incoming, |first| {
                plain.extend_from_slice(first);
                false
            });
            // Nobody else waits for more than one step of a handshake.
            tokio::task::yield_now().await;
            flush(client, &mut sealed).await.map_err(|()| gone())?;
            match opened {
                Ok((used, _)) => drop(incoming.drain(..used)),
                Err(why) => return Err(refused(Outcome::HandshakeFailed, Some(why))),
            }
            if !sealed.is_handshaking() {
                return Ok(());
            }
            if incoming.len() > MOST || receive(client, &mut incoming, tools).await == 0 {
                return Err(gone());
            }
        }
    };
    match timeout_at(deadline.into(), talk).await {
        Ok(Ok(())) => {
            incoming.shrink_to_fit();
            Ok(Accepted { sealed, incoming, plain })
        }
        Ok(Err(refused)) => Err(refused),
        Err(_) => Err(refused(Outcome::HandshakeTimeout, None)),
    }
}

/// Takes leave of a client that there is no endpoint for, as far as its socket takes the words at once.
pub(crate) fn part(accepted: &mut Option<Accepted>, client: &Stream) {
    if let Some(accepted) = accepted {
        accepted.sealed.close();
        let _ = rustix::net::send(client, accepted.sealed.outgoing(), rustix::net::SendFlags::NOSIGNAL);
    }
}

fn refused(outcome: Outcome, why: Option<rustls::Error>) -> Refused {
    Refused { failure: Failure::new(outcome, Side::Client), why }
}

fn gone() -> Refused {
    refused(Outcome::ClientGone, None)
}

/// Sends all that is to be sent.
async fn flush(client: &Stream, sealed: &mut Sealed) -> Result<(), ()> {
    while !sealed.outgoing().is_empty() {
        let sent = std::future::poll_fn(|cx| client.poll_send(cx, sealed.outgoing())).await.map_err(|_| ())?;
        sealed.sent(sent);
    }
    Ok(())
}

/// Appends what comes next; 0 at the end, however it comes.
async fn receive(client: &Stream, incoming: &mut Vec<u8>, tools: &Tools) -> usize {
    std::future::poll_fn(|cx| {
        let mut scratch = tools.scratch.borrow_mut();
        let received = ready!(client.poll_recv(cx, &mut scratch)).unwrap_or(0);
        incoming.extend_from_slice(scratch.get(..received).unwrap_or_default());
        Poll::Ready(received)
    })
    .await
}
