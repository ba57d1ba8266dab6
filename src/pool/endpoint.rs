//! One endpoint, and the lease that a session holds on it.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU16, AtomicU32, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::Member;
use super::commons::Commons;
use super::leaving::{Cause, Leaving};
use super::operator::{Mode, Operator};
use super::places::Places;
use crate::balance::Load;
use crate::config::model::{FALLBACK, Role};
use crate::health::outlier::Outlier;
use crate::health::{Finding, Health, Standing};
use crate::observe::metrics::EndpointMetrics;
use crate::tls::endpoint::EndpointTls;

/// Where an endpoint is reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Target {
    /// TCP.
    Ip(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

/// One address that connections are forwarded to.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) name: Arc<str>,
    /// What it shares with the others of its pool.
    pub(crate) commons: Arc<Commons>,
    pub(crate) target: Target,
    pub(crate) metrics: EndpointMetrics,
    /// `None` where it is spoken to as clients speak.
    pub(crate) tls: Option<EndpointTls>,
    /// `None` where it is not probed.
    pub(crate) health: Option<Health>,
    /// `None` where that is off.
    pub(crate) outlier: Option<Outlier>,
    /// What operators said of it.
    pub(crate) operator: Arc<Operator>,
    /// Why its sessions should leave.
    pub(crate) leaving: Leaving,
    /// The configured weight.
    weight: AtomicU16,
    /// What the weight comes to now, in tenths.
    share: AtomicU16,
    priority: AtomicU32,
    /// The rank that it has at the moment.
    rank: AtomicU32,
    /// The pool no longer has it.
    gone: AtomicBool,
    /// When it began to serve, where it is not yet given its whole share.
    warming: Mutex<Option<Instant>>,
    /// Whether it was told of that it is left out.
    told_out: AtomicBool,
    places: Places,
    /// Times it was chosen, halved every second, where the algorithm wants to know.
    recent: AtomicU32,
    trouble: Trouble,
}

/// What one endpoint is doing, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It can be chosen.
    Up,
    /// Nothing is known of it yet.
    Unknown,
    /// It has as many sessions as it may.
    Full,
    /// Left out because sessions failed.
    Ejected,
    /// No new sessions.
    Drain,
    /// Out of service, as an operator or its agent said.
    Maintenance,
    /// It answered probes that it should not serve.
    Refused,
    /// Probes do not reach it.
    Down,
    /// The pool no longer has it, but it still has sessions.
    Removed,
}

/// Failures to use an endpoint, counted where they happen and told elsewhere.
#[derive(Debug, Default)]
struct Trouble {
    failures: AtomicU32,
    /// The system's number for the last one.
    last: AtomicI32,
    /// How many have been told, and when.
    told: Mutex<(u32, Option<Instant>)>,
}

/// An endpoint's share is counted in so many parts of its weight, so that it can grow in steps.
pub(crate) const PARTS: u32 = 10;

impl Endpoint {
    /// An endpoint without sessions that nothing judges.
    pub(crate) fn new(commons: &Arc<Commons>, name: &str, target: Target, metrics: EndpointMetrics) -> Endpoint {
        Endpoint {
            places: Places::new(commons.parts.as_ref().map(|parts| parts.sessions(name, &target))),
            name: name.into(),
            commons: Arc::clone(commons),
            target,
            metrics,
            tls: None,
            health: None,
            outlier: None,
            operator: Arc::default(),
            leaving: Leaving::default(),
            weight: AtomicU16::new(1),
            share: AtomicU16::new(PARTS as u16),
            priority: AtomicU32::new(0),
            rank: AtomicU32::new(0),
            gone: AtomicBool::new(false),
            warming: Mutex::default(),
            told_out: AtomicBool::new(false),
            recent: AtomicU32::new(0),
            trouble: Trouble::default(),
        }
    }

    /// Name of its pool.
    pub(crate) fn pool(&self) -> &str {
        &self.commons.pool
    }

    /// Whether it may be chosen, as far as its health goes. Without probes it always may.
    pub(crate) fn standing(&self) -> Standing {
        self.health.as_ref().map_or(Standing::Up, Health::standing)
    }

