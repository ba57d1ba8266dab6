//! How far a replica is behind, by what several probes have found.
//!
//! What a server says itself can be far too much: the age of the last transaction that was replayed is that of the last
//! one there was, however short the way of the next. But a replica never goes back: what it had at an earlier probe it
//! still has; and once it has replayed all that it had received then, it has all that there was then.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The most positions that are remembered.
const MOST: usize = 64;

/// Positions in the log of a primary, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// All up to here was received.
    pub(super) received: u64,
    /// All up to here was replayed.
    pub(super) replayed: u64,
    /// The primary is heard, so that what was received is what there was.
    pub(super) is_fed: bool,
}

/// What was found before.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// The replica has all that its primary had written by then.
    as_of: Option<Instant>,
    /// All up to here was replayed.
    replayed: u64,
    /// When all up to where was received, the first one in front, as far as it is not replayed.
    received: VecDeque<(Instant, u64)>,
}

impl Memory {
    /// How far a replica is behind that says now that it is so by `said`, if it knows. It is remembered.
    pub(super) fn settle(&mut self, now: Instant, said: Option<Duration>, progress: Progress) -> Option<Duration> {
        self.follow(now, progress);
        self.as_of = self.as_of.max(said.and_then(|said| now.checked_sub(said)));
        let known = self.as_of.map(|as_of| now.saturating_duration_since(as_of));
        known.into_iter().chain(said).min()
    }

    /// How far a replica is behind that says so itself, and is right, but not always: while it says nothing it has at least
    /// what it had when it did.
    pub(super) fn keep(&mut self, now: Instant, said: Option<Duration>) -> Option<Duration> {
        if let Some(said) = said {
            self.as_of = now.checked_sub(said);
            return Some(said);
        }
        self.as_of.map(|as_of| now.saturating_duration_since(as_of))
    }

    /// It is no replica any more.
    pub(super) fn forget(&mut self) {
        *self = Memory::default();
    }

    fn follow(&mut self, now: Instant, progress: Progress) {
        if progress.replayed < self.replayed {
            // The server was made anew.
            self.forget();
        }
        self.replayed = progress.replayed;
        while let Some((at, _)) = self.received.pop_front_if(|(_, received)| *received <= progress.replayed) {
            self.as_of = self.as_of.max(Some(at));
        }
        if progress.is_fed {
            self.received.push_back((now, progress.received));
        }
        if self.received.len() > MOST {
            // However far it is behind: what is known of that grows coarser.
            let mut is_kept = false;
            self.received.retain(|_| {
                is_kept = !is_kept;
                is_kept
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_kept_than_is_of_use() {
        let (mut memory, start) = (Memory::default(), Instant::now());
        // It replays by 100 bytes behind, of one for each second.
        for second in 0..10_000 {
            let progress = Progress { received: 1000 + second, replayed: 900 + second, is_fed: true };
            let now = start + Duration::from_secs(second);
            let lag = memory.settle(now, Some(Duration::from_secs(second)), progress).unwrap().as_secs();
            assert!(second < 300 || (100..150).contains(&lag), "{lag} s at {second}");
            assert!(memory.received.len() <= MOST);
        }
    }

    #[test]
    fn lag_that_is_not_said_grows_from_what_was() {
        let start = Instant::now();
        let mut memory = Memory::default();
        for (case, at, said, lag) in [
            ("never said", 0, None, None),
            ("as it is said", 1, Some(3), Some(3)),
            ("its source is gone", 3, None, Some(5)),
            ("for long", 61, None, Some(63)),
            ("back", 62, Some(40), Some(40)),
            ("further behind than it was", 64, Some(90), Some(90)),
            ("and gone", 65, None, Some(91)),
        ] {
            let found = memory.keep(start + Duration::from_secs(at), said.map(Duration::from_secs));
            assert_eq!(found, lag.map(Duration::from_secs), "{case}");
        }
        memory.forget();
        assert_eq!(memory.keep(start + Duration::from_secs(66), None), None, "it was a primary in between");
    }

    #[test]
    fn lag_is_what_is_known_of_it() {
        let fed = |received, replayed| Progress { received, replayed, is_fed: true };
        let cut = |received, replayed| Progress { received, replayed, is_fed: false };
        // The second, what is said in seconds, positions; and what it comes to.
        type Probe = (u64, Option<u64>, Progress, Option<u64>);
        let cases: [(&str, &[Probe]); 8] = [
            ("as it is said", &[(0, Some(5), cut(9, 9), Some(5)), (2, Some(1), cut(9, 9), Some(1))]),
            ("not known yet", &[(0, None, cut(9, 9), None), (2, Some(1), cut(9, 9), Some(1))]),
            (
                "not known any more",
                &[(0, Some(1), cut(9, 9), Some(1)), (2, None, cut(9, 9), Some(3)), (9, None, cut(9, 9), Some(10))],
            ),
            (
                "cut off after an hour of rest",
                &[
                    (0, Some(0), fed(9, 9), Some(0)),
                    (2, Some(3602), cut(9, 9), Some(2)),
                    (60, Some(3660), cut(9, 9), Some(60)),
                ],
            ),
            (
                "one long transaction after an hour of rest",
                &[
                    (0, Some(0), fed(9, 9), Some(0)),
                    (2, Some(3602), fed(99, 90), Some(2)),
                    (4, Some(3604), fed(199, 190), Some(2)),
                    (8, Some(3608), fed(299, 290), Some(4)),
                ],
            ),
            (
                "replay stands still",
                &[
                    (0, Some(0), fed(9, 9), Some(0)),
                    (2, Some(2), fed(20, 9), Some(2)),
                    (4, Some(4), fed(30, 9), Some(4)),
                    (6, Some(6), fed(40, 20), Some(4)),
                    (8, Some(8), fed(50, 31), Some(4)),
                    (10, Some(10), fed(50, 50), Some(2)),
                ],
            ),
            (
                "the first probe finds it cut off",
                &[(0, Some(3600), cut(9, 9), Some(3600)), (2, Some(3602), cut(9, 9), Some(3602))],
            ),
            (
                "it was made anew from an old copy",
                &[(0, Some(0), fed(9, 9), Some(0)), (2, Some(600), fed(9, 3), Some(600))],
            ),
        ];
        let start = Instant::now();
        for (case, probes) in cases {
            let mut memory = Memory::default();
            for (at, said, progress, lag) in probes {
                let seconds = |seconds: &u64| Duration::from_secs(*seconds);
                let found = memory.settle(start + seconds(at), said.as_ref().map(seconds), *progress);
                assert_eq!(found, lag.as_ref().map(seconds), "{case}, at {at}");
            }
        }
    }
}
