//! Connect: from a pool to an established connection, over at most two different endpoints, and as long as the pool lets
//! its clients wait for one.
//!
//! Nothing of the client is sent here, so every failure may move on to another endpoint.

mod cover;
mod dial;
mod introduction;
mod way;

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use tokio::time::sleep;

pub(crate) use self::cover::Near;
pub(crate) use self::dial::{Source, blame, dial};
pub(crate) use self::introduction::{Introduction, send};
pub(crate) use self::way::{Unreached, Way, reach};
use crate::config::model::NoEndpoint;
use crate::forward::Tools;
use crate::observe::metrics::Metrics;
use crate::observe::outcome::{Outcome, Side};
use crate::observe::record::Handshake;
use crate::pool::endpoint::NO_ANSWER;
use crate::pool::waiting::Place;
use crate::pool::{Endpoint, Lack, Lease, Pool};
use crate::session::Failure;
use crate::stream::Stream;
use crate::tls::handshake::Joined;

/// Different endpoints that one session tries before it gives up or waits.
const TRIES: usize = 2;
/// The first pause of a client that waits, before it tries endpoints again that could not be reached; twice as long each
/// time, up to [`SELDOM`].
const AGAIN: Duration = Duration::from_millis(250);
/// The longest of these pauses.
const SELDOM: Duration = Duration::from_secs(1);

/// One session's attempts on a pool.
pub(crate) struct Attempts<'a> {
    pool: &'a Pool,
    /// What the pool knows the client by.
    key: u64,
    client: &'a Stream,
    /// The client has nothing more to say before it is answered, so that an end of what it sends is its end.
    awaits_answer: bool,
    /// It has begun in a way that not every endpoint answers: that none comes is not the endpoint's fault alone.
    may_be_clients: bool,
    tried: [Option<Arc<Endpoint>>; TRIES],
    /// What is to be said if no other endpoint is left.
    failure: Failure,
    /// Boxed, for most sessions go without.
    way: Option<Box<Way<'a>>>,
    /// Boxed, for nearly every session goes without for as long as it lives.
    wait: Option<Box<Wait<'a>>>,
}

/// How a session waits for an endpoint.
#[derive(Default)]
struct Wait<'a> {
    /// What for, and its place in that queue.
    place: Option<(Lack, Place<'a>)>,
    /// When it began to wait for an endpoint that can be chosen, and for a place at one.
    since: [Option<Instant>; 2],
    /// Failures after which it has paused.
    pauses: u32,
}

/// An established connection to an endpoint.
pub(crate) struct Reached {
    pub(crate) stream: Stream,
    pub(crate) lease: Lease,
    /// TLS with it, where that is how it is spoken to.
    pub(crate) joined: Option<Box<Joined>>,
    /// How long that took, failed attempts included, and the time without that spent waiting for an endpoint.
    pub(crate) took: Duration,
}

