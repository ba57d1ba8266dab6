//! What packets of a server begin with, and the errors that it tells of.

use super::MysqlError;
use super::fields::Fields;

pub(super) const OK: u8 = 0;
/// The end of a list (EOF), or another way to log in.
pub(super) const END: u8 = 0xfe;
pub(super) const ERROR: u8 = 0xff;
/// The most bytes of a message that are kept.
const LONGEST: usize = 160;

/// An error that a server tells of (ERR packet).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerError {
    /// Its number in the server's own list.
    pub code: u16,
    /// What it says to people, without what does not belong in a line; may be shortened.
    pub message: String,
}

impl ServerError {
    /// Reads an ERR packet, with its first byte. Before a login there is no SQLSTATE in it.
    ///
    /// # Errors
    /// It has no number.
    pub(super) fn read(payload: &[u8]) -> Result<ServerError, MysqlError> {
        let mut fields = Fields(payload);
        fields.take(1)?;
        let code = fields.u16()?;
        if fields.0.first() == Some(&b'#') {
            fields.take(6)?;
        }
        let message = String::from_utf8_lossy(fields.0.get(..LONGEST).unwrap_or(fields.0));
        let message = message.chars().map(|letter| if letter.is_control() { ' ' } else { letter });
        Ok(ServerError { code, message: message.collect::<String>().trim().to_owned() })
    }
}
