//! Answers that are none: each is a refusal that can be retried, and nothing of it is lent or told.

use jiff::{Timestamp, ToSpan};
use serde_json::{Value, json};
use switchyard_core::lend::{Level, RefusedCode};

use crate::scene::{OURS, World, answer};
use crate::{entra, github, google};

fn tokens() -> Vec<Value> {
    let plain = json!({ "access_token": "ya29.CANARY", "token_type": "Bearer", "expires_in": 3599 });
    let with = |name: &str, value: Value| {
        let mut answer = plain.clone();
        answer[name] = value;
        answer
    };
    let without = |name: &str| {
        let mut answer = plain.clone();
        answer.as_object_mut().unwrap().remove(name);
        answer
    };
    vec![
        json!("CANARY"),
        json!([]),
        json!({}),
        json!({ "id_token": "CANARY" }),
        without("access_token"),
        without("token_type"),
        without("expires_in"),
        with("access_token", json!("")),
        with("access_token", json!(["CANARY"])),
        with("access_token", json!("CANARY with blanks")),
        with("access_token", json!("CANARY\r\nX-Evil: 1")),
        with("access_token", json!("CANARY".repeat(3000))),
        with("token_type", json!("mac")),
        with("token_type", json!("pop")),
        with("expires_in", json!(0)),
        with("expires_in", json!(-3599)),
        with("expires_in", json!(i64::MAX)),
        with("expires_in", json!(200_000)),
        with("expires_in", json!("CANARY")),
    ]
}

#[tokio::test]
async fn a_token_endpoint_that_answers_nonsense_lends_nothing() {
    let google = World::new(google::serve).await;
    google.keep("google", google::ours());
    let entra = World::new(entra::serve).await;
    entra.keep("entra", entra::SECRET);
    let broken = ["", "CANARY", "{\"access_token\": \"CANARY", "<html>CANARY</html>", "\u{feff}{}"];
    for body in tokens().iter().map(Value::to_string).chain(broken.map(str::to_owned)) {
        google.peer.play([answer(200, &body)]);
        let of = google::grant(google::by_key());
        let refused = google.issue(of, google::scope(&[google::READ])).await.unwrap_err();
        assert_eq!(refused.code, RefusedCode::VendorAnswer, "{body}: {refused}");
        entra.peer.play([answer(200, &body)]);
        let refused = entra.issue(entra::grant(entra::by_secret()), entra::scope()).await.unwrap_err();
        assert_eq!(refused.code, RefusedCode::VendorAnswer, "{body}: {refused}");
        google.peer.play([answer(200, &body)]);
        let of = google::grant(google::federated(google::PROVIDER));
        let refused = google.issue(of, google::scope(&[google::READ])).await.unwrap_err();
        assert_eq!(refused.code, RefusedCode::VendorAnswer, "{body}: {refused}");
    }
    let broader = json!({
        "access_token": "ya29.CANARY", "token_type": "Bearer", "expires_in": 3599,
        "scope": format!("{} https://www.googleapis.com/auth/cloud-platform", google::READ),
    });
    google.peer.play([answer(200, broader)]);
    let refused = google.issue(google::grant(google::by_key()), google::scope(&[google::READ])).await.unwrap_err();
    let expected =
        "Google: its token is for https://www.googleapis.com/auth/cloud-platform, too, which was not asked for";
    assert_eq!((refused.code, refused.message.as_str()), (RefusedCode::VendorAnswer, expected));
}

