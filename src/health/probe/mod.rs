//! One probe: a short talk with one endpoint, ended politely. Each dialogue has a file of its own.

pub(crate) mod agent;
mod channel;
mod http;
pub(crate) mod lag;
pub(crate) mod mysql;
mod patroni;
mod postgres;
mod redis;
mod script;
mod server;
pub(crate) mod tls;

use std::io;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout_at};
use zeroize::Zeroizing;

use self::channel::{Channel, Line};
use self::lag::Memory;
use self::mysql::{Conversation, Means};
use self::tls::Opened;
use super::secret;
use super::verdict::{Observation, Text};
use crate::config::model::{Dialogue, Expect, Probe, Role, Secret, SecretFile};
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
    /// And of what a server has to be.
    Server(server::Answer),
}

/// What a talk goes by: with whom, in which TLS, and until when.
struct Talk<'a> {
    call: &'a Call,
    /// What the endpoint is called in a request.
    host: &'a str,
    /// The TLS that it runs in; `None`: in clear.
    tls: Option<&'a Result<tls::Client, Observation>>,
    deadline: Deadline,
}

/// What is logged in with.
#[derive(Clone, Copy)]
struct Passwords<'a> {
    /// To the endpoint.
    own: Option<&'a [u8]>,
    /// To Sentinels.
    of_sentinels: Option<&'a [u8]>,
}

/// A password, where one is written.
type OwnPassword = Option<Zeroizing<Vec<u8>>>;

/// What a talk has come to, when the endpoint's certificate ends, and the connection if it is worth an end.
type Talked<T> = (Result<T, Observation>, Option<SystemTime>, Option<Channel>);

/// A talk that is over but for its end, which nobody has to wait for.
pub(crate) struct Ending(Option<Channel>);

impl Found {
    /// What means the same to everybody.
    #[cfg(test)]
    pub(super) fn plain(observation: Observation, took: Duration) -> Found {
        Found { reply: Reply::Plain(observation), expires: None, took }
    }

    /// That a server has told what it is, and nothing else.
    #[cfg(test)]
    pub(super) fn of_server(role: Role) -> Found {
        let answer = server::Answer { role: Some(role), ..server::Answer::of("X 1") };
        Found { reply: Reply::Server(answer), expires: None, took: Duration::ZERO }
    }

    /// That a server has no room for a login.
    #[cfg(test)]
    pub(super) fn full() -> Found {
        Found { reply: Reply::Server(server::Answer::full("full")), expires: None, took: Duration::ZERO }
    }

    /// That a server has told what it is, and not all of the rest.
    #[cfg(test)]
    pub(super) fn failed_as(role: Role, why: Observation) -> Found {
        let answer = server::Answer { role: Some(role), failure: Some(why), ..server::Answer::of("X 1") };
        Found { reply: Reply::Server(answer), expires: None, took: Duration::ZERO }
    }

    /// That a replica is so far behind, and nothing else.
    #[cfg(test)]
    pub(super) fn of_replica(lag: Duration) -> Found {
        let answer = server::Answer { role: Some(Role::Replica), lag: Some(lag), ..server::Answer::of("X 1") };
        Found { reply: Reply::Server(answer), expires: None, took: Duration::ZERO }
    }

    /// What a pool makes of it.
    pub(crate) fn judge(&self, expect: &Expect) -> Observation {
        match &self.reply {
            Reply::Plain(observation) => observation.clone(),
            Reply::Http(answer) => answer.judge(&expect.http),
            Reply::Server(answer) => answer.judge(expect),
        }
    }

    /// Whether it does not serve for nothing but how far it is behind.
    pub(crate) fn only_lags(&self, expect: &Expect) -> bool {
        matches!(&self.reply, Reply::Server(answer) if answer.only_lags(expect))
    }

    /// Puts together what it says of how far a replica is behind with what was found before.
    pub(crate) fn settle_lag(&mut self, memory: &mut Memory, now: std::time::Instant) {
        if let Reply::Server(answer) = &mut self.reply {
            answer.settle_lag(memory, now);
        }
    }

    /// Whether it has no room for a login, which says nothing of what it was.
    pub(crate) fn is_full(&self) -> bool {
        matches!(&self.reply, Reply::Server(answer) if answer.is_full)
    }

