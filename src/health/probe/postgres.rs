//! The PostgreSQL probe: TLS as servers start it, a login, and what the server then tells of itself.
//!
//! Without a user nobody logs in. Then the probe ends where it is asked for a password, as libpq does that has none, of which
//! the server says nothing in its log.

mod login;
mod session;

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use self::login::Entry;
use self::session::{NOT_POSTGRES, Row, Session};
use super::channel::{Channel, Line};
use super::lag::Progress;
use super::server::Answer;
use super::tls::{self, Opened};
use super::{Talk, Talked};
use crate::config::model::{Negotiation, PostgresProbe, Role};
use crate::health::verdict::{Observation, Text};
use crate::wire::pg_server::ServerError;

/// Talks with a server on `line`.
pub(super) async fn run(line: Line, probe: &PostgresProbe, password: Option<&[u8]>, talk: &Talk<'_>) -> Talked<Answer> {
    let Opened { channel, expires } = match start_tls(line, probe, talk).await {
        Ok(opened) => opened,
        Err((why, channel)) => return (Err(why), None, channel),
    };
    let mut session = Session::new(channel);
    let mut answer = Answer::of("");
    let asked = talk.deadline.hold(ask(&mut session, &mut answer, probe, password, talk.deadline.length)).await;
    let answer = match asked.unwrap_or_else(|_| Err(Observation::Missing(talk.deadline.missed(session.waits_for)))) {
        Ok(()) => Ok(answer),
        Err(why) => answer.broken_off(why),
    };
    if session.is_logged_in {
        // What is said in farewell leaves at once or not at all.
        let farewell = session.say(|buffer| {
            frontend::terminate(buffer);
            Ok(())
        });
        let _ = talk.deadline.hold(farewell).await;
    }
    (answer, expires, Some(session.channel))
}

/// Starts TLS, if the dialogue runs in it.
async fn start_tls(
    mut line: Line,
    probe: &PostgresProbe,
    talk: &Talk<'_>,
) -> Result<Opened, (Observation, Option<Channel>)> {
    if talk.tls.is_some() && probe.negotiation == Negotiation::Postgres {
        let asked = talk.deadline.hold(ask_for_tls(&mut line)).await;
        let why = match asked {
            Ok(Ok(b'S')) => None,
            Ok(Ok(b'N')) => Some(Observation::Refused("it does not speak TLS".into())),
            // What it says is not told: anybody may have said it (CVE-2024-10977).
            Ok(Ok(b'E')) => Some(Observation::Missing("it answers with an error where it is asked for TLS".into())),
            Ok(Ok(_)) => Some(Observation::Refused(NOT_POSTGRES.into())),
            Ok(Err(error)) => Some(tls::observation(&error)),
            Err(_) => Some(Observation::Missing(talk.deadline.missed("no answer to SSLRequest"))),
        };
        if let Some(why) = why {
            return Err((why, Some(Channel::Clear(line))));
        }
    }
    talk.open(line).await
}

/// Sends SSLRequest and takes in one byte, not more: whatever stands behind it in clear must not pass for a part of what comes
/// in TLS (CVE-2021-23222).
async fn ask_for_tls(line: &mut Line) -> io::Result<u8> {
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    line.write_all(&request).await?;
    line.read_u8().await
}

/// Logs in and asks what there is to ask; what comes is put into `answer`, whatever becomes of the rest.
async fn ask(
    session: &mut Session,
    answer: &mut Answer,
    probe: &PostgresProbe,
    password: Option<&[u8]>,
    patience: Duration,
) -> Result<(), Observation> {
    match login::enter(session, probe, password).await? {
        Entry::Ready => {}
        Entry::Alive(text) => {
            *answer = Answer::of(text);
            return Ok(());
        }
        Entry::Full(text) => {
            *answer = Answer::full(text);
            return Ok(());
        }
    }
    answer.text = format!("PostgreSQL {}", session.version).trim_end().to_owned().into();
    answer.role = session.in_recovery.map(role);
    session.waits_for = "no answer to a query";
    let asks_role = session.in_recovery.is_none() || (probe.asks_lag && session.in_recovery == Some(true));
    if asks_role {
        let query = if probe.asks_lag { LAG } else { ROLE };
        let row = bounded(session, query, patience).await?;
        let row = row.map_err(|error| failed(answer, &error, Observation::Unclear))?;
        let mut columns = row.into_iter().flatten();
        let mut column = || String::from_utf8_lossy(&columns.next().flatten().unwrap_or_default()).into_owned();
        let recovers = match column().as_str() {
            "t" => true,
            "f" => false,
            _ => return Err(Observation::Unclear("it does not say whether it is in recovery".into())),
        };
        // What it says by itself is newer.
        answer.role = Some(role(*session.in_recovery.get_or_insert(recovers)));
        answer.lag = column().parse().ok().map(lag);
        let (is_fed, received, replayed) = (column() == "t", column().parse().ok(), column().parse().ok());
        let progress = received.zip(replayed);
        answer.progress = progress.map(|(received, replayed)| Progress { received, replayed, is_fed });
    }
    if let Some(query) = &probe.query {
        let row = bounded(session, query, patience).await?;
        let row = row.map_err(|error| failed(answer, &error, Observation::Refused))?;
        let Some(row) = row else { return Err(Observation::Refused("the query gave no row".into())) };
        let first = row.into_iter().next().flatten();
        answer.value = first.map(|value| String::from_utf8_lossy(&value).into_owned());
    }
    // It may have told that it was promoted in the meantime.
    answer.role = session.in_recovery.map(role);
    Ok(())
}

