//! One probe: a short talk with one endpoint, ended politely.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::timeout;

use super::verdict::{Missing, Observation};
use crate::config::model::Probe;
use crate::connect;
use crate::observe::outcome::Side;
use crate::pool::Target;

/// Talks to `target` once, for `patience` at the most. An error says nothing of the endpoint: something of our own (a
/// descriptor, a port, an address) was missing.
pub(crate) async fn run(
    what: Probe,
    target: &Target,
    source: Option<IpAddr>,
    patience: Duration,
) -> io::Result<Observation> {
    let talk = async {
        match what {
            Probe::Tcp => connect::dial(target, source).await.map(drop),
        }
    };
    match timeout(patience, talk).await {
        Ok(Ok(())) => Ok(Observation::Pass),
        Ok(Err(error)) if connect::blame(&error).by == Side::Us => Err(error),
        Ok(Err(error)) => Ok(Observation::Missing(missing(&error))),
        Err(_) => Ok(Observation::Missing(Missing::Timeout)),
    }
}

fn missing(error: &io::Error) -> Missing {
    error.raw_os_error().map_or(Missing::Timeout, Missing::System)
}
