//! System calls that no safe crate offers. The only file with `unsafe`; each block says why it is sound.
//!
//! Nothing here decides anything.

#![allow(unsafe_code)]

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use socket2::SockAddr;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What the kernel knows of a TCP connection's health (tcp(7), TCP_INFO).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Health {
    /// Retransmission timeouts in a row without an acknowledgement.
    pub(crate) retransmits: u8,
    /// Keepalive or zero-window probes in a row without an answer.
    pub(crate) probes: u8,
    /// Since the peer last acknowledged anything.
    pub(crate) last_ack: Duration,
    /// The connection is gone (TCP_CLOSE), though nobody has read the error yet.
    pub(crate) closed: bool,
}

/// Reads TCP_INFO.
///
/// # Errors
/// Those of getsockopt(2); EOPNOTSUPP where the socket is not TCP.
pub(crate) fn tcp_health(socket: BorrowedFd<'_>) -> io::Result<Health> {
    let info = tcp_info(socket)?;
    Ok(Health {
        retransmits: info.tcpi_retransmits,
        probes: info.tcpi_probes,
        last_ack: Duration::from_millis(info.tcpi_last_ack_recv.into()),
        closed: info.tcpi_state == TCP_CLOSE,
    })
}

/// Bytes that were sent and that the peer has not acknowledged, also once the connection is gone; `None` where the kernel does
/// not say (before 4.19).
pub(crate) fn unacknowledged(socket: BorrowedFd<'_>) -> Option<u64> {
    let info = tcp_info(socket).ok().filter(|info| info.tcpi_bytes_sent > 0)?;
    // An acknowledged FIN counts as a byte there, but not among those sent.
    Some(info.tcpi_bytes_sent.saturating_sub(info.tcpi_bytes_retrans).saturating_sub(info.tcpi_bytes_acked))
}

/// `TCP_CLOSE` of linux/tcp_states.h.
const TCP_CLOSE: u8 = 7;

/// Accepts a connection only once the client has sent something, or after `seconds` (rounded up by the kernel to 1,
/// 3, 7, ...).
///
/// # Errors
/// Those of setsockopt(2).
pub(crate) fn set_defer_accept(socket: BorrowedFd<'_>, seconds: libc::c_int) -> io::Result<()> {
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, seconds)
}

/// Lets bind(2) to an address leave the choice of the port to connect(2), so that ports are shared between
/// destinations (ip(7)).
///
/// # Errors
/// Those of setsockopt(2).
pub(crate) fn set_bind_address_no_port(socket: BorrowedFd<'_>) -> io::Result<()> {
    set_option(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)
}

/// Lets bind(2) take an address that this machine does not have (IP_TRANSPARENT, ip(7)), of this family.
///
/// # Errors
/// EPERM without CAP_NET_ADMIN or CAP_NET_RAW.
pub(crate) fn set_transparent(socket: BorrowedFd<'_>, is_ipv4: bool) -> io::Result<()> {
    match is_ipv4 {
        true => set_option(socket, libc::IPPROTO_IP, libc::IP_TRANSPARENT, 1),
        false => set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_TRANSPARENT, 1),
    }
}

/// Bytes in the send queue that the peer has not acknowledged (SIOCOUTQ, tcp(7)).
///
/// # Errors
/// Those of ioctl(2).
pub(crate) fn unsent(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: SIOCOUTQ (= TIOCOUTQ) writes one int through the pointer, which is valid for the whole call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(usize::try_from(bytes).unwrap_or(0)) }
}

/// Registers a socket with the reactor of the current runtime, for reading, writing and urgent data.
///
/// # Errors
/// Those of epoll_ctl(2).
pub(crate) fn register(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    let interest = Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY;
    // SAFETY: an OwnedFd always gives the same descriptor, which stays open for as long as the AsyncFd owns it.
    Ok(unsafe { AsyncFd::register_with_interest(socket, interest) }?)
}

/// Takes over the descriptors that the service manager passed to this process (sd_listen_fds(3)). Only the first call
/// gets any.
///
/// # Errors
/// LISTEN_FDS or LISTEN_PID cannot be understood.
pub(crate) fn passed_descriptors() -> io::Result<Vec<OwnedFd>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    // SAFETY: the service manager passed these descriptors to this process alone, and they are taken once, so that
    // nothing else owns them.
    Ok(sd_notify::listen_fds()?.map(|descriptor| unsafe { OwnedFd::from_raw_fd(descriptor) }).collect())
}

/// Where the socket of this number is, whosever it is and whether or not there is one.
pub(crate) fn local_address(socket: RawFd) -> Option<SocketAddr> {
    // SAFETY: the kernel writes at most `length` bytes into the storage, and as many as it says then. It only tells the name of
    // what the number stands for at the moment, if that is a socket.
    let named = unsafe {
        SockAddr::try_init(|storage, length| match libc::getsockname(socket, storage.cast(), length) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        })
    };
    named.ok()?.1.as_socket()
}

/// Gives free memory of all of the allocator's arenas back to the system, wherever it lies (malloc_trim(3)). Takes
/// milliseconds for tens of megabytes, during which threads may wait to allocate.
pub(crate) fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it touches only what the allocator owns and has no preconditions.
    unsafe {
        libc::malloc_trim(0);
    }
}

fn set_option(socket: BorrowedFd<'_>, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel reads `length` bytes from a live int.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), length) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn tcp_info(socket: BorrowedFd<'_>) -> io::Result<libc::tcp_info> {
    let mut value = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into the buffer of that size.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            value.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: tcp_info is plain integers; all-zero bytes are valid, and the kernel filled in the rest.
    Ok(unsafe { value.assume_init() })
}
