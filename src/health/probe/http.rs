//! The HTTP probe: one request over HTTP/1.1, and what a pool makes of the answer.

use std::error::Error;
use std::future::poll_fn;
use std::io;
use std::pin::pin;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONNECTION, HOST, HeaderValue, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;

use super::Deadline;
use super::channel::Channel;
use super::tls;
use crate::config::model::{HttpExpect, HttpProbe};
use crate::health::verdict::{Observation, Text};

/// The most of a body that is looked at, in bytes.
const MOST_BODY: usize = 64 * 1024;
/// The longest head of an answer, in bytes.
const MOST_HEAD: usize = 64 * 1024;

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(super) status: StatusCode,
    /// As much of it as was looked at.
    pub(super) body: Vec<u8>,
    /// Why the body was not looked at to its end.
    pub(super) broken: Option<Text>,
}

impl Answer {
    /// What a pool makes of it.
    pub(super) fn judge(&self, expect: &HttpExpect) -> Observation {
        let status = self.status;
        if !expect.status.iter().any(|range| range.contains(&status.as_u16())) {
            let ranges = expect.status.iter().map(|range| match (range.start(), range.end()) {
                (first, last) if first == last => first.to_string(),
                (first, last) => format!("{first}-{last}"),
            });
            let expected = ranges.collect::<Vec<_>>().join(", ");
            return Observation::Refused(format!("HTTP {status}, expected {expected}").into());
        }
        let Some(wanted) = expect.body.as_deref() else { return Observation::Pass(format!("HTTP {status}").into()) };
        if self.body.windows(wanted.len().max(1)).any(|window| window == wanted.as_bytes()) || wanted.is_empty() {
            return Observation::Pass(format!("HTTP {status}, the body is as expected").into());
        }
        match &self.broken {
            Some(why) => Observation::Missing(format!("HTTP {status}, but the body broke off: {why}").into()),
            None => Observation::Refused(format!("HTTP {status}, but the body does not have what is expected").into()),
        }
    }
}

/// Sends a request with this Host, and takes in the answer until `deadline`.
///
/// # Errors
/// What is to be told of the endpoint.
pub(super) async fn run(
    channel: Channel,
    probe: &HttpProbe,
    host: &str,
    deadline: Deadline,
) -> (Result<Answer, Observation>, Option<Channel>) {
    let started = http1::Builder::new().max_buf_size(MOST_HEAD).handshake(TokioIo::new(channel)).await;
    let (sender, mut connection) = match started {
        Ok(started) => started,
        Err(error) => return (Err(observation(&error)), None),
    };
    let answer = {
        let mut exchange = pin!(exchange(sender, probe, host, deadline));
        tokio::select! {
            biased;
            answer = &mut exchange => answer,
            // What has come is waiting for the exchange, as is what went wrong.
            _ = poll_fn(|cx| connection.poll_without_shutdown(cx)) => exchange.await,
        }
    };
    (answer, Some(connection.into_parts().io.into_inner()))
}

async fn exchange(
    mut sender: SendRequest<Empty<Bytes>>,
    probe: &HttpProbe,
    host: &str,
    deadline: Deadline,
) -> Result<Answer, Observation> {
    let request = request(probe, host).map_err(|error| Observation::Refused(error.to_string().into()))?;
    let response = match deadline.hold(sender.send_request(request)).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => return Err(observation(&error)),
        Err(_) => return Err(Observation::Missing(deadline.missed("no answer to the request"))),
    };
    let (status, mut body, mut broken) = (response.status(), Vec::new(), None);
    if probe.reads_body {
        broken = match deadline.hold(read(response.into_body(), &mut body)).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(observation(&error).text().clone()),
            Err(_) => Some(deadline.missed("no more came")),
        };
    }
    Ok(Answer { status, body, broken })
}

fn request(probe: &HttpProbe, host: &str) -> Result<Request<Empty<Bytes>>, hyper::http::Error> {
    let request = Request::builder().method(probe.method.clone()).uri(&probe.path).header(HOST, host);
    let mut request = request.header(CONNECTION, "close").body(Empty::new())?;
    let headers = request.headers_mut();
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("pointsman/", env!("CARGO_PKG_VERSION"))));
    for (name, value) in &probe.headers {
        headers.insert(name, value.clone());
    }
    Ok(request)
}

async fn read(mut from: Incoming, body: &mut Vec<u8>) -> Result<(), hyper::Error> {
    while body.len() < MOST_BODY
        && let Some(frame) = from.frame().await
    {
        let frame = frame?;
        let data = frame.data_ref().map(|data| &**data).unwrap_or_default();
        body.extend_from_slice(data.get(..MOST_BODY - body.len()).unwrap_or(data));
    }
    Ok(())
}

/// What a failure tells of the endpoint: an answer that is no HTTP is a definite one.
fn observation(error: &hyper::Error) -> Observation {
    if error.is_parse() {
        return Observation::Refused("it does not answer in HTTP/1.1".into());
    }
    let io = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    match io {
        Some(error) => tls::observation(error),
        None => Observation::Missing("it ended the connection without an answer".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str, broken: Option<&'static str>) -> Answer {
        let status = StatusCode::from_u16(status).unwrap();
        Answer { status, body: body.into(), broken: broken.map(Into::into) }
    }

    #[test]
    fn answers_are_judged() {
        let refused = |text: &'static str| Observation::Refused(text.into());
        for (answer, status, body, judged) in [
            (answer(200, "", None), vec![200..=399], None, Observation::Pass("HTTP 200 OK".into())),
            (answer(404, "", None), vec![200..=200, 404..=404], None, Observation::Pass("HTTP 404 Not Found".into())),
            (
                answer(503, "ready", None),
                vec![200..=299, 304..=304],
                Some("ready"),
                refused("HTTP 503 Service Unavailable, expected 200-299, 304"),
            ),
            (
                answer(200, "all is ready", Some("cut")),
                vec![200..=399],
                Some("ready"),
                Observation::Pass("HTTP 200 OK, the body is as expected".into()),
            ),
            (
                answer(200, "starting", None),
                vec![200..=399],
                Some("ready"),
                refused("HTTP 200 OK, but the body does not have what is expected"),
            ),
            (
                answer(200, "rea", Some("cut")),
                vec![200..=399],
                Some("ready"),
                Observation::Missing("HTTP 200 OK, but the body broke off: cut".into()),
            ),
        ] {
            let expect = HttpExpect { status, body: body.map(str::to_owned) };
            assert_eq!(answer.judge(&expect), judged, "{answer:?}");
        }
    }
}
