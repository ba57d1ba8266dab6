//! The key that binds an account to one that the authority has already (RFC 8555, section 7.3.4), in a file.

use std::io;
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::bounded;
use crate::config::model::Secret;

/// The longest file, in bytes.
const LONGEST_FILE: u64 = 4096;

/// Why there is no key in a file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Flaw {
    #[error("cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    #[error("has no key in it; expected one line in base64url")]
    NoKey,
}

/// Reads the key in the file at `path`.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn read(path: &Path) -> Result<Secret, Flaw> {
    parse(&Zeroizing::new(bounded::read_regular(path, LONGEST_FILE)?)).ok_or(Flaw::NoKey)
}

fn parse(text: &[u8]) -> Option<Secret> {
    // Some authorities hand it out with padding, which base64url does without.
    let text = text.trim_ascii();
    let end = text.iter().rposition(|byte| *byte != b'=')?;
    let key = BASE64_URL_SAFE_NO_PAD.decode(text.get(..=end)?).ok()?;
    Some(Secret(key.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_as_they_are_written() {
        for (text, key) in [
            ("AQID", Some(&[1, 2, 3][..])),
            (" AQIDBA==\n", Some(&[1, 2, 3, 4])),
            ("_-8", Some(&[0xff, 0xef])),
            ("", None),
            ("==", None),
            ("AQ ID", None),
            ("A+/D", None),
        ] {
            assert_eq!(parse(text.as_bytes()).as_ref().map(|secret| &*secret.0), key, "{text:?}");
        }
    }
}
