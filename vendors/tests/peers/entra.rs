//! Microsoft Entra's token endpoint, as its reference has it.

use jiff::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Value, json};
use switchyard_core::lend::{AzureBy, GrantOf, Scope, SecretName};

use crate::scene::{CERTIFICATE, Heard, IDENTITY, OURS, PUBLIC};

pub(crate) const TENANT: &str = "11111111-2222-3333-4444-555555555555";
pub(crate) const CLIENT: &str = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee";
pub(crate) const ARM: &str = "https://management.azure.com/.default";
pub(crate) const SECRET: &str = "abc~CANARY-client.secret+/=&";
/// Of the certificate, by `openssl x509 -outform DER | openssl dgst -sha256 -binary | basenc --base64url`.
const THUMBPRINT: &str = "2BRJ39N0Qjd3SC4PxQHyCnTmRI5rtCvlu_CXGUmkk-8";

fn refused(status: u16, code: &str, text: &str) -> (u16, Value) {
    (status, json!({ "error": code, "error_description": text, "error_codes": [7000215], "trace_id": "t" }))
}

pub(crate) fn serve(heard: &Heard, url: &str) -> (u16, Value) {
    let path = format!("/{TENANT}/oauth2/v2.0/token");
    if heard.path != path {
        return refused(400, "invalid_request", "AADSTS90002: Tenant not found.");
    }
    let form = heard.form();
    if form["grant_type"] != "client_credentials" || form["client_id"] != CLIENT {
        return refused(400, "unauthorized_client", "AADSTS700016: Application was not found in the directory.");
    }
    if form["scope"] != ARM {
        return refused(400, "invalid_scope", "AADSTS70011: The provided value for scope is not valid.");
    }
    if let Some(secret) = form.get("client_secret") {
        if secret != SECRET {
            return refused(401, "invalid_client", "AADSTS7000215: Invalid client secret provided.");
        }
    } else {
        if form["client_assertion_type"] != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" {
            return refused(400, "invalid_request", "AADSTS: client_assertion_type");
        }
        let assertion = &form["client_assertion"];
        if assertion != IDENTITY
            && let Err(why) = signed(assertion, &format!("{url}{path}"))
        {
            return refused(401, "invalid_client", &format!("AADSTS700027: {why}"));
        }
    }
    (
        200,
        json!({ "token_type": "Bearer", "expires_in": 3599, "ext_expires_in": 3599, "access_token": "eyJ0.CANARY-arm" }),
    )
}

fn signed(assertion: &str, audience: &str) -> Result<(), String> {
    let mut validation = Validation::new(Algorithm::PS256);
    validation.set_audience(&[audience]);
    validation.set_issuer(&[CLIENT]);
    validation.validate_nbf = true;
    validation.leeway = 0;
    validation.sub = Some(CLIENT.into());
    let checked = decode::<Value>(assertion, &DecodingKey::from_rsa_der(PUBLIC), &validation);
    let claims = checked.map_err(|error| format!("{:?}", error.kind()))?.claims;
    let header = decode_header(assertion).unwrap();
    if header.x5t_s256.as_deref() != Some(THUMBPRINT) {
        return Err("The certificate is not registered".into());
    }
    let (iat, exp) = (claims["iat"].as_i64().unwrap(), claims["exp"].as_i64().unwrap());
    if iat > Timestamp::now().as_second() || exp - iat > 600 || claims["jti"].as_str().unwrap().len() != 36 {
        return Err("iat, exp or jti".into());
    }
    Ok(())
}

pub(crate) fn certificate() -> String {
    format!("{CERTIFICATE}{OURS}")
}

pub(crate) fn by_secret() -> AzureBy {
    AzureBy::Secret(SecretName("entra".into()))
}

pub(crate) fn by_certificate() -> AzureBy {
    AzureBy::Certificate(SecretName("entra-certificate".into()))
}

pub(crate) fn grant(by: AzureBy) -> GrantOf {
    GrantOf::Azure { tenant: TENANT.into(), client_id: CLIENT.into(), resources: vec![ARM.into()], by }
}

pub(crate) fn scope() -> Scope {
    Scope::Azure { tenant: TENANT.into(), client_id: CLIENT.into(), resource: ARM.into() }
}
