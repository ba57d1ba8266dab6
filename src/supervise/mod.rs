//! Supervision: from a configuration to a running balancer, and from there to its end.

mod control;
mod descriptors;
pub(crate) mod shared;
pub(crate) mod worker;

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use self::control::{Control, Finds};
use self::descriptors::{Budget, Needs};
use self::shared::{Cancels, Colleague, Door, Order, Shared};
use crate::acme::challenges::Challenges;
use crate::acme::{self, Accounts};
use crate::admin;
use crate::admin::pages::{Pages, State};
use crate::config::model::{AccessTarget, Address, Bind, Config, Endpoint, Pool, Protocol};
use crate::detect::Memory;
use crate::listen::admission::Capacity;
use crate::listen::inherited::Inherited;
use crate::listen::sockets::{self, BindError, Group, SocketFile};
use crate::live::Live;
use crate::observe::access_log::{AccessLog, Finish};
use crate::observe::metrics::Metrics;
use crate::pool::discovery::{Dns, Sources};
use crate::sys;
use crate::tls::key_file::KeyFile;
use crate::tls::tickets::Secrets;

/// How long the start waits for endpoints to be discovered and for the first answers of probes.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the end waits for a slow reader of the access log.
const LAST_LINES: Duration = Duration::from_secs(1);
/// Requests to cancel queries that are served at once.
const REQUESTS_TO_CANCEL: usize = 256;
/// Connections at once of which an operator should know that there are no more.
const FEW: usize = 256;

/// Why a balancer cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Addresses that cannot be listened on, every one of them.
    #[error("{}", list(.0))]
    Bind(Vec<BindError>),
    /// The address of the admin pages cannot be listened on.
    #[error("admin.http: cannot listen on {0}: {1}")]
    Admin(SocketAddr, io::Error),
    /// The path of the admin socket cannot be listened on.
    #[error("admin.socket: cannot listen on {0}: {1}")]
    AdminSocket(PathBuf, io::Error),
    /// An address at which authorities ask over HTTP cannot be listened on.
    #[error("acme: cannot listen on {0} for http-01: {1}")]
    Acme(SocketAddr, io::Error),
    /// The access log cannot be opened.
    #[error("log.access: cannot write to {0}: {1}")]
    AccessLog(AccessTarget, io::Error),
    /// RLIMIT_NOFILE leaves no descriptor for any connection.
    #[error(
        "the limit of {limit} file descriptors (ulimit -n) is too low: {fixed} are needed, and two for each connection"
    )]
    Descriptors {
        /// RLIMIT_NOFILE.
        limit: u64,
        /// What the process needs without any connection.
        fixed: u64,
    },
    /// Clients' addresses cannot be connected from.
    #[error(
        "pool.{pool}.transparent: connecting from clients' addresses takes the capability CAP_NET_ADMIN, which this \
         process does not have: {error}"
    )]
    Transparent {
        /// The first pool that does.
        pool: String,
        /// What the system said.
        error: io::Error,
    },
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
    /// Removed when the listeners close.
    files: Mutex<Vec<SocketFile>>,
    admin: Option<SocketAddr>,
    /// Removed with the process.
    _admin_file: Option<SocketFile>,
}

impl Balancer {
    /// Starts serving. Every listener is open when this returns.
    ///
    /// # Errors
    /// No address is listened on and no file of a socket is left when it fails.
    pub fn start(config: &Config) -> Result<Balancer, StartError> {
        Balancer::start_with(config, Inherited::none())
    }

    /// Starts serving, on the sockets that the service manager passed to this process where it passed any
    /// (sd_listen_fds(3)). To be called once in a process.
    ///
    /// # Errors
    /// As [`Balancer::start`].
    pub fn start_inheriting(config: &Config) -> Result<Balancer, StartError> {
        Balancer::start_with(config, Inherited::from_service_manager())
    }

