//! Outliers: endpoints that clients themselves find to be failing are left out for a while, longer each time.
//!
//! Sessions count, the control side lets them back in; when is given as an argument, so that the rules need no clock.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::config::model::Outliers;

/// How one endpoint fares with the sessions that are sent to it.
#[derive(Debug)]
pub(crate) struct Outlier {
    rules: Outliers,
    /// Failures since the last answer.
    in_row: AtomicU32,
    /// It is left out.
    out: AtomicBool,
    history: Mutex<History>,
}

#[derive(Clone, Copy, Debug, Default)]
struct History {
    /// How often it was put out, less once for each time it has done well for as long as it was out.
    times: u32,
    /// When it was last put out or let back in.
    since: Option<Instant>,
}

impl Outlier {
    /// Nothing has happened yet.
    pub(crate) fn new(rules: Outliers) -> Outlier {
        Outlier { rules, in_row: AtomicU32::new(0), out: AtomicBool::new(false), history: Mutex::default() }
    }

    /// Whether it is left out.
    pub(crate) fn is_out(&self) -> bool {
        self.out.load(Ordering::Relaxed)
    }

    /// The endpoint has answered.
    pub(crate) fn answered(&self) {
        if self.in_row.load(Ordering::Relaxed) > 0 {
            self.in_row.store(0, Ordering::Relaxed);
        }
    }

    /// A session could not be served. True if there were too many of these in a row: then it should be put out.
    pub(crate) fn failed(&self) -> bool {
        self.in_row.fetch_add(1, Ordering::Relaxed) + 1 >= self.rules.failures && !self.is_out()
    }

    /// Leaves it out, longer each time. False if it is out already.
    pub(crate) fn put_out(&self, now: Instant) -> bool {
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        if self.out.swap(true, Ordering::Relaxed) {
            return false;
        }
        *history = History { times: history.times.saturating_add(1), since: Some(now) };
        true
    }

    /// Lets it back in when its time is over, and forgets an earlier time once it has done well for as long.
    pub(crate) fn look(&self, now: Instant) {
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        if history.since.is_none_or(|since| now.saturating_duration_since(since) < self.length(history.times)) {
            return;
        }
        if self.is_out() {
            history.since = Some(now);
            // One more failure and it is out again.
            self.in_row.store(self.rules.failures.saturating_sub(1), Ordering::Relaxed);
            self.out.store(false, Ordering::Relaxed);
        } else {
            let times = history.times.saturating_sub(1);
            *history = History { times, since: (times > 0).then_some(now) };
            if times == 0 {
                self.in_row.store(0, Ordering::Relaxed);
            }
        }
    }

    /// Forgets everything.
    pub(crate) fn start_anew(&self) {
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        *history = History::default();
        self.in_row.store(0, Ordering::Relaxed);
        self.out.store(false, Ordering::Relaxed);
    }

    /// How long it is left out for the `times`-th time.
    fn length(&self, times: u32) -> Duration {
        let factor = 1_u32.checked_shl(times.saturating_sub(1)).unwrap_or(u32::MAX);
        self.rules.ejection.saturating_mul(factor).min(self.rules.longest)
    }
}

/// The endpoints of a pool, counted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Crowd {
    /// All of them.
    pub(crate) all: usize,
    /// Those left out as outliers.
    pub(crate) out: usize,
    /// Those that can be chosen.
    pub(crate) usable: usize,
    /// Those of which nothing is known yet.
    pub(crate) unknown: usize,
}

impl Crowd {
    /// Whether one more that can be chosen may be left out: at most so many percent are (rounded down, but one in any
    /// case), and never the last.
    pub(crate) fn can_spare_one(self, most_percent: u32) -> bool {
        self.usable > 1 && self.out < (self.all * most_percent as usize / 100).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Outliers =
        Outliers { failures: 3, ejection: Duration::from_secs(10), longest: Duration::from_secs(35), most_percent: 50 };

    /// Fails until it should be put out; how often that was.
    fn fail(outlier: &Outlier) -> u32 {
        (1..100).find(|_| outlier.failed()).expect("it is put out at some time")
    }

    #[test]
    fn failures_count_in_a_row_only() {
        let outlier = Outlier::new(RULES);
        assert!(!outlier.failed() && !outlier.failed());
        outlier.answered();
        assert_eq!(fail(&outlier), 3);
    }

    #[test]
    fn it_is_out_for_longer_each_time_and_forgiven_in_time() {
        let (outlier, start) = (Outlier::new(RULES), Instant::now());
        // When something happens, what, and whether it is out then.
        let put_out = |at: u64, failures| {
            assert_eq!(fail(&outlier), failures, "at {at} s");
            assert!(outlier.put_out(start + Duration::from_secs(at)), "at {at} s");
            assert!(!outlier.put_out(start + Duration::from_secs(at)), "at {at} s: it is out already");
            assert!(!outlier.failed(), "at {at} s: it cannot be put out twice");
        };
        let look = |at: u64| {
            outlier.look(start + Duration::from_secs(at));
            outlier.is_out()
        };
        assert!(!look(0));
        put_out(0, 3);
        assert!(look(9) && !look(10));
        put_out(11, 1);
        assert!(look(30) && !look(31));
        put_out(32, 1);
        assert!(look(66) && !look(67), "35 s and not 40: that is the longest");
        // 35 s, 20 s and 10 s without trouble, and everything is forgotten.
        assert!(!look(102) && !look(122) && !look(132));
        put_out(200, 3);
        assert!(look(209) && !look(210));
        put_out(211, 1);
        outlier.start_anew();
        assert!(!look(211));
        put_out(212, 3);
        assert!(look(221) && !look(222));
    }

    #[test]
    fn never_too_many_and_never_the_last() {
        for (all, out, usable, percent, can) in [
            (1, 0, 1, 100, false),
            (2, 0, 2, 50, true),
            (2, 0, 2, 1, true),
            (4, 1, 3, 49, false),
            (2, 0, 1, 50, false),
            (10, 4, 6, 50, true),
            (10, 5, 5, 50, false),
            (10, 8, 2, 100, true),
            (10, 2, 1, 100, false),
        ] {
            let crowd = Crowd { all, out, usable, unknown: 0 };
            assert_eq!(crowd.can_spare_one(percent), can, "{crowd:?}, {percent} %");
        }
    }
}
