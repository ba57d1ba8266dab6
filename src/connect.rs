//! Connect: from a pool to an established connection, over at most two different endpoints, and as long as the pool lets
//! its clients wait for one.
//!
//! Nothing of the client is sent here, so every failure may move on to another endpoint.

mod cover;
mod introduction;

use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use rustix::net::SendFlags;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::time::{sleep, timeout};

use self::cover::Cover;
pub(crate) use self::cover::Near;
pub(crate) use self::introduction::{Introduction, Source, send};
use crate::config::model::NoEndpoint;
use crate::detect::Opening;
use crate::forward::Tools;
use crate::observe::metrics::Metrics;
use crate::observe::outcome::{Outcome, Side};
use crate::observe::record::Handshake;
use crate::pool::endpoint::{NO_ADDRESS, NO_ANSWER, NO_HANDSHAKE};
use crate::pool::waiting::Place;
use crate::pool::{Endpoint, Lack, Lease, Pool, Target};
use crate::session::Failure;
use crate::stream::{Family, Stream};
use crate::sys;
use crate::tls::handshake::{Accepted, Joined};
use crate::wire::postgres;

/// Different endpoints that one session tries before it gives up or waits.
const TRIES: usize = 2;
/// Pause before a unix socket whose queue is full is tried again.
const QUEUE_FULL: Duration = Duration::from_millis(5);
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
    special: Option<Box<Special<'a>>>,
    /// Boxed, for nearly every session goes without for as long as it lives.
    wait: Option<Box<Wait<'a>>>,
}

/// What not every session asks for.
#[derive(Default)]
struct Special<'a> {
    /// What endpoints are to know of the client.
    introduction: Option<Box<Introduction>>,
    /// `None`: what the client says is all that is said to endpoints.
    cover: Option<Cover<'a>>,
}

