//! When certificates end: how that is told, and when it is time to warn of it. The time comes in as an argument.

use std::time::{Duration, SystemTime};

use x509_parser::time::ASN1Time;

const DAY: Duration = Duration::from_secs(86_400);
/// How long before its end a certificate of ours is warned of at the most.
const WARNED: Duration = Duration::from_secs(14 * 86_400);

/// Warns of a certificate, at most once a day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Warning {
    /// When it was warned of it last.
    told: Option<SystemTime>,
}

impl Warning {
    /// Whether to warn now of what ends at `end`, `before` that at the earliest.
    pub(crate) fn is_due(&mut self, end: SystemTime, before: Duration, now: SystemTime) -> bool {
        if now.checked_add(before).is_some_and(|from| end > from) {
            *self = Warning::default();
            return false;
        }
        // A clock that was set back must not silence it.
        let is_due =
            self.told.is_none_or(|told| now.duration_since(told).is_ok_and(|since| since >= DAY) || told > now);
        if is_due {
            self.told = Some(now);
        }
        is_due
    }
}

/// Whether it is time to warn of the end of a certificate of ours: two weeks before, or once three quarters of its life are
/// over where that is later, as certificates of days are renewed late.
pub(super) fn is_ending(from: SystemTime, until: SystemTime, now: SystemTime) -> bool {
    let life = until.duration_since(from).unwrap_or_default();
    until.duration_since(now).map_or(true, |left| left < WARNED.min(life / 4))
}

/// When the time in a certificate is; none is before 1970. The year 9999 stands for no end (RFC 5280, section 4.1.2.5).
pub(crate) fn time(time: ASN1Time) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or_default())
}

/// How long a certificate that ends at `end` has left.
pub(crate) fn left(end: SystemTime, now: SystemTime) -> String {
    let on = day(end);
    let Ok(left) = end.duration_since(now) else { return format!("certificate expired on {on}") };
    match left.as_secs() / DAY.as_secs() {
        0 => format!("certificate expires within a day, on {on}"),
        1 => format!("certificate expires in 1 day, on {on}"),
        days => format!("certificate expires in {days} days, on {on}"),
    }
}

/// That a list of revoked certificates has ended.
pub(crate) fn list_expired(end: SystemTime) -> String {
    format!("the list of revoked certificates has expired on {}", day(end))
}

/// The day of `time`, in UTC.
pub(crate) fn day(time: SystemTime) -> String {
    let whole = humantime::format_rfc3339_seconds(time).to_string();
    whole.split('T').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(days: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + DAY * u32::try_from(days).unwrap()
    }

    #[test]
    fn what_is_left() {
        for (end, now, said) in [
            (at(100), at(10), "certificate expires in 90 days, on 1970-04-11"),
            (at(100), at(99), "certificate expires in 1 day, on 1970-04-11"),
            (at(100), at(99) + Duration::from_secs(1), "certificate expires within a day, on 1970-04-11"),
            (at(100), at(100) + Duration::from_secs(1), "certificate expired on 1970-04-11"),
        ] {
            assert_eq!(left(end, now), said);
        }
    }

    #[test]
    fn a_warning_a_day() {
        let mut warning = Warning::default();
        let minute = Duration::from_secs(60);
        for (case, end, now, due) in [
            ("too early", at(100), at(85), false),
            ("the first time", at(100), at(86), true),
            ("soon after", at(100), at(86) + minute, false),
            ("a day later", at(100), at(87), true),
            ("renewed", at(200), at(88), false),
            ("renewed for too short a time", at(89), at(88), true),
            ("expired", at(89), at(90), true),
            ("clock set back", at(89), at(80), true),
        ] {
            assert_eq!(warning.is_due(end, DAY * 14, now), due, "{case}");
        }
    }
}
