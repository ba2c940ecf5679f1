//! Roles that are assumed: what goes out, what comes back, what fails.

use std::sync::Arc;
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use jiff::Timestamp;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use switchyard_aws::clients::{Clients, Settings};
use switchyard_aws::roles_sts::{StsRoles, of_file};
use switchyard_core::job::{Epoch, JobId};
use switchyard_core::lend::{Grant, GrantOf, Order, Pattern, Scope};
use switchyard_faults::{Action, Proxy, Service, When};
use switchyard_vendors::vault_file::FileVault;
use switchyard_vendors::{Roles, Session};

use crate::emulated::yard::{clients_with, proxy};
use crate::emulated::{Emulator, on_emulators};
use crate::heard::{listen, nothing_of, said};

const ROLE: &str = "arn:aws:iam::111122223333:role/switchyard-scan";

struct Scene {
    proxy: Proxy,
    roles: StsRoles,
}

async fn open(emulator: Emulator) -> Scene {
    listen();
    let proxy = proxy(emulator);
    let roles = StsRoles::new(&clients_with(&proxy.endpoint(), "BROKER", |settings| settings.attempts = 2));
    Scene { proxy, roles }
}

fn session(seconds: u64) -> (Session, Timestamp) {
    let now = Timestamp::now();
    let external_id = Some("yard:one".to_owned());
    let of = GrantOf::Aws { role: Pattern::new(ROLE).unwrap(), external_id: external_id.clone(), session_policy: None };
    let order = Order {
        grant: Grant { of, at_most_seconds: None },
        scope: Scope::Aws { role: ROLE.into() },
        job: JobId::keyed("tests", "one"),
        epoch: Epoch(3),
        capability: "port-scan".into(),
        now,
        until: now + Duration::from_secs(seconds),
    };
    (Session::new(&order, ROLE, external_id.as_deref(), None).unwrap(), order.until)
}

async fn a_session_is_asked_for_with_all_that_tells_whose_it_is_and_ends_it(scene: &Scene) {
    let (session, until) = session(600);
    let assumed = scene.roles.assume(&session).await.unwrap();
    let asked: Value = scene.proxy.records().requests("AssumeRole").remove(0);
    let job = JobId::keyed("tests", "one");
    for (field, expected) in [
        ("RoleArn", ROLE.to_owned()),
        ("RoleSessionName", format!("switchyard-{job}-3")),
        ("SourceIdentity", format!("switchyard-{job}")),
        ("ExternalId", "yard:one".into()),
        ("DurationSeconds", "900".into()),
        ("Tags.member.1.Key", "switchyard:job".into()),
        ("Tags.member.1.Value", job.to_string()),
        ("Tags.member.2.Key", "switchyard:epoch".into()),
        ("Tags.member.2.Value", "3".into()),
        ("Tags.member.3.Key", "switchyard:capability".into()),
        ("Tags.member.3.Value", "port-scan".into()),
    ] {
        assert_eq!(asked[field], expected, "{field}");
    }
    assert!(asked.get("TransitiveTagKeys.member.1").is_none());
    let policy: Value = serde_json::from_str(asked["Policy"].as_str().unwrap()).unwrap();
    let end = policy["Statement"][1]["Condition"]["DateGreaterThan"]["aws:CurrentTime"].as_str().unwrap();
    let end: Timestamp = end.parse().unwrap();
    assert!(end <= until && until.duration_since(end).as_secs() == 0, "{end} for {until}");
    assert_eq!(policy["Statement"][1]["Effect"], "Deny");

    // The session lasts at least 15 minutes; the loan in it does not.
    let lasts = assumed.expires.duration_since(Timestamp::now()).as_secs();
    assert!((800..=3600).contains(&lasts), "{lasts}");
    nothing_of(&[assumed.secret_access_key.expose_secret(), assumed.session_token.expose_secret()]);
    let shown = format!("{assumed:?}");
    assert!(!shown.contains(assumed.secret_access_key.expose_secret()) && shown.contains(&assumed.access_key_id));

    // And they are that role's, under that name.
    let credentials = Credentials::new(
        &assumed.access_key_id,
        assumed.secret_access_key.expose_secret(),
        Some(assumed.session_token.expose_secret().to_owned()),
        None,
        "test",
    );
    let settings = Settings { endpoint: Some(scene.proxy.endpoint()), ..Settings::new("us-east-1") };
    let theirs = Clients::new(settings, SharedCredentialsProvider::new(credentials)).sts();
    let who = theirs.get_caller_identity().send().await.unwrap();
    let expected = format!("assumed-role/switchyard-scan/switchyard-{job}-3");
    assert!(who.arn().unwrap().ends_with(&expected), "{:?}", who.arn());
}

