//! Reading files of a bounded length.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::Path;

/// The bytes of whatever is at `path`, which may have `longest` of them.
///
/// # Errors
/// What the system says, and more bytes.
pub(crate) fn read(path: &Path, longest: u64) -> io::Result<Vec<u8>> {
    // With room for all of it from the start nothing is copied, of which the old place would still hold what may be secret.
    let length = fs::metadata(path)?.len().min(longest);
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or_default() + 1);
    File::open(path)?.take(longest + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > longest {
        return Err(io::Error::new(ErrorKind::FileTooLarge, format!("it has more than {}", told(longest))));
    }
    Ok(bytes)
}

/// The same where `path` must be a regular file: a pipe could take for ever to open.
///
/// # Errors
/// Those of [`read`], and another kind of file.
pub(crate) fn read_regular(path: &Path, longest: u64) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    read(path, longest)
}

fn told(bytes: u64) -> String {
    match bytes.trailing_zeros() / 10 {
        0 => format!("{bytes} bytes"),
        1 => format!("{} KiB", bytes >> 10),
        2 => format!("{} MiB", bytes >> 20),
        _ => format!("{} GiB", bytes >> 30),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_a_file_and_short_enough_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, [7; 2048]).unwrap();
        assert_eq!(read_regular(&file, 2048).unwrap(), [7; 2048]);
        assert_eq!(read_regular(&file, 2047).unwrap_err().to_string(), "it has more than 2047 bytes");
        assert_eq!(read_regular(&file, 1024).unwrap_err().to_string(), "it has more than 1 KiB");
        assert_eq!(read_regular(folder.path(), 1024).unwrap_err().to_string(), "it is not a regular file");
        assert_eq!(read_regular(&folder.path().join("none"), 1).unwrap_err().kind(), ErrorKind::NotFound);
        // What has no length of its own is read to its end.
        assert!(!read(Path::new("/proc/self/status"), 1 << 20).unwrap().is_empty());
        assert_eq!([1 << 20, 16 << 20, 1 << 30].map(told), ["1 MiB", "16 MiB", "1 GiB"]);
    }
}
