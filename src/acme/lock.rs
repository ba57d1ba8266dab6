//! Who orders what: a file in the storage that keeps the nodes of a pair from doing the same at once.
//!
//! A lock is a file that is made where there is none, with the time and its holder in it. One that is older than ten
//! minutes was left behind, and so was one of a process of this machine that is gone; who finds it takes it over.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio_util::task::TaskTracker;

use super::storage;
use crate::bounded;

/// A lock that is older was left behind: nothing that is done under one takes as long.
pub(super) const STALE: Duration = Duration::from_secs(600);
/// The longest lock, in bytes.
const LONGEST: u64 = 1024;

/// A claim that lasts; given back by Drop, on a thread that may block.
#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    written: String,
    cleanup: TaskTracker,
}

/// What a lock says of its holder.
#[derive(Debug, PartialEq, Eq)]
struct Holder<'a> {
    at: SystemTime,
    host: &'a str,
    process: u32,
}

impl Lock {
    /// Takes the lock at `path`; `None`: somebody else has it. Blocks.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn take(path: &Path, now: SystemTime, cleanup: &TaskTracker) -> io::Result<Option<Lock>> {
        storage::folder_of(path)?;
        let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        // The last part tells one claim of a process from another.
        let written = format!("{seconds} {} {} {:016x}\n", host(), std::process::id(), fastrand::u64(..));
        for _ in 0..2 {
            match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
                Ok(mut file) => {
                    let lock = Lock { path: path.to_owned(), written, cleanup: cleanup.clone() };
                    file.write_all(lock.written.as_bytes())?;
                    file.sync_all()?;
                    return Ok(Some(lock));
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    if !put_aside_if_stale(path, now)? {
                        return Ok(None);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let (path, written) = (std::mem::take(&mut self.path), std::mem::take(&mut self.written));
        self.cleanup.spawn_blocking(move || {
            // Somebody may have taken it over meanwhile. What cannot be removed is found to be stale later.
            if read(&path).is_ok_and(|found| found == written) {
                let _ = fs::remove_file(&path);
            }
        });
    }
}

/// Whether the lock at `path` was left behind; then it is gone.
fn put_aside_if_stale(path: &Path, now: SystemTime) -> io::Result<bool> {
    let found = match read(path) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    };
    // One that says nothing yet is being written, or was when its writer came to an end.
    let written = || fs::metadata(path).and_then(|file| file.modified()).unwrap_or(now);
    let lives = |process: u32| Path::new("/proc").join(process.to_string()).exists();
    let is_stale = match holder(&found) {
        Some(holder) => is_old(holder.at, now) || (holder.host == host() && !lives(holder.process)),
        None => is_old(written(), now),
    };
    if !is_stale {
        return Ok(false);
    }
    let aside = path.with_file_name(format!(".{:016x}", fastrand::u64(..)));
    match fs::rename(path, &aside) {
        Ok(()) => {}
        // Somebody else was faster.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    }
    // Between the look and the move somebody else may have taken it over: it is that one's, and gets it back.
    let is_the_same = read(&aside).is_ok_and(|moved| moved == found);
    if !is_the_same {
        let _ = fs::hard_link(&aside, path);
    }
    fs::remove_file(&aside)?;
    Ok(is_the_same)
}

/// By a clock that may not be ours.
fn is_old(at: SystemTime, now: SystemTime) -> bool {
    let age = now.duration_since(at).unwrap_or_else(|ahead| ahead.duration());
    age > STALE
}

fn holder(text: &str) -> Option<Holder<'_>> {
    let mut words = text.split_whitespace();
    let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(words.next()?.parse().ok()?))?;
    let holder = Holder { at, host: words.next()?, process: words.next()?.parse().ok()? };
    words.next().map(|_| holder)
}

fn read(path: &Path) -> io::Result<String> {
    Ok(String::from_utf8_lossy(&bounded::read_regular(path, LONGEST)?).into_owned())
}

/// What this machine is called.
fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String = name.trim().chars().filter(char::is_ascii_graphic).collect();
    if name.is_empty() { "unknown".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process that is not there.
    const GONE: u32 = u32::MAX;

    #[tokio::test]
    async fn one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("locks").join("a.example");
        let (cleanup, now) = (TaskTracker::new(), SystemTime::now());
        let lock = Lock::take(&path, now, &cleanup).unwrap().unwrap();
        assert!(Lock::take(&path, now, &cleanup).unwrap().is_none());
        drop(lock);
        cleanup.close();
        cleanup.wait().await;
        assert!(!path.exists());
        assert!(Lock::take(&path, now, &cleanup).unwrap().is_some());
    }

    #[tokio::test]
    async fn what_was_left_behind_is_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.example");
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let (here, this) = (host(), std::process::id());
        for (case, text, taken) in [
            ("the other node", "999900 elsewhere 7 0".to_owned(), false),
            ("the other node, too long ago", "999300 elsewhere 7 0".to_owned(), true),
            ("a clock that is far ahead", "2000000 elsewhere 7 0".to_owned(), true),
            ("this process", format!("999900 {here} {this} 0"), false),
            ("a process of this machine that is gone", format!("999900 {here} {GONE} 0"), true),
            ("that is gone, of another machine", format!("999900 elsewhere {GONE} 0"), false),
            ("nonsense of long ago, or from a clock that is ahead", "x".to_owned(), true),
        ] {
            fs::write(&path, &text).unwrap();
            let lock = Lock::take(&path, now, &TaskTracker::new()).unwrap();
            assert_eq!(lock.is_some(), taken, "{case}");
            assert_eq!(fs::read_to_string(&path).unwrap() != text, taken, "{case}");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "{case}: nothing is left behind");
            // What this one leaves is not to be found by the next.
            std::mem::forget(lock);
        }
    }

    #[tokio::test]
    async fn a_lock_that_was_taken_over_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.example");
        let cleanup = TaskTracker::new();
        let lock = Lock::take(&path, SystemTime::now(), &cleanup).unwrap().unwrap();
        fs::write(&path, "999900 elsewhere 7 0").unwrap();
        drop(lock);
        cleanup.close();
        cleanup.wait().await;
        assert!(path.exists());
    }
}
