//! Who stands behind a connection that a server sees: the session whose connection to its endpoint comes from an address.
//!
//! Sessions do nothing for it but keep the number of their socket. Where sockets of ours are is asked of the kernel when
//! somebody wants to know: of all of them, on a thread that may take its time, and then workers only compare numbers.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::RawFd;

use super::answer::session_status;
use super::command::{SessionStatus, Sessions};
use crate::supervise::shared::Shared;
use crate::sys;

/// What a server sees of whoever is connected to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// `None`: any.
    pub(super) address: Option<IpAddr>,
    pub(super) port: u16,
}

impl Seen {
    fn is(self, at: SocketAddr) -> bool {
        let same = |address: IpAddr| address.to_canonical() == at.ip().to_canonical();
        self.port == at.port() && self.address.is_none_or(same)
    }

    /// Where the socket of this number is, if that was seen.
    fn socket(self, number: RawFd) -> Option<SocketAddr> {
        sys::local_address(number).filter(|at| self.is(*at))
    }
}

/// The sessions whose connection to their endpoint comes from there.
///
/// # Errors
/// There is none, or it cannot be found out.
pub(super) async fn who(shared: &Shared, seen: Seen) -> Result<Sessions, String> {
    let sockets = tokio::task::spawn_blocking(move || sockets(seen)).await;
    let sockets = sockets.map_err(|error| error.to_string())?.map_err(|error| format!("/proc/self/fd: {error}"))?;
    let found = shared.ask_all(move |worker| {
        worker.table.find(worker.tools.clock.now(), |entry| {
            // Meanwhile the number may have become that of another socket.
            let socket = entry.socket().filter(|socket| sockets.binary_search(socket).is_ok())?;
            seen.socket(socket)
        })
    });
    let mut found: Vec<_> = found.await?.into_iter().flatten().collect();
    found.sort_by_key(|(told, _)| told.identity.id);
    if found.is_empty() {
        let at =
            seen.address.map_or_else(|| format!("port {}", seen.port), |at| SocketAddr::new(at, seen.port).to_string());
        return Err(format!("no session is connected to its endpoint from {at}"));
    }
    let status = |(told, source): &(_, SocketAddr)| SessionStatus {
        source: Some(source.to_string()),
        ..session_status(shared, told)
    };
    Ok(Sessions { sessions: found.iter().map(status).collect(), total: found.len() })
}

/// Numbers of the sockets of this process that are there, in order.
fn sockets(seen: Seen) -> std::io::Result<Vec<RawFd>> {
    let mut sockets = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let number = entry?.file_name().to_str().and_then(|name| name.parse().ok());
        sockets.extend(number.filter(|number| seen.socket(*number).is_some()));
    }
    sockets.sort_unstable();
    Ok(sockets)
}
