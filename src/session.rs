//! The path of a connection, from accept to record. Start reading here.
//!
//! [`travel`] is the whole line, a stage after the other; each stage is a module. [`serve`] wraps it: it opens the
//! record, closes the sockets in the way the end calls for, and makes sure that every connection ends in exactly one
//! outcome, whatever happens.

mod story;

use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use self::story::Story;
use crate::config::model::Protocol;
use crate::connect::{Attempts, Reached};
use crate::detect::{Detected, Detection, Opening};
use crate::forward::{End, Forward, closing};
use crate::listen::Accepted;
use crate::live::Route;
use crate::observe::outcome::{Outcome, Side};
use crate::stream::Stream;
use crate::supervise::worker::Worker;
use crate::table::{Ask, Entry};
use crate::wire::alert::Alert;

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

/// A session that was forwarded, and how that ended.
struct Travelled {
    end: End,
    endpoint: Stream,
}

/// Serves one accepted connection until its record is written.
///
/// Not an async function: that would keep its arguments beside what becomes of them for as long as the session lives.
pub(crate) fn serve(worker: Rc<Worker>, accepted: Accepted) -> impl Future<Output = ()> {
    let mut story = Story::begin(&worker, &accepted);
    let Accepted { socket, permit, seat, .. } = accepted;
    let client = Stream::new(socket);
    async move {
        let ended = match client {
            Ok(client) => match travel(&worker, &mut story, &client).await {
                Ok(Travelled { end: End::Finished(side), .. }) => Failure::new(Outcome::Ok, side),
                Ok(travelled) => Box::pin(close(travelled, client, story.protocol())).await,
                Err(failure) => Box::pin(refuse(failure, client, story.protocol())).await,
            },
            Err(_) => Failure::new(Outcome::Internal, Side::Us),
        };
        drop((permit, seat));
        story.end(ended);
    }
}

/// The line: detect, route, choose, connect, forward.
async fn travel(worker: &Worker, story: &mut Story, client: &Stream) -> Result<Travelled, Failure> {
    story.entry().set_waker(std::future::poll_fn(|cx| Poll::Ready(cx.waker().clone())).await);
    let detected = detect(worker, story, client).await?;
    let (route, mut opening) = route(worker, story, detected)?;

    let mut attempts = Attempts::on(&route.pool);
    loop {
        let reached = unless_asked(story.entry(), attempts.next()).await;
        story.tried(attempts.last());
        let Reached { stream: endpoint, lease, took } = reached?;
        story.connected(&route.pool, took);
        match Forward::new(client, &endpoint, opening, &worker.tools, story.entry()).await {
            End::Unanswered(back) if back.replayable && attempts.may_go_on() => {
                attempts.unanswered(&lease);
                opening = back;
            }
            end => return Ok(Travelled { end, endpoint }),
        }
    }
}

/// Finds out what the client says.
async fn detect(worker: &Worker, story: &Story, client: &Stream) -> Result<Detected, Failure> {
    let mut detection = Detection::of(story.protocol(), client, &worker.tools, worker.memory());
    match detection.at_once() {
        Some(detected) => detected,
        None => unless_asked(story.entry(), detection.wait(story.deadline())).await,
    }
}

/// Finds the route for what was detected, and notes both.
fn route(worker: &Worker, story: &mut Story, detected: Detected) -> Result<(Arc<Route>, Opening), Failure> {
    let Detected { opening, hello } = detected;
    let route = worker.live().route(story.listener(), hello.as_ref(), story.client());
    story.heard(hello);
    let route = route?;
    story.routed(&route);
    Ok((route, opening))
}

/// Closes both sockets so that each side learns the truth: a finish as a finish, a loss as a reset, after everything
/// that the lost side had sent.
async fn close(travelled: Travelled, client: Stream, protocol: Protocol) -> Failure {
    let Travelled { end, endpoint } = travelled;
    match end {
        End::Finished(side) => Failure::new(Outcome::Ok, side),
        End::Lost(side, outcome) => {
            let (lost, left) = if side == Side::Client { (client, endpoint) } else { (endpoint, client) };
            lost.reset();
            closing::reset_after_delivery(left).await;
            Failure::new(outcome, side)
        }
        End::Asked { outcome, clean } => {
            if !clean {
                client.reset();
                endpoint.reset();
            }
            Failure::asked(outcome)
        }
        End::Unanswered(_) => {
            drop(endpoint);
            refuse(Failure::new(Outcome::EndpointSilent, Side::Endpoint), client, protocol).await
        }
    }
}

/// Sends a client away: with an alert where its protocol has one for the reason, and in any case with a clean close.
async fn refuse(failure: Failure, client: Stream, protocol: Protocol) -> Failure {
    if failure.outcome != Outcome::ClientGone {
        let alert = failure.outcome.alert().filter(|_| protocol == Protocol::Tls).map(Alert::record);
        closing::say(client, alert.as_ref().map(<[u8; 7]>::as_slice).unwrap_or_default()).await;
    }
    failure
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
        Some(Ask::End(outcome)) => Poll::Ready(Err(Failure::asked(outcome))),
        Some(Ask::Look) | None => stage.as_mut().poll(cx),
    })
}
