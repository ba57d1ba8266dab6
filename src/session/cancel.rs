//! Requests to cancel a query of PostgreSQL: each comes on a connection of its own, which tells of the session it means
//! nothing but a key that only its server knows (PostgreSQL manual, "Canceling Requests in Progress").
//!
//! So it goes to every server on which the client's address has a session here; to the others it is a line in the log. The
//! client waits for the end of its connection and takes it that the server has acted by then: it ends once all have.

use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use rustix::net::SendFlags;
use tokio::time::{timeout, timeout_at};

use super::story::Story;
use super::{Failure, unless_asked};
use crate::config::model::Negotiation;
use crate::connect::{self, Introduction, Unopened};
use crate::detect::Detected;
use crate::forward::Tools;
use crate::live::Route;
use crate::observe::outcome::{Outcome, Side};
use crate::pool::Endpoint;
use crate::stream::Stream;
use crate::supervise::worker::Worker;
use crate::tls::handshake::{self, Accepted};
use crate::wire::postgres::{self, Packet};

/// Endpoints that one request goes to at the most.
const MOST_ENDPOINTS: usize = 16;
/// How long an endpoint may take to end its connection.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of the shortest request: what tells it from a StartupMessage is among them.
const SHORTEST: usize = 16;

/// Passes on what `detected` is, a request in clear: to endpoints of all routes of its listener.
///
/// # Errors
/// [`Outcome::Cancel`] and [`Outcome::CancelFailed`]: either way nothing is left to be done.
pub(super) async fn heard(
    worker: &Worker,
    story: &mut Story,
    client: &Stream,
    mut detected: Detected,
) -> Result<Detected, Failure> {
    let request = detected.opening.take().map(|opening| opening.bytes.clone()).unwrap_or_default();
    Err(pass_on(worker, story, client, &request, None).await)
}

/// Waits until `deadline` for the first message of a client of PostgreSQL whose TLS ends here, and passes it on if it is a
/// request: to endpoints of its route.
///
/// # Errors
/// As [`heard`]; [`Outcome::HelloTimeout`], [`Outcome::ClientGone`], [`Outcome::OpeningMemory`], [`Outcome::TlsBroken`].
pub(super) async fn within(
    worker: &Worker,
    story: &mut Story,
    client: &Stream,
    route: &Route,
    accepted: &mut Accepted,
    deadline: Instant,
) -> Result<(), Failure> {
    let late = Failure::new(Outcome::HelloTimeout, Side::Client);
    let first = async {
        let first = timeout_at(deadline.into(), handshake::hear(client, accepted, SHORTEST, &worker.tools)).await;
        first.unwrap_or(Err(late))
    };
    unless_asked(story.entry(), first).await?;
    let Ok(Some(Packet::Cancel { .. })) = postgres::packet(&accepted.plain) else { return Ok(()) };
    let passed_on = pass_on(worker, story, client, &accepted.plain, Some(&route.name)).await;
    handshake::part(&mut accepted.sealed, client);
    Err(passed_on)
}

async fn pass_on(
    worker: &Worker,
    story: &mut Story,
    client: &Stream,
    said: &[u8],
    route: Option<&Arc<str>>,
) -> Failure {
    let failed = |by| Failure::new(Outcome::CancelFailed, by);
    // Whatever comes behind it is not part of it.
    let request = match postgres::packet(said) {
        Ok(Some(Packet::Cancel { length })) => said.get(..length).unwrap_or_default(),
        _ => return failed(Side::Client),
    };
    let meant = async { Ok(meant(worker, story, route.cloned()).await) };
    let meant = match unless_asked(story.entry(), meant).await {
        Ok(Some(meant)) => meant,
        Ok(None) => return failed(Side::Us),
        Err(asked) => return asked,
    };
    let [(route, endpoint), ..] = &meant[..] else { return failed(Side::Policy) };
    // The log has room for one: where there are several, which of them it was is not known.
    story.routed(route);
    if meant.len() == 1 {
        story.tried(Some(endpoint), None);
    }
    let each = meant.iter().map(|(route, endpoint)| {
        // To be sent to one, it is introduced as the session that it means.
        let mut introduction = Introduction::of(&route.pool, story.entry(), client, None);
        introduction.iter_mut().for_each(|introduction| introduction.complete(None, true));
        carry(worker, route, endpoint, introduction, request)
    });
    let carried = async { Ok(all(each.map(Box::pin).collect()).await) };
    match unless_asked(story.entry(), carried).await {
        Ok(carried) if carried.contains(&true) => Failure::new(Outcome::Cancel, Side::Client),
        Ok(_) => failed(Side::Endpoint),
        Err(asked) => asked,
    }
}

