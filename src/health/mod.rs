//! Health: what probes and agents find out about endpoints, and what a pool makes of it.
//!
//! [`verdict`] is pure: observations in, a standing out. [`probe`] talks to one endpoint once. [`watch`] keeps probes
//! going on the control runtime; the same endpoint that several pools probe in the same way is probed once. [`outlier`] is
//! what clients find out by themselves. Workers only ever read what came of it, in atomics.

pub(crate) mod outlier;
mod probe;
pub(crate) mod secret;
pub(crate) mod server_key;
#[cfg(test)]
mod tests;
mod verdict;
pub(crate) mod watch;

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use self::probe::Found;
use self::probe::agent::{AgentState, Mode, Said};
pub(crate) use self::verdict::Standing;
use self::verdict::{Observation, Rules, Text, Verdict};
use crate::config::model::{self, Role};
use crate::observe::metrics::HealthMetrics;
use crate::pool::Target;
use crate::tls::expiry;

/// How long after it was said that an endpoint cannot be judged it is said again.
const AGAIN: Duration = Duration::from_secs(600);

/// The health of one endpoint in one pool.
#[derive(Debug)]
pub(crate) struct Health {
    pub(crate) settings: Arc<model::Health>,
    /// The endpoint's host name, where it has one.
    host: Mutex<Option<Arc<str>>>,
    metrics: HealthMetrics,
    /// Only the control side takes this lock.
    state: Mutex<State>,
    /// What came out of it, for workers.
    standing: AtomicU8,
    refused: AtomicBool,
    lags: AtomicBool,
    /// What the endpoint has said last that it is, as [`role_byte`] has it.
    role: AtomicU8,
    claims: AtomicBool,
    mode: AtomicU8,
    percent: AtomicU32,
}

#[derive(Debug)]
struct State {
    verdict: Verdict,
    /// Probes cannot find out more, and it was last said then.
    unclear: Option<SystemTime>,
    /// The last definite answer was about nothing but how far it is behind.
    lags: bool,
    heard: Heard,
    agent: AgentState,
    warning: expiry::Warning,
    report: Report,
}

/// How much what it has said last of its role still counts.
#[derive(Debug, Default)]
struct Heard {
    /// Probes in a row that nobody has answered.
    silent: u32,
    /// Those that were not let in since it has said it.
    blind: u32,
    /// Nobody has answered in between.
    was_silent: bool,
}

/// What was found out, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) standing: Standing,
    /// When that began.
    pub(crate) since: SystemTime,
    /// What the last probe has found, in a few words.
    pub(crate) last: Option<Text>,
    /// When that was.
    pub(crate) last_at: Option<SystemTime>,
    /// How long that probe took.
    pub(crate) took: Duration,
    /// What the endpoint is to the others, if it has told then.
    pub(crate) role: Option<model::Role>,
    /// What the agent has said last.
    pub(crate) agent: Option<String>,
}

/// What is found out about an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// By a probe.
    Probe(Found),
    /// From its agent.
    Agent(Said),
}

#[cfg(test)]
impl Finding {
    /// A server has told what it is.
    pub(crate) fn of_server(role: Role) -> Finding {
        Finding::Probe(Found::of_server(role))
    }

    /// A replica has told how far it is behind.
    pub(crate) fn of_replica(lag: Duration) -> Finding {
        Finding::Probe(Found::of_replica(lag))
    }

    /// A definite answer that says no more than that.
    pub(crate) fn refusal() -> Finding {
        Finding::Probe(Found::plain(Observation::Refused("no".into()), Duration::ZERO))
    }

    /// No answer.
    pub(crate) fn silence() -> Finding {
        Finding::Probe(Found::plain(Observation::Missing("no answer".into()), Duration::ZERO))
    }
}

impl Health {
    /// Nothing is known yet of an endpoint that `host`, if there is one, has led to. One that is never probed is up until
    /// its agent says otherwise.
    pub(crate) fn new(settings: &Arc<model::Health>, host: Option<Arc<str>>, metrics: HealthMetrics) -> Health {
        let verdict = if settings.dialogue.is_some() { Verdict::default() } else { Verdict::unprobed() };
        let standing = verdict.standing();
        metrics.up.set(f64::from(standing == Standing::Up));
        let since = SystemTime::now();
        let report =
            Report { standing, since, last: None, last_at: None, took: Duration::ZERO, role: None, agent: None };
        let (agent, warning) = (AgentState::default(), expiry::Warning::default());
        let state = State { verdict, unclear: None, lags: false, heard: Heard::default(), agent, warning, report };
        Health {
            settings: Arc::clone(settings),
            host: Mutex::new(host),
            metrics,
            state: Mutex::new(state),
            standing: AtomicU8::new(standing as u8),
            refused: AtomicBool::new(false),
            lags: AtomicBool::new(false),
            role: AtomicU8::new(role_byte(None)),
            claims: AtomicBool::new(false),
            mode: AtomicU8::new(Mode::Ready as u8),
            percent: AtomicU32::new(AgentState::default().percent),
        }
    }

