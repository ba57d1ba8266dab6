//! Dial: from an address to a connected socket, and from where.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::time::sleep;

use crate::observe::outcome::{Outcome, Side};
use crate::pool::Target;
use crate::session::Failure;
use crate::stream::{Family, Stream};
use crate::sys;

/// Pause before a unix socket whose queue is full is tried again.
const QUEUE_FULL: Duration = Duration::from_millis(5);

/// One attempt to connect, without a limit of time.
///
/// # Errors
/// Those of socket(2), bind(2) and connect(2).
pub(crate) async fn dial(target: &Target, source: Source) -> io::Result<Stream> {
    let (socket, address, family) = prepare(target, source)?;
    connect(socket, &address, family).await
}

/// What it takes of ours to connect.
///
/// # Errors
/// Those of socket(2) and bind(2).
pub(super) fn prepare(target: &Target, source: Source) -> io::Result<(Socket, SockAddr, Family)> {
    let (address, family) = match target {
        Target::Ip(address) => (SockAddr::from(*address), Family::Tcp),
        Target::Unix(path) => (SockAddr::unix(path)?, Family::Unix),
    };
    Ok((socket(&address, source)?, address, family))
}

/// Connects what was prepared.
///
/// # Errors
/// Those of connect(2).
pub(super) async fn connect(socket: Socket, address: &SockAddr, family: Family) -> io::Result<Stream> {
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

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// From where the kernel chooses.
    Any,
    /// From an address of this machine.
    Own(IpAddr),
    /// From the address of a client, which this machine does not have.
    Client(IpAddr),
}

impl Source {
    /// From this address of the machine, if there is one.
    pub(crate) fn own(address: Option<IpAddr>) -> Source {
        address.map_or(Source::Any, Source::Own)
    }

    /// The address to bind to.
    pub(crate) fn address(self) -> Option<SocketAddr> {
        match self {
            Source::Any => None,
            Source::Own(address) | Source::Client(address) => Some(SocketAddr::new(address, 0)),
        }
    }
}