    /// Takes in what a probe or an agent has found at `now`. Who comes up starts anew: what sessions found before is over.
    pub(crate) fn observe(&self, finding: &Finding, now: SystemTime) {
        let Some(health) = &self.health else { return };
        let wishes = || {
            let role = (health.was_refused(), health.only_lags(), health.role(), health.claims_primary());
            (health.is_draining(), health.is_maint(), health.weight_percent(), role)
        };
        let (before, wished) = (self.standing(), wishes());
        let changed = health.observe(self.pool(), &self.name, finding, now);
        if changed == Some(Standing::Up) {
            self.outlier.iter().for_each(Outlier::start_anew);
            // At the start all come up together, and none is to get less than the others.
            if before == Standing::Down || self.is_warming() {
                self.warm_up(Instant::now());
            }
        }
        if changed.is_some() || wishes() != wished {
            self.commons.stir();
        }
    }

    /// It begins to serve: its share is to grow from here.
    pub(crate) fn warm_up(&self, now: Instant) {
        *self.warming.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }

    fn is_warming(&self) -> bool {
        self.warming.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Whether it is left out because sessions failed.
    pub(crate) fn is_out(&self) -> bool {
        self.outlier.as_ref().is_some_and(Outlier::is_out)
    }

    /// Whether nobody has taken it out of service.
    pub(crate) fn is_admitted(&self) -> bool {
        self.mode() == Mode::Ready
    }

    /// What operators and its agent let it do: whichever is stricter.
    fn mode(&self) -> Mode {
        let says = |what: fn(&Health) -> bool| self.health.as_ref().is_some_and(what);
        match self.operator.mode() {
            Mode::Maintenance => Mode::Maintenance,
            _ if says(Health::is_maint) => Mode::Maintenance,
            Mode::Ready if says(Health::is_draining) => Mode::Drain,
            mode => mode,
        }
    }

    /// Whether it is up, not left out and not taken out of service.
    pub(crate) fn is_fit(&self) -> bool {
        self.health.as_ref().is_none_or(Health::is_fit) && self.operator.mode() == Mode::Ready && !self.is_out()
    }

    /// Whether it has the role that the pool is for. Of one that has never said nobody knows, so that it does not.
    pub(crate) fn suits(&self) -> bool {
        self.health.as_ref().is_none_or(Health::has_role)
    }

    /// Whether it says that it is the primary, and nobody has taken it out of service.
    pub(crate) fn claims_primary(&self) -> bool {
        self.health.as_ref().is_some_and(Health::claims_primary) && self.mode() != Mode::Maintenance
    }

    /// Whether it has fewer sessions than it may.
    pub(crate) fn has_place(&self) -> bool {
        self.places.has_one()
    }

    /// What it is doing.
    pub(crate) fn state(&self) -> State {
        if self.gone.load(Ordering::Relaxed) {
            return State::Removed;
        }
        match (self.mode(), self.standing()) {
            (Mode::Maintenance, _) => State::Maintenance,
            (_, Standing::Down) if self.was_refused() => State::Refused,
            (_, Standing::Down) => State::Down,
            (Mode::Drain, _) => State::Drain,
            (Mode::Ready, Standing::Unknown) => State::Unknown,
            (Mode::Ready, Standing::Up) if self.is_out() => State::Ejected,
            (Mode::Ready, Standing::Up) if !self.has_place() => State::Full,
            (Mode::Ready, Standing::Up) => State::Up,
        }
    }

    /// Whether it is down because it answered that it should not serve.
    pub(super) fn was_refused(&self) -> bool {
        self.health.as_ref().is_some_and(Health::was_refused)
    }

    /// Why its sessions should leave as far as it is itself the cause; `unbelieved`: whatever probes found, but for its role.
    pub(super) fn cause(&self, unbelieved: bool) -> Option<Cause> {
        if self.gone.load(Ordering::Relaxed) {
            return Some(Cause::Removal);
        }
        match (self.mode(), self.standing()) {
            (Mode::Maintenance, _) => Some(Cause::Down),
            (_, Standing::Down) if !unbelieved || !self.suits() => Some(self.fault()),
            (Mode::Drain, _) => Some(Cause::Drain),
            (Mode::Ready, _) => None,
        }
    }

    /// Why its sessions should leave as far as probes and its agent go, now that it is down.
    fn fault(&self) -> Cause {
        match &self.health {
            // It is what it was. Closing all its readers at once would only have them crowd on the others.
            Some(health) if health.only_lags() => Cause::Drain,
            _ if self.was_refused() => Cause::Demotion,
            _ => Cause::Down,
        }
    }

    /// It has answered a session.
    pub(crate) fn answered(&self) {
        self.outlier.iter().for_each(Outlier::answered);
    }

    /// What balancing goes by.
    pub(crate) fn load(&self) -> Load {
        Load { weight: self.share(), active: self.places.taken(), recent: self.recent.load(Ordering::Relaxed) }
    }

    /// Sessions now that this pool has sent there.
    pub(crate) fn active(&self) -> u32 {
        self.places.own()
    }

    /// Sessions that it may have at once.
    pub(crate) fn max_connections(&self) -> Option<u32> {
        self.places.most()
    }

    /// Its share of the sessions, in tenths of a weight.
    pub(crate) fn share(&self) -> u16 {
        self.share.load(Ordering::Relaxed)
    }

    /// The weight, as configured or as operators set it.
    pub(crate) fn weight(&self) -> u16 {
        self.operator.weight().unwrap_or(self.weight.load(Ordering::Relaxed))
    }

    /// The rank that it has, or had: its priority, or [`FALLBACK`].
    pub(crate) fn rank(&self) -> u32 {
        self.rank.load(Ordering::Relaxed)
    }

    /// Works out its rank anew; `falls_back`: the primary stands behind all others.
    pub(super) fn rank_anew(&self, falls_back: bool) {
        let role = self.health.as_ref().and_then(Health::role);
        let is_last = falls_back && role == Some(Role::Primary);
        self.rank.store(if is_last { FALLBACK } else { self.priority.load(Ordering::Relaxed) }, Ordering::Relaxed);
    }

    /// Takes in what it is to be as a member of its pool, with at most `most` sessions unless it has a limit of its own.
    pub(super) fn join(&self, member: &Member, most: Option<u32>) {
        self.weight.store(member.weight, Ordering::Relaxed);
        self.places.limit(member.max_connections.or(most));
        self.priority.store(member.priority, Ordering::Relaxed);
        self.gone.store(false, Ordering::Relaxed);
        self.health.iter().for_each(|health| health.set_host(member.host.clone()));
        self.tls.iter().for_each(|tls| tls.set_host(member.host.as_deref(), &self.target));
    }

    /// The pool no longer has it.
    pub(super) fn leave(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }

    /// Works out the share anew: of its weight as much as its agent wants, and what time has let it grow to, over
    /// `slow_start`.
    pub(super) fn reckon(&self, slow_start: Option<Duration>, now: Instant) {
        let percent = self.health.as_ref().map_or(100, Health::weight_percent);
        let whole = (u32::from(self.weight()) * PARTS * percent).div_ceil(100);
        let mut warming = self.warming.lock().unwrap_or_else(PoisonError::into_inner);
        let grown = match (*warming, slow_start) {
            (Some(since), Some(time)) if now.saturating_duration_since(since) < time => {
                let passed = now.saturating_duration_since(since).as_secs_f64() / time.as_secs_f64();
                // From a tenth to the whole, in steps of a tenth.
                ((passed * f64::from(PARTS)) as u32 + 1).min(PARTS)
            }
            _ => {
                *warming = None;
                PARTS
            }
        };
        let share = u16::try_from((whole * grown).div_ceil(PARTS)).unwrap_or(u16::MAX);
        self.share.store(share, Ordering::Relaxed);
    }

    /// Counts an attempt that failed with the system's error `code`, or one of ours such as [`NO_ANSWER`]. Never logs: sessions
    /// call it.
    pub(crate) fn failed(&self, code: i32) {
        self.metrics.connect_failures.increment(1);
        self.trouble.last.store(code, Ordering::Relaxed);
        self.trouble.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts that it was chosen, for [`Load::recent`].
    pub(crate) fn chosen(&self) {
        self.recent.fetch_add(1, Ordering::Relaxed);
    }

    /// What is done once a second: lets it pass for [`Load::recent`] and for outliers, brings gauges up to date, and tells
    /// of changes and of failures, of these not more often than every [`TELL_EVERY`].
    pub(crate) fn publish(&self) {
        self.recent.fetch_sub(self.recent.load(Ordering::Relaxed).div_ceil(2), Ordering::Relaxed);
        self.metrics.active.set(f64::from(self.places.own()));
        self.metrics.usable.set(f64::from(self.is_fit() && self.share() > 0));
        self.metrics.weight.set(f64::from(self.share()) / f64::from(PARTS));
        self.outlier.iter().for_each(|outlier| outlier.look(Instant::now()));
        let out = self.is_out();
        if self.told_out.swap(out, Ordering::Relaxed) != out {
            self.metrics.ejected.set(f64::from(out));
            self.commons.stir();
            if out {
                tracing::warn!(pool = self.pool(), endpoint = &*self.name, "is left out for a while: sessions failed");
            } else {
                tracing::info!(pool = self.pool(), endpoint = &*self.name, "is no longer left out");
            }
        }
        let failures = self.trouble.failures.load(Ordering::Relaxed);
        let mut told = self.trouble.told.lock().unwrap_or_else(PoisonError::into_inner);
        let new = failures.wrapping_sub(told.0);
        if new > 0 && told.1.is_none_or(|last| last.elapsed() >= TELL_EVERY) {
            *told = (failures, Some(Instant::now()));
            let reason = match self.trouble.last.load(Ordering::Relaxed) {
                NO_ANSWER => "it ended the connection without an answer".to_owned(),
                NO_HANDSHAKE => "no TLS handshake with it succeeds; the access log says why".to_owned(),
                NO_ADDRESS => "clients have no address of its family to connect from (transparent)".to_owned(),
                code => io::Error::from_raw_os_error(code).to_string(),
            };
            tracing::warn!(pool = self.pool(), endpoint = &*self.name, failures = new, "cannot be used: {reason}");
        }
    }
}

/// For [`Endpoint::failed`]: the endpoint took a connection and ended it without an answer.
pub(crate) const NO_ANSWER: i32 = -1;
/// For [`Endpoint::failed`]: there was no handshake with the endpoint.
pub(crate) const NO_HANDSHAKE: i32 = -2;
/// For [`Endpoint::failed`]: the client has no address of the endpoint's family, from which it was to be connected to.
pub(crate) const NO_ADDRESS: i32 = -3;
/// The least time between two messages about the same endpoint.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// One session's claim on an endpoint; given back by Drop.
#[derive(Debug)]
pub(crate) struct Lease {
    endpoint: Arc<Endpoint>,
    /// Nothing came of it, so that the place which it leaves is no news.
    failed: bool,
}

impl Lease {
    /// A claim, if the endpoint has a place.
    pub(crate) fn take(endpoint: &Arc<Endpoint>) -> Option<Lease> {
        endpoint.places.take().then(|| Lease::counted(endpoint))
    }

    /// A claim, provided that the endpoint still has `active` sessions, and a place.
    pub(crate) fn take_if(endpoint: &Arc<Endpoint>, active: u32) -> Option<Lease> {
        endpoint.places.take_if(active).then(|| Lease::counted(endpoint))
    }

    /// The endpoint.
    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// The endpoint could not be used, by an error of the system or one of ours, such as [`NO_ANSWER`].
    pub(crate) fn failed(&mut self, code: i32) {
        self.endpoint.failed(code);
        self.failed = true;
    }

    /// The claim for which a place was taken.
    fn counted(endpoint: &Arc<Endpoint>) -> Lease {
        if let Some(all) = &endpoint.commons.active {
            all.fetch_add(1, Ordering::Relaxed);
        }
        Lease { endpoint: Arc::clone(endpoint), failed: false }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let endpoint = &self.endpoint;
        endpoint.places.leave();
        if let Some(all) = &endpoint.commons.active {
            all.fetch_sub(1, Ordering::Relaxed);
        }
        if endpoint.max_connections().is_some() {
            // Either we see that somebody has joined the queue, or that somebody sees the place that we leave.
            fence(Ordering::SeqCst);
            endpoint.commons.place_left(self.failed);
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Ip(address) => address.fmt(f),
            Target::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
