//! The account with a directory: made once, then used for good. Its key is in the storage.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use instant_acme::{Account, AccountCredentials, ExternalAccountKey, NewAccount};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::lock::Lock;
use super::transport::Transport;
use super::trouble::Trouble;
use super::{Desk, blocking, storage};
use crate::config::model::Acme;

/// An account as it is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// The addresses that the authority knows.
    contact: Vec<String>,
    /// The account's URL, its key and the URL of the directory, as [`AccountCredentials`] are written.
    credentials: serde_json::Value,
}

impl Kept {
    fn part(&self, key: &str) -> &str {
        self.credentials.get(key).and_then(serde_json::Value::as_str).unwrap_or_default()
    }
}

impl Desk {
    /// The account of this desk: the one in the storage, or a new one. One whose URL is `refused` is set aside: the
    /// authority does not know it any more.
    ///
    /// # Errors
    /// The authority or the storage refuse.
    pub(super) async fn open_account(&self, transport: &Transport, refused: Option<&str>) -> Result<Account, Trouble> {
        let is_good = |kept: &Kept| refused != Some(kept.part("id"));
        if let Some(kept) = self.kept_account().await?.filter(is_good) {
            return self.known_account(transport, kept).await;
        }
        let path = storage::account_lock(&self.account.storage, &self.account.directory);
        let cleanup = self.cleanup.clone();
        let taken = {
            let path = path.clone();
            blocking(move || Lock::take(&path, SystemTime::now(), &cleanup)).await?
        };
        let Some(_lock) = taken.map_err(|error| Trouble::Storage(path, error))? else {
            return Err(Trouble::AccountLocked);
        };
        // The other node may have made it meanwhile.
        match self.kept_account().await? {
            Some(kept) if is_good(&kept) => return self.known_account(transport, kept).await,
            Some(_) => self.set_account_aside().await?,
            None => {}
        }
        self.new_account(transport).await
    }

    async fn known_account(&self, transport: &Transport, mut kept: Kept) -> Result<Account, Trouble> {
        let credentials = AccountCredentials::deserialize(&kept.credentials);
        let credentials = credentials.map_err(|error| Trouble::Account(self.account_file(), error))?;
        let account = Account::builder_with_http(Box::new(transport.clone())).from_credentials(credentials).await?;
        if kept.contact != self.account.contact {
            let contact = urls(&self.account);
            account.update_contacts(&contact.iter().map(String::as_str).collect::<Vec<_>>()).await?;
            kept.contact.clone_from(&self.account.contact);
            self.keep_account(&kept).await?;
        }
        Ok(account)
    }

    async fn new_account(&self, transport: &Transport) -> Result<Account, Trouble> {
        let contact = urls(&self.account);
        let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
        let new = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
        let binding = self.account.eab.as_ref();
        let binding = binding.map(|eab| ExternalAccountKey::new(eab.key_id.clone(), &eab.key.0));
        let builder = Account::builder_with_http(Box::new(transport.clone()));
        let (account, credentials) = builder.create(&new, self.account.directory.clone(), binding.as_ref()).await?;
        tracing::info!(account = self.account.name, url = account.id(), "account made with {}", self.account.directory);
        let credentials = serde_json::to_value(&credentials);
        let credentials = credentials.map_err(|error| Trouble::Account(self.account_file(), error))?;
        self.keep_account(&Kept { contact: self.account.contact.clone(), credentials }).await?;
        Ok(account)
    }

    async fn kept_account(&self) -> Result<Option<Kept>, Trouble> {
        let path = self.account_file();
        let read = {
            let path = path.clone();
            blocking(move || storage::read(&path)).await?
        };
        let json = match read {
            Ok(Some(json)) => json,
            Ok(None) => return Ok(None),
            Err(error) => return Err(Trouble::Storage(path, error)),
        };
        match serde_json::from_slice::<Kept>(&json) {
            Ok(kept) if kept.part("directory") == self.account.directory => Ok(Some(kept)),
            Ok(kept) => Err(Trouble::Stranger(path, kept.part("directory").to_owned())),
            Err(error) => Err(Trouble::Account(path, error)),
        }
    }

    async fn keep_account(&self, kept: &Kept) -> Result<(), Trouble> {
        let path = self.account_file();
        let json = serde_json::to_vec_pretty(kept).map_err(|error| Trouble::Account(path.clone(), error))?;
        self.write(path, Zeroizing::new(json)).await
    }

    async fn set_account_aside(&self) -> Result<(), Trouble> {
        let path = self.account_file();
        let moved = {
            let path = path.clone();
            blocking(move || std::fs::rename(&path, path.with_extension("json.gone"))).await?
        };
        moved.map_err(|error| Trouble::Storage(path, error))
    }

    fn account_file(&self) -> PathBuf {
        storage::account(Path::new(&self.account.storage), &self.account.directory)
    }
}

fn urls(account: &Acme) -> Vec<String> {
    account.contact.iter().map(|address| format!("mailto:{address}")).collect()
}