    fn start_with(config: &Config, mut inherited: Inherited) -> Result<Balancer, StartError> {
        may_be_transparent(config)?;
        let count = workers(config);
        let mut groups = sockets::bind_all(&config.listeners, count, &mut inherited).map_err(StartError::Bind)?;
        for address in inherited.unclaimed() {
            tracing::warn!(%address, "an inherited socket serves no listener and was closed");
        }
        warn_of_short_queues(config);
        let admin = config.admin.http.map(open_admin).transpose()?;
        let socket = config.admin.socket.as_deref().map(open_admin_socket).transpose()?;
        let (socket, admin_file) = socket.unzip();
        let admin_address = admin.as_ref().and_then(|listener| listener.local_addr().ok());
        let accounts = Accounts::listening(config).map_err(|(address, error)| StartError::Acme(address, error))?;
        let listening = groups.iter().map(|group| group.sockets.len()).sum();
        let Budget { connections: capacity, pipes, probes, look_ups, .. } = budget(config, count, listening)?;
        let (shared, inboxes, log) = share(config, count, capacity)?;
        let sources: Vec<Sources> = config.written_pools().map(Sources::of).collect();
        let sourced = sources.len();
        let finds = Finds { dns: Dns::new(config.dns.clone(), look_ups), sources };
        let control = Control::start(Arc::clone(&shared), (admin, socket), finds, accounts, probes)?;
        let began = Instant::now();
        control.wait_resolved(sourced, PATIENCE);
        wait_for_verdicts(&shared, began + PATIENCE);

        // From here on there may be clients, so nothing but a lack of threads may fail.
        groups.iter().try_for_each(Group::listen)?;
        let files = groups.iter_mut().filter_map(|group| group.file.take()).collect();
        let (addresses, mut sockets) = deal(groups, count, config);
        let mut workers = Vec::new();
        for (index, inbox) in inboxes.into_iter().enumerate() {
            let sockets = sockets.get_mut(index).map(std::mem::take).unwrap_or_default();
            let start = worker::Start { index, shared: Arc::clone(&shared), sockets, pipes, inbox };
            let thread = std::thread::Builder::new().name(format!("worker-{index}"));
            workers.push(thread.spawn(move || worker::run(start))?);
        }
        shared.pages.set_state(State::Serving);
        // Reading the configuration has left free memory behind, many times what is kept of it.
        sys::give_memory_back();
        for (listener, address) in &addresses {
            tracing::info!(listener, %address, "listening");
        }
        if let Some(address) = admin_address {
            tracing::info!(%address, "admin pages");
        }
        tracing::info!(version = env!("CARGO_PKG_VERSION"), workers = count, max_connections = capacity, "serving");
        Ok(Balancer {
            shared,
            workers,
            control,
            log,
            addresses,
            files: Mutex::new(files),
            admin: admin_address,
            _admin_file: admin_file,
        })
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
        self.shared.publish(Duration::ZERO);
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
        self.control.stop();
        if !self.log.finish(LAST_LINES) {
            tracing::warn!("the last lines of the access log could not be written");
        }
    }

    /// Tells every worker, all of which close their listeners on any order.
    fn tell(&self, order: impl Fn() -> Order) {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).clear();
        for worker in &self.shared.workers {
            // One that has ended needs no telling.
            let _ = worker.tell(order());
        }
    }
}

/// Makes sure that clients' addresses can be connected from, where some pool does.
fn may_be_transparent(config: &Config) -> Result<(), StartError> {
    let Some(pool) = config.pools.iter().find(|pool| pool.transparent) else { return Ok(()) };
    let tried = Socket::new(Domain::IPV4, Type::STREAM.cloexec(), None)
        .and_then(|socket| sys::set_transparent(socket.as_fd(), true));
    tried.map_err(|error| StartError::Transparent { pool: pool.name.clone(), error })
}

/// Where a worker is told things.
type Inbox = UnboundedReceiver<Order>;

/// Waits until every endpoint that is probed has a verdict, so that the first clients are not sent to those that are
/// down; not beyond `until`.
#[expect(clippy::disallowed_methods, reason = "nothing is served yet")]
fn wait_for_verdicts(shared: &Shared, until: Instant) {
    while shared.live.load().pools.iter().any(|pool| pool.awaits_verdicts()) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What all threads share, where each worker is told things, and the end of the access log.
fn share(config: &Config, workers: usize, capacity: usize) -> Result<(Arc<Shared>, Vec<Inbox>, Finish), StartError> {
    let metrics = Arc::new(Metrics::new());
    let dropped = metrics.process().access_log_dropped.clone();
    let (access_log, log) = AccessLog::start(&config.log.access, config.log.format, dropped)
        .map_err(|error| StartError::AccessLog(config.log.access.clone(), error))?;
    let (senders, inboxes): (Vec<_>, Vec<_>) = (0..workers).map(|_| unbounded_channel()).unzip();
    let bell = Arc::default();
    let (key_file, secrets) = match &config.ticket_keys {
        Some(path) => {
            let read = KeyFile::open(path);
            let (file, secrets) = read.map_err(|flaw| io::Error::other(format!("tls.ticket_keys: {path:?} {flaw}")))?;
            (Some(file), secrets)
        }
        None => {
            let none = |_| io::Error::other("the system has no random bytes");
            (None, Secrets::random(Instant::now()).map_err(none)?)
        }
    };
    let doors = config.listeners.iter().enumerate();
    let shared = Arc::new(Shared {
        live: Arc::new(Live::new(config, &metrics, &bell, &secrets)).into(),
        bell,
        doors: doors.map(|(index, listener)| Door::new(config, index, listener, &metrics)).collect(),
        workers: senders.into_iter().map(Colleague::new).collect(),
        capacity: Capacity::new(capacity),
        opening_memory: Memory::new(config.runtime.opening_memory),
        cancels: Cancels {
            requests: Semaphore::new(REQUESTS_TO_CANCEL),
            connections: Semaphore::new(descriptors::CANCELS),
        },
        log: access_log,
        challenges: Arc::new(Challenges::new(config)),
        secrets,
        key_file: Mutex::new(key_file),
        pages: Arc::new(Pages::new(Arc::clone(&metrics), workers)),
        metrics,
    });
    Ok((shared, inboxes, log))
}

/// Listening sockets of one worker, with the index of their listener.
type Sockets = Vec<(usize, OwnedFd)>;

/// Deals the sockets of every group out to the workers, and tells where they listen. A group of one goes to another
/// worker each time.
#[expect(
    clippy::indexing_slicing,
    reason = "indices of this configuration's listeners, and of workers modulo their count"
)]
fn deal(groups: Vec<Group>, workers: usize, config: &Config) -> (Vec<(String, Bind)>, Vec<Sockets>) {
    let mut hands: Vec<Sockets> = (0..workers).map(|_| Vec::new()).collect();
    let mut addresses = Vec::new();
    for (turn, group) in groups.into_iter().enumerate() {
        let first = if group.sockets.len() < workers { turn } else { 0 };
        for (index, socket) in group.sockets.into_iter().enumerate() {
            hands[(first + index) % workers].push((group.listener, socket));
        }
        addresses.push((config.listeners[group.listener].name.clone(), group.address));
    }
    (addresses, hands)
}

