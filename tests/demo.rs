//! `pointsman demo`, as a stranger runs it.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

fn demo(folder: &std::path::Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
    command.arg("demo").env("TMPDIR", folder).stdin(Stdio::null());
    command
}

fn is_empty(folder: &std::path::Path) -> bool {
    std::fs::read_dir(folder).unwrap().next().is_none()
}

#[test]
fn once_passes_its_own_checks_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let done = demo(folder.path()).arg("--once").output().unwrap();
    let said = String::from_utf8(done.stdout).unwrap();
    assert!(done.status.success(), "{}\n{said}\n{}", done.status, String::from_utf8_lossy(&done.stderr));
    assert!(said.contains("blue.demo.test   -> \"Hello from blue.\" -> certificate of blue.demo.test"), "{said}");
    assert!(said.contains("red.demo.test    -> no route -> alert unrecognized_name"), "{said}");
    assert!(!said.contains("curl"), "nothing can be tried once it has ended: {said}");
    assert!(is_empty(folder.path()));
}

#[test]
fn it_serves_until_it_is_interrupted_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = demo(folder.path()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let hint = said.find(|line| line.contains("curl --cacert")).expect("it says what to try by hand");
    assert!(said.any(|line| line.starts_with("Serving until Ctrl-C")), "after {hint}");
    let file = hint.split(' ').find(|word| word.ends_with(".pem")).expect("a certificate to trust");
    assert!(std::fs::read_to_string(file).unwrap().starts_with("-----BEGIN CERTIFICATE-----"));
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert!(said.any(|line| line.starts_with("SIGINT")));
    assert!(child.wait().unwrap().success());
    assert!(is_empty(folder.path()));
}
