//! How a user proves that it knows its password, in the ways of MySQL and MariaDB that are spoken here.

use aws_lc_rs::digest::{self, Algorithm, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use zeroize::Zeroizing;

use crate::wire::mysql::greeting::NONCE;

/// A way to log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    /// That of MySQL up to 5.7, and of MariaDB.
    NativePassword,
    /// That of MySQL from 8.0 on: the server asks for the password itself if it has not seen this user for a while.
    CachingSha2,
}

impl Method {
    /// The one that a server calls so.
    pub(super) fn named(name: &str) -> Option<Method> {
        [Method::NativePassword, Method::CachingSha2].into_iter().find(|method| method.name() == name)
    }

    /// What servers call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Method::NativePassword => "mysql_native_password",
            Method::CachingSha2 => "caching_sha2_password",
        }
    }

    /// What proves the knowledge of a password; nothing can be read off it but whether a guess is right.
    pub(super) fn proof(self, password: &[u8], nonce: &[u8; NONCE]) -> Vec<u8> {
        if password.is_empty() {
            return Vec::new();
        }
        let (by, nonce): (_, &[u8]) = match self {
            Method::NativePassword => (&SHA1_FOR_LEGACY_USE_ONLY, nonce),
            Method::CachingSha2 => (&SHA256, nonce),
        };
        let once = hash(by, &[password]);
        let twice = hash(by, &[&once]);
        let cover = match self {
            Method::NativePassword => hash(by, &[nonce, &twice]),
            Method::CachingSha2 => hash(by, &[&twice, nonce]),
        };
        once.iter().zip(&*cover).map(|(once, cover)| once ^ cover).collect()
    }
}

fn hash(by: &'static Algorithm, parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    let mut context = digest::Context::new(by);
    for part in parts {
        context.update(part);
    }
    Zeroizing::new(context.finish().as_ref().to_vec())
}

/// The password itself, for a connection on which nobody listens.
pub(super) fn bare(password: &[u8]) -> Zeroizing<Vec<u8>> {
    Zeroizing::new([password, &[0]].concat())
}

/// The password as it is encrypted for the server alone: with the nonce laid over it, so that it cannot be used again.
pub(super) fn covered(password: &[u8], nonce: &[u8; NONCE]) -> Zeroizing<Vec<u8>> {
    let mut covered = bare(password);
    for (byte, nonce) in covered.iter_mut().zip(nonce.iter().cycle()) {
        *byte ^= nonce;
    }
    covered
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE_1_TO_20: [u8; NONCE] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20];

    /// The expected ones are those of PyMySQL 1.2.
    #[test]
    fn proofs_are_those_of_other_clients() {
        for (method, password, expected) in [
            (Method::NativePassword, "correct horse", "85cbaea93f89ea1664bbfdce6ce1af4f0f4a9f88"),
            (Method::CachingSha2, "correct horse", "f16e4bdf1fbf64d96bba0a87b408b36ba19739c0313d446bba6b4165c13c40fc"),
            (Method::NativePassword, "", ""),
            (Method::CachingSha2, "", ""),
        ] {
            let proof = method.proof(password.as_bytes(), &NONCE_1_TO_20);
            let proof: String = proof.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(proof, expected, "{method:?} with {password:?}");
            assert_eq!(Method::named(method.name()), Some(method));
        }
        assert_eq!(Method::named("mysql_clear_password"), None);
    }

    #[test]
    fn the_nonce_lies_over_the_password() {
        let covered = covered(b"\0\0correct horse battery", &NONCE_1_TO_20);
        assert_eq!(covered[..3], [1, 2, 3 ^ b'c']);
        assert_eq!(covered[20..], [1 ^ b'e', 2 ^ b'r', 3 ^ b'y', 4]);
        assert_eq!(*bare(b"secret"), *b"secret\0");
    }
}
