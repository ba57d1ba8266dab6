//! What a failure of TLS is called: a word for the metrics, and a sentence for people.
//!
//! | cause | why a handshake failed |
//! |---|---|
//! | `gone` | the other side left |
//! | `timeout` | it was not over in time |
//! | `alert` | the other side refused by an alert |
//! | `version` | no version of TLS in common |
//! | `parameters` | no cipher suite, group or signature in common |
//! | `protocol` | no protocol (ALPN) in common |
//! | `certificate_missing` | no certificate was shown |
//! | `certificate_expired` | a certificate has ended, or has not begun |
//! | `certificate_revoked` | a certificate is on a list of revoked ones |
//! | `certificate_unlisted` | no list tells whether a certificate is revoked |
//! | `certificate_list_expired` | the list of revoked certificates has ended |
//! | `certificate_untrusted` | the certificate is of an authority that is not trusted |
//! | `certificate_name` | the certificate is that of another name |
//! | `certificate_pin` | the certificate has another key than those that are pinned |
//! | `certificate_bad` | a certificate cannot be used for another reason |
//! | `malformed` | what was sent breaks the rules of TLS |
//! | `internal` | our side is to blame |

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

use super::expiry;
use super::verifier::OtherKey;

/// The word for why a handshake failed, as the table above has it.
pub(crate) fn cause(error: &Error) -> &'static str {
    use CertificateError as Bad;
    match error {
        Error::AlertReceived(AlertDescription::NoApplicationProtocol) => "protocol",
        Error::AlertReceived(_) => "alert",
        Error::PeerIncompatible(what) if is_version(what) => "version",
        Error::PeerIncompatible(_) => "parameters",
        Error::NoApplicationProtocol => "protocol",
        Error::NoCertificatesPresented => "certificate_missing",
        Error::InvalidCertificate(bad) => match bad {
            Bad::Expired | Bad::ExpiredContext { .. } | Bad::NotValidYet | Bad::NotValidYetContext { .. } => {
                "certificate_expired"
            }
            Bad::Revoked => "certificate_revoked",
            Bad::UnknownRevocationStatus => "certificate_unlisted",
            Bad::ExpiredRevocationList | Bad::ExpiredRevocationListContext { .. } => "certificate_list_expired",
            Bad::UnknownIssuer => "certificate_untrusted",
            Bad::Other(other) if other.0.is::<OtherKey>() => "certificate_pin",
            Bad::NotValidForName | Bad::NotValidForNameContext { .. } => "certificate_name",
            _ => "certificate_bad",
        },
        Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. }
        | Error::InvalidMessage(_)
        | Error::PeerMisbehaved(_)
        | Error::PeerSentOversizedRecord
        | Error::DecryptError => "malformed",
        _ => "internal",
    }
}

/// Whether our side is to blame.
pub(crate) fn is_ours(error: &Error) -> bool {
    cause(error) == "internal"
}

/// Why a handshake failed, in words.
pub(crate) fn words(error: &Error) -> Cow<'static, str> {
    match error {
        Error::InvalidCertificate(error) => certificate(error),
        Error::NoCertificatesPresented => "no certificate was shown".into(),
        Error::NoApplicationProtocol => "no protocol (ALPN) in common".into(),
        Error::AlertReceived(alert) => alerted(*alert),
        Error::PeerIncompatible(what) if is_version(what) => "no version of TLS in common".into(),
        Error::PeerIncompatible(what) => format!("nothing in common: {what:?}").into(),
        Error::InvalidMessage(what) => format!("a message cannot be read: {what:?}").into(),
        other => other.to_string().into(),
    }
}

