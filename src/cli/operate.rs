//! The commands that talk to a running process over its admin socket.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use ipnet::IpNet;
use serde::de::DeserializeOwned;

use crate::admin::command::{
    Changed, Command, EndpointStatus, Filter, HealthStatus, Killed, Place, PoolStatus, Refusal, SessionStatus,
    Sessions, Status,
};

/// Where a packaged process has its admin socket.
const SOCKET: &str = "/run/pointsman/admin.sock";
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A command for a running process.
#[derive(Debug, Subcommand)]
pub(super) enum Operate {
    /// Show listeners, pools and endpoints of a running process
    Status {
        /// Only this pool
        pool: Option<String>,
        #[command(flatten)]
        how: How,
    },
    /// List the sessions of a running process
    Sessions {
        #[command(flatten)]
        only: Only,
        /// The most to list
        #[arg(long, default_value_t = crate::admin::command::LISTED)]
        limit: usize,
        #[command(flatten)]
        how: How,
    },
    /// Show which client stands behind a connection that a server sees; exit status 1 if there is none
    Who {
        /// Where the server sees the connection come from: ADDRESS:PORT, or PORT alone
        #[arg(value_name = "ADDRESS:PORT", value_parser = seen)]
        from: From,
        #[command(flatten)]
        how: How,
    },
    /// Let an endpoint take no new sessions; those that it has follow on_drain of its pool
    Drain(Which),
    /// Take an endpoint out of service: it counts as down, whatever probes find, and its sessions follow on_down
    Maint(Which),
    /// Let an endpoint serve again, after drain or maint
    Ready(Which),
    /// Set the weight of an endpoint until the process ends
    Weight {
        /// The endpoint, as POOL/ENDPOINT
        #[arg(value_parser = place)]
        endpoint: Place,
        /// 0 to 256, or "reset" for the configured one
        #[arg(value_parser = weight)]
        weight: Weight,
        #[command(flatten)]
        how: How,
    },
    /// End sessions of a running process at once
    Kill {
        /// The number of one session, as sessions and the access log show it
        id: Option<u64>,
        #[command(flatten)]
        only: Only,
        #[command(flatten)]
        how: How,
    },
}

/// How to reach the process and what to print.
#[derive(Debug, Args)]
pub(super) struct How {
    /// The admin socket of the process (admin.socket)
    #[arg(long, default_value = SOCKET)]
    socket: PathBuf,
    /// Print the answer as it comes: one JSON object
    #[arg(long)]
    json: bool,
}

/// An endpoint.
#[derive(Debug, Args)]
pub(super) struct Which {
    /// The endpoint, as POOL/ENDPOINT
    #[arg(value_parser = place)]
    endpoint: Place,
    #[command(flatten)]
    how: How,
}

/// Which sessions.
#[derive(Debug, Args)]
pub(super) struct Only {
    /// Only those of this listener
    #[arg(long)]
    listener: Option<String>,
    /// Only those of this route
    #[arg(long)]
    route: Option<String>,
    /// Only those of this pool
    #[arg(long)]
    pool: Option<String>,
    /// Only those of this endpoint, as POOL/ENDPOINT
    #[arg(long, value_parser = place, conflicts_with = "pool")]
    endpoint: Option<Place>,
    /// Only those of clients with this address, or in this network
    #[arg(long, value_parser = network)]
    client: Option<IpNet>,
}

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct From {
    address: Option<IpAddr>,
    port: u16,
}

/// A weight, or none of its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weight(Option<u16>);

