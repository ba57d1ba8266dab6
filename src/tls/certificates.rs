//! The certificates of one route: loaded from files, watched, and chosen from at each handshake.
//!
//! A handshake takes one look at an immutable index and keeps the pair that it got. [`Certificates::look`] reads the files
//! that have changed and puts a new index in place; pairs that stay are shared by both. Whatever is wrong with a file, the
//! pair that it last held stays in use.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use metrics::Gauge;
use rustls::SignatureScheme;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::files::{self, Sight};
use super::index::Index;
use super::key::Thorough;
use super::pair::Pair;
use super::problem::{Flaw, Problem};
use crate::observe::metrics::Metrics;
use crate::wire::name::{Name, Written};

/// What is wrong with files that were changed within this time is not told: somebody may be writing them.
const RESTS: Duration = Duration::from_secs(2);

/// The certificates of a route.
pub(crate) struct Certificates {
    index: ArcSwap<Index>,
    /// The name whose pairs serve clients that ask for none.
    default: Option<Name>,
    /// Touched by those who look, and by nobody who serves clients.
    watch: Mutex<Watch>,
}

/// A problem with the files in one of the paths that were to be loaded.
pub(crate) struct Found {
    /// Which path.
    pub(crate) source: usize,
    /// What is wrong.
    pub(crate) problem: Problem,
}

/// What is known of the files.
#[derive(Default)]
struct Watch {
    sources: Vec<Source>,
    /// In the order of the sources, then of the names.
    files: Vec<Watched>,
    /// By file, those that have been published.
    gauges: HashMap<PathBuf, Gauge>,
    /// What was in place before, so that it is freed here and by no worker.
    before: Arc<Index>,
}

/// A file or folder of the configuration.
struct Source {
    path: PathBuf,
    /// What was last told of it.
    told: Option<Flaw>,
}

/// One file of a certificate.
struct Watched {
    file: PathBuf,
    /// Index into [`Watch::sources`].
    source: usize,
    /// The version that was read last; `None`: to be read again.
    sight: Option<Sight>,
    pair: Option<Arc<Pair>>,
    /// Whether it was missing the last time.
    missed: bool,
}

impl Certificates {
    /// Loads the certificates in `paths`, files or folders, and tells what is wrong. What is right can be used whatever is
    /// wrong with the rest. `default` is the name whose certificate clients get that ask for none, or for one that no
    /// certificate has; without it they get the first one.
    pub(crate) fn load(paths: &[PathBuf], default: Option<Name>, now: SystemTime) -> (Certificates, Vec<Found>) {
        let sources = paths.iter().map(|path| Source { path: path.clone(), told: None }).collect();
        let watch = Mutex::new(Watch { sources, ..Watch::default() });
        let certificates = Certificates { index: ArcSwap::default(), default, watch };
        let problems = certificates.look_at(now, Duration::ZERO);
        (certificates, problems)
    }

    /// Looks at all files, takes in what has changed, and gives what is wrong, each problem once for each version of a
    /// file. Blocks; to be called every few seconds on a thread that may.
    ///
    /// A folder's files that are gone go away when they are missing for the second time: some programs delete a file
    /// before they write it anew. A path of the configuration that is gone, or a folder without any certificate left, is
    /// a problem like others, and its certificates stay. Files that changed less than two seconds ago and do not fit
    /// together are looked at again before anything is said.
    pub(crate) fn look(&self, now: SystemTime) -> Vec<Problem> {
        self.look_at(now, RESTS).into_iter().map(|found| found.problem).collect()
    }

    fn look_at(&self, now: SystemTime, rests: Duration) -> Vec<Found> {
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        let (changed, problems) = watch.look(now, rests);
        if changed {
            let pairs = watch.files.iter().filter_map(|watched| watched.pair.clone()).collect();
            watch.before = self.index.swap(Arc::new(Index::new(pairs, self.default.as_ref())));
        }
        problems
    }

    /// The pair for a client that asks for `name` and takes signatures of these schemes. `None`: there are none at all.
    pub(crate) fn find(&self, name: Option<&Name>, schemes: &[SignatureScheme], now: SystemTime) -> Option<Arc<Pair>> {
        self.index.load().find(name, schemes, now).cloned()
    }

    /// Whether some certificate has this name.
    pub(crate) fn has(&self, name: &Name) -> bool {
        self.index.load().has(name)
    }