/// The first row that `query` gives, which has to come within `patience`.
async fn bounded(
    session: &mut Session,
    query: &str,
    patience: Duration,
) -> Result<Result<Option<Row>, ServerError>, Observation> {
    // A query that hangs would go on after the probe, and one more would join it each time. In one message both are one
    // transaction, so that a pooler does not keep the setting for the next client of that connection.
    let within = format!("SET LOCAL statement_timeout TO {}; {query}", patience.as_millis());
    match session.query(&within).await? {
        // Some poolers, or their consoles, take one statement at a time, or do not know this one.
        Err(error) if matches!(error.code.as_str(), "42601" | "0A000" | "08P01") => session.query(query).await,
        found => Ok(found),
    }
}

fn role(recovers: bool) -> Role {
    if recovers { Role::Replica } else { Role::Primary }
}

/// A replica whose clock is behind that of its primary has what the primary has not written yet, to look at it.
fn lag(milliseconds: i64) -> Duration {
    Duration::from_millis(u64::try_from(milliseconds).unwrap_or_default())
}

const ROLE: &str = "SELECT pg_catalog.pg_is_in_recovery()";

/// Besides, by how many milliseconds a replica is behind, whether it hears its primary, and how far it has come.
///
/// It is behind by nothing while all that was received is replayed and the primary is heard, however long ago that wrote;
/// else by the age of the last transaction that was replayed, of which [`super::lag`] knows better. A receiver to which
/// nothing came for half of wal_receiver_timeout asks for a sign of life, so that one that is silent for longer is cut off;
/// then the silence counts. Without pg_read_all_stats nobody sees for how long it is silent, and it is heard while it runs.
const LAG: &str = "SELECT recovers, \
    (1000 * extract(epoch FROM CASE \
        WHEN NOT recovers THEN NULL \
        WHEN fed IS NULL OR received IS NULL OR replayed < received THEN now - last \
        WHEN fed THEN '0' \
        ELSE silence END))::bigint, \
    coalesce(fed, false), \
    pg_catalog.pg_wal_lsn_diff(received, '0/0'), \
    pg_catalog.pg_wal_lsn_diff(replayed, '0/0') \
    FROM (SELECT *, CASE WHEN pid IS NOT NULL \
            THEN silence IS NULL OR patience = '0' OR silence <= patience / 2 + '2 s' END AS fed \
        FROM (SELECT s.*, w.pid, s.now - w.last_msg_receipt_time AS silence \
            FROM (SELECT pg_catalog.pg_is_in_recovery() AS recovers, \
                pg_catalog.pg_last_wal_receive_lsn() AS received, \
                pg_catalog.pg_last_wal_replay_lsn() AS replayed, \
                pg_catalog.pg_last_xact_replay_timestamp() AS last, \
                pg_catalog.clock_timestamp() AS now, \
                pg_catalog.current_setting('wal_receiver_timeout')::pg_catalog.interval AS patience) s \
            LEFT JOIN pg_catalog.pg_stat_wal_receiver w ON true) heard) found";

/// What it means that a query failed: what `else_` says, unless the server itself is in trouble.
fn failed(answer: &mut Answer, error: &ServerError, else_: fn(Text) -> Observation) -> Observation {
    let text = format!("a query failed: {error}").into();
    match error.code.as_bytes() {
        // It shuts down, and is nothing to the others any more.
        [b'5', b'7', b'P', ..] => {
            answer.role = None;
            Observation::Refused(text)
        }
        // It took too long, was in the way of what is replayed, or lacked resources.
        b"57014" | [b'4', b'0', ..] | [b'5', b'3', ..] | [b'5', b'5', ..] | [b'5', b'8', ..] | [b'X', b'X', ..] => {
            Observation::Missing(text)
        }
        _ => else_(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_that_disagree_are_no_lag() {
        for (milliseconds, expected) in [(-1900, 0), (0, 0), (1900, 1900), (i64::MIN, 0)] {
            assert_eq!(lag(milliseconds), Duration::from_millis(expected), "{milliseconds}");
        }
    }
}
