//! The script over a live upstream: who saw what.

use std::time::{Duration, Instant};

use futures_lite::future::block_on;
use serde_json::{Value, json};
use switchyard_faults::{Action, Done, Proxy, Service, Settings, When};

use crate::emulator::{Client, Emulator, eventually};

fn send() -> Value {
    json!({"QueueUrl": "http://x/0/q", "MessageBody": "x"})
}

#[test]
fn a_failure_is_the_answer_and_the_service_hears_nothing() {
    let emulator = Emulator::empty();
    let proxy = emulator.proxy();
    proxy.script().on(When::call(Service::Sqs, "SendMessage").nth(2), Action::fail("AccessDeniedException", "no"));
    let client = Client::new(&proxy, "worker-1");
    let codes = [(); 3].map(|()| client.json(Service::Sqs, "SendMessage", &send()).unwrap().code());
    assert_eq!(codes, ["", "AccessDeniedException", ""]);
    assert_eq!(emulator.seen().len(), 2);
    let record = &proxy.records().all()[1];
    assert_eq!((record.done, record.forwarded, record.nanodollars), (Done::Scripted("fail"), false, 0));
}

#[test]
fn a_replacement_is_a_success_that_the_service_knows_nothing_of() {
    let emulator = Emulator::empty();
    let proxy = emulator.proxy();
    let body = json!({"tasks": [], "failures": [{"reason": "RESOURCE:ENI"}]});
    proxy.script().on(When::call(Service::Ecs, "RunTask"), Action::Replace(body.to_string()));
    let got = Client::new(&proxy, "w").json(Service::Ecs, "RunTask", &json!({})).unwrap();
    assert_eq!((got.status, got.json()), (200, body));
    assert!(emulator.seen().is_empty());
}

#[test]
fn a_service_that_is_played_is_asked_only_what_the_rules_let_through() {
    let emulator = Emulator::empty();
    let proxy = emulator.proxy();
    let body = |arn: &str| json!({"tasks": [{"taskArn": arn}], "failures": []});
    for arn in ["one", "two"] {
        proxy.script().play(When::call(Service::Ecs, "RunTask").once(), body(arn).to_string());
    }
    proxy.script().on(When::call(Service::Ecs, "RunTask").nth(1), Action::ResetAfter);
    let client = Client::new(&proxy, "w");
    let run = |request: Value| client.json(Service::Ecs, "RunTask", &request);
    assert!(run(json!({"clientToken": "t"})).is_err(), "carried out, and the answer is lost");
    assert_eq!(run(json!({"clientToken": "t"})).unwrap().json(), body("one"), "the token knows");
    assert_eq!(run(json!({"clientToken": "t", "group": "other"})).unwrap().code(), "ConflictException");
    assert_eq!(run(json!({"clientToken": "u", "count": 11})).unwrap().code(), "InvalidParameterException");
    assert_eq!(run(json!({"clientToken": "u"})).unwrap().json(), body("two"));
    let forwarded = proxy.records().all().iter().map(|record| record.forwarded).collect::<Vec<_>>();
    assert_eq!(forwarded, [true, false, false, false, true]);
    assert!(emulator.seen().is_empty());
    assert_eq!(run(json!({"clientToken": "v"})).unwrap().json(), json!({}), "what is played no more is forwarded");
}

#[test]
fn entries_of_a_batch_fail_by_their_places_and_the_others_arrive() {
    let emulator = Emulator::start(|seen| {
        let ids: Vec<Value> =
            seen.json()["Entries"].as_array().unwrap().iter().map(|entry| entry["Id"].clone()).collect();
        (200, json!({"Successful": ids.iter().map(|id| json!({"Id": id})).collect::<Vec<_>>()}).to_string())
    });
    let proxy = emulator.proxy();
    let when = When::call(Service::Sqs, "SendMessageBatch").once();
    let rule = proxy.script().on(when, Action::FailEntries(vec![(1, "InternalError", false)]));
    let entries = ["a", "b", "c"].map(|id| json!({"Id": id, "MessageBody": "x"}));
    let body = json!({"QueueUrl": "http://x/0/q", "Entries": entries});
    let send = || Client::new(&proxy, "w").json(Service::Sqs, "SendMessageBatch", &body).unwrap().json();
    let answer = send();
    assert_eq!(answer["Successful"], json!([{"Id": "a"}, {"Id": "c"}]));
    assert_eq!((&answer["Failed"][0]["Id"], &answer["Failed"][0]["SenderFault"]), (&json!("b"), &json!(false)));
    assert_eq!(rule.hits(), 1);
    assert_eq!(send()["Successful"].as_array().unwrap().len(), 3);
}

