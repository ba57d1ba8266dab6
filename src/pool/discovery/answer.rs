//! What is asked of names, and what they come to: as much of it as can be used.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

/// The most addresses that a name may come to, those of all its services together.
pub(super) const MOST_ADDRESSES: usize = 1024;
/// The most SRV records of a name.
pub(super) const MOST_SERVICES: usize = 256;
/// The most of each kind that one line of the log lists.
const MOST_TOLD: usize = 16;
/// The most addresses of each service that it lists.
const MOST_TOLD_EACH: usize = 4;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Query {
    /// The addresses of a host.
    Host(String),
    /// The services under a name (RFC 2782).
    Srv(String),
}

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Those of a host, at least one.
    Addresses(BTreeSet<IpAddr>),
    /// Those of an SRV name; none where it says that there is no such service.
    Services(Vec<Service>),
}

/// One SRV record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    /// Its target.
    pub(super) host: String,
    /// The addresses of the target.
    pub(super) addresses: BTreeSet<IpAddr>,
    pub(super) port: u16,
    pub(super) priority: u16,
    pub(super) weight: u16,
}

/// An answer that can be used.
#[derive(Debug)]
pub(crate) struct Found {
    pub(super) answer: Answer,
    /// How long it holds.
    pub(super) ttl: Duration,
    /// Why parts of it are missing, or as they were before.
    pub(super) failures: Vec<String>,
}

/// Why there is no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("there is no such name")]
    NoName,
    #[error("the name has no {0}")]
    NoRecord(&'static str),
    #[error("no answer in time")]
    Late,
    #[error("no target of the SRV records has an address: {0}")]
    NoTarget(String),
    #[error("{0} is not an address to connect to")]
    Unusable(IpAddr),
    #[error("{0}: the SRV record has port 0")]
    NoPort(String),
    #[error("{found} {what} are too many: at most {most}")]
    TooMany { found: usize, what: &'static str, most: usize },
    #[error("{0}")]
    Failed(String),
}

impl Failure {
    /// Whether it is an answer: there is nothing of that kind.
    pub(super) fn is_absence(&self) -> bool {
        matches!(self, Failure::NoName | Failure::NoRecord(_))
    }

    /// Refuses more than `most` of what is called `what`.
    ///
    /// # Errors
    /// `found` is more.
    pub(super) fn beyond(most: usize, found: usize, what: &'static str) -> Result<(), Failure> {
        if found > most { Err(Failure::TooMany { found, what, most }) } else { Ok(()) }
    }
}

/// Whether anybody could answer there. Resolvers that block a name say 0.0.0.0 or `::`.
pub(super) fn is_usable(address: IpAddr) -> bool {
    let address = address.to_canonical();
    let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    !(address.is_unspecified() || address.is_multicast() || broadcast)
}

/// A list for one line of the log, which says how many more there are.
pub(super) fn told<T: fmt::Display>(items: impl IntoIterator<Item = T>, between: &str) -> String {
    told_up_to(MOST_TOLD, items, between)
}

fn told_up_to<T: fmt::Display>(most: usize, items: impl IntoIterator<Item = T>, between: &str) -> String {
    let mut items = items.into_iter();
    let mut told: Vec<String> = items.by_ref().take(most).map(|item| item.to_string()).collect();
    let more = items.count();
    if more > 0 {
        told.push(format!("and {more} more"));
    }
    told.join(between)
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Query::Host(name) | Query::Srv(name)) = self;
        f.write_str(name)
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Addresses(addresses) => f.write_str(&told(addresses, " ")),
            Answer::Services(services) => f.write_str(&told(services, ", ")),
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Service { host, addresses, port, priority, weight } = self;
        let addresses = told_up_to(MOST_TOLD_EACH, addresses, " ");
        write!(f, "{priority} {weight} {port} {host} ({addresses})")
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn addresses_that_nobody_can_have() {
        for (address, expected) in [
            ("10.0.0.1", true),
            ("127.0.0.1", true),
            ("::1", true),
            ("0.0.0.0", false),
            ("255.255.255.255", false),
            ("224.0.0.1", false),
            ("::", false),
            ("ff02::1", false),
            ("::ffff:0.0.0.0", false),
            ("::ffff:10.0.0.1", true),
        ] {
            assert_eq!(is_usable(address.parse().unwrap()), expected, "{address}");
        }
    }

    #[test]
    fn a_line_lists_a_few() {
        let addresses = |count| (1..=count).map(|last| Ipv4Addr::from_bits(last).into()).collect::<BTreeSet<IpAddr>>();
        assert_eq!(Answer::Addresses(addresses(2)).to_string(), "0.0.0.1 0.0.0.2");
        let many = Answer::Addresses(addresses(1024)).to_string();
        assert!(many.ends_with("0.0.0.16 and 1008 more"), "{many}");
        let service = |port| Service { host: "a.".into(), addresses: addresses(6), port, priority: 1, weight: 2 };
        let services = Answer::Services((1..=20).map(service).collect()).to_string();
        assert!(
            services.starts_with("1 2 1 a. (0.0.0.1 0.0.0.2 0.0.0.3 0.0.0.4 and 2 more), 1 2 2 a. ("),
            "{services}"
        );
        assert!(services.ends_with("), and 4 more"), "{services}");
    }
}
