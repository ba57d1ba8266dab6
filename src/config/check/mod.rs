//! Walks what was written, finds every problem in it, and resolves it to a [`Config`].
//!
//! Not serde: a derived reader stops at the first mistake. Here each reader reports what it finds and goes on with a
//! stand-in, and the stand-ins are thrown away with the whole result if anything was reported.

mod acme;
mod balance;
mod clients;
mod databases;
pub(super) mod discovery;
mod health;
mod listeners;
mod node;
mod outgoing;
mod parts;
mod pools;
mod proxy;
mod reach;
mod routes;
mod sessions;
mod settings;
mod tls;
mod useless;

use std::collections::HashMap;
use std::sync::Arc;

use super::keys;
use super::model::{Bind, Config};
use super::report::{At, Report, path_part, quote};
use super::written::Written;
use crate::tls::outgoing::Outgoing;
use node::{Node, Table};

/// The longest name of a listener, route or pool, in bytes.
const LONGEST_NAME: usize = 64;

/// What one check works with.
struct Check<'r> {
    report: &'r mut Report,
    /// Whether everything that was written is known. If not, nothing is said of what is missing.
    complete: bool,
    /// Whether files of endpoints and of certificates are read.
    with_files: bool,
    /// TLS with endpoints, each once: who has the same shares what is made of it.
    outgoing: Vec<Arc<Outgoing>>,
}

/// Checks `written`; the result counts only if `report` is clean.
pub(super) fn check(written: &Written, environment: Vec<String>, report: &mut Report) -> Config {
    let top = Table::top(&written.values, &written.spans, keys::TOP, report);
    let mut check = Check { report, complete: written.complete, with_files: written.with_files, outgoing: Vec::new() };
    let runtime = settings::runtime(&top, &mut check);
    let log = settings::log(&top, &mut check);
    let admin = settings::admin(&top, &mut check);
    let dns = discovery::dns(&top, &mut check);
    let timeouts = settings::timeouts(&top, &mut check);
    let listeners = listeners::read(&top, &timeouts, &mut check);
    let pools = pools::read(&top, &timeouts, &mut check);
    let accounts = acme::read(&top, &mut check);
    let routes = routes::read(&top, &listeners, &pools, &accounts, &mut check);
    same_addresses(&listeners, &admin.1, &accounts, &mut check);
    reach::check(&listeners, &routes, &mut check);
    pools::refusals(&pools, &listeners, &routes, &mut check);
    parts::check(&pools, &routes, &mut check);
    let ticket_keys = tls::ticket_keys(&top, &mut check);
    let (pools, routes) = parts::resolve(pools, routes);
    Config {
        runtime,
        log,
        admin: admin.0,
        dns,
        ticket_keys,
        acme: accounts.into_iter().map(|account| account.model).collect(),
        timeouts,
        listeners: listeners.into_iter().map(|listener| listener.model).collect(),
        routes,
        pools,
        environment,
    }
}

/// Refuses one address for two listeners, or for a listener and what operators or authorities use. Accounts share theirs.
fn same_addresses(
    listeners: &[listeners::Read],
    admin: &[(Bind, &str, At)],
    accounts: &[acme::Read],
    check: &mut Check<'_>,
) {
    let mut known: HashMap<&Bind, (&str, At)> = HashMap::new();
    known.extend(admin.iter().map(|(bind, key, at)| (bind, (*key, *at))));
    let mut served: HashMap<&Bind, (&str, At)> = HashMap::new();
    for (bind, at, path) in accounts.iter().flat_map(|account| &account.bind) {
        match known.get(bind) {
            Some((first, first_at)) => {
                let message = format!("{bind} is already listened on by {first}");
                check.report.add(*at, path, message).also(*first_at);
            }
            None => drop(served.insert(bind, (path, *at))),
        }
    }
    known.extend(served);
    for listener in listeners {
        for (bind, at, path) in &listener.bind {
            // Port 0 takes another free port each time.
            if matches!(bind, Bind::Tcp(address) if address.port() == 0) {
                continue;
            }
            match known.get(bind) {
                Some((first, first_at)) => {
                    let message = format!("{bind} is already listened on by {first}");
                    check.report.add(*at, path, message).also(*first_at);
                }
                None => {
                    known.insert(bind, (path, *at));
                }
            }
        }
    }
}

/// The named tables of `section`, in the order of the files, with names checked; reports if there is none.
fn named<'t>(top: &Table<'t>, section: &str, check: &mut Check<'_>) -> Vec<(&'t str, Node<'t>)> {
    let table = top.get(section).map(|node| node.any_table(check.report));
    let entries = table.as_ref().map(Table::entries).unwrap_or_default();
    if entries.is_empty() && table.is_none_or(|table| table.is_sound()) && check.complete {
        let message = format!("there is no {section}");
        check.report.add(top.at, section, message).expected(format!("at least one [{section}.NAME]"));
    }
    for (name, node) in &entries {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if name.is_empty() || name.len() > LONGEST_NAME || !name.bytes().all(good) {
            let message = format!("{} cannot be the name of a {section}", quote(name));
            let expected = format!("1 to {LONGEST_NAME} letters, digits, hyphens, underscores and dots");
            check.report.add(node.key_at, node.path(), message).expected(expected);
        }
    }
    entries
}

/// Names the path of a named table, as messages show it.
fn path_of(section: &str, name: &str) -> String {
    format!("{section}.{}", path_part(name))
}
