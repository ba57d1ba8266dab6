//! Listening sockets passed by the service manager (sd_listen_fds(3)): each serves the bind address it is bound to.

use std::os::fd::OwnedFd;

use socket2::Socket;

use crate::config::model::Bind;
use crate::sys;

/// Sockets inherited and not yet claimed by a bind address.
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    sockets: Vec<(Bind, Socket)>,
    any: bool,
}

impl Inherited {
    /// Nothing was inherited.
    pub(crate) fn none() -> Inherited {
        Inherited::default()
    }

    /// Whether anything was.
    pub(crate) fn any(&self) -> bool {
        self.any
    }

    /// Takes the sockets bound to `bind`.
    pub(crate) fn take(&mut self, bind: &Bind) -> Vec<Socket> {
        let (mine, rest) = std::mem::take(&mut self.sockets).into_iter().partition(|(address, _)| address == bind);
        self.sockets = rest;
        mine.into_iter().map(|(_, socket): (Bind, Socket)| socket).collect()
    }

    /// The addresses that nothing has claimed; their sockets are closed.
    pub(crate) fn unclaimed(self) -> Vec<Bind> {
        self.sockets.into_iter().map(|(address, _)| address).collect()
    }
}

impl FromIterator<OwnedFd> for Inherited {
    /// Keeps those that are stream sockets with an address.
    fn from_iter<I: IntoIterator<Item = OwnedFd>>(sockets: I) -> Inherited {
        let named = |socket: OwnedFd| {
            let socket = Socket::from(socket);
            Some((bind_of(&socket)?, socket))
        };
        let sockets: Vec<_> = sockets.into_iter().filter_map(named).collect();
        Inherited { any: !sockets.is_empty(), sockets }
    }
}

fn bind_of(socket: &Socket) -> Option<Bind> {
    let address = socket.local_addr().ok()?;
    match address.as_socket() {
        Some(address) => Some(Bind::Tcp(address)),
        None => Some(Bind::Unix(address.as_pathname()?.to_owned())),
    }
}

/// Takes over the descriptors that the service manager passed to this process. To be called once, early.
pub(crate) fn from_service_manager() -> Inherited {
    let Ok(descriptors) = sd_notify::listen_fds() else { return Inherited::none() };
    descriptors.map(sys::claim).collect()
}
