//! The script of a probe: what is sent, and what has to come, step by step.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Deadline;
use super::channel::Channel;
use super::tls;
use crate::config::model::Step;
use crate::health::verdict::Observation;

/// The most bytes that may come before what is expected.
const MOST_UNREAD: usize = 64 * 1024;
/// How much of a wrong answer is told, in characters.
const SHOWN: usize = 60;

/// Follows `steps` until `deadline`.
pub(super) async fn run(channel: &mut Channel, steps: &[Step], deadline: Deadline) -> Observation {
    let mut incoming = Incoming::default();
    let last = steps.iter().rposition(|step| matches!(step, Step::Expect(_)));
    for (index, step) in steps.iter().enumerate() {
        let done = match step {
            Step::Send(bytes) => deadline.hold(send(channel, &bytes.0)).await,
            Step::Expect(expected) => deadline.hold(expect(channel, &mut incoming, expected)).await,
        };
        let why = match done {
            Ok(Ok(())) => continue,
            // Everything was answered; this was only to part politely.
            _ if last.is_none_or(|last| index > last) => break,
            Ok(Err(Failed::Full)) => "too much came".to_owned(),
            Ok(Err(Failed::Ended)) => "it ended the connection".to_owned(),
            Ok(Err(Failed::Io(error))) => match tls::observation(&error) {
                Observation::Missing(why) => why.into_owned(),
                definite => return definite,
            },
            Err(_) => deadline.missed("no answer").into_owned(),
        };
        let place = format!("at step {} of {}", index + 1, steps.len());
        return match step {
            Step::Expect(expected) if incoming.says_something() => {
                let (answered, expected) = (shown(&incoming.bytes), shown(expected));
                Observation::Refused(format!("it answered {answered}, expected {expected} {place}").into())
            }
            _ => Observation::Missing(format!("{why} {place}").into()),
        };
    }
    Observation::Pass(format!("script done, steps: {}", steps.len()).into())
}

/// Why a step was not done.
enum Failed {
    Ended,
    Full,
    Io(std::io::Error),
}

async fn send(channel: &mut Channel, bytes: &[u8]) -> Result<(), Failed> {
    channel.write_all(bytes).await.map_err(Failed::Io)?;
    channel.flush().await.map_err(Failed::Io)
}

async fn expect(channel: &mut Channel, incoming: &mut Incoming, expected: &[u8]) -> Result<(), Failed> {
    incoming.old = incoming.bytes.len();
    while !incoming.take_through(expected) {
        if incoming.bytes.len() >= MOST_UNREAD {
            return Err(Failed::Full);
        }
        if channel.read_buf(&mut incoming.bytes).await.map_err(Failed::Io)? == 0 {
            return Err(Failed::Ended);
        }
    }
    Ok(())
}

/// What has come and was not expected yet.
#[derive(Debug, Default)]
struct Incoming {
    bytes: Vec<u8>,
    /// How much of it was there before the step: that is no answer to it.
    old: usize,
}

impl Incoming {
    /// Takes everything up to the end of the first `expected`. False if that has not come.
    fn take_through(&mut self, expected: &[u8]) -> bool {
        let found = self.bytes.windows(expected.len().max(1)).position(|window| window == expected);
        if let Some(start) = found {
            self.bytes.drain(..start + expected.len());
        }
        found.is_some()
    }

    /// Whether an answer has come to the step: the end of a line is none.
    fn says_something(&self) -> bool {
        self.bytes.iter().skip(self.old).any(|byte| !byte.is_ascii_whitespace())
    }
}

/// Bytes as people can read them, shortened.
fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}...", text.get(..end).unwrap_or_default()),
        None => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn came(bytes: Vec<u8>) -> Incoming {
        Incoming { bytes, old: 0 }
    }

    #[test]
    fn what_is_expected_is_taken_in_order() {
        for (case, came, expected, found, left) in [
            ("all of it", "+PONG", "+PONG", true, ""),
            ("in front", "+PONG\r\n", "+PONG", true, "\r\n"),
            ("in the middle", "220 x ESMTP\r\n250", "ESMTP", true, "\r\n250"),
            ("the first of two", "a,a,", "a,", true, "a,"),
            ("a part", "+PON", "+PONG", false, "+PON"),
            ("something else", "-LOADING", "+PONG", false, "-LOADING"),
            ("nothing", "", "+PONG", false, ""),
        ] {
            let mut incoming = super::tests::came(came.into());
            assert_eq!(incoming.take_through(expected.as_bytes()), found, "{case}");
            assert_eq!(String::from_utf8_lossy(&incoming.bytes), left, "{case}");
        }
        assert!(!came(b"\r\n".to_vec()).says_something());
        assert!(came(vec![0]).says_something());
        let greeted = Incoming { bytes: b" mail ESMTP\r\n".to_vec(), old: 13 };
        assert!(!greeted.says_something(), "what was there before the step is no answer to it");
    }

    #[test]
    fn answers_are_shown_shortened() {
        assert_eq!(shown(b"-ERR \"x\"\r\n\0"), r#""-ERR \"x\"\r\n\0""#);
        assert_eq!(shown(&[0xff, b'a']), "\"\u{fffd}a\"");
        assert_eq!(shown(&[b'a'; 61]), format!("{:?}...", "a".repeat(60)));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn nothing_is_lost(pieces in prop::collection::vec(prop::collection::vec(0_u8..3, 0..6), 0..6),
                           expected in prop::collection::vec(0_u8..3, 1..4)) {
            // In pieces or at once: what is expected is found in the same place.
            let whole: Vec<u8> = pieces.concat();
            let mut at_once = came(whole);
            let found = at_once.take_through(&expected);
            let mut incoming = Incoming::default();
            let mut found_in_pieces = false;
            for piece in &pieces {
                incoming.bytes.extend(piece);
                found_in_pieces = found_in_pieces || incoming.take_through(&expected);
            }
            prop_assert_eq!(found, found_in_pieces);
            prop_assert_eq!(at_once.bytes, incoming.bytes);
        }
    }
}
