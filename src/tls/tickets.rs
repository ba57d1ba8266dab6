//! Session tickets: what lets a client resume a session without certificates, on the route that made it and no other.
//!
//! rustls verifies no client certificate when a session is resumed. So each route has keys of its own, which follow by HKDF
//! (RFC 5869) from a secret that all share, the route's name, and what it asks of clients: a ticket of another route, or of
//! a time when the rules were others, is as good as garbage.
//!
//! A ticket is the name of its key (16 bytes), the nonce (12), and the session under AES-256-GCM with its tag (16).

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use aws_lc_rs::rand;
use rustls::server::ProducesTickets;
use zeroize::Zeroize;

/// How long a secret of our own encrypts.
const ROTATION: Duration = Duration::from_secs(6 * 3600);
/// How many older secrets of our own still decrypt.
const OLDER: usize = 2;
/// How long every ticket can be used at least: while a secret that no longer encrypts still decrypts.
const LIFETIME: Duration = Duration::from_secs(ROTATION.as_secs() * OLDER as u64);
/// The longest session, in bytes: a ticket has to fit into 65,535 bytes.
const LONGEST: usize = 60_000;

pub(crate) const KEY: usize = 32;
const KEY_NAME: usize = 16;
const NONCE: usize = 12;

/// The secrets that the keys of all routes are derived from.
#[derive(Debug)]
pub(crate) struct Secrets(ArcSwap<Generation>);

/// One secret. Overwritten when it is dropped, so that tickets of the past stay closed to whoever gets at the memory later.
pub(crate) struct Secret([u8; KEY]);

/// The secrets of a time.
#[derive(Debug)]
struct Generation {
    /// The newest first: it encrypts, and all decrypt. At least one.
    secrets: Vec<Arc<Secret>>,
    /// When a new one is due; `None`: never, they come from outside.
    until: Option<Instant>,
}

impl Secrets {
    /// Secrets of our own: a new one every six hours, and the two before it.
    ///
    /// # Errors
    /// The system has no random bytes.
    pub(crate) fn random(now: Instant) -> Result<Arc<Secrets>, Unspecified> {
        let generation = Generation { secrets: vec![Arc::new(Secret::random()?)], until: Some(now + ROTATION) };
        Ok(Arc::new(Secrets(ArcSwap::from_pointee(generation))))
    }

    /// Secrets that others have too, the newest first; they change by [`Secrets::replace`] alone. `None`: there are none.
    pub(crate) fn given(secrets: Vec<Secret>) -> Option<Arc<Secrets>> {
        let secrets = Secrets(ArcSwap::from_pointee(Generation::given(secrets)?));
        Some(Arc::new(secrets))
    }

    /// Puts these in place, the newest first. Changes nothing if there are none.
    pub(crate) fn replace(&self, secrets: Vec<Secret>) {
        if let Some(generation) = Generation::given(secrets) {
            self.0.store(Arc::new(generation));
        }
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn len(&self, now: Instant) -> usize {
        self.at(now).secrets.len()
    }

    /// Those of `now`.
    fn at(&self, now: Instant) -> Arc<Generation> {
        let current = self.0.load_full();
        let Some(next) = current.next(now) else { return current };
        // Of several threads that find it due, one makes the next.
        self.0.compare_and_swap(&current, Arc::new(next));
        self.0.load_full()
    }
}

impl Generation {
    fn given(secrets: Vec<Secret>) -> Option<Generation> {
        let secrets: Vec<_> = secrets.into_iter().map(Arc::new).collect();
        (!secrets.is_empty()).then_some(Generation { secrets, until: None })
    }

    /// What follows, if it is time.
    fn next(&self, now: Instant) -> Option<Generation> {
        let overdue = now.checked_duration_since(self.until?)?;
        // Without random bytes the old secret goes on.
        let new = Arc::new(Secret::random().ok()?);
        // While nobody came by, further ones would have come and gone.
        let skipped = usize::try_from(overdue.as_secs() / ROTATION.as_secs()).unwrap_or(OLDER);
        let kept = self.secrets.iter().take(OLDER.saturating_sub(skipped)).cloned();
        Some(Generation { secrets: std::iter::once(new).chain(kept).collect(), until: Some(now + ROTATION) })
    }
}

impl Secret {
    /// One that was drawn or agreed upon: 32 bytes of which nobody else can guess any.
    pub(crate) fn new(bytes: [u8; KEY]) -> Secret {
        Secret(bytes)
    }

