//! The story of one session: what is known of it so far, told as a [`Record`] when it ends.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::Failure;
use crate::config::model::Protocol;
use crate::listen::Accepted;
use crate::live::Route;
use crate::observe::line::MOST_OF_A_LIST;
use crate::observe::outcome::{Outcome, Side};
use crate::observe::record::{Record, Said};
use crate::pool::{Endpoint, Pool};
use crate::supervise::worker::Worker;
use crate::table::{Entry, Registered};
use crate::wire::client_hello::ClientHello;
use crate::wire::name::Name;

/// Protocols that are kept for the log, one more than it tells; a client may offer many more.
const PROTOCOLS_TOLD: usize = MOST_OF_A_LIST + 1;

/// What is known of one session so far, and its entry in the table. A story that is dropped without an end, which only
/// a panic can bring about, ends as [`Outcome::Internal`].
pub(super) struct Story {
    worker: Rc<Worker>,
    id: u64,
    listener: usize,
    at: Instant,
    start: SystemTime,
    client: Option<SocketAddr>,
    hello: Option<Said>,
    route: Option<Arc<Route>>,
    connect: Option<Duration>,
    entry: Registered,
    told: bool,
}

impl Story {
    /// Enters the session in the table.
    pub(super) fn begin(worker: &Rc<Worker>, accepted: &Accepted) -> Story {
        let door = worker.door(accepted.listener);
        Story {
            id: worker.next_id(),
            listener: accepted.listener,
            at: accepted.at,
            start: accepted.start,
            client: accepted.client,
            hello: None,
            route: None,
            connect: None,
            entry: worker.table.add(Entry::new(worker.tools.clock.now(), door.limits)),
            told: false,
            worker: Rc::clone(worker),
        }
    }

    pub(super) fn entry(&self) -> &Entry {
        &self.entry
    }

    /// Index of the listener.
    pub(super) fn listener(&self) -> usize {
        self.listener
    }

    pub(super) fn protocol(&self) -> Protocol {
        self.worker.door(self.listener).protocol
    }

    /// When the opening must be complete.
    pub(super) fn deadline(&self) -> Instant {
        self.at + self.worker.door(self.listener).open
    }

    /// Where the client is; `None` behind a unix socket.
    pub(super) fn client(&self) -> Option<SocketAddr> {
        self.client
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
    pub(super) fn routed(&mut self, route: &Arc<Route>) {
        route.metrics.sessions.increment(1);
        self.worker.door(self.listener).metrics.opening.record(self.at.elapsed());
        self.route = Some(Arc::clone(route));
    }

    /// An endpoint was tried, with or without success.
    pub(super) fn tried(&mut self, endpoint: Option<&Arc<Endpoint>>) {
        if let Some(endpoint) = endpoint {
            self.entry.set_endpoint(endpoint);
        }
    }

    /// A connection to an endpoint of `pool` stands, `took` after the first attempt: its limits hold from here.
    pub(super) fn connected(&mut self, pool: &Pool, took: Duration) {
        self.entry.set_limits(pool.limits(), self.worker.tools.clock.now());
        self.connect = Some(took);
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
        let record = Record {
            id: self.id,
            start: self.start,
            listener: Arc::clone(&self.worker.door(self.listener).name),
            client: self.client,
            hello: self.hello.take(),
            route: self.route.as_ref().map(|route| Arc::clone(&route.name)),
            pool: self.route.as_ref().map(|route| Arc::clone(&route.pool.name)),
            endpoint: self.entry.endpoint_name(),
            outcome: how.outcome,
            by: how.by,
            connect: self.connect,
            total: self.at.elapsed(),
            bytes_up,
            bytes_down,
        };
        self.worker.record(self.listener, record);
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        self.tell(Failure::new(Outcome::Internal, Side::Us));
    }
}
