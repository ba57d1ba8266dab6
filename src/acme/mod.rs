//! Certificates that are obtained and renewed by themselves (RFC 8555): accounts, orders, challenges, and what is kept.
//!
//! [`keep`] is the task of an account on the control runtime. It looks at what [`storage`] has, goes by the pure rules
//! of [`schedule`], and where something is due makes an [`order`] under a [`lock`]. [`challenges`] is what sessions and
//! [`http`] answer authorities with. The certificates are files that routes watch like all others: nothing here touches
//! a handshake. Files are read and written on threads that may block, and no worker ever waits for an authority.

mod account;
mod bundle;
pub(crate) mod challenges;
pub(crate) mod eab_key;
mod http;
mod keep;
mod lock;
mod order;
mod schedule;
pub(crate) mod storage;
#[cfg(test)]
mod tests;
mod transport;
mod trouble;

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;

use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use zeroize::Zeroizing;

use self::challenges::Challenges;
use self::keep::Keeper;
use self::trouble::Trouble;
use crate::admin::pages::Pages;
use crate::config::model::{Acme, Challenge, Config};
use crate::observe::metrics::Metrics;
use crate::wire::name::Name;

/// Connections to a directory, with what looking up its name takes, and files.
const PER_ACCOUNT: u64 = 8;
/// Threads that may block, for each account.
const THREADS: usize = 2;
/// Clients of the pages for authorities that may wait to be accepted.
const BACKLOG: i32 = 128;

/// What is to be done for all accounts.
pub(crate) struct Accounts {
    accounts: Vec<(Acme, Vec<Name>)>,
    /// Where challenges are answered over HTTP.
    listeners: Vec<TcpListener>,
}

/// What all parts of an account's work share.
struct Desk {
    account: Acme,
    challenges: Arc<Challenges>,
    /// Removes files, also when work is broken off.
    cleanup: TaskTracker,
}

impl Accounts {
    /// Those of a configuration; listens where challenges are answered over HTTP.
    ///
    /// # Errors
    /// The first address that cannot be listened on, unless it is of the default and the system has no such addresses.
    pub(crate) fn listening(config: &Config) -> Result<Accounts, (SocketAddr, io::Error)> {
        let accounts = config.acme.iter().enumerate();
        let accounts = accounts.map(|(index, account)| (account.clone(), config.acme_names(index))).collect();
        let mut listeners = Vec::new();
        for (address, by_default) in addresses(config) {
            match listen(address) {
                Ok(listener) => listeners.push(listener),
                Err(error) if by_default && has_no_family(&error) => {
                    tracing::warn!("challenges over HTTP are not answered at {address}: {error}");
                }
                Err(error) => return Err((address, error)),
            }
        }
        Ok(Accounts { accounts, listeners })
    }

    /// Threads that may block and are needed for it.
    pub(crate) fn threads(&self) -> usize {
        THREADS * self.accounts.len() + if self.accounts.is_empty() { 0 } else { challenges::LOOKS }
    }

    /// Starts a task for each account and each address, which end soon after `stop`.
    #[expect(clippy::disallowed_methods, reason = "these are tasks of the control runtime, which waits for them")]
    pub(crate) fn start(
        self,
        challenges: &Arc<Challenges>,
        metrics: &Arc<Metrics>,
        pages: &Arc<Pages>,
        stop: &CancellationToken,
    ) -> Vec<JoinHandle<()>> {
        let mut tasks = Vec::new();
        for listener in self.listeners {
            match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => {
                    tasks.push(tokio::spawn(http::serve(listener, Arc::clone(challenges), stop.clone())));
                }
                Err(error) => tracing::error!("challenges over HTTP cannot be answered: {error}"),
            }
        }
        for (account, names) in self.accounts {
            let keeper = Keeper {
                counts: metrics.acme(&account.name),
                metrics: Arc::clone(metrics),
                desk: Desk { account, challenges: Arc::clone(challenges), cleanup: TaskTracker::new() },
                names,
                pages: Arc::clone(pages),
                dice: fastrand::Rng::new(),
                way: None,
                account: None,
                closed: (0, None),
            };
            tasks.push(tokio::spawn(keeper.keep(stop.clone())));
        }
        tasks
    }
}

/// Descriptors that accounts take.
pub(crate) fn descriptors(config: &Config) -> u64 {
    let listeners = addresses(config).len() as u64;
    config.acme.len() as u64 * PER_ACCOUNT + listeners * (1 + http::CONNECTIONS as u64)
}

/// Where challenges are answered over HTTP, each address once, as accounts share them; and whether nobody has written it.
fn addresses(config: &Config) -> BTreeMap<SocketAddr, bool> {
    let mut addresses = BTreeMap::new();
    for account in &config.acme {
        if let Challenge::Http01 { bind, by_default } = &account.challenge {
            for address in bind {
                *addresses.entry(*address).or_insert(true) &= by_default;
            }
        }
    }
    addresses
}

/// Whether an address cannot be had because the system knows none of its family, as where IPv6 is off.
fn has_no_family(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL))
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

impl Desk {
    /// Writes a file of the storage.
    async fn write(&self, path: PathBuf, content: Zeroizing<Vec<u8>>) -> Result<(), Trouble> {
        let written = {
            let path = path.clone();
            blocking(move || storage::write(&path, &content)).await?
        };
        written.map_err(|error| Trouble::Storage(path, error))
    }
}

/// What `work` gives, done on a thread that may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Trouble> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Trouble::Panicked)
}
