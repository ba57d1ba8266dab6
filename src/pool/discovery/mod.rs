//! Discovery: who the endpoints of a pool are. Those of the configuration, those of a file that may change, and what the
//! names of both stand for, which is asked for again and again.
//!
//! One loop for each pool, on the control runtime, puts together what its sources say and hands it to [`Pool::set`]. A
//! source that fails keeps what it said last. Everything is linear in the number of endpoints, and a set is replaced at
//! most ten times a second, however many names are answered in between.

mod dns;
mod file;
mod members;
mod system;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use self::dns::{Answer, Failure, Found};
pub(crate) use self::dns::{Dns, Query};
use self::file::{Reading, Watched};
pub(crate) use self::members::members;
use super::{Member, Pool};
use crate::config::model::{self, Endpoint};
use crate::observe::metrics::Metrics;

/// Pause before a name without any answer is looked up again, and the first one after a failure, if `refresh` is not
/// shorter still.
const RETRY: Duration = Duration::from_secs(2);
/// The longest pause after failures.
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// The shortest time from one look-up of a name to the next, whatever its TTL.
const SHORTEST: Duration = Duration::from_secs(1);
/// The shortest time from one set to the next.
const BETWEEN_SETS: Duration = Duration::from_millis(100);

/// Where the endpoints of one pool are found.
pub(crate) struct Sources {
    endpoints: Vec<Endpoint>,
    file: Option<PathBuf>,
    /// The longest time from one look-up of a name to the next.
    refresh: Duration,
}

impl Sources {
    /// Those of a pool.
    pub(crate) fn of(pool: &model::Pool) -> Sources {
        Sources { endpoints: pool.endpoints.clone(), file: pool.endpoints_file.clone(), refresh: pool.refresh }
    }

    /// Whether a file is one of them.
    pub(crate) fn has_file(&self) -> bool {
        self.file.is_some()
    }
}

/// Keeps the endpoints of one pool up to date until it is dropped. `first` is called once the file was read and every
/// name has been looked up.
pub(crate) async fn keep(
    pool: Arc<Pool>,
    sources: Sources,
    dns: Arc<Dns>,
    metrics: Arc<Metrics>,
    first: impl FnOnce(),
) {
    let set = members(&sources.endpoints, |_| None);
    let mut discovery = Discovery {
        pool,
        dns,
        refresh: sources.refresh,
        file_to_come: sources.file.is_some(),
        own: sources.endpoints,
        listed: Vec::new(),
        wanted: HashSet::new(),
        names: HashMap::new(),
        to_come: HashSet::new(),
        tasks: JoinSet::new(),
        set,
    };
    if let Some(file) = sources.file {
        discovery.watch(Watched::new(file, discovery.own.clone()));
    }
    discovery.follow();
    let mut first = Some(first);
    let (mut due, mut last_set): (Option<Instant>, Option<Instant>) = (None, None);
    loop {
        let now = Instant::now();
        // Who waits for the first round is not kept waiting for the sake of those that come after it.
        let is_first = first.is_some() && discovery.has_looked_at_all();
        if due.is_some_and(|due| due <= now || is_first) {
            discovery.put(&metrics);
            (due, last_set) = (None, Some(now));
        }
        if is_first && let Some(first) = first.take() {
            first();
            discovery.pool.has_gathered();
        }
        let event = tokio::select! {
            event = discovery.tasks.join_next() => event,
            () = sleep_until(due.unwrap_or(now)), if due.is_some() => continue,
        };
        match event {
            Some(Ok(event)) => {
                if discovery.take(event) && due.is_none() {
                    due = Some(last_set.map_or(now, |last| now.max(last + BETWEEN_SETS)));
                }
            }
            Some(Err(error)) => tracing::error!(pool = &*discovery.pool.name, "a look-up panicked: {error}"),
            // Nothing can change any more.
            None => return,
        }
    }
}

/// The sources of one pool, and what they say.
struct Discovery {
    pool: Arc<Pool>,
    dns: Arc<Dns>,
    refresh: Duration,
    /// Endpoints of the configuration.
    own: Vec<Endpoint>,
    /// Those of the file.
    listed: Vec<Endpoint>,
    /// The names of all endpoints.
    wanted: HashSet<Query>,
    /// Every name of which a look-up is under way or to come.
    names: HashMap<Query, Known>,
    /// Names that have not been looked up yet.
    to_come: HashSet<Query>,
    file_to_come: bool,
    tasks: JoinSet<Event>,
    /// What was handed to the pool.
    set: Vec<Member>,
}

/// What is known of a name.
#[derive(Debug, Default)]
struct Known {
    answer: Option<Answer>,
    /// Look-ups in a row that failed.
    failures: u32,
    /// What was last told of it.
    told: Option<String>,
}

