//! How TLS ends on one route, for as long as a generation lives: what changes meanwhile is put in place here.
//!
//! A handshake takes what stands at that moment and keeps it.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use rustls::ServerConfig;

use super::certificates::{Certificates, RESTS};
use super::clients::Clients;
use super::expiry;
use super::problem::Problem;
use super::server::server_config;
use super::tickets::{Secrets, Tickets};
use crate::config::model::RouteTls;
use crate::observe::metrics::{Metrics, TlsMetrics};
use crate::wire::name::Name;

/// How TLS ends on a route.
pub(crate) struct Termination {
    route: Arc<str>,
    tls: RouteTls,
    secrets: Arc<Secrets>,
    terms: ArcSwap<Terms>,
    pub(crate) metrics: TlsMetrics,
}

/// What clients meet with now.
struct Terms {
    config: Arc<ServerConfig>,
    tickets: Arc<Tickets>,
}

impl Terms {
    fn new(route: &str, tls: &RouteTls, secrets: &Arc<Secrets>) -> Terms {
        let demand = tls.clients.as_deref().map(Clients::demand);
        let policy = demand.iter().flatten().map(|demand| demand.policy).next();
        let tickets = Tickets::new(Arc::clone(secrets), route, policy.as_ref().map_or(b"", <[u8; 32]>::as_slice));
        let (certificates, verifier) = match demand {
            None => (Arc::clone(&tls.loaded), None),
            Some(Some(demand)) => (Arc::clone(&tls.loaded), Some(Arc::clone(&demand.verifier))),
            // Where it is not known whom to let in nobody is: without any certificate no handshake succeeds.
            Some(None) => (Arc::new(Certificates::load(&[], Vec::new(), None, SystemTime::now()).0), None),
        };
        Terms { config: server_config(tls, certificates, Arc::clone(&tickets) as _, verifier), tickets }
    }
}

impl Termination {
    /// How TLS ends on the route of this name. Its tickets are made of `secrets`.
    pub(crate) fn new(route: &str, tls: &RouteTls, secrets: &Arc<Secrets>, metrics: TlsMetrics) -> Termination {
        let terms = ArcSwap::from_pointee(Terms::new(route, tls, secrets));
        Termination { route: route.into(), tls: tls.clone(), secrets: Arc::clone(secrets), terms, metrics }
    }

    /// What to make a handshake by.
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.terms.load().config)
    }

    /// Whether a client that asks for `name` has to be sent away, because the certificate for it is still to be obtained.
    pub(crate) fn lacks(&self, name: Option<&Name>) -> bool {
        self.tls.loaded.is_missing(name)
    }

    /// How long a handshake may take, once the hello is there.
    pub(crate) fn patience(&self) -> Duration {
        self.tls.handshake
    }

    /// Looks at all files, takes in what has changed, and gives that in words, and what is wrong, each problem once. Blocks; to
    /// be called every few seconds on a thread that may.
    pub(crate) fn look(&self, now: SystemTime) -> (Vec<String>, Vec<Problem>) {
        let (taken, mut problems) = self.tls.loaded.look(now);
        let mut news: Vec<String> = taken.iter().map(|file| format!("{file:?} has changed and is in use")).collect();
        if let Some(clients) = &self.tls.clients {
            let (changed, found) = clients.look_at(now, RESTS);
            problems.extend(found.into_iter().map(|found| found.problem));
            if changed {
                self.terms.store(Arc::new(Terms::new(&self.route, &self.tls, &self.secrets)));
                news.push("what clients are asked for has changed and is in force".to_owned());
            }
        }
        self.terms.load().tickets.expire(Instant::now());
        (news, problems)
    }

    /// What has ended or will soon, in words, each at most once a day.
    pub(crate) fn ending(&self, now: SystemTime) -> Vec<String> {
        let certificates = self.tls.loaded.ending(now).into_iter();
        let mut words: Vec<String> =
            certificates.map(|(_, file, end)| format!("{file:?}: {}", expiry::left(end, now))).collect();
        let lists = self.tls.clients.iter().flat_map(|clients| clients.ended(now));
        words.extend(lists.map(|(file, end, effect)| format!("{file:?}: {}; {effect}", expiry::list_expired(end))));
        words
    }

    /// Brings the gauges of the route up to date; to be called after each look.
    pub(crate) fn publish(&self, metrics: &Metrics) {
        self.tls.loaded.publish(metrics, &self.route);
        let problems = self.tls.loaded.broken() + self.tls.clients.as_ref().map_or(0, |clients| clients.broken());
        self.metrics.problems.set(problems as f64);
        if let Some(clients) = &self.tls.clients {
            clients.publish(metrics, &self.route);
        }
    }
}
