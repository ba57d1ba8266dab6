//! The story of one session: what is known of it so far, told as a [`Record`] when it ends.

use std::cell::Cell;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Failure;
use crate::config::model::Protocol;
use crate::listen;
use crate::live::Route;
use crate::observe::line::MOST_OF_A_LIST;
use crate::observe::outcome::{Outcome, Side};
use crate::observe::record::{Handshake, Peer, Record, Said};
use crate::pool::{Endpoint, Pool};
use crate::refusal::Manner;
use crate::stream::Stream;
use crate::supervise::worker::Worker;
use crate::table::{Entry, Identity, Registered};
use crate::tls::handshake::{Accepted, Refused};
use crate::tls::words;
use crate::wire::client_hello::ClientHello;
use crate::wire::name::Name;

/// Protocols that are kept for the log, one more than it tells; a client may offer many more.
const PROTOCOLS_TOLD: usize = MOST_OF_A_LIST + 1;

/// What is known of one session so far, and its entry in the table. A story that is dropped without an end, which only
/// a panic can bring about, ends as [`Outcome::Internal`].
pub(super) struct Story {
    worker: Rc<Worker>,
    hello: Option<Said>,
    connect: Option<Duration>,
    entry: Registered,
    handshake: Option<Box<Handshake>>,
    endpoint_handshake: Option<Box<Handshake>>,
    /// How the client can be told that it is not served.
    manner: Cell<Manner>,
    told: bool,
}

impl Story {
    /// Enters the session in the table.
    pub(super) fn begin(worker: &Rc<Worker>, accepted: &listen::Accepted) -> Story {
        let listen::Accepted { listener, client, at, start, .. } = *accepted;
        let identity = Identity { id: worker.next_id(), listener, peer: client, at, start };
        let door = worker.door(listener);
        let entry = Entry::new(identity, worker.tools.clock.now(), door.limits);
        Story {
            hello: None,
            connect: None,
            entry: worker.table.add(entry),
            handshake: None,
            endpoint_handshake: None,
            manner: Cell::new(Manner::of(door.protocol)),
            told: false,
            worker: Rc::clone(worker),
        }
    }

    pub(super) fn entry(&self) -> &Entry {
        &self.entry
    }

    /// Index of the listener.
    pub(super) fn listener(&self) -> usize {
        self.entry.identity.listener
    }

    pub(super) fn protocol(&self) -> Protocol {
        self.worker.door(self.listener()).protocol
    }

    /// When the opening must be complete.
    pub(super) fn deadline(&self) -> Instant {
        self.entry.identity.at + self.worker.door(self.listener()).open
    }

    /// Where the client is; `None` behind a unix socket.
    pub(super) fn client(&self) -> Option<SocketAddr> {
        self.entry.client()
    }

    /// Whether it has to begin with a PROXY header.
    pub(super) fn awaits_header(&self) -> bool {
        let senders = self.worker.door(self.listener()).senders.as_ref();
        senders.is_some_and(|senders| senders.have(self.entry.identity.peer))
    }

    /// Takes down what the client said.
    pub(super) fn heard(&mut self, hello: Option<ClientHello>) {
        if let Some(mut hello) = hello
            && self.worker.shared.log.is_on()
        {
            hello.alpn.truncate(PROTOCOLS_TOLD);
            self.hello = Some(Said {
                sni: hello.server_name.map(Name::into_inner),
                alpn: hello.alpn,
                versions: hello.versions,
                ech: hello.ech,
            });
        }
    }

    /// The route is known.
    pub(super) fn routed(&mut self, route: &Route) {
        route.metrics.sessions.increment(1);
        self.worker.door(self.listener()).metrics.opening.record(self.entry.identity.at.elapsed());
        self.entry.set_route(&route.name, &route.pool.name);
    }

    /// From here on the client is only spoken to in TLS.
    pub(super) fn seals(&mut self) {
        self.manner.set(Manner::Silent);
    }

