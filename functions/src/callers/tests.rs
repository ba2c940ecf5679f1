use axum::http::Request;
use serde_json::{Value, json};

use super::*;

const ACCOUNT: &str = "123456789012";

fn gateway() -> Gateway {
    Gateway::new(Roles::new("role/operator-*, user/ana", "role/ci,jwt/batch"))
}

fn asked(context: Option<Value>, token: Option<&str>) -> lambda_http::Request {
    let mut request = Request::builder().uri("/v1/jobs");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let mut request = request.body(lambda_http::Body::Empty).unwrap();
    if let Some(context) = context {
        let context: ApiGatewayV2httpRequestContext = serde_json::from_value(context).unwrap();
        request.extensions_mut().insert(RequestContext::ApiGatewayV2(context));
    }
    request
}

fn context(authorizer: Value) -> Option<Value> {
    let http = json!({ "method": "GET", "path": "/v1/jobs", "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1" });
    Some(json!({ "accountId": ACCOUNT, "http": http, "timeEpoch": 1, "authorizer": authorizer }))
}

fn who(gateway: &Gateway, request: lambda_http::Request) -> Result<(String, Role), Stranger> {
    gateway.who(&request.into_parts().0).map(|caller| (caller.name, caller.role))
}

fn iam(arn: &str) -> Result<(String, Role), Stranger> {
    who(&gateway(), asked(context(json!({ "iam": { "userArn": arn, "accountId": ACCOUNT } })), None))
}

#[test]
fn a_caller_is_the_role_or_user_and_never_the_session() {
    let named = |name: &str, role| Ok((name.to_owned(), role));
    let of = |rest: &str| iam(&format!("arn:aws:{rest}"));
    assert_eq!(of("sts::123456789012:assumed-role/operator-eu/s1"), named("role/operator-eu", Role::Operator));
    assert_eq!(of("sts::123456789012:assumed-role/ci/session-1"), named("role/ci", Role::Submitter));
    assert_eq!(of("sts::123456789012:assumed-role/ci/session-2"), named("role/ci", Role::Submitter));
    assert_eq!(of("iam::123456789012:user/ana"), named("user/ana", Role::Operator));
    assert_eq!(of("iam::123456789012:user/team/bob"), named("user/team/bob", Role::Viewer));
    assert_eq!(of("iam::123456789012:root"), named("root", Role::Viewer));
    assert_eq!(of("sts::123456789012:federated-user/eve"), named("federated-user/eve", Role::Viewer));
    let gov = iam("arn:aws-us-gov:iam::123456789012:user/ana");
    assert_eq!(gov, named("user/ana", Role::Operator), "partitions do not make another");
}

#[test]
fn a_name_of_another_account_is_another_name() {
    let other = iam("arn:aws:sts::210987654321:assumed-role/operator-eu/s");
    assert_eq!(other, Ok(("210987654321/role/operator-eu".to_owned(), Role::Viewer)));
    let arn = "arn:aws:iam::123456789012:user/ana";
    let silent = json!({ "http": { "method": "GET", "path": "/" }, "timeEpoch": 1, "authorizer": { "iam": { "userArn": arn } } });
    assert_eq!(who(&gateway(), asked(Some(silent), None)), Ok(("123456789012/user/ana".to_owned(), Role::Viewer)));
}

#[test]
fn what_names_nobody_is_nobody() {
    for arn in [
        "",
        "ana",
        "arn:aws:iam::123456789012:",
        "arn:aws:iam::123456789012:user/",
        "arn:aws:sts::123456789012:assumed-role/",
        "arn:aws:sts::123456789012:assumed-role//s",
        "arn:aws:s3:::user/ana",
        "arn:aws:iam:eu-central-1:123456789012:user/ana",
        "arn:aws:iam::123456789012:group/ana",
    ] {
        assert_eq!(iam(arn), Err(Stranger::Unnamed), "{arn}");
    }
    for authorizer in [json!(null), json!({}), json!({ "iam": {} }), json!({ "lambda": { "user": "ana" } })] {
        assert_eq!(who(&gateway(), asked(context(authorizer.clone()), None)), Err(Stranger::Unnamed), "{authorizer}");
    }
    let shown = asked(context(json!({})), Some("secret"));
    assert_eq!(who(&gateway(), shown), Err(Stranger::Unnamed), "a token is not looked at where an authorizer judges");
}

#[test]
fn a_token_of_the_issuer_says_the_role_by_its_scopes() {
    let jwt = |claims: Value| who(&gateway(), asked(context(json!({ "jwt": { "claims": claims } })), Some("a.b.c")));
    let named = |name: &str, role| Ok((name.to_owned(), role));
    assert_eq!(jwt(json!({ "sub": "u1", "scope": "openid switchyard/operator" })), named("jwt/u1", Role::Operator));
    let two = json!({ "sub": "u1", "scope": "switchyard/viewer switchyard/submitter" });
    assert_eq!(jwt(two), named("jwt/u1", Role::Submitter));
    assert_eq!(jwt(json!({ "client_id": "batch", "scope": "" })), named("jwt/batch", Role::Submitter));
    assert_eq!(jwt(json!({ "sub": "u2", "scope": "switchyard/root operator" })), named("jwt/u2", Role::Viewer));
    assert_eq!(jwt(json!({ "scope": "switchyard/operator" })), Err(Stranger::Unnamed));
    assert_eq!(jwt(json!({ "sub": "", "scope": "switchyard/operator" })), Err(Stranger::Unnamed));
}

#[test]
fn behind_a_load_balancer_a_token_of_the_yards_own_is_shown() {
    let gateway = gateway();
    let asked = |token| asked(None, token);
    assert!(!gateway.wants_tokens(&asked(None)), "who shows none costs no read");
    assert_eq!(who(&gateway, asked(None)), Err(Stranger::Silent));
    assert!(gateway.wants_tokens(&asked(Some("s3cret"))));
    let judged = super::tests::asked(context(json!({})), Some("a.b.c"));
    assert!(!gateway.wants_tokens(&judged), "an authorizer's tokens are not the yard's");
    let mut tokens = Tokens::default();
    tokens.create("edge", Role::Submitter, "s3cret", jiff::Timestamp::UNIX_EPOCH).unwrap();
    gateway.take_tokens(Ok(Some(tokens.to_json())));
    assert_eq!(who(&gateway, asked(Some("s3cret"))), Ok(("edge".to_owned(), Role::Submitter)));
    assert_eq!(who(&gateway, asked(Some("other"))), Err(Stranger::Unknown));
    assert!(!gateway.wants_tokens(&asked(Some("s3cret"))), "read a moment ago");
    gateway.take_tokens(Ok(Some("{".to_owned())));
    gateway.take_tokens(Err(PortError::retryable("read", "tokens", "no answer")));
    assert!(who(&gateway, asked(Some("s3cret"))).is_ok(), "what cannot be read leaves what is known");
    gateway.take_tokens(Ok(None));
    assert_eq!(who(&gateway, asked(Some("s3cret"))), Err(Stranger::Unknown), "the list is gone: so is everybody on it");
}
