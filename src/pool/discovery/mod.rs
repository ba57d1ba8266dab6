//! Discovery: who the endpoints of a pool are. Those of the configuration, those of a file that may change, and what the
//! names of both stand for, which is asked for again and again.
//!
//! One loop for each pool as it is written, on the control runtime, puts together what its sources say and hands it to
//! [`Pool::set`] of each of its parts. A source that fails keeps what it said last. Everything is linear in the number of endpoints, and a set is replaced at
//! most ten times a second, however many names are answered in between.

mod answer;
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

pub(crate) use self::answer::Query;
use self::answer::{Answer, Failure, Found, told};
pub(crate) use self::dns::Dns;
use self::file::{Reading, Watched};
pub(crate) use self::members::members;
use super::{Member, Pool};
use crate::config::model::{self, Endpoint};
use crate::observe::metrics::Metrics;

/// The pause after a first failure, if `refresh` is not shorter still. Each further one doubles it.
const RETRY: Duration = Duration::from_secs(2);
/// The longest pause after failures.
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// The same for a name of which nothing is known yet.
const LONGEST_RETRY_UNKNOWN: Duration = Duration::from_secs(10);
/// The shortest time from one look-up of a name to the next, whatever its TTL.
const SHORTEST: Duration = Duration::from_secs(1);
/// The shortest time from one set to the next.
const BETWEEN_SETS: Duration = Duration::from_millis(100);
/// For how long endpoints that a file no longer lists stay while names that are new in it are looked up.
const SWAP: Duration = Duration::from_secs(2);

/// Where the endpoints of one pool are found.
pub(crate) struct Sources {
    /// The pool, as it is written.
    pub(crate) pool: String,
    endpoints: Vec<Endpoint>,
    file: Option<PathBuf>,
    /// Whether endpoints have to have names that certificates are verified by.
    names_verified: bool,
    /// The longest time from one look-up of a name to the next.
    refresh: Duration,
}

impl Sources {
    /// Those of a pool, and of all its parts.
    pub(crate) fn of(pool: &model::Pool) -> Sources {
        Sources {
            pool: pool.written.clone(),
            endpoints: pool.endpoints.clone(),
            file: pool.endpoints_file.clone(),
            names_verified: pool.health.as_ref().is_some_and(|health| health.verifies_names_of_endpoints()),
            refresh: pool.refresh,
        }
    }

    /// Whether a file is one of them.
    pub(crate) fn has_file(&self) -> bool {
        self.file.is_some()
    }
}

/// Keeps the endpoints of `pools`, which are the parts of one, up to date until it is dropped. `first` is called once the file was read and every
/// name has been looked up.
pub(crate) async fn keep(
    pools: Vec<Arc<Pool>>,
    sources: Sources,
    dns: Arc<Dns>,
    metrics: Arc<Metrics>,
    first: impl FnOnce(),
) {
    let set = members(&sources.endpoints, |_| None);
    let mut discovery = Discovery {
        pool: sources.pool,
        pools,
        dns: Arc::new(dns.for_pool()),
        refresh: sources.refresh,
        file_to_come: sources.file.is_some(),
        own: sources.endpoints,
        listed: Vec::new(),
        wanted: HashSet::new(),
        names: HashMap::new(),
        to_come: HashSet::new(),
        tasks: JoinSet::new(),
        set,
        swap: None,
    };
    if let Some(file) = sources.file {
        discovery.watch(Watched::new(file, discovery.own.clone(), sources.names_verified));
    }
    discovery.follow();
    let mut first = Some(first);
    let (mut due, mut last_set): (Option<Instant>, Option<Instant>) = (None, None);
    loop {
        let now = Instant::now();
        // Who waits for the first round is not kept waiting for the sake of those that come after it.
        let is_first = first.is_some() && discovery.has_looked_at_all();
        if due.is_some_and(|due| due <= now || is_first) {
            let put = discovery.put(now, &metrics);
            (due, last_set) = if put { (None, Some(now)) } else { (Some(now + BETWEEN_SETS), last_set) };
        }
        if is_first && let Some(first) = first.take() {
            first();
            discovery.pools.iter().for_each(|pool| pool.has_gathered());
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
            Some(Err(error)) => tracing::error!(pool = discovery.pool, "a source was lost: {error}"),
            // Nothing can change any more.
            None => return,
        }
    }
}

