//! TLS that begins here: whom we trust, and who we are.
//!
//! The files are watched like certificates. Whatever is wrong with one of them, what was there before stays in use.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, Error, RootCertStore, crypto};

use super::authorities::Authority;
use super::expiry::{self, Warning};
use super::pair::Parts;
use super::presented;
use super::problem::{Flaw, Problem};
use super::server::provider;
use super::sighted::Sighted;
use super::verifier::{self, Later};
use super::watch::Found;
use crate::bounded;
use crate::config::model::{Identity, OutgoingTls, Secret, Trust};

/// The longest file of a certificate or a key, in bytes.
const LONGEST_FILE: u64 = 1 << 20;

/// The TLS of one pool towards its endpoints.
pub(crate) struct Outgoing {
    /// As it was found first.
    written: OutgoingTls,
    files: Files,
    /// `None`: it cannot be used.
    made: ArcSwapOption<Made>,
    /// Touched by those who look, and by nobody who serves clients.
    state: Mutex<State>,
}

/// Where what it takes comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Files {
    /// Certificates of authorities.
    pub(crate) ca: Vec<PathBuf>,
    /// Our certificate and its key.
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
}

/// The settings of a handshake, and what in them verifies certificates.
struct Made {
    config: Arc<ClientConfig>,
    verifier: Arc<dyn ServerCertVerifier>,
}

/// From when until when.
type Validity = (SystemTime, SystemTime);

struct State {
    sighted: Sighted,
    /// From when until when our certificate holds, and what was told of that.
    validity: Option<Validity>,
    warning: Warning,
}

/// What a look at the files has come to.
#[derive(Debug, Default)]
pub(crate) struct Looked {
    /// Something new is in use.
    pub(crate) taken: bool,
    /// What is wrong, once.
    pub(crate) problem: Option<Problem>,
}

/// The root certificates of the system. Reading them takes milliseconds, so that it is done once.
static SYSTEM_ROOTS: LazyLock<RootCertStore> = LazyLock::new(|| {
    let mut store = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (used, _) = store.add_parsable_certificates(found.certs);
    if used == 0 {
        let why = found.errors.first().map(ToString::to_string).unwrap_or_default();
        tracing::error!("the system has no root certificates, so nobody is trusted by them: {why}");
    }
    store
});

/// The settings of `tls`, to be made once and shared. No session is ever resumed by them.
///
/// # Errors
/// The key cannot be used.
pub(crate) fn client_config(tls: &OutgoingTls) -> Result<Arc<ClientConfig>, Error> {
    Ok(make(tls)?.config)
}

fn make(tls: &OutgoingTls) -> Result<Made, Error> {
    let provider = Arc::new(provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let roots = match &tls.trust {
        Trust::Anybody => None,
        Trust::Roots { system, files } => {
            let mut roots = if *system { SYSTEM_ROOTS.clone() } else { RootCertStore::empty() };
            roots.add_parsable_certificates(files.iter().cloned());
            Some((roots, files.clone()))
        }
    };
    let verifier = verifier::new(&provider, roots, tls.pins.clone())?;
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::clone(&verifier));
    let mut config = match &tls.identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let key = PrivateKeyDer::try_from(identity.key.0.to_vec()).map_err(|why| Error::General(why.to_owned()))?;
            builder.with_client_auth_cert(identity.chain.clone(), key)?
        }
    };
    config.alpn_protocols = tls.alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.resumption = Resumption::disabled();
    Ok(Made { config: Arc::new(config), verifier })
}

/// From when until when our certificate holds, if we have one.
fn validity(tls: &OutgoingTls) -> Option<Validity> {
    presented::validity(tls.identity.as_ref()?.chain.first()?)
}

/// Whether an endpoint has to take one of these protocols: HTTP/1.1 needs no saying (RFC 9112, section 9.1).
pub(crate) fn needs_one(protocols: &[Vec<u8>]) -> bool {
    !protocols.is_empty() && !protocols.iter().any(|protocol| protocol == b"http/1.1")
}

/// Our certificate from one file, with its key from another.
///
/// # Errors
/// What is wrong with which of them.
pub(crate) fn identity(certificate: &Path, key: &Path) -> Result<Identity, Problem> {
    let of = |file: &Path, flaw| Problem { file: file.to_owned(), flaw };
    let parts = |file: &Path| {
        let pem = bounded::read_regular(file, LONGEST_FILE).map_err(|error| Flaw::Unreadable(error.to_string()));
        Parts::of_pem(&pem.map_err(|flaw| of(file, flaw))?).map_err(|flaw| of(file, flaw))
    };
    let chain = parts(certificate)?.chain;
    if chain.is_empty() {
        return Err(of(certificate, Flaw::NoCertificate));
    }
    let der = parts(key)?.key.ok_or_else(|| of(key, Flaw::NoKey))?;
    let secret = Secret(der.secret_der().into());
    match CertifiedKey::from_der(chain.clone(), der, &crypto::aws_lc_rs::default_provider()) {
        Ok(_) => Ok(Identity { chain, key: secret }),
        Err(Error::InconsistentKeys(_)) => Err(of(key, Flaw::KeyOfAnother(certificate.to_owned()))),
        Err(Error::InvalidCertificate(_)) => Err(of(certificate, Flaw::Certificate)),
        Err(_) => Err(of(key, Flaw::Key)),
    }
}

