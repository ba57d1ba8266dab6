//! When a session is due to end or to be looked at, and what it is asked.

use super::*;

const LIMITS: Limits = Limits { idle: Some(10), half_close: Some(3), drain: Duration::from_secs(5) };

#[test]
fn limits_count_from_the_last_byte_and_end_late_rather_than_early() {
    let idle = Some(Ask::End { outcome: Outcome::Idle, how: Close::Plain });
    let half_close = Some(Ask::End { outcome: Outcome::HalfClose, how: Close::Plain });
    let shutdown = Some(Ask::End { outcome: Outcome::Shutdown, how: Close::Reset });
    let never = Limits { idle: None, half_close: None, drain: Duration::MAX };
    let for_ms = |passed| Some(Duration::from_millis(passed));
    // name, limits, half closed, last byte, draining for, now, due
    let cases = [
        ("at the idle limit", LIMITS, false, 100, None, 110, None),
        ("over the idle limit", LIMITS, false, 100, None, 111, idle),
        ("at the half-close limit", LIMITS, true, 100, None, 103, None),
        ("over the half-close limit", LIMITS, true, 100, None, 104, half_close),
        ("half-close counts from the last byte, not from the end", LIMITS, true, 200, None, 203, None),
        ("no half-close limit, but an idle one", Limits { half_close: None, ..LIMITS }, true, 100, None, 111, idle),
        ("no limits", never, true, 100, for_ms(20_000), 120, None),
        ("draining", LIMITS, false, 100, for_ms(4_999), 103, None),
        ("drained", LIMITS, false, 100, for_ms(5_000), 104, shutdown),
        ("drained before idle", LIMITS, true, 100, for_ms(101_000), 200, shutdown),
    ];
    for (name, limits, half_closed, last, draining, now, due) in cases {
        let entry = Entry::new(Identity::nobody(), last - 5, limits);
        entry.moved(Side::Endpoint, 1, 0, last);
        if half_closed {
            entry.set_half_closed();
        }
        assert_eq!(entry.due(now, draining), due, "{name}");
    }
}

/// Seconds, of those from 1 to `until`, at which a session is looked at; every look has the same finding.
fn looks(entry: &Entry, until: u32, finding: Finding, mut each: impl FnMut(u32)) -> Vec<u32> {
    let mut looks = Vec::new();
    for now in 1..=until {
        each(now);
        if entry.due(now, None) == Some(Ask::Look) {
            looks.push(now);
            entry.looked(Side::Client, finding, now);
            entry.looked(Side::Endpoint, Finding::Well, now);
        }
    }
    looks
}

fn unlimited() -> Entry {
    Entry::new(Identity::nobody(), 0, Limits { drain: Duration::MAX, ..Limits::default() })
}

#[test]
fn who_is_silent_is_looked_at_as_often_as_the_last_look_calls_for() {
    assert_eq!(looks(&unlimited(), 200, Finding::Well, |_| {}), [30], "nothing new since");
    assert_eq!(looks(&unlimited(), 100, Finding::Stalled, |_| {}), [30, 60, 90], "output is stuck");
    assert_eq!(looks(&unlimited(), 46, Finding::Suspect, |_| {}), [30, 35, 40, 45], "it does not answer");
}

#[test]
fn output_to_a_silent_peer_calls_for_another_look() {
    let entry = unlimited();
    let told_at_50 = |now| {
        if now == 50 {
            entry.moved(Side::Endpoint, 1, 1, now);
        }
    };
    assert_eq!(looks(&entry, 200, Finding::Well, told_at_50), [30, 60]);
}

#[test]
fn a_peer_that_is_heard_is_not_looked_at() {
    let entry = unlimited();
    let both_talk = |now| {
        entry.moved(Side::Client, 1, 1, now);
        entry.moved(Side::Endpoint, 1, 1, now);
    };
    assert!(looks(&entry, 200, Finding::Well, both_talk).is_empty());
}

#[test]
fn an_end_that_was_asked_for_stays_asked_for_and_is_taken_once() {
    let entry = unlimited();
    entry.ask(Ask::Look);
    entry.ask(Ask::End { outcome: Outcome::Idle, how: Close::Plain });
    entry.ask(Ask::Look);
    entry.ask(Ask::End { outcome: Outcome::Shutdown, how: Close::Reset });
    assert_eq!(entry.take_ask(), Some(Ask::End { outcome: Outcome::Idle, how: Close::Plain }));
    assert_eq!(entry.take_ask(), None);
}
