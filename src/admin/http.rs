//! The read-only pages over HTTP/1.1: `/metrics`, `/ready`, `/healthz`, and `/`, which lists them.
//!
//! It runs on the control runtime beside probes and configuration, so a client may never hurt: at most 64 connections
//! at once (more wait in the kernel's queue), a head is read within 5 s (also the longest pause between two requests),
//! a connection ends after 30 s even if its client reads slowly or always asks again, heads are at most 16 KiB, bodies
//! are never waited for, and one page of metrics is rendered at a time, on a thread of its own. Nothing here changes
//! anything, and nothing a client does is worth more than a debug message.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::pages::{Pages, State};

/// What clients of the pages may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Connections at once.
    pub(crate) connections: usize,
    /// For the head of a request, from accept or from the end of the response before it.
    pub(crate) head: Duration,
    /// For a connection; then its request is finished within [`LAST_RESPONSE`].
    pub(crate) lifetime: Duration,
}

/// Those of the pages here.
pub(crate) const LIMITS: Limits =
    Limits { connections: 64, head: Duration::from_secs(5), lifetime: Duration::from_secs(30) };

/// For the response that is under way when a connection's time is over or the process stops.
const LAST_RESPONSE: Duration = Duration::from_secs(1);

/// Pause after a failed accept (no descriptors left), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Largest head of a request, in bytes.
const MOST_HEAD: usize = 16 * 1024;

/// Serves `pages` on `listener` until `stop`, then ends its connections (within a second) and returns.
pub async fn serve(listener: TcpListener, pages: Arc<Pages>, stop: CancellationToken) {
    serve_within(LIMITS, listener, pages, stop).await;
}

async fn serve_within(limits: Limits, listener: TcpListener, pages: Arc<Pages>, stop: CancellationToken) {
    let site = Arc::new(Site { pages, rendering: Mutex::new(()) });
    let respond = move |request: Request<Incoming>| {
        let site = Arc::clone(&site);
        async move { site.respond(&request).await }
    };
    serve_requests(limits, listener, respond, stop).await;
}

