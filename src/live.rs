//! Live: one generation, the configuration as the data path uses it.
//!
//! Immutable. A session takes what it needs of it when it is routed and keeps none of the rest.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::config::model::{self, Config};
use crate::observe::metrics::{Metrics, RouteMetrics};
use crate::observe::outcome::{Outcome, Side};
use crate::pool::commons::Bell;
use crate::pool::parts::Parts;
use crate::pool::{Pool, is_of};
use crate::route::{Refusal, Router};
use crate::session::Failure;
use crate::tls::termination::Termination;
use crate::tls::tickets::Secrets;
use crate::wire::client_hello::ClientHello;
use crate::wire::protocols::Protocols;

/// One generation.
pub(crate) struct Live {
    /// One a listener.
    routers: Vec<Router>,
    pub(crate) routes: Vec<Arc<Route>>,
    pub(crate) pools: Vec<Arc<Pool>>,
}

/// Where a connection goes.
pub(crate) struct Route {
    pub(crate) name: Arc<str>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) metrics: RouteMetrics,
    /// Whether clients of PostgreSQL may come without TLS.
    pub(crate) allow_cleartext: bool,
    /// How TLS ends here; `None`: it goes on to the endpoint.
    pub(crate) tls: Option<Termination>,
}

impl Live {
    /// Builds a generation. `bell` is told of every change of a pool; tickets of sessions are made of `secrets`.
    pub(crate) fn new(config: &Config, metrics: &Metrics, bell: &Arc<Bell>, secrets: &Arc<Secrets>) -> Live {
        let parts = |pools: &[model::Pool]| {
            let parts = (pools.len() > 1).then(|| Arc::new(Parts::of(pools)));
            pools.iter().map(|pool| Arc::new(Pool::part(pool, parts.as_ref(), metrics, bell))).collect::<Vec<_>>()
        };
        let pools: Vec<_> = config.pools.chunk_by(|one, other| one.written == other.written).flat_map(parts).collect();
        let routes = config.routes.iter().filter_map(|route| {
            let pool = Arc::clone(pools.get(route.pool)?);
            Some(Arc::new(Route {
                name: route.name.as_str().into(),
                pool,
                metrics: metrics.route(&route.name),
                allow_cleartext: route.allow_cleartext,
                tls: route
                    .tls
                    .as_ref()
                    .map(|tls| Termination::new(&route.name, tls, secrets, metrics.route_tls(&route.name))),
            }))
        });
        let routers = (0..config.listeners.len()).map(|index| Router::new(config, index)).collect();
        Live { routers, routes: routes.collect(), pools }
    }

    /// The pool that is called so, or the parts of the one that is written so.
    pub(crate) fn parts(&self, pool: &str) -> Vec<Arc<Pool>> {
        self.pools.iter().filter(|part| is_of(&part.name, pool)).cloned().collect()
    }

    /// Where a connection of `listener` goes, by what its client says and where it comes from.
    ///
    /// # Errors
    /// [`Outcome::NoRoute`] and [`Outcome::Denied`].
    pub(crate) fn route(
        &self,
        listener: usize,
        hello: Option<&ClientHello>,
        client: Option<SocketAddr>,
    ) -> Result<Arc<Route>, Failure> {
        let impossible = Failure::new(Outcome::Internal, Side::Us);
        let router = self.routers.get(listener).ok_or(impossible)?;
        let name = hello.and_then(|hello| hello.server_name.as_ref());
        let none = Protocols::default();
        let alpn = hello.map_or(&none, |hello| &hello.alpn);
        let found = router.find(name, alpn, client.map(|client| client.ip()));
        let route = found.map_err(|refusal| match refusal {
            Refusal::NoRoute => Failure::new(Outcome::NoRoute, Side::Policy),
            Refusal::Denied => Failure::new(Outcome::Denied, Side::Policy),
        })?;
        self.routes.get(route).cloned().ok_or(impossible)
    }
}
