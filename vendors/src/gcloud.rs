//! Google Cloud: access tokens of service accounts, by the account's own key (RFC 7523) or by workload identity federation
//! (RFC 8693), in which nothing is stored.

use std::time::Duration;

use http::Method;
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::json;
use switchyard_core::job::one_line;
use switchyard_core::lend::{Credential, GcloudBy, Issued, Order, Refused};
use zeroize::Zeroizing;

use crate::Lenders;
use crate::answer::{self, Granted, VendorError};
use crate::http::{Question, Sent};
use crate::jwt::{Algorithm, Key, Times};

/// Its name in refusals.
pub(crate) const GOOGLE: &str = "Google";
/// What the exchanged token is for: to impersonate the service account, and all else that its pool may.
const CLOUD_PLATFORM: &str = "https://www.googleapis.com/auth/cloud-platform";
/// The lifetimes that can be asked for: Google's clients ask for ten minutes at least, an hour is the most without a policy of
/// the organization. Five minutes are granted, too.
const LIFETIME_SECONDS: (u64, u64) = (300, 3600);
/// How far Google's clock may be from ours before a token seems to last longer than was asked for.
const SKEW: Duration = Duration::from_secs(300);

/// A service account's key, as Google hands it out. Where it says to send what it signs is not read: that is ours to know.
#[derive(Deserialize)]
struct KeyFile {
    client_email: String,
    private_key: Zeroizing<String>,
    private_key_id: String,
}

/// The answer of `generateAccessToken`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Impersonated {
    access_token: Zeroizing<String>,
    expire_time: Timestamp,
}

impl Lenders {
    pub(crate) async fn google(
        &self,
        order: &Order,
        by: &GcloudBy,
        account: &str,
        scopes: &[String],
    ) -> Result<Issued, Refused> {
        match by {
            GcloudBy::Key(name) => {
                let mut known = self.cache.secret(name).await?;
                loop {
                    let file: KeyFile = serde_json::from_str(known.text())
                        .map_err(|_| self.unfit(name, "it is no key file of a service account"))?;
                    if file.client_email != account {
                        let of = one_line(&file.client_email, 100);
                        return Err(self.unfit(name, &format!("it is the key of {of}, and {account} is asked for")));
                    }
                    let key = Key::read(&file.private_key).map_err(|why| self.unfit(name, why))?;
                    let Times { iat, exp } = Times::at(order.now);
                    let (url, scope) = (&self.settings.endpoints.google_token, scopes.join(" "));
                    let claims = json!({ "iss": account, "scope": scope, "aud": url, "iat": iat, "exp": exp });
                    let signed = key.sign(Algorithm::Rs256, &[("kid", &file.private_key_id)], &claims);
                    let assertion = signed.map_err(|why| self.unfit(name, why))?;
                    match self.by_assertion(order.now, &assertion, scopes).await {
                        Ok((token, expires)) => {
                            // Google's audit logs name the key.
                            let reference = Some(one_line(&file.private_key_id, 100));
                            return Ok(Issued {
                                credential: Credential::Token(token),
                                expires: Some(expires),
                                reference,
                                revocable: false,
                            });
                        }
                        Err(error) if error.blames_the_key() => match self.cache.renewed(name, &known).await? {
                            Some(newer) => known = newer,
                            None => return Err(error.into()),
                        },
                        Err(error) => return Err(error.into()),
                    }
                }
            }
            GcloudBy::Federation { audience } => {
                let subject = self.identity("Google", audience).await?;
                let ours = self.exchanged(order.now, audience, &subject).await?;
                let (token, expires) = self.impersonated(order, account, scopes, &ours).await?;
                Ok(Issued {
                    credential: Credential::Token(token),
                    expires: Some(expires),
                    reference: None,
                    revocable: false,
                })
            }
        }
    }

    async fn by_assertion(
        &self,
        now: Timestamp,
        assertion: &str,
        scopes: &[String],
    ) -> Result<(SecretString, Timestamp), VendorError> {
        let form =
            Sent::form(&[("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), ("assertion", assertion)]);
        let url = self.settings.endpoints.google_token.clone();
        let body = self.http.ask(posted(url, None, form, &[assertion])).await?;
        let granted: Granted = answer::read(GOOGLE, &body)?;
        if let Some(more) = broader(granted.scope.as_deref(), scopes) {
            let what = format!("its token is for {}, too, which was not asked for", one_line(more, 100));
            return Err(VendorError::answer(GOOGLE, what));
        }
        granted.token(GOOGLE, now)
    }

    async fn exchanged(
        &self,
        now: Timestamp,
        audience: &str,
        subject: &SecretString,
    ) -> Result<SecretString, VendorError> {
        let subject = subject.expose_secret();
        let form = Sent::form(&[
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("audience", audience),
            ("scope", CLOUD_PLATFORM),
            ("requested_token_type", "urn:ietf:params:oauth:token-type:access_token"),
            ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
            ("subject_token", subject),
        ]);
        let url = self.settings.endpoints.google_exchange.clone();
        let body = self.http.ask(posted(url, None, form, &[subject])).await?;
        answer::read::<Granted>(GOOGLE, &body)?.token(GOOGLE, now).map(|(token, _)| token)
    }

    async fn impersonated(
        &self,
        order: &Order,
        account: &str,
        scopes: &[String],
        ours: &SecretString,
    ) -> Result<(SecretString, Timestamp), VendorError> {
        let rest = Duration::try_from(order.until.duration_since(order.now)).unwrap_or_default();
        let lifetime = rest.as_secs().clamp(LIFETIME_SECONDS.0, LIFETIME_SECONDS.1);
        let url = self.settings.endpoints.google_credentials.trim_end_matches('/');
        // A scope's texts hold no character that means something in a path but `/`, and an account has none of those.
        let url = format!("{url}/v1/projects/-/serviceAccounts/{account}:generateAccessToken");
        let body = json!({ "scope": scopes, "lifetime": format!("{lifetime}s") }).to_string().into_bytes();
        let ours = ours.expose_secret();
        let body = self.http.ask(posted(url, Some(ours), Sent::Json(body), &[ours])).await?;
        let given: Impersonated = answer::read(GOOGLE, &body)?;
        let expires = answer::expiry(GOOGLE, order.now, given.expire_time)?;
        if expires > order.now + Duration::from_secs(lifetime) + SKEW {
            let what = format!("its token lasts longer than the {lifetime} seconds that were asked for");
            return Err(VendorError::answer(GOOGLE, what));
        }
        Ok((answer::token(GOOGLE, &given.access_token)?, expires))
    }
}

fn posted<'a>(url: String, bearer: Option<&'a str>, body: Sent, secrets: &'a [&'a str]) -> Question<'a> {
    Question { vendor: GOOGLE, method: Method::POST, url, bearer, headers: &[], body, secrets }
}

/// A scope that was granted and not asked for.
fn broader<'a>(granted: Option<&'a str>, asked: &[String]) -> Option<&'a str> {
    granted?.split_ascii_whitespace().find(|scope| !asked.iter().any(|asked| asked == scope))
}
