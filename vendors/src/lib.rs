//! Where credentials come from: the token endpoints of GitHub, Google Cloud and Microsoft Entra, AWS's STS, the yard's own
//! store of secrets. The room `lend` of the core decides who may have one; this gets it, for the broker alone.
//!
//! Nothing secret is in an error, a log line or a `Debug` output. What is secret is kept in buffers that are wiped when they
//! are dropped. Out of reach is what HTTP and TLS hold of a request while it is sent, and the numbers of a private key while
//! ring signs with it.

mod doors;
mod settings;
mod cache;
mod http;
mod answer;
mod jwt;
mod aws;
mod gcloud;
mod azure;
mod github;
pub mod vault_file;

use std::sync::Arc;

use async_trait::async_trait;
use secrecy::SecretString;
use switchyard_core::lend::{Credential, GrantOf, Issued, Loan, Order, Refused, RefusedCode, Scope, SecretName};
use switchyard_core::ports::{Ambient, PortError, Vendors, describe};

use self::answer::VendorError;
pub use self::aws::{Assumed, Session};
use self::cache::{Cache, Known};
pub use self::cache::{SECRET_LASTS, SECRETS_MAX};
pub use self::doors::{Identity, Roles, Vault, VaultError};
use self::http::Http;
pub use self::settings::{BadSettings, Endpoints, Patience, Settings};

/// What the lenders are made of.
pub struct Doors {
    /// The yard's own store of secrets.
    pub vault: Arc<dyn Vault>,
    /// Who assumes roles of AWS; `None`: no such credential is lent.
    pub roles: Option<Arc<dyn Roles>>,
    /// Who vouches for the broker towards Google and Microsoft; `None`: nothing is lent by federation.
    pub identity: Option<Arc<dyn Identity>>,
    /// Time and chance.
    pub ambient: Arc<dyn Ambient>,
}

/// Everyone who lends something: the [`Vendors`] of a broker.
pub struct Lenders {
    cache: Cache,
    roles: Option<Arc<dyn Roles>>,
    identity: Option<Arc<dyn Identity>>,
    ambient: Arc<dyn Ambient>,
    http: Http,
    settings: Settings,
}

impl Lenders {
    /// Lenders behind these doors.
    ///
    /// # Errors
    ///
    /// An endpoint is no URL, or would have secrets sent in the clear; a certificate to trust is none.
    pub fn new(doors: Doors, settings: Settings) -> Result<Self, BadSettings> {
        let Doors { vault, roles, identity, ambient } = doors;
        settings.endpoints.check()?;
        let http = Http::new(&settings, Arc::clone(&ambient))?;
        let cache = Cache::new(vault, Arc::clone(&ambient));
        Ok(Self { cache, roles, identity, ambient, http, settings })
    }

    /// The broker's own identity token for this audience.
    async fn identity(&self, kind: &str, audience: &str) -> Result<SecretString, Refused> {
        let Some(identity) = &self.identity else {
            let message = format!("nothing here vouches for the broker, and a {kind} federation takes that");
            return Err(Refused::new(RefusedCode::NoLender, message));
        };
        identity.token(audience).await.map_err(|error| by_aws(&error))
    }

