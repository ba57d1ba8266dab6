//! Requests to cancel a query of PostgreSQL: each comes on a connection of its own, which tells of the session it means
//! nothing but a key that only its server knows (PostgreSQL manual, "Canceling Requests in Progress").
//!
//! So it goes to every server on which the client's address has a session here; to the others it is a line in the log. The
//! client waits for the end of its connection and takes it that the server has acted by then: it ends once all have.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rustix::net::SendFlags;
use tokio::time::{sleep_until, timeout_at};

use super::story::Story;
use super::{Failure, unless_asked};
use crate::connect::{self, Introduction, Near, Way};
use crate::detect::Detected;
use crate::live::Route;
use crate::observe::outcome::{Outcome, Side};
use crate::pool::Endpoint;
use crate::stream::Stream;
use crate::supervise::worker::Worker;
use crate::tls::handshake::{self, Accepted};
use crate::wire::postgres::{self, Packet};

/// Endpoints that one request goes to at the most.
const MOST_ENDPOINTS: usize = 16;
/// How long all of it may take. Servers act on a request as soon as they have it.
const PATIENCE: Duration = Duration::from_secs(10);

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
    let mut opening = detected.opening.take().ok_or(Failure::new(Outcome::Internal, Side::Us))?;
    let request = std::mem::take(&mut opening.bytes);
    worker.tools.openings.give_back(opening);
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
    let is_whole = |said: &[u8]| postgres::packet(said) != Ok(None);
    let first = async {
        let first = timeout_at(deadline.into(), handshake::hear(client, accepted, is_whole, &worker.tools)).await;
        first.map_err(|_| Failure::new(Outcome::HelloTimeout, Side::Client))
    };
    if let Err(refused) = unless_asked(story.entry(), first).await? {
        refused.why.iter().for_each(|why| story.broken(Side::Client, why));
        return Err(refused.failure);
    }
    match postgres::packet(&accepted.plain) {
        Ok(Some(Packet::Cancel { .. })) => {
            Err(pass_on(worker, story, client, &accepted.plain, Some(&route.name)).await)
        }
        // Whatever else it is, it is for a server.
        _ => Ok(()),
    }
}

/// Passes on the request that `said` begins with, and gives what became of it.
async fn pass_on(
    worker: &Worker,
    story: &mut Story,
    client: &Stream,
    said: &[u8],
    route: Option<&Arc<str>>,
) -> Failure {
    let failed = |by| Failure::new(Outcome::CancelFailed, by);
    let deadline = Instant::now() + PATIENCE;
    // Whatever comes behind it is not part of it.
    let request = match postgres::packet(said) {
        Ok(Some(Packet::Cancel { length })) => said.get(..length).unwrap_or_default(),
        _ => return Failure::new(Outcome::Internal, Side::Us),
    };
    // To find out whom it means costs something, and whoever sends it may be anybody.
    let Ok(_place) = worker.shared.cancels.requests.try_acquire() else { return failed(Side::Us) };
    let meant = async { Ok(meant(worker, story, route.cloned()).await) };
    let meant = match unless_asked(story.entry(), meant).await {
        Ok(Some(meant)) => meant,
        Ok(None) => return failed(Side::Us),
        Err(asked) => return asked,
    };
    let [(route, endpoint), ..] = &meant[..] else { return failed(Side::Policy) };
    story.entry().set_route(&route.name, &route.pool.name);
    // The log has room for one: where there are several, which of them it was is not known.
    if meant.len() == 1 {
        story.tried(Some(endpoint), None);
    }
    let left_out = meant.len().saturating_sub(MOST_ENDPOINTS);
    let each = meant.iter().take(MOST_ENDPOINTS).map(|(route, endpoint)| {
        // It is introduced as the session is that it means.
        let introduction = Introduction::of(&route.pool, story.entry(), client, None);
        let introduction = introduction.map(|introduction| introduction.complete(None, true));
        carry(worker, (route, endpoint), introduction, (request, client), deadline)
    });
    let carried = async { Ok(join_all(each).await) };
    match unless_asked(story.entry(), carried).await {
        Ok(carried) if left_out == 0 && carried.iter().all(|carried| *carried) => {
            Failure::new(Outcome::Cancel, Side::Client)
        }
        Ok(_) if left_out > 0 => failed(Side::Policy),
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
    let mut meant: Vec<(Arc<Route>, Arc<Endpoint>)> = Vec::new();
    for (name, endpoint) in found.await.ok()?.into_iter().flatten() {
        let Some(route) = live.routes.iter().find(|route| route.name == name) else { continue };
        // A server that is in several pools, or in parts of one, is told once.
        if !meant.iter().any(|(_, known)| known.target == endpoint.target) {
            meant.push((Arc::clone(route), endpoint));
        }
    }
    Some(meant)
}

/// Whether the endpoint was told until `deadline`. Waits as long as the client does for it to end the connection.
async fn carry(
    worker: &Worker,
    (route, endpoint): (&Route, &Endpoint),
    introduction: Option<Box<Introduction>>,
    (request, client): (&[u8], &Stream),
    deadline: Instant,
) -> bool {
    let pool = &route.pool;
    let tell = async {
        // Closed never.
        let place = worker.shared.cancels.connections.acquire().await.ok()?;
        let mut way = Way::of(pool, introduction, Near::Plain(None), &worker.tools, &worker.shared.metrics);
        let (stream, joined) = connect::reach(pool, endpoint, way.as_deref_mut()).await.ok()?;
        // The first bytes on a new connection, and the first behind a handshake, always find room.
        match joined {
            Some(mut joined) => handshake::say(&mut joined.sealed, &stream, request),
            None => drop(rustix::net::send(&stream, request, SendFlags::NOSIGNAL).ok()?),
        }
        Some((stream, place))
    };
    let told = tokio::select! {
        told = tell => told,
        () = client.gone(false) => None,
        () = sleep_until(deadline.into()) => None,
    };
    let Some((stream, _place)) = told else {
        tracing::debug!(pool = &*pool.name, endpoint = &*endpoint.name, "was not told of a request to cancel a query");
        return false;
    };
    tokio::select! {
        () = stream.gone(true) => {}
        () = client.gone(false) => {}
        () = sleep_until(deadline.into()) => {}
    }
    true
}
