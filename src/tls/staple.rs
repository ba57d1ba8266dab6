//! An OCSP response that is sent along with a certificate (RFC 6960), read as far as it takes not to send a wrong one.
//!
//! Its signature is left to the clients: they are the ones to whom it says something.

use std::time::{Duration, SystemTime};

use x509_parser::asn1_rs::{FromDer, GeneralizedTime};
use x509_parser::prelude::X509Certificate;

use super::der::{CONTEXT_0, CONTEXT_1, Der, ENUMERATED, GENERALIZED_TIME, INTEGER, OCTET_STRING, SEQUENCE};
use super::problem::Flaw;

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
    let mut response = Der::inside(der, SEQUENCE)?;
    // 0: successful.
    if response.take(ENUMERATED)? != [0] {
        return None;
    }
    let mut bytes = Der::inside(response.take(CONTEXT_0)?, SEQUENCE)?;
    bytes.skip()?; // the type, which is basic for all there is
    let mut basic = Der::inside(bytes.take(OCTET_STRING)?, SEQUENCE)?;
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
    (first.is_empty() || first.next_is(CONTEXT_1)).then_some((serial, until))
}

fn time(der: &[u8]) -> Option<SystemTime> {
    let (_, time) = GeneralizedTime::from_der(der).ok()?;
    let seconds = u64::try_from(time.utc_datetime().ok()?.unix_timestamp()).ok()?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}
