//! Maglev: consistent hashing by a table (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer",
//! NSDI 2016, section 3.4). A key leads to the same endpoint on every machine with the same configuration, and when an
//! endpoint leaves, hardly any key of the others moves.
//!
//! Everything is fixed so that machines agree: the table has 65,537 entries; names and keys are hashed by SipHash-1-3 with
//! the key 0; endpoints take their turns in the order of their names, however they are written down.

use std::hash::Hasher;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use siphasher::sip128::{Hasher128, SipHasher13};

use super::Load;

/// Entries of a table: a prime, so that every step size visits all of them.
const SIZE: u32 = 65_537;
/// Entries that are looked at for one key before the caller has to look at all endpoints.
const STEPS: u32 = 64;
/// Nobody yet.
const FREE: u16 = u16::MAX;

/// Which endpoint each key leads to.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// Empty if no endpoint has a weight.
    entries: Vec<u16>,
    /// A hash of each endpoint's name.
    names: Vec<u64>,
}

/// An endpoint while a table is filled.
struct Turn {
    index: u16,
    /// The entry it wants next, and how far the one after that is.
    next: u32,
    step: u32,
    weight: u32,
    /// Entries that it may have taken before it has to wait for the next round, in fractions of the greatest weight.
    credit: u32,
}

impl Table {
    /// The table for endpoints of these names and weights; of more than 65,535 the first are taken.
    pub(crate) fn new<'a>(endpoints: impl Iterator<Item = (&'a str, u16)>) -> Table {
        let endpoints: Vec<(&str, u16)> = endpoints.collect();
        let names = endpoints.iter().map(|(name, _)| key(name.as_bytes())).collect();
        let mut named: Vec<(&str, Turn)> = (0..FREE)
            .zip(endpoints)
            .filter(|(_, (_, weight))| *weight > 0)
            .map(|(index, (name, weight))| (name, Turn::new(index, name, weight)))
            .collect();
        named.sort_unstable_by(|a, b| a.0.cmp(b.0));
        let mut turns: Vec<Turn> = named.into_iter().map(|(_, turn)| turn).collect();
        let Some(greatest) = turns.iter().map(|turn| turn.weight).max() else { return Table::default() };
        let mut entries = vec![FREE; SIZE as usize];
        let mut left = SIZE;
        while left > 0 {
            for turn in &mut turns {
                turn.credit += turn.weight;
                if left > 0 && turn.credit >= greatest {
                    turn.credit -= greatest;
                    turn.take(&mut entries);
                    left -= 1;
                }
            }
        }
        Table { entries, names }
    }

    /// The endpoint of `key` among those that `may` allows, where [`Table::pick`] met none: by the greatest hash of both
    /// (rendezvous hashing, Thaler and Ravishankar, 1998), so that it too is the same everywhere. Looks at all endpoints.
    pub(crate) fn pick_any(&self, key: u64, may: impl Fn(usize) -> bool) -> Option<usize> {
        let allowed = self.names.iter().enumerate().filter(|(index, _)| may(*index));
        allowed.max_by_key(|(_, name)| self::key(&(key ^ **name).to_le_bytes())).map(|(index, _)| index)
    }

    /// The endpoint of `key`, or, where `may` does not allow it, the one of an entry further on: always the same one
    /// for the same key and the same refusals. `Err`: after many entries none was allowed.
    pub(crate) fn pick(&self, key: u64, may: impl Fn(usize) -> bool) -> Result<usize, NoneNear> {
        let first = (key % u64::from(SIZE)) as u32;
        // Another part of the key than the one that the first entry comes from.
        let step = 1 + ((key >> 32) % u64::from(SIZE - 1)) as u32;
        let tries = (0..STEPS).scan(first, |entry, _| {
            let this = *entry;
            *entry = (*entry + step) % SIZE;
            Some(this)
        });
        let indices = tries.filter_map(|entry| self.entries.get(entry as usize)).map(|&index| usize::from(index));
        indices.into_iter().find(|&index| may(index)).ok_or(NoneNear)
    }
}

/// No endpoint that may be chosen was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoneNear;

