//! Who calls, as API Gateway's authorizer has found out; behind a load balancer, whose token is shown.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use aws_lambda_events::apigw::{ApiGatewayRequestAuthorizer, ApiGatewayV2httpRequestContext};
use axum::http::request::Parts;
use lambda_http::request::RequestContext;
use switchyard_api::admit::{Caller, Callers, Role, Stranger};
use switchyard_api::tokens::Tokens;
use switchyard_core::mapping::Glob;
use switchyard_core::ports::{PortError, describe};
use tracing::warn;

/// How long tokens that were read are trusted: as long as a revoked one may still be used.
const FRESH: Duration = Duration::from_secs(60);
/// In front of a role's name, among the scopes of an access token.
const SCOPE: &str = "switchyard/";

/// Who is what: globs over callers' names. Whoever the authorizer lets in and no glob names is a viewer.
#[derive(Clone, Debug, Default)]
pub struct Roles {
    operators: Vec<Glob>,
    submitters: Vec<Glob>,
}

impl Roles {
    /// The globs of two lists, by commas.
    pub fn new(operators: &str, submitters: &str) -> Self {
        let globs = |list: &str| {
            list.split(',').map(str::trim).filter(|glob| !glob.is_empty()).map(Glob::new).collect::<Vec<Glob>>()
        };
        Self { operators: globs(operators), submitters: globs(submitters) }
    }

    fn of(&self, name: &str) -> Role {
        let among = |globs: &[Glob]| globs.iter().any(|glob| glob.matches(name));
        if among(&self.operators) {
            Role::Operator
        } else if among(&self.submitters) {
            Role::Submitter
        } else {
            Role::Viewer
        }
    }
}

/// The caller's name in an ARN of IAM or STS: `role/NAME` for whoever has assumed that role, and never its session;
/// `user/NAME`, `root`, `federated-user/NAME`. One of another account has that account's number in front, so that no
/// name is two callers'.
fn named(arn: &str, own_account: Option<&str>) -> Option<String> {
    let mut parts = arn.splitn(6, ':');
    let ("arn", Some(_partition), Some("iam" | "sts"), Some(""), Some(account), Some(principal)) =
        (parts.next()?, parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    let name = match principal.split_once('/') {
        Some(("assumed-role", role)) => format!("role/{}", role.split('/').next().filter(|role| !role.is_empty())?),
        Some(("role" | "user" | "federated-user", name)) if !name.is_empty() => principal.to_owned(),
        None if principal == "root" => principal.to_owned(),
        Some(_) | None => return None,
    };
    // Where the gateway does not say whose it is, no account is its own.
    if own_account == Some(account) { Some(name) } else { Some(format!("{account}/{name}")) }
}

/// Tells who calls.
pub struct Gateway {
    roles: Roles,
    tokens: RwLock<Known>,
}

#[derive(Default)]
struct Known {
    tokens: Arc<Tokens>,
    read: Option<Instant>,
}

impl Gateway {
    /// Callers with these roles.
    pub fn new(roles: Roles) -> Self {
        Self { roles, tokens: RwLock::default() }
    }

    /// Whether tokens have to be read before this request is judged: it shows one, no authorizer has judged it, and what
    /// is known of tokens may be old.
    pub fn wants_tokens(&self, request: &lambda_http::Request) -> bool {
        let shows = request.headers().contains_key("authorization");
        let judged = matches!(request.extensions().get(), Some(RequestContext::ApiGatewayV2(_)));
        let known = self.tokens.read().unwrap_or_else(PoisonError::into_inner);
        shows && !judged && known.read.is_none_or(|read| read.elapsed() > FRESH)
    }

    /// Takes over the tokens that were read: the text of the yard's list of them, or none where there is no such list.
    /// What cannot be read leaves those that are known, and is asked for again at once.
    pub fn take_tokens(&self, read: Result<Option<String>, PortError>) {
        let tokens = match read {
            Ok(None) => Tokens::default(),
            Ok(Some(text)) => match Tokens::from_json(&text) {
                Ok(tokens) => tokens,
                Err(error) => {
                    warn!(%error, "the tokens stay as they were");
                    return;
                }
            },
            Err(error) => {
                warn!(error = %describe(&error), "the tokens stay as they were");
                return;
            }
        };
        let known = Known { tokens: Arc::new(tokens), read: Some(Instant::now()) };
        *self.tokens.write().unwrap_or_else(PoisonError::into_inner) = known;
    }

    fn by_authorizer(&self, context: &ApiGatewayV2httpRequestContext) -> Result<Caller, Stranger> {
        let Some(ApiGatewayRequestAuthorizer { jwt, iam, .. }) = &context.authorizer else {
            return Err(Stranger::Unnamed);
        };
        if let Some(arn) = iam.as_ref().and_then(|iam| iam.user_arn.as_deref()) {
            let name = named(arn, context.account_id.as_deref()).ok_or(Stranger::Unnamed)?;
            let role = self.roles.of(&name);
            return Ok(Caller { name, role });
        }
        let claims = &jwt.as_ref().ok_or(Stranger::Unnamed)?.claims;
        let claim = |name: &str| claims.get(name).map(String::as_str).filter(|value| !value.is_empty());
        // A machine's token may have no subject of its own (RFC 9068, section 2.2).
        let subject = claim("sub").or_else(|| claim("client_id")).ok_or(Stranger::Unnamed)?;
        let name = format!("jwt/{subject}");
        let scopes = claim("scope").unwrap_or_default().split(' ').filter_map(|scope| scope.strip_prefix(SCOPE));
        let granted = scopes.filter_map(|role| role.parse().ok()).max().unwrap_or(Role::Viewer);
        let role = granted.max(self.roles.of(&name));
        Ok(Caller { name, role })
    }
}

impl Callers for Gateway {
    fn who(&self, request: &Parts) -> Result<Caller, Stranger> {
        match request.extensions.get() {
            Some(RequestContext::ApiGatewayV2(context)) => self.by_authorizer(context),
            Some(_) | None => {
                let known = Arc::clone(&self.tokens.read().unwrap_or_else(PoisonError::into_inner).tokens);
                known.who(request)
            }
        }
    }
}

#[cfg(test)]
mod tests;
