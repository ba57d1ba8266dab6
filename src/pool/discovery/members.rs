//! Endpoints as written, and what is known of their names, to the members of a pool.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::answer::{Answer, Query, Service};
use crate::config::model::{Address, BACKUP, Endpoint, MAX_WEIGHT};
use crate::pool::{Member, Target};

/// What has to be asked for an endpoint; nothing where its address is written.
pub(crate) fn query(endpoint: &Endpoint) -> Option<Query> {
    match &endpoint.address {
        Address::Host { host, .. } => Some(Query::Host(host.clone())),
        Address::Srv(name) => Some(Query::Srv(name.clone())),
        Address::Ip(_) | Address::Unix(_) => None,
    }
}

/// The members that written endpoints stand for, where `answer` is what is known of a name. No two have the same name:
/// of two the first counts.
pub(crate) fn members<'a>(
    written: impl IntoIterator<Item = &'a Endpoint>,
    answer: impl Fn(&Query) -> Option<&'a Answer>,
) -> Vec<Member> {
    let mut members = Vec::new();
    for endpoint in written {
        let name = &endpoint.name;
        let member = |name: String, target: Target| Member {
            name,
            target,
            weight: endpoint.weight,
            priority: endpoint.priority,
            max_connections: endpoint.max_connections,
            host: None,
        };
        match &endpoint.address {
            Address::Ip(address) => members.push(member(name.clone(), Target::Ip(*address))),
            Address::Unix(path) => members.push(member(name.clone(), Target::Unix(path.clone()))),
            Address::Host { host, port } => {
                if let Some(Answer::Addresses(found)) = answer(&Query::Host(host.clone())) {
                    let host: Arc<str> = host.as_str().into();
                    let at = |ip| Member {
                        host: Some(Arc::clone(&host)),
                        ..member(format!("{name}#{ip}"), Target::Ip((ip, *port).into()))
                    };
                    members.extend(found.iter().copied().map(at));
                }
            }
            Address::Srv(service) => {
                if let Some(Answer::Services(found)) = answer(&Query::Srv(service.clone())) {
                    // The name of a target is only what records say, and no name for a certificate to have.
                    for (Service { addresses, port, priority, .. }, weight) in weighed(found) {
                        let priority = if endpoint.priority == BACKUP { BACKUP } else { u32::from(*priority) };
                        let at = |ip| {
                            let target = (ip, *port).into();
                            Member { weight, priority, ..member(format!("{name}#{target}"), Target::Ip(target)) }
                        };
                        members.extend(addresses.iter().copied().map(at));
                    }
                }
            }
        }
    }
    let mut names = HashSet::with_capacity(members.len());
    members.retain(|member| names.insert(member.name.clone()));
    members
}

