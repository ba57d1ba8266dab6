//! Answers to what is asked over the admin socket: reads and changes the state of the process, on the control runtime.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Instant, SystemTime};

use super::command::{
    Changed, Command, EndpointStatus, Filter, HealthStatus, Killed, LISTED, ListenerStatus, Place, PoolStatus, Refusal,
    SessionStatus, Sessions, Status,
};
use super::pages::State as Process;
use super::who::{Seen, who};
use crate::config::model::{BACKUP, FALLBACK, MAX_WEIGHT};
use crate::health::{Report, Standing};
use crate::pool::endpoint::{PARTS, State};
use crate::pool::operator::{Mode, Operator};
use crate::pool::{Endpoint, Pool};
use crate::supervise::shared::Shared;
use crate::table::{Entry, Identity, Told};

/// The most sessions that are listed, whatever is asked for.
const MOST_LISTED: usize = 10_000;

/// The answer to one request, as JSON.
pub(super) async fn answer(shared: &Shared, request: &[u8]) -> String {
    let answer = match serde_json::from_slice(request) {
        Ok(command) => act(shared, command).await,
        Err(error) => Err(format!("not a request: {error}")),
    };
    answer.unwrap_or_else(|error| json(&Refusal { error }))
}

async fn act(shared: &Shared, command: Command) -> Result<String, String> {
    match command {
        Command::Status { pool } => status(shared, pool.as_deref()).map(|status| json(&status)),
        Command::Sessions { only, limit } => {
            let limit = limit.unwrap_or(LISTED).min(MOST_LISTED);
            Ok(json(&sessions(shared, only, limit).await?))
        }
        Command::Who { address, port } => Ok(json(&who(shared, Seen { address, port }).await?)),
        Command::Kill { only } if only.is_empty() => Err("kill has to be told which sessions".into()),
        Command::Kill { only } => Ok(json(&Killed { killed: kill(shared, only).await? })),
        Command::Drain(place) => set_mode(shared, &place, Mode::Drain),
        Command::Maint(place) => set_mode(shared, &place, Mode::Maintenance),
        Command::Ready(place) => set_mode(shared, &place, Mode::Ready),
        Command::Weight { weight: Some(weight), .. } if weight > MAX_WEIGHT => {
            Err(format!("a weight of {weight}; expected 0 to {MAX_WEIGHT}"))
        }
        Command::Weight { pool, endpoint, weight } => {
            let found = find(shared, &Place { pool, endpoint })?;
            found.operator.set_weight(weight);
            let (pool, endpoint) = (&*found.pool, &*found.name);
            match weight {
                Some(weight) => tracing::warn!(pool, endpoint, weight, "an operator set the weight"),
                None => tracing::warn!(pool, endpoint, "an operator set the weight back to the configured one"),
            }
            Ok(changed(&found))
        }
    }
}

fn set_mode(shared: &Shared, place: &Place, mode: Mode) -> Result<String, String> {
    let found = find(shared, place)?;
    if found.operator.set_mode(mode) {
        if mode == Mode::Ready {
            found.endpoints.iter().for_each(|endpoint| endpoint.warm_up(Instant::now()));
        }
        let (pool, endpoint) = (&*found.pool, &*found.name);
        tracing::warn!(pool, endpoint, "an operator set it to {}", mode.word());
    }
    Ok(changed(&found))
}

/// What an endpoint is now that it was changed. Sessions and choices follow at once.
fn changed(found: &Found) -> String {
    found.parts.iter().for_each(|pool| pool.commons.stir());
    // Of an endpoint that one part has no use for, what another part makes of it is what counts.
    let telling = found.endpoints.iter().max_by_key(|endpoint| endpoint.standing() == Standing::Up);
    let told = telling.map(|endpoint| EndpointStatus {
        sessions: found.endpoints.iter().map(|endpoint| endpoint.active()).sum(),
        ..endpoint_status(endpoint)
    });
    json(&Changed { endpoint: told.unwrap_or_else(|| absent_status(&found.name, &found.operator)) })
}

/// What an operator speaks of.
struct Found {
    /// Name of the pool, as the operator calls it.
    pool: String,
    name: Arc<str>,
    /// The pool, or its parts, which have this in common.
    operator: Arc<Operator>,
    parts: Vec<Arc<Pool>>,
    /// What it is in each part; none where no endpoint has this name at the moment, but something was said of it.
    endpoints: Vec<Arc<Endpoint>>,
}

