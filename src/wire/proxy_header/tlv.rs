//! What version 2 says besides the addresses: values with a type and a length (proxy-protocol.txt, section 2.2.2).

use crc::{CRC_32_ISCSI, Crc, Table};

use super::{HeaderError, MAX_PAYLOAD};

/// CRC32C, with a table of 1 KiB.
static CRC32C: Crc<u32, Table<1>> = Crc::<u32, Table<1>>::new(&CRC_32_ISCSI);

/// The most bytes of a [`Kind::UniqueId`].
const MAX_UNIQUE_ID: usize = 128;
/// Bytes in front of each value.
const HEAD: usize = 3;
/// Bytes of a [`Kind::Checksum`] that is written, its head included.
pub(super) const CHECKSUM: usize = HEAD + 4;

/// The types that are known. Others are passed on as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The protocol that is spoken within TLS, as ALPN has it.
    Alpn = 0x01,
    /// The name that the client asked for, such as that of its ClientHello.
    Authority = 0x02,
    /// CRC32C over the whole header, with zeros in place of itself.
    Checksum = 0x03,
    /// Nothing, to fill up.
    Noop = 0x04,
    /// What the connection is known by, at most 128 bytes.
    UniqueId = 0x05,
    /// TLS with the client: [`Ssl`].
    Ssl = 0x20,
    /// Name of a network namespace.
    Namespace = 0x30,
}

/// Values with their types, in the order they came or were added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tlvs(Vec<u8>);

/// TLS with a client that ended at the sender.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ssl<'a> {
    /// [`Ssl::TLS`] and the other bits.
    pub client: u8,
    /// The client has shown a certificate, and it is good. On the wire that is zero.
    pub is_verified: bool,
    /// Further values, one behind the other.
    values: &'a [u8],
}

/// The types within [`Ssl`] that are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SslKind {
    /// The version of TLS, such as `TLSv1.3`.
    Version = 0x21,
    /// The common name of the client's certificate.
    CommonName = 0x22,
    /// The cipher suite.
    Cipher = 0x23,
    /// How the certificate that the client was shown is signed, such as `SHA256`.
    SignatureAlgorithm = 0x24,
    /// Its key, such as `RSA2048`.
    KeyAlgorithm = 0x25,
}

impl Tlvs {
    /// Takes what stands behind the addresses.
    ///
    /// # Errors
    /// A value is cut off, or is not what its type has to have.
    pub(super) fn read(bytes: &[u8]) -> Result<Tlvs, HeaderError> {
        let mut checksums = 0;
        let rest = values(bytes).try_fold(0, |end, (kind, value)| {
            match kind {
                kind if kind == Kind::Checksum as u8 => {
                    checksums += 1;
                    if value.len() != 4 || checksums > 1 {
                        return Err(HeaderError::Malformed("the checksum is not four bytes, or there are two"));
                    }
                }
                kind if kind == Kind::UniqueId as u8 && value.len() > MAX_UNIQUE_ID => {
                    return Err(HeaderError::Malformed("the unique id has more than 128 bytes"));
                }
                kind if kind == Kind::Ssl as u8 && Ssl::read(value).is_none() => {
                    return Err(HeaderError::Malformed("the values of SSL are cut off"));
                }
                _ => {}
            }
            Ok(end + HEAD + value.len())
        })?;
        if rest != bytes.len() {
            return Err(HeaderError::Malformed("a value is cut off"));
        }
        Ok(Tlvs(bytes.to_vec()))
    }

    /// Types and values.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &[u8])> {
        values(&self.0)
    }

    /// The first value of this type.
    pub fn get(&self, kind: Kind) -> Option<&[u8]> {
        self.iter().find(|(other, _)| *other == kind as u8).map(|(_, value)| value)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a value, unless a header would be longer with it than one that is read here. Says whether it was added.
    pub fn add(&mut self, kind: u8, value: &[u8]) -> bool {
        // The longest addresses that are written are those of IPv6.
        let has_room = self.0.len() + HEAD + value.len() <= MAX_PAYLOAD - 36 - CHECKSUM;
        if has_room {
            put(kind, value, &mut self.0);
        }
        has_room
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl<'a> Ssl<'a> {
    /// The client speaks TLS.
    pub const TLS: u8 = 0x01;
    /// It has shown a certificate on this connection.
    pub const CERTIFICATE: u8 = 0x02;
    /// It has shown one in this session of TLS, which may have begun on another connection.
    pub const CERTIFICATE_OF_SESSION: u8 = 0x04;

    /// Reads the value of a [`Kind::Ssl`]; nothing if it is cut off.
    pub fn read(value: &'a [u8]) -> Option<Ssl<'a>> {
        let (&[client, a, b, c, d], within) = value.split_first_chunk()?;
        let length: usize = values(within).map(|(_, value)| HEAD + value.len()).sum();
        (length == within.len()).then_some(Ssl { client, is_verified: [a, b, c, d] == [0; 4], values: within })
    }

    /// The first value of this type.
    pub fn get(&self, kind: SslKind) -> Option<&'a [u8]> {
        values(self.values).find(|(other, _)| *other == kind as u8).map(|(_, value)| value)
    }

    /// The value of a [`Kind::Ssl`].
    pub fn write(client: u8, is_verified: bool, values: &[(SslKind, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![client];
        bytes.extend_from_slice(&u32::from(!is_verified).to_be_bytes());
        values.iter().for_each(|(kind, value)| put(*kind as u8, value, &mut bytes));
        bytes
    }
}

/// Whether the checksum that `tlvs`, which are `bytes` at the end of `header`, may have fits.
///
/// # Errors
/// It does not.
pub(super) fn verify(header: &[u8], tlvs: &Tlvs, bytes: &[u8]) -> Result<(), HeaderError> {
    let Some(&given) = tlvs.get(Kind::Checksum).and_then(<[u8]>::first_chunk) else { return Ok(()) };
    let before: usize =
        tlvs.iter().take_while(|(kind, _)| *kind != Kind::Checksum as u8).map(|(_, value)| HEAD + value.len()).sum();
    let at = header.len() - bytes.len() + before + HEAD;
    let is_same = u32::from_be_bytes(given) == checksum(header, at);
    if is_same { Ok(()) } else { Err(HeaderError::Checksum) }
}

/// CRC32C of a header whose checksum stands `at` that place.
pub(super) fn checksum(header: &[u8], at: usize) -> u32 {
    let mut digest = CRC32C.digest();
    digest.update(header.get(..at).unwrap_or_default());
    digest.update(&[0; 4]);
    digest.update(header.get(at + 4..).unwrap_or_default());
    digest.finalize()
}

/// Appends a value; what is longer than its length can say is cut.
pub(super) fn put(kind: u8, value: &[u8], bytes: &mut Vec<u8>) {
    let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
    bytes.push(kind);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(value.get(..usize::from(length)).unwrap_or_default());
}

/// Types and values, up to the first that is cut off.
fn values(mut bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (&[kind, high, low], rest) = bytes.split_first_chunk()?;
        let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
        bytes = rest;
        Some((kind, value))
    })
}
