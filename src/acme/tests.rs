//! What is asked of an authority that suggests when to renew, which the one of the integration tests does not, and that
//! refuses as a test wants.

use std::collections::HashMap;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use instant_acme::{Account, BodyWrapper, BytesResponse, Error, HttpClient, Key};
use rcgen::{CertificateParams, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::bundle::{self, Held};
use super::challenges::Challenges;
use super::keep::{Keeper, Tracked};
use super::order::new_order;
use super::transport::Transport;
use super::trouble::Trouble;
use super::{Accounts, Desk, has_no_family, storage};
use crate::admin::http::{LIMITS, serve_requests};
use crate::admin::pages::Pages;
use crate::config::Config;
use crate::config::model::Challenge;
use crate::observe::metrics::Metrics;
use crate::wire::name::{Name, Written};

const URL: &str = "https://ca.test/dir";

/// A status, the header `Retry-After`, and a body.
type Answer = (u16, &'static str, String);

/// An authority that answers by the path, and knows whether an order replaces something.
#[derive(Clone, Default)]
struct Fake {
    answers: Arc<Mutex<HashMap<&'static str, Answer>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    fn answers(&self, path: &'static str, status: u16, retry_after: &'static str, body: impl Into<String>) {
        self.answers.lock().unwrap().insert(path, (status, retry_after, body.into()));
    }

    /// One whose directory has renewal information, or not.
    fn new(suggests: bool) -> Fake {
        Fake::at("https://ca.test", suggests)
    }

    fn at(base: &str, suggests: bool) -> Fake {
        let fake = Fake::default();
        let url = |path: &str| format!("{base}{path}");
        let mut directory = serde_json::json!({
            "newNonce": url("/nonce"), "newAccount": url("/account"), "newOrder": url("/order"), "meta": {},
        });
        if suggests {
            directory["renewalInfo"] = url("/ari").into();
        }
        fake.answers("/dir", 200, "", directory.to_string());
        fake.answers("/nonce", 200, "", "");
        fake
    }

    /// One that suggests when to renew and is reached over TCP, and its URL.
    async fn listening() -> (Fake, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let fake = Fake::at(&base, true);
        let answering = fake.clone();
        let respond = move |request: Request<Incoming>| {
            let fake = answering.clone();
            async move {
                let path = request.uri().path().to_owned();
                fake.answer(path, &request.into_body().collect().await.unwrap().to_bytes())
            }
        };
        TaskTracker::new().spawn(serve_requests(LIMITS, listener, respond, CancellationToken::new()));
        (fake, format!("{base}/dir"))
    }

    fn answer(&self, path: String, body: &[u8]) -> Response<Full<Bytes>> {
        let replaces = serde_json::from_slice::<serde_json::Value>(body).ok().is_some_and(|jws| {
            use base64::Engine;
            let payload = jws["payload"].as_str().unwrap_or_default();
            let payload = base64::prelude::BASE64_URL_SAFE_NO_PAD.decode(payload).unwrap();
            String::from_utf8(payload).unwrap().contains("replaces")
        });
        let path = if replaces { format!("{path} replacing") } else { path };
        self.asked.lock().unwrap().push(path.clone());
        let answers = self.answers.lock().unwrap();
        let found = answers.iter().find(|(known, _)| path == **known || path.starts_with(&format!("{known}/")));
        let (status, retry_after, body) = found.map(|(_, answer)| answer.clone()).unwrap_or((404, "", "{}".into()));
        // Each account that is made is another one.
        let made = format!("{URL}/account/{}", self.asked("/account"));
        let location = if path == "/account" { &made } else { URL };
        let response = Response::builder().status(status).header("Replay-Nonce", "n").header("Location", location);
        let response = if retry_after.is_empty() { response } else { response.header("Retry-After", retry_after) };
        response.body(Full::new(Bytes::from(body))).unwrap()
    }

    async fn account(&self) -> Account {
        let (_, key) = Key::generate_pkcs8().unwrap();
        let builder = Account::builder_with_http(Box::new(self.clone()));
        builder.from_parts("https://ca.test/account/1".into(), key, URL.into()).await.unwrap()
    }

    /// How often something was asked for whose path begins like this.
    fn asked(&self, path: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| asked.starts_with(path)).count()
    }
}

