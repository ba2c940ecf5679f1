//! The store of secrets on AWS: secrets of Secrets Manager below a prefix, or with `ssm:` in front of a name, encrypted
//! parameters of Systems Manager. The broker's role may read what is below the prefix and nothing else.

use std::fmt;

use async_trait::async_trait;
use aws_sdk_ssm::types::ParameterType;
use secrecy::SecretString;
use switchyard_core::lend::SecretName;
use switchyard_core::ports::PortError;
use switchyard_vendors::{Vault, VaultError};
use zeroize::Zeroizing;

use crate::clients::Clients;
use crate::failure::{code, failed};

/// In front of the name of a parameter.
const PARAMETER: &str = "ssm:";

/// The store.
pub struct AwsVault {
    secrets: aws_sdk_secretsmanager::Client,
    parameters: aws_sdk_ssm::Client,
    prefix: String,
}

impl fmt::Debug for AwsVault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsVault").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl AwsVault {
    /// The store below this prefix, without slashes around it: secrets are called `PREFIX/name`, parameters `/PREFIX/name`.
    pub fn new(clients: &Clients, prefix: &str) -> Self {
        let prefix = prefix.trim_matches('/').to_owned();
        Self { secrets: clients.secretsmanager(), parameters: clients.ssm(), prefix }
    }

    async fn of_secrets(&self, name: &SecretName, id: &str) -> Result<SecretString, VaultError> {
        let subject = || format!("secret {id}");
        let answer = match self.secrets.get_secret_value().secret_id(id).send().await {
            Ok(answer) => answer,
            Err(error) if code(&error) == Some("ResourceNotFoundException") => {
                return Err(VaultError::Missing(name.clone()));
            }
            Err(error) => return Err(not_had(name, failed("read", subject(), &error))),
        };
        match answer.secret_string.map(Zeroizing::new) {
            Some(text) => Ok(SecretString::from(text.as_str())),
            None => Err(not_had(name, PortError::permanent("read", subject(), "it is binary, and not a text"))),
        }
    }

    async fn of_parameters(&self, name: &SecretName, id: &str) -> Result<SecretString, VaultError> {
        let subject = || format!("parameter {id}");
        let answer = match self.parameters.get_parameter().name(id).with_decryption(true).send().await {
            Ok(answer) => answer,
            Err(error) if matches!(code(&error), Some("ParameterNotFound" | "ParameterVersionNotFound")) => {
                return Err(VaultError::Missing(name.clone()));
            }
            Err(error) => return Err(not_had(name, failed("read", subject(), &error))),
        };
        let (kind, value) = answer.parameter.map(|found| (found.r#type, found.value.map(Zeroizing::new))).unzip();
        // Whoever may list parameters can read one that is not encrypted: it is no secret.
        if kind.flatten() != Some(ParameterType::SecureString) {
            return Err(not_had(name, PortError::permanent("read", subject(), "it is no SecureString")));
        }
        match value.flatten() {
            Some(text) => Ok(SecretString::from(text.as_str())),
            None => Err(not_had(name, PortError::retryable("read", subject(), "the answer has no value"))),
        }
    }
}

fn not_had(name: &SecretName, cause: PortError) -> VaultError {
    let name = name.clone();
    if cause.retryable {
        VaultError::Passing { name, cause: cause.into() }
    } else {
        VaultError::Lasting { name, cause: cause.into() }
    }
}

#[async_trait]
impl Vault for AwsVault {
    async fn secret(&self, name: &SecretName) -> Result<SecretString, VaultError> {
        match name.0.strip_prefix(PARAMETER) {
            Some(parameter) => self.of_parameters(name, &format!("/{}/{parameter}", self.prefix)).await,
            None => self.of_secrets(name, &format!("{}/{name}", self.prefix)).await,
        }
    }
}
