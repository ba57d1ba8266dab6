//! Supervision: from a configuration to a running balancer, and from there to its end.

mod control;
mod descriptors;
pub(crate) mod shared;
pub(crate) mod worker;

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc::unbounded_channel;

use self::control::Control;
use self::shared::{Door, Order, Peer, Shared};
use crate::admin::pages::{Pages, State};
use crate::config::model::{Bind, Config};
use crate::detect::Memory;
use crate::listen::admission::Capacity;
use crate::listen::inherited::{Inherited, from_service_manager};
use crate::listen::sockets::{self, BindError, Group};
use crate::live::Live;
use crate::observe::access_log::{AccessLog, Finish};
use crate::observe::metrics::Metrics;

/// How long the start waits for host names to be resolved.
const RESOLVE: Duration = Duration::from_secs(2);
/// How long the end waits for a slow reader of the access log.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Why a balancer cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Addresses that cannot be listened on, every one of them.
    #[error("{}", list(.0))]
    Bind(Vec<BindError>),
    /// The address of the admin pages cannot be listened on.
    #[error("admin.http: cannot listen on {0}: {1}")]
    Admin(SocketAddr, io::Error),
    /// The access log cannot be opened.
    #[error("log.access: {0}")]
    AccessLog(io::Error),
    /// RLIMIT_NOFILE leaves no descriptor for any connection.
    #[error("the limit of {0} file descriptors is too low to serve any connection")]
    Descriptors(u64),
    /// A thread or a runtime cannot be made.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
}

/// A running balancer.
#[must_use = "a balancer serves until it is told to stop"]
pub struct Balancer {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<io::Result<()>>>,
    control: Control,
    log: Finish,
    addresses: Vec<(String, Bind)>,
    admin: Option<SocketAddr>,
}

impl Balancer {
    /// Starts serving. Every listener is open when this returns.
    ///
    /// # Errors
    /// Nothing is left behind when it fails.
    pub fn start(config: &Config) -> Result<Balancer, StartError> {
        Balancer::start_with(config, Inherited::none())
    }

    /// Starts serving, on the sockets that the service manager passed to this process where it passed any
    /// (sd_listen_fds(3)). To be called once in a process.
    ///
    /// # Errors
    /// As [`Balancer::start`].
    pub fn start_inheriting(config: &Config) -> Result<Balancer, StartError> {
        Balancer::start_with(config, from_service_manager())
    }

    fn start_with(config: &Config, mut inherited: Inherited) -> Result<Balancer, StartError> {
        let count = workers(config);
        let mut groups = sockets::open_all(&config.listeners, count, &mut inherited).map_err(StartError::Bind)?;
        for address in inherited.unclaimed() {
            tracing::warn!(%address, "an inherited socket serves no listener and was closed");
        }
        warn_of_short_queues(config);
        let admin = match config.admin.http {
            Some(address) => Some(control::open_admin(address).map_err(|error| StartError::Admin(address, error))?),
            None => None,
        };
        let admin_address = admin.as_ref().and_then(|listener| listener.local_addr().ok());
        let listening = groups.iter().map(|group| group.sockets.len()).sum();
        let capacity = capacity(config, count, listening)?;

        let metrics = Arc::new(Metrics::new());
        let dropped = metrics.process().access_log_dropped.clone();
        let (access_log, log) =
            AccessLog::start(&config.log.access, config.log.format, dropped).map_err(StartError::AccessLog)?;
        let (inboxes, peers): (Vec<_>, Vec<_>) = (0..count)
            .map(|_| {
                let (sender, inbox) = unbounded_channel();
                (inbox, Peer::new(sender))
            })
            .unzip();
        let shared = Arc::new(Shared {
            live: Arc::new(Live::new(config, &metrics)).into(),
            doors: config.listeners.iter().map(|listener| Door::new(config, listener, &metrics)).collect(),
            workers: peers,
            capacity: Capacity::new(capacity),
            opening_memory: Memory::new(config.runtime.opening_memory),
            log: access_log,
            pages: Arc::new(Pages::new(Arc::clone(&metrics), count)),
            metrics,
        });
        let refresh: Vec<Duration> = config.pools.iter().map(|pool| pool.refresh).collect();
        let control = Control::start(Arc::clone(&shared), admin, refresh)?;
        control.wait_resolved(config.pools.len(), RESOLVE);

        let mut starts: Vec<worker::Start> = inboxes
            .into_iter()
            .enumerate()
            .map(|(index, inbox)| worker::Start { index, shared: Arc::clone(&shared), sockets: Vec::new(), inbox })
            .collect();
        let addresses = deal(&mut groups, &mut starts, config);
        let mut workers = Vec::new();
        for start in starts {
            let name = format!("worker-{}", start.index);
            workers.push(std::thread::Builder::new().name(name).spawn(move || worker::run(start))?);
        }
        shared.pages.set_state(State::Serving);
        tracing::info!(workers = count, max_connections = capacity, "serving");
        Ok(Balancer { shared, workers, control, log, addresses, admin: admin_address })
    }

