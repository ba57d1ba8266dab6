//! `[route.NAME.tls]`, and the certificates that it names.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::node::{Node, Table};
use super::routes::{self, List};
use super::{Check, acme, clients, keys};
use crate::config::model::{MinVersion, NamePattern, RouteTls};
use crate::config::report::{At, quote};
use crate::config::value::{Refused, is_absolute};
use crate::tls::certificates::{Certificates, Found};
use crate::tls::{expiry, key_file};
use crate::wire::name::{Name, Written};

const HANDSHAKE: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(60);
const DEFAULT_HANDSHAKE: Duration = Duration::from_secs(5);
const NO_ACME: &str = "the absolute path of a file in PEM, or of a folder of such files, or acme for the whole route";
const CERTIFICATES: &str = "the absolute path of a file in PEM, or of a folder of such files";
const NO_CERTIFICATES: &str = "without any certificate no client could be served";
const DEFAULT: &str = "a name such as \"www.example.com\"";
const ALPN: &str = "a protocol such as \"h2\" or \"http/1.1\", 1 to 255 bytes";
const NO_ALPN: &str = "an empty list says nothing; leave the key out to negotiate none";

/// Reads how TLS ends on a route with these names and protocols, and with certificates that are `obtained`.
pub(super) fn read(
    node: &Node<'_>,
    route: &Table<'_>,
    sni: &List<NamePattern>,
    alpn: &List<Box<[u8]>>,
    obtained: Option<&acme::Obtained<'_>>,
    check: &mut Check<'_>,
) -> RouteTls {
    let table = node.table(keys::ROUTE_TLS, check.report);
    let certificates = match route.get("acme") {
        Some(_) => table.get("certificates"),
        None => table.require("certificates", NO_ACME, check.complete, check.report),
    };
    let paths = certificates.map(|node| paths(&node, (CERTIFICATES, NO_CERTIFICATES), check)).unwrap_or_default();
    let (paths, nodes): (Vec<PathBuf>, Vec<Node<'_>>) = paths.into_iter().unzip();
    let awaited = obtained.map(acme::Obtained::files).unwrap_or_default();
    let default = table.get("default").and_then(|node| {
        let name = node.parse(DEFAULT, check.report, name)?;
        Some((name, node))
    });
    let protocols = table.get("alpn").map(|node| protocols(&node, alpn, check)).unwrap_or_default();
    let versions = [("1.2", MinVersion::Tls12), ("1.3", MinVersion::Tls13)];
    let min_version = table.get("min_version").and_then(|node| node.choice(&versions, check.report));
    let handshake = table.get("handshake");
    let handshake = handshake.and_then(|node| node.duration_within(HANDSHAKE, "\"100ms\" to \"1m\"", check.report));
    let clients = table.get("client").map(|node| clients::read(&node, check));
    let name = default.as_ref().map(|(name, _)| name.clone());
    let (read, awaited) = if check.with_files { (paths.clone(), awaited) } else { Default::default() };
    let now = SystemTime::now();
    let (loaded, found) = Certificates::load(&read, awaited, name.clone(), now);
    if check.with_files {
        report(&nodes, found, check);
        soon_over((&nodes, route), &loaded, now, check);
        unserved(&loaded, (route, sni), default.as_ref(), check);
    }
    RouteTls {
        certificates: paths,
        default: name,
        alpn: protocols.values,
        min_version: min_version.unwrap_or(MinVersion::Tls12),
        handshake: handshake.unwrap_or(DEFAULT_HANDSHAKE),
        clients,
        loaded: Arc::new(loaded),
    }
}

/// Where the secrets of session tickets are; nothing: they are drawn.
pub(super) fn ticket_keys(top: &Table<'_>, check: &mut Check<'_>) -> Option<PathBuf> {
    let node = top.get("tls").and_then(|node| node.table(keys::TLS, check.report).get("ticket_keys"))?;
    let read = |text: &str| match text {
        "random" => Ok(None),
        path if is_absolute(path) => Ok(Some(PathBuf::from(path))),
        _ => Err(Refused::misread(text, "is neither \"random\" nor an absolute path")),
    };
    let path = node.parse("the absolute path of a file, or \"random\"", check.report, read).flatten()?;
    if check.with_files
        && let Err(flaw) = key_file::read(&path)
    {
        check.report.add(node.at, node.path(), format!("{path:?} {flaw}"));
    }
    Some(path)
}

/// The absolute paths of a list, none twice, and where each was written. `expected` says what each is, and why an empty
/// list makes no sense.
pub(super) fn paths<'t>(
    node: &Node<'t>,
    (expected, empty): (&str, &str),
    check: &mut Check<'_>,
) -> Vec<(PathBuf, Node<'t>)> {
    let mut known: HashMap<PathBuf, At> = HashMap::new();
    let mut paths = Vec::new();
    for element in node.list(expected, empty, check.report) {
        let absolute = |text: &str| match is_absolute(text) {
            // Its parts alone: a slash too many makes no other path.
            true => Ok(Path::new(text).components().collect::<PathBuf>()),
            false => Err(Refused::misread(text, "is not an absolute path")),
        };
        let Some(path) = element.parse(expected, check.report, absolute) else { continue };
        if let Some(first) = known.get(&path) {
            let message = format!("{} is listed twice", quote(&path.to_string_lossy()));
            check.report.add(element.at, element.path(), message).also(*first);
            continue;
        }
        known.insert(path.clone(), element.at);
        paths.push((path, element));
    }
    paths
}

