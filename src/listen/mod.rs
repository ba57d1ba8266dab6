//! Listening: sockets, the accept loops on them, and who is let in.
//!
//! Nothing here reads a byte of a client; an accepted socket is handed on raw, so that any worker can take it.

pub(crate) mod accept;
pub(crate) mod admission;
pub(crate) mod inherited;
pub(crate) mod senders;
pub mod sockets;

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Instant, SystemTime};

use self::admission::Permit;
use crate::supervise::shared::Seat;

/// A connection that was accepted and admitted, on its way to the worker that will serve it.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) socket: OwnedFd,
    /// `None` behind a unix socket.
    pub(crate) client: Option<SocketAddr>,
    /// Index of the listener.
    pub(crate) listener: usize,
    pub(crate) at: Instant,
    pub(crate) start: SystemTime,
    pub(crate) permit: Permit,
    /// Its place among the sessions of the worker that serves it.
    pub(crate) seat: Seat,
}
