//! Names: what servers and /etc/hosts say of them, and for how long that holds.
//!
//! Nothing is kept here but the servers to ask: what a name last came to is handed in, so that a part which fails keeps
//! what was found before.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hickory_resolver::proto::rr::{Name, RData, RecordType};
use tokio::sync::{AcquireError, Semaphore, SemaphorePermit};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::answer::{Answer, Failure, Found, MOST_ADDRESSES, MOST_SERVICES, Query, Service, is_usable, told};
use super::system::System;
use crate::config::model;

/// How much longer than the one family the other may take.
const GRACE: Duration = Duration::from_secs(1);
/// Beyond this a look-up has failed, whatever it waits for.
const LONGEST: Duration = Duration::from_secs(60);
/// How long what does not come from a server holds.
const FOREVER: Duration = Duration::MAX;

/// Whom to ask.
#[derive(Debug)]
pub(crate) struct Dns {
    settings: model::Dns,
    system: Arc<Mutex<Option<System>>>,
    at_once: usize,
    /// Places of all pools.
    places: Arc<Semaphore>,
    /// Those that one pool may have of them.
    share: Semaphore,
}

impl Dns {
    /// Asks as `settings` say, for so many names at once: each takes a few sockets.
    pub(crate) fn new(settings: model::Dns, at_once: usize) -> Dns {
        let at_once = at_once.max(1);
        let (places, share) = (Arc::new(Semaphore::new(at_once)), Semaphore::new(share_of(at_once)));
        Dns { settings, system: Arc::default(), at_once, places, share }
    }

    /// The same for one pool, which takes half of the places at the most: its names may be in a zone that does not answer.
    pub(super) fn for_pool(&self) -> Dns {
        let (system, places) = (Arc::clone(&self.system), Arc::clone(&self.places));
        let share = Semaphore::new(share_of(self.at_once));
        Dns { settings: self.settings.clone(), system, at_once: self.at_once, places, share }
    }

    /// Waits for a place, which is held until what it returns is dropped.
    async fn place(&self) -> Result<[SemaphorePermit<'_>; 2], AcquireError> {
        // Who waits for the share of the pool does not stand in line before other pools.
        Ok([self.share.acquire().await?, self.places.acquire().await?])
    }

    /// What `query` comes to now; parts that fail are taken from `last`, what it came to before.
    ///
    /// # Errors
    /// Nothing of it can be used.
    pub(crate) async fn look_up(self: &Arc<Dns>, query: &Query, last: Option<Answer>) -> Result<Found, Failure> {
        match query {
            Query::Host(host) => {
                let last = match last {
                    Some(Answer::Addresses(last)) => last,
                    _ => BTreeSet::new(),
                };
                let (addresses, ttl, failures) = self.addresses(name(host)?, last).await?;
                Ok(Found { answer: Answer::Addresses(addresses), ttl, failures })
            }
            Query::Srv(service) => {
                let last = match last {
                    Some(Answer::Services(last)) => last,
                    _ => Vec::new(),
                };
                self.services(name(service)?, &last).await
            }
        }
    }

    /// The addresses of a host, at least one, how long they hold, and what failed.
    async fn addresses(
        &self,
        host: Name,
        last: BTreeSet<IpAddr>,
    ) -> Result<(BTreeSet<IpAddr>, Duration, Vec<String>), Failure> {
        let _place = self.place().await;
        let system = self.system()?;
        let listed = system.listed(&host);
        if !listed.is_empty() {
            return join([(Ok((listed, FOREVER)), |_| true)], &BTreeSet::new());
        }
        let mut absent = Failure::NoName;
        // Both families of one name, before another is tried: they must not come from different hosts.
        for host in system.candidates(&host) {
            let of = |kind| system.ask(host.clone(), kind, "address", |data| data.ip_addr());
            let [v4, v6] = both(of(RecordType::A), of(RecordType::AAAA)).await;
            match join([(v4, IpAddr::is_ipv4), (v6, IpAddr::is_ipv6)], &last) {
                Err(failure) if failure.is_absence() => absent = failure,
                found => return found,
            }
        }
        Err(absent)
    }

