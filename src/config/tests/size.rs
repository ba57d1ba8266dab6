//! Large configurations: everything is linear in what was written.

use std::fmt::Write;
use std::time::{Duration, Instant};

use super::{GOOD, parse};

const MANY: usize = 100_000;

/// Far more than it takes, far less than anything quadratic would.
const LIMIT: Duration = Duration::from_secs(20);

fn timed<T>(what: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = what();
    let took = start.elapsed();
    assert!(took < LIMIT, "took {took:?}");
    result
}

fn with_names(name: impl Fn(usize) -> String) -> String {
    let mut names = String::from("sni = [");
    for index in 0..MANY {
        let _ = write!(names, "{:?}, ", name(index));
    }
    GOOD.replace("sni = \"www.example.com\"", &(names + "]"))
}

#[test]
fn many_names() {
    let text = with_names(|index| format!("name-{index}.example.com"));
    let loaded = timed(|| parse(&text));
    assert_eq!(loaded.map(|loaded| loaded.config.routes[0].sni.len()).ok(), Some(MANY));
}

#[test]
fn many_problems_in_one_line() {
    let text = with_names(|index| format!("name {index}"));
    let problems = timed(|| parse(&text)).map(|_| ()).expect_err("no name has a space");
    assert_eq!(problems.0.len(), MANY);
}

#[test]
fn a_thousand_routes_that_share_names() {
    let mut text = GOOD.to_owned();
    let names: Vec<String> = (0..100).map(|name| format!("'{name}.example'")).collect();
    for route in 0..1000 {
        let (high, low) = (route / 250, route % 250);
        let (names, network) = (names.join(","), format!("10.{high}.{low}.0/24"));
        let _ = write!(text, "[route.r{route}]\nlistener='edge'\npool='web'\nsni=[{names}]\nfrom='{network}'\n");
    }
    let loaded = timed(|| parse(&text));
    assert_eq!(loaded.map(|loaded| loaded.config.routes.len()).ok(), Some(1001));
}
