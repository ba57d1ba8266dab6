//! Least connections: the endpoint with the fewest sessions for its weight, ties in turn.

use std::cmp::Ordering;

use super::{Load, by_sessions};

/// The endpoint to choose among `loads`, of those that `may` allows: its index, and the load it was chosen by.
///
/// Of those that are equal, `start` (any number) says which: callers who count it up spread ties evenly. Endpoints are
/// compared by what their share would be with one session more, which fills an empty pool in proportion to the weights.
pub(crate) fn pick(
    loads: impl Iterator<Item = Load> + Clone,
    start: usize,
    may: impl Fn(usize) -> bool,
) -> Option<(usize, Load)> {
    let candidates = loads.enumerate().filter(|(index, load)| load.weight > 0 && may(*index));
    let (mut least, mut equals) = (None, 0_usize);
    for (index, load) in candidates.clone() {
        match least.as_ref().map_or(Ordering::Less, |(_, least)| by_sessions(&load, least)) {
            Ordering::Less => (least, equals) = (Some((index, load)), 1),
            Ordering::Equal => equals += 1,
            Ordering::Greater => {}
        }
    }
    let (_, share) = least.as_ref()?;
    let mut equal = candidates.filter(|(_, load)| by_sessions(load, share).is_eq());
    // The loads may be others by now; the one found first is as good as any.
    equal.nth(start.checked_rem(equals)?).or(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(weights: &[u16], picks: usize) -> Vec<u32> {
        let mut active = vec![0_u32; weights.len()];
        for start in 0..picks {
            let loads: Vec<Load> =
                weights.iter().zip(&active).map(|(&weight, &active)| Load { weight, active, recent: 0 }).collect();
            let (index, _) = pick(loads.iter().copied(), start, |_| true).expect("there is an endpoint");
            active[index] += 1;
        }
        active
    }

    #[test]
    fn sessions_follow_the_weights() {
        assert_eq!(run(&[1, 1, 1], 300), [100, 100, 100]);
        assert_eq!(run(&[3, 1], 400), [300, 100]);
        assert_eq!(run(&[0, 1], 10), [0, 10], "weight 0 gets nothing");
        assert_eq!(run(&[256, 1, 128], 385), [256, 1, 128]);
    }

    #[test]
    fn ties_go_round() {
        let idle = [Load { weight: 1, active: 0, recent: 0 }; 3];
        let picks: Vec<_> = (0..6)
            .map(|start| pick(idle.iter().copied(), start, |_| true))
            .map(|pick| pick.map(|(index, _)| index))
            .collect();
        assert_eq!(picks, [0, 1, 2, 0, 1, 2].map(Some));
    }

    #[test]
    fn ties_go_round_among_those_that_may() {
        let idle = [Load { weight: 1, active: 0, recent: 0 }; 4];
        let mut seen = [0; 4];
        (0..300).for_each(|start| seen[pick(idle.iter().copied(), start, |index| index != 1).unwrap().0] += 1);
        assert_eq!(seen, [100, 0, 100, 100]);
    }

    #[test]
    fn what_may_not_is_left_out() {
        let loads = [Load { weight: 1, active: 0, recent: 0 }, Load { weight: 1, active: 9, recent: 0 }];
        assert_eq!(pick(loads.iter().copied(), 0, |index| index != 0), Some((1, loads[1])));
        assert_eq!(pick(loads.iter().copied(), 0, |_| false), None);
        assert_eq!(pick([].iter().copied(), 7, |_| true), None);
    }

    proptest::proptest! {
        #[test]
        fn the_choice_is_the_least_loaded(
            loads in proptest::collection::vec((0_u16..=256, 0_u32..1000), 0..40), start: usize,
        ) {
            let loads: Vec<Load> = loads.iter().map(|&(weight, active)| Load { weight, active, recent: 0 }).collect();
            let ratio = |load: &Load| f64::from(load.active + 1) / f64::from(load.weight);
            let least = loads.iter().filter(|load| load.weight > 0).map(ratio).fold(f64::INFINITY, f64::min);
            match pick(loads.iter().copied(), start, |_| true) {
                Some((index, _)) => proptest::prop_assert!(ratio(&loads[index]) <= least * 1.000_001),
                None => proptest::prop_assert!(least.is_infinite()),
            }
        }
    }
}
