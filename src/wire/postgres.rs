//! How a PostgreSQL connection begins: what a client may say before anything else, and what it can be told instead of an
//! answer (PostgreSQL manual, "Frontend/Backend Protocol": "Message Flow" and "Message Formats").

use std::fmt;

/// Asks for TLS (SSLRequest).
pub const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
/// Asks for encryption by GSSAPI (GSSENCRequest).
pub const GSSENC_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30];
/// Says yes to [`SSL_REQUEST`].
pub const YES: u8 = b'S';
/// Says no to [`SSL_REQUEST`] or [`GSSENC_REQUEST`].
pub const NO: u8 = b'N';

/// The longest StartupMessage, in bytes: servers take no more (MAX_STARTUP_PACKET_LENGTH).
pub const MAX_STARTUP: usize = 10_000;
/// The lengths that a CancelRequest may have: its key is 4 bytes, or up to 256 from protocol 3.2 on.
const CANCEL: std::ops::RangeInclusive<usize> = 16..=268;
/// Bytes before those that depend on what it is: a length, and a code or a version.
const HEADER: usize = 8;
const CANCEL_CODE: u32 = 80_877_102;
const SSL_CODE: u32 = 80_877_103;
const GSSENC_CODE: u32 = 80_877_104;

/// What a client says first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet {
    /// It asks for TLS.
    Ssl,
    /// It asks for encryption by GSSAPI.
    Gssenc,
    /// It wants a query of another connection to be cancelled, which it tells by a key in these first bytes of its own.
    Cancel {
        /// Bytes of the whole request.
        length: usize,
    },
    /// It begins a session in clear.
    Startup {
        /// Bytes of the whole message.
        length: usize,
    },
}

/// Why bytes are not the beginning of a PostgreSQL connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// No message begins with this.
    #[error("this is not PostgreSQL: byte {at} is 0x{byte:02x}")]
    NotPostgres {
        /// Its place, 0 or 1.
        at: usize,
        /// What stands there.
        byte: u8,
    },
    /// A message of its kind cannot have this length.
    #[error("a message of {0} bytes")]
    Length(usize),
    /// The StartupMessage is longer than [`MAX_STARTUP`].
    #[error("a StartupMessage of {0} bytes, at most {MAX_STARTUP} are allowed")]
    TooLong(usize),
    /// Its protocol is none that servers still speak.
    #[error("protocol {0}.{1}, expected 3")]
    Version(u16, u16),
    /// The parameters of a StartupMessage are not pairs of texts.
    #[error("the parameters of the StartupMessage are malformed")]
    Parameters,
}

/// Reads what stands at the front of `bytes`; `None`: it is not complete.
///
/// # Errors
/// Why it cannot become complete, as soon as that is clear.
pub fn packet(bytes: &[u8]) -> Result<Option<Packet>, PacketError> {
    // No message is so long that either of these bytes is needed for its length.
    if let Some((at, &byte)) = bytes.iter().take(2).enumerate().find(|(_, byte)| **byte != 0) {
        return Err(PacketError::NotPostgres { at, byte });
    }
    let Some((&[a, b, c, d, e, f, g, h], _)) = bytes.split_first_chunk::<HEADER>() else { return Ok(None) };
    let (length, code) = (u32::from_be_bytes([a, b, c, d]) as usize, u32::from_be_bytes([e, f, g, h]));
    let whole = bytes.get(..length);
    let fits = |fits: bool| if fits { Ok(()) } else { Err(PacketError::Length(length)) };
    match code {
        SSL_CODE => fits(length == HEADER).map(|()| Some(Packet::Ssl)),
        GSSENC_CODE => fits(length == HEADER).map(|()| Some(Packet::Gssenc)),
        CANCEL_CODE => fits(CANCEL.contains(&length)).map(|()| whole.map(|_| Packet::Cancel { length })),
        _ => {
            let (major, minor) = (u16::from_be_bytes([e, f]), u16::from_be_bytes([g, h]));
            match major {
                3 if length > MAX_STARTUP => return Err(PacketError::TooLong(length)),
                // The last byte ends the list of parameters.
                3 => fits(length > HEADER)?,
                _ => return Err(PacketError::Version(major, minor)),
            }
            let Some(parameters) = whole.and_then(|whole| whole.get(HEADER..)) else { return Ok(None) };
            if are_pairs(parameters) { Ok(Some(Packet::Startup { length })) } else { Err(PacketError::Parameters) }
        }
    }
}

/// Whether these are names that are not empty, each with a value, all of which end with a zero, and a zero behind them.
fn are_pairs(parameters: &[u8]) -> bool {
    let mut left = parameters;
    loop {
        match left {
            [0] => return true,
            [0, ..] | [] => return false,
            _ => {
                let mut texts = left.splitn(3, |byte| *byte == 0);
                let (Some(_name), Some(_value), Some(rest)) = (texts.next(), texts.next(), texts.next()) else {
                    return false;
                };
                left = rest;
            }
        }
    }
}

/// A class of errors (SQLSTATE; PostgreSQL manual, appendix A).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SqlState(pub [u8; 5]);

impl SqlState {
    /// The client broke the rules of the protocol.
    pub const PROTOCOL_VIOLATION: SqlState = SqlState(*b"08P01");
    /// It is not served here.
    pub const REJECTED: SqlState = SqlState(*b"08004");
    /// It may not come in, or not in this way.
    pub const NOT_AUTHORIZED: SqlState = SqlState(*b"28000");
    /// There is no memory for it.
    pub const OUT_OF_MEMORY: SqlState = SqlState(*b"53200");
    /// There are too many of them.
    pub const TOO_MANY: SqlState = SqlState(*b"53300");
    /// It was ended from our side.
    pub const SHUTDOWN: SqlState = SqlState(*b"57P01");
    /// There is no server to serve it now: clients go on to the next host that they know.
    pub const CANNOT_CONNECT_NOW: SqlState = SqlState(*b"57P03");
    /// Our side is at fault.
    pub const INTERNAL: SqlState = SqlState(*b"XX000");
}