    /// Another host name has led to it, or none.
    pub(crate) fn set_host(&self, host: Option<Arc<str>>) {
        *self.host.lock().unwrap_or_else(PoisonError::into_inner) = host;
    }

    /// The host name that has led to it.
    fn host(&self) -> Option<Arc<str>> {
        self.host.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the endpoint may be chosen, as far as probes go, and an agent that says `down`.
    pub(crate) fn standing(&self) -> Standing {
        match self.standing.load(Ordering::Relaxed) {
            standing if standing == Standing::Up as u8 => Standing::Up,
            standing if standing == Standing::Down as u8 => Standing::Down,
            _ => Standing::Unknown,
        }
    }

    /// Whether it is down because of a definite answer: it is there, and does not want to serve, or must not.
    pub(crate) fn was_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    /// Whether that answer was about nothing but how far it is behind: it is not to get new sessions, but those that it has
    /// are where they belong.
    pub(crate) fn only_lags(&self) -> bool {
        self.lags.load(Ordering::Relaxed)
    }

    /// What it is to the other endpoints, as it has said last, if it ever has.
    pub(crate) fn role(&self) -> Option<Role> {
        let byte = self.role.load(Ordering::Relaxed);
        [Role::Primary, Role::Replica].into_iter().find(|role| role_byte(Some(*role)) == byte)
    }

    /// Whether it is what it has to be, as far as it has said.
    pub(crate) fn has_role(&self) -> bool {
        self.settings.expect.role.is_none_or(|wanted| self.role() == Some(wanted))
    }

    /// Whether it says that it is the primary. One that stops answering, or lets probes in no longer, is taken at its word for as
    /// many probes as it takes to be down.
    pub(crate) fn claims_primary(&self) -> bool {
        self.claims.load(Ordering::Relaxed)
    }

    /// Whether new sessions may be given to it, as far as probes and its agent go.
    pub(crate) fn is_fit(&self) -> bool {
        self.standing() == Standing::Up && self.has_role() && !self.is_draining() && !self.is_maint()
    }

    /// Whether its agent wants no new sessions.
    pub(crate) fn is_draining(&self) -> bool {
        self.mode.load(Ordering::Relaxed) == Mode::Drain as u8
    }

    /// Whether its agent wants no sessions at all.
    pub(crate) fn is_maint(&self) -> bool {
        self.mode.load(Ordering::Relaxed) == Mode::Maint as u8
    }

    /// How much of its weight its agent wants to count, in percent, 0 to 10000.
    pub(crate) fn weight_percent(&self) -> u32 {
        self.percent.load(Ordering::Relaxed)
    }

    /// What was found out so far.
    pub(crate) fn report(&self) -> Report {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).report.clone()
    }

