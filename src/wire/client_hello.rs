//! The ClientHello: what a TLS client says before anyone answers (RFC 8446, section 4.1.2).
//!
//! Owns the way from the bytes on the wire to what a route is chosen by. It reads strictly and never guesses: a hello
//! that breaks a rule is an error, never a hello without a name. It keeps no copy of the bytes and does no I/O.

#[cfg(any(test, fuzzing))]
pub mod against_rustls;
mod body;
#[cfg(test)]
mod tests;

use std::iter;

use arrayvec::ArrayVec;

use super::name::{Name, NameError};
use super::protocols::Protocols;

/// The most bytes that a hello may take on the wire, record headers included.
pub const MAX_OPENING: usize = 64 * 1024;
/// The most TLS records that a hello may be spread over.
pub const MAX_RECORDS: usize = 1024;
/// The most bytes that one record may carry (RFC 8446, section 5.1).
pub const MAX_RECORD: usize = 1 << 14;
/// The most protocols that a hello may offer: each becomes an allocation of its own.
pub const MAX_PROTOCOLS: usize = 64;

const RECORD_HEADER: usize = 5;
const MESSAGE_HEADER: usize = 4;
/// The first byte of a record that carries a handshake.
pub(crate) const HANDSHAKE: u8 = 22;
const MAJOR_VERSION: u8 = 3;
const CLIENT_HELLO: u8 = 1;

/// What a client said, as far as routing and the log care.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello {
    /// The host name asked for; `None`: no server_name, or an address in it. With `ech`, the outer name.
    pub server_name: Option<Name>,
    /// Protocols offered, in the client's order, none of them empty.
    pub alpn: Protocols,
    /// supported_versions without GREASE, in the client's order; legacy_version if there are none.
    pub versions: Versions,
    /// Encrypted Client Hello was offered, or pretended (RFC 9849): nobody but the server can tell.
    pub ech: bool,
    /// Data encrypted under an earlier session follows the hello: it must not be replayed.
    pub early_data: bool,
    /// Bytes that the hello took on the wire, record headers included. What follows is not part of it.
    pub length: usize,
}

/// The first of the TLS versions that a client offers; there are five, and drafts.
pub type Versions = ArrayVec<u16, 8>;

