//! Roles that are assumed for a loan. What a session may do and what it is called was decided before
//! ([`switchyard_vendors::Session`]): here it is asked for.
//!
//! The trust policy of a role that is lent must allow the broker's role `sts:AssumeRole`, `sts:SetSourceIdentity` and
//! `sts:TagSession`.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use aws_sdk_sts::Client;
use aws_sdk_sts::types::Tag;
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use switchyard_core::ports::PortError;
use switchyard_vendors::vault_file::FileVault;
use switchyard_vendors::{Assumed, Roles, Session};
use zeroize::Zeroizing;

use crate::clients::Clients;
use crate::failure::failed;

/// Roles, by STS.
pub struct StsRoles {
    client: Client,
}

impl fmt::Debug for StsRoles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StsRoles").finish_non_exhaustive()
    }
}

impl StsRoles {
    /// Roles that these clients' credentials may assume.
    pub fn new(clients: &Clients) -> Self {
        Self { client: clients.sts() }
    }
}

#[async_trait]
impl Roles for StsRoles {
    async fn assume(&self, session: &Session) -> Result<Assumed, PortError> {
        let Session { role, name, source_identity, external_id, tags, duration_seconds, policy } = session;
        let odd = |what: &'static str| PortError::retryable("assume", role, what);
        let tags = tags.iter().map(|(key, value)| Tag::builder().key(*key).value(value).build());
        let tags = tags.collect::<Result<Vec<_>, _>>().map_err(|error| PortError::permanent("assume", role, error))?;
        let seconds = i32::try_from(*duration_seconds).unwrap_or(i32::MAX);
        let asked = self.client.assume_role().role_arn(role).role_session_name(name).source_identity(source_identity);
        let asked = asked.set_external_id(external_id.clone()).set_tags(Some(tags)).duration_seconds(seconds);
        let answer = asked.policy(policy).send().await.map_err(|error| failed("assume", role, &error))?;
        let Some(given) = answer.credentials else { return Err(odd("the answer has no credentials")) };
        let expires = Timestamp::from_second(given.expiration.secs()).map_err(|_| odd("the answer ends at no time"))?;
        let (secret, token) = (Zeroizing::new(given.secret_access_key), Zeroizing::new(given.session_token));
        if given.access_key_id.is_empty() || secret.is_empty() || token.is_empty() {
            return Err(odd("the answer has empty credentials"));
        }
        Ok(Assumed {
            access_key_id: given.access_key_id,
            secret_access_key: SecretString::from(secret.as_str()),
            session_token: SecretString::from(token.as_str()),
            expires,
        })
    }
}

/// Credentials as the operator's file on one machine has them, whenever they are asked for: roles are assumed with them.
pub fn of_file(vault: Arc<FileVault>) -> SharedCredentialsProvider {
    SharedCredentialsProvider::new(OfFile(vault))
}

#[derive(Debug)]
struct OfFile(Arc<FileVault>);

impl ProvideCredentials for OfFile {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::ready(match self.0.aws() {
            Ok(Some(keys)) => {
                let token = keys.session_token.map(|token| token.expose_secret().to_owned());
                let secret = keys.secret_access_key.expose_secret().to_owned();
                Ok(Credentials::new(keys.access_key_id, secret, token, None, "secrets file"))
            }
            Ok(None) => Err(CredentialsError::not_loaded("the file of secrets has no entry `aws`")),
            Err(error) => Err(CredentialsError::provider_error(error)),
        })
    }
}