impl HttpClient for Fake {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let fake = self.clone();
        Box::pin(async move {
            let path = request.uri().path().to_owned();
            let body = request.into_body().collect().await.unwrap().to_bytes();
            Ok(BytesResponse::from(fake.answer(path, &body)))
        })
    }
}

fn name() -> Name {
    let Ok(Written::Name(name)) = Name::read(b"a.example") else { unreachable!() };
    name
}

/// A certificate that began ten days ago and ends in eighty.
fn held() -> Held {
    Held::read(Path::new("a.pem"), bundle(URL, 10).as_bytes(), &name(), SystemTime::now()).unwrap()
}

/// The certificate and key of one for ninety days that began so many days ago.
fn bundle(directory: &str, age: u64) -> String {
    let issuer = Issuer::new(CertificateParams::default(), KeyPair::generate().unwrap());
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["a.example".to_owned()]).unwrap();
    let now = rcgen::date_time_ymd(1970, 1, 1) + SystemTime::UNIX_EPOCH.elapsed().unwrap();
    (params.not_before, params.not_after) = (now - days(age), now + days(90 - age));
    params.use_authority_key_identifier_extension = true;
    bundle::write(directory, &params.signed_by(&key, &issuer).unwrap().pem(), &key.serialize_pem()).to_string()
}

const fn days(days: u64) -> Duration {
    Duration::from_secs(days * 86_400)
}

fn config() -> Config {
    let text = format!(
        "listener.a.bind = '127.0.0.1:0'\npool.a.endpoints = '127.0.0.1:1'\n\
         acme.ca = {{ directory = '{URL}', terms_agreed = true, storage = '/nowhere' }}\n\
         route.a = {{ listener = 'a', sni = 'a.example', pool = 'a', acme = 'ca' }}"
    );
    crate::config::parse_str(Path::new("main.toml"), &text).unwrap().config
}

async fn keeper(fake: &Fake) -> (Keeper, Tracked) {
    let config = config();
    let metrics = Arc::new(Metrics::new());
    let keeper = Keeper {
        desk: Desk {
            account: config.acme[0].clone(),
            challenges: Arc::new(Challenges::new(&config)),
            cleanup: TaskTracker::new(),
        },
        names: Vec::new(),
        counts: metrics.acme("ca"),
        pages: Arc::new(Pages::new(Arc::clone(&metrics), 1)),
        dice: fastrand::Rng::with_seed(1),
        way: None,
        account: Some(fake.account().await),
        closed: (0, None),
        metrics: Arc::clone(&metrics),
    };
    let tracked = Tracked::new(name(), SystemTime::now(), metrics.acme_next("ca", "a.example"));
    (keeper, tracked)
}

/// A window between so many days from now, as the authority writes it.
fn window(from: u64, until: u64) -> String {
    let at = |after| humantime::format_rfc3339_seconds(SystemTime::now() + days(after)).to_string();
    serde_json::json!({ "suggestedWindow": { "start": at(from), "end": at(until) } }).to_string()
}

#[tokio::test]
async fn an_authority_says_when_to_renew() {
    let fake = Fake::new(true);
    let (mut keeper, mut tracked) = keeper(&fake).await;
    let held = held();
    let after = |at: SystemTime| at.duration_since(SystemTime::now()).unwrap_or_default();
    fake.answers("/ari", 200, "7200", window(30, 31));
    let (moment, ask_at) = keeper.plan(&mut tracked, &held).await;
    assert!(after(moment) > days(29) && after(moment) < days(31), "{:?}", after(moment));
    assert!(after(ask_at) > Duration::from_secs(7100) && after(ask_at) <= Duration::from_secs(7200));
    assert_eq!(keeper.plan(&mut tracked, &held).await, (moment, ask_at), "the moment stays, and nothing is asked");
    assert_eq!(fake.asked("/ari"), 1);
    // After a mishap it wants all of them to be renewed.
    fake.answers("/ari", 200, "60", window(0, 1));
    tracked.ask_now();
    let (moment, _) = keeper.plan(&mut tracked, &held).await;
    assert!(after(moment) <= days(1), "{:?}", after(moment));
    // What it does not say any more goes on to hold.
    fake.answers("/ari", 500, "", "nonsense");
    tracked.ask_now();
    let (again, ask_at) = keeper.plan(&mut tracked, &held).await;
    assert_eq!(again, moment);
    assert!(after(ask_at) > Duration::from_secs(5 * 3600), "{:?}", after(ask_at));
}

