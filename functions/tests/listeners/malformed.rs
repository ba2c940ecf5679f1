//! What nobody should send, and somebody will.

use proptest::prelude::*;
use serde_json::{Value, json};
use switchyard_functions::doors::{Answer, Brought, ITEM_BYTES, Source, read};

use crate::recorded::gzip;
use crate::{Scene, a_finding, failed, s3_notification, sqs};

#[tokio::test]
async fn an_invocation_of_no_known_shape_is_answered_and_kept() {
    let record = json!({ "eventSource": "aws:sqs", "messageId": "m" });
    for (odd, parked, kept) in [
        (json!(null), 1, 0),
        (json!(7), 1, 0),
        (json!("x"), 1, 0),
        (json!([]), 1, 0),
        (json!({}), 0, 1),
        (json!({ "Records": null }), 0, 1),
        (json!({ "Records": {} }), 0, 1),
        (json!({ "Records": [] }), 0, 0),
        (json!({ "source": null, "detail-type": null, "detail": null }), 0, 1),
        (json!({ "source": 7, "detail-type": [], "detail": "x" }), 0, 1),
        (json!({ "source": "aws.guardduty", "detail-type": "GuardDuty Finding", "detail": null }), 0, 1),
        (json!({ "source": "aws.s3", "detail-type": "Object Created", "detail": { "object": {} } }), 0, 1),
        (json!({ "Records": [null, 1, "x", [], {}, { "EventSource": 1, "eventSource": {} }] }), 6, 0),
        (json!({ "Records": [{ "EventSource": "aws:sns" }, { "EventSource": "aws:sns", "Sns": null }] }), 2, 0),
        (json!({ "Records": [{ "eventSource": "aws:s3" }, { "eventSource": "aws:s3", "eventName": 1 }] }), 2, 0),
        (json!({ "Records": [{ "eventSource": "aws:s3", "eventName": "ObjectCreated:Put", "s3": null }] }), 1, 0),
        (json!({ "Records": [record] }), 1, 0),
    ] {
        let scene = Scene::new().await;
        scene.hear(odd.clone()).await.unwrap_or_else(|again| panic!("{odd}: {again}"));
        let found = (scene.buckets.parked().len(), scene.unmapped().await, scene.jobs().await.len());
        assert_eq!(found, (parked, kept, 0), "{odd}: {:?}", scene.buckets.parked());
    }
}

#[tokio::test]
async fn a_message_that_is_cut_anywhere_is_parked_as_it_came() {
    let scene = Scene::new().await;
    let whole = a_finding("i-1").to_string();
    let cuts: Vec<usize> = (1..whole.len()).step_by(37).collect();
    for batch in cuts.chunks(10) {
        let ids: Vec<String> = batch.iter().map(ToString::to_string).collect();
        let messages = ids.iter().zip(batch).map(|(id, at)| (id.as_str(), whole[..*at].to_owned()));
        assert_eq!(scene.hear(sqs(messages)).await.unwrap(), failed(&[]));
    }
    let mut bodies: Vec<String> = scene.buckets.parked().into_iter().map(|parked| parked.body).collect();
    bodies.sort_by_key(String::len);
    assert_eq!(bodies, cuts.iter().map(|at| whole[..*at].to_owned()).collect::<Vec<_>>());
    assert!(bodies.len() > 20 && scene.jobs().await.is_empty(), "{}", bodies.len());
}

#[tokio::test]
async fn a_body_that_no_parser_takes_harms_nobody_beside_it() {
    let long = format!("\"{}\"", "x".repeat(ITEM_BYTES));
    let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for (body, reason) in [
        ("", "not JSON: EOF"),
        ("{\"detail\":1e999}", "not JSON: number out of range"),
        ("{\"source\":\"\\ud800\"}", "not JSON: "),
        ("{\"source\":\"\u{1}\"}", "not JSON: control character"),
        (&nested, "not JSON: recursion limit exceeded"),
        (&long, "it has 1048578 bytes, and 1048576 is the most"),
        ("{}{}", "not JSON: trailing characters"),
        ("{\"Type\":\"Notification\",\"Message\":\"{\"}", "its message is not JSON: EOF"),
        ("{\"Records\":[{\"eventSource\":\"aws:sqs\",\"body\":\"{}\"}]}", "a record of a source that is not expected"),
        ("{\"Records\":[null]}", "a record of a source that is not expected"),
    ] {
        let scene = Scene::new().await;
        let batch = sqs([("bad", body.to_owned()), ("good", a_finding("i-1").to_string())]);
        assert_eq!(scene.hear(batch).await.unwrap(), failed(&[]), "{body:.80}");
        let parked = scene.buckets.parked();
        assert!(parked.len() == 1 && parked[0].reason.starts_with(reason), "{body:.80}: {}", parked[0].reason);
        assert_eq!(scene.jobs().await.len(), 1, "{body:.80}");
        if !body.contains("Records") {
            assert!(parked[0].body == body, "{body:.80} as it came");
        }
    }
}

