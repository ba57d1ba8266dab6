//! One probe: a short talk with one endpoint, ended politely. Each dialogue has a file of its own.

pub(crate) mod agent;
mod channel;
mod http;
mod script;
pub(crate) mod tls;

use std::io;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout_at};

use self::channel::{Channel, Line};
use super::verdict::{Observation, Text};
use crate::config::model::{Dialogue, HttpExpect, Probe, Secret};
use crate::connect::{self, Source};
use crate::observe::outcome::Side;
use crate::pool::Target;

/// Whom to ask, from where, and for how long at the most.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Call {
    pub(crate) target: Target,
    pub(crate) source: Option<IpAddr>,
    /// What is sent before anything else: a PROXY header, where sessions send one.
    pub(crate) preface: &'static [u8],
    pub(crate) patience: Duration,
}

/// When a probe is over, and how long it may take.
#[derive(Clone, Copy, Debug)]
struct Deadline {
    at: Instant,
    length: Duration,
}

/// What one probe has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    reply: Reply,
    /// When the endpoint's certificate ends.
    pub(crate) expires: Option<SystemTime>,
    /// How long the whole probe took, without its end.
    pub(crate) took: Duration,
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Reply {
    /// The same for everybody.
    Plain(Observation),
    /// Each pool has its own idea of what is good.
    Http(http::Answer),
}

/// A talk that is over but for its end, which nobody has to wait for.
pub(crate) struct Ending(Option<Channel>);

impl Found {
    /// What means the same to everybody.
    #[cfg(test)]
    pub(super) fn plain(observation: Observation, took: Duration) -> Found {
        Found { reply: Reply::Plain(observation), expires: None, took }
    }

    /// What a pool makes of it.
    pub(crate) fn judge(&self, expect: &HttpExpect) -> Observation {
        match &self.reply {
            Reply::Plain(observation) => observation.clone(),
            Reply::Http(answer) => answer.judge(expect),
        }
    }
}

impl Deadline {
    fn from(now: Instant, length: Duration) -> Deadline {
        Deadline { at: now + length, length }
    }

    /// Has `talk` go on until then.
    async fn hold<T>(self, talk: impl Future<Output = T>) -> Result<T, Elapsed> {
        timeout_at(self.at, talk).await
    }

    /// Says what did not come in time.
    fn missed(self, what: &str) -> Text {
        format!("{what} in {:?}", self.length).into()
    }
}

impl Ending {
    /// Ends it politely, within a second.
    pub(crate) async fn end(self) {
        if let Some(mut channel) = self.0 {
            // However the endpoint takes it, the talk is over.
            let _ = channel.part().await;
        }
    }
}

/// Has `dialogue` with an endpoint that is called `host`, within `tls` if the dialogue is.
///
/// # Errors
/// Nothing was found out about the endpoint: something of our own (a descriptor, a port, an address) was missing.
pub(crate) async fn run(
    call: &Call,
    dialogue: &Dialogue,
    host: &str,
    tls: Option<&Result<tls::Client, Observation>>,
) -> io::Result<(Found, Ending)> {
    let began = Instant::now();
    let deadline = Deadline::from(began, call.patience);
    let (reply, expires, channel) = match dial(call, deadline).await? {
        Err(why) => (Reply::Plain(Observation::Missing(why)), None, None),
        Ok(line) => talk(line, !call.preface.is_empty(), dialogue, host, tls, deadline).await,
    };
    let found = Found { reply, expires, took: began.elapsed() };
    Ok((found, Ending(channel)))
}

/// Asks the agent there.
///
/// # Errors
/// As [`run`]; the inner error is why the agent has not said anything.
pub(crate) async fn ask_agent(call: &Call, send: &Secret) -> io::Result<(Result<agent::Said, Text>, Ending)> {
    let deadline = Deadline::from(Instant::now(), call.patience);
    match dial(call, deadline).await? {
        Err(why) => Ok((Err(why), Ending(None))),
        Ok(line) => {
            let mut channel = Channel::Clear(line);
            let said = agent::run(&mut channel, &send.0, deadline).await;
            Ok((said, Ending(Some(channel))))
        }
    }
}

/// The outer error is our own; the inner one is why there is no connection.
async fn dial(call: &Call, deadline: Deadline) -> io::Result<Result<Line, Text>> {
    let dialled = deadline.hold(async {
        let stream = connect::dial(&call.target, Source::own(call.source)).await?;
        connect::send(&stream, call.preface, false).await?;
        Ok(stream)
    });
    match dialled.await {
        Ok(Ok(stream)) => Ok(Ok(Line(stream))),
        Ok(Err(error)) if connect::blame(&error).by == Side::Us => Err(error),
        Ok(Err(error)) => Ok(Err(error.to_string().into())),
        Err(_) => Ok(Err(deadline.missed("no connection"))),
    }
}

async fn talk(
    line: Line,
    is_prefaced: bool,
    dialogue: &Dialogue,
    host: &str,
    tls: Option<&Result<tls::Client, Observation>>,
    deadline: Deadline,
) -> (Reply, Option<SystemTime>, Option<Channel>) {
    let plain = |observation, expires, channel| (Reply::Plain(observation), expires, channel);
    let (mut channel, expires) = match tls {
        None => (Channel::Clear(line), None),
        Some(Err(observation)) => return plain(observation.clone(), None, Some(Channel::Clear(line))),
        Some(Ok(client)) => match deadline.hold(client.open(line)).await {
            Ok(Ok(opened)) => (opened.channel, opened.expires),
            Ok(Err((observation, channel))) => return plain(observation, None, Some(channel)),
            Err(_) => return plain(Observation::Missing(deadline.missed("no TLS handshake")), None, None),
        },
    };
    match &dialogue.probe {
        // A connection in clear on which nothing was said needs no more than to be closed.
        Probe::Tcp if tls.is_none() => {
            plain(Observation::Pass("connected".into()), None, is_prefaced.then_some(channel))
        }
        Probe::Tcp => {
            let confirmed = deadline.hold(tls::confirm(channel)).await;
            let (observation, channel) = confirmed.unwrap_or((Observation::Pass("TLS".into()), None));
            plain(observation, expires, channel)
        }
        Probe::Script(steps) => {
            let observation = script::run(&mut channel, steps, deadline).await;
            plain(observation, expires, Some(channel))
        }
        Probe::Http(probe) => match http::run(channel, probe, host, deadline).await {
            (Ok(answer), channel) => (Reply::Http(answer), expires, channel),
            (Err(observation), channel) => plain(observation, expires, channel),
        },
    }
}