    /// Whether there are none at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.index.load().is_empty()
    }

    /// Every file with the path that it was found in and the end of its certificate, in the order of the configuration.
    pub(crate) fn ends(&self) -> Vec<(usize, PathBuf, SystemTime)> {
        let watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        let end = |watched: &Watched| Some((watched.source, watched.file.clone(), watched.pair.as_ref()?.until()));
        watch.files.iter().filter_map(end).collect()
    }

    /// Brings the gauges of the route up to date; to be called after each look.
    pub(crate) fn publish(&self, metrics: &Metrics, route: &str) {
        let mut guard = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        let Watch { files, gauges, .. } = &mut *guard;
        let mut gone = std::mem::take(gauges);
        for watched in files.iter() {
            let Some(pair) = &watched.pair else { continue };
            let known = gone.remove_entry(&watched.file);
            let (file, gauge) = known.unwrap_or_else(|| {
                (watched.file.clone(), metrics.certificate_expiry(route, &watched.file.to_string_lossy()))
            });
            let since = pair.until().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            gauge.set(since.as_secs_f64());
            gauges.insert(file, gauge);
        }
        // Neither in the past nor in the future: no alert goes by it.
        gone.values().for_each(|gauge| gauge.set(f64::NAN));
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

impl Watch {
    /// Whether any pair has changed, and what is wrong.
    fn look(&mut self, now: SystemTime, rests: Duration) -> (bool, Vec<Found>) {
        let known = std::mem::take(&mut self.files);
        let (mut changed, mut problems) = (false, Vec::new());
        let mut known: HashMap<PathBuf, Watched> = known.into_iter().map(|each| (each.file.clone(), each)).collect();
        let mut seen: HashSet<PathBuf> = HashSet::new();
        let mut silent: HashSet<usize> = HashSet::new();
        for (index, source) in self.sources.iter_mut().enumerate() {
            let Some(listed) = source.list(|problem| problems.push(Found { source: index, problem })) else {
                silent.insert(index);
                continue;
            };
            // A file may be listed itself and be in a folder that is.
            for file in listed.into_iter().filter(|file| seen.insert(file.clone())) {
                let mut watched = known.remove(&file).unwrap_or_else(|| Watched::new(file));
                (watched.source, watched.missed) = (index, false);
                self.files.push(watched);
            }
        }
        let (read, wrong) = look_at_all(&mut self.files, now, rests);
        problems.extend(wrong);
        changed |= read;
        for mut watched in known.into_values() {
            let was_missed = std::mem::replace(&mut watched.missed, true);
            match silent.contains(&watched.source) || !was_missed {
                true => self.files.push(watched),
                false => changed |= watched.pair.is_some(),
            }
        }
        self.files.sort_by(|a, b| (a.source, &a.file).cmp(&(b.source, &b.file)));
        (changed, problems)
    }
}

/// Looks at each of `files`: whether any pair has changed, and what is wrong, in their order.
fn look_at_all(files: &mut [Watched], now: SystemTime, rests: Duration) -> (bool, Vec<Found>) {
    const AT_ONCE: usize = 64;
    let (count, thorough) = (files.len(), Thorough::new());
    let (queue, done) = (Mutex::new(files.chunks_mut(AT_ONCE).enumerate()), Mutex::new(Vec::new()));
    let work = || {
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((number, files)) = next else { return };
            let looked = files.iter_mut().map(|watched| watched.look(now, rests, &thorough)).collect::<Vec<_>>();
            done.lock().unwrap_or_else(PoisonError::into_inner).push((number, looked));
        }
    };
    // At the start there are no clients yet whom it would slow down.
    let helpers = if rests.is_zero() { std::thread::available_parallelism().map_or(1, usize::from) - 1 } else { 0 };
    std::thread::scope(|scope| {
        for _ in 0..helpers.min(count / AT_ONCE) {
            // Without help it takes longer.
            let _ = std::thread::Builder::new().spawn_scoped(scope, work);
        }
        work();
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_unstable_by_key(|(number, _)| *number);
    let looked = done.into_iter().flat_map(|(_, looked)| looked);
    let (mut changed, mut problems) = (false, Vec::new());
    for (new, problem) in looked {
        changed |= new;
        problems.extend(problem);
    }
    (changed, problems)
}

impl Source {
    /// Its files; `None` if that cannot be told.
    fn list(&mut self, tell: impl FnOnce(Problem)) -> Option<Vec<PathBuf>> {
        match files::list(&self.path) {
            Ok(files) => {
                self.told = None;
                Some(files)
            }
            Err(flaw) => {
                if self.told.as_ref() != Some(&flaw) {
                    tell(Problem { file: self.path.clone(), flaw: flaw.clone() });
                    self.told = Some(flaw);
                }
                None
            }
        }
    }
}

impl Watched {
    fn new(file: PathBuf) -> Watched {
        Watched { file, source: 0, sight: None, pair: None, missed: false }
    }

    /// Reads the files if they have changed: whether that gave a new pair, and what is wrong.
    fn look(&mut self, now: SystemTime, rests: Duration, thorough: &Thorough) -> (bool, Option<Found>) {
        let sight = Sight::of(&self.file);
        let is_outdated = self.pair.as_ref().is_some_and(|pair| pair.staple_until.is_some_and(|until| until < now));
        if self.sight.as_ref() == Some(&sight) && !is_outdated {
            return (false, None);
        }
        // A file of the future, by a clock that is ahead, has to be told of some time: it rests.
        let is_young = || sight.changed().and_then(|at| now.duration_since(at).ok()).is_some_and(|age| age < rests);
        let (pair, problem) = match files::read(&self.file, now, thorough) {
            Ok((pair, problem)) => (Some(pair), problem),
            Err(problem) => (None, Some(problem)),
        };
        let waits = problem.is_some() && is_young();
        // What has changed meanwhile is to be read again, and so is what may be half written.
        self.sight = (!waits && Sight::of(&self.file) == sight).then_some(sight);
        let is_new = pair.is_some();
        self.pair = pair.map(Arc::new).or_else(|| self.pair.take());
        let told = problem.filter(|_| !waits).map(|problem| Found { source: self.source, problem });
        (is_new, told)
    }
}
