//! `[pool.NAME.health.http]` and `[[pool.NAME.health.script]]`: what an endpoint is asked, and what it has to answer.

use std::ops::RangeInclusive;

use hyper::Method;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::http::uri::{Authority, PathAndQuery};

use crate::config::check::node::{Node, Table};
use crate::config::check::{Check, keys};
use crate::config::model::{HttpExpect, HttpProbe, Secret, Step};
use crate::config::report::quote;
use crate::config::value::Refused;

/// The most steps of a script.
const MOST_STEPS: usize = 32;
/// The most bytes of one step, and of the text that a body must have.
const MOST_BYTES: usize = 4096;
const DEFAULT_STATUS: RangeInclusive<u16> = 200..=399;
const STATUS: &str = "a status such as \"204\", or a range such as \"200-399\"";
const STEP: &str = "a table with one of send, send_hex, expect and expect_hex";

/// Reads a request and what has to be answered.
pub(super) fn http(node: Option<&Node<'_>>, check: &mut Check<'_>) -> (HttpProbe, HttpExpect) {
    let table = node.map(|node| node.table(keys::HEALTH_HTTP, check.report));
    let get = |key| table.as_ref().and_then(|table| table.get(key));
    let methods = [Method::GET, Method::HEAD, Method::OPTIONS, Method::POST].map(|method| (method.to_string(), method));
    let methods = methods.each_ref().map(|(word, method)| (word.as_str(), method.clone()));
    let method = get("method").and_then(|node| node.choice(&methods, check.report)).unwrap_or(Method::GET);
    let path = get("path").and_then(|node| path(&node, &method, check));
    let host = get("host").and_then(|node| {
        node.parse("a host such as \"www.example.com\"", check.report, |text| match text.parse::<Authority>() {
            Ok(host) if !host.as_str().contains('@') => Ok(text.to_owned()),
            _ => Err(Refused::misread(text, "is not a host")),
        })
    });
    let headers = get("headers").map(|node| headers(&node, check)).unwrap_or_default();
    let status = get("status").map(|node| status(&node, check)).filter(|status| !status.is_empty());
    let body = get("body").and_then(|node| {
        if method == Method::HEAD {
            check.report.add(node.key_at, node.path(), "nothing that is answered to HEAD has a body");
        }
        bytes(&node, "text that the body has in it", check).and_then(|body| String::from_utf8(body).ok())
    });
    let path = path.unwrap_or_else(|| "/".to_owned());
    let probe = HttpProbe { method, path, host, headers, reads_body: body.is_some() };
    (probe, HttpExpect { status: status.unwrap_or_else(|| vec![DEFAULT_STATUS]), body })
}

fn path(node: &Node<'_>, method: &Method, check: &mut Check<'_>) -> Option<String> {
    node.parse("a path such as \"/healthz\"", check.report, |text| {
        let whole = text.starts_with('/') || (text == "*" && *method == Method::OPTIONS);
        match text.parse::<PathAndQuery>() {
            // A fragment is never sent: it would be cut off.
            Ok(path) if whole && path.as_str() == text => Ok(text.to_owned()),
            _ => Err(Refused::misread(text, "is not a path")),
        }
    })
}

fn headers(node: &Node<'_>, check: &mut Check<'_>) -> Vec<(HeaderName, HeaderValue)> {
    let mut headers = Vec::new();
    for (name, node) in node.any_table(check.report).entries() {
        let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else {
            check.report.add(node.key_at, node.path(), format!("{} cannot be the name of a header", quote(name)));
            continue;
        };
        if name == header::HOST {
            check.report.add(node.key_at, node.path(), "this has a key of its own, host");
        } else if [header::CONNECTION, header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::UPGRADE, header::TE]
            .contains(&name)
        {
            check.report.add(node.key_at, node.path(), "this says how the request is sent, which is not to be chosen");
        }
        let Some(text) = node.text("text", check.report) else { continue };
        match HeaderValue::from_str(text) {
            Ok(mut value) => {
                value.set_sensitive(true);
                headers.push((name, value));
            }
            // It may be a password.
            Err(_) => {
                check.report.add(node.at, node.path(), "the value has characters that no header may have");
            }
        }
    }
    headers
}

fn status(node: &Node<'_>, check: &mut Check<'_>) -> Vec<RangeInclusive<u16>> {
    let elements =
        if node.is_number() { vec![node.clone()] } else { node.list(STATUS, "no status would be good", check.report) };
    let read = |element: &Node<'_>, check: &mut Check<'_>| {
        if element.is_number() {
            let status = element.number(100..=599, check.report).and_then(|status| u16::try_from(status).ok())?;
            return Some(status..=status);
        }
        element.parse(STATUS, check.report, |text| {
            range(text).ok_or_else(|| Refused::misread(text, "is not a status from 100 to 599 nor a range of these"))
        })
    };
    elements.iter().filter_map(|element| read(element, check)).collect()
}