fn name(text: &str) -> Result<Name, Refused> {
    match Name::read(text.as_bytes()) {
        Ok(Written::Name(name)) => Ok(name),
        Ok(Written::Address(_)) => Err(Refused::misread(text, "is an address, which clients cannot ask for")),
        Err(error) => Err(Refused::misread(text, &format!("is not a name: {error}"))),
    }
}

/// The protocols that are taken, among which are those that the route asks for.
fn protocols(node: &Node<'_>, asked: &List<Box<[u8]>>, check: &mut Check<'_>) -> List<Box<[u8]>> {
    let show = |protocol: &[u8]| quote(&String::from_utf8_lossy(protocol));
    let mut protocols = List::default();
    let before = check.report.count();
    for element in node.list(ALPN, NO_ALPN, check.report) {
        let Some(protocol) = element.parse(ALPN, check.report, routes::protocol) else { continue };
        if let Some(first) = protocols.values.iter().position(|known| *known == protocol) {
            let message = format!("{} is listed twice", show(&protocol));
            check.report.add(element.at, element.path(), message).also(protocols.places[first]);
        }
        protocols.values.push(protocol);
        protocols.places.push(element.at);
    }
    if check.report.count() == before {
        for (protocol, &at) in asked.values.iter().zip(&asked.places) {
            if !protocols.values.contains(protocol) {
                let message =
                    format!("the route asks for {}, but no client that offers it alone would be taken", show(protocol));
                check.report.add(node.at, node.path(), message).also(at);
            }
        }
    }
    protocols
}

/// Reports what is wrong with files, and warns of what does not keep a certificate from being used. Those that are
/// obtained are not among `paths`: what is wrong with them is told in the log, and mended by new ones.
fn report(paths: &[Node<'_>], found: Vec<Found>, check: &mut Check<'_>) {
    for Found { source, problem } in found {
        let Some(node) = paths.get(source) else { continue };
        match problem.is_minor() {
            true => check.report.warn(node.at, node.path(), problem.to_string()),
            false => drop(check.report.add(node.at, node.path(), problem.to_string())),
        }
    }
}

/// Warns of certificates that have ended, or will soon; those that are not among `paths` are obtained.
fn soon_over((paths, route): (&[Node<'_>], &Table<'_>), loaded: &Certificates, now: SystemTime, check: &mut Check<'_>) {
    for (source, file, end) in loaded.ending(now) {
        let Some(node) = paths.get(source).cloned().or_else(|| route.get("acme")) else { continue };
        check.report.warn(node.at, node.path(), format!("{file:?}: {}", expiry::left(end, now)));
    }
}

/// Reports a default that no certificate has, and warns of names of the route that none has.
fn unserved(
    loaded: &Certificates,
    (route, sni): (&Table<'_>, &List<NamePattern>),
    default: Option<&(Name, Node<'_>)>,
    check: &mut Check<'_>,
) {
    let missing: Vec<_> = loaded.missing().map(|name| quote(name.as_str())).collect();
    if let Some(node) = route.get("acme").filter(|_| !missing.is_empty()) {
        let message = format!("still to be obtained, once pointsman runs: certificates for {}", missing.join(", "));
        check.report.warn(node.at, node.path(), message);
    }
    if loaded.is_empty() {
        return;
    }
    if let Some((name, node)) = default
        && !loaded.has(name)
        && !loaded.awaits(name)
    {
        check.report.add(node.at, node.path(), format!("no certificate has the name {}", quote(name.as_str())));
    }
    for (pattern, &at) in sni.values.iter().zip(&sni.places) {
        if let NamePattern::Exact(name) = pattern
            && !loaded.has(name)
            && !loaded.awaits(name)
        {
            let message = format!(
                "no certificate has the name {}; its clients get the default certificate",
                quote(name.as_str())
            );
            check.report.warn(at, route.path_of("sni"), message);
        }
    }
}