on_emulators! { open; both { a_session_is_asked_for_with_all_that_tells_whose_it_is_and_ends_it } one {} }

#[tokio::test]
async fn a_role_that_may_not_be_assumed_stays_so_and_a_service_that_is_down_does_not() {
    let scene = open(Emulator::Moto).await;
    let message =
        format!("User: arn:aws:sts::1:assumed-role/broker/x is not authorized to perform: sts:AssumeRole on {ROLE}");
    for (code, status, retryable) in [
        ("AccessDenied", 403, false),
        ("MalformedPolicyDocument", 400, false),
        ("PackedPolicyTooLarge", 400, false),
        ("RegionDisabledException", 403, false),
        ("ExpiredToken", 403, true),
        ("Throttling", 400, true),
        ("ServiceUnavailable", 503, true),
    ] {
        let action = Action::Fail { code: code.into(), status, message: message.clone() };
        let rule = scene.proxy.script().on(When::call(Service::Sts, "AssumeRole").first(9), action);
        let error = scene.roles.assume(&session(600).0).await.unwrap_err();
        assert_eq!(error.retryable, retryable, "{code}");
        let said = said(&error);
        assert!(said.starts_with(&format!("cannot assume {ROLE}: {code}")), "{said}");
        drop(rule);
        scene.proxy.script().clear();
    }
}

fn answer(parts: &str) -> String {
    format!(
        "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult>{parts}\
         </AssumeRoleResult></AssumeRoleResponse>"
    )
}

#[tokio::test]
async fn an_answer_without_credentials_is_none() {
    let scene = open(Emulator::Moto).await;
    let parts = |id: &str, secret: &str, token: &str, end: &str| {
        answer(&format!(
            "<Credentials><AccessKeyId>{id}</AccessKeyId><SecretAccessKey>{secret}</SecretAccessKey>\
             <SessionToken>{token}</SessionToken><Expiration>{end}</Expiration></Credentials>"
        ))
    };
    let end = "2099-01-01T00:00:00Z";
    for body in [
        answer(""),
        parts("", "CANARY", "CANARY", end),
        parts("ASIA", "", "CANARY", end),
        parts("ASIA", "CANARY", "", end),
        parts("ASIA", "CANARY", "CANARY", "CANARY"),
        "<html>CANARY".to_owned(),
        "CANARY".to_owned(),
    ] {
        scene.proxy.script().on(When::call(Service::Sts, "AssumeRole").first(9), Action::Replace(body.clone()));
        let error = scene.roles.assume(&session(600).0).await.unwrap_err();
        said(&error);
        scene.proxy.script().clear();
    }
    nothing_of(&[]);
}

#[tokio::test]
async fn one_machine_assumes_roles_with_what_its_file_says_now() {
    use std::os::unix::fs::PermissionsExt;
    listen();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secrets.json");
    let write = |value: Value| {
        let fresh = folder.path().join("fresh");
        std::fs::write(&fresh, value.to_string()).unwrap();
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::rename(&fresh, &path).unwrap();
    };
    let proxy = proxy(Emulator::Moto);
    let vault = Arc::new(FileVault::new(&path));
    let roles = || {
        let settings = Settings { endpoint: Some(proxy.endpoint()), attempts: 1, ..Settings::new("us-east-1") };
        StsRoles::new(&Clients::new(settings, of_file(Arc::clone(&vault))))
    };
    write(json!({ "aws": { "access_key_id": "FIRST", "secret_access_key": "CANARY" } }));
    roles().assume(&session(600).0).await.unwrap();
    write(json!({ "aws": { "access_key_id": "SECOND", "secret_access_key": "CANARY", "session_token": "CANARY" } }));
    roles().assume(&session(600).0).await.unwrap();
    let asked: Vec<String> = proxy.records().all().into_iter().map(|record| record.client).collect();
    assert_eq!(asked, ["FIRST", "SECOND"]);
    write(json!({ "shodan": "CANARY" }));
    let error = roles().assume(&session(600).0).await.unwrap_err();
    assert!(said(&error).contains("the file of secrets has no entry `aws`"), "{}", said(&error));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = roles().assume(&session(600).0).await.unwrap_err();
    assert!(said(&error).contains("set it to 600"), "{}", said(&error));
    assert_eq!(proxy.records().all().len(), 2, "nobody was asked");
    nothing_of(&[]);
}