/// Reads `200` or `200-399`.
fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let status = |text: &str| {
        let number: u16 = text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))?;
        (100..=599).contains(&number).then_some(number)
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (status(first)?, status(last)?);
    (first <= last).then_some(first..=last)
}

/// Reads a script. `wanted`: there has to be one.
pub(super) fn script(table: &Table<'_>, wanted: bool, check: &mut Check<'_>) -> Vec<Step> {
    let expected = format!("a list, each {STEP}");
    let node =
        if wanted { table.require("script", &expected, check.complete, check.report) } else { table.get("script") };
    let Some(node) = node else { return Vec::new() };
    let before = check.report.count();
    let elements = node.list(STEP, "a script without steps finds out nothing", check.report);
    if elements.len() > MOST_STEPS {
        let message = format!("{} steps are more than {MOST_STEPS}", elements.len());
        check.report.add(node.at, node.path(), message);
    }
    let steps: Vec<Step> = elements.iter().filter_map(|element| step(element, check)).collect();
    if check.report.count() == before && !steps.iter().any(|step| matches!(step, Step::Expect(_))) {
        check.report.add(node.at, node.path(), "a script that expects nothing finds out nothing");
    }
    steps
}

fn step(node: &Node<'_>, check: &mut Check<'_>) -> Option<Step> {
    let table = node.is_table().then(|| node.table(keys::HEALTH_STEP, check.report));
    let Some(table) = table else {
        node.wrong(STEP, check.report);
        return None;
    };
    let [send, send_hex, expect, expect_hex] = ["send", "send_hex", "expect", "expect_hex"].map(|key| table.get(key));
    let written: Vec<&Node<'_>> = [&send, &send_hex, &expect, &expect_hex].into_iter().flatten().collect();
    match written[..] {
        [only] => {
            let is_hex = send_hex.is_some() || expect_hex.is_some();
            let bytes = if is_hex { hex(only, check)? } else { bytes(only, "text", check)? };
            if bytes.is_empty() {
                check.report.add(only.at, only.path(), "a step without a byte does nothing");
            }
            let sends = send.is_some() || send_hex.is_some();
            Some(if sends { Step::Send(Secret(bytes.into())) } else { Step::Expect(bytes) })
        }
        [] => {
            check.report.add(node.at, node.path(), "the step does nothing").expected(STEP);
            None
        }
        [_, second, ..] => {
            check.report.add(second.key_at, second.path(), "a step does one thing only").expected(STEP);
            None
        }
    }
}

/// The value as text of a bounded length.
pub(super) fn bytes(node: &Node<'_>, expected: &str, check: &mut Check<'_>) -> Option<Vec<u8>> {
    let text = node.text(expected, check.report)?;
    bounded(node, text.as_bytes().to_vec(), check)
}

/// The value as bytes in hex, in groups of any even length.
fn hex(node: &Node<'_>, check: &mut Check<'_>) -> Option<Vec<u8>> {
    const HEX: &str = "bytes in hex such as \"0d0a\" or \"de ad be ef\"";
    let text = node.text(HEX, check.report)?;
    match read_hex(text) {
        Some(bytes) => bounded(node, bytes, check),
        // It may be a password.
        None => {
            check.report.add(node.at, node.path(), "the value is not hex").expected(HEX);
            None
        }
    }
}

fn read_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pair = |pair: &[u8]| match pair {
        [high, low] => Some((digit(*high)? << 4) | digit(*low)?),
        _ => None,
    };
    let groups = text.split_ascii_whitespace().flat_map(|group| group.as_bytes().chunks(2));
    groups.map(pair).collect()
}

fn bounded(node: &Node<'_>, bytes: Vec<u8>, check: &mut Check<'_>) -> Option<Vec<u8>> {
    if bytes.len() > MOST_BYTES {
        let message = format!("{} bytes are more than {MOST_BYTES}", bytes.len());
        check.report.add(node.at, node.path(), message);
        return None;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_ranges() {
        for (text, read) in [
            ("200", Some(200..=200)),
            ("200-399", Some(200..=399)),
            ("599-599", Some(599..=599)),
            ("99", None),
            ("600", None),
            ("399-200", None),
            ("200-", None),
            ("-200", None),
            ("+200", None),
            ("2xx", None),
            ("200-299-399", None),
            ("", None),
        ] {
            assert_eq!(range(text), read, "{text:?}");
        }
    }

    #[test]
    fn hex_in_groups() {
        for (text, read) in [
            ("0d0a", Some(vec![13, 10])),
            ("de AD\tbe ef", Some(vec![0xde, 0xad, 0xbe, 0xef])),
            ("", Some(vec![])),
            ("0", None),
            ("0 d", None),
            ("0x0d", None),
            ("ä", None),
        ] {
            assert_eq!(read_hex(text), read, "{text:?}");
        }
    }
}
