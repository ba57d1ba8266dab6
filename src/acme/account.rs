//! The account with a directory: made once, then used for good. Its key is in the storage.

use std::path::Path;
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
    /// The account's URL and key.
    credentials: AccountCredentials,
}

impl Desk {
    /// The account of this desk: the one in the storage, or a new one.
    ///
    /// # Errors
    /// The authority or the storage refuse.
    pub(super) async fn open_account(&self, transport: &Transport) -> Result<Account, Trouble> {
        if let Some(kept) = self.kept_account().await? {
            return self.known_account(transport, kept).await;
        }
        let (path, cleanup) = (storage::lock(&self.account.storage, &self.account.directory), self.cleanup.clone());
        let taken = {
            let path = path.clone();
            blocking(move || Lock::take(&path, SystemTime::now(), &cleanup)).await?
        };
        let Some(_lock) = taken.map_err(|error| Trouble::Storage(path, error))? else {
            return Err(Trouble::AccountLocked);
        };
        // The other node may have made it meanwhile.
        match self.kept_account().await? {
            Some(kept) => self.known_account(transport, kept).await,
            None => self.new_account(transport).await,
        }
    }

    async fn known_account(&self, transport: &Transport, mut kept: Kept) -> Result<Account, Trouble> {
        // The credentials cannot be copied, and writing them takes them whole.
        let again = serde_json::to_vec(&kept.credentials).and_then(|json| serde_json::from_slice(&json));
        let credentials = again.map_err(|error| Trouble::Account(self.account_file(), error))?;
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
        self.keep_account(&Kept { contact: self.account.contact.clone(), credentials }).await?;
        Ok(account)
    }

    async fn kept_account(&self) -> Result<Option<Kept>, Trouble> {
        let path = self.account_file();
        let read = {
            let path = path.clone();
            blocking(move || storage::read(&path)).await?
        };
        match read {
            Ok(None) => Ok(None),
            Ok(Some(json)) => serde_json::from_slice(&json).map(Some).map_err(|error| Trouble::Account(path, error)),
            Err(error) => Err(Trouble::Storage(path, error)),
        }
    }

    async fn keep_account(&self, kept: &Kept) -> Result<(), Trouble> {
        let path = self.account_file();
        let json = serde_json::to_vec_pretty(kept).map_err(|error| Trouble::Account(path.clone(), error))?;
        self.write(path, Zeroizing::new(json)).await
    }

    /// Takes an account out of use that the authority does not know any more.
    pub(super) async fn set_account_aside(&self) -> Result<(), Trouble> {
        let path = self.account_file();
        let moved = {
            let path = path.clone();
            blocking(move || std::fs::rename(&path, path.with_extension("json.gone"))).await?
        };
        moved.map_err(|error| Trouble::Storage(path, error))
    }

    fn account_file(&self) -> std::path::PathBuf {
        storage::account(Path::new(&self.account.storage), &self.account.directory)
    }
}

fn urls(account: &Acme) -> Vec<String> {
    account.contact.iter().map(|address| format!("mailto:{address}")).collect()
}
