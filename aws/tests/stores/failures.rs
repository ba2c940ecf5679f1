//! The failures that people meet, and those that hide in an answer of 200: told by a server of the test's own, because
//! no emulator refuses anything.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};
use switchyard_aws::blobs_s3::S3Blobs;
use switchyard_aws::clients::Clients;
use switchyard_aws::herald_eventbridge::EventBridgeHerald;
use switchyard_core::job::Epoch;
use switchyard_core::ports::{BlobRef, Blobs, Herald, Logs, PortError, Yard, describe};

use super::support::{Answer, block_on, clients, serve, yard};
use super::{job, line, logs_in, now, read_from, settled};

/// Every door's first call, with what it is called and the names it must tell.
pub(crate) async fn calls(yard: &Yard) -> Vec<(&'static str, PortError)> {
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

/// A yard whose bucket, group and bus have names that tell what they are, and are nowhere.
pub(crate) fn nowhere(clients: &Clients) -> Yard {
    yard(
        Arc::new(S3Blobs::new(clients, "no-such-bucket")),
        Arc::new(logs_in(clients, "no-such-group")),
        Arc::new(EventBridgeHerald::new(clients, "no-such-bus")),
    )
}

/// What AWS says in the language of the service that the request is for.
fn refusal(head: &str, status: u16, code: &str) -> Answer {
    if head.contains("x-amz-target") {
        let body = json!({ "__type": code, "message": "User is not authorized" });
        Answer::Of(status, "application/x-amz-json-1.1", body.to_string())
    } else {
        let body = format!("<Error><Code>{code}</Code><Message>User is not authorized</Message></Error>");
        Answer::Of(status, "application/xml", body)
    }
}

#[test]
fn what_is_forbidden_names_the_operation_and_the_resource_and_is_not_tried_again() {
    block_on(async {
        let asked = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&asked);
        let endpoint = serve("", move |head, _| {
            counted.fetch_add(1, Ordering::SeqCst);
            refusal(head, 403, "AccessDenied")
        });
        let told: Vec<String> = calls(&nowhere(&clients(&endpoint.await)))
            .await
            .into_iter()
            .map(|(what, error)| {
                let told = describe(&error);
                assert!(told.contains(&format!("no-such-{what}")) && told.contains("AccessDenied"), "{told}");
                assert!(!error.retryable, "{told}");
                told
            })
            .collect();
        assert_eq!(asked.load(Ordering::SeqCst) as usize, told.len(), "each once: {told:?}");
        let first = format!(
            "cannot store blob result-1 of job {} in bucket no-such-bucket: AccessDenied: User is not authorized",
            job("none")
        );
        assert!(told[0].starts_with(&first), "{}", told[0]);
    });
}

#[test]
fn what_is_throttled_is_retryable() {
    block_on(async {
        let throttled = |head: &str| if head.contains("x-amz-target") { "ThrottlingException" } else { "SlowDown" };
        let endpoint = serve("", move |head, _| refusal(head, 503, throttled(head)));
        for (_, error) in calls(&nowhere(&clients(&endpoint.await))).await {
            assert!(error.retryable, "{}", describe(&error));
        }
    });
}

#[test]
fn keys_that_an_answer_of_200_did_not_delete_are_an_error() {
    block_on(async {
        let endpoint = serve("", |head, _| {
            let body = if head.starts_with("GET") {
                "<ListBucketResult><Contents><Key>jobs/x/a</Key></Contents></ListBucketResult>"
            } else {
                "<DeleteResult><Error><Key>jobs/x/a</Key><Code>AccessDenied</Code><Message>Locked</Message></Error>\
                 </DeleteResult>"
            };
            Answer::Of(200, "application/xml", body.to_owned())
        });
        let blobs = S3Blobs::new(&clients(&endpoint.await), "locked");
        let error = blobs.forget(job("one")).await.unwrap_err();
        let told = describe(&error);
        assert!(told.contains("in bucket locked") && told.contains("jobs/x/a: Locked") && !error.retryable, "{told}");
    });
}

#[test]
fn an_event_that_an_answer_of_200_did_not_take_is_an_error() {
    for (code, retryable) in [("ThrottlingException", true), ("NotAuthorizedForSourceException", false)] {
        block_on(async {
            let endpoint = serve("", move |head, _| {
                let entries = json!([{ "ErrorCode": code, "ErrorMessage": "no" }]);
                let put = json!({ "FailedEntryCount": 1, "Entries": entries });
                let body = if head.contains("PutEvents") { put } else { json!({ "Name": "b" }) };
                Answer::Of(200, "application/x-amz-json-1.1", body.to_string())
            });
            let herald = EventBridgeHerald::new(&clients(&endpoint.await), "b");
            let error = herald.announce(&settled().await).await.unwrap_err();
            assert_eq!(error.retryable, retryable, "{}", describe(&error));
            assert!(describe(&error).ends_with(&format!("on event bus b: {code}: no")), "{}", describe(&error));
        });
    }
}

#[test]
fn a_stream_that_cloudwatch_does_not_know_yet_is_made_once_and_the_put_is_retryable() {
    block_on(async {
        let made = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&made);
        let endpoint = serve("", move |head, _| {
            if head.contains("CreateLogStream") {
                counted.fetch_add(1, Ordering::SeqCst);
                refusal(head, 400, "ResourceAlreadyExistsException")
            } else {
                refusal(head, 400, "ResourceNotFoundException")
            }
        });
        let logs = logs_in(&clients(&endpoint.await), "slow");
        let error = logs.append(job("one"), Epoch(1), &[line(now(), "x")]).await.unwrap_err();
        assert!(error.retryable, "{}", describe(&error));
        assert_eq!(made.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn empty_pages_between_full_ones_are_not_the_end() {
    block_on(async {
        let endpoint = serve("", |head, body| {
            let page = |events: Value, token: &str| json!({ "events": events, "nextForwardToken": token });
            let message = json!({ "t": "at last", "s": "stdout", "b": 1, "i": 0 }).to_string();
            let answer = match body {
                _ if head.contains("DescribeLogStreams") => {
                    json!({ "logStreams": [{ "logStreamName": format!("{}/1", job("sparse")) }] })
                }
                body if body.contains("f/2") => page(json!([{ "timestamp": 5, "message": message }]), "f/3"),
                body if body.contains("f/1") => page(json!([]), "f/2"),
                body if body.contains("f/3") => page(json!([]), "f/3"),
                _ => page(json!([]), "f/1"),
            };
            Answer::Of(200, "application/x-amz-json-1.1", answer.to_string())
        });
        let logs = logs_in(&clients(&endpoint.await), "sparse");
        let (read, _) = read_from(&logs, job("sparse"), "").await;
        assert_eq!(read, [(1, "at last".to_owned())]);
    });
}
