//! What ECS is asked for, and that its rules let it through. Each test is a trap that it has ready for whoever launches.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use switchyard_aws::launcher_ecs::{
    Capacity, Finding, Handed, OVERRIDES_MAX, Settings, client_token, finding, read_started_by, request, started_by,
};
use switchyard_core::intake::plan_event;
use switchyard_core::job::{Epoch, Job, JobId};
use switchyard_core::mapping::Mappings;
use switchyard_core::ports::{BlobRef, Blobs, LaunchFailure};
use switchyard_core::route::{Packaging, Place};

use crate::world::{World, a_job, a_payload, settings, started};

#[test]
fn a_launch_is_a_function_of_the_record_and_the_settings() {
    let finding = finding(&a_payload("t"), settings().policies.as_ref().unwrap()).unwrap();
    let job = a_job(Place::Fargate);
    let on_demand = request(&job, &settings(), Capacity::OnDemand, Some(&finding)).unwrap();
    insta::assert_json_snapshot!("on_demand_with_a_finding", on_demand);
    let bare = Settings { tags: false, platform: None, policies: None, environment: vec![], ..settings() };
    insta::assert_json_snapshot!("on_spot_and_bare", request(&job, &bare, Capacity::Spot, None).unwrap());
}

#[test]
fn a_task_definition_goes_by_the_capability_or_by_how_it_is_packaged() {
    let mut definitions = settings().definitions;
    let mut job = a_job(Place::Fargate);
    assert_eq!(definitions.of(&job), "switchyard-custodian");
    job.work.needs.packaging = Packaging::Command;
    assert_eq!(definitions.of(&job), "switchyard-worker");
    definitions.by_capability.insert("custodian".into(), "custodian-worker:7".into());
    assert_eq!(definitions.of(&job), "custodian-worker:7");
}

#[test]
fn tokens_and_marks_are_within_their_limits_and_differ_by_job_epoch_capacity_and_yard() {
    let id = JobId::keyed("tests", "one");
    let token = |epoch, table, capacity| client_token(id, Epoch(epoch), table, capacity);
    let all = [
        token(1, "yard", Capacity::Spot),
        token(1, "yard", Capacity::OnDemand),
        token(2, "yard", Capacity::Spot),
        token(1, "other", Capacity::Spot),
    ];
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
    assert_eq!(token(u32::MAX, "yard", Capacity::Spot).len(), 58);
    let mark = started_by(id, Epoch(u32::MAX), "yard");
    assert!(mark.len() <= 128, "{mark}");
    assert!(mark.chars().all(|c| c.is_ascii_alphanumeric() || "-/_".contains(c)), "{mark}");
    assert_eq!(read_started_by(&mark, "yard"), Some((id, Epoch(u32::MAX))));
    // Two yards in one cluster: a job's id is made of its caller and key, and may be the same in both.
    assert_eq!(read_started_by(&mark, "other"), None);
    for other in ["", "ecs-svc/0123", "switchyard/", "switchyard/00000000/x/y"] {
        assert_eq!(read_started_by(other, "yard"), None);
    }
}

#[test]
fn a_payload_without_a_finding_or_without_a_policy_hands_over_nothing() {
    let store = settings().policies.unwrap();
    for payload in ["{}", "[]", "not json", r#"{"finding":{}}"#, r#"{"finding":"f","answer":{"policy":"p"}}"#] {
        assert_eq!(finding(payload, &store), None, "{payload}");
    }
}

#[test]
fn needs_over_the_largest_task_are_said_and_not_rounded_down() {
    let mut job = a_job(Place::Fargate);
    job.work.needs.memory_mib = 122_881;
    let error = request(&job, &settings(), Capacity::OnDemand, None).unwrap_err();
    assert_eq!(error.to_string(), "no Fargate task has 122881 MiB and 250 thousandths of a processor");
}

#[tokio::test]
async fn what_is_sent_is_the_request_and_its_overrides_are_as_long_as_was_counted() {
    let world = World::new(settings(), a_job(Place::Fargate), &a_payload("a \"quoted\" \\ title\n")).await;
    world.play("RunTask", started());
    world.launch().await.unwrap();
    let sent = world.asked_for("RunTask").remove(0);
    let finding = finding(&a_payload("a \"quoted\" \\ title\n"), settings().policies.as_ref().unwrap()).unwrap();
    let meant = request(&world.job, &settings(), Capacity::OnDemand, Some(&finding)).unwrap();
    assert_eq!(sent, serde_json::to_value(&meant).unwrap());
    assert_eq!(sent["overrides"].to_string().len(), meant.overrides_len());
}

