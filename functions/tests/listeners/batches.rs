//! Batches in which some is good, some bad and some must come again; duplicates; and a parking place that fails.

use std::time::Duration;

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::bucket::Parked;
use crate::{Scene, a_finding, failed, s3_notification, sqs};

const BUSY: Option<(Method, StatusCode, &str)> = Some((Method::GET, StatusCode::SERVICE_UNAVAILABLE, "SlowDown"));
const FULL: Option<(Method, StatusCode, &str)> = Some((Method::PUT, StatusCode::SERVICE_UNAVAILABLE, "SlowDown"));
const CLOSED: Option<(Method, StatusCode, &str)> = Some((Method::PUT, StatusCode::FORBIDDEN, "AccessDenied"));

fn mixed() -> Value {
    sqs([
        ("first", a_finding("i-1").to_string()),
        ("bad", "no event".to_owned()),
        ("number", "7".to_owned()),
        ("object", s3_notification(&["findings.ndjson"]).to_string()),
        ("last", a_finding("i-2").to_string()),
    ])
}

#[tokio::test]
async fn in_one_batch_the_good_are_taken_the_bad_are_parked_and_the_rest_comes_again() {
    let scene = Scene::new().await;
    // Its answer is lost: nobody knows whether it was taken.
    scene.memory.lose(1);
    scene.buckets.refuse(BUSY);
    assert_eq!(scene.hear(mixed()).await.unwrap(), failed(&["first", "object"]));
    let parked = |reason: &str, body: &str| Parked { source: "sqs".into(), reason: reason.into(), body: body.into() };
    let bad = [
        parked("not JSON: expected ident at line 1 column 2", "no event"),
        parked("not_an_event: event: expected a JSON object, found a number", "7"),
    ];
    assert_eq!(scene.buckets.parked(), bad);
    assert_eq!(scene.jobs().await.len(), 2, "the first was taken, too");

    // SQS brings again what was named.
    scene.buckets.refuse(None);
    scene.buckets.put("drop/findings.ndjson", format!("{}\n{}", a_finding("i-2"), a_finding("i-3")));
    let again =
        sqs([("first", a_finding("i-1").to_string()), ("object", s3_notification(&["findings.ndjson"]).to_string())]);
    assert_eq!(scene.hear(again).await.unwrap(), failed(&[]));
    assert_eq!(scene.jobs().await.len(), 3);

    // And perhaps all of it, for it delivers at least once.
    scene.buckets.refuse(None);
    assert_eq!(scene.hear(mixed()).await.unwrap(), failed(&[]));
    assert_eq!((scene.jobs().await.len(), scene.buckets.parked().len()), (3, 2));
}

#[tokio::test]
async fn what_cannot_be_parked_is_not_acknowledged() {
    for refused in [FULL, CLOSED] {
        let scene = Scene::new().await;
        scene.buckets.refuse(refused);
        let batch = sqs([("bad", "{".to_owned()), ("good", a_finding("i-1").to_string())]);
        assert_eq!(scene.hear(batch.clone()).await.unwrap(), failed(&["bad"]));
        let again = scene.hear(json!(7)).await.unwrap_err();
        assert_eq!((again.failed, again.items), (1, 1));
        assert!(again.first.contains("it cannot be parked"), "{again}");
        scene.buckets.refuse(None);
        assert_eq!(scene.hear(batch).await.unwrap(), failed(&[]));
        assert_eq!((scene.jobs().await.len(), scene.buckets.parked().len()), (1, 1));
    }
}

