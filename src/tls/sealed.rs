//! One TLS connection with a client or with an endpoint, without its socket: bytes in, bytes out, and no buffer of its own
//! while nothing is under way.

use std::sync::Arc;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus, WriteTraffic};
use rustls::{ClientConfig, CommonState, Error, HandshakeKind, InvalidMessage, ProtocolVersion, ServerConfig};

use super::presented::presented;
use crate::observe::record::Handshake;

/// What encryption adds to each record of at most 16 KiB, with room to spare (RFC 8446, 5.2: at most 255 bytes, and 5 for
/// the header).
const OVERHEAD: usize = 5 + 255;
/// Plain bytes of one record (RFC 8446, 5.1).
const RECORD: usize = 16 * 1024;

/// The most that is kept of what cannot be opened yet: one record of the largest size (RFC 8446, 5.2), and a message of the
/// handshake that stretches over a few small ones.
pub(super) const MOST_UNOPENED: usize = 18 * 1024;
/// The same of an endpoint, whose certificates may be many. There has to be room for more of it in the scratch buffer.
const MOST_OF_AN_ENDPOINT: usize = 40 * 1024;

/// A TLS connection with a client or with an endpoint.
pub(crate) struct Sealed {
    connection: Connection,
    state: State,
}

enum Connection {
    /// With a client.
    Server(UnbufferedServerConnection),
    /// With an endpoint.
    Client(UnbufferedClientConnection),
}

/// What there is of a connection besides its keys.
struct State {
    /// What has come and could not be opened yet. The connection knows places in it, so that it has to be there in every
    /// call.
    unopened: Vec<u8>,
    /// The most that this may be.
    most_unopened: usize,
    /// Of the handshake, of tickets and of alerts: still to be sent, before anything that is sealed later.
    outgoing: Vec<u8>,
    /// The other side has said that nothing more will come.
    peer_closed: bool,
    /// The rules were broken: the connection must not be used any more.
    failed: bool,
}

impl Sealed {
    /// A connection with a client, of which nothing has been said yet.
    ///
    /// # Errors
    /// The configuration cannot be used.
    pub(crate) fn with_client(config: &Arc<ServerConfig>) -> Result<Sealed, Error> {
        let connection = UnbufferedServerConnection::new(Arc::clone(config))?;
        Ok(Sealed { connection: Connection::Server(connection), state: State::new(MOST_UNOPENED) })
    }

    /// A connection with an endpoint of this name, which is offered these protocols.
    ///
    /// # Errors
    /// The configuration cannot be used.
    pub(crate) fn with_endpoint(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        protocols: Vec<Vec<u8>>,
    ) -> Result<Sealed, Error> {
        let connection = UnbufferedClientConnection::new_with_alpn(config, name, protocols)?;
        Ok(Sealed { connection: Connection::Client(connection), state: State::new(MOST_OF_AN_ENDPOINT) })
    }

    /// Puts what could not be opened yet at the front of `scratch`, behind which more is to be received. Gives its length.
    pub(crate) fn put_unopened(&self, scratch: &mut [u8]) -> usize {
        let unopened = &self.state.unopened;
        if let Some(front) = scratch.get_mut(..unopened.len()) {
            front.copy_from_slice(unopened);
        }
        unopened.len()
    }

    /// Bytes that have come and could not be opened yet.
    pub(crate) fn unopened(&self) -> usize {
        self.state.unopened.len()
    }

    /// Opens the records in `incoming`, at the front of which is what could not be opened yet, and hands what was in each to
    /// `take`. What is left over is kept here. With nothing incoming an endpoint is greeted.
    ///
    /// # Errors
    /// The other side breaks the rules; the alert that tells it so is among what is [to be sent](Sealed::outgoing).
    pub(crate) fn open(&mut self, incoming: &mut [u8], take: impl FnMut(&[u8])) -> Result<(), Error> {
        match &mut self.connection {
            Connection::Server(connection) => self.state.open(connection, incoming, take),
            Connection::Client(connection) => self.state.open(connection, incoming, take),
        }
    }

    /// Seals `plain` into `room`, behind what is to be sent before it. Gives how many bytes of `room` are to be sent now.
    ///
    /// # Errors
    /// The handshake is not over, or `room` has fewer bytes than [`Sealed::room_for`] says; [`Error::EncryptError`]: the keys
    /// are used up.
    pub(crate) fn seal(&mut self, plain: &[u8], room: &mut [u8]) -> Result<usize, Error> {
        match &mut self.connection {
            Connection::Server(connection) => self.state.seal(connection, plain, room),
            Connection::Client(connection) => self.state.seal(connection, plain, room),
        }
    }

