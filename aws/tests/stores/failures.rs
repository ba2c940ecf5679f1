//! The failures that people meet, and those that hide in an answer of 200: written down in the proxy's script, because no
//! emulator refuses anything.

use std::sync::Arc;

use serde_json::{Value, json};
use switchyard_aws::blobs_s3::S3Blobs;
use switchyard_aws::herald_eventbridge::EventBridgeHerald;
use switchyard_core::job::Epoch;
use switchyard_core::ports::{BlobRef, Blobs, Herald, Logs, PortError, describe};
use switchyard_faults::{Action, Service, When};

use crate::emulated::on_emulators;
use crate::place::{Place, yard};
use crate::{job, line, now, read_from, settled};

on_emulators! { Place::open; both {
    a_bucket_group_or_bus_that_is_not_there_is_named
} one {
    what_is_forbidden_names_the_operation_and_the_resource_and_is_not_tried_again
    what_is_throttled_is_retryable
    keys_that_an_answer_of_200_did_not_delete_are_an_error
    an_event_that_an_answer_of_200_did_not_take_is_an_error
    a_stream_that_cloudwatch_does_not_know_yet_is_made_once_and_the_put_is_retryable
    empty_pages_between_full_ones_are_not_the_end
} }

/// Every door's first call, with what it is called, where bucket, group and bus have names that tell what they are, and
/// are nowhere.
async fn calls(place: &Place) -> Vec<(&'static str, PortError)> {
    let yard = yard(
        Arc::new(S3Blobs::new(&place.clients, "no-such-bucket")),
        Arc::new(place.logs_in("no-such-group")),
        Arc::new(EventBridgeHerald::new(&place.clients, "no-such-bus")),
    );
    let (id, blob) = (job("none"), BlobRef { job: job("none"), name: "result-1".to_owned(), bytes: 1 });
    vec![
        ("bucket", yard.blobs.put(id, "result-1", "x").await.unwrap_err()),
        ("bucket", yard.blobs.get(&blob).await.unwrap_err()),
        ("bucket", yard.blobs.forget(id).await.unwrap_err()),
        ("group", yard.logs.append(id, Epoch(1), &[line(now(), "x")]).await.unwrap_err()),
        ("group", yard.logs.read(id, "").await.unwrap_err()),
        ("group", yard.logs.read(id, "1.1.0..").await.unwrap_err()),
        ("group", yard.logs.forget(id).await.unwrap_err()),
        ("bus", yard.herald.announce(&settled().await).await.unwrap_err()),
    ]
}

async fn a_bucket_group_or_bus_that_is_not_there_is_named(place: &Place) {
    for (what, error) in calls(place).await {
        let told = describe(&error);
        assert!(told.contains(&format!("no-such-{what}")), "{told}");
        assert!(!error.retryable, "nothing but a person changes it: {told}");
    }
}

/// What AWS says, whatever it is asked.
fn refused(status: u16, code: &str) -> Action {
    Action::Fail { code: code.to_owned(), status, message: "User is not authorized".to_owned() }
}

async fn what_is_forbidden_names_the_operation_and_the_resource_and_is_not_tried_again(place: &Place) {
    let asked = place.proxy.script().on(When::any(), refused(403, "AccessDenied"));
    let told: Vec<String> = calls(place)
        .await
        .into_iter()
        .map(|(what, error)| {
            let told = describe(&error);
            assert!(told.contains(&format!("no-such-{what}")) && told.contains("AccessDenied"), "{told}");
            assert!(!error.retryable, "{told}");
            told
        })
        .collect();
    assert_eq!(asked.hits() as usize, told.len(), "each once: {told:?}");
    let first = format!(
        "cannot store blob result-1 of job {} in bucket no-such-bucket: AccessDenied: User is not authorized",
        job("none")
    );
    assert!(told[0].starts_with(&first), "{}", told[0]);
}

async fn what_is_throttled_is_retryable(place: &Place) {
    place.proxy.script().on(When::any().service(Service::S3), refused(503, "SlowDown"));
    place.proxy.script().on(When::any(), refused(400, "ThrottlingException"));
    for (_, error) in calls(place).await {
        assert!(error.retryable, "{}", describe(&error));
    }
}

async fn keys_that_an_answer_of_200_did_not_delete_are_an_error(place: &Place) {
    let bucket = place.bucket().await;
    let blobs = S3Blobs::new(&place.clients, &bucket);
    blobs.put(job("one"), "a", "x").await.unwrap();
    let answer = "<DeleteResult><Error><Key>jobs/x/a</Key><Code>AccessDenied</Code><Message>Locked</Message></Error>\
                  </DeleteResult>";
    place.proxy.script().on(When::call(Service::S3, "DeleteObjects"), Action::Replace(answer.to_owned()));
    let error = blobs.forget(job("one")).await.unwrap_err();
    let told = describe(&error);
    assert!(told.contains(&format!("in bucket {bucket}")) && told.contains("jobs/x/a: Locked"), "{told}");
    assert!(!error.retryable, "{told}");
}

async fn an_event_that_an_answer_of_200_did_not_take_is_an_error(place: &Place) {
    let bus = place.bus().await;
    for (code, retryable) in [("ThrottlingException", true), ("NotAuthorizedForSourceException", false)] {
        let fails = Action::FailEntries(vec![(0, code, !retryable)]);
        let line = place.proxy.script().on(When::call(Service::Events, "PutEvents"), fails);
        let error = EventBridgeHerald::new(&place.clients, &bus).announce(&settled().await).await.unwrap_err();
        assert_eq!(error.retryable, retryable, "{}", describe(&error));
        let said = format!("on event bus {bus}: {code}: failed by the script");
        assert!(describe(&error).contains(&said), "{}", describe(&error));
        line.lift();
    }
}

async fn a_stream_that_cloudwatch_does_not_know_yet_is_made_once_and_the_put_is_retryable(place: &Place) {
    let script = place.proxy.script();
    let made = script.on(When::call(Service::Logs, "CreateLogStream"), refused(400, "ResourceAlreadyExistsException"));
    script.on(When::any().service(Service::Logs), refused(400, "ResourceNotFoundException"));
    let logs = place.logs_in("slow");
    let error = logs.append(job("one"), Epoch(1), &[line(now(), "x")]).await.unwrap_err();
    assert!(error.retryable, "{}", describe(&error));
    assert_eq!(made.hits(), 1);
}

async fn empty_pages_between_full_ones_are_not_the_end(place: &Place) {
    let script = place.proxy.script();
    let streams = json!({ "logStreams": [{ "logStreamName": format!("{}/1", job("sparse")) }] });
    script.on(When::call(Service::Logs, "DescribeLogStreams"), Action::Replace(streams.to_string()));
    let message = json!({ "t": "at last", "s": "stdout", "b": 1, "i": 0 }).to_string();
    let page = |when: When, events: Value, token: &str| {
        let page = json!({ "events": events, "nextForwardToken": token });
        script.on(when, Action::Replace(page.to_string()));
    };
    let asked = || When::call(Service::Logs, "GetLogEvents");
    page(asked().containing("f/3"), json!([]), "f/3");
    page(asked().containing("f/2"), json!([{ "timestamp": 5, "message": message }]), "f/3");
    page(asked().containing("f/1"), json!([]), "f/2");
    page(asked(), json!([]), "f/1");
    let (read, _) = read_from(&place.logs_in("sparse"), job("sparse"), "").await;
    assert_eq!(read, [(1, "at last".to_owned())]);
}
