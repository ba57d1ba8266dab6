//! Listening sockets: made with every option that accepted connections inherit, and dealt out to the workers.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};

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
    /// The file of a unix socket that was made here.
    pub(crate) file: Option<SocketFile>,
    backlog: i32,
}

/// Why a listener cannot listen.
#[derive(Debug, thiserror::Error)]
#[error("listener.{listener}.bind: cannot listen on {address}: {error}{}", hint(.address, .error))]
pub struct BindError {
    /// The listener's name.
    pub listener: String,
    /// The address as written.
    pub address: Bind,
    /// What the system said.
    pub error: io::Error,
}

/// Takes every address, with one socket for each worker where possible, without listening yet: until [`Group::listen`]
/// no client can be lost if something else fails. Inherited sockets, which do listen, serve their own address.
///
/// # Errors
/// Every address that cannot be had, one that any other socket listens on included.
pub(crate) fn bind_all(
    listeners: &[Listener],
    workers: usize,
    inherited: &mut Inherited,
) -> Result<Vec<Group>, Vec<BindError>> {
    let mut groups = Vec::new();
    let mut errors = Vec::new();
    for (index, listener) in listeners.iter().enumerate() {
        for bind in &listener.bind {
            match bind_group(index, listener, bind, workers, inherited) {
                Ok(group) => groups.push(group),
                Err(error) => {
                    errors.push(BindError { listener: listener.name.clone(), address: bind.clone(), error });
                }
            }
        }
    }
    if errors.is_empty() { Ok(groups) } else { Err(errors) }
}

/// Tries every address of a configuration and lets go of it again. Never listens, so that no client notices.
///
/// # Errors
/// Every address that cannot be had.
pub(crate) fn try_all(listeners: &[Listener]) -> Result<(), Vec<BindError>> {
    bind_all(listeners, 1, &mut Inherited::none()).map(drop)
}

impl Group {
    /// Starts listening.
    ///
    /// # Errors
    /// Those of listen(2).
    pub(crate) fn listen(&self) -> io::Result<()> {
        self.sockets.iter().try_for_each(|socket| SockRef::from(socket).listen(self.backlog))
    }
}

/// The file of a unix socket; removed by Drop, unless another process has put its own in its place.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    /// Of a socket that was bound just now.
    pub(crate) fn at(path: &Path) -> io::Result<SocketFile> {
        let file = std::fs::symlink_metadata(path)?;
        Ok(SocketFile { path: path.to_owned(), device: file.dev(), inode: file.ino() })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = |file: std::fs::Metadata| (file.dev(), file.ino()) == (self.device, self.inode);
        if std::fs::symlink_metadata(&self.path).is_ok_and(is_ours) {
            // What cannot be removed is found abandoned at the next start.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn bind_group(
    index: usize,
    listener: &Listener,
    bind: &Bind,
    workers: usize,
    inherited: &mut Inherited,
) -> io::Result<Group> {
    let mut sockets = inherited.take(bind);
    sockets.iter().try_for_each(|socket| prepare(socket, listener))?;
    let joining = !sockets.is_empty();
    let (mut address, mut file) = (bind.clone(), None);
    match bind {
        Bind::Tcp(written) => {
            let mut at = *written;
            if !joining {
                claim(listener, at)?;
            }
            while sockets.len() < workers {
                match tcp(listener, at) {
                    Ok(socket) => sockets.push(socket),
                    // The inherited ones belong to another user or do not share their port: they serve alone, and the
                    // workers hand connections on.
                    Err(_) if joining => break,
                    Err(error) => return Err(error),
                }
                at = sockets.first().and_then(|socket| socket.local_addr().ok()?.as_socket()).unwrap_or(at);
            }
            address = Bind::Tcp(at);
        }
        Bind::Unix(path) if !joining => {
            sockets.push(unix(path)?);
            file = Some(SocketFile::at(path)?);
        }
        Bind::Unix(_) => {}
    }
    let sockets = sockets.into_iter().map(OwnedFd::from).collect();
    Ok(Group { listener: index, address, sockets, file, backlog: i32::try_from(listener.backlog).unwrap_or(i32::MAX) })
}

/// Makes sure that nobody else listens on `address`: sockets that share a port would go unnoticed beside those of a
/// process that was forgotten, and take half of its clients. Warns where the address is not this machine's.
fn claim(listener: &Listener, address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.cloexec(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    match socket.bind(&address.into()) {
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
            tracing::warn!(
                listener = listener.name,
                %address,
                "not an address of this machine now: no client comes until it is"
            );
            Ok(())
        }
        other => other,
    }
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

/// A unix socket bound to `path`, which an abandoned one may have left behind.
pub(crate) fn unix(path: &Path) -> io::Result<Socket> {
    let address = SockAddr::unix(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    match socket.bind(&address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_abandoned(path, &address) => {
            std::fs::remove_file(path)?;
            socket.bind(&address)?;
        }
        other => other?,
    }
    Ok(socket)
}

/// A socket file that nobody listens on any more: neither by the kernel's list nor, as that only has sockets of this
/// network namespace, when asked.
fn is_abandoned(path: &Path, address: &SockAddr) -> bool {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    let is_listed = || {
        let list = std::fs::read("/proc/net/unix").unwrap_or_default();
        list.split(|byte| *byte == b'\n').any(|line| line.ends_with(path.as_os_str().as_bytes()))
    };
    let refused =
        || -> io::Result<()> { Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?.connect(address) };
    is_socket && !is_listed() && refused().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// The longest queue the kernel grants (net.core.somaxconn); `None` where it cannot be read.
pub(crate) fn longest_backlog() -> Option<u32> {
    std::fs::read_to_string("/proc/sys/net/core/somaxconn").ok()?.trim().parse().ok()
}

fn hint(address: &Bind, error: &io::Error) -> &'static str {
    match (error.kind(), address) {
        (io::ErrorKind::AddrInUse, Bind::Tcp(_)) => " (another socket listens there)",
        (io::ErrorKind::AddrInUse, Bind::Unix(_)) => " (the path is taken: by a socket in use, or by another file)",
        (io::ErrorKind::PermissionDenied, Bind::Tcp(_)) => " (ports below 1024 need CAP_NET_BIND_SERVICE)",
        _ => "",
    }
}
