//! What answers a statement: nothing but that it was done, an error, or rows of text.

use super::fields::Fields;
use super::{MysqlError, ServerError, reply};

/// The most columns that a result may have.
pub const MAX_COLUMNS: usize = 512;
/// The most bytes that a result may take.
pub const MAX_RESULT: usize = super::MAX_PACKET;
/// The most rows that are kept; what comes behind them is read over.
pub const KEPT: usize = 64;

/// What a statement came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It was done and has no rows.
    Done,
    /// It was not done, or not to its end.
    Error(ServerError),
    /// Rows.
    Rows(ResultSet),
}

/// The rows of a result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResultSet {
    /// What the columns are called.
    pub columns: Vec<String>,
    /// The first [`KEPT`] rows, each with as many values as there are columns; `None` is NULL.
    pub rows: Vec<Vec<Option<Vec<u8>>>>,
}

impl ResultSet {
    /// The value of a row in the column of this name; the inner `None` is NULL.
    pub fn value<'a>(&self, row: &'a [Option<Vec<u8>>], column: &str) -> Option<Option<&'a [u8]>> {
        let at = self.columns.iter().position(|name| name.eq_ignore_ascii_case(column))?;
        row.get(at).map(Option::as_deref)
    }
}

/// Reads what answers one statement, packet by packet.
#[derive(Debug, Default)]
pub struct Reader {
    stage: Stage,
    result: ResultSet,
    taken: usize,
}

#[derive(Clone, Copy, Debug, Default)]
enum Stage {
    #[default]
    Count,
    /// The definitions of so many columns are still to come.
    Columns(usize),
    EndOfColumns,
    Rows,
}

impl Reader {
    /// Takes in a packet. `Ok(None)`: there are more.
    ///
    /// # Errors
    /// What is no answer to a statement, or too long.
    pub fn take(&mut self, payload: &[u8]) -> Result<Option<Reply>, MysqlError> {
        self.taken += payload.len();
        if self.taken > MAX_RESULT {
            return Err(MysqlError::TooLong);
        }
        if payload.first() == Some(&reply::ERROR) && !matches!(self.stage, Stage::Columns(_)) {
            return ServerError::read(payload).map(|error| Some(Reply::Error(error)));
        }
        let is_end = payload.first() == Some(&reply::END) && payload.len() < 9;
        self.stage = match self.stage {
            Stage::Count if payload.first() == Some(&reply::OK) => return Ok(Some(Reply::Done)),
            Stage::Count => {
                let count = Fields(payload).number()?;
                let count = count.ok_or(MysqlError::Malformed("the server asks for a file"))?;
                match usize::try_from(count) {
                    Ok(count) if count <= MAX_COLUMNS => Stage::Columns(count),
                    _ => return Err(MysqlError::TooManyColumns(count)),
                }
            }
            Stage::Columns(left) => {
                self.result.columns.push(column(payload)?);
                if left > 1 { Stage::Columns(left - 1) } else { Stage::EndOfColumns }
            }
            Stage::EndOfColumns if is_end => Stage::Rows,
            Stage::EndOfColumns => return Err(MysqlError::Malformed("the columns of a result have no end")),
            Stage::Rows if is_end => return Ok(Some(Reply::Rows(std::mem::take(&mut self.result)))),
            Stage::Rows => {
                self.row(payload)?;
                Stage::Rows
            }
        };
        Ok(None)
    }

    fn row(&mut self, payload: &[u8]) -> Result<(), MysqlError> {
        let (mut fields, mut row) = (Fields(payload), Vec::with_capacity(self.result.columns.len()));
        for _ in &self.result.columns {
            row.push(fields.bytes()?.map(<[u8]>::to_vec));
        }
        if !fields.0.is_empty() {
            return Err(MysqlError::Malformed("a row has more values than columns"));
        }
        if self.result.rows.len() < KEPT {
            self.result.rows.push(row);
        }
        Ok(())
    }
}

/// What a column is called (ColumnDefinition41): the fifth text, behind catalogue, schema, table and the table's own
/// name.
fn column(payload: &[u8]) -> Result<String, MysqlError> {
    let mut fields = Fields(payload);
    for _ in 0..4 {
        fields.bytes()?;
    }
    let name = fields.bytes()?.ok_or(MysqlError::Malformed("a column has no name"))?;
    Ok(String::from_utf8_lossy(name).into_owned())
}
