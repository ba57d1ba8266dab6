//! What the pages say: the metrics, whether the process is ready, and when each worker was last seen running.
//!
//! Written by supervision and by the workers, read by [`super::http`]; nothing here decides anything.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::observe::metrics::Metrics;

/// A worker that has not ticked for longer than this is stuck.
pub const STUCK_AFTER: Duration = Duration::from_secs(5);

/// Where the process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not every listener is open yet.
    Starting,
    /// New connections are served.
    Serving,
    /// The process was asked to stop: sessions end, new connections are not wanted.
    Draining,
}

/// What the pages say. Shared by everyone who has something to tell.
#[derive(Debug)]
pub struct Pages {
    metrics: Arc<Metrics>,
    state: AtomicU8,
    made: Instant,
    /// Milliseconds from `made` to the last tick, by worker.
    ticks: Box<[AtomicU64]>,
}

impl Pages {
    /// Pages of a process that is starting with `workers` workers, each of which counts as seen just now.
    pub fn new(metrics: Arc<Metrics>, workers: usize) -> Pages {
        Pages::made_at(Instant::now(), metrics, workers)
    }

    pub(super) fn made_at(made: Instant, metrics: Arc<Metrics>, workers: usize) -> Pages {
        let ticks = (0..workers).map(|_| AtomicU64::new(0)).collect();
        Pages { metrics, state: AtomicU8::new(State::Starting as u8), made, ticks }
    }

    /// The metrics shown.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Where the process is in its life.
    pub fn state(&self) -> State {
        const SERVING: u8 = State::Serving as u8;
        const DRAINING: u8 = State::Draining as u8;
        match self.state.load(Ordering::Relaxed) {
            SERVING => State::Serving,
            DRAINING => State::Draining,
            _ => State::Starting,
        }
    }

    /// Says where the process is now, in the metrics too.
    pub fn set_state(&self, state: State) {
        self.state.store(state as u8, Ordering::Relaxed);
        self.metrics.process().draining.set(f64::from(u8::from(state == State::Draining)));
    }

    /// A worker says that it runs: to be called from its runtime every second.
    pub fn tick(&self, worker: usize) {
        self.tick_at(worker, self.made.elapsed());
    }

    /// A worker says that it has ended as it should: it is never stuck, however long others still drain.
    pub fn retire(&self, worker: usize) {
        if let Some(tick) = self.ticks.get(worker) {
            tick.store(u64::MAX, Ordering::Relaxed);
        }
    }

    /// Workers that have not ticked for more than [`STUCK_AFTER`], and for how long.
    pub fn stuck(&self) -> Vec<(usize, Duration)> {
        self.stuck_at(self.made.elapsed())
    }

    fn tick_at(&self, worker: usize, now: Duration) {
        if let Some(tick) = self.ticks.get(worker) {
            tick.store(now.as_millis() as u64, Ordering::Relaxed);
        }
    }

    fn stuck_at(&self, now: Duration) -> Vec<(usize, Duration)> {
        let silent = |tick: &AtomicU64| now.saturating_sub(Duration::from_millis(tick.load(Ordering::Relaxed)));
        let all = self.ticks.iter().map(silent).enumerate();
        all.filter(|(_, silent)| *silent > STUCK_AFTER).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn a_worker_is_stuck_after_five_seconds_without_a_tick() {
        let pages = Pages::new(Arc::new(Metrics::new()), 3);
        assert_eq!(pages.stuck_at(seconds(5)), []);
        pages.tick_at(0, seconds(4));
        pages.tick_at(2, seconds(5));
        pages.tick_at(3, seconds(5));
        assert_eq!(pages.stuck_at(seconds(6)), [(1, seconds(6))]);
        assert_eq!(pages.stuck_at(seconds(10)), [(0, seconds(6)), (1, seconds(10))]);
        pages.tick_at(0, seconds(20));
        assert_eq!(pages.stuck_at(seconds(19)), [(1, seconds(19)), (2, seconds(14))], "a tick later than now");
        pages.retire(1);
        assert_eq!(pages.stuck_at(seconds(22)), [(2, seconds(17))]);
    }

    #[test]
    fn states_read_as_written_and_draining_is_a_metric() {
        let pages = Pages::new(Arc::new(Metrics::new()), 0);
        for (state, draining) in [(State::Starting, 0), (State::Serving, 0), (State::Draining, 1), (State::Serving, 0)]
        {
            pages.set_state(state);
            assert_eq!(pages.state(), state);
            assert!(pages.metrics().render().contains(&format!("pointsman_draining {draining}\n")), "{state:?}");
        }
    }
}
