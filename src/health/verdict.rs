//! The verdict on one endpoint in one pool: rules, observations and nothing else.

use std::borrow::Cow;

/// How many answers it takes to change a pool's mind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    /// Passes in a row that bring an endpoint up, at least 1.
    pub(crate) rise: u32,
    /// Probes without an answer in a row that take an endpoint down, at least 1. A definite answer does so at once.
    pub(crate) fall: u32,
}

/// What one probe has found, with a few words for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Observation {
    /// The endpoint answered as it should.
    Pass(Text),
    /// It gave a definite answer, and it was the wrong one.
    Refused(Text),
    /// No answer, or none that says anything.
    Missing(Text),
    /// It is there, but something of ours keeps us from finding out more, or it is too busy to say: what was known of it
    /// holds.
    Unclear(Text),
}

/// A few words for people.
pub(crate) type Text = Cow<'static, str>;

impl Observation {
    /// Its words.
    pub(crate) fn text(&self) -> &Text {
        match self {
            Observation::Pass(text)
            | Observation::Refused(text)
            | Observation::Missing(text)
            | Observation::Unclear(text) => text,
        }
    }
}

/// Whether an endpoint may be chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Nothing is known yet.
    #[default]
    Unknown,
    /// It answers.
    Up,
    /// It does not.
    Down,
}

/// What is known of an endpoint so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    standing: Standing,
    /// Observations in a row that speak against the standing.
    against: u32,
    /// It went down because of a definite answer.
    refused: bool,
}

impl Verdict {
    /// The verdict on an endpoint that is never probed.
    pub(crate) fn unprobed() -> Verdict {
        Verdict { standing: Standing::Up, ..Verdict::default() }
    }

    /// What came of it so far.
    pub(crate) fn standing(&self) -> Standing {
        self.standing
    }

    /// Whether it is down because it gave a definite answer.
    pub(crate) fn is_refused(&self) -> bool {
        self.refused
    }

    /// Takes in an observation. The new standing, if it is another one.
    ///
    /// The first answer decides at once, so that a start does not have to wait for `rise`. A definite answer always does. One
    /// that is unclear changes nothing, but nobody is up who was never found to be.
    pub(crate) fn observe(&mut self, rules: Rules, observation: &Observation) -> Option<Standing> {
        let (seen, needed) = match observation {
            Observation::Pass(_) => (Standing::Up, rules.rise),
            Observation::Refused(_) => (Standing::Down, 1),
            Observation::Missing(_) => (Standing::Down, rules.fall),
            Observation::Unclear(_) if self.standing == Standing::Unknown => (Standing::Down, 1),
            Observation::Unclear(_) => return None,
        };
        if seen == self.standing {
            self.against = 0;
            // Who was silent and now says that it should not serve is down for that.
            self.refused |= matches!(observation, Observation::Refused(_));
            return None;
        }
        self.against += 1;
        if self.standing != Standing::Unknown && self.against < needed {
            return None;
        }
        *self = Verdict { standing: seen, against: 0, refused: matches!(observation, Observation::Refused(_)) };
        Some(seen)
    }

    /// Whether the last observations speak against the standing: then the next one should come soon.
    pub(crate) fn is_changing(&self) -> bool {
        self.against > 0 || self.standing == Standing::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs observations (`+` is a pass, `!` a refusal, `-` a miss, `?` an unclear answer) and writes down the standing after each (`u`,
    /// `d`).
    fn run(rise: u32, fall: u32, observations: &str) -> String {
        let mut verdict = Verdict::default();
        let look = |what| {
            let observation = match what {
                '+' => Observation::Pass("".into()),
                '!' => Observation::Refused("".into()),
                '?' => Observation::Unclear("".into()),
                _ => Observation::Missing("".into()),
            };
            verdict.observe(Rules { rise, fall }, &observation);
            match verdict.standing {
                Standing::Unknown => '?',
                Standing::Up => 'u',
                Standing::Down => 'd',
            }
        };
        observations.chars().map(look).collect()
    }

    #[test]
    fn verdicts_follow_the_rules() {
        for (case, rise, fall, observations, standings) in [
            ("one pass is enough at the start", 2, 3, "+", "u"),
            ("and so is one miss", 2, 3, "-", "d"),
            ("up again after rise", 2, 3, "-++", "ddu"),
            ("down after fall", 2, 3, "+---", "uuud"),
            ("a pass in between starts anew", 2, 3, "+--+---", "uuuuuud"),
            ("a miss in between starts anew", 2, 3, "-+-++", "ddddu"),
            ("a refusal acts at once", 2, 3, "+!", "ud"),
            ("and counts as well as a miss", 2, 3, "+-!", "uud"),
            ("up again after rise all the same", 2, 3, "+!++", "uddu"),
            ("a refusal in between starts anew", 2, 3, "!+!++", "ddddu"),
            ("a refusal at the start", 2, 3, "!", "d"),
            ("rise and fall of one", 1, 1, "+-+-", "udud"),
            ("what is unclear changes nothing", 2, 2, "+??-?-?", "uuuuudd"),
            ("nor does it bring anything up", 2, 3, "!?+?+", "ddddu"),
            ("and at the start it is not enough", 2, 3, "?++", "ddu"),
        ] {
            assert_eq!(run(rise, fall, observations), standings, "{case}");
        }
    }

    #[test]
    fn changes_are_told_once_and_hurried() {
        let rules = Rules { rise: 2, fall: 2 };
        let mut verdict = Verdict::default();
        assert!(verdict.is_changing());
        let pass = Observation::Pass("".into());
        assert_eq!(verdict.observe(rules, &pass), Some(Standing::Up));
        assert_eq!(verdict.observe(rules, &pass), None);
        assert!(!verdict.is_changing());
        let miss = Observation::Missing("".into());
        assert_eq!(verdict.observe(rules, &miss), None);
        assert!(verdict.is_changing());
        assert_eq!(verdict.observe(rules, &miss), Some(Standing::Down));
        assert!(!verdict.is_changing());
        assert!(!verdict.is_refused(), "nothing was ever answered");
    }

    #[test]
    fn refusals_are_remembered_until_it_is_up() {
        let rules = Rules { rise: 2, fall: 3 };
        let mut verdict = Verdict::default();
        let mut refused_after = |observation: Observation| {
            verdict.observe(rules, &observation);
            verdict.is_refused()
        };
        assert!(!refused_after(Observation::Pass("".into())));
        assert!(refused_after(Observation::Refused("".into())));
        assert!(refused_after(Observation::Missing("".into())), "that it does not answer now is another matter");
        assert!(refused_after(Observation::Pass("".into())));
        assert!(!refused_after(Observation::Pass("".into())));
        for _ in 0..3 {
            assert!(!refused_after(Observation::Missing("".into())), "it is down without a word");
        }
        assert!(refused_after(Observation::Refused("".into())), "and then has one");
    }
}