fn workers(config: &Config) -> usize {
    let auto = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    config.runtime.workers.map_or_else(auto, NonZeroUsize::get)
}

/// What descriptors are for; not for more connections than were asked for.
fn budget(config: &Config, workers: usize, listening: usize) -> Result<Budget, StartError> {
    let limit = descriptors::raise();
    let of_endpoint = |endpoint: &Endpoint| match endpoint.address {
        // A name may stand for many endpoints, and those that do not answer keep their place until they are given up.
        Address::Host { .. } | Address::Srv(_) => 64,
        Address::Ip(_) | Address::Unix(_) => 1,
    };
    // So may a file.
    let of_pool = |pool: &Pool| {
        pool.endpoints.iter().map(of_endpoint).sum::<usize>()
            + if pool.endpoints_file.is_some() { descriptors::PROBES } else { 0 }
    };
    // The parts of a pool share its probes.
    let probed = config.written_pools().map(|pool| {
        let ways = pool.health.as_ref();
        let ways = ways.map_or(0, |health| {
            let probe = health.dialogue.as_ref().map_or(0, |dialogue| dialogue.probe.connections());
            probe + usize::from(health.agent.is_some())
        });
        ways * of_pool(pool)
    });
    let probed = probed.sum();
    let pages = config.admin.http.map_or(0, |_| descriptors::ADMIN_PAGES);
    let admin = pages + config.admin.socket.as_ref().map_or(0, |_| descriptors::ADMIN_SOCKET);
    let admin = admin + acme::descriptors(config);
    let named = |endpoint: &Endpoint| matches!(endpoint.address, Address::Host { .. } | Address::Srv(_));
    let names = config.pools.iter().any(|pool| pool.endpoints_file.is_some() || pool.endpoints.iter().any(named));
    let cancels = config.listeners.iter().any(|listener| listener.protocol == Protocol::Postgres);
    let dealt = descriptors::budget(limit, Needs { workers, listening, admin, probed, names, cancels });
    let Budget { connections, fixed, .. } = dealt;
    let limit = limit.unwrap_or(u64::MAX);
    if connections == 0 {
        return Err(StartError::Descriptors { limit, fixed });
    }
    let asked = config.runtime.max_connections.map(NonZeroUsize::get);
    if asked.is_some_and(|asked| asked > connections) || connections < FEW {
        tracing::warn!("the limit of {limit} file descriptors (ulimit -n) allows {connections} connections at once");
    }
    Ok(Budget { connections: asked.unwrap_or(connections).min(connections), ..dealt })
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

/// Opens the admin listener.
fn open_admin(address: SocketAddr) -> Result<std::net::TcpListener, StartError> {
    let open = || {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    open().map_err(|error| StartError::Admin(address, error))
}

fn open_admin_socket(path: &Path) -> Result<(UnixListener, SocketFile), StartError> {
    admin::socket::open(path).map_err(|error| StartError::AdminSocket(path.to_owned(), error))
}

/// Tries every address that [`Balancer::start`] would listen on, and lets go of it again. No client notices.
///
/// # Errors
/// Every address that cannot be had.
pub fn try_addresses(config: &Config) -> Result<(), Vec<StartError>> {
    let mut errors = Vec::new();
    if let Err(taken) = sockets::try_all(&config.listeners) {
        errors.push(StartError::Bind(taken));
    }
    errors.extend(config.admin.http.and_then(|address| open_admin(address).err()));
    errors.extend(config.admin.socket.as_deref().and_then(|path| open_admin_socket(path).err()));
    errors.extend(Accounts::listening(config).err().map(|(address, error)| StartError::Acme(address, error)));
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

fn list(errors: &[BindError]) -> String {
    errors.iter().map(BindError::to_string).collect::<Vec<_>>().join("\n")
}
