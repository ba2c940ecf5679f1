//! What invokes the functions besides requests.

use serde_json::{Value, json};

use crate::deployed::{Deployed, User, block, env, root, wait};

/// A recorded finding as if it were of this account: the label by which its jobs are found.
fn finding(account: &str) -> Value {
    let text = std::fs::read_to_string(root().join("core/tests/events/ec2-duty-event.json")).expect("recorded");
    let mut event: Value = serde_json::from_str(&text).expect("JSON");
    event["detail"]["id"] = json!(format!("finding-of-{account}"));
    event["detail"]["accountId"] = json!(account);
    event
}

fn arrives(yard: &Deployed, account: &str) {
    let jobs = wait(90, &format!("a job of the finding of account {account}"), || {
        let jobs = yard.labelled(&format!("account={account}"));
        if jobs.iter().any(|job| job["state"] == "succeeded") { Ok(jobs) } else { Err(format!("{jobs:?}")) }
    });
    assert_eq!(jobs.len(), 1, "{jobs:#?}");
}

pub(crate) fn recorded(yard: &Deployed) {
    let mut files = Vec::new();
    for folder in ["core/tests/events", "core/tests/events/made"] {
        for entry in std::fs::read_dir(root().join(folder)).expect("recorded events") {
            let path = entry.expect("an entry").path();
            if path.extension().is_some_and(|extension| extension == "json") {
                files.push(path);
            }
        }
    }
    assert!(files.len() > 20, "{}", files.len());
    for file in files {
        let event: Value = serde_json::from_slice(&std::fs::read(&file).expect("read")).expect("JSON");
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (first, failed) = yard.invoke("FINDING_LISTENER", &event);
        assert!(!failed, "{name}: {first}");
        let (second, failed) = yard.invoke("FINDING_LISTENER", &event);
        assert!(!failed, "{name}: {second}");
        // A batch of SQS is answered with what failed of it.
        if let (Some(jobs), Some(repeated)) = (first["jobs"].as_u64(), first["repeated"].as_u64()) {
            assert_eq!((&second["jobs"], &second["repeated"]), (&json!(0), &json!(jobs + repeated)), "{name}");
        } else {
            assert_eq!(first["batchItemFailures"], json!([]), "{name}: {first}");
        }
    }
}

pub(crate) fn doors(yard: &Deployed) {
    let (by_queue, by_envelope, by_object, by_lines) = ("100000000001", "100000000002", "100000000003", "100000000004");
    let (sqs, s3, inbox, drop_box) = (yard.clients.sqs(), yard.clients.s3(), env("STACK_INBOX"), env("STACK_DROP_BOX"));
    let envelope = json!({ "Type": "Notification", "MessageId": "1", "Message": finding(by_envelope).to_string() });
    for body in [finding(by_queue), envelope] {
        block(sqs.send_message().queue_url(&inbox).message_body(body.to_string()).send()).expect("it is sent");
    }
    let lines = format!("{}\n{}\n", finding(by_lines), finding(by_object));
    for (key, text) in [("findings/one object.json", finding(by_object).to_string()), ("lines.ndjson", lines)] {
        let body = aws_sdk_s3::primitives::ByteStream::from(text.into_bytes());
        block(s3.put_object().bucket(&drop_box).key(key).body(body).send()).expect("it is put");
    }
    for account in [by_queue, by_envelope, by_object, by_lines] {
        arrives(yard, account);
    }
}

pub(crate) fn rule(yard: &Deployed) {
    let entry = aws_sdk_eventbridge::types::PutEventsRequestEntry::builder()
        .source("example.scanner")
        .detail_type("Scan Finished")
        .detail(json!({ "host": "www.example.com", "open": [22] }).to_string())
        .build();
    let put = block(yard.clients.eventbridge().put_events().entries(entry).send()).expect("it is put");
    assert_eq!(put.failed_entry_count(), 0);
    wait(90, "a job of the custom event", || {
        let jobs = yard.labelled("mapping=scanner");
        if jobs.len() == 1 { Ok(()) } else { Err(format!("{jobs:?}")) }
    });
}

pub(crate) fn parked(yard: &Deployed) {
    let good = finding("100000000005").to_string();
    let record = |id: &str, body: &str| json!({ "eventSource": "aws:sqs", "messageId": id, "body": body });
    let batch = json!({ "Records": [record("1", "{\"cut\": \"park-me"), record("2", &good), record("3", "7")] });
    let (answer, failed) = yard.invoke("FINDING_LISTENER", &batch);
    assert_eq!((failed, &answer), (false, &json!({ "batchItemFailures": [] })), "what is parked is acknowledged");
    arrives(yard, "100000000005");
    let parked = yard.parked("finding_listener", "park-me");
    assert_eq!(parked.len(), 1);
    assert!(parked[0]["reason"].as_str().is_some_and(|reason| reason.starts_with("not JSON")), "{}", parked[0]);
    let (answer, failed) = yard.invoke("TASK_LISTENER", &json!({ "source": "nobody.knows", "detail-type": "it" }));
    assert!(!failed && answer["heard"] == "unknown", "{answer}");
    assert_eq!(yard.parked("task_listener", "nobody.knows").len(), 1);
}

pub(crate) fn destination(yard: &Deployed) {
    let event = json!({ "asks": "for-no-run" });
    let payload = aws_sdk_lambda::primitives::Blob::new(event.to_string());
    let kind = aws_sdk_lambda::types::InvocationType::Event;
    let invoke = yard.clients.lambda().invoke().function_name(env("STACK_JOB_RUNNER_FUNCTION"));
    block(invoke.invocation_type(kind).payload(payload).send()).expect("it is taken");
    wait(60, "the failed invocation is heard of", || {
        let parked = yard.parked("task_listener", "for-no-run");
        if parked.is_empty() { Err("nothing is parked".to_owned()) } else { Ok(()) }
    });
    let seen = yard.ask(User::Viewer, &["yard"]);
    assert!(seen.is_object(), "{seen}");
}
