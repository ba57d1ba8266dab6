//! The Redis probe: a login, a sign of life, what the server is to the others, and what INFO says of it.
//!
//! All commands leave at once with QUIT behind them, so that a probe takes one turn and the server is the one to close; the
//! answers come in their order. A server that believes to be the master is only taken for it once Sentinels say so too,
//! where there are any ([`sentinels`]).

mod exchange;
mod sentinels;
#[cfg(test)]
mod tests;

use std::time::Duration;

use self::exchange::{Exchange, may_not, shown};
use super::channel::Channel;
use super::server::Answer;
use super::{Deadline, Passwords, Talk};
use crate::config::model::{RedisProbe, Role};
use crate::health::verdict::Observation;
use crate::wire::redis::{self, Reply};

type Command = &'static [&'static [u8]];

const PING: Command = &[b"PING"];
const ROLE: Command = &[b"ROLE"];
const INFO: Command = &[b"INFO"];
const INFO_REPLICATION: Command = &[b"INFO", b"replication"];
const QUIT: Command = &[b"QUIT"];

/// Talks with a server, and with its Sentinels if it says that it is the master.
pub(super) async fn run(
    channel: Channel,
    probe: &RedisProbe,
    passwords: Passwords<'_>,
    talk: &Talk<'_>,
) -> (Result<Answer, Observation>, Option<Channel>) {
    let (answer, channel) = converse(channel, probe, passwords.own, talk.deadline).await;
    let answer = match (answer, &probe.sentinels) {
        (Ok(answer), Some(asked)) if answer.role == Some(Role::Primary) => {
            Ok(sentinels::confirm(answer, asked, passwords.of_sentinels, talk).await)
        }
        (answer, _) => answer,
    };
    (answer, Some(channel))
}

/// What the server says of itself.
async fn converse(
    channel: Channel,
    probe: &RedisProbe,
    password: Option<&[u8]>,
    deadline: Deadline,
) -> (Result<Answer, Observation>, Channel) {
    let mut exchange = Exchange::new(channel);
    let answer = match deadline.hold(ask(&mut exchange, probe, password)).await {
        Ok(answer) => answer,
        Err(_) => Err(Observation::Missing(deadline.missed(&format!("no answer to {}", exchange.waits_for)))),
    };
    (answer, exchange.channel)
}

async fn ask(exchange: &mut Exchange, probe: &RedisProbe, password: Option<&[u8]>) -> Result<Answer, Observation> {
    let info = match (probe.info.is_empty(), probe.asks_lag) {
        // Its fields may be in any section.
        (false, _) => Some(INFO),
        (true, true) => Some(INFO_REPLICATION),
        (true, false) => None,
    };
    let commands: Vec<Command> = [Some(PING), Some(ROLE), info, Some(QUIT)].into_iter().flatten().collect();
    exchange.log_in_and_say(probe.user.as_deref(), password, &commands).await;
    if password.is_some() {
        let entered = exchange.reply("AUTH").await?;
        if let Some(answer) = turned_away(&entered)? {
            return Ok(answer);
        }
        exchange::entered(&entered)?;
    }
    let alive = exchange.reply("PING").await?;
    let said = match turned_away(&alive)? {
        None => pong(&alive)?,
        all => all,
    };
    if let Some(answer) = said {
        return Ok(answer);
    }
    let mut answer = Answer::of("PONG");
    match role(&exchange.reply("ROLE").await?)? {
        Ok(role) => answer.role = Some(role),
        Err(why) => answer.unknown = Some(why),
    }
    if info.is_some() {
        let added = match exchange.reply("INFO").await {
            Ok(reply) => add_info(&mut answer, &reply, probe),
            Err(why) => Err(why),
        };
        if let Err(why) = added {
            return answer.broken_off(why);
        }
    }
    Ok(answer)
}