/// Why bytes are not a ClientHello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// The first or second byte belongs to no TLS handshake record.
    #[error("this is not TLS: byte {at} is 0x{byte:02x}")]
    NotTls {
        /// Its place, 0 or 1.
        at: usize,
        /// What stands there.
        byte: u8,
    },
    /// It takes, or says that it will take, more than [`MAX_OPENING`] bytes.
    #[error("the hello takes {0} bytes, at most {MAX_OPENING} are allowed")]
    TooLarge(usize),
    /// It is spread over more than [`MAX_RECORDS`] records.
    #[error("the hello is spread over more than {MAX_RECORDS} records")]
    TooManyRecords,
    /// A record of another kind, or of another protocol, before the hello was complete.
    #[error("the hello is interrupted: byte {at} is 0x{byte:02x} and starts no handshake record")]
    ForeignRecord {
        /// Its place on the wire.
        at: usize,
        /// What stands there.
        byte: u8,
    },
    /// An empty record, or one of more than [`MAX_RECORD`] bytes.
    #[error("a record has {0} bytes, 1 to {MAX_RECORD} are allowed")]
    RecordLength(usize),
    /// The first handshake message is something else.
    #[error("the first handshake message has type {0}, not 1 (ClientHello)")]
    NotHello(u8),
    /// server_name holds something that is not a host name.
    #[error("server_name: {0}")]
    BadName(#[from] NameError),
    /// Another rule of the format is broken.
    #[error("{0}")]
    Malformed(&'static str),
}

/// Reads one ClientHello from bytes that come in pieces.
///
/// It remembers positions only, so waiting costs no memory, and every byte of a record is looked at once, however
/// small the pieces are.
#[derive(Clone, Debug, Default)]
pub struct Reader {
    /// Where the first incomplete record starts.
    record: usize,
    /// How many records are complete.
    records: usize,
    /// Handshake bytes in the complete records.
    gathered: usize,
    /// Handshake bytes that the hello takes, its own header included, once that header has come.
    message: Option<usize>,
}

impl Reader {
    /// Goes on with everything received so far: `bytes` starts at the same byte in every call and only grows.
    /// `Ok(None)`: more is needed.
    ///
    /// # Errors
    /// As soon as the bytes cannot become a ClientHello any more, without waiting for the rest. The error is the same
    /// in whatever pieces they come.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<Option<ClientHello>, HelloError> {
        loop {
            let rest = bytes.get(self.record..).unwrap_or_default();
            let Some(length) = record_length(rest, self.record)? else { return Ok(None) };
            let end = self.record + RECORD_HEADER + length;
            if end > MAX_OPENING {
                return Err(HelloError::TooLarge(end));
            }
            let seen = bytes.get(..end).unwrap_or(bytes);
            if self.message.is_none() {
                self.message = message_length(seen)?;
            }
            let gathered = self.gathered + length;
            if self.message.is_some_and(|message| gathered > message) {
                return Err(HelloError::Malformed("more data follows the hello in its record"));
            }
            if seen.len() < end {
                return Ok(None);
            }
            if self.message == Some(gathered) {
                return self.finish(seen, gathered).map(Some);
            }
            if self.records + 1 == MAX_RECORDS {
                return Err(HelloError::TooManyRecords);
            }
            self.record = end;
            self.records += 1;
            self.gathered = gathered;
        }
    }

    /// The hello is complete: `seen` ends with it.
    fn finish(&self, seen: &[u8], message: usize) -> Result<ClientHello, HelloError> {
        if self.records == 0 {
            let body = seen.get(RECORD_HEADER + MESSAGE_HEADER..).unwrap_or_default();
            return body::read(body, seen.len());
        }
        let mut whole = Vec::with_capacity(message);
        fragments(seen).for_each(|fragment| whole.extend_from_slice(fragment));
        body::read(whole.get(MESSAGE_HEADER..).unwrap_or_default(), seen.len())
    }
}

/// Length of the record that starts `at`, without its header; `None` until the header is complete. The third byte is
/// the minor version, which says nothing (RFC 8446, section 5.1).
fn record_length(bytes: &[u8], at: usize) -> Result<Option<usize>, HelloError> {
    for ((at, &byte), expected) in (at..).zip(bytes).zip([HANDSHAKE, MAJOR_VERSION]) {
        if byte != expected {
            return Err(if at < 2 { HelloError::NotTls { at, byte } } else { HelloError::ForeignRecord { at, byte } });
        }
    }
    let Some(&[_, _, _, high, low]) = bytes.first_chunk() else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length == 0 || length > MAX_RECORD {
        return Err(HelloError::RecordLength(length));
    }
    Ok(Some(length))
}

/// Length of the handshake message that starts the first record, its header included; `None` until that header is
/// complete. It may itself be spread over records.
fn message_length(seen: &[u8]) -> Result<Option<usize>, HelloError> {
    let mut header = fragments(seen).flatten().copied();
    match header.next() {
        None => return Ok(None),
        Some(CLIENT_HELLO) => {}
        Some(other) => return Err(HelloError::NotHello(other)),
    }
    let (Some(high), Some(middle), Some(low)) = (header.next(), header.next(), header.next()) else { return Ok(None) };
    let message = MESSAGE_HEADER + u32::from_be_bytes([0, high, middle, low]) as usize;
    match message + RECORD_HEADER {
        wire if wire > MAX_OPENING => Err(HelloError::TooLarge(wire)),
        _ => Ok(Some(message)),
    }
}

/// What each record carries. Headers have been checked; the last record may be incomplete.
fn fragments(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    iter::from_fn(move || {
        let (&[_, _, _, high, low], rest) = bytes.split_first_chunk()?;
        let length = usize::from(u16::from_be_bytes([high, low]));
        let (fragment, rest) = rest.split_at_checked(length).unwrap_or((rest, &[]));
        bytes = rest;
        Some(fragment)
    })
}
