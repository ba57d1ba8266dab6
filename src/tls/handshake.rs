//! The handshake with a client whose hello has been read already.

use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Instant;

use rustix::net::SendFlags;
use rustls::ServerConfig;
use tokio::time::timeout_at;

use super::sealed::Sealed;
use crate::detect::Opening;
use crate::forward::Tools;
use crate::observe::outcome::{Outcome, Side};
use crate::session::Failure;
use crate::stream::Stream;

/// A connection that is ready.
pub(crate) struct Accepted {
    pub(crate) sealed: Sealed,
    /// What came right behind the handshake.
    pub(crate) plain: Vec<u8>,
    /// Kept for its share of the memory, until an endpoint is there.
    pub(crate) opening: Box<Opening>,
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
    mut opening: Box<Opening>,
    config: &Arc<ServerConfig>,
    tools: &Tools,
    deadline: Instant,
) -> Result<Box<Accepted>, Refused> {
    let mut sealed = match Sealed::new(config) {
        Ok(sealed) => sealed,
        Err(why) => return Err(Refused { failure: Failure::new(Outcome::Internal, Side::Us), why: Some(why) }),
    };
    let (mut incoming, mut plain) = (std::mem::take(&mut opening.bytes), Vec::new());
    let talk = async {
        loop {
            let opened = sealed.open(&mut incoming, |bytes| plain.extend_from_slice(bytes));
            // Nobody else waits for more than one step of a handshake.
            tokio::task::yield_now().await;
            let flushed = flush(client, &mut sealed, opened.is_ok()).await;
            // What is wrong with its words is told rather than that it did not wait for ours.
            opened.map_err(|why| refused(Outcome::HandshakeFailed, Some(why)))?;
            flushed.map_err(|()| refused(Outcome::ClientGone, None))?;
            if !sealed.is_handshaking() {
                return Ok(());
            }
            if !receive(client, &sealed, &mut incoming, tools).await {
                return Err(refused(Outcome::ClientGone, None));
            }
        }
    };
    match timeout_at(deadline.into(), talk).await {
        Ok(Ok(())) => Ok(Box::new(Accepted { sealed, plain, opening })),
        Ok(Err(refused)) => Err(refused),
        Err(_) => Err(refused(Outcome::HandshakeTimeout, None)),
    }
}

/// Tells a client that nothing more will come, as far as its socket takes the words at once.
pub(crate) fn part(sealed: &mut Sealed, client: &Stream) {
    sealed.close();
    let _ = rustix::net::send(client, sealed.outgoing(), SendFlags::NOSIGNAL);
}

fn refused(outcome: Outcome, why: Option<rustls::Error>) -> Refused {
    Refused { failure: Failure::new(outcome, Side::Client), why }
}

/// Sends all that is to be sent. Where all goes `well`, tickets leave with the first answer if it comes soon, for nobody
/// waits for them.
async fn flush(client: &Stream, sealed: &mut Sealed, well: bool) -> Result<(), ()> {
    let ahead = well && sealed.has_only_tickets();
    while !sealed.outgoing().is_empty() {
        let sent = std::future::poll_fn(|cx| match ahead {
            true => client.poll_send_ahead(cx, sealed.outgoing()),
            false => client.poll_send(cx, sealed.outgoing()),
        });
        let sent = sent.await.map_err(|_| ())?;
        sealed.sent(sent);
    }
    Ok(())
}

/// Receives what comes next, behind what could not be opened yet. False at the end, however it comes.
async fn receive(client: &Stream, sealed: &Sealed, incoming: &mut Vec<u8>, tools: &Tools) -> bool {
    std::future::poll_fn(|cx| {
        let mut scratch = tools.scratch.borrow_mut();
        let before = sealed.put_unopened(&mut scratch);
        let room = scratch.get_mut(before..).unwrap_or_default();
        let received = ready!(client.poll_recv(cx, room)).unwrap_or(0);
        incoming.clear();
        incoming.extend_from_slice(scratch.get(..before + received).unwrap_or_default());
        Poll::Ready(received > 0)
    })
    .await
}