/// What `place` is. It is not in a part: nothing can be said that does not hold in the others too.
fn find(shared: &Shared, place: &Place) -> Result<Found, String> {
    let Place { pool, endpoint: name } = in_part(shared, place.clone());
    let parts = pools(shared, &pool)?;
    // Only names of parts have a slash.
    if let Some((written, _)) = pool.split_once('/') {
        return Err(format!(
            "{pool:?} is a part of pool {written:?}, and what is said of an endpoint holds in all its parts; expected \
             {written}/{name}"
        ));
    }
    let endpoints: Vec<Arc<Endpoint>> = parts.iter().filter_map(|part| part.find(&name)).collect();
    let there = endpoints.first().map(|endpoint| (Arc::clone(&endpoint.name), Arc::clone(&endpoint.operator)));
    let absent = || parts.iter().flat_map(|part| part.absent()).find(|(known, _)| **known == *name);
    let (name, operator) = there.or_else(absent).ok_or_else(|| {
        let known = parts.iter().take(1).flat_map(|part| part.endpoints());
        let names: Vec<String> = known.map(|endpoint| endpoint.name.to_string()).collect();
        format!("pool {pool:?} has no endpoint {name:?}{}", it_has(&names))
    })?;
    Ok(Found { pool, name, operator, parts, endpoints })
}

/// `place` as it is meant: the pool of `pg/primary/b` is `pg/primary`, if there is such a part and no endpoint of `pg` is
/// called `primary/b`.
fn in_part(shared: &Shared, place: Place) -> Place {
    let meant = place.endpoint.split_once('/').and_then(|(part, endpoint)| {
        let (live, pool) = (shared.live.load(), format!("{}/{part}", place.pool));
        let is_there = live.pools.iter().any(|known| *known.name == *pool);
        let is_called_so = live.parts(&place.pool).iter().any(|part| part.find(&place.endpoint).is_some());
        (is_there && !is_called_so).then(|| Place { pool, endpoint: endpoint.to_owned() })
    });
    meant.unwrap_or(place)
}

/// The pool that is called so, or its parts.
fn pools(shared: &Shared, name: &str) -> Result<Vec<Arc<Pool>>, String> {
    let live = shared.live.load();
    let found = live.parts(name);
    if found.is_empty() {
        let names: Vec<String> = live.pools.iter().map(|pool| pool.name.to_string()).collect();
        return Err(format!("there is no pool {name:?}{}", it_has(&names)));
    }
    Ok(found)
}

/// What there is instead, as far as it is worth telling.
fn it_has(names: &[String]) -> String {
    const TOLD: usize = 10;
    let more = if names.len() > TOLD { ", ..." } else { "" };
    let told: Vec<&str> = names.iter().take(TOLD).map(String::as_str).collect();
    if told.is_empty() { String::new() } else { format!("; there are {}{more}", told.join(", ")) }
}

fn status(shared: &Shared, only: Option<&str>) -> Result<Status, String> {
    let pools = match only {
        Some(name) => pools(shared, name)?,
        None => shared.live.load().pools.clone(),
    };
    let listener = |door: &crate::supervise::shared::Door| ListenerStatus {
        name: door.name.to_string(),
        sessions: door.capacity.used(),
        refuses: door.refusal.as_ref().is_some_and(|refusal| *refusal.refuses.borrow()),
    };
    let state = match shared.pages.state() {
        Process::Starting => "starting",
        Process::Serving => "serving",
        Process::Draining => "draining",
    };
    Ok(Status {
        version: env!("CARGO_PKG_VERSION").into(),
        state: state.into(),
        workers: shared.workers.len(),
        sessions: shared.sessions(),
        listeners: shared.doors.iter().map(listener).collect(),
        pools: pools.iter().map(|pool| pool_status(pool)).collect(),
    })
}

fn pool_status(pool: &Pool) -> PoolStatus {
    let mut endpoints = pool.all();
    endpoints.sort_by(|a, b| (a.rank(), &a.name).cmp(&(b.rank(), &b.name)));
    let there = endpoints.iter().map(|endpoint| endpoint_status(endpoint));
    let absent = pool.absent().into_iter().map(|(name, operator)| absent_status(&name, &operator));
    PoolStatus {
        name: pool.name.to_string(),
        serving: pool.in_use().map(rank),
        panic: pool.panics(),
        rivals: pool.rivals().iter().map(|endpoint| endpoint.name.to_string()).collect(),
        held: pool.commons.held.len(),
        queued: pool.commons.queued.len(),
        endpoints: there.chain(absent).collect(),
    }
}

