//! The path of a connection, from accept to record. Start reading here.
//!
//! [`travel`] is the whole line, a stage after the other; each stage is a module. [`serve`] wraps it: it opens the
//! record, closes the sockets in the way the end calls for, and makes sure that every connection ends in exactly one
//! outcome, whatever happens.

mod aside;
mod cancel;
mod challenge;
mod proxied;
mod story;

use std::future::{Future, Ready, ready};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use futures_util::FutureExt;
use futures_util::future::{Either, LocalBoxFuture};

use self::story::Story;
use crate::config::model::Protocol;
use crate::connect::{Attempts, Introduction, Near, Reached};
use crate::detect::{Begun, Detected, Detection, Opening, Wish};
use crate::forward::tls::ForwardTls;
use crate::forward::{End, Forward, closing};
use crate::listen;
use crate::live::Route;
use crate::observe::outcome::{Outcome, Side};
use crate::pool::Lease;
use crate::refusal::Manner;
use crate::stream::{Family, Stream};
use crate::supervise::worker::{Worker, spawn};
use crate::table::{Ask, Entry};
use crate::tls::handshake::{self, Accepted};
use crate::tls::termination::Termination;
use crate::wire::name::Name;

/// Why a stage ends a connection before anything is forwarded, and who is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) outcome: Outcome,
    pub(crate) by: Side,
}

impl Failure {
    /// A failure.
    pub(crate) const fn new(outcome: Outcome, by: Side) -> Failure {
        Failure { outcome, by }
    }

    /// An end that was asked for from outside the session.
    fn asked(outcome: Outcome) -> Failure {
        Failure::new(outcome, if outcome == Outcome::Shutdown { Side::Us } else { Side::Policy })
    }
}

/// A session that knows where to go.
struct Routed {
    route: Arc<Route>,
    /// What the route's pool knows the client by.
    key: u64,
    /// What endpoints are to know of the client, if anything.
    introduction: Option<Box<Introduction>>,
    opening: Option<Box<Opening>>,
}

/// A session that was forwarded, and how that ended.
struct Travelled {
    end: End,
    endpoint: Stream,
    /// Given back once the endpoint's connection is closed: only then it has a place for another.
    lease: Lease,
}

/// Serves one accepted connection on this worker until its record is written.
pub(crate) fn serve(worker: Rc<Worker>, accepted: listen::Accepted) {
    let mut story = Story::begin(&worker, &accepted);
    let listen::Accepted { socket, client, permit, seat, .. } = accepted;
    let family = if client.is_some() { Family::Tcp } else { Family::Unix };
    let Ok(client) = Stream::new(socket, family) else {
        return story.end(Failure::new(Outcome::Internal, Side::Us));
    };
    spawn(async move {
        let travelled = travel(&worker, &mut story, &client).await;
        story.entry().disconnected();
        let ways = (story.manner().get(), story.protocol().says_goodbye());
        let ended = part(travelled, client, ways).await;
        drop((permit, seat));
        story.end(ended);
    });
}

/// The line: read the header of a proxy, where one has to come, detect, answer what asks for something else, route, terminate
/// where the route says so, choose, connect, forward.
#[expect(clippy::manual_async_fn, reason = "an async fn keeps its arguments twice, for as long as the session lives")]
fn travel<'a>(
    worker: &'a Worker,
    story: &'a mut Story,
    client: &'a Stream,
) -> impl Future<Output = Result<Travelled, Failure>> + 'a {
    async move {
        story.entry().set_waker(std::future::poll_fn(|cx| Poll::Ready(cx.waker().clone())).await);
        let behind = proxied::read(worker, story, client).await?;
        let detection = Detection::of(story.protocol(), client, &worker.tools, worker.memory(), story.manner());
        let detected = match detection.after(behind).begin() {
            Begun::Done(detected) => detected?,
            Begun::Incomplete(detection) => unless_asked(story.entry(), detection.wait(story.deadline())).await?,
        };
        let detected = aside::answer(worker, story, client, detected).await?;
        let Routed { route, key, introduction, mut opening } = route(worker, story, client, detected)?;
        let mut accepted = terminate(worker, story, client, &route, &mut opening).await?;

        let near = Near::of(story.protocol(), opening.as_deref(), accepted.as_deref());
        // A client whose TLS ends here may have said all that it has to say.
        let awaits_answer = story.protocol() != Protocol::Tcp && accepted.is_none();
        let said = opening.as_ref().is_some_and(|opening| !opening.bytes.is_empty());
        let introduction = introduction.map(|introduction| introduction.complete(accepted.as_deref(), said));
        let attempts = Attempts::on(&route.pool, key, client, awaits_answer);
        let mut attempts = attempts.along(near, introduction, &worker.tools, &worker.shared.metrics);
        loop {
            let reached = unless_asked(story.entry(), attempts.next()).await;
            let handshake = attempts.take_handshake();
            story.tried(attempts.last(), handshake);
            let reached = reached.inspect_err(|failure| turn_away(story, failure, client, accepted.as_deref_mut()));
            let Reached { stream: endpoint, mut lease, joined, took } = reached?;
            story.connected(&route.pool, &endpoint, took);
            if accepted.is_some() || joined.is_some() {
                let (near, far) = ((client, accepted.take(), opening.take()), (&endpoint, joined));
                let manner = Manner::within_tls(story.protocol());
                let end = Box::pin(ForwardTls::new(near, far, manner, &worker.tools, story.entry())).await;
                match &end {
                    End::Unanswered(_) => attempts.unanswered(&mut lease),
                    End::Broken(side, why) => story.broken(*side, why),
                    _ => {}
                }
                blame(&end, story, &route, &lease);
                return Ok(Travelled { end, endpoint, lease });
            }
            match Forward::new(client, &endpoint, opening, &worker.tools, story.entry()).await {
                End::Unanswered(back) => {
                    attempts.unanswered(&mut lease);
                    opening = back;
                    if opening.is_none() || !attempts.may_go_on() {
                        return Ok(Travelled { end: End::Unanswered(opening), endpoint, lease });
                    }
                    story.entry().disconnected();
                    drop((endpoint, lease));
                }
                end => {
                    blame(&end, story, &route, &lease);
                    return Ok(Travelled { end, endpoint, lease });
                }
            }
        }
    }
}

