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
use crate::health::outlier::Crowd;

/// What a choice goes by besides the endpoints themselves.
pub(super) struct Chooser<'a> {
    /// Choices made so far: the turn of round-robin, and who wins a tie of least-connections.
    pub(super) position: &'a AtomicUsize,
    /// Sessions of all endpoints, those included that have left; only where their number is bounded by it.
    pub(super) active: Option<&'a AtomicU32>,
    /// What the pool's algorithm knows the client by.
    pub(super) key: u64,
    /// The session has tried another endpoint before.
    pub(super) again: bool,
}

/// Why no endpoint of a tier was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lack {
    /// None may be chosen.
    Nobody,
    /// All that may be chosen have as many sessions as they may.
    Places,
}

impl Chooser<'_> {
    /// Draws the turn of a session. One that tries again draws beside the others, whose turns it must not use up.
    fn turns(&self) -> impl FnMut() -> usize {
        let mut own = self.position.load(Ordering::Relaxed);
        move || {
            if !self.again {
                return self.position.fetch_add(1, Ordering::Relaxed);
            }
            own = own.wrapping_add(1);
            own
        }
    }
}

/// Endpoints of one rank.
pub(super) struct Tier {
    pub(super) priority: u32,
    pub(super) endpoints: Vec<Arc<Endpoint>>,
    order: Order,
    /// The shares that `order` was made for.
    shares: Vec<u16>,
    /// The shares of the endpoints that are fit, as of the last time that the pool was settled, and at most a second ago.
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
    /// The tier of these endpoints, with the shares that they have now.
    pub(super) fn new(priority: u32, endpoints: Vec<Arc<Endpoint>>, balance: Balance) -> Tier {
        let shares: Vec<u16> = endpoints.iter().map(|endpoint| endpoint.share()).collect();
        let weights = || shares.iter().copied();
        let order = match balance {
            Balance::LeastConnections => Order::LeastConnections,
            Balance::RoundRobin => Order::Turns(round_robin::turns(&weights().collect::<Vec<_>>())),
            Balance::RandomTwo => Order::Urn(Urn::new(weights())),
            Balance::Maglev(hash) => Order::Maglev {
                table: maglev::Table::new(endpoints.iter().map(|endpoint| &*endpoint.name).zip(weights())),
                bound: hash.balance_factor,
            },
        };
        let tier = Tier { priority, endpoints, order, shares, weights_up: AtomicU64::new(0) };
        tier.weigh();
        tier
    }

    /// Whether the order was made for other shares than the endpoints have now, and depends on them.
    pub(super) fn is_outdated(&self) -> bool {
        let now = self.endpoints.iter().map(|endpoint| endpoint.share());
        !matches!(self.order, Order::LeastConnections) && !now.eq(self.shares.iter().copied())
    }

    /// Counts those that a choice may ever fall on.
    pub(super) fn crowd(&self) -> Crowd {
        let mut crowd = Crowd::default();
        // One with another role is none of those of which some share has to be fit.
        let counts = |endpoint: &&Arc<Endpoint>| {
            endpoint.share() > 0 && (endpoint.suits() || endpoint.standing() == Standing::Unknown)
        };
        for endpoint in self.endpoints.iter().filter(counts) {
            crowd.all += 1;
            crowd.out += usize::from(endpoint.is_out());
            crowd.usable += usize::from(endpoint.is_fit());
            crowd.unknown += usize::from(endpoint.is_admitted() && endpoint.standing() == Standing::Unknown);
        }
        crowd
    }

    /// Whether a choice may fall on any.
    pub(super) fn has_fit(&self) -> bool {
        self.endpoints.iter().any(|endpoint| endpoint.share() > 0 && endpoint.is_fit())
    }

    /// Adds up the weights of the endpoints that are fit.
    pub(super) fn weigh(&self) {
        let standing = self.endpoints.iter().filter(|endpoint| endpoint.is_fit());
        self.weights_up.store(standing.map(|endpoint| u64::from(endpoint.share())).sum(), Ordering::Relaxed);
    }

