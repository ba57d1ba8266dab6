//! A session with a PostgreSQL server, as far as a probe needs one: messages are sent, and come one at a time.

use std::io;

use bytes::{Bytes, BytesMut};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use zeroize::Zeroize;

use crate::health::probe::channel::Channel;
use crate::health::probe::tls;
use crate::health::verdict::Observation;
use crate::wire::pg_server::{LONGEST, ServerError, ServerMessage};

/// The most bytes that a server may say in one probe.
const MOST: usize = 1 << 20;
/// The room that a message has from the start, in bytes: more than a password takes.
const ROOM: usize = 8192;
/// The longest version that is told, in characters.
const LONGEST_VERSION: usize = 24;

pub(super) const NOT_POSTGRES: &str = "it does not answer as PostgreSQL does";

/// A session that begins, or goes on.
pub(super) struct Session {
    pub(super) channel: Channel,
    incoming: BytesMut,
    /// How much has come so far.
    taken: usize,
    /// What is missing if nothing more comes.
    pub(super) waits_for: &'static str,
    /// Whether it is to be ended by a farewell.
    pub(super) is_logged_in: bool,
    /// Of the server, as it told us itself.
    pub(super) version: String,
    /// What the server has said last of whether it is in recovery (in_hot_standby, from version 14 on).
    pub(super) in_recovery: Option<bool>,
}

impl Session {
    pub(super) fn new(channel: Channel) -> Session {
        Session {
            channel,
            incoming: BytesMut::new(),
            taken: 0,
            waits_for: "no answer to the login",
            is_logged_in: false,
            version: String::new(),
            in_recovery: None,
        }
    }

    /// Sends what `write` writes.
    pub(super) async fn say(&mut self, write: impl FnOnce(&mut BytesMut) -> io::Result<()>) -> Result<(), Observation> {
        // With room for any password nothing is copied, of which the old place would still hold it.
        let mut message = BytesMut::with_capacity(ROOM);
        // Only what is configured can be such that it cannot be said.
        let written = write(&mut message);
        let sent = async {
            self.channel.write_all(&message).await?;
            self.channel.flush().await
        };
        let sent = if written.is_ok() { sent.await } else { Ok(()) };
        message.as_mut().zeroize();
        written.map_err(|error| Observation::Unclear(format!("cannot be asked: {error}").into()))?;
        sent.map_err(|error| tls::observation(&error))
    }

    /// The next message that says more than a setting.
    pub(super) async fn next(&mut self) -> Result<ServerMessage, Observation> {
        loop {
            match ServerMessage::take(&mut self.incoming) {
                Err(_) if self.is_long_row() => {
                    return Err(Observation::Refused("the query gave a row of more than 64 KiB".into()));
                }
                Err(_) => return Err(Observation::Refused(NOT_POSTGRES.into())),
                Ok(Some(ServerMessage::Parameter { name, value })) => self.note(&name, &value),
                Ok(Some(ServerMessage::Other)) => {}
                Ok(Some(message)) => return Ok(message),
                Ok(None) => self.receive().await?,
            }
        }
    }

    /// The first row of what is answered to a query, or why there is none. The outer error is of the session.
    pub(super) async fn query(&mut self, query: &str) -> Result<Result<Option<Row>, ServerError>, Observation> {
        self.say(|buffer| frontend::query(query, buffer)).await?;
        let (mut first, mut failed) = (None, None);
        loop {
            match self.next().await {
                Ok(ServerMessage::Row(row)) => drop(first.get_or_insert(row)),
                Ok(ServerMessage::Error(error)) => drop(failed.get_or_insert(error)),
                Ok(ServerMessage::WantsData) => {
                    return Err(Observation::Unclear("the query wants to be sent data".into()));
                }
                Ok(ServerMessage::Ready) => return Ok(failed.map_or(Ok(first), Err)),
                Ok(_) => {}
                // Some errors end the session.
                Err(why) => return failed.map_or(Err(why), |error| Ok(Err(error))),
            }
        }
    }

    async fn receive(&mut self) -> Result<(), Observation> {
        if self.taken > MOST && self.is_logged_in {
            return Err(Observation::Refused("the query gave more than 1 MiB".into()));
        }
        if self.taken > MOST {
            return Err(Observation::Missing("it says too much".into()));
        }
        self.incoming.reserve(LONGEST - self.incoming.len().min(LONGEST));
        match self.channel.read_buf(&mut self.incoming).await {
            Ok(0) => Err(Observation::Missing("it ended the connection".into())),
            Ok(received) => {
                self.taken += received;
                Ok(())
            }
            Err(error) => Err(tls::observation(&error)),
        }
    }

    /// Whether what comes next is a row (DataRow) that is longer than what is taken.
    fn is_long_row(&self) -> bool {
        match self.incoming.first_chunk::<5>() {
            Some([b'D', length @ ..]) => self.is_logged_in && u32::from_be_bytes(*length) as usize >= LONGEST,
            _ => false,
        }
    }

    fn note(&mut self, name: &str, value: &str) {
        match name {
            "in_hot_standby" => self.in_recovery = Some(value == "on"),
            "server_version" => {
                let word = value.split_whitespace().next().unwrap_or_default();
                self.version = word.chars().filter(|char| !char.is_control()).take(LONGEST_VERSION).collect();
            }
            _ => {}
        }
    }
}

/// The columns of one row; `None` is NULL.
pub(super) type Row = Vec<Option<Bytes>>;
