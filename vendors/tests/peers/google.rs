//! Google's token endpoint, its token exchange, and its service account credentials, as their references have them.

use std::collections::BTreeMap;

use jiff::{Timestamp, ToSpan};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Value, json};
use switchyard_core::lend::{GcloudBy, GrantOf, Pattern, Scope, SecretName};

use crate::scene::{Heard, IDENTITY, OURS, PUBLIC};

pub(crate) const ACCOUNT: &str = "scan@one.iam.gserviceaccount.com";
pub(crate) const READ: &str = "https://www.googleapis.com/auth/devstorage.read_only";
pub(crate) const COMPUTE: &str = "https://www.googleapis.com/auth/compute.readonly";
pub(crate) const PROVIDER: &str =
    "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/yard/providers/aws";

fn refused(code: &str, text: &str) -> (u16, Value) {
    (400, json!({ "error": code, "error_description": text }))
}

pub(crate) fn serve(heard: &Heard, url: &str) -> (u16, Value) {
    match heard.path.as_str() {
        "/token" => by_assertion(&heard.form(), &format!("{url}/token")),
        "/v1/token" => exchange(heard),
        path if path == format!("/v1/projects/-/serviceAccounts/{ACCOUNT}:generateAccessToken") => impersonate(heard),
        path => (404, json!({ "error": { "code": 404, "status": "NOT_FOUND", "message": path } })),
    }
}

fn by_assertion(form: &BTreeMap<String, String>, audience: &str) -> (u16, Value) {
    if form["grant_type"] != "urn:ietf:params:oauth:grant-type:jwt-bearer" {
        return refused("unsupported_grant_type", "Invalid grant_type");
    }
    let mut validation = Validation::new(Algorithm::RS256);
    validation.set_audience(&[audience]);
    validation.set_issuer(&[ACCOUNT]);
    validation.leeway = 0;
    let checked = decode::<Value>(&form["assertion"], &DecodingKey::from_rsa_der(PUBLIC), &validation);
    let claims = match checked {
        Ok(checked) => checked.claims,
        Err(error) => return refused("invalid_grant", &format!("Invalid JWT: {:?}", error.kind())),
    };
    let (now, iat, exp) = (Timestamp::now().as_second(), claims["iat"].as_i64(), claims["exp"].as_i64());
    let (Some(iat), Some(exp)) = (iat, exp) else { return refused("invalid_grant", "iat and exp") };
    if iat > now || exp - iat > 3600 {
        return refused("invalid_grant", "Token must be a short-lived token (60 minutes)");
    }
    if decode_header(&form["assertion"]).unwrap().kid.as_deref() != Some("key-1") {
        return refused("invalid_grant", "Invalid kid");
    }
    let scopes: Vec<&str> = claims["scope"].as_str().unwrap_or_default().split(' ').collect();
    if scopes.iter().any(|scope| ![READ, COMPUTE].contains(scope)) {
        return refused("invalid_scope", "Invalid OAuth scope or ID token audience provided.");
    }
    (
        200,
        json!({ "access_token": format!("ya29.CANARY-{}", scopes.len()), "token_type": "Bearer", "expires_in": 3599 }),
    )
}

fn exchange(heard: &Heard) -> (u16, Value) {
    let form = heard.form();
    assert!(heard.bearer().is_empty(), "the exchange takes no such header");
    for (name, value) in [
        ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
        ("audience", PROVIDER),
        ("scope", "https://www.googleapis.com/auth/cloud-platform"),
        ("requested_token_type", "urn:ietf:params:oauth:token-type:access_token"),
        ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
    ] {
        if form[name] != value {
            return refused("invalid_request", &format!("Invalid value for {name}"));
        }
    }
    if form["subject_token"] != IDENTITY {
        return refused("invalid_grant", "The given credential is rejected by the attribute condition.");
    }
    let issued = "urn:ietf:params:oauth:token-type:access_token";
    (
        200,
        json!({ "access_token": "ya29.CANARY-pool", "issued_token_type": issued, "token_type": "Bearer", "expires_in": 3600 }),
    )
}

fn impersonate(heard: &Heard) -> (u16, Value) {
    if heard.bearer() != "ya29.CANARY-pool" {
        return (401, json!({ "error": { "code": 401, "status": "UNAUTHENTICATED", "message": "No." } }));
    }
    let asked = heard.json();
    let seconds: i64 = asked["lifetime"].as_str().and_then(|text| text.strip_suffix('s')).unwrap().parse().unwrap();
    if seconds > 3600 || asked["scope"].as_array().is_none_or(Vec::is_empty) {
        return (400, json!({ "error": { "code": 400, "status": "INVALID_ARGUMENT", "message": "lifetime" } }));
    }
    let expires = (Timestamp::now() + seconds.seconds()).to_string();
    (200, json!({ "accessToken": "ya29.CANARY-account", "expireTime": expires }))
}

/// A service account's key file, which says to send what it signs elsewhere.
pub(crate) fn key_file(account: &str, key: &str) -> String {
    json!({
        "type": "service_account", "project_id": "one", "private_key_id": "key-1", "private_key": key,
        "client_email": account, "token_uri": "http://127.0.0.1:1/elsewhere",
    })
    .to_string()
}

pub(crate) fn ours() -> String {
    key_file(ACCOUNT, OURS)
}

pub(crate) fn by_key() -> GcloudBy {
    GcloudBy::Key(SecretName("google".into()))
}

pub(crate) fn federated(audience: &str) -> GcloudBy {
    GcloudBy::Federation { audience: audience.into() }
}

pub(crate) fn grant(by: GcloudBy) -> GrantOf {
    let service_account = Pattern::new("*@one.iam.gserviceaccount.com").unwrap();
    GrantOf::Gcloud { service_account, scopes: vec![READ.into(), COMPUTE.into()], by }
}

pub(crate) fn scope(scopes: &[&str]) -> Scope {
    let scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect();
    Scope::Gcloud { service_account: ACCOUNT.into(), scopes }
}