impl Turn {
    fn new(index: u16, name: &str, weight: u16) -> Turn {
        let mut hasher = SipHasher13::new();
        hasher.write(name.as_bytes());
        let (offset, skip) = hasher.finish128().as_u64();
        Turn {
            index,
            next: (offset % u64::from(SIZE)) as u32,
            step: 1 + (skip % u64::from(SIZE - 1)) as u32,
            weight: weight.into(),
            credit: 0,
        }
    }

    /// Takes the first free entry of those it wants, of which there is one.
    fn take(&mut self, entries: &mut [u16]) {
        for _ in 0..SIZE {
            let wanted = entries.get_mut(self.next as usize);
            self.next = (self.next + self.step) % SIZE;
            if let Some(entry) = wanted.filter(|entry| **entry == FREE) {
                *entry = self.index;
                return;
            }
        }
    }
}

/// The key for some bytes: of an address, of a name.
pub(crate) fn key(bytes: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(bytes);
    hasher.finish128().as_u64().0
}

/// Whether an endpoint with this load may take one session more: at most `percent` of its share of all `sessions`, the
/// new one included, of endpoints that weigh `weights` together ("Consistent Hashing with Bounded Loads", Mirrokni et
/// al., 2016).
pub(crate) fn has_room(load: &Load, sessions: u64, weights: u64, percent: u32) -> bool {
    let share = (sessions + 1) * u64::from(load.weight) * u64::from(percent);
    // Rounded up, so that there is always one that has room.
    u64::from(load.active) < share.div_ceil((100 * weights).max(1))
}