    async fn services(self: &Arc<Dns>, service: Name, last: &[Service]) -> Result<Found, Failure> {
        let (records, mut ttl) = {
            let _place = self.place().await;
            let record = |data: &RData| match data {
                RData::SRV(record) => Some(record.clone()),
                _ => None,
            };
            let system = self.system()?;
            let mut found = Err(Failure::NoName);
            for service in system.candidates(&service) {
                let look_up = system.ask(service, RecordType::SRV, "SRV record", record);
                found = timeout(LONGEST, look_up).await.unwrap_or(Err(Failure::Late));
                if !found.as_ref().is_err_and(Failure::is_absence) {
                    break;
                }
            }
            found?
        };
        Failure::beyond(MOST_SERVICES, records.len(), "SRV records")?;
        // A target of "." says that the service is decidedly not available.
        let records = records.into_iter().filter(|record| !record.target.is_root());
        let (records, portless): (Vec<_>, Vec<_>) = records.partition(|record| record.port != 0);
        let portless = portless.iter().map(|record| Failure::NoPort(record.target.to_lowercase().to_ascii()));
        let mut failures: Vec<String> = portless.map(|failure| failure.to_string()).collect();
        if records.is_empty() && !failures.is_empty() {
            return Err(Failure::Failed(told(failures, "; ")));
        }
        let mut look_ups = JoinSet::new();
        let targets: BTreeSet<Name> = records.iter().map(|record| record.target.to_lowercase()).collect();
        for target in targets {
            let (dns, host) = (Arc::clone(self), target.to_ascii());
            let before = last.iter().filter(|before| before.host == host).flat_map(|before| &before.addresses);
            let before: BTreeSet<IpAddr> = before.copied().collect();
            look_ups.spawn(async move { (host, dns.addresses(target, before.clone()).await, before) });
        }
        let mut known = BTreeMap::new();
        while let Some(look_up) = look_ups.join_next().await {
            let (host, found, before) = look_up.map_err(|error| Failure::Failed(error.to_string()))?;
            let addresses = match found {
                Ok((addresses, holds, parts)) => {
                    ttl = ttl.min(holds);
                    failures.extend(parts.into_iter().map(|part| format!("{host}: {part}")));
                    addresses
                }
                Err(error) => {
                    failures.push(format!("{host}: {error}"));
                    before
                }
            };
            known.insert(host, addresses);
        }
        failures.sort();
        if !records.is_empty() && known.values().all(BTreeSet::is_empty) {
            return Err(Failure::NoTarget(told(failures, "; ")));
        }
        let mut services: Vec<Service> = records
            .iter()
            .map(|record| {
                let host = record.target.to_lowercase().to_ascii();
                let addresses = known.get(&host).cloned().unwrap_or_default();
                Service { host, addresses, port: record.port, priority: record.priority, weight: record.weight }
            })
            .collect();
        let addresses = services.iter().map(|service| service.addresses.len()).sum();
        Failure::beyond(MOST_ADDRESSES, addresses, "addresses")?;
        // Servers turn their records round.
        services.sort_by(|a, b| (a.priority, &a.host, a.port, a.weight).cmp(&(b.priority, &b.host, b.port, b.weight)));
        Ok(Found { answer: Answer::Services(services), ttl, failures })
    }

    /// Whom the system says to ask, read anew once that has changed.
    fn system(&self) -> Result<System, Failure> {
        let now = System::stamps();
        let mut system = self.system.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(system) = system.as_ref().filter(|system| system.read == now) {
            return Ok(system.clone());
        }
        let new = System::read(&self.settings, system.as_ref(), now)?;
        Ok(system.insert(new).clone())
    }
}

/// How many of the places one pool may have.
fn share_of(at_once: usize) -> usize {
    at_once.div_ceil(2)
}

/// What one family came to.
type Family = Result<(Vec<IpAddr>, Duration), Failure>;

/// Both, where the one that comes later is not waited for much longer once the other has addresses.
async fn both(v4: impl Future<Output = Family>, v6: impl Future<Output = Family>) -> [Family; 2] {
    let (mut v4, mut v6) = (pin!(v4), pin!(v6));
    let patience = |first: &Family| if first.is_ok() { GRACE } else { LONGEST };
    let late = |other: Result<Family, _>| other.unwrap_or(Err(Failure::Late));
    tokio::select! {
        v4 = &mut v4 => {
            let v6 = timeout(patience(&v4), v6).await.map_err(drop);
            [v4, late(v6)]
        }
        v6 = &mut v6 => {
            let v4 = timeout(patience(&v6), v4).await.map_err(drop);
            [late(v4), v6]
        }
        () = tokio::time::sleep(LONGEST) => [Err(Failure::Late), Err(Failure::Late)],
    }
}

/// Which of the addresses belong to a family.
type Of = fn(&IpAddr) -> bool;

