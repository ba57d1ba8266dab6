//! The control runtime: one thread for everything that is not a session. Endpoints are discovered, pages are served and
//! gauges are brought up to date here; nothing here is ever waited for by a worker.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::shared::{Order, Shared};
use crate::acme::Accounts;
use crate::admin;
use crate::health::watch::Watch;
use crate::live::Live;
use crate::pool::Pool;
use crate::pool::discovery::{self, Dns, Sources};
use crate::sys;
use crate::tls::certificates::RESTS;

/// Between two rounds of bringing gauges up to date.
const PUBLISH: Duration = Duration::from_secs(1);

/// Between two looks at the files of certificates.
const BETWEEN_LOOKS: Duration = Duration::from_secs(2);

/// Between two looks at whether a spike of sessions is over.
const EBB: Duration = Duration::from_secs(30);

/// What operators connect to.
struct Admin {
    pages: Option<TcpListener>,
    socket: Option<UnixListener>,
}

/// Where the endpoints of all pools are found.
pub(crate) struct Finds {
    /// Who is asked for names.
    pub(crate) dns: Dns,
    /// Of each pool as it is written.
    pub(crate) sources: Vec<Sources>,
}

/// The control thread.
pub(crate) struct Control {
    thread: JoinHandle<()>,
    /// Ends the thread when it is dropped.
    stop: DropGuard,
    resolved: Receiver<()>,
}

impl Control {
    /// Starts the control thread; `finds` says where endpoints are found, `probes` how many probes may be under way at once.
    ///
    /// # Errors
    /// The runtime or the thread cannot be made.
    pub(crate) fn start(
        shared: Arc<Shared>,
        (pages, socket): (Option<std::net::TcpListener>, Option<std::os::unix::net::UnixListener>),
        finds: Finds,
        accounts: Accounts,
        probes: usize,
    ) -> io::Result<Control> {
        // A look at a file blocks a thread for as long as its file system does not answer; the pages have their own.
        let files = finds.sources.iter().filter(|sources| sources.has_file()).count();
        // One more for whoever asks who stands behind a connection.
        let threads = files + 4 + accounts.threads();
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(threads).build()?;
        let admin = {
            let _entered = runtime.enter();
            Admin {
                pages: pages.map(TcpListener::from_std).transpose()?,
                socket: socket.map(UnixListener::from_std).transpose()?,
            }
        };
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let (first, resolved) = sync_channel(finds.sources.len());
        let thread = std::thread::Builder::new().name("control".into()).spawn(move || {
            runtime.block_on(control(shared, admin, finds, accounts, probes, first, stopped));
            // A look that hangs must not hold up the end of the process.
            runtime.shutdown_background();
        })?;
        Ok(Control { thread, stop: stop.drop_guard(), resolved })
    }

    /// Waits until every pool's file was read and its names have been looked up once, at most for `patience`.
    pub(crate) fn wait_resolved(&self, pools: usize, patience: Duration) {
        let until = Instant::now() + patience;
        for _ in 0..pools {
            let left = until.saturating_duration_since(Instant::now());
            if self.resolved.recv_timeout(left).is_err() {
                return;
            }
        }
    }

    /// Ends the thread.
    pub(crate) fn stop(self) {
        drop(self.stop);
        // A panic there was reported when it happened.
        let _ = self.thread.join();
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the control runtime; nothing here outlives block_on")]
async fn control(
    shared: Arc<Shared>,
    admin: Admin,
    finds: Finds,
    accounts: Accounts,
    probes: usize,
    first: SyncSender<()>,
    stop: CancellationToken,
) {
    let dns = Arc::new(finds.dns);
    for sources in finds.sources {
        let pools = shared.live.load().parts(&sources.pool);
        let first = first.clone();
        let told = move || {
            // Nobody waits for it any more.
            let _ = first.try_send(());
        };
        tokio::spawn(discovery::keep(pools, sources, Arc::clone(&dns), Arc::clone(&shared.metrics), told));
    }
    if has_files(&shared.live.load()) {
        tokio::spawn(watch_files(Arc::clone(&shared)));
    }
    shared.challenges.look_on(tokio::runtime::Handle::current());
    let accounts = accounts.start(&shared.challenges, &shared.metrics, &shared.pages, &stop);
    let pages = admin.pages.map(|listener| admin::http::serve(listener, Arc::clone(&shared.pages), stop.clone()));
    let commands = admin.socket.map(|listener| admin::socket::serve(listener, Arc::clone(&shared), stop.clone()));
    let (pages, commands) = (pages.map(tokio::spawn), commands.map(tokio::spawn));
    let mut publish = tokio::time::interval(PUBLISH);
    let mut looked = Instant::now();
    let mut spike = Spike::default();
    let mut watch = Watch::new(probes);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = shared.bell.sets.notified() => {
                watch.follow(&shared.live.load().pools);
                continue;
            }
            () = shared.bell.states.notified() => {
                settle(&shared, Pool::is_stirred);
                continue;
            }
            _ = publish.tick() => {}
        }
        watch.mend();
        // Time alone changes shares and lets outliers back in.
        settle(&shared, |_| true);
        shared.publish(PUBLISH);
        shared.metrics.run_upkeep();
        spike.has(shared.sessions());
        if looked.elapsed() >= EBB {
            looked = Instant::now();
            if spike.is_over() {
                sys::give_memory_back();
            }
        }
    }
    for task in pages.into_iter().chain(commands).chain(accounts) {
        // A panic there was reported when it happened.
        let _ = task.await;
    }
}

