//! `[listener.NAME]`

use std::collections::HashMap;

use super::node::{Node, Table};
use super::settings::{self, MOST_CONNECTIONS};
use super::{Check, keys, named, proxy};
use crate::config::address;
use crate::config::model::{Bind, Listener, Protocol, Timeouts};
use crate::config::report::At;

/// The longest queue of connections not yet accepted.
const MOST_BACKLOG: u32 = 65_535;
const DEFAULT_BACKLOG: u32 = 4096;

/// A listener as far as it could be read.
pub(super) struct Read {
    /// The resolved listener.
    pub(super) model: Listener,
    /// Where it was written.
    pub(super) at: At,
    /// Path of its table.
    pub(super) path: String,
    /// Its addresses, each with its place and path.
    pub(super) bind: Vec<(Bind, At, String)>,
    /// Whether all its addresses are known.
    pub(super) bind_known: bool,
    /// Whether its protocol is known.
    pub(super) protocol_known: bool,
}

/// Reads all listeners.
pub(super) fn read(top: &Table<'_>, timeouts: &Timeouts, check: &mut Check<'_>) -> Vec<Read> {
    let entries = named(top, "listener", check);
    entries.iter().map(|(name, node)| listener(name, node, timeouts, check)).collect()
}

/// Listeners by name.
pub(super) fn by_name(listeners: &[Read]) -> HashMap<&str, usize> {
    listeners.iter().enumerate().map(|(index, listener)| (listener.model.name.as_str(), index)).collect()
}

fn listener(name: &str, node: &Node<'_>, timeouts: &Timeouts, check: &mut Check<'_>) -> Read {
    let table = node.table(keys::LISTENER, check.report);
    let before = check.report.count();
    let bind = table.require("bind", address::BIND, check.complete, check.report);
    let bind_set = bind.is_some();
    let bind = bind.map(|node| binds(&node, check)).unwrap_or_default();
    let bind_known = bind_set && check.report.count() == before;

    let protocols =
        [("tls", Protocol::Tls), ("tcp", Protocol::Tcp), ("postgres", Protocol::Postgres), ("mysql", Protocol::Mysql)];
    let before = check.report.count();
    let protocol = table.get("protocol").and_then(|node| node.choice(&protocols, check.report));
    let protocol_known = check.report.count() == before;
    let protocol = protocol.unwrap_or(Protocol::Tls);

    let most = table.get("max_connections").and_then(|node| node.count("off", MOST_CONNECTIONS, check.report));
    let backlog = table.get("backlog").and_then(|node| node.number(1..=MOST_BACKLOG, check.report));
    let defers = table.get("defer_accept");
    let defer_accept = defers.as_ref().and_then(|node| node.truth(check.report));
    let is_silent = protocol == Protocol::Mysql && table.get("proxy_from").is_none();
    if let Some(node) = defers.filter(|_| is_silent && defer_accept == Some(true)) {
        check.report.add(node.at, node.path(), "clients of MySQL say nothing before the server does");
    }
    let proxy_from = table.get("proxy_from");
    let proxy_from = proxy_from.map(|node| proxy::senders(&node, bind_known.then_some(&bind), check));
    let own = table.get("timeouts").map(|node| node.table(keys::LISTENER_TIMEOUTS, check.report));
    Read {
        model: Listener {
            name: name.to_owned(),
            bind: bind.iter().map(|(bind, ..)| bind.clone()).collect(),
            protocol,
            max_connections: most.flatten(),
            backlog: backlog.unwrap_or(DEFAULT_BACKLOG),
            defer_accept: defer_accept.unwrap_or(protocol.reads_hellos()),
            proxy_from,
            open: settings::open(own.as_ref(), timeouts.open, check),
        },
        at: table.at,
        path: table.path().to_owned(),
        bind,
        bind_known,
        protocol_known,
    }
}

fn binds(node: &Node<'_>, check: &mut Check<'_>) -> Vec<(Bind, At, String)> {
    let elements = node.list(address::BIND, "a listener without an address accepts nothing", check.report);
    let read = |element: Node<'_>| {
        let bind = element.parse(address::BIND, check.report, address::bind)?;
        Some((bind, element.at, element.path()))
    };
    elements.into_iter().filter_map(read).collect()
}

/// What of clients' addresses the listener can see.
#[derive(Clone, Copy)]
pub(super) struct Families {
    /// IPv4 clients.
    pub(super) v4: bool,
    /// IPv6 clients.
    pub(super) v6: bool,
    /// Clients without an address.
    pub(super) unix: bool,
}

impl Read {
    /// The word for its protocol, where nothing is read of what its clients send.
    pub(super) fn unread(&self) -> Option<&'static str> {
        match self.model.protocol {
            Protocol::Tcp if self.protocol_known => Some("tcp"),
            Protocol::Mysql if self.protocol_known => Some("mysql"),
            _ => None,
        }
    }

    /// Families of the clients that can arrive. IPv6 sockets take no IPv4 clients, but a PROXY header may speak for any.
    pub(super) fn families(&self) -> Families {
        let proxied = self.model.proxy_from.is_some();
        let any = |test: fn(&Bind) -> bool| proxied || self.bind.iter().any(|(bind, ..)| test(bind));
        Families {
            v4: any(|bind| matches!(bind, Bind::Tcp(address) if address.is_ipv4())),
            v6: any(|bind| matches!(bind, Bind::Tcp(address) if address.is_ipv6())),
            unix: any(|bind| matches!(bind, Bind::Unix(_))),
        }
    }
}
