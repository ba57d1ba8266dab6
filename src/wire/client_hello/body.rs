//! Inside the ClientHello: a complete message, read field by field (RFC 8446, section 4.1.2 and 4.2).
//!
//! tls-parser is not used for it: it allocates for lists nobody looks at, drops what it cannot read and forgives
//! leftovers in a list. It serves the tests as a second opinion.

use arrayvec::ArrayVec;

use super::{ClientHello, HelloError, MAX_PROTOCOLS, Versions};
use crate::wire::name::{Name, Written};
use crate::wire::protocols::{Broken, Protocols};

const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const EARLY_DATA: u16 = 42;
const SUPPORTED_VERSIONS: u16 = 43;
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;

use HelloError::Malformed;

/// Reads the message behind its four header bytes. `length` is what it took on the wire.
pub(super) fn read(body: &[u8], length: usize) -> Result<ClientHello, HelloError> {
    let mut body = Cursor(body);
    let legacy_version = body.u16().ok_or(Malformed("the hello ends in its version"))?;
    body.take(32).ok_or(Malformed("the hello ends in its random"))?;
    let session = body.list8().ok_or(Malformed("the hello ends in its session id"))?;
    if session.0.len() > 32 {
        return Err(Malformed("the session id has more than 32 bytes"));
    }
    let suites = body.list16().ok_or(Malformed("the hello ends in its cipher suites"))?;
    if suites.is_empty() || suites.0.len() % 2 != 0 {
        return Err(Malformed("cipher suites: an empty list or half a suite"));
    }
    let compression = body.list8().ok_or(Malformed("the hello ends in its compression methods"))?;
    if compression.is_empty() {
        return Err(Malformed("compression methods: an empty list"));
    }
    let mut hello = ClientHello {
        server_name: None,
        alpn: Protocols::default(),
        versions: Versions::new(),
        ech: false,
        early_data: false,
        length,
    };
    if !body.is_empty() {
        let extensions = body.list16().ok_or(Malformed("the hello ends in its extensions"))?;
        if !body.is_empty() {
            return Err(Malformed("data follows the extensions"));
        }
        read_extensions(extensions, &mut hello)?;
    }
    if hello.versions.is_empty() {
        hello.versions.push(legacy_version);
    }
    Ok(hello)
}

fn read_extensions(mut extensions: Cursor<'_>, hello: &mut ClientHello) -> Result<(), HelloError> {
    let mut known = Known::default();
    while !extensions.is_empty() {
        let (Some(kind), Some(data)) = (extensions.u16(), extensions.list16()) else {
            return Err(Malformed("the extensions end inside one of them"));
        };
        if !known.insert(kind) {
            return Err(Malformed("an extension stands there twice"));
        }
        match kind {
            SERVER_NAME => hello.server_name = server_name(data)?,
            ALPN => hello.alpn = protocols(data)?,
            SUPPORTED_VERSIONS => hello.versions = supported_versions(data)?,
            EARLY_DATA if !data.is_empty() => return Err(Malformed("early_data is not empty")),
            EARLY_DATA => hello.early_data = true,
            ENCRYPTED_CLIENT_HELLO => hello.ech = true,
            _ => {}
        }
    }
    Ok(())
}

/// RFC 6066, section 3. The length of an entry of another type is not known, so nothing can be skipped.
fn server_name(mut data: Cursor<'_>) -> Result<Option<Name>, HelloError> {
    let mut list = data.list16().ok_or(Malformed("server_name ends inside its list"))?;
    if !data.is_empty() {
        return Err(Malformed("server_name: data follows the list"));
    }
    if list.u8().ok_or(Malformed("server_name: an empty list"))? != 0 {
        return Err(Malformed("server_name: an entry that is no host_name"));
    }
    let name = list.list16().ok_or(Malformed("server_name ends inside its host_name"))?;
    if !list.is_empty() {
        return Err(Malformed("server_name: more than one entry"));
    }
    match Name::read(name.0)? {
        Written::Name(name) => Ok(Some(name)),
        Written::Address(_) => Ok(None),
    }
}