    /// Where a listener listens, free ports filled in.
    pub fn addresses(&self, listener: &str) -> Vec<&Bind> {
        self.addresses.iter().filter(|(name, _)| name == listener).map(|(_, address)| address).collect()
    }

    /// Where the admin pages are served.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// Sessions now.
    pub fn sessions(&self) -> usize {
        self.shared.sessions()
    }

    /// The metrics, up to date.
    pub fn metrics(&self) -> String {
        self.shared.publish();
        self.shared.metrics.render()
    }

    /// Takes no new connections; sessions go on for as long as `timeouts.drain` of their pools allows.
    pub fn drain(&self) {
        self.shared.pages.set_state(State::Draining);
        self.tell(|| Order::Drain);
    }

    /// Ends every session now.
    pub fn end(&self) {
        self.shared.pages.set_state(State::Draining);
        self.tell(|| Order::End);
    }

    /// Whether all workers have ended.
    pub fn has_ended(&self) -> bool {
        self.workers.iter().all(JoinHandle::is_finished)
    }

    /// Waits for the workers to end, which takes a [`Balancer::drain`] or a [`Balancer::end`] before, and for the last
    /// lines of the access log.
    pub fn join(self) {
        for worker in self.workers {
            match worker.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!("a worker could not run: {error}"),
                Err(_) => tracing::error!("a worker panicked"),
            }
        }
        for (_, address) in &self.addresses {
            sockets::remove_file(address);
        }
        self.control.stop();
        if !self.log.finish(LAST_LINES) {
            tracing::warn!("the last lines of the access log could not be written");
        }
    }

    fn tell(&self, order: impl Fn() -> Order) {
        for worker in &self.shared.workers {
            // One that has ended needs no telling.
            let _ = worker.tell(order());
        }
    }
}

/// Deals the sockets of every group out to the workers, and tells where they listen. A group of one goes to another
/// worker each time.
#[expect(
    clippy::indexing_slicing,
    reason = "indices of this configuration's listeners, and of the workers modulo their count"
)]
fn deal(groups: &mut Vec<Group>, starts: &mut [worker::Start], config: &Config) -> Vec<(String, Bind)> {
    let count = starts.len();
    let mut addresses = Vec::new();
    for (turn, group) in groups.drain(..).enumerate() {
        let first = if group.sockets.len() < count { turn } else { 0 };
        for (index, socket) in group.sockets.into_iter().enumerate() {
            starts[(first + index) % count].sockets.push((group.listener, socket));
        }
        addresses.push((config.listeners[group.listener].name.clone(), group.address));
    }
    addresses
}

fn workers(config: &Config) -> usize {
    let auto = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    config.runtime.workers.map_or_else(auto, NonZeroUsize::get)
}

/// Connections to serve at once: what was asked for, as far as the descriptors last.
fn capacity(config: &Config, workers: usize, listening: usize) -> Result<usize, StartError> {
    let descriptors = descriptors::raise();
    let possible = descriptors::connections(descriptors, workers, listening, config.admin.http.is_some());
    if possible == 0 {
        return Err(StartError::Descriptors(descriptors.unwrap_or(u64::MAX)));
    }
    let asked = config.runtime.max_connections.map(NonZeroUsize::get);
    if let Some(asked) = asked.filter(|&asked| asked > possible) {
        tracing::warn!(
            "runtime.max_connections = {asked} is more than the limit of {} file descriptors allows: {possible} it is",
            descriptors.unwrap_or(u64::MAX)
        );
    }
    Ok(asked.unwrap_or(possible).min(possible))
}

fn warn_of_short_queues(config: &Config) {
    let Some(longest) = sockets::longest_backlog() else { return };
    for listener in config.listeners.iter().filter(|listener| listener.backlog > longest) {
        tracing::warn!(
            listener = listener.name,
            "backlog = {} is cut to {longest} by net.core.somaxconn",
            listener.backlog
        );
    }
}

fn list(errors: &[BindError]) -> String {
    errors.iter().map(BindError::to_string).collect::<Vec<_>>().join("\n")
}
