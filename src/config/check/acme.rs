//! `[acme.NAME]`: accounts with authorities, and the routes whose certificates are obtained by them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use hyper::Uri;

use super::node::{Node, Table};
use super::routes::List;
use super::{Check, keys, named, outgoing, path_of};
use crate::acme::{eab_key, storage};
use crate::config::address;
use crate::config::model::{Acme, Bind, Challenge, Eab, KeyKind, NamePattern, Secret, Trust};
use crate::config::report::{At, quote};
use crate::config::value::{Refused, is_absolute};
use crate::wire::name::Name;

/// Directories that have a name of their own.
const DIRECTORIES: [(&str, &str); 2] = [
    ("letsencrypt", "https://acme-v02.api.letsencrypt.org/directory"),
    ("letsencrypt-staging", "https://acme-staging-v02.api.letsencrypt.org/directory"),
];
const DIRECTORY: &str = "\"letsencrypt\", \"letsencrypt-staging\" or the https URL of a directory";
const CONTACT: &str = "an e-mail address such as \"admin@example.com\"";
const STORAGE: &str = "the absolute path of a folder such as \"/var/lib/pointsman/acme\"";
const TERMS: &str = "true, which says that you agree to the terms of the authority";
const HTTP_BIND: &str = "an address such as \"0.0.0.0:80\" or \"[::]:80\"";
/// Where challenges are answered over HTTP: authorities ask at this port alone.
const DEFAULT_HTTP_BIND: [&str; 2] = ["0.0.0.0:80", "[::]:80"];
const KEY_ID: &str = "the name that the authority has given to the key";
const HMAC_FILE: &str = "the absolute path of a file that has the key in base64url";

/// An account as far as it could be read.
pub(super) struct Read {
    /// The resolved account.
    pub(super) model: Acme,
    at: At,
    path: String,
    /// Where its storage was written, with the path, if it is known which file the account is in.
    stored: Option<(At, String)>,
    /// Where challenges are answered over HTTP, each with its place and path.
    pub(super) bind: Vec<(Bind, At, String)>,
}

/// Reads all accounts.
pub(super) fn read(top: &Table<'_>, check: &mut Check<'_>) -> Vec<Read> {
    let entries = top.get("acme").map(|_| named(top, "acme", check)).unwrap_or_default();
    let accounts: Vec<Read> = entries.iter().map(|(name, node)| account(name, node, check)).collect();
    one_each(&accounts, check);
    accounts
}

/// Refuses two accounts that would be kept in one file.
fn one_each(accounts: &[Read], check: &mut Check<'_>) {
    let mut known: HashMap<PathBuf, (&Read, At)> = HashMap::new();
    for account in accounts {
        let Some((at, path)) = &account.stored else { continue };
        let file = storage::account(&account.model.storage, &account.model.directory);
        let Some((other, first)) = known.get(&file) else {
            known.insert(file, (account, *at));
            continue;
        };
        let shown = Path::new("accounts").join(file.file_name().unwrap_or_default());
        let message = format!("the file {} would be that of {} as well", shown.display(), other.path);
        check.report.add(*at, path, message).expected("another folder").also(*first);
    }
}

fn account(name: &str, node: &Node<'_>, check: &mut Check<'_>) -> Read {
    let table = node.table(keys::ACME, check.report);
    let directory = match table.get("directory") {
        Some(node) => directory(&node, check),
        None => Some(DIRECTORIES[0].1.to_owned()),
    };
    let trust = table.get("ca").map(|node| {
        let listed = node.list(outgoing::CA, "nobody would be trusted", check.report);
        outgoing::trust(listed, &mut Vec::new(), check)
    });
    let contact = table.get("contact").map(|node| contacts(&node, check)).unwrap_or_default();
    if let Some(node) = table.require("terms_agreed", TERMS, check.complete, check.report)
        && node.truth(check.report) == Some(false)
    {
        let message = "no authority gives certificates to those who do not agree to its terms";
        check.report.add(node.at, node.path(), message).expected(TERMS);
    }
    let storage = table.require("storage", STORAGE, check.complete, check.report);
    let storage = storage.and_then(|node| node.parse(STORAGE, check.report, folder).map(|path| (path, node)));
    if let Some((path, node)) = &storage
        && check.with_files
        && path.exists()
        && !path.is_dir()
    {
        check.report.add(node.at, node.path(), format!("{path:?} is not a folder"));
    }
    let kinds =
        [("ecdsa-p256", KeyKind::EcdsaP256), ("ecdsa-p384", KeyKind::EcdsaP384), ("rsa-2048", KeyKind::Rsa2048)];
    let key = table.get("key").and_then(|node| node.choice(&kinds, check.report));
    let (challenge, bind) = challenge(&table, check);
    let stored = storage.as_ref().filter(|_| directory.is_some()).map(|(_, node)| (node.at, node.path()));
    Read {
        model: Acme {
            name: name.to_owned(),
            directory: directory.unwrap_or_default(),
            trust: trust.unwrap_or(Trust::Roots { system: true, files: Vec::new() }),
            contact,
            storage: storage.map(|(path, _)| path).unwrap_or_default(),
            challenge,
            key: key.unwrap_or(KeyKind::EcdsaP256),
            eab: table.get("eab").and_then(|node| eab(&node, check)),
        },
        at: table.at,
        path: table.path().to_owned(),
        stored,
        bind,
    }
}

