//! The public RSA key of a MySQL server, for which a password can be encrypted where there is no TLS.

use std::io;
use std::path::Path;

use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OaepPublicEncryptingKey, PublicEncryptingKey};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;

use crate::bounded;

/// The longest file, in bytes.
const LONGEST: u64 = 16 * 1024;

/// A key.
#[derive(Debug)]
pub(crate) struct ServerKey(OaepPublicEncryptingKey);

/// Reads a key as servers write it (`public_key.pem` among their data).
///
/// # Errors
/// Why there is none, with its file.
pub(crate) fn read(file: &Path) -> io::Result<ServerKey> {
    let told = |error: io::Error| io::Error::new(error.kind(), format!("{file:?} cannot be read: {error}"));
    let pem = bounded::read_regular(file, LONGEST).map_err(told)?;
    let der = SubjectPublicKeyInfoDer::from_pem_slice(&pem).ok();
    let key = der.and_then(|der| OaepPublicEncryptingKey::new(PublicEncryptingKey::from_der(&der).ok()?).ok());
    let none = || format!("{file:?} has no public key of RSA (BEGIN PUBLIC KEY) with 2048 to 8192 bits");
    key.map(ServerKey).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, none()))
}

impl ServerKey {
    /// Encrypts what only the server is to read, by RSA-OAEP with SHA-1, as servers have it; nothing where it is too
    /// long.
    pub(crate) fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let mut room = vec![0; self.0.ciphertext_size()];
        let length = self.0.encrypt(&OAEP_SHA1_MGF1SHA1, plain, &mut room, None).ok()?.len();
        room.truncate(length);
        Some(room)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
    use aws_lc_rs::rsa::{KeySize, OaepPrivateDecryptingKey, PrivateDecryptingKey};
    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;

    use super::*;

    /// What a server does with its key.
    pub(crate) struct PrivateKey(OaepPrivateDecryptingKey);

    impl PrivateKey {
        /// A new one, and its public half in PEM.
        pub(crate) fn new() -> (PrivateKey, String) {
            let key = PrivateDecryptingKey::generate(KeySize::Rsa2048).unwrap();
            let der: PublicKeyX509Der<'_> = key.public_key().as_der().unwrap();
            let text = BASE64_STANDARD.encode(der.as_ref());
            let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
            let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"));
            (PrivateKey(OaepPrivateDecryptingKey::new(key).unwrap()), pem)
        }

        pub(crate) fn decrypt(&self, sealed: &[u8]) -> Vec<u8> {
            let mut room = vec![0; self.0.min_output_size()];
            self.0.decrypt(&OAEP_SHA1_MGF1SHA1, sealed, &mut room, None).unwrap().to_vec()
        }
    }

    #[test]
    fn only_the_server_can_read_it() {
        let (private, public) = PrivateKey::new();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key.pem");
        std::fs::write(&file, public).unwrap();
        let key = read(&file).unwrap();
        assert_eq!(private.decrypt(&key.encrypt(b"secret").unwrap()), b"secret");
        assert_eq!(key.encrypt(&[b'x'; 215]), None);
        for other in ["", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "key"] {
            std::fs::write(&file, other).unwrap();
            let why = format!("{file:?} has no public key of RSA (BEGIN PUBLIC KEY) with 2048 to 8192 bits");
            assert_eq!(read(&file).unwrap_err().to_string(), why, "{other:?}");
        }
        let none = folder.path().join("none");
        let why = format!("{none:?} cannot be read: No such file or directory (os error 2)");
        assert_eq!(read(&none).unwrap_err().to_string(), why);
    }
}