/// Whether there is TLS of ours anywhere.
fn has_files(live: &Live) -> bool {
    live.routes.iter().any(|route| route.tls.is_some())
        || live.pools.iter().any(|pool| pool.outgoing().next().is_some())
}

/// Looks at the files of certificates and keys again and again, on a thread that may block.
async fn watch_files(shared: Arc<Shared>) {
    loop {
        let shared = Arc::clone(&shared);
        if let Err(error) = tokio::task::spawn_blocking(move || look_at_files(&shared)).await {
            tracing::error!("looking at certificates panicked: {error}");
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

fn look_at_files(shared: &Shared) {
    let mut file = shared.key_file.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(file) = &mut *file
        && let Err(flaw) = file.look(&shared.secrets)
    {
        tracing::warn!("tls.ticket_keys: {:?} {flaw}; what was there before stays in use", file.path());
    }
    let (live, now) = (shared.live.load(), SystemTime::now());
    for pool in &live.pools {
        for outgoing in pool.outgoing() {
            let looked = outgoing.look(now, RESTS);
            if looked.taken {
                tracing::info!(pool = &*pool.name, "files of TLS with endpoints have changed and are in use");
            }
            if let Some(problem) = looked.problem {
                tracing::warn!(pool = &*pool.name, "{problem}; what was there before stays in use");
            }
            if let Some(ending) = outgoing.ending(now) {
                tracing::warn!(pool = &*pool.name, "{ending}");
            }
        }
        pool.publish_tls();
    }
    for route in &live.routes {
        let Some(tls) = &route.tls else { continue };
        let (news, problems) = tls.look(now);
        for new in news {
            tracing::info!(route = &*route.name, "{new}");
        }
        for problem in problems {
            tracing::warn!(route = &*route.name, "{problem}; what was there before stays in use");
        }
        for ending in tls.ending(now) {
            tracing::warn!(route = &*route.name, "{ending}");
        }
        tls.publish(&shared.metrics);
    }
}

/// Brings up to date what the pools that `should` picks choose by, has workers look at their sessions where those of some
/// endpoint should leave, and has listeners refuse whom nobody can serve.
fn settle(shared: &Shared, should: impl Fn(&Pool) -> bool) {
    let mut leaving = false;
    for (index, pool) in shared.live.load().pools.iter().enumerate().filter(|(_, pool)| should(pool)) {
        let settled = pool.settle(Instant::now());
        leaving |= settled.leaving;
        for door in &shared.doors {
            if let Some(refusal) = door.refusal.as_ref().filter(|refusal| refusal.pool == index)
                && refusal.refuses.send_replace(!settled.serves) == settled.serves
            {
                let (listener, pool) = (&*door.name, &*pool.name);
                if settled.serves {
                    tracing::info!(listener, pool, "accepts connections again: there is an endpoint");
                } else {
                    tracing::warn!(listener, pool, "refuses connections: there is no endpoint");
                }
            }
        }
    }
    if leaving {
        for worker in &shared.workers {
            // One that has ended has no sessions.
            let _ = worker.tell(Order::Sweep);
        }
    }
}

/// Rise and fall of the number of sessions: after a spike the allocator sits on memory that nobody needs.
#[derive(Debug, Default)]
struct Spike {
    now: usize,
    peak: usize,
}

impl Spike {
    /// A spike of fewer sessions leaves too little behind to be worth a look.
    const LEAST: usize = 500;

    /// Takes in how many sessions there are.
    fn has(&mut self, sessions: usize) {
        self.now = sessions;
        self.peak = self.peak.max(sessions);
    }

    /// Whether half of the sessions of the peak have gone; says so once for each peak.
    fn is_over(&mut self) -> bool {
        let over = self.peak - self.now >= (self.peak / 2).max(Spike::LEAST);
        if over {
            self.peak = self.now;
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spike_is_over_once_half_has_gone() {
        let mut spike = Spike::default();
        for (sessions, over) in [
            (100, false),
            (0, false),
            (2_000, false),
            (1_001, false),
            (1_000, true),
            (600, false),
            (400, true),
            (0, false),
        ] {
            spike.has(sessions);
            assert_eq!(spike.is_over(), over, "{sessions}");
        }
    }
}
