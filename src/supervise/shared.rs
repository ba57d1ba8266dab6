//! What all workers and the control runtime share: one balancer's state, without a lock on any session's path.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout_at;

use crate::acme::challenges::Challenges;
use crate::admin::pages::Pages;
use crate::config::model::{Config, Listener, NoEndpoint, Protocol};
use crate::detect::Memory;
use crate::listen::Accepted;
use crate::listen::admission::Capacity;
use crate::listen::senders::Senders;
use crate::live::Live;
use crate::observe::access_log::AccessLog;
use crate::observe::metrics::{ListenerMetrics, Metrics};
use crate::pool::commons::Bell;
use crate::supervise::worker::Worker;
use crate::table::Limits;
use crate::tls::key_file::KeyFile;
use crate::tls::tickets::Secrets;

/// How long workers may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// One balancer's state.
pub(crate) struct Shared {
    /// The generation in use.
    pub(crate) live: ArcSwap<Live>,
    /// Told of every change of a pool.
    pub(crate) bell: Arc<Bell>,
    pub(crate) doors: Vec<Door>,
    pub(crate) workers: Vec<Colleague>,
    /// `runtime.max_connections`.
    pub(crate) capacity: Arc<Capacity>,
    pub(crate) opening_memory: Arc<Memory>,
    /// Room for requests to cancel queries.
    pub(crate) cancels: Cancels,
    pub(crate) log: AccessLog,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) pages: Arc<Pages>,
    /// What authorities are shown.
    pub(crate) challenges: Arc<Challenges>,
    /// What session tickets are made of.
    pub(crate) secrets: Arc<Secrets>,
    /// Where they come from; `None`: they are drawn. Only the control side looks there.
    pub(crate) key_file: Mutex<Option<KeyFile>>,
}

/// Bounds on requests to cancel queries, of all clients together.
pub(crate) struct Cancels {
    /// Requests that are served at once; others are turned away.
    pub(crate) requests: Semaphore,
    /// Connections to endpoints at once; others wait.
    pub(crate) connections: Semaphore,
}

/// One listener, as those who accept on it see it.
pub(crate) struct Door {
    pub(crate) name: Arc<str>,
    pub(crate) protocol: Protocol,
    pub(crate) open: Duration,
    /// Whose connections begin with a PROXY header; `None`: nobody's.
    pub(crate) senders: Option<Senders>,
    /// What holds until the session's pool is known.
    pub(crate) limits: Limits,
    /// `listener.max_connections`.
    pub(crate) capacity: Arc<Capacity>,
    pub(crate) metrics: ListenerMetrics,
    /// `None` where it accepts whatever its pools can do.
    pub(crate) refusal: Option<Refusal>,
}

/// A listener that refuses connections while its one pool has no endpoint.
pub(crate) struct Refusal {
    /// Index of the pool.
    pub(crate) pool: usize,
    /// Whether it refuses.
    pub(crate) refuses: watch::Sender<bool>,
    /// The queue to listen with again.
    pub(crate) backlog: u32,
}

/// One worker, as the others see it.
pub(crate) struct Colleague {
    sessions: Arc<AtomicUsize>,
    inbox: UnboundedSender<Order>,
}

/// What a worker is told.
pub(crate) enum Order {
    /// Do this, at once and without waiting.
    Do(Box<dyn FnOnce(&Worker) + Send>),
    /// Serve this connection.
    Serve(Accepted),
    /// Look at every session now: endpoints have changed.
    Sweep,
    /// Take no new connections; sessions go on for as long as their pools allow.
    Drain,
    /// End every session now.
    End,
}

/// One session's place among those of a worker; given back by Drop.
#[derive(Debug)]
pub(crate) struct Seat {
    /// Index of the worker.
    pub(crate) worker: usize,
    sessions: Arc<AtomicUsize>,
}

impl Door {
    /// The door of one listener.
    pub(crate) fn new(config: &Config, index: usize, listener: &Listener, metrics: &Metrics) -> Door {
        let mut pools = config.routes.iter().filter(|route| route.listener == index).map(|route| route.pool);
        let refuses =
            |pool: &usize| config.pools.get(*pool).is_some_and(|pool| pool.shortage.no_endpoint == NoEndpoint::Refuse);
        // A pool that makes its listener refuse is the only one of it: the configuration is checked for that.
        let refusal = pools.find(refuses);
        let refusal =
            refusal.map(|pool| Refusal { pool, refuses: watch::Sender::new(false), backlog: listener.backlog });
        Door {
            refusal,
            name: listener.name.as_str().into(),
            protocol: listener.protocol,
            open: listener.open,
            senders: listener.proxy_from.as_ref().map(Senders::new),
            limits: Limits { drain: config.timeouts.pool.drain, ..Limits::default() },
            capacity: Capacity::new(listener.max_connections.map_or(usize::MAX, NonZeroUsize::get)),
            metrics: metrics.listener(&listener.name),
        }
    }
}

impl Colleague {
    /// A worker without sessions.
    pub(crate) fn new(inbox: UnboundedSender<Order>) -> Colleague {
        Colleague { sessions: Arc::default(), inbox }
    }

    /// Sessions that it has, those on their way included.
    pub(crate) fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Tells it something; gives it back where the worker has ended.
    pub(crate) fn tell(&self, order: Order) -> Result<(), Order> {
        self.inbox.send(order).map_err(|unsent| unsent.0)
    }

    fn seat(&self, worker: usize) -> Seat {
        self.sessions.fetch_add(1, Ordering::Relaxed);
        Seat { worker, sessions: Arc::clone(&self.sessions) }
    }
}

#[expect(clippy::indexing_slicing, reason = "workers are fixed while the process lives")]
impl Shared {
    /// A place for a connection that worker `this` has accepted: with the less loaded of itself and `other`.
    pub(crate) fn seat(&self, this: usize, other: usize) -> Seat {
        let (mine, theirs) = (&self.workers[this], &self.workers[other]);
        if theirs.sessions() < mine.sessions() { theirs.seat(other) } else { mine.seat(this) }
    }

    /// Sessions now, over all workers.
    pub(crate) fn sessions(&self) -> usize {
        self.workers.iter().map(Colleague::sessions).sum()
    }

    /// Has every worker do something, at once and without waiting, and gives what they answer.
    ///
    /// # Errors
    /// How many did not answer in time.
    pub(crate) async fn ask_all<T: Send + 'static>(
        &self,
        ask: impl Fn(&Worker) -> T + Clone + Send + 'static,
    ) -> Result<Vec<T>, String> {
        let (sender, mut answers) = unbounded_channel();
        for worker in &self.workers {
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
                Err(_) => {
                    let (missing, patience) = (self.workers.len() - all.len(), PATIENCE.as_secs());
                    return Err(format!("{missing} workers did not answer within {patience} s; they may do it later"));
                }
            }
        }
    }

    /// Brings the gauges up to date, `time` after the last call.
    pub(crate) fn publish(&self, time: Duration) {
        for door in &self.doors {
            door.metrics.active.set(door.capacity.used() as f64);
        }
        for pool in &self.live.load().pools {
            pool.publish(time);
        }
        self.metrics.process().opening_memory.set(self.opening_memory.held() as f64);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}
