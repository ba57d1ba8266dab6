//! Random-two: of two endpoints drawn by lot, the one that carries less for its weight. It costs the same for any number
//! of endpoints, and workers that choose at the same moment do not all choose the same one (Mitzenmacher, "The Power of
//! Two Choices", 2001).

use std::cmp::Ordering;

use super::{Load, by_recent, by_sessions};

/// Draws until an endpoint is found that may be chosen; then a look at all of them is cheaper.
const DRAWS: usize = 16;

/// Endpoints by weight, for drawing.
#[derive(Debug, Default)]
pub(crate) struct Urn {
    /// The sum of the weights up to and with each endpoint.
    sums: Vec<u32>,
}

impl Urn {
    /// Endpoints of these weights.
    pub(crate) fn new(weights: impl Iterator<Item = u16>) -> Urn {
        let mut sum = 0;
        Urn {
            sums: weights
                .map(|weight| {
                    sum += u32::from(weight);
                    sum
                })
                .collect(),
        }
    }

    /// The endpoint to choose and the load it was chosen by, of those that `may` allows. `dice` gives a number below its
    /// argument; `load` tells of one endpoint, its recent picks included.
    pub(crate) fn pick(
        &self,
        mut dice: impl FnMut(u32) -> u32,
        load: impl Fn(usize) -> Load,
        may: impl Fn(usize) -> bool,
    ) -> Option<(usize, Load)> {
        let sum = self.sums.last().copied().filter(|&sum| sum > 0)?;
        let mut drawn = (0..DRAWS)
            .map(|_| {
                let ticket = dice(sum);
                self.sums.partition_point(|&sum| sum <= ticket)
            })
            .filter(|&index| may(index))
            .map(|index| (index, load(index)));
        let Some(first) = drawn.next() else { return self.least(load, may) };
        match drawn.find(|(index, _)| *index != first.0) {
            Some(second) if less_loaded(&second.1, &first.1).is_lt() => Some(second),
            _ => Some(first),
        }
    }

    /// The least loaded of all that may be chosen.
    fn least(&self, load: impl Fn(usize) -> Load, may: impl Fn(usize) -> bool) -> Option<(usize, Load)> {
        (0..self.sums.len())
            .filter(|&index| may(index))
            .map(|index| (index, load(index)))
            .filter(|(_, load)| load.weight > 0)
            .min_by(|(_, a), (_, b)| less_loaded(a, b))
    }
}

/// Compares two endpoints by their sessions, then by how often they were chosen lately.
fn less_loaded(a: &Load, b: &Load) -> Ordering {
    by_sessions(a, b).then_with(|| by_recent(a, b))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Endpoints of these weights that are picked so often; every pick stays as a session if `stay`.
    fn run(weights: &[u16], picks: usize, stay: bool, may: impl Fn(usize) -> bool) -> Vec<u32> {
        let urn = Urn::new(weights.iter().copied());
        let mut dice = fastrand::Rng::with_seed(1);
        let mut seen = vec![0; weights.len()];
        for _ in 0..picks {
            let load = |index: usize| {
                let seen: u32 = seen[index];
                Load { weight: weights[index], active: if stay { seen } else { 0 }, recent: seen }
            };
            let (index, _) = urn.pick(|below| dice.u32(..below), load, &may).expect("there is an endpoint");
            seen[index] += 1;
        }
        seen
    }

    #[test]
    fn sixteen_hundred_idle_endpoints_get_about_the_same() {
        let seen = run(&[1; 1600], 1_000_000, false, |_| true);
        let (least, most) = (seen.iter().min().unwrap(), seen.iter().max().unwrap());
        assert!(*least >= 580 && *most <= 660, "between {least} and {most} picks, 625 on average");
    }

    #[test]
    fn weights_are_respected() {
        let seen = run(&[1, 2, 4, 0, 9], 160_000, true, |_| true);
        for (seen, expected) in seen.into_iter().zip([10_000_u32, 20_000, 40_000, 0, 90_000]) {
            assert!(seen.abs_diff(expected) <= 200, "{seen} picks, {expected} expected");
        }
    }

    #[test]
    fn one_among_many_that_may_not_is_found() {
        assert_eq!(run(&[1; 500], 100, true, |index| index == 333)[333], 100);
        let urn = Urn::new([0, 0].into_iter());
        let load = |_| Load { weight: 0, active: 0, recent: 0 };
        assert_eq!(urn.pick(|_| 0, load, |_| true), None, "weight 0 gets nothing");
        assert_eq!(Urn::default().pick(|_| 0, load, |_| true), None);
        assert_eq!(Urn::new([1, 1].into_iter()).pick(|_| 1, load, |_| false), None);
    }
}
