//! What events lead to: every recorded event under the shipped mappings, and the laws of the plan.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use switchyard_core::intake::{EVENT_JOBS, EventPlan, Read, plan_event};
use switchyard_core::mapping::Mappings;

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn mappings(text: &str) -> Mappings {
    let policies = BTreeSet::from(["custodian/a.yml".to_owned(), "custodian/b.yml".to_owned()]);
    Mappings::parse("m.json", text, &policies).unwrap()
}

/// A mapping for each named resource type, to two policies; and one for an event that no reader knows.
fn some() -> Mappings {
    mappings(
        r#"{ "version": 1, "mappings": [
            { "name": "instances", "match": { "resource_type": "AwsEc2Instance" },
              "policies": ["custodian/a.yml", "custodian/b.yml"], "tier": "synchronous" },
            { "name": "buckets", "match": { "resource_type": "AwsS3Bucket" }, "policies": ["custodian/a.yml"] },
            { "name": "states", "match": { "detail_type": "EC2 Instance State-change Notification" },
              "policies": ["custodian/b.yml"] }
        ] }"#,
    )
}

fn hub(resources: &[(&str, &str)], change: Value) -> Value {
    let resources: Vec<Value> = resources.iter().map(|(kind, id)| json!({ "Type": kind, "Id": id })).collect();
    let mut finding = json!({
        "Id": "finding-1", "AwsAccountId": "111122223333", "Region": "eu-west-1", "Types": ["T"], "Title": "t",
        "UpdatedAt": "2026-01-01T00:00:00Z", "RecordState": "ACTIVE", "Workflow": { "Status": "NEW" },
        "Severity": { "Label": "HIGH" }, "Resources": resources,
    });
    for (name, value) in change.as_object().unwrap() {
        finding[name] = value.clone();
    }
    json!({
        "id": "envelope-1", "source": "aws.securityhub", "detail-type": "Security Hub Findings - Imported",
        "account": "111122223333", "region": "eu-west-1", "time": "2026-01-01T00:00:05Z",
        "detail": { "findings": [finding] },
    })
}

fn keys(plan: &EventPlan) -> Vec<&str> {
    plan.jobs().map(|job| job.key.as_str()).collect()
}

fn shown(plan: &EventPlan) -> String {
    let mut out = String::new();
    let (reading, reason) = plan.read.as_words();
    writeln!(out, "{reading}{}", reason.map(|reason| format!(": {reason}")).unwrap_or_default()).unwrap();
    for found in &plan.findings {
        writeln!(out, "finding {} ({})", found.finding.title, found.finding.finding_type).unwrap();
        if let Some(why) = &found.skipped {
            writeln!(out, "  skipped: {why}").unwrap();
        }
        for answer in &found.answers {
            let resource = answer.resource.as_ref().map_or("-".to_owned(), |one| format!("{} {}", one.kind, one.id));
            writeln!(out, "  {resource} -> {}", answer.mapping.as_deref().unwrap_or("nothing")).unwrap();
            for job in &answer.jobs {
                let policy = job.policy.as_deref().unwrap_or("-");
                writeln!(out, "    {policy} {} {:?}", job.submission.tier, job.submission.labels).unwrap();
            }
        }
    }
    if let Some(why) = plan.unmapped() {
        writeln!(out, "kept: {why}").unwrap();
    }
    out
}

#[test]
fn every_recorded_event_leads_to_what_it_always_did() {
    let text = std::fs::read_to_string(here("../policies/policy-mappings.json")).unwrap();
    let policies = std::fs::read_dir(here("../policies/custodian")).unwrap();
    let policies = policies.map(|entry| format!("custodian/{}", entry.unwrap().file_name().to_str().unwrap()));
    let shipped = Mappings::parse("policy-mappings.json", &text, &policies.collect()).unwrap();
    let mut files: Vec<PathBuf> = [here("tests/events"), here("tests/events/made")]
        .iter()
        .flat_map(|folder| std::fs::read_dir(folder).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "json"))
        .collect();
    files.sort();
    let mut out = String::new();
    for file in files {
        let event: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        let plan = plan_event(&event, &shipped).unwrap();
        writeln!(out, "== {}\n{}", file.file_stem().unwrap().to_string_lossy(), shown(&plan)).unwrap();
    }
    insta::assert_snapshot!(out);
}

#[test]
fn a_finding_makes_a_job_for_every_policy_and_resource() {
    let resources = [("AwsEc2Instance", "i-1"), ("AwsEc2Instance", "i-2"), ("AwsS3Bucket", "arn:aws:s3:::b")];
    let plan = plan_event(&hub(&resources, json!({})), &some()).unwrap();
    let made: Vec<(String, String)> = plan
        .jobs()
        .map(|job| {
            let resources = &job.submission.payload["finding"]["resources"];
            assert_eq!(resources.as_array().map(Vec::len), Some(1), "each is for one resource");
            assert_eq!(job.submission.payload["answer"]["policy"], json!(job.policy));
            (job.policy.clone().unwrap(), resources[0]["id"].as_str().unwrap().to_owned())
        })
        .collect();
    let made: Vec<(&str, &str)> = made.iter().map(|(policy, id)| (policy.as_str(), id.as_str())).collect();
    let (a, b) = ("custodian/a.yml", "custodian/b.yml");
    assert_eq!(made, [(a, "i-1"), (b, "i-1"), (a, "i-2"), (b, "i-2"), (a, "arn:aws:s3:::b")]);
    assert_eq!(keys(&plan).iter().collect::<BTreeSet<_>>().len(), 5);
    assert_eq!(plan.unmapped(), None);
}

