//! The weather over a live upstream.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use switchyard_faults::{Done, Service, Weather};

use crate::emulator::{Client, Emulator};

fn send() -> Value {
    json!({"QueueUrl": "http://x/0/q", "MessageBody": "x"})
}

#[test]
fn a_lost_answer_was_carried_out_and_a_reset_was_not() {
    let emulator = Emulator::empty();
    let proxy = emulator.proxy();
    let client = Client::new(&proxy, "w");
    proxy.set_weather(Weather { reset: 1.0, ..Weather::calm() });
    assert!(client.json(Service::Sqs, "SendMessage", &send()).is_err());
    assert!(emulator.seen().is_empty());
    proxy.set_weather(Weather { answer_lost: 1.0, ..Weather::calm() });
    assert!(client.json(Service::Sqs, "SendMessage", &send()).is_err());
    assert_eq!(emulator.seen().len(), 1);
    let done: Vec<Done> = proxy.records().all().iter().map(|record| record.done).collect();
    assert_eq!(done, [Done::Weathered("reset"), Done::Weathered("answer lost")]);
}

#[test]
fn throttling_speaks_each_services_language() {
    let emulator = Emulator::empty();
    let proxy = emulator.proxy();
    proxy.set_weather(Weather { throttled: 1.0, ..Weather::calm() });
    let client = Client::new(&proxy, "w");
    assert_eq!(client.json(Service::DynamoDb, "GetItem", &json!({})).unwrap().code(), "ThrottlingException");
    let queue = client.json(Service::Sqs, "ReceiveMessage", &json!({})).unwrap();
    assert_eq!(queue.headers["x-amzn-query-error"], "RequestThrottled;Sender");
    let object = client.send("GET", &Service::S3, "/b/k", &[], "").unwrap();
    assert_eq!((object.status, object.body.contains("<Code>SlowDown</Code>")), (503, true));
    let group = client.form(Service::AutoScaling, "Action=DescribePolicies&Version=2011-01-01").unwrap();
    assert!(group.body.contains("<Code>Throttling</Code>"));
    assert!(emulator.seen().is_empty());
}

#[test]
fn a_silent_service_lets_go_in_the_end() {
    let emulator = Emulator::empty();
    let proxy = emulator.proxy();
    let silent_for = Duration::from_millis(200);
    proxy.set_weather(Weather { silent: 1.0, silent_for, ..Weather::calm() });
    let began = Instant::now();
    assert!(Client::new(&proxy, "w").json(Service::Sqs, "SendMessage", &send()).is_err());
    assert!(began.elapsed() >= silent_for);
}

#[test]
fn entries_that_fail_by_chance_are_not_forwarded_and_all_are_answered() {
    let emulator = Emulator::start(|seen| {
        let entries = seen.json()["Entries"].as_array().cloned().unwrap_or_default();
        let done: Vec<Value> = entries.iter().map(|entry| json!({"Id": entry["Id"]})).collect();
        (200, json!({"Successful": done, "Failed": []}).to_string())
    });
    let proxy = emulator.proxy();
    proxy.set_weather(Weather { seed: 5, partial: 1.0, ..Weather::calm() });
    let entries: Vec<Value> = (0..10).map(|n| json!({"Id": n.to_string(), "MessageBody": "x"})).collect();
    let body = json!({"QueueUrl": "http://x/0/q", "Entries": entries});
    let got = Client::new(&proxy, "w").json(Service::Sqs, "SendMessageBatch", &body).unwrap().json();
    let (done, failed) = (got["Successful"].as_array().unwrap(), got["Failed"].as_array().unwrap());
    assert_eq!(done.len() + failed.len(), 10);
    assert!(!failed.is_empty() && failed.iter().all(|entry| entry["Code"] == "InternalError"));
    let forwarded = emulator.seen().first().map_or(0, |seen| seen.json()["Entries"].as_array().unwrap().len());
    assert_eq!(forwarded, done.len());
}

#[test]
fn a_redelivered_message_is_made_visible_behind_its_receivers_back() {
    let emulator = Emulator::start(|seen| match seen.operation().as_str() {
        "ReceiveMessage" => {
            (200, json!({"Messages": [{"MessageId": "m", "ReceiptHandle": "r", "Body": "x"}]}).to_string())
        }
        _ => (200, "{}".to_owned()),
    });
    let proxy = emulator.proxy();
    proxy.set_weather(Weather { redelivered: 1.0, ..Weather::calm() });
    let body = json!({"QueueUrl": "http://x/0/q", "VisibilityTimeout": 30});
    let got = Client::new(&proxy, "w").json(Service::Sqs, "ReceiveMessage", &body).unwrap();
    assert_eq!(got.json()["Messages"][0]["MessageId"], "m");
    assert_eq!(emulator.operations(), ["ReceiveMessage", "ChangeMessageVisibility"]);
    let shown = emulator.seen()[1].json();
    assert_eq!((shown["ReceiptHandle"].as_str(), shown["VisibilityTimeout"].as_i64()), (Some("r"), Some(0)));
}

#[test]
fn a_storm_is_got_through_with_six_attempts() {
    let emulator = Emulator::empty();
    let proxy = emulator.proxy();
    proxy.set_weather(Weather { silent: 0.0, slow: 0.0, ..Weather::storm(11) });
    let client = Client::new(&proxy, "w");
    for n in 0..200 {
        let attempt = || client.json(Service::Sqs, "SendMessage", &send()).is_ok_and(|got| got.status == 200);
        assert!((0..6).any(|_| attempt()), "call {n} failed six times");
    }
    assert!(proxy.records().tally().total().faulted > 5);
}
