//! Sentinels: whether a server that believes to be the master is the one that they have agreed on.
//!
//! After a failover the old master goes on to believe in itself until somebody who can reach it tells it otherwise; what is
//! written to it until then is lost. So a majority of all Sentinels that are written has to name the server. With a majority of
//! those that answer, one that stands on the same side of a split as the old master would be enough.
//!
//! - More than half name it: it is the primary.
//! - More than half name others: it is not, at once.
//! - Anything else, as when too few can be reached: it is not known to be, which takes `fall` probes to count.
//! - Those that are there but do not let us ask are no reason to stop writing: what was known holds.
//!
//! All are asked at once, and nobody waits for the rest once it is decided.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;
use zeroize::Zeroizing;

use super::exchange::{self, Exchange, may_not, shown};
use crate::config::model::Sentinels;
use crate::connect;
use crate::health::probe::channel::{Channel, Line};
use crate::health::probe::server::Answer;
use crate::health::probe::{Deadline, Talk, tls};
use crate::health::verdict::{Observation, Text};
use crate::pool::Target;
use crate::wire::redis::Reply;

/// What one Sentinel has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Vote {
    /// The asked server is the master.
    For,
    /// Another one is, at this address.
    Against(String),
    /// It is there, and does not let us ask.
    Barred(Text),
    /// Nothing, for this reason.
    Silent(Text),
}

/// What the votes come to.
#[derive(Clone, Debug, Default)]
struct Count {
    /// How many there are in all.
    of: usize,
    votes: Vec<Vote>,
}

/// What is known of a server that says it is the master, once the Sentinels were asked.
pub(super) async fn confirm(answer: Answer, sentinels: &Sentinels, password: Option<&[u8]>, talk: &Talk<'_>) -> Answer {
    let question = Arc::new(Question {
        user: sentinels.user.clone(),
        password: password.map(|password| Zeroizing::new(password.to_vec())),
        master: sentinels.master.clone(),
        endpoint: talk.call.target.clone(),
        host: talk.host.to_owned(),
    });
    let mut asking = JoinSet::new();
    for at in &sentinels.at {
        let tls = talk.tls.and_then(|tls| tls.as_ref().ok()).map(|client| client.for_another(at.ip()));
        let sentinel = Sentinel { at: *at, source: talk.call.source, tls, deadline: talk.deadline };
        let question = Arc::clone(&question);
        asking.spawn(async move { sentinel.vote(&question).await });
    }
    let mut count = Count { of: sentinels.at.len(), votes: Vec::new() };
    while !count.is_decided()
        && let Some(vote) = asking.join_next().await
    {
        count.votes.push(vote.unwrap_or_else(|error| Vote::Silent(error.to_string().into())));
    }
    count.applied_to(answer)
}

/// What all of them are asked.
struct Question {
    user: Option<String>,
    password: Option<Zeroizing<Vec<u8>>>,
    /// What they call the master.
    master: String,
    /// Where the server is that says it is the master.
    endpoint: Target,
    /// Its host name, if it has one.
    host: String,
}

/// One Sentinel, and how it is reached.
struct Sentinel {
    at: SocketAddr,
    source: Option<IpAddr>,
    tls: Option<tls::Client>,
    deadline: Deadline,
}

impl Sentinel {
    async fn vote(&self, question: &Question) -> Vote {
        let silent = |why: Text| Vote::Silent(format!("{}: {why}", self.at).into());
        let channel = match self.deadline.hold(self.reach()).await {
            Ok(Ok(channel)) => channel,
            Ok(Err(why)) => return silent(why),
            Err(_) => return silent(self.deadline.missed("no connection")),
        };
        let mut exchange = Exchange::new(channel);
        let asked = self.deadline.hold(ask(&mut exchange, question)).await;
        let vote = match asked {
            Ok(Ok((named, port))) if question.is_of(&named, port) => Vote::For,
            Ok(Ok((named, port))) if named.contains(':') => Vote::Against(format!("[{named}]:{port}")),
            Ok(Ok((named, port))) => Vote::Against(format!("{named}:{port}")),
            Ok(Err(Observation::Unclear(why))) => Vote::Barred(format!("{}: {why}", self.at).into()),
            Ok(Err(why)) => silent(why.text().clone()),
            Err(_) => silent(self.deadline.missed("no answer")),
        };
        // Sentinels from version 7.2 on do not know QUIT. Nothing more comes, so that there is nothing to wait for.
        let _ = self.deadline.hold(exchange.channel.shutdown()).await;
        vote
    }

