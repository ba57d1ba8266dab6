//! Several files, and the environment.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;

use insta::assert_snapshot;

use super::GOOD;
use crate::config::{Loaded, Problems, load_with};

/// Writes `files` into a folder and loads the first one.
fn load(files: &[(&str, &str)], environment: &[(&str, &str)]) -> (Result<Loaded, Problems>, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a path in the folder")).expect("a folder");
        fs::write(path, text).expect("a file");
    }
    let environment = environment.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    (load_with(&folder.path().join(files[0].0), environment), folder)
}

/// What is said of `files`, without the name of the folder.
fn said(files: &[(&str, &str)], environment: &[(&str, &str)]) -> String {
    let (loaded, folder) = load(files, environment);
    let folder = format!("{}/", folder.path().display());
    match loaded {
        Ok(_) => "fine".to_owned(),
        Err(problems) => problems.to_string().replace(&folder, ""),
    }
}

#[test]
fn files_are_included_in_the_order_of_their_names() {
    let pool = |name: &str| {
        format!("[pool.{name}]\nendpoints = '10.0.0.1:80'\n[route.{name}]\nlistener='l'\nsni='{name}.x'\npool='{name}'")
    };
    let (b, a, c) = (pool("b"), pool("a"), pool("c"));
    let files = [
        ("main.toml", "include = ['extra/*.toml', 'extra/a.toml', 'c.toml']\n[listener.l]\nbind = '0.0.0.0:443'"),
        ("extra/b.toml", b.as_str()),
        ("extra/a.toml", a.as_str()),
        ("extra/.hidden.toml", "not = 'read'"),
        ("extra/a.toml~", "not = 'read'"),
        ("c.toml", c.as_str()),
    ];
    let (loaded, folder) = load(&files, &[]);
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(problems) => panic!("{problems}"),
    };
    let expected = ["main.toml", "extra/a.toml", "extra/b.toml", "c.toml"].map(|name| folder.path().join(name));
    assert_eq!(loaded.files, expected);
    let pools: Vec<&str> = loaded.config.pools.iter().map(|pool| pool.name.as_str()).collect();
    assert_eq!(pools, ["a", "b", "c"]);
}

#[test]
fn only_what_is_asked_for_is_included() {
    let (loaded, _folder) = load(&[("main.toml", GOOD), ("conf.d/x.toml", "[log]\nformat = 'text'")], &[]);
    assert_eq!(loaded.map(|loaded| loaded.files.len()).ok(), Some(1));
}

#[test]
fn a_table_may_be_spread_over_files() {
    let main = format!("include = 'conf.d/*.toml'\n{GOOD}");
    let files = [
        ("main.toml", main.as_str()),
        ("conf.d/x.toml", "listener.edge.backlog = 7\n[pool.web.timeouts]\nidle = '1h'"),
    ];
    let (loaded, _folder) = load(&files, &[]);
    let config = loaded.map(|loaded| loaded.config).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(
        (config.listeners[0].backlog, config.pools[0].timeouts.idle.map(|idle| idle.as_secs())),
        (7, Some(3600))
    );
}

