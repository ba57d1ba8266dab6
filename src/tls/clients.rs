//! What a route asks of its clients: certificates of some authorities that are on none of their lists of revoked ones
//! (CRL, RFC 5280, section 5).
//!
//! The files are watched like certificates. Whatever is wrong with one of them, what was asked before stays in force.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{Context, SHA256};
use metrics::Gauge;
use rustls::RootCertStore;
use rustls::pki_types::CertificateRevocationListDer;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};

use super::authorities::{self, Authority, List};
use super::expiry::Warning;
use super::noting::Noting;
use super::problem::{Flaw, Problem};
use super::server::provider;
use super::sighted::Sighted;
use super::watch::Found;
use crate::config::model::ClientRules;
use crate::observe::metrics::Metrics;

/// What is asked of the clients of a route.
pub(crate) struct Clients {
    rules: ClientRules,
    state: Mutex<State>,
}

/// What is behind it.
#[derive(Default)]
struct State {
    sighted: Sighted,
    demand: Option<Arc<Demand>>,
    lists: Vec<Watched>,
    /// How many of them had ended when they were read.
    ended: usize,
}

/// A file of lists of revoked certificates.
struct Watched {
    file: PathBuf,
    /// When the first list in it ends.
    until: Option<SystemTime>,
    warning: Warning,
    gauge: Option<Gauge>,
}

/// What is asked, as it stood in the files at one time.
#[derive(Debug)]
pub(crate) struct Demand {
    pub(crate) verifier: Arc<dyn ClientCertVerifier>,
    /// Tells these rules from others: sessions are resumed only under those that they began under.
    pub(crate) policy: [u8; 32],
    /// Authorities of which there is no list though there are lists of others.
    pub(crate) unlisted: Vec<String>,
}

impl Clients {
    /// Loads what `rules` name, and tells what is wrong; [`Found::source`] counts the authorities, then the lists. With
    /// anything wrong there is no demand.
    pub(crate) fn load(rules: ClientRules, now: SystemTime) -> (Clients, Vec<Found>) {
        let clients = Clients::unread(rules);
        let (_, problems) = clients.look_at(now, Duration::ZERO);
        (clients, problems)
    }

    /// Those whose files were not looked at: there is no demand.
    pub(crate) fn unread(rules: ClientRules) -> Clients {
        Clients { rules, state: Mutex::default() }
    }

    /// Looks at all files: whether something else is asked now, and what is wrong, each problem once. Blocks; to be called
    /// every few seconds on a thread that may. What was changed less than `rests` ago is looked at again before anything is
    /// said of it.
    pub(crate) fn look_at(&self, now: SystemTime, rests: Duration) -> (bool, Vec<Found>) {
        let mut state = self.state();
        let state = &mut *state;
        // A list that ends changes what is asked, although no file has changed.
        let has_ended = |until: &SystemTime| *until < now;
        let outdated = state.lists.iter().filter_map(|list| list.until).filter(has_ended).count() != state.ended;
        let (read, problems) = state.sighted.look(self.files(), outdated, (now, rests), || self.read(now));
        let Some((demand, ends)) = read else { return (false, problems) };
        let changed = state.demand.as_ref().is_none_or(|before| before.policy != demand.policy);
        state.demand = Some(Arc::new(demand));
        state.ended = ends.iter().flatten().filter(|until| has_ended(until)).count();
        state.keep(&self.rules.crl, ends);
        (changed, problems)
    }

    /// What is asked now; `None`: that was never known.
    pub(crate) fn demand(&self) -> Option<Arc<Demand>> {
        self.state().demand.clone()
    }

    /// What was written.
    pub(crate) fn rules(&self) -> &ClientRules {
        &self.rules
    }

    /// How many files cannot be used, in place of which what was asked before is.
    pub(crate) fn broken(&self) -> usize {
        self.state().sighted.broken()
    }

    /// The files whose lists have ended, each at most once a day, and what that leads to.
    pub(crate) fn ended(&self, now: SystemTime) -> Vec<(PathBuf, SystemTime, &'static str)> {
        let refuses = self.rules.refuses_by_expired_lists;
        let effect = if refuses { "its clients are refused" } else { "it is used all the same" };
        let mut state = self.state();
        let due = state.lists.iter_mut().filter_map(|list| {
            let until = list.until?;
            list.warning.is_due(until, Duration::ZERO, now).then(|| (list.file.clone(), until, effect))
        });
        due.collect()
    }

    /// Brings the gauges of the route up to date; to be called after each look.
    pub(crate) fn publish(&self, metrics: &Metrics, route: &str) {
        for list in &mut self.state().lists {
            let gauge = list.gauge.get_or_insert_with(|| metrics.crl_expiry(route, &list.file.to_string_lossy()));
            let since = list.until.and_then(|until| until.duration_since(SystemTime::UNIX_EPOCH).ok());
            // A list without an end is neither in the past nor in the future.
            gauge.set(since.map_or(f64::NAN, |since| since.as_secs_f64()));
        }
    }

