//! What a database server tells of itself, and what a pool makes of it.

use std::time::{Duration, Instant};

use super::lag::{Memory, Progress};
use crate::config::model::{Expect, Role};
use crate::health::verdict::{Observation, Text};

/// How much of a wrong value is told, in characters: it may be anything.
const SHOWN: usize = 8;

/// What a server has told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// What it is to the others; `None`: it does not say.
    pub(crate) role: Option<Role>,
    /// How far it is behind, if it was asked and knows.
    pub(crate) lag: Option<Duration>,
    /// It stays what it was, so that what was known of its lag before counts while it does not know.
    pub(crate) keeps_lag: bool,
    /// How far it has come, if it was asked and knows.
    pub(crate) progress: Option<Progress>,
    /// What the query gave, if there is one and it is not NULL.
    pub(crate) value: Option<String>,
    /// What a pool has to make of it that needs what it does not tell; `None`: that it should have told.
    pub(crate) unknown: Option<Observation>,
    /// What every pool has to make of it whose role it has: not all that there was to ask was answered.
    pub(crate) failure: Option<Observation>,
    /// It has no room for a login.
    pub(crate) is_full: bool,
    /// What it is, in a few words.
    pub(crate) text: Text,
}

impl Answer {
    /// What is known of a server that has told no more than what it is.
    pub(crate) fn of(text: impl Into<Text>) -> Answer {
        Answer {
            role: None,
            lag: None,
            keeps_lag: false,
            progress: None,
            value: None,
            unknown: None,
            failure: None,
            is_full: false,
            text: text.into(),
        }
    }

    /// What is known of a server that has no room for a login: what it does not tell is not held against it.
    pub(crate) fn full(text: impl Into<Text>) -> Answer {
        let text = text.into();
        Answer { unknown: Some(Observation::Unclear(text.clone())), is_full: true, ..Answer::of(text) }
    }

    /// What is known of it where the talk was over too early for this reason. What it is to the others, it has told all the
    /// same, and others may have to give way to it.
    ///
    /// # Errors
    /// It has told nothing, so that the reason is all there is.
    pub(crate) fn broken_off(self, why: Observation) -> Result<Answer, Observation> {
        match self.role {
            Some(_) => Ok(Answer { failure: Some(why), ..self }),
            None => Err(why),
        }
    }

    /// Puts together what it says of how far it is behind with what was found before.
    pub(super) fn settle_lag(&mut self, memory: &mut Memory, now: Instant) {
        match (self.role, self.progress) {
            (Some(Role::Primary), _) => memory.forget(),
            (Some(Role::Replica), Some(progress)) => self.lag = memory.settle(now, self.lag, progress),
            (Some(Role::Replica), None) if self.keeps_lag => self.lag = memory.keep(now, self.lag),
            // It is full, or was not asked, or there is nothing to compare by.
            _ => {}
        }
    }

    /// What a pool makes of it.
    pub(super) fn judge(&self, expect: &Expect) -> Observation {
        match self.fault(expect) {
            Some(fault) => fault,
            None => Observation::Pass(self.told()),
        }
    }

    /// What it is not that it has to be.
    fn fault(&self, expect: &Expect) -> Option<Observation> {
        let refused = |why: String| Some(Observation::Refused(why.into()));
        let untold = |why: &'static str| Some(self.unknown.clone().unwrap_or(Observation::Refused(why.into())));
        match (expect.role, self.role) {
            (Some(wanted), Some(role)) if wanted != role => return refused(format!("is a {}", role.word())),
            (Some(_), None) => return untold("does not say whether it is a primary or a replica"),
            _ => {}
        }
        if self.failure.is_some() {
            return self.failure.clone();
        }
        match (expect.max_lag.filter(|most| self.is_behind(*most)), self.lag) {
            (Some(_), None) => return untold("nobody knows how far it is behind"),
            (Some(most), Some(lag)) => return refused(format!("{}, allowed are {most:?}", behind(lag))),
            (None, _) => {}
        }
        match (&expect.value, &self.value) {
            (Some(wanted), Some(value)) if wanted != value => {
                refused(format!("the query gave {}, which is not what is expected", shown(value)))
            }
            (Some(_), None) => untold("the query gave NULL, which is not what is expected"),
            _ => None,
        }
    }

    /// Whether it is a replica of the role that it has to have, and does not serve for nothing but how far it is behind, or
    /// because nobody knows how far that is.
    pub(super) fn only_lags(&self, expect: &Expect) -> bool {
        self.role == Some(Role::Replica)
            && expect.max_lag.is_some_and(|most| self.is_behind(most))
            && self.fault(&Expect { max_lag: None, ..expect.clone() }).is_none()
    }

    /// Whether it is further behind than `most`, as far as is known. A primary never is.
    fn is_behind(&self, most: Duration) -> bool {
        self.role != Some(Role::Primary) && self.lag.is_none_or(|lag| lag > most)
    }

    fn told(&self) -> Text {
        let role = self.role.map(|role| format!(", {}", role.word())).unwrap_or_default();
        let lag = self.lag.filter(|_| self.role != Some(Role::Primary));
        let lag = lag.map(|lag| format!(", {}", behind(lag))).unwrap_or_default();
        format!("{}{role}{lag}", self.text).into()
    }
}

