//! Which pair a client gets: by name, by what it can verify, and by what is valid. Immutable; the cost does not depend on
//! how many pairs there are.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::SignatureScheme;
use smallvec::SmallVec;

use super::pair::Pair;
use crate::wire::name::Name;

/// Pairs by name. The maps are keyed, for clients choose what is looked up.
#[derive(Debug, Default)]
pub(super) struct Index {
    pairs: Vec<Arc<Pair>>,
    exact: Names,
    wildcard: Names,
    default: Candidates,
}

type Names = HashMap<Arc<str>, Candidates, RandomState>;
/// Indices into [`Index::pairs`], the best first.
type Candidates = SmallVec<[u32; 4]>;

impl Index {
    /// The index of `pairs`. Clients without a name, or with one that no pair has, get what those with the name `default`
    /// would; without it, or if no pair has it, the first pair and those that share its first name.
    pub(super) fn new(pairs: Vec<Arc<Pair>>, default: Option<&Name>) -> Index {
        let (exact, wildcard) = (by_name(&pairs, |pair| &pair.exact), by_name(&pairs, |pair| &pair.wildcard));
        let mut index = Index { pairs, exact, wildcard, default: Candidates::new() };
        index.default = index.chosen(default).or_else(|| index.first()).unwrap_or_default();
        index
    }

    fn chosen(&self, default: Option<&Name>) -> Option<Candidates> {
        let [exact, wildcard] = self.named(default?.as_str());
        exact.or(wildcard).cloned()
    }

    fn first(&self) -> Option<Candidates> {
        let first = self.pairs.first()?;
        let exact = first.exact.first().and_then(|name| self.exact.get(name));
        let found = exact.or_else(|| self.wildcard.get(first.wildcard.first()?));
        Some(found.cloned().unwrap_or_else(|| Candidates::from_slice(&[0])))
    }

    /// Whether there are no pairs.
    pub(super) fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// Whether some pair has this name.
    pub(super) fn has(&self, name: &Name) -> bool {
        self.named(name.as_str()).iter().any(Option::is_some)
    }

    /// The pair for a client that asks for `name` and takes signatures of these schemes: one that it can take, if there
    /// is one; among those a valid one, if there is one; among those one for the name itself before one for a wildcard,
    /// and then the best kind of key.
    pub(super) fn find(&self, name: Option<&Name>, schemes: &[SignatureScheme], now: SystemTime) -> Option<&Arc<Pair>> {
        let named = name.map(|name| self.named(name.as_str())).filter(|named| named.iter().any(Option::is_some));
        let found = named.unwrap_or([Some(&self.default), None]);
        let pairs = || found.iter().copied().flatten().flatten().filter_map(|&index| self.pairs.get(index as usize));
        let fit = || pairs().filter(|pair| pair.suits(schemes));
        // Without any that fits the handshake fails, and says why.
        fit().find(|pair| pair.is_valid(now)).or_else(|| fit().next()).or_else(|| pairs().next())
    }

    /// Those of the exact name, and those of the wildcard over it: "*." stands for one label (RFC 9525, section 6.3).
    fn named(&self, name: &str) -> [Option<&Candidates>; 2] {
        [self.exact.get(name), Name::parent(name).and_then(|parent| self.wildcard.get(parent))]
    }
}