    /// How the client can be told in clear that it is not served.
    pub(super) fn manner(&self) -> &Cell<Manner> {
        &self.manner
    }

    /// A handshake is over, `took` after it was begun; without a `route` it was made to answer an authority.
    pub(super) fn shook_hands(
        &mut self,
        route: Option<&Route>,
        made: Result<Box<Accepted>, Refused>,
        took: Duration,
    ) -> Result<Box<Accepted>, Failure> {
        let metrics = &self.worker.shared.metrics;
        let mut handshake = match &made {
            Ok(accepted) => {
                let agreed = accepted.sealed.agreed();
                if let Some(route) = route {
                    metrics.handshakes(&route.name, &agreed).increment(1);
                }
                agreed
            }
            Err(Refused { failure, why, shown }) => {
                let (cause, error) = match (why, failure.outcome) {
                    (Some(why), _) => (words::cause(why), words::words(why)),
                    (None, Outcome::HandshakeTimeout) => ("timeout", "it was not over in time".into()),
                    (None, Outcome::OpeningMemory) => ("internal", "there was no memory left for openings".into()),
                    (None, _) => ("gone", "the client left".into()),
                };
                if let Some(route) = route {
                    metrics.handshake_failures(&route.name, cause).increment(1);
                }
                Handshake { error: Some(error.into()), client: shown.as_deref().cloned(), ..Handshake::default() }
            }
        };
        if let Some(route) = route {
            route.tls.iter().for_each(|tls| tls.metrics.handshake.record(took));
        }
        handshake.took = took;
        self.handshake = Some(Box::new(handshake));
        made.map_err(|refused| refused.failure)
    }

    /// An endpoint was tried, with or without success, and so was a handshake with it where there was to be one.
    pub(super) fn tried(&mut self, endpoint: Option<&Arc<Endpoint>>, handshake: Option<Box<Handshake>>) {
        self.endpoint_handshake = handshake;
        if let Some(endpoint) = endpoint {
            self.entry.set_endpoint(endpoint);
        }
    }

    /// A side has broken the rules of TLS after the handshake.
    pub(super) fn broken(&mut self, side: Side, why: &rustls::Error) {
        let handshake = if side == Side::Client { &mut self.handshake } else { &mut self.endpoint_handshake };
        handshake.iter_mut().for_each(|handshake| handshake.error = Some(words::words(why).into()));
    }

    /// A connection to an endpoint of `pool` stands, `took` after the first attempt: its limits hold from here.
    pub(super) fn connected(&mut self, pool: &Pool, endpoint: &Stream, took: Duration) {
        self.entry.connected(endpoint.as_fd(), pool.limits(), self.worker.tools.clock.now());
        self.connect = Some(took);
        if self.protocol() == Protocol::Postgres {
            self.entry.known_by_client();
        }
    }

    /// Tells the story.
    pub(super) fn end(mut self, how: Failure) {
        self.tell(how);
    }

    fn tell(&mut self, how: Failure) {
        if std::mem::replace(&mut self.told, true) {
            return;
        }
        self.entry.publish_bytes();
        let (bytes_up, bytes_down) = self.entry.bytes();
        let Identity { id, listener, peer, at, start } = self.entry.identity;
        let (route, pool) = self.entry.names();
        let record = Record {
            id,
            start,
            listener: Arc::clone(&self.worker.door(listener).name),
            client: self.client(),
            proxy: self.entry.proxied().map(|_| Box::new(Peer(peer))),
            hello: self.hello.take(),
            handshake: self.handshake.take(),
            endpoint_handshake: self.endpoint_handshake.take(),
            route: route.cloned(),
            pool: pool.cloned(),
            endpoint: self.entry.endpoint_name(),
            outcome: how.outcome,
            by: how.by,
            connect: self.connect,
            total: at.elapsed(),
            bytes_up,
            bytes_down,
        };
        self.worker.record(listener, record);
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        self.tell(Failure::new(Outcome::Internal, Side::Us));
    }
}