    fn random() -> Result<Secret, Unspecified> {
        let mut bytes = [0; KEY];
        rand::fill(&mut bytes)?;
        Ok(Secret(bytes))
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("secret")
    }
}

/// The tickets of one route.
#[derive(Debug)]
pub(crate) struct Tickets {
    secrets: Arc<Secrets>,
    route: Box<str>,
    policy: Box<[u8]>,
    keys: ArcSwap<Keys>,
}

/// Keys of a route as they follow from a generation of secrets, in the same order.
struct Keys {
    of: Arc<Generation>,
    keys: Vec<Key>,
}

struct Key {
    name: [u8; KEY_NAME],
    aead: RandomizedNonceKey,
}

impl Tickets {
    /// The tickets of the route of this name. `policy` says what it asks of clients, in whatever form: routes that differ
    /// in it share no ticket, and neither does one whose rules have changed with itself.
    pub(crate) fn new(secrets: Arc<Secrets>, route: &str, policy: &[u8]) -> Arc<Tickets> {
        let keys = Keys { of: secrets.0.load_full(), keys: Vec::new() };
        let tickets =
            Tickets { secrets, route: route.into(), policy: policy.into(), keys: ArcSwap::from_pointee(keys) };
        tickets.keys.store(Arc::new(tickets.derive(tickets.secrets.0.load_full())));
        Arc::new(tickets)
    }

    /// Lets go of keys whose time is over. Using the tickets does that too; to be called now and then for a route that
    /// nobody uses.
    pub(crate) fn expire(&self, now: Instant) {
        drop(self.keys(now));
    }

    fn keys(&self, now: Instant) -> Arc<Keys> {
        let generation = self.secrets.at(now);
        let keys = self.keys.load_full();
        if Arc::ptr_eq(&keys.of, &generation) {
            return keys;
        }
        let keys = Arc::new(self.derive(generation));
        self.keys.store(Arc::clone(&keys));
        keys
    }

    fn derive(&self, of: Arc<Generation>) -> Keys {
        let keys = of.secrets.iter().filter_map(|secret| Key::derive(secret, &self.route, &self.policy).ok()).collect();
        Keys { of, keys }
    }

    fn encrypt_at(&self, plain: &[u8], now: Instant) -> Option<Vec<u8>> {
        if plain.len() > LONGEST {
            return None;
        }
        self.keys(now).keys.first()?.encrypt(plain)
    }

    fn decrypt_at(&self, ticket: &[u8], now: Instant) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_first_chunk::<KEY_NAME>()?;
        let keys = self.keys(now);
        keys.keys.iter().find(|key| key.name == *name)?.decrypt(rest)
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(LIFETIME.as_secs()).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.encrypt_at(plain, Instant::now())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.decrypt_at(cipher, Instant::now())
    }
}

impl Key {
    /// The key of a route. Lengths stand in front, so that no two routes come to the same bytes.
    fn derive(secret: &Secret, route: &str, policy: &[u8]) -> Result<Key, Unspecified> {
        let (route, length) = (route.as_bytes(), route.len() as u64);
        let info = [&length.to_be_bytes()[..], route, policy];
        let mut bytes = [0; KEY + KEY_NAME];
        let extracted = Salt::new(HKDF_SHA256, b"pointsman session tickets 1").extract(&secret.0);
        extracted.expand(&info, Length(bytes.len()))?.fill(&mut bytes)?;
        let (key, rest) = bytes.split_first_chunk::<KEY>().ok_or(Unspecified)?;
        let name = *rest.first_chunk().ok_or(Unspecified)?;
        let aead = RandomizedNonceKey::new(&AES_256_GCM, key);
        bytes.zeroize();
        Ok(Key { name, aead: aead? })
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let mut sealed = plain.to_vec();
        let nonce = self.aead.seal_in_place_append_tag(Aad::from(self.name), &mut sealed).ok()?;
        Some([&self.name[..], nonce.as_ref(), &sealed].concat())
    }

    fn decrypt(&self, rest: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = rest.split_first_chunk::<NONCE>()?;
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = self.aead.open_in_place(nonce, Aad::from(self.name), &mut sealed).ok()?.len();
        sealed.truncate(length);
        Some(sealed)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("count", &self.keys.len()).finish_non_exhaustive()
    }
}

