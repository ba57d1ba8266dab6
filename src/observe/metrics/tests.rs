//! The metrics as they are rendered.

use std::collections::BTreeMap;

use super::*;

fn everything() -> Metrics {
    let metrics = Metrics::new();
    metrics.listener("edge").opening.record(0.003);
    metrics.route("pg").sessions.increment(1);
    metrics.route_tls("pg").handshake.record(0.001);
    metrics.pool("pg").connect.record(0.0002);
    metrics.endpoint("pg", "10.0.0.11:5432").bytes_up.increment(9);
    metrics.health("pg", "10.0.0.11:5432").changed(true, 1.0);
    metrics.certificate_expiry("pg", "/etc/a.pem").set(1.0);
    metrics.acme("ca").issued.increment(1);
    metrics.acme_next("ca", "a.example").set(1.0);
    metrics.crl_expiry("pg", "/etc/a.crl").set(1.0);
    metrics.handshakes("pg", &Handshake { version: Some("1.3"), ..Handshake::default() }).increment(1);
    metrics.handshake_failures("pg", "timeout").increment(1);
    metrics.pool_writers("pg").set(1.0);
    metrics.pool_tls("pg").handshake.record(0.001);
    metrics.pool_handshakes("pg", &Handshake { version: Some("1.3"), ..Handshake::default() }).increment(1);
    metrics.pool_handshake_failures("pg", "timeout").increment(1);
    metrics.worker(3).handed_over.increment(2);
    metrics
}

/// Name to (type, labels, meaning), as rendered; labels in the order of their first series.
fn rendered(page: &str) -> BTreeMap<String, (String, String, String)> {
    let mut families: BTreeMap<String, (String, String, String)> = BTreeMap::new();
    for line in page.lines().filter(|line| !line.is_empty()) {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, meaning) = help.split_once(' ').unwrap();
            families.entry(name.to_owned()).or_default().2 = meaning.to_owned();
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            families.entry(name.to_owned()).or_default().0 = kind.to_owned();
        } else {
            let (series, _) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
            let keys: Vec<&str> = labels.split(',').filter_map(|label| Some(label.split_once('=')?.0)).collect();
            let keys: Vec<&str> = keys.into_iter().filter(|key| *key != "le").collect();
            let entry = families.get_mut(family.unwrap_or(name)).unwrap_or_else(|| panic!("no TYPE before {line}"));
            entry.1 = keys.join(", ");
        }
    }
    families
}

#[test]
fn the_table_in_the_header_is_what_is_rendered() {
    let mut table = BTreeMap::new();
    for row in include_str!("../metrics.rs").lines().filter_map(|line| line.strip_prefix("//! | `pointsman_")) {
        let cells: Vec<&str> = row.trim_end_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, meaning] = cells[..] else { panic!("not four cells: {row}") };
        let name = format!("pointsman_{}", name.trim_end_matches('`'));
        table.insert(name, (kind.to_owned(), labels.to_owned(), meaning.to_owned()));
    }
    assert_eq!(rendered(&everything().render()), table);
}

#[test]
fn series_carry_their_labels_and_values() {
    let page = everything().render();
    for series in [
        r#"pointsman_listener_accepted_total{listener="edge"} 0"#,
        r#"pointsman_listener_outcomes_total{listener="edge",outcome="hello_timeout"} 0"#,
        r#"pointsman_listener_opening_seconds_bucket{listener="edge",le="0.0025"} 0"#,
        r#"pointsman_listener_opening_seconds_bucket{listener="edge",le="0.005"} 1"#,
        r#"pointsman_route_sessions_total{route="pg"} 1"#,
        r#"pointsman_pool_connect_seconds_count{pool="pg"} 1"#,
        r#"pointsman_endpoint_bytes_total{pool="pg",endpoint="10.0.0.11:5432",direction="up"} 9"#,
        r#"pointsman_endpoint_bytes_total{pool="pg",endpoint="10.0.0.11:5432",direction="down"} 0"#,
        r#"pointsman_worker_handed_over_total{worker="3"} 2"#,
        concat!(r#"pointsman_build_info{version=""#, env!("CARGO_PKG_VERSION"), r#""} 1"#),
        "pointsman_draining 0",
    ] {
        assert!(page.lines().any(|line| line == series), "{series} is not in\n{page}");
    }
    let words = Outcome::ALL.iter().filter(|outcome| page.contains(&format!("outcome=\"{}\"", outcome.word())));
    assert_eq!(words.count(), Outcome::ALL.len());
}

#[test]
fn outcomes_are_found_by_their_word() {
    let metrics = Metrics::new();
    let listener = metrics.listener("edge");
    for (count, outcome) in (1..).zip(Outcome::ALL) {
        listener.outcome(outcome).increment(count);
    }
    let page = metrics.render();
    for (count, outcome) in (1..).zip(Outcome::ALL) {
        let series =
            format!("pointsman_listener_outcomes_total{{listener=\"edge\",outcome=\"{}\"}} {count}", outcome.word());
        let count: u64 = count;
        assert!(page.lines().any(|line| line == series), "{count}: {series} is not in\n{page}");
    }
}

#[test]
fn label_values_are_escaped_and_stay_apart() {
    let metrics = Metrics::new();
    let cases = [
        ("a\"b", r#"a\"b"#),
        ("a\\\"b", r#"a\\\"b"#),
        ("a\\b", r"a\\b"),
        ("a\\\\b", r"a\\\\b"),
        ("a\\nb", r"a\\nb"),
        ("a\nb", r"a\nb"),
        ("a\\", r"a\\"),
        ("x\",pool=\"y", r#"x\",pool=\"y"#),
    ];
    for (count, (name, _)) in (1..).zip(cases) {
        metrics.route(name).sessions.increment(count);
    }
    let page = metrics.render();
    for (count, (name, escaped)) in (1..).zip(cases) {
        let series = format!("pointsman_route_sessions_total{{route=\"{escaped}\"}} {count}");
        let count: u64 = count;
        assert!(page.lines().any(|line| line == series), "{name:?} ({count}): no {series} in\n{page}");
    }
}

#[test]
fn the_same_labels_give_the_same_counters_and_sets_are_apart() {
    let (one, two) = (Metrics::new(), Metrics::new());
    one.route("pg").sessions.increment(1);
    one.route("pg").sessions.increment(1);
    one.run_upkeep();
    assert!(one.render().contains("pointsman_route_sessions_total{route=\"pg\"} 2"));
    assert!(!two.render().contains("pointsman_route_sessions_total"));
}
