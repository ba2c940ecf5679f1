//! Microsoft Entra: access tokens of an application, by a client secret, by a certificate or by federation (Microsoft identity
//! platform, "OAuth 2.0 client credentials flow").

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::Method;
use ring::digest::{SHA256, digest};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use secrecy::ExposeSecret;
use serde_json::json;
use switchyard_core::lend::{AzureBy, Credential, Issued, Order, Refused, SecretName};
use zeroize::Zeroizing;

use crate::Lenders;
use crate::answer::{self, Granted, VendorError};
use crate::cache::Known;
use crate::http::{Question, Sent};
use crate::jwt::{Algorithm, Key, Times};

/// Its name in refusals.
pub(crate) const ENTRA: &str = "Microsoft Entra";
/// Whom an identity token has to be for, that an application's federated credential takes ("Workload identity federation").
const AUDIENCE: &str = "api://AzureADTokenExchange";
/// What the signed statement is (RFC 7523, section 2.2).
const ASSERTION: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// What is asked for: the tenant, the application, what the token is for.
type Wanted<'a> = (&'a str, &'a str, &'a str);

/// How the application shows who it is.
enum Shown<'a> {
    Secret(&'a str),
    Assertion(&'a str),
}

impl Lenders {
    pub(crate) async fn entra(&self, order: &Order, by: &AzureBy, wanted: Wanted<'_>) -> Result<Issued, Refused> {
        let (name, by_certificate) = match by {
            AzureBy::Secret(name) => (name, false),
            AzureBy::Certificate(name) => (name, true),
            AzureBy::Federation => {
                let identity = self.identity("Microsoft", AUDIENCE).await?;
                return Ok(self.entra_token(order, wanted, Shown::Assertion(identity.expose_secret())).await?);
            }
        };
        let mut known = self.cache.secret(name).await?;
        loop {
            let asked = if by_certificate {
                let assertion = self.assertion(order, wanted, name, &known)?;
                self.entra_token(order, wanted, Shown::Assertion(&assertion)).await
            } else {
                self.entra_token(order, wanted, Shown::Secret(self.token(name, &known)?)).await
            };
            match asked {
                Ok(issued) => return Ok(issued),
                Err(error) if error.blames_the_key() => match self.cache.renewed(name, &known).await? {
                    Some(newer) => known = newer,
                    None => return Err(error.into()),
                },
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn entra_url(&self, tenant: &str) -> String {
        format!("{}/{tenant}/oauth2/v2.0/token", self.settings.endpoints.entra.trim_end_matches('/'))
    }

    /// What the application says of itself, signed with the key of its certificate ("Microsoft identity platform application
    /// authentication certificate credentials").
    fn assertion(
        &self,
        order: &Order,
        (tenant, client_id, _): Wanted<'_>,
        name: &SecretName,
        known: &Known,
    ) -> Result<Zeroizing<String>, Refused> {
        let certificate = CertificateDer::from_pem_slice(known.text().as_bytes());
        let certificate = certificate.map_err(|_| self.unfit(name, "it has no certificate, PEM"))?;
        let key = Key::read(known.text()).map_err(|why| self.unfit(name, why))?;
        let thumbprint = BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA256, &certificate));
        let Times { iat, exp } = Times::at(order.now);
        let mut chance = [0; 16];
        chance.copy_from_slice(&self.ambient.random()[..16]);
        let claims = json!({
            "aud": self.entra_url(tenant),
            "iss": client_id,
            "sub": client_id,
            "jti": uuid::Builder::from_random_bytes(chance).into_uuid().to_string(),
            "iat": iat,
            "nbf": iat,
            "exp": exp,
        });
        let signed = key.sign(Algorithm::Ps256, &[("x5t#S256", &thumbprint)], &claims);
        signed.map_err(|why| self.unfit(name, why))
    }

    async fn entra_token(
        &self,
        order: &Order,
        (tenant, client_id, resource): Wanted<'_>,
        shown: Shown<'_>,
    ) -> Result<Issued, VendorError> {
        let grant = [("grant_type", "client_credentials"), ("client_id", client_id), ("scope", resource)];
        let (form, secret) = match shown {
            Shown::Secret(secret) => {
                let [a, b, c] = grant;
                (Sent::form(&[a, b, c, ("client_secret", secret)]), secret)
            }
            Shown::Assertion(assertion) => {
                let [a, b, c] = grant;
                let kind = ("client_assertion_type", ASSERTION);
                (Sent::form(&[a, b, c, kind, ("client_assertion", assertion)]), assertion)
            }
        };
        let question = Question {
            vendor: ENTRA,
            method: Method::POST,
            url: self.entra_url(tenant),
            bearer: None,
            headers: &[],
            body: form,
            secrets: &[secret],
        };
        let body = self.http.ask(question).await?;
        let (token, expires) = answer::read::<Granted>(ENTRA, &body)?.token(ENTRA, order.now)?;
        Ok(Issued { credential: Credential::Token(token), expires: Some(expires), reference: None, revocable: false })
    }
}
