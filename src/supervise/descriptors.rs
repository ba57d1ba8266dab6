//! The budget of file descriptors: how many connections the process can serve at once.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Standard streams, the log, the runtimes of the control side, files of the configuration and of the system.
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
/// Names that may be looked up at once, where there are plenty of descriptors.
const LOOK_UPS: u64 = 64;
/// The share of all descriptors that they may take: one in so many.
const LOOK_UPS_SHARE: u64 = 8;
/// A look-up asks for both families, and a question that is not answered soon is sent from up to three sockets.
const PER_LOOK_UP: u64 = 6;
/// Connections that carry requests to cancel queries at once.
pub(crate) const CANCELS: usize = 32;
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
    /// Names that are looked up at once.
    pub(crate) look_ups: usize,
    /// Descriptors that are needed for anything but connections.
    pub(crate) fixed: u64,
}

/// What else than connections takes descriptors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Needs {
    pub(crate) workers: usize,
    /// Sockets that listen.
    pub(crate) listening: usize,
    /// What operators take.
    pub(crate) admin: u64,
    /// Endpoints that may be probed.
    pub(crate) probed: usize,
    /// Whether names may have to be looked up.
    pub(crate) names: bool,
    /// Whether queries may have to be cancelled.
    pub(crate) cancels: bool,
}

/// Deals out `limit` descriptors (`None`: there is no limit).
pub(crate) fn budget(limit: Option<u64>, needs: Needs) -> Budget {
    let Needs { workers, listening, admin, probed, names, cancels } = needs;
    let workers = workers.max(1) as u64;
    let limit = limit.unwrap_or(u64::MAX / 2);
    let pipes = (limit / PIPES_SHARE / workers / 2).min(PIPES);
    let probes = (probed.min(PROBES) as u64).min((limit / PROBES_SHARE).max(1));
    let look_ups = LOOK_UPS.min((limit / LOOK_UPS_SHARE / PER_LOOK_UP).max(1));
    let cancels = if cancels { CANCELS as u64 } else { 0 };
    let asking = if names { look_ups * PER_LOOK_UP } else { 0 };
    let fixed = RESERVE + probes + asking + cancels + (PER_WORKER + 2 * pipes) * workers + listening as u64 + admin;
    let connections = usize::try_from(limit.saturating_sub(fixed) / PER_SESSION).unwrap_or(usize::MAX);
    let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    Budget { connections, pipes: count(pipes), probes: count(probes), look_ups: count(look_ups), fixed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_dealt_out() {
        let none = Needs { workers: 2, listening: 4, admin: 0, probed: 0, names: false, cancels: false };
        for (case, limit, workers, admin, connections, pipes) in [
            ("as tested here", Some(20_000), 2, true, 9_880, 32),
            ("without pages", Some(20_000), 2, false, 9_913, 32),
            ("many workers and few descriptors", Some(4_096), 64, false, 1_552, 4),
            ("a shell's default", Some(1_024), 2, false, 425, 32),
            ("hardly any", Some(60), 2, false, 5, 1),
            ("too few", Some(40), 2, false, 0, 1),
        ] {
            let admin = if admin { ADMIN_PAGES } else { 0 };
            let budget = budget(limit, Needs { workers, listening: 2 * workers, admin, ..none });
            assert_eq!((budget.connections, budget.pipes), (connections, pipes), "{case}: {budget:?}");
        }
        assert!(budget(None, Needs { admin: ADMIN_PAGES, ..none }).connections > 1 << 40);
        let probed = budget(Some(1_024), Needs { probed: 10_000, ..none });
        assert_eq!((probed.connections, probed.probes), (393, 64), "{probed:?}");
        let cancelled = budget(Some(1_024), Needs { cancels: true, ..none });
        assert_eq!(cancelled.connections, 409, "{cancelled:?}");
        for (limit, connections, look_ups) in [(20_000, 9_721, 64), (1_024, 362, 21), (60, 2, 1)] {
            let named = budget(Some(limit), Needs { names: true, ..none });
            assert_eq!((named.connections, named.look_ups), (connections, look_ups), "{limit}: {named:?}");
        }
    }
}
