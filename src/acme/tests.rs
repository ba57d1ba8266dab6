//! What is asked of an authority that suggests when to renew, which the one of the integration tests does not.

use std::collections::HashMap;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Request, Response};
use instant_acme::{Account, BodyWrapper, BytesResponse, Error, HttpClient, Key};
use rcgen::{CertificateParams, Issuer, KeyPair};
use tokio_util::task::TaskTracker;

use super::Desk;
use super::bundle::{self, Held};
use super::challenges::Challenges;
use super::keep::{Keeper, Tracked};
use super::order::new_order;
use crate::admin::pages::Pages;
use crate::config::Config;
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
        let fake = Fake::default();
        let url = |path: &str| format!("https://ca.test{path}");
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
            let replaces = serde_json::from_slice::<serde_json::Value>(&body).ok().is_some_and(|jws| {
                use base64::Engine;
                let payload = jws["payload"].as_str().unwrap_or_default();
                let payload = base64::prelude::BASE64_URL_SAFE_NO_PAD.decode(payload).unwrap();
                String::from_utf8(payload).unwrap().contains("replaces")
            });
            let path = if replaces { format!("{path} replacing") } else { path };
            fake.asked.lock().unwrap().push(path.clone());
            let answers = fake.answers.lock().unwrap();
            let found = answers.iter().find(|(known, _)| path == **known || path.starts_with(&format!("{known}/")));
            let (status, retry_after, body) = found.map(|(_, answer)| answer.clone()).unwrap_or((404, "", "{}".into()));
            let response = Response::builder().status(status).header("Replay-Nonce", "n").header("Location", URL);
            let response = if retry_after.is_empty() { response } else { response.header("Retry-After", retry_after) };
            Ok(BytesResponse::from(response.body(Full::new(Bytes::from(body))).unwrap()))
        })
    }
}

fn name() -> Name {
    let Ok(Written::Name(name)) = Name::read(b"a.example") else { unreachable!() };
    name
}

/// A certificate that began ten days ago and ends in eighty.
fn held() -> Held {
    let issuer = Issuer::new(CertificateParams::default(), KeyPair::generate().unwrap());
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["a.example".to_owned()]).unwrap();
    let now = rcgen::date_time_ymd(1970, 1, 1) + SystemTime::UNIX_EPOCH.elapsed().unwrap();
    (params.not_before, params.not_after) = (now - days(10), now + days(80));
    params.use_authority_key_identifier_extension = true;
    let bundle = bundle::write(URL, &params.signed_by(&key, &issuer).unwrap().pem(), &key.serialize_pem());
    Held::read(Path::new("a.pem"), bundle.as_bytes(), &name(), SystemTime::now()).unwrap()
}

const fn days(days: u64) -> Duration {
    Duration::from_secs(days * 86_400)
}

async fn keeper(fake: &Fake) -> (Keeper, Tracked) {
    let text = format!(
        "listener.a.bind = '127.0.0.1:0'\npool.a.endpoints = '127.0.0.1:1'\n\
         acme.ca = {{ directory = '{URL}', terms_agreed = true, storage = '/nowhere' }}\n\
         route.a = {{ listener = 'a', sni = 'a.example', pool = 'a', acme = 'ca' }}"
    );
    let config: Config = crate::config::parse_str(Path::new("main.toml"), &text).unwrap().config;
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
