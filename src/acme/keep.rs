//! The task of one account: it obtains the certificates of its names and renews them, one order at a time.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use instant_acme::{Account, Error};
use metrics::Gauge;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::bundle::{Flaw, Held};
use super::lock::Lock;
use super::schedule::{self, Draw, Window};
use super::transport::{self, Transport};
use super::trouble::Trouble;
use super::{Desk, blocking, storage};
use crate::admin::pages::{Pages, State};
use crate::observe::metrics::{AcmeMetrics, Metrics};
use crate::tls::expiry;
use crate::wire::name::Name;

/// For one attempt. A lock lasts longer.
const LONGEST: Duration = Duration::from_secs(300);
/// Between two looks at the clock, which may be set at any time.
const NAP: Duration = Duration::from_secs(30);
/// Between two looks at whether clients are served.
const UNTIL_SERVING: Duration = Duration::from_millis(50);
/// How long after an order there may be another one for the same name, whatever the authority says of the new
/// certificate; less where certificates live for less than three times as long.
const BETWEEN_ORDERS: Duration = Duration::from_secs(3600);
/// After which it is looked again whether the other node is done.
const BUSY: Duration = Duration::from_secs(20);
/// How long files may take to be removed at the end.
const CLEANUP: Duration = Duration::from_secs(1);

/// What one account does.
pub(super) struct Keeper {
    pub(super) desk: Desk,
    pub(super) names: Vec<Name>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) counts: AcmeMetrics,
    /// Nothing is ordered before clients are served, nor while they are asked to leave.
    pub(super) pages: Arc<Pages>,
    pub(super) dice: fastrand::Rng,
    pub(super) way: Option<Transport>,
    /// `None` until it was needed, and after something has gone wrong.
    pub(super) account: Option<Account>,
    /// How often it could not be opened, in a row, and when that is tried again, whatever the name.
    pub(super) closed: (u32, Option<SystemTime>),
}

/// One name.
pub(super) struct Tracked {
    name: Name,
    /// When to look at it next.
    pub(super) due: SystemTime,
    /// In a row.
    failures: u32,
    plan: Option<Plan>,
    pub(super) obtained: Option<SystemTime>,
    next: Gauge,
}

/// What is known of one version of a name's certificate.
struct Plan {
    held: Held,
    draw: Draw,
    window: Option<Window>,
    /// When to ask the authority for the window.
    ask_at: SystemTime,
    /// Whether the authority has told of this certificate: then an order may say that it replaces it.
    known: bool,
}

impl Tracked {
    /// A name of which nothing is known yet, to be looked at when it is `due`.
    pub(super) fn new(name: Name, due: SystemTime, next: Gauge) -> Tracked {
        Tracked { name, due, failures: 0, plan: None, obtained: None, next }
    }

    /// Has the authority asked at the next look.
    #[cfg(test)]
    pub(super) fn ask_now(&mut self) {
        self.plan.as_mut().unwrap().ask_at = SystemTime::UNIX_EPOCH;
    }
}

impl Plan {
    fn moment(&self) -> SystemTime {
        schedule::renewal(self.held.validity, self.window, self.draw)
    }
}

impl Keeper {
    /// Keeps the certificates of all names, until `stop`.
    pub(super) async fn keep(mut self, stop: CancellationToken) {
        let cleanup = self.desk.cleanup.clone();
        stop.run_until_cancelled(self.work()).await;
        // What was under way has left locks and challenges behind.
        cleanup.close();
        let _ = timeout(CLEANUP, cleanup.wait()).await;
    }

    async fn work(&mut self) {
        while self.pages.state() == State::Starting {
            sleep(UNTIL_SERVING).await;
        }
        let now = SystemTime::now();
        let names = std::mem::take(&mut self.names).into_iter().enumerate();
        let tracked = names.map(|(index, name)| {
            let next = self.metrics.acme_next(&self.desk.account.name, name.as_str());
            Tracked::new(name, now + schedule::start(index, self.dice.f64()), next)
        });
        let mut tracked: Vec<Tracked> = tracked.collect();
        while self.pages.state() != State::Draining {
            let Some(next) = tracked.iter_mut().min_by_key(|tracked| tracked.due) else { return };
            match next.due.duration_since(SystemTime::now()) {
                Ok(left) if !left.is_zero() => sleep(left.min(NAP)).await,
                _ => self.turn(next).await,
            }
        }
    }

    /// Does what is to be done for one name now, and says when it is to be looked at again.
    pub(super) async fn turn(&mut self, tracked: &mut Tracked) {
        let attempt = timeout(LONGEST, self.attempt(tracked)).await.unwrap_or(Err(Trouble::Late(LONGEST)));
        match attempt {
            Ok(()) => {}
            Err(Trouble::Closed(until)) => tracked.due = until,
            // The other node is at it.
            Err(Trouble::AccountLocked) => tracked.due = SystemTime::now() + BUSY.mul_f64(0.5 + self.dice.f64()),
            Err(trouble) => self.failed(tracked, &trouble),
        }
    }

