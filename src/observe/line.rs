//! One record as one line of the access log.
//!
//! | key | value | absent when |
//! |---|---|---|
//! | time | when it was accepted, RFC 3339 in UTC with milliseconds | |
//! | id | number of the session in this process | |
//! | listener | name | |
//! | client | `192.0.2.1:4711`, `[2001:db8::1]:4711` or `unix` | |
//! | peer | who has spoken for the client in a PROXY header, written in the same way | *the key is left out* |
//! | sni | name in the ClientHello | there was none |
//! | alpn | protocols offered | no ClientHello was read |
//! | tls | versions offered: `1.3`, `1.2`, `1.1`, `1.0`, others as `0x0300` | no ClientHello was read |
//! | ech | `true` if Encrypted Client Hello was offered: `sni` is only the outer name | *the key is left out* |
//! | tls_version, tls_suite, tls_group, tls_alpn | what was agreed on where TLS ends here | *the keys are left out* |
//! | tls_resumed | `true` if a session of before was resumed, else `false` | *the key is left out* |
//! | tls_client_subject, tls_client_issuer | of the client's certificate, good or not, as RFC 4514 writes them | *the keys of those without one are left out* |
//! | tls_client_serial | its number, hexadecimal | *the key is left out* |
//! | tls_client_names | its alternative names, such as `DNS:a.example`, `URI:spiffe://...`, `IP:192.0.2.1` | *the key is left out* |
//! | tls_error | why there was no handshake, or how TLS was broken after it, in words | *the key is left out* |
//! | handshake_ms | milliseconds of the handshake, three decimals | *the key is left out* |
//! | route, pool, endpoint | names | the connection did not get that far |
//! | endpoint_tls_version, endpoint_tls_suite, endpoint_tls_group, endpoint_tls_alpn, endpoint_tls_resumed, endpoint_tls_error, endpoint_handshake_ms | the same of the last handshake with an endpoint | *the keys are left out* |
//! | outcome, by | how it ended and who ended it | |
//! | connect_ms | milliseconds to reach the endpoint, three decimals | none was reached |
//! | total_ms | milliseconds from accept to the end, three decimals | |
//! | bytes_up, bytes_down | delivered to the endpoint, delivered to the client | |
//!
//! Keys are stable: one without a value is still there, as `null` in JSON and as `-` in text. `peer`, `ech` and
//! the keys of a handshake are the only exceptions. Lists are arrays in JSON and joined by commas in text (an empty one is `-`). At most
//! [`MOST_OF_A_LIST`] members of a list are told; one more, `...`, says that there were others.
//!
//! Nothing that a client sends can end a line, start a field or reach a terminal as a control character: whatever is
//! not printable ASCII is escaped. A protocol's bytes become `\xHH` (as do comma and backslash); a text value
//! with anything but unambiguous characters is quoted, with `\"`, `\\` and `\u{HEX}`.
//!
//! This module never does I/O and never reads a clock.

use std::borrow::Cow;
use std::fmt::{Display, Write as _};
use std::io::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use super::record::{Handshake, Peer, Presented, Record};

/// Members of a list that are told: a hello of 64 KiB must not make a line of 300 KiB.
pub const MOST_OF_A_LIST: usize = 16;

/// Appends `record` as one JSON object and a line feed.
pub fn write_json(record: &Record, out: &mut Vec<u8>) {
    out.push(b'{');
    write_fields(record, &mut Fields { out, form: Form::Json, first: true });
    out.extend_from_slice(b"}\n");
}

/// Appends `record` as `key=value` pairs and a line feed.
pub fn write_text(record: &Record, out: &mut Vec<u8>) {
    write_fields(record, &mut Fields { out, form: Form::Text, first: true });
    out.push(b'\n');
}

