//! Algorithms that choose an endpoint: pure, one a file, over indices and numbers.

use std::cmp::Ordering;

pub(crate) mod least_connections;
pub(crate) mod maglev;
pub(crate) mod random_two;
pub(crate) mod round_robin;

/// What an algorithm may know of one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    /// Its share; 0 is never chosen.
    pub(crate) weight: u16,
    /// Sessions that it has now.
    pub(crate) active: u32,
    /// How often it was chosen lately, where that counts; else 0.
    pub(crate) recent: u32,
}

impl Load {
    /// Of an endpoint that is not there: it is never chosen.
    pub(crate) const NONE: Load = Load { weight: 0, active: 0, recent: 0 };
}

/// Compares what two endpoints would carry with one session more, for their weight.
pub(crate) fn by_sessions(a: &Load, b: &Load) -> Ordering {
    let share = |of: &Load, other: &Load| (u64::from(of.active) + 1) * u64::from(other.weight);
    share(a, b).cmp(&share(b, a))
}

/// Compares how often two endpoints were chosen lately, for their weight.
pub(crate) fn by_recent(a: &Load, b: &Load) -> Ordering {
    let share = |of: &Load, other: &Load| u64::from(of.recent) * u64::from(other.weight);
    share(a, b).cmp(&share(b, a))
}