/// Sends the command, prints the answer, and says whether it was done.
pub(super) fn operate(command: Operate) -> ExitCode {
    match run(command) {
        Ok(text) => {
            // Nobody to read it is no reason to fail.
            let _ = io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Operate) -> anyhow::Result<String> {
    match command {
        Operate::Status { pool, how } => how.ask(&Command::Status { pool }, |status| show_status(&status)),
        Operate::Sessions { only, limit, how } => {
            let command = Command::Sessions { only: only.filter(None), limit: Some(limit) };
            how.ask(&command, |sessions| show_sessions(&sessions))
        }
        Operate::Who { from: From { address, port }, how } => {
            how.ask(&Command::Who { address, port }, |sessions| show_sessions(&sessions))
        }
        Operate::Drain(Which { endpoint, how }) => how.ask(&Command::Drain(endpoint), show_changed),
        Operate::Maint(Which { endpoint, how }) => how.ask(&Command::Maint(endpoint), show_changed),
        Operate::Ready(Which { endpoint, how }) => how.ask(&Command::Ready(endpoint), show_changed),
        Operate::Weight { endpoint: Place { pool, endpoint }, weight: Weight(weight), how } => {
            how.ask(&Command::Weight { pool, endpoint, weight }, show_changed)
        }
        Operate::Kill { id, only, how } => {
            let only = only.filter(id);
            if only.is_empty() {
                bail!("which sessions? Give the number of one, or an option such as --endpoint");
            }
            how.ask(&Command::Kill { only }, |Killed { killed }| format!("sessions told to end: {killed}\n"))
        }
    }
}

impl How {
    /// Sends a command and gives what is to be printed.
    fn ask<T: DeserializeOwned>(&self, command: &Command, show: impl FnOnce(T) -> String) -> anyhow::Result<String> {
        let answer = exchange(&self.socket, command)?;
        if let Ok(Refusal { error }) = serde_json::from_str(&answer) {
            bail!(error);
        }
        if self.json {
            return Ok(answer);
        }
        let answer = serde_json::from_str(&answer).context("the answer is not understood: is it another version?")?;
        Ok(show(answer))
    }
}

/// One request and its answer.
fn exchange(socket: &Path, command: &Command) -> anyhow::Result<String> {
    let at = || format!("cannot reach a running process at {} (admin.socket, --socket)", socket.display());
    let mut stream = UnixStream::connect(socket).with_context(at)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut answer = String::new();
    stream
        .write_all(format!("{}\n", serde_json::to_string(command)?).as_bytes())
        .and_then(|()| BufReader::new(stream).read_line(&mut answer))
        .context("the process did not answer")?;
    if answer.is_empty() {
        bail!("the process at {} closed the connection: only its own user and root are answered", socket.display());
    }
    Ok(answer)
}

impl Only {
    fn filter(self, id: Option<u64>) -> Filter {
        let Only { listener, route, pool, endpoint, client } = self;
        let (of_endpoint, endpoint) = endpoint.map(|place| (place.pool, place.endpoint)).unzip();
        Filter { id, listener, route, pool: pool.or(of_endpoint), endpoint, client }
    }
}

fn place(text: &str) -> Result<Place, String> {
    // Names of pools have no slash, those of endpoints may.
    match text.split_once('/') {
        Some((pool, endpoint)) if !pool.is_empty() && !endpoint.is_empty() => {
            Ok(Place { pool: pool.into(), endpoint: endpoint.into() })
        }
        _ => Err("expected POOL/ENDPOINT, as status shows them".into()),
    }
}

fn weight(text: &str) -> Result<Weight, String> {
    match text {
        "reset" => Ok(Weight(None)),
        _ => text.parse().map(|weight| Weight(Some(weight))).map_err(|_| "expected 0 to 256, or \"reset\"".into()),
    }
}

fn seen(text: &str) -> Result<From, String> {
    let with_address = text.parse().map(|at: SocketAddr| From { address: Some(at.ip()), port: at.port() });
    let port = || text.parse().map(|port| From { address: None, port });
    with_address
        .or_else(|_| port())
        .map_err(|_| "expected an address and a port, or a port, as the server shows them".into())
}

fn network(text: &str) -> Result<IpNet, String> {
    let address = text.parse::<std::net::IpAddr>().map(IpNet::from);
    address.or_else(|_| text.parse()).map_err(|_| "expected an address, or a network such as 10.0.0.0/8".into())
}

fn show_changed(Changed { endpoint }: Changed) -> String {
    format!("{}: {}, weight {}, sessions {}\n", endpoint.name, state(&endpoint), endpoint.weight, endpoint.sessions)
}

fn show_status(status: &Status) -> String {
    let Status { version, state, workers, sessions, listeners, pools } = status;
    let mut text = format!("pointsman {version}: {state}, workers {workers}, sessions {sessions}\n");
    for listener in listeners {
        let refuses = if listener.refuses { ", refuses connections" } else { "" };
        let _ = writeln!(text, "listener {}: sessions {}{refuses}", listener.name, listener.sessions);
    }
    for pool in pools {
        text += &show_pool(pool);
    }
    text
}

fn show_pool(pool: &PoolStatus) -> String {
    let mut text = format!("\npool {}: ", pool.name);
    match &pool.serving {
        _ if !pool.rivals.is_empty() => {
            text += &format!("no new sessions, for {} all say that they are the primary", pool.rivals.join(", "));
        }
        Some(rank) if rank == "fallback" => text += "no replica serves, the primary stands in",
        Some(rank) => text += &format!("priority {rank} serves"),
        None => text += "no endpoint serves",
    }
    for (count, what) in [(pool.held, "clients held"), (pool.queued, "clients queued")] {
        if count > 0 {
            text += &format!(", {what} {count}");
        }
    }
    text += if pool.panic { ", too few endpoints are fit: all are used\n" } else { "\n" };
    let rows = pool.endpoints.iter().map(|endpoint| {
        let EndpointStatus { name, address, priority, weight, share, sessions, max_connections, health, .. } = endpoint;
        let grown = f64::from(*weight) <= *share;
        let weight = if grown { weight.to_string() } else { format!("{share:.1} of {weight}") };
        let sessions = match max_connections {
            Some(most) => format!("{sessions} of {most}"),
            None => sessions.to_string(),
        };
        let (since, last) = health.as_ref().map(told).unwrap_or_default();
        [name.clone(), state(endpoint), since, weight, priority.clone(), sessions, address.clone(), last]
    });
    text + &table(["endpoint", "state", "since", "weight", "priority", "sessions", "address", "last probe"], rows)
}

/// What an endpoint is, and what operators said of it where that is not the same: it may be down and drained.
fn state(EndpointStatus { state, mode, .. }: &EndpointStatus) -> String {
    if mode == "ready" || mode == state { state.clone() } else { format!("{state} ({mode})") }
}

/// For how long an endpoint has been what it is, and what was found out last.
fn told(health: &HealthStatus) -> (String, String) {
    // The words of the probe have its role in them.
    let HealthStatus { since, last, last_ago, took, role: _, agent } = health;
    let probe = last.as_ref().map(|last| {
        let ago = last_ago.map(|ago| format!(", {} ago", time(ago))).unwrap_or_default();
        format!("{last} ({:.1} ms{ago})", took * 1000.0)
    });
    let agent = agent.as_ref().map(|agent| format!("agent: {agent}"));
    (time(*since), probe.into_iter().chain(agent).collect::<Vec<_>>().join("; "))
}

fn show_sessions(Sessions { sessions, total }: &Sessions) -> String {
    let dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
    let rows = sessions.iter().map(|session| {
        let SessionStatus {
            id,
            listener,
            client,
            peer,
            route,
            pool,
            endpoint,
            source,
            connected,
            age,
            idle,
            bytes_up,
            bytes_down,
        } = session;
        let endpoint = match (pool, endpoint) {
            (Some(pool), Some(endpoint)) => {
                let from = source.as_ref().map(|source| format!(" from {source}")).unwrap_or_default();
                format!("{pool}/{endpoint}{from}{}", if *connected { "" } else { " (trying)" })
            }
            _ => "-".into(),
        };
        let via = peer.as_ref().map(|peer| format!(" via {peer}")).unwrap_or_default();
        let client = format!("{}{via}", dash(client));
        let (age, idle) = (time(*age), time(u64::from(*idle)));
        let (up, down) = (bytes_up.to_string(), bytes_down.to_string());
        [id.to_string(), listener.clone(), client, dash(route), endpoint, age, idle, up, down]
    });
    let mut text =
        table(["id", "listener", "client", "route", "endpoint", "age", "idle", "bytes up", "bytes down"], rows);
    if sessions.len() < *total {
        text += &format!("{} of {total} sessions; --limit shows more\n", sessions.len());
    }
    text
}

fn time(seconds: u64) -> String {
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}

/// Columns as wide as their widest cell, two blanks apart. What would steer a terminal is shown as a question mark: some of
/// it comes from endpoints.
fn table<const N: usize>(head: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let printable = |cell: String| cell.replace(char::is_control, "?");
    let rows = std::iter::once(head.map(str::to_owned)).chain(rows);
    let rows: Vec<[String; N]> = rows.map(|row| row.map(printable)).collect();
    let mut widths = [0; N];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in &rows {
        let line: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text += line.join("  ").trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_and_networks_as_they_are_typed() {
        assert_eq!(place("pg/10.0.0.1:1"), Ok(Place { pool: "pg".into(), endpoint: "10.0.0.1:1".into() }));
        assert_eq!(place("pg/unix:/run/x").unwrap().endpoint, "unix:/run/x");
        for wrong in ["pg", "/b", "pg/", ""] {
            assert!(place(wrong).is_err(), "{wrong}");
        }
        assert_eq!(network("10.0.0.1").unwrap().to_string(), "10.0.0.1/32");
        assert_eq!(network("fd00::/8").unwrap().to_string(), "fd00::/8");
        assert!(network("10.0.0").is_err());
        let from = |address: &str, port| Ok(From { address: address.parse().ok(), port });
        assert_eq!(seen("10.0.0.1:4711"), from("10.0.0.1", 4711));
        assert_eq!(seen("[fd00::1]:4711"), from("fd00::1", 4711));
        assert_eq!(seen("4711"), from("", 4711));
        for wrong in ["10.0.0.1", "65536", "fd00::1:4711", "", "host:1"] {
            assert!(seen(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn columns_are_as_wide_as_they_have_to_be() {
        let rows = [["a".to_owned(), "1".to_owned()], ["long".to_owned(), "20".to_owned()]];
        assert_eq!(table(["x", "count"], rows.into_iter()), "x     count\na     1\nlong  20\n");
    }
}
