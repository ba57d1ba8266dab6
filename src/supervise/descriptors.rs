//! The budget of file descriptors: how many connections the process can serve at once.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::forward::splice::PIPES_PER_WORKER;

/// Standard streams, the log, the runtimes of the control side, name resolution, configuration files.
const RESERVE: u64 = 32;
/// The reactor and the spare descriptor of a worker.
const PER_WORKER: u64 = 5 + 2 * PIPES_PER_WORKER as u64;
/// The admin listener and its connections.
const ADMIN: u64 = 66;
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

/// Connections that `limit` descriptors are enough for.
pub(crate) fn connections(limit: Option<u64>, workers: usize, listening: usize, admin: bool) -> usize {
    let Some(limit) = limit else { return usize::MAX };
    let taken = RESERVE + PER_WORKER * workers as u64 + listening as u64 + if admin { ADMIN } else { 0 };
    usize::try_from(limit.saturating_sub(taken) / PER_SESSION).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twenty_thousand_descriptors_serve_about_9900() {
        assert_eq!(connections(Some(20_000), 2, 4, true), 9_880);
        assert_eq!(connections(Some(20_000), 2, 4, false), 9_913);
        assert_eq!(connections(Some(100), 2, 4, false), 0, "not enough for anything");
        assert_eq!(connections(None, 2, 4, false), usize::MAX);
    }
}