fn directory(node: &Node<'_>, check: &mut Check<'_>) -> Option<String> {
    let text = node.text(DIRECTORY, check.report)?;
    if let Some((_, url)) = DIRECTORIES.iter().find(|(name, _)| *name == text) {
        return Some((*url).to_owned());
    }
    let url = text.parse::<Uri>().ok().filter(|url| url.host().is_some_and(|host| !host.is_empty()));
    let why = match url.as_ref().and_then(Uri::scheme_str) {
        Some("https") => return Some(text.to_owned()),
        Some(_) => "is not an https URL",
        None => "is neither a known word nor an https URL",
    };
    let nearest = check.report.nearest(text, DIRECTORIES.map(|(name, _)| name)).map(quote);
    let message = format!("{} {why}", quote(text));
    check.report.add(node.at, node.path(), message).expected(DIRECTORY).nearest(nearest);
    None
}

fn contacts(node: &Node<'_>, check: &mut Check<'_>) -> Vec<String> {
    let empty = "an empty list says nothing; leave the key out to give no address";
    let read = |text: &str| {
        let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b',' | b'?' | b':'));
        match text.split_once('@') {
            Some((user, host)) if is_plain && !user.is_empty() && !host.is_empty() && !host.contains('@') => {
                Ok(text.to_owned())
            }
            _ => Err(Refused::misread(text, "is not an e-mail address")),
        }
    };
    let elements = node.list(CONTACT, empty, check.report);
    elements.into_iter().filter_map(|element| element.parse(CONTACT, check.report, read)).collect()
}

fn folder(text: &str) -> Result<PathBuf, Refused> {
    match is_absolute(text) {
        true => Ok(PathBuf::from(text).components().collect()),
        false => Err(Refused::misread(text, "is not an absolute path")),
    }
}

/// How names are shown to be ours, and what is listened on for it.
fn challenge(table: &Table<'_>, check: &mut Check<'_>) -> (Challenge, Vec<(Bind, At, String)>) {
    let kinds = [("tls-alpn-01", false), ("http-01", true)];
    let node = table.get("challenge");
    let over_http = node.as_ref().map_or(Some(false), |node| node.choice(&kinds, check.report));
    let node = table.get("http_bind");
    if over_http == Some(false)
        && let Some(node) = &node
    {
        let message = "only challenge = \"http-01\" is answered over HTTP";
        check.report.add(node.key_at, node.path(), message);
    }
    let Some(node) = node else {
        let bind = DEFAULT_HTTP_BIND.iter().filter_map(|text| text.parse().ok()).collect();
        let challenge = match over_http {
            Some(true) => Challenge::Http01 { bind, by_default: true },
            _ => Challenge::TlsAlpn01,
        };
        let path = table.path_of("http_bind");
        let listened = match &challenge {
            Challenge::Http01 { bind, .. } => {
                bind.iter().map(|bind| (Bind::Tcp(*bind), table.at, path.clone())).collect()
            }
            Challenge::TlsAlpn01 => Vec::new(),
        };
        return (challenge, listened);
    };
    let mut bind = Vec::new();
    let mut listened: Vec<(Bind, At, String)> = Vec::new();
    for element in node.list(HTTP_BIND, "without an address no challenge could be answered", check.report) {
        let Some(address) = element.parse(HTTP_BIND, check.report, address::socket) else { continue };
        if let Some((_, first, _)) = listened.iter().find(|(known, ..)| *known == Bind::Tcp(address)) {
            check.report.add(element.at, element.path(), format!("{address} is listed twice")).also(*first);
        }
        bind.push(address);
        listened.push((Bind::Tcp(address), element.at, element.path()));
    }
    match over_http {
        Some(true) => (Challenge::Http01 { bind, by_default: false }, listened),
        _ => (Challenge::TlsAlpn01, Vec::new()),
    }
}

fn eab(node: &Node<'_>, check: &mut Check<'_>) -> Option<Eab> {
    let table = node.table(keys::ACME_EAB, check.report);
    let key_id = table.require("key_id", KEY_ID, check.complete, check.report);
    let key_id = key_id.and_then(|node| {
        let read = |text: &str| match text.is_empty() {
            true => Err(Refused::misread(text, "is no name")),
            false => Ok(text.to_owned()),
        };
        node.parse(KEY_ID, check.report, read)
    });
    let node = table.require("hmac_file", HMAC_FILE, check.complete, check.report)?;
    let path = node.parse(HMAC_FILE, check.report, folder)?;
    let mut key = Secret(Box::default());
    if check.with_files {
        match eab_key::read(&path) {
            Ok(read) => key = read,
            Err(flaw) => drop(check.report.add(node.at, node.path(), format!("{path:?} {flaw}"))),
        }
    }
    Some(Eab { key_id: key_id?, key })
}

