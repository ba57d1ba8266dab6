//! What is shown to an authority that wants to see that a name is ours: by a certificate in a handshake (RFC 8737), or
//! by a page (RFC 8555, section 8.3). Both are made of one text, the key authorization.
//!
//! Answers are found without a lock. Where this node has none, the other one of a pair may have: then the storage is
//! looked at, on a thread of the control side: at most once a second for each name, one look at a time, and few in all.
//! That holds however long a look takes, which strangers bring about.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use aws_lc_rs::digest::{SHA256, digest};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, Semaphore};
use tokio_util::task::TaskTracker;

use super::storage;
use super::trouble::Trouble;
use crate::config::model::Config;
use crate::tls::server::provider;
use crate::wire::client_hello::ClientHello;
use crate::wire::name::{Name, Written};

/// The protocol of a handshake that asks for a proof (RFC 8737, section 3).
const PROTOCOL: &[u8] = b"acme-tls/1";
/// For how long it counts what was found in the storage.
const LOOKED: Duration = Duration::from_secs(1);
/// Looks at the storage at once.
pub(super) const LOOKS: usize = 4;

/// The challenges of all names for which certificates are obtained.
pub(crate) struct Challenges {
    names: HashMap<Name, Asked>,
    /// Where threads may block; not known before the control side runs.
    control: OnceLock<Handle>,
    looks: Arc<Semaphore>,
}

/// One name that an authority may ask for.
pub(crate) struct Asked {
    /// What this node shows.
    own: ArcSwapOption<Answer>,
    name: Name,
    /// Where the other node puts what it shows.
    file: PathBuf,
    /// Locked by a look that is under way.
    looked: Arc<Mutex<Looked>>,
}

/// What was found last, and when that was.
type Looked = Option<(Instant, Option<Arc<Answer>>)>;

/// What proves that a name is ours.
#[derive(Debug)]
pub(crate) struct Answer {
    /// A token and the thumbprint of the account's key, with a dot between them.
    authorization: Box<str>,
    /// What shows the certificate made of it.
    pub(crate) config: Arc<ServerConfig>,
}

/// Why there is no answer of a text.
#[derive(Debug, thiserror::Error)]
pub(super) enum Flaw {
    #[error("it is not a key authorization")]
    Text,
    #[error("no certificate can be made of it: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("its certificate cannot be shown: {0}")]
    Config(#[from] rustls::Error),
}

/// Where an answer is shown, from before there is one; taken away by Drop, from here at once and from the storage soon.
pub(super) struct Shown {
    challenges: Arc<Challenges>,
    name: Name,
    cleanup: TaskTracker,
}

impl Challenges {
    /// Those of a configuration; nothing is asked for yet.
    pub(crate) fn new(config: &Config) -> Challenges {
        let mut names = HashMap::new();
        for (index, account) in config.acme.iter().enumerate() {
            for name in config.acme_names(index) {
                let file = storage::challenge(&account.storage, &name);
                let (own, looked) = (ArcSwapOption::empty(), Arc::default());
                names.insert(name.clone(), Asked { own, name, file, looked });
            }
        }
        Challenges { names, control: OnceLock::new(), looks: Arc::new(Semaphore::new(LOOKS)) }
    }

    /// Has the storage looked at on threads of this runtime.
    pub(crate) fn look_on(&self, control: Handle) {
        // The first one stays: there is one control side.
        let _ = self.control.set(control);
    }

    /// The name for which a hello asks for a proof, and for nothing else, if it is one for which certificates are
    /// obtained.
    pub(crate) fn asked(&self, hello: Option<&ClientHello>) -> Option<&Asked> {
        if self.names.is_empty() {
            return None;
        }
        let hello = hello?;
        let asks = hello.alpn.iter().eq([PROTOCOL]);
        self.names.get(hello.server_name.as_ref().filter(|_| asks)?)
    }

