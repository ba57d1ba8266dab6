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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tls::sample::{SERIAL, staple, year};

    #[test]
    fn what_it_is_about_and_until_when() {
        for (until, expected) in [(Some("20300101000000Z"), Some(year(2030))), (None, None)] {
            let read = Staple::read(staple(&SERIAL, until)).unwrap();
            assert_eq!((&read.serial[..], read.until), (&SERIAL[..], expected));
            assert_eq!(read.into_der(), staple(&SERIAL, until));
        }
    }

    #[test]
    fn what_is_none() {
        let good = staple(&SERIAL, Some("20300101000000Z"));
        for length in 0..good.len() {
            assert!(Staple::read(good[..length].to_vec()).is_err(), "{length} bytes");
        }
        assert!(Staple::read([&good[..], &[0]].concat()).is_err(), "a byte too many");
        // RFC 6960, section 4.2.1: "try later".
        assert!(Staple::read(vec![0x30, 3, 0x0a, 1, 3]).is_err());
        assert!(Staple::read(staple(&SERIAL, Some("tomorrow"))).is_err());
    }

    proptest! {
        #[test]
        fn nothing_panics(
            bytes in proptest::collection::vec(any::<u8>(), 0..100), at in any::<prop::sample::Index>(), byte: u8,
        ) {
            let _ = Staple::read(bytes);
            let mut changed = staple(&SERIAL, Some("20300101000000Z"));
            let index = at.index(changed.len());
            changed[index] = byte;
            let _ = Staple::read(changed);
        }
    }
}
