//! Coarse time: seconds that the worker has run, as one number that costs nothing to read.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// The longest step: whoever was stopped for longer (SIGSTOP, a frozen or paused machine) finds that no more has
/// passed, for what came meanwhile was not read yet and must not look like silence.
const LONGEST_STEP: Duration = Duration::from_secs(3);

/// Seconds that the worker has run, moved on by its sweep.
#[derive(Debug)]
pub(crate) struct Clock {
    seconds: Cell<u32>,
    /// When the second that is running began.
    began: Cell<Instant>,
}

impl Clock {
    /// Seconds that the worker has run, about one behind at the most.
    pub(crate) fn now(&self) -> u32 {
        self.seconds.get()
    }

    /// Moves the clock on to `now`; only the sweep does.
    pub(crate) fn advance(&self, now: Instant) {
        let passed = now.saturating_duration_since(self.began.get());
        if passed > LONGEST_STEP {
            self.began.set(now);
            self.seconds.set(self.seconds.get().saturating_add(1));
        } else {
            self.began.set(self.began.get() + Duration::from_secs(passed.as_secs()));
            self.seconds.set(self.seconds.get().saturating_add(passed.as_secs() as u32));
        }
    }
}

impl Default for Clock {
    fn default() -> Clock {
        Clock { seconds: Cell::new(0), began: Cell::new(Instant::now()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_add_up_and_a_stop_counts_as_one() {
        let clock = Clock::default();
        let start = clock.began.get();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        for (now, expected) in [(900, 0), (1_100, 1), (2_050, 2), (5_000, 5), (60_000, 6), (60_999, 6), (61_000, 7)] {
            clock.advance(at(now));
            assert_eq!(clock.now(), expected, "after {now} ms");
        }
    }
}