    /// What there is to show for a name.
    pub(crate) async fn answer(&self, asked: &Asked) -> Option<Arc<Answer>> {
        if let Some(own) = asked.own.load_full() {
            return Some(own);
        }
        // Whoever else asks for this name meanwhile waits for the same look.
        let mut looked = Arc::clone(&asked.looked).lock_owned().await;
        let fresh = |at: &Instant| at.elapsed() < LOOKED;
        if let Some((_, found)) = looked.as_ref().filter(|(at, _)| fresh(at)) {
            return found.clone();
        }
        let place = Arc::clone(&self.looks).acquire_owned().await.ok()?;
        let (name, file) = (asked.name.clone(), asked.file.clone());
        // The look goes on when nobody waits for it any more: both are its own until it ends.
        let look = self.control.get()?.spawn_blocking(move || {
            let found = look(&name, &file);
            *looked = Some((Instant::now(), found.clone()));
            drop(place);
            found
        });
        // A panic there was reported when it happened.
        look.await.ok().flatten()
    }

    /// The page about `token` on the site of `host`, as a request names it, if there is one.
    pub(super) async fn page(&self, host: &str, token: &str) -> Option<Box<str>> {
        let name = host.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).map_or(host, |(name, _)| name);
        let Ok(Written::Name(name)) = Name::read(name.as_bytes()) else { return None };
        let answer = self.answer(self.names.get(&name)?).await?;
        let (ours, _) = answer.authorization.split_once('.')?;
        (ours == token).then(|| answer.authorization.clone())
    }

    /// Where an answer for `name` will be shown; `None` if no certificate is obtained for it.
    pub(super) fn place(self: &Arc<Self>, name: &Name, cleanup: &TaskTracker) -> Option<Arc<Shown>> {
        self.names.get(name)?;
        Some(Arc::new(Shown { challenges: Arc::clone(self), name: name.clone(), cleanup: cleanup.clone() }))
    }
}

impl Shown {
    /// Shows `answer` from here on, once the other node can find it. Whoever stops waiting for that still has it taken
    /// away: the writing goes on, and keeps this until it is done.
    pub(super) async fn show(self: &Arc<Self>, answer: Answer) -> Result<(), Trouble> {
        let Some(asked) = self.challenges.names.get(&self.name) else { return Ok(()) };
        let (shown, path, text) = (Arc::clone(self), asked.file.clone(), answer.authorization.clone());
        let write = self.cleanup.spawn_blocking(move || {
            let written = storage::write(&path, text.as_bytes());
            drop(shown);
            written
        });
        let written = write.await.map_err(|_| Trouble::Panicked)?;
        written.map_err(|error| Trouble::Storage(asked.file.clone(), error))?;
        asked.own.store(Some(Arc::new(answer)));
        Ok(())
    }
}

/// What the other node shows. Blocks.
fn look(name: &Name, file: &Path) -> Option<Arc<Answer>> {
    let read = match storage::read_challenge(file) {
        Ok(read) => read?,
        Err(error) => {
            tracing::warn!(%name, "the challenge in {file:?} cannot be read: {error}");
            return None;
        }
    };
    let answer = std::str::from_utf8(&read).map_err(|_| Flaw::Text).and_then(|text| Answer::new(name, text));
    answer
        .inspect_err(|flaw| tracing::warn!(%name, "the challenge in {file:?} is of no use: {flaw}"))
        .ok()
        .map(Arc::new)
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let Some(asked) = self.challenges.names.get(&self.name) {
            asked.own.store(None);
            let file = asked.file.clone();
            self.cleanup.spawn_blocking(move || {
                if let Err(error) = storage::remove(&file) {
                    tracing::warn!("{file:?} cannot be removed: {error}");
                }
            });
        }
    }
}

impl Answer {
    /// What shows for `name` that its asker's account is ours, by a key authorization (RFC 8555, section 8.1).
    ///
    /// # Errors
    /// It is none.
    pub(super) fn new(name: &Name, authorization: &str) -> Result<Answer, Flaw> {
        let is_word = |text: &str| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            !text.is_empty() && text.bytes().all(plain)
        };
        if !authorization.split_once('.').is_some_and(|(token, thumbprint)| is_word(token) && is_word(thumbprint)) {
            return Err(Flaw::Text);
        }
        let (certificate, key) = certificate(name, authorization)?;
        let builder = ServerConfig::builder_with_provider(Arc::new(provider()));
        let builder = builder.with_safe_default_protocol_versions()?.with_no_client_auth();
        let key = any_supported_type(&PrivateKeyDer::Pkcs8(key.serialize_der().into()))?;
        // Put together by hand: rustls would look into the certificate, and does not know the extension.
        let certified = CertifiedKey::new(vec![certificate], key);
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        // Nobody comes back to such a session.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Answer { authorization: authorization.into(), config: Arc::new(config) })
    }
}

