//! Requests as API Gateway and load balancers hand them over, through the router to a yard in memory.

mod yard;

use std::sync::Arc;

use axum::body::to_bytes;
use axum::http::StatusCode;
use base64::Engine;
use base64::prelude::BASE64_STANDARD as STANDARD;
use lambda_http::request::from_str;
use serde_json::{Value, json};
use switchyard_api::admit::Role;
use switchyard_api::tokens::Tokens;
use switchyard_api::{Api, router};
use switchyard_core::catalog::Catalog;
use switchyard_core::memory::Memory;
use switchyard_core::route::Limits;
use switchyard_functions::callers::{Gateway, Roles};
use switchyard_functions::http::inward;
use tower::ServiceExt;

const CATALOG: &str = "version: 1
capabilities:
  - name: greet
    summary: says hello
    run: { command: [echo, \"{{name}}\"] }
    input: { type: object, required: [name], properties: { name: { type: string } } }
    needs: { timeout_seconds: 60 }
";

fn api() -> Arc<Api> {
    let memory = Memory::new(jiff::Timestamp::from_second(1_800_000_000).unwrap(), 7);
    let catalog = Catalog::parse("c.yaml", CATALOG, &[], &std::collections::BTreeMap::new()).unwrap();
    let yard = memory.yard(catalog, Limits::one_machine(1024));
    let gateway = Gateway::new(Roles::new("user/ana", "user/bob"));
    let mut tokens = Tokens::default();
    tokens.create("edge", Role::Submitter, "s3cret", jiff::Timestamp::UNIX_EPOCH).unwrap();
    gateway.take_tokens(Ok(Some(tokens.to_json())));
    yard::api(yard, Arc::new(gateway))
}

/// The event's answer: its status, and its body as JSON where it is.
async fn answer(api: &Arc<Api>, event: &str) -> (StatusCode, Value) {
    let request = from_str(event).unwrap_or_else(|error| panic!("{error}: {event:.200}"));
    let answer = router(Arc::clone(api)).oneshot(inward(request)).await.unwrap();
    let status = answer.status();
    let body = to_bytes(answer.into_body(), 8 << 20).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

/// A request by way of an HTTP API, by a user that its IAM authorizer has found.
fn gateway(method: &str, path: &str, query: &str, user: &str, body: &[u8], base64: bool) -> String {
    let text = if base64 { STANDARD.encode(body) } else { String::from_utf8(body.to_vec()).unwrap() };
    json!({
        "version": "2.0", "routeKey": format!("{method} {path}"), "rawPath": path, "rawQueryString": query,
        "headers": { "content-type": "application/json", "host": "a1.execute-api.eu-central-1.amazonaws.com" },
        "requestContext": {
            "accountId": "123456789012", "apiId": "a1", "stage": "$default", "requestId": "r", "timeEpoch": 1,
            "authorizer": { "iam": { "userArn": format!("arn:aws:iam::123456789012:user/{user}") } },
            "http": { "method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1" },
        },
        "body": if body.is_empty() { Value::Null } else { text.into() },
        "isBase64Encoded": base64,
    })
    .to_string()
}

/// A request by way of a load balancer.
fn balancer(method: &str, path: &str, token: Option<&str>, body: &str) -> String {
    let mut headers = json!({ "content-type": "application/json", "host": "yard.example.com" });
    if let Some(token) = token {
        headers["authorization"] = format!("Bearer {token}").into();
    }
    let target = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:targetgroup/yard/1";
    json!({
        "requestContext": { "elb": { "targetGroupArn": target } }, "httpMethod": method, "path": path,
        "queryStringParameters": {}, "headers": headers, "body": body, "isBase64Encoded": false,
    })
    .to_string()
}

const GREETING: &[u8] = br#"{"capability":"greet","payload":{"name":"W\u00f6rld"}}"#;

#[tokio::test]
async fn a_job_comes_in_by_the_gateway_as_text_or_as_base64_and_is_its_callers() {
    let api = api();
    for base64 in [false, true] {
        let (status, job) = answer(&api, &gateway("POST", "/v1/jobs", "", "bob", GREETING, base64)).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{job}");
        let path = format!("/v1/jobs/{}", job["id"].as_str().unwrap());
        let (status, job) = answer(&api, &gateway("GET", &path, "wait=0", "ana", b"", false)).await;
        assert_eq!((status, &job["caller"]), (StatusCode::OK, &json!("user/bob")), "{job}");
    }
    let (status, page) =
        answer(&api, &gateway("GET", "/v1/jobs", "limit=1&capability=gr%65et", "eve", b"", false)).await;
    assert_eq!((status, page["jobs"].as_array().unwrap().len()), (StatusCode::OK, 1), "{page}");
}

#[tokio::test]
async fn a_role_reaches_as_far_as_the_function_is_told() {
    let api = api();
    let event = br#"{"source":"x","detail-type":"y","detail":{}}"#;
    for (user, submits, delivers) in [("eve", 403, 403), ("bob", 202, 403), ("ana", 202, 200)] {
        let (status, _) = answer(&api, &gateway("POST", "/v1/jobs", "", user, GREETING, false)).await;
        assert_eq!(status.as_u16(), submits, "{user}");
        let (status, told) = answer(&api, &gateway("POST", "/v1/events", "", user, event, false)).await;
        assert_eq!(status.as_u16(), delivers, "{user}: {told}");
    }
}

#[tokio::test]
async fn behind_a_load_balancer_the_same_router_asks_for_a_token() {
    let api = api();
    let greeting = std::str::from_utf8(GREETING).unwrap();
    let (status, health) = answer(&api, &balancer("GET", "/health", None, "")).await;
    assert_eq!((status, &health["compute"]), (StatusCode::OK, &json!("lambda")));
    for (token, expected) in [(None, 401), (Some("wrong"), 401), (Some("s3cret"), 202)] {
        let (status, told) = answer(&api, &balancer("POST", "/v1/jobs", token, greeting)).await;
        assert_eq!(status.as_u16(), expected, "{token:?}: {told}");
    }
}

#[tokio::test]
async fn bodies_of_every_size_have_the_answer_that_they_have_anywhere() {
    let api = api();
    let with = |bytes: usize| {
        let name = "n".repeat(bytes);
        json!({ "capability": "greet", "payload": { "name": name } }).to_string().into_bytes()
    };
    for (bytes, expected) in [(1000, 202), (70_000, 202), (1 << 20, 413), (2 << 20, 413)] {
        let (status, told) = answer(&api, &gateway("POST", "/v1/jobs", "", "bob", &with(bytes), true)).await;
        assert_eq!(status.as_u16(), expected, "{bytes}: {}", told["code"]);
    }
    let one = String::from_utf8(GREETING.to_vec()).unwrap();
    let batch = |jobs: usize| format!("{{\"jobs\":[{}]}}", vec![one.clone(); jobs].join(",")).into_bytes();
    let (status, told) = answer(&api, &gateway("POST", "/v1/jobs/batch", "", "bob", &batch(500), true)).await;
    assert_eq!((status.as_u16(), told["items"].as_array().map(Vec::len)), (200, Some(500)), "{told:.300}");
    let (status, told) = answer(&api, &gateway("POST", "/v1/jobs/batch", "", "bob", &batch(501), true)).await;
    assert!(status.is_client_error(), "{status} {told:.300}");
    for bad in [b"{".as_slice(), b"[]", b"null", b"\xff\xfe", b"{\"capability\":1}"] {
        let (status, told) = answer(&api, &gateway("POST", "/v1/jobs", "", "bob", bad, true)).await;
        assert!(matches!(status.as_u16(), 400 | 422), "{status} {told}");
        assert!(told["code"].is_string(), "a problem document: {told}");
    }
}

#[tokio::test]
async fn every_recorded_request_has_an_answer_and_none_comes_in_unasked() {
    let api = api();
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/requests");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let (status, told) = answer(&api, &std::fs::read_to_string(&path).unwrap()).await;
        // None of them is for a path of this API.
        assert_eq!((status.as_u16(), &told["code"]), (404, &json!("no_such_route")), "{}", path.display());
        seen += 1;
    }
    assert!(seen >= 7, "{seen}");
    let staged = gateway("GET", "/prod/health", "", "ana", b"", false);
    assert_eq!(answer(&api, &staged).await.0, StatusCode::NOT_FOUND, "the stage is $default, and in no path");
}