fn behind(lag: Duration) -> String {
    match lag.as_secs() {
        0..60 => format!("{:.1} s behind", lag.as_secs_f64()),
        seconds => format!("{seconds} s behind"),
    }
}

fn shown(value: &str) -> String {
    match value.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}...", value.get(..end).unwrap_or_default()),
        None => format!("{value:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::HttpExpect;

    fn expect(role: Option<Role>, max_lag: Option<u64>, value: Option<&str>) -> Expect {
        let http = HttpExpect { status: vec![200..=200], body: None };
        Expect { http, role, max_lag: max_lag.map(Duration::from_millis), value: value.map(str::to_owned) }
    }

    #[test]
    fn answers_are_judged() {
        const PRIMARY: Option<Role> = Some(Role::Primary);
        const REPLICA: Option<Role> = Some(Role::Replica);
        let answer = |role, lag: Option<u64>, value: Option<&str>| Answer {
            role,
            lag: lag.map(Duration::from_millis),
            value: value.map(str::to_owned),
            ..Answer::of("X 1")
        };
        let full = || Answer::full("too many connections");
        let failed = |role| {
            let answer = Answer { role, ..Answer::of("X 1") };
            answer.broken_off(Observation::Refused("a query failed".into())).unwrap()
        };
        let pass = |text: &'static str| Observation::Pass(text.into());
        let refused = |text: &'static str| Observation::Refused(text.into());
        for (case, answer, expect, judged) in [
            ("anything", answer(None, None, None), expect(None, None, None), pass("X 1")),
            ("a primary", answer(PRIMARY, None, None), expect(PRIMARY, None, None), pass("X 1, primary")),
            ("a replica instead", answer(REPLICA, None, None), expect(PRIMARY, None, None), refused("is a replica")),
            ("a primary instead", answer(PRIMARY, None, None), expect(REPLICA, None, None), refused("is a primary")),
            (
                "nobody knows",
                answer(None, None, None),
                expect(REPLICA, None, None),
                refused("does not say whether it is a primary or a replica"),
            ),
            (
                "a lag that does not matter",
                answer(REPLICA, Some(90_000), None),
                expect(None, None, None),
                pass("X 1, replica, 90 s behind"),
            ),
            (
                "just far enough",
                answer(REPLICA, Some(1000), None),
                expect(REPLICA, Some(1000), None),
                pass("X 1, replica, 1.0 s behind"),
            ),
            (
                "too far",
                answer(REPLICA, Some(1001), None),
                expect(None, Some(1000), None),
                refused("1.0 s behind, allowed are 1s"),
            ),
            (
                "nobody knows how far",
                answer(REPLICA, None, None),
                expect(None, Some(1000), None),
                refused("nobody knows how far it is behind"),
            ),
            ("a primary has no lag", answer(PRIMARY, None, None), expect(None, Some(1), None), pass("X 1, primary")),
            ("the value", answer(None, None, Some("t")), expect(None, None, Some("t")), pass("X 1")),
            ("any value", answer(None, None, Some("t")), expect(None, None, None), pass("X 1")),
            (
                "another value",
                answer(None, None, Some("secret things")),
                expect(None, None, Some("t")),
                refused("the query gave \"secret t\"..., which is not what is expected"),
            ),
            (
                "no value",
                answer(None, None, None),
                expect(None, None, Some("t")),
                refused("the query gave NULL, which is not what is expected"),
            ),
            ("full", full(), expect(None, None, None), pass("too many connections")),
            (
                "full, so that the role is not known",
                full(),
                expect(PRIMARY, None, None),
                Observation::Unclear("too many connections".into()),
            ),
            ("a query that failed", failed(PRIMARY), expect(PRIMARY, None, None), refused("a query failed")),
            ("whoever asks", failed(PRIMARY), expect(None, None, None), refused("a query failed")),
            ("the role comes first", failed(REPLICA), expect(PRIMARY, None, None), refused("is a replica")),
        ] {
            assert_eq!(answer.judge(&expect), judged, "{case}");
        }
    }

    #[test]
    fn what_only_lags_is_told_from_what_must_not_serve() {
        let answer = |role, lag: Option<u64>, value: Option<&str>| Answer {
            role: Some(role),
            lag: lag.map(Duration::from_millis),
            value: value.map(str::to_owned),
            ..Answer::of("X 1")
        };
        let (primary, replica) = (Role::Primary, Role::Replica);
        for (case, answer, expect, only_lags) in [
            ("too far", answer(replica, Some(1001), None), expect(Some(replica), Some(1000), None), true),
            ("where any will do", answer(replica, Some(1001), None), expect(None, Some(1000), None), true),
            ("nobody knows", answer(replica, None, None), expect(Some(replica), Some(1000), None), true),
            ("near enough", answer(replica, Some(1000), None), expect(Some(replica), Some(1000), None), false),
            ("it does not matter", answer(replica, Some(1001), None), expect(None, None, None), false),
            ("and the wrong role", answer(replica, Some(1001), None), expect(Some(primary), Some(1000), None), false),
            ("a primary instead", answer(primary, None, None), expect(Some(replica), Some(1000), None), false),
            ("the right value", answer(replica, Some(1001), Some("t")), expect(None, Some(1000), Some("t")), true),
            ("and a wrong value", answer(replica, Some(1001), Some("f")), expect(None, Some(1000), Some("t")), false),
        ] {
            assert_eq!(answer.only_lags(&expect), only_lags, "{case}");
        }
    }
}
