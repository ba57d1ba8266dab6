//! `[route.NAME.tls.client]`: the certificates that clients are asked for, and the files of authorities and lists.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use super::node::{Node, Table};
use super::{Check, keys, tls};
use crate::config::model::ClientRules;
use crate::config::report::quote;
use crate::tls::clients::Clients;
use crate::tls::expiry;

const CA: &str = "the absolute path of a file of certificates in PEM";
const NO_CA: &str = "without any authority no certificate could be verified";
const CRL: &str = "the absolute path of a file of lists of revoked certificates, in PEM or DER";
const NO_CRL: &str = "an empty list says nothing; leave the key out where nothing is ever revoked";

/// Reads what clients are asked for.
pub(super) fn read(node: &Node<'_>, check: &mut Check<'_>) -> Arc<Clients> {
    let table = node.table(keys::ROUTE_TLS_CLIENT, check.report);
    let verify = table.get("verify");
    let required =
        verify.and_then(|node| node.choice(&[("required", true), ("optional", false)], check.report)).unwrap_or(true);
    let ca = table.require("ca", CA, check.complete, check.report);
    let ca = ca.map(|node| tls::paths(&node, (CA, NO_CA), check)).unwrap_or_default();
    let crl = table.get("crl").map(|node| tls::paths(&node, (CRL, NO_CRL), check));
    let depths = [("chain", true), ("leaf", false)];
    let whole_chain = of_lists(&table, "crl_check", &depths, check).unwrap_or(true);
    let expired = [("refuse", true), ("use", false)];
    let refuses_by_expired_lists = of_lists(&table, "expired_crl", &expired, check).unwrap_or(true);
    let (ca, mut nodes): (Vec<PathBuf>, Vec<Node<'_>>) = ca.into_iter().unzip();
    let (crl, lists): (Vec<PathBuf>, Vec<Node<'_>>) = crl.into_iter().flatten().unzip();
    nodes.extend(lists);
    let rules = ClientRules { required, ca, crl, whole_chain, refuses_by_expired_lists };
    if !check.with_files || rules.ca.is_empty() {
        return Arc::new(Clients::unread(rules));
    }
    let now = SystemTime::now();
    let (clients, found) = Clients::load(rules, now);
    for found in found {
        let node = &nodes[found.source];
        check.report.add(node.at, node.path(), found.problem.to_string());
    }
    warn(&table, &clients, now, check);
    Arc::new(clients)
}

/// A key that says something of lists, and nothing where there are none.
fn of_lists(table: &Table<'_>, key: &str, words: &[(&str, bool)], check: &mut Check<'_>) -> Option<bool> {
    let node = table.get(key)?;
    if table.get("crl").is_none() {
        check.report.add(node.key_at, node.path(), "there are no lists of revoked certificates").expected("crl");
    }
    node.choice(words, check.report)
}

/// Warns of whom the lists keep out although nobody was revoked.
fn warn(table: &Table<'_>, clients: &Clients, now: SystemTime, check: &mut Check<'_>) {
    let Some(node) = table.get("crl") else { return };
    let rules = clients.rules();
    for (file, end, effect) in clients.ended(now) {
        let message = format!("{file:?}: {}; {effect}", expiry::list_expired(end));
        check.report.warn(node.at, node.path(), message);
    }
    let unlisted = clients.demand().map(|demand| demand.unlisted.clone()).unwrap_or_default();
    for authority in unlisted.iter().filter(|_| rules.whole_chain) {
        let message = format!(
            "there is no list of the authority {}, so that the certificates that it has issued are refused",
            quote(authority)
        );
        check.report.warn(node.at, node.path(), message);
    }
}
