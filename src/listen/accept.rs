//! The accept loop: one a listening socket. It never ends on an error and never spins on one.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use rustix::io::Errno;
use rustix::net::SocketFlags;
use tokio::io::unix::AsyncFd;
use tokio_util::sync::CancellationToken;

use super::Accepted;
use super::admission::Permit;
use crate::observe::outcome::{Outcome, Side};
use crate::observe::record::Record;
use crate::supervise::worker::Worker;
use crate::sys;

/// Connections taken in one turn before other tasks run.
const TURN: usize = 32;
/// Pause after an error that only time can mend.
const BACK_OFF: Duration = Duration::from_millis(50);
/// The least time between two messages about the same socket.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// A descriptor kept in reserve: with it, a client can be accepted and sent away when there are no others.
#[derive(Debug)]
pub(crate) struct Spare(RefCell<Option<File>>);

impl Spare {
    /// Takes one descriptor.
    pub(crate) fn new() -> Spare {
        Spare(RefCell::new(reserve()))
    }

    /// Gives the descriptor up for as long as `act` runs.
    fn lend<T>(&self, act: impl FnOnce() -> T) -> T {
        self.0.borrow_mut().take();
        let done = act();
        *self.0.borrow_mut() = reserve();
        done
    }
}

fn reserve() -> Option<File> {
    File::open("/dev/null").ok()
}

/// Accepts on one socket until `stop`; then takes what is still queued and closes the socket.
pub(crate) async fn run(worker: Rc<Worker>, socket: OwnedFd, listener: usize, stop: CancellationToken) {
    let socket = match sys::register(socket) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!(listener = &*worker.door(listener).name, "cannot wait for connections: {error}");
            return;
        }
    };
    let mut last_complaint = None;
    while let Some(Ok(mut ready)) = stop.run_until_cancelled(socket.readable()).await {
        match take_some(&worker, &socket, listener) {
            Ok(Queue::Empty) => ready.clear_ready(),
            Ok(Queue::More) => tokio::task::yield_now().await,
            Err(error) => {
                worker.metrics.accept_errors.increment(1);
                complain(&worker.door(listener).name, &error, &mut last_complaint);
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }
    while let Ok(Queue::More) = take_some(&worker, &socket, listener) {}
}

/// What a turn left behind.
enum Queue {
    Empty,
    More,
}

/// Takes up to [`TURN`] connections.
fn take_some(worker: &Rc<Worker>, socket: &AsyncFd<OwnedFd>, listener: usize) -> io::Result<Queue> {
    for _ in 0..TURN {
        match accept(socket.get_ref()) {
            Ok((connection, client)) => arrived(worker, connection, client, listener),
            Err(Errno::AGAIN) => return Ok(Queue::Empty),
            Err(error) if is_the_clients(error) => {}
            Err(error @ (Errno::MFILE | Errno::NFILE)) => {
                // Closed before the spare is taken back: there is one descriptor for both.
                if let Ok(client) = worker.spare.lend(|| accept(socket.get_ref()).map(|(_closed, client)| client)) {
                    send_away(worker, client, listener);
                }
                return Err(error.into());
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Queue::More)
}

/// The connection was lost while it was queued (accept(2), "Error handling"); the next may be fine.
fn is_the_clients(error: Errno) -> bool {
    matches!(
        error,
        Errno::INTR
            | Errno::CONNABORTED
            | Errno::PROTO
            | Errno::NETDOWN
            | Errno::NOPROTOOPT
            | Errno::HOSTDOWN
            | Errno::NONET
            | Errno::HOSTUNREACH
            | Errno::OPNOTSUPP
            | Errno::NETUNREACH
            | Errno::PERM
    )
}

fn accept(socket: &OwnedFd) -> rustix::io::Result<(OwnedFd, Option<SocketAddr>)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (connection, client) = rustix::net::acceptfrom_with(socket, flags)?;
    Ok((connection, client.and_then(|client| SocketAddr::try_from(client).ok())))
}

fn arrived(worker: &Rc<Worker>, socket: OwnedFd, client: Option<SocketAddr>, listener: usize) {
    let door = worker.door(listener);
    door.metrics.accepted.increment(1);
    match Permit::take(&worker.shared.capacity, &door.capacity) {
        Some(permit) => {
            let (at, start, seat) = (Instant::now(), SystemTime::now(), worker.choose_seat());
            worker.place(Accepted { socket, client, listener, at, start, permit, seat });
        }
        None => send_away(worker, client, listener),
    }
}

/// Records a connection that was closed because there was no room for it.
fn send_away(worker: &Worker, client: Option<SocketAddr>, listener: usize) {
    let name = &worker.door(listener).name;
    worker.record(listener, Record::unserved(worker.next_id(), name, client, Outcome::Full, Side::Policy));
}

/// Says what is wrong, at most once every [`COMPLAIN_EVERY`].
fn complain(listener: &str, error: &io::Error, last: &mut Option<Instant>) {
    if last.is_none_or(|last| last.elapsed() >= COMPLAIN_EVERY) {
        *last = Some(Instant::now());
        tracing::error!(listener, "cannot accept: {error}");
    }
}