/// What is shown (RFC 8737, section 3), and its key.
fn certificate(name: &Name, authorization: &str) -> Result<(CertificateDer<'static>, KeyPair), rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new([name.to_string()])?;
    params.distinguished_name = DistinguishedName::new();
    let digest = digest(&SHA256, authorization.as_bytes());
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest.as_ref())];
    Ok((params.self_signed(&key)?.der().clone(), key))
}

#[cfg(test)]
mod tests {
    use x509_parser::extensions::GeneralName;
    use x509_parser::prelude::{FromDer, X509Certificate};

    use super::*;
    use crate::wire::protocols::Protocols;

    const AUTHORIZATION: &str = "token-1.thumb_2";

    fn name(text: &str) -> Name {
        let Ok(Written::Name(name)) = Name::read(text.as_bytes()) else { panic!("{text}") };
        name
    }

    fn challenges(storage: &Path) -> Arc<Challenges> {
        let text = format!(
            "listener.a.bind = '127.0.0.1:0'\npool.a.endpoints = '127.0.0.1:1'\n\
             acme.ca = {{ terms_agreed = true, storage = {storage:?} }}\n\
             route.a = {{ listener = 'a', sni = ['a.example', '*.b.example'], pool = 'a', acme = 'ca' }}"
        );
        let config = crate::config::parse_str(Path::new("main.toml"), &text).unwrap().config;
        Arc::new(Challenges::new(&config))
    }

    fn hello(name: Option<&str>, alpn: &[&str]) -> ClientHello {
        let protocols: Protocols = alpn.iter().map(|protocol| protocol.as_bytes()).collect();
        let sample = crate::wire::sample::Sample { name: name.map(str::as_bytes), ..Default::default() };
        let mut reader = crate::wire::client_hello::Reader::default();
        let mut hello = reader.advance(&sample.wire()).unwrap().unwrap();
        hello.alpn = protocols;
        hello
    }

    #[test]
    fn which_hellos_ask_for_a_proof() {
        let challenges = challenges(Path::new("/nowhere"));
        for (name, alpn, asks) in [
            (Some("a.example"), &["acme-tls/1"][..], true),
            (Some("A.EXAMPLE"), &["acme-tls/1"], true),
            (Some("a.example"), &["h2", "acme-tls/1"], false),
            (Some("a.example"), &["acme-tls/1", "acme-tls/1"], false),
            (Some("a.example"), &["h2", "http/1.1"], false),
            (Some("a.example"), &[], false),
            (Some("x.b.example"), &["acme-tls/1"], false),
            (Some("c.example"), &["acme-tls/1"], false),
            (None, &["acme-tls/1"], false),
        ] {
            assert_eq!(challenges.asked(Some(&hello(name, alpn))).is_some(), asks, "{name:?} {alpn:?}");
        }
        assert!(challenges.asked(None).is_none());
    }

    #[test]
    fn the_certificate_is_as_it_should_be() {
        let answer = Answer::new(&name("a.example"), AUTHORIZATION).unwrap();
        assert_eq!(answer.config.alpn_protocols, [PROTOCOL]);
        for text in ["", ".", "a.", ".b", "ab", "a.b\n", "a/../b.c", "a.b.c"] {
            assert!(matches!(Answer::new(&name("a.example"), text), Err(Flaw::Text)), "{text:?}");
        }
        // What RFC 8737 asks for, in section 3: the name alone, and a critical extension with the digest in it.
        let (der, _) = certificate(&name("a.example"), AUTHORIZATION).unwrap();
        let (_, read) = X509Certificate::from_der(&der).unwrap();
        let names = &read.subject_alternative_name().unwrap().unwrap().value.general_names;
        assert!(matches!(names[..], [GeneralName::DNSName("a.example")]), "{names:?}");
        let extension = read.iter_extensions().find(|each| each.oid.to_id_string() == "1.3.6.1.5.5.7.1.31").unwrap();
        let sha = digest(&SHA256, AUTHORIZATION.as_bytes());
        assert!(extension.critical && extension.value == [&[4, 32], sha.as_ref()].concat());
    }

