//! One order: a name is shown to be ours, and a certificate for it is issued (RFC 8555, section 7.4).

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use instant_acme::{
    Account, AuthorizationStatus, CertificateIdentifier, ChallengeType, Error, Identifier, NewOrder, Order,
    OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use zeroize::Zeroizing;

use super::bundle::{self, Held};
use super::challenges::{Answer, Shown};
use super::trouble::Trouble;
use super::{Desk, blocking};
use crate::config::model::{Challenge, KeyKind};
use crate::wire::name::Name;

/// How often and for how long the authority is asked how far it has come.
const POLL: RetryPolicy =
    RetryPolicy::new().initial_delay(Duration::from_millis(300)).backoff(1.5).timeout(Duration::from_secs(90));

/// A key, and the request for a certificate of it in DER.
struct Request {
    key: Zeroizing<String>,
    csr: Vec<u8>,
}

impl Desk {
    /// Has a certificate issued for `name`, in place of one that the authority knows by `replaces`. Gives what is to be
    /// kept.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) async fn obtain(
        &self,
        account: &Account,
        name: &Name,
        replaces: Option<CertificateIdentifier<'static>>,
    ) -> Result<Zeroizing<String>, Trouble> {
        let mut order = new_order(account, name, replaces).await?;
        let shown = self.prove(&mut order, name).await?;
        let ready = order.poll_ready(&POLL).await;
        if !matches!(ready, Ok(OrderStatus::Ready)) {
            let reason = reason(&mut order).await;
            return Err(reason.unwrap_or_else(|| match ready {
                Ok(status) => Trouble::NotProven(format!("{status:?}").to_ascii_lowercase()),
                Err(error) => error.into(),
            }));
        }
        drop(shown);
        let (kind, wanted) = (self.account.key, name.clone());
        // Making an RSA key takes a while.
        let Request { key, csr } = blocking(move || Request::new(kind, &wanted)).await??;
        order.finalize_csr(&csr).await?;
        let chain = order.poll_certificate(&POLL).await?;
        let bundle = bundle::write(&self.account.directory, &chain, &key);
        Held::read(Path::new("the certificate"), bundle.as_bytes(), name, SystemTime::now())?;
        Ok(bundle)
    }

    /// Shows what is asked for, and says that it is there. What is given has to be kept until it was looked at.
    async fn prove(&self, order: &mut Order, name: &Name) -> Result<Vec<Arc<Shown>>, Trouble> {
        let (kind, called) = match self.account.challenge {
            Challenge::TlsAlpn01 => (ChallengeType::TlsAlpn01, "tls-alpn-01"),
            Challenge::Http01 { .. } => (ChallengeType::Http01, "http-01"),
        };
        let mut shown = Vec::new();
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            match authorization.status {
                // It remembers an earlier proof.
                AuthorizationStatus::Valid => continue,
                AuthorizationStatus::Pending => {}
                status => return Err(Trouble::NotProven(format!("{status:?}").to_ascii_lowercase())),
            }
            let mut challenge = authorization.challenge(kind.clone()).ok_or(Trouble::NotOffered(called))?;
            let text = challenge.key_authorization();
            let answer = Answer::new(name, text.as_str())?;
            if let Some(place) = self.challenges.place(name, &self.cleanup) {
                place.show(answer).await?;
                shown.push(place);
            }
            challenge.set_ready().await?;
        }
        Ok(shown)
    }
}

/// Makes the order, and says what it replaces where that is taken.
pub(super) async fn new_order(
    account: &Account,
    name: &Name,
    replaces: Option<CertificateIdentifier<'static>>,
) -> Result<Order, Error> {
    let identifiers = [Identifier::Dns(name.to_string())];
    if let Some(replaces) = replaces {
        match account.new_order(&NewOrder::new(&identifiers).replaces(replaces)).await {
            // Another order has replaced it (RFC 9773, section 5), or the server has no notion of the field.
            Err(Error::Api(problem)) if replaced(problem.r#type.as_deref()) => {}
            Err(Error::Other(_) | Error::Unsupported(_)) => {}
            other => return other,
        }
    }
    account.new_order(&NewOrder::new(&identifiers)).await
}

fn replaced(kind: Option<&str>) -> bool {
    matches!(kind, Some("urn:ietf:params:acme:error:alreadyReplaced" | "urn:ietf:params:acme:error:malformed"))
}

/// What the authority has found where it looked for the proof: the order itself seldom says.
async fn reason(order: &mut Order) -> Option<Trouble> {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let state = authorization.refresh().await.ok()?;
        if let Some(problem) = state.challenges.iter().find_map(|challenge| challenge.error.clone()) {
            return Some(Trouble::Refused(Box::new(problem)));
        }
    }
    None
}

impl Request {
    /// A new key of this kind, and what asks for a certificate of it for `name` alone.
    fn new(kind: KeyKind, name: &Name) -> Result<Request, rcgen::Error> {
        let key = KeyPair::generate_for(match kind {
            KeyKind::EcdsaP256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            KeyKind::EcdsaP384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            KeyKind::Rsa2048 => &rcgen::PKCS_RSA_SHA256,
        })?;
        let mut params = CertificateParams::new([name.to_string()])?;
        params.distinguished_name = DistinguishedName::new();
        let csr = params.serialize_request(&key)?.der().to_vec();
        Ok(Request { key: Zeroizing::new(key.serialize_pem()), csr })
    }
}
