//! The doors behind which secrets lie. On AWS others implement them than on one machine.

use async_trait::async_trait;
use secrecy::SecretString;
use switchyard_core::lend::SecretName;
use switchyard_core::ports::PortError;

use crate::aws::{Assumed, Session};

/// Why a secret is not had. No cause repeats any of its value.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// There is none of that name.
    #[error("secret `{0}` is not in the store of secrets")]
    Missing(SecretName),
    /// It stays so until somebody changes something: it may not be read, or the store is not fit to be read.
    #[error("secret `{name}` may not be had")]
    Lasting {
        /// Which.
        name: SecretName,
        /// Why.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store does not answer just now.
    #[error("secret `{name}` cannot be had just now")]
    Passing {
        /// Which.
        name: SecretName,
        /// Why.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The yard's own store of secrets.
#[async_trait]
pub trait Vault: Send + Sync {
    /// The secret of that name, as it is now.
    async fn secret(&self, name: &SecretName) -> Result<SecretString, VaultError>;
}

/// Who assumes roles of AWS.
#[async_trait]
pub trait Roles: Send + Sync {
    /// Assumes a role for this session. An error that may pass is retryable; no error repeats a credential.
    async fn assume(&self, session: &Session) -> Result<Assumed, PortError>;
}

/// Who vouches for the broker: an issuer of OpenID Connect tokens that Google's and Microsoft's federations trust.
#[async_trait]
pub trait Identity: Send + Sync {
    /// A token that says who the broker is, for this audience and for minutes.
    async fn token(&self, audience: &str) -> Result<SecretString, PortError>;
}