/// Has `respond` answer requests on `listener` until `stop`, then ends its connections (within a second) and returns.
pub(crate) async fn serve_requests<F, R>(limits: Limits, listener: TcpListener, respond: F, stop: CancellationToken)
where
    F: Fn(Request<Incoming>) -> R + Clone + Send + 'static,
    R: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(limits.connections));
    let connections = TaskTracker::new();
    while let Some(place) = stop.run_until_cancelled(places.clone().acquire_owned()).await {
        let Some(accepted) = stop.run_until_cancelled(accept(&listener)).await else { break };
        let (respond, stop) = (respond.clone(), stop.clone());
        connections.spawn(async move {
            serve_connection(limits, accepted, respond, stop).await;
            drop(place);
        });
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// The next connection, however long accepting fails.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) if is_the_clients(&error) => {}
            Err(error) => {
                tracing::debug!(%error, "a server of pages cannot accept");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Errors of a connection that ended before it was accepted.
fn is_the_clients(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

async fn serve_connection<F, R>(limits: Limits, stream: TcpStream, respond: F, stop: CancellationToken)
where
    F: Fn(Request<Incoming>) -> R,
    R: Future<Output = Response<Full<Bytes>>>,
{
    let service = service_fn(move |request| {
        let response = respond(request);
        async move { Ok::<_, Infallible>(response.await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(MOST_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    // What goes wrong on a connection is its client's affair: it only ends.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = sleep(limits.lifetime) => {}
        () = stop.cancelled() => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(LAST_RESPONSE, connection).await;
}

struct Site {
    pages: Arc<Pages>,
    /// Held while the metrics are rendered.
    rendering: Mutex<()>,
}

impl Site {
    async fn respond(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let page = match request.uri().path() {
            "/" => Page::Index,
            "/metrics" => Page::Metrics,
            "/ready" => Page::Ready,
            "/healthz" => Page::Health,
            _ => return plain(StatusCode::NOT_FOUND, "no such page; / lists them\n"),
        };
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut refusal = plain(StatusCode::METHOD_NOT_ALLOWED, "this is read-only\n");
            refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refusal;
        }
        match page {
            Page::Index => plain(StatusCode::OK, INDEX),
            Page::Metrics => self.metrics().await,
            Page::Ready => ready(&self.pages),
            Page::Health => health(&self.pages),
        }
    }

    async fn metrics(&self) -> Response<Full<Bytes>> {
        let _alone = self.rendering.lock().await;
        let pages = self.pages.clone();
        match tokio::task::spawn_blocking(move || pages.metrics().render()).await {
            Ok(text) => page(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text),
            Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be rendered\n"),
        }
    }
}

enum Page {
    Index,
    Metrics,
    Ready,
    Health,
}

const INDEX: &str = "pointsman: /metrics for Prometheus; /ready, 200 while new connections are served; /healthz, 200 \
                     while every worker runs. All of it is read-only.\n";

fn ready(pages: &Pages) -> Response<Full<Bytes>> {
    match pages.state() {
        State::Starting => plain(StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
        State::Serving => plain(StatusCode::OK, "ready\n"),
        State::Draining => plain(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
    }
}

fn health(pages: &Pages) -> Response<Full<Bytes>> {
    let stuck = pages.stuck();
    if stuck.is_empty() {
        return plain(StatusCode::OK, "ok\n");
    }
    let lines = stuck.iter().map(|(worker, silent)| format!("worker {worker} is stuck for {} s\n", silent.as_secs()));
    plain(StatusCode::SERVICE_UNAVAILABLE, lines.collect::<String>())
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    page(status, "text/plain; charset=utf-8", text)
}

fn page(status: StatusCode, kind: &'static str, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpStream};
    use std::thread::JoinHandle;
    use std::time::Instant;

    use super::*;
    use crate::observe::metrics::Metrics;

    struct Server {
        address: SocketAddr,
        pages: Arc<Pages>,
        stop: CancellationToken,
        thread: Option<JoinHandle<()>>,
    }

    /// Starts the pages on a runtime and a thread of their own, as the control runtime is.
    fn start(limits: Limits, workers: usize) -> Server {
        start_with(limits, Pages::new(Arc::new(Metrics::new()), workers))
    }

    fn start_with(limits: Limits, pages: Pages) -> Server {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let pages = Arc::new(pages);
        let stop = CancellationToken::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (shown, stopped) = (pages.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).unwrap();
                serve_within(limits, listener, shown, stopped).await;
            });
        });
        Server { address, pages, stop, thread: Some(thread) }
    }

    impl Drop for Server {
        fn drop(&mut self) {
            self.stop.cancel();
        }
    }

    impl Server {
        fn connect(&self) -> TcpStream {
            let stream = TcpStream::connect(self.address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            stream
        }

        /// Sends `request` on a connection of its own, and reads until it is closed.
        fn send(&self, request: &str) -> String {
            let mut stream = self.connect();
            // Errors other than silence are fine: some requests here are not read to their end.
            let _ = stream.write_all(request.as_bytes());
            let mut answer = Vec::new();
            if let Err(error) = stream.read_to_end(&mut answer) {
                assert_ne!(error.kind(), io::ErrorKind::WouldBlock, "{request:?} got no end after {answer:?}");
            }
            String::from_utf8(answer).unwrap()
        }

        fn ask(&self, method: &str, path: &str) -> (u16, String, String) {
            let answer = self.send(&format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"));
            let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{method} {path}: {answer:?}"));
            (head[9..12].parse().unwrap(), head.to_ascii_lowercase(), body.to_owned())
        }
    }

    #[test]
    fn pages_methods_and_the_rest() {
        let server = start(LIMITS, 1);
        server.pages.metrics().route("pg").sessions.increment(5);
        let cases = [
            ("GET", "/metrics", 200, "pointsman_route_sessions_total{route=\"pg\"} 5\n"),
            ("GET", "/metrics?x=y", 200, "# HELP pointsman_build_info"),
            ("GET", "/healthz", 200, "ok\n"),
            ("GET", "/", 200, "/metrics"),
            ("GET", "/metrics/", 404, "no such page"),
            ("GET", "/../etc/passwd", 404, "no such page"),
            ("POST", "/nothing", 404, "no such page"),
            ("POST", "/metrics", 405, "read-only"),
            ("DELETE", "/", 405, "read-only"),
            ("OPTIONS", "/ready", 405, "read-only"),
        ];
        for (method, path, status, part) in cases {
            let (got, head, body) = server.ask(method, path);
            assert_eq!(got, status, "{method} {path}: {head}");
            assert!(body.contains(part), "{method} {path}: {body}");
            assert!(head.contains("\r\ncontent-type: text/plain"), "{method} {path}: {head}");
            assert_eq!(head.contains("\r\nallow: get, head"), status == 405, "{method} {path}: {head}");
        }
        let (_, head, _) = server.ask("GET", "/metrics");
        assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    }

    #[test]
    fn head_is_get_without_the_body() {
        let server = start(LIMITS, 1);
        for path in ["/metrics", "/healthz", "/ready", "/"] {
            let (status, head, body) = server.ask("HEAD", path);
            let (same, get, text) = server.ask("GET", path);
            assert_eq!((status, body.as_str()), (same, ""), "{path}: {head}");
            let length = format!("content-length: {}", text.len());
            assert!(head.contains(&length) && get.contains(&length), "{path}: {head} / {get}");
        }
    }

    #[test]
    fn ready_follows_the_state() {
        let server = start(LIMITS, 0);
        assert_eq!(server.ask("GET", "/ready").2, "starting\n");
        for (state, status, word) in [
            (State::Serving, 200, "ready\n"),
            (State::Draining, 503, "draining\n"),
            (State::Starting, 503, "starting\n"),
        ] {
            server.pages.set_state(state);
            let (got, _, body) = server.ask("GET", "/ready");
            assert_eq!((got, body.as_str()), (status, word));
        }
    }

    #[test]
    fn health_names_the_workers_that_are_stuck() {
        let made = Instant::now() - Duration::from_secs(7);
        let server = start_with(LIMITS, Pages::made_at(made, Arc::new(Metrics::new()), 3));
        server.pages.tick(1);
        let (status, _, body) = server.ask("GET", "/healthz");
        assert_eq!((status, body.as_str()), (503, "worker 0 is stuck for 7 s\nworker 2 is stuck for 7 s\n"));
        server.pages.tick(0);
        server.pages.retire(2);
        assert_eq!(server.ask("GET", "/healthz").0, 200);
    }

    #[test]
    fn a_connection_serves_several_requests() {
        let server = start(LIMITS, 0);
        let twice = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\nGET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        let answer = server.send(twice);
        assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 2, "{answer}");
    }

    #[test]
    fn bad_clients_are_cut_off() {
        let limits = Limits { head: Duration::from_millis(200), lifetime: Duration::from_millis(600), ..LIMITS };
        let server = start(limits, 0);
        let big = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(4 * MOST_HEAD));
        let body = "GET / HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999\r\n\r\nabc";
        for (name, request, part) in [
            ("silent", "", ""),
            ("half a head", "GET / HTTP/1.1\r\nhost", ""),
            ("not HTTP", "\x16\x03\x01\x02\x00\x01\x00", "400 Bad Request"),
            ("a large head", big.as_str(), "431 "),
            ("idle after a request", "GET / HTTP/1.1\r\nhost: x\r\n\r\n", "200 OK"),
            ("a body that never comes", body, "200 OK"),
        ] {
            let start = Instant::now();
            let answer = server.send(request);
            assert!(answer.contains(part), "{name}: {answer:?}");
            assert!(start.elapsed() < Duration::from_secs(3), "{name} took {:?}", start.elapsed());
        }
        assert_eq!(server.ask("GET", "/").0, 200);
    }

    #[test]
    fn a_client_that_always_asks_again_ends_too() {
        let server = start(Limits { lifetime: Duration::from_millis(300), ..LIMITS }, 0);
        let (mut stream, start) = (server.connect(), Instant::now());
        let mut asking = || {
            stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")?;
            stream.read(&mut [0; 4096])
        };
        while let Ok(1..) = asking() {
            assert!(start.elapsed() < Duration::from_secs(10), "still served");
        }
        assert!(start.elapsed() >= Duration::from_millis(250), "cut off after {:?}", start.elapsed());
    }

    #[test]
    fn more_clients_than_places_wait_their_turn() {
        let limits = Limits { connections: 2, head: Duration::from_millis(300), ..LIMITS };
        let server = start(limits, 0);
        let mut silent = Vec::new();
        for _ in 0..2 {
            silent.push(server.connect());
        }
        let start = Instant::now();
        assert_eq!(server.ask("GET", "/").0, 200);
        assert!(start.elapsed() >= Duration::from_millis(200), "served beside two: {:?}", start.elapsed());
    }

    #[test]
    fn stop_ends_idle_connections() {
        let mut server = start(LIMITS, 0);
        let mut idle = server.connect();
        idle.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        assert_ne!(idle.read(&mut [0; 4096]).unwrap(), 0);
        let start = Instant::now();
        server.stop.cancel();
        server.thread.take().unwrap().join().unwrap();
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
        assert!(TcpStream::connect(server.address).is_err());
    }
}