    fn files(&self) -> impl Iterator<Item = &Path> {
        self.rules.ca.iter().chain(&self.rules.crl).map(PathBuf::as_path)
    }

    /// Reads all files: what is asked, and when the lists of each file end.
    fn read(&self, now: SystemTime) -> Result<(Demand, Vec<Option<SystemTime>>), Vec<Found>> {
        let ClientRules { ca, crl, .. } = &self.rules;
        let mut problems = Vec::new();
        let authorities = gather((ca, 0), Authority::all, &mut problems).into_iter().flatten().collect::<Vec<_>>();
        let lists = gather((crl, ca.len()), List::all, &mut problems);
        if !problems.is_empty() {
            return Err(problems);
        }
        let verifier = self.verifier(&authorities, lists.iter().flatten()).map_err(|why| {
            let is_unfit = |lists: &Vec<List>| self.verifier(&authorities, lists.iter()).is_err();
            let index = lists.iter().position(is_unfit).unwrap_or_default();
            let file = crl.get(index).or(ca.first()).cloned().unwrap_or_default();
            let flaw = Flaw::Unusable(why.to_string());
            vec![Found { source: ca.len() + index, problem: Problem { file, flaw } }]
        })?;
        let policy = self.policy(&authorities, lists.iter().flatten(), now);
        let unlisted = match crl.is_empty() {
            true => Vec::new(),
            false => authorities::unlisted(&authorities, lists.iter().flatten()),
        };
        let ends = lists.iter().map(|lists| lists.iter().filter_map(|list| list.until).min()).collect();
        Ok((Demand { verifier, policy, unlisted }, ends))
    }

    fn verifier<'l>(
        &self,
        authorities: &[Authority],
        lists: impl Iterator<Item = &'l List>,
    ) -> Result<Arc<dyn ClientCertVerifier>, VerifierBuilderError> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(authorities.iter().map(|authority| authority.der.clone()));
        let lists: Vec<CertificateRevocationListDer<'static>> = lists.map(|list| list.der.clone()).collect();
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(provider()));
        let mut builder = builder.with_crls(lists);
        if !self.rules.required {
            builder = builder.allow_unauthenticated();
        }
        if !self.rules.whole_chain {
            builder = builder.only_check_end_entity_revocation();
        }
        if self.rules.refuses_by_expired_lists {
            builder = builder.enforce_revocation_expiration();
        }
        Ok(Arc::new(Noting(builder.build()?)))
    }

    /// Everything that decides who is let in. Lengths stand in front, so that no two rules come to the same bytes.
    fn policy<'l>(
        &self,
        authorities: &[Authority],
        lists: impl Iterator<Item = &'l List>,
        now: SystemTime,
    ) -> [u8; 32] {
        let ClientRules { required, whole_chain, refuses_by_expired_lists, .. } = self.rules;
        let mut context = Context::new(&SHA256);
        context.update(&[required, whole_chain, refuses_by_expired_lists].map(u8::from));
        context.update(&(authorities.len() as u64).to_be_bytes());
        let authorities = authorities.iter().map(|authority| (&authority.der[..], false));
        // Nobody is asked again when a session is resumed, so that what was let in by a list must not be once it has ended.
        let lists = lists.map(|list| (&list.der[..], refuses_by_expired_lists && list.has_ended(now)));
        for (der, has_ended) in authorities.chain(lists) {
            context.update(&(der.len() as u64).to_be_bytes());
            context.update(der);
            context.update(&[u8::from(has_ended)]);
        }
        let mut policy = [0; 32];
        policy.copy_from_slice(context.finish().as_ref());
        policy
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What `read` makes of each of `files`, the first of which is the source of this number.
fn gather<T>(
    (files, first): (&[PathBuf], usize),
    read: impl Fn(&Path) -> Result<Vec<T>, Flaw>,
    problems: &mut Vec<Found>,
) -> Vec<Vec<T>> {
    let mut gathered = Vec::with_capacity(files.len());
    for (index, file) in files.iter().enumerate() {
        match read(file) {
            Ok(found) => gathered.push(found),
            Err(flaw) => {
                problems.push(Found { source: first + index, problem: Problem { file: file.clone(), flaw } });
            }
        }
    }
    gathered
}

impl State {
    /// Takes in when the lists of each file end.
    fn keep(&mut self, files: &[PathBuf], ends: Vec<Option<SystemTime>>) {
        self.lists.resize_with(files.len(), || Watched {
            file: PathBuf::new(),
            until: None,
            warning: Warning::default(),
            gauge: None,
        });
        for (list, (file, until)) in self.lists.iter_mut().zip(files.iter().zip(ends)) {
            list.file.clone_from(file);
            list.until = until;
        }
    }
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clients").field("rules", &self.rules).finish_non_exhaustive()
    }
}