/// Takes in what INFO has come to.
fn add_info(answer: &mut Answer, reply: &Reply<'_>, probe: &RedisProbe) -> Result<(), Observation> {
    let why = match reply {
        Reply::Bulk(text) => {
            fields(text, probe)?;
            if !probe.asks_lag || answer.role != Some(Role::Replica) {
                return Ok(());
            }
            match lag(text) {
                Ok(lag) => {
                    answer.lag = Some(lag);
                    return Ok(());
                }
                Err(why) => why,
            }
        }
        Reply::Error(error) => may_not("INFO", error),
        _ => Observation::Refused("does not answer INFO as Redis does".into()),
    };
    // Without its fields nothing is known to be as it has to be.
    if !probe.info.is_empty() && !matches!(reply, Reply::Bulk(_)) {
        return Err(why);
    }
    answer.unknown.get_or_insert(why);
    Ok(())
}

/// What is to be made of a server that talks with nobody, or with nobody more: it says so whatever was asked, and ends.
fn turned_away(reply: &Reply<'_>) -> Result<Option<Answer>, Observation> {
    match reply {
        Reply::Error(error) if redis::code(error) == b"DENIED" => {
            Err(Observation::Refused("serves nobody from elsewhere (protected mode)".into()))
        }
        Reply::Error(error) if error.starts_with(b"ERR max number of clients reached") => {
            Ok(Some(Answer::full("has as many clients as it may")))
        }
        _ => Ok(None),
    }
}

/// Whether it serves. An answer is all that can be known.
fn pong(reply: &Reply<'_>) -> Result<Option<Answer>, Observation> {
    let error = match reply {
        Reply::Simple(b"PONG") => return Ok(None),
        Reply::Error(error) => error,
        _ => return Err(Observation::Refused("does not answer PING as Redis does".into())),
    };
    match redis::code(error) {
        b"NOAUTH" => Ok(Some(Answer::full("asks for a password, and none is set"))),
        b"NOPERM" => Err(may_not("PING", error)),
        // A script that runs for long keeps everything else waiting.
        b"BUSY" => Err(Observation::Missing(shown(error).into())),
        // LOADING, MASTERDOWN, MISCONF: clients would hear the same.
        _ => Err(Observation::Refused(format!("not ready: {}", shown(error)).into())),
    }
}

/// What it is to the others; the inner error is why that is not known.
fn role(reply: &Reply<'_>) -> Result<Result<Role, Observation>, Observation> {
    let word = match reply {
        Reply::Array(elements) => match elements.first() {
            Some(Reply::Bulk(word)) => *word,
            _ => b"",
        },
        Reply::Error(error) => return Ok(Err(may_not("ROLE", error))),
        _ => b"",
    };
    match word {
        b"master" => Ok(Ok(Role::Primary)),
        b"slave" | b"replica" => Ok(Ok(Role::Replica)),
        b"sentinel" => Err(Observation::Refused("is a Sentinel, and has no data".into())),
        b"" => Err(Observation::Refused("does not answer ROLE as Redis does".into())),
        other => Ok(Err(Observation::Refused(format!("calls its role {}", shown(other)).into()))),
    }
}

/// Whether the fields of INFO are as they have to be.
fn fields(text: &[u8], probe: &RedisProbe) -> Result<(), Observation> {
    for (field, wanted) in &probe.info {
        match redis::info(text, field) {
            Some(value) if value == wanted.as_bytes() => {}
            Some(value) => {
                let text = format!("INFO says {field}:{}, expected {wanted}", shown(value));
                return Err(Observation::Refused(text.into()));
            }
            None => return Err(Observation::Refused(format!("INFO has no field {field}").into())),
        }
    }
    Ok(())
}

/// How far a replica is behind, in whole seconds: how long ago it has heard from its master, who sends a PING every
/// `repl-ping-replica-period` if there is nothing else; where the link is down, for how long it is.
fn lag(text: &[u8]) -> Result<Duration, Observation> {
    let seconds = |field| redis::info(text, field).and_then(|value| str::from_utf8(value).ok()?.parse::<i64>().ok());
    let is_linked = redis::info(text, "master_link_status") == Some(b"up");
    let field = if is_linked { "master_last_io_seconds_ago" } else { "master_link_down_since_seconds" };
    match seconds(field) {
        Some(seconds) if seconds >= 0 => Ok(Duration::from_secs(seconds.unsigned_abs())),
        Some(_) => Err(Observation::Refused("has not been linked to its master yet".into())),
        None => Err(Observation::Refused(format!("INFO has no field {field}").into())),
    }
}
