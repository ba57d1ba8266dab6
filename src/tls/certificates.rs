//! The certificates of one route: loaded from files, watched, and chosen from at each handshake.
//!
//! A handshake takes one look at an immutable index and keeps the pair that it got. [`Certificates::look`] reads the files
//! that have changed and puts a new index in place; pairs that stay are shared by both. Whatever is wrong with a file, the
//! pair that it last held stays in use.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use metrics::Gauge;
use rustls::SignatureScheme;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::expiry::Warning;
use super::index::Index;
use super::pair::Pair;
use super::problem::Problem;
pub(crate) use super::watch::Found;
use super::watch::{Looked, Watch};
use crate::observe::metrics::Metrics;
use crate::wire::name::{Name, Written};

/// What is wrong with files that were changed within this time is not told: somebody may be writing them.
pub(crate) const RESTS: Duration = Duration::from_secs(2);

/// The certificates of a route.
pub(crate) struct Certificates {
    index: ArcSwap<Index>,
    /// The name whose pairs serve clients that ask for none.
    default: Option<Name>,
    /// Names whose certificates are obtained and may not be there yet, sorted.
    awaited: Box<[Name]>,
    /// Touched by those who look, and by nobody who serves clients.
    state: Mutex<State>,
}

/// What is behind the certificates.
#[derive(Default)]
struct State {
    watch: Watch,
    /// By file, those that have been published.
    gauges: HashMap<PathBuf, Gauge>,
    /// By file, those that end soon.
    warnings: HashMap<PathBuf, Warning>,
    /// What was in place before, so that it is freed here and by no worker.
    before: Arc<Index>,
}

impl Certificates {
    /// Loads the certificates in `paths`, files or folders, and tells what is wrong. What is right can be used whatever
    /// is wrong with the rest. Behind them come the files of `awaited` names, which may not be there yet. `default` is
    /// the name whose certificate clients get that ask for none, or for one that no certificate has; without it they
    /// get the first one.
    pub(crate) fn load(
        paths: &[PathBuf],
        awaited: Vec<(Name, PathBuf)>,
        default: Option<Name>,
        now: SystemTime,
    ) -> (Certificates, Vec<Found>) {
        let (mut awaited, files): (Vec<Name>, Vec<PathBuf>) = awaited.into_iter().unzip();
        awaited.sort_unstable();
        let state = Mutex::new(State { watch: Watch::new(paths, &files), ..State::default() });
        let certificates = Certificates { index: ArcSwap::default(), default, awaited: awaited.into(), state };
        let (_, problems) = certificates.look_at(now, Duration::ZERO);
        (certificates, problems)
    }

    /// Looks at all files, takes in what has changed, and gives what is wrong, each problem once for each version of a
    /// file. Blocks; to be called every few seconds on a thread that may.
    ///
    /// A folder's files that are gone go away when they are missing for the second time: some programs delete a file
    /// before they write it anew. A path of the configuration that is gone, or a folder without any certificate left, is
    /// a problem like others, and its certificates stay. Files that changed less than two seconds ago and do not fit
    /// together are looked at again before anything is said.
    ///
    /// Gives the files that are in use from here on, and what is wrong.
    pub(crate) fn look(&self, now: SystemTime) -> (Vec<PathBuf>, Vec<Problem>) {
        let (taken, found) = self.look_at(now, RESTS);
        (taken, found.into_iter().map(|found| found.problem).collect())
    }

    fn look_at(&self, now: SystemTime, rests: Duration) -> (Vec<PathBuf>, Vec<Found>) {
        let mut state = self.state();
        let Looked { changed, taken, problems } = state.watch.look(now, rests);
        if changed {
            let pairs = state.watch.pairs().map(|(_, _, pair)| Arc::clone(pair)).collect();
            state.before = self.index.swap(Arc::new(Index::new(pairs, self.default.as_ref())));
        }
        (taken, problems)
    }

