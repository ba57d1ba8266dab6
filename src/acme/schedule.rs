//! When a certificate is renewed, and when what failed is tried again. Pure rules: time and chance come in as arguments.

use std::time::{Duration, SystemTime};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// What the first failure is answered with; each further one doubles it.
const FIRST_RETRY: Duration = MINUTE;
/// The longest back-off of our own.
const LONGEST_RETRY: Duration = HOUR.saturating_mul(12);
/// The longest that an authority may ask us to wait: what asks for more is a slip.
const LONGEST_ASKED: Duration = DAY.saturating_mul(7);
/// How soon and how late the authority is asked again when to renew (RFC 9773, section 4.3.2), and when if it does not
/// say.
const ASK_AGAIN: (Duration, Duration) = (MINUTE, DAY);
const ASK_AGAIN_BY_DEFAULT: Duration = HOUR.saturating_mul(6);
/// Between the first orders of two names that have no certificate.
const SPREAD: Duration = Duration::from_secs(1);

/// From when until when a certificate holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) from: SystemTime,
    pub(super) until: SystemTime,
}

/// In which the authority suggests to renew (RFC 9773, section 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) start: SystemTime,
    pub(super) end: SystemTime,
}

/// A share of a whole, drawn by lot: 0 to 1.
pub(super) type Draw = f64;

impl Validity {
    /// How long it holds.
    pub(super) fn lifetime(&self) -> Duration {
        self.until.duration_since(self.from).unwrap_or_default()
    }
}

impl Window {
    /// Whether it can be followed: one that ends before it begins counts as not suggested at all.
    fn is_sound(&self) -> bool {
        self.end > self.start
    }
}

/// When to renew a certificate: at a moment in the window that the authority suggests, else at two thirds of its
/// lifetime or up to a thirtieth of it earlier. In either case while a twentieth of the lifetime is left: a window may
/// be wrong.
pub(super) fn renewal(validity: Validity, window: Option<Window>, draw: Draw) -> SystemTime {
    let lifetime = validity.lifetime();
    let moment = match window.filter(Window::is_sound) {
        Some(Window { start, end }) => start + end.duration_since(start).unwrap_or_default().mul_f64(draw),
        None => validity.from + lifetime.mul_f64(2.0 / 3.0 - draw / 30.0),
    };
    moment.min(validity.until - lifetime / 20)
}

/// How long after the `failures`th failure in a row it is tried again: twice as long each time, a fifth more or less, but
/// never sooner than the authority has `asked` for, and after an hour at the earliest where a limit of it was reached.
pub(super) fn retry(failures: u32, asked: Option<Duration>, limited: bool, draw: Draw) -> Duration {
    let doubled = FIRST_RETRY.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
    let own = doubled.min(LONGEST_RETRY).mul_f64(0.8 + 0.4 * draw).min(LONGEST_RETRY);
    let limit = if limited && asked.is_none() { HOUR } else { Duration::ZERO };
    // Many names may have been told the same.
    let asked = asked.unwrap_or_default().min(LONGEST_ASKED).max(limit).mul_f64(1.0 + 0.1 * draw);
    own.max(asked)
}

/// How long until the authority is asked again when to renew.
pub(super) fn ask_again(asked: Option<Duration>) -> Duration {
    asked.unwrap_or(ASK_AGAIN_BY_DEFAULT).clamp(ASK_AGAIN.0, ASK_AGAIN.1)
}

/// How long after the start the name of this index is looked at, so that many do not begin at once.
pub(super) fn start(index: usize, draw: Draw) -> Duration {
    let index = u32::try_from(index).unwrap_or(u32::MAX);
    // The first one need not wait.
    SPREAD.saturating_mul(index).mul_f64(0.5 + 0.5 * draw)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(days: u32) -> SystemTime {
        SystemTime::UNIX_EPOCH + DAY * days
    }

    fn window(start: u32, end: u32) -> Option<Window> {
        Some(Window { start: day(start), end: day(end) })
    }

    #[test]
    fn when_to_renew() {
        let validity = Validity { from: day(100), until: day(190) };
        for (case, window, draw, expected) in [
            ("without a window at two thirds", None, 0.0, day(160)),
            ("or a little earlier", None, 1.0, day(157)),
            ("at the beginning of the window", window(150, 152), 0.0, day(150)),
            ("somewhere in it", window(150, 152), 0.5, day(151)),
            ("a window in the past, as after a mishap of the authority", window(90, 92), 0.5, day(91)),
            ("a window that ends before it begins", window(152, 150), 0.0, day(160)),
            ("a window without a length", window(150, 150), 0.0, day(160)),
            ("a window after the end", window(200, 210), 0.0, day(190) - DAY * 90 / 20),
        ] {
            let moment = renewal(validity, window, draw);
            let off = moment.duration_since(expected).unwrap_or_else(|earlier| earlier.duration());
            assert!(off < Duration::from_secs(1), "{case}: off by {off:?}");
        }
        let nothing = Validity { from: day(5), until: day(5) };
        assert_eq!(renewal(nothing, None, 0.5), day(5), "a certificate without a lifetime");
    }

    #[test]
    fn when_to_try_again() {
        for (case, failures, asked, limited, draw, seconds) in [
            ("first", 1, None, false, 0.5, 60),
            ("first, early", 1, None, false, 0.0, 48),
            ("first, late", 1, None, false, 1.0, 72),
            ("second", 2, None, false, 0.5, 120),
            ("fifth", 5, None, false, 0.5, 960),
            ("many", 40, None, false, 1.0, 12 * 3600),
            ("no end of them", u32::MAX, None, false, 0.0, 34_560),
            ("asked for more", 1, Some(600), false, 0.0, 600),
            ("asked for less", 5, Some(600), false, 0.5, 960),
            ("asked for ages", 1, Some(u64::MAX / 4), false, 0.0, 7 * 86_400),
            ("a limit without a time", 1, None, true, 0.0, 3600),
            ("a limit with one", 1, Some(120), true, 0.0, 120),
        ] {
            let wait = retry(failures, asked.map(Duration::from_secs), limited, draw);
            assert_eq!(wait.as_secs_f64().round() as u64, seconds, "{case}");
        }
    }

    #[test]
    fn when_to_ask_again() {
        let seconds = |asked: Option<u64>| ask_again(asked.map(Duration::from_secs)).as_secs();
        assert_eq!([None, Some(0), Some(7200), Some(u64::MAX)].map(seconds), [21_600, 60, 7200, 86_400]);
        assert_eq!((start(0, 1.0), start(10, 1.0), start(10, 0.0)), (Duration::ZERO, SPREAD * 10, SPREAD * 5));
    }
}
