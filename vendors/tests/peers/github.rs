//! GitHub's API for Apps, as its reference has it.

use std::collections::BTreeMap;

use jiff::{Timestamp, ToSpan};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use serde_json::{Value, json};
use switchyard_core::lend::{GithubBy, GrantOf, Level, Pattern, Scope, SecretName};

use crate::scene::{Heard, PUBLIC};

pub(crate) const TOKEN: &str = "ghs_CANARYinstallation";
pub(crate) const PAT: &str = "github_pat_CANARYpersonal";
const PATH: &str = "/app/installations/77/access_tokens";

fn refused(status: u16, message: &str) -> (u16, Value) {
    (
        status,
        json!({ "message": message, "documentation_url": "https://docs.github.com", "status": status.to_string() }),
    )
}

pub(crate) fn serve(heard: &Heard, _url: &str) -> (u16, Value) {
    if !heard.header("user-agent").starts_with("switchyard/") {
        return refused(403, "Request forbidden by administrative rules.");
    }
    if heard.header("accept") != "application/vnd.github+json" || heard.header("x-github-api-version") != "2022-11-28" {
        return refused(415, "Unsupported version");
    }
    match (heard.method.as_str(), heard.path.as_str()) {
        ("POST", PATH) => token(heard),
        ("DELETE", "/installation/token") if heard.bearer() == TOKEN => (204, Value::Null),
        ("DELETE", "/installation/token") => refused(401, "Bad credentials"),
        _ => refused(404, "Not Found"),
    }
}

fn token(heard: &Heard) -> (u16, Value) {
    let mut validation = Validation::new(Algorithm::RS256);
    validation.set_issuer(&["12345"]);
    validation.leeway = 0;
    let checked = decode::<Value>(heard.bearer(), &DecodingKey::from_rsa_der(PUBLIC), &validation);
    let Ok(checked) = checked else { return refused(401, "A JSON web token could not be decoded") };
    let (iat, exp) = (checked.claims["iat"].as_i64().unwrap(), checked.claims["exp"].as_i64().unwrap());
    let now = Timestamp::now().as_second();
    if iat > now || exp > now + 600 {
        return refused(401, "'Expiration time' claim ('exp') is too far in the future");
    }
    let asked = heard.json();
    let (repositories, permissions) = (asked["repositories"].as_array().unwrap(), asked["permissions"].clone());
    if repositories.iter().any(|name| !["yard", "docs"].contains(&name.as_str().unwrap())) {
        return refused(422, "There is at least one repository that does not exist or is not accessible.");
    }
    if permissions.as_object().unwrap().keys().any(|name| !["contents", "issues"].contains(&name.as_str())) {
        return refused(422, "The permissions requested are not granted to this installation.");
    }
    (201, given(repositories, permissions))
}

/// What is answered to who asks for these.
pub(crate) fn given(repositories: &[Value], mut permissions: Value) -> Value {
    let listed =
        |name: &Value| json!({ "id": 1, "name": name, "full_name": format!("Acme/{}", name.as_str().unwrap()) });
    permissions["metadata"] = "read".into();
    json!({
        "token": TOKEN,
        "expires_at": (Timestamp::now() + 1.hour()).to_string(),
        "permissions": permissions,
        "repository_selection": "selected",
        "repositories": repositories.iter().map(listed).collect::<Vec<_>>(),
    })
}

pub(crate) fn by_app() -> GithubBy {
    GithubBy::App { app_id: "12345".into(), installation_id: 77, key: SecretName("github".into()) }
}

pub(crate) fn by_token() -> GithubBy {
    GithubBy::Token(SecretName("pat".into()))
}

pub(crate) fn grant(by: GithubBy) -> GrantOf {
    let permissions = permissions(&[("contents", Level::Write), ("issues", Level::Write), ("checks", Level::Read)]);
    GrantOf::Github { owner: "acme".into(), repositories: vec![Pattern::new("*").unwrap()], permissions, by }
}

pub(crate) fn permissions(list: &[(&str, Level)]) -> BTreeMap<String, Level> {
    list.iter().map(|(name, level)| ((*name).to_owned(), *level)).collect()
}

pub(crate) fn scope(repositories: &[&str], list: &[(&str, Level)]) -> Scope {
    let repositories = repositories.iter().map(|name| (*name).to_owned()).collect();
    Scope::Github { owner: "acme".into(), repositories, permissions: permissions(list) }
}

/// What most of these tests ask for.
pub(crate) fn plain() -> Scope {
    scope(&["yard"], &[("contents", Level::Read)])
}
