//! Who a client says that it is: what is told of the certificate that it has shown.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::SystemTime;

use x509_parser::asn1_rs::ToDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

use super::expiry::time;
use crate::observe::line::MOST_OF_A_LIST;
use crate::observe::record::Presented;

/// The most bytes of a subject or of one name that are told.
const MOST: usize = 256;

/// What is told of a certificate in DER that was found to be good.
pub(crate) fn presented(certificate: &[u8]) -> Presented {
    let Ok((_, read)) = X509Certificate::from_der(certificate) else { return Presented::default() };
    let names = read.subject_alternative_name().ok().flatten();
    let names = names.iter().flat_map(|extension| &extension.value.general_names).filter_map(name);
    // One more than is told, so that it is told that there are others.
    let names = names.take(MOST_OF_A_LIST + 1).collect();
    let mut serial = String::new();
    for byte in read.raw_serial() {
        let _ = write!(serial, "{byte:02x}");
    }
    let (subject, issuer) = (cut(subject(read.subject())), cut(subject(read.issuer())));
    Presented { subject: subject.into(), issuer: issuer.into(), serial: cut(serial).into(), names }
}

/// The common name in the subject of a certificate in DER.
pub(crate) fn common_name(certificate: &[u8]) -> Option<String> {
    let (_, read) = X509Certificate::from_der(certificate).ok()?;
    let name = read.subject().iter_common_name().next()?;
    Some(cut(name.as_str().ok()?.to_owned()))
}

/// When a certificate in DER ends.
pub(crate) fn until(certificate: &[u8]) -> Option<SystemTime> {
    validity(certificate).map(|(_, until)| until)
}

/// From when until when a certificate in DER holds.
pub(super) fn validity(certificate: &[u8]) -> Option<(SystemTime, SystemTime)> {
    let (_, read) = X509Certificate::from_der(certificate).ok()?;
    Some((time(read.validity.not_before), time(read.validity.not_after)))
}

/// An alternative name with its kind in front, as openssl writes it. What has no text is left out.
fn name(name: &GeneralName<'_>) -> Option<Box<str>> {
    let text = match name {
        GeneralName::DNSName(name) => format!("DNS:{name}"),
        GeneralName::RFC822Name(name) => format!("email:{name}"),
        GeneralName::URI(name) => format!("URI:{name}"),
        GeneralName::IPAddress(bytes) => format!("IP:{}", address(bytes)?),
        _ => return None,
    };
    Some(cut(text).into())
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = || <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let v6 = || <[u8; 16]>::try_from(bytes).map(IpAddr::from);
    v4().or_else(|_| v6()).ok()
}

/// A distinguished name as text (RFC 4514): the last part first, with whatever could be taken for a part of another escaped.
fn subject(name: &X509Name<'_>) -> String {
    let parts: Vec<_> = name.iter_rdn().collect();
    let mut text = String::new();
    for part in parts.into_iter().rev() {
        for (index, attribute) in part.iter().enumerate() {
            if index > 0 {
                text.push('+');
            } else if !text.is_empty() {
                text.push(',');
            }
            write_attribute(attribute, &mut text);
        }
    }
    text
}

fn write_attribute(attribute: &AttributeTypeAndValue<'_>, text: &mut String) {
    let kind = attribute.attr_type().to_id_string();
    // Section 3, and what everybody calls addresses in certificates.
    let short = match kind.as_str() {
        "2.5.4.3" => "CN",
        "2.5.4.6" => "C",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.9" => "STREET",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "0.9.2342.19200300.100.1.1" => "UID",
        "0.9.2342.19200300.100.1.25" => "DC",
        "1.2.840.113549.1.9.1" => "emailAddress",
        _ => kind.as_str(),
    };
    let _ = write!(text, "{short}=");
    let Ok(value) = attribute.as_str() else {
        // What has no text is told as it is in the certificate (section 2.4).
        text.push('#');
        for byte in attribute.attr_value().to_der_vec().unwrap_or_default() {
            let _ = write!(text, "{byte:02x}");
        }
        return;
    };
    let last = value.chars().count().saturating_sub(1);
    for (index, c) in value.chars().enumerate() {
        let is_at_edge = (index == 0 && matches!(c, ' ' | '#')) || (index == last && c == ' ');
        if is_at_edge || matches!(c, '"' | '+' | ',' | ';' | '<' | '>' | '\\') {
            text.push('\\');
        }
        match c {
            '\0' => text.push_str("\\00"),
            c => text.push(c),
        }
    }
}

/// The first bytes of what is too long, and that it was.
fn cut(mut text: String) -> String {
    if text.len() > MOST {
        let end = (0..=MOST).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
        text.truncate(end);
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests {
    use rcgen::string::Ia5String;
    use rcgen::{CertificateParams, DnType, DnValue, KeyPair, SanType};

    use super::*;

    fn told(make: impl FnOnce(&mut CertificateParams)) -> Presented {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        make(&mut params);
        presented(params.self_signed(&KeyPair::generate().unwrap()).unwrap().der())
    }

    #[test]
    fn subjects() {
        for (case, parts, expected) in [
            ("plain", &[(DnType::OrganizationName, "Example"), (DnType::CommonName, "db-1")][..], "CN=db-1,O=Example"),
            ("parts within a part", &[(DnType::CommonName, "a,O=Admins+OU=x")], r"CN=a\,O=Admins\+OU=x"),
            ("at the edges", &[(DnType::CommonName, "#a ")], r"CN=\#a\ "),
            ("one space", &[(DnType::CommonName, " ")], r"CN=\ "),
            ("unknown", &[(DnType::CustomDnType(vec![1, 2, 3]), "x")], "1.2.3=x"),
            ("none", &[], ""),
        ] {
            let presented = told(|params| {
                for (kind, value) in parts {
                    params.distinguished_name.push(kind.clone(), DnValue::Utf8String((*value).to_owned()));
                }
            });
            assert_eq!(&*presented.subject, expected, "{case}");
        }
        let long = told(|params| params.distinguished_name.push(DnType::CommonName, "é".repeat(1000)));
        assert_eq!(long.subject.len(), 255 + 3, "cut between characters");
        assert!(long.subject.ends_with("..."));
    }

    #[test]
    fn alternative_names() {
        let text = |text: &str| Ia5String::try_from(text).unwrap();
        let presented = told(|params| {
            params.subject_alt_names = vec![
                SanType::DnsName(text("a.example")),
                SanType::Rfc822Name(text("dba@example.com")),
                SanType::URI(text("spiffe://example.com/db")),
                SanType::IpAddress("2001:db8::1".parse().unwrap()),
                SanType::IpAddress("192.0.2.1".parse().unwrap()),
            ];
        });
        assert_eq!(
            presented.names.iter().map(|name| &**name).collect::<Vec<_>>(),
            ["DNS:a.example", "email:dba@example.com", "URI:spiffe://example.com/db", "IP:2001:db8::1", "IP:192.0.2.1"]
        );
        assert_eq!((&*presented.issuer, presented.serial.len()), ("", 40), "self-signed, with a number of 20 bytes");
        let many = told(|params| {
            params.subject_alt_names = vec![SanType::DnsName(text("a.example")); 1000];
        });
        assert_eq!(many.names.len(), MOST_OF_A_LIST + 1);
        assert_eq!(super::presented(b"nonsense"), Presented::default());
    }
}