    async fn attempt(&mut self, tracked: &mut Tracked) -> Result<(), Trouble> {
        let held = self.held(&tracked.name).await?;
        let planned = match &held {
            Some(held) => Some(self.plan(tracked, held).await),
            None => None,
        };
        let pause = held.as_ref().map_or(BETWEEN_ORDERS, |held| BETWEEN_ORDERS.min(held.validity.lifetime() / 3));
        let soonest = tracked.obtained.map(|obtained| obtained + pause);
        if let Some(moment) = planned.map(|(moment, _)| moment).max(soonest) {
            tracked.next.set(unix(moment));
            if SystemTime::now() < moment {
                if held.is_none() {
                    // Something takes it away, and would take the next one as well.
                    self.lost(tracked, moment);
                }
                let ask_at = planned.map_or(moment, |(_, ask_at)| ask_at);
                (tracked.due, tracked.failures) = (moment.min(ask_at), 0);
                return Ok(());
            }
        }
        let path = storage::lock(&self.desk.account.storage, &tracked.name);
        let (at, cleanup) = (path.clone(), self.desk.cleanup.clone());
        let taken = blocking(move || Lock::take(&at, SystemTime::now(), &cleanup)).await?;
        let Some(_lock) = taken.map_err(|error| Trouble::Storage(path, error))? else {
            tracing::debug!(name = %tracked.name, "the other node obtains the certificate");
            tracked.due = SystemTime::now() + BUSY.mul_f64(0.5 + self.dice.f64());
            return Ok(());
        };
        // It may have done so before this lock was taken.
        if self.held(&tracked.name).await? != held {
            tracked.due = SystemTime::now();
            return Ok(());
        }
        self.order(tracked).await
    }

    async fn order(&mut self, tracked: &mut Tracked) -> Result<(), Trouble> {
        self.forget_waiting();
        let account = self.account(None).await?;
        let known = tracked.plan.as_ref().filter(|plan| plan.known);
        let replaces = known.and_then(|plan| plan.held.id());
        let bundle = match self.desk.obtain(&account, &tracked.name, replaces).await {
            Err(trouble) if trouble.kind() == Some("accountDoesNotExist") => {
                let refused = account.id();
                let account = &self.desk.account.name;
                tracing::warn!(account, "there has to be another account in place of {refused}: {trouble}");
                self.account = None;
                let account = self.account(Some(refused)).await?;
                self.desk.obtain(&account, &tracked.name, None).await?
            }
            bundle => bundle?,
        };
        let file = storage::certificate(&self.desk.account.storage, &tracked.name);
        self.desk.write(file, bundle.as_bytes().to_vec().into()).await?;
        self.counts.issued.increment(1);
        let now = SystemTime::now();
        (tracked.obtained, tracked.due, tracked.failures) = (Some(now), now, 0);
        tracing::info!(account = self.desk.account.name, name = %tracked.name, "certificate obtained");
        Ok(())
    }

    /// What the storage has for a name, if it can be used; what cannot is replaced.
    async fn held(&self, name: &Name) -> Result<Option<Held>, Trouble> {
        let file = storage::certificate(&self.desk.account.storage, name);
        let (path, name) = (file.clone(), name.clone());
        let read = blocking(move || {
            let pem = storage::read(&path)?;
            Ok(pem.map(|pem| Held::read(&path, &pem, &name, SystemTime::now())))
        });
        let read: std::io::Result<Option<Result<Held, Flaw>>> = read.await?;
        Ok(match read.map_err(|error| Trouble::Storage(file.clone(), error))? {
            Some(Ok(held)) => Some(held).filter(|held| held.may_be_from(&self.desk.account.directory)),
            Some(Err(flaw)) => {
                tracing::debug!("{file:?} is replaced: {flaw}");
                None
            }
            None => None,
        })
    }

    /// When to renew what is held, and when to ask the authority for that again.
    pub(super) async fn plan(&mut self, tracked: &mut Tracked, held: &Held) -> (SystemTime, SystemTime) {
        let now = SystemTime::now();
        if tracked.plan.as_ref().is_none_or(|plan| plan.held != *held) {
            let draw = self.dice.f64();
            tracked.plan = Some(Plan { held: held.clone(), draw, window: None, ask_at: now, known: false });
        }
        let ask = tracked.plan.as_ref().is_some_and(|plan| plan.ask_at <= now);
        let answer = if ask { Some(self.ask(&tracked.name, held).await) } else { None };
        let Some(plan) = &mut tracked.plan else { return (now, now) };
        if let Some((suggested, wait)) = answer {
            plan.ask_at = now + wait;
            plan.known |= suggested.is_some();
            // The moment within a window stays, as long as the window does.
            if suggested.is_some() && suggested != plan.window {
                plan.window = suggested;
                plan.draw = self.dice.f64();
            }
        }
        (plan.moment(), plan.ask_at)
    }

