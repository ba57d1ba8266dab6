//! The first packet of a server: who it is, what it can do, and what a password is to be proven with.

use super::fields::Fields;
use super::{MysqlError, ServerError, reply};

/// What a server and a client can do, as bits; those of both hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities(pub u32);

impl Capabilities {
    /// CLIENT_LONG_PASSWORD; to MariaDB its absence says that a side is MariaDB's.
    pub const MYSQL: u32 = 1;
    /// CLIENT_CONNECT_WITH_DB: the login names a database.
    pub const DATABASE: u32 = 1 << 3;
    /// CLIENT_PROTOCOL_41
    pub const PROTOCOL_41: u32 = 1 << 9;
    /// CLIENT_SSL
    pub const TLS: u32 = 1 << 11;
    /// CLIENT_TRANSACTIONS: statuses are told.
    pub const STATUS: u32 = 1 << 13;
    /// CLIENT_SECURE_CONNECTION: passwords are proven as from 4.1 on.
    pub const PROOFS: u32 = 1 << 15;
    /// CLIENT_PLUGIN_AUTH: ways to log in have names.
    pub const PLUGINS: u32 = 1 << 19;
    /// CLIENT_CONNECT_ATTRS: a client says what it is.
    pub const ATTRIBUTES: u32 = 1 << 20;

    /// Whether all of these are there.
    pub fn has(self, bits: u32) -> bool {
        self.0 & bits == bits
    }
}

/// Bytes that a password is proven with.
pub const NONCE: usize = 20;
/// The longest version and name of a way to log in that are kept, in bytes.
const LONGEST: usize = 128;

/// What a server says first (protocol version 10).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// Such as `8.4.3` or `5.5.5-10.11.6-MariaDB`.
    pub version: String,
    /// What the server can do.
    pub capabilities: Capabilities,
    /// What the password is to be proven with.
    pub nonce: [u8; NONCE],
    /// How most of its users log in; empty if it does not say.
    pub plugin: String,
}

impl Greeting {
    /// Reads the first packet. The inner error is a server that does not want us.
    ///
    /// # Errors
    /// What is no greeting, and one of a server that is too old.
    pub fn read(payload: &[u8]) -> Result<Result<Greeting, ServerError>, MysqlError> {
        let mut fields = Fields(payload);
        match fields.u8()? {
            10 => {}
            reply::ERROR => return ServerError::read(payload).map(Err),
            other => return Err(MysqlError::Version(other)),
        }
        let version = told(fields.text()?);
        let _connection: [u8; 4] = fields.array()?;
        let first: [u8; 8] = fields.array()?;
        fields.take(1)?;
        let low = fields.u16()?;
        if fields.0.is_empty() {
            return Err(MysqlError::TooOld);
        }
        let _collation_and_status: [u8; 3] = fields.array()?;
        let capabilities = Capabilities(u32::from(low) | u32::from(fields.u16()?) << 16);
        if !capabilities.has(Capabilities::PROTOCOL_41 | Capabilities::PROOFS) {
            return Err(MysqlError::TooOld);
        }
        let length = usize::from(fields.u8()?);
        let _reserved: [u8; 10] = fields.array()?;
        // What is left of the nonce, and a zero: so much is there whatever the length says (MySQL, "HandshakeV10").
        let second = fields.take(length.saturating_sub(first.len()).max(NONCE + 1 - first.len()))?;
        let mut nonce = [0; NONCE];
        for (to, from) in nonce.iter_mut().zip(first.iter().chain(second)) {
            *to = *from;
        }
        let named = capabilities.has(Capabilities::PLUGINS);
        let plugin = if named { told(fields.last_text()) } else { String::new() };
        Ok(Ok(Greeting { version, capabilities, nonce, plugin }))
    }

    /// Whether the server is MariaDB, or says so.
    pub fn is_mariadb(&self) -> bool {
        self.version.to_ascii_lowercase().contains("mariadb")
    }

    /// The version of a MySQL server as numbers, such as `[8, 4, 3]`; zero is what it does not say.
    pub fn numbers(&self) -> [u32; 3] {
        let mut numbers = [0; 3];
        let written = self.version.split(|letter: char| !letter.is_ascii_digit());
        for (to, from) in numbers.iter_mut().zip(written) {
            *to = from.parse().unwrap_or_default();
        }
        numbers
    }
}

/// Text of a server that people may be shown, shortened.
pub(super) fn told(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text.get(..LONGEST).unwrap_or(text));
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}
