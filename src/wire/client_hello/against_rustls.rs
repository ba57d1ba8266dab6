//! A second opinion on hellos for tests and fuzzing: rustls reads the same bytes.

#![allow(clippy::panic)]

use rustls::server::Acceptor;

use super::{ClientHello, HelloError, Reader};

/// Reads `bytes` in both ways; true if rustls accepts them. What we accept, rustls may still refuse: it asks for more
/// than a route needs.
///
/// # Panics
/// Where rustls accepts and we do not, unless the reason is a listed one, and where both accept but
/// understand something else.
pub fn compare(bytes: &[u8]) -> bool {
    let Some((name, alpn)) = rustls_reads(bytes) else { return false };
    let ours = match Reader::default().advance(bytes) {
        Ok(Some(ours)) => ours,
        Ok(None) => panic!("rustls found a hello for {name:?}, we still wait"),
        Err(error) if stricter_on_purpose(error) => return true,
        Err(error) => panic!("rustls found a hello for {name:?}, we say: {error}"),
    };
    let ClientHello { server_name, alpn: ours_alpn, .. } = &ours;
    assert_eq!(server_name.as_ref().map(|name| name.as_str()), name.as_deref(), "the names differ");
    assert!(ours_alpn.iter().map(|protocol| &**protocol).eq(alpn.iter().map(Vec::as_slice)), "the protocols differ");
    true
}

/// Where we refuse what rustls lets pass.
fn stricter_on_purpose(error: HelloError) -> bool {
    match error {
        // Ours to limit.
        HelloError::TooLarge(_) | HelloError::TooManyRecords => true,
        // rustls allows for the expansion of encryption even in clear.
        HelloError::RecordLength(length) => length > super::MAX_RECORD,
        // rustls ignores whatever follows the first host_name, as long as it is of another type.
        HelloError::Malformed(rule) => matches!(
            rule,
            "server_name: an entry that is no host_name"
                | "server_name: more than one entry"
                | "ALPN: more than 64 protocols"
        ),
        _ => false,
    }
}

/// The name, without the root dot, and the protocols of a hello that rustls accepts.
fn rustls_reads(mut bytes: &[u8]) -> Option<(Option<String>, Vec<Vec<u8>>)> {
    let mut acceptor = Acceptor::default();
    while !bytes.is_empty() {
        acceptor.read_tls(&mut bytes).ok()?;
        if let Some(accepted) = acceptor.accept().ok()? {
            let hello = accepted.client_hello();
            let name = hello.server_name().map(|name| name.strip_suffix('.').unwrap_or(name).to_owned());
            let alpn = hello.alpn().into_iter().flatten().map(<[u8]>::to_vec).collect();
            return Some((name, alpn));
        }
    }
    None
}
