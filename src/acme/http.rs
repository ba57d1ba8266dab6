//! The pages that authorities ask for over HTTP (RFC 8555, section 8.3). Whatever else is asked for is not there.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::challenges::Challenges;
use crate::admin::http::{LIMITS, Limits, serve_requests};

/// Connections at once, on each address, which the whole world can reach.
pub(super) const CONNECTIONS: usize = 128;
/// For a connection: authorities ask once and leave.
const LIFETIME: Duration = Duration::from_secs(10);
const PATH: &str = "/.well-known/acme-challenge/";

/// Serves the pages on `listener` until `stop`.
pub(super) async fn serve(listener: TcpListener, challenges: Arc<Challenges>, stop: CancellationToken) {
    let limits = Limits { connections: CONNECTIONS, lifetime: LIFETIME, ..LIMITS };
    let respond = move |request: Request<Incoming>| {
        let challenges = Arc::clone(&challenges);
        async move { respond(&challenges, &request).await }
    };
    serve_requests(limits, listener, respond, stop).await;
}

async fn respond<B>(challenges: &Challenges, request: &Request<B>) -> Response<Full<Bytes>> {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let host = host.or_else(|| request.uri().host());
    let token = request.uri().path().strip_prefix(PATH);
    let found = match (request.method(), host, token) {
        (&Method::GET | &Method::HEAD, Some(host), Some(token)) => challenges.page(host, token).await,
        _ => None,
    };
    let (status, kind, text) = match found {
        Some(page) => (StatusCode::OK, "application/octet-stream", Bytes::from(String::from(page))),
        None => (StatusCode::NOT_FOUND, "text/plain; charset=utf-8", Bytes::from_static(b"there is nothing here\n")),
    };
    let mut response = Response::new(Full::new(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