#[tokio::test]
async fn numbers_beyond_all_bounds_are_no_reason_to_drop_a_finding() {
    for severity in [json!(1e308), json!(-1e308), json!(u64::MAX), json!(i64::MIN), json!("9"), json!(null), json!([])]
    {
        let scene = Scene::new().await;
        let mut event = a_finding("i-1");
        event["detail"]["severity"] = severity.clone();
        scene.hear(event).await.unwrap();
        assert_eq!(scene.jobs().await.len() as u64 + scene.unmapped().await, 1, "{severity}");
        assert_eq!(scene.buckets.parked(), [], "{severity}");
    }
}

#[tokio::test]
async fn an_event_as_large_as_a_message_may_be_is_taken() {
    let scene = Scene::new().await;
    let mut event = a_finding("i-1");
    let room = ITEM_BYTES - event.to_string().len() - 16;
    event["padding"] = "x".repeat(room).into();
    let body = event.to_string();
    assert!(body.len() <= ITEM_BYTES && body.len() > ITEM_BYTES - 100, "{}", body.len());
    assert_eq!(scene.hear(sqs([("m", body)])).await.unwrap(), failed(&[]));
    assert_eq!((scene.jobs().await.len(), scene.buckets.parked().len()), (1, 0));
}

#[tokio::test]
async fn an_object_that_holds_no_events_is_parked_by_its_place_and_one_bad_event_by_itself() {
    let good = a_finding("i-1").to_string();
    let long = format!("{good}\n{{\"x\":\"{}\"}}", "x".repeat(ITEM_BYTES));
    let bomb = gzip(&vec![b'x'; 64 * 1024 * 1024]);
    assert!(bomb.len() < 100_000, "{}", bomb.len());
    let cut = gzip(good.as_bytes());
    for (key, bytes, reason, by_place, jobs) in [
        ("missing", None, "it is not there", true, 0),
        ("text", Some(b"hello".to_vec()), "not JSON: expected value", false, 0),
        ("latin", Some(b"{\"x\":\"\xfc\"}".to_vec()), "not UTF-8", true, 0),
        ("array", Some(b"[{},".to_vec()), "not a JSON array", true, 0),
        ("bomb", Some(bomb), "it unpacks to over 33554432 bytes", true, 0),
        ("cut", Some(cut[..cut.len() - 9].to_vec()), "not gzip", true, 0),
        ("large", Some(vec![b' '; 8 * 1024 * 1024 + 1]), "it has over 8388608 bytes", true, 0),
        ("many", Some("{}\n".repeat(5_001).into_bytes()), "it holds 5001 events, and 5000 is the most", true, 0),
        ("long", Some(long.into_bytes()), "it has 1048584 bytes, and 1048576 is the most", false, 1),
        ("mixed", Some(format!("[7, {good}]").into_bytes()), "not_an_event", false, 1),
    ] {
        let scene = Scene::new().await;
        if let Some(bytes) = bytes {
            scene.buckets.put(&format!("drop/{key}"), bytes);
        }
        let told = scene.hear(s3_notification(&[key])).await.unwrap();
        let parked = scene.buckets.parked();
        assert!(parked.len() == 1 && parked[0].reason.starts_with(reason), "{key}: {told} {}", parked[0].reason);
        assert_eq!(parked[0].body == format!("s3://drop/{key}"), by_place, "{key}");
        assert_eq!((scene.jobs().await.len(), &told["parked"]), (jobs, &json!(1)), "{key}");
    }
    // As `cat` and log shippers put packed files together.
    let scene = Scene::new().await;
    let packed: Vec<Vec<u8>> = (0..3).map(|n| gzip(format!("{}\n", a_finding(&format!("i-{n}"))).as_bytes())).collect();
    scene.buckets.put("drop/several.gz", packed.concat());
    let told = scene.hear(s3_notification(&["several.gz"])).await.unwrap();
    assert_eq!((&told["events"], scene.jobs().await.len()), (&json!(3), 3), "all of them are read");

    let scene = Scene::new().await;
    for (key, bytes) in [("empty", vec![]), ("blank", b"\n\n".to_vec()), ("none", b"[]".to_vec()), ("zip", gzip(b""))] {
        scene.buckets.put(&format!("drop/{key}"), bytes);
        let told = scene.hear(s3_notification(&[key])).await.unwrap();
        assert_eq!((&told["events"], &told["parked"]), (&json!(0), &json!(0)), "{key}");
    }
}

