//! What tells one version of a file from another.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Identity and times of a file, links followed: another file under the same path and a change in place both change it.
/// Asked for rather than watched for: that works with links that are swapped and on file systems over a network as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// That of the file which is at `path` now.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn of(path: &Path) -> io::Result<Stamp> {
        let data = std::fs::metadata(path)?;
        Ok(Stamp {
            file: (data.dev(), data.ino()),
            size: data.size(),
            modified: (data.mtime(), data.mtime_nsec()),
            changed: (data.ctime(), data.ctime_nsec()),
        })
    }

    /// When the file came to its place or was last changed there, by the clock of its file system.
    pub(crate) fn changed(&self) -> SystemTime {
        let (seconds, nanoseconds) = self.changed;
        let since = |part: i64| u64::try_from(part).unwrap_or_default();
        SystemTime::UNIX_EPOCH + Duration::from_secs(since(seconds)) + Duration::from_nanos(since(nanoseconds))
    }
}
