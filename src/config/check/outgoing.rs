//! `[pool.NAME.tls]`, and what it has in common with `[pool.NAME.health.tls]`: TLS with endpoints, and the files that it
//! takes.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use rustls::pki_types::{CertificateDer, ServerName};

use super::node::{Node, Table};
use super::{Check, health, keys, routes};
use crate::config::model::{Endpoint, Identity, Negotiation, OutgoingTls, PoolTls, Trust};
use crate::config::report::quote;
use crate::config::value::{Refused, is_absolute};
use crate::tls::authorities::Authority;
use crate::tls::outgoing::{self, Files, Outgoing};
use crate::tls::problem::Flaw;

const HANDSHAKE: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(60);
const DEFAULT_HANDSHAKE: Duration = Duration::from_secs(5);
/// What stands for roots.
pub(super) const CA: &str = "\"system\" or the absolute path of a PEM file";
const PEM: &str = "the absolute path of a PEM file, or \"off\"";
const PIN: &str = "\"sha256/\" and the SHA-256 of a public key in base64";

/// What PostgreSQL is called in a handshake (IANA, TLS Application-Layer Protocol Negotiation Protocol IDs).
pub(super) const POSTGRESQL: &[u8] = b"postgresql";

/// Reads the TLS of a pool. `own` are the endpoints that are written in the configuration.
pub(super) fn pool(node: &Node<'_>, own: &[Endpoint], check: &mut Check<'_>) -> PoolTls {
    let table = node.table(keys::POOL_TLS, check.report);
    let (settings, files) = read(Some(&table), check);
    let negotiation = [("postgres", Negotiation::Postgres), ("direct", Negotiation::Direct)];
    let negotiation = table.get("negotiation").and_then(|node| node.choice(&negotiation, check.report));
    let alpn = match (table.get("alpn"), negotiation) {
        (Some(_), _) => Some(settings.alpn.clone()),
        // Without it a server takes no TLS that begins at once.
        (None, Some(_)) => Some(vec![POSTGRESQL.into()]),
        (None, None) => None,
    };
    let handshake = table.get("handshake");
    let handshake = handshake.and_then(|node| node.duration_within(HANDSHAKE, "\"100ms\" to \"1m\"", check.report));
    if settings.verifies_names_of_endpoints()
        && let Some(message) = own.iter().find_map(health::nameless)
    {
        check.report.add(node.key_at, node.path(), message).expected("name, or verify = false");
    }
    let outgoing = shared(settings, files, check);
    PoolTls { alpn, negotiation, handshake: handshake.unwrap_or(DEFAULT_HANDSHAKE), outgoing }
}

/// What is made of these settings, which is watched; the same for whoever has the same.
pub(super) fn shared(settings: OutgoingTls, files: Files, check: &mut Check<'_>) -> Arc<Outgoing> {
    if let Some(known) = check.outgoing.iter().find(|known| known.is_made_of(&settings, &files)) {
        return Arc::clone(known);
    }
    let new = Arc::new(Outgoing::new(settings, files));
    check.outgoing.push(Arc::clone(&new));
    new
}

/// Reads what the tables of pools and of probes have in common, and where it was found.
pub(super) fn read(table: Option<&Table<'_>>, check: &mut Check<'_>) -> (OutgoingTls, Files) {
    let get = |key| table.and_then(|table| table.get(key));
    let name =
        get("name").and_then(|node| {
            node.parse("a name such as \"www.example.com\", or an address", check.report, |text| {
                match ServerName::try_from(text) {
                    Ok(_) => Ok(text.to_owned()),
                    Err(_) => Err(Refused::misread(text, "is not a name that a certificate could have")),
                }
            })
        });
    let alpn = get("alpn").map(|node| alpn(&node, check)).unwrap_or_default();
    let pins = get("pins").map(|node| pins(&node, check)).unwrap_or_default();
    let verify = get("verify").and_then(|node| node.truth(check.report)).unwrap_or(true);
    let mut files = Files::default();
    let roots = get("ca").map(|node| {
        if !verify {
            check.report.add(node.key_at, node.path(), "with verify = false nothing is verified");
        }
        let listed = node.list(CA, "nobody would be trusted; verify = false trusts everybody", check.report);
        trust(listed, &mut files.ca, check)
    });
    let trust = match (verify, roots) {
        (false, _) => Trust::Anybody,
        (true, roots) => roots.unwrap_or(Trust::Roots { system: true, files: Vec::new() }),
    };
    let identity = table.and_then(|table| identity(table, check));
    let identity = identity.map(|(identity, paths)| {
        files.identity = Some(paths);
        identity
    });
    (OutgoingTls { name, alpn, trust, identity, pins }, files)
}

