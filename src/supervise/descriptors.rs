//! The budget of file descriptors: how many connections the process can serve at once.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Standard streams, the log, the runtimes of the control side, name resolution, configuration files.
const RESERVE: u64 = 32;
/// The reactor and the spare descriptor of a worker.
const PER_WORKER: u64 = 5;
/// Pipes for splice that a worker may open where there are plenty of descriptors; each takes two.
const PIPES: u64 = 32;
/// The share of all descriptors that pipes may take: one in so many.
const PIPES_SHARE: u64 = 8;
/// The listener of the admin pages and its connections.
pub(crate) const ADMIN_PAGES: u64 = 66;
/// The admin socket and its connections.
pub(crate) const ADMIN_SOCKET: u64 = 18;
/// Probes that may be under way at once, where there are plenty of descriptors.
pub(crate) const PROBES: usize = 1024;
/// The share of all descriptors that probes may take: one in so many.
const PROBES_SHARE: u64 = 16;
/// A session has one for the client and one for the endpoint.
const PER_SESSION: u64 = 2;

/// Raises the soft limit to the hard one and returns it; `None` is unlimited.
pub(crate) fn raise() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        // Where that is refused, the soft limit goes on to hold.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
    getrlimit(Resource::Nofile).current
}

/// What a process does with its descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Budget {
    /// Connections at once.
    pub(crate) connections: usize,
    /// Pipes for each worker.
    pub(crate) pipes: usize,
    /// Probes at once.
    pub(crate) probes: usize,
    /// Descriptors that are needed for anything but connections.
    pub(crate) fixed: u64,
}

/// Deals out `limit` descriptors (`None`: there is no limit) where `probed` endpoints may be probed, and operators take
/// `admin`.
pub(crate) fn budget(limit: Option<u64>, workers: usize, listening: usize, admin: u64, probed: usize) -> Budget {
    let workers = workers.max(1) as u64;
    let limit = limit.unwrap_or(u64::MAX / 2);
    let pipes = (limit / PIPES_SHARE / workers / 2).min(PIPES);
    let probes = (probed.min(PROBES) as u64).min((limit / PROBES_SHARE).max(1));
    let fixed = RESERVE + probes + (PER_WORKER + 2 * pipes) * workers + listening as u64 + admin;
    let connections = usize::try_from(limit.saturating_sub(fixed) / PER_SESSION).unwrap_or(usize::MAX);
    let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    Budget { connections, pipes: count(pipes), probes: count(probes), fixed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_dealt_out() {
        for (case, limit, workers, admin, connections, pipes) in [
            ("as tested here", Some(20_000), 2, true, 9_880, 32),
            ("without pages", Some(20_000), 2, false, 9_913, 32),
            ("many workers and few descriptors", Some(4_096), 64, false, 1_552, 4),
            ("a shell's default", Some(1_024), 2, false, 425, 32),
            ("hardly any", Some(60), 2, false, 5, 1),
            ("too few", Some(40), 2, false, 0, 1),
        ] {
            let budget = budget(limit, workers, 2 * workers, if admin { ADMIN_PAGES } else { 0 }, 0);
            assert_eq!((budget.connections, budget.pipes), (connections, pipes), "{case}: {budget:?}");
        }
        assert!(budget(None, 2, 4, ADMIN_PAGES, 0).connections > 1 << 40);
        let probed = budget(Some(1_024), 2, 4, 0, 10_000);
        assert_eq!((probed.connections, probed.probes), (393, 64), "{probed:?}");
    }
}
