//! Listening sockets: made with every option that accepted connections inherit, and dealt out to the workers.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};

use super::inherited::Inherited;
use crate::config::model::{Bind, Listener};
use crate::sys;

/// An idle connection is probed after 60 s, then every 10 s; the third probe without an answer ends it.
pub(crate) fn keepalive() -> TcpKeepalive {
    TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(10)).with_retries(3)
}

/// The sockets of one bind address of one listener.
#[derive(Debug)]
pub(crate) struct Group {
    /// Index of the listener in the configuration.
    pub(crate) listener: usize,
    /// The address as it came out, the port filled in.
    pub(crate) address: Bind,
    /// One a worker where the kernel can spread connections over them, else one in all.
    pub(crate) sockets: Vec<OwnedFd>,
}

/// Why a listener cannot listen.
#[derive(Debug, thiserror::Error)]
#[error("listener {listener:?}: cannot listen on {address}: {error}{}", hint(.error))]
pub struct BindError {
    /// The listener's name.
    pub listener: String,
    /// The address as written.
    pub address: Bind,
    /// What the system said.
    pub error: io::Error,
}

/// Makes the sockets of every bind address, `workers` each where possible. Inherited sockets serve their own address
/// first. All of them listen when this returns.
///
/// # Errors
/// Every address that cannot be had.
pub(crate) fn open_all(
    listeners: &[Listener],
    workers: usize,
    inherited: &mut Inherited,
) -> Result<Vec<Group>, Vec<BindError>> {
    let mut groups = Vec::new();
    let mut errors = Vec::new();
    for (index, listener) in listeners.iter().enumerate() {
        for bind in &listener.bind {
            match open_group(listener, bind, workers, inherited) {
                Ok((address, sockets)) => groups.push(Group { listener: index, address, sockets }),
                Err(error) => {
                    errors.push(BindError { listener: listener.name.clone(), address: bind.clone(), error });
                }
            }
        }
    }
    if errors.is_empty() { Ok(groups) } else { Err(errors) }
}

/// Tries every address of a configuration and lets go of it again.
///
/// # Errors
/// Every address that cannot be had.
pub fn try_all(listeners: &[Listener]) -> Result<(), Vec<BindError>> {
    open_all(listeners, 1, &mut Inherited::none())
        .map(|groups| groups.iter().for_each(|group| remove_file(&group.address)))
}

/// Removes the file of a unix socket, so that clients are refused by its absence.
pub(crate) fn remove_file(address: &Bind) {
    if let Bind::Unix(path) = address {
        let _ = std::fs::remove_file(path);
    }
}

fn open_group(
    listener: &Listener,
    bind: &Bind,
    workers: usize,
    inherited: &mut Inherited,
) -> io::Result<(Bind, Vec<OwnedFd>)> {
    let mut sockets = inherited.take(bind);
    for socket in &sockets {
        prepare(socket, listener)?;
        socket.listen(backlog(listener))?;
    }
    let address = match bind {
        Bind::Tcp(address) => {
            let mut address = *address;
            while sockets.len() < workers {
                match tcp(listener, address) {
                    Ok(socket) => sockets.push(socket),
                    // The inherited ones belong to another user or do not share their port: they serve alone, and the
                    // workers hand connections on.
                    Err(_) if !sockets.is_empty() && inherited.any() => break,
                    Err(error) => return Err(error),
                }
                if let Some(bound) = sockets.first().and_then(|socket| socket.local_addr().ok()?.as_socket()) {
                    address = bound;
                }
            }
            Bind::Tcp(address)
        }
        Bind::Unix(path) => {
            if sockets.is_empty() {
                sockets.push(unix(listener, path)?);
            }
            bind.clone()
        }
    };
    Ok((address, sockets.into_iter().map(OwnedFd::from).collect()))
}

fn tcp(listener: &Listener, address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    // The address of a keepalived pair may be on the other node for now.
    match address.ip() {
        IpAddr::V4(_) => socket.set_freebind_v4(true)?,
        IpAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_freebind_v6(true)?;
        }
    }
    prepare(&socket, listener)?;
    socket.bind(&address.into())?;
    socket.listen(backlog(listener))?;
    Ok(socket)
}

/// The options that accepted connections inherit.
fn prepare(socket: &Socket, listener: &Listener) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    if socket.domain()? == Domain::UNIX {
        return Ok(());
    }
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&keepalive())?;
    if listener.defer_accept {
        sys::set_defer_accept(socket.as_fd(), 1)?;
    }
    Ok(())
}

fn unix(listener: &Listener, path: &Path) -> io::Result<Socket> {
    let address = SockAddr::unix(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    match socket.bind(&address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_abandoned(path, &address) => {
            std::fs::remove_file(path)?;
            socket.bind(&address)?;
        }
        other => other?,
    }
    socket.listen(backlog(listener))?;
    Ok(socket)
}

/// A socket file that nobody listens on any more.
fn is_abandoned(path: &Path, address: &SockAddr) -> bool {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    let refused = || -> io::Result<()> { Socket::new(Domain::UNIX, Type::STREAM, None)?.connect(address) };
    is_socket && refused().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

fn backlog(listener: &Listener) -> i32 {
    i32::try_from(listener.backlog).unwrap_or(i32::MAX)
}

/// The longest queue the kernel grants (net.core.somaxconn); `None` where it cannot be read.
pub(crate) fn longest_backlog() -> Option<u32> {
    std::fs::read_to_string("/proc/sys/net/core/somaxconn").ok()?.trim().parse().ok()
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => " (another process listens there)",
        io::ErrorKind::PermissionDenied => " (ports below 1024 need CAP_NET_BIND_SERVICE)",
        _ => "",
    }
}