/// Services with the weight that each of their addresses has, those to be preferred first.
///
/// Only the proportions within one priority count (RFC 2782). Weights up to [`MAX_WEIGHT`] stay as they are; where one is
/// greater, all are scaled so that the greatest becomes [`MAX_WEIGHT`], and none falls below 1. A weight of 0 has "a very
/// small chance", which is 1 beside others that are scaled up as far as exact proportions allow; where all are 0, each has
/// the same chance.
fn weighed(services: &[Service]) -> Vec<(&Service, u16)> {
    let mut greatest: HashMap<u16, (u16, bool)> = HashMap::new();
    for service in services {
        let (most, none) = greatest.entry(service.priority).or_default();
        *most = service.weight.max(*most);
        *none |= service.weight == 0;
    }
    let weigh = |service: &Service| {
        let (most, none) = greatest.get(&service.priority).copied().unwrap_or_default();
        let (weight, most, limit) = (u32::from(service.weight), u32::from(most), u32::from(MAX_WEIGHT));
        let scaled = match limit.checked_div(most) {
            None => 1,
            Some(0) => (weight * limit + most / 2) / most,
            Some(factor) => weight * if none { factor } else { 1 },
        };
        u16::try_from(scaled.clamp(1, limit)).unwrap_or(MAX_WEIGHT)
    };
    let mut weighed: Vec<_> = services.iter().map(|service| (service, weigh(service))).collect();
    weighed.sort_by_key(|(service, _)| service.priority);
    weighed
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::IpAddr;

    use super::*;

    fn service(addresses: &[&str], priority: u16, weight: u16) -> Service {
        let addresses = addresses.iter().map(|ip| ip.parse::<IpAddr>().unwrap()).collect::<BTreeSet<_>>();
        Service { host: format!("{priority}-{weight}.example."), addresses, port: 5432, priority, weight }
    }

    #[test]
    fn weights_of_records_become_ours() {
        for (case, records, expected) in [
            ("as they are", vec![(10, 60), (10, 20), (10, 20)], vec![60, 20, 20]),
            ("the greatest that stay", vec![(10, 256), (10, 1)], vec![256, 1]),
            ("scaled down", vec![(10, 600), (10, 300), (10, 150)], vec![256, 128, 64]),
            ("not below 1", vec![(10, 65_535), (10, 1)], vec![256, 1]),
            ("all the same", vec![(10, 65_535), (10, 65_535)], vec![256, 256]),
            ("all zero", vec![(10, 0), (10, 0)], vec![1, 1]),
            ("one alone of zero", vec![(10, 0)], vec![1]),
            ("zero has a small chance", vec![(10, 1), (10, 0)], vec![256, 1]),
            ("zero beside exact proportions", vec![(10, 3), (10, 2), (10, 0)], vec![255, 170, 1]),
            ("zero beside what is scaled down", vec![(10, 1000), (10, 500), (10, 0)], vec![256, 128, 1]),
            ("each priority by itself", vec![(20, 1000), (10, 5), (20, 500), (0, 0)], vec![1, 5, 256, 128]),
        ] {
            let records: Vec<Service> =
                records.iter().map(|(priority, weight)| service(&["10.0.0.1"], *priority, *weight)).collect();
            let weights: Vec<u16> = weighed(&records).into_iter().map(|(_, weight)| weight).collect();
            assert_eq!(weights, expected, "{case}");
        }
    }

    #[test]
    fn endpoints_become_members() {
        let endpoint = |name: &str, address, priority| Endpoint {
            name: name.into(),
            address,
            weight: 7,
            priority,
            max_connections: Some(9),
        };
        let host = Address::Host { host: "db".into(), port: 1 };
        let srv = |name: &str| Address::Srv(name.into());
        let written = [
            endpoint("a", Address::Ip("10.0.0.9:1".parse().unwrap()), 3),
            endpoint("u", Address::Unix("/run/x".into()), 0),
            endpoint("db:1", host.clone(), 4),
            endpoint("second", host, BACKUP),
            endpoint("unknown", Address::Host { host: "nowhere".into(), port: 1 }, 0),
            endpoint("s", srv("_pg._tcp.x"), 0),
            endpoint("b", srv("_pg._tcp.x"), BACKUP),
            endpoint("off", srv("_off._tcp.x"), 0),
        ];
        let answers = HashMap::from([
            (
                Query::Host("db".into()),
                Answer::Addresses(["10.0.0.1", "::1"].map(|ip| ip.parse().unwrap()).into_iter().collect()),
            ),
            (
                Query::Srv("_pg._tcp.x".into()),
                Answer::Services(vec![
                    service(&["10.0.0.3"], 20, 1),
                    service(&["10.0.0.2", "::2"], 10, 5),
                    // The same as the one before: the better priority counts.
                    service(&["10.0.0.2"], 30, 5),
                ]),
            ),
            (Query::Srv("_off._tcp.x".into()), Answer::Services(Vec::new())),
        ]);
        let members = members(&written, |query| answers.get(query));
        let told: Vec<String> = members
            .iter()
            .map(|member| {
                let priority = if member.priority == BACKUP { "backup".into() } else { member.priority.to_string() };
                assert_eq!(member.max_connections, Some(9));
                let host = member.host.as_deref().unwrap_or("-");
                format!("{} {} {} {priority} {host}", member.name, member.target, member.weight)
            })
            .collect();
        assert_eq!(
            told,
            [
                "a 10.0.0.9:1 7 3 -",
                "u unix:/run/x 7 0 -",
                "db:1#10.0.0.1 10.0.0.1:1 7 4 db",
                "db:1#::1 [::1]:1 7 4 db",
                "second#10.0.0.1 10.0.0.1:1 7 backup db",
                "second#::1 [::1]:1 7 backup db",
                "s#10.0.0.2:5432 10.0.0.2:5432 5 10 -",
                "s#[::2]:5432 [::2]:5432 5 10 -",
                "s#10.0.0.3:5432 10.0.0.3:5432 1 20 -",
                "b#10.0.0.2:5432 10.0.0.2:5432 5 backup -",
                "b#[::2]:5432 [::2]:5432 5 backup -",
                "b#10.0.0.3:5432 10.0.0.3:5432 1 backup -",
            ]
        );
    }

    #[test]
    fn ten_thousand_endpoints_take_no_time() {
        let endpoint = |index: u32| Endpoint {
            name: format!("e{index}"),
            address: Address::Ip((std::net::Ipv4Addr::from_bits(index), 80).into()),
            weight: 1,
            priority: 0,
            max_connections: None,
        };
        let written: Vec<Endpoint> = (0..10_000).map(endpoint).collect();
        let began = std::time::Instant::now();
        assert_eq!(members(&written, |_| None).len(), 10_000);
        // Anything quadratic would take minutes here.
        assert!(began.elapsed().as_secs() < 5, "{:?}", began.elapsed());
    }
}
