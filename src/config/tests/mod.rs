//! Tests of the language as a whole: a table of cases and what is said of each of them. A case belongs to the file that
//! is called after the table it is about; files, includes and the environment are in `files`, and `reference` holds
//! `conf/` to its word.

mod acme;
mod clients;
mod databases;
mod discovery;
mod endpoint_tls;
mod files;
mod health;
mod listeners;
mod mysql;
mod never_panics;
mod parts;
mod pools;
mod proxy;
mod reach;
mod redis;
mod reference;
mod routes;
mod sessions;
mod settings;
mod size;
mod tls;

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
    each(cases, str::to_owned)
}

/// What is said of each case's text in front of [`GOOD`].
fn with_good<T: AsRef<str>>(cases: &[(&str, T)]) -> String {
    each(cases, |text| format!("{text}\n{GOOD}"))
}

/// What is said of [`GOOD`] with `old` replaced by each case's text.
fn replaced<T: AsRef<str>>(old: &str, cases: &[(&str, T)]) -> String {
    assert!(GOOD.contains(old), "{old} is not in the good configuration");
    each(cases, |text| GOOD.replace(old, text))
}

fn each<T: AsRef<str>>(cases: &[(&str, T)], whole: impl Fn(&str) -> String) -> String {
    let mut table = String::new();
    for (name, text) in cases {
        table += &format!("{name}\n");
        for line in said(&whole(text.as_ref())).lines() {
            table += &format!("  {line}\n");
        }
    }
    table
}