fn by_name(pairs: &[Arc<Pair>], of: impl Fn(&Pair) -> &[Arc<str>]) -> Names {
    let mut names = Names::with_capacity_and_hasher(pairs.iter().map(|pair| of(pair).len()).sum(), RandomState::new());
    for (index, pair) in (0..).zip(pairs) {
        for name in of(pair) {
            names.entry(Arc::clone(name)).or_default().push(index);
        }
    }
    for candidates in names.values_mut().filter(|candidates| candidates.len() > 1) {
        // Stable: equal ones keep the order of the files.
        candidates.sort_by_key(|&index| pairs.get(index as usize).map(|pair| pair.rank()));
    }
    names
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use proptest::prelude::*;

    use super::*;
    use crate::tls::files;
    use crate::tls::key::Thorough;
    use crate::tls::sample::{Folder, bundle_of, year};
    use crate::wire::name::Written;

    const NAMES: [&str; 5] = ["a.example", "b.a.example", "*.a.example", "*.example", "c.example"];
    const ASKED: [&str; 7] =
        ["a.example", "b.a.example", "x.a.example", "c.example", "x.b.a.example", "example", "x.test"];
    const SCHEMES: [&[SignatureScheme]; 4] = [
        &[SignatureScheme::ECDSA_NISTP256_SHA256],
        &[SignatureScheme::RSA_PKCS1_SHA256],
        &[SignatureScheme::RSA_PSS_SHA256, SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ED25519],
        &[],
    ];

    /// Pairs of some names, kinds and times, to draw from.
    fn all() -> &'static [Arc<Pair>] {
        static ALL: OnceLock<Vec<Arc<Pair>>> = OnceLock::new();
        ALL.get_or_init(|| {
            let folder = Folder::new();
            let mut dice = fastrand::Rng::with_seed(1);
            let made = (0..40).map(|_| {
                let count = dice.usize(1..3);
                let names = dice.choose_multiple(NAMES, count);
                let kind = ["rsa", "p256", "ed25519"][dice.usize(..3)];
                let years = [(2020, 2090), (2020, 2091), (2010, 2020), (2080, 2090)][dice.usize(..4)];
                folder.write("a.pem", bundle_of(&names, kind, years));
                let (pair, problem) = files::read(&folder.join("a.pem"), year(2030), &Thorough::new()).unwrap();
                assert_eq!(problem, None);
                Arc::new(pair)
            });
            made.collect()
        })
    }

    /// The rules written the slow way.
    fn oracle<'p>(pairs: &'p [Arc<Pair>], asked: &str, schemes: &[SignatureScheme]) -> Option<&'p Arc<Pair>> {
        let is_exact = |pair: &Pair, asked: &str| pair.exact.iter().any(|name| **name == *asked);
        let is_wild = |pair: &Pair, asked: &str| {
            pair.wildcard.iter().any(|name| {
                let label = asked.strip_suffix(&**name).and_then(|rest| rest.strip_suffix('.'));
                label.is_some_and(|label| !label.contains('.'))
            })
        };
        let mut found: Vec<(bool, usize)> = Vec::new();
        for (index, pair) in pairs.iter().enumerate() {
            if is_exact(pair, asked) || is_wild(pair, asked) {
                found.push((!is_exact(pair, asked), index));
            }
        }
        if found.is_empty() {
            let first = pairs.first()?;
            let shares = |pair: &Pair| match first.exact.first() {
                Some(name) => is_exact(pair, name),
                None => pair.wildcard.contains(&first.wildcard[0]),
            };
            found.extend((0..pairs.len()).filter(|index| shares(&pairs[*index])).map(|index| (false, index)));
        }
        let fits = found.iter().any(|(_, index)| pairs[*index].suits(schemes));
        let rank = |(is_wild, index): &(bool, usize)| {
            let pair = &pairs[*index];
            let unfit = fits && !pair.suits(schemes);
            (unfit, fits && !pair.is_valid(year(2030)), *is_wild, pair.rank(), *index)
        };
        found.iter().min_by(|a, b| rank(a).cmp(&rank(b))).map(|(_, index)| &pairs[*index])
    }

    proptest! {
        #[test]
        fn it_follows_the_rules(
            drawn in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
            asked in proptest::sample::select(&ASKED[..]),
            schemes in proptest::sample::select(&SCHEMES[..]),
        ) {
            let pairs: Vec<Arc<Pair>> = drawn.iter().map(|index| Arc::clone(index.get(all()))).collect();
            let Ok(Written::Name(name)) = Name::read(asked.as_bytes()) else { unreachable!() };
            let index = Index::new(pairs.clone(), None);
            let (found, expected) = (index.find(Some(&name), schemes, year(2030)), oracle(&pairs, asked, schemes));
            prop_assert!(found.map(Arc::as_ptr) == expected.map(Arc::as_ptr), "{found:?} instead of {expected:?}");
        }
    }
}