    /// The window that the authority suggests for what is held, and how long to wait until it is asked again (RFC 9773).
    async fn ask(&mut self, name: &Name, held: &Held) -> (Option<Window>, Duration) {
        let Some(id) = held.id() else { return (None, schedule::ask_again(None)) };
        self.forget_waiting();
        let account = match self.account(None).await {
            Ok(account) => account,
            Err(Trouble::Closed(until)) => {
                let wait = until.duration_since(SystemTime::now()).unwrap_or_default();
                return (None, schedule::ask_again(Some(wait)));
            }
            Err(trouble) => {
                let account = &self.desk.account.name;
                tracing::warn!(account, %name, "when to renew cannot be asked: {trouble}");
                return (None, schedule::ask_again(None));
            }
        };
        match account.renewal_info(&id).await {
            Ok((info, wait)) => {
                let at = |seconds: i64| {
                    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds).ok()?))
                };
                let suggested = info.suggested_window;
                let window = at(suggested.start.unix_timestamp()).zip(at(suggested.end.unix_timestamp()));
                let url = info.explanation_url.unwrap_or_default();
                tracing::debug!(%name, url, "the authority suggests to renew in {window:?}");
                (window.map(|(start, end)| Window { start, end }), schedule::ask_again(Some(wait)))
            }
            // Most have it; those that have not are asked no more often than others.
            Err(Error::Unsupported(_)) => (None, schedule::ask_again(Some(Duration::MAX))),
            Err(error) => {
                let error = Trouble::from(error);
                tracing::debug!(%name, "the authority does not say when to renew: {error}");
                (None, schedule::ask_again(self.asked_to_wait()))
            }
        }
    }

    /// The account, which is another one than that whose URL is `refused`.
    async fn account(&mut self, refused: Option<&str>) -> Result<Account, Trouble> {
        if let Some(account) = &self.account {
            return Ok(account.clone());
        }
        if let Some(until) = self.closed.1.filter(|until| SystemTime::now() < *until) {
            return Err(Trouble::Closed(until));
        }
        let opened = self.open_account(refused).await;
        self.closed = match &opened {
            Ok(_) => (0, None),
            Err(Trouble::AccountLocked) => self.closed,
            Err(trouble) => {
                let failures = self.closed.0.saturating_add(1);
                (failures, Some(SystemTime::now() + self.retry(failures, trouble)))
            }
        };
        opened
    }

    async fn open_account(&mut self, refused: Option<&str>) -> Result<Account, Trouble> {
        let way = match &self.way {
            Some(way) => way.clone(),
            None => {
                let trust = self.desk.account.trust.clone();
                Transport::new(blocking(move || transport::tls(&trust)).await??)
            }
        };
        self.way = Some(way.clone());
        let account = self.desk.open_account(&way, refused).await?;
        self.account = Some(account.clone());
        Ok(account)
    }

    /// How long to wait after so many failures, the last of which was this one.
    fn retry(&mut self, failures: u32, trouble: &Trouble) -> Duration {
        schedule::retry(failures, self.asked_to_wait(), trouble.kind() == Some("rateLimited"), self.dice.f64())
    }

    /// How long the authority has asked to wait, in an error that is of what is being done.
    fn asked_to_wait(&self) -> Option<Duration> {
        self.way.as_ref().and_then(Transport::take_retry_at)?.duration_since(SystemTime::now()).ok()
    }

    /// What the authority has asked for says nothing of what is done now.
    fn forget_waiting(&self) {
        self.way.as_ref().and_then(Transport::take_retry_at);
    }

    /// Tells that a certificate is not there which was obtained a moment ago.
    fn lost(&self, tracked: &Tracked, until: SystemTime) {
        let file = storage::certificate(&self.desk.account.storage, &tracked.name);
        let wait = until.duration_since(SystemTime::now()).unwrap_or_default();
        let wait = humantime::format_duration(Duration::from_secs(wait.as_secs()));
        let (account, name) = (&self.desk.account.name, &tracked.name);
        tracing::warn!(account, %name, "what was put in {file:?} cannot be used any more; ordered again in {wait}");
    }

    /// Tells why there is no certificate, and when it is tried again.
    fn failed(&mut self, tracked: &mut Tracked, trouble: &Trouble) {
        self.counts.failed.increment(1);
        tracked.failures = tracked.failures.saturating_add(1);
        let now = SystemTime::now();
        // Where it is the account, nobody knows whether there is anything wrong with the name.
        let closed = self.closed.1.and_then(|until| until.duration_since(now).ok());
        let wait = closed.unwrap_or_else(|| self.retry(tracked.failures, trouble));
        tracked.due = now + wait;
        tracked.next.set(unix(tracked.due));
        let (account, name) = (&self.desk.account.name, &tracked.name);
        let wait = humantime::format_duration(Duration::from_secs(wait.as_secs()));
        let left = tracked.plan.as_ref().map(|plan| expiry::left(plan.held.validity.until, now));
        let left = left.unwrap_or_else(|| "there is no certificate".to_owned());
        tracing::warn!(account, %name, "no certificate was obtained: {trouble}; tried again in {wait}; {left}");
        // A new one is opened, with whatever the directory says by then.
        self.account = None;
    }
}

fn unix(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
