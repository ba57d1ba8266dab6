//! The way from one client to one endpoint: the connection, how the client is introduced, and TLS on it.

use std::future::poll_fn;
use std::io;
use std::net::IpAddr;

use rustix::net::SendFlags;
use tokio::time::timeout;

use super::cover::{Cover, Near};
use super::dial::{self, Source, blame};
use super::introduction::Introduction;
use crate::forward::Tools;
use crate::observe::metrics::Metrics;
use crate::observe::outcome::{Outcome, Side};
use crate::observe::record::Handshake;
use crate::pool::endpoint::{NO_ADDRESS, NO_HANDSHAKE};
use crate::pool::{Endpoint, Pool, Target};
use crate::session::Failure;
use crate::stream::Stream;
use crate::tls::handshake::Joined;
use crate::wire::postgres;

/// What there is on the way besides the client's own words.
pub(crate) struct Way<'a> {
    /// What endpoints are to know of the client.
    introduction: Option<Box<Introduction>>,
    /// `None`: what the client says is all that is said to endpoints.
    cover: Option<Cover<'a>>,
}

/// An endpoint that was not reached.
pub(crate) struct Unreached {
    pub(crate) failure: Failure,
    /// The system's number for why, or one of ours.
    pub(super) code: i32,
}

impl<'a> Way<'a> {
    /// The way of a client who is so near to endpoints of `pool`; `None` where there is nothing on it, as with most sessions.
    pub(crate) fn of(
        pool: &'a Pool,
        introduction: Option<Box<Introduction>>,
        near: Near<'_>,
        tools: &'a Tools,
        metrics: &'a Metrics,
    ) -> Option<Box<Way<'a>>> {
        let cover = Cover::for_client(pool, near, tools, metrics);
        (introduction.is_some() || cover.is_some()).then(|| Box::new(Way { introduction, cover }))
    }

    /// How the last handshake with an endpoint went, if there was one.
    pub(super) fn take_handshake(&mut self) -> Option<Box<Handshake>> {
        self.cover.as_mut()?.handshake.take()
    }
}

/// Connects to `endpoint` as sessions of `pool` do and, where that is how it is spoken to, makes a handshake with it.
///
/// # Errors
/// Why it was not reached, in the time that the pool has for that.
pub(crate) async fn reach(
    pool: &Pool,
    endpoint: &Endpoint,
    way: Option<&mut Way<'_>>,
) -> Result<(Stream, Option<Box<Joined>>), Unreached> {
    let (introduction, mut cover) = way.map_or((None, None), |way| (way.introduction.as_deref(), way.cover.as_mut()));
    cover.iter_mut().for_each(|cover| cover.handshake = None);
    let (asks, tls) = cover.as_ref().map_or((false, None), |cover| (cover.asks(), cover.tls));
    let opened = timeout(pool.timeouts.connect, open(pool, endpoint, introduction, (asks, tls.is_some()))).await;
    let stream = opened.unwrap_or(Err(Unopened::Dial(io::ErrorKind::TimedOut.into()))).map_err(|why| {
        if let (Unopened::Refused(answer), Some(cover)) = (&why, &mut cover) {
            cover.refused(pool, *answer);
        }
        why.unreached()
    })?;
    match (tls, cover) {
        (Some(tls), Some(cover)) => {
            let unset = Unreached { failure: Failure::new(Outcome::Internal, Side::Us), code: NO_HANDSHAKE };
            let joined = cover.join(pool, tls, endpoint.tls.as_ref().ok_or(unset)?, &stream).await?;
            Ok((stream, Some(Box::new(joined))))
        }
        _ => Ok((stream, None)),
    }
}

/// Why there is no connection to an endpoint.
enum Unopened {
    /// It would have to be connected to from an address that the client does not have.
    NoAddress,
    /// Something of our own is missing: a socket, or the address to connect from.
    Own(io::Error),
    /// It cannot be connected to.
    Dial(io::Error),
    /// It did not promise TLS but answered this, or ended.
    Refused(Option<u8>),
}

impl Unopened {
    fn unreached(&self) -> Unreached {
        let (failure, code) = match self {
            Unopened::NoAddress => (Failure::new(Outcome::ConnectFailed, Side::Us), NO_ADDRESS),
            Unopened::Own(error) => {
                (Failure { by: Side::Us, ..blame(error) }, error.raw_os_error().unwrap_or(NO_ADDRESS))
            }
            Unopened::Dial(error) => (blame(error), error.raw_os_error().unwrap_or(libc::ETIMEDOUT)),
            Unopened::Refused(_) => (Failure::new(Outcome::EndpointTlsFailed, Side::Endpoint), NO_HANDSHAKE),
        };
        Unreached { failure, code }
    }
}

/// Connects, with the `introduction` of a client in front of everything else. If it is `asked` to, the endpoint has to promise
/// TLS as servers of PostgreSQL do; whether or not, something of ours may follow at once. Takes as long as that takes.
async fn open(
    pool: &Pool,
    endpoint: &Endpoint,
    introduction: Option<&Introduction>,
    (asked, something_follows): (bool, bool),
) -> Result<Stream, Unopened> {
    let target = &endpoint.target;
    let source = source(pool, target, introduction).ok_or(Unopened::NoAddress)?;
    let (socket, address, family) = dial::prepare(target, source).map_err(Unopened::Own)?;
    let stream = dial::connect(socket, &address, family).await.map_err(Unopened::Dial)?;
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
