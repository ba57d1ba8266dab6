//! One TLS connection with a client, without its socket: bytes in, bytes out, and no buffer of its own while nothing is
//! under way.

use std::sync::Arc;

use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus, WriteTraffic};
use rustls::{Error, HandshakeKind, ProtocolVersion, ServerConfig};

use crate::observe::record::Handshake;

/// What encryption adds to each record of at most 16 KiB, with room to spare (RFC 8446, 5.2: at most 255 bytes, and 5 for
/// the header).
const OVERHEAD: usize = 5 + 255;
/// Plain bytes of one record (RFC 8446, 5.1).
const RECORD: usize = 16 * 1024;

/// The most that is kept of what cannot be opened yet: one record of the largest size (RFC 8446, 5.2), and a message of the
/// handshake that stretches over a few small ones.
pub(crate) const MOST_UNOPENED: usize = 18 * 1024;

/// A TLS connection with a client.
pub(crate) struct Sealed {
    connection: UnbufferedServerConnection,
    /// What has come and could not be opened yet. The connection knows places in it, so that it has to be there in every
    /// call.
    unopened: Vec<u8>,
    /// Of the handshake, of tickets and of alerts: still to be sent, before anything that is sealed later.
    outgoing: Vec<u8>,
    /// The client has said that nothing more will come.
    peer_closed: bool,
    /// The rules were broken: the connection must not be used any more.
    failed: bool,
}

impl Sealed {
    /// A connection of which nothing has been said yet.
    ///
    /// # Errors
    /// The configuration cannot be used.
    pub(crate) fn new(config: &Arc<ServerConfig>) -> Result<Sealed, Error> {
        let connection = UnbufferedServerConnection::new(Arc::clone(config))?;
        Ok(Sealed { connection, unopened: Vec::new(), outgoing: Vec::new(), peer_closed: false, failed: false })
    }

    /// Puts what could not be opened yet at the front of `scratch`, behind which more is to be received. Gives its length.
    pub(crate) fn put_unopened(&self, scratch: &mut [u8]) -> usize {
        if let Some(front) = scratch.get_mut(..self.unopened.len()) {
            front.copy_from_slice(&self.unopened);
        }
        self.unopened.len()
    }

    /// Opens the records in `incoming`, at the front of which is what could not be opened yet, and hands what was in each to
    /// `take`. What is left over is kept here.
    ///
    /// # Errors
    /// The client breaks the rules; the alert that tells it so is among what is [to be sent](Sealed::outgoing).
    pub(crate) fn open(&mut self, incoming: &mut [u8], mut take: impl FnMut(&[u8])) -> Result<(), Error> {
        let mut used = 0;
        loop {
            if self.failed {
                return Err(Error::General("the connection has failed".into()));
            }
            let rest = incoming.get_mut(used..).unwrap_or_default();
            let UnbufferedStatus { mut discard, state } = self.connection.process_tls_records(rest);
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
                    let left = incoming.get(used + discard..).unwrap_or_default();
                    if left.len() > MOST_UNOPENED {
                        return Err(Error::General("a message of the handshake is too long".into()));
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
                    while self.connection.wants_write()
                        && let Ok(ConnectionState::EncodeTlsData(mut record)) =
                            self.connection.process_tls_records(rest).state
                    {
                        append(&mut self.outgoing, |room| record.encode(room))?;
                    }
                    self.failed = true;
                    return Err(error);
                }
            }
            used += discard;
        }
    }

    /// Has `write` seal something, behind what is to be sent before it.
    fn write<T>(
        &mut self,
        write: impl FnOnce(&mut Vec<u8>, &mut WriteTraffic<'_, ServerConnectionData>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        loop {
            if self.failed {
                return Err(Error::General("the connection has failed".into()));
            }
            let UnbufferedStatus { discard, state } = self.connection.process_tls_records(&mut self.unopened);
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

    /// Seals `plain` into `room`, behind what is to be sent before it. Gives how many bytes of `room` are to be sent now.
    ///
    /// # Errors
    /// The handshake is not over, or `room` has fewer bytes than [`Sealed::room_for`] says; [`Error::EncryptError`]: the keys
    /// are used up.
    pub(crate) fn seal(&mut self, plain: &[u8], room: &mut [u8]) -> Result<usize, Error> {
        self.write(|outgoing, traffic| {
            let before = std::mem::take(outgoing);
            let (first, rest) = room.split_at_mut_checked(before.len()).ok_or_else(no_room)?;
            first.copy_from_slice(&before);
            Ok(before.len() + traffic.encrypt(plain, rest).map_err(cannot_seal)?)
        })
    }

    /// Bytes that sealing so many takes at the most, with what is to be sent before.
    pub(crate) fn room_for(&self, plain: usize) -> usize {
        self.outgoing.len() + plain + plain.div_ceil(RECORD).max(1) * OVERHEAD
    }

    /// Says that nothing more will come from here.
    pub(crate) fn close(&mut self) {
        // A connection that cannot say it any more is closed without.
        let _ = self.write(|outgoing, traffic| append(outgoing, |room| traffic.queue_close_notify(room)));
    }

    /// What is to be sent now.
    pub(crate) fn outgoing(&self) -> &[u8] {
        &self.outgoing
    }

    /// So much of it was sent.
    pub(crate) fn sent(&mut self, bytes: usize) {
        if bytes >= self.outgoing.len() {
            self.outgoing = Vec::new();
        } else {
            self.outgoing.drain(..bytes);
        }
    }

    /// Whether the handshake is still going on.
    pub(crate) fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// Whether what is to be sent right behind the handshake are tickets alone. In TLS 1.2 more comes with them, which the
    /// client waits for.
    pub(crate) fn has_only_tickets(&self) -> bool {
        !self.is_handshaking() && self.connection.protocol_version() == Some(ProtocolVersion::TLSv1_3)
    }

    /// Whether the client has said that nothing more will come.
    pub(crate) fn has_peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// What was agreed on.
    pub(crate) fn agreed(&self) -> Handshake {
        Handshake {
            version: match self.connection.protocol_version() {
                Some(ProtocolVersion::TLSv1_3) => Some("1.3"),
                Some(ProtocolVersion::TLSv1_2) => Some("1.2"),
                _ => None,
            },
            suite: self.connection.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()),
            group: self.connection.negotiated_key_exchange_group().and_then(|group| group.name().as_str()),
            resumed: self.connection.handshake_kind() == Some(HandshakeKind::Resumed),
            ..Handshake::default()
        }
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