    /// Bytes that sealing so many takes at the most, with what is to be sent before.
    pub(crate) fn room_for(&self, plain: usize) -> usize {
        self.state.outgoing.len() + plain + plain.div_ceil(RECORD).max(1) * OVERHEAD
    }

    /// Says that nothing more will come from here.
    pub(crate) fn close(&mut self) {
        // A connection that cannot say it any more is closed without.
        let _ = match &mut self.connection {
            Connection::Server(connection) => self.state.close(connection),
            Connection::Client(connection) => self.state.close(connection),
        };
    }

    /// What is to be sent now.
    pub(crate) fn outgoing(&self) -> &[u8] {
        &self.state.outgoing
    }

    /// So much of it was sent.
    pub(crate) fn sent(&mut self, bytes: usize) {
        let outgoing = &mut self.state.outgoing;
        if bytes >= outgoing.len() {
            *outgoing = Vec::new();
        } else {
            outgoing.drain(..bytes);
        }
    }

    /// Whether the handshake is still going on.
    pub(crate) fn is_handshaking(&self) -> bool {
        self.common().is_handshaking()
    }

    /// Whether what is to be sent right behind the handshake are tickets alone. In TLS 1.2 more comes with them, which the
    /// client waits for.
    pub(crate) fn has_only_tickets(&self) -> bool {
        let is_13 = self.common().protocol_version() == Some(ProtocolVersion::TLSv1_3);
        is_13 && !self.is_handshaking() && matches!(self.connection, Connection::Server(_))
    }

    /// Whether the other side has said that nothing more will come.
    pub(crate) fn has_peer_closed(&self) -> bool {
        self.state.peer_closed
    }

    /// Whether a session of before was resumed, in which nobody shows or verifies a certificate.
    pub(crate) fn is_resumed(&self) -> bool {
        self.common().handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// The protocol that was agreed on, if any was.
    pub(crate) fn protocol(&self) -> Option<&[u8]> {
        self.common().alpn_protocol()
    }

    /// The certificate that the other side has shown, now or when the session began that was resumed.
    pub(crate) fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        self.common().peer_certificates()?.first()
    }

    /// What was agreed on.
    pub(crate) fn agreed(&self) -> Handshake {
        let common = self.common();
        let client = match &self.connection {
            Connection::Server(_) => self.peer_certificate().map(|certificate| presented(certificate)),
            Connection::Client(_) => None,
        };
        Handshake {
            version: match common.protocol_version() {
                Some(ProtocolVersion::TLSv1_3) => Some("1.3"),
                Some(ProtocolVersion::TLSv1_2) => Some("1.2"),
                _ => None,
            },
            suite: common.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()),
            group: common.negotiated_key_exchange_group().and_then(|group| group.name().as_str()),
            protocol: self.protocol().map(Box::from),
            resumed: self.is_resumed(),
            client,
            ..Handshake::default()
        }
    }

    fn common(&self) -> &CommonState {
        match &self.connection {
            Connection::Server(connection) => connection,
            Connection::Client(connection) => connection,
        }
    }
}

/// Either kind of connection of rustls.
trait Unbuffered {
    type Data;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;

    fn wants_write(&self) -> bool;
}

impl Unbuffered for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn wants_write(&self) -> bool {
        CommonState::wants_write(self)
    }
}

impl Unbuffered for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn wants_write(&self) -> bool {
        CommonState::wants_write(self)
    }
}

impl State {
    fn new(most_unopened: usize) -> State {
        State { unopened: Vec::new(), most_unopened, outgoing: Vec::new(), peer_closed: false, failed: false }
    }

    fn open<C: Unbuffered>(
        &mut self,
        connection: &mut C,
        incoming: &mut [u8],
        take: impl FnMut(&[u8]),
    ) -> Result<(), Error> {
        let opened = self.open_records(connection, incoming, take);
        self.failed |= opened.is_err();
        opened
    }

