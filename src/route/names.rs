//! Names and what is known of each, for tables of millions that are looked up at random.
//!
//! A name is kept as a fingerprint of 128 bits, which stands in the table itself: a look-up that misses every cache
//! waits for the memory once, and a name takes the same room however long it is. The fingerprint is SipHash-1-3 (Aumasson
//! and Bernstein, 2012) under a key that the process draws at its start. Nobody outside knows the key, so nobody can look
//! for a name that is taken for another one: a million names and a million tries a second for a century leave a chance
//! of about one in 10^17.

use std::hash::{BuildHasher, Hasher, RandomState};

use hashbrown::HashTable;
use siphasher::sip128::{Hasher128, SipHasher13};

use super::Slot;

/// A map from names to slots.
#[derive(Debug)]
pub(super) struct Names {
    table: HashTable<Known>,
    /// Hashes nothing yet, but has the key.
    keyed: SipHasher13,
}

/// One name.
#[derive(Debug)]
struct Known {
    name: Fingerprint,
    slot: Slot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fingerprint(u64, u64);

impl Names {
    /// Room for `count` names.
    pub(super) fn with_capacity(count: usize) -> Names {
        // The standard library's source of randomness for hash tables, without a way to fail.
        let random = RandomState::new();
        let keyed = SipHasher13::new_with_keys(random.hash_one(0), random.hash_one(1));
        Names { table: HashTable::with_capacity(count), keyed }
    }

    /// What is known of `name`.
    pub(super) fn get(&self, name: &str) -> Option<&Slot> {
        let name = self.fingerprint(name);
        self.table.find(name.0, |known| known.name == name).map(|known| &known.slot)
    }

    /// What is known of `name`, to be changed; nothing before.
    pub(super) fn entry(&mut self, name: &str) -> &mut Slot {
        let name = self.fingerprint(name);
        let entry = self.table.entry(name.0, |known| known.name == name, |known| known.name.0);
        &mut entry.or_insert_with(|| Known { name, slot: Slot::EMPTY }).into_mut().slot
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// How many there is memory for.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.table.capacity()
    }

    fn fingerprint(&self, name: &str) -> Fingerprint {
        let mut hasher = self.keyed;
        hasher.write(name.as_bytes());
        let (high, low) = hasher.finish128().as_u64();
        Fingerprint(high, low)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn it_is_a_map() {
        let (mut names, mut oracle) = (Names::with_capacity(3), HashMap::new());
        let name = |number: u32| format!("n{}.{}.example", number % 977, "x".repeat(number as usize % 61));
        for number in 0..20_000 {
            let name = name(number);
            names.entry(&name).exact = number;
            oracle.insert(name, number);
        }
        for number in 0..20_000 {
            let name = name(number);
            assert_eq!(names.get(&name).map(|slot| slot.exact), oracle.get(&name).copied(), "{name}");
        }
        assert!(names.get("n1.example").is_none() && names.get("").is_none());
    }

    #[test]
    fn two_tables_have_two_keys() {
        let (one, two) = (Names::with_capacity(0), Names::with_capacity(0));
        assert_ne!(one.fingerprint("a.example"), two.fingerprint("a.example"));
    }
}