#[tokio::test]
async fn a_service_account_that_is_lent_for_longer_or_never_is_not_lent() {
    let world = World::new(google::serve).await;
    let pool = json!({ "access_token": "ya29.CANARY-pool", "token_type": "Bearer", "expires_in": 3599 });
    let now = Timestamp::now();
    for given in [
        json!({}),
        json!({ "accessToken": "CANARY" }),
        json!({ "accessToken": "CANARY", "expireTime": "CANARY" }),
        json!({ "accessToken": "CANARY", "expireTime": (now - 1.second()).to_string() }),
        json!({ "accessToken": "CANARY", "expireTime": (now + 12.hours()).to_string() }),
        json!({ "accessToken": "", "expireTime": (now + 10.minutes()).to_string() }),
        json!({ "accessToken": "CANARY\n", "expireTime": (now + 10.minutes()).to_string() }),
    ] {
        world.peer.play([answer(200, &pool), answer(200, &given)]);
        let of = google::grant(google::federated(google::PROVIDER));
        let refused = world.issue(of, google::scope(&[google::READ])).await.unwrap_err();
        assert_eq!(refused.code, RefusedCode::VendorAnswer, "{given}: {refused}");
    }
}

#[tokio::test]
async fn a_token_of_github_that_can_do_something_else_is_ended_and_not_lent() {
    let world = World::new(github::serve).await;
    world.keep("github", OURS);
    let plain = github::given(&[json!("yard")], json!({ "contents": "read" }));
    let with = |name: &str, value: Value| {
        let mut answer = plain.clone();
        answer[name] = value;
        answer
    };
    let repository = |name: &str| json!({ "full_name": name });
    for (given, why) in [
        (with("repository_selection", json!("all")), "all repositories"),
        (with("repositories", json!([repository("acme/yard"), repository("acme/CORE")])), "acme/core, too"),
        (with("repositories", json!([repository("evil/yard")])), "evil/yard, too"),
        (with("repositories", json!([])), "not for acme/yard"),
        (with("permissions", json!({ "contents": "write" })), "contents:write"),
        (with("permissions", json!({ "contents": "read", "issues": "read" })), "issues:read"),
        (with("permissions", json!({ "contents": "read", "metadata": "write" })), "metadata:write"),
        (with("permissions", json!({ "metadata": "read" })), "lacks contents"),
    ] {
        world.peer.play([answer(201, &given)]);
        let refused = world.issue(github::grant(github::by_app()), github::plain()).await.unwrap_err();
        assert_eq!(refused.code, RefusedCode::VendorAnswer, "{given}: {refused}");
        assert!(refused.message.contains(why), "{given}: {refused}");
        let last = world.peer.heard().pop().unwrap();
        assert_eq!((last.method.as_str(), last.bearer()), ("DELETE", github::TOKEN), "{given}");
    }
}

#[tokio::test]
async fn an_answer_of_github_that_is_none_lends_nothing() {
    let world = World::new(github::serve).await;
    world.keep("github", OURS);
    let plain = github::given(&[json!("yard")], json!({ "contents": "read" }));
    let without = |name: &str| {
        let mut answer = plain.clone();
        answer.as_object_mut().unwrap().remove(name);
        answer
    };
    let with = |name: &str, value: Value| {
        let mut answer = plain.clone();
        answer[name] = value;
        answer
    };
    for given in [
        without("token"),
        without("expires_at"),
        without("permissions"),
        without("repository_selection"),
        without("repositories"),
        with("token", json!("")),
        with("token", json!("ghs CANARY")),
        with("expires_at", json!("CANARY")),
        with("expires_at", json!("2001-01-01T00:00:00Z")),
        with("expires_at", json!("2999-01-01T00:00:00Z")),
        with("permissions", json!(["CANARY"])),
        with("repositories", json!([{ "name": "CANARY" }])),
    ] {
        world.peer.play([answer(201, &given)]);
        let refused = world.issue(github::grant(github::by_app()), github::plain()).await.unwrap_err();
        assert_eq!(refused.code, RefusedCode::VendorAnswer, "{given}: {refused}");
    }
    // Case is GitHub's to change, and an upper case letter is no other repository.
    let scope = github::scope(&["YARD"], &[("contents", Level::Read)]);
    world.peer.play([answer(201, &plain)]);
    world.issue(github::grant(github::by_app()), scope).await.unwrap();
}
