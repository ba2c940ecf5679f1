//! What was recorded, by every door.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use switchyard_core::intake::{FINDINGS, plan_event};
use switchyard_core::job::JobId;

use crate::bucket::Buckets;
use crate::{Scene, events, failed, s3_notification, shelf, sqs};

/// The recorded findings and those made by hand, which core reads in its own tests.
const FOLDERS: &[&str] = &["../core/tests/events", "../core/tests/events/made"];

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// SNS's envelope around what it sends to a queue.
fn envelope(message: &str) -> String {
    json!({
        "Type": "Notification", "MessageId": "n", "TopicArn": "arn:aws:sns:eu-central-1:123456789012:yard-findings",
        "Message": message, "Timestamp": "2026-01-01T00:00:00.000Z", "SignatureVersion": "1", "Signature": "x",
    })
    .to_string()
}

/// SNS's own invocation.
fn sns(message: &str) -> Value {
    json!({ "Records": [{
        "EventSource": "aws:sns", "EventVersion": "1.0",
        "Sns": { "Type": "Notification", "MessageId": "n", "Subject": null, "Message": message },
    }] })
}

/// S3's event by way of EventBridge.
fn bridged(key: &str) -> Value {
    let detail = json!({ "version": "0", "bucket": { "name": "drop" }, "object": { "key": key, "size": 1 } });
    json!({ "version": "0", "source": "aws.s3", "detail-type": "Object Created", "detail": detail })
}

/// The ways by which an event can come. What they need of objects is put into the drop box.
fn ways(event: &Value, buckets: &Buckets) -> Vec<(&'static str, Value)> {
    let text = event.to_string();
    for (key, bytes) in [
        ("one.json", serde_json::to_vec_pretty(event).unwrap()),
        ("array.json", format!("[{text}]").into_bytes()),
        // The same event on two lines is the same finding.
        ("lines.ndjson", format!("{text}\r\n\n{text}\n").into_bytes()),
        ("one.json.gz", gzip(text.as_bytes())),
        ("lines%20and%20more.gz", gzip(format!("{text}\n{text}").as_bytes())),
        // As `cat` and log shippers put packed files together.
        ("two.gz", [gzip(format!("{text}\n").as_bytes()), gzip(text.as_bytes())].concat()),
    ] {
        buckets.put(&format!("drop/{key}"), bytes);
    }
    let notice = s3_notification(&["one.json"]).to_string();
    vec![
        ("EventBridge", event.clone()),
        ("SNS", sns(&text)),
        ("SQS, raw", sqs([("m", text.clone())])),
        ("SQS, from EventBridge, pretty", sqs([("m", serde_json::to_string_pretty(event).unwrap())])),
        ("SQS, in SNS's envelope", sqs([("m", envelope(&text))])),
        ("S3", s3_notification(&["one.json"])),
        ("S3, an array", s3_notification(&["array.json"])),
        ("S3, lines", s3_notification(&["lines.ndjson"])),
        ("S3, packed", s3_notification(&["one.json.gz"])),
        ("S3, packed lines, by a key with spaces", s3_notification(&["lines+and+more.gz"])),
        ("S3, packed twice", s3_notification(&["two.gz"])),
        ("S3, by SNS", sns(&notice)),
        ("S3, by SQS", sqs([("m", notice.clone())])),
        ("S3, by SNS and SQS", sqs([("m", envelope(&notice))])),
        ("S3, by EventBridge", bridged("lines and more.gz")),
        ("S3, by EventBridge and SQS", sqs([("m", bridged("array.json").to_string())])),
    ]
}

#[tokio::test]
async fn every_recorded_event_makes_the_same_jobs_by_every_door_and_no_more_when_it_comes_again() {
    let buckets = Buckets::start().await;
    let (mut seen, mut made) = (0, 0);
    for (name, event) in events(FOLDERS) {
        let plan = plan_event(&event, &shelf().policies().mappings).unwrap();
        let expected: BTreeSet<JobId> = plan.jobs().map(|job| JobId::keyed(FINDINGS, &job.key)).collect();
        let expected: Vec<JobId> = expected.into_iter().collect();
        for (way, invocation) in ways(&event, &buckets) {
            let scene = Scene::with(buckets.clone());
            for time in ["first", "second"] {
                let told =
                    scene.hear(invocation.clone()).await.unwrap_or_else(|again| panic!("{name} by {way}: {again}"));
                assert_eq!(scene.jobs().await, expected, "{name} by {way}, the {time} time");
                assert_eq!(scene.unmapped().await, u64::from(plan.unmapped().is_some()), "{name} by {way}");
                if way.contains("SQS") {
                    assert_eq!(told, failed(&[]), "{name} by {way}");
                } else {
                    let new = if time == "first" { expected.len() } else { 0 };
                    assert_eq!((&told["jobs"], &told["parked"]), (&json!(new), &json!(0)), "{name} by {way}: {told}");
                }
            }
            seen += 1;
        }
        made += expected.len();
    }
    assert_eq!(buckets.parked(), [], "all of them are events");
    assert!(seen >= 27 * 16 && made >= 15, "{seen} deliveries, {made} jobs");
}

/// One line for each: what it is answered, and what became of it.
#[tokio::test]
async fn every_invocation_that_another_service_makes_has_its_answer() {
    let mut out = String::new();
    for (name, event) in events(&["tests/events", "tests/requests"]) {
        let scene = Scene::new().await;
        scene.buckets.put("sourcebucket/Happy%20Face.jpg", crate::a_finding("i-0123").to_string());
        let told = scene.hear(event.clone()).await.unwrap_or_else(|again| panic!("{name}: {again}"));
        writeln!(out, "{name}: {told}").unwrap();
        for id in scene.jobs().await {
            writeln!(out, "  job {id}").unwrap();
        }
        for parked in scene.buckets.parked() {
            writeln!(out, "  parked from {}: {}", parked.source, parked.reason).unwrap();
        }
        writeln!(out, "  kept: {}", scene.unmapped().await).unwrap();
    }
    insta::assert_snapshot!(out);
}
