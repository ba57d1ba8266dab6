//! Which files certificates are in, and reading those of one.
//!
//! A pair is known by the file of its certificates. The key is in the same file, or beside it under the same name with
//! the ending .key; certbot's fullchain.pem has privkey.pem. An OCSP response has the ending .ocsp.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use x509_parser::prelude::{FromDer, X509Certificate};

use super::key::Thorough;
use super::pair::{Pair, Parts};
use super::problem::{Flaw, Problem};
use super::staple::Staple;
use crate::bounded;
use crate::stamp::Stamp;

/// The longest file, in bytes.
const LONGEST_FILE: u64 = 1 << 20;
/// What certbot and its like call the two files of a pair, each pair in a folder of its own.
const CERTBOT: [&str; 2] = ["fullchain.pem", "privkey.pem"];

/// The files of certificates at `path`, which is a file or a folder; in a folder those that end in .pem or .crt, and
/// those of folders in it that are laid out like certbot's, by name. At least one.
///
/// # Errors
/// The path cannot be read, or the folder has none.
pub(super) fn list(path: &Path) -> Result<Vec<PathBuf>, Flaw> {
    if !fs::metadata(path).map_err(unreadable)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    if is_certbot(path) {
        return Ok(vec![path.join(CERTBOT[0])]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name();
        // Hidden files are those of editors, and of mounts that swap links.
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if matches!(Path::new(&name).extension().and_then(OsStr::to_str), Some("pem" | "crt")) {
            files.push(entry.path());
        } else if entry.file_type().map_err(unreadable)?.is_dir() && is_certbot(&entry.path()) {
            files.push(entry.path().join(CERTBOT[0]));
        }
    }
    // By their bytes: paths compare part by part, which takes longer than reading the folder.
    files.sort_unstable_by(|a, b| a.as_os_str().cmp(b.as_os_str()));
    if files.is_empty() { Err(Flaw::Empty) } else { Ok(files) }
}

fn is_certbot(folder: &Path) -> bool {
    CERTBOT.iter().all(|name| folder.join(name).is_file())
}

/// The file of the key, unless the key is with the certificate.
fn key_of(certificate: &Path) -> PathBuf {
    let [fullchain, privkey] = CERTBOT;
    match certificate.file_name().is_some_and(|name| name == fullchain) {
        true => certificate.with_file_name(privkey),
        false => certificate.with_extension("key"),
    }
}

fn staple_of(certificate: &Path) -> PathBuf {
    certificate.with_extension("ocsp")
}

/// A version of the files of a pair; a file that is not there has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sight([Option<Stamp>; 3]);

impl Sight {
    /// That of the pair in `certificate` now.
    pub(super) fn of(certificate: &Path) -> Sight {
        Sight(
            [Stamp::of(certificate), Stamp::of(&key_of(certificate)), Stamp::of(&staple_of(certificate))]
                .map(Result::ok),
        )
    }

    /// When one of them was changed last.
    pub(super) fn changed(&self) -> Option<SystemTime> {
        self.0.iter().flatten().map(Stamp::changed).max()
    }
}

/// Reads the pair in `certificate`, and what is wrong with its OCSP response, without which it can be used. A response
/// that has ended by `now` is left out.
///
/// # Errors
/// What is wrong with the certificate or its key.
pub(super) fn read(
    certificate: &Path,
    now: SystemTime,
    thorough: &Thorough,
) -> Result<(Pair, Option<Problem>), Problem> {
    let of = |file: &Path, flaw| Problem { file: file.to_owned(), flaw };
    let pem = bytes(certificate).map_err(|error| of(certificate, unreadable(error)))?;
    let parts = Parts::of_pem(&pem).map_err(|flaw| of(certificate, flaw))?;
    if parts.chain.is_empty() {
        return Err(of(certificate, Flaw::NoCertificate));
    }
    let beside = key_of(certificate);
    let (key_file, key) = match parts.key {
        Some(key) => (certificate, key),
        None => {
            let pem = bytes(&beside).map_err(|error| match error.kind() {
                ErrorKind::NotFound => of(certificate, Flaw::NoKeyFile(beside.clone())),
                _ => of(&beside, unreadable(error)),
            })?;
            let parts = Parts::of_pem(&pem).map_err(|flaw| of(&beside, flaw))?;
            (&*beside, parts.key.ok_or_else(|| of(&beside, Flaw::NoKey))?)
        }
    };
    let staple_file = staple_of(certificate);
    let (staple, problem) = match parts.chain.first().map(|leaf| staple(&staple_file, certificate, leaf, now)) {
        Some(Ok(staple)) => (staple, None),
        Some(Err(flaw)) => (None, Some(of(&staple_file, flaw))),
        None => (None, None),
    };
    let pair = Pair::new((certificate, parts.chain), (key_file, key), staple, thorough)?;
    Ok((pair, problem))
}

/// The OCSP response in `file`, if there is one.
fn staple(file: &Path, certificate: &Path, leaf: &[u8], now: SystemTime) -> Result<Option<Staple>, Flaw> {
    let der = match bytes(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        read => read.map_err(unreadable)?,
    };
    let staple = Staple::read(der)?;
    // What cannot be read is told of for the certificate.
    if X509Certificate::from_der(leaf).is_ok_and(|(_, leaf)| !staple.is_about(&leaf)) {
        return Err(Flaw::StapleOfAnother(certificate.to_owned()));
    }
    if staple.until().is_some_and(|until| until < now) {
        return Err(Flaw::StapleExpired);
    }
    Ok(Some(staple))
}

fn bytes(file: &Path) -> io::Result<Vec<u8>> {
    bounded::read_regular(file, LONGEST_FILE)
}

fn unreadable(error: io::Error) -> Flaw {
    Flaw::Unreadable(error.to_string())
}
