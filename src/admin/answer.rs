//! Answers to what is asked over the admin socket: reads and changes the state of the process, on the control runtime.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc::unbounded_channel;
use tokio::time::timeout_at;

use super::command::{
    Changed, Command, EndpointStatus, Filter, HealthStatus, Killed, LISTED, ListenerStatus, Place, PoolStatus, Refusal,
    SessionStatus, Sessions, Status,
};
use super::pages::State as Process;
use crate::config::model::{BACKUP, MAX_WEIGHT};
use crate::health::Report;
use crate::pool::endpoint::{PARTS, State};
use crate::pool::operator::Mode;
use crate::pool::{Endpoint, Pool};
use crate::supervise::shared::{Order, Shared};
use crate::table::Told;

/// How long workers may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// The most sessions that are listed, whatever is asked for.
const MOST_LISTED: usize = 100_000;

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
        Command::Kill { only } if only.is_empty() => Err("kill has to be told which sessions".into()),
        Command::Kill { only } => Ok(json(&Killed { killed: kill(shared, only).await? })),
        Command::Drain(place) => set_mode(shared, &place, Mode::Drain),
        Command::Maint(place) => set_mode(shared, &place, Mode::Maintenance),
        Command::Ready(place) => set_mode(shared, &place, Mode::Ready),
        Command::Weight { weight: Some(weight), .. } if weight > MAX_WEIGHT => {
            Err(format!("a weight of {weight}; expected 0 to {MAX_WEIGHT}"))
        }
        Command::Weight { pool, endpoint, weight } => {
            let (pool, endpoint) = find(shared, &Place { pool, endpoint })?;
            endpoint.operator.set_weight(weight);
            let (pool_name, name) = (&*pool.name, &*endpoint.name);
            tracing::warn!(pool = pool_name, endpoint = name, weight = endpoint.weight(), "an operator set the weight");
            Ok(changed(&pool, &endpoint))
        }
    }
}

fn set_mode(shared: &Shared, place: &Place, mode: Mode) -> Result<String, String> {
    let (pool, endpoint) = find(shared, place)?;
    if endpoint.operator.set_mode(mode) {
        if mode == Mode::Ready {
            endpoint.warm_up(Instant::now());
        }
        let (pool, endpoint) = (&*pool.name, &*endpoint.name);
        tracing::warn!(pool, endpoint, "an operator set it to {}", mode.word());
    }
    Ok(changed(&pool, &endpoint))
}

/// What an endpoint is now that it was changed. Sessions and choices follow at once.
fn changed(pool: &Pool, endpoint: &Endpoint) -> String {
    pool.commons.stir();
    json(&Changed { endpoint: endpoint_status(endpoint) })
}

fn find(shared: &Shared, place: &Place) -> Result<(Arc<Pool>, Arc<Endpoint>), String> {
    let pool = pool(shared, &place.pool)?;
    let endpoint = pool.find(&place.endpoint).ok_or_else(|| {
        let names: Vec<String> = pool.endpoints().iter().map(|endpoint| endpoint.name.to_string()).collect();
        format!("pool {:?} has no endpoint {:?}{}", place.pool, place.endpoint, it_has(&names))
    })?;
    Ok((pool, endpoint))
}

fn pool(shared: &Shared, name: &str) -> Result<Arc<Pool>, String> {
    let live = shared.live.load();
    live.pools.iter().find(|pool| &*pool.name == name).cloned().ok_or_else(|| {
        let names: Vec<String> = live.pools.iter().map(|pool| pool.name.to_string()).collect();
        format!("there is no pool {name:?}{}", it_has(&names))
    })
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
        Some(name) => vec![pool(shared, name)?],
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
    PoolStatus {
        name: pool.name.to_string(),
        serving: pool.in_use().map(rank),
        panic: pool.panics(),
        held: pool.commons.held.len(),
        queued: pool.commons.queued.len(),
        endpoints: pool.all().iter().map(|endpoint| endpoint_status(endpoint)).collect(),
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
        priority: rank(endpoint.priority()),
        weight: endpoint.weight(),
        share: f64::from(endpoint.share()) / f64::from(PARTS),
        sessions: endpoint.active(),
        max_connections: endpoint.max_connections(),
        health: endpoint.health.as_ref().map(|health| health_status(&health.report())),
    }
}

