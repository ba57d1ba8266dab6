//! The story of one session: what is known of it so far, told as a [`Record`] when it ends.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

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

/// One session's record in the making, and its entry in the table. A story that is dropped without an end, which only
/// a panic can bring about, ends as [`Outcome::Internal`].
pub(super) struct Story {
    worker: Rc<Worker>,
    listener: usize,
    at: Instant,
    entry: Registered,
    /// `None` once it was told.
    record: Option<Record>,
}

impl Story {
    /// Opens the record and enters the session in the table.
    pub(super) fn begin(worker: &Rc<Worker>, accepted: &Accepted) -> Story {
        let door = worker.door(accepted.listener);
        let id = worker.next_id();
        let entry = worker.table.add(Entry::new(worker.tools.clock.now(), door.limits));
        let mut record = Record::unserved(id, &door.name, accepted.client, Outcome::Internal, Side::Us);
        record.start = accepted.start;
        Story { worker: Rc::clone(worker), listener: accepted.listener, at: accepted.at, entry, record: Some(record) }
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
        self.record.as_ref()?.client
    }

    /// Takes down what the client said.
    pub(super) fn heard(&mut self, hello: Option<ClientHello>) {
        if let (Some(record), Some(mut hello)) = (&mut self.record, hello)
            && self.worker.shared.log.is_on()
        {
            hello.alpn.truncate(PROTOCOLS_TOLD);
            record.hello = Some(Said {
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
        self.worker.door(self.listener).metrics.opening.record(self.at.elapsed());
        if let Some(record) = &mut self.record {
            record.route = Some(Arc::clone(&route.name));
            record.pool = Some(Arc::clone(&route.pool.name));
        }
    }

    /// An endpoint was tried, with or without success.
    pub(super) fn tried(&mut self, endpoint: Option<&Arc<Endpoint>>) {
        if let (Some(record), Some(endpoint)) = (&mut self.record, endpoint) {
            record.endpoint = Some(Arc::clone(&endpoint.name));
            self.entry.set_endpoint(endpoint);
        }
    }

    /// A connection to an endpoint of `pool` stands, `took` after the first attempt: its limits hold from here.
    pub(super) fn connected(&mut self, pool: &Pool, took: Duration) {
        self.entry.set_limits(pool.limits(), self.worker.tools.clock.now());
        if let Some(record) = &mut self.record {
            record.connect = Some(took);
        }
    }

    /// Tells the story.
    pub(super) fn end(mut self, how: Failure) {
        self.tell(how);
    }

    fn tell(&mut self, how: Failure) {
        let Some(mut record) = self.record.take() else { return };
        self.entry.publish_bytes();
        (record.bytes_up, record.bytes_down) = self.entry.bytes();
        record.total = self.at.elapsed();
        (record.outcome, record.by) = (how.outcome, how.by);
        self.worker.record(self.listener, record);
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        self.tell(Failure::new(Outcome::Internal, Side::Us));
    }
}
