//! A data worker: one thread, one runtime, its own sockets, sessions, buffers and pipes.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::Guard;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::shared::{Colleague, Door, Order, Seat, Shared};
use crate::detect::Memory;
use crate::forward::Tools;
use crate::listen::Accepted;
use crate::listen::accept::{self, Spare};
use crate::live::Live;
use crate::observe::metrics::WorkerMetrics;
use crate::observe::outcome::Outcome;
use crate::observe::record::Record;
use crate::session;
use crate::table::Table;

/// Between two sweeps of the session table.
const SWEEP: Duration = Duration::from_secs(1);
/// Sweeps between two looks at what idle memory can be given back.
const SHRINK_EVERY: u32 = 30;
/// How long sessions may take to act on an order to end.
const LAST_CALL: Duration = Duration::from_secs(3);

/// One worker, as its own sessions see it.
pub(crate) struct Worker {
    pub(crate) index: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) tools: Tools,
    pub(crate) table: Rc<Table>,
    pub(crate) spare: Spare,
    pub(crate) metrics: WorkerMetrics,
    ids: Cell<u64>,
    dice: RefCell<fastrand::Rng>,
}

/// What a worker's thread starts with.
pub(crate) struct Start {
    pub(crate) index: usize,
    pub(crate) shared: Arc<Shared>,
    /// Its listening sockets, with the index of their listener.
    pub(crate) sockets: Vec<(usize, OwnedFd)>,
    /// Pipes that it may open.
    pub(crate) pipes: usize,
    pub(crate) inbox: UnboundedReceiver<Order>,
}

/// Runs a worker until it was told to stop and its last session has ended.
///
/// # Errors
/// The runtime cannot be made.
pub(crate) fn run(start: Start) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build_local(tokio::runtime::LocalOptions::default())?;
    runtime.block_on(work(start));
    Ok(())
}

async fn work(Start { index, shared, sockets, pipes, mut inbox }: Start) {
    let worker = Rc::new(Worker {
        index,
        tools: Tools::new(pipes),
        table: Rc::default(),
        spare: Spare::new(),
        metrics: shared.metrics.worker(index),
        ids: Cell::new(0),
        dice: RefCell::new(fastrand::Rng::new()),
        shared,
    });
    let stop = CancellationToken::new();
    let accepting = TaskTracker::new();
    for (listener, socket) in sockets {
        spawn(accepting.track_future(accept::run(Rc::clone(&worker), socket, listener, stop.clone())));
    }
    accepting.close();
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut phase = Phase::Serving;
    loop {
        tokio::select! {
            Some(order) = inbox.recv() => match order {
                Order::Serve(accepted) => worker.serve(accepted),
                Order::Do(task) => task(&worker),
                Order::Sweep => worker.sweep(phase),
                Order::Drain => {
                    stop.cancel();
                    phase = phase.drain(Instant::now());
                    worker.sweep(phase);
                }
                Order::End => {
                    stop.cancel();
                    phase = phase.end(Instant::now());
                    worker.table.end_all(Outcome::Shutdown);
                }
            },
            _ = sweep.tick() => worker.sweep(phase),
            () = worker.table.emptied() => {}
            () = accepting.wait(), if stop.is_cancelled() && !accepting.is_empty() => {}
        }
        if phase.is_over(&worker, &accepting) {
            // From here on others keep what they would hand over; what has just come is still served.
            inbox.close();
            if inbox.is_empty() {
                break;
            }
        }
    }
    worker.metrics.sessions.set(0.0);
    worker.shared.pages.retire(index);
}

/// Where a worker is in its life.
#[derive(Clone, Copy)]
enum Phase {
    Serving,
    /// No new connections since then.
    Draining(Instant),
    /// Every session was told to end.
    Ending(Instant),
}

impl Phase {
    fn drain(self, now: Instant) -> Phase {
        if matches!(self, Phase::Serving) { Phase::Draining(now) } else { self }
    }

    fn end(self, now: Instant) -> Phase {
        if matches!(self, Phase::Ending(_)) { self } else { Phase::Ending(now) }
    }

    /// Nothing more is to come: no session here or on its way, and nobody who could accept one.
    fn is_over(self, worker: &Worker, accepting: &TaskTracker) -> bool {
        let idle = || accepting.is_empty() && worker.table.is_empty() && worker.this().sessions() == 0;
        match self {
            Phase::Serving => false,
            Phase::Draining(_) => idle(),
            Phase::Ending(since) => idle() || since.elapsed() > LAST_CALL,
        }
    }
}

/// The one way to start a task on a worker: nothing else may, so that all that runs is known here.
#[expect(clippy::disallowed_methods, reason = "this is the function that the ban points to")]
pub(crate) fn spawn(task: impl Future<Output = ()> + 'static) {
    tokio::task::spawn_local(task);
}

#[expect(clippy::indexing_slicing, reason = "listeners and workers are fixed while the process lives")]
impl Worker {
    /// The generation in use.
    pub(crate) fn live(&self) -> Guard<Arc<Live>> {
        self.shared.live.load()
    }

    /// The memory that openings share.
    pub(crate) fn memory(&self) -> &Arc<Memory> {
        &self.shared.opening_memory
    }

    /// The listener of this index.
    pub(crate) fn door(&self, listener: usize) -> &Door {
        &self.shared.doors[listener]
    }

    /// The next number that no other session of this process has.
    pub(crate) fn next_id(&self) -> u64 {
        let count = self.ids.get();
        self.ids.set(count + 1);
        1 + self.index as u64 + count * self.shared.workers.len() as u64
    }

    /// A place for a connection accepted here: with this worker or, if that has fewer sessions, with another one drawn
    /// by lot.
    pub(crate) fn choose_seat(&self) -> Seat {
        let workers = self.shared.workers.len();
        // A worker that is alone draws itself.
        let step = self.dice.borrow_mut().usize(1..workers.max(2));
        self.shared.seat(self.index, (self.index + step) % workers)
    }

    /// Serves a connection where its seat is.
    pub(crate) fn place(self: &Rc<Self>, accepted: Accepted) {
        let seat = accepted.seat.worker;
        if seat == self.index {
            return self.serve(accepted);
        }
        match self.shared.workers[seat].tell(Order::Serve(accepted)) {
            Ok(()) => self.metrics.handed_over.increment(1),
            Err(Order::Serve(accepted)) => self.serve(accepted),
            Err(_) => {}
        }
    }

    /// Tells of a connection that has ended.
    pub(crate) fn record(&self, listener: usize, record: Record) {
        let outcome = record.outcome;
        self.shared.log.log(record);
        // Counted last: who sees the count knows that the line was left, or lost and counted as such.
        self.door(listener).metrics.outcome(outcome).increment(1);
    }

    fn serve(self: &Rc<Self>, accepted: Accepted) {
        session::serve(Rc::clone(self), accepted);
    }

    fn this(&self) -> &Colleague {
        &self.shared.workers[self.index]
    }

    fn sweep(&self, phase: Phase) {
        self.tools.clock.advance(Instant::now());
        let now = self.tools.clock.now();
        match phase {
            Phase::Serving => self.table.sweep(now, None),
            Phase::Draining(since) => self.table.sweep(now, Some(since.elapsed())),
            Phase::Ending(_) => self.table.end_all(Outcome::Shutdown),
        }
        self.metrics.sessions.set(self.table.len() as f64);
        self.metrics.pipes.set(self.tools.pipes.open() as f64);
        self.shared.pages.tick(self.index);
        if now.is_multiple_of(SHRINK_EVERY) {
            self.table.shrink();
            self.tools.pipes.shrink();
        }
    }
}