fn health_status(report: &Report) -> HealthStatus {
    let ago = |at: SystemTime| at.elapsed().unwrap_or_default().as_secs();
    HealthStatus {
        since: ago(report.since),
        last: report.last.as_ref().map(|last| last.to_string()),
        last_ago: report.last_at.map(ago),
        took: report.took.as_secs_f64(),
        agent: report.agent.clone(),
    }
}

fn rank(priority: u32) -> String {
    if priority == BACKUP { "backup".into() } else { priority.to_string() }
}

async fn sessions(shared: &Shared, only: Filter, limit: usize) -> Result<Sessions, String> {
    let left = Arc::new(AtomicUsize::new(limit));
    let picks = picker(shared, only);
    let parts = ask_all(shared, move |worker| {
        let (picks, left) = (picks.clone(), Arc::clone(&left));
        let listed = worker.table.list(worker.tools.clock.now(), |told| picks(told));
        // Workers share the limit, so that what is sent is bounded by it.
        let room = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left - left.min(listed.len())));
        let total = listed.len();
        (listed.into_iter().take(room.unwrap_or(0)).collect::<Vec<Told>>(), total)
    })
    .await?;
    let total = parts.iter().map(|(_, total)| total).sum();
    let mut all: Vec<Told> = parts.into_iter().flat_map(|(listed, _)| listed).collect();
    all.sort_by_key(|told| told.identity.id);
    Ok(Sessions { sessions: all.iter().map(|told| session_status(shared, told)).collect(), total })
}

async fn kill(shared: &Shared, only: Filter) -> Result<usize, String> {
    let told = format!("{only:?}");
    let picks = picker(shared, only);
    let killed: usize = ask_all(shared, move |worker| worker.table.kill(worker.tools.clock.now(), |told| picks(told)))
        .await?
        .into_iter()
        .sum();
    tracing::warn!(killed, "an operator ended sessions: {told}");
    Ok(killed)
}

/// Has every worker do something, and gives what they answer.
async fn ask_all<T: Send + 'static>(
    shared: &Shared,
    ask: impl Fn(&crate::supervise::worker::Worker) -> T + Clone + Send + 'static,
) -> Result<Vec<T>, String> {
    let (sender, mut answers) = unbounded_channel();
    for worker in &shared.workers {
        let (sender, ask) = (sender.clone(), ask.clone());
        let order = Order::Do(Box::new(move |worker| {
            // Who asked may have given up.
            let _ = sender.send(ask(worker));
        }));
        // A worker that has ended has no sessions.
        let _ = worker.tell(order);
    }
    drop(sender);
    let (until, mut all) = (tokio::time::Instant::now() + PATIENCE, Vec::new());
    loop {
        match timeout_at(until, answers.recv()).await {
            Ok(Some(answer)) => all.push(answer),
            Ok(None) => return Ok(all),
            Err(_) => return Err(format!("not every worker answers within {} s", PATIENCE.as_secs())),
        }
    }
}

/// Whether a session fits.
fn picker(shared: &Shared, only: Filter) -> impl Fn(&Told) -> bool + Clone + Send + 'static {
    let listener = only.listener.as_ref().map(|name| shared.doors.iter().position(|door| &*door.name == name.as_str()));
    let only = Arc::new(only);
    move |told| {
        let same = |wanted: &Option<String>, is: &Option<Arc<str>>| {
            wanted.as_ref().is_none_or(|wanted| is.as_ref().is_some_and(|is| &**is == wanted.as_str()))
        };
        only.id.is_none_or(|id| id == told.identity.id)
            && listener.is_none_or(|listener| listener == Some(told.identity.listener))
            && same(&only.route, &told.route)
            && same(&only.pool, &told.pool)
            && same(&only.endpoint, &told.endpoint)
            && only.client.is_none_or(|network| {
                told.identity.client.is_some_and(|client| network.contains(&client.ip().to_canonical()))
            })
    }
}

fn session_status(shared: &Shared, told: &Told) -> SessionStatus {
    let listener = shared.doors.get(told.identity.listener);
    SessionStatus {
        id: told.identity.id,
        listener: listener.map(|door| door.name.to_string()).unwrap_or_default(),
        client: told.identity.client.map(|client| client.to_string()),
        route: told.route.as_ref().map(|route| route.to_string()),
        pool: told.pool.as_ref().map(|pool| pool.to_string()),
        endpoint: told.endpoint.as_ref().map(|endpoint| endpoint.to_string()),
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
