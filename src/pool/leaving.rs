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
    /// It drains.
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
    /// Sets the cause, if it is another one. True if it is. The time is that of the first cause.
    pub(super) fn set(&self, cause: Option<Cause>, now: Instant) -> bool {
        let before = self.get();
        if before.map(|(cause, _)| cause) == cause {
            return false;
        }
        // It has not been used since the first cause, whatever it is now.
        let now = before.map_or(now, |(_, since)| since);
        let since = u64::try_from(now.saturating_duration_since(epoch()).as_millis()).unwrap_or(u64::MAX >> BITS);
        self.word.store(cause.map_or(0, |cause| since << BITS | cause as u64), Ordering::Relaxed);
        true
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
    fn a_cause_keeps_its_time_until_it_is_another() {
        let (leaving, start) = (Leaving::default(), Instant::now());
        assert_eq!(leaving.get(), None);
        let get = |after: u64| leaving.get().map(|(cause, since)| (cause, since <= start + Duration::from_secs(after)));
        assert!(leaving.set(Some(Cause::Drain), start + Duration::from_secs(5)));
        assert!(!leaving.set(Some(Cause::Drain), start + Duration::from_secs(9)));
        assert_eq!((get(5), get(4)), (Some((Cause::Drain, true)), Some((Cause::Drain, false))));
        for cause in Cause::ALL.into_iter().filter(|cause| *cause != Cause::Drain) {
            assert!(leaving.set(Some(cause), start));
            assert_eq!(leaving.get().map(|(cause, _)| cause), Some(cause));
        }
        assert!(leaving.set(None, start));
        assert_eq!(leaving.get(), None);
    }
}
