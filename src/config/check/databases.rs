//! What listeners for databases ask of their routes and pools.

use super::node::{Node, Table};
use super::outgoing::POSTGRESQL;
use super::{Check, listeners, pools};
use crate::config::model::{Address, Balance, Endpoint, Hash, Part, Probe, Protocol, RouteTls};
use crate::config::report::quote;

/// Reports `allow_cleartext` where it makes no sense.
pub(super) fn cleartext(
    node: &Node<'_>,
    is_clear: bool,
    route: &Table<'_>,
    listener: &listeners::Read,
    check: &mut Check<'_>,
) {
    if listener.protocol_known && listener.model.protocol != Protocol::Postgres {
        let message = format!("the listener {} is not postgres", quote(&listener.model.name));
        check.report.add(node.key_at, node.path(), message).also(listener.at);
    }
    for key in ["sni", "alpn"] {
        if let Some(named) = route.get(key).filter(|_| is_clear) {
            let message = format!("clients without TLS have no {key}, so none of them is ever led here");
            check.report.add(node.key_at, node.path(), message).also(named.key_at);
        }
    }
}

/// Reports a pool that a route to databases cannot use, and warns of what clients will not expect of it; `clear` is what lets
/// them come without TLS.
pub(super) fn pool(
    route: &Table<'_>,
    clear: Option<&Node<'_>>,
    part: Option<Part>,
    listener: &listeners::Read,
    pool: &pools::Read,
    check: &mut Check<'_>,
) {
    if !listener.protocol_known {
        return;
    }
    let name = quote(&pool.model.name);
    let protocol = listener.model.protocol;
    let dialogue = pool.model.health.as_ref().and_then(|health| health.dialogue.as_ref());
    let other = match dialogue.map(|dialogue| &dialogue.probe) {
        Some(Probe::Mysql(_)) if protocol == Protocol::Postgres => Some("mysql"),
        Some(Probe::Redis(_)) if matches!(protocol, Protocol::Postgres | Protocol::Mysql) => Some("redis"),
        Some(Probe::Postgres(_) | Probe::Patroni(_)) if protocol == Protocol::Mysql => Some("postgres"),
        _ => None,
    };
    if let Some(probe) = other {
        let message = format!("the pool {name} is probed as servers of {probe} are, but clients come for others");
        check.report.add(route.at, route.path(), message).also(pool.at);
    }
    if protocol == Protocol::Postgres && pool.model.send_proxy.is_some() {
        let message = format!("the pool {name} sends PROXY headers (send_proxy), which PostgreSQL does not know");
        check.report.warn(route.at, route.path(), message);
    }
    match (protocol, &pool.model.tls) {
        (Protocol::Mysql, Some(_)) => {
            let message =
                format!("TLS of MySQL begins in the middle of its protocol, so the pool {name} cannot have its own");
            check.report.add(route.at, route.path(), message).also(pool.at);
        }
        (Protocol::Postgres, Some(tls)) => {
            if tls.negotiation.is_none() {
                let message = format!("how TLS begins with servers of PostgreSQL is not said by the pool {name}");
                let expected = "negotiation = \"postgres\" in its tls, or \"direct\" where all servers are 17 or later";
                check.report.add(route.at, route.path(), message).also(pool.at).expected(expected);
            }
            if let Some(tls) = route.get("tls") {
                let message = "clients bind their SCRAM login to the certificate that they see (channel_binding, preferred by \
                               libpq), which fails unless the servers of the pool have the same one";
                check.report.warn(tls.key_at, tls.path(), message);
            }
        }
        _ => {}
    }
    if let Some(clear) = clear.filter(|_| listener.model.protocol == Protocol::Postgres && pool.model.tls.is_some()) {
        let message = "libpq does not log in by SCRAM without TLS to servers that offer to bind it to theirs, so clients in \
                       clear need another way (pg_hba.conf)";
        check.report.warn(clear.key_at, clear.path(), message);
    }
    // Of the primary there is one.
    let is_sure = part == Some(Part::Primary) || finds_again(pool);
    if listener.model.protocol == Protocol::Postgres && route.get("tls").is_none() && !is_sure {
        let message = format!(
            "a request to cancel a query that comes within TLS may reach another endpoint of the pool {name} than the \
             query; those in clear, and within TLS that ends here, reach all that it may be at"
        );
        check.report.warn(route.at, route.path(), message);
    }
}

/// Whether a second connection of a client is sure to reach the endpoint that its first one has.
fn finds_again(pool: &pools::Read) -> bool {
    // A name may stand for any number of addresses.
    let many = |endpoint: &&Endpoint| matches!(endpoint.address, Address::Host { .. } | Address::Srv(_));
    let mut serving = pool.model.endpoints.iter().filter(|endpoint| endpoint.weight > 0 && endpoint.priority == 0);
    let is_one = serving.next().is_none_or(|only| !many(&only)) && serving.next().is_none();
    let by_client = matches!(pool.model.balance, Balance::Maglev(Hash { balance_factor: None, .. }));
    by_client || (is_one && pool.model.endpoints_file.is_none())
}

/// Has TLS that ends here agree on PostgreSQL, unless the route says otherwise: clients that begin TLS at once insist on it.
pub(super) fn agree(tls: &mut RouteTls) {
    if tls.alpn.is_empty() {
        tls.alpn.push(POSTGRESQL.into());
    }
}
