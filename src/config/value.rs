//! Durations and sizes, and why a text is refused where one belongs.

use std::time::Duration;

use super::report::quote;

/// What a duration has to be.
pub(super) const DURATION: &str = "a duration such as \"500ms\", \"5s\", \"2m\", \"1h\" or \"1d\"";
/// What a size has to be.
pub(super) const SIZE: &str = "a size such as \"64MiB\" or \"64KiB\", or a number of bytes";

/// The longest duration, in days: ten years, so that no sum of a time and a duration overflows.
const LONGEST: u64 = 3650;

/// Why a text is not the value it has to be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// What is wrong with it.
    pub(super) message: String,
    /// Whether it is written the wrong way, so that it helps to say what was expected.
    pub(super) misread: bool,
}

impl Refused {
    /// `text` is written the wrong way.
    pub(super) fn misread(text: &str, why: &str) -> Refused {
        Refused { message: format!("{} {why}", quote(text)), misread: true }
    }

    /// `text` is written the right way, but not to be had; the message says it all.
    pub(super) fn because(text: &str, why: &str) -> Refused {
        Refused { message: format!("{} {why}", quote(text)), misread: false }
    }
}

/// Whether it is an absolute path: a name that is none would depend on where we were started.
pub(super) fn is_absolute(text: &str) -> bool {
    text.starts_with('/') && !text.contains('\0')
}

/// Reads a duration: a whole number and one of the units ms, s, m, h and d; `0` needs no unit. At most ten years.
pub(super) fn duration(text: &str) -> Result<Duration, Refused> {
    let (digits, unit) = split_number(text);
    let unit = match unit {
        _ if digits.is_empty() => return Err(Refused::misread(text, "is not a duration")),
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "" if digits == "0" => 1,
        "" => return Err(Refused::misread(text, "has no unit")),
        _ => return Err(Refused::misread(text, "is not a duration")),
    };
    let number = digits.parse().ok().and_then(|number: u64| number.checked_mul(unit));
    match number {
        Some(milliseconds) if milliseconds <= LONGEST * 86_400_000 => Ok(Duration::from_millis(milliseconds)),
        _ => Err(Refused::because(text, "is more than ten years")),
    }
}

/// Reads a size in bytes: a whole number, and KiB, MiB or GiB unless it counts bytes.
pub(super) fn size(text: &str) -> Result<u64, Refused> {
    let (digits, unit) = split_number(text);
    let unit: u64 = match unit {
        _ if digits.is_empty() => return Err(Refused::misread(text, "is not a size")),
        "" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(Refused::misread(text, "is not a size")),
    };
    let number: Option<u64> = digits.parse().ok();
    number.and_then(|number| number.checked_mul(unit)).ok_or_else(|| Refused::because(text, "is too large"))
}

fn split_number(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, milliseconds) in [
            ("500ms", 500),
            ("5s", 5_000),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("1d", 86_400_000),
            ("0", 0),
            ("0s", 0),
            ("3650d", 315_360_000_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "s", "5", "5 s", "-5s", "+5s", "1.5s", "5S", "3651d", "99999999999999999999s", "1h30m", "٣s"]
        {
            assert!(duration(text).is_err(), "{text:?} gave {:?}", duration(text));
        }
    }

    #[test]
    fn sizes_have_binary_units() {
        for (text, bytes) in [("0", 0), ("1000", 1000), ("64KiB", 65_536), ("64MiB", 67_108_864), ("1GiB", 1 << 30)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "64MB", "64 MiB", "-1", "1.5GiB", "99999999999999999999", "18446744073709551615KiB"] {
            assert!(size(text).is_err(), "{text:?} gave {:?}", size(text));
        }
    }
}
