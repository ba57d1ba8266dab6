//! The accept loop: one a listening socket. It never ends on an error and never spins on one.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, SocketFlags};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Accepted;
use super::admission::Permit;
use crate::observe::outcome::{Outcome, Side};
use crate::observe::record::Record;
use crate::refusal::Manner;
use crate::supervise::shared::Door;
use crate::supervise::worker::Worker;
use crate::sys;
use crate::wire::client_hello::HANDSHAKE;

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

/// Accepts on one socket until `stop`; then takes what is still queued and closes the socket. While the listener refuses,
/// the socket is bound and does not listen.
pub(crate) async fn run(worker: Rc<Worker>, mut socket: OwnedFd, listener: usize, stop: CancellationToken) {
    let door = worker.door(listener);
    let mut refuses = door.refusal.as_ref().map(|refusal| refusal.refuses.subscribe());
    loop {
        // The reactor never forgets that a socket did not listen, so that it has to get to know it anew.
        let Some(registered) = register(socket, &door.name, &stop).await else { return };
        let ended = tokio::select! {
            () = take_all(&worker, &registered, listener, &stop) => true,
            () = becomes(&mut refuses, true) => false,
        };
        while let Ok(Queue::More) = take_some(&worker, &registered, listener) {}
        if ended {
            return;
        }
        socket = registered.into_inner();
        let backlog = door.refusal.as_ref().map_or(0, |refusal| refusal.backlog);
        if let Err(error) = rustix::net::shutdown(&socket, Shutdown::Read) {
            tracing::error!(listener = &*door.name, "cannot refuse connections: {error}");
        }
        if stop.run_until_cancelled(becomes(&mut refuses, false)).await.is_none() {
            return;
        }
        let mut last_complaint = None;
        // Meanwhile somebody else may have taken the address, for as long as that lasts.
        while let Err(error) = rustix::net::listen(&socket, backlog.try_into().unwrap_or(i32::MAX)) {
            complain(&door.name, "listen again", &error.into(), &mut last_complaint);
            if stop.run_until_cancelled(tokio::time::sleep(BACK_OFF)).await.is_none() {
                return;
            }
        }
    }
}

/// Makes a socket known to the reactor, however long that fails; `None` once that should stop.
async fn register(mut socket: OwnedFd, listener: &str, stop: &CancellationToken) -> Option<AsyncFd<OwnedFd>> {
    let mut last_complaint = None;
    loop {
        // A failure takes the descriptor with it.
        let spare = socket.try_clone();
        match sys::register(socket) {
            Ok(registered) => return Some(registered),
            Err(error) => complain(listener, "wait for connections", &error, &mut last_complaint),
        }
        socket = spare.ok()?;
        stop.run_until_cancelled(tokio::time::sleep(BACK_OFF)).await?;
    }
}

/// Waits until the listener refuses, or no longer does.
async fn becomes(refuses: &mut Option<watch::Receiver<bool>>, wanted: bool) {
    let became = match refuses {
        Some(refuses) => refuses.wait_for(|refuses| *refuses == wanted).await.is_ok(),
        None => false,
    };
    if !became {
        // It never will.
        std::future::pending().await
    }
}

/// Accepts until `stop`.
async fn take_all(worker: &Rc<Worker>, socket: &AsyncFd<OwnedFd>, listener: usize, stop: &CancellationToken) {
    let mut last_complaint = None;
    while let Some(Ok(mut ready)) = stop.run_until_cancelled(socket.readable()).await {
        match take_some(worker, socket, listener) {
            Ok(Queue::Empty) => ready.clear_ready(),
            Ok(Queue::More) => tokio::task::yield_now().await,
            Err(error) => {
                worker.metrics.accept_errors.increment(1);
                complain(&worker.door(listener).name, "accept", &error, &mut last_complaint);
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }
}

/// What a turn left behind.
enum Queue {
    Empty,
    More,
}

/// Takes up to [`TURN`] connections.
fn take_some(worker: &Rc<Worker>, socket: &AsyncFd<OwnedFd>, listener: usize) -> io::Result<Queue> {
    for _ in 0..TURN {
        match accept(socket.get_ref(), worker.door(listener)) {
            Ok((connection, client)) => arrived(worker, connection, client, listener),
            Err(Errno::AGAIN) => return Ok(Queue::Empty),
            Err(error) if is_the_clients(error) => {}
            Err(error @ (Errno::MFILE | Errno::NFILE)) => {
                // Closed before the spare is taken back: there is one descriptor for both.
                let lent = || {
                    let (connection, client) = accept(socket.get_ref(), worker.door(listener))?;
                    tell(&connection, worker.door(listener));
                    Ok::<_, Errno>(client)
                };
                if let Ok(client) = worker.spare.lend(lent) {
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

fn accept(socket: &OwnedFd, door: &Door) -> rustix::io::Result<(OwnedFd, Option<SocketAddr>)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (connection, client) = rustix::net::acceptfrom_with(socket, flags)?;
    door.metrics.accepted.increment(1);
    Ok((connection, client.and_then(|client| SocketAddr::try_from(client).ok())))
}

fn arrived(worker: &Rc<Worker>, socket: OwnedFd, client: Option<SocketAddr>, listener: usize) {
    let door = worker.door(listener);
    match Permit::take(&worker.shared.capacity, &door.capacity) {
        Some(permit) => {
            let (at, start, seat) = (Instant::now(), SystemTime::now(), worker.choose_seat());
            worker.place(Accepted { socket, client, listener, at, start, permit, seat });
        }
        None => {
            tell(&socket, door);
            send_away(worker, client, listener);
        }
    }
}

/// Tells a client that there is no room for it, where its protocol lets it be told before it has been read, and as far as
/// that takes no time.
fn tell(connection: &OwnedFd, door: &Door) {
    let words = match Manner::of(door.protocol) {
        // An alert is an answer to a hello.
        Manner::Silent | Manner::Alert => return,
        manner => manner.words(Outcome::Full),
    };
    // What has come already would turn the end into a reset, which takes the words with it.
    let mut said = [0; 2048];
    let received = rustix::net::recv(connection, &mut said, RecvFlags::empty()).map_or(0, |(received, _)| received);
    if received > 0 && said.first() == Some(&HANDSHAKE) {
        // It speaks TLS, which has no word for this.
        return;
    }
    let _ = rustix::net::send(connection, &words, SendFlags::NOSIGNAL);
    let _ = rustix::net::shutdown(connection, Shutdown::Write);
}

/// Records a connection that was closed because there was no room for it.
fn send_away(worker: &Worker, client: Option<SocketAddr>, listener: usize) {
    let name = &worker.door(listener).name;
    worker.record(listener, Record::unserved(worker.next_id(), name, client, Outcome::Full, Side::Policy));
}

/// Says what is wrong, at most once every [`COMPLAIN_EVERY`].
fn complain(listener: &str, what: &str, error: &io::Error, last: &mut Option<Instant>) {
    if last.is_none_or(|last| last.elapsed() >= COMPLAIN_EVERY) {
        *last = Some(Instant::now());
        tracing::error!(listener, "cannot {what}: {error}");
    }
}
