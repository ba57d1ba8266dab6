//! TLS with endpoints: of ours, or the client's own where an endpoint has to promise it first.

use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::way::Unreached;
use crate::config::model::{Negotiation, PoolTls, Protocol};
use crate::detect::{Opening, Wish};
use crate::forward::Tools;
use crate::observe::metrics::Metrics;
use crate::observe::outcome::{Outcome, Side};
use crate::observe::record::Handshake;
use crate::pool::Pool;
use crate::pool::endpoint::NO_HANDSHAKE;
use crate::session::Failure;
use crate::stream::Stream;
use crate::tls::endpoint::EndpointTls;
use crate::tls::handshake::{self, Accepted, Joined, Unjoined};
use crate::tls::{outgoing, words};
use crate::wire::postgres;

/// What the client speaks, as far as it makes a difference to how an endpoint is reached.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Near<'a> {
    /// TLS that passes through.
    Tls,
    /// The same, begun at once by a client of PostgreSQL, which not every server takes.
    Direct,
    /// The same, and as it was promised to a client of PostgreSQL an endpoint has to promise it first.
    Promised,
    /// Anything in clear, or within TLS that ends here, where a protocol may have been agreed on.
    Plain(Option<&'a [u8]>),
}

impl<'a> Near<'a> {
    /// What a client speaks to a listener of this protocol that began so, where its TLS may have been `accepted`.
    pub(crate) fn of(protocol: Protocol, opening: Option<&Opening>, accepted: Option<&'a Accepted>) -> Near<'a> {
        match (accepted, opening.map_or(Wish::Session, |opening| opening.wish)) {
            (Some(accepted), _) => Near::Plain(accepted.sealed.protocol()),
            (None, Wish::Promised) => Near::Promised,
            (None, Wish::Session) if protocol == Protocol::Postgres => Near::Direct,
            (None, Wish::Session) if protocol == Protocol::Tls => Near::Tls,
            (None, _) => Near::Plain(None),
        }
    }
}

/// TLS with endpoints.
pub(super) struct Cover<'a> {
    /// `None`: it is the client's own.
    pub(super) tls: Option<&'a PoolTls>,
    /// What is offered.
    protocols: Vec<Vec<u8>>,
    tools: &'a Tools,
    metrics: &'a Metrics,
    /// How the last handshake went.
    pub(super) handshake: Option<Box<Handshake>>,
}

impl<'a> Cover<'a> {
    /// What covers the way of a client who is so near; `None`: nothing of ours.
    pub(super) fn for_client(
        pool: &'a Pool,
        near: Near<'_>,
        tools: &'a Tools,
        metrics: &'a Metrics,
    ) -> Option<Cover<'a>> {
        let (tls, agreed) = match near {
            Near::Tls | Near::Direct => return None,
            Near::Promised => (None, None),
            Near::Plain(agreed) => (Some(pool.tls.as_ref()?), agreed),
        };
        let protocols = match tls.and_then(|tls| tls.alpn.as_ref()) {
            Some(offered) => offered.iter().map(|protocol| protocol.to_vec()).collect(),
            // What is inside is passed on as it is, so that both sides have to speak the same.
            None => agreed.map(<[u8]>::to_vec).into_iter().collect(),
        };
        Some(Cover { tls, protocols, tools, metrics, handshake: None })
    }

    /// Whether an endpoint has to promise TLS before it begins.
    pub(super) fn asks(&self) -> bool {
        self.tls.is_none_or(|tls| tls.negotiation == Some(Negotiation::Postgres))
    }

    /// Makes a handshake with an endpoint.
    pub(super) async fn join(
        &mut self,
        pool: &Pool,
        tls: &PoolTls,
        endpoint: &EndpointTls,
        stream: &Stream,
    ) -> Result<Joined, Unreached> {
        let began = Instant::now();
        // Servers that take TLS after they were asked need not know of protocols.
        let needs_one = !self.asks() && outgoing::needs_one(&self.protocols);
        let join = handshake::join(stream, endpoint, self.protocols.clone(), needs_one, self.tools);
        let made = timeout(tls.handshake, join).await;
        let took = began.elapsed();
        pool.tls_metrics.iter().for_each(|metrics| metrics.handshake.record(took));
        let (cause, error) = match made {
            Ok(Ok(joined)) => {
                let agreed = Handshake { took, ..joined.sealed.agreed() };
                self.metrics.pool_handshakes(&pool.name, &agreed).increment(1);
                self.handshake = Some(Box::new(agreed));
                return Ok(joined);
            }
            Ok(Err(Unjoined::Refused(why))) => (words::cause(&why), words::words(&why)),
            Ok(Err(Unjoined::Gone)) => ("gone", "the endpoint ended the connection".into()),
            Err(_) => ("timeout", "it was not over in time".into()),
        };
        // What the client has chosen is not the endpoint's fault.
        let by = if cause == "protocol" && tls.alpn.is_none() { Side::Client } else { Side::Endpoint };
        self.failed(pool, cause, error.into(), took);
        Err(Unreached { failure: Failure::new(Outcome::EndpointTlsFailed, by), code: NO_HANDSHAKE })
    }

    /// The endpoint did not promise TLS, but answered this or ended.
    pub(super) fn refused(&mut self, pool: &Pool, answer: Option<u8>) {
        let error = match answer {
            Some(postgres::NO) => "the endpoint does not speak TLS",
            Some(b'E') => "the endpoint answered SSLRequest with an error",
            Some(_) => "the endpoint answered SSLRequest as no server of PostgreSQL does",
            None => "the endpoint ended the connection after SSLRequest",
        };
        self.failed(pool, "refused", error.into(), Duration::ZERO);
    }

    fn failed(&mut self, pool: &Pool, cause: &'static str, error: Box<str>, took: Duration) {
        self.metrics.pool_handshake_failures(&pool.name, cause).increment(1);
        self.handshake = Some(Box::new(Handshake { took, error: Some(error), ..Handshake::default() }));
    }
}
