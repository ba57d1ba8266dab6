//! What a PostgreSQL server says to its client, as far as probes listen (protocol 3.0; PostgreSQL manual, section 54.7).
//!
//! The format is read by the crate postgres-protocol; here its length is bounded before anything is kept, and what nobody
//! asks for is dropped.

use std::fmt;

use bytes::{Bytes, BytesMut};
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::{ErrorFields, Header, Message};

/// The longest message that is taken, in bytes, with its kind and length.
pub const LONGEST: usize = 64 * 1024;
/// The longest text of an error that is kept, in characters.
const LONGEST_TEXT: usize = 160;

/// One message of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerMessage {
    /// What it wants to know before a login, or that it knows enough.
    Authentication(Authentication),
    /// A setting, now and whenever it changes (ParameterStatus).
    Parameter {
        /// Its name, such as `in_hot_standby`.
        name: String,
        /// Its value.
        value: String,
    },
    /// Why it does not do what was asked (ErrorResponse).
    Error(ServerError),
    /// The columns of one row; `None` is NULL.
    Row(Vec<Option<Bytes>>),
    /// It waits for data (CopyInResponse).
    WantsData,
    /// It waits for the next query (ReadyForQuery).
    Ready,
    /// Anything else that it may say.
    Other,
}

/// What a server asks of who logs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authentication {
    /// Nothing more.
    Ok,
    /// The password as it is.
    Cleartext,
    /// The password, hashed with this salt.
    Md5([u8; 4]),
    /// To choose one of these mechanisms (RFC 4422).
    Sasl(Vec<String>),
    /// To go on by this.
    SaslContinue(Bytes),
    /// To take this as the end of it.
    SaslFinal(Bytes),
    /// GSSAPI, SSPI and what is no longer in use.
    Other,
}

/// What a server says went wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerError {
    /// SQLSTATE, five characters (PostgreSQL manual, appendix A).
    pub code: String,
    /// In the server's language, shortened, without control characters.
    pub text: String,
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.text, self.code)
    }
}

/// It is no message of a PostgreSQL server, or too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl ServerMessage {
    /// Takes the first message from what has come; `None` if it is not complete.
    ///
    /// # Errors
    /// [`Malformed`]
    pub fn take(from: &mut BytesMut) -> Result<Option<ServerMessage>, Malformed> {
        let Some(header) = Header::parse(from).map_err(|_| Malformed)? else { return Ok(None) };
        // The length counts itself and not the kind in front of it.
        if usize::try_from(header.len()).map_or(true, |length| length >= LONGEST) {
            return Err(Malformed);
        }
        let message = Message::parse(from).map_err(|_| Malformed)?;
        message.map(read).transpose()
    }
}

fn read(message: Message) -> Result<ServerMessage, Malformed> {
    let authentication = match message {
        Message::AuthenticationOk => Authentication::Ok,
        Message::AuthenticationCleartextPassword => Authentication::Cleartext,
        Message::AuthenticationMd5Password(body) => Authentication::Md5(body.salt()),
        Message::AuthenticationSasl(body) => {
            let mechanisms = body.mechanisms().map(|mechanism| Ok(mechanism.to_owned())).collect();
            Authentication::Sasl(mechanisms.map_err(|_| Malformed)?)
        }
        Message::AuthenticationSaslContinue(body) => Authentication::SaslContinue(Bytes::copy_from_slice(body.data())),
        Message::AuthenticationSaslFinal(body) => Authentication::SaslFinal(Bytes::copy_from_slice(body.data())),
        Message::AuthenticationGss
        | Message::AuthenticationGssContinue(_)
        | Message::AuthenticationKerberosV5
        | Message::AuthenticationScmCredential
        | Message::AuthenticationSspi => Authentication::Other,
        Message::ParameterStatus(body) => {
            let text = |text: std::io::Result<&str>| text.map(str::to_owned).map_err(|_| Malformed);
            return Ok(ServerMessage::Parameter { name: text(body.name())?, value: text(body.value())? });
        }
        Message::ErrorResponse(body) => return error(body.fields()).map(ServerMessage::Error),
        Message::DataRow(body) => {
            let column = |range: Option<std::ops::Range<usize>>| {
                Ok(range.map(|range| body.buffer_bytes().get(range).map(Bytes::copy_from_slice).unwrap_or_default()))
            };
            return body.ranges().map(column).collect().map(ServerMessage::Row).map_err(|_| Malformed);
        }
        Message::CopyInResponse(_) => return Ok(ServerMessage::WantsData),
        Message::ReadyForQuery(_) => return Ok(ServerMessage::Ready),
        _ => return Ok(ServerMessage::Other),
    };
    Ok(ServerMessage::Authentication(authentication))
}