/// What is obtained for one route.
pub(super) struct Obtained<'a> {
    /// Index of the account.
    pub(super) account: usize,
    model: &'a Acme,
    names: Vec<Name>,
}

impl Obtained<'_> {
    /// Every name with the file that its certificate will be in.
    pub(super) fn files(&self) -> Vec<(Name, PathBuf)> {
        let file = |name: &Name| (name.clone(), storage::certificate(&self.model.storage, name));
        self.names.iter().map(file).collect()
    }
}

/// Whether TLS ends on the route with no other certificates than those that are obtained.
fn has_no_others(route: &Table<'_>, check: &mut Check<'_>) -> bool {
    let tls = route.get("tls").filter(Node::is_table);
    tls.is_some_and(|node| node.any_table(check.report).get("certificates").is_none())
}

/// Accounts that routes refer to.
pub(super) struct Accounts<'a> {
    accounts: &'a [Read],
    used: Vec<bool>,
    /// Whether every reference was understood; if not, one that was not may mean any of them.
    all_understood: bool,
    /// Who obtains the certificate of a name, and where that was written.
    names: HashMap<Name, (usize, At)>,
}

impl<'a> Accounts<'a> {
    pub(super) fn new(accounts: &'a [Read]) -> Accounts<'a> {
        Accounts { accounts, used: vec![false; accounts.len()], all_understood: true, names: HashMap::new() }
    }

    /// Reads the `acme` of a route with these names.
    pub(super) fn of_route(
        &mut self,
        node: Node<'_>,
        route: &Table<'_>,
        sni: &List<NamePattern>,
        check: &mut Check<'_>,
    ) -> Option<Obtained<'a>> {
        let found = self.find(&node, check);
        self.all_understood &= found.is_some();
        let account = found?;
        self.used[account] = true;
        let mut names = Vec::new();
        let mut wildcard = None;
        for (pattern, &at) in sni.values.iter().zip(&sni.places) {
            match pattern {
                NamePattern::Exact(name) => {
                    self.claim(name, account, at, route, check);
                    names.push(name.clone());
                }
                NamePattern::OneLabel(_) | NamePattern::AnyDepth(_) => wildcard = wildcard.or(Some((pattern, at))),
            }
        }
        if let Some((pattern, at)) = wildcard {
            let no = "certificates for wildcards cannot be obtained (that takes dns-01)";
            let shown = quote(&pattern.to_string());
            if names.is_empty() {
                check.report.add(at, route.path_of("sni"), format!("{no}, and the route has no exact name"));
            } else if has_no_others(route, check) {
                let message = format!("{no}: clients of {shown} get the default certificate");
                check.report.warn(at, route.path_of("sni"), message);
            }
        } else if names.is_empty() && route.get("sni").is_none() && check.complete {
            let message = "the route has no exact name to obtain a certificate for";
            check.report.add(node.key_at, node.path(), message).expected("a name in sni");
        }
        Some(Obtained { account, model: &self.accounts[account].model, names })
    }

    fn find(&self, node: &Node<'_>, check: &mut Check<'_>) -> Option<usize> {
        const EXPECTED: &str = "the name of a table acme.NAME";
        let name = node.text(EXPECTED, check.report)?;
        let found = self.accounts.iter().position(|account| account.model.name == name);
        if found.is_none() && check.complete {
            let mut known: Vec<&str> = self.accounts.iter().map(|account| account.model.name.as_str()).collect();
            known.sort_unstable();
            let nearest = check.report.nearest(name, known).map(quote);
            let message = format!("there is no {}", path_of("acme", name));
            check.report.add(node.at, node.path(), message).nearest(nearest);
        }
        found
    }

    /// Refuses a name that two accounts would obtain certificates for, and one that no file can be called after.
    fn claim(&mut self, name: &Name, account: usize, at: At, route: &Table<'_>, check: &mut Check<'_>) {
        if name.as_str().len() > storage::LONGEST_NAME {
            let message = format!("{} has more than {} bytes", quote(name.as_str()), storage::LONGEST_NAME);
            check.report.add(at, route.path_of("sni"), format!("{message}: no file can be called after it"));
        }
        match self.names.get(name) {
            Some((other, first)) if *other != account => {
                let other = &self.accounts[*other].path;
                let message = format!("the certificate of {} is obtained by {other} already", quote(name.as_str()));
                check.report.add(at, route.path_of("sni"), message).also(*first);
            }
            Some(_) => {}
            None => drop(self.names.insert(name.clone(), (account, at))),
        }
    }

    /// Reports accounts that no route uses.
    pub(super) fn unused(&self, check: &mut Check<'_>) {
        if !self.all_understood || !check.complete {
            return;
        }
        for (account, _) in self.accounts.iter().zip(&self.used).filter(|(_, used)| !**used) {
            check.report.add(account.at, &account.path, "no route has certificates obtained by this account");
        }
    }
}
