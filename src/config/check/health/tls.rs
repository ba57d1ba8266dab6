//! `[pool.NAME.health.tls]`: the TLS that a probe runs in, and the files that it takes.

use std::path::Path;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{Error, RootCertStore, crypto};

use crate::bounded;
use crate::config::check::node::{Allow, Node, Table};
use crate::config::check::{Check, keys, routes};
use crate::config::model::{Address, Endpoint, Identity, ProbeTls, Secret, Trust};
use crate::config::report::quote;
use crate::config::value::{Refused, is_absolute};
use crate::tls::pair::Parts;
use crate::tls::problem::Flaw;

/// The longest PEM file, in bytes.
const LONGEST_FILE: u64 = 4 << 20;
const DEFAULT_WARN: Duration = Duration::from_secs(14 * 86_400);
/// What stands for roots.
pub(in crate::config::check) const CA: &str = "\"system\" or the absolute path of a PEM file";
const PEM: &str = "the absolute path of a PEM file, or \"off\"";

/// Reads the TLS of a probe, and how long before its end a certificate is warned of.
pub(super) fn read(node: Option<&Node<'_>>, check: &mut Check<'_>) -> (ProbeTls, Option<Duration>) {
    let table = node.map(|node| node.table(keys::HEALTH_TLS, check.report));
    let get = |key| table.as_ref().and_then(|table| table.get(key));
    let name =
        get("name").and_then(|node| {
            node.parse("a name such as \"www.example.com\", or an address", check.report, |text| {
                match ServerName::try_from(text) {
                    Ok(_) => Ok(text.to_owned()),
                    Err(_) => Err(Refused::misread(text, "is not a name that a certificate could have")),
                }
            })
        });
    let alpn = get("alpn").map(|node| alpn(&node, check)).unwrap_or_default();
    let verify = get("verify").and_then(|node| node.truth(check.report)).unwrap_or(true);
    let roots = get("ca").map(|node| {
        if !verify {
            check.report.add(node.key_at, node.path(), "with verify = false nothing is verified");
        }
        roots(&node, check)
    });
    let trust = match (verify, roots) {
        (false, _) => Trust::Anybody,
        (true, roots) => roots.unwrap_or(Trust::Roots { system: true, files: Vec::new() }),
    };
    let identity = table.as_ref().and_then(|table| identity(table, check));
    let warn = get("warn_expiry").map(|node| node.duration(Allow::PositiveOrOff, check.report));
    let warn = warn.flatten().unwrap_or(Some(DEFAULT_WARN));
    (ProbeTls { name, alpn, trust, identity }, warn)
}

/// Refuses what cannot come to a good end: h2 for a request over HTTP/1.1, and an endpoint of `own`, those that are written
/// in the configuration, without a name.
pub(super) fn fits(node: &Node<'_>, tls: &ProbeTls, speaks_http: bool, own: &[Endpoint], check: &mut Check<'_>) {
    if speaks_http && let Some(other) = tls.alpn.iter().find(|alpn| !matches!(&***alpn, b"http/1.1" | b"http/1.0")) {
        let message = format!("probe = \"http\" speaks HTTP/1.1 and not {}", quote(&String::from_utf8_lossy(other)));
        check.report.add(node.key_at, format!("{}.alpn", node.path()), message);
    }
    if tls.verifies_names_of_endpoints()
        && let Some(message) = own.iter().find_map(nameless)
    {
        check.report.add(node.key_at, node.path(), message).expected("name, or verify = false");
    }
}

/// Why an endpoint has no name by which its certificate can be verified, if it has none: what SRV records say are names
/// that anybody may have written who can answer for the name server.
pub(in crate::config::check) fn nameless(endpoint: &Endpoint) -> Option<String> {
    let what = match endpoint.address {
        Address::Unix(_) => "is a unix socket",
        Address::Srv(_) => "stands for SRV records",
        Address::Ip(_) | Address::Host { .. } => return None,
    };
    let endpoint = quote(&endpoint.name);
    Some(format!("the endpoint {endpoint} {what}, and nothing says whose certificate it has"))
}

fn alpn(node: &Node<'_>, check: &mut Check<'_>) -> Vec<Box<[u8]>> {
    const ALPN: &str = "a protocol such as \"http/1.1\", 1 to 255 bytes";
    let elements = node.list(ALPN, "an empty list says nothing; leave the key out to offer none", check.report);
    elements.iter().filter_map(|element| element.parse(ALPN, check.report, routes::protocol)).collect()
}

