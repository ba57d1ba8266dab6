//! The command line: what `check` and `run` print and how they exit.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use crate::harness::Process;
use crate::harness::process::free_address;

/// Exit status, standard output, standard error.
fn pointsman(arguments: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_pointsman"))
        .args(arguments)
        .envs(environment.iter().copied())
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn written(folder: &Path, config: &str) -> String {
    let path = folder.join("pointsman.toml");
    std::fs::write(&path, config).unwrap();
    path.to_str().unwrap().to_owned()
}

/// One listener, route and pool.
fn serving(bind: &str) -> String {
    format!(
        r#"
        log.access = "off"
        listener.edge.bind = "{bind}"
        route.all = {{ listener = "edge", pool = "all" }}
        pool.all.endpoints = ["127.0.0.1:1"]
        "#
    )
}

#[test]
fn the_examples_are_correct() {
    let absent = "warning: the file of endpoints /etc/pointsman/pg.endpoints.json does not exist\n";
    for (path, counts, warning) in [
        ("conf/minimal.toml", "(listeners: 1, routes: 1, pools: 1)", ""),
        ("conf/reference.toml", "(listeners: 4, routes: 5, pools: 5)", absent),
    ] {
        let said = pointsman(&["check", path], &[]);
        assert_eq!(said, (Some(0), format!("{path}: ok {counts}\n"), warning.to_owned()));
    }
}

#[test]
fn every_problem_is_told_at_once_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = written(
        folder.path(),
        "[listener.edge]\nbind = \"127.0.0.1:443\"\nprotocoll = \"tls\"\n\n\
         [route.www]\nlistener = \"edge\"\nsni = \"www.example.com\"\npool = \"wbe\"\n\n\
         [pool.web]\nendpoints = [\"10.0.0.1\"]\n",
    );
    for command in ["check", "run"] {
        let (status, out, err) = pointsman(&[command, &path], &[]);
        assert_eq!((status, out.as_str()), (Some(1), ""), "{command}: {err}");
        for part in [
            format!("{path}:3:1: listener.edge.protocoll"),
            "did you mean protocol".into(),
            format!("{path}:8:8: route.www.pool"),
            "did you mean \"web\"".into(),
            format!("{path}:11:14: pool.web.endpoints"),
        ] {
            assert!(err.contains(&part), "{command}: {part:?} is not in\n{err}");
        }
        assert_eq!(err.trim_end().lines().count(), 3, "{command}: one problem a line\n{err}");
    }
}

#[test]
fn a_file_that_is_not_there_or_no_toml() {
    let folder = tempfile::tempdir().unwrap();
    let absent = folder.path().join("absent.toml");
    let absent = absent.to_str().unwrap();
    let broken = written(folder.path(), "[listener.edge\n");
    for command in ["check", "run"] {
        let (status, _, err) = pointsman(&[command, absent], &[]);
        assert!(status == Some(1) && err.starts_with(absent), "{command}: {status:?}, {err}");
        let (status, _, err) = pointsman(&[command, &broken], &[]);
        assert!(status == Some(1) && err.starts_with(&format!("{broken}:1:")), "{command}: {status:?}, {err}");
    }
}

#[test]
fn a_file_of_endpoints_that_is_not_there_is_no_mistake_but_told() {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("e.json");
    let config = format!("{}\npool.all.endpoints_file = {list:?}", serving("127.0.0.1:0"));
    let path = written(folder.path(), &config);
    let (status, _, err) = pointsman(&["check", &path], &[]);
    assert_eq!(
        (status, err.trim_end()),
        (Some(0), &*format!("warning: the file of endpoints {} does not exist", list.display()))
    );
    std::fs::write(&list, "[]").unwrap();
    let (status, _, err) = pointsman(&["check", &path], &[]);
    assert_eq!((status, err.as_str()), (Some(0), ""));
}

#[test]
fn bind_tries_the_addresses() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let path = written(folder.path(), &serving(&address.to_string()));
    assert_eq!(pointsman(&["check", &path], &[]).0, Some(0), "nobody asked for the addresses");
    for command in [&["check", "--bind", &path][..], &["run", &path]] {
        let (status, out, err) = pointsman(command, &[]);
        assert_eq!((status, out.as_str()), (Some(1), ""), "{command:?}: {err}");
        let told = ["listener.edge.bind", &address.to_string(), "another socket listens there"];
        assert!(told.iter().all(|part| err.contains(part)), "{command:?}: {err}");
    }
    drop(taken);
    let (status, out, err) = pointsman(&["check", "--bind", &path], &[]);
    assert_eq!(status, Some(0), "{err}");
    assert!(out.contains("all addresses are free"), "{out}");

    let socket = folder.path().join("edge.sock");
    let path = written(folder.path(), &serving(&format!("unix:{}", socket.display())));
    assert_eq!(pointsman(&["check", "--bind", &path], &[]).0, Some(0));
    assert!(!socket.exists(), "a check leaves nothing behind");

    let pages = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = format!("admin.http = \"{}\"\n{}", pages.local_addr().unwrap(), serving("127.0.0.1:0"));
    let (status, _, err) = pointsman(&["check", "--bind", &written(folder.path(), &config)], &[]);
    assert!(status == Some(1) && err.contains("admin.http: cannot listen on"), "{status:?}, {err}");
}

#[test]
fn a_second_process_on_the_same_address_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let config = serving(&free_address().to_string());
    let path = written(folder.path(), &config);
    let _first = Process::start(&config.replace("log.access = \"off\"", ""));
    for command in [&["check", "--bind", &path][..], &["run", &path]] {
        let (status, _, err) = pointsman(command, &[]);
        assert!(status == Some(1) && err.contains("another socket listens there"), "{command:?}: {status:?}, {err}");
    }
}

#[test]
fn what_the_environment_sets_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = written(folder.path(), &serving("127.0.0.1:0"));
    let (status, out, err) = pointsman(
        &["check", &path],
        &[
            ("POINTSMAN__RUNTIME__WORKERS", "3"),
            ("POINTSMAN__LOG__LEVEL", "debug"),
            ("POINTSMAN__POOL__ALL__BALANCE", "nonsense"),
            ("POINTSMAN_PORT_443_TCP", "tcp://10.0.0.1:443"),
        ],
    );
    assert_eq!(status, Some(0), "{err}");
    let taken: Vec<&str> = out.lines().filter_map(|line| line.strip_prefix("taken from the environment: ")).collect();
    assert_eq!(taken, ["POINTSMAN__LOG__LEVEL", "POINTSMAN__RUNTIME__WORKERS"], "{out}");

    let (status, _, err) = pointsman(&["check", &path], &[("POINTSMAN__RUNTIME__WORKERS", "many")]);
    assert_eq!(status, Some(1));
    assert!(err.contains("environment variable POINTSMAN__RUNTIME__WORKERS: runtime.workers"), "{err}");
}

#[test]
fn what_is_no_command_is_explained() {
    let (status, _, err) = pointsman(&["walk"], &[]);
    assert!(status == Some(2) && err.contains("walk") && err.contains("Usage"), "{status:?}: {err}");
    let (status, out, _) = pointsman(&["--help"], &[]);
    assert!(status == Some(0) && out.contains("run") && out.contains("check"), "{status:?}: {out}");
    let (status, out, _) = pointsman(&["--version"], &[]);
    assert_eq!((status, out), (Some(0), format!("pointsman {}\n", env!("CARGO_PKG_VERSION"))));
}