/// The key of the network of this length that a client is in. All clients behind a unix socket are one.
pub(crate) fn key_of_network(client: Option<IpAddr>, ipv4: u8, ipv6: u8) -> u64 {
    match client.map(|client| client.to_canonical()) {
        Some(IpAddr::V4(address)) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(ipv4)).unwrap_or(0);
            key(&Ipv4Addr::from_bits(address.to_bits() & mask).octets())
        }
        Some(IpAddr::V6(address)) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(ipv6)).unwrap_or(0);
            key(&Ipv6Addr::from_bits(address.to_bits() & mask).octets())
        }
        None => key(b""),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|index| format!("10.0.{}.{}:5432", index / 250, index % 250)).collect()
    }

    fn table(names: &[String]) -> Table {
        Table::new(names.iter().map(|name| (name.as_str(), 1)))
    }

    fn counts(table: &Table, endpoints: usize) -> Vec<u32> {
        let mut counts = vec![0; endpoints];
        table.entries.iter().for_each(|&index| counts[usize::from(index)] += 1);
        counts
    }

    #[test]
    fn shares_differ_by_one_percent_at_most() {
        for count in [1, 2, 3, 10, 100, 1000] {
            let counts = counts(&table(&names(count)), count);
            let mean = f64::from(SIZE) / count as f64;
            for share in counts {
                assert!(
                    (f64::from(share) / mean - 1.0).abs() <= 0.01,
                    "{count} endpoints: {share} entries of {mean:.1}"
                );
            }
        }
    }

    #[test]
    fn who_leaves_moves_one_percent_of_the_others_at_most() {
        for count in [10, 100, 1000] {
            let all = names(count);
            let before = table(&all);
            for left in [0, count / 2, count - 1] {
                let mut rest = all.clone();
                rest.remove(left);
                let after = table(&rest);
                let (mut kept, mut moved) = (0, 0);
                for (&one, &other) in before.entries.iter().zip(&after.entries) {
                    let (one, other) = (usize::from(one), usize::from(other));
                    if one != left {
                        let same = all[one] == rest[other];
                        *(if same { &mut kept } else { &mut moved }) += 1;
                    }
                }
                let share = f64::from(moved) / f64::from(kept + moved);
                assert!(
                    share <= 0.01,
                    "{count} endpoints, {left} leaves: {:.2} % of the others' keys move",
                    share * 100.0
                );
            }
        }
    }

    #[test]
    fn a_table_is_the_same_everywhere() {
        // Worked out once: another machine, or a later version, has to come to the same.
        let table = table(&names(3));
        let firsts: Vec<u16> = table.entries.iter().take(16).copied().collect();
        insta::assert_compact_debug_snapshot!(firsts, @"[0, 0, 2, 0, 0, 2, 0, 0, 2, 0, 1, 2, 0, 1, 1, 0]");
        insta::assert_compact_debug_snapshot!([key(b""), key(&[192, 0, 2, 1]), key(b"www.example.com")], @"[2392699331323474957, 3154863917069069238, 6394230494993664962]");
        // The order in which the endpoints are written does not matter.
        let mut turned = names(3);
        turned.rotate_left(1);
        let other = Table::new(turned.iter().map(|name| (name.as_str(), 1)));
        let at = |names: &[String], index: u16| names[usize::from(index)].clone();
        assert!(table.entries.iter().zip(&other.entries).all(|(&a, &b)| at(&names(3), a) == at(&turned, b)));
    }

    #[test]
    fn weights_are_respected() {
        let names = names(4);
        let table = Table::new(names.iter().map(String::as_str).zip([1, 2, 0, 5]));
        let counts = counts(&table, 4);
        for (share, expected) in counts.iter().zip([1.0, 2.0, 0.0, 5.0]) {
            let expected = f64::from(SIZE) * expected / 8.0;
            assert!((f64::from(*share) - expected).abs() <= 2.0, "{counts:?}");
        }
        assert_eq!(Table::new([("a", 0)].into_iter()).pick(7, |_| true), Err(NoneNear));
    }

    #[test]
    fn a_key_whose_endpoint_may_not_has_another_one_and_all_others_stay() {
        let (count, down) = (10, 3);
        let table = table(&names(count));
        let mut taken = vec![0; count];
        for number in 0..100_000_u64 {
            let key = key(&number.to_be_bytes());
            let (all, without) = (table.pick(key, |_| true).unwrap(), table.pick(key, |index| index != down).unwrap());
            if all == down {
                taken[without] += 1;
            } else {
                assert_eq!(all, without);
            }
        }
        assert_eq!(taken[down], 0);
        let others = taken.iter().sum::<i32>() / (count as i32 - 1);
        let spread = |taken: i32| (taken - others).abs() * 10 <= others;
        assert!(taken.iter().enumerate().all(|(index, &taken)| index == down || spread(taken)), "{taken:?}");
        assert_eq!(table.pick(7, |_| false), Err(NoneNear));
    }

    #[test]
    fn where_nearly_all_may_not_the_few_share_the_keys_and_keep_them() {
        let names = names(1_000);
        let table = table(&names);
        let few = [17, 400, 999];
        let among = |allowed: &[usize], client: u64| {
            table.pick_any(key(&client.to_be_bytes()), |index| allowed.contains(&index)).unwrap()
        };
        let chosen: Vec<usize> = (0..3_000).map(|client| among(&few, client)).collect();
        for index in few {
            let count = chosen.iter().filter(|&&chosen| chosen == index).count();
            assert!((900..1_100).contains(&count), "{index}: {count}");
        }
        for (client, before) in (0..).zip(&chosen).filter(|(_, before)| **before != 400) {
            assert_eq!(among(&[17, 999], client), *before, "only the keys of who leaves move");
        }
        assert_eq!(table.pick_any(1, |_| false), None);
    }

    #[test]
    fn loads_are_bounded() {
        let load = |active| Load { weight: 1, active, recent: 0 };
        // 100 sessions on 10 endpoints: 10.1 each with the new one, 12.625 with a quarter more.
        for (active, room) in [(0, true), (12, true), (13, false)] {
            assert_eq!(has_room(&load(active), 100, 10, 125), room, "{active} sessions");
        }
        assert!(has_room(&load(0), 0, 10, 101), "the first session of all finds room");
    }

    #[test]
    fn a_table_is_built_soon() {
        // Without optimisation it takes ten times as long; what is meant is under 20 ms in a release build.
        let names = names(1000);
        let began = Instant::now();
        drop(table(&names));
        assert!(began.elapsed() < Duration::from_secs(1));
    }
}
