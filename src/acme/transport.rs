//! HTTPS to a directory: verified by the roots of the account, bounded in time and size, one connection that is used
//! again.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Request, Response};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::ClientConfig;
use tokio::time::timeout;

use crate::config::model::{OutgoingTls, Trust};
use crate::tls::outgoing::client_config;

/// For a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// For a request and the whole of its answer.
const REQUEST: Duration = Duration::from_secs(30);
/// For how long a connection is kept that nothing is sent over.
const IDLE: Duration = Duration::from_secs(30);
/// The longest answer, in bytes.
const LONGEST: usize = 1 << 20;
const AGENT: &str = concat!("pointsman/", env!("CARGO_PKG_VERSION"));

type Https = Client<HttpsConnector<HttpConnector>, BodyWrapper<Bytes>>;

/// A way to one directory.
#[derive(Clone)]
pub(super) struct Transport {
    client: Https,
    /// When the last answer that was an error asks to come back.
    retry_at: Arc<Mutex<Option<SystemTime>>>,
}

/// Settings of TLS that trust what `trust` says. Reads the system's roots where it says so: blocks.
///
/// # Errors
/// The provider does not serve the versions.
pub(super) fn tls(trust: &Trust) -> Result<ClientConfig, rustls::Error> {
    let tls = OutgoingTls { name: None, alpn: Vec::new(), trust: trust.clone(), identity: None, pins: Vec::new() };
    client_config(&tls).map(Arc::unwrap_or_clone)
}

impl Transport {
    /// A way that nothing was sent over yet.
    pub(super) fn new(tls: ClientConfig) -> Transport {
        let https = HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_http1();
        Transport::over(https.wrap_connector(tcp()))
    }

    /// The same, to an authority that speaks in clear.
    #[cfg(test)]
    pub(super) fn in_clear() -> Transport {
        let tls = tls(&Trust::Roots { system: false, files: Vec::new() }).unwrap();
        let either = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1();
        Transport::over(either.wrap_connector(tcp()))
    }

    fn over(https: HttpsConnector<HttpConnector>) -> Transport {
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(1)
            .build(https);
        Transport { client, retry_at: Arc::default() }
    }

    /// When the last answer that was an error asked to come back, if it did; then it is forgotten. It says nothing of
    /// what is done after it: whoever begins something else has it forgotten first.
    pub(super) fn take_retry_at(&self) -> Option<SystemTime> {
        self.retry_at.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl HttpClient for Transport {
    fn request(
        &self,
        mut request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(AGENT));
        let (client, retry_at) = (self.client.clone(), Arc::clone(&self.retry_at));
        let exchange = async move {
            let (head, body) = client.request(request).await.map_err(other)?.into_parts();
            if !head.status.is_success() {
                let asked = head.headers.get(RETRY_AFTER).and_then(|value| read_time(value, SystemTime::now()));
                *retry_at.lock().unwrap_or_else(PoisonError::into_inner) = asked;
            }
            let body = Limited::new(body, LONGEST).collect().await.map_err(Error::Other)?;
            Ok(BytesResponse::from(Response::from_parts(head, Full::new(body.to_bytes()))))
        };
        Box::pin(async move {
            let late = || Error::Other(Box::new(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")));
            timeout(REQUEST, exchange).await.unwrap_or_else(|_| Err(late()))
        })
    }
}

fn tcp() -> HttpConnector {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_connect_timeout(Some(CONNECT));
    http
}

fn other(error: hyper_util::client::legacy::Error) -> Error {
    Error::Other(Box::new(error))
}

/// Seconds from now on, or a date (RFC 9110, section 10.2.3).
fn read_time(value: &HeaderValue, now: SystemTime) -> Option<SystemTime> {
    let text = value.to_str().ok()?.trim();
    match text.parse() {
        Ok(seconds) => now.checked_add(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(text).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_they_are_sent() {
        let now = SystemTime::UNIX_EPOCH;
        for (text, seconds) in [
            ("120", Some(120)),
            ("Thu, 01 Jan 1970 00:02:00 GMT", Some(120)),
            ("soon", None),
            ("-1", None),
            ("", None),
            ("18446744073709551615", None),
        ] {
            let at = read_time(&HeaderValue::from_str(text).unwrap(), now);
            assert_eq!(at, seconds.map(|seconds| now + Duration::from_secs(seconds)), "{text:?}");
        }
    }
}