fn roots(node: &Node<'_>, check: &mut Check<'_>) -> Trust {
    let listed = node.list(CA, "nobody would be trusted; verify = false trusts everybody", check.report);
    trust(listed, check)
}

/// Those that these stand for.
pub(in crate::config::check) fn trust(listed: Vec<Node<'_>>, check: &mut Check<'_>) -> Trust {
    let (mut system, mut files) = (false, Vec::new());
    for element in listed {
        match element.text(CA, check.report) {
            Some("system") => system = true,
            Some(path) => files.extend(certificates(&element, path, CA, check).unwrap_or_default()),
            None => {}
        }
    }
    Trust::Roots { system, files }
}

/// The client certificate with its key: both, or none.
fn identity(table: &Table<'_>, check: &mut Check<'_>) -> Option<Identity> {
    let path = |node: &Node<'_>, check: &mut Check<'_>| {
        node.text(PEM, check.report).map(|text| (text != "off").then(|| text.to_owned()))
    };
    let (certificate, key) = (table.get("certificate"), table.get("key"));
    // What is not text counts as set: it has been reported.
    let certificate_path = certificate.as_ref().map_or(Some(None), |node| path(node, check));
    let key_path = key.as_ref().map_or(Some(None), |node| path(node, check));
    match (certificate_path?, key_path?) {
        (None, None) => None,
        (Some(_), None) => {
            let path = table.path_of("key");
            check.report.add(certificate?.key_at, path, "the certificate has no use without its key").expected(PEM);
            None
        }
        (None, Some(_)) => {
            let path = table.path_of("certificate");
            check.report.add(key?.key_at, path, "the key has no use without its certificate").expected(PEM);
            None
        }
        (Some(certificate_path), Some(key_path)) => {
            let (certificate, key) = (certificate?, key?);
            let chain = certificates(&certificate, &certificate_path, PEM, check);
            let der = private_key(&key, &key_path, check);
            let (chain, der) = (chain?, der?);
            let secret = Secret(der.secret_der().into());
            match CertifiedKey::from_der(chain.clone(), der, &crypto::aws_lc_rs::default_provider()) {
                Ok(_) => Some(Identity { chain, key: secret }),
                Err(error) => {
                    let why = match error {
                        Error::InconsistentKeys(_) => "is not the key of the certificate".to_owned(),
                        other => format!("cannot be used with the certificate: {other}"),
                    };
                    let message = format!("{} {why}", quote(&key_path));
                    check.report.add(key.at, key.path(), message).also(certificate.at);
                    None
                }
            }
        }
    }
}

/// The certificates of a file, at least one.
fn certificates(
    node: &Node<'_>,
    path: &str,
    expected: &str,
    check: &mut Check<'_>,
) -> Option<Vec<CertificateDer<'static>>> {
    let pem = file(node, path, expected, check)?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    // A store of roots takes what can be used to verify.
    let unfit = |certificate: &CertificateDer<'static>| RootCertStore::empty().add(certificate.clone()).is_err();
    let message = match read {
        Ok(certificates) if certificates.is_empty() => format!("{} has no certificate in PEM", quote(path)),
        Ok(certificates) => match certificates.iter().position(unfit) {
            None => return Some(certificates),
            Some(index) => format!("{}: certificate {} cannot be used", quote(path), index + 1),
        },
        Err(_) => format!("{} is not whole PEM", quote(path)),
    };
    check.report.add(node.at, node.path(), message);
    None
}

fn private_key(node: &Node<'_>, path: &str, check: &mut Check<'_>) -> Option<PrivateKeyDer<'static>> {
    let pem = file(node, path, PEM, check)?;
    match Parts::of_pem(&pem).and_then(|parts| parts.key.ok_or(Flaw::NoKey)) {
        Ok(key) => Some(key),
        Err(flaw) => {
            check.report.add(node.at, node.path(), format!("{} {flaw}", quote(path)));
            None
        }
    }
}

/// The bytes of a file.
fn file(node: &Node<'_>, path: &str, expected: &str, check: &mut Check<'_>) -> Option<Vec<u8>> {
    if !is_absolute(path) {
        let message = format!("{} is not an absolute path", quote(path));
        check.report.add(node.at, node.path(), message).expected(expected);
        return None;
    }
    match bounded::read_regular(Path::new(path), LONGEST_FILE) {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            check.report.add(node.at, node.path(), format!("cannot read {}: {error}", quote(path)));
            None
        }
    }
}
