//! A file of endpoints that may change at any time.
//!
//! It is looked at twice a second and read once it rests, so that one that is written in place is not read halfway. What
//! cannot be read changes nothing; what the system is to blame for is tried again at every look.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::config::model::Endpoint;
use crate::config::{Problems, Unread, read_endpoints};
use crate::stamp::Stamp;

/// From one look to the next. A file has to look the same twice before it is read.
const LOOK: Duration = Duration::from_millis(500);
/// The most problems of a file that are told.
const MOST_TOLD: usize = 20;

/// A file, and what was last found in its place.
pub(super) struct Watched {
    path: PathBuf,
    /// Endpoints of the configuration, whose names are taken.
    others: Vec<Endpoint>,
    /// Whether endpoints have to have names that certificates are verified by.
    names_verified: bool,
    seen: Option<Sight>,
    /// What was last told of.
    told: Option<Sight>,
}

/// A version of the file, or why there is none.
type Sight = Result<Stamp, String>;

/// What a new version of a file comes to.
pub(super) enum Reading {
    /// The endpoints that it lists.
    Endpoints(Vec<Endpoint>),
    /// What is wrong with it, a problem each, at least one.
    Failed(Vec<String>),
}

impl Watched {
    /// A file that was not looked at yet, beside these endpoints. Whether certificates are verified by the names of
    /// endpoints decides which ones it may list.
    pub(super) fn new(path: PathBuf, others: Vec<Endpoint>, names_verified: bool) -> Watched {
        Watched { path, others, names_verified, seen: None, told: None }
    }

    /// Its path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for a version that was not told of yet. Nothing if the process is about to end.
    pub(super) async fn next(mut self) -> Option<(Watched, Reading)> {
        loop {
            if self.seen.is_some() {
                sleep(LOOK).await;
            }
            // It may be on a file system that does not answer.
            let look = spawn_blocking(move || {
                let reading = self.look();
                (self, reading)
            });
            let (watched, reading) = look.await.ok()?;
            match reading {
                Some(reading) => return Some((watched, reading)),
                None => self = watched,
            }
        }
    }

    /// Reads the file if there is a version that was not told of, and that rests.
    fn look(&mut self) -> Option<Reading> {
        let sight = self.sight();
        let seen = self.seen.replace(sight.clone());
        if self.told.as_ref() == Some(&sight) || seen.is_some_and(|seen| seen != sight) {
            return None;
        }
        let (told, reading) = match &sight {
            Err(error) => (Err(error.clone()), self.failed(error)),
            Ok(stamp) => match read_endpoints(&self.path, &self.others, self.names_verified) {
                Ok(endpoints) => (Ok(*stamp), Reading::Endpoints(endpoints)),
                Err(Unread::Wrong(problems)) => (Ok(*stamp), wrong(&problems)),
                // That version may be good: it has not been told of.
                Err(Unread::System(error)) => (Err(error.to_string()), self.failed(&error.to_string())),
            },
        };
        if self.sight() != sight || self.told.as_ref() == Some(&told) {
            return None;
        }
        self.told = Some(told);
        Some(reading)
    }

    fn failed(&self, error: &str) -> Reading {
        Reading::Failed(vec![format!("{}: {error}", self.path.display())])
    }

    fn sight(&self) -> Sight {
        Stamp::of(&self.path).map_err(|error| error.to_string())
    }
}

fn wrong(problems: &Problems) -> Reading {
    let mut told: Vec<String> = problems.0.iter().take(MOST_TOLD).map(ToString::to_string).collect();
    if let Some(more) = problems.0.len().checked_sub(MOST_TOLD).filter(|more| *more > 0) {
        told.push(format!("and {more} more"));
    }
    Reading::Failed(told)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn told(reading: Option<Reading>) -> String {
        match reading {
            None => "nothing".into(),
            Some(Reading::Endpoints(endpoints)) => {
                let names: Vec<String> = endpoints.iter().map(|endpoint| endpoint.name.clone()).collect();
                format!("[{}]", names.join(" "))
            }
            Some(Reading::Failed(problems)) => problems.join("; "),
        }
    }

    #[test]
    fn versions_are_told_once_and_when_they_rest() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("e.json");
        let others = crate::config::read_endpoints;
        fs::write(folder.path().join("others.json"), r#"["10.0.0.9:1"]"#).unwrap();
        let others = others(&folder.path().join("others.json"), &[], false).unwrap();
        let mut file = Watched::new(path.clone(), others, false);
        let mut look = |case: &str, expected: &str| {
            let told = told(file.look()).replace(&format!("{}/", folder.path().display()), "");
            assert_eq!(told, expected, "{case}");
        };
        look("not there", "e.json: No such file or directory (os error 2)");
        look("still not there", "nothing");
        fs::write(&path, r#"["10.0.0.1:1"]"#).unwrap();
        look("it may be written to", "nothing");
        look("it rests", "[10.0.0.1:1]");
        look("the same", "nothing");
        fs::write(&path, r#"["10.0.0.1:1", "10.0.0.2"]"#).unwrap();
        look("it may be written to", "nothing");
        look(
            "what is wrong",
            "e.json:1:16: endpoints[1]: \"10.0.0.2\" has no port; expected an address such as \"10.0.0.11:5432\", or a \
             table with address, name, weight and backup",
        );
        look("told once", "nothing");
        fs::write(folder.path().join("new"), r#"{"endpoints": ["10.0.0.9:1"]}"#).unwrap();
        fs::rename(folder.path().join("new"), &path).unwrap();
        look("another file", "nothing");
        look("a name that is taken", "e.json:1:16: endpoints[0]: two endpoints of the pool are called \"10.0.0.9:1\"");
        fs::remove_file(&path).unwrap();
        look("for a moment", "nothing");
        look("gone", "e.json: No such file or directory (os error 2)");
        fs::write(folder.path().join("v1"), "[]").unwrap();
        std::os::unix::fs::symlink("v1", &path).unwrap();
        look("a link", "nothing");
        look("a link to an empty list", "[]");
    }

    #[test]
    fn what_the_system_refuses_is_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        // Reading it fails with EIO at any time, and it looks the same throughout.
        let path = folder.path().join("e.json");
        std::os::unix::fs::symlink("/proc/self/mem", &path).unwrap();
        let mut file = Watched::new(path.clone(), Vec::new(), false);
        let told_first = told(file.look());
        assert!(told_first.ends_with("Input/output error (os error 5)"), "{told_first}");
        let failed = file.told.clone();
        assert!(failed.as_ref().unwrap().is_err(), "that version is read again");
        assert_eq!(told(file.look()), "nothing", "the same failure is told once");
        // As it would be had the first reading failed.
        fs::remove_file(&path).unwrap();
        fs::write(&path, "[]").unwrap();
        file.seen = Some(file.sight());
        assert_eq!(told(file.look()), "[]");
        file.told = failed;
        assert_eq!(told(file.look()), "[]", "the version is known, but was never read");
        assert_eq!(told(file.look()), "nothing");
    }
}
