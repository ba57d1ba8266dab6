//! A tier: the endpoints of one rank, and the choice among them.
//!
//! What an algorithm works out beforehand is worked out when the tier is made; a choice only looks it up.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use super::{Endpoint, Lease};
use crate::balance::random_two::Urn;
use crate::balance::{Load, least_connections, maglev, round_robin};
use crate::config::model::Balance;
use crate::health::Standing;

/// What all tiers of a pool count together, over all workers.
#[derive(Debug)]
pub(super) struct Counts {
    /// Choices: the turn of round-robin, and who wins a tie of least-connections.
    position: AtomicUsize,
    /// Sessions of all endpoints, those included that have left; only where their number is bounded by it.
    pub(super) active: Option<Arc<AtomicU32>>,
}

impl Counts {
    /// Nothing yet. Sessions of all endpoints are counted only where that is asked for.
    pub(super) fn new(with_active: bool) -> Counts {
        Counts { position: AtomicUsize::new(0), active: with_active.then(Arc::default) }
    }

    fn next_position(&self) -> usize {
        self.position.fetch_add(1, Ordering::Relaxed)
    }
}

/// Endpoints of one rank.
pub(super) struct Tier {
    pub(super) endpoints: Vec<Arc<Endpoint>>,
    order: Order,
    /// The weights of the endpoints that are not down, as of the last second.
    weights_up: AtomicU64,
}

/// What an algorithm has worked out beforehand.
enum Order {
    LeastConnections,
    Turns(Vec<u32>),
    Urn(Urn),
    Maglev {
        table: maglev::Table,
        /// The most sessions of an endpoint in percent of its share.
        bound: Option<u32>,
    },
}

/// An endpoint by its index, and the sessions it was chosen by where the choice depends on them.
type Choice = (usize, Option<u32>);

impl Tier {
    /// The tier of these endpoints.
    pub(super) fn new(endpoints: Vec<Arc<Endpoint>>, balance: Balance) -> Tier {
        let weights = || endpoints.iter().map(|endpoint| endpoint.weight);
        let order = match balance {
            Balance::LeastConnections => Order::LeastConnections,
            Balance::RoundRobin => Order::Turns(round_robin::turns(&weights().collect::<Vec<_>>())),
            Balance::RandomTwo => Order::Urn(Urn::new(weights())),
            Balance::Maglev(hash) => Order::Maglev {
                table: maglev::Table::new(endpoints.iter().map(|endpoint| (&*endpoint.name, endpoint.weight))),
                bound: hash.balance_factor,
            },
        };
        let tier = Tier { endpoints, order, weights_up: AtomicU64::new(0) };
        tier.weigh();
        tier
    }

    /// Adds up the weights of the endpoints that are not down.
    pub(super) fn weigh(&self) {
        let standing = self.endpoints.iter().filter(|endpoint| endpoint.standing() != Standing::Down);
        self.weights_up.store(standing.map(|endpoint| u64::from(endpoint.weight)).sum(), Ordering::Relaxed);
    }

    /// Takes a claim on the endpoint whose turn it is, of those that `may` allows.
    pub(super) fn lease(&self, counts: &Counts, key: u64, may: impl Fn(&Endpoint) -> bool) -> Option<Lease> {
        let may = |index: usize| self.endpoints.get(index).is_some_and(|endpoint| may(endpoint));
        // Nobody's turn is drawn where nobody may take it.
        if !(0..self.endpoints.len()).any(may) {
            return None;
        }
        // The number of sessions that a choice was made by may be another one by the time it is acted on: then the
        // choice is made again.
        loop {
            let (index, active) = self.choose(counts, key, may)?;
            let endpoint = self.endpoints.get(index)?;
            let lease = match active {
                None => Some(Lease::take(endpoint)),
                Some(active) => Lease::take_if(endpoint, active),
            };
            if lease.is_some() {
                if matches!(self.order, Order::Urn(_)) {
                    endpoint.chosen();
                }
                return lease;
            }
        }
    }

    fn choose(&self, counts: &Counts, key: u64, may: impl Fn(usize) -> bool) -> Option<Choice> {
        match &self.order {
            Order::LeastConnections => self.least(counts, may),
            Order::Turns(turns) => round_robin::pick(turns, || counts.next_position(), may).map(|index| (index, None)),
            Order::Urn(urn) => {
                let (index, load) = urn.pick(|below| fastrand::u32(..below), |index| self.load(index), may)?;
                Some((index, Some(load.active)))
            }
            Order::Maglev { table, bound: None } => self.hashed(counts, table, key, may),
            Order::Maglev { table, bound: Some(percent) } => {
                let bounded = self.bounded(counts, table, *percent, key, &may);
                bounded.or_else(|| self.hashed(counts, table, key, may))
            }
        }
    }

    fn least(&self, counts: &Counts, may: impl Fn(usize) -> bool) -> Option<Choice> {
        let loads = self.endpoints.iter().map(|endpoint| endpoint.load());
        let (index, load) = least_connections::pick(loads, counts.next_position(), may)?;
        Some((index, Some(load.active)))
    }

    /// The endpoint that `key` leads to.
    fn hashed(&self, counts: &Counts, table: &maglev::Table, key: u64, may: impl Fn(usize) -> bool) -> Option<Choice> {
        // Where nobody near can be chosen, those who can are so few that looking at all of them is what is left.
        table.pick(key, &may).map(|index| (index, None)).ok().or_else(|| self.least(counts, may))
    }

    /// The endpoint that `key` leads to, of those that do not carry more than so many percent of their share.
    fn bounded(
        &self,
        counts: &Counts,
        table: &maglev::Table,
        percent: u32,
        key: u64,
        may: impl Fn(usize) -> bool,
    ) -> Option<Choice> {
        let weights = self.weights_up.load(Ordering::Relaxed);
        let sessions = counts.active.as_ref().map_or(0, |active| active.load(Ordering::Relaxed)).into();
        let active = Cell::new(None);
        let has_room = |index: usize| {
            let load = self.load(index);
            active.set(Some(load.active));
            maglev::has_room(&load, sessions, weights, percent)
        };
        let index = table.pick(key, |index| may(index) && has_room(index)).ok()?;
        Some((index, active.get()))
    }

    fn load(&self, index: usize) -> Load {
        self.endpoints.get(index).map_or(Load::NONE, |endpoint| endpoint.load())
    }
}
