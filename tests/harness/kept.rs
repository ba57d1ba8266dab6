//! What takes long to make and is the same for every test: made by the first that needs it, and copied by the others.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use tempfile::TempDir;

use super::daemon::ask;

/// The folder of this name below the build's own, made by `make` where it is not there. Another process may make it at
/// the same time.
pub fn kept(name: &str, make: impl FnOnce(&Path)) -> PathBuf {
    static MAKING: Mutex<()> = Mutex::new(());
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name.replace(|it: char| !it.is_alphanumeric(), "-"));
    let _one_at_a_time = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    if !kept.exists() {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let own = folder.path().join("own");
        make(&own);
        if std::fs::rename(&own, &kept).is_err() {
            assert!(kept.exists(), "{} can be made", kept.display());
        }
    }
    kept
}

/// A new folder for many files that nobody needs after the test: in memory, where there is plenty of it.
pub fn quick_folder() -> TempDir {
    const MEMORY: &str = "/dev/shm";
    const PLENTY: u64 = 4 << 30;
    match rustix::fs::statvfs(MEMORY) {
        Ok(there) if there.f_bavail * there.f_frsize >= PLENTY => tempfile::tempdir_in(MEMORY).unwrap(),
        _ => tempfile::tempdir().unwrap(),
    }
}

/// Copies a folder to a place where there is nothing yet.
pub fn copy(from: &Path, to: &Path) {
    run(Command::new("cp").args(["-R", "-T"]).arg(from).arg(to));
}

/// Runs what has to succeed.
pub fn run(command: &mut Command) -> String {
    ask(command).unwrap_or_else(|error| panic!("{command:?}: {error}"))
}
