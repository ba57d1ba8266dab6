//! Host names as a ClientHello carries them and as routes are written.
//!
//! One rule for both sides: what a client sends and what a route says are brought to the same form here, so that
//! a look-up is a comparison of bytes.

use std::fmt;
use std::net::IpAddr;

/// The longest host name, in bytes, without the root dot (RFC 1035, section 2.3.4).
pub const MAX_NAME: usize = 253;
/// The longest label of a host name, in bytes (RFC 1035, section 2.3.4).
pub const MAX_LABEL: usize = 63;

/// A host name in its one form: lower case, no trailing dot, 1 to 253 bytes, each label 1 to 63 of letters, digits,
/// hyphen and underscore.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Box<str>);

/// What was written where a host name belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// A host name.
    Name(Name),
    /// An IPv4 or IPv6 literal. RFC 6066, section 3 forbids it in server_name; it counts as no name.
    Address(IpAddr),
}

/// Why something is not a host name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing, or only the root dot.
    #[error("the name is empty")]
    Empty,
    /// More than [`MAX_NAME`] bytes.
    #[error("the name has {0} bytes, at most {MAX_NAME} are allowed")]
    TooLong(usize),
    /// Two dots in a row, or a dot in front.
    #[error("the name has an empty label")]
    EmptyLabel,
    /// A label of more than [`MAX_LABEL`] bytes.
    #[error("the name has a label of {0} bytes, at most {MAX_LABEL} are allowed")]
    LongLabel(usize),
    /// A byte other than letter, digit, hyphen, underscore and dot.
    #[error("the name has the byte 0x{0:02x}; letters, digits, hyphens and underscores are allowed")]
    BadByte(u8),
}

impl Name {
    /// Reads a name or an address literal from what a client or a configuration wrote.
    ///
    /// # Errors
    /// [`NameError`] says which rule was broken.
    pub fn read(written: &[u8]) -> Result<Written, NameError> {
        let text = written.strip_suffix(b".").unwrap_or(written);
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if let Some(address) = address_literal(text) {
            return Ok(Written::Address(address));
        }
        if text.len() > MAX_NAME {
            return Err(NameError::TooLong(text.len()));
        }
        for label in text.split(|&byte| byte == b'.') {
            check_label(label)?;
        }
        let name: String = String::from_utf8(text.to_ascii_lowercase()).map_err(|error| {
            let byte = error.as_bytes().get(error.utf8_error().valid_up_to());
            NameError::BadByte(byte.copied().unwrap_or_default())
        })?;
        Ok(Written::Name(Name(name.into_boxed_str())))
    }

    /// The name: lower case, no trailing dot.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name itself.
    pub fn into_inner(self) -> Box<str> {
        self.0
    }

    /// The name without its first label, while there is one: `a.b.c` gives `b.c`.
    pub fn parent(name: &str) -> Option<&str> {
        name.split_once('.').map(|(_, rest)| rest)
    }
}

fn check_label(label: &[u8]) -> Result<(), NameError> {
    if label.is_empty() {
        return Err(NameError::EmptyLabel);
    }
    if label.len() > MAX_LABEL {
        return Err(NameError::LongLabel(label.len()));
    }
    match label.iter().find(|byte| !(byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))) {
        Some(&byte) => Err(NameError::BadByte(byte)),
        None => Ok(()),
    }
}

fn address_literal(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    inner.parse().ok()
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_take_one_form() {
        let long = "a.".repeat(126) + "b";
        for (written, expected) in [
            ("WWW.Example.COM", Ok("www.example.com")),
            ("example.com.", Ok("example.com")),
            ("_acme.x-1", Ok("_acme.x-1")),
            (long.as_str(), Ok(long.as_str())),
            ("", Err(NameError::Empty)),
            (".", Err(NameError::Empty)),
            ("a..b", Err(NameError::EmptyLabel)),
            (".a", Err(NameError::EmptyLabel)),
            ("a b", Err(NameError::BadByte(b' '))),
            ("bücher.de", Err(NameError::BadByte(0xc3))),
        ] {
            let read = Name::read(written.as_bytes());
            match (&read, expected) {
                (Ok(Written::Name(name)), Ok(expected)) => assert_eq!(name.as_str(), expected),
                (Err(error), Err(expected)) => assert_eq!(*error, expected, "{written:?}"),
                _ => panic!("{written:?} gave {read:?}, expected {expected:?}"),
            }
        }
        assert_eq!(Name::read("a.".repeat(127).as_bytes()).map(|_| ()), Ok(()), "253 bytes and the root dot");
        assert_eq!(Name::read(&[b'a'; 254]), Err(NameError::TooLong(254)));
        assert_eq!(Name::read(&[b'a'; 64]), Err(NameError::LongLabel(64)));
    }

    #[test]
    fn addresses_are_no_names() {
        for written in ["192.0.2.1", "2001:db8::1", "[::1]", "192.0.2.1."] {
            assert!(matches!(Name::read(written.as_bytes()), Ok(Written::Address(_))), "{written}");
        }
    }
}
