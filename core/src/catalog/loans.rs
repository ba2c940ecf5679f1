//! What a capability's runs are lent, and what they may borrow, as capabilities.yaml says it.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::BadPayload;
use crate::intake::Fields;
use crate::lend::{AzureBy, Borrow, GcloudBy, GithubBy, Grant, GrantOf, Level, Pattern, Scope, SecretName};
use crate::policies::{Wrong, given, is_name};

/// The most loans of one run. Each takes a request of its broker and one of its vendor.
const BORROWS_MAX: usize = 16;
/// The most grants of one capability.
const GRANTS_MAX: usize = 64;
/// The longest session policy: 2,048 characters in all (STS AssumeRole), of which a loan's end takes some.
const SESSION_POLICY_BYTES: usize = 1_800;

/// One line of `may_borrow`.
#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum GrantEntry {
    Aws {
        role: String,
        #[serde(default, deserialize_with = "given")]
        external_id: Option<String>,
        #[serde(default, deserialize_with = "given")]
        session_policy: Option<Map<String, Value>>,
        #[serde(default, deserialize_with = "given")]
        at_most_seconds: Option<u32>,
    },
    Gcloud {
        service_account: String,
        scopes: Vec<String>,
        #[serde(default, deserialize_with = "given")]
        key: Option<String>,
        #[serde(default, deserialize_with = "given")]
        federation: Option<Fields<FederationEntry>>,
        #[serde(default, deserialize_with = "given")]
        at_most_seconds: Option<u32>,
    },
    Azure {
        tenant: String,
        client_id: String,
        resources: Vec<String>,
        #[serde(default, deserialize_with = "given")]
        secret: Option<String>,
        #[serde(default, deserialize_with = "given")]
        certificate: Option<String>,
        #[serde(default)]
        federation: bool,
        #[serde(default, deserialize_with = "given")]
        at_most_seconds: Option<u32>,
    },
    Github {
        owner: String,
        repositories: Vec<String>,
        #[serde(default)]
        permissions: BTreeMap<String, Level>,
        #[serde(default, deserialize_with = "given")]
        app: Option<Fields<AppEntry>>,
        #[serde(default, deserialize_with = "given")]
        token: Option<String>,
        #[serde(default, deserialize_with = "given")]
        at_most_seconds: Option<u32>,
    },
    Global {
        secret: String,
        #[serde(default, deserialize_with = "given")]
        at_most_seconds: Option<u32>,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FederationEntry {
    audience: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AppEntry {
    app_id: String,
    installation_id: u64,
    key: String,
}

/// What is wrong with a field of a grant.
type Odd = (&'static str, String);

impl GrantEntry {
    fn into_grant(self) -> Result<Grant, Odd> {
        let (of, at_most_seconds) = match self {
            Self::Aws { role, external_id, session_policy, at_most_seconds } => {
                let role = pattern("role", &role)?;
                if !role.as_str().starts_with("arn:") {
                    return Err(("role", "expected the ARN of a role, in which `*` may stand for parts".to_owned()));
                }
                // STS takes 2 to 1,224 of these (AssumeRole, ExternalId).
                let fits = |c: char| c.is_ascii_alphanumeric() || "_+=,.@:/-".contains(c);
                if external_id.as_ref().is_some_and(|id| !(2..=1224).contains(&id.len()) || !id.chars().all(fits)) {
                    return Err(("external_id", "expected 2 to 1,224 letters, digits and _+=,.@:/-".to_owned()));
                }
                let session_policy = session_policy.map(statements).transpose()?;
                (GrantOf::Aws { role, external_id, session_policy }, at_most_seconds)
            }
            Self::Gcloud { service_account, scopes, key, federation, at_most_seconds } => {
                let by = match (key, federation) {
                    (Some(key), None) => GcloudBy::Key(secret("key", key)?),
                    (None, Some(Fields(FederationEntry { audience }))) => {
                        if !audience.starts_with("//iam.googleapis.com/") {
                            return Err((
                                "federation.audience",
                                "expected `//iam.googleapis.com/projects/…`".to_owned(),
                            ));
                        }
                        GcloudBy::Federation { audience: word("federation.audience", audience)? }
                    }
                    (None, None) | (Some(_), Some(_)) => {
                        return Err(("kind", "expected exactly one of `key` and `federation`".to_owned()));
                    }
                };
                let service_account = pattern("service_account", &service_account)?;
                (GrantOf::Gcloud { service_account, scopes: words("scopes", scopes)?, by }, at_most_seconds)
            }
            Self::Azure { tenant, client_id, resources, secret: of, certificate, federation, at_most_seconds } => {
                let by = match (of, certificate, federation) {
                    (Some(of), None, false) => AzureBy::Secret(secret("secret", of)?),
                    (None, Some(of), false) => AzureBy::Certificate(secret("certificate", of)?),
                    (None, None, true) => AzureBy::Federation,
                    _ => {
                        let what = "expected exactly one of `secret`, `certificate` and `federation: true`";
                        return Err(("kind", what.to_owned()));
                    }
                };
                let tenant = word("tenant", tenant)?;
                if tenant.contains(['/', ':', '@']) {
                    return Err(("tenant", "expected a tenant's id or domain".to_owned()));
                }
                let (client_id, resources) = (word("client_id", client_id)?, words("resources", resources)?);
                (GrantOf::Azure { tenant, client_id, resources, by }, at_most_seconds)
            }
            Self::Github { owner, repositories, permissions, app, token, at_most_seconds } => {
                let by = match (app, token) {
                    (Some(Fields(AppEntry { app_id, installation_id, key })), None) => {
                        if permissions.is_empty() {
                            return Err(("permissions", "expected at least one: an App has no others".to_owned()));
                        }
                        let (app_id, key) = (word("app.app_id", app_id)?, secret("app.key", key)?);
                        GithubBy::App { app_id, installation_id, key }
                    }
                    (None, Some(token)) if permissions.is_empty() => GithubBy::Token(secret("token", token)?),
                    (None, Some(_)) => {
                        let what = "a personal access token has what its owner gave it, and cannot be narrowed";
                        return Err(("permissions", what.to_owned()));
                    }
                    (None, None) | (Some(_), Some(_)) => {
                        return Err(("kind", "expected exactly one of `app` and `token`".to_owned()));
                    }
                };
                if repositories.is_empty() || repositories.len() > Scope::LISTED {
                    return Err(("repositories", format!("expected 1 to {}", Scope::LISTED)));
                }
                let each = repositories.iter().map(|name| pattern("repositories", name));
                let repositories = each.collect::<Result<Vec<_>, Odd>>()?;
                let owner = word("owner", owner)?;
                for name in permissions.keys() {
                    word("permissions", name.clone())?;
                }
                (GrantOf::Github { owner, repositories, permissions, by }, at_most_seconds)
            }
            Self::Global { secret: name, at_most_seconds } => {
                (GrantOf::Global { secret: pattern("secret", &name)? }, at_most_seconds)
            }
        };
        if at_most_seconds.is_some_and(|most| !(60..=3600).contains(&most)) {
            return Err(("at_most_seconds", "expected 60 to 3600".to_owned()));
        }
        Ok(Grant { of, at_most_seconds })
    }
}

fn pattern(field: &'static str, text: &str) -> Result<Pattern, Odd> {
    Pattern::new(text).map_err(|what| (field, what))
}

/// A name to the letter.
fn word(field: &'static str, text: String) -> Result<String, Odd> {
    if text.contains('*') {
        return Err((field, "is taken to the letter, and has a `*`".to_owned()));
    }
    pattern(field, &text).map(|_| text)
}

fn words(field: &'static str, list: Vec<String>) -> Result<Vec<String>, Odd> {
    if list.is_empty() || list.len() > Scope::LISTED {
        return Err((field, format!("expected 1 to {}", Scope::LISTED)));
    }
    list.into_iter().map(|text| word(field, text)).collect()
}

fn secret(field: &'static str, name: String) -> Result<SecretName, Odd> {
    word(field, name).map(SecretName)
}

/// A session policy, without the statement that ends it: its statements are the loan's.
fn statements(policy: Map<String, Value>) -> Result<String, Odd> {
    let odd = |what: &str| Err(("session_policy", what.to_owned()));
    if policy.get("Version").and_then(Value::as_str) != Some("2012-10-17") {
        return odd("expected `Version: \"2012-10-17\"`");
    }
    if policy.get("Statement").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        return odd("expected `Statement`, a list of at least one");
    }
    let text = Value::Object(policy).to_string();
    if text.len() > SESSION_POLICY_BYTES {
        return odd(&format!("has {} characters, and {SESSION_POLICY_BYTES} is the most", text.len()));
    }
    Ok(text)
}

/// What is lent to each run, and what may be: each of the first must be possible by one of the second.
pub(super) fn read(
    borrows: BTreeMap<String, Fields<Scope>>,
    may_borrow: Vec<Fields<GrantEntry>>,
    wrong: &mut Vec<Wrong>,
) -> (Vec<Borrow>, Vec<Grant>) {
    let mut put = |path: String, what: String| wrong.push((path, what));
    if borrows.len() > BORROWS_MAX {
        put("borrows".to_owned(), format!("expected at most {BORROWS_MAX}"));
    }
    if may_borrow.len() > GRANTS_MAX {
        put("may_borrow".to_owned(), format!("expected at most {GRANTS_MAX}"));
    }
    let mut grants = Vec::new();
    for (at, Fields(entry)) in may_borrow.into_iter().enumerate() {
        match entry.into_grant() {
            Ok(grant) => grants.push(grant),
            Err((field, what)) => put(format!("may_borrow[{at}].{field}"), what),
        }
    }
    let mut lent = Vec::new();
    for (name, Fields(template)) in borrows {
        let path = format!("borrows.{name}");
        if !is_name(&name) {
            put(path.clone(), "expected 1 to 64 lower-case letters, digits and `-`".to_owned());
        }
        if !grants.iter().any(|grant| grant.kind() == template.kind()) {
            put(path.clone(), format!("`may_borrow` has nothing of kind {}", template.kind()));
        }
        let texts = template.texts();
        if let Some((field, text)) =
            texts.iter().find(|(_, text)| text.matches("{{").count() != text.matches("}}").count())
        {
            put(format!("{path}.{field}"), format!("`{}` has a {{{{ without its }}}}", crate::job::one_line(text, 80)));
        }
        let borrow = Borrow { name, template };
        // What no payload changes is held against the grants here, and not only when it is asked for.
        if !borrow.template.texts().iter().any(|(_, text)| text.contains("{{")) {
            let covered = |scope: &Scope| grants.iter().any(|grant| grant.covers(scope));
            match borrow.scope(&Value::Null) {
                Ok(scope) if covered(&scope) => {}
                Ok(scope) => put(path, format!("`may_borrow` does not have {scope}")),
                Err(BadPayload { message, .. }) => put(path, message),
            }
        }
        lent.push(borrow);
    }
    (lent, grants)
}
