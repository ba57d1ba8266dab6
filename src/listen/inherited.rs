//! Listening sockets passed by the service manager (sd_listen_fds(3)): each serves the bind address it is bound to.

use std::io;
use std::os::fd::OwnedFd;

use socket2::{Socket, Type};

use crate::config::model::Bind;
use crate::sys;

/// Sockets inherited and not yet claimed by a bind address.
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    sockets: Vec<(Bind, Socket)>,
}

impl Inherited {
    /// Nothing was inherited.
    pub(crate) fn none() -> Inherited {
        Inherited::default()
    }

    /// What the service manager passed to this process. Only the first call gets anything.
    pub(crate) fn from_service_manager() -> Inherited {
        let passed = sys::passed_descriptors().unwrap_or_else(|error| {
            tracing::warn!("LISTEN_FDS cannot be understood and is ignored: {error}");
            Vec::new()
        });
        let usable = |socket: OwnedFd| match address_of(Socket::from(socket)) {
            Ok(socket) => Some(socket),
            Err(why) => {
                tracing::warn!("an inherited descriptor was closed: {why}");
                None
            }
        };
        Inherited { sockets: passed.into_iter().filter_map(usable).collect() }
    }

    /// Takes the sockets bound to `bind`.
    pub(crate) fn take(&mut self, bind: &Bind) -> Vec<Socket> {
        self.sockets.extract_if(.., |(address, _)| address == bind).map(|(_, socket)| socket).collect()
    }

    /// The addresses that nothing has claimed; their sockets are closed.
    pub(crate) fn unclaimed(self) -> Vec<Bind> {
        self.sockets.into_iter().map(|(address, _)| address).collect()
    }
}

/// Where a socket listens, if it is one to be served.
fn address_of(socket: Socket) -> io::Result<(Bind, Socket)> {
    if socket.r#type()? != Type::STREAM {
        return Err(io::Error::other("it is no stream socket"));
    }
    let address = socket.local_addr()?;
    let bind = match (address.as_socket(), address.as_pathname()) {
        (Some(address), _) => Bind::Tcp(address),
        (None, Some(path)) => Bind::Unix(path.to_owned()),
        (None, None) => return Err(io::Error::other("it has no address")),
    };
    if address.is_ipv6() && !socket.only_v6()? {
        tracing::warn!(address = %bind, "an inherited socket takes IPv4 connections as well");
    }
    Ok((bind, socket))
}
