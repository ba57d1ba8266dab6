//! How a pool chooses: `balance`, and the keys that only make sense with one of its values.

use super::Check;
use super::node::Table;
use crate::config::model::{Balance, Hash, HashKey, MAX_BALANCE_FACTOR};

/// The keys that only `maglev` knows.
const HASH_KEYS: [&str; 4] = ["hash_key", "hash_prefix_ipv4", "hash_prefix_ipv6", "hash_balance_factor"];
/// Keys of the networks that clients are in, with the length of an address and the default.
const PREFIXES: [(&str, u32, u8); 2] = [("hash_prefix_ipv4", 32, 32), ("hash_prefix_ipv6", 128, 64)];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    LeastConnections,
    RoundRobin,
    RandomTwo,
    Maglev,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Key {
    Source,
    Sni,
}

/// Reads how the pool of `table` chooses.
pub(super) fn read(table: &Table<'_>, check: &mut Check<'_>) -> Balance {
    let words = [
        ("least-connections", Word::LeastConnections),
        ("round-robin", Word::RoundRobin),
        ("random-two", Word::RandomTwo),
        ("maglev", Word::Maglev),
    ];
    let before = check.report.count();
    let word = table.get("balance").and_then(|node| node.choice(&words, check.report));
    let known = check.report.count() == before;
    let word = word.unwrap_or(Word::LeastConnections);
    if known && word != Word::Maglev {
        for node in HASH_KEYS.iter().filter_map(|key| table.get(key)) {
            check.report.add(node.key_at, node.path(), "only balance = \"maglev\" goes by a hash");
        }
    }
    match word {
        Word::LeastConnections => Balance::LeastConnections,
        Word::RoundRobin => Balance::RoundRobin,
        Word::RandomTwo => Balance::RandomTwo,
        Word::Maglev => Balance::Maglev(hash(table, check)),
    }
}

fn hash(table: &Table<'_>, check: &mut Check<'_>) -> Hash {
    let keys = [("source", Key::Source), ("sni", Key::Sni)];
    let key = table.get("hash_key").map_or(Some(Key::Source), |node| node.choice(&keys, check.report));
    let [ipv4, ipv6] = PREFIXES.map(|(name, longest, default)| {
        let Some(node) = table.get(name) else { return default };
        if key == Some(Key::Sni) {
            check.report.add(node.key_at, node.path(), "only hash_key = \"source\" goes by an address");
        }
        let length = node.number(0..=longest, check.report);
        length.and_then(|length| u8::try_from(length).ok()).unwrap_or(default)
    });
    let factor = table.get("hash_balance_factor");
    let factor = factor.and_then(|node| node.number_unless("off", 101..=MAX_BALANCE_FACTOR, check.report));
    let key = if key == Some(Key::Sni) { HashKey::Sni } else { HashKey::Source { ipv4, ipv6 } };
    Hash { key, balance_factor: factor.flatten() }
}