/// The sources of one pool, and what they say.
struct Discovery {
    /// The pool, as it is written.
    pool: String,
    /// Its parts.
    pools: Vec<Arc<Pool>>,
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
    /// What was handed to the pools.
    set: Vec<Member>,
    /// Until when a file that has changed takes nothing away, if names in it have not been looked up yet.
    swap: Option<Instant>,
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
                tracing::error!(pool = self.pool, "the file of endpoints is no longer looked at");
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
        let pool = self.pool.as_str();
        let known = self.names.entry(query.clone()).or_default();
        let mut changed = false;
        let (ttl, failure) = match answer {
            Ok(found) => {
                changed = known.answer.as_ref() != Some(&found.answer);
                if changed {
                    tracing::info!(pool, name = %query, answer = %found.answer, "resolved");
                }
                known.answer = Some(found.answer);
                (found.ttl, (!found.failures.is_empty()).then(|| told(found.failures, "; ")))
            }
            Err(failure) => (Duration::MAX, Some(failure.to_string())),
        };
        let pause = match &failure {
            None => {
                if known.failures > 0 {
                    tracing::info!(pool, name = %query, "resolved again");
                }
                known.failures = 0;
                ttl
            }
            Some(_) => {
                self.pools.iter().for_each(|pool| pool.metrics.discovery_failures.increment(1));
                let times = 1u32.checked_shl(known.failures).unwrap_or(u32::MAX);
                known.failures = known.failures.saturating_add(1);
                let longest = if known.answer.is_some() { LONGEST_RETRY } else { LONGEST_RETRY_UNKNOWN };
                RETRY.saturating_mul(times).min(longest).min(ttl)
            }
        };
        if failure.is_some() && failure != known.told {
            let kept = known.answer.as_ref().map(ToString::to_string).unwrap_or_default();
            let error = failure.as_deref().unwrap_or_default();
            tracing::warn!(pool, name = %query, kept, "cannot resolve: {error}");
        }
        known.told = failure;
        self.look_up(query, pause.max(SHORTEST).min(self.refresh));
        changed
    }

    fn read(&mut self, watched: Watched, reading: Reading) -> bool {
        let (pool, file) = (self.pool.as_str(), watched.path().display().to_string());
        let mut changed = false;
        match reading {
            Reading::Endpoints(endpoints) => {
                tracing::info!(pool, file, endpoints = endpoints.len(), "read");
                changed = endpoints != self.listed;
                self.listed = endpoints;
            }
            Reading::Failed(problems) => {
                self.pools.iter().for_each(|pool| pool.metrics.discovery_failures.increment(1));
                let kept = self.listed.len();
                for problem in problems {
                    tracing::warn!(pool, file, kept, "cannot use the file of endpoints: {problem}");
                }
            }
        }
        self.file_to_come = false;
        self.watch(watched);
        self.follow();
        if changed && !self.to_come.is_empty() {
            // A file that goes on changing does not put it off for ever.
            self.swap.get_or_insert_with(|| Instant::now() + SWAP);
        }
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
            let asked = query.clone();
            let answer = caught(async move { dns.look_up(&asked, last).await }).await;
            Event::Name(query, answer)
        });
    }

    fn watch(&mut self, watched: Watched) {
        self.tasks.spawn(async move { Event::File(watched.next().await) });
    }

    /// Hands what is known to the pools. False if that has to wait, as it would take endpoints away for the sake of names
    /// that are not known yet.
    fn put(&mut self, now: Instant, metrics: &Metrics) -> bool {
        let names = &self.names;
        let answer = |query: &Query| names.get(query).and_then(|known| known.answer.as_ref());
        let set = members(self.own.iter().chain(&self.listed), answer);
        let may_wait = self.swap.is_some_and(|until| now < until) && !self.to_come.is_empty();
        if may_wait && takes_away(&self.set, &set) {
            return false;
        }
        self.swap = None;
        if set != self.set {
            self.set.clone_from(&set);
            self.pools.iter().for_each(|pool| pool.set(set.clone(), metrics));
        }
        true
    }
}

fn takes_away(before: &[Member], after: &[Member]) -> bool {
    let names: HashSet<&str> = after.iter().map(|member| &*member.name).collect();
    before.iter().any(|member| !names.contains(&*member.name))
}

/// What a look-up comes to; a panic is one more way to fail. It ends when this is dropped.
async fn caught(look_up: impl Future<Output = Result<Found, Failure>> + Send + 'static) -> Result<Found, Failure> {
    let mut task = JoinSet::new();
    task.spawn(look_up);
    match task.join_next().await {
        Some(Ok(found)) => found,
        Some(Err(error)) => Err(Failure::Failed(format!("the look-up panicked: {error}"))),
        None => Err(Failure::Late),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_look_up_that_panics_has_failed() {
        let failed = caught(async { panic!("on purpose") }).await.unwrap_err().to_string();
        assert!(failed.starts_with("the look-up panicked") && failed.contains("on purpose"), "{failed}");
    }
}