/// The addresses of the families, as far as they can be used. One that failed, where another did not, keeps those of it
/// that are in `last`; that it has no addresses is no failure as long as another has some.
fn join<const N: usize>(
    families: [(Family, Of); N],
    last: &BTreeSet<IpAddr>,
) -> Result<(BTreeSet<IpAddr>, Duration, Vec<String>), Failure> {
    let (mut addresses, mut ttl) = (BTreeSet::new(), FOREVER);
    let (mut kept, mut failures, mut absent) = (BTreeSet::new(), Vec::new(), None);
    for (family, of) in families {
        match family {
            Ok((found, holds)) => {
                let (usable, others): (Vec<_>, Vec<_>) = found.into_iter().partition(|address| is_usable(*address));
                if usable.is_empty() {
                    kept.extend(last.iter().copied().filter(of));
                } else {
                    ttl = ttl.min(holds);
                }
                addresses.extend(usable);
                failures.extend(others.first().copied().map(Failure::Unusable));
            }
            Err(error) if error.is_absence() => absent = absent.or(Some(error)),
            Err(error) => {
                kept.extend(last.iter().copied().filter(of));
                failures.push(error);
            }
        }
    }
    if addresses.is_empty() {
        return Err(failures.into_iter().next().or(absent).unwrap_or(Failure::NoRecord("address")));
    }
    addresses.extend(kept);
    Failure::beyond(MOST_ADDRESSES, addresses.len(), "addresses")?;
    let failures = failures.into_iter().map(|error| format!("some addresses are not known: {error}"));
    Ok((addresses, ttl, failures.collect()))
}

fn name(text: &str) -> Result<Name, Failure> {
    Name::from_ascii(text).map_err(|error| Failure::Failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn families_are_joined() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let ok = |addresses: &[&str], ttl| -> Family {
            Ok((addresses.iter().map(|text| ip(text)).collect(), Duration::from_secs(ttl)))
        };
        let failed = || -> Family { Err(Failure::Failed("refused".into())) };
        let no_name = || -> Family { Err(Failure::NoName) };
        let none = || -> Family { Err(Failure::NoRecord("address")) };
        let many = |count: u32| -> Family {
            Ok(((1..=count).map(|last| Ipv4Addr::from_bits(last).into()).collect(), Duration::from_secs(5)))
        };
        let last = BTreeSet::from(["10.0.0.1", "10.0.0.2", "::1"].map(ip));
        for (case, v4, v6, expected) in [
            ("both", ok(&["10.0.0.2"], 9), ok(&["::2"], 5), "10.0.0.2 ::2 for 5s"),
            ("one has none", ok(&["10.0.0.3", "10.0.0.2"], 9), none(), "10.0.0.2 10.0.0.3 for 9s"),
            ("a server that knows one kind only", no_name(), ok(&["::2"], 5), "::2 for 5s"),
            ("one failed", failed(), ok(&["::2"], 5), "10.0.0.1 10.0.0.2 ::2 for 5s, 1 failed"),
            ("the other failed", ok(&["10.0.0.3"], 5), failed(), "10.0.0.3 ::1 for 5s, 1 failed"),
            ("both failed", failed(), failed(), "refused"),
            ("a name that is blocked", ok(&["0.0.0.0"], 5), ok(&["::"], 5), "0.0.0.0 is not an address to connect to"),
            ("one kind of it", ok(&["0.0.0.0"], 5), none(), "0.0.0.0 is not an address to connect to"),
            ("half blocked", ok(&["0.0.0.0"], 5), ok(&["::2"], 9), "10.0.0.1 10.0.0.2 ::2 for 9s, 1 failed"),
            ("some of no use", ok(&["224.0.0.1", "10.0.0.3"], 5), none(), "10.0.0.3 for 5s, 1 failed"),
            ("as many as may be", many(1024), none(), "1024 for 5s"),
            ("too many", many(1024), ok(&["::2"], 5), "1025 addresses are too many: at most 1024"),
            ("one failed, the other has none", none(), failed(), "refused"),
            ("no name", no_name(), no_name(), "there is no such name"),
            ("no address", none(), none(), "the name has no address"),
        ] {
            let told = match join([(v4, IpAddr::is_ipv4), (v6, IpAddr::is_ipv6)], &last) {
                Ok((addresses, ttl, failures)) => {
                    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                    let failed = if failures.is_empty() { "".into() } else { format!(", {} failed", failures.len()) };
                    let many = addresses.len().to_string();
                    let addresses = if addresses.len() < 100 { addresses.join(" ") } else { many };
                    format!("{addresses} for {ttl:?}{failed}")
                }
                Err(error) => error.to_string(),
            };
            assert_eq!(told, expected, "{case}");
        }
    }

    #[tokio::test]
    async fn names_of_the_machine() {
        let dns = Arc::new(Dns::new(model::Dns { servers: Vec::new(), timeout: Duration::from_millis(100) }, 1));
        let found = dns.look_up(&Query::Host("localhost".into()), None).await.unwrap();
        let Answer::Addresses(addresses) = found.answer else { panic!("{found:?}") };
        assert!(addresses.contains(&IpAddr::V4(Ipv4Addr::LOCALHOST)), "{addresses:?}");
        assert!(addresses.iter().all(IpAddr::is_loopback), "{addresses:?}");
        let failed = dns.look_up(&Query::Host("nowhere.invalid".into()), None).await;
        assert!(matches!(failed, Err(Failure::NoName)), "{failed:?}");
    }
}
