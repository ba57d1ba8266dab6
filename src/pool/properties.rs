//! What holds for every algorithm, whatever happens: choices fall only on whom they may, nobody is overbooked or starved,
//! shares follow the weights, and counts are exact.

use proptest::prelude::*;

use super::operator::Mode;
use super::tests::{described, member};
use super::*;
use crate::config::model::{Balance, Hash, HashKey};

const BALANCES: [Balance; 5] = [
    Balance::LeastConnections,
    Balance::RoundRobin,
    Balance::RandomTwo,
    Balance::Maglev(Hash { key: HashKey::Sni, balance_factor: None }),
    Balance::Maglev(Hash { key: HashKey::Sni, balance_factor: Some(150) }),
];

#[derive(Clone, Debug)]
enum Step {
    /// A session begins, with this key, after having tried that endpoint.
    Lease(u64, Option<usize>),
    /// The session of this number, of those that there are, ends.
    Release(usize),
    Mode(usize, u8),
    Weight(usize, Option<u16>),
    /// Endpoints whose bit is set are members.
    Members(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (any::<u64>(), proptest::option::of(0_usize..6)).prop_map(|(key, tried)| Step::Lease(key, tried)),
        4 => any::<usize>().prop_map(Step::Release),
        1 => (0_usize..6, 0_u8..3).prop_map(|(index, mode)| Step::Mode(index, mode)),
        1 => (0_usize..6, proptest::option::of(0_u16..5)).prop_map(|(index, weight)| Step::Weight(index, weight)),
        1 => any::<u8>().prop_map(Step::Members),
    ]
}

/// One member as it is drawn: weight, priority, places.
fn members() -> impl Strategy<Value = Vec<Member>> {
    let one = (0_u16..4, 0_u32..3, proptest::option::of(1_u32..4));
    proptest::collection::vec(one, 6).prop_map(|all| {
        let member = |(index, (weight, priority, max_connections)): (usize, _)| Member {
            weight,
            priority,
            max_connections,
            ..member(&format!("10.0.0.{index}:1"))
        };
        all.into_iter().enumerate().map(member).collect()
    })
}

proptest! {
    #[test]
    fn choices_are_allowed_and_counts_exact(
        balance in proptest::sample::select(&BALANCES[..]), all in members(), steps in proptest::collection::vec(step(), 1..60),
    ) {
        let (metrics, pool) = (Metrics::new(), Pool::new(&described(balance), &Metrics::new(), &Arc::default()));
        pool.set(all.clone(), &metrics);
        let mut leases: Vec<Lease> = Vec::new();
        let mut now = Instant::now();
        for step in steps {
            now += BETWEEN_ORDERS;
            pool.settle(now);
            match step {
                Step::Lease(key, tried) => {
                    let tried = [tried.and_then(|index| pool.find(&all[index].name))];
                    let before = pool.endpoints();
                    let may = |endpoint: &&Arc<Endpoint>| {
                        endpoint.weight() > 0
                            && endpoint.operator.mode() == Mode::Ready
                            && tried[0].as_ref().is_none_or(|tried| tried.name != endpoint.name)
                    };
                    let best = before.iter().filter(may).map(|endpoint| endpoint.rank()).min();
                    let in_best = || before.iter().filter(may).filter(|endpoint| Some(endpoint.rank()) == best);
                    match pool.lease(key, &tried) {
                        Ok(lease) => {
                            let chosen = lease.endpoint();
                            prop_assert!(in_best().any(|endpoint| Arc::ptr_eq(endpoint, chosen)), "{chosen:?}");
                            leases.push(lease);
                        }
                        Err(Lack::Nobody) => prop_assert_eq!(best, None),
                        Err(Lack::Places) => prop_assert!(in_best().all(|endpoint| !endpoint.has_place()) && best.is_some()),
                    }
                }
                Step::Release(which) if !leases.is_empty() => drop(leases.swap_remove(which % leases.len())),
                Step::Release(_) => {}
                Step::Mode(index, mode) => {
                    let mode = [Mode::Ready, Mode::Drain, Mode::Maintenance][usize::from(mode)];
                    if let Some(endpoint) = pool.find(&all[index].name) {
                        endpoint.operator.set_mode(mode);
                    }
                }
                Step::Weight(index, weight) => {
                    pool.find(&all[index].name).iter().for_each(|endpoint| endpoint.operator.set_weight(weight));
                }
                Step::Members(bits) => {
                    let kept = |(index, member): (usize, &Member)| (bits >> index & 1 == 1).then(|| member.clone());
                    pool.set(all.iter().enumerate().filter_map(kept).collect(), &metrics);
                }
            }
            for endpoint in pool.endpoints() {
                let own = leases.iter().filter(|lease| Arc::ptr_eq(lease.endpoint(), &endpoint)).count();
                prop_assert_eq!(endpoint.active() as usize, own);
                prop_assert!(endpoint.max_connections().is_none_or(|most| endpoint.active() <= most));
            }
        }
        let held: Vec<Arc<Endpoint>> = leases.iter().map(|lease| Arc::clone(lease.endpoint())).collect();
        drop(leases);
        prop_assert!(held.iter().all(|endpoint| endpoint.active() == 0));
        if let Some(active) = &pool.commons.active {
            prop_assert_eq!(active.load(std::sync::atomic::Ordering::Relaxed), 0);
        }
    }

    #[test]
    fn shares_follow_the_weights_and_nobody_starves(
        balance in proptest::sample::select(&BALANCES[..]), weights in proptest::collection::vec(1_u16..=8, 2..8),
    ) {
        let pool = Pool::new(&described(balance), &Metrics::new(), &Arc::default());
        let members = weights.iter().enumerate();
        let members = members.map(|(index, weight)| Member { weight: *weight, ..member(&format!("10.0.0.{index}:1")) });
        pool.set(members.collect(), &Metrics::new());
        let sum: u16 = weights.iter().sum();
        let rounds = 200;
        let leases: Vec<Lease> =
            (0..u64::from(sum) * rounds).map(|key| pool.lease(maglev::key(&key.to_be_bytes()), &[]).unwrap()).collect();
        for (endpoint, weight) in pool.endpoints().iter().zip(&weights) {
            let share = f64::from(endpoint.active()) / (f64::from(*weight) * rounds as f64);
            // Exact in turn and by sessions; by lot and by hash as far as chance allows.
            let tolerance = if matches!(balance, Balance::LeastConnections | Balance::RoundRobin) { 0.02 } else { 0.5 };
            prop_assert!((share - 1.0).abs() <= tolerance, "{balance:?} {weights:?}: {} has {share} of its share", endpoint.name);
        }
        drop(leases);
    }
}