#[test]
fn a_key_in_two_files() {
    let main = format!("include = 'conf.d/*.toml'\n{GOOD}");
    let files = [
        ("main.toml", main.as_str()),
        ("conf.d/1.toml", "[listener.edge]\nbind = '0.0.0.0:444'\n[log]\nlevel = 'info'"),
        ("conf.d/2.toml", "log = 'debug'\n[pool.web]\nendpoints.x = 1"),
    ];
    assert_snapshot!(said(&files, &[]), @r#"
    conf.d/1.toml:2:1: listener.edge.bind: the key is set in two files (see main.toml:4:1)
    conf.d/2.toml:1:1: log: the key is set in two files (see conf.d/1.toml:3:2)
    conf.d/2.toml:3:1: pool.web.endpoints: the key is set in two files (see main.toml:10:1)
    "#);
}

#[test]
fn includes_that_are_wrong() {
    let main = format!("include = ['missing.toml', 'x/[.toml', '', 7, 'nested.toml', 'folder', 'folder/*/y']\n{GOOD}");
    let files = [("main.toml", main.as_str()), ("nested.toml", "include = 'x.toml'"), ("folder/x.toml", "")];
    assert_snapshot!(said(&files, &[]), @r#"
    main.toml:1:12: include: cannot read "missing.toml": No such file or directory (os error 2)
    main.toml:1:28: include: "x/[.toml" is not a pattern: invalid range pattern; expected a list of paths, in which *, ? and [...] stand for parts of names
    main.toml:1:40: include: not a path; expected a list of paths, in which *, ? and [...] stand for parts of names
    main.toml:1:44: include: not a path; expected a list of paths, in which *, ? and [...] stand for parts of names
    main.toml:1:62: include: cannot read "folder": Is a directory (os error 21)
    nested.toml:1:1: include: only the main file may include others
    "#);
}

#[test]
fn a_broken_file_hides_nothing_but_what_may_be_in_it() {
    let files = [
        (
            "main.toml",
            "include = 'conf.d/*.toml'\n[listener.edge]\nbind = '0.0.0.0:443'\nbacklog = 0\n[route.a]\nlistener = 'edge'\npool = 'p'",
        ),
        ("conf.d/1.toml", "[pool.p\nendpoints = '10.0.0.1:80'"),
        ("conf.d/2.toml", "[log]\nlevel = 'info'\nlevel = 'warn'"),
        ("conf.d/3.toml", "[pool.q]\nendpoint = '10.0.0.1:80'"),
    ];
    assert_snapshot!(said(&files, &[]), @r#"
    main.toml:4:11: listener.edge.backlog: 0 is out of range; expected a number from 1 to 65535
    conf.d/1.toml:1:8: not TOML: unclosed table, expected `]`
    conf.d/2.toml:3:1: not TOML: duplicate key "level"
    conf.d/3.toml:2:1: pool.q.endpoint: unknown key; did you mean endpoints?
    "#);
}

#[test]
fn a_file_that_is_not_there() {
    assert_snapshot!(said(&[("folder/x", "")], &[]).replace("folder/x", ""), @r#"
    : listener: there is no listener; expected at least one [listener.NAME]
    : pool: there is no pool; expected at least one [pool.NAME]
    : route: there is no route; expected at least one [route.NAME]
    "#);
    let path = std::path::Path::new("/nowhere/main.toml");
    let problems = load_with(path, []).map(|_| ()).expect_err("there is no such file");
    assert_snapshot!(problems.to_string(), @r#"/nowhere/main.toml: cannot read the file: No such file or directory (os error 2)"#);
}

#[test]
fn a_file_that_is_not_utf_8() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("main.toml");
    fs::write(&path, b"[log]\nlevel = 'inf\xf6'").expect("a file");
    let problems = load_with(&path, []).map(|_| ()).expect_err("it is not UTF-8");
    assert_snapshot!(problems.to_string().replace(&format!("{}/", folder.path().display()), ""), @r#"main.toml:2:13: the file is not UTF-8"#);
}

#[test]
fn the_environment_overrides_files() {
    let main = format!("runtime.workers = 1\nlog.level = 'trace'\n{GOOD}");
    let environment = [
        ("POINTSMAN__RUNTIME__WORKERS", "4"),
        ("POINTSMAN__RUNTIME__OPENING_MEMORY", "1048576"),
        ("POINTSMAN__TIMEOUTS__IDLE", "1h"),
        ("POINTSMAN__ADMIN__HTTP", "127.0.0.1:9180"),
        ("POINTSMAN__LOG__ACCESS", "/var/log/x"),
        ("POINTSMAN__RUNTIME__WORKER", "ignored"),
        ("POINTSMAN__LISTENER__EDGE__BACKLOG", "ignored"),
        ("POINTSMAN_RUNTIME_WORKERS", "ignored"),
    ];
    let (loaded, _folder) = load(&[("main.toml", &main)], &environment);
    let config = loaded.map(|loaded| loaded.config).unwrap_or_else(|problems| panic!("{problems}"));
    let names: Vec<&str> = environment[..5].iter().map(|(name, _)| *name).collect();
    let mut sorted = names.clone();
    sorted.sort_unstable();
    assert_eq!(config.environment, sorted);
    assert_snapshot!(format!("{:#?}\n{:#?}\n{:#?}\n{:#?}", config.runtime, config.log, config.admin, config.timeouts), @r#"
    Runtime {
        workers: Some(
            4,
        ),
        max_connections: None,
        opening_memory: 1048576,
    }
    Log {
        level: Level(
            Trace,
        ),
        access: File(
            "/var/log/x",
        ),
        format: Json,
    }
    Admin {
        http: Some(
            127.0.0.1:9180,
        ),
        socket: None,
    }
    Timeouts {
        open: 5s,
        pool: PoolTimeouts {
            connect: 5s,
            idle: Some(
                3600s,
            ),
            half_close: Some(
                60s,
            ),
            drain: 30s,
        },
    }
    "#);
}

#[test]
fn what_is_wrong_in_the_environment() {
    let main = format!("timeouts = 7\n{GOOD}");
    let environment = [
        ("POINTSMAN__RUNTIME__WORKERS", "0"),
        ("POINTSMAN__RUNTIME__MAX_CONNECTIONS", "many"),
        ("POINTSMAN__LOG__LEVEL", "inof"),
        ("POINTSMAN__ADMIN__HTTP", ""),
        ("POINTSMAN__TIMEOUTS__OPEN", "off"),
    ];
    assert_snapshot!(said(&[("main.toml", &main)], &environment), @r#"
    main.toml:1:12: timeouts: not a table; expected a table
    environment variable POINTSMAN__ADMIN__HTTP: admin.http: "" is not an address and a port; expected an address such as "127.0.0.1:9180", or "off"
    environment variable POINTSMAN__LOG__LEVEL: log.level: "inof" is not known; expected one of "error", "warn", "info", "debug", "trace"; did you mean "info"?
    environment variable POINTSMAN__RUNTIME__MAX_CONNECTIONS: runtime.max_connections: found "many"; expected a number from 1 to 100000000, or "auto"
    environment variable POINTSMAN__RUNTIME__WORKERS: runtime.workers: 0 is out of range; expected a number from 1 to 1024, or "auto"
    "#);
}

#[test]
fn a_value_in_the_environment_that_is_not_utf_8() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("main.toml");
    fs::write(&path, GOOD).expect("a file");
    let variable = (OsString::from("POINTSMAN__LOG__LEVEL"), OsString::from_vec(vec![b'i', 0xff]));
    let problems = load_with(&path, [variable]).map(|_| ()).expect_err("it is not UTF-8");
    assert_snapshot!(problems.to_string(), @r#"environment variable POINTSMAN__LOG__LEVEL: log.level: the value is not UTF-8"#);
}

#[test]
fn a_file_under_two_names_is_read_once() {
    let (_, folder) = load(&[("main.toml", "include = 'conf.d/*'"), ("conf.d/a.toml", GOOD)], &[]);
    std::os::unix::fs::symlink("a.toml", folder.path().join("conf.d/b.toml")).expect("a link");
    std::os::unix::fs::symlink("../main.toml", folder.path().join("conf.d/main.toml")).expect("a link");
    let loaded = load_with(&folder.path().join("main.toml"), []).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(loaded.files, ["main.toml", "conf.d/a.toml"].map(|name| folder.path().join(name)));
}

#[test]
fn a_secret_that_everybody_may_read_is_warned_of() {
    let config = |folder: &std::path::Path| {
        let secret = folder.join("secret");
        format!("{GOOD}health = {{ probe = 'postgres', user = 'a', password_file = '{}' }}", secret.display())
    };
    let folder = tempfile::tempdir().unwrap();
    let (main, secret) = (folder.path().join("main.toml"), folder.path().join("secret"));
    fs::write(&main, config(folder.path())).unwrap();
    fs::write(&secret, "hunter2\n").unwrap();
    for (mode, warned) in [(0o600, false), (0o640, false), (0o604, true), (0o644, true)] {
        fs::set_permissions(&secret, fs::Permissions::from_mode(mode)).unwrap();
        let loaded = load_with(&main, []).unwrap_or_else(|problems| panic!("{problems}"));
        let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
        assert_eq!(warnings.len(), usize::from(warned), "{mode:o}: {warnings:?}");
        assert!(warnings.iter().all(|text| text.contains("everybody on this machine may read")), "{warnings:?}");
    }
}
