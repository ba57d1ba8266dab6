//! Certificates, keys and OCSP responses for tests and fuzzing.

#![cfg_attr(fuzzing, allow(clippy::unwrap_used, clippy::panic, dead_code))]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, KeyPair, SerialNumber, SigningKey, date_time_ymd};

/// A folder of certificates.
pub(super) struct Folder(tempfile::TempDir);

impl Folder {
    pub(super) fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    pub(super) fn path(&self) -> PathBuf {
        self.0.path().to_owned()
    }

    pub(super) fn join(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Puts a file in its place at once, as it should be done.
    pub(super) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let (path, new) = (self.join(name), self.join(".new"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&new, content).unwrap();
        fs::rename(new, path).unwrap();
    }

    pub(super) fn remove(&self, name: &str) {
        fs::remove_file(self.join(name)).unwrap();
    }

    /// `text` without the name of the folder.
    pub(super) fn shown(&self, text: &str) -> String {
        text.replace(&format!("{}/", self.0.path().display()), "").replace(&self.0.path().display().to_string(), ".")
    }
}

/// A key of this kind, the same each time: "rsa", "p256", "p384", "ed25519".
pub(super) fn key(kind: &str) -> KeyPair {
    static RSA: OnceLock<String> = OnceLock::new();
    match kind {
        // Making one takes a while.
        "rsa" => {
            let made = RSA.get_or_init(|| KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap().serialize_pem());
            KeyPair::from_pem(made).unwrap()
        }
        "p256" => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap(),
        "p384" => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap(),
        "ed25519" => KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap(),
        _ => panic!("no such kind of key: {kind}"),
    }
}

/// A certificate for these names, between these years.
pub(super) fn certificate(names: &[&str], key: &impl SigningKey, (from, until): (i32, i32)) -> rcgen::Certificate {
    let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
    params.not_before = date_time_ymd(from, 1, 1);
    params.not_after = date_time_ymd(until, 1, 1);
    params.serial_number = Some(SerialNumber::from(SERIAL.to_vec()));
    params.self_signed(key).unwrap()
}

/// A good pair in one file.
pub(super) fn bundle(names: &[&str], kind: &str) -> String {
    bundle_of(names, kind, (2020, 2090))
}

pub(super) fn bundle_of(names: &[&str], kind: &str, years: (i32, i32)) -> String {
    let key = key(kind);
    certificate(names, &key, years).pem() + &key.serialize_pem()
}

/// The first of January of `year`.
pub(super) fn year(year: i32) -> SystemTime {
    let since = u64::try_from(date_time_ymd(year, 1, 1).unix_timestamp()).unwrap();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since)
}

/// That of every certificate here.
pub(super) const SERIAL: [u8; 3] = [5, 0, 7];

/// An OCSP response about the certificate of this serial number, good until this time ("20300101000000Z").
pub(super) fn staple(serial: &[u8], until: Option<&str>) -> Vec<u8> {
    let time = |text: &str| tlv(0x18, &[text.as_bytes()]);
    let hash = tlv(0x04, &[&[1; 20]]);
    let algorithm = tlv(0x30, &[&tlv(0x06, &[&[0x2b, 0x0e, 0x03, 0x02, 0x1a]]), &tlv(0x05, &[])]);
    let id = tlv(0x30, &[&algorithm, &hash, &hash, &tlv(0x02, &[serial])]);
    let next = until.map(|until| tlv(0xa0, &[&time(until)])).unwrap_or_default();
    let single = tlv(0x30, &[&id, &tlv(0x80, &[]), &time("20250101000000Z"), &next]);
    let data = tlv(0x30, &[&tlv(0xa2, &[&hash]), &time("20250101000000Z"), &tlv(0x30, &[&single])]);
    let basic = tlv(0x30, &[&data, &algorithm, &tlv(0x03, &[&[0; 300]])]);
    let kind = tlv(0x06, &[&[0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1]]);
    tlv(0x30, &[&tlv(0x0a, &[&[0]]), &tlv(0xa0, &[&tlv(0x30, &[&kind, &tlv(0x04, &[&basic])])])])
}

fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = match content.len() {
        short @ 0..=0x7f => vec![short as u8],
        long => [&[0x82][..], &(long as u16).to_be_bytes()].concat(),
    };
    [&[tag][..], &length, &content].concat()
}

/// Whether `path` is that of a file here.
pub(super) fn file_name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}