fn endpoint_status(endpoint: &Endpoint) -> EndpointStatus {
    let state = match endpoint.state() {
        State::Up => "up",
        State::Unknown => "unknown",
        State::Full => "full",
        State::Ejected => "ejected",
        State::Drain => "drain",
        State::Maintenance => "maint",
        State::Refused => "refused",
        State::Down => "down",
        State::Removed => "removed",
    };
    EndpointStatus {
        name: endpoint.name.to_string(),
        address: endpoint.target.to_string(),
        state: state.into(),
        mode: endpoint.operator.mode().word().into(),
        priority: rank(endpoint.rank()),
        weight: endpoint.weight(),
        share: f64::from(endpoint.share()) / f64::from(PARTS),
        sessions: endpoint.active(),
        max_connections: endpoint.max_connections(),
        health: endpoint.health.as_ref().map(|health| health_status(&health.report())),
    }
}

/// What is told of a name that no endpoint has, but operators have said something of.
fn absent_status(name: &str, operator: &Operator) -> EndpointStatus {
    EndpointStatus {
        name: name.into(),
        address: "-".into(),
        state: "absent".into(),
        mode: operator.mode().word().into(),
        priority: "-".into(),
        weight: operator.weight().unwrap_or_default(),
        share: 0.0,
        sessions: 0,
        max_connections: None,
        health: None,
    }
}

fn health_status(report: &Report) -> HealthStatus {
    let ago = |at: SystemTime| at.elapsed().unwrap_or_default().as_secs();
    HealthStatus {
        since: ago(report.since),
        last: report.last.as_ref().map(|last| last.to_string()),
        last_ago: report.last_at.map(ago),
        took: report.took.as_secs_f64(),
        role: report.role.map(|role| role.word().into()),
        agent: report.agent.clone(),
    }
}

fn rank(priority: u32) -> String {
    match priority {
        BACKUP => "backup".into(),
        FALLBACK => "fallback".into(),
        priority => priority.to_string(),
    }
}

async fn sessions(shared: &Shared, only: Filter, limit: usize) -> Result<Sessions, String> {
    // Workers share the limit, so that what is sent is bounded by it.
    let left = Arc::new(AtomicUsize::new(limit));
    let picks = picker(shared, only);
    let parts = shared.ask_all(move |worker| worker.table.list(worker.tools.clock.now(), &left, &picks)).await?;
    let total = parts.iter().map(|(_, total)| total).sum();
    let mut all: Vec<Told> = parts.into_iter().flat_map(|(listed, _)| listed).collect();
    all.sort_by_key(|told| told.identity.id);
    Ok(Sessions { sessions: all.iter().map(|told| session_status(shared, told)).collect(), total })
}

async fn kill(shared: &Shared, only: Filter) -> Result<usize, String> {
    let told = format!("{only:?}");
    let picks = picker(shared, only);
    let killed: usize = shared.ask_all(move |worker| worker.table.kill(&picks)).await?.into_iter().sum();
    tracing::warn!(killed, "an operator ended sessions: {told}");
    Ok(killed)
}

/// Whether a session fits.
fn picker(shared: &Shared, only: Filter) -> impl Fn(&Entry) -> bool + Clone + Send + 'static {
    let listener = only.listener.as_ref().map(|name| shared.doors.iter().position(|door| &*door.name == name.as_str()));
    let only = Arc::new(match (only.pool.clone(), only.endpoint.clone()) {
        (Some(pool), Some(endpoint)) => {
            let Place { pool, endpoint } = in_part(shared, Place { pool, endpoint });
            Filter { pool: Some(pool), endpoint: Some(endpoint), ..only }
        }
        _ => only,
    });
    move |entry| {
        let Identity { id, listener: of, .. } = entry.identity;
        only.id.is_none_or(|wanted| wanted == id)
            && listener.is_none_or(|wanted| wanted == Some(of))
            && entry.is_of(only.route.as_deref(), only.pool.as_deref(), only.endpoint.as_deref())
            && only
                .client
                .is_none_or(|network| entry.client().is_some_and(|at| network.contains(&at.ip().to_canonical())))
    }
}

pub(super) fn session_status(shared: &Shared, told: &Told) -> SessionStatus {
    let listener = shared.doors.get(told.identity.listener);
    SessionStatus {
        id: told.identity.id,
        listener: listener.map(|door| door.name.to_string()).unwrap_or_default(),
        client: told.client.map(|client| client.to_string()),
        peer: told.is_proxied.then(|| told.identity.peer.map_or("unix".into(), |peer| peer.to_string())),
        route: told.route.as_ref().map(|route| route.to_string()),
        pool: told.pool.as_ref().map(|pool| pool.to_string()),
        endpoint: told.endpoint.as_ref().map(|endpoint| endpoint.to_string()),
        source: None,
        connected: told.connected,
        age: told.identity.at.elapsed().as_secs(),
        idle: told.silent,
        bytes_up: told.bytes_up,
        bytes_down: told.bytes_down,
    }
}

fn json(answer: &impl serde::Serialize) -> String {
    serde_json::to_string(answer).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"))
}
