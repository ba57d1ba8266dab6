//! Who orders what: a file in the storage that keeps the nodes of a pair from doing the same at once.
//!
//! A lock is a file that is made where there is none, with the time and its holder in it. One that is older than ten
//! minutes was left behind, and so was one of a process that would be seen here but is gone; who finds it takes it over.

use std::fs::{self, File, OpenOptions};
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
/// In place of where the holder is, if that cannot be told.
const UNKNOWN: &str = "-";

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
    process: u32,
    /// When the process was started, in ticks since the machine was.
    start: u64,
    /// Where it is; `None`: nobody can tell.
    place: Option<&'a str>,
}

impl Lock {
    /// Takes the lock at `path`; `None`: somebody else has it. Blocks.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn take(path: &Path, now: SystemTime, cleanup: &TaskTracker) -> io::Result<Option<Lock>> {
        storage::folder_of(path)?;
        let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let process = std::process::id();
        let found = place().zip(start_of(process).ok().flatten());
        let (place, start) = found.unwrap_or_else(|| (UNKNOWN.to_owned(), 0));
        // The random part tells one claim of a process from another.
        let claim = fastrand::u64(..);
        let written = format!("{seconds} {} {process} {claim:016x} {start} {place}\n", host());
        for _ in 0..2 {
            match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
                Ok(file) => {
                    fill(file, path, &written)?;
                    return Ok(Some(Lock { path: path.to_owned(), written, cleanup: cleanup.clone() }));
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

/// Writes a lock that was just made. One that says nothing would keep everybody away for as long as a lock can.
fn fill(mut file: File, path: &Path, text: &str) -> io::Result<()> {
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    written.inspect_err(|_| drop(fs::remove_file(path)))
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
    let is_stale = match holder(&found) {
        Some(holder) => is_old(holder.at, now) || is_gone(&holder, place().as_deref()),
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

/// Whether somebody `here` would see the holder, and does not. A process of another start has got the number of one that
/// is gone.
fn is_gone(holder: &Holder<'_>, here: Option<&str>) -> bool {
    let is_another = || start_of(holder.process).is_ok_and(|start| start != Some(holder.start));
    here.is_some() && holder.place == here && is_another()
}

fn holder(text: &str) -> Option<Holder<'_>> {
    let mut words = text.split_whitespace();
    let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(words.next()?.parse().ok()?))?;
    // What the machine is called is there for people.
    let (_, process, _) = (words.next()?, words.next()?.parse().ok()?, words.next()?);
    let start = words.next().and_then(|start| start.parse().ok());
    let place = words.next().filter(|place| start.is_some() && *place != UNKNOWN);
    Some(Holder { at, process, start: start.unwrap_or_default(), place })
}

fn read(path: &Path) -> io::Result<String> {
    Ok(String::from_utf8_lossy(&bounded::read_regular(path, LONGEST)?).into_owned())
}

/// Where numbers and starts of processes mean the same: one boot of a machine, and the namespaces that they are counted
/// in. Containers may share a name and see different processes. `None`: that cannot be told.
fn place() -> Option<String> {
    // A /proc of another namespace than ours does not show us where we are.
    if fs::read_link("/proc/self").ok()? != Path::new(&std::process::id().to_string()) {
        return None;
    }
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let processes = fs::read_link("/proc/self/ns/pid").ok()?;
    // Older systems have one time for all.
    let time = fs::read_link("/proc/self/ns/time").unwrap_or_default();
    Some(format!("{}/{}/{}", boot.trim(), processes.display(), time.display()))
}

/// When a process was started; `None`: there is none of this number.
fn start_of(process: u32) -> io::Result<Option<u64>> {
    let stat = match fs::read(format!("/proc/{process}/stat")) {
        Ok(stat) => String::from_utf8_lossy(&stat).into_owned(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    // The second field is the program's name in brackets, in which anything may stand; this is the 22nd.
    let start = stat.rsplit_once(") ").and_then(|(_, fields)| fields.split(' ').nth(22 - 3)?.parse().ok());
    start.map(Some).ok_or_else(|| ErrorKind::InvalidData.into())
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
        let (here, this) = (place().unwrap(), std::process::id());
        let start = start_of(this).unwrap().unwrap();
        let (boot, namespaces) = here.split_once('/').unwrap();
        for (case, text, taken) in [
            ("the other node", "999900 elsewhere 7 0 1 x/y/z".to_owned(), false),
            ("the other node, too long ago", "999300 elsewhere 7 0 1 x/y/z".to_owned(), true),
            ("a clock that is far ahead", "2000000 elsewhere 7 0 1 x/y/z".to_owned(), true),
            ("this process", format!("999900 h {this} 0 {start} {here}"), false),
            ("one that had its number", format!("999900 h {this} 0 {} {here}", start.wrapping_sub(1)), true),
            ("a process that is gone", format!("999900 h {GONE} 0 {start} {here}"), true),
            ("that is gone, of another machine", format!("999900 h {GONE} 0 {start} x/{namespaces}"), false),
            ("that is gone, of another container", format!("999900 h {GONE} 0 {start} {boot}/pid:[1]/"), false),
            ("that is gone, from where nobody knows", format!("999900 h {GONE} 0 {start} -"), false),
            ("that is gone, and was cut short", format!("999900 h {GONE} 0"), false),
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
    async fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let lock = Lock::take(&folder.path().join("a"), SystemTime::now(), &TaskTracker::new()).unwrap().unwrap();
        let here = place();
        let holder = holder(&lock.written).unwrap();
        assert_eq!((holder.process, holder.place), (std::process::id(), here.as_deref()));
        assert!(here.is_some() && !is_gone(&holder, here.as_deref()) && !is_gone(&holder, None));
    }

    #[test]
    fn a_lock_that_cannot_be_written_is_not_left_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.example");
        fs::write(&path, "").unwrap();
        // Nothing can be written through it.
        assert!(fill(File::open(&path).unwrap(), &path, "x").is_err());
        assert!(!path.exists());
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