/// What there is news of.
enum Event {
    Name(Query, Result<Found, Failure>),
    File(Option<(Watched, Reading)>),
}

impl Discovery {
    fn has_looked_at_all(&self) -> bool {
        self.to_come.is_empty() && !self.file_to_come
    }

    /// Takes in what there is news of. Whether the endpoints may be others now.
    fn take(&mut self, event: Event) -> bool {
        match event {
            Event::Name(query, answer) => self.answered(query, answer),
            Event::File(Some((watched, reading))) => self.read(watched, reading),
            Event::File(None) => {
                tracing::error!(pool = &*self.pool.name, "the file of endpoints is no longer looked at");
                self.file_to_come = false;
                false
            }
        }
    }

    fn answered(&mut self, query: Query, answer: Result<Found, Failure>) -> bool {
        self.to_come.remove(&query);
        if !self.wanted.contains(&query) {
            self.names.remove(&query);
            return false;
        }
        let pool = &self.pool;
        let known = self.names.entry(query.clone()).or_default();
        let mut changed = false;
        let (ttl, failure) = match answer {
            Ok(found) => {
                changed = known.answer.as_ref() != Some(&found.answer);
                if changed {
                    tracing::info!(pool = &*pool.name, name = %query, answer = %found.answer, "resolved");
                }
                known.answer = Some(found.answer);
                (found.ttl, (!found.failures.is_empty()).then(|| found.failures.join("; ")))
            }
            Err(failure) => (Duration::MAX, Some(failure.to_string())),
        };
        let pause = match &failure {
            None => {
                if known.failures > 0 {
                    tracing::info!(pool = &*pool.name, name = %query, "resolved again");
                }
                known.failures = 0;
                ttl
            }
            Some(_) => {
                pool.metrics.discovery_failures.increment(1);
                // Without any answer it is looked for as eagerly as at the start.
                known.failures = if known.answer.is_some() { known.failures.saturating_add(1) } else { 1 };
                let times = 1u32.checked_shl(known.failures.saturating_sub(1)).unwrap_or(u32::MAX);
                RETRY.saturating_mul(times).min(LONGEST_RETRY).min(ttl)
            }
        };
        if failure.is_some() && failure != known.told {
            let kept = known.answer.as_ref().map(ToString::to_string).unwrap_or_default();
            let error = failure.as_deref().unwrap_or_default();
            tracing::warn!(pool = &*pool.name, name = %query, kept, "cannot resolve: {error}");
        }
        known.told = failure;
        self.look_up(query, pause.max(SHORTEST).min(self.refresh));
        changed
    }

    fn read(&mut self, watched: Watched, reading: Reading) -> bool {
        let (pool, file) = (&*self.pool.name, watched.path().display().to_string());
        let mut changed = false;
        match reading {
            Reading::Endpoints(endpoints) => {
                tracing::info!(pool, file, endpoints = endpoints.len(), "read");
                changed = endpoints != self.listed;
                self.listed = endpoints;
            }
            Reading::Failed(problems) => {
                self.pool.metrics.discovery_failures.increment(1);
                let kept = self.listed.len();
                for problem in problems {
                    tracing::warn!(pool, file, kept, "cannot use the file of endpoints: {problem}");
                }
            }
        }
        self.file_to_come = false;
        self.watch(watched);
        self.follow();
        changed
    }

    /// Starts to look up the names that were not looked up before.
    fn follow(&mut self) {
        self.wanted = self.own.iter().chain(&self.listed).filter_map(members::query).collect();
        let new: Vec<Query> = self.wanted.iter().filter(|query| !self.names.contains_key(query)).cloned().collect();
        for query in new {
            self.names.insert(query.clone(), Known::default());
            self.to_come.insert(query.clone());
            self.look_up(query, Duration::ZERO);
        }
    }

    /// One look-up a name, and the next only after it: however long a server does not answer, they do not pile up.
    fn look_up(&mut self, query: Query, pause: Duration) {
        let dns = Arc::clone(&self.dns);
        let last = self.names.get(&query).and_then(|known| known.answer.clone());
        self.tasks.spawn(async move {
            sleep(pause).await;
            let answer = dns.look_up(&query, last).await;
            Event::Name(query, answer)
        });
    }

    fn watch(&mut self, watched: Watched) {
        self.tasks.spawn(async move { Event::File(watched.next().await) });
    }

    fn put(&mut self, metrics: &Metrics) {
        let names = &self.names;
        let answer = |query: &Query| names.get(query).and_then(|known| known.answer.as_ref());
        let set = members(self.own.iter().chain(&self.listed), answer);
        if set != self.set {
            self.set.clone_from(&set);
            self.pool.set(set, metrics);
        }
    }
}
