//! Secrets in files, as probes log in with them.

use std::io;
use std::path::{Path, PathBuf};

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use zeroize::Zeroizing;

use crate::bounded;
use crate::config::model::SecretFile;

/// The longest secret, in bytes.
const LONGEST: u64 = 4096;

/// Secrets that may be read at once: a file system that hangs takes no more threads than these.
static READERS: Semaphore = Semaphore::const_new(16);

/// Reads a secret, without the end of its line.
///
/// # Errors
/// Why there is none, with its file.
pub(crate) fn read(from: &SecretFile) -> io::Result<Zeroizing<Vec<u8>>> {
    let path = path(from, std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from))?;
    read_at(&path).map_err(|error| io::Error::new(error.kind(), format!("{path:?} cannot be read: {error}")))
}

/// The same, for those who must not stand still for a file system that does.
///
/// # Errors
/// Those of [`read`].
pub(crate) async fn read_aside(from: &SecretFile) -> io::Result<Zeroizing<Vec<u8>>> {
    let place = READERS.acquire().await.map_err(io::Error::other)?;
    let from = from.clone();
    spawn_blocking(move || {
        let _place = place;
        read(&from)
    })
    .await
    .map_err(io::Error::other)?
}

fn path(of: &SecretFile, credentials: Option<PathBuf>) -> io::Result<PathBuf> {
    match (of, credentials) {
        (SecretFile::Path(path), _) => Ok(path.clone()),
        (SecretFile::Credential(name), Some(folder)) => Ok(folder.join(name)),
        (SecretFile::Credential(name), None) => {
            let why = format!("there is no credential {name:?}: CREDENTIALS_DIRECTORY is not set");
            Err(io::Error::new(io::ErrorKind::NotFound, why))
        }
    }
}

fn read_at(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut secret = Zeroizing::new(bounded::read_regular(path, LONGEST)?);
    for end in [b"\r\n".as_slice(), b"\n"] {
        if secret.ends_with(end) {
            let rest = secret.len() - end.len();
            secret.truncate(rest);
            break;
        }
    }
    if secret.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is empty"));
    }
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_line_is_no_part_of_a_secret() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        let long = "x".repeat(4097);
        for (text, read) in [
            ("hunter2", Ok("hunter2")),
            ("hunter2\n", Ok("hunter2")),
            ("hunter2\r\n", Ok("hunter2")),
            ("hunter2\r", Ok("hunter2\r")),
            ("hunter2\n\n", Ok("hunter2\n")),
            (" a b ", Ok(" a b ")),
            ("", Err("it is empty")),
            ("\n", Err("it is empty")),
            (&long, Err("it has more than 4 KiB")),
        ] {
            std::fs::write(&file, text).unwrap();
            let found = super::read(&SecretFile::Path(file.clone()));
            let found = found.map(|secret| String::from_utf8(secret.to_vec()).unwrap());
            let read = read.map(str::to_owned).map_err(|why| format!("{file:?} cannot be read: {why}"));
            assert_eq!(found.map_err(|error| error.to_string()), read, "{text:?}");
        }
    }

    #[test]
    fn credentials_are_where_the_environment_says() {
        let credential = SecretFile::Credential("pg".into());
        assert_eq!(path(&credential, Some("/run/c".into())).unwrap(), Path::new("/run/c/pg"));
        let error = path(&credential, None).unwrap_err().to_string();
        assert_eq!(error, "there is no credential \"pg\": CREDENTIALS_DIRECTORY is not set");
        let file = SecretFile::Path("/etc/x".into());
        assert_eq!(path(&file, Some("/run/c".into())).unwrap(), Path::new("/etc/x"));
    }
}