/// An endpoint that was not reached.
struct Unreached {
    failure: Failure,
    /// The system's number for why, or one of ours.
    code: i32,
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
            special: None,
            wait: None,
        }
    }

    /// With this in front of everything else; the client's TLS, where that ends here, and its opening are known.
    pub(crate) fn introducing(
        mut self,
        introduction: Option<Box<Introduction>>,
        (accepted, opening): (Option<&Accepted>, Option<&Opening>),
    ) -> Attempts<'a> {
        if let Some(mut introduction) = introduction {
            let something_follows = opening.is_some_and(|opening| !opening.bytes.is_empty());
            introduction.complete(accepted.map(|accepted| &*accepted.sealed), something_follows);
            self.special.get_or_insert_default().introduction = Some(introduction);
        }
        self
    }

    /// Over TLS, if that is how the pool speaks to its endpoints and the client does not do so itself.
    pub(crate) fn covered(mut self, near: Near<'_>, tools: &'a Tools, metrics: &'a Metrics) -> Attempts<'a> {
        self.may_be_clients = matches!(near, Near::Direct);
        if let Some(cover) = Cover::for_client(self.pool, near, tools, metrics) {
            self.special.get_or_insert_default().cover = Some(cover);
        }
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
            match self.reach(&lease).await {
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
        self.cover()?.handshake.take()
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

    /// Connects to an endpoint and, where that is how it is spoken to, makes a handshake with it.
    async fn reach(&mut self, lease: &Lease) -> Result<(Stream, Option<Box<Joined>>), Unreached> {
        self.cover().into_iter().for_each(|cover| cover.handshake = None);
        let (asks, tls) = self.cover().map_or((false, None), |cover| (cover.asks(), cover.tls));
        let introduction = self.special.as_ref().and_then(|special| special.introduction.as_deref());
        let opening = open(self.pool, lease.endpoint(), introduction, (asks, tls.is_some()));
        let opened = timeout(self.pool.timeouts.connect, opening).await;
        let pool = self.pool;
        let stream =
            opened.unwrap_or(Err(Unopened::Dial(io::ErrorKind::TimedOut.into()))).map_err(|why| match why {
                Unopened::NoAddress => {
                    Unreached { failure: Failure::new(Outcome::ConnectFailed, Side::Us), code: NO_ADDRESS }
                }
                Unopened::Own(error) => Unreached {
                    failure: Failure { by: Side::Us, ..blame(&error) },
                    code: error.raw_os_error().unwrap_or(NO_ADDRESS),
                },
                Unopened::Dial(error) => {
                    Unreached { failure: blame(&error), code: error.raw_os_error().unwrap_or(libc::ETIMEDOUT) }
                }
                Unopened::Refused(answer) => {
                    self.cover().into_iter().for_each(|cover| cover.refused(pool, answer));
                    Unreached { failure: Failure::new(Outcome::EndpointTlsFailed, Side::Endpoint), code: NO_HANDSHAKE }
                }
            })?;
        let Some(tls) = tls else { return Ok((stream, None)) };
        let unset = Unreached { failure: Failure::new(Outcome::Internal, Side::Us), code: NO_HANDSHAKE };
        let (cover, endpoint) = self.cover().zip(lease.endpoint().tls.as_ref()).ok_or(unset)?;
        let joined = cover.join(pool, tls, endpoint, &stream).await?;
        Ok((stream, Some(Box::new(joined))))
    }
}

impl<'a> Attempts<'a> {
    fn cover(&mut self) -> Option<&mut Cover<'a>> {
        self.special.as_mut()?.cover.as_mut()
    }
}

/// Why there is no connection to an endpoint.
pub(crate) enum Unopened {
    /// It would have to be connected to from an address that the client does not have.
    NoAddress,
    /// Something of our own is missing: a socket, or the address to connect from.
    Own(io::Error),
    /// It cannot be connected to.
    Dial(io::Error),
    /// It did not promise TLS but answered this, or ended.
    Refused(Option<u8>),
}

/// Connects to `endpoint` as sessions of `pool` do, with the `introduction` of a client in front of everything else. If it is
/// `asked` to, the endpoint has to promise TLS as servers of PostgreSQL do; whether or not, something may follow at once. Takes
/// as long as that takes.
///
/// # Errors
/// Why there is no connection.
pub(crate) async fn open(
    pool: &Pool,
    endpoint: &Endpoint,
    introduction: Option<&Introduction>,
    (asked, something_follows): (bool, bool),
) -> Result<Stream, Unopened> {
    let target = &endpoint.target;
    let source = source(pool, target, introduction).ok_or(Unopened::NoAddress)?;
    let (socket, address, family) = prepare(target, source).map_err(Unopened::Own)?;
    let stream = connect(socket, &address, family).await.map_err(Unopened::Dial)?;
    if let Some(introduction) = introduction {
        introduction.send(&stream, asked || something_follows).await.map_err(Unopened::Dial)?;
    }
    if asked {
        // The first bytes on a new connection always find room.
        let asked = rustix::net::send(&stream, &postgres::SSL_REQUEST, SendFlags::NOSIGNAL);
        asked.map_err(|_| Unopened::Refused(None))?;
        // No more than the one byte: what comes behind it belongs to TLS.
        let mut answer = [0];
        let received = poll_fn(|cx| stream.poll_recv(cx, &mut answer)).await;
        match (received, answer) {
            (Ok(1), [postgres::YES]) => {}
            (Ok(1), [other]) => return Err(Unopened::Refused(Some(other))),
            _ => return Err(Unopened::Refused(None)),
        }
    }
    Ok(stream)
}

/// Where `target` is connected to from; `None` where that would have to be an address that the client does not have.
fn source(pool: &Pool, target: &Target, introduction: Option<&Introduction>) -> Option<Source> {
    match target {
        Target::Ip(target) if pool.is_transparent => {
            let client = introduction?.client()?;
            (client.is_ipv4() == target.is_ipv4() && is_somebody(client, target.ip())).then_some(Source::Client(client))
        }
        _ => Some(Source::own(pool.source_for(target))),
    }
}

/// Whether packets can come from `client` as far as to `target`: a header may say anything, and an address of one link says
/// nothing on another.
fn is_somebody(client: IpAddr, target: IpAddr) -> bool {
    let is_of_a_link = match client {
        IpAddr::V4(client) => client.is_link_local() || client.is_broadcast(),
        IpAddr::V6(client) => client.is_unicast_link_local(),
    };
    let is_elsewhere = client.is_loopback() && !target.is_loopback();
    !(client.is_unspecified() || client.is_multicast() || is_of_a_link || is_elsewhere)
}

/// The pause after so many others, by chance up to a half more or less.
fn again(pauses: u32) -> Duration {
    AGAIN.saturating_mul(1 << pauses.min(8)).min(SELDOM).mul_f64(0.5 + fastrand::f64())
}

/// One attempt to connect, without a limit of time.
///
/// # Errors
/// Those of socket(2), bind(2) and connect(2).
pub(crate) async fn dial(target: &Target, source: Source) -> io::Result<Stream> {
    let (socket, address, family) = prepare(target, source)?;
    connect(socket, &address, family).await
}

/// What it takes of ours to connect.
fn prepare(target: &Target, source: Source) -> io::Result<(Socket, SockAddr, Family)> {
    let (address, family) = match target {
        Target::Ip(address) => (SockAddr::from(*address), Family::Tcp),
        Target::Unix(path) => (SockAddr::unix(path)?, Family::Unix),
    };
    Ok((socket(&address, source)?, address, family))
}

async fn connect(socket: Socket, address: &SockAddr, family: Family) -> io::Result<Stream> {
    loop {
        match socket.connect(address) {
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

fn socket(address: &SockAddr, source: Source) -> io::Result<Socket> {
    let socket = Socket::new(address.domain(), Type::STREAM.nonblocking().cloexec(), None)?;
    if address.domain() == Domain::UNIX {
        return Ok(socket);
    }
    socket.set_tcp_nodelay(true)?;
    if let Source::Client(client) = source {
        sys::set_transparent(socket.as_fd(), client.is_ipv4())?;
    }
    if let Some(from) = source.address() {
        sys::set_bind_address_no_port(socket.as_fd())?;
        socket.bind(&from.into())?;
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