#[tokio::test]
async fn an_authority_says_nothing_of_renewing() {
    let fake = Fake::new(false);
    let (mut keeper, mut tracked) = keeper(&fake).await;
    let (moment, _) = keeper.plan(&mut tracked, &held()).await;
    let after = moment.duration_since(SystemTime::now()).unwrap();
    assert!(after > days(46) && after < days(51), "two thirds of ninety days, or three days earlier: {after:?}");
    assert_eq!(fake.asked("/ari"), 0);
}

#[tokio::test]
async fn an_order_says_what_it_replaces_as_long_as_that_is_taken() {
    let order = |replaces: &str| {
        let order = serde_json::json!({
            "status": "pending", "authorizations": [], "finalize": "https://ca.test/finalize", "replaces": replaces,
        });
        order.to_string()
    };
    let held = held();
    let id = held.id().unwrap();
    let fake = Fake::new(true);
    let account = fake.account().await;
    fake.answers("/order replacing", 201, "", order(&id.to_string()));
    let taken = async |id| new_order(&account, &name(), Some(id)).await.map(|order| order.url().to_owned());
    assert_eq!(taken(held.id().unwrap()).await.unwrap(), URL);
    let refusal = r#"{"type":"urn:ietf:params:acme:error:alreadyReplaced","status":409}"#;
    fake.answers("/order replacing", 409, "", refusal);
    fake.answers("/order", 201, "", order("").replace("\"replaces\":\"\",", "").replace(",\"replaces\":\"\"", ""));
    assert_eq!(taken(id).await.unwrap(), URL);
    assert_eq!((fake.asked("/order replacing"), fake.asked("/order")), (2, 3), "the last one replaces nothing");
    fake.answers("/order replacing", 429, "", r#"{"type":"urn:ietf:params:acme:error:rateLimited"}"#);
    assert!(taken(held.id().unwrap()).await.is_err(), "that is told");
}

/// A keeper with a storage of its own whose authority is reached over TCP.
async fn scene() -> (Fake, Keeper, Tracked, TempDir) {
    let (fake, directory) = Fake::listening().await;
    let (mut keeper, tracked) = keeper(&fake).await;
    let storage = tempfile::tempdir().unwrap();
    (keeper.way, keeper.account) = (Some(Transport::in_clear()), None);
    (keeper.desk.account.directory, keeper.desk.account.storage) = (directory, storage.path().to_owned());
    fake.answers("/account", 201, "", r#"{"status":"valid"}"#);
    (fake, keeper, tracked, storage)
}

fn seconds_until(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::now()).unwrap_or_default().as_secs()
}

#[tokio::test]
async fn how_long_to_wait_says_nothing_of_what_is_done_next() {
    let (fake, mut keeper, mut tracked, storage) = scene().await;
    let old = bundle(&keeper.desk.account.directory, 80);
    storage::write(&storage::certificate(storage.path(), &name()), old.as_bytes()).unwrap();
    fake.answers("/ari", 503, "7200", "{}");
    fake.answers("/order", 201, "", "nonsense, without an error that could ask for anything");
    keeper.turn(&mut tracked).await;
    assert_eq!((fake.asked("/ari"), fake.asked("/order")), (1, 1));
    assert!((40..80).contains(&seconds_until(tracked.due)), "{}", seconds_until(tracked.due));
    let held = Held::read(Path::new("a.pem"), old.as_bytes(), &name(), SystemTime::now()).unwrap();
    let (_, ask_at) = keeper.plan(&mut tracked, &held).await;
    assert!((7100..=7200).contains(&seconds_until(ask_at)), "it is asked again when it wants to be");
    // What is of the order holds for the order.
    fake.answers("/order", 503, "7200", r#"{"type":"urn:ietf:params:acme:error:serverInternal"}"#);
    keeper.turn(&mut tracked).await;
    assert!((7100..8000).contains(&seconds_until(tracked.due)), "{}", seconds_until(tracked.due));
}

#[tokio::test]
async fn a_certificate_that_vanishes_is_not_ordered_again_at_once() {
    let (fake, mut keeper, mut tracked, storage) = scene().await;
    let file = storage::certificate(storage.path(), &name());
    for (case, content) in [("gone", None), ("unusable", Some("nonsense"))] {
        if let Some(content) = content {
            storage::write(&file, content.as_bytes()).unwrap();
        }
        tracked.obtained = Some(SystemTime::now());
        keeper.turn(&mut tracked).await;
        assert!((3590..=3600).contains(&seconds_until(tracked.due)), "{case}: {}", seconds_until(tracked.due));
        assert_eq!(fake.asked("/order"), 0, "{case}");
    }
    tracked.obtained = Some(SystemTime::now() - Duration::from_secs(3601));
    keeper.turn(&mut tracked).await;
    assert_eq!(fake.asked("/order"), 1, "an hour later it is");
}

#[tokio::test]
async fn an_account_is_only_set_aside_if_it_is_the_one_that_was_refused() {
    let (fake, keeper, _, storage) = scene().await;
    let (desk, way) = (&keeper.desk, Transport::in_clear());
    let open = async |refused: Option<&str>| desk.open_account(&way, refused).await.map(|it| it.id().to_owned());
    // A lock goes a moment after what was done under it.
    let unlocked = async || {
        while std::fs::read_dir(storage.path().join("locks")).unwrap().count() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let first = open(None).await.unwrap();
    unlocked().await;
    assert_eq!(open(Some("https://ca.test/another")).await.unwrap(), first, "the other node has replaced that one");
    unlocked().await;
    let lock = storage::account_lock(storage.path(), &desk.account.directory);
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    std::fs::write(&lock, format!("{now} elsewhere 1 0")).unwrap();
    assert!(matches!(open(Some(&first)).await, Err(Trouble::AccountLocked)));
    assert_eq!(open(None).await.unwrap(), first, "it is still there");
    std::fs::remove_file(&lock).unwrap();
    let second = open(Some(&first)).await.unwrap();
    assert_eq!((open(None).await.unwrap(), fake.asked("/account")), (second.clone(), 2));
    assert_ne!(second, first);
    // The file of another directory may be called the same.
    let file = storage::account(storage.path(), &desk.account.directory);
    let other = std::fs::read_to_string(&file).unwrap().replace("/dir\"", "-dir\"");
    std::fs::write(&file, other).unwrap();
    let said = open(None).await.unwrap_err().to_string();
    assert!(said.contains("is one with http://") && said.contains("-dir"), "{said}");
}

#[test]
fn addresses_that_the_system_cannot_have() {
    let mut config = config();
    config.acme.push(config.acme[0].clone());
    // Nobody has this one (RFC 5737).
    let bind = ["192.0.2.1:80", "127.0.0.1:0"].map(|address| address.parse().unwrap()).to_vec();
    for (by_default, listened) in [([true, true], Some(1)), ([true, false], None), ([false, false], None)] {
        for (account, by_default) in config.acme.iter_mut().zip(by_default) {
            account.challenge = Challenge::Http01 { bind: bind.clone(), by_default };
        }
        let accounts = Accounts::listening(&config);
        let left = accounts.map(|accounts| accounts.listeners.len()).map_err(|(address, _)| address);
        assert_eq!(left, listened.ok_or(bind[0]), "{by_default:?}");
    }
    let errors = [libc::EAFNOSUPPORT, libc::EADDRNOTAVAIL, libc::EADDRINUSE, libc::EACCES];
    let left_out = errors.map(|error| has_no_family(&std::io::Error::from_raw_os_error(error)));
    assert_eq!(left_out, [true, true, false, false]);
}
