//! The real program under events: what one would lead to, what it makes, and what is kept of those that nothing
//! answers; also after a crash, under other rules, and where somebody who means harm wrote the event.

#[expect(dead_code, reason = "other tests use what this one does not")]
mod common_bad;

use std::collections::BTreeSet;
use std::path::Path;

use common_bad::{Ended, Home, Yard};
use serde_json::{Value, json};

/// An instance is answered by two policies, a bucket with secrets in it by one.
const MAPPINGS: &str = r#"{ "version": 1, "mappings": [
  { "name": "instances", "match": { "resource_type": "AwsEc2Instance" },
    "policies": ["custodian/stop.yml", "custodian/tag.yml"] },
  { "name": "secrets", "match": { "finding_type": "SensitiveData:*", "resource_type": "AwsS3Bucket" },
    "policies": ["custodian/block.yml"], "tier": "standard" }
] }
"#;

/// One more: it names an event that no reader knows.
const STATES: &str = r#"{ "name": "states", "match": { "detail_type": "EC2 Instance State-change Notification" },
    "policies": ["custodian/tag.yml"] }"#;

/// An instance that takes orders from outside.
const DUTY: &str = "ec2-duty-event.json";
/// An object with credentials in it, and its bucket.
const SECRETS: &str = "made/macie-object.json";
/// No finding of anybody.
const STATE: &str = "event-instance-state.json";

fn write(home: &Home, file: &str, text: &str) {
    std::fs::write(home.policies().join(file), text).unwrap();
}

/// A folder with mappings, and the policies that they name.
fn mapped() -> Home {
    let home = Home::new();
    std::fs::create_dir(home.policies().join("custodian")).unwrap();
    for name in ["stop", "tag", "block"] {
        let policy = format!("policies:\n  - name: {name}\n    resource: aws.ec2\n");
        write(&home, &format!("custodian/{name}.yml"), &policy);
    }
    write(&home, "policy-mappings.json", MAPPINGS);
    home
}

