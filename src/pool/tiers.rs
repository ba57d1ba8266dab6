//! Tiers: the endpoints of one moment by priority, and which of them serve.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::tier::{Chooser, Lack, Tier};
use super::{Endpoint, Lease};
use crate::config::model::{Balance, FALLBACK};
use crate::health::Standing;
use crate::health::outlier::Crowd;

/// All endpoints of a pool, those of the best priority first.
pub(super) struct Tiers {
    tiers: Vec<Tier>,
    /// The tier that serves, by its index; as many as there are tiers where none does.
    in_use: AtomicUsize,
    /// It is as if all endpoints were fit.
    panics: AtomicBool,
    fails_back: bool,
    /// The least share of fit endpoints in percent with which a tier serves; 0: a single one is enough.
    least_percent: usize,
}

impl Tiers {
    /// No endpoint yet. `fails_back` is whether a better tier serves as soon as it can; with less than `panic_percent` fit
    /// endpoints a tier does not serve, and where none does, it is as if all were fit.
    pub(super) fn none(fails_back: bool, panic_percent: Option<u32>) -> Tiers {
        Tiers {
            tiers: Vec::new(),
            in_use: AtomicUsize::new(0),
            panics: AtomicBool::new(false),
            fails_back,
            least_percent: panic_percent.map_or(0, |percent| percent as usize),
        }
    }

    /// The same with these endpoints instead. While a pool gathers its first endpoints, who happened to be the first does
    /// not count as who serves.
    pub(super) fn with(&self, endpoints: Vec<Arc<Endpoint>>, balance: Balance, gathers: bool) -> Tiers {
        let mut by_priority: BTreeMap<u32, Vec<Arc<Endpoint>>> = BTreeMap::new();
        for endpoint in endpoints {
            by_priority.entry(endpoint.rank()).or_default().push(endpoint);
        }
        let tiers: Vec<Tier> =
            by_priority.into_iter().map(|(priority, endpoints)| Tier::new(priority, endpoints, balance)).collect();
        let served = self.in_use().filter(|_| !gathers);
        let in_use = tiers.iter().position(|tier| Some(tier.priority) == served).unwrap_or(tiers.len());
        let new = Tiers {
            tiers,
            in_use: AtomicUsize::new(in_use),
            panics: AtomicBool::new(false),
            fails_back: self.fails_back,
            least_percent: self.least_percent,
        };
        new.settle();
        new
    }

    /// Priority of the tier that serves.
    pub(super) fn in_use(&self) -> Option<u32> {
        self.tiers.get(self.in_use.load(Ordering::Relaxed)).map(|tier| tier.priority)
    }

    /// Whether it is as if all endpoints were fit.
    pub(super) fn panics(&self) -> bool {
        self.panics.load(Ordering::Relaxed)
    }