/// Asks HKDF for so many bytes.
struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SESSION: &[u8] = b"a session";

    fn secret(byte: u8) -> Secret {
        Secret::new([byte; KEY])
    }

    fn given(bytes: &[u8]) -> Arc<Secrets> {
        Secrets::given(bytes.iter().map(|byte| secret(*byte)).collect()).unwrap()
    }

    #[test]
    fn a_ticket_is_for_its_route_and_policy() {
        let secrets = Secrets::random(Instant::now()).unwrap();
        let tickets = |route: &str, policy: &[u8]| Tickets::new(Arc::clone(&secrets), route, policy);
        let ticket = tickets("www", b"none").encrypt(SESSION).unwrap();
        for (route, policy, opens) in [
            ("www", &b"none"[..], true),
            ("www2", b"none", false),
            ("WWW", b"none", false),
            ("", b"wwwnone", false),
            ("www", b"", false),
            ("www", b"required by ca 1", false),
            ("wwwn", b"one", false),
        ] {
            let opened = tickets(route, policy).decrypt(&ticket);
            assert_eq!(opened.as_deref(), opens.then_some(SESSION), "{route} {policy:?}");
        }
        let other = Tickets::new(Secrets::random(Instant::now()).unwrap(), "www", b"none");
        assert_eq!(other.decrypt(&ticket), None, "of another process");
    }

    #[test]
    fn rotation_keeps_the_last_two() {
        let start = Instant::now();
        let hours = |hours: u64| start + Duration::from_secs(hours * 3600);
        let tickets = Tickets::new(Secrets::random(start).unwrap(), "www", b"");
        let first = tickets.encrypt_at(SESSION, hours(1)).unwrap();
        let mut made = Vec::new();
        for (hour, name, opens) in
            [(5, 0, true), (6, 1, true), (12, 2, true), (17, 2, true), (18, 3, false), (24, 4, false)]
        {
            let ticket = tickets.encrypt_at(SESSION, hours(hour)).unwrap();
            if made.last() != Some(&ticket[..KEY_NAME].to_vec()) {
                made.push(ticket[..KEY_NAME].to_vec());
            }
            assert_eq!(made.len(), name + 1, "keys after {hour} hours");
            assert_eq!(tickets.decrypt_at(&first, hours(hour)).is_some(), opens, "after {hour} hours");
            assert!(tickets.keys.load().keys.len() <= OLDER + 1);
        }
        let last = tickets.encrypt_at(SESSION, hours(24)).unwrap();
        // As if keys had come and gone while nobody used any.
        assert!(tickets.decrypt_at(&last, hours(38)).is_some(), "a key is one period over its time");
        let idle = Tickets::new(Secrets::random(start).unwrap(), "www", b"");
        let ticket = idle.encrypt_at(SESSION, start).unwrap();
        idle.expire(hours(18));
        assert_eq!((idle.decrypt_at(&ticket, hours(18)), idle.keys.load().keys.len()), (None, 1));
    }

    #[test]
    fn secrets_from_outside_agree_and_are_replaced() {
        let (here, there) = (given(&[2, 1]), given(&[1]));
        let (ours, theirs) = (Tickets::new(Arc::clone(&here), "www", b""), Tickets::new(there, "www", b""));
        let ticket = theirs.encrypt(SESSION).unwrap();
        assert_eq!(ours.decrypt(&ticket).as_deref(), Some(SESSION), "an older secret decrypts");
        assert_eq!(theirs.decrypt(&ours.encrypt(SESSION).unwrap()), None, "the newest encrypts");
        here.replace(vec![secret(3), secret(2)]);
        assert_eq!(ours.decrypt(&ticket), None, "a secret that is gone");
        here.replace(Vec::new());
        assert!(ours.encrypt(SESSION).is_some());
        assert!(Secrets::given(Vec::new()).is_none());
    }

    #[test]
    fn what_is_not_whole_is_refused() {
        let tickets = Tickets::new(given(&[1]), "www", b"");
        let ticket = tickets.encrypt(SESSION).unwrap();
        assert_eq!(ticket.len(), KEY_NAME + NONCE + SESSION.len() + 16);
        for length in 0..ticket.len() {
            assert_eq!(tickets.decrypt(&ticket[..length]), None, "{length} bytes");
        }
        for index in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[index] ^= 1;
            assert_eq!(tickets.decrypt(&changed), None, "byte {index}");
        }
        assert_eq!(tickets.decrypt(&[&ticket[..], &[0]].concat()), None, "a byte too many");
        assert_ne!(tickets.encrypt(SESSION), Some(ticket), "a nonce of its own");
        assert_eq!(tickets.encrypt(&[0; LONGEST + 1]), None);
    }

    proptest! {
        #[test]
        fn garbage_is_refused(garbage in proptest::collection::vec(any::<u8>(), 0..200), cut in 0_usize..40) {
            let tickets = Tickets::new(given(&[1]), "www", b"");
            prop_assert_eq!(tickets.decrypt(&garbage), None);
            // With the name of a key, and perhaps more of a ticket, in front.
            let ticket = tickets.encrypt(SESSION).unwrap();
            prop_assert_eq!(tickets.decrypt(&[&ticket[..cut.max(KEY_NAME)], &garbage].concat()), None);
        }

        #[test]
        fn whatever_goes_in_comes_out(session in proptest::collection::vec(any::<u8>(), 0..3_000)) {
            let tickets = Tickets::new(given(&[1]), "www", b"policy");
            prop_assert_eq!(tickets.decrypt(&tickets.encrypt(&session).unwrap()), Some(session));
        }
    }
}