    /// What the endpoint is to the others, if it has told.
    pub(crate) fn role(&self) -> Option<Role> {
        match &self.reply {
            Reply::Server(answer) => answer.role,
            Reply::Plain(_) | Reply::Http(_) => None,
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

/// Has `dialogue` with an endpoint that is called `host`, within `tls` if the dialogue is. A talk that was `left` goes on
/// instead; one that has no end by the deadline is left.
///
/// # Errors
/// Nothing was found out about the endpoint: something of our own (a descriptor, a port, an address) was missing.
pub(crate) async fn run(
    call: &Call,
    dialogue: &Dialogue,
    host: &str,
    tls: Option<&Result<tls::Client, Observation>>,
    left: &mut Option<Conversation>,
) -> io::Result<(Found, Ending)> {
    let began = Instant::now();
    let talk = Talk { call, host, tls, deadline: Deadline::from(began, call.patience) };
    let (said, expires, channel) = match left.take().filter(Conversation::is_fresh) {
        Some(conversation) => talk.go_on(conversation, left).await,
        None => match talk.dial().await? {
            Err(why) => (Err(why), None, None),
            // Only now: whether anybody is there is found out without a password.
            Ok(line) => match talk.passwords(&dialogue.probe).await {
                Ok((own, of_sentinels)) => {
                    let own = own.as_ref().map(|password| password.as_slice());
                    let of_sentinels = of_sentinels.as_ref().map(|password| password.as_slice());
                    talk.have(line, &dialogue.probe, Passwords { own, of_sentinels }, left).await?
                }
                Err(why) => talk.have_none(line, &dialogue.probe, why, left).await,
            },
        },
    };
    let found = Found { reply: said.unwrap_or_else(Reply::Plain), expires, took: began.elapsed() };
    Ok((found, Ending(channel)))
}

/// Asks the agent there.
///
/// # Errors
/// As [`run`]; the inner error is why the agent has not said anything.
pub(crate) async fn ask_agent(call: &Call, send: &Secret) -> io::Result<(Result<agent::Said, Text>, Ending)> {
    let deadline = Deadline::from(Instant::now(), call.patience);
    let talk = Talk { call, host: "", tls: None, deadline };
    match talk.dial().await? {
        Err(why) => Ok((Err(why.text().clone()), Ending(None))),
        Ok(line) => {
            let mut channel = Channel::Clear(line);
            let said = agent::run(&mut channel, &send.0, deadline).await;
            Ok((said, Ending(Some(channel))))
        }
    }
}

impl Talk<'_> {
    /// Connects. The outer error is our own; the inner one is why there is no connection.
    async fn dial(&self) -> io::Result<Result<Line, Observation>> {
        let Call { target, source, preface, .. } = self.call;
        let dialled = self.deadline.hold(async {
            let stream = connect::dial(target, Source::own(*source)).await?;
            connect::send(&stream, preface, false).await?;
            Ok(stream)
        });
        match dialled.await {
            Ok(Ok(stream)) => Ok(Ok(Line(stream))),
            Ok(Err(error)) if connect::blame(&error).by == Side::Us => Err(error),
            Ok(Err(error)) => Ok(Err(Observation::Missing(error.to_string().into()))),
            Err(_) => Ok(Err(Observation::Missing(self.deadline.missed("no connection")))),
        }
    }

    /// Reads the passwords with which `probe` logs in.
    ///
    /// # Errors
    /// One cannot be read, or not within half of the time that there is: nothing is known by that of the endpoint.
    async fn passwords(&self, probe: &Probe) -> Result<(OwnPassword, OwnPassword), Observation> {
        let of_sentinels = probe.sentinels().and_then(|sentinels| sentinels.password.as_ref());
        let read = async |file: Option<&SecretFile>| match file {
            Some(file) => secret::read_aside(file).await.map(Some),
            None => Ok(None),
        };
        let both = async { io::Result::Ok((read(probe.password()).await?, read(of_sentinels).await?)) };
        let half = Deadline::from(Instant::now(), self.deadline.length / 2);
        let why = match half.hold(both).await {
            Ok(Ok(read)) => return Ok(read),
            Ok(Err(error)) => error.to_string().into(),
            Err(_) => half.missed("its password cannot be read"),
        };
        Err(Observation::Unclear(format!("cannot log in: {why}").into()))
    }

    /// Leaves an endpoint that is there and cannot be logged in to, for the reason `why`.
    async fn have_none(
        &self,
        line: Line,
        probe: &Probe,
        why: Observation,
        left: &mut Option<Conversation>,
    ) -> Talked<Reply> {
        match probe {
            // One that is left without a login counts it against us.
            Probe::Mysql(probe) => {
                let means = Means { probe: probe.clone(), password: None, tls: Some(Err(why)) };
                self.go_on(Conversation::begin(line, means), left).await
            }
            _ => (Err(why), None, Some(Channel::Clear(line))),
        }
    }

    /// Says what `probe` is to say, with these passwords where it logs in. The outer error is our own.
    async fn have(
        &self,
        line: Line,
        probe: &Probe,
        passwords: Passwords<'_>,
        left: &mut Option<Conversation>,
    ) -> io::Result<Talked<Reply>> {
        Ok(match probe {
            // A connection in clear on which nothing was said needs no more than to be closed.
            Probe::Tcp if self.tls.is_none() => {
                let channel = (!self.call.preface.is_empty()).then_some(Channel::Clear(line));
                (Ok(Reply::Plain(Observation::Pass("connected".into()))), None, channel)
            }
            Probe::Tcp => {
                let confirm = async |channel| {
                    let confirmed = self.deadline.hold(tls::confirm(channel)).await;
                    let (observation, channel) = confirmed.unwrap_or((Observation::Pass("TLS".into()), None));
                    (Ok(Reply::Plain(observation)), channel)
                };
                self.within(line, confirm).await
            }
            Probe::Script(steps) => {
                let follow = async |mut channel| {
                    let observation = script::run(&mut channel, steps, self.deadline).await;
                    (Ok(Reply::Plain(observation)), Some(channel))
                };
                self.within(line, follow).await
            }
            Probe::Http(probe) => {
                let request = async |channel| {
                    let (answer, channel) = http::run(channel, probe, self.host, self.deadline).await;
                    (answer.map(Reply::Http), channel)
                };
                self.within(line, request).await
            }
            Probe::Postgres(probe) => {
                let (answer, expires, channel) = postgres::run(line, probe, passwords.own, self).await;
                (answer.map(Reply::Server), expires, channel)
            }
            Probe::Patroni(probe) => {
                let (answer, expires, channel) = patroni::run(line, probe, self).await?;
                (answer.map(Reply::Server), expires, channel)
            }
            Probe::Mysql(probe) => {
                let password = passwords.own.map(|password| Zeroizing::new(password.to_vec()));
                let means = Means { probe: probe.clone(), password, tls: self.tls.cloned() };
                self.go_on(Conversation::begin(line, means), left).await
            }
            Probe::Redis(probe) => {
                let ask = async |channel| {
                    let (answer, channel) = redis::run(channel, probe, passwords, self).await;
                    (answer.map(Reply::Server), channel)
                };
                self.within(line, ask).await
            }
        })
    }

    /// Has a conversation go on, which is left if it has no end by the deadline.
    async fn go_on(&self, conversation: Conversation, left: &mut Option<Conversation>) -> Talked<Reply> {
        match conversation.go_on(self.deadline).await {
            Ok((answer, expires, channel)) => (answer.map(Reply::Server), expires, channel),
            Err((why, conversation)) => {
                *left = Some(conversation);
                (Err(Observation::Missing(why)), None, None)
            }
        }
    }

    /// Has a talk all of which is in TLS, if any of it is.
    async fn within<T>(
        &self,
        line: Line,
        talk: impl AsyncFnOnce(Channel) -> (Result<T, Observation>, Option<Channel>),
    ) -> Talked<T> {
        match self.open(line).await {
            Err((why, channel)) => (Err(why), None, channel),
            Ok(Opened { channel, expires }) => {
                let (said, channel) = talk(channel).await;
                (said, expires, channel)
            }
        }
    }

    /// Has what is said on `line` from now on be said in TLS, if the dialogue runs in it.
    ///
    /// # Errors
    /// What is to be told of the endpoint, and the connection if it is worth an end.
    async fn open(&self, line: Line) -> Result<Opened, (Observation, Option<Channel>)> {
        match self.tls {
            None => Ok(Opened { channel: Channel::Clear(line), expires: None }),
            Some(Err(observation)) => Err((observation.clone(), Some(Channel::Clear(line)))),
            Some(Ok(client)) => match self.deadline.hold(client.open(line)).await {
                Ok(Ok(opened)) => Ok(opened),
                Ok(Err((observation, channel))) => Err((observation, Some(channel))),
                Err(_) => Err((Observation::Missing(self.deadline.missed("no TLS handshake")), None)),
            },
        }
    }
}