    /// How many files cannot be used, in place of which what they held before is.
    pub(crate) fn broken(&self) -> usize {
        self.state().watch.broken()
    }

    /// The pair for a client that asks for `name` and takes signatures of these schemes. `None`: there are none at all.
    pub(crate) fn find(&self, name: Option<&Name>, schemes: &[SignatureScheme], now: SystemTime) -> Option<Arc<Pair>> {
        self.index.load().find(name, schemes, now).cloned()
    }

    /// Whether some certificate has this name.
    pub(crate) fn has(&self, name: &Name) -> bool {
        self.index.load().has(name)
    }

    /// Whether the certificate of this name is obtained, so that no other one is shown in its place.
    pub(crate) fn awaits(&self, name: &Name) -> bool {
        self.awaited.binary_search(name).is_ok()
    }

    /// Names whose certificates are still to be obtained.
    pub(crate) fn missing(&self) -> impl Iterator<Item = &Name> {
        self.awaited.iter().filter(|name| !self.has(name))
    }

    /// Whether a client that asks for `name` has to be sent away, because the certificate for it is still to be obtained.
    pub(crate) fn is_missing(&self, name: Option<&Name>) -> bool {
        if self.awaited.is_empty() {
            return false;
        }
        self.is_empty() || name.is_some_and(|name| self.awaits(name) && !self.has(name))
    }

    /// Whether there are none at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.index.load().is_empty()
    }

    /// The certificates that have ended or will soon, each at most once a day: the path that it was found in, its file, and
    /// its end.
    pub(crate) fn ending(&self, now: SystemTime) -> Vec<(usize, PathBuf, SystemTime)> {
        let mut state = self.state();
        let State { watch, warnings, .. } = &mut *state;
        let before = std::mem::take(warnings);
        let mut due = Vec::new();
        for (source, file, pair) in watch.pairs().filter(|(_, _, pair)| pair.is_ending(now)) {
            let mut warning = before.get(file).copied().unwrap_or_default();
            if warning.is_due(pair.until(), Duration::MAX, now) {
                due.push((source, file.to_owned(), pair.until()));
            }
            warnings.insert(file.to_owned(), warning);
        }
        due
    }

    /// How many files there are, and the end of the certificate in each.
    #[cfg(test)]
    pub(crate) fn ends(&self) -> Vec<(usize, PathBuf, SystemTime)> {
        let state = self.state();
        state.watch.pairs().map(|(source, file, pair)| (source, file.to_owned(), pair.until())).collect()
    }

    /// Brings the gauges of the route up to date; to be called after each look.
    pub(crate) fn publish(&self, metrics: &Metrics, route: &str) {
        let mut state = self.state();
        let State { watch, gauges, .. } = &mut *state;
        let mut gone = std::mem::take(gauges);
        for (_, file, pair) in watch.pairs() {
            let gauge = gone.remove(file);
            let gauge = gauge.unwrap_or_else(|| metrics.certificate_expiry(route, &file.to_string_lossy()));
            let since = pair.until().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            gauge.set(since.as_secs_f64());
            gauges.insert(file.to_owned(), gauge);
        }
        for file in watch.missing() {
            let gauge = gone.remove(file).unwrap_or_else(|| metrics.certificate_expiry(route, &file.to_string_lossy()));
            gauge.set(0.0);
            gauges.insert(file.to_owned(), gauge);
        }
        // Neither in the past nor in the future: no alert goes by it.
        gone.values().for_each(|gauge| gauge.set(f64::NAN));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().and_then(|name| match Name::read(name.as_bytes()) {
            Ok(Written::Name(name)) => Some(name),
            _ => None,
        });
        let found = self.find(name.as_ref(), hello.signature_schemes(), SystemTime::now())?;
        Some(Arc::clone(found.certified()))
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").field("default", &self.default).finish_non_exhaustive()
    }
}