#[test]
fn what_is_delivered_again_has_the_same_keys_and_an_update_has_others() {
    let resources = [("AwsEc2Instance", "i-1")];
    let first = plan_event(&hub(&resources, json!({})), &some()).unwrap();
    let mut again = hub(&resources, json!({ "Title": "in other words" }));
    again["id"] = json!("envelope-2");
    again["time"] = json!("2026-01-02T00:00:00Z");
    assert_eq!(keys(&plan_event(&again, &some()).unwrap()), keys(&first));
    let update = hub(&resources, json!({ "UpdatedAt": "2026-01-01T00:00:01Z" }));
    let update = plan_event(&update, &some()).unwrap();
    assert!(keys(&update).iter().all(|key| !keys(&first).contains(key)));
}

#[test]
fn what_was_put_away_or_taken_up_is_skipped_with_the_reason() {
    let resources = [("AwsEc2Instance", "i-1")];
    for change in [
        json!({ "RecordState": "ARCHIVED" }),
        json!({ "Workflow": { "Status": "RESOLVED" } }),
        json!({ "Workflow": { "Status": "SUPPRESSED" } }),
        json!({ "Workflow": { "Status": "NOTIFIED" } }),
    ] {
        let plan = plan_event(&hub(&resources, change.clone()), &some()).unwrap();
        assert!(plan.findings[0].skipped.is_some(), "{change}");
        assert_eq!((plan.jobs().count(), plan.unmapped()), (0, None), "{change}");
    }
}

#[test]
fn a_finding_that_no_mapping_answers_at_all_is_kept() {
    let none = plan_event(&hub(&[("AwsIamUser", "u")], json!({})), &some()).unwrap();
    assert_eq!((none.jobs().count(), none.unmapped().is_some()), (0, true));
    let half = plan_event(&hub(&[("AwsIamUser", "u"), ("AwsS3Bucket", "b")], json!({})), &some()).unwrap();
    assert_eq!((half.jobs().count(), half.unmapped()), (1, None), "another resource of it is answered");
    let unknown = plan_event(&json!({ "source": "my.app", "detail-type": "Order" }), &some()).unwrap();
    assert!(matches!(unknown.read, Read::Unknown(_)) && unknown.unmapped().is_some());
    let nothing = json!({ "source": "aws.events", "detail-type": "Scheduled Event" });
    assert_eq!(plan_event(&nothing, &some()).unwrap().unmapped(), None, "it is known to ask for nothing");
}

#[test]
fn an_event_that_a_mapping_names_is_a_finding_of_what_its_envelope_says() {
    let event: Value = serde_json::from_str(include_str!("events/event-instance-state.json")).unwrap();
    let plan = plan_event(&event, &some()).unwrap();
    assert_eq!(plan.read, Read::Plainly);
    let job = plan.jobs().next().unwrap();
    let finding = &job.submission.payload["finding"];
    assert_eq!(finding["resources"][0]["id"], "arn:aws:ec2:us-east-1:101010101111:instance/i-a2d74f12");
    assert_eq!((finding["id"].as_str(), finding["severity"].is_null()), (event["id"].as_str(), true));
}

#[test]
fn without_any_mappings_a_finding_is_triaged_once() {
    let resources = [("AwsEc2Instance", "i-1"), ("AwsS3Bucket", "b")];
    let plan = plan_event(&hub(&resources, json!({})), &Mappings::default()).unwrap();
    let job: Vec<_> = plan.jobs().collect();
    assert_eq!((job.len(), &job[0].policy, plan.unmapped()), (1, &None, None));
    assert_eq!(job[0].submission.payload["finding"]["resources"].as_array().map(Vec::len), Some(2));
}

#[test]
fn an_event_makes_so_many_jobs_and_says_what_is_over() {
    let resources: Vec<(String, String)> = (0..32).map(|n| ("AwsEc2Instance".to_owned(), format!("i-{n}"))).collect();
    let resources: Vec<(&str, &str)> = resources.iter().map(|(kind, id)| (kind.as_str(), id.as_str())).collect();
    let mut event = hub(&resources, json!({}));
    let one = event["detail"]["findings"][0].clone();
    let many = (0..100).map(|n| {
        let mut finding = one.clone();
        finding["Id"] = json!(format!("finding-{n}"));
        finding
    });
    event["detail"]["findings"] = many.collect();
    let plan = plan_event(&event, &some()).unwrap();
    assert_eq!((plan.jobs().count(), plan.left_out), (EVENT_JOBS, 6400 - EVENT_JOBS));
    assert!(plan.unmapped().unwrap().contains("5400"));
    assert_eq!(keys(&plan).iter().collect::<BTreeSet<_>>().len(), EVENT_JOBS);
}