impl<'a> Attempts<'a> {
    /// No attempt yet. `awaits_answer`: the client has said all that it says before it is answered.
    pub(crate) fn on(pool: &'a Pool, key: u64, client: &'a Stream, awaits_answer: bool) -> Attempts<'a> {
        Attempts {
            pool,
            key,
            client,
            awaits_answer,
            may_be_clients: false,
            tried: Default::default(),
            failure: Failure::new(Outcome::NoEndpoint, Side::Policy),
            way: None,
            wait: None,
        }
    }

    /// On the way of a client who is so near.
    pub(crate) fn along(
        mut self,
        near: Near<'_>,
        introduction: Option<Box<Introduction>>,
        tools: &'a Tools,
        metrics: &'a Metrics,
    ) -> Attempts<'a> {
        self.may_be_clients = matches!(near, Near::Direct);
        self.way = Way::of(self.pool, introduction, near, tools, metrics);
        self
    }

    /// Connects to the endpoint whose turn it is, or the next.
    ///
    /// # Errors
    /// The last failure of all attempts so far, or [`Outcome::NoEndpoint`] where there was none; where clients of the pool
    /// may wait, only once their time is over.
    pub(crate) async fn next(&mut self) -> Result<Reached, Failure> {
        let (began, mut waited) = (Instant::now(), Duration::ZERO);
        loop {
            let mut lease = match self.lease() {
                Ok(lease) => lease,
                Err(lack) => {
                    let since = Instant::now();
                    self.wait(lack).await?;
                    waited += since.elapsed();
                    continue;
                }
            };
            // Others may try meanwhile.
            self.place().inspect(|place| place.step_out());
            match reach(self.pool, lease.endpoint(), self.way.as_deref_mut()).await {
                Ok(_) if !self.pool.may_begin(lease.endpoint()) => {
                    self.place().inspect(|place| place.step_back());
                }
                Ok((stream, joined)) => {
                    self.leave_queue();
                    let took = began.elapsed().saturating_sub(waited);
                    self.pool.metrics.connect.record(took);
                    if !waited.is_zero() {
                        self.pool.metrics.wait.record(waited);
                    }
                    lease.endpoint().metrics.sessions.increment(1);
                    return Ok(Reached { stream, lease, joined, took });
                }
                Err(Unreached { failure, code }) => {
                    self.failure = failure;
                    lease.failed(code);
                    if self.failure.by == Side::Endpoint {
                        self.pool.failed(lease.endpoint());
                    }
                    self.place().inspect(|place| place.step_back());
                }
            }
        }
    }

    /// Whether another endpoint may be tried.
    pub(crate) fn may_go_on(&self) -> bool {
        self.tried.iter().any(Option::is_none) || matches!(self.pool.shortage.no_endpoint, NoEndpoint::Hold(_))
    }

    /// The endpoint tried last.
    pub(crate) fn last(&self) -> Option<&Arc<Endpoint>> {
        self.tried.iter().flatten().last()
    }

    /// How the last handshake with an endpoint went, if there was one.
    pub(crate) fn take_handshake(&mut self) -> Option<Box<Handshake>> {
        self.way.as_mut()?.take_handshake()
    }

    /// The endpoint took the connection but ended it without an answer.
    pub(crate) fn unanswered(&mut self, lease: &mut Lease) {
        lease.failed(NO_ANSWER);
        if !self.may_be_clients {
            self.pool.failed(lease.endpoint());
        }
        self.failure = Failure::new(Outcome::EndpointSilent, Side::Endpoint);
    }

    /// Takes a claim on the endpoint whose turn it is, of those not tried yet.
    fn lease(&mut self) -> Result<Lease, Lack> {
        let Some(free) = self.tried.iter().position(Option::is_none) else { return Err(Lack::Nobody) };
        // Those who wait for a place come first.
        if self.place().is_none() && self.pool.commons.queued.has_queue() {
            return Err(Lack::Places);
        }
        let lease = self.pool.lease(self.key, &self.tried)?;
        lease.endpoint().metrics.picks.increment(1);
        if let Some(free) = self.tried.get_mut(free) {
            *free = Some(Arc::clone(lease.endpoint()));
        }
        Ok(lease)
    }

    /// Its place in a queue, if it waits.
    fn place(&self) -> Option<&Place<'a>> {
        self.wait.as_ref()?.place.as_ref().map(|(_, place)| place)
    }

    fn leave_queue(&mut self) {
        if let Some(wait) = &mut self.wait {
            wait.place = None;
        }
    }

    /// Waits until it is worth trying again.
    ///
    /// # Errors
    /// What the session fails with: the pool lets nobody wait, enough wait already, its time is over, or the client left.
    async fn wait(&mut self, lack: Lack) -> Result<(), Failure> {
        let (shortage, commons) = (self.pool.shortage, &self.pool.commons);
        let (waiting, patience, failure) = match (lack, shortage.no_endpoint) {
            (Lack::Nobody, NoEndpoint::Hold(time)) => (&commons.held, time, self.failure),
            (Lack::Nobody, NoEndpoint::Close | NoEndpoint::Refuse) => return Err(self.failure),
            (Lack::Places, _) if shortage.queue.is_zero() => {
                return Err(Failure::new(Outcome::QueueFull, Side::Policy));
            }
            (Lack::Places, _) => (&*commons.queued, shortage.queue, Failure::new(Outcome::QueueTimeout, Side::Policy)),
        };
        let has_failed = self.failure.outcome != Outcome::NoEndpoint;
        let wait = self.wait.get_or_insert_default();
        let [since_held, since_queued] = &mut wait.since;
        let since = if lack == Lack::Nobody { since_held } else { since_queued };
        let left = patience.saturating_sub(since.get_or_insert_with(Instant::now).elapsed());
        if left.is_zero() {
            return Err(failure);
        }
        if !matches!(&wait.place, Some((queue, _)) if *queue == lack) {
            // It leaves the one queue before it joins the other.
            wait.place = None;
            let place = waiting.join(has_failed).ok_or(Failure::new(Outcome::QueueFull, Side::Policy))?;
            let is_its_turn = lack == Lack::Nobody || place.is_first();
            wait.place = Some((lack, place));
            // What became free before we joined woke nobody.
            fence(Ordering::SeqCst);
            if is_its_turn {
                // Nor did what became of an endpoint that could be reached, but whose role had changed.
                if !has_failed {
                    self.tried = Default::default();
                }
                return Ok(());
            }
        }
        let Some((_, place)) = &wait.place else { return Err(failure) };
        // Who could not reach anybody tries again before long; others wait for a change.
        let pause = if has_failed { again(wait.pauses).min(left) } else { left };
        tokio::select! {
            () = place.woken() => {}
            () = sleep(pause) => {}
            () = self.client.gone(self.awaits_answer) => {
                return Err(Failure::new(Outcome::ClientGone, Side::Client));
            }
        }
        wait.pauses += u32::from(has_failed);
        self.tried = Default::default();
        Ok(())
    }
}

/// The pause after so many others, by chance up to a half more or less.
fn again(pauses: u32) -> Duration {
    AGAIN.saturating_mul(1 << pauses.min(8)).min(SELDOM).mul_f64(0.5 + fastrand::f64())
}
