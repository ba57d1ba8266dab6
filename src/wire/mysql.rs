//! The protocol of MySQL and MariaDB between client and server, as far as a probe speaks it: packets here, what they
//! carry under `mysql/` (MySQL source documentation, "Client/Server Protocol").
//!
//! Everything that a server says is bounded. What cannot be read is an error, never a guess.

mod fields;
pub mod greeting;
pub mod login;
pub mod reply;
pub mod results;
#[cfg(test)]
mod tests;

pub use self::greeting::Greeting;
pub use self::login::{Login, LoginReply};
pub use self::reply::ServerError;
pub use self::results::{Reply, ResultSet};

/// The most bytes that one packet of a server may carry: the state of replication has lists of transactions in it.
pub const MAX_PACKET: usize = 1 << 20;

const HEADER: usize = 4;
/// A packet of so many bytes goes on in the next one.
const CONTINUED: usize = 0xff_ffff;

/// Why what a server says cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MysqlError {
    /// A packet of more than [`MAX_PACKET`] bytes.
    #[error("a packet of {0} bytes, at most {MAX_PACKET} are read")]
    TooLarge(usize),
    /// A packet is missing, or is there twice.
    #[error("packet {came} came where packet {expected} was due")]
    OutOfOrder {
        /// Its number.
        came: u8,
        /// The number after that of the last one.
        expected: u8,
    },
    /// Another version of the protocol than 10.
    #[error("protocol version {0}, not 10")]
    Version(u8),
    /// The server is older than MySQL 4.1.
    #[error("the server does not know the logins of MySQL 4.1 and later")]
    TooOld,
    /// A result with more than [`results::MAX_COLUMNS`] columns.
    #[error("a result with {0} columns, at most {most} are read", most = results::MAX_COLUMNS)]
    TooManyColumns(u64),
    /// A result of more than [`results::MAX_RESULT`] bytes.
    #[error("a result of more than {} bytes", results::MAX_RESULT)]
    TooLong,
    /// Another rule of the format is broken.
    #[error("{0}")]
    Malformed(&'static str),
}

/// The packets of one connection: what has come and was not taken yet, and the number that is due.
#[derive(Debug, Default)]
pub struct Packets {
    /// What has come; more is put behind it.
    pub incoming: Vec<u8>,
    due: u8,
}

impl Packets {
    /// Takes what the next packet carries. `Ok(None)`: more has to come.
    ///
    /// # Errors
    /// [`MysqlError::TooLarge`], as soon as the header is there, and [`MysqlError::OutOfOrder`]: an error is read
    /// whatever number it has, as servers that shut down count differently.
    pub fn take(&mut self) -> Result<Option<Vec<u8>>, MysqlError> {
        let Some((&[low, middle, high, came], rest)) = self.incoming.split_first_chunk() else { return Ok(None) };
        let length = u32::from_le_bytes([low, middle, high, 0]) as usize;
        if length > MAX_PACKET {
            return Err(MysqlError::TooLarge(length));
        }
        let Some(payload) = rest.get(..length) else { return Ok(None) };
        if came != self.due && payload.first() != Some(&reply::ERROR) {
            return Err(MysqlError::OutOfOrder { came, expected: self.due });
        }
        let payload = payload.to_vec();
        self.incoming.drain(..HEADER + length);
        self.due = came.wrapping_add(1);
        Ok(Some(payload))
    }

    /// The packet that answers the last one.
    pub fn answer(&mut self, payload: &[u8]) -> Vec<u8> {
        let packet = packet(self.due, payload);
        self.due = self.due.wrapping_add(1);
        packet
    }

    /// The packet that begins something new.
    pub fn command(&mut self, command: Command<'_>) -> Vec<u8> {
        self.due = 0;
        match command {
            Command::Quit => self.answer(&[1]),
            Command::Query(statement) => self.answer(&[&[3], statement.as_bytes()].concat()),
        }
    }
}

/// What a client asks for once it is logged in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// COM_QUIT: nothing more, and no answer.
    Quit,
    /// COM_QUERY: one statement.
    Query(&'a str),
}

/// One packet. What is too long for one is cut, which nothing that a probe says is.
fn packet(sequence: u8, payload: &[u8]) -> Vec<u8> {
    let payload = payload.get(..CONTINUED - 1).unwrap_or(payload);
    let [low, middle, high, ..] = (payload.len() as u32).to_le_bytes();
    [&[low, middle, high, sequence], payload].concat()
}
