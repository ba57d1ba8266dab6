//! The agent: a program beside an endpoint that says in one line how it wants to be treated.
//!
//! The words are those of HAProxy's agent-check, so that its agents can be used. What a line does not say stays as it was.
//! Two differences: a plain `up` also ends what `drain` and `maint` have begun, so that there is a way back without
//! `ready`; and `maxconn:` is read over.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Deadline;
use super::channel::Channel;
use crate::health::verdict::Text;

/// The longest line, in bytes.
const LONGEST: usize = 256;
/// The greatest weight, in percent.
const MOST_PERCENT: u32 = 10_000;

/// How an agent wants its endpoint to be treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AgentState {
    /// It is down, until the agent says `up`.
    pub(crate) is_down: bool,
    pub(crate) mode: Mode,
    /// Of the weight that is configured.
    pub(crate) percent: u32,
}

/// Whether sessions are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mode {
    #[default]
    Ready,
    /// No new ones.
    Drain,
    /// None at all.
    Maint,
}

/// What one line says; `None` is what it leaves as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Said {
    is_down: Option<bool>,
    mode: Option<Mode>,
    percent: Option<u32>,
    /// The line itself.
    pub(crate) text: String,
}

impl Default for AgentState {
    fn default() -> AgentState {
        AgentState { is_down: false, mode: Mode::Ready, percent: 100 }
    }
}

impl AgentState {
    /// The state after this was said.
    #[must_use]
    pub(crate) fn after(self, said: &Said) -> AgentState {
        let back = (said.is_down == Some(false)).then_some(Mode::Ready);
        AgentState {
            is_down: said.is_down.unwrap_or(self.is_down),
            mode: said.mode.or(back).unwrap_or(self.mode),
            percent: said.percent.unwrap_or(self.percent),
        }
    }
}

/// Reads one line. Nothing if it has no word that is known.
pub(crate) fn parse(line: &[u8]) -> Option<Said> {
    let line = String::from_utf8_lossy(line);
    let mut said = Said { text: line.trim().to_owned(), ..Said::default() };
    // What comes behind a sharp is for people.
    let words = line.split('#').next().unwrap_or_default();
    for word in words.split([' ', '\t', ',', '\r', '\n']) {
        match word.to_ascii_lowercase().as_str() {
            "up" => said.is_down = Some(false),
            "down" | "fail" | "stopped" => said.is_down = Some(true),
            "ready" => said.mode = Some(Mode::Ready),
            "drain" => said.mode = Some(Mode::Drain),
            "maint" => said.mode = Some(Mode::Maint),
            word => {
                let digits = word.strip_suffix('%').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
                let percent = digits.and_then(|digits| digits.parse().ok());
                said.percent = percent.filter(|percent| *percent <= MOST_PERCENT).or(said.percent);
            }
        }
    }
    let nothing = (said.is_down, said.mode, said.percent) == (None, None, None);
    (!nothing).then_some(said)
}

/// Asks an agent, until `deadline`.
///
/// # Errors
/// Why it has not said anything.
pub(super) async fn run(channel: &mut Channel, send: &[u8], deadline: Deadline) -> Result<Said, Text> {
    let mut line = Vec::new();
    let ask = async {
        if !send.is_empty() {
            channel.write_all(send).await?;
        }
        let is_whole = |line: &[u8]| line.len() >= LONGEST || line.iter().any(|byte| matches!(byte, b'\r' | b'\n'));
        while !is_whole(&line) && channel.read_buf(&mut line).await? > 0 {}
        std::io::Result::Ok(())
    };
    match deadline.hold(ask).await {
        // A line without an end that came before something went wrong is a line as well.
        Ok(Err(error)) if line.is_empty() => return Err(error.to_string().into()),
        Err(_) if line.is_empty() => return Err(deadline.missed("no answer")),
        Err(_) => return Err("its line has no end".into()),
        Ok(_) => {}
    }
    let first = line.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
    let first = first.get(..LONGEST).unwrap_or(first);
    parse(first).ok_or_else(|| format!("it says {:?}, which is not understood", String::from_utf8_lossy(first)).into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn said(is_down: Option<bool>, mode: Option<Mode>, percent: Option<u32>, text: &str) -> Option<Said> {
        Some(Said { is_down, mode, percent, text: text.to_owned() })
    }

    #[test]
    fn lines_are_read() {
        for (line, read) in [
            ("up", said(Some(false), None, None, "up")),
            ("UP 99%", said(Some(false), None, Some(99), "UP 99%")),
            ("ready,up\t75% ", said(Some(false), Some(Mode::Ready), Some(75), "ready,up\t75%")),
            ("drain", said(None, Some(Mode::Drain), None, "drain")),
            ("maint", said(None, Some(Mode::Maint), None, "maint")),
            ("stopped#since 8 up 5%", said(Some(true), None, None, "stopped#since 8 up 5%")),
            ("fail # no disk", said(Some(true), None, None, "fail # no disk")),
            ("0%", said(None, None, Some(0), "0%")),
            ("200% maxconn:30", said(None, None, Some(200), "200% maxconn:30")),
            ("10001%", None),
            ("+5% -5% 5 % 5.5%", None),
            ("99999999999999999999%", None),
            ("upp", None),
            ("maxconn:30", None),
            ("# up", None),
            ("", None),
        ] {
            assert_eq!(parse(line.as_bytes()), read, "{line:?}");
        }
    }

    #[test]
    fn what_is_not_said_stays() {
        let mut state = AgentState::default();
        for (line, is_down, mode, percent) in [
            ("50%", false, Mode::Ready, 50),
            ("drain", false, Mode::Drain, 50),
            ("100%", false, Mode::Drain, 100),
            ("down", true, Mode::Drain, 100),
            ("ready", true, Mode::Ready, 100),
            ("maint", true, Mode::Maint, 100),
            ("up", false, Mode::Ready, 100),
            ("up drain", false, Mode::Drain, 100),
            ("up", false, Mode::Ready, 100),
        ] {
            state = state.after(&parse(line.as_bytes()).unwrap());
            assert_eq!(state, AgentState { is_down, mode, percent }, "after {line:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_bytes_are_read_or_not(line in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Some(said) = parse(&line) {
                prop_assert!(said.percent.is_none_or(|percent| percent <= MOST_PERCENT));
            }
        }

        #[test]
        fn any_words_are_read_or_not(line in "([uU]p|down|drain|maint|[0-9]{1,6}%|[ ,\t#%]){0,12}") {
            let _ = parse(line.as_bytes());
        }
    }
}