#[tokio::test]
async fn a_launch_asks_for_one_task_whatever_ecs_would_take() {
    let world = World::plain().await;
    world.play("RunTask", started());
    world.launch().await.unwrap();
    assert_eq!(world.asked_for("RunTask")[0]["count"], 1);
}

#[tokio::test]
async fn tokens_and_marks_of_any_yard_and_epoch_are_taken() {
    for (table, epoch) in [("switchyard", 1), ("switchyard.prod_eu-1", u32::MAX), (&"long".repeat(60), u32::MAX)] {
        let job = Job { epoch: Epoch(epoch), ..a_job(Place::Fargate) };
        let world = World::new(Settings { table: table.to_owned(), ..settings() }, job, "{}").await;
        world.play("RunTask", started());
        world.launch().await.unwrap();
        assert_eq!(world.started(), 1);
    }
}

/// A payload whose task is handed exactly so many characters.
fn payload_of(characters: usize) -> String {
    let handed = |title: &str| {
        let finding = finding(&a_payload(title), settings().policies.as_ref().unwrap()).unwrap();
        let request = request(&a_job(Place::Fargate), &settings(), Capacity::OnDemand, Some(&finding)).unwrap();
        request.overrides_len()
    };
    let title = "x".repeat(characters - handed(""));
    assert_eq!(handed(&title), characters);
    a_payload(&title)
}

