//! `[runtime]`, `[log]`, `[admin]` and `[timeouts]`.

use std::path::PathBuf;
use std::time::Duration;

use super::node::{Allow, Node, Table};
use super::{Check, keys};
use crate::config::address;
use crate::config::model::{AccessTarget, Admin, Bind, Log, LogFormat, PoolTimeouts, Runtime, Timeouts};
use crate::config::report::{At, quote};
use crate::config::value::is_absolute;

const MOST_WORKERS: u32 = 1024;
/// The most that `max_connections` may be, of the process and of a listener.
pub(super) const MOST_CONNECTIONS: u32 = 100_000_000;
/// The least that one opening needs, and the most that is no slip, in bytes.
const OPENING_MEMORY: std::ops::RangeInclusive<u64> = 64 << 10..=1024 << 30;

/// `[runtime]`
pub(super) fn runtime(top: &Table<'_>, check: &mut Check<'_>) -> Runtime {
    let report = &mut *check.report;
    let table = top.get("runtime").map(|node| node.table(keys::RUNTIME, report));
    let get = |key| table.as_ref().and_then(|table| table.get(key));
    let memory = get("opening_memory").and_then(|node| node.size(OPENING_MEMORY, "64KiB to 1024GiB", report));
    Runtime {
        workers: get("workers").and_then(|node| node.count("auto", MOST_WORKERS, report)).flatten(),
        max_connections: get("max_connections").and_then(|node| node.count("auto", MOST_CONNECTIONS, report)).flatten(),
        opening_memory: memory.unwrap_or(64 << 20),
    }
}

/// `[log]`
pub(super) fn log(top: &Table<'_>, check: &mut Check<'_>) -> Log {
    use tracing::Level;
    let report = &mut *check.report;
    let table = top.get("log").map(|node| node.table(keys::LOG, report));
    let get = |key| table.as_ref().and_then(|table| table.get(key));
    let levels = [
        ("error", Level::ERROR),
        ("warn", Level::WARN),
        ("info", Level::INFO),
        ("debug", Level::DEBUG),
        ("trace", Level::TRACE),
    ];
    let formats = [("json", LogFormat::Json), ("text", LogFormat::Text)];
    let level = get("level").and_then(|node| node.choice(&levels, report));
    let format = get("format").and_then(|node| node.choice(&formats, report));
    let access = get("access").and_then(|node| access(&node, check));
    Log {
        level: level.unwrap_or(Level::INFO),
        access: access.unwrap_or(AccessTarget::Stdout),
        format: format.unwrap_or(LogFormat::Json),
    }
}

fn access(node: &Node<'_>, check: &mut Check<'_>) -> Option<AccessTarget> {
    const EXPECTED: &str = "\"stdout\", \"stderr\", \"off\" or an absolute path";
    match node.text(EXPECTED, check.report)? {
        "stdout" => Some(AccessTarget::Stdout),
        "stderr" => Some(AccessTarget::Stderr),
        "off" => Some(AccessTarget::Off),
        // Absolute, so that a slip in one of the words is not the name of a file.
        path if is_absolute(path) && !path.ends_with('/') => Some(AccessTarget::File(PathBuf::from(path))),
        other => {
            let nearest = check.report.nearest(other, ["stdout", "stderr", "off"]).map(quote);
            let message = format!("{} is neither a known word nor the absolute path of a file", quote(other));
            check.report.add(node.at, node.path(), message).expected(EXPECTED).nearest(nearest);
            None
        }
    }
}

/// `[admin]`, and what it listens on: with its key and place.
pub(super) fn admin(top: &Table<'_>, check: &mut Check<'_>) -> (Admin, Vec<(Bind, &'static str, At)>) {
    const EXPECTED: &str = "an address such as \"127.0.0.1:9180\", or \"off\"";
    const SOCKET: &str = "the absolute path of a socket such as \"/run/pointsman/admin.sock\", or \"off\"";
    let report = &mut *check.report;
    let table = top.get("admin").map(|node| node.table(keys::ADMIN, report));
    let node = table.as_ref().and_then(|table| table.get("http"));
    let read = |text: &str| if text == "off" { Ok(None) } else { address::socket(text).map(Some) };
    let http = node.as_ref().and_then(|node| node.parse(EXPECTED, report, read)).flatten();
    let path = |text: &str| if text == "off" { Ok(None) } else { address::unix_path(text).map(Some) };
    let socket = table.as_ref().and_then(|table| table.get("socket"));
    let socket = socket.and_then(|node| node.parse(SOCKET, report, path).flatten().map(|path| (path, node.at)));
    let pages = http.zip(node).map(|(address, node)| (Bind::Tcp(address), "admin.http", node.at));
    let commands = socket.as_ref().map(|(path, at)| (Bind::Unix(path.clone()), "admin.socket", *at));
    let binds = pages.into_iter().chain(commands).collect();
    (Admin { http, socket: socket.map(|(path, _)| path) }, binds)
}

/// `[timeouts]`
pub(super) fn timeouts(top: &Table<'_>, check: &mut Check<'_>) -> Timeouts {
    let table = top.get("timeouts").map(|node| node.table(keys::TIMEOUTS, check.report));
    let defaults = PoolTimeouts {
        connect: Duration::from_secs(5),
        idle: None,
        half_close: Some(Duration::from_secs(60)),
        drain: Duration::from_secs(30),
    };
    Timeouts {
        open: open(table.as_ref(), Duration::from_secs(5), check),
        pool: pool_timeouts(table.as_ref(), &defaults, check),
    }
}

/// `open` of `table`, or `default`.
pub(super) fn open(table: Option<&Table<'_>>, default: Duration, check: &mut Check<'_>) -> Duration {
    always(table, "open", Allow::Positive, default, check)
}

/// What pools may set for themselves, of `table`, or of `defaults`.
pub(super) fn pool_timeouts(table: Option<&Table<'_>>, defaults: &PoolTimeouts, check: &mut Check<'_>) -> PoolTimeouts {
    let mut get = |key, allow| table?.get(key)?.duration(allow, check.report);
    let idle = get("idle", Allow::PositiveOrOff).unwrap_or(defaults.idle);
    let half_close = get("half_close", Allow::ZeroOrOff).unwrap_or(defaults.half_close);
    PoolTimeouts {
        connect: always(table, "connect", Allow::Positive, defaults.connect, check),
        idle,
        half_close,
        drain: always(table, "drain", Allow::Zero, defaults.drain, check),
    }
}

fn always(table: Option<&Table<'_>>, key: &str, allow: Allow, default: Duration, check: &mut Check<'_>) -> Duration {
    let node = table.and_then(|table| table.get(key));
    node.and_then(|node| node.duration(allow, check.report)).flatten().unwrap_or(default)
}
