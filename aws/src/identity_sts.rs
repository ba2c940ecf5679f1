//! The broker's own identity, as a token that Google's and Microsoft's federations take: STS signs who calls it (IAM, "Outbound
//! identity federation"). The account has to switch that on once (`iam:EnableOutboundWebIdentityFederation`), and the broker's
//! role needs `sts:GetWebIdentityToken`. The token's issuer is the account's own, its subject the role's ARN.

use std::fmt;

use async_trait::async_trait;
use aws_sdk_sts::Client;
use secrecy::SecretString;
use switchyard_core::ports::PortError;
use switchyard_vendors::Identity;
use zeroize::Zeroizing;

use crate::clients::Clients;
use crate::failure::failed;

/// How it is signed: what both federations take (GetWebIdentityToken, `SigningAlgorithm`).
const ALGORITHM: &str = "RS256";
/// How long it can be shown: it is exchanged at once. A minute is the least, five are what STS gives by itself.
const LASTS_SECONDS: i32 = 300;

/// The identity, by STS.
pub struct StsIdentity {
    client: Client,
}

impl fmt::Debug for StsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StsIdentity").finish_non_exhaustive()
    }
}

impl StsIdentity {
    /// The identity of whose credentials these clients have.
    pub fn new(clients: &Clients) -> Self {
        Self { client: clients.sts() }
    }
}

#[async_trait]
impl Identity for StsIdentity {
    async fn token(&self, audience: &str) -> Result<SecretString, PortError> {
        let subject = || format!("the broker's identity for {audience}");
        let asked = self.client.get_web_identity_token().audience(audience).signing_algorithm(ALGORITHM);
        let answer = asked.duration_seconds(LASTS_SECONDS).send().await;
        let answer = answer.map_err(|error| failed("get", subject(), &error))?;
        match answer.web_identity_token.map(Zeroizing::new).filter(|token| !token.is_empty()) {
            Some(token) => Ok(SecretString::from(token.as_str())),
            None => Err(PortError::retryable("get", subject(), "the answer has no token")),
        }
    }
}
