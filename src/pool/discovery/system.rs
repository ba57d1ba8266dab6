//! What the machine says of names: /etc/hosts, and whom to ask for all others.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{self, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{Hosts, TokioResolver, system_conf};

use super::dns::Failure;

use crate::config::model::Dns;
use crate::stamp::Stamp;

/// How often a question is asked.
const ATTEMPTS: usize = 2;
/// The server where the system names none, as in resolv.conf(5).
const LOCAL_SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 53);
const RESOLV_CONF: &str = "/etc/resolv.conf";
const HOSTS: &str = "/etc/hosts";

/// What the system says of names, as of one moment.
#[derive(Clone, Debug)]
pub(super) struct System {
    /// Versions of the files that it was read from.
    pub(super) read: [Option<Stamp>; 2],
    resolver: TokioResolver,
    /// Domains in which a name is looked for, and how many dots let it be tried by itself before that.
    search: Arc<[Name]>,
    ndots: usize,
    hosts: Arc<Hosts>,
}

impl System {
    /// The versions of the files that there are now.
    pub(super) fn stamps() -> [Option<Stamp>; 2] {
        [RESOLV_CONF, HOSTS].map(|path| Stamp::of(Path::new(path)).ok())
    }

    /// Reads it, and keeps the servers that were known `before` where none are named for a moment.
    ///
    /// # Errors
    /// Nobody can be asked at all.
    pub(super) fn read(settings: &Dns, before: Option<&System>, read: [Option<Stamp>; 2]) -> Result<System, Failure> {
        let hosts = Arc::new(Hosts::from_system().unwrap_or_else(|error| {
            tracing::warn!("cannot read {HOSTS}: {error}");
            Hosts::default()
        }));
        let written = || (servers(&settings.servers), ResolverOpts::default());
        let known = if settings.servers.is_empty() { system_conf::read_system_conf() } else { Ok(written()) };
        let (config, mut options) = match (known, before) {
            (Ok(known), _) => known,
            (Err(error), Some(before)) => {
                tracing::warn!("{RESOLV_CONF} names no server any more ({error}): asking those of before");
                return Ok(System { read, hosts, ..before.clone() });
            }
            (Err(error), None) => {
                tracing::warn!("{RESOLV_CONF} names no server ({error}): asking {LOCAL_SERVER}");
                (servers(&[LOCAL_SERVER]), ResolverOpts::default())
            }
        };
        options.timeout = settings.timeout;
        options.attempts = ATTEMPTS;
        // Who asks here knows how long an answer holds, and asks again only then.
        options.cache_size = 0;
        options.num_concurrent_reqs = 1;
        options.use_hosts_file = ResolveHosts::Never;
        let (search, ndots) = (config.search().iter().chain(config.domain()).cloned().collect(), options.ndots);
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        let resolver = builder.build().map_err(|error| Failure::Failed(error.to_string()))?;
        Ok(System { read, resolver, search, ndots, hosts })
    }

    /// The complete names that `name` may stand for, in the order in which they are to be tried.
    pub(super) fn candidates(&self, name: &Name) -> Vec<Name> {
        candidates(name, &self.search, self.ndots)
    }

    /// The addresses that /etc/hosts lists. Where there are any, nobody is asked, for either family.
    pub(super) fn listed(&self, host: &Name) -> BTreeSet<IpAddr> {
        let of = |kind| self.hosts.lookup_static_host(&op::Query::query(host.clone(), kind));
        let found = [RecordType::A, RecordType::AAAA].into_iter().filter_map(of);
        found
            .flat_map(|found| found.answers().iter().filter_map(|record| record.data.ip_addr()).collect::<Vec<_>>())
            .collect()
    }

    /// Records of one kind, at least one, as `read` takes them, and how long they hold.
    pub(super) async fn ask<T>(
        &self,
        name: Name,
        kind: RecordType,
        called: &'static str,
        read: impl Fn(&RData) -> Option<T>,
    ) -> Result<(Vec<T>, Duration), Failure> {
        let found = self.resolver.lookup(name, kind).await.map_err(|error| match error {
            NetError::Dns(DnsError::NoRecordsFound(none)) if none.response_code == ResponseCode::NXDomain => {
                Failure::NoName
            }
            NetError::Dns(DnsError::NoRecordsFound(_)) => Failure::NoRecord(called),
            NetError::Timeout => Failure::Late,
            error => Failure::Failed(error.to_string()),
        })?;
        let ttl = found.answers().iter().map(|record| record.ttl).min().unwrap_or(0);
        let records: Vec<T> = found.answers().iter().filter_map(|record| read(&record.data)).collect();
        if records.is_empty() {
            return Err(Failure::NoRecord(called));
        }
        Ok((records, Duration::from_secs(ttl.into())))
    }
}

/// The complete names that a name may stand for, in the order in which they are to be tried (resolv.conf(5)).
fn candidates(name: &Name, search: &[Name], ndots: usize) -> Vec<Name> {
    let mut absolute = name.clone();
    absolute.set_fqdn(true);
    if name.is_fqdn() || name.is_localhost() {
        return vec![absolute];
    }
    let searched = search.iter().filter_map(|domain| name.clone().append_domain(domain).ok());
    let mut candidates: Vec<Name> = searched.collect();
    let first = usize::from(name.num_labels()) > ndots;
    candidates.insert(if first { 0 } else { candidates.len() }, absolute);
    candidates
}

fn servers(servers: &[SocketAddr]) -> ResolverConfig {
    let server = |at: &SocketAddr| {
        let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
            connection.port = at.port();
            connection
        });
        NameServerConfig::new(at.ip(), true, connections.into())
    };
    ResolverConfig::from_name_servers(servers.iter().map(server).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed() {
        let name = |text: &str| Name::from_ascii(text).unwrap();
        let search = [name("a.test."), name("test.")];
        for (written, ndots, expected) in [
            ("db", 1, "db.a.test. db.test. db."),
            ("db.x", 1, "db.x. db.x.a.test. db.x.test."),
            ("db.x", 2, "db.x.a.test. db.x.test. db.x."),
            ("db.x.", 5, "db.x."),
            ("localhost", 1, "localhost."),
        ] {
            let told: Vec<String> = candidates(&name(written), &search, ndots).iter().map(Name::to_ascii).collect();
            assert_eq!(told.join(" "), expected, "{written}, ndots {ndots}");
        }
        assert_eq!(candidates(&name("db"), &[], 1), [name("db.")]);
    }
}
