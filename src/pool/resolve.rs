//! Host names of endpoints: resolved at start and again every `pool.refresh`, on the control runtime.
//!
//! What a name last resolved to stays in use as long as resolving fails.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::Pool;
use crate::observe::metrics::Metrics;

/// How long one look-up may take.
const LOOK_UP: Duration = Duration::from_secs(10);

/// Addresses by host name and port.
type Resolved = HashMap<(String, u16), Vec<SocketAddr>>;

/// Keeps the endpoints of one pool resolved until it is dropped. `first` is called after the first round.
pub(crate) async fn keep(pool: Arc<Pool>, refresh: Duration, metrics: Arc<Metrics>, first: impl FnOnce()) {
    let hosts = pool.hosts();
    let mut resolved = Resolved::new();
    let mut first = Some(first);
    while !hosts.is_empty() {
        let before = resolved.clone();
        let mut answers: JoinSet<_> = hosts.iter().cloned().map(look_up).collect();
        while let Some(answer) = answers.join_next().await {
            match answer {
                Ok((host, Ok(addresses))) => {
                    resolved.insert(host, addresses);
                }
                Ok((host, Err(error))) => {
                    pool.metrics.resolve_failures.increment(1);
                    let kept = resolved.get(&host).map_or(0, Vec::len);
                    tracing::warn!(pool = &*pool.name, host = host.0, kept, "cannot resolve: {error}");
                }
                Err(error) => tracing::error!(pool = &*pool.name, "a look-up panicked: {error}"),
            }
        }
        if resolved != before {
            tracing::info!(pool = &*pool.name, "resolved: {resolved:?}");
            pool.resolved(&resolved, &metrics);
        }
        if let Some(first) = first.take() {
            first();
        }
        sleep(refresh).await;
    }
    if let Some(first) = first.take() {
        first();
    }
}

/// The addresses of a host, sorted, each once.
async fn look_up(host: (String, u16)) -> ((String, u16), io::Result<Vec<SocketAddr>>) {
    let found = match timeout(LOOK_UP, tokio::net::lookup_host((host.0.as_str(), host.1))).await {
        Ok(found) => found.map(Iterator::collect::<BTreeSet<_>>),
        Err(late) => Err(late.into()),
    };
    let addresses = match found {
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
        let (_, addresses) = look_up(("localhost".into(), 80)).await;
        let addresses = addresses.unwrap();
        assert!(addresses.contains(&"127.0.0.1:80".parse().unwrap()), "{addresses:?}");
        assert!(addresses.is_sorted());
        assert!(look_up(("nowhere.invalid".into(), 80)).await.1.is_err());
    }
}
