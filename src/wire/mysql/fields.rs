//! The fields of a packet, read one after the other.

use super::MysqlError;

/// What is left of a packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

const SHORT: MysqlError = MysqlError::Malformed("a packet ends too early");

impl<'a> Fields<'a> {
    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], MysqlError> {
        let (field, rest) = self.0.split_at_checked(length).ok_or(SHORT)?;
        self.0 = rest;
        Ok(field)
    }

    pub(super) fn array<const LENGTH: usize>(&mut self) -> Result<[u8; LENGTH], MysqlError> {
        let (field, rest) = self.0.split_first_chunk().ok_or(SHORT)?;
        self.0 = rest;
        Ok(*field)
    }

    pub(super) fn u8(&mut self) -> Result<u8, MysqlError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(super) fn u16(&mut self) -> Result<u16, MysqlError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// A text up to a zero byte, which has to be there.
    pub(super) fn text(&mut self) -> Result<&'a [u8], MysqlError> {
        let end = self.0.iter().position(|byte| *byte == 0).ok_or(SHORT)?;
        let text = self.take(end)?;
        self.take(1)?;
        Ok(text)
    }

    /// A text up to a zero byte or the end.
    pub(super) fn last_text(&mut self) -> &'a [u8] {
        let mut parts = std::mem::take(&mut self.0).splitn(2, |byte| *byte == 0);
        let text = parts.next().unwrap_or_default();
        self.0 = parts.next().unwrap_or_default();
        text
    }

    /// A number of 1, 3, 4 or 9 bytes; `None` is NULL.
    pub(super) fn number(&mut self) -> Result<Option<u64>, MysqlError> {
        let mut number = [0; 8];
        let length = match self.u8()? {
            small @ 0..=0xfa => return Ok(Some(small.into())),
            0xfb => return Ok(None),
            0xfc => 2,
            0xfd => 3,
            0xfe => 8,
            0xff => return Err(MysqlError::Malformed("a length begins with 0xff")),
        };
        let bytes = self.take(length)?;
        for (to, from) in number.iter_mut().zip(bytes) {
            *to = *from;
        }
        Ok(Some(u64::from_le_bytes(number)))
    }

    /// Bytes behind their length; `None` is NULL.
    pub(super) fn bytes(&mut self) -> Result<Option<&'a [u8]>, MysqlError> {
        let Some(length) = self.number()? else { return Ok(None) };
        self.take(usize::try_from(length).map_err(|_| SHORT)?).map(Some)
    }
}

/// A length as [`Fields::number`] reads it.
pub(super) fn length(of: usize) -> Vec<u8> {
    let bytes = (of as u64).to_le_bytes();
    let [first, second, third, ..] = bytes;
    match of {
        0..=0xfa => vec![first],
        0xfb..=0xffff => vec![0xfc, first, second],
        0x1_0000..=0xff_ffff => vec![0xfd, first, second, third],
        _ => [&[0xfe], &bytes[..]].concat(),
    }
}
