//! What was read from the store of secrets a moment ago. A fleet that starts asks for the same key a hundred times, and a store
//! costs money and quota by the request.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use switchyard_core::lend::{Refused, RefusedCode, SecretName};
use switchyard_core::ports::{Ambient, describe};

use crate::doors::{Vault, VaultError};

/// How long a secret that was read is used without asking the store again. Long enough that a burst of runs costs one request,
/// short enough that a secret which is replaced or taken away is so within minutes. A key that its vendor calls wrong is
/// read anew at once.
pub const SECRET_LASTS: Duration = Duration::from_secs(300);

/// The most secrets that are kept: more than a yard's policies are likely to name.
pub const SECRETS_MAX: usize = 64;

/// A secret, and whether the store was asked for it just now.
#[derive(Clone)]
pub(crate) struct Known {
    value: Arc<SecretString>,
    fresh: bool,
}

impl Known {
    /// It.
    pub(crate) fn text(&self) -> &str {
        self.value.expose_secret()
    }
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Known").field("fresh", &self.fresh).finish_non_exhaustive()
    }
}

struct Kept {
    name: SecretName,
    value: Arc<SecretString>,
    read: Timestamp,
}

/// The store, and what was read from it lately.
pub(crate) struct Cache {
    vault: Arc<dyn Vault>,
    ambient: Arc<dyn Ambient>,
    // The oldest first. They are few: looking at each costs less than one request.
    kept: Mutex<Vec<Kept>>,
}

impl Cache {
    pub(crate) fn new(vault: Arc<dyn Vault>, ambient: Arc<dyn Ambient>) -> Self {
        Self { vault, ambient, kept: Mutex::default() }
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The secret of that name. What is over is dropped, and so wiped, whenever anything is asked for.
    pub(crate) async fn secret(&self, name: &SecretName) -> Result<Known, Refused> {
        let now = self.ambient.now();
        {
            let mut kept = self.kept();
            // A clock that was set back makes nothing last longer.
            kept.retain(|kept| kept.read <= now && now < kept.read + SECRET_LASTS);
            if let Some(found) = kept.iter().find(|kept| kept.name == *name) {
                return Ok(Known { value: Arc::clone(&found.value), fresh: false });
            }
        }
        let value = Arc::new(self.vault.secret(name).await.map_err(|error| refused(&error))?);
        let mut kept = self.kept();
        kept.retain(|kept| kept.name != *name);
        if kept.len() >= SECRETS_MAX {
            kept.remove(0);
        }
        kept.push(Kept { name: name.clone(), value: Arc::clone(&value), read: now });
        Ok(Known { value, fresh: true })
    }

    /// The secret will not be used again as it was read: the next who asks for it asks the store.
    pub(crate) fn forget(&self, name: &SecretName) {
        self.kept().retain(|kept| kept.name != *name);
    }

    /// The vendor calls this key wrong: forgets it. `Some`: what was used was an old copy, and the store has another by now.
    pub(crate) async fn renewed(&self, name: &SecretName, wrong: &Known) -> Result<Option<Known>, Refused> {
        self.forget(name);
        if wrong.fresh {
            return Ok(None);
        }
        let newer = self.secret(name).await?;
        if newer.text() == wrong.text() {
            self.forget(name);
            return Ok(None);
        }
        Ok(Some(newer))
    }
}

fn refused(error: &VaultError) -> Refused {
    let code = match error {
        VaultError::Missing(_) | VaultError::Lasting { .. } => RefusedCode::SecretMissing,
        VaultError::Passing { .. } => RefusedCode::VendorDown,
    };
    Refused::new(code, describe(error))
}