/// An endpoint that was told something and ended without an answer has failed.
fn blame(end: &End, story: &Story, route: &Route, lease: &Lease) {
    if end.is_the_endpoints() && matches!(story.entry().bytes(), (1.., 0)) {
        route.pool.failed(lease.endpoint());
    }
}

/// Finds the route for what was detected, and notes both.
fn route(worker: &Worker, story: &mut Story, client: &Stream, detected: Detected) -> Result<Routed, Failure> {
    let is_clear = detected.wish() == Wish::Clear;
    let Detected { opening, hello } = detected;
    let found = worker.live().route(story.listener(), hello.as_ref(), story.client());
    let name = hello.as_ref().and_then(|hello| hello.server_name.as_ref());
    let key = found
        .as_ref()
        .map_or(0, |route| route.pool.key(story.client().map(|client| client.ip()), name.map(Name::as_str)));
    let introduce = |route: &Arc<Route>| Introduction::of(&route.pool, story.entry(), client, name.map(Name::as_str));
    let introduction = found.as_ref().ok().and_then(introduce);
    let waits = found.as_ref().is_ok_and(|route| route.tls.as_ref().is_some_and(|tls| tls.lacks(name)));
    story.heard(hello);
    let route = found?;
    story.routed(&route);
    if waits {
        return Err(Failure::new(Outcome::NoCertificate, Side::Us));
    }
    if is_clear && !route.allow_cleartext {
        return Err(Failure::new(Outcome::CleartextDenied, Side::Policy));
    }
    Ok(Routed { route, key, introduction, opening })
}

/// Makes the handshake, where the route says that TLS ends here.
fn terminate<'a>(
    worker: &'a Worker,
    story: &'a mut Story,
    client: &'a Stream,
    route: &'a Route,
    opening: &mut Option<Box<Opening>>,
) -> Stage<'a, Option<Box<Accepted>>> {
    // What comes in clear, where that is allowed, has no hello.
    let is_clear = opening.as_ref().is_some_and(|opening| opening.wish == Wish::Clear);
    match &route.tls {
        Some(tls) if !is_clear => some(shake_hands(worker, story, client, (route, tls), opening.take())),
        _ => none(None),
    }
}

async fn shake_hands(
    worker: &Worker,
    story: &mut Story,
    client: &Stream,
    (route, tls): (&Route, &Termination),
    hello: Option<Box<Opening>>,
) -> Result<Option<Box<Accepted>>, Failure> {
    // Without a hello, which every listener for TLS reads, nothing must go on in clear.
    let hello = hello.ok_or(Failure::new(Outcome::Internal, Side::Us))?;
    story.seals();
    let is_direct = story.protocol() == Protocol::Postgres && hello.wish == Wish::Session;
    let config = tls.config();
    let deadline = Instant::now() + tls.patience();
    let handshake = handshake::accept(client, hello, &config, &worker.tools, deadline);
    let began = Instant::now();
    let made = unless_asked(story.entry(), async { Ok(handshake.await) }).await?;
    let mut accepted = story.shook_hands(Some(route), made, began.elapsed())?;
    if is_direct && accepted.sealed.protocol().is_none() {
        // As servers have it: nobody is to be led here who means another protocol.
        story.broken(Side::Client, &rustls::Error::NoApplicationProtocol);
        handshake::part(&mut accepted.sealed, client);
        return Err(Failure::new(Outcome::HandshakeFailed, Side::Client));
    }
    if story.protocol() == Protocol::Postgres {
        let session = cancel::within(worker, story, client, route, &mut accepted, deadline).await;
        session.inspect_err(|failure| turn_away(story, failure, client, Some(&mut accepted)))?;
    }
    Ok(Some(accepted))
}