impl fmt::Debug for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

/// An ErrorResponse that ends the connection, with a sentence for people.
pub fn fatal(state: SqlState, sentence: &str) -> Vec<u8> {
    let mut fields = Vec::with_capacity(sentence.len() + 40);
    for (field, text) in [(b'S', &b"FATAL"[..]), (b'V', b"FATAL"), (b'C', &state.0), (b'M', sentence.as_bytes())] {
        fields.push(field);
        fields.extend(text.iter().filter(|byte| **byte != 0));
        fields.push(0);
    }
    fields.push(0);
    let length = u32::try_from(fields.len() + 4).unwrap_or(u32::MAX).to_be_bytes();
    [&b"E"[..], &length, &fields].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_length(code: u32, rest: &[u8]) -> Vec<u8> {
        [&(rest.len() as u32 + 8).to_be_bytes()[..], &code.to_be_bytes(), rest].concat()
    }

    #[test]
    fn what_a_connection_may_begin_with() {
        let startup = |parameters: &[u8]| with_length(0x0003_0000, parameters);
        let long = [&b"user\0"[..], &vec![b'a'; MAX_STARTUP], b"\0\0"].concat();
        for (case, bytes, read) in [
            ("SSLRequest", SSL_REQUEST.to_vec(), Ok(Some(Packet::Ssl))),
            ("and something behind it", [&SSL_REQUEST[..], b"\x16"].concat(), Ok(Some(Packet::Ssl))),
            ("GSSENCRequest", GSSENC_REQUEST.to_vec(), Ok(Some(Packet::Gssenc))),
            ("SSLRequest of another length", with_length(SSL_CODE, &[0]), Err(PacketError::Length(9))),
            ("CancelRequest", with_length(CANCEL_CODE, &[1; 8]), Ok(Some(Packet::Cancel { length: 16 }))),
            ("of protocol 3.2", with_length(CANCEL_CODE, &[1; 36]), Ok(Some(Packet::Cancel { length: 44 }))),
            ("with the longest key", with_length(CANCEL_CODE, &[1; 260]), Ok(Some(Packet::Cancel { length: 268 }))),
            ("with one too long", with_length(CANCEL_CODE, &[1; 261]), Err(PacketError::Length(269))),
            ("with one too short", with_length(CANCEL_CODE, &[1; 7]), Err(PacketError::Length(15))),
            ("StartupMessage", startup(b"user\0a\0\0"), Ok(Some(Packet::Startup { length: 16 }))),
            ("with an empty value", startup(b"user\0\0\0"), Ok(Some(Packet::Startup { length: 15 }))),
            ("without parameters", startup(b"\0"), Ok(Some(Packet::Startup { length: 9 }))),
            ("protocol 3.2", with_length(0x0003_0002, b"user\0a\0\0"), Ok(Some(Packet::Startup { length: 16 }))),
            ("with nothing at all", startup(b""), Err(PacketError::Length(8))),
            ("not ended", startup(b"user\0a\0"), Err(PacketError::Parameters)),
            ("a name without a value", startup(b"user\0"), Err(PacketError::Parameters)),
            ("ended twice", startup(b"user\0a\0\0\0"), Err(PacketError::Parameters)),
            ("an empty name", startup(b"\0a\0\0"), Err(PacketError::Parameters)),
            ("too long", startup(&long), Err(PacketError::TooLong(MAX_STARTUP + 15))),
            ("protocol 2", with_length(0x0002_0000, b"user\0a\0\0"), Err(PacketError::Version(2, 0))),
            ("another code", with_length(SSL_CODE + 2, b"\0"), Err(PacketError::Version(1234, 5681))),
            ("HTTP", b"GET / HTTP/1.1\r\n".to_vec(), Err(PacketError::NotPostgres { at: 0, byte: b'G' })),
            ("a great length", b"\0\x01\0\0".to_vec(), Err(PacketError::NotPostgres { at: 1, byte: 1 })),
            ("a length that is none", vec![0; 8], Err(PacketError::Version(0, 0))),
        ] {
            assert_eq!(packet(&bytes), read, "{case}");
            if let Ok(Some(Packet::Ssl | Packet::Gssenc)) = read {
                continue;
            }
            if read.is_ok() {
                for end in 0..bytes.len() {
                    assert_eq!(packet(&bytes[..end]), Ok(None), "{case}: its first {end} bytes");
                }
            }
            let more = packet(&[&bytes[..], b"more"].concat());
            assert_eq!(more, read, "{case}: with more behind it");
        }
    }

    #[test]
    fn a_refusal_as_clients_read_it() {
        let expected = b"E\0\0\0\x27SFATAL\0VFATAL\0C28000\0MTLS\0 is asked\0\0";
        let refusal = fatal(SqlState::NOT_AUTHORIZED, "TLS\0 is asked");
        let without = |bytes: &[u8]| bytes.iter().filter(|byte| **byte != 0).copied().collect::<Vec<u8>>();
        assert_eq!(without(&refusal)[2..], without(expected)[2..]);
        let length = u32::from_be_bytes(refusal[1..5].try_into().unwrap());
        assert_eq!(length as usize, refusal.len() - 1);
        assert_eq!(
            refusal.iter().filter(|byte| **byte == 0).count(),
            3 + 5,
            "each field ends once, and so does the list"
        );
    }
}