    /// Takes a claim on the endpoint whose turn it is, of those that `may` allows.
    pub(super) fn lease(&self, chooser: &Chooser<'_>, may: impl Fn(&Endpoint) -> bool) -> Result<Lease, Lack> {
        let may =
            |index: usize| self.endpoints.get(index).is_some_and(|endpoint| endpoint.share() > 0 && may(endpoint));
        let may_and_can = |index: usize| may(index) && self.endpoints.get(index).is_some_and(|at| at.has_place());
        // The number of sessions that a choice was made by may be another one by the time it is acted on: then the
        // choice is made again.
        loop {
            // Nobody's turn is drawn where nobody may take it.
            if !(0..self.endpoints.len()).any(may_and_can) {
                return Err(if (0..self.endpoints.len()).any(may) { Lack::Places } else { Lack::Nobody });
            }
            let Some((index, active)) = self.choose(chooser, may_and_can) else { return Err(Lack::Nobody) };
            let Some(endpoint) = self.endpoints.get(index) else { return Err(Lack::Nobody) };
            let lease = match active {
                None => Lease::take(endpoint),
                Some(active) => Lease::take_if(endpoint, active),
            };
            if let Some(lease) = lease {
                if matches!(self.order, Order::Urn(_)) {
                    endpoint.chosen();
                }
                return Ok(lease);
            }
        }
    }

    fn choose(&self, chooser: &Chooser<'_>, may: impl Fn(usize) -> bool) -> Option<Choice> {
        match &self.order {
            Order::LeastConnections => self.least(chooser, may),
            Order::Turns(turns) => round_robin::pick(turns, chooser.turns(), may).map(|index| (index, None)),
            Order::Urn(urn) => {
                let (index, load) = urn.pick(|below| fastrand::u32(..below), |index| self.load(index), may)?;
                Some((index, Some(load.active)))
            }
            Order::Maglev { table, bound: None } => self.hashed(chooser, table, may),
            Order::Maglev { table, bound: Some(percent) } => {
                let has_room = |index: usize| self.has_room(index, chooser, *percent);
                let bounded = self.bounded(table, chooser.key, has_room, &may);
                // Nobody near has room: the least loaded of all that have, and where none has, whoever the key leads to.
                bounded
                    .or_else(|| self.least(chooser, |index| may(index) && has_room(index)))
                    .or_else(|| self.hashed(chooser, table, may))
            }
        }
    }

    fn least(&self, chooser: &Chooser<'_>, may: impl Fn(usize) -> bool) -> Option<Choice> {
        let loads = self.endpoints.iter().map(|endpoint| endpoint.load());
        let (index, load) = least_connections::pick(loads, chooser.turns()(), may)?;
        Some((index, Some(load.active)))
    }

    /// The endpoint that `key` leads to.
    fn hashed(&self, chooser: &Chooser<'_>, table: &maglev::Table, may: impl Fn(usize) -> bool) -> Option<Choice> {
        // Where nobody near can be chosen, those who can are so few that looking at all of them is what is left.
        let found = table.pick(chooser.key, &may).ok().or_else(|| table.pick_any(chooser.key, may));
        found.map(|index| (index, None))
    }

    /// The endpoint that `key` leads to, of those that have room.
    fn bounded(
        &self,
        table: &maglev::Table,
        key: u64,
        has_room: impl Fn(usize) -> bool,
        may: impl Fn(usize) -> bool,
    ) -> Option<Choice> {
        let active = Cell::new(None);
        let fits = |index: usize| {
            active.set(Some(self.load(index).active));
            has_room(index)
        };
        let index = table.pick(key, |index| may(index) && fits(index)).ok()?;
        Some((index, active.get()))
    }

    /// Whether an endpoint carries less than so many percent of its share of this pool's sessions. Those of other parts are
    /// no part of it, as they are shared out among other endpoints.
    fn has_room(&self, index: usize, chooser: &Chooser<'_>, percent: u32) -> bool {
        let own = self.endpoints.get(index).map_or(0, |endpoint| endpoint.active());
        let load = Load { active: own, ..self.load(index) };
        let sessions = chooser.active.map_or(0, |active| active.load(Ordering::Relaxed)).into();
        maglev::has_room(&load, sessions, self.weights_up.load(Ordering::Relaxed), percent)
    }

    fn load(&self, index: usize) -> Load {
        self.endpoints.get(index).map_or(Load::NONE, |endpoint| endpoint.load())
    }
}
