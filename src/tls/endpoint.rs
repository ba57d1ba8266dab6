//! TLS with one endpoint: its name, and the sessions that may be resumed with it and no other.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;

use super::outgoing::Outgoing;
use crate::pool::Target;

/// Sessions of one endpoint that are kept: servers give out two tickets a handshake, each to be used once.
const SESSIONS: usize = 32;

/// TLS with one endpoint.
pub(crate) struct EndpointTls {
    outgoing: Arc<Outgoing>,
    /// The name that it is asked for and that its certificate has to have.
    name: ArcSwap<ServerName<'static>>,
    /// Made of the settings of the pool as they stood, with sessions of this endpoint alone.
    own: ArcSwapOption<Own>,
}

struct Own {
    of: Arc<ClientConfig>,
    config: Arc<ClientConfig>,
}

impl EndpointTls {
    /// TLS with an endpoint that is found at this host name, or at this address.
    pub(crate) fn new(outgoing: &Arc<Outgoing>, host: Option<&str>, target: &Target) -> EndpointTls {
        let name = name(outgoing, host, target);
        EndpointTls { outgoing: Arc::clone(outgoing), name: ArcSwap::from_pointee(name), own: ArcSwapOption::empty() }
    }

    /// The endpoint is found at this host name now. Sessions with one of another name are not resumed.
    pub(crate) fn set_host(&self, host: Option<&str>, target: &Target) {
        let name = name(&self.outgoing, host, target);
        if **self.name.load() != name {
            self.own.store(None);
            self.name.store(Arc::new(name));
        }
    }

    /// What a handshake goes by, and the name. `None`: there is no telling whom to trust.
    pub(crate) fn settings(&self) -> Option<(Arc<ClientConfig>, ServerName<'static>)> {
        let name = ServerName::clone(&self.name.load());
        let of = self.outgoing.config()?;
        if let Some(own) = &*self.own.load()
            && Arc::ptr_eq(&own.of, &of)
        {
            return Some((Arc::clone(&own.config), name));
        }
        let mut config = ClientConfig::clone(&of);
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        let config = Arc::new(config);
        self.own.store(Some(Arc::new(Own { of, config: Arc::clone(&config) })));
        Some((config, name))
    }
}

/// What an endpoint is called: as written, else by its host, else by its address.
fn name(outgoing: &Outgoing, host: Option<&str>, target: &Target) -> ServerName<'static> {
    let written =
        outgoing.written().name.as_deref().or(host).and_then(|name| ServerName::try_from(name.to_owned()).ok());
    written.unwrap_or(match target {
        Target::Ip(address) => address.ip().into(),
        // Only what is not verified has no name: the configuration is checked for that.
        Target::Unix(_) => IpAddr::V4(Ipv4Addr::LOCALHOST).into(),
    })
}

impl fmt::Debug for EndpointTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointTls").field("name", &self.name).finish_non_exhaustive()
    }
}
