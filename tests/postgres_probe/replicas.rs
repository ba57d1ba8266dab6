//! Primaries and replicas, as probes find them.

use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{becomes, login, start, status, told};
use crate::harness::Postgres;
use crate::harness::answering::Authority;
use crate::harness::postgres::Version;

#[test]
fn roles_are_found_and_change() {
    for version in Version::ALL {
        let folder = TempDir::new().unwrap();
        let authority = Authority::new(folder.path());
        let Some(mut primary) = Postgres::start(version, &authority, "one.test") else { continue };
        primary.user("alice", "scram-sha-256", "secret");
        let replica = primary.replica(&authority, "two.test");
        let login = login(&folder, "alice", "secret");
        let tables = [format!("{login}, role = 'primary'"), format!("{login}, role = 'replica'"), login];
        let balancer = start(&[primary.address(), replica.address()], &tables.each_ref().map(|table| &**table));
        for (pool, server, state, last) in [
            (0, &primary, "up", "primary"),
            (0, &replica, "refused", "is a replica"),
            (1, &primary, "refused", "is a primary"),
            (1, &replica, "up", "replica"),
            (2, &primary, "up", "primary"),
            (2, &replica, "up", "replica"),
        ] {
            becomes(&balancer, pool, server.address(), state, last);
            let role = status(&balancer, pool, server.address())["health"]["role"].clone();
            assert_eq!(role, if server.address() == primary.address() { "primary" } else { "replica" });
        }
        primary.stop_now();
        replica.promote();
        becomes(&balancer, 0, replica.address(), "up", "primary");
        becomes(&balancer, 1, replica.address(), "refused", "is a primary");
        becomes(&balancer, 0, primary.address(), "down", "refused");
        primary.start_again();
        // Nobody has told it: it still says that it is one.
        becomes(&balancer, 0, primary.address(), "up", "primary");
    }
}

#[test]
fn a_replica_may_be_too_far_behind() {
    for version in Version::ALL {
        let folder = TempDir::new().unwrap();
        let authority = Authority::new(folder.path());
        let Some(mut primary) = Postgres::start(version, &authority, "one.test") else { continue };
        primary.user("alice", "scram-sha-256", "secret");
        primary.user("bob", "scram-sha-256", "secret");
        primary.sql("GRANT pg_read_all_stats TO bob; CREATE TABLE kept (number integer)");
        let replica = primary.replica(&authority, "two.test");
        replica.catch_up_with(&primary);
        let at = replica.address();
        let tables = ["alice", "bob"]
            .map(|user| format!("{}, role = 'replica', max_lag = '2s'", login(&folder, user, "secret")));
        let balancer = start(&[at], &tables.each_ref().map(|table| &**table));
        let both = |state: &str, last: &str| (0..2).for_each(|pool| becomes(&balancer, pool, at, state, last));
        both("up", "replica, 0.0 s behind");
        // The primary rests for longer than a replica may be behind.
        std::thread::sleep(Duration::from_secs(3));
        both("up", "replica, 0.0 s behind");
        replica.sql("SELECT pg_wal_replay_pause()");
        primary.sql("INSERT INTO kept VALUES (1)");
        both("refused", "s behind, allowed are 2s");
        replica.sql("SELECT pg_wal_replay_resume()");
        both("up", "replica, 0.0 s behind");
        // A long transaction, after a rest: there is no other by which to tell the time.
        const LONG: &str = "DO 'BEGIN FOR i IN 1..50 LOOP INSERT INTO kept SELECT generate_series(1, 200); \
            PERFORM pg_sleep(0.1); END LOOP; END'";
        std::thread::scope(|scope| {
            let writes = scope.spawn(|| primary.sql(LONG));
            let mut states = Vec::new();
            while !writes.is_finished() {
                states.extend((0..2).map(|pool| told(&balancer, pool, at)));
                std::thread::sleep(Duration::from_millis(50));
            }
            assert!(states.len() > 50 && states.iter().all(|(state, _)| state == "up"), "{version:?}: {states:?}");
        });
        // Cut off it counts from then, or from the probe before, and not from what was written last.
        std::thread::sleep(Duration::from_secs(3));
        both("up", "replica, 0.0 s behind");
        let cut = Instant::now();
        primary.stop_now();
        both("refused", "s behind, allowed are 2s");
        assert!(cut.elapsed() > Duration::from_secs(1), "{version:?}: after {:?}", cut.elapsed());
        primary.start_again();
        both("up", "replica, 0.0 s behind");
    }
}
