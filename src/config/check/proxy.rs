//! The PROXY protocol: `listener.proxy_from`, `pool.send_proxy`; and the address that stands in for it, `pool.transparent`.

use ipnet::IpNet;

use super::Check;
use super::node::{Node, Table};
use crate::config::address;
use crate::config::model::{Address, Bind, Endpoint, ProxyFrom, SendProxy, SentTlvs};
use crate::config::report::At;

const SENDER: &str = "a network such as \"10.0.0.0/8\" or \"2001:db8::/32\", an address, or \"unix\"";
const NOBODY: &str = "nobody is in an empty list; leave the key out where nobody sends a PROXY header";
/// A shorter network than any that is private: strangers are in it.
const WIDE: [u8; 2] = [8, 7];

/// Reads whose connections begin with a header; each has to be able to reach one of `bind`, if these are known.
pub(super) fn senders(node: &Node<'_>, bind: Option<&[(Bind, At, String)]>, check: &mut Check<'_>) -> ProxyFrom {
    let mut senders = ProxyFrom::default();
    let mut written: Vec<(Option<IpNet>, At)> = Vec::new();
    for element in node.list(SENDER, NOBODY, check.report) {
        let read = |text| if text == "unix" { Ok(None) } else { address::network(text).map(Some) };
        let Some(sender) = element.parse(SENDER, check.report, read) else { continue };
        let called = sender.map_or("unix".to_owned(), |network| network.to_string());
        if let Some((_, first)) = written.iter().find(|(other, _)| *other == sender) {
            check.report.add(element.at, element.path(), format!("{called} is listed twice")).also(*first);
            continue;
        }
        written.push((sender, element.at));
        let (family, reaches): (_, fn(&Bind) -> bool) = match sender {
            Some(IpNet::V4(_)) => ("IPv4", |bind| matches!(bind, Bind::Tcp(address) if address.is_ipv4())),
            Some(IpNet::V6(_)) => ("IPv6", |bind| matches!(bind, Bind::Tcp(address) if address.is_ipv6())),
            None => ("unix", |bind| matches!(bind, Bind::Unix(_))),
        };
        if bind.is_some_and(|bind| !bind.iter().any(|(bind, ..)| reaches(bind))) {
            let message = format!("the listener has no {family} address, so nobody comes from {called}");
            check.report.add(element.at, element.path(), message);
        }
        if let Some(network) = sender
            && network.prefix_len() < WIDE[usize::from(matches!(network, IpNet::V6(_)))]
        {
            let message =
                format!("whoever is in {called} can say that it comes from any address: list only your own proxies");
            check.report.warn(element.at, element.path(), message);
        }
    }
    senders.unix = written.iter().any(|(sender, _)| sender.is_none());
    senders.networks = written.into_iter().filter_map(|(sender, _)| sender).collect();
    senders
}

/// Reads what endpoints are told of clients.
pub(super) fn send(table: &Table<'_>, check: &mut Check<'_>) -> Option<SendProxy> {
    let versions = [("off", None), ("v1", Some(SendProxy::V1)), ("v2", Some(SendProxy::V2(SentTlvs::ALL)))];
    let version = table.get("send_proxy").map(|node| node.choice(&versions, check.report));
    let tlvs = table.get("send_proxy_tlvs");
    let sent = tlvs.as_ref().map(|node| tlvs_of(node, check));
    match version.unwrap_or(Some(None)) {
        Some(Some(SendProxy::V2(all))) => Some(SendProxy::V2(sent.unwrap_or(all))),
        Some(other) => {
            if let Some(node) = tlvs {
                check
                    .report
                    .add(node.key_at, node.path(), "only a header of version 2 has any")
                    .expected("send_proxy = \"v2\"");
            }
            other
        }
        None => None,
    }
}

fn tlvs_of(node: &Node<'_>, check: &mut Check<'_>) -> SentTlvs {
    type Part = fn(&mut SentTlvs) -> &mut bool;
    const PARTS: [(&str, Part); 6] = [
        ("alpn", |tlvs| &mut tlvs.alpn),
        ("authority", |tlvs| &mut tlvs.authority),
        ("crc32c", |tlvs| &mut tlvs.crc32c),
        ("relayed", |tlvs| &mut tlvs.relayed),
        ("ssl", |tlvs| &mut tlvs.ssl),
        ("unique_id", |tlvs| &mut tlvs.unique_id),
    ];
    let words = PARTS.map(|(word, _)| format!("{word:?}")).join(", ");
    let mut sent = SentTlvs::default();
    for element in node.any_list(&format!("one of {words}"), check.report) {
        let Some(part) = element.choice(&PARTS, check.report) else { continue };
        if std::mem::replace(part(&mut sent), true) {
            check.report.add(element.at, element.path(), "it is listed twice");
        }
    }
    sent
}

/// Reads whether endpoints are connected to from the addresses of clients; `endpoints` if all of them are known.
pub(super) fn transparent(table: &Table<'_>, endpoints: Option<&Vec<Endpoint>>, check: &mut Check<'_>) -> bool {
    let Some(node) = table.get("transparent") else { return false };
    let is = node.truth(check.report) == Some(true);
    if is && let Some(source) = table.get("source") {
        let message = "clients' addresses are connected from, and no others";
        check.report.add(node.key_at, node.path(), message).also(source.key_at);
    }
    let is_unix = |endpoint: &Endpoint| matches!(endpoint.address, Address::Unix(_));
    if is && endpoints.is_some_and(|endpoints| endpoints.iter().all(is_unix)) {
        check.report.add(node.key_at, node.path(), "unix sockets have no addresses to connect from");
    }
    is
}
