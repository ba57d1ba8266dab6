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
use crate::health::outlier::Crowd;

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

    /// Draws the turn of a session. One that tries again draws beside the others, whose turns it must not use up.
    fn turns(&self, again: bool) -> impl FnMut() -> usize {
        let mut own = self.position.load(Ordering::Relaxed);
        move || {
            if !again {
                return self.position.fetch_add(1, Ordering::Relaxed);
            }
            own = own.wrapping_add(1);
            own
        }
    }
}

/// Endpoints of one rank.
pub(super) struct Tier {
    pub(super) endpoints: Vec<Arc<Endpoint>>,
    order: Order,
    /// The weights of the endpoints that are fit, as of the last second.
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

    /// Counts those that a choice may ever fall on.
    pub(super) fn crowd(&self) -> Crowd {
        let mut crowd = Crowd::default();
        for endpoint in self.endpoints.iter().filter(|endpoint| endpoint.weight > 0) {
            crowd.all += 1;
            crowd.out += usize::from(endpoint.is_out());
            crowd.usable += usize::from(endpoint.is_fit());
        }
        crowd
    }

    /// Adds up the weights of the endpoints that are fit.
    pub(super) fn weigh(&self) {
        let standing = self.endpoints.iter().filter(|endpoint| endpoint.is_fit());
        self.weights_up.store(standing.map(|endpoint| u64::from(endpoint.weight)).sum(), Ordering::Relaxed);
    }

    /// Takes a claim on the endpoint whose turn it is, of those that `may` allows; `again` for a session that has tried
    /// another one.
    pub(super) fn lease(
        &self,
        counts: &Counts,
        key: u64,
        again: bool,
        may: impl Fn(&Endpoint) -> bool,
    ) -> Option<Lease> {
        let may = |index: usize| self.endpoints.get(index).is_some_and(|endpoint| may(endpoint));
        // Nobody's turn is drawn where nobody may take it.
        if !(0..self.endpoints.len()).any(may) {
            return None;
        }
        // The number of sessions that a choice was made by may be another one by the time it is acted on: then the
        // choice is made again.
        loop {
            let (index, active) = self.choose(counts, key, again, may)?;
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

    fn choose(&self, counts: &Counts, key: u64, again: bool, may: impl Fn(usize) -> bool) -> Option<Choice> {
        match &self.order {
            Order::LeastConnections => self.least(counts, may),
            Order::Turns(turns) => round_robin::pick(turns, counts.turns(again), may).map(|index| (index, None)),
            Order::Urn(urn) => {
                let (index, load) = urn.pick(|below| fastrand::u32(..below), |index| self.load(index), may)?;
                Some((index, Some(load.active)))
            }
            Order::Maglev { table, bound: None } => self.hashed(counts, table, key, may),
            Order::Maglev { table, bound: Some(percent) } => {
                let has_room = |load: &Load| self.has_room(load, counts, *percent);
                let bounded = self.bounded(table, key, has_room, &may);
                // Nobody near has room: the least loaded of all that have, and where none has, whoever the key leads to.
                bounded
                    .or_else(|| self.least(counts, |index| may(index) && has_room(&self.load(index))))
                    .or_else(|| self.hashed(counts, table, key, may))
            }
        }
    }

    fn least(&self, counts: &Counts, may: impl Fn(usize) -> bool) -> Option<Choice> {
        let loads = self.endpoints.iter().map(|endpoint| endpoint.load());
        let (index, load) = least_connections::pick(loads, counts.turns(false)(), may)?;
        Some((index, Some(load.active)))
    }

    /// The endpoint that `key` leads to.
    fn hashed(&self, counts: &Counts, table: &maglev::Table, key: u64, may: impl Fn(usize) -> bool) -> Option<Choice> {
        // Where nobody near can be chosen, those who can are so few that looking at all of them is what is left.
        table.pick(key, &may).map(|index| (index, None)).ok().or_else(|| self.least(counts, may))
    }

    /// The endpoint that `key` leads to, of those that have room.
    fn bounded(
        &self,
        table: &maglev::Table,
        key: u64,
        has_room: impl Fn(&Load) -> bool,
        may: impl Fn(usize) -> bool,
    ) -> Option<Choice> {
        let active = Cell::new(None);
        let fits = |index: usize| {
            let load = self.load(index);
            active.set(Some(load.active));
            has_room(&load)
        };
        let index = table.pick(key, |index| may(index) && fits(index)).ok()?;
        Some((index, active.get()))
    }

    /// Whether an endpoint with this load carries less than so many percent of its share.
    fn has_room(&self, load: &Load, counts: &Counts, percent: u32) -> bool {
        let sessions = counts.active.as_ref().map_or(0, |active| active.load(Ordering::Relaxed)).into();
        maglev::has_room(load, sessions, self.weights_up.load(Ordering::Relaxed), percent)
    }

    fn load(&self, index: usize) -> Load {
        self.endpoints.get(index).map_or(Load::NONE, |endpoint| endpoint.load())
    }
}
