//! Tests of the language as a whole: a table of cases and what is said of each of them. A case belongs to the file that
//! is called after the table it is about; files, includes and the environment are in `files`, and `reference` holds
//! `conf/` to its word.

mod files;
mod listeners;
mod never_panics;
mod pools;
mod reach;
mod reference;
mod routes;
mod settings;
mod size;

use std::path::Path;

use super::{Loaded, Problems, parse_str};

/// A listener, a route and a pool, to which a case adds what it is about.
const GOOD: &str = r#"
[listener.edge]
bind = "0.0.0.0:443"
[route.www]
listener = "edge"
sni = "www.example.com"
pool = "web"
[pool.web]
endpoints = "10.0.0.1:443"
"#;

fn parse(text: &str) -> Result<Loaded, Problems> {
    parse_str(Path::new("main.toml"), text)
}

/// What is said of `text`; "fine" if nothing.
fn said(text: &str) -> String {
    match parse(text) {
        Ok(_) => "fine".to_owned(),
        Err(problems) => problems.to_string(),
    }
}

/// What is said of each case's text alone.
fn alone(cases: &[(&str, &str)]) -> String {
    let each = cases.iter().map(|(name, text)| format!("{name}\n{}", indent(&said(text))));
    each.collect::<Vec<_>>().join("\n")
}

/// What is said of each case's text in front of [`GOOD`].
fn with_good(cases: &[(&str, &str)]) -> String {
    let each = cases.iter().map(|(name, text)| format!("{name}\n{}", indent(&said(&format!("{text}\n{GOOD}")))));
    each.collect::<Vec<_>>().join("\n")
}

/// What is said of [`GOOD`] with `old` replaced by each case's text.
fn replaced(old: &str, cases: &[(&str, &str)]) -> String {
    assert!(GOOD.contains(old), "{old} is not in the good configuration");
    let each = cases.iter().map(|(name, text)| format!("{name}\n{}", indent(&said(&GOOD.replace(old, text)))));
    each.collect::<Vec<_>>().join("\n")
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}