/// RFC 7301, section 3.1.
fn protocols(mut data: Cursor<'_>) -> Result<Protocols, HelloError> {
    let list = data.list16().ok_or(Malformed("ALPN ends inside its list"))?;
    if !data.is_empty() {
        return Err(Malformed("ALPN: data follows the list"));
    }
    if list.is_empty() {
        return Err(Malformed("ALPN: an empty list"));
    }
    let protocols = Protocols::from_wire(list.0).map_err(|broken| match broken {
        Broken::Empty => Malformed("ALPN: an empty protocol"),
        Broken::Short => Malformed("ALPN ends inside a protocol"),
    })?;
    if protocols.iter().nth(MAX_PROTOCOLS).is_some() {
        return Err(Malformed("ALPN: more than 64 protocols"));
    }
    Ok(protocols)
}

/// RFC 8446, section 4.2.1.
fn supported_versions(mut data: Cursor<'_>) -> Result<Versions, HelloError> {
    let mut list = data.list8().ok_or(Malformed("supported_versions ends inside its list"))?;
    if !data.is_empty() {
        return Err(Malformed("supported_versions: data follows the list"));
    }
    if list.is_empty() || list.0.len() % 2 != 0 {
        return Err(Malformed("supported_versions: an empty list or half a version"));
    }
    let mut versions = Versions::new();
    while let Some(version) = list.u16() {
        if !is_grease(version) {
            // One too many is not worth an allocation for everyone.
            let _ = versions.try_push(version);
        }
    }
    Ok(versions)
}

/// 0x0a0a, 0x1a1a, .. 0xfafa stand for nothing (RFC 8701).
fn is_grease(value: u16) -> bool {
    let [high, low] = value.to_be_bytes();
    high == low && low & 0x0f == 0x0a
}

/// What is left to read of something. Reading past its end gives `None`.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take(&mut self, length: usize) -> Option<Cursor<'a>> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(Cursor(taken))
    }

    fn u8(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    fn u16(&mut self) -> Option<u16> {
        let (&bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u16::from_be_bytes(bytes))
    }

    /// Bytes behind a length of one byte.
    fn list8(&mut self) -> Option<Cursor<'a>> {
        let length = self.u8()?;
        self.take(length.into())
    }

    /// Bytes behind a length of two bytes.
    fn list16(&mut self) -> Option<Cursor<'a>> {
        let length = self.u16()?;
        self.take(length.into())
    }
}

/// Extension types seen so far. Real hellos have about twenty, nearly all with small numbers; thousands cost no more
/// than their bytes either.
#[derive(Default)]
struct Known {
    /// A bit each for the types below 64.
    small: u64,
    few: ArrayVec<u16, 16>,
    /// A bit each for all types, once there were more.
    many: Option<Box<[u64; 1024]>>,
}

impl Known {
    /// False if it was there already.
    fn insert(&mut self, kind: u16) -> bool {
        if kind < 64 {
            return set(&mut self.small, kind);
        }
        if self.many.is_none() && !self.few.is_full() {
            let new = !self.few.contains(&kind);
            self.few.push(kind);
            return new;
        }
        let few = &self.few;
        let many = self.many.get_or_insert_with(|| {
            let mut many = Box::new([0; 1024]);
            for kind in few {
                let _ = many.get_mut(usize::from(kind / 64)).is_some_and(|word| set(word, kind % 64));
            }
            many
        });
        many.get_mut(usize::from(kind / 64)).is_some_and(|word| set(word, kind % 64))
    }
}

/// Sets a bit; false if it was set already.
fn set(word: &mut u64, bit: u16) -> bool {
    let before = *word;
    *word |= 1 << bit;
    *word != before
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_new_once() {
        let mut known = Known::default();
        // Every 7th of all numbers in an order of its own: small ones, few, and then many.
        let kinds = || (0..=u16::MAX).map(|number| number.wrapping_mul(7));
        assert!(kinds().all(|kind| known.insert(kind)));
        assert!(kinds().all(|kind| !known.insert(kind)));
    }

    #[test]
    fn a_type_that_comes_again_among_few_is_known() {
        let mut known = Known::default();
        let kinds = [0x2a2a, 0, 51, 0xfe0d, 65_281, 63, 64];
        assert!(kinds.iter().all(|&kind| known.insert(kind)));
        assert!(kinds.iter().all(|&kind| !known.insert(kind)));
    }
}
