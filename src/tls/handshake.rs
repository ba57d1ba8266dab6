//! Handshakes: with a client whose hello has been read already, and with an endpoint.

use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::{Instant, SystemTime};

use rustix::net::SendFlags;
use rustls::{CertificateError, ServerConfig};
use tokio::time::timeout_at;

use super::endpoint::EndpointTls;
use super::sealed::Sealed;
use super::{noting, presented, words};
use crate::detect::Opening;
use crate::forward::Tools;
use crate::observe::outcome::{Outcome, Side};
use crate::observe::record::Presented;
use crate::session::Failure;
use crate::stream::Stream;
use crate::wire::alert::Alert;

/// A connection with a client that is ready.
pub(crate) struct Accepted {
    pub(crate) sealed: Box<Sealed>,
    /// What came right behind the handshake.
    pub(crate) plain: Vec<u8>,
    /// Kept for its share of the memory, until an endpoint is there.
    pub(crate) opening: Box<Opening>,
}

/// Why there was no handshake, in words for the log.
pub(crate) struct Refused {
    pub(crate) failure: Failure,
    pub(crate) why: Option<rustls::Error>,
    /// The client's certificate, if that is why.
    pub(crate) shown: Option<Box<Presented>>,
}

/// Makes the handshake that `opening` begins, until `deadline`. A client that breaks the rules is sent the alert for it.
///
/// # Errors
/// [`Outcome::HandshakeFailed`], [`Outcome::HandshakeTimeout`], [`Outcome::ClientGone`], [`Outcome::OpeningMemory`].
pub(crate) async fn accept(
    client: &Stream,
    mut opening: Box<Opening>,
    config: &Arc<ServerConfig>,
    tools: &Tools,
    deadline: Instant,
) -> Result<Box<Accepted>, Refused> {
    let mut sealed = match Sealed::with_client(config) {
        Ok(sealed) => Box::new(sealed),
        Err(why) => return Err(refused(Outcome::Internal, Some(why))),
    };
    let (mut incoming, mut plain) = (std::mem::take(&mut opening.bytes), Vec::new());
    let talk = async {
        loop {
            let opened = sealed.open(&mut incoming, |bytes| plain.extend_from_slice(bytes));
            let shown = noting::take_refused().map(Box::new);
            // Nobody else waits for more than one step of a handshake.
            tokio::task::yield_now().await;
            if sealed.is_handshaking()
                && let Err(why) = unless_expired(&sealed)
            {
                // In place of our side of the handshake, which nobody has seen: that makes the client forget the session.
                let _ = rustix::net::send(client, &Alert::CertificateExpired.record(), SendFlags::NOSIGNAL);
                let shown = sealed.peer_certificate().map(|shown| Box::new(presented::presented(shown)));
                return Err(Refused { shown, ..refused(Outcome::HandshakeFailed, Some(why)) });
            }
            let flushed = flush(client, &mut sealed, opened.is_ok()).await;
            // What is wrong with its words is told rather than that it did not wait for ours.
            opened.map_err(|why| Refused { shown, ..refused(Outcome::HandshakeFailed, Some(why)) })?;
            flushed.map_err(|()| refused(Outcome::ClientGone, None))?;
            if !sealed.is_handshaking() {
                return opening.hold(plain.len()).map_err(|failure| Refused { failure, why: None, shown: None });
            }
            // Of the hello nothing is kept but what could not be opened.
            incoming = Vec::new();
            opening.hold(sealed.unopened()).map_err(|failure| Refused { failure, why: None, shown: None })?;
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

/// Receives within TLS until what the client has said is `enough`, or nothing more will come.
///
/// # Errors
/// [`Outcome::ClientGone`], also where it ends without a word; [`Outcome::TlsBroken`] and how; [`Outcome::OpeningMemory`].
pub(crate) async fn hear(
    client: &Stream,
    accepted: &mut Accepted,
    enough: impl Fn(&[u8]) -> bool,
    tools: &Tools,
) -> Result<(), Refused> {
    let Accepted { sealed, plain, opening } = accepted;
    while !enough(plain) && !sealed.has_peer_closed() {
        let mut incoming = Vec::new();
        if !receive(client, sealed, &mut incoming, tools).await {
            return Err(refused(Outcome::ClientGone, None));
        }
        let opened = sealed.open(&mut incoming, |bytes| plain.extend_from_slice(bytes));
        let flushed = flush(client, sealed, opened.is_ok()).await;
        opened.map_err(|why| refused(Outcome::TlsBroken, Some(why)))?;
        flushed.map_err(|()| refused(Outcome::ClientGone, None))?;
        let held = opening.hold(plain.len() + sealed.unopened());
        held.map_err(|failure| Refused { failure, why: None, shown: None })?;
    }
    if plain.is_empty() { Err(refused(Outcome::ClientGone, None)) } else { Ok(()) }
}

/// Says the last words within TLS, and that nothing more will come, as far as its socket takes them at once.
pub(crate) fn say(sealed: &mut Sealed, to: &Stream, words: &[u8]) {
    let mut room = vec![0; sealed.room_for(words.len())];
    if let Some(words) = sealed.seal(words, &mut room).ok().and_then(|sealed| room.get(..sealed)) {
        let _ = rustix::net::send(to, words, SendFlags::NOSIGNAL);
    }
    part(sealed, to);
}

/// A connection with an endpoint that is ready.
pub(crate) struct Joined {
    pub(crate) sealed: Box<Sealed>,
    /// What came right behind the handshake.
    pub(crate) plain: Vec<u8>,
}

/// Why there was no handshake with an endpoint.
pub(crate) enum Unjoined {
    /// One side broke the rules, or nothing was agreed on.
    Refused(rustls::Error),
    /// The endpoint ended the connection.
    Gone,
}

/// Makes a handshake with an endpoint. It is offered `protocols`, of which it has to take one if it `needs_one`.
///
/// # Errors
/// Why there is no connection.
pub(crate) async fn join(
    endpoint: &Stream,
    tls: &EndpointTls,
    protocols: Vec<Vec<u8>>,
    needs_one: bool,
    tools: &Tools,
) -> Result<Joined, Unjoined> {
    let unset = || Unjoined::Refused(rustls::Error::General("TLS to endpoints cannot be set up".into()));
    let (config, name) = tls.settings().ok_or_else(unset)?;
    let sealed = Sealed::with_endpoint(config, name, protocols).map_err(Unjoined::Refused)?;
    let mut joined = greet(endpoint, sealed, tools).await?;
    if needs_one && joined.sealed.protocol().is_none() {
        part(&mut joined.sealed, endpoint);
        return Err(Unjoined::Refused(rustls::Error::NoApplicationProtocol));
    }
    Ok(joined)
}

/// Makes a handshake that begins on our side.
///
/// # Errors
/// Why it did not succeed.
pub(crate) async fn greet(endpoint: &Stream, sealed: Sealed, tools: &Tools) -> Result<Joined, Unjoined> {
    let mut sealed = Box::new(sealed);
    let (mut incoming, mut plain) = (Vec::new(), Vec::new());
    loop {
        let opened = sealed.open(&mut incoming, |bytes| plain.extend_from_slice(bytes));
        // Nobody else waits for more than one step of a handshake.
        tokio::task::yield_now().await;
        let flushed = flush(endpoint, &mut sealed, false).await;
        opened.map_err(Unjoined::Refused)?;
        flushed.map_err(|()| Unjoined::Gone)?;
        if !sealed.is_handshaking() {
            return Ok(Joined { sealed, plain });
        }
        incoming = Vec::new();
        if !receive(endpoint, &sealed, &mut incoming, tools).await {
            return Err(Unjoined::Gone);
        }
    }
}

/// Tells the other side that nothing more will come, as far as its socket takes the words at once.
pub(crate) fn part(sealed: &mut Sealed, to: &Stream) {
    sealed.close();
    let _ = rustix::net::send(to, sealed.outgoing(), SendFlags::NOSIGNAL);
}

/// A session is not resumed when the certificate has ended that it began with, which is not verified again.
fn unless_expired(sealed: &Sealed) -> Result<(), rustls::Error> {
    let until = sealed.peer_certificate().filter(|_| sealed.is_resumed()).and_then(|shown| presented::until(shown));
    match until {
        Some(until) if until < SystemTime::now() => Err(CertificateError::Expired.into()),
        _ => Ok(()),
    }
}

fn refused(outcome: Outcome, why: Option<rustls::Error>) -> Refused {
    let is_ours = why.as_ref().is_some_and(words::is_ours);
    Refused { failure: Failure::new(outcome, if is_ours { Side::Us } else { Side::Client }), why, shown: None }
}

/// Sends all that is to be sent. Where all goes `well`, tickets leave with the first answer if it comes soon, for nobody
/// waits for them.
async fn flush(to: &Stream, sealed: &mut Sealed, well: bool) -> Result<(), ()> {
    let ahead = well && sealed.has_only_tickets();
    while !sealed.outgoing().is_empty() {
        let sent = std::future::poll_fn(|cx| match ahead {
            true => to.poll_send_ahead(cx, sealed.outgoing()),
            false => to.poll_send(cx, sealed.outgoing()),
        });
        let sent = sent.await.map_err(|_| ())?;
        sealed.sent(sent);
    }
    Ok(())
}

/// Receives what comes next, behind what could not be opened yet. False at the end, however it comes.
async fn receive(from: &Stream, sealed: &Sealed, incoming: &mut Vec<u8>, tools: &Tools) -> bool {
    std::future::poll_fn(|cx| {
        let mut scratch = tools.scratch.borrow_mut();
        let before = sealed.put_unopened(&mut scratch);
        let room = scratch.get_mut(before..).unwrap_or_default();
        let received = ready!(from.poll_recv(cx, room)).unwrap_or(0);
        *incoming = scratch.get(..before + received).unwrap_or_default().to_vec();
        Poll::Ready(received > 0)
    })
    .await
}