/// What is wrong with a certificate, in words.
pub(crate) fn certificate(error: &CertificateError) -> Cow<'static, str> {
    use CertificateError as Bad;
    let on = |time: &UnixTime| expiry::day(SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs()));
    match error {
        Bad::Expired => "certificate expired".into(),
        Bad::ExpiredContext { not_after, .. } => format!("certificate expired on {}", on(not_after)).into(),
        Bad::NotValidYetContext { not_before, .. } => {
            format!("certificate is not valid before {}", on(not_before)).into()
        }
        Bad::UnknownIssuer => "certificate is of an issuer that is not trusted".into(),
        Bad::Revoked => "certificate is revoked".into(),
        Bad::UnknownRevocationStatus => "no list tells whether the certificate is revoked".into(),
        Bad::ExpiredRevocationListContext { next_update, .. } => {
            format!("the list of revoked certificates has expired on {}", on(next_update)).into()
        }
        Bad::NotValidForNameContext { expected, presented } => {
            let names = presented.iter().map(|name| plain_name(name)).collect::<Vec<_>>().join(", ");
            let names = if names.is_empty() { "no name".to_owned() } else { names };
            format!("certificate is for {names}, not for {}", expected.to_str()).into()
        }
        Bad::Other(other) if other.0.is::<OtherKey>() => other.0.to_string().into(),
        // What openssl req -x509 makes by default.
        Bad::Other(other) if other.0.to_string() == "CaUsedAsEndEntity" => {
            "certificate is that of an authority, which is trusted as an endpoint's own only where it is itself in ca"
                .into()
        }
        Bad::Other(other) => format!("certificate: {}", other.0).into(),
        other => format!("certificate: {other}").into(),
    }
}

/// A name as rustls tells it, `DnsName("a.example")`, without the wrapping.
fn plain_name(name: &str) -> &str {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.map_or(name, |inner| inner.trim_matches('"'))
}

fn is_version(what: &PeerIncompatible) -> bool {
    use PeerIncompatible as Has;
    matches!(
        what,
        Has::ServerDoesNotSupportTls12Or13
            | Has::ServerTlsVersionIsDisabledByOurConfig
            | Has::SupportedVersionsExtensionRequired
            | Has::Tls12NotOffered
            | Has::Tls12NotOfferedOrEnabled
    )
}

/// As the standard writes it: `unknown_ca` for `UnknownCA`.
fn alert_name(alert: AlertDescription) -> String {
    let mut name = String::new();
    let mut before = 'A';
    for letter in format!("{alert:?}").chars() {
        if letter.is_ascii_uppercase() && before.is_ascii_lowercase() {
            name.push('_');
        }
        name.push(letter.to_ascii_lowercase());
        before = letter;
    }
    name
}

fn alerted(alert: AlertDescription) -> Cow<'static, str> {
    let meaning = match alert {
        AlertDescription::UnknownCA => "does not trust the issuer of our certificate",
        AlertDescription::BadCertificate => "does not take our certificate",
        AlertDescription::CertificateUnknown => "does not take our certificate",
        AlertDescription::CertificateExpired => "finds our certificate expired",
        AlertDescription::CertificateRevoked => "finds our certificate revoked",
        AlertDescription::CertificateRequired => "wants a certificate",
        AlertDescription::UnrecognisedName => "does not know the name",
        AlertDescription::NoApplicationProtocol => "takes none of our protocols (ALPN)",
        AlertDescription::ProtocolVersion => "takes none of our versions of TLS",
        AlertDescription::HandshakeFailure => "finds nothing in common",
        other => return format!("the other side refused: alert {}", alert_name(other)).into(),
    };
    format!("the other side {meaning}: alert {}", alert_name(alert)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_by_name() {
        for (error, name, text) in [
            (Error::NoCertificatesPresented, "certificate_missing", "no certificate was shown"),
            (CertificateError::Revoked.into(), "certificate_revoked", "certificate is revoked"),
            (
                CertificateError::UnknownIssuer.into(),
                "certificate_untrusted",
                "certificate is of an issuer that is not trusted",
            ),
            (
                Error::AlertReceived(AlertDescription::UnknownCA),
                "alert",
                "the other side does not trust the issuer of our certificate: alert unknown_ca",
            ),
            (PeerIncompatible::Tls12NotOffered.into(), "version", "no version of TLS in common"),
            (
                PeerIncompatible::NoCipherSuitesInCommon.into(),
                "parameters",
                "nothing in common: NoCipherSuitesInCommon",
            ),
            (Error::DecryptError, "malformed", "cannot decrypt peer's message"),
            (Error::General("x".into()), "internal", "unexpected error: x"),
        ] {
            assert_eq!((cause(&error), &*words(&error)), (name, text));
        }
        let time = UnixTime::since_unix_epoch(Duration::from_secs(0));
        let expired = CertificateError::ExpiredContext { time, not_after: time };
        assert_eq!(certificate(&expired), "certificate expired on 1970-01-01");
    }
}