fn alpn(node: &Node<'_>, check: &mut Check<'_>) -> Vec<Box<[u8]>> {
    const ALPN: &str = "a protocol such as \"http/1.1\", 1 to 255 bytes";
    let elements = node.list(ALPN, "an empty list says nothing; leave the key out to offer none", check.report);
    elements.iter().filter_map(|element| element.parse(ALPN, check.report, routes::protocol)).collect()
}

fn pins(node: &Node<'_>, check: &mut Check<'_>) -> Vec<[u8; 32]> {
    let elements = node.list(PIN, "no endpoint would have a key that is pinned", check.report);
    let pin = |text: &str| {
        let hash = text.strip_prefix("sha256/").and_then(|hash| BASE64_STANDARD.decode(hash).ok());
        let hash = hash.and_then(|hash| <[u8; 32]>::try_from(hash).ok());
        hash.ok_or_else(|| Refused::misread(text, "is not the hash of a key"))
    };
    elements.iter().filter_map(|element| element.parse(PIN, check.report, pin)).collect()
}

/// Those that these stand for; `paths` gets those of files.
pub(super) fn trust(listed: Vec<Node<'_>>, paths: &mut Vec<PathBuf>, check: &mut Check<'_>) -> Trust {
    let (mut system, mut files) = (false, Vec::new());
    for element in listed {
        match element.text(CA, check.report) {
            Some("system") => system = true,
            Some(path) => {
                files.extend(certificates(&element, path, check).unwrap_or_default());
                paths.push(path.into());
            }
            None => {}
        }
    }
    Trust::Roots { system, files }
}

fn certificates(node: &Node<'_>, path: &str, check: &mut Check<'_>) -> Option<Vec<CertificateDer<'static>>> {
    absolute(node, path, CA, check)?;
    match Authority::all(Path::new(path)) {
        Ok(all) => Some(all.into_iter().map(|authority| authority.der).collect()),
        Err(flaw) => {
            check.report.add(node.at, node.path(), format!("{} {flaw}", quote(path)));
            None
        }
    }
}

/// The client certificate with its key, both or none, and where they are.
fn identity(table: &Table<'_>, check: &mut Check<'_>) -> Option<(Identity, (PathBuf, PathBuf))> {
    let path = |node: &Node<'_>, check: &mut Check<'_>| {
        node.text(PEM, check.report).map(|text| (text != "off").then(|| text.to_owned()))
    };
    let (certificate, key) = (table.get("certificate"), table.get("key"));
    // What is not text counts as set: it has been reported.
    let certificate_path = certificate.as_ref().map_or(Some(None), |node| path(node, check));
    let key_path = key.as_ref().map_or(Some(None), |node| path(node, check));
    match (certificate_path?, key_path?) {
        (None, None) => None,
        (Some(_), None) => {
            let path = table.path_of("key");
            check.report.add(certificate?.key_at, path, "the certificate has no use without its key").expected(PEM);
            None
        }
        (None, Some(_)) => {
            let path = table.path_of("certificate");
            check.report.add(key?.key_at, path, "the key has no use without its certificate").expected(PEM);
            None
        }
        (Some(certificate_path), Some(key_path)) => {
            let (certificate, key) = (certificate?, key?);
            absolute(&certificate, &certificate_path, PEM, check).and(absolute(&key, &key_path, PEM, check))?;
            let paths = (PathBuf::from(certificate_path), PathBuf::from(key_path));
            match outgoing::identity(&paths.0, &paths.1) {
                Ok(identity) => Some((identity, paths)),
                Err(problem) => {
                    // Both may be in one file.
                    let is_certificates = matches!(problem.flaw, Flaw::NoCertificate | Flaw::Certificate);
                    let node = if problem.file != paths.1 || is_certificates { &certificate } else { &key };
                    check.report.add(node.at, node.path(), problem.to_string());
                    None
                }
            }
        }
    }
}

fn absolute(node: &Node<'_>, path: &str, expected: &str, check: &mut Check<'_>) -> Option<()> {
    if !is_absolute(path) {
        let message = format!("{} is not an absolute path", quote(path));
        check.report.add(node.at, node.path(), message).expected(expected);
        return None;
    }
    Some(())
}
