//! Files that are read together whenever one of them has changed; whatever is wrong with one, what was read before stays.

use std::path::Path;
use std::time::{Duration, SystemTime};

use super::problem::{Flaw, Problem};
use super::watch::Found;
use crate::stamp::Stamp;

/// The versions of some files, as they were when these were last looked at.
pub(super) type Sight = Vec<Option<Stamp>>;

/// What is remembered of files from one look to the next.
#[derive(Default)]
pub(super) struct Sighted {
    /// `None`: they are to be read again.
    sight: Option<Sight>,
    /// What was last told to be wrong.
    told: Vec<Problem>,
}

impl Sighted {
    /// Files that were just read.
    pub(super) fn read<'f>(files: impl Iterator<Item = &'f Path>) -> Sighted {
        Sighted { sight: Some(sight(files)), told: Vec::new() }
    }

    /// How many of them cannot be used.
    pub(super) fn broken(&self) -> usize {
        self.told.len()
    }

    /// Reads `files` if one has changed, or if they are `outdated` all the same: what they hold now, if it is new and good, and
    /// what is wrong, each problem once. What was changed less than `rests` ago is looked at again before anything is said of
    /// it.
    pub(super) fn look<'f, T>(
        &mut self,
        files: impl Iterator<Item = &'f Path>,
        outdated: bool,
        (now, rests): (SystemTime, Duration),
        read: impl FnOnce() -> Result<T, Vec<Found>>,
    ) -> (Option<T>, Vec<Found>) {
        let sight = sight(files);
        if self.sight.as_ref() == Some(&sight) && !outdated {
            return (None, Vec::new());
        }
        let is_young = |stamp: &Stamp| now.duration_since(stamp.changed()).is_ok_and(|age| age < rests);
        match read() {
            Ok(content) => {
                *self = Sighted { sight: Some(sight), told: Vec::new() };
                (Some(content), Vec::new())
            }
            Err(_) if sight.iter().flatten().any(is_young) => (None, Vec::new()),
            Err(found) => {
                // What the system did not let us read is tried again.
                let unread = found.iter().any(|found| matches!(found.problem.flaw, Flaw::Unreadable(_)));
                self.sight = (!unread).then_some(sight);
                let problems = found.iter().map(|found| found.problem.clone()).collect();
                let told = std::mem::replace(&mut self.told, problems);
                (None, found.into_iter().filter(|found| !told.contains(&found.problem)).collect())
            }
        }
    }
}

fn sight<'f>(files: impl Iterator<Item = &'f Path>) -> Sight {
    files.map(|file| Stamp::of(file).ok()).collect()
}