impl Outgoing {
    /// TLS as written, with what was found in `files`.
    pub(crate) fn new(written: OutgoingTls, files: Files) -> Outgoing {
        let made = match make(&written) {
            Ok(made) => Some(Arc::new(made)),
            Err(error) => {
                tracing::error!("TLS to endpoints cannot be set up: {error}");
                None
            }
        };
        let state =
            State { sighted: Sighted::read(files.all()), validity: validity(&written), warning: Warning::default() };
        Outgoing { written, files, made: made.into(), state: Mutex::new(state) }
    }

    /// Whether it is made of these.
    pub(crate) fn is_made_of(&self, written: &OutgoingTls, files: &Files) -> bool {
        self.files == *files && self.written == *written
    }

    /// What was written, and found first.
    pub(crate) fn written(&self) -> &OutgoingTls {
        &self.written
    }

    /// The settings as they stand, for a handshake in which these protocols are offered and no session is resumed. `None`:
    /// there is no telling whom to trust.
    pub(crate) fn probing(&self, protocols: &[Vec<u8>]) -> Option<Arc<ClientConfig>> {
        let config = self.config()?;
        if config.alpn_protocols == protocols {
            return Some(config);
        }
        let mut config = Arc::unwrap_or_clone(config);
        config.alpn_protocols = protocols.to_vec();
        Some(Arc::new(config))
    }

    /// The same, for a handshake that no certificate ends: what is given besides has to verify the one that was shown,
    /// before anything is said.
    pub(crate) fn verifying_later(
        &self,
        protocols: &[Vec<u8>],
    ) -> Option<(Arc<ClientConfig>, Arc<dyn ServerCertVerifier>)> {
        let made = self.made.load_full()?;
        let (mut config, verifier) = (ClientConfig::clone(&made.config), Arc::clone(&made.verifier));
        config.dangerous().set_certificate_verifier(Arc::new(Later(Arc::clone(&verifier))));
        config.alpn_protocols = protocols.to_vec();
        Some((Arc::new(config), verifier))
    }

    /// Looks at all files, takes in what has changed, and gives what is wrong, once. Blocks; to be called every few seconds on
    /// a thread that may. What was changed less than `rests` ago is looked at again before anything is said of it.
    pub(crate) fn look(&self, now: SystemTime, rests: Duration) -> Looked {
        let mut state = self.state();
        let read = || self.read().map_err(|problem| vec![Found { source: 0, problem }]);
        let (read, mut found) = state.sighted.look(self.files.all(), false, (now, rests), read);
        let taken = read.is_some();
        if let Some((made, validity)) = read {
            self.made.store(Some(Arc::new(made)));
            state.validity = validity;
        }
        Looked { taken, problem: found.pop().map(|found| found.problem) }
    }

    /// Whether there is a file that cannot be used, in place of which what was there before is.
    pub(crate) fn is_broken(&self) -> bool {
        self.state().sighted.broken() > 0
    }

    /// That our certificate has ended or will soon, in words, at most once a day.
    pub(crate) fn ending(&self, now: SystemTime) -> Option<String> {
        let mut state = self.state();
        let (_, until) = state.validity.filter(|(from, until)| expiry::is_ending(*from, *until, now))?;
        let (file, _) = self.files.identity.as_ref()?;
        state.warning.is_due(until, Duration::MAX, now).then(|| format!("{file:?}: {}", expiry::left(until, now)))
    }

    /// The settings as they stand; `None`: there is no telling whom to trust.
    pub(super) fn config(&self) -> Option<Arc<ClientConfig>> {
        self.made.load().as_ref().map(|made| Arc::clone(&made.config))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> Result<(Made, Option<Validity>), Problem> {
        let mut tls = self.written.clone();
        if let Trust::Roots { files, .. } = &mut tls.trust {
            files.clear();
            for file in &self.files.ca {
                let all = Authority::all(file).map_err(|flaw| Problem { file: file.clone(), flaw })?;
                files.extend(all.into_iter().map(|authority| authority.der));
            }
        }
        if let Some((certificate, key)) = &self.files.identity {
            tls.identity = Some(identity(certificate, key)?);
        }
        let made = make(&tls).map_err(|error| Problem {
            file: self.files.all().next().map(Path::to_owned).unwrap_or_default(),
            flaw: Flaw::Unusable(error.to_string()),
        })?;
        Ok((made, validity(&tls)))
    }
}

impl Files {
    fn all(&self) -> impl Iterator<Item = &Path> {
        let identity = self.identity.iter().flat_map(|(certificate, key)| [certificate, key]);
        self.ca.iter().chain(identity).map(PathBuf::as_path)
    }
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outgoing").field("written", &self.written).finish_non_exhaustive()
    }
}
