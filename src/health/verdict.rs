//! The verdict on one endpoint in one pool: rules, observations and nothing else.

use std::fmt;

/// How many answers it takes to change a pool's mind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    /// Passes in a row that bring an endpoint up, at least 1.
    pub(crate) rise: u32,
    /// Failures in a row that take an endpoint down, at least 1.
    pub(crate) fall: u32,
}

/// What one probe has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Observation {
    /// The endpoint answered as it should.
    Pass,
    /// No answer, or none that says anything; why not.
    Missing(Missing),
}

/// Why there was no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// The system refused the connection, with this number of errno(3).
    System(i32),
    /// Nothing came in time.
    Timeout,
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
}

impl Verdict {
    /// Takes in an observation. The new standing, if it is another one.
    ///
    /// The first answer decides at once, so that a start does not have to wait for `rise`.
    pub(crate) fn observe(&mut self, rules: Rules, observation: &Observation) -> Option<Standing> {
        let (seen, needed) = match observation {
            Observation::Pass => (Standing::Up, rules.rise),
            Observation::Missing(_) => (Standing::Down, rules.fall),
        };
        if seen == self.standing {
            self.against = 0;
            return None;
        }
        self.against += 1;
        if self.standing != Standing::Unknown && self.against < needed {
            return None;
        }
        *self = Verdict { standing: seen, against: 0 };
        Some(seen)
    }

    /// Whether the last observations speak against the standing: then the next one should come soon.
    pub(crate) fn is_changing(&self) -> bool {
        self.against > 0 || self.standing == Standing::Unknown
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Missing::System(code) => std::io::Error::from_raw_os_error(*code).fmt(f),
            Missing::Timeout => f.write_str("no answer in time"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs observations (`+` is a pass, `-` is a miss) and writes down the standing after each (`u`, `d`).
    fn run(rise: u32, fall: u32, observations: &str) -> String {
        let mut verdict = Verdict::default();
        let look = |what| {
            let observation = match what {
                '+' => Observation::Pass,
                _ => Observation::Missing(Missing::Timeout),
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
            ("rise and fall of one", 1, 1, "+-+-", "udud"),
        ] {
            assert_eq!(run(rise, fall, observations), standings, "{case}");
        }
    }

    #[test]
    fn changes_are_told_once_and_hurried() {
        let rules = Rules { rise: 2, fall: 2 };
        let mut verdict = Verdict::default();
        assert!(verdict.is_changing());
        assert_eq!(verdict.observe(rules, &Observation::Pass), Some(Standing::Up));
        assert_eq!(verdict.observe(rules, &Observation::Pass), None);
        assert!(!verdict.is_changing());
        let miss = Observation::Missing(Missing::System(libc::ECONNREFUSED));
        assert_eq!(verdict.observe(rules, &miss), None);
        assert!(verdict.is_changing());
        assert_eq!(verdict.observe(rules, &miss), Some(Standing::Down));
        assert!(!verdict.is_changing());
    }
}