    fn open_records<C: Unbuffered>(
        &mut self,
        connection: &mut C,
        incoming: &mut [u8],
        mut take: impl FnMut(&[u8]),
    ) -> Result<(), Error> {
        let mut used = 0;
        loop {
            if self.failed {
                return Err(Error::General("the connection has failed".into()));
            }
            let rest = incoming.get_mut(used..).unwrap_or_default();
            let UnbufferedStatus { mut discard, state } = connection.process(rest);
            match state {
                Ok(ConnectionState::ReadTraffic(mut records)) => {
                    while let Some(record) = records.next_record() {
                        let record = record?;
                        discard += record.discard;
                        take(record.payload);
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut record)) => {
                    append(&mut self.outgoing, |room| record.encode(room))?
                }
                // What was encoded is kept here until it is sent, in order.
                Ok(ConnectionState::TransmitTlsData(records)) => records.done(),
                Ok(ConnectionState::PeerClosed) => self.peer_closed = true,
                // Early data is never accepted.
                Ok(ConnectionState::ReadEarlyData(_)) => return Err(Error::General("early data".into())),
                Ok(_) => {
                    // Whatever comes behind the other side's last word is ignored (RFC 8446, section 6.1).
                    let left = incoming.get(used + discard..).filter(|_| !self.peer_closed).unwrap_or_default();
                    if left.len() > self.most_unopened {
                        return Err(InvalidMessage::HandshakePayloadTooLarge.into());
                    }
                    if left.is_empty() {
                        self.unopened = Vec::new();
                    } else {
                        // In bulk nearly every read ends within a record.
                        self.unopened.clear();
                        self.unopened.extend_from_slice(left);
                    }
                    return Ok(());
                }
                Err(error) => {
                    let rest = incoming.get_mut(used + discard..).unwrap_or_default();
                    // The alert that follows on it, behind what was to be sent before, is given out in the next calls. With
                    // nothing to give out one more call would open records again, which must not happen after an error.
                    while connection.wants_write()
                        && let Ok(ConnectionState::EncodeTlsData(mut record)) = connection.process(rest).state
                    {
                        append(&mut self.outgoing, |room| record.encode(room))?;
                    }
                    return Err(error);
                }
            }
            used += discard;
        }
    }

    /// Has `write` seal something, behind what is to be sent before it.
    fn write<C: Unbuffered, T>(
        &mut self,
        connection: &mut C,
        write: impl FnOnce(&mut Vec<u8>, &mut WriteTraffic<'_, C::Data>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        loop {
            if self.failed {
                return Err(Error::General("the connection has failed".into()));
            }
            let UnbufferedStatus { discard, state } = connection.process(&mut self.unopened);
            match state? {
                ConnectionState::WriteTraffic(mut traffic) => return write(&mut self.outgoing, &mut traffic),
                ConnectionState::EncodeTlsData(mut record) => append(&mut self.outgoing, |room| record.encode(room))?,
                ConnectionState::TransmitTlsData(records) => records.done(),
                ConnectionState::PeerClosed => self.peer_closed = true,
                _ => return Err(Error::HandshakeNotComplete),
            }
            self.unopened.drain(..discard.min(self.unopened.len()));
        }
    }

    fn seal<C: Unbuffered>(&mut self, connection: &mut C, plain: &[u8], room: &mut [u8]) -> Result<usize, Error> {
        self.write(connection, |outgoing, traffic| {
            let before = std::mem::take(outgoing);
            let (first, rest) = room.split_at_mut_checked(before.len()).ok_or_else(no_room)?;
            first.copy_from_slice(&before);
            Ok(before.len() + traffic.encrypt(plain, rest).map_err(cannot_seal)?)
        })
    }

    fn close<C: Unbuffered>(&mut self, connection: &mut C) -> Result<(), Error> {
        self.write(connection, |outgoing, traffic| append(outgoing, |room| traffic.queue_close_notify(room)))
    }
}

/// What writes into room that it says the size of if there is too little.
trait Wants {
    fn required(&self) -> Option<usize>;
}

impl Wants for EncodeError {
    fn required(&self) -> Option<usize> {
        match self {
            EncodeError::InsufficientSize(size) => Some(size.required_size),
            EncodeError::AlreadyEncoded => None,
        }
    }
}

impl Wants for EncryptError {
    fn required(&self) -> Option<usize> {
        match self {
            EncryptError::InsufficientSize(size) => Some(size.required_size),
            EncryptError::EncryptExhausted => None,
        }
    }
}

/// Appends what `write` writes.
fn append<E: Wants>(to: &mut Vec<u8>, mut write: impl FnMut(&mut [u8]) -> Result<usize, E>) -> Result<(), Error> {
    let before = to.len();
    let Err(error) = write(&mut []) else { return Ok(()) };
    let size = error.required().ok_or(Error::EncryptError)?;
    to.resize(before + size, 0);
    let written = write(to.get_mut(before..).unwrap_or_default()).map_err(|_| Error::EncryptError)?;
    to.truncate(before + written);
    Ok(())
}

fn no_room() -> Error {
    Error::General("too little room to seal".into())
}

fn cannot_seal(error: EncryptError) -> Error {
    match error {
        EncryptError::InsufficientSize(_) => no_room(),
        EncryptError::EncryptExhausted => Error::EncryptError,
    }
}
