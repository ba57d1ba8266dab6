//! Why sessions should leave an endpoint, and since when: set by the control side, read by the sweeps of the workers.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::config::model::{Leave, Sessions};
use crate::observe::outcome::Outcome;

/// Why an endpoint is no longer to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Probes no longer reach it, or it is in maintenance.
    Down = 1,
    /// It answered that it should not serve.
    Demotion,
    /// It drains, or is too far behind its primary.
    Drain,
    /// The pool no longer has it.
    Removal,
    /// Endpoints of a better priority serve again.
    Recovery,
}

/// What sessions of one endpoint are asked: nothing, or to leave.
#[derive(Debug, Default)]
pub(crate) struct Leaving {
    /// The cause in the lowest 3 bits, and above them milliseconds since [`epoch`]. 0: nothing.
    word: AtomicU64,
}

impl Cause {
    const ALL: [Cause; 5] = [Cause::Down, Cause::Demotion, Cause::Drain, Cause::Removal, Cause::Recovery];

    /// What a session that it ends is called.
    pub(crate) fn outcome(self) -> Outcome {
        match self {
            Cause::Down => Outcome::KilledDown,
            Cause::Demotion => Outcome::KilledDemotion,
            Cause::Drain => Outcome::KilledDrain,
            Cause::Removal => Outcome::KilledRemoval,
            Cause::Recovery => Outcome::KilledRecovery,
        }
    }

    /// What a pool does about it.
    pub(crate) fn rule(self, sessions: &Sessions) -> Leave {
        match self {
            Cause::Down => sessions.on_down,
            Cause::Demotion => sessions.on_demotion,
            Cause::Drain => sessions.on_drain,
            Cause::Removal => sessions.on_removal,
            Cause::Recovery => sessions.on_recovery,
        }
    }
}

impl Leaving {
    /// Sets the cause, if it is another one. True if sessions are to do something about it that they did not do before.
    pub(super) fn set(&self, cause: Option<Cause>, rules: &Sessions, now: Instant) -> bool {
        let before = self.get();
        if before.map(|(cause, _)| cause) == cause {
            return false;
        }
        let rule = |cause: Cause| cause.rule(rules);
        // One deadline goes on, whatever the cause is now.
        let goes_on = before.filter(|(before, _)| {
            rule(*before) == Leave::Deadline && cause.is_some_and(|cause| rule(cause) == Leave::Deadline)
        });
        let now = goes_on.map_or(now, |(_, since)| since);
        let since = u64::try_from(now.saturating_duration_since(epoch()).as_millis()).unwrap_or(u64::MAX >> BITS);
        self.word.store(cause.map_or(0, |cause| since << BITS | cause as u64), Ordering::Relaxed);
        cause.is_some_and(|cause| rule(cause) != Leave::Keep)
    }

    /// The cause, and since when.
    pub(crate) fn get(&self) -> Option<(Cause, Instant)> {
        let word = self.word.load(Ordering::Relaxed);
        let cause = Cause::ALL.into_iter().find(|cause| *cause as u64 == word & ((1 << BITS) - 1))?;
        Some((cause, epoch() + Duration::from_millis(word >> BITS)))
    }
}

const BITS: u32 = 3;

/// A moment that all others come after.
fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_keeps_its_time_and_a_deadline_goes_on() {
        let rules = Sessions {
            on_down: Leave::Deadline,
            on_removal: Leave::Deadline,
            on_drain: Leave::Now,
            ..Sessions::default()
        };
        let (leaving, start) = (Leaving::default(), Instant::now() + Duration::from_secs(1));
        // Seconds at which a cause is set, whether sessions are to act on it, and since when it is the cause.
        for (at, cause, acts, since) in [
            (0, None, false, None),
            (5, Some(Cause::Demotion), false, Some(5)),
            (6, Some(Cause::Demotion), false, Some(5)),
            (7, Some(Cause::Down), true, Some(7)),
            (8, Some(Cause::Removal), true, Some(7)),
            (9, Some(Cause::Drain), true, Some(9)),
            (10, Some(Cause::Down), true, Some(10)),
            (11, None, false, None),
            (12, Some(Cause::Recovery), false, Some(12)),
        ] {
            let case = format!("{cause:?} at {at} s");
            assert_eq!(leaving.set(cause, &rules, start + Duration::from_secs(at)), acts, "{case}");
            let got = leaving.get();
            assert_eq!(got.map(|(cause, _)| cause), cause, "{case}");
            let seconds = got.map(|(_, since)| (since - start + Duration::from_millis(1)).as_secs());
            assert_eq!(seconds, since, "{case}");
        }
    }
}