    #[tokio::test]
    async fn what_the_other_node_shows_is_found() {
        let storage = tempfile::tempdir().unwrap();
        let (one, other) = (challenges(storage.path()), challenges(storage.path()));
        for challenges in [&one, &other] {
            challenges.look_on(Handle::current());
        }
        let (name, cleanup) = (name("a.example"), TaskTracker::new());
        let asked = |challenges: &Arc<Challenges>| {
            let challenges = Arc::clone(challenges);
            async move { challenges.page("a.example:5002", "token-1").await }
        };
        assert_eq!(asked(&other).await, None);
        let shown = one.place(&name, &cleanup).unwrap();
        shown.show(Answer::new(&name, AUTHORIZATION).unwrap()).await.unwrap();
        assert_eq!(asked(&other).await, None, "it has just looked");
        assert_eq!(asked(&one).await.as_deref(), Some(AUTHORIZATION));
        tokio::time::sleep(LOOKED).await;
        assert_eq!(asked(&other).await.as_deref(), Some(AUTHORIZATION));
        assert_eq!(other.page("a.example", "token-2").await, None, "of another challenge");
        assert_eq!(other.page("../a.example", "token-1").await, None);
        drop(shown);
        cleanup.close();
        cleanup.wait().await;
        assert_eq!(asked(&one).await, None);
        tokio::time::sleep(LOOKED).await;
        assert_eq!(asked(&other).await, None, "it is gone from the storage too");
    }
    /// A runtime whose one thread that may block does so until the sender is gone, as where a storage hangs.
    fn hanging() -> (tokio::runtime::Runtime, std::sync::mpsc::Sender<()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().max_blocking_threads(1).build();
        let runtime = runtime.unwrap();
        let (hangs, until) = std::sync::mpsc::channel::<()>();
        drop(runtime.spawn_blocking(move || until.recv().is_err()));
        (runtime, hangs)
    }

    const SHORT: Duration = Duration::from_millis(5);

    #[test]
    fn a_storage_that_hangs_is_looked_at_once_for_all_who_ask() {
        let storage = tempfile::tempdir().unwrap();
        let challenges = challenges(storage.path());
        storage::write(&storage::challenge(storage.path(), &name("a.example")), AUTHORIZATION.as_bytes()).unwrap();
        let (runtime, hangs) = hanging();
        challenges.look_on(runtime.handle().clone());
        let asked = challenges.asked(Some(&hello(Some("a.example"), &["acme-tls/1"]))).unwrap();
        runtime.block_on(async {
            for _ in 0..3 * LOOKS {
                assert!(tokio::time::timeout(SHORT, challenges.answer(asked)).await.is_err(), "nobody has an answer");
                assert_eq!(challenges.looks.available_permits(), LOOKS - 1, "one look is under way, and stays");
            }
            drop(hangs);
            let answer = challenges.answer(asked).await.unwrap();
            assert_eq!(&*answer.authorization, AUTHORIZATION);
            assert_eq!(challenges.looks.available_permits(), LOOKS);
        });
    }

    #[test]
    fn what_is_broken_off_while_it_is_written_is_taken_away() {
        let storage = tempfile::tempdir().unwrap();
        let challenges = challenges(storage.path());
        let (runtime, hangs) = hanging();
        let (name, cleanup) = (name("a.example"), TaskTracker::new());
        runtime.block_on(async {
            let shown = challenges.place(&name, &cleanup).unwrap();
            let answer = Answer::new(&name, AUTHORIZATION).unwrap();
            assert!(tokio::time::timeout(SHORT, shown.show(answer)).await.is_err());
            drop((shown, hangs));
            cleanup.close();
            cleanup.wait().await;
        });
        let file = storage::challenge(storage.path(), &name);
        assert!(file.parent().unwrap().exists() && !file.exists(), "it was written, and is gone");
        assert!(challenges.names[&name].own.load().is_none());
    }
}
