//! What is kept in a folder that both nodes of a pair may share: accounts, certificates, challenges, locks.
//!
//! ```text
//! accounts/HOST-PATH.json     the account with the directory at this URL, and its key
//! certificates/NAME.pem       a certificate, what leads to its root, and its key
//! challenges/NAME             what proves at this moment that the name is ours
//! locks/NAME                  who orders a certificate for the name
//! locks/account@HOST-PATH     who makes the account
//! ```
//!
//! A file is only ever put in its place as a whole, and is its owner's alone. Everything here blocks.

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::bounded;
use crate::wire::name::Name;

/// The longest name, in bytes, for which there can be files: the system allows 255.
pub(crate) const LONGEST_NAME: usize = 230;
/// The longest file, in bytes.
const LONGEST_FILE: u64 = 1 << 20;
/// The longest challenge, in bytes.
const LONGEST_CHALLENGE: u64 = 1024;

/// Where the certificate of `name` is kept. A name has neither slashes nor empty labels, so it never leads elsewhere.
pub(crate) fn certificate(storage: &Path, name: &Name) -> PathBuf {
    storage.join("certificates").join(format!("{name}.pem"))
}

/// Where the challenge of `name` is kept.
pub(super) fn challenge(storage: &Path, name: &Name) -> PathBuf {
    storage.join("challenges").join(name.as_str())
}

/// Where the account with the directory at `url` is kept. Other URLs may lead to the same file.
pub(crate) fn account(storage: &Path, url: &str) -> PathBuf {
    storage.join("accounts").join(format!("{}.json", slug(url)))
}

/// The file that says who orders a certificate for `name`.
pub(super) fn lock(storage: &Path, name: &Name) -> PathBuf {
    storage.join("locks").join(name.as_str())
}

/// The file that says who makes the account with the directory at `url`. No name has an @.
pub(super) fn account_lock(storage: &Path, url: &str) -> PathBuf {
    storage.join("locks").join(format!("account@{}", slug(url)))
}

/// `text` without what a file must not be called.
fn slug(text: &str) -> String {
    let text = text.strip_prefix("https://").unwrap_or(text);
    let plain = |byte: char| if byte.is_ascii_alphanumeric() || byte == '.' { byte } else { '-' };
    text.chars().map(plain).take(LONGEST_NAME).collect::<String>().trim_start_matches('.').to_owned()
}

/// Reads a file; `None`: there is none.
///
/// # Errors
/// What the system says, and more than a MiB.
pub(super) fn read(path: &Path) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    read_short(path, LONGEST_FILE)
}

/// Reads a challenge; `None`: there is none.
///
/// # Errors
/// What the system says, and more than a challenge can have.
pub(super) fn read_challenge(path: &Path) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    read_short(path, LONGEST_CHALLENGE)
}

fn read_short(path: &Path, longest: u64) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    match bounded::read_regular(path, longest) {
        Ok(bytes) => Ok(Some(bytes.into())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Puts a file in its place, at once and for good: whoever reads it finds the old content or the new one.
///
/// # Errors
/// What the system says; what was there before is still there.
pub(super) fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = folder_of(path)?;
    // Hidden, so that nobody takes it for a certificate; its mode is 0600.
    let mut new = tempfile::Builder::new().prefix(".new-").tempfile_in(folder)?;
    new.write_all(content)?;
    new.as_file().sync_all()?;
    new.persist(path)?;
    match File::open(folder)?.sync_all() {
        // Some file systems do not know of it.
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        synced => synced,
    }
}

/// Removes a file that may be gone already.
///
/// # Errors
/// What the system says.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The folder of a file, made if it is not there.
pub(super) fn folder_of(path: &Path) -> io::Result<&Path> {
    let folder = path.parent().ok_or(ErrorKind::InvalidInput)?;
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::wire::name::Written;

    #[test]
    fn files_stay_within_the_folder() {
        let storage = Path::new("/s");
        let Ok(Written::Name(name)) = Name::read(b"A.example.") else { unreachable!() };
        assert_eq!(certificate(storage, &name), Path::new("/s/certificates/a.example.pem"));
        assert_eq!(challenge(storage, &name), Path::new("/s/challenges/a.example"));
        for (url, file) in [
            ("https://acme-v02.api.letsencrypt.org/directory", "acme-v02.api.letsencrypt.org-directory.json"),
            ("https://[::1]:14000/dir", "---1--14000-dir.json"),
            ("https://../../etc", "-..-etc.json"),
        ] {
            assert_eq!(account(storage, url), Path::new("/s/accounts").join(file), "{url}");
        }
        let long = account_lock(storage, &"a/".repeat(300));
        assert_eq!(long.as_os_str().len(), "/s/locks/account@".len() + LONGEST_NAME);
        assert_eq!(account_lock(storage, "https://a.example"), Path::new("/s/locks/account@a.example"));
        assert_eq!(lock(storage, &name), Path::new("/s/locks/a.example"));
        let Ok(Written::Name(name)) = Name::read(b"a_b.example") else { unreachable!() };
        assert_eq!(lock(storage, &name), Path::new("/s/locks/a_b.example"));
    }

    #[test]
    fn a_file_is_there_as_a_whole_and_for_its_owner_alone() {
        let storage = tempfile::tempdir().unwrap();
        let path = storage.path().join("deep").join("certificates").join("a.pem");
        assert!(read(&path).unwrap().is_none());
        for content in ["one", "another"] {
            write(&path, content.as_bytes()).unwrap();
            assert_eq!(read(&path).unwrap().unwrap().as_slice(), content.as_bytes());
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left behind");
        assert!(read_short(&path, 3).is_err());
        remove(&path).unwrap();
        remove(&path).unwrap();
    }
}
