//! Tokens as an operator handles them, on a yard that runs meanwhile.

#[expect(dead_code, reason = "each test program uses its own part")]
mod common_bad;

use std::os::unix::fs::PermissionsExt;

use common_bad::{Answer, Ended, Home, Yard};
use serde_json::{Value, json};

const JOB: &[u8] = br#"{"capability":"sh","payload":{"script":"sleep 50"}}"#;

/// `switchyard token` with these arguments, which must succeed: what it printed.
fn token(home: &Home, args: &[&str]) -> String {
    let ended = Ended::of(home.switchyard().arg("token").args(args));
    assert_eq!(ended.code, Some(0), "{args:?}: {ended:?}");
    ended.stdout.trim().to_owned()
}

fn ask(yard: &Yard<'_>, token: &str, method: &str, path: &str, body: &[u8]) -> Answer {
    let shown = format!("Bearer {token}");
    yard.send(method, path, &[("authorization", shown.as_bytes())], body).unwrap()
}

fn code(answer: &Answer) -> (u16, Value) {
    (answer.status, answer.json()["code"].clone())
}

#[test]
fn tokens_count_at_once_and_their_secrets_are_shown_once() {
    let home = Home::new();
    let yard = home.start();
    let viewer = token(&home, &["create", "board", "--role", "viewer"]);
    let submitter = token(&home, &["create", "ci", "--role", "submitter"]);
    assert!(viewer.len() == 64 && viewer != submitter, "{viewer}");
    assert_eq!(ask(&yard, &viewer, "GET", "/v1/jobs", b"").status, 200);
    assert_eq!(code(&ask(&yard, &viewer, "POST", "/v1/jobs", JOB)), (403, json!("forbidden")));
    let own = ask(&yard, &submitter, "POST", "/v1/jobs", JOB).json();
    assert_eq!(own["caller"], "ci");
    let theirs = yard.submit("sh", "sleep 50");
    let cancel = |token: &str, id: &str| ask(&yard, token, "POST", &format!("/v1/jobs/{id}/cancel"), b"");
    assert_eq!(code(&cancel(&submitter, &theirs)), (403, json!("not_yours")));
    assert!(cancel(&submitter, own["id"].as_str().unwrap()).status < 300);
    assert!(cancel(&yard.token, &theirs).status < 300);
    assert_eq!(code(&ask(&yard, &submitter, "POST", "/v1/events", b"{}")), (403, json!("forbidden")));

    let rotated = token(&home, &["rotate", "ci"]);
    assert_eq!(ask(&yard, &submitter, "GET", "/v1/jobs", b"").status, 401, "the old one is nobody's at once");
    assert_eq!(ask(&yard, &rotated, "GET", "/v1/jobs", b"").status, 200);
    token(&home, &["revoke", "board"]);
    assert_eq!(ask(&yard, &viewer, "GET", "/v1/jobs", b"").status, 401);
    let before = std::fs::read_to_string(home.data().join("token")).unwrap();
    let local = token(&home, &["rotate", "local"]);
    assert_eq!(std::fs::read_to_string(home.data().join("token")).unwrap(), local);
    assert_eq!(ask(&yard, &before, "GET", "/v1/jobs", b"").status, 401);
    assert_eq!(Ended::of(home.switchyard().arg("jobs")).code, Some(0), "the tool finds this machine's new token");

    let listed = token(&home, &["list"]);
    assert!(listed.contains("ci") && listed.contains("local") && !listed.contains("board"), "{listed}");
    let file = home.data().join("tokens.json");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let kept = std::fs::read_to_string(&file).unwrap();
    for secret in [&viewer, &submitter, &rotated, &local, &before] {
        assert!(!kept.contains(secret.as_str()) && !listed.contains(secret.as_str()), "a secret is not kept or listed");
        assert!(!home.log().contains(secret.as_str()), "a secret is not logged");
    }

    std::fs::write(&file, "{").unwrap();
    assert_eq!(ask(&yard, &rotated, "GET", "/v1/jobs", b"").status, 200, "a broken file changes nothing");
    assert!(home.log().contains("the tokens stay as they were"), "{}", home.log());
    let refused = Ended::of(home.switchyard().args(["token", "list"]));
    assert_eq!(refused.code, Some(8), "{refused:?}");
}

#[test]
fn a_yard_of_before_is_taken_over_with_its_token() {
    let home = Home::new();
    let secret = "an-old-token";
    std::fs::create_dir_all(home.data()).unwrap();
    std::fs::write(home.data().join("token"), secret).unwrap();
    std::fs::set_permissions(home.data().join("token"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let yard = home.start();
    assert_eq!(ask(&yard, secret, "POST", "/v1/jobs", JOB).json()["caller"], "local");
}

#[test]
fn edits_of_several_tools_at_once_are_all_kept() {
    let home = Home::new();
    home.start().stop();
    let names: Vec<String> = (0..12).map(|n| format!("t{n}")).collect();
    std::thread::scope(|scope| {
        for name in &names {
            let home = &home;
            scope.spawn(move || token(home, &["create", name, "--role", "viewer"]));
        }
    });
    let listed: Value = serde_json::from_str(&token(&home, &["list", "--json"])).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 13, "{listed}");
}

#[test]
fn what_cannot_be_done_to_a_token_is_told() {
    let home = Home::new();
    let refused = |args: &[&str]| {
        let ended = Ended::of(home.switchyard().arg("token").args(args));
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{args:?}: {ended:?}");
        ended.said().replace(&home.path().display().to_string(), "[home]")
    };
    let nowhere = refused(&["list"]);
    assert!(!home.data().exists(), "a mistyped folder stays away");
    home.start().stop();
    let told = [
        nowhere,
        refused(&["create", "local", "--role", "viewer"]),
        refused(&["create", "a b", "--role", "viewer"]),
        refused(&["rotate", "nobody"]),
        refused(&["revoke", "nobody"]),
        refused(&["revoke", "local"]),
    ];
    insta::assert_snapshot!(told.join("\n"));
}
