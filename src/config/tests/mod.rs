//! Tests of the language as a whole. A test of one message belongs to `messages`, one of files, includes and the
//! environment to `files`, one of the files in `conf/` to `reference`.

mod files;
mod messages;
mod never_panics;
mod reference;

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
