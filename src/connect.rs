//! Connect: from a pool to an established connection, over at most two different endpoints.
//!
//! Nothing of the client is sent here, so every failure may move on to another endpoint.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::time::{sleep, timeout};

use crate::observe::outcome::{Outcome, Side};
use crate::pool::endpoint::NO_ANSWER;
use crate::pool::{Endpoint, Lease, Pool, Target};
use crate::session::Failure;
use crate::stream::{Family, Stream};
use crate::sys;

/// Different endpoints that one session tries.
const TRIES: usize = 2;
/// Pause before a unix socket whose queue is full is tried again.
const QUEUE_FULL: Duration = Duration::from_millis(5);

/// One session's attempts on a pool.
pub(crate) struct Attempts<'a> {
    pool: &'a Pool,
    /// What the pool knows the client by.
    key: u64,
    tried: [Option<Arc<Endpoint>>; TRIES],
    /// What is to be said if no other endpoint is left.
    failure: Failure,
}

/// An established connection to an endpoint.
pub(crate) struct Reached {
    pub(crate) stream: Stream,
    pub(crate) lease: Lease,
    /// How long that took, failed attempts included.
    pub(crate) took: Duration,
}

impl<'a> Attempts<'a> {
    /// No attempt yet.
    pub(crate) fn on(pool: &'a Pool, key: u64) -> Attempts<'a> {
        let failure = Failure::new(Outcome::NoEndpoint, Side::Policy);
        Attempts { pool, key, tried: Default::default(), failure }
    }

    /// Connects to the endpoint whose turn it is, or the next.
    ///
    /// # Errors
    /// The last failure of all attempts so far, or [`Outcome::NoEndpoint`] where there was none.
    pub(crate) async fn next(&mut self) -> Result<Reached, Failure> {
        let began = Instant::now();
        while self.may_go_on() {
            let Some(lease) = self.pool.lease(self.key, &self.tried) else { break };
            if let Some(free) = self.tried.iter_mut().find(|tried| tried.is_none()) {
                *free = Some(Arc::clone(lease.endpoint()));
            }
            match self.dial(&lease).await {
                Ok(stream) => {
                    let took = began.elapsed();
                    self.pool.metrics.connect.record(took);
                    lease.endpoint().metrics.sessions.increment(1);
                    return Ok(Reached { stream, lease, took });
                }
                Err(error) => {
                    self.failure = blame(&error);
                    lease.endpoint().failed(error.raw_os_error().unwrap_or(libc::ETIMEDOUT));
                    if self.failure.by == Side::Endpoint {
                        self.pool.failed(lease.endpoint());
                    }
                }
            }
        }
        Err(self.failure)
    }

    /// Whether another endpoint may be tried.
    pub(crate) fn may_go_on(&self) -> bool {
        self.tried.iter().any(Option::is_none)
    }

    /// The endpoint tried last.
    pub(crate) fn last(&self) -> Option<&Arc<Endpoint>> {
        self.tried.iter().flatten().last()
    }

    /// The endpoint took the connection but ended it without an answer.
    pub(crate) fn unanswered(&mut self, lease: &Lease) {
        lease.endpoint().failed(NO_ANSWER);
        self.pool.failed(lease.endpoint());
        self.failure = Failure::new(Outcome::EndpointSilent, Side::Endpoint);
    }

    async fn dial(&self, lease: &Lease) -> io::Result<Stream> {
        let target = &lease.endpoint().target;
        match timeout(self.pool.timeouts.connect, dial(target, self.pool.source_for(target))).await {
            Ok(result) => result,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

/// One attempt to connect, without a limit of time.
///
/// # Errors
/// Those of socket(2), bind(2) and connect(2).
pub(crate) async fn dial(target: &Target, source: Option<IpAddr>) -> io::Result<Stream> {
    let (address, family) = match target {
        Target::Ip(address) => (SockAddr::from(*address), Family::Tcp),
        Target::Unix(path) => (SockAddr::unix(path)?, Family::Unix),
    };
    let socket = socket(&address, source)?;
    loop {
        match socket.connect(&address) {
            Ok(()) => return Stream::new(OwnedFd::from(socket), family),
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {
                let stream = Stream::new(OwnedFd::from(socket), family)?;
                stream.connected().await?;
                return Ok(stream);
            }
            // Only a unix socket says this: its queue is full for now.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(QUEUE_FULL).await,
            Err(error) => return Err(error),
        }
    }
}

fn socket(address: &SockAddr, source: Option<IpAddr>) -> io::Result<Socket> {
    let socket = Socket::new(address.domain(), Type::STREAM.nonblocking().cloexec(), None)?;
    if address.domain() == Domain::UNIX {
        return Ok(socket);
    }
    socket.set_tcp_nodelay(true)?;
    if let Some(source) = source {
        sys::set_bind_address_no_port(socket.as_fd())?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    Ok(socket)
}

/// What a failed attempt is called, and whose fault it is.
pub(crate) fn blame(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::TimedOut => Failure::new(Outcome::ConnectTimeout, Side::Endpoint),
        io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse => Failure::new(Outcome::ConnectFailed, Side::Us),
        _ if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS)) => {
            Failure::new(Outcome::Internal, Side::Us)
        }
        _ => Failure::new(Outcome::ConnectFailed, Side::Endpoint),
    }
}