    /// All endpoints, by priority.
    pub(super) fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.tiers.iter().flat_map(|tier| &tier.endpoints)
    }

    /// The tier of the primary that replicas fall back on: the last one.
    fn fallback(&self) -> Option<&Tier> {
        self.tiers.last().filter(|tier| tier.priority == FALLBACK)
    }

    /// Finds out which tier serves now, and gives its priority, if there is one that does as it should.
    pub(super) fn settle(&self) -> Option<u32> {
        self.weigh();
        let mut crowds: Vec<Crowd> = self.tiers.iter().map(Tier::crowd).collect();
        if let Some((last, others)) = self.fallback().and_then(|_| crowds.split_last_mut())
            && others.iter().any(|crowd| crowd.usable > 0)
        {
            // However few replicas are fit, and whether or not the pool fails back: while there is one, reads are not for the
            // primary.
            last.usable = 0;
        }
        let serves = |crowd: &Crowd| crowd.usable > 0 && crowd.usable * 100 >= crowd.all * self.least_percent;
        // Who has not answered yet has not failed.
        let may_serve = |crowd: &Crowd| serves(crowd) || (!self.fails_back && crowd.unknown > 0);
        let before = self.in_use.load(Ordering::Relaxed);
        let first = || crowds.iter().position(may_serve);
        let stays = !self.fails_back && crowds.get(before).is_some_and(may_serve);
        let now = if stays { Some(before) } else { first() };
        let panics = self.least_percent > 0 && now.is_none();
        self.panics.store(panics, Ordering::Relaxed);
        // Where none serves, the last one that did stays in use with what it has left, and else the first with anybody.
        let has_any = |crowd: &Crowd| crowd.usable > 0;
        let left =
            || if crowds.get(before).is_some_and(has_any) { Some(before) } else { crowds.iter().position(has_any) };
        let now = now.or_else(left);
        self.in_use.store(now.unwrap_or(if self.fails_back { self.tiers.len() } else { before }), Ordering::Relaxed);
        self.tiers.get(now?).map(|tier| tier.priority).filter(|_| !panics)
    }

    /// Those that say that they are the primary.
    pub(super) fn writers(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.endpoints().filter(|endpoint| endpoint.claims_primary())
    }

    /// Adds up what is fit in each tier.
    pub(super) fn weigh(&self) {
        self.tiers.iter().for_each(Tier::weigh);
    }

    /// Whether endpoints have another rank than that of their tier.
    pub(super) fn is_disordered(&self) -> bool {
        self.tiers.iter().any(|tier| tier.endpoints.iter().any(|endpoint| endpoint.rank() != tier.priority))
    }

    /// Whether an order was made for other shares than the endpoints have now.
    pub(super) fn is_outdated(&self) -> bool {
        self.tiers.iter().any(Tier::is_outdated)
    }

    /// Whether there is an endpoint that a client can be sent to, for want of others.
    pub(super) fn serves(&self) -> bool {
        self.endpoints()
            .any(|endpoint| endpoint.share() > 0 && if self.panics() { is_able(endpoint) } else { is_left(endpoint) })
    }

    /// Takes a claim on the endpoint whose turn it is, of those that `may` allows.
    pub(super) fn lease(&self, chooser: &Chooser<'_>, may: impl Fn(&Endpoint) -> bool) -> Result<Lease, Lack> {
        if self.panics() {
            return self.first(chooser, |endpoint| is_able(endpoint) && may(endpoint));
        }
        match self.first(chooser, |endpoint| endpoint.is_fit() && may(endpoint)) {
            Err(Lack::Nobody) => self.first(chooser, |endpoint| is_left(endpoint) && may(endpoint)),
            found => found,
        }
    }

    /// The same in the tier that serves and, where nobody is allowed there, in the best of the others.
    fn first(&self, chooser: &Chooser<'_>, may: impl Fn(&Endpoint) -> bool) -> Result<Lease, Lack> {
        let index = self.in_use.load(Ordering::Relaxed);
        let in_use = self.tiers.get(index);
        // Who stays with those that stand in until they fail does not go back for one session that failed there.
        let stays = !self.fails_back && in_use.is_some_and(Tier::has_fit);
        let others = self.tiers.iter().skip(if stays { index + 1 } else { 0 });
        let others = others.filter(|tier| tier.priority != FALLBACK);
        // A primary comes after every replica, also after those that others stand in for.
        let and_then = self.fallback().into_iter().flat_map(|_| &self.tiers);
        for tier in in_use.into_iter().chain(others).chain(and_then) {
            match tier.lease(chooser, &may) {
                Err(Lack::Nobody) => {}
                found => return found,
            }
        }
        Err(Lack::Nobody)
    }

    /// Whether `endpoint` may be left out where at most so many percent may.
    pub(super) fn can_spare(&self, endpoint: &Endpoint, most_percent: u32) -> bool {
        let is_own = |tier: &&Tier| tier.endpoints.iter().any(|other| std::ptr::eq(&**other, endpoint));
        let Some(own) = self.tiers.iter().find(is_own) else { return false };
        // Where others are fit, those they stand in for must not stop anybody from reaching them.
        let mut others = self.tiers.iter().filter(|tier| tier.priority != own.priority);
        others.any(Tier::has_fit) || own.crowd().can_spare_one(most_percent)
    }
}

/// Whether it may be tried where no endpoint is fit.
fn is_left(endpoint: &Endpoint) -> bool {
    is_able(endpoint) && endpoint.standing() != Standing::Down
}

/// Whether it may be tried where probes are not believed. What it has said itself of its role always is.
fn is_able(endpoint: &Endpoint) -> bool {
    endpoint.is_admitted() && endpoint.suits()
}