fn variable(request: &Value, name: &str) -> Option<String> {
    let variables = request["overrides"]["containerOverrides"][0]["environment"].as_array().unwrap();
    let variable = variables.iter().find(|variable| variable["name"] == name)?;
    Some(variable["value"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn overrides_of_8192_characters_are_handed_over_whole() {
    let world = World::new(settings(), a_job(Place::Fargate), &payload_of(OVERRIDES_MAX)).await;
    world.play("RunTask", started());
    world.launch().await.unwrap();
    let sent = world.asked_for("RunTask").remove(0);
    assert_eq!(sent["overrides"].to_string().len(), 8192);
    // To the character: had ECS one less, it would refuse this.
    let other = World::new(settings(), a_job(Place::Fargate), &payload_of(OVERRIDES_MAX)).await;
    other.proxy.rules(|limits| limits.ecs.overrides_chars -= 1);
    let (kind, message) = other.launch().await.unwrap_err();
    assert_eq!(kind, LaunchFailure::Permanent);
    assert!(message.contains("Container Overrides length must be at most 8191"), "{message}");
    assert!(variable(&sent, "FINDING_PAYLOAD").unwrap().contains("policy_key"));
    assert_eq!(variable(&sent, "FINDING_PAYLOAD_URI"), None);
}

#[tokio::test]
async fn overrides_of_8193_characters_are_put_into_s3_and_pointed_to() {
    let payload = payload_of(OVERRIDES_MAX + 1);
    let world = World::new(settings(), a_job(Place::Fargate), &payload).await;
    world.play("RunTask", started());
    world.launch().await.unwrap();
    let sent = world.asked_for("RunTask").remove(0);
    assert_eq!(variable(&sent, "FINDING_PAYLOAD"), None);
    let uri = format!("s3://yard-blobs/{}/finding-payload", world.job.id);
    assert_eq!(variable(&sent, "FINDING_PAYLOAD_URI"), Some(uri));
    assert_eq!(variable(&sent, "POLICY_BUCKET").as_deref(), Some("yard-policies"));
    let key = "policies/custodian/s3-block-public-access.yml";
    assert_eq!(variable(&sent, "POLICY_KEY").as_deref(), Some(key));
    let blob = BlobRef { job: world.job.id, name: "finding-payload".into(), bytes: 0 };
    let put = world.home.get(&blob).await.unwrap().unwrap();
    let put: Value = serde_json::from_str(&put).unwrap();
    let payload: Value = serde_json::from_str(&payload).unwrap();
    assert_eq!(put, json!({ "finding": payload["finding"], "policy_key": key }));
}

#[test]
fn a_character_counts_as_many_as_it_has_bytes() {
    let of = |text: &str| {
        let finding = Finding { payload: Handed::Inline(text.to_owned()), policy_key: String::new() };
        let job = a_job(Place::Fargate);
        request(&job, &settings(), Capacity::OnDemand, Some(&finding)).unwrap().overrides_len()
    };
    assert_eq!(of("ü") - of(""), 2);
    assert_eq!(of("\"") - of(""), 2);
    assert_eq!(of("\u{1}") - of(""), 6);
}

#[tokio::test]
async fn an_environment_that_is_too_long_by_itself_is_said() {
    let environment = vec![("LONG".into(), "x".repeat(OVERRIDES_MAX))];
    let world = World::new(Settings { environment, ..settings() }, a_job(Place::Fargate), &a_payload("t")).await;
    let (kind, message) = world.launch().await.unwrap_err();
    assert_eq!(kind, LaunchFailure::Permanent);
    assert!(message.contains("ECS takes 8192: shorten `environment`"), "{message}");
    assert!(world.operations().is_empty());
}

#[tokio::test]
async fn a_launch_type_and_a_capacity_provider_are_never_sent_together() {
    for spot in [false, true] {
        let world = World::new(Settings { spot, ..settings() }, a_job(Place::Fargate), "{}").await;
        world.play("RunTask", started());
        world.launch().await.unwrap();
        let sent = world.asked_for("RunTask").remove(0);
        assert_eq!(sent.get("launchType"), (!spot).then_some(&json!("FARGATE")));
        // Without a base it is 0, which clients leave out (CapacityProviderStrategyItem, Amazon ECS API Reference).
        let strategy = json!([{ "capacityProvider": "FARGATE_SPOT", "weight": 1 }]);
        assert_eq!(sent.get("capacityProviderStrategy"), spot.then_some(&strategy));
    }
}

#[tokio::test]
async fn spot_is_not_for_what_must_not_be_interrupted_nor_for_what_was_twice() {
    let mut steady = a_job(Place::Fargate);
    steady.work.needs.interruptible = false;
    let interrupted = |interruptions| Job { interruptions, ..a_job(Place::Fargate) };
    let allowed = Settings { spot: true, ..settings() };
    assert_eq!(Capacity::first(&interrupted(1), &allowed), Capacity::Spot);
    assert_eq!(Capacity::first(&interrupted(2), &allowed), Capacity::OnDemand);
    assert_eq!(Capacity::first(&steady, &allowed), Capacity::OnDemand);
    assert_eq!(Capacity::first(&interrupted(0), &settings()), Capacity::OnDemand);
}

#[test]
fn a_job_that_an_event_made_is_handed_its_finding_and_the_key_of_its_policy() {
    let event = json!({
        "version": "0", "source": "aws.securityhub", "detail-type": "Security Hub Findings - Imported",
        "detail": { "findings": [{
            "Id": "finding-1", "AwsAccountId": "111122223333", "Region": "eu-west-1", "Types": ["T"], "Title": "t",
            "UpdatedAt": "2026-01-01T00:00:00Z", "RecordState": "ACTIVE", "Workflow": { "Status": "NEW" },
            "Severity": { "Label": "HIGH" }, "Resources": [{ "Type": "AwsS3Bucket", "Id": "arn:aws:s3:::one" }],
        }] },
    });
    let mappings = r#"{ "version": 1, "mappings": [
        { "name": "buckets", "match": { "resource_type": "AwsS3Bucket" }, "policies": ["custodian/a.yml"] } ] }"#;
    let mappings = Mappings::parse("m.json", mappings, &BTreeSet::from(["custodian/a.yml".to_owned()])).unwrap();
    let plan = plan_event(&event, &mappings).unwrap();
    let payload = plan.jobs().next().unwrap().submission.payload.to_string();
    let handed = finding(&payload, settings().policies.as_ref().unwrap()).unwrap();
    assert_eq!(handed.policy_key, "policies/custodian/a.yml");
    let Handed::Inline(text) = handed.payload else { panic!("it is short") };
    let text: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(text["policy_key"], "policies/custodian/a.yml");
    assert_eq!(text["finding"]["id"], "finding-1");
}