fn error(mut fields: ErrorFields<'_>) -> Result<ServerError, Malformed> {
    let mut error = ServerError::default();
    while let Some(field) = fields.next().map_err(|_| Malformed)? {
        let value = String::from_utf8_lossy(field.value_bytes());
        match field.type_() {
            b'C' => error.code = value.chars().take(5).filter(char::is_ascii_alphanumeric).collect(),
            b'M' => error.text = value.chars().filter(|char| !char.is_control()).take(LONGEST_TEXT).collect(),
            _ => {}
        }
    }
    Ok(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message with this kind and body.
    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&[kind], &length[..], body].concat()
    }

    fn take(bytes: &[u8]) -> Result<Option<ServerMessage>, Malformed> {
        ServerMessage::take(&mut BytesMut::from(bytes))
    }

    #[test]
    fn messages_are_read() {
        let authentication = |read| Ok(ServerMessage::Authentication(read));
        let error =
            |code: &str, text: &str| Ok(ServerMessage::Error(ServerError { code: code.into(), text: text.into() }));
        for (case, kind, body, read) in [
            ("no password", b'R', &b"\0\0\0\0"[..], authentication(Authentication::Ok)),
            ("the password itself", b'R', b"\0\0\0\x03", authentication(Authentication::Cleartext)),
            ("md5", b'R', b"\0\0\0\x05abcd", authentication(Authentication::Md5(*b"abcd"))),
            ("GSSAPI", b'R', b"\0\0\0\x07", authentication(Authentication::Other)),
            (
                "SASL",
                b'R',
                b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0",
                authentication(Authentication::Sasl(vec!["SCRAM-SHA-256-PLUS".into(), "SCRAM-SHA-256".into()])),
            ),
            ("SASL goes on", b'R', b"\0\0\0\x0br=", authentication(Authentication::SaslContinue(Bytes::from("r=")))),
            ("SASL ends", b'R', b"\0\0\0\x0cv=", authentication(Authentication::SaslFinal(Bytes::from("v=")))),
            ("SASL without an end", b'R', b"\0\0\0\x0aSCRAM", Err(Malformed)),
            ("an unknown way", b'R', b"\0\0\0\x63", Err(Malformed)),
            (
                "a setting",
                b'S',
                b"in_hot_standby\0on\0",
                Ok(ServerMessage::Parameter { name: "in_hot_standby".into(), value: "on".into() }),
            ),
            ("an error", b'E', b"SFATAL\0VFATAL\0C57P03\0Mnot\nyet\0\0", error("57P03", "notyet")),
            ("an error in Latin-1", b'E', b"C3D000\0M\xe4\0\0", error("3D000", "\u{fffd}")),
            ("an error without an end", b'E', b"C57P03\0", Err(Malformed)),
            (
                "a row",
                b'D',
                b"\0\x02\0\0\0\x01t\xff\xff\xff\xff",
                Ok(ServerMessage::Row(vec![Some(Bytes::from("t")), None])),
            ),
            ("a row that is cut", b'D', b"\0\x01\0\0\0\x02t", Err(Malformed)),
            ("a row with more behind it", b'D', b"\0\x01\0\0\0\x01t.", Err(Malformed)),
            ("copy", b'G', b"\0\0\0", Ok(ServerMessage::WantsData)),
            ("ready", b'Z', b"I", Ok(ServerMessage::Ready)),
            ("a notice", b'N', b"C00000\0\0", Ok(ServerMessage::Other)),
            ("what nobody knows", b'!', b"", Err(Malformed)),
        ] {
            assert_eq!(take(&message(kind, body)), read.map(Some), "{case}");
        }
    }

    #[test]
    fn lengths_are_bounded() {
        for (case, bytes, read) in [
            ("nothing", &b""[..], Ok(None)),
            ("a part of the head", b"R\0\0\0", Ok(None)),
            ("a part of the body", b"Z\0\0\0\x05", Ok(None)),
            ("shorter than its length", b"Z\0\0\0\x03", Err(Malformed)),
            ("negative", b"Z\xff\xff\xff\xff", Err(Malformed)),
            ("as long as may be", b"D\0\0\xff\xff", Ok(None)),
            ("longer", b"D\0\x01\0\0", Err(Malformed)),
            ("another protocol", b"HTTP/1.1 400 Bad Request\r\n", Err(Malformed)),
        ] {
            assert_eq!(take(bytes), read, "{case}");
        }
    }

    /// What servers have said: a login by SCRAM with a query, one that was refused, and a query that was none.
    #[test]
    fn pieces_do_not_matter() {
        for (name, bytes, count) in [
            ("scram", &include_bytes!("../../tests/data/pg_server/scram")[..], 23),
            ("refused", include_bytes!("../../tests/data/pg_server/refused"), 3),
            ("error", include_bytes!("../../tests/data/pg_server/error"), 21),
        ] {
            let all = |pieces: &[&[u8]]| {
                let (mut buffer, mut found) = (BytesMut::new(), Vec::new());
                for piece in pieces {
                    buffer.extend_from_slice(piece);
                    while let Some(message) = ServerMessage::take(&mut buffer).unwrap() {
                        found.push(message);
                    }
                }
                assert!(buffer.is_empty());
                found
            };
            let whole = all(&[bytes]);
            assert_eq!(whole.len(), count, "{name}: {whole:?}");
            for middle in 0..bytes.len() {
                assert_eq!(all(&[&bytes[..middle], &bytes[middle..]]), whole, "{name}, at {middle}");
            }
        }
    }
}
