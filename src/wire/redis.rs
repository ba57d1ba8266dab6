//! Redis: replies in RESP2, the commands that ask for them, and the fields of INFO (redis.io, Redis serialization protocol
//! specification).
//!
//! Without HELLO a server never speaks anything but RESP2. Replies are read strictly and borrow from the bytes that came;
//! their length, depth and number of elements are bounded.

#[cfg(test)]
mod tests;

use std::str;

/// The most bytes that one reply may take.
pub const MAX_REPLY: usize = 64 * 1024;
/// The most elements that the arrays of one reply may have, all together.
pub const MAX_ELEMENTS: usize = 4096;
/// How deep arrays may be in each other: ROLE takes three.
pub const MAX_DEPTH: usize = 8;

/// The longest line that is a number: a sign and the digits of 64 bits.
const LONGEST_NUMBER: usize = 20;

/// What a server answers to one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// A line of text, such as `PONG`.
    Simple(&'a [u8]),
    /// A line that says why not, such as `LOADING Redis is loading the dataset in memory`.
    Error(&'a [u8]),
    /// A number.
    Integer(i64),
    /// Any bytes.
    Bulk(&'a [u8]),
    /// Nothing: the null of bulk strings or of arrays.
    Null,
    /// Replies in a row.
    Array(Vec<Reply<'a>>),
}

/// Why bytes are not a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// No reply of RESP2 begins so.
    #[error("no Redis reply begins with byte 0x{0:02x}")]
    Kind(u8),
    /// A line has a CR without LF or an LF without CR.
    #[error("a line ends in half of CRLF")]
    Line,
    /// A line that has to be a number of 64 bits is none.
    #[error("a number is not a number")]
    Number,
    /// A length below zero that is not the one of null.
    #[error("a length of {0}")]
    Length(i64),
    /// No CRLF stands where a bulk string ends.
    #[error("a bulk string is longer than it says")]
    Bulk,
    /// It takes, or says that it will take, more than [`MAX_REPLY`] bytes.
    #[error("the reply takes more than {MAX_REPLY} bytes")]
    TooLong,
    /// It has, or says that it will have, more than [`MAX_ELEMENTS`].
    #[error("the reply has more than {MAX_ELEMENTS} elements")]
    TooMany,
    /// Arrays are deeper than [`MAX_DEPTH`].
    #[error("the reply has arrays in more than {MAX_DEPTH} arrays")]
    TooDeep,
}

/// Reads the reply that `bytes` begin with, and says how many it takes. `Ok(None)`: more is needed.
///
/// # Errors
/// As soon as the bytes cannot become a reply any more. The error is the same in whatever pieces they come.
pub fn read(bytes: &[u8]) -> Result<Option<(Reply<'_>, usize)>, ReplyError> {
    let mut cursor = Cursor { bytes, at: 0, elements: 0 };
    match cursor.reply(0) {
        Ok(reply) => Ok(Some((reply, cursor.at))),
        Err(Stop::Short) => Ok(None),
        Err(Stop::Broken(error)) => Err(error),
    }
}

/// Appends a command to `out`: its name and its arguments, whatever bytes they have.
pub fn command(words: &[&[u8]], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

/// The value of a field in what INFO answers: lines of `field:value`, in sections with a heading each.
pub fn info<'a>(text: &'a [u8], field: &str) -> Option<&'a [u8]> {
    let lines = text.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    lines.filter_map(|line| line.strip_prefix(field.as_bytes())?.strip_prefix(b":")).next()
}

/// The first word of an error, which says what kind of error it is, such as `NOAUTH`.
pub fn code(error: &[u8]) -> &[u8] {
    error.split(|byte| *byte == b' ').next().unwrap_or_default()
}

/// Why reading does not go on.
enum Stop {
    /// More has to come.
    Short,
    Broken(ReplyError),
}

struct Cursor<'a> {
    bytes: &'a [u8],
    /// What is read already.
    at: usize,
    /// Elements that arrays have announced.
    elements: usize,
}

impl<'a> Cursor<'a> {
    fn reply(&mut self, depth: usize) -> Result<Reply<'a>, Stop> {
        let kind = self.take(1)?.first().copied().unwrap_or_default();
        match kind {
            b'+' => self.line().map(Reply::Simple),
            b'-' => self.line().map(Reply::Error),
            b':' => self.number().map(Reply::Integer),
            b'$' => match self.length()? {
                None => Ok(Reply::Null),
                Some(length) => {
                    let length = usize::try_from(length).map_err(|_| Stop::Broken(ReplyError::TooLong))?;
                    let (bulk, end) = self.take(length.saturating_add(2))?.split_at_checked(length).unwrap_or_default();
                    if end != b"\r\n" {
                        return Err(Stop::Broken(ReplyError::Bulk));
                    }
                    Ok(Reply::Bulk(bulk))
                }
            },
            b'*' => match self.length()? {
                None => Ok(Reply::Null),
                Some(count) => self.array(count, depth),
            },
            other => Err(Stop::Broken(ReplyError::Kind(other))),
        }
    }

    fn array(&mut self, count: u64, depth: usize) -> Result<Reply<'a>, Stop> {
        if depth == MAX_DEPTH {
            return Err(Stop::Broken(ReplyError::TooDeep));
        }
        let count = usize::try_from(count).ok().filter(|count| *count <= MAX_ELEMENTS - self.elements);
        let count = count.ok_or(Stop::Broken(ReplyError::TooMany))?;
        self.elements += count;
        // Nothing is set aside for what has not come.
        let mut elements = Vec::new();
        for _ in 0..count {
            elements.push(self.reply(depth + 1)?);
        }
        Ok(Reply::Array(elements))
    }

    /// The next `count` bytes.
    fn take(&mut self, count: usize) -> Result<&'a [u8], Stop> {
        let end = self.at.checked_add(count).filter(|end| *end <= MAX_REPLY);
        let end = end.ok_or(Stop::Broken(ReplyError::TooLong))?;
        let taken = self.bytes.get(self.at..end).ok_or(Stop::Short)?;
        self.at = end;
        Ok(taken)
    }

    /// What stands before the next CRLF.
    fn line(&mut self) -> Result<&'a [u8], Stop> {
        let rest = self.bytes.get(self.at..self.bytes.len().min(MAX_REPLY)).unwrap_or_default();
        let Some(length) = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
            // Two more have to come.
            self.take(rest.len() + 2)?;
            return Err(Stop::Short);
        };
        let line = self.take(length)?;
        if self.take(1)? == b"\n" || self.take(1)? != b"\n" {
            return Err(Stop::Broken(ReplyError::Line));
        }
        Ok(line)
    }

    fn number(&mut self) -> Result<i64, Stop> {
        let line = self.line()?;
        let text = str::from_utf8(line).ok().filter(|text| text.len() <= LONGEST_NUMBER);
        text.and_then(|text| text.parse().ok()).ok_or(Stop::Broken(ReplyError::Number))
    }

    /// A length; nothing for that of null.
    fn length(&mut self) -> Result<Option<u64>, Stop> {
        match self.number()? {
            -1 => Ok(None),
            length => u64::try_from(length).map(Some).map_err(|_| Stop::Broken(ReplyError::Length(length))),
        }
    }
}
