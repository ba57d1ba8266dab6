//! The files that certificates are in: which have changed, and the pair that each of them last held.
//!
//! Asked for rather than watched for, like all files that may change: that holds for renames, links that are swapped and
//! network file systems alike. A look costs three questions a file, and reading for those that have changed.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::files::{self, Sight};
use super::key::Thorough;
use super::pair::Pair;
use super::problem::{Flaw, Problem};

/// What is known of the files.
#[derive(Default)]
pub(super) struct Watch {
    sources: Vec<Source>,
    /// In the order of the sources, then of the names.
    files: Vec<Watched>,
}

/// A file or folder of the configuration.
struct Source {
    path: PathBuf,
    /// Somebody else puts it there, and may not have done so yet.
    awaited: bool,
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
    /// What was last found to be wrong with it.
    told: Option<Problem>,
    pair: Option<Arc<Pair>>,
    /// Whether it was missing the last time.
    missed: bool,
}

/// What a look has come to.
pub(super) struct Looked {
    /// Whether any pair has changed or is gone.
    pub(super) changed: bool,
    /// The files of new pairs, in their order.
    pub(super) taken: Vec<PathBuf>,
    /// What is wrong, each problem once.
    pub(super) problems: Vec<Found>,
}

/// A problem with the files in one of the paths that were to be loaded.
pub(crate) struct Found {
    /// Which path.
    pub(crate) source: usize,
    /// What is wrong.
    pub(crate) problem: Problem,
}

impl Watch {
    /// Files and folders that were not looked at yet, and files that may come later.
    pub(super) fn new(paths: &[PathBuf], awaited: &[PathBuf]) -> Watch {
        let source = |path: &PathBuf, awaited| Source { path: path.clone(), awaited, told: None };
        let listed = paths.iter().map(|path| source(path, false));
        let sources = listed.chain(awaited.iter().map(|path| source(path, true))).collect();
        Watch { sources, files: Vec::new() }
    }

    /// Every pair with the path and the file that it is from, in their order.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (usize, &Path, &Arc<Pair>)> {
        self.files.iter().filter_map(|watched| Some((watched.source, &*watched.file, watched.pair.as_ref()?)))
    }

    /// How many sources and files cannot be used.
    pub(super) fn broken(&self) -> usize {
        let sources = self.sources.iter().filter(|source| source.told.is_some()).count();
        sources + self.files.iter().filter(|watched| watched.told.as_ref().is_some_and(|told| !told.is_minor())).count()
    }

    /// Files that somebody else is to put there, and has not yet.
    pub(super) fn missing(&self) -> impl Iterator<Item = &Path> {
        let awaited = self.sources.iter().filter(|source| source.awaited).map(|source| source.path.as_path());
        // By their bytes: paths are hashed part by part.
        let there: HashSet<&OsStr> = match self.sources.iter().any(|source| source.awaited) {
            true => self.pairs().map(|(_, file, _)| file.as_os_str()).collect(),
            false => HashSet::new(),
        };
        awaited.filter(move |path| !there.contains(path.as_os_str()))
    }

    /// Whether any pair has changed, and what is wrong, each problem once. What was changed less than `rests` ago is looked
    /// at again before anything is said of it.
    pub(super) fn look(&mut self, now: SystemTime, rests: Duration) -> Looked {
        let known = std::mem::take(&mut self.files);
        let (mut changed, mut problems) = (false, Vec::new());
        // By their bytes: paths are hashed and compared part by part.
        let bytes = |path: &Path| path.as_os_str().to_owned();
        let mut known: HashMap<OsString, Watched> = known.into_iter().map(|each| (bytes(&each.file), each)).collect();
        let mut seen: HashSet<OsString> = HashSet::new();
        let mut silent: HashSet<usize> = HashSet::new();
        for (index, source) in self.sources.iter_mut().enumerate() {
            let Some(listed) = source.list(|problem| problems.push(Found { source: index, problem })) else {
                silent.insert(index);
                continue;
            };
            // A file may be listed itself and be in a folder that is.
            for file in listed.into_iter().filter(|file| seen.insert(bytes(file))) {
                let mut watched = known.remove(file.as_os_str()).unwrap_or_else(|| Watched::new(file));
                (watched.source, watched.missed) = (index, false);
                self.files.push(watched);
            }
        }
        let (taken, wrong) = look_at_all(&mut self.files, now, rests);
        problems.extend(wrong);
        changed |= !taken.is_empty();
        for mut watched in known.into_values() {
            let was_missed = std::mem::replace(&mut watched.missed, true);
            match silent.contains(&watched.source) || !was_missed {
                true => self.files.push(watched),
                false => changed |= watched.pair.is_some(),
            }
        }
        self.files.sort_by(|a, b| (a.source, a.file.as_os_str()).cmp(&(b.source, b.file.as_os_str())));
        Looked { changed, taken, problems }
    }
}

impl Source {
    /// Its files; `None` if that cannot be told.
    fn list(&mut self, tell: impl FnOnce(Problem)) -> Option<Vec<PathBuf>> {
        match files::list(&self.path) {
            Ok(files) => {
                self.told = None;
                Some(files)
            }
            Err(_) if self.awaited && is_absent(&self.path) => None,
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

fn is_absent(path: &Path) -> bool {
    std::fs::metadata(path).is_err_and(|error| error.kind() == ErrorKind::NotFound)
}

impl Watched {
    fn new(file: PathBuf) -> Watched {
        Watched { file, source: 0, sight: None, told: None, pair: None, missed: false }
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
        // What may be half written is to be read again; what changed only after this sight looks different the next time.
        // So is what the system did not let us read.
        let unread = problem.as_ref().is_some_and(|problem| matches!(problem.flaw, Flaw::Unreadable(_)));
        self.sight = (!waits && !unread).then_some(sight);
        let is_new = pair.is_some();
        self.pair = pair.map(Arc::new).or_else(|| self.pair.take());
        let problem = problem.filter(|_| !waits);
        let is_told = problem.is_some() && problem == self.told;
        self.told.clone_from(&problem);
        let told = problem.filter(|_| !is_told).map(|problem| Found { source: self.source, problem });
        (is_new, told)
    }
}

/// Looks at each of `files`: those that gave new pairs, and what is wrong, in their order.
fn look_at_all(files: &mut [Watched], now: SystemTime, rests: Duration) -> (Vec<PathBuf>, Vec<Found>) {
    const AT_ONCE: usize = 64;
    let (count, thorough) = (files.len(), Thorough::new());
    let (queue, done) = (Mutex::new(files.chunks_mut(AT_ONCE).enumerate()), Mutex::new(Vec::new()));
    let work = || {
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((number, files)) = next else { return };
            let look = |watched: &mut Watched| {
                let (new, problem) = watched.look(now, rests, &thorough);
                (new.then(|| watched.file.clone()), problem)
            };
            let looked = files.iter_mut().map(look).collect::<Vec<_>>();
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
    let (mut taken, mut problems) = (Vec::new(), Vec::new());
    for (new, problem) in looked {
        taken.extend(new);
        problems.extend(problem);
    }
    (taken, problems)
}