    async fn reach(&self) -> Result<Channel, Text> {
        let source = self.source.filter(|source| source.is_ipv4() == self.at.is_ipv4());
        let stream = connect::dial(&Target::Ip(self.at), connect::Source::own(source))
            .await
            .map_err(|error| error.to_string())?;
        match &self.tls {
            None => Ok(Channel::Clear(Line(stream))),
            Some(client) => match client.open(Line(stream)).await {
                Ok(opened) => Ok(opened.channel),
                Err((why, _)) => Err(why.text().clone()),
            },
        }
    }
}

/// Where the master is, as a Sentinel says.
async fn ask(exchange: &mut Exchange, question: &Question) -> Result<(String, u16), Observation> {
    const ASKED: &str = "SENTINEL GET-MASTER-ADDR-BY-NAME";
    let password = question.password.as_ref().map(|password| password.as_slice());
    let command: &[&[u8]] = &[b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", question.master.as_bytes()];
    exchange.log_in_and_say(question.user.as_deref(), password, &[command]).await;
    if password.is_some() {
        exchange::entered(&exchange.reply("AUTH").await?)?;
    }
    match exchange.reply(ASKED).await? {
        Reply::Array(elements) => match &elements[..] {
            [Reply::Bulk(host), Reply::Bulk(port)] => {
                let port = str::from_utf8(port).ok().and_then(|port| port.parse().ok());
                port.map(|port| (shown(host), port)).ok_or_else(|| Observation::Missing("names no port".into()))
            }
            _ => Err(Observation::Missing("is no Sentinel".into())),
        },
        Reply::Null => Err(Observation::Missing(format!("knows no master called {}", question.master).into())),
        Reply::Error(error) => Err(may_not(ASKED, error)),
        _ => Err(Observation::Missing("is no Sentinel".into())),
    }
}

impl Question {
    /// Whether it is asked of the server that is named. Sentinels name a host instead of its address where they are told to
    /// (`resolve-hostnames`, `announce-hostnames`).
    fn is_of(&self, named: &str, port: u16) -> bool {
        let Target::Ip(at) = self.endpoint else { return false };
        let is_host = match named.parse::<IpAddr>() {
            Ok(named) => named.to_canonical() == at.ip().to_canonical(),
            Err(_) => {
                let bare = |name: &str| name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
                !self.host.is_empty() && bare(named) == bare(&self.host)
            }
        };
        is_host && port == at.port()
    }
}

impl Count {
    fn fors(&self) -> usize {
        self.votes.iter().filter(|vote| **vote == Vote::For).count()
    }

    fn against(&self) -> impl Iterator<Item = &String> {
        self.votes.iter().filter_map(|vote| match vote {
            Vote::Against(other) => Some(other),
            _ => None,
        })
    }

    fn is_majority(&self, votes: usize) -> bool {
        votes > self.of / 2
    }

    fn is_decided(&self) -> bool {
        self.is_majority(self.fors()) || self.is_majority(self.against().count())
    }

    /// What is known of a server that says it is the master.
    fn applied_to(&self, answer: Answer) -> Answer {
        let (fors, of) = (self.fors(), self.of);
        if self.is_majority(fors) {
            return answer;
        }
        let other = self.against().next();
        let why = if let Some(other) = other.filter(|_| self.is_majority(self.against().count())) {
            Observation::Refused(format!("calls itself master, but Sentinels name {other}").into())
        } else {
            let trouble = self.votes.iter().find_map(|vote| match vote {
                Vote::Barred(why) | Vote::Silent(why) => Some(why.as_ref()),
                Vote::For | Vote::Against(_) => None,
            });
            let reason = trouble.or(other.map(String::as_str)).unwrap_or_default();
            let text = format!("calls itself master, but {fors} of {of} Sentinels say so; {reason}").into();
            let barred = self.votes.iter().filter(|vote| matches!(vote, Vote::Barred(_))).count();
            if self.is_majority(fors + barred) { Observation::Unclear(text) } else { Observation::Missing(text) }
        };
        Answer { role: None, unknown: Some(why.clone()), ..Answer::of(why.text().clone()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::Role;

    #[test]
    fn votes_are_counted() {
        let votes = |votes: &str| {
            let vote = |vote| match vote {
                '+' => Vote::For,
                '-' => Vote::Against("10.0.0.2:6379".to_owned()),
                'x' => Vote::Barred("s: the password is wrong".into()),
                _ => Vote::Silent("s: no connection in 1s".into()),
            };
            votes.chars().map(vote).collect::<Vec<_>>()
        };
        let other = "refused: calls itself master, but Sentinels name 10.0.0.2:6379";
        for (case, of, said, expected) in [
            ("all of them", 3, "+++", "primary"),
            ("two of three", 3, "+-+", "primary"),
            ("enough before the last has answered", 3, "++", "primary"),
            ("the only one", 1, "+", "primary"),
            ("both of two", 2, "++", "primary"),
            ("another", 3, "--", other),
            ("another, with one that is behind", 3, "+--", other),
            ("the only one, another", 1, "-", other),
            (
                "one that is cut off with it",
                3,
                "+..",
                "missing: calls itself master, but 1 of 3 Sentinels say so; s: no",
            ),
            ("nobody", 3, "...", "missing: calls itself master, but 0 of 3 Sentinels say so; s: no connection"),
            ("half and half", 2, "+-", "missing: calls itself master, but 1 of 2 Sentinels say so; 10.0.0.2:6379"),
            ("half", 4, "++-.", "missing: calls itself master, but 2 of 4"),
            (
                "two who do not say, one who does",
                3,
                "+xx",
                "unclear: calls itself master, but 1 of 3 Sentinels say so; s: the",
            ),
            ("one who does not say", 3, "x..", "missing: "),
            ("another, who may not be alone", 3, "-xx", "unclear: "),
        ] {
            let count = Count { of, votes: votes(said) };
            let answer = count.applied_to(Answer { role: Some(Role::Primary), ..Answer::of("PONG") });
            let found = match (&answer.role, &answer.unknown) {
                (Some(Role::Primary), None) => "primary".to_owned(),
                (None, Some(Observation::Refused(why))) => format!("refused: {why}"),
                (None, Some(Observation::Missing(why))) => format!("missing: {why}"),
                (None, Some(Observation::Unclear(why))) => format!("unclear: {why}"),
                other => format!("{other:?}"),
            };
            assert!(found.starts_with(expected), "{case}: {found}");
            let decided = ["primary", other].contains(&expected);
            assert_eq!(count.is_decided(), decided, "{case}");
        }
    }

    fn question(endpoint: Target, host: &str) -> Question {
        Question { user: None, password: None, master: "main".to_owned(), endpoint, host: host.to_owned() }
    }

    #[test]
    fn who_is_named() {
        for (named, port, endpoint, host, is) in [
            ("10.0.0.1", 6379, "10.0.0.1:6379", "", true),
            ("10.0.0.1", 6380, "10.0.0.1:6379", "", false),
            ("10.0.0.2", 6379, "10.0.0.1:6379", "", false),
            ("2001:DB8::1", 6379, "[2001:db8:0::1]:6379", "", true),
            ("::ffff:10.0.0.1", 6379, "10.0.0.1:6379", "", true),
            ("Redis-1.test.", 6379, "10.0.0.1:6379", "redis-1.test", true),
            ("redis-2.test", 6379, "10.0.0.1:6379", "redis-1.test", false),
            ("redis-1.test", 6380, "10.0.0.1:6379", "redis-1.test", false),
            // An address is what counts where one is named.
            ("10.0.0.1", 6379, "10.0.0.1:6379", "redis-1.test", true),
            ("", 6379, "10.0.0.1:6379", "", false),
        ] {
            let question = question(Target::Ip(endpoint.parse().unwrap()), host);
            assert_eq!(question.is_of(named, port), is, "{named}:{port} and {endpoint} ({host:?})");
        }
        assert!(!question(Target::Unix("/run/x".into()), "").is_of("", 0));
    }
}
