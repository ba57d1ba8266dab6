//! Why there is no certificate, in the words of whoever has said so.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use instant_acme::Problem;

use super::{bundle, challenges};

/// Characters of what others say that are told.
const MOST: usize = 1000;
const KIND: &str = "urn:ietf:params:acme:error:";

/// Why an attempt has come to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// The authority says so.
    #[error("the authority says: {}", Said(.0))]
    Refused(Box<Problem>),
    /// It was not reached, or said what cannot be understood.
    #[error("{}", chain(.0))]
    Exchange(instant_acme::Error),
    #[error("the authority does not offer {0} for this name")]
    NotOffered(&'static str),
    #[error("the authority says that the proof is {0} and gives no reason")]
    NotProven(String),
    #[error("the answer to the challenge cannot be shown: {0}")]
    Challenge(#[from] challenges::Flaw),
    #[error("no key can be made: {0}")]
    Key(#[from] rcgen::Error),
    #[error("what the authority has issued cannot be used: {0}")]
    Useless(#[from] bundle::Flaw),
    #[error("the file {0:?}: {1}")]
    Storage(PathBuf, io::Error),
    #[error("the account in {0:?} cannot be read: {1}")]
    Account(PathBuf, serde_json::Error),
    /// Files of two directories may be called the same.
    #[error("the account in {0:?} is one with {1}: it takes another storage")]
    Stranger(PathBuf, String),
    #[error("no TLS towards the directory: {0}")]
    Tls(#[from] rustls::Error),
    /// Nothing is asked of the authority before this time, because the last attempts to open the account have failed.
    #[error("the account could not be opened")]
    Closed(SystemTime),
    /// The other node makes the account.
    #[error("the account is being made by the other node")]
    AccountLocked,
    #[error("it was not done within {0:?}")]
    Late(Duration),
    #[error("a thread has panicked")]
    Panicked,
}

impl From<instant_acme::Error> for Trouble {
    fn from(error: instant_acme::Error) -> Trouble {
        match error {
            instant_acme::Error::Api(problem) => Trouble::Refused(Box::new(problem)),
            other => Trouble::Exchange(other),
        }
    }
}

impl Trouble {
    /// The kind of problem that the authority names (RFC 8555, section 6.7).
    pub(super) fn kind(&self) -> Option<&str> {
        match self {
            Trouble::Refused(problem) => problem.r#type.as_deref()?.strip_prefix(KIND),
            _ => None,
        }
    }
}

/// A problem document (RFC 8555, section 6.7), with those it is made up of.
struct Said<'a>(&'a Problem);

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Problem { r#type, detail, subproblems, .. } = self.0;
        let mut text = part(detail.as_deref(), r#type.as_deref());
        for each in subproblems {
            text += "; ";
            text += &part(each.detail.as_deref(), each.r#type.as_deref());
        }
        f.write_str(&plain(&text))
    }
}

fn part(detail: Option<&str>, kind: Option<&str>) -> String {
    let kind = kind.map(|kind| kind.strip_prefix(KIND).unwrap_or(kind));
    match (detail, kind) {
        (Some(detail), Some(kind)) => format!("{detail} ({kind})"),
        (Some(text), None) | (None, Some(text)) => text.to_owned(),
        (None, None) => "no reason given".to_owned(),
    }
}

/// An error with what has caused it.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        next = cause.source();
    }
    plain(&text)
}

/// Others may write what they like; it is told in one line of a bounded length.
fn plain(text: &str) -> String {
    text.chars().map(|each| if each.is_control() { ' ' } else { each }).take(MOST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_authority_says_is_told() {
        let problem = |json: &str| Trouble::from(instant_acme::Error::Api(serde_json::from_str(json).unwrap()));
        for (json, kind, said) in [
            (
                r#"{"type":"urn:ietf:params:acme:error:dns","detail":"no such\nhost","status":400}"#,
                Some("dns"),
                "the authority says: no such host (dns)",
            ),
            (r#"{"detail":"odd"}"#, None, "the authority says: odd"),
            (r#"{"type":"about:blank"}"#, None, "the authority says: about:blank"),
            (r#"{}"#, None, "the authority says: no reason given"),
            (
                r#"{"type":"urn:ietf:params:acme:error:malformed","detail":"some",
                    "subproblems":[{"type":"urn:ietf:params:acme:error:rejectedIdentifier","detail":"not you"}]}"#,
                Some("malformed"),
                "the authority says: some (malformed); not you (rejectedIdentifier)",
            ),
        ] {
            let trouble = problem(json);
            assert_eq!((trouble.kind(), trouble.to_string().as_str()), (kind, said));
        }
        let long = problem(&format!(r#"{{"detail":"{}"}}"#, "x".repeat(5000)));
        assert!(long.to_string().len() < MOST + 100);
    }
}
