//! Programs of others that tests start: servers, ended with the test, and clients, which may not take for ever.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::process::skipped;
use super::{PATIENCE, eventually_within};

/// How long a server may take to start or to end: databases do much then, and all tests at once want the processor.
const SERVER_PATIENCE: Duration = Duration::from_secs(30);

/// How long a client may take.
const CLIENT_PATIENCE: Duration = Duration::from_secs(60);

/// A running server, and the file that what it says goes to.
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts it; what it says goes to `log`, behind what stands there. Nothing where it is not installed.
    pub fn start(command: &mut Command, log: &Path) -> Option<Daemon> {
        let file = File::options().create(true).append(true).open(log).unwrap();
        let child = command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file).spawn();
        match child {
            Ok(child) => Some(Daemon { child, log: log.to_owned() }),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                skipped(&format!("{} is not installed", command.get_program().display()));
                None
            }
            Err(error) => panic!("{command:?}: {error}"),
        }
    }

    /// Waits until it is ready; fails with its log if it ends before.
    pub fn wait_until(&mut self, what: &str, mut ready: impl FnMut() -> bool) {
        eventually_within(SERVER_PATIENCE, what, || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("{what}: {status}: {}", self.log());
            }
            ready().then_some(())
        });
    }

    /// What it has said.
    pub fn log(&self) -> String {
        std::fs::read(&self.log).map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default()
    }

    /// Its id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, and waits for its end.
    pub fn end(&mut self, signal: Signal) {
        if self.child.try_wait().unwrap().is_none() {
            kill_process(Pid::from_child(&self.child), signal).expect("it is there");
            eventually_within(SERVER_PATIENCE, "the server ends", || self.child.try_wait().unwrap());
        }
    }

    /// Asks it to end, and gives it a while to do so: for those that a kill would not free of all they hold.
    pub fn leave(&mut self, signal: Signal) {
        if let Ok(None) = self.child.try_wait() {
            let _ = kill_process(Pid::from_child(&self.child), signal);
            let until = Instant::now() + PATIENCE;
            while Instant::now() < until && matches!(self.child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("what {} says:\n{}", self.log.display(), self.log());
        }
    }
}

/// What a client printed, without the last line's end; or, where it failed, what it complained about.
pub fn ask(command: &mut Command) -> Result<String, String> {
    ask_within(CLIENT_PATIENCE, command)
}

/// The same of one that may take so long.
pub fn ask_within(patience: Duration, command: &mut Command) -> Result<String, String> {
    let (mut out, mut complaints) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(complaints.try_clone().unwrap());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let ended = || child.try_wait().unwrap();
    let status = eventually_within(patience, &format!("the end of {command:?}"), ended);
    let text = if status.success() { &mut out } else { &mut complaints };
    let mut bytes = Vec::new();
    text.rewind().unwrap();
    text.read_to_end(&mut bytes).unwrap();
    let said = String::from_utf8_lossy(&bytes).trim_end().to_owned();
    if status.success() { Ok(said) } else { Err(said) }
}

/// What `tests/fetch` has fetched under this name; nothing, and a word on it, where it has not.
pub fn fetched(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-tools").join(name);
    if path.exists() {
        // A link with the version behind it.
        return Some(path.canonicalize().unwrap());
    }
    skipped(&format!("{name} is not there: tests/fetch brings it"));
    None
}
