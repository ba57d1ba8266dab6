//! Host names of endpoints: resolved at start and again every `pool.refresh`, on the control runtime.
//!
//! What a name last resolved to stays in use as long as resolving fails.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{Member, Pool, Target};
use crate::config::model::{Address, Endpoint};
use crate::observe::metrics::Metrics;

/// Pause before a name without any address is looked up again, if `refresh` is not shorter still.
const RETRY: Duration = Duration::from_secs(2);

/// A host name and a port.
type Host = (String, u16);

/// Keeps the endpoints of one pool resolved until it is dropped. `first` is called once every name has been looked up.
pub(crate) async fn keep(
    pool: Arc<Pool>,
    written: Vec<Endpoint>,
    refresh: Duration,
    metrics: Arc<Metrics>,
    first: impl FnOnce(),
) {
    let mut resolved: HashMap<Host, Vec<SocketAddr>> = HashMap::new();
    // One look-up a name, and the next only after it: however long a server does not answer, they do not pile up.
    let mut look_ups: JoinSet<_> = hosts(&written).map(|host| look_up(host, Duration::ZERO)).collect();
    let mut to_come = look_ups.len();
    let mut first = Some(first);
    loop {
        if to_come == 0
            && let Some(first) = first.take()
        {
            first();
        }
        let Some(answer) = look_ups.join_next().await else { return };
        to_come = to_come.saturating_sub(1);
        let (host, answer) = match answer {
            Ok(answer) => answer,
            Err(error) => {
                tracing::error!(pool = &*pool.name, "a look-up panicked: {error}");
                continue;
            }
        };
        match answer {
            Ok(addresses) if resolved.get(&host) != Some(&addresses) => {
                tracing::info!(pool = &*pool.name, host = host.0, ?addresses, "resolved");
                resolved.insert(host.clone(), addresses);
                pool.set(members(&written, &resolved), &metrics);
            }
            Ok(_) => {}
            Err(error) => {
                pool.metrics.resolve_failures.increment(1);
                let kept = resolved.get(&host).map_or(0, Vec::len);
                tracing::warn!(pool = &*pool.name, host = host.0, kept, "cannot resolve: {error}");
            }
        }
        let pause = if resolved.contains_key(&host) { refresh } else { refresh.min(RETRY) };
        look_ups.spawn(look_up(host, pause));
    }
}

/// Host names and ports to resolve.
pub(crate) fn hosts(written: &[Endpoint]) -> impl Iterator<Item = Host> {
    written.iter().filter_map(|endpoint| match &endpoint.address {
        Address::Host { host, port } => Some((host.clone(), *port)),
        _ => None,
    })
}

/// The members that written endpoints stand for, where host names have the addresses that are in `resolved`.
pub(crate) fn members(written: &[Endpoint], resolved: &HashMap<Host, Vec<SocketAddr>>) -> Vec<Member> {
    let member = |written: &Endpoint, name: String, target| Member {
        name,
        target,
        weight: written.weight,
        priority: written.priority,
        max_connections: written.max_connections,
        host: match &written.address {
            Address::Host { host, .. } => Some(host.as_str().into()),
            _ => None,
        },
    };
    let mut members = Vec::new();
    for endpoint in written {
        match &endpoint.address {
            Address::Ip(address) => members.push(member(endpoint, endpoint.name.clone(), Target::Ip(*address))),
            Address::Unix(path) => members.push(member(endpoint, endpoint.name.clone(), Target::Unix(path.clone()))),
            Address::Host { host, port } => {
                let addresses = resolved.get(&(host.clone(), *port)).into_iter().flatten();
                members.extend(
                    addresses.map(|at| member(endpoint, format!("{}#{}", endpoint.name, at.ip()), Target::Ip(*at))),
                );
            }
        }
    }
    members
}

/// The addresses of a host, sorted, each once, as they are after `pause`.
async fn look_up(host: Host, pause: Duration) -> (Host, io::Result<Vec<SocketAddr>>) {
    sleep(pause).await;
    let found = tokio::net::lookup_host((host.0.as_str(), host.1)).await;
    let addresses = match found.map(Iterator::collect::<BTreeSet<_>>) {
        Ok(addresses) if addresses.is_empty() => Err(io::Error::other("the name has no address")),
        found => found.map(|addresses| addresses.into_iter().collect()),
    };
    (host, addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_come_sorted_and_once() {
        let (_, addresses) = look_up(("localhost".into(), 80), Duration::ZERO).await;
        let addresses = addresses.unwrap();
        assert!(addresses.contains(&"127.0.0.1:80".parse().unwrap()), "{addresses:?}");
        assert!(addresses.is_sorted());
        assert!(look_up(("nowhere.invalid".into(), 80), Duration::ZERO).await.1.is_err());
    }
}