    /// A secret that is lent, or sent, as it is: without the line end that editors put behind it.
    fn token<'a>(&self, name: &SecretName, known: &'a Known) -> Result<&'a str, Refused> {
        let text = known.text().trim_end_matches(['\r', '\n']);
        if answer::is_token(text) { Ok(text) } else { Err(self.unfit(name, "it has characters that no token has")) }
    }

    /// What is in the store under that name is not what it takes. Whoever mends it need not wait until it is forgotten.
    fn unfit(&self, name: &SecretName, why: &str) -> Refused {
        self.cache.forget(name);
        Refused::new(RefusedCode::SecretMissing, format!("secret `{name}` is not what it takes: {why}"))
    }

    async fn get(&self, order: &Order) -> Result<Issued, Refused> {
        match (&order.grant.of, &order.scope) {
            (GrantOf::Aws { external_id, session_policy, .. }, Scope::Aws { role }) => {
                let Some(roles) = &self.roles else {
                    return Err(Refused::new(RefusedCode::NoLender, "nothing here assumes roles of AWS"));
                };
                let session = Session::new(order, role, external_id.as_deref(), session_policy.as_deref())?;
                roles.assume(&session).await.map_err(|error| by_aws(&error)).map(Assumed::into_issued)
            }
            (GrantOf::Gcloud { by, .. }, Scope::Gcloud { service_account, scopes }) => {
                self.google(order, by, service_account, scopes).await
            }
            (GrantOf::Azure { by, .. }, Scope::Azure { tenant, client_id, resource }) => {
                self.entra(order, by, (tenant, client_id, resource)).await
            }
            (GrantOf::Github { by, .. }, Scope::Github { owner, repositories, permissions }) => {
                self.github(order, by, (owner, repositories, permissions)).await
            }
            (GrantOf::Global { .. }, Scope::Global { secret }) => {
                let value = self.cache.secret(&SecretName(secret.clone())).await?;
                // Without the line end that editors put behind it: a header would not take it.
                let text = value.text();
                let text = text.strip_suffix('\n').map_or(text, |text| text.strip_suffix('\r').unwrap_or(text));
                let credential = Credential::Value(SecretString::from(text));
                Ok(Issued { credential, expires: None, reference: None, revocable: false })
            }
            (
                GrantOf::Aws { .. }
                | GrantOf::Gcloud { .. }
                | GrantOf::Azure { .. }
                | GrantOf::Github { .. }
                | GrantOf::Global { .. },
                scope,
            ) => Err(Refused::new(RefusedCode::ScopeNotAllowed, format!("the grant is not one of {scope}"))),
        }
    }
}

/// AWS's refusal, or that it is down.
fn by_aws(error: &PortError) -> Refused {
    let code = if error.retryable { RefusedCode::VendorDown } else { RefusedCode::VendorRefused };
    Refused::new(code, format!("AWS: {}", describe(error)))
}

/// The vendor's name in refusals, for each kind.
fn vendor(scope: &Scope) -> &'static str {
    match scope {
        Scope::Aws { .. } => "AWS",
        Scope::Gcloud { .. } => gcloud::GOOGLE,
        Scope::Azure { .. } => azure::ENTRA,
        Scope::Github { .. } => github::GITHUB,
        Scope::Global { .. } => "the store of secrets",
    }
}

#[async_trait]
impl Vendors for Lenders {
    async fn issue(&self, order: &Order) -> Result<Issued, Refused> {
        let budget = self.settings.patience.budget;
        match tokio::time::timeout(budget, self.get(order)).await {
            Ok(got) => got,
            Err(_) => {
                let (vendor, seconds) = (vendor(&order.scope), budget.as_secs_f64());
                let message = format!("{vendor}: no answer in {seconds} seconds, all tries together");
                Err(Refused::new(RefusedCode::VendorDown, message))
            }
        }
    }

    async fn revoke(&self, loan: &Loan) -> Result<bool, PortError> {
        match &loan.scope {
            Scope::Github { .. } => {}
            // Their tokens last until their own end: none of these vendors can end one by itself.
            Scope::Aws { .. } | Scope::Gcloud { .. } | Scope::Azure { .. } | Scope::Global { .. } => return Ok(false),
        }
        let budget = self.settings.patience.budget;
        let failed = |cause: VendorError| {
            let subject = format!("loan {}", loan.id);
            match cause {
                VendorError::Refused { .. } => PortError::permanent("revoke", subject, cause),
                VendorError::Down { .. } | VendorError::Answer { .. } => PortError::retryable("revoke", subject, cause),
            }
        };
        match tokio::time::timeout(budget, self.revoke_github(&loan.credential)).await {
            Ok(revoked) => revoked.map_err(failed),
            Err(_) => Err(failed(VendorError::down(github::GITHUB, "no answer in time"))),
        }
    }
}
