//! The secrets of session tickets in a file, which the nodes of a pair share: one a line, the newest first, each of 64
//! hexadecimal digits (`openssl rand -hex 32`). Empty lines and lines that begin with `#` say nothing.
//!
//! To change them, put a new line in front on every node, below the one that still encrypts; once all have it, move it up;
//! and take the last one away when no ticket of it is left.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::tickets::{KEY, Secret, Secrets};
use crate::bounded;
use crate::stamp::Stamp;

/// The most secrets of a file: each is tried on a ticket.
const MOST: usize = 16;

/// The longest file, in bytes.
const LONGEST_FILE: u64 = 16 * 1024;

/// Why there are no secrets in a file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Flaw {
    #[error("cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    #[error("line {0} is no secret; expected 64 hexadecimal digits, as openssl rand -hex 32 gives")]
    Line(usize),
    #[error("has no secret in it; expected at least one line of 64 hexadecimal digits")]
    Empty,
    #[error("has {0} secrets; expected at most {MOST}")]
    Many(usize),
}

/// A file of secrets that is looked at again and again.
pub(crate) struct KeyFile {
    path: PathBuf,
    read: Option<Stamp>,
}

/// Reads the secrets of a file.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn read(path: &Path) -> Result<Vec<Secret>, Flaw> {
    let bytes = Zeroizing::new(bounded::read_regular(path, LONGEST_FILE)?);
    parse(std::str::from_utf8(&bytes).map_err(io::Error::other)?)
}

fn parse(text: &str) -> Result<Vec<Secret>, Flaw> {
    let lines = text.lines().map(str::trim).enumerate();
    let said = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let secrets: Vec<Secret> =
        said.map(|(index, line)| secret(line).ok_or(Flaw::Line(index + 1))).collect::<Result<_, _>>()?;
    match secrets.len() {
        0 => Err(Flaw::Empty),
        1..=MOST => Ok(secrets),
        many => Err(Flaw::Many(many)),
    }
}

fn secret(line: &str) -> Option<Secret> {
    let mut bytes = Zeroizing::new([0; KEY]);
    let digits = line.chars().map(|digit| digit.to_digit(16).map(|digit| digit as u8));
    let digits: Zeroizing<Vec<u8>> = digits.collect::<Option<Vec<u8>>>()?.into();
    let (pairs, rest) = digits.as_chunks::<2>();
    if pairs.len() != KEY || !rest.is_empty() {
        return None;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = high << 4 | low;
    }
    Some(Secret::new(*bytes))
}

impl KeyFile {
    /// The file at `path`, and the secrets in it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn open(path: &Path) -> Result<(KeyFile, Arc<Secrets>), Flaw> {
        let stamp = Stamp::of(path)?;
        let secrets = Secrets::given(read(path)?).ok_or(Flaw::Empty)?;
        Ok((KeyFile { path: path.to_owned(), read: Some(stamp) }, secrets))
    }

    /// Takes in what has changed.
    ///
    /// # Errors
    /// What is wrong with the file, once for each version of it; what was there before stays in use.
    pub(crate) fn look(&mut self, secrets: &Secrets) -> Result<(), Flaw> {
        let now = match Stamp::of(&self.path) {
            Ok(now) => now,
            Err(_) if self.read.is_none() => return Ok(()),
            Err(error) => {
                self.read = None;
                return Err(error.into());
            }
        };
        if self.read == Some(now) {
            return Ok(());
        }
        let found = read(&self.path);
        // What the system did not let us read is tried again.
        if !matches!(found, Err(Flaw::Unreadable(_))) {
            self.read = Some(now);
        }
        secrets.replace(found?);
        Ok(())
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_as_they_are_written() {
        let key = "00112233445566778899aabbccddeeffFFEEDDCCBBAA99887766554433221100";
        let said = |text: &str| parse(text).map(|secrets| secrets.len()).map_err(|flaw| flaw.to_string());
        assert_eq!(said(key), Ok(1));
        assert_eq!(said(&format!("# of 2026\n\n{key}\r\n  {key}  \n")), Ok(2));
        for (text, part) in [
            (String::new(), "has no secret"),
            ("# nothing\n".into(), "has no secret"),
            (format!("{key}\n{}", &key[1..]), "line 2 is no secret"),
            (format!("{key}0"), "line 1 is no secret"),
            ("x".repeat(64), "line 1 is no secret"),
            (format!("{key}\n").repeat(17), "has 17 secrets"),
        ] {
            assert!(said(&text).is_err_and(|flaw| flaw.contains(part)), "{text:?}");
        }
    }

    #[test]
    fn a_file_is_read_again_once_it_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let line = |digit: &str| format!("{}\n", digit.repeat(64));
        std::fs::write(&path, line("a")).unwrap();
        let (mut file, secrets) = KeyFile::open(&path).unwrap();
        let put = |text: &str| {
            std::fs::write(folder.path().join("new"), text).unwrap();
            std::fs::rename(folder.path().join("new"), &path).unwrap();
        };
        assert!(file.look(&secrets).is_ok());
        put("nonsense");
        assert!(file.look(&secrets).is_err(), "told once");
        assert!(file.look(&secrets).is_ok());
        put(&(line("b") + &line("a")));
        assert!(file.look(&secrets).is_ok());
        assert_eq!(secrets.len(std::time::Instant::now()), 2);
        std::fs::remove_file(&path).unwrap();
        assert!(file.look(&secrets).is_err());
        assert!(file.look(&secrets).is_ok(), "told once");
        assert_eq!(secrets.len(std::time::Instant::now()), 2);
    }
}
