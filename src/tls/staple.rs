//! An OCSP response that is sent along with a certificate (RFC 6960), read as far as it takes not to send a wrong one.
//!
//! Its signature is left to the clients: they are the ones to whom it says something.

use std::time::{Duration, SystemTime};

use x509_parser::asn1_rs::{FromDer, GeneralizedTime};
use x509_parser::prelude::X509Certificate;

use super::problem::Flaw;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const ENUMERATED: u8 = 0x0a;
const GENERALIZED_TIME: u8 = 0x18;
/// `[0]` and `[1]` with something inside.
const CONTEXT_0: u8 = 0xa0;
const CONTEXT_1: u8 = 0xa1;

/// A successful response about one certificate.
#[derive(Debug)]
pub(super) struct Staple {
    der: Vec<u8>,
    /// The serial number as it stands in DER.
    serial: Vec<u8>,
    until: Option<SystemTime>,
}

impl Staple {
    /// Reads a response.
    ///
    /// # Errors
    /// [`Flaw::Staple`].
    pub(super) fn read(der: Vec<u8>) -> Result<Staple, Flaw> {
        let (serial, until) = single(&der).ok_or(Flaw::Staple)?;
        Ok(Staple { serial: serial.to_owned(), until, der })
    }

    /// Whether it is about this certificate.
    pub(super) fn is_about(&self, certificate: &X509Certificate<'_>) -> bool {
        self.serial == certificate.raw_serial()
    }

    /// When there is a newer one for certain, if it says so.
    pub(super) fn until(&self) -> Option<SystemTime> {
        self.until
    }

    /// The response as it was read.
    pub(super) fn into_der(self) -> Vec<u8> {
        self.der
    }
}

/// The serial number and the end of the first single response (RFC 6960, section 4.2.1).
fn single(der: &[u8]) -> Option<(&[u8], Option<SystemTime>)> {
    let mut response = Der(Der(der).only(SEQUENCE)?);
    // 0: successful.
    if response.take(ENUMERATED)? != [0] {
        return None;
    }
    let mut bytes = Der(Der(response.take(CONTEXT_0)?).only(SEQUENCE)?);
    bytes.skip()?; // the type, which is basic for all there is
    let mut basic = Der(Der(bytes.take(OCTET_STRING)?).only(SEQUENCE)?);
    let mut data = Der(basic.take(SEQUENCE)?);
    if data.next_is(CONTEXT_0) {
        data.skip()?; // the version
    }
    data.skip()?; // who answers
    data.take(GENERALIZED_TIME)?;
    let mut first = Der(Der(data.take(SEQUENCE)?).take(SEQUENCE)?);
    let mut id = Der(first.take(SEQUENCE)?);
    id.skip()?; // the hash
    id.take(OCTET_STRING)?;
    id.take(OCTET_STRING)?;
    let serial = id.take(INTEGER)?;
    first.skip()?; // the status: a revoked certificate is for the client to see
    first.take(GENERALIZED_TIME)?;
    let until = match first.next_is(CONTEXT_0) {
        true => Some(time(first.take(CONTEXT_0)?)?),
        false => None,
    };
    // Nothing but extensions may follow.
    (first.0.is_empty() || first.next_is(CONTEXT_1)).then_some((serial, until))
}

fn time(der: &[u8]) -> Option<SystemTime> {
    let (_, time) = GeneralizedTime::from_der(der).ok()?;
    let seconds = u64::try_from(time.utc_datetime().ok()?.unix_timestamp()).ok()?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

/// What is left of some DER.
struct Der<'d>(&'d [u8]);

impl<'d> Der<'d> {
    fn next_is(&self, tag: u8) -> bool {
        self.0.first() == Some(&tag)
    }

    /// The content of the next element, which has this tag.
    fn take(&mut self, tag: u8) -> Option<&'d [u8]> {
        if self.next_is(tag) { self.skip() } else { None }
    }

    /// The content of the only element, which has this tag.
    fn only(mut self, tag: u8) -> Option<&'d [u8]> {
        let content = self.take(tag)?;
        self.0.is_empty().then_some(content)
    }

    /// The content of the next element.
    fn skip(&mut self) -> Option<&'d [u8]> {
        let (&length, rest) = self.0.get(1..)?.split_first()?;
        let (length, rest) = match length {
            0..=0x7f => (usize::from(length), rest),
            // Lengths of more than four bytes are beyond any file that is read.
            0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(length - 0x80))?;
                (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some(content)
    }
}