fn write_fields(record: &Record, fields: &mut Fields<'_>) {
    let hello = record.hello.as_ref();
    let sni = hello.and_then(|said| said.sni.as_deref());
    fields.word("time", Some(&humantime::format_rfc3339_millis(writable(record.start)).to_string()));
    fields.bare("id", Some(record.id));
    fields.word("listener", Some(&record.listener));
    fields.address("client", record.client);
    if let Some(Peer(peer)) = record.proxy.as_deref() {
        fields.address("peer", *peer);
    }
    fields.word("sni", sni);
    fields.list("alpn", hello.map(|said| told(&said.alpn, printable)));
    fields.list("tls", hello.map(|said| told(said.versions.iter().copied(), version_name)));
    if hello.is_some_and(|said| said.ech) {
        fields.bare("ech", Some(true));
    }
    if let Some(handshake) = &record.handshake {
        write_handshake(handshake, &CLIENT, fields);
    }
    fields.word("route", record.route.as_deref());
    fields.word("pool", record.pool.as_deref());
    fields.word("endpoint", record.endpoint.as_deref());
    if let Some(handshake) = &record.endpoint_handshake {
        write_handshake(handshake, &ENDPOINT, fields);
    }
    fields.word("outcome", Some(record.outcome.word()));
    fields.word("by", Some(record.by.word()));
    fields.bare("connect_ms", record.connect.map(Milliseconds));
    fields.bare("total_ms", Some(Milliseconds(record.total)));
    fields.bare("bytes_up", Some(record.bytes_up));
    fields.bare("bytes_down", Some(record.bytes_down));
}

/// The keys of a handshake: version, suite, group, protocol, resumed, error, milliseconds.
type HandshakeKeys = [&'static str; 7];

const CLIENT: HandshakeKeys =
    ["tls_version", "tls_suite", "tls_group", "tls_alpn", "tls_resumed", "tls_error", "handshake_ms"];
const ENDPOINT: HandshakeKeys = [
    "endpoint_tls_version",
    "endpoint_tls_suite",
    "endpoint_tls_group",
    "endpoint_tls_alpn",
    "endpoint_tls_resumed",
    "endpoint_tls_error",
    "endpoint_handshake_ms",
];

fn write_handshake(handshake: &Handshake, keys: &HandshakeKeys, fields: &mut Fields<'_>) {
    let [version, suite, group, alpn, resumed, error, took] = keys;
    if handshake.version.is_some() {
        fields.word(version, handshake.version);
        fields.word(suite, handshake.suite);
        fields.word(group, handshake.group);
        fields.word(alpn, handshake.protocol.as_deref().map(printable).as_deref());
        fields.bare(resumed, Some(handshake.resumed));
    }
    if let Some(Presented { subject, issuer, serial, names }) = &handshake.client {
        fields.word("tls_client_subject", Some(subject));
        fields.word("tls_client_issuer", Some(issuer));
        fields.word("tls_client_serial", Some(serial));
        fields.list("tls_client_names", Some(told(names, |name| Cow::Borrowed(&**name))));
    }
    if let Some(why) = &handshake.error {
        fields.word(error, Some(why));
    }
    fields.bare(took, Some(Milliseconds(handshake.took)));
}

/// A line that is being written. Writing to a `Vec` cannot fail, hence the results that are not looked at.
struct Fields<'a> {
    out: &'a mut Vec<u8>,
    form: Form,
    first: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Json,
    Text,
}