    /// Takes in what was found at `now` of the endpoint `endpoint` of `pool`; gives the new standing, if it is another one.
    pub(crate) fn observe(&self, pool: &str, endpoint: &str, finding: &Finding, now: SystemTime) -> Option<Standing> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match finding {
            Finding::Probe(found) => {
                let observation = found.judge(&self.settings.expect);
                let rules = Rules { rise: self.settings.rise, fall: self.settings.fall };
                let changed = state.verdict.observe(rules, &observation);
                if matches!(observation, Observation::Refused(_)) {
                    state.lags = found.only_lags(&self.settings.expect);
                }
                let is_unclear = matches!(observation, Observation::Unclear(_));
                self.metrics.blind.set(f64::from(is_unclear));
                if !is_unclear {
                    state.unclear = None;
                } else if state.unclear.is_none_or(|said| now.duration_since(said).is_ok_and(|since| since >= AGAIN)) {
                    state.unclear = Some(now);
                    if changed.is_none() {
                        tracing::warn!(pool, endpoint, "what was known of it holds: {}", observation.text());
                    }
                }
                self.take_role(found, &observation, &mut state.heard);
                self.metrics.probe.set(found.took.as_secs_f64());
                let text = self.told(pool, endpoint, found, observation.text(), &mut state.warning, now);
                (state.report.last, state.report.last_at, state.report.took) = (Some(text), Some(now), found.took);
                state.report.role = found.role();
                self.settle(pool, endpoint, &mut state, observation.text(), now)
            }
            Finding::Agent(said) => {
                let before = state.agent;
                state.agent = before.after(said);
                if (state.agent.is_down, state.agent.mode) != (before.is_down, before.mode) {
                    tracing::info!(pool, endpoint, "the agent says {:?}", said.text);
                } else if state.agent != before {
                    // Weights may follow the load of a machine: that is a line every few seconds.
                    tracing::debug!(pool, endpoint, "the agent says {:?}", said.text);
                }
                state.report.agent = Some(said.text.clone());
                self.mode.store(state.agent.mode as u8, Ordering::Relaxed);
                self.percent.store(state.agent.percent, Ordering::Relaxed);
                self.settle(pool, endpoint, &mut state, &format!("the agent says {:?}", said.text), now)
            }
        }
    }

    /// It could not be probed at `now`, for something of our own: what was known of it holds.
    fn cannot_probe(&self, why: &str, now: SystemTime) {
        self.metrics.blind.set(1.0);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.report.last, state.report.last_at) = (Some(format!("cannot probe: {why}").into()), Some(now));
    }

    /// Takes in what a probe has heard of the role, and what that came to.
    fn take_role(&self, found: &Found, observation: &Observation, heard: &mut Heard) {
        let (said, fall) = (found.role(), self.settings.fall);
        let is_missing = matches!(observation, Observation::Missing(_));
        heard.silent = if is_missing { heard.silent.saturating_add(1) } else { 0 };
        match observation {
            _ if said.is_some() => (heard.blind, heard.was_silent) = (0, false),
            Observation::Missing(_) => heard.was_silent = true,
            Observation::Unclear(_) if !found.is_full() => heard.blind = heard.blind.saturating_add(1),
            _ => {}
        }
        let is_blind = heard.blind >= fall;
        // One that does not let probes in stays what it was, or a new password would take a pool down; but one that was away
        // in between may have come back as something else.
        if said.is_some() || (is_blind && heard.was_silent) {
            self.role.store(role_byte(said), Ordering::Relaxed);
        }
        let still = || heard.silent < fall && !is_blind && !matches!(observation, Observation::Refused(_));
        let claims = said.map_or_else(|| self.claims_primary() && still(), |role| role == Role::Primary);
        self.claims.store(claims, Ordering::Relaxed);
    }

    /// The words of a probe, with what there is to say of the certificate; warns of that if it is time.
    fn told(
        &self,
        pool: &str,
        endpoint: &str,
        found: &Found,
        text: &Text,
        warning: &mut expiry::Warning,
        now: SystemTime,
    ) -> Text {
        let Some(end) = found.expires else { return text.clone() };
        let left = expiry::left(end, now);
        if self.settings.warn_expiry.is_some_and(|before| warning.is_due(end, before, now)) {
            tracing::warn!(pool, endpoint, "{left}");
        }
        format!("{text}; {left}").into()
    }

    /// Puts the verdict and the agent together, tells what has changed, and why.
    fn settle(&self, pool: &str, endpoint: &str, state: &mut State, why: &str, now: SystemTime) -> Option<Standing> {
        let standing = if state.agent.is_down { Standing::Down } else { state.verdict.standing() };
        let refused = state.agent.is_down || state.verdict.is_refused();
        self.refused.store(refused && standing == Standing::Down, Ordering::Relaxed);
        let lags = state.lags && state.verdict.is_refused() && !state.agent.is_down;
        self.lags.store(lags && standing == Standing::Down, Ordering::Relaxed);
        if standing == state.report.standing {
            return None;
        }
        self.standing.store(standing as u8, Ordering::Relaxed);
        let was_up = state.report.standing == Standing::Up;
        (state.report.standing, state.report.since) = (standing, now);
        let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        match standing {
            Standing::Up => tracing::info!(pool, endpoint, "is up"),
            // That others have the role that it has to have is how it should be.
            Standing::Down if !was_up && refused && self.role().is_some() && !self.has_role() => {
                tracing::info!(pool, endpoint, "is not for this pool: {why}");
            }
            Standing::Down => tracing::warn!(pool, endpoint, "is down: {why}"),
            // Its agent has taken back what it said before the first probe was over.
            Standing::Unknown => return Some(standing),
        }
        self.metrics.changed(standing == Standing::Up, seconds);
        Some(standing)
    }

    /// How long to wait for the next probe.
    fn pause(&self) -> Duration {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.verdict.is_changing() { self.settings.fast_interval } else { self.settings.interval }
    }

    /// Where to probe an endpoint that sessions reach at `target`.
    fn probed(&self, target: &Target) -> Target {
        match (target, self.settings.address, self.settings.port) {
            (Target::Ip(own), address, port) => Target::Ip(moved(*own, address, port.unwrap_or(own.port()))),
            (Target::Unix(_), Some(address), Some(port)) => Target::Ip(SocketAddr::new(address, port)),
            (Target::Unix(_), _, _) => target.clone(),
        }
    }

    /// Where the agent of an endpoint is that sessions reach at `target`.
    fn agent_at(&self, target: &Target, agent: &model::Agent) -> Option<Target> {
        let at = match target {
            Target::Ip(own) => moved(*own, self.settings.address, agent.port),
            Target::Unix(_) => SocketAddr::new(self.settings.address?, agent.port),
        };
        Some(Target::Ip(at))
    }
}

fn role_byte(role: Option<Role>) -> u8 {
    match role {
        None => 0,
        Some(Role::Primary) => 1,
        Some(Role::Replica) => 2,
    }
}

/// `own` with another port and, if there is one, another address. The scope of an IPv6 address stays with it.
fn moved(mut own: SocketAddr, address: Option<IpAddr>, port: u16) -> SocketAddr {
    match address {
        Some(address) => SocketAddr::new(address, port),
        None => {
            own.set_port(port);
            own
        }
    }
}
