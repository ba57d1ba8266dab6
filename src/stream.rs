//! A connected, non-blocking stream socket, TCP or unix, registered with its worker's reactor.
//!
//! Reads wait for readiness first; writes try first and wait only when refused: a fresh event would tell nothing that
//! the call does not. Every method leaves the reactor's idea of readiness true, so that no edge is ever lost.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendFlags, Shutdown};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::sleep;

use crate::listen::sockets::keepalive;
use crate::sys;

/// Pause between two looks at whether a peer that has ended what it sends is gone altogether.
const LOOK: Duration = Duration::from_millis(500);

/// A connected stream socket.
#[derive(Debug)]
pub(crate) struct Stream {
    io: AsyncFd<OwnedFd>,
    family: Family,
}

/// What kind of socket a stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Tcp,
    Unix,
}

impl Stream {
    /// Registers a connected (or connecting) non-blocking socket with this worker.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub(crate) fn new(socket: OwnedFd, family: Family) -> io::Result<Stream> {
        Ok(Stream { io: sys::register(socket)?, family })
    }

    /// Whether it is a unix socket.
    pub(crate) fn is_unix(&self) -> bool {
        self.family == Family::Unix
    }

    /// Receives what is there, at most `buffer.len()` bytes; 0 is the end of the stream.
    pub(crate) fn poll_recv(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.io.poll_read_ready(cx))?;
            match rustix::net::recv(&self.io, &mut *buffer, RecvFlags::empty()) {
                // A read that did not fill the buffer has emptied the socket: what comes next raises a new edge. An
                // end of stream that the reactor already knows of survives the clearing. Where urgent data was seen,
                // a read may also have stopped at its mark (tcp(7)), and that of a unix socket behind a message with
                // descriptors (unix(7)): there only EAGAIN tells.
                Ok((_, received)) => {
                    if received > 0 && received < buffer.len() && self.short_reads_tell() {
                        ready.clear_ready();
                    }
                    return Poll::Ready(Ok(received));
                }
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// Runs a splice(2) from the socket until it does not say EAGAIN. 0 only says that nothing was moved: the stream
    /// has ended, or splice has stopped before urgent data. A plain read tells which.
    pub(crate) fn poll_splice(
        &self,
        cx: &mut Context<'_>,
        mut call: impl FnMut(BorrowedFd<'_>) -> rustix::io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.io.poll_read_ready(cx))?;
            match call(self.as_fd()) {
                Ok(moved) => return Poll::Ready(Ok(moved)),
                Err(rustix::io::Errno::AGAIN) if self.has_seen_urgent_data() => return Poll::Ready(Ok(0)),
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// Receives what is there without waiting, and without asking the reactor, which does not know a new socket yet;
    /// `None` if nothing is.
    pub(crate) fn try_recv(&self, buffer: &mut [u8]) -> Option<io::Result<usize>> {
        match rustix::net::recv(&self.io, buffer, RecvFlags::empty()) {
            Ok((_, received)) => Some(Ok(received)),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => None,
            Err(error) => Some(Err(error.into())),
        }
    }

    /// Sends as much of `bytes` as the socket takes at once.
    pub(crate) fn poll_send(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write(cx, |socket| rustix::net::send(socket, bytes, SendFlags::NOSIGNAL))
    }

    /// Sends what may wait a fifth of a second for what is sent next, or for the end, to leave in one segment with it
    /// (MSG_MORE, send(2)).
    pub(crate) fn poll_send_ahead(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write(cx, |socket| rustix::net::send(socket, bytes, SendFlags::NOSIGNAL | SendFlags::MORE))
    }

    /// Runs a call that writes to the socket until it does not say EAGAIN.
    pub(crate) fn poll_write<T>(
        &self,
        cx: &mut Context<'_>,
        mut call: impl FnMut(BorrowedFd<'_>) -> rustix::io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            match call(self.as_fd()) {
                Ok(done) => return Poll::Ready(Ok(done)),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    // The reactor has not run since the call, so any readiness it holds is older than the refusal.
                    if let Poll::Ready(stale) = self.io.poll_write_ready(cx) {
                        stale?.clear_ready();
                        ready!(self.io.poll_write_ready(cx))?.retain_ready();
                    } else {
                        return Poll::Pending;
                    }
                }
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// Whether a read that does not fill its buffer has emptied the socket.
    fn short_reads_tell(&self) -> bool {
        self.family == Family::Tcp && !self.has_seen_urgent_data()
    }

    /// Urgent data has come at some time, or the peer has ended: the reactor forgets neither.
    fn has_seen_urgent_data(&self) -> bool {
        self.io.try_io(Interest::PRIORITY, |_| Ok(())).is_ok()
    }

    /// Has the kernel probe the peer while nothing moves. Accepted connections inherit it from their listener.
    pub(crate) fn keep_alive(&self) {
        // A unix socket has no such thing, and no network that could be cut.
        let _ = SockRef::from(self).set_tcp_keepalive(&keepalive());
    }

    /// The same, so that a peer that is gone is known to be so within five seconds.
    pub(crate) fn keep_alive_closely(&self) {
        let second = Duration::from_secs(1);
        let closely = TcpKeepalive::new().with_time(2 * second).with_interval(second).with_retries(3);
        let _ = SockRef::from(self).set_tcp_keepalive(&closely);
    }

    /// Waits until a connect(2) in progress has come to its end.
    ///
    /// # Errors
    /// The error of the connect.
    pub(crate) async fn connected(&self) -> io::Result<()> {
        let failed = self.io.writable().await?.ready().is_write_closed();
        if failed { self.take_error().map_or(Ok(()), Err) } else { Ok(()) }
    }

    /// Waits until the peer has gone: it has reset or fully closed the connection, or, with `half`, only ended what it
    /// sends. Nothing is read.
    pub(crate) async fn gone(&self, half: bool) {
        loop {
            // The reactor tells of an end of what is sent even where bytes before it have not been read.
            let Ok(ready) = self.io.ready(Interest::PRIORITY).await else { return };
            if half && ready.ready().is_read_closed() {
                return;
            }
            // The end of both directions raises no event of its own that could be waited for beside what is there.
            drop(ready);
            if self.is_over() {
                return;
            }
            sleep(LOOK).await;
        }
    }

    /// Whether the connection is over in both directions, by a reset or by the ends of both sides.
    pub(crate) fn is_over(&self) -> bool {
        let mut looked_at = [PollFd::new(self, PollFlags::empty())];
        let polled = poll(&mut looked_at, Some(&Timespec::default()));
        polled.is_err() || looked_at.iter().any(|found| found.revents().contains(PollFlags::HUP))
    }

    /// The error that the socket has for whoever asks first (SO_ERROR, socket(7)); reads and writes after it show a
    /// plain end.
    pub(crate) fn take_error(&self) -> Option<io::Error> {
        match rustix::net::sockopt::socket_error(self) {
            Ok(Ok(())) => None,
            Ok(Err(error)) | Err(error) => Some(error.into()),
        }
    }

    /// Where this end is; `None` behind a unix socket.
    pub(crate) fn local_address(&self) -> Option<SocketAddr> {
        SocketAddr::try_from(rustix::net::getsockname(self).ok()?).ok()
    }

    /// Tells the peer that nothing more will come.
    ///
    /// # Errors
    /// ENOTCONN where the peer has reset the connection.
    pub(crate) fn shutdown_write(&self) -> io::Result<()> {
        Ok(rustix::net::shutdown(self, Shutdown::Write)?)
    }

    /// Closes the connection with a reset: the peer sees an error, never a clean end.
    pub(crate) fn reset(self) {
        // Without the option the close is a plain one, which is all that is left to do for a socket that refuses it.
        let _ = rustix::net::sockopt::set_socket_linger(&self, Some(Duration::ZERO));
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.io.get_ref().as_fd()
    }
}