/// JSON of any shape, in which the words that the reader looks for are likely.
fn any_json() -> impl Strategy<Value = Value> {
    const WORDS: &[&str] = &[
        "Records",
        "EventSource",
        "eventSource",
        "aws:sns",
        "aws:sqs",
        "aws:s3",
        "Sns",
        "Message",
        "MessageId",
        "body",
        "messageId",
        "Type",
        "Notification",
        "eventName",
        "ObjectCreated:Put",
        "s3",
        "bucket",
        "name",
        "object",
        "key",
        "Event",
        "s3:TestEvent",
        "source",
        "aws.s3",
        "detail-type",
        "Object Created",
        "detail",
        "%zz+%",
        "{\"Records\":[{}]}",
    ];
    let word = prop_oneof![3 => prop::sample::select(WORDS).prop_map(str::to_owned), 1 => any::<String>()];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 60, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((word.clone(), inner.clone()), 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            inner.prop_map(|value| Value::from(value.to_string())),
        ]
    })
}

/// How a record comes, whatever it holds.
#[derive(Clone, Copy, Debug)]
enum Way {
    Sns,
    Sqs,
    SqsOfSns,
    S3,
    Other,
}

fn record(way: Way, id: usize, text: &str) -> Value {
    let id = format!("m-{id}");
    match way {
        Way::Sns => json!({ "EventSource": "aws:sns", "Sns": { "MessageId": id, "Message": text } }),
        Way::Sqs => json!({ "eventSource": "aws:sqs", "messageId": id, "body": text }),
        Way::SqsOfSns => {
            let body = json!({ "Type": "Notification", "MessageId": "n", "Message": text }).to_string();
            json!({ "eventSource": "aws:sqs", "messageId": id, "body": body })
        }
        Way::S3 => {
            let s3 = json!({ "bucket": { "name": "drop" }, "object": { "key": id } });
            json!({ "eventSource": "aws:s3", "eventName": "ObjectCreated:Put", "s3": s3 })
        }
        Way::Other => json!({ "eventSource": "aws:kinesis", "kinesis": { "data": text }, "id": id }),
    }
}

fn a_way() -> impl Strategy<Value = Way> {
    prop::sample::select(&[Way::Sns, Way::Sqs, Way::SqsOfSns, Way::S3, Way::Other][..])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_comes_in_is_read_and_no_record_is_passed_over(records in prop::collection::vec(any_json(), 0..6), whole in any_json()) {
        let (_, items) = read(json!({ "Records": records.clone() }));
        prop_assert!(items.len() >= records.len().max(1));
        // One by one they are what they are together.
        let alone = records.iter().flat_map(|record| read(json!({ "Records": [record] })).1);
        let alone: Vec<_> = alone.collect();
        if !records.is_empty() {
            prop_assert_eq!(&items, &alone);
        }
        let (answer, items) = read(whole.clone());
        prop_assert!(!items.is_empty());
        if whole.get("Records").is_none_or(|records| !records.is_array()) {
            prop_assert_eq!((answer, items.len(), &items[0].source), (Answer::Whole, 1, &Source::Invocation));
        }
    }

    #[test]
    fn as_many_records_come_out_as_went_in_each_once_and_as_it_was(ways in prop::collection::vec((a_way(), any::<bool>()), 1..12)) {
        let text = |n: usize, good: bool| if good { a_finding(&format!("i-{n}")).to_string() } else { format!("bad {n}") };
        let records: Vec<Value> = ways.iter().enumerate().map(|(n, (way, good))| record(*way, n, &text(n, *good))).collect();
        let (answer, items) = read(json!({ "Records": records.clone() }));
        prop_assert_eq!(items.len(), ways.len());
        let queued = ways.iter().any(|(way, _)| matches!(way, Way::Sqs | Way::SqsOfSns));
        prop_assert_eq!(answer == Answer::Batch, queued);
        for (n, ((way, good), item)) in ways.iter().zip(&items).enumerate() {
            match (&item.brought, way) {
                (Brought::Object(object), Way::S3) => prop_assert_eq!(&object.key, &format!("m-{n}")),
                (Brought::Unreadable { body, .. }, Way::Other) => prop_assert_eq!(body, &records[n].to_string()),
                (Brought::Event(event), Way::Sns | Way::Sqs | Way::SqsOfSns) => {
                    prop_assert_eq!((event, *good), (&a_finding(&format!("i-{n}")), true));
                }
                (Brought::Unreadable { body, .. }, Way::Sns | Way::Sqs | Way::SqsOfSns) => {
                    prop_assert!(!good && body.contains(&text(n, false)), "{body}");
                }
                odd => prop_assert!(false, "{odd:?}"),
            }
            let id = format!("m-{n}");
            let source = match way {
                Way::Sns => Source::Sns(id),
                Way::Sqs | Way::SqsOfSns => Source::Sqs(id),
                Way::S3 => Source::S3,
                Way::Other => Source::Invocation,
            };
            prop_assert_eq!(&item.source, &source);
        }
    }
}
