//! `[pool.NAME.sessions]`, and the keys of `[pool.NAME]` that say what happens while nobody can be chosen.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::node::{Allow, Node, Table};
use super::{Check, keys};
use crate::config::model::{Leave, MaxAge, NoEndpoint, Sessions, Shortage};

const MINUTES: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(600);
const IDLE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);
const DEADLINE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(86_400);
const AGE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(30 * 86_400);
const DEFAULT_HOLD: Duration = Duration::from_secs(10);
const DEFAULT_JITTER: u32 = 10;
const DEFAULT_PER_MINUTE: u32 = 60;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    Close,
    Refuse,
    Hold,
}

/// Reads what happens while no endpoint of the pool of `table` can take a client, and how long clients wait where they do so
/// because there is a single writer (`single_writer`) and nothing else was written.
pub(super) fn shortage(table: &Table<'_>, single_writer: bool, check: &mut Check<'_>) -> (Shortage, Option<Duration>) {
    let default = Shortage::default();
    let words = [("close", Word::Close), ("refuse", Word::Refuse), ("hold", Word::Hold)];
    let before = check.report.count();
    let word = table.get("no_endpoint").and_then(|node| node.choice(&words, check.report));
    let known = check.report.count() == before;
    let waits_for_writer = single_writer && table.get("no_endpoint").is_none();
    let word = word.unwrap_or(Word::Close);
    let hold = table.get("hold");
    if let Some(node) = hold.as_ref().filter(|_| known && word != Word::Hold && !waits_for_writer) {
        check.report.add(node.key_at, node.path(), "only no_endpoint = \"hold\" lets clients wait");
    }
    let hold = hold.and_then(|node| node.duration_within(MINUTES, "\"100ms\" to \"10m\"", check.report));
    let queue = table.get("queue").and_then(|node| off_or_within(&node, &MINUTES, "\"100ms\" to \"10m\"", check));
    let most = table.get("max_waiting").and_then(|node| node.number(1..=65_536, check.report));
    let hold = hold.unwrap_or(DEFAULT_HOLD);
    let shortage = Shortage {
        no_endpoint: match word {
            Word::Close => NoEndpoint::Close,
            Word::Refuse => NoEndpoint::Refuse,
            Word::Hold => NoEndpoint::Hold(hold),
        },
        queue: queue.map_or(default.queue, Option::unwrap_or_default),
        most_waiting: most.map_or(default.most_waiting, |most| most as usize),
    };
    (shortage, waits_for_writer.then_some(hold))
}

/// A duration within `range`, or "off".
pub(super) fn off_or_within(
    node: &Node<'_>,
    range: &RangeInclusive<Duration>,
    called: &str,
    check: &mut Check<'_>,
) -> Option<Option<Duration>> {
    let called = format!("{called}, or \"off\"");
    match node.duration(Allow::ZeroOrOff, check.report)? {
        Some(duration) if !range.contains(&duration) => {
            check.report.add(node.at, node.path(), format!("{duration:?} is out of range")).expected(called);
            None
        }
        read => Some(read),
    }
}

/// Reads what happens to sessions whose endpoint is no longer to be used.
pub(super) fn read(node: Option<&Node<'_>>, check: &mut Check<'_>) -> Sessions {
    let default = Sessions::default();
    let Some(node) = node else { return default };
    let table = node.table(keys::SESSIONS, check.report);
    let words = [
        ("keep", Leave::Keep),
        ("close-when-idle", Leave::WhenIdle),
        ("deadline", Leave::Deadline),
        ("close", Leave::Now),
    ];
    let mut leave = |key| table.get(key).and_then(|node| node.choice(&words, check.report));
    let rules = ["on_down", "on_demotion", "on_drain", "on_removal", "on_recovery"].map(&mut leave);
    let [on_down, on_demotion, on_drain, on_removal, on_recovery] = rules.map(Option::unwrap_or_default);
    let mut time = |key, range, called| {
        let node = table.get(key)?;
        node.duration_within(range, called, check.report)
    };
    let idle = time("idle", IDLE, "\"1s\" to \"1h\"");
    let deadline = time("deadline", DEADLINE, "\"1s\" to \"1d\"");
    let max_age = max_age(&table, check);
    Sessions {
        on_down,
        on_demotion,
        on_drain,
        on_removal,
        on_recovery,
        idle: idle.unwrap_or(default.idle),
        deadline: deadline.unwrap_or(default.deadline),
        max_age,
    }
}

fn max_age(table: &Table<'_>, check: &mut Check<'_>) -> Option<MaxAge> {
    let node = table.get("max_age");
    let age = node.as_ref().map(|node| off_or_within(node, &AGE, "\"1s\" to \"30d\"", check));
    let jitter = table.get("max_age_jitter").map(|node| (node.number(0..=50, check.report), node));
    let most = table.get("max_age_per_minute").map(|node| (node.number(1..=1_000_000, check.report), node));
    if matches!(age, None | Some(Some(None))) {
        for (_, node) in [&jitter, &most].into_iter().flatten() {
            check.report.add(node.key_at, node.path(), "without max_age no session is closed for its age");
        }
    }
    Some(MaxAge {
        age: age.flatten().flatten()?,
        jitter_percent: jitter.and_then(|(jitter, _)| jitter).unwrap_or(DEFAULT_JITTER),
        per_minute: most.and_then(|(most, _)| most).unwrap_or(DEFAULT_PER_MINUTE),
    })
}
