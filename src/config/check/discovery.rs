//! `[dns]`, endpoints by SRV records, and files of endpoints.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::node::{Node, Table};
use super::pools::{self, Names};
use super::{Check, health, keys};
use crate::bounded;
use crate::config::address;
use crate::config::file::File;
use crate::config::json;
use crate::config::model::{Address, Dns, Endpoint};
use crate::config::report::{At, Report, quote};
use crate::config::value::{Refused, is_absolute};

const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(30);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);
/// The port of a server that is written without one.
const DNS_PORT: u16 = 53;
/// The longest file of endpoints, in bytes.
const LONGEST_FILE: u64 = 16 << 20;
/// The most endpoints in a file.
const MOST_ENDPOINTS: usize = 100_000;

/// `[dns]`
pub(super) fn dns(top: &Table<'_>, check: &mut Check<'_>) -> Dns {
    let table = top.get("dns").map(|node| node.table(keys::DNS, check.report));
    let get = |key| table.as_ref().and_then(|table| table.get(key));
    let timeout = get("timeout").and_then(|node| node.duration_within(TIMEOUT, "\"100ms\" to \"30s\"", check.report));
    Dns {
        servers: get("servers").map(|node| servers(&node, check)).unwrap_or_default(),
        timeout: timeout.unwrap_or(DEFAULT_TIMEOUT),
    }
}

fn servers(node: &Node<'_>, check: &mut Check<'_>) -> Vec<SocketAddr> {
    const EXPECTED: &str = "an address such as \"10.0.0.2\", \"10.0.0.2:53\" or \"[2001:db8::2]:53\"";
    let empty = "an empty list says nothing; leave the key out to ask the servers of the system";
    let elements = node.list(EXPECTED, empty, check.report);
    let read = |text: &str| match text.parse::<IpAddr>() {
        Ok(_) => address::ip(text).map(|address| SocketAddr::new(address, DNS_PORT)),
        Err(_) => match address::socket(text)? {
            address if address.port() == 0 => Err(Refused::misread(text, "has port 0, which nothing answers on")),
            address => Ok(address),
        },
    };
    let mut servers: Vec<(SocketAddr, At)> = Vec::new();
    for element in elements {
        let Some(server) = element.parse(EXPECTED, check.report, read) else { continue };
        if let Some((_, first)) = servers.iter().find(|(known, _)| *known == server) {
            check.report.add(element.at, element.path(), format!("{server} is listed twice")).also(*first);
        }
        servers.push((server, element.at));
    }
    servers.into_iter().map(|(server, _)| server).collect()
}

/// An endpoint of `table` that is given by its SRV records, and how it is written.
pub(super) fn srv<'t>(table: &Table<'t>, node: &Node<'t>, check: &mut Check<'_>) -> Option<(&'t str, Address)> {
    if let Some(other) = table.get("address") {
        check.report.add(other.key_at, other.path(), "the addresses are those of the SRV records").also(node.key_at);
    }
    for key in ["weight", "priority"] {
        if let Some(other) = table.get(key) {
            let message = format!("every SRV record has its own {key}");
            check.report.add(other.key_at, other.path(), message).also(node.key_at);
        }
    }
    let expected = "a name such as \"_postgresql._tcp.example.com\"";
    node.parse(expected, check.report, |text| address::host_name(text).map(|name| (text, Address::Srv(name))))
}

/// The path of a file of endpoints. If it is there, its endpoints are checked as well; `names` are those of the pool's
/// others, and `names_verified` says whether certificates are verified by the names of endpoints.
pub(super) fn file(node: &Node<'_>, names: &mut Names, names_verified: bool, check: &mut Check<'_>) -> Option<PathBuf> {
    let path = node.parse("the absolute path of a .json or .toml file", check.report, |text| {
        let path = Path::new(text);
        let known = matches!(path.extension().and_then(|extension| extension.to_str()), Some("json" | "toml"));
        if !is_absolute(text) {
            return Err(Refused::misread(text, "is not the absolute path of a file"));
        }
        if known { Ok(path) } else { Err(Refused::misread(text, "ends in neither .json nor .toml")) }
    })?;
    if check.with_files {
        match bounded::read_regular(path, LONGEST_FILE) {
            Ok(bytes) => drop(parse(path, bytes, names, names_verified, check)),
            // It may come later.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                check.report.add(
                    node.at,
                    node.path(),
                    format!("cannot read {}: {error}", quote(&path.to_string_lossy())),
                );
            }
        }
    }
    Some(path.to_owned())
}

/// The endpoints of the file at `path`, the names of which must differ from those of `others`. What is wrong is reported.
///
/// # Errors
/// What the system says.
pub(in crate::config) fn read_alone(
    path: &Path,
    others: &[Endpoint],
    names_verified: bool,
    report: &mut Report,
) -> io::Result<Vec<Endpoint>> {
    match bounded::read_regular(path, LONGEST_FILE) {
        Ok(bytes) => {
            let mut names: Names = others.iter().map(|endpoint| (endpoint.name.clone(), None)).collect();
            let mut check = Check { report, complete: true, with_files: false, outgoing: Vec::new() };
            Ok(parse(path, bytes, &mut names, names_verified, &mut check))
        }
        Err(error) if error.raw_os_error().is_some() => Err(error),
        // It is too long, or no file.
        Err(error) => {
            let file = report.file(path.to_owned(), String::new());
            report.add(At::file(file), "", format!("cannot read the file: {error}"));
            Ok(Vec::new())
        }
    }
}

fn parse(path: &Path, bytes: Vec<u8>, names: &mut Names, names_verified: bool, check: &mut Check<'_>) -> Vec<Endpoint> {
    let json = path.extension().is_some_and(|extension| extension == "json");
    let file = match json {
        true => json::parse(path, bytes, "endpoints", check.report),
        false => File::parse(path, bytes, check.report),
    };
    let Some(file) = file else { return Vec::new() };
    let top = Table::top(&file.values, &file.spans, keys::ENDPOINTS_FILE, check.report);
    // Without the key it may be a file that is only half written; an empty list is meant.
    let node = top.require("endpoints", "a list of endpoints, which may be empty", true, check.report);
    let Some(node) = node else { return Vec::new() };
    let elements = node.any_list(pools::ENDPOINTS, check.report);
    if elements.len() > MOST_ENDPOINTS {
        let message = format!("{} endpoints are too many", elements.len());
        check.report.add(node.at, node.path(), message).expected(format!("at most {MOST_ENDPOINTS}"));
        return Vec::new();
    }
    let endpoints = pools::list(&elements, names, check);
    // One that could not be read is missing, and has been reported.
    if names_verified && endpoints.len() == elements.len() {
        for (endpoint, element) in endpoints.iter().zip(&elements) {
            if let Some(why) = health::nameless(endpoint) {
                let expected = "name in the tls table of the pool's health, or verify = false there";
                check.report.add(element.at, element.path(), why).expected(expected);
            }
        }
    }
    endpoints
}
