//! What the machine says of names: /etc/hosts, and whom to ask for all others.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{self, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{Hosts, TokioResolver, system_conf};

use super::answer::Failure;
use crate::config::model::Dns;
use crate::stamp::Stamp;

/// How often each server is asked, until one answers.
const ROUNDS: usize = 2;
/// For how long a server that did not answer is only asked after all others.
const PASSED_OVER: Duration = Duration::from_secs(30);
/// The server where the system names none, as in resolv.conf(5).
const LOCAL_SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 53);
const RESOLV_CONF: &str = "/etc/resolv.conf";
const HOSTS: &str = "/etc/hosts";

/// What the system says of names, as of one moment.
#[derive(Clone, Debug)]
pub(super) struct System {
    /// Versions of the files that it was read from.
    pub(super) read: [Option<Stamp>; 2],
    /// In the order in which they are to be asked.
    servers: Arc<[Server]>,
    /// Domains in which a name is looked for, and how many dots let it be tried by itself before that.
    search: Arc<[Name]>,
    ndots: usize,
    hosts: Arc<Hosts>,
}

/// One server. Each has a resolver of its own: one resolver for all would take the word of the first that says that it
/// cannot help.
#[derive(Debug)]
struct Server {
    resolver: TokioResolver,
    /// When it last did not answer, unless it has since.
    silent: Mutex<Option<Instant>>,
}

impl System {
    /// The versions of the files that there are now.
    pub(super) fn stamps() -> [Option<Stamp>; 2] {
        [RESOLV_CONF, HOSTS].map(|path| Stamp::of(Path::new(path)).ok())
    }

    /// Reads it, and keeps what was known `before` where hosts cannot be read or no servers are named for a moment.
    ///
    /// # Errors
    /// Nobody can be asked at all.
    pub(super) fn read(settings: &Dns, before: Option<&System>, now: [Option<Stamp>; 2]) -> Result<System, Failure> {
        let [resolv_conf, hosts_file] = now;
        let (hosts, hosts_file) = hosts(Hosts::from_system(), hosts_file, before);
        let read = [resolv_conf, hosts_file];
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
        // Who asks here goes from server to server, and round again.
        options.attempts = 0;
        // Who asks here knows how long an answer holds, and asks again only then.
        options.cache_size = 0;
        options.num_concurrent_reqs = 1;
        options.use_hosts_file = ResolveHosts::Never;
        let (search, ndots) = (config.search().iter().chain(config.domain()).cloned().collect(), options.ndots);
        let servers = config.name_servers().iter().map(|server| {
            let config = ResolverConfig::from_name_servers(vec![server.clone()]);
            let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
            builder.options_mut().clone_from(&options);
            let resolver = builder.build().map_err(|error| Failure::Failed(error.to_string()))?;
            Ok(Server { resolver, silent: Mutex::default() })
        });
        let servers = servers.collect::<Result<Vec<Server>, Failure>>()?.into();
        Ok(System { read, servers, search, ndots, hosts })
    }

    /// The complete names that `name` may stand for, in the order in which they are to be tried.
    pub(super) fn candidates(&self, name: &Name) -> Vec<Name> {
        candidates(name, &self.search, self.ndots)
    }

    /// The addresses that /etc/hosts lists. Where there are any, nobody is asked, for either family.
    pub(super) fn listed(&self, host: &Name) -> Vec<IpAddr> {
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
        let found = self.first_answer(&name, kind).await.map_err(|error| match error {
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

    /// What the first server says that can say anything. One that refuses, fails or is silent is passed over.
    async fn first_answer(&self, name: &Name, kind: RecordType) -> Result<Lookup, NetError> {
        let now = Instant::now();
        let (silent, mut servers): (Vec<&Server>, Vec<&Server>) =
            self.servers.iter().partition(|server| server.is_silent(now));
        servers.extend(silent);
        let mut failed = NetError::NoConnections;
        for _ in 0..ROUNDS {
            for server in &servers {
                match server.ask(name, kind).await {
                    Err(error) if !is_answer(&error) => {
                        // What a server says of its trouble tells more than that another is silent.
                        if matches!(failed, NetError::NoConnections | NetError::Timeout) {
                            failed = error;
                        }
                    }
                    answer => return answer,
                }
            }
        }
        Err(failed)
    }
}

impl Server {
    async fn ask(&self, name: &Name, kind: RecordType) -> Result<Lookup, NetError> {
        let found = self.resolver.lookup(name.clone(), kind).await;
        let silent = matches!(found, Err(NetError::Timeout | NetError::Io(_) | NetError::NoConnections));
        *self.silent.lock().unwrap_or_else(PoisonError::into_inner) = silent.then(Instant::now);
        found
    }

    fn is_silent(&self, now: Instant) -> bool {
        let silent = *self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        silent.is_some_and(|since| now.saturating_duration_since(since) < PASSED_OVER)
    }
}

/// The hosts and the version of their file, which is not known, so that it is looked at again, if that was there and could
/// not be read: those of before stay.
fn hosts(found: io::Result<Hosts>, version: Option<Stamp>, before: Option<&System>) -> (Arc<Hosts>, Option<Stamp>) {
    match found {
        Ok(hosts) => (Arc::new(hosts), version),
        Err(error) => {
            // Once, and not each time it is tried.
            if before.is_none_or(|before| before.read.last().is_some_and(Option::is_some)) {
                tracing::warn!("cannot read {HOSTS}: {error}");
            }
            (before.map(|before| Arc::clone(&before.hosts)).unwrap_or_default(), None)
        }
    }
}

/// Whether it is what the zone says, and not that a server could not say it.
fn is_answer(error: &NetError) -> bool {
    matches!(error, NetError::Dns(DnsError::NoRecordsFound(none))
        if matches!(none.response_code, ResponseCode::NXDomain | ResponseCode::NoError))
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
    fn hosts_that_cannot_be_read_are_those_of_before() {
        let path = Path::new("/proc/self/exe");
        let version = Stamp::of(path).ok();
        let (known, read) = hosts(Ok(Hosts::default()), version, None);
        assert_eq!(read, version);
        let before = System {
            read: [None, read],
            servers: Vec::new().into(),
            search: Vec::new().into(),
            ndots: 1,
            hosts: known,
        };
        let failing = || Err(io::Error::from_raw_os_error(23));
        let (kept, read) = hosts(failing(), version, Some(&before));
        assert!(Arc::ptr_eq(&kept, &before.hosts));
        assert_eq!(read, None, "it is looked at again");
        assert!(!Arc::ptr_eq(&hosts(failing(), version, None).0, &before.hosts));
    }

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