#[tokio::test]
async fn an_invocation_that_is_not_a_batch_comes_again_whole_and_makes_no_second_job() {
    let scene = Scene::new().await;
    let record = |id: &str, body: &Value| json!({ "EventSource": "aws:sns", "Sns": { "MessageId": id, "Message": body.to_string() } });
    let two = json!({ "Records": [record("a", &a_finding("i-1")), record("b", &a_finding("i-2"))] });
    scene.memory.lose(1);
    let again = scene.hear(two.clone()).await.unwrap_err();
    assert_eq!((again.failed, again.items), (1, 2));
    let told = scene.hear(two).await.unwrap();
    assert_eq!((&told["events"], &told["jobs"], &told["repeated"]), (&json!(2), &json!(0), &json!(2)));
    assert_eq!(scene.jobs().await.len(), 2);

    scene.buckets.refuse(BUSY);
    let again = scene.hear(s3_notification(&["a", "b"])).await.unwrap_err();
    assert_eq!((again.failed, again.items), (2, 2));
    scene.buckets.refuse(Some((Method::GET, StatusCode::FORBIDDEN, "AccessDenied")));
    let denied = scene.hear(s3_notification(&["a"])).await.unwrap_err();
    assert!(denied.first.contains("AccessDenied"), "what the operator can mend comes again: {denied}");
    assert!(again.first.contains("SlowDown") && again.first.contains("object a in bucket drop"), "{again}");
    assert_eq!(scene.buckets.parked(), []);
}

#[tokio::test]
async fn a_message_without_its_id_has_its_whole_batch_come_again_when_it_fails() {
    let scene = Scene::new().await;
    let mut batch = sqs([("a", a_finding("i-1").to_string()), ("b", "{".to_owned())]);
    batch["Records"][0]["messageId"] = Value::Null;
    scene.memory.lose(1);
    assert_eq!(scene.hear(batch.clone()).await.unwrap_err().failed, 1, "nobody could name it");
    assert_eq!(scene.hear(batch).await.unwrap(), failed(&[]));
    assert_eq!((scene.jobs().await.len(), scene.buckets.parked().len()), (1, 1));
}

#[tokio::test]
async fn a_message_with_several_objects_is_named_once_however_many_fail() {
    let scene = Scene::new().await;
    scene.buckets.put("drop/good", a_finding("i-1").to_string());
    scene.buckets.refuse(BUSY);
    let message = s3_notification(&["good", "good", "good"]).to_string();
    let batch = sqs([("m", message), ("n", a_finding("i-2").to_string())]);
    assert_eq!(scene.hear(batch.clone()).await.unwrap(), failed(&["m"]));
    scene.buckets.refuse(None);
    assert_eq!(scene.hear(batch).await.unwrap(), failed(&[]));
    assert_eq!(scene.jobs().await.len(), 2);
}

#[tokio::test]
async fn one_event_of_an_object_that_must_come_again_has_all_of_it_come_again() {
    let scene = Scene::new().await;
    let lines: Vec<String> = (0..20).map(|n| a_finding(&format!("i-{n}")).to_string()).collect();
    scene.buckets.put("drop/lines", format!("{}\n{{\"cut\":", lines.join("\n")));
    scene.memory.lose(3);
    let again = scene.hear(s3_notification(&["lines"])).await.unwrap_err();
    assert_eq!((again.failed, again.items), (1, 1));
    let told = scene.hear(s3_notification(&["lines"])).await.unwrap();
    assert_eq!((&told["events"], &told["jobs"], &told["parked"]), (&json!(20), &json!(0), &json!(1)));
    assert_eq!(scene.jobs().await.len(), 20);
    assert_eq!(scene.buckets.parked().len(), 1, "the line that is cut, once");
}

#[tokio::test]
async fn what_no_time_is_left_for_comes_again() {
    let scene = Scene::new().await;
    let left = Duration::from_secs(5);
    let batch = sqs([("a", a_finding("i-1").to_string()), ("b", "{".to_owned())]);
    assert_eq!(scene.hear_within(batch, left).await.unwrap(), failed(&["a", "b"]));
    assert_eq!(scene.hear_within(a_finding("i-1"), left).await.unwrap_err().failed, 1);
    assert_eq!((scene.jobs().await.len(), scene.buckets.parked().len()), (0, 0));
}