impl Fields<'_> {
    fn key(&mut self, key: &'static str) {
        let first = std::mem::replace(&mut self.first, false);
        let (before, after): (&[u8], &[u8]) = match (self.form, first) {
            (Form::Json, true) => (b"\"", b"\":"),
            (Form::Json, false) => (b",\"", b"\":"),
            (Form::Text, true) => (b"", b"="),
            (Form::Text, false) => (b" ", b"="),
        };
        for part in [before, key.as_bytes(), after] {
            self.out.extend_from_slice(part);
        }
    }

    fn absent(&mut self) {
        self.out.extend_from_slice(match self.form {
            Form::Json => b"null",
            Form::Text => b"-",
        });
    }

    /// A number or `true`: the same in both forms.
    fn bare(&mut self, key: &'static str, value: Option<impl Display>) {
        self.key(key);
        match value {
            Some(value) => drop(write!(self.out, "{value}")),
            None => self.absent(),
        }
    }

    fn word(&mut self, key: &'static str, value: Option<&str>) {
        self.key(key);
        match (value, self.form) {
            (Some(value), Form::Json) => json_string(value, self.out),
            (Some(value), Form::Text) => text_value(value, self.out),
            (None, _) => self.absent(),
        }
    }

    fn address(&mut self, key: &'static str, address: Option<SocketAddr>) {
        match address {
            Some(address) => self.word(key, Some(&address.to_string())),
            None => self.word(key, Some("unix")),
        }
    }

    fn list(&mut self, key: &'static str, members: Option<Vec<Cow<'_, str>>>) {
        self.key(key);
        match (members, self.form) {
            (Some(members), Form::Json) => {
                for (index, member) in members.iter().enumerate() {
                    self.out.push(if index == 0 { b'[' } else { b',' });
                    json_string(member, self.out);
                }
                self.out.extend_from_slice(if members.is_empty() { b"[]" } else { b"]" });
            }
            (Some(members), Form::Text) if !members.is_empty() => text_value(&members.join(","), self.out),
            (_, _) => self.absent(),
        }
    }
}

/// The first members of a list, each as `name` writes it.
fn told<'a, T>(members: impl IntoIterator<Item = T>, name: impl Fn(T) -> Cow<'a, str>) -> Vec<Cow<'a, str>> {
    let mut members = members.into_iter();
    let mut told: Vec<_> = members.by_ref().take(MOST_OF_A_LIST).map(name).collect();
    if members.next().is_some() {
        told.push("...".into());
    }
    told
}

/// A protocol's bytes (RFC 7301: any, 1 to 255 of them) in printable ASCII without space, comma and lone backslash.
fn printable(protocol: &[u8]) -> Cow<'_, str> {
    let plain = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'\\' | b',');
    if let Ok(name) = std::str::from_utf8(protocol)
        && protocol.iter().all(plain)
    {
        return name.into();
    }
    let mut name = String::with_capacity(protocol.len());
    for &byte in protocol {
        match byte {
            byte if plain(&byte) => name.push(char::from(byte)),
            byte => drop(write!(name, "\\x{byte:02x}")),
        }
    }
    name.into()
}

fn version_name(version: u16) -> Cow<'static, str> {
    match version {
        0x0304 => "1.3".into(),
        0x0303 => "1.2".into(),
        0x0302 => "1.1".into(),
        0x0301 => "1.0".into(),
        other => format!("{other:#06x}").into(),
    }
}

/// RFC 8259 section 7, with everything outside of printable ASCII as `\uXXXX`.
fn json_string(value: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    if value.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\') {
        out.extend_from_slice(value.as_bytes());
        return out.push(b'"');
    }
    for c in value.chars() {
        match c {
            '"' | '\\' => out.extend_from_slice(&[b'\\', c as u8]),
            ' '..='~' => out.push(c as u8),
            c => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
    out.push(b'"');
}

/// As it is where that is unambiguous, else in double quotes.
fn text_value(value: &str, out: &mut Vec<u8>) {
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b'=');
    if !value.is_empty() && value != "-" && value.bytes().all(plain) {
        return out.extend_from_slice(value.as_bytes());
    }
    out.push(b'"');
    for c in value.chars() {
        match c {
            '"' | '\\' => out.extend_from_slice(&[b'\\', c as u8]),
            ' '..='~' => out.push(c as u8),
            c => drop(write!(out, "{}", c.escape_unicode())),
        }
    }
    out.push(b'"');
}

/// A duration in milliseconds with three decimals, cut off and not rounded.
struct Milliseconds(Duration);

impl Display for Milliseconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:03}", self.0.as_millis(), self.0.subsec_micros() % 1000)
    }
}

/// The time, or 1970 for a clock so wrong that RFC 3339 (years 0 to 9999) cannot say it.
fn writable(time: SystemTime) -> SystemTime {
    const YEAR_10000: Duration = Duration::from_secs(253_402_300_800);
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) if since < YEAR_10000 => time,
        _ => SystemTime::UNIX_EPOCH,
    }
}

#[cfg(test)]
mod tests;
