//! Commands on one connection, with a server or a Sentinel, and their replies in order.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use zeroize::Zeroizing;

use crate::health::probe::channel::Channel;
use crate::health::probe::tls;
use crate::health::verdict::Observation;
use crate::wire::redis::{self, Reply};

/// How much of what a server says is told, in characters.
const SHOWN: usize = 80;
/// What a command takes besides its words, and a word besides itself, in bytes, at the most.
const FRAME: usize = 32;

/// Commands that were sent, and replies as they come.
pub(super) struct Exchange {
    pub(super) channel: Channel,
    /// The command whose reply has not come yet.
    pub(super) waits_for: &'static str,
    received: Vec<u8>,
    /// How much of that is replies that were taken.
    taken: usize,
    /// Why not everything was sent.
    unsent: Option<io::Error>,
}

impl Exchange {
    pub(super) fn new(channel: Channel) -> Exchange {
        Exchange { channel, waits_for: "AUTH", received: Vec::new(), taken: 0, unsent: None }
    }

    /// Sends AUTH, if there is a password, and these commands in one piece.
    pub(super) async fn log_in_and_say(&mut self, user: Option<&str>, password: Option<&[u8]>, commands: &[&[&[u8]]]) {
        let words = |command: &[&[u8]]| command.iter().map(|word| word.len() + FRAME).sum::<usize>() + FRAME;
        let login: Vec<&[u8]> = match password {
            Some(password) => {
                [Some(b"AUTH" as &[u8]), user.map(str::as_bytes), Some(password)].into_iter().flatten().collect()
            }
            None => Vec::new(),
        };
        let room = words(&login) + commands.iter().map(|command| words(command)).sum::<usize>();
        // With room for all of it nothing is copied, of which the old place would still hold the password.
        let mut bytes = Zeroizing::new(Vec::with_capacity(room));
        if !login.is_empty() {
            redis::command(&login, &mut bytes);
        }
        for command in commands {
            redis::command(command, &mut bytes);
        }
        let sent = async {
            self.channel.write_all(&bytes).await?;
            self.channel.flush().await
        };
        // Who is sent away at once has been told why: that can be read all the same.
        self.unsent = sent.await.err();
    }

    /// The next reply, which is to this command.
    ///
    /// # Errors
    /// What is to be told of the server.
    pub(super) async fn reply(&mut self, command: &'static str) -> Result<Reply<'_>, Observation> {
        self.waits_for = command;
        self.received.drain(..self.taken);
        self.taken = 0;
        while self.taken == 0 {
            match redis::read(&self.received) {
                Ok(Some((_, length))) => self.taken = length,
                Ok(None) => self.receive().await?,
                Err(error) => {
                    return Err(Observation::Refused(format!("does not speak Redis: {error}").into()));
                }
            }
        }
        // It was whole a moment ago.
        let read = redis::read(&self.received).ok().flatten();
        Ok(read.map_or(Reply::Null, |(reply, _)| reply))
    }

    async fn receive(&mut self) -> Result<(), Observation> {
        let ended = || Observation::Missing(format!("it ended the connection at {}", self.waits_for).into());
        match self.channel.read_buf(&mut self.received).await {
            Ok(0) => Err(self.unsent.as_ref().map_or_else(ended, tls::observation)),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(ended()),
            Err(error) => Err(tls::observation(&error)),
        }
    }
}

/// Whether AUTH has let us in.
///
/// # Errors
/// Why not, in words of ours: a server that does not know the command repeats what it was sent.
pub(super) fn entered(reply: &Reply<'_>) -> Result<(), Observation> {
    let why = match reply {
        Reply::Simple(b"OK") => return Ok(()),
        Reply::Error(error) => match redis::code(error) {
            b"WRONGPASS" => "the user or the password is wrong".to_owned(),
            _ if has(error, b"invalid password") => "the password is wrong".to_owned(),
            _ if has(error, b"without any password configured") || has(error, b"no password is set") => {
                "it has no password, so that none is right".to_owned()
            }
            code if code.len() < 20 && code.iter().all(u8::is_ascii_uppercase) => {
                format!("AUTH is answered with an error, {}", String::from_utf8_lossy(code))
            }
            _ => "AUTH is answered with an error".to_owned(),
        },
        _ => return Err(Observation::Refused("does not answer AUTH as Redis does".into())),
    };
    Err(Observation::Unclear(format!("cannot log in: {why}").into()))
}

/// What to make of a command that is answered with an error, mostly because the user lacks the right.
pub(super) fn may_not(command: &str, error: &[u8]) -> Observation {
    Observation::Unclear(match redis::code(error) {
        b"NOPERM" => {
            let rule = command.to_ascii_lowercase().replace(' ', "|");
            format!("may not be asked {command}: the user lacks +{rule} in its ACL").into()
        }
        b"NOAUTH" => "asks for a password, and none is set".into(),
        _ => format!("{command} failed: {}", shown(error)).into(),
    })
}

/// What a server says, as people can read it, shortened.
pub(super) fn shown(bytes: &[u8]) -> String {
    let text = bytes.get(..4 * SHOWN).unwrap_or(bytes).escape_ascii().to_string();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

fn has(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}
