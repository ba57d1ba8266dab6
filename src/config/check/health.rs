//! `[pool.NAME.health]` and `[pool.NAME.outliers]`

use std::ops::RangeInclusive;
use std::time::Duration;

use super::node::Node;
use super::{Check, keys};
use crate::config::model::{Health, MOST_PROBES, Outliers, Probe};

const INTERVAL: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(60);
const EJECTION: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(86_400);
const MOST_FAILURES: u32 = 1000;
const DEFAULT_INTERVAL: Duration = Duration::from_secs(2);
const DEFAULT_FAST: Duration = Duration::from_millis(500);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);
const DEFAULT_RISE: u32 = 2;
const DEFAULT_FALL: u32 = 3;

/// Reads how the endpoints of a pool are probed.
pub(super) fn read(node: &Node<'_>, check: &mut Check<'_>) -> Health {
    let table = node.table(keys::HEALTH, check.report);
    let probes = [("tcp", Probe::Tcp)];
    let probe = table.require("probe", "the name of a probe, \"tcp\"", check.complete, check.report);
    let probe = probe.and_then(|node| node.choice(&probes, check.report));
    let mut interval = |key| {
        let node = table.get(key)?;
        Some((node.duration_within(INTERVAL, "\"100ms\" to \"1h\"", check.report)?, node))
    };
    let (normal, fast) = (interval("interval"), interval("fast_interval"));
    let interval_read = normal.is_some();
    let normal = normal.map_or(DEFAULT_INTERVAL, |(normal, _)| normal);
    if let Some((fast, node)) = &fast
        && (interval_read || table.get("interval").is_none())
        && *fast > normal
    {
        let message = format!("{fast:?} is more than the interval of {normal:?}");
        check.report.add(node.at, node.path(), message);
    }
    let timeout = table.get("timeout");
    let timeout = timeout.and_then(|node| node.duration_within(TIMEOUT, "\"10ms\" to \"1m\"", check.report));
    let mut count = |key, default| {
        let number = table.get(key).and_then(|node| node.number(1..=MOST_PROBES, check.report));
        number.unwrap_or(default)
    };
    Health {
        probe: probe.unwrap_or(Probe::Tcp),
        interval: normal,
        fast_interval: fast.map_or(DEFAULT_FAST.min(normal), |(fast, _)| fast),
        timeout: timeout.unwrap_or(DEFAULT_TIMEOUT),
        rise: count("rise", DEFAULT_RISE),
        fall: count("fall", DEFAULT_FALL),
    }
}

/// Reads when an endpoint is left out because clients cannot be served; nothing: never.
pub(super) fn outliers(node: Option<&Node<'_>>, check: &mut Check<'_>) -> Option<Outliers> {
    let default = Outliers {
        failures: 5,
        ejection: Duration::from_secs(10),
        longest: Duration::from_secs(300),
        most_percent: 50,
    };
    let Some(node) = node else { return Some(default) };
    let table = node.table(keys::OUTLIERS, check.report);
    let failures = table.get("failures");
    let failures = failures.map(|node| node.number_unless("off", 1..=MOST_FAILURES, check.report));
    let mut time = |key| {
        let node = table.get(key)?;
        Some((node.duration_within(EJECTION, "\"1s\" to \"1d\"", check.report)?, node))
    };
    let (ejection, longest) = (time("ejection"), time("longest"));
    let ejection_read = ejection.is_some();
    let ejection = ejection.map_or(default.ejection, |(ejection, _)| ejection);
    if let Some((longest, node)) = &longest
        && (ejection_read || table.get("ejection").is_none())
        && *longest < ejection
    {
        let message = format!("{longest:?} is less than the first time of {ejection:?}");
        check.report.add(node.at, node.path(), message);
    }
    let most = table.get("most_percent").and_then(|node| node.number(1..=100, check.report));
    let rules = Outliers {
        failures: default.failures,
        ejection,
        longest: longest.map_or(default.longest.max(ejection), |(longest, _)| longest),
        most_percent: most.unwrap_or(default.most_percent),
    };
    if matches!(failures, Some(Some(None))) {
        for node in ["ejection", "longest", "most_percent"].into_iter().filter_map(|key| table.get(key)) {
            check.report.add(node.key_at, node.path(), "with failures = \"off\" nobody is ever left out");
        }
    }
    match failures {
        Some(Some(None)) => None,
        Some(Some(Some(failures))) => Some(Outliers { failures, ..rules }),
        Some(None) | None => Some(rules),
    }
}