/// Tells a client whose TLS ends here that it is not served, where its protocol has words for that. Otherwise it is cut off:
/// an end would be taken for an empty answer.
fn turn_away(story: &Story, failure: &Failure, client: &Stream, accepted: Option<&mut Accepted>) {
    let manner = Manner::within_tls(story.protocol());
    if let Some(accepted) = accepted.filter(|_| manner != Manner::Silent) {
        handshake::say(&mut accepted.sealed, client, &manner.words(failure.outcome));
    }
}

/// Takes leave of both sides. Only what has to be said or waited for takes memory and time; most ends are silent.
fn part(
    travelled: Result<Travelled, Failure>,
    client: Stream,
    (manner, says_goodbye): (Manner, bool),
) -> impl Future<Output = Failure> {
    match travelled {
        Ok(Travelled { end: End::Finished(side), .. }) => Either::Left(ready(Failure::new(Outcome::Ok, side))),
        Ok(travelled) => Either::Right(close(travelled, client, manner, says_goodbye).boxed_local()),
        Err(failure) => Either::Right(refuse(failure, client, manner).boxed_local()),
    }
}

/// Closes both sockets so that each side learns the truth: a finish as a finish, a loss as a reset, after everything
/// that the lost side had sent.
async fn close(travelled: Travelled, client: Stream, manner: Manner, says_goodbye: bool) -> Failure {
    // In this order: the lease goes last.
    let Travelled { lease, endpoint, end } = travelled;
    match end {
        End::Finished(side) => Failure::new(Outcome::Ok, side),
        End::Left(first) => {
            client.reset();
            closing::reset_after_delivery(endpoint).await;
            Failure::new(Outcome::Ok, first)
        }
        End::Broken(side, _) => {
            // It is still there, and an alert is on its way to it.
            let (broken, left) = if side == Side::Client { (client, endpoint) } else { (endpoint, client) };
            tokio::join!(closing::reset_after_delivery(left), closing::say(broken, &[]));
            Failure::new(Outcome::TlsBroken, side)
        }
        End::Lost(side, outcome) => {
            let is_goodbye = says_goodbye && closing::is_goodbye(outcome, &client, &endpoint).await;
            let (lost, left) = if side == Side::Client { (client, endpoint) } else { (endpoint, client) };
            lost.reset();
            closing::reset_after_delivery(left).await;
            if is_goodbye { Failure::new(Outcome::Ok, Side::Client) } else { Failure::new(outcome, side) }
        }
        End::Asked { outcome, clean } => {
            if !clean {
                client.reset();
                endpoint.reset();
            }
            Failure::asked(outcome)
        }
        End::Unanswered(_) => {
            drop((endpoint, lease));
            refuse(Failure::new(Outcome::EndpointSilent, Side::Endpoint), client, manner).await
        }
    }
}

/// Sends a client away: in the words that its protocol has for the reason, if any, and in any case with a clean close.
async fn refuse(failure: Failure, client: Stream, manner: Manner) -> Failure {
    if failure.outcome != Outcome::ClientGone {
        closing::say(client, &manner.words(failure.outcome)).await;
    }
    failure
}

/// A stage that most sessions go without. Boxed where there is anything to be done, because sessions keep room for the largest
/// of their stages.
type Stage<'a, T> = Either<Ready<Result<T, Failure>>, LocalBoxFuture<'a, Result<T, Failure>>>;

fn some<'a, T>(stage: impl Future<Output = Result<T, Failure>> + 'a) -> Stage<'a, T> {
    Either::Right(stage.boxed_local())
}

fn none<'a, T>(passed_on: T) -> Stage<'a, T> {
    Either::Left(ready(Ok(passed_on)))
}

/// Runs a stage that owns no entry of its own, unless the session is asked to end meanwhile.
///
/// The stage is boxed so that its state goes when it is done: a session that forwards is one small future.
fn unless_asked<'a, T>(
    entry: &'a Entry,
    stage: impl Future<Output = Result<T, Failure>> + 'a,
) -> impl Future<Output = Result<T, Failure>> {
    let mut stage = Box::pin(stage);
    std::future::poll_fn(move |cx| match entry.take_ask() {
        Some(Ask::End { outcome, .. }) => Poll::Ready(Err(Failure::asked(outcome))),
        Some(Ask::Look) | None => stage.as_mut().poll(cx),
    })
}
