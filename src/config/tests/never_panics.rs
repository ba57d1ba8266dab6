//! Whatever is written, the answer is a configuration or a list of problems.

use std::path::Path;

use proptest::prelude::*;

/// What mutations are made of: the language's own pieces find more than bytes at random.
const PIECES: [&str; 40] = [
    "\n",
    "\"",
    "[",
    "]",
    "[[",
    "]]",
    "{",
    "}",
    ",",
    "=",
    ".",
    "#",
    "'''",
    "\\u0000",
    "\u{0}",
    "ü",
    "-1",
    "0",
    "9223372036854775807",
    "1e400",
    "nan",
    "1979-05-27",
    "true",
    "\"off\"",
    "\"auto\"",
    "\"0s\"",
    "\"::/0\"",
    "\"*.\"",
    "\"unix:\"",
    "[listener.edge]",
    "[route.\"\"]",
    "[pool.web.timeouts]",
    "[[pool.web.endpoints]]",
    "sni = []",
    "from = \"::ffff:0.0.0.0/96\"",
    "endpoints",
    "listener",
    "bind = [\"[::1%9]:0\", 1]",
    "a.b.c.d = 1",
    "include = [\"[\", \"***\"]",
];

fn mutated() -> impl Strategy<Value = String> {
    let reference = include_str!("../../../conf/reference.toml");
    let edit = (any::<prop::sample::Index>(), 0usize..40, 0..PIECES.len());
    prop::collection::vec(edit, 1..8).prop_map(move |edits| {
        let mut text: Vec<char> = reference.chars().collect();
        for (place, cut, piece) in edits {
            let start = place.index(text.len() + 1);
            let end = (start + cut).min(text.len());
            text.splice(start..end, PIECES[piece].chars());
        }
        text.into_iter().collect()
    })
}

/// Lines that are good each for itself, in any order and number.
fn shuffled() -> impl Strategy<Value = String> {
    let lines: Vec<&str> =
        include_str!("../../../conf/reference.toml").lines().filter(|line| !line.starts_with('#')).collect();
    prop::collection::vec(prop::sample::select(lines), 0..60).prop_map(|lines| lines.join("\n"))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn on_mutated_files(text in mutated()) {
        let _ = super::said(&text);
    }

    #[test]
    fn on_shuffled_lines(text in shuffled()) {
        let _ = super::said(&text);
    }

    #[test]
    fn on_any_environment(values in prop::collection::vec("\\PC{0,8}|-?[0-9]{0,20}(ms|s|d|MiB|)|auto|off", 4)) {
        let names = ["RUNTIME__WORKERS", "RUNTIME__OPENING_MEMORY", "TIMEOUTS__IDLE", "ADMIN__HTTP"];
        let pairs = names.iter().zip(&values).map(|(name, value)| (format!("POINTSMAN__{name}").into(), value.into()));
        let _ = crate::config::load_with(Path::new("/nowhere/main.toml"), pairs);
    }

    #[test]
    fn on_any_json(text in "[\\[\\]{}\",:ea0. \\\\]{0,60}|\\PC*") {
        let mut report = crate::config::report::Report::default();
        let _ = crate::config::json::parse(Path::new("e.json"), text.into_bytes(), "endpoints", &mut report);
        let _ = report.finish().to_string();
    }

    #[test]
    fn on_anything(text in "\\PC*") {
        let _ = super::said(&text);
    }
}

#[test]
fn on_deep_nesting() {
    for (open, close) in [("a.", "a = 1"), ("[", "]"), ("{a=", "}"), ("a = [", ""), ("[a.", "")] {
        let _ = super::said(&(open.repeat(100_000) + close));
    }
    let table = format!("[{}x]\n{}y = {}1", "a.".repeat(70), "b.".repeat(70), "[".repeat(70));
    let _ = super::said(&table);
}

#[test]
fn on_every_prefix_of_the_reference() {
    let reference = include_str!("../../../conf/reference.toml");
    for (end, _) in reference.char_indices().step_by(7) {
        let _ = super::said(&reference[..end]);
    }
}
