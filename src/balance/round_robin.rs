//! Round-robin by weight: one fixed order of turns in which every endpoint's turns are spread evenly.
//!
//! The order is worked out once for a set of endpoints; a choice is then one look-up, so that one shared position
//! serves all workers.

/// The most turns of an order, unless there are more endpoints than that.
const MOST: u64 = 200_000;

/// The order of turns for endpoints of these weights: as many turns each as its weight, divided by what the weights
/// have in common.
///
/// An endpoint's k-th turn of w falls due at (2k + 1) / 2w of the round (stride scheduling, Waldspurger 1995).
///
/// Where that would be more than [`MOST`] turns, each endpoint gets fewer, at least one, which is close to its share.
pub(crate) fn turns(weights: &[u16]) -> Vec<u32> {
    let common = weights.iter().fold(0, |common, &weight| greatest_common_divisor(common, weight)).max(1);
    let sum: u64 = weights.iter().map(|weight| u64::from(weight / common)).sum();
    let divisor = sum.div_ceil(MOST).max(1);
    let mut due: Vec<(u64, u64, u32)> = Vec::new();
    for (index, weight) in (0_u32..).zip(weights.iter().map(|weight| u64::from(weight / common).div_ceil(divisor))) {
        due.extend((0..weight).map(|turn| (2 * turn + 1, 2 * weight, index)));
    }
    due.sort_by(|a, b| (a.0 * b.1).cmp(&(b.0 * a.1)).then(a.2.cmp(&b.2)));
    due.into_iter().map(|(_, _, index)| index).collect()
}

/// The endpoint whose turn it is, of those that `may` allows. `position` gives one number more each time it is asked: the
/// turn of an endpoint that may not be chosen is skipped by all, so that its neighbour does not get it on top of its own.
pub(crate) fn pick(turns: &[u32], mut position: impl FnMut() -> usize, may: impl Fn(usize) -> bool) -> Option<usize> {
    let mut own = turns.iter().filter_map(|_| {
        let turn = position().checked_rem(turns.len())?;
        turns.get(turn).map(|&index| index as usize)
    });
    // Others may draw meanwhile, so that a round of draws need not meet everybody.
    own.find(|&index| may(index)).or_else(|| turns.iter().map(|&index| index as usize).find(|&index| may(index)))
}

fn greatest_common_divisor(a: u16, b: u16) -> u16 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_spread() {
        for (weights, expected) in [
            (&[1, 1, 1][..], &[0, 1, 2][..]),
            (&[2, 1], &[0, 1, 0]),
            (&[4, 2], &[0, 1, 0]),
            (&[5, 1, 1], &[0, 0, 0, 1, 2, 0, 0]),
            (&[0, 3], &[1]),
            (&[0, 0], &[]),
            (&[], &[]),
        ] {
            assert_eq!(turns(weights), expected, "{weights:?}");
        }
    }

    #[test]
    fn an_order_does_not_grow_without_bounds() {
        let weights: Vec<u16> = (0..10_000).map(|index| 1_000 + index % 7).collect();
        let order = turns(&weights);
        assert!((MOST / 2..=MOST + 10_000).contains(&(order.len() as u64)), "{}", order.len());
        let mut counts = vec![0_u32; weights.len()];
        order.iter().for_each(|&index| counts[index as usize] += 1);
        assert!(counts.iter().all(|count| (18..=21).contains(count)), "{counts:?}");
    }

    #[test]
    fn the_next_allowed_takes_the_turn() {
        let turns = turns(&[1, 1, 1]);
        assert_eq!(pick(&turns, from(4), |_| true), Some(1));
        assert_eq!(pick(&turns, from(1), |index| index != 1), Some(2));
        assert_eq!(pick(&turns, from(2), |index| index == 1), Some(1));
        assert_eq!(pick(&turns, || 0, |index| index == 1), Some(1), "whatever others draw");
        assert_eq!(pick(&turns, from(0), |_| false), None);
        assert_eq!(pick(&[], from(3), |_| true), None);
    }

    #[test]
    fn who_may_not_leaves_its_turns_to_all_others() {
        let turns = turns(&[1, 1, 1, 2]);
        let (mut position, mut seen) = (from(0), [0; 4]);
        (0..400).for_each(|_| seen[pick(&turns, &mut position, |index| index != 1).unwrap()] += 1);
        assert_eq!(seen, [100, 0, 100, 200]);
    }

    /// Counts from `first`.
    fn from(first: usize) -> impl FnMut() -> usize {
        let mut next = first;
        move || {
            next += 1;
            next - 1
        }
    }

    proptest::proptest! {
        #[test]
        fn any_stretch_follows_the_weights(weights in proptest::collection::vec(1_u16..=32, 1..12), from: u16) {
            let turns = turns(&weights);
            let total: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
            let length = 1 + usize::from(from) % turns.len();
            let mut seen = vec![0.0; weights.len()];
            for position in 0..length {
                seen[pick(&turns, || position, |_| true).unwrap()] += 1.0;
            }
            for (index, &weight) in weights.iter().enumerate() {
                let expected = f64::from(weight) * length as f64 / total;
                proptest::prop_assert!((seen[index] - expected).abs() <= weights.len() as f64);
            }
        }
    }
}
