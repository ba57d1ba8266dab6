//! The files in `conf/`: they load, and what the reference says is true.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::config::{Config, keys, load_with};

fn conf(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("conf").join(name)
}

fn config(text: &str) -> Config {
    match super::parse(text) {
        Ok(loaded) => loaded.config,
        Err(problems) => panic!("{problems}"),
    }
}

/// The reference with everything on: what is off needs files that are not everywhere.
fn reference() -> String {
    let text = std::fs::read_to_string(conf("reference.toml")).expect("conf/reference.toml is there");
    let on = |line: &str| format!("{}\n", line.strip_prefix('#').filter(|rest| is_code(rest)).unwrap_or(line));
    text.lines().map(on).collect()
}

/// Whether this is a line of the language, such as stands behind a # without a space.
fn is_code(line: &str) -> bool {
    line.starts_with(|first: char| first == '[' || first.is_ascii_lowercase())
}

/// The mark at the end of a line that sets something.
fn mark(line: &str) -> Option<&str> {
    let (code, mark) = line.rsplit_once('#').unwrap_or((line, ""));
    (code.contains('=') && !code.starts_with('#')).then_some(mark.trim())
}

#[test]
fn the_files_load() {
    for name in ["minimal.toml", "reference.toml"] {
        match load_with(&conf(name), []) {
            Ok(loaded) => assert_eq!(loaded.files, [conf(name)]),
            Err(problems) => panic!("{problems}"),
        }
    }
}

#[test]
fn what_is_off_is_little() {
    let off = reference().lines().count()
        - std::fs::read_to_string(conf("reference.toml"))
            .map_or(0, |text| text.lines().filter(|line| !line.strip_prefix('#').is_some_and(is_code)).count());
    // Without the key of a table that has keys of its own.
    let tables = [keys::ROUTE_TLS, keys::ROUTE_TLS_CLIENT, keys::POOL_TLS, keys::ACME_EAB];
    assert_eq!(off, 4 + tables.iter().map(|keys| keys.len()).sum::<usize>());
}

#[test]
fn every_line_is_marked() {
    for line in reference().lines() {
        let mark = mark(line);
        assert!(matches!(mark, None | Some("default" | "example")), "neither default nor example: {line}");
    }
}

#[test]
fn defaults_are_what_counts_if_the_key_is_left_out() {
    let written = reference();
    let without: Vec<&str> = written.lines().filter(|line| mark(line) != Some("default")).collect();
    assert!(without.len() + 20 < written.lines().count(), "the marks were not found");
    let (with, without) = (config(&written), config(&without.join("\n")));
    assert_eq!(format!("{with:#?}"), format!("{without:#?}"));
    // One at a time as well: a default that another key gives would hide.
    for (number, line) in written.lines().enumerate().filter(|(_, line)| mark(line) == Some("default")) {
        let rest: Vec<&str> =
            written.lines().enumerate().filter(|(other, _)| *other != number).map(|(_, line)| line).collect();
        assert_eq!(format!("{with:#?}"), format!("{:#?}", config(&rest.join("\n"))), "{line}");
    }
}

#[test]
fn every_key_is_in_the_reference() {
    let mut section = String::new();
    let mut written: BTreeSet<(String, String)> = BTreeSet::new();
    for line in reference().lines() {
        if line.starts_with('[') {
            let header = line.trim_matches(['[', ']']);
            let mut parts: Vec<&str> = header.split('.').collect();
            // The second part is a name that anyone may choose.
            if parts.len() > 1 {
                parts.remove(1);
            }
            written.insert((String::new(), parts[0].to_owned()));
            if let Some((inner, tables @ [_, ..])) = parts.split_last() {
                written.insert((tables.join("."), (*inner).to_owned()));
            }
            section = parts.join(".");
        } else if mark(line).is_some() {
            let key = line.split('=').next().unwrap_or_default().trim();
            written.insert((section.clone(), key.to_owned()));
        }
    }
    let mut known: BTreeSet<(String, String)> = BTreeSet::new();
    for (section, keys) in [
        ("", keys::TOP),
        ("runtime", keys::RUNTIME),
        ("log", keys::LOG),
        ("admin", keys::ADMIN),
        ("dns", keys::DNS),
        ("tls", keys::TLS),
        ("acme", keys::ACME),
        ("acme.eab", keys::ACME_EAB),
        ("timeouts", keys::TIMEOUTS),
        ("listener", keys::LISTENER),
        ("listener.timeouts", keys::LISTENER_TIMEOUTS),
        ("route", keys::ROUTE),
        ("route.tls", keys::ROUTE_TLS),
        ("route.tls.client", keys::ROUTE_TLS_CLIENT),
        ("pool", keys::POOL),
        ("pool.tls", keys::POOL_TLS),
        ("pool.timeouts", keys::POOL_TIMEOUTS),
        ("pool.health", keys::HEALTH),
        ("pool.health.tls", keys::HEALTH_TLS),
        ("pool.health.http", keys::HEALTH_HTTP),
        ("pool.health.script", keys::HEALTH_STEP),
        ("pool.health.agent", keys::HEALTH_AGENT),
        ("pool.outliers", keys::OUTLIERS),
        ("pool.sessions", keys::SESSIONS),
        ("pool.endpoints", keys::ENDPOINT),
    ] {
        known.extend(keys.iter().map(|key| (section.to_owned(), (*key).to_owned())));
    }
    assert_eq!(written, known, "left: in conf/reference.toml, right: in keys.rs");
}