/// The endpoints on which this client has sessions of this listener, on one `route` or on any, each with a route that leads
/// there. `None`: it could not be found out.
async fn meant(worker: &Worker, story: &Story, route: Option<Arc<str>>) -> Option<Vec<(Arc<Route>, Arc<Endpoint>)>> {
    let (listener, client) = (story.listener(), story.client().map(|client| client.ip()));
    let found = worker.shared.ask_all(move |worker| worker.table.connected(listener, client, route.as_deref()));
    let live = worker.shared.live.load_full();
    let mut known = HashSet::new();
    let mut meant = Vec::new();
    for (name, endpoint) in found.await.ok()?.into_iter().flatten() {
        let Some(route) = live.routes.iter().find(|route| route.name == name) else { continue };
        if meant.len() < MOST_ENDPOINTS && known.insert(Arc::as_ptr(&endpoint)) {
            meant.push((Arc::clone(route), endpoint));
        }
    }
    Some(meant)
}

/// Whether `endpoint` was told, and has ended the connection or had the time to.
async fn carry(
    worker: &Worker,
    route: &Route,
    endpoint: &Endpoint,
    introduction: Option<Box<Introduction>>,
    request: &[u8],
) -> bool {
    let pool = &route.pool;
    let Ok(_place) = worker.shared.cancels.acquire().await else { return false };
    let tell = async {
        let asks = pool.tls.as_ref().is_some_and(|tls| tls.negotiation == Some(Negotiation::Postgres));
        let ways = (asks && endpoint.tls.is_some(), true);
        let opened = connect::open(pool, endpoint, introduction.as_deref(), ways).await;
        let stream = opened.map_err(|why| match why {
            Unopened::NoAddress => "the client has no address of its family".into(),
            Unopened::Dial(error) => error.to_string(),
            Unopened::Refused(_) => "it does not speak TLS".into(),
        })?;
        tell(&stream, endpoint, request, &worker.tools).await?;
        Ok::<_, String>(stream)
    };
    let told = timeout(pool.timeouts.connect, tell).await.unwrap_or_else(|_| Err("it does not answer".into()));
    match told {
        Ok(stream) => {
            // However long it takes, it has been told.
            let _ = timeout(PATIENCE, ended(&stream, &worker.tools)).await;
            true
        }
        Err(why) => {
            tracing::debug!(pool = &*pool.name, endpoint = &*endpoint.name, "cannot pass a cancel request on: {why}");
            false
        }
    }
}

/// Sends the request, in TLS where sessions of ours have it.
async fn tell(stream: &Stream, endpoint: &Endpoint, request: &[u8], tools: &Tools) -> Result<(), String> {
    // The first bytes on a new connection, and the first behind a handshake, always find room.
    let send = |bytes: &[u8]| rustix::net::send(stream, bytes, SendFlags::NOSIGNAL).map_err(|error| error.to_string());
    let Some(tls) = &endpoint.tls else { return send(request).map(drop) };
    let joined = handshake::join(stream, tls, Vec::new(), false, tools).await;
    let mut joined = joined.map_err(|_| "no TLS handshake with it succeeds")?;
    let mut room = vec![0; joined.sealed.room_for(request.len())];
    let sealed = joined.sealed.seal(request, &mut room).map_err(|error| error.to_string())?;
    send(room.get(..sealed).unwrap_or_default()).map(drop)
}

/// Waits for the end of a connection, whatever comes before it.
async fn ended(stream: &Stream, tools: &Tools) {
    let receive = |cx: &mut std::task::Context<'_>| stream.poll_recv(cx, &mut tools.scratch.borrow_mut());
    while std::future::poll_fn(receive).await.is_ok_and(|received| received > 0) {}
}

/// What all of these come to, which go on side by side.
async fn all<F: Future<Output = bool>>(mut futures: Vec<Pin<Box<F>>>) -> Vec<bool> {
    let mut done = Vec::with_capacity(futures.len());
    std::future::poll_fn(move |cx| {
        futures.retain_mut(|future| match future.as_mut().poll(cx) {
            Poll::Ready(output) => {
                done.push(output);
                false
            }
            Poll::Pending => true,
        });
        if futures.is_empty() { Poll::Ready(std::mem::take(&mut done)) } else { Poll::Pending }
    })
    .await
}
