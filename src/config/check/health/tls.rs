//! `[pool.NAME.health.tls]`: the TLS that a probe runs in.

use std::time::Duration;

use super::Word;
use crate::config::check::node::{Allow, Node};
use crate::config::check::{Check, keys, outgoing};
use crate::config::model::{Address, Endpoint, Negotiation, OutgoingTls, PoolTls};
use crate::config::report::quote;
use crate::tls::outgoing::Files;

const DEFAULT_WARN: Duration = Duration::from_secs(14 * 86_400);

/// Reads the TLS of a probe, and how long before its end a certificate is warned of.
pub(super) fn read(node: Option<&Node<'_>>, check: &mut Check<'_>) -> (OutgoingTls, Files, Option<Duration>) {
    let table = node.map(|node| node.table(keys::HEALTH_TLS, check.report));
    let (tls, files) = outgoing::read(table.as_ref(), check);
    let warn = table.as_ref().and_then(|table| table.get("warn_expiry"));
    let warn = warn.map(|node| node.duration(Allow::PositiveOrOff, check.report));
    (tls, files, warn.flatten().unwrap_or(Some(DEFAULT_WARN)))
}

/// Reads how TLS with a PostgreSQL server begins. One that takes it at once takes it only with its protocol.
pub(super) fn negotiation(
    node: Option<&Node<'_>>,
    word: Option<Word>,
    tls: &mut OutgoingTls,
    check: &mut Check<'_>,
) -> Negotiation {
    // The keys of the table have been looked at.
    let table = node.filter(|node| node.is_table()).map(|node| node.any_table(check.report));
    let Some(node) = table.and_then(|table| table.get("negotiation")) else { return Negotiation::default() };
    if word.is_some_and(|word| word != Word::Postgres) {
        check.report.add(node.key_at, node.path(), "only with probe = \"postgres\" TLS may begin in two ways");
    }
    let words = [("postgres", Negotiation::Postgres), ("direct", Negotiation::Direct)];
    let negotiation = node.choice(&words, check.report).unwrap_or_default();
    if negotiation == Negotiation::Direct && tls.alpn.is_empty() {
        tls.alpn.push(POSTGRES.into());
    }
    if negotiation == Negotiation::Direct && !tls.alpn.iter().any(|protocol| **protocol == *POSTGRES) {
        check.report.add(node.at, node.path(), "servers take TLS at once only with \"postgresql\" in alpn");
    }
    negotiation
}

/// What PostgreSQL is called in ALPN.
const POSTGRES: &[u8] = b"postgresql";

/// The TLS of a probe that has none of its own, where sessions have this one. Of the protocols it offers those that it speaks,
/// and none where TLS begins inside of one.
pub(super) fn inherited(pool: &PoolTls, word: Option<Word>) -> OutgoingTls {
    let mut tls = pool.outgoing.written().clone();
    tls.alpn.retain(|protocol| match word {
        Some(Word::Http) => is_http_1(protocol),
        Some(Word::Postgres) => false,
        _ => true,
    });
    if word == Some(Word::Postgres) && pool.negotiation == Some(Negotiation::Direct) {
        tls.alpn.push(POSTGRES.into());
    }
    tls
}

fn is_http_1(protocol: &[u8]) -> bool {
    matches!(protocol, b"http/1.1" | b"http/1.0")
}

/// Refuses what cannot come to a good end: h2 for a request over HTTP/1.1, and an endpoint of `own`, those that are written
/// in the configuration, without a name.
pub(super) fn fits(node: &Node<'_>, tls: &OutgoingTls, word: Option<Word>, own: &[Endpoint], check: &mut Check<'_>) {
    if matches!(word, Some(Word::Http | Word::Patroni))
        && let Some(other) = tls.alpn.iter().find(|alpn| !is_http_1(alpn))
    {
        let message = format!("this probe speaks HTTP/1.1 and not {}", quote(&String::from_utf8_lossy(other)));
        check.report.add(node.key_at, format!("{}.alpn", node.path()), message);
    }
    if tls.verifies_names_of_endpoints()
        && let Some(message) = own.iter().find_map(nameless)
    {
        check.report.add(node.key_at, node.path(), message).expected("name, or verify = false");
    }
}

/// Why an endpoint has no name by which its certificate can be verified, if it has none: what SRV records say are names
/// that anybody may have written who can answer for the name server.
pub(in crate::config::check) fn nameless(endpoint: &Endpoint) -> Option<String> {
    let what = match endpoint.address {
        Address::Unix(_) => "is a unix socket",
        Address::Srv(_) => "stands for SRV records",
        Address::Ip(_) | Address::Host { .. } => return None,
    };
    let endpoint = quote(&endpoint.name);
    Some(format!("the endpoint {endpoint} {what}, and nothing says whose certificate it has"))
}