fn run(home: &Home, args: &[&str]) -> Ended {
    // More than a pipe takes: read while it runs.
    let output = home.switchyard().args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ended { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

/// What it prints as JSON.
fn answer(home: &Home, args: &[&str]) -> Value {
    let ended = run(home, args);
    assert_eq!(ended.code, Some(0), "{args:?}: {ended:?}");
    serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{args:?}: {error}: {ended:?}"))
}

/// What the program says offline of the event in this file.
fn replayed(home: &Home, file: &str) -> Ended {
    run(home, &["replay", file, "--policies", &home.policies().display().to_string()])
}

/// Where a recorded event lies.
fn recorded(name: &str) -> String {
    let events = Path::new(env!("CARGO_MANIFEST_DIR")).join("../core/tests/events");
    events.join(name).display().to_string()
}

fn event(name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(recorded(name)).unwrap()).unwrap()
}

/// A file with this text.
fn file(home: &Home, text: &str) -> String {
    let file = home.path().join("event.json");
    std::fs::write(&file, text).unwrap();
    file.display().to_string()
}

fn deliver(home: &Home, event: &Value) -> Value {
    answer(home, &["replay", "--submit", "--json", &file(home, &event.to_string())])
}

/// The ids of the jobs of an answer.
fn ids(answer: &Value) -> BTreeSet<String> {
    let jobs = answer["jobs"].as_array().map(Vec::as_slice).unwrap_or_default();
    jobs.iter().map(|job| job["id"].as_str().unwrap().to_owned()).collect()
}

/// What is kept, as the program lists it.
fn kept(home: &Home) -> Value {
    answer(home, &["unmapped", "--json"])
}

fn kill(mut yard: Yard<'_>) {
    yard.child.kill().unwrap();
    yard.child.wait().unwrap();
}

/// A finding of Security Hub about two instances and a user, as it stood at this time.
fn hub(updated: &str) -> Value {
    let resource = |kind: &str, id: &str| json!({ "Type": kind, "Id": id });
    json!({
        "id": "envelope-1", "source": "aws.securityhub", "detail-type": "Security Hub Findings - Imported",
        "account": "111122223333", "region": "eu-west-1", "time": "2026-01-01T00:00:05Z",
        "detail": { "findings": [{
            "Id": "finding-1", "AwsAccountId": "111122223333", "Region": "eu-west-1", "Types": ["T"], "Title": "t",
            "UpdatedAt": updated, "RecordState": "ACTIVE", "Workflow": { "Status": "NEW" },
            "Severity": { "Label": "HIGH" },
            "Resources": [
                resource("AwsEc2Instance", "i-1"), resource("AwsEc2Instance", "i-2"), resource("AwsIamUser", "u"),
            ],
        }] },
    })
}

#[test]
fn what_an_event_would_lead_to_is_said_without_a_yard() {
    let home = mapped();
    let mut told = Vec::new();
    for name in [DUTY, SECRETS, STATE] {
        let ended = replayed(&home, &recorded(name));
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{name}");
        let text = ended.stdout.replace(&home.policies().display().to_string(), "[policies]");
        told.push(format!("== {name}\n{text}"));
    }
    assert!(!home.data().exists(), "nobody needs a yard for this");
    insta::assert_snapshot!(told.join("\n"));
}

#[test]
fn any_object_is_an_event_and_nothing_else_is() {
    let home = mapped();
    for text in ["{}", r#"{ "source": 1, "detail-type": [], "detail": null }"#] {
        let ended = replayed(&home, &file(&home, text));
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{text}");
        assert!(ended.stdout.contains("read as    unknown: "), "{text}: {}", ended.stdout);
        assert!(ended.stdout.ends_with("in all     0 jobs; nothing was submitted\n"), "{text}: {}", ended.stdout);
    }
    let refused = |ended: &Ended, told: &str| {
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{told}: {ended:?}");
        assert!(ended.stderr.contains(told), "{told}: {}", ended.stderr);
    };
    for text in ["[]", "[{}]", "1", "\"{}\"", "null"] {
        refused(&replayed(&home, &file(&home, text)), "is not an event: expected a JSON object");
    }
    for text in ["", "{", "{}{}", "{ \"detail\": }"] {
        refused(&replayed(&home, &file(&home, text)), "is not JSON: ");
    }
    let missing = home.path().join("nosuch.json").display().to_string();
    refused(&replayed(&home, &missing), "nosuch.json: No such file");
    refused(&run(&home, &["replay", &recorded(DUTY), "--policies", &missing]), "nosuch.json");
    write(&home, "policy-mappings.json", &MAPPINGS.replace("custodian/block.yml", "custodian/nosuch.yml"));
    refused(&replayed(&home, &recorded(DUTY)), "mappings[1].policies[0]: there is no `custodian/nosuch.yml`");
}

#[test]
fn a_delivered_event_makes_a_job_for_each_policy_and_resource_and_delivered_again_none() {
    let home = mapped();
    let yard = home.start();
    let first = deliver(&home, &hub("2026-01-01T00:00:00Z"));
    assert_eq!(
        (&first["reading"], &first["repeated"], &first["unmapped"]),
        (&json!("findings"), &json!(0), &json!(null))
    );
    let made = ids(&first);
    let answered: BTreeSet<(String, String)> = made
        .iter()
        .map(|id| {
            let job = yard.settled(id);
            assert_eq!((&job["state"], &job["labels"]["mapping"]), (&json!("succeeded"), &json!("instances")), "{job}");
            let result = yard.get(&format!("/v1/jobs/{id}/result")).json();
            let resource = &result["triages"][0]["answers"][0]["resource"]["id"];
            let policy = job["labels"]["policy"].as_str().unwrap().to_owned();
            (policy, resource.as_str().unwrap_or_default().to_owned())
        })
        .collect();
    let expected = [
        ("custodian/stop.yml", "i-1"),
        ("custodian/stop.yml", "i-2"),
        ("custodian/tag.yml", "i-1"),
        ("custodian/tag.yml", "i-2"),
    ];
    assert!(answered.iter().map(|(policy, id)| (policy.as_str(), id.as_str())).eq(expected), "{answered:?}");
    assert_eq!(yard.jobs().len(), 4, "the user is answered by nothing, and the finding was seen to");

    let mut again = hub("2026-01-01T00:00:00Z");
    again["id"] = json!("envelope-2");
    again["time"] = json!("2026-01-02T00:00:00Z");
    let second = deliver(&home, &again);
    assert_eq!((ids(&second), &second["repeated"]), (made.clone(), &json!(4)));
    let text = run(&home, &["replay", "--submit", &file(&home, &again.to_string())]);
    assert!(text.stdout.contains("4 of these were made by an earlier delivery of the same findings"), "{text:?}");
    assert_eq!(yard.jobs().len(), 4);

    let update = deliver(&home, &hub("2026-01-01T00:00:01Z"));
    assert_eq!((ids(&update).len(), &update["repeated"]), (4, &json!(0)));
    assert!(ids(&update).is_disjoint(&made));
    assert_eq!(yard.jobs().len(), 8);
    assert_eq!(kept(&home)["kept"], 0);
}

#[test]
fn an_event_that_nothing_answers_is_kept_over_a_crash_until_a_mapping_answers_it() {
    let home = mapped();
    let yard = home.start();
    let state = event(STATE);
    let first = deliver(&home, &state);
    assert_eq!((first["reading"].as_str(), ids(&first).len()), (Some("unknown"), 0));
    let id = first["unmapped"].as_str().unwrap().to_owned();
    let page = kept(&home);
    assert_eq!(
        (&page["kept"], &page["events"][0]["id"], &page["events"][0]["seen"]),
        (&json!(1), &json!(id), &json!(1))
    );
    kill(yard);

    let yard = home.start();
    assert_eq!(kept(&home), page, "what it answered for is on the disk");
    assert_eq!(answer(&home, &["unmapped", &id]), state);
    assert_eq!(deliver(&home, &state)["unmapped"], json!(id));
    let page = kept(&home);
    assert_eq!((&page["kept"], &page["events"][0]["seen"]), (&json!(1), &json!(2)), "it is counted, not doubled");
    let none = answer(&home, &["unmapped", "--replay", "--json"]);
    assert_eq!(none, json!({ "tried": 1, "answered": 0, "jobs": 0 }));
    assert_eq!(kept(&home), page, "what is tried in vain stays as it was");
    assert_eq!(yard.jobs(), []);

    write(&home, "policy-mappings.json", &MAPPINGS.replace("\n] }", &format!(",\n  {STATES}\n] }}")));
    let reloaded = run(&home, &["reload"]);
    assert_eq!((reloaded.code, reloaded.stdout.as_str()), (Some(0), "mapping states: added\n"), "{reloaded:?}");
    let all = answer(&home, &["unmapped", "--replay", "--json"]);
    assert_eq!(all, json!({ "tried": 1, "answered": 1, "jobs": 1 }));
    assert_eq!((&kept(&home)["kept"], &kept(&home)["events"]), (&json!(0), &json!([])));
    let jobs = yard.jobs();
    assert_eq!(jobs.len(), 1);
    let job = yard.settled(&jobs[0].0);
    assert_eq!((&job["state"], &job["labels"]["mapping"]), (&json!("succeeded"), &json!("states")), "{job}");
    let nothing = run(&home, &["unmapped", "--replay"]);
    assert_eq!(nothing.stdout, "0 events were tried; the rules in force answer 0 of them, with 0 jobs\n");
    // Delivered once more it is the same finding.
    let again = deliver(&home, &state);
    assert_eq!(
        (&again["reading"], &again["repeated"], &again["unmapped"]),
        (&json!("plainly"), &json!(1), &json!(null))
    );
    assert_eq!(yard.jobs().len(), 1);
}

#[test]
fn an_archived_finding_is_skipped_with_the_reason_and_leaves_nothing() {
    let home = mapped();
    let yard = home.start();
    let mut archived = event(DUTY);
    archived["detail"]["service"]["archived"] = json!(true);
    let path = file(&home, &archived.to_string());
    let reason = "it is archived: only what stands and nobody has taken up is acted upon";
    let offline = replayed(&home, &path);
    assert!(offline.stdout.lines().any(|line| line == format!("skipped    {reason}")), "{offline:?}");
    let delivered = run(&home, &["replay", "--submit", &path]);
    assert_eq!((delivered.code, delivered.stdout), (Some(0), format!("skipped: {reason}\n")));
    assert_eq!(yard.jobs(), []);
    assert_eq!(kept(&home)["kept"], 0);
}

#[test]
fn an_open_yard_says_which_jobs_of_an_event_there_are_already() {
    let home = mapped();
    let yard = home.start();
    let path = recorded(DUTY);
    let asked = || run(&home, &["replay", "--yard", &path]).stdout;
    let before = asked();
    assert!(before.starts_with("rules      those in force in the yard\n"), "{before}");
    assert!(before.ends_with("in all     2 jobs; nothing was submitted\n"), "{before}");
    assert_eq!(yard.jobs(), [], "who asks submits nothing");

    let made = ids(&deliver(&home, &event(DUTY)));
    assert_eq!(made.len(), 2);
    let after = asked();
    for id in &made {
        let line = format!("job        finding-triage {id} in the priority tier, and there is already");
        assert!(after.lines().any(|told| told == line), "{id}: {after}");
    }
    let summary = "in all     2 jobs, 2 of which there are already; nothing was submitted\n";
    assert!(after.ends_with(summary), "{after}");
    assert_eq!(yard.jobs().len(), 2);
}

/// Drives a terminal, begins a line, turns the text round, ends a string of C, and leaves a folder.
const HOSTILE: &str = "\u{1b}]0;owned\u{7}\u{1b}[31mred\u{9b}2J\r\nforged\u{202e}gnp.exe\u{0}../../etc/passwd";

/// The event with this and much more behind every text in it, but for what stands under these names.
fn hostile(value: &Value, but: &[&str]) -> Value {
    let field = |(name, value): (&String, &Value)| {
        let value = if but.contains(&name.as_str()) { value.clone() } else { hostile(value, but) };
        (name.clone(), value)
    };
    match value {
        Value::String(text) => Value::String(format!("{text}{HOSTILE}{}", "x".repeat(10 * 1024))),
        Value::Array(items) => Value::Array(items.iter().map(|item| hostile(item, but)).collect()),
        Value::Object(fields) => Value::Object(fields.iter().map(field).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

fn acts_on_a_screen(c: char) -> bool {
    (c.is_control() && c != '\n') || c == '\u{202e}'
}

#[test]
fn an_event_of_somebody_who_means_harm_drives_no_terminal_and_no_label() {
    let home = mapped();
    let yard = home.start();
    let policies = home.policies().display().to_string();
    let duty = event(DUTY);
    // Nothing of it can be told any more; its sender can; its resource, too, so that it is answered.
    let none: [&str; 0] = [];
    let (sender, answered) = (["source", "detail-type"], ["detail-type", "type", "updatedAt", "resource"]);
    let mut reading = Vec::new();
    for but in [&none[..], &sender, &answered] {
        let event = hostile(&duty, but);
        reading.push(deliver(&home, &event)["reading"].clone());
        let (path, page) = (file(&home, &event.to_string()), kept(&home));
        let (path, policies) = (path.as_str(), policies.as_str());
        let mut asked: Vec<Vec<&str>> = vec![
            vec!["replay", path, "--policies", policies],
            vec!["replay", path, "--policies", policies, "--json"],
            vec!["replay", "--yard", path],
            vec!["replay", "--submit", path],
            vec!["replay", "--submit", "--json", path],
            vec!["unmapped"],
            vec!["unmapped", "--json"],
            vec!["unmapped", "--replay"],
            vec!["jobs"],
            vec!["jobs", "--json"],
        ];
        if let Some(id) = page["events"][0]["id"].as_str() {
            asked.push(vec!["unmapped", id]);
        }
        for args in asked {
            let ended = run(&home, &args);
            assert_eq!(ended.code, Some(0), "{args:?}: {}", ended.stderr.escape_debug());
            for text in [&ended.stdout, &ended.stderr] {
                let found = text.chars().find(|c| acts_on_a_screen(*c));
                assert_eq!(found, None, "{args:?} without {but:?}: {}", text.escape_debug());
                assert!(!text.lines().any(|line| line.starts_with("forged")), "{args:?} without {but:?}: {text}");
            }
        }
    }
    assert_eq!(reading, ["unknown", "findings", "findings"]);
    assert_eq!(kept(&home)["kept"], 2);
    let page = yard.get("/v1/jobs?limit=500").json();
    let jobs = page["jobs"].as_array().unwrap();
    assert_eq!(jobs.len(), 2, "of the one that is answered");
    for job in jobs {
        let labels = job["labels"].as_object().unwrap();
        assert!(labels["source"].as_str().unwrap().starts_with("aws.guardduty"), "{job}");
        for (name, value) in labels {
            let value = value.as_str().unwrap();
            assert!(
                !value.contains(|c: char| acts_on_a_screen(c) || c == '\n') && value.len() <= 256,
                "{name}: {value:?}"
            );
        }
        assert_eq!(yard.settled(job["id"].as_str().unwrap())["state"], "succeeded");
    }
    assert!(!home.log().contains(acts_on_a_screen), "{}", home.log().escape_debug());
    assert_eq!(yard.stop(), Some(0));
}
