//! What holds of pools by role, whatever servers say and operators do: no write goes to an endpoint that has not said that it
//! is the primary, none while another says so too, reads fall back only for want of replicas, and limits hold over all parts.

use std::time::SystemTime;

use proptest::prelude::*;

use super::operator::Mode;
use super::tests::member;
use super::*;
use crate::config::model::{FALLBACK, Part};
use crate::health::Finding;

const SERVERS: usize = 4;
const PARTS: [Part; 3] = [Part::Primary, Part::Replica, Part::ReplicaOrPrimary];

/// What a probe finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    Primary,
    Replica,
    /// It answers that it does not serve, and not what it is.
    No,
    Nothing,
}

#[derive(Clone, Debug)]
enum Step {
    /// A probe of this server, of which all parts hear.
    Probe(usize, Says),
    /// A session of this part begins, after having tried that server.
    Lease(usize, Option<usize>),
    /// The session of this number, of those that there are, ends.
    Release(usize),
    Mode(usize, u8),
    Weight(usize, Option<u16>),
    /// A session of this part fails at that server.
    Fail(usize, usize),
    /// Servers whose bit is set are members.
    Members(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let says = proptest::sample::select(&[Says::Primary, Says::Replica, Says::No, Says::Nothing][..]);
    prop_oneof![
        8 => (0..SERVERS, says).prop_map(|(index, says)| Step::Probe(index, says)),
        8 => (0..PARTS.len(), proptest::option::of(0..SERVERS)).prop_map(|(part, tried)| Step::Lease(part, tried)),
        2 => any::<usize>().prop_map(Step::Release),
        1 => (0..SERVERS, 0_u8..3).prop_map(|(index, mode)| Step::Mode(index, mode)),
        1 => (0..SERVERS, proptest::option::of(0_u16..3)).prop_map(|(index, weight)| Step::Weight(index, weight)),
        2 => (0..PARTS.len(), 0..SERVERS).prop_map(|(part, index)| Step::Fail(part, index)),
        1 => any::<u8>().prop_map(Step::Members),
    ]
}

/// The three parts of a pool as it is written, with these further keys.
fn parts(keys: &str, metrics: &Metrics) -> Vec<Pool> {
    parts_with(keys, "", metrics)
}

/// The same with these keys of the health table, each with a comma behind it.
fn parts_with(keys: &str, health: &str, metrics: &Metrics) -> Vec<Pool> {
    let text = format!(
        "listener.w = {{ bind = '127.0.0.1:1', protocol = 'tcp' }}\nroute.w = {{ listener = 'w', pool = 'pg', role = 'primary' }}\n\
         listener.r = {{ bind = '127.0.0.1:2', protocol = 'tcp' }}\nroute.r = {{ listener = 'r', pool = 'pg', role = 'replica' }}\n\
         listener.f = {{ bind = '127.0.0.1:3', protocol = 'tcp' }}\n\
         route.f = {{ listener = 'f', pool = 'pg', role = 'replica', fallback = 'primary' }}\n\
         [pool.pg]\nendpoints = ['10.0.0.0:1', {{ address = '10.0.0.1:1', priority = 1 }}]\nsingle_writer = true\noutliers = {{ failures = 2, most_percent = 100 }}\n{keys}\n\
         health = {{ probe = 'postgres', user = 'probe', {health}rise = 2, fall = 2 }}\n"
    );
    let loaded = crate::config::parse_str("a.toml".as_ref(), &text).unwrap_or_else(|problems| panic!("{problems}"));
    let pools = loaded.config.pools;
    assert_eq!(pools.iter().map(|pool| pool.part).collect::<Vec<_>>(), PARTS.map(Some));
    let shared = Arc::new(Parts::of(&pools));
    pools.iter().map(|pool| Pool::part(pool, Some(&shared), metrics, &Arc::default())).collect()
}

fn finding(says: Says) -> Finding {
    match says {
        Says::Primary => Finding::of_server(Role::Primary),
        Says::Replica => Finding::of_server(Role::Replica),
        Says::No => Finding::refusal(),
        Says::Nothing => Finding::silence(),
    }
}

fn name(index: usize) -> String {
    format!("10.0.0.{index}:1")
}

#[test]
fn a_connection_is_not_used_to_a_server_that_was_demoted_meanwhile() {
    let (metrics, now) = (Metrics::new(), SystemTime::now());
    let pools = parts("", &metrics);
    let says = |index: usize, role| {
        for pool in &pools {
            pool.find(&name(index)).unwrap().observe(&Finding::of_server(role), now);
        }
    };
    says(0, Role::Primary);
    says(1, Role::Replica);
    let [write, read, fallback] = [0, 1, 2].map(|part| pools[part].lease(0, &[]).unwrap());
    let [primary, replica] = [write.endpoint(), read.endpoint()];
    let may = || {
        let [write, read, fallback] = [(0, &write), (1, &read), (2, &fallback)]
            .map(|(part, lease): (usize, &Lease)| pools[part].may_begin(lease.endpoint()));
        (write, read, fallback)
    };
    assert_eq!((&*primary.name, &*replica.name, may()), ("10.0.0.0:1", "10.0.0.1:1", (true, true, true)));
    says(1, Role::Primary);
    assert_eq!(may(), (false, false, true), "there are two now, and none is a replica");
    says(0, Role::Replica);
    assert_eq!(may(), (false, false, true), "it is the other one now");
    says(1, Role::Replica);
    says(0, Role::Primary);
    assert_eq!(may(), (false, false, true), "one pass of two");
    says(1, Role::Replica);
    says(0, Role::Primary);
    assert_eq!(may(), (true, true, true));
    // As one that Sentinels have just deposed: it no longer has a role of its own.
    for pool in &pools {
        pool.find(&name(0)).unwrap().observe(&Finding::refusal(), now);
    }
    assert_eq!(may(), (false, true, false), "it said that it should not serve, and reads had fallen back on it");
}

#[test]
fn reads_leave_the_primary_once_a_replica_serves() {
    let metrics = Metrics::new();
    let pools = parts("failback = 'never'", &metrics);
    let (reads, now) = (&pools[2], Instant::now());
    let settle = || {
        reads.settle(now);
        let [first, second] = [0, 1].map(|index| reads.find(&name(index)).unwrap());
        (reads.in_use(), first.leaving.get().map(|(cause, _)| cause), second.leaving.get().map(|(cause, _)| cause))
    };
    let says = |index: usize, finding: &Finding| reads.find(&name(index)).unwrap().observe(finding, SystemTime::now());
    says(0, &Finding::of_server(Role::Primary));
    says(1, &Finding::silence());
    assert_eq!(settle(), (Some(FALLBACK), None, Some(Cause::Down)), "there is no replica");
    let stays = reads.lease(0, &[]).unwrap();
    assert_eq!(&*stays.endpoint().name, "10.0.0.0:1");
    says(1, &Finding::of_server(Role::Replica));
    assert_eq!(settle(), (Some(FALLBACK), None, Some(Cause::Down)), "one pass of two");
    says(1, &Finding::of_server(Role::Replica));
    // Also where a backup would go on until it fails.
    assert_eq!(settle(), (Some(1), Some(Cause::Recovery), None));
    // They change places, and there is a moment of two primaries.
    says(1, &Finding::of_server(Role::Primary));
    assert_eq!(settle(), (Some(FALLBACK), None, None), "who reads there stays");
    says(0, &Finding::of_server(Role::Replica));
    assert_eq!(settle(), (Some(0), None, Some(Cause::Recovery)));
}

#[test]
fn sessions_of_a_replica_that_only_lags_are_as_if_it_drained() {
    let metrics = Metrics::new();
    let pools = parts_with("", "max_lag = '1s', ", &metrics);
    let (reads, now) = (&pools[1], Instant::now());
    for (case, finding, cause) in [
        ("near enough", Finding::of_replica(Duration::from_secs(1)), None),
        ("too far", Finding::of_replica(Duration::from_secs(2)), Some(Cause::Drain)),
        ("promoted", Finding::of_server(Role::Primary), Some(Cause::Demotion)),
        ("too far again", Finding::of_replica(Duration::from_secs(2)), Some(Cause::Drain)),
        ("another definite answer", Finding::refusal(), Some(Cause::Demotion)),
    ] {
        let endpoint = reads.find(&name(0)).unwrap();
        endpoint.observe(&finding, SystemTime::now());
        assert!(reads.is_stirred(), "{case}");
        reads.settle(now);
        assert_eq!(endpoint.leaving.get().map(|(cause, _)| cause), cause, "{case}");
        assert_eq!(reads.lease(0, &[]).is_ok(), cause.is_none(), "{case}");
    }
}

#[test]
fn a_bound_goes_by_the_sessions_of_its_own_part() {
    let metrics = Metrics::new();
    let pools = parts("balance = 'maglev'\nhash_balance_factor = 125", &metrics);
    let members: Vec<Member> = (0..3).map(|index| member(&name(index))).collect();
    for pool in &pools {
        pool.set(members.clone(), &metrics);
        for (index, role) in [Role::Primary, Role::Replica, Role::Replica].into_iter().enumerate() {
            pool.find(&name(index)).unwrap().observe(&Finding::of_server(role), SystemTime::now());
        }
        pool.settle(Instant::now());
    }
    let [replicas, both] = [&pools[1], &pools[2]];
    let key = (0..).find(|key| &*replicas.lease(*key, &[]).unwrap().endpoint().name == "10.0.0.1:1").unwrap();
    // To this part the endpoint is as idle as the other one, whatever another part has sent there.
    let of_other = both.lease(key, &[]).unwrap();
    assert_eq!(&*of_other.endpoint().name, "10.0.0.1:1");
    assert_eq!(&*replicas.lease(key, &[]).unwrap().endpoint().name, "10.0.0.1:1");
}

/// What the test itself remembers of a server, for each part: a part that has forgotten it starts anew.
#[derive(Clone, Copy, Debug, Default)]
struct Heard {
    role: Option<Role>,
    claims: bool,
    misses: u32,
}

impl Heard {
    fn hear(&mut self, says: Says) {
        self.misses = if says == Says::Nothing { self.misses + 1 } else { 0 };
        match says {
            Says::Primary | Says::Replica => {
                let role = if says == Says::Primary { Role::Primary } else { Role::Replica };
                (self.role, self.claims) = (Some(role), role == Role::Primary);
            }
            Says::No => self.claims = false,
            // With fall = 2.
            Says::Nothing => self.claims &= self.misses < 2,
        }
    }
}

proptest! {
    #[test]
    fn roles_are_kept_to(
        panics in any::<bool>(), fails_back in any::<bool>(), limit in proptest::option::of(1_u32..4),
        ranks in proptest::collection::vec(0_u32..2, SERVERS), steps in proptest::collection::vec(step(), 1..80),
    ) {
        let metrics = Metrics::new();
        let panic = if panics { "panic_percent = 60" } else { "" };
        let failback = if fails_back { "" } else { "failback = 'never'" };
        let pools = parts(&format!("{panic}\n{failback}"), &metrics);
        let all: Vec<Member> = ranks.iter().enumerate().map(|(index, rank)| Member { priority: *rank, max_connections: limit, ..member(&name(index)) }).collect();
        pools.iter().for_each(|pool| pool.set(all.clone(), &metrics));
        let mut heard = [[Heard::default(); SERVERS]; PARTS.len()];
        let mut leases: Vec<(usize, Lease)> = Vec::new();
        let mut now = Instant::now();
        for step in steps {
            match step {
                Step::Probe(index, says) => {
                    for (pool, heard) in pools.iter().zip(&mut heard) {
                        // Only members are probed.
                        if let Some(endpoint) = pool.endpoints().iter().find(|endpoint| *endpoint.name == *name(index)) {
                            endpoint.observe(&finding(says), SystemTime::now());
                            heard[index].hear(says);
                        }
                    }
                }
                Step::Lease(part, tried) => {
                    let pool = &pools[part];
                    let tried = [tried.and_then(|index| pool.find(&name(index)))];
                    let (set, heard) = (pool.endpoints(), &heard[part]);
                    let of = |endpoint: &Endpoint| heard[usize::from(endpoint.name.as_bytes()[7] - b'0')];
                    let serves = |endpoint: &&Arc<Endpoint>| {
                        endpoint.is_admitted()
                            && endpoint.standing() == Standing::Up
                            && endpoint.share() > 0
                            && tried[0].as_ref().is_none_or(|tried| tried.name != endpoint.name)
                    };
                    let claims = |endpoint: &Endpoint| of(endpoint).claims && endpoint.operator.mode() != Mode::Maintenance;
                    let found = pool.lease(0, &tried);
                    if let Ok(lease) = &found {
                        let chosen = lease.endpoint();
                        prop_assert_eq!(chosen.operator.mode(), Mode::Ready);
                        if let Some(role) = PARTS[part].role() {
                            prop_assert_eq!(of(chosen).role, Some(role), "{:?} {:?}", PARTS[part], chosen);
                        }
                    }
                    match (PARTS[part], found) {
                        (Part::Primary, found) => {
                            let is_sole = |chosen: &Endpoint| {
                                set.iter().all(|other| *other.name == *chosen.name || !claims(other))
                            };
                            match found {
                                Ok(lease) => {
                                    prop_assert!(is_sole(lease.endpoint()), "{:?}", heard);
                                    leases.push((part, lease));
                                }
                                Err(lack) => {
                                    let may = set.iter().any(|endpoint| serves(&endpoint) && is_sole(endpoint));
                                    prop_assert_eq!(may, lack == Lack::Places, "{:?} {:?}", lack, heard);
                                }
                            }
                        }
                        (Part::ReplicaOrPrimary, Ok(lease)) => {
                            let replica = |endpoint: &&Arc<Endpoint>| serves(endpoint) && endpoint.is_fit() && of(endpoint).role == Some(Role::Replica);
                            let is_primary = of(lease.endpoint()).role == Some(Role::Primary);
                            prop_assert!(!is_primary || !set.iter().any(|endpoint| replica(&endpoint)), "{:?}", heard);
                            leases.push((part, lease));
                        }
                        (_, Ok(lease)) => leases.push((part, lease)),
                        (_, Err(_)) => {}
                    }
                }
                Step::Release(which) if !leases.is_empty() => drop(leases.swap_remove(which % leases.len())),
                Step::Release(_) => {}
                Step::Mode(index, mode) => {
                    let mode = [Mode::Ready, Mode::Drain, Mode::Maintenance][usize::from(mode)];
                    if let Some(endpoint) = pools[0].find(&name(index)) {
                        endpoint.operator.set_mode(mode);
                        let known = pools.iter().filter_map(|pool| pool.find(&name(index)));
                        prop_assert!(known.into_iter().all(|endpoint| endpoint.operator.mode() == mode), "it holds in all parts");
                    }
                }
                Step::Weight(index, weight) => {
                    pools[0].find(&name(index)).iter().for_each(|endpoint| endpoint.operator.set_weight(weight));
                }
                Step::Fail(part, index) => {
                    pools[part].find(&name(index)).iter().for_each(|endpoint| pools[part].failed(endpoint));
                }
                Step::Members(bits) => {
                    let kept = |(index, member): (usize, &Member)| (bits >> index & 1 == 1).then(|| member.clone());
                    let kept: Vec<Member> = all.iter().enumerate().filter_map(kept).collect();
                    for (pool, heard) in pools.iter().zip(&mut heard) {
                        pool.set(Vec::new(), &metrics);
                        for (index, heard) in heard.iter_mut().enumerate() {
                            if pool.find(&name(index)).is_none() {
                                *heard = Heard::default();
                            }
                        }
                        pool.set(kept.clone(), &metrics);
                    }
                }
            }
            now += BETWEEN_ORDERS;
            pools.iter().for_each(|pool| {
                pool.settle(now);
            });
            for index in 0..SERVERS {
                let of_part = |part: usize| {
                    let own = |(of, lease): &&(usize, Lease)| *of == part && *lease.endpoint().name == *name(index);
                    leases.iter().filter(own).count()
                };
                for (part, pool) in pools.iter().enumerate() {
                    if let Some(endpoint) = pool.find(&name(index)) {
                        prop_assert_eq!(endpoint.active() as usize, of_part(part));
                        prop_assert_eq!(endpoint.load().active as usize, (0..PARTS.len()).map(of_part).sum::<usize>());
                        prop_assert!(limit.is_none_or(|limit| endpoint.load().active <= limit));
                    }
                }
            }
        }
        let held: Vec<Arc<Endpoint>> = leases.iter().map(|(_, lease)| Arc::clone(lease.endpoint())).collect();
        drop(leases);
        prop_assert!(held.iter().all(|endpoint| endpoint.active() == 0 && endpoint.load().active == 0));
    }
}