#[test]
fn what_was_asked_is_kept_where_it_is_wanted() {
    let emulator = Emulator::empty();
    let proxy = Proxy::start(Settings { keep_requests: true, ..Settings::new(&emulator.url) }).unwrap();
    let client = Client::new(&proxy, "w");
    client.json(Service::Sqs, "SendMessage", &send()).unwrap();
    client.form(Service::AutoScaling, "Action=DescribePolicies&Version=2011-01-01").unwrap();
    assert_eq!(proxy.records().requests("SendMessage"), [send()]);
    assert_eq!(proxy.records().requests("DescribePolicies")[0]["Version"], "2011-01-01");
    let plain = emulator.proxy();
    Client::new(&plain, "w").json(Service::Sqs, "SendMessage", &send()).unwrap();
    assert!(plain.records().all()[0].request.is_none());
}

#[test]
fn a_reset_before_is_not_carried_out_and_a_reset_after_is() {
    let emulator = Emulator::empty();
    let proxy = emulator.proxy();
    let client = Client::new(&proxy, "w");
    proxy.script().on(When::any().nth(1), Action::ResetBefore);
    proxy.script().on(When::any().nth(2), Action::ResetAfter);
    let reset = || client.json(Service::Sqs, "SendMessage", &send()).unwrap_err().to_string();
    assert!(reset().contains("reset by peer"));
    assert_eq!(emulator.seen().len(), 0);
    assert!(reset().contains("reset by peer"));
    assert_eq!(emulator.seen().len(), 1);
    let records = proxy.records().all();
    assert_eq!((records[0].forwarded, records[0].status, records[0].nanodollars), (false, None, 0));
    assert_eq!((records[1].forwarded, records[1].status, records[1].nanodollars), (true, None, 400));
}

#[test]
fn a_hold_before_is_reached_and_never_carried_out() {
    let emulator = Emulator::empty();
    let proxy = emulator.proxy();
    let rule = proxy.script().on(When::any().client("w"), Action::HoldBefore);
    let client = Client::new(&proxy, "w").patient_for(Duration::from_millis(300));
    let waiting = client.later(Service::Sqs, "SendMessage", send());
    block_on(rule.reached());
    assert!(waiting.join().unwrap().is_err());
    assert!(emulator.seen().is_empty());
}

#[test]
fn a_hold_after_is_reached_once_it_was_carried_out() {
    let emulator = Emulator::empty();
    let proxy = emulator.proxy();
    let rule = proxy.script().on(When::any().client("w"), Action::HoldAfter);
    let client = Client::new(&proxy, "w").patient_for(Duration::from_millis(500));
    let waiting = client.later(Service::Sqs, "SendMessage", send());
    block_on(rule.reached());
    assert_eq!(emulator.operations(), ["SendMessage"]);
    assert!(waiting.join().unwrap().is_err());
}

#[test]
fn a_cut_client_is_not_heard_and_others_are() {
    let emulator = Emulator::empty();
    let proxy = emulator.proxy();
    let (one, two) = (Client::new(&proxy, "one"), Client::new(&proxy, "two"));
    proxy.script().cut("one");
    assert!(one.json(Service::Sqs, "SendMessage", &send()).is_err());
    assert!(two.json(Service::Sqs, "SendMessage", &send()).is_ok());
    proxy.script().mend("one");
    assert!(one.json(Service::Sqs, "SendMessage", &send()).is_ok());
    assert_eq!(emulator.seen().len(), 2);
}

#[test]
fn a_delayed_request_is_carried_out_though_its_client_went_away() {
    let emulator = Emulator::empty();
    let proxy = emulator.proxy();
    let rule = proxy.script().on(When::any().nth(1), Action::Delay(Duration::from_millis(400)));
    let client = Client::new(&proxy, "w").patient_for(Duration::from_millis(100));
    let waiting = client.later(Service::Sqs, "SendMessage", send());
    block_on(rule.reached());
    assert!(waiting.join().unwrap().is_err());
    assert!(emulator.seen().is_empty());
    eventually("the delayed message arrives", || emulator.operations() == ["SendMessage"]);
}

#[test]
fn a_delayed_answer_was_carried_out_before() {
    let emulator = Emulator::empty();
    let proxy = emulator.proxy();
    let delay = Duration::from_millis(300);
    let rule = proxy.script().on(When::any(), Action::DelayAnswer(delay));
    let began = Instant::now();
    let waiting = Client::new(&proxy, "w").later(Service::Sqs, "SendMessage", send());
    block_on(rule.reached());
    assert_eq!(emulator.seen().len(), 1);
    assert!(waiting.join().unwrap().is_ok());
    assert!(began.elapsed() >= delay);
}
