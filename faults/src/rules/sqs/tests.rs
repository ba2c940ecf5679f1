use super::*;
use crate::batch::Decided;
use crate::call::Service;
use crate::call::tests::call;

const SECOND: Duration = Duration::from_secs(1);
const QUEUE: &str = "http://localhost/000000000000/q";

fn limits() -> SqsLimits {
    SqsLimits::default()
}

fn code(verdict: Verdict) -> String {
    match verdict {
        Verdict::Forward => "forward".to_owned(),
        Verdict::Answer(answer) => answer.error_code().unwrap_or_else(|| "success".to_owned()),
        other => format!("{other:?}"),
    }
}

fn fresh(operation: &str, body: Value) -> String {
    code(State::default().before(&limits(), &call(Service::Sqs, operation, body), &[], Duration::ZERO))
}

fn ask(state: &mut State, operation: &str, mut body: Value, now: Duration) -> Verdict {
    body["QueueUrl"] = json!(QUEUE);
    state.before(&limits(), &call(Service::Sqs, operation, body), &[], now)
}

/// The answer of the service passes.
fn pass(state: &mut State, operation: &str, mut body: Value, answer: &Value, now: Duration) {
    body["QueueUrl"] = json!(QUEUE);
    let call = call(Service::Sqs, operation, body);
    state.after(&call, &Answer::json(&call, answer), now);
}

fn receive(state: &mut State, id: &str, receipt: &str, seconds: u64, now: Duration) {
    let answer = json!({"Messages": [{"MessageId": id, "ReceiptHandle": receipt}]});
    pass(state, "ReceiveMessage", json!({"VisibilityTimeout": seconds}), &answer, now);
}

fn batch(entries: Value) -> Value {
    json!({"QueueUrl": QUEUE, "Entries": entries})
}

#[test]
fn a_batch_has_one_to_ten_entries() {
    let of = |n: usize| {
        let entries: Vec<Value> = (0..n).map(|n| json!({"Id": n.to_string(), "MessageBody": "x"})).collect();
        fresh("SendMessageBatch", batch(json!(entries)))
    };
    assert_eq!(of(0), "AWS.SimpleQueueService.EmptyBatchRequest");
    assert_eq!(of(10), "forward");
    assert_eq!(of(11), "AWS.SimpleQueueService.TooManyEntriesInBatchRequest");
}

#[test]
fn ids_of_a_batch_are_distinct_and_have_at_most_80_characters() {
    let of = |first: &str, second: &str| {
        let entry = |id: &str| json!({"Id": id, "ReceiptHandle": "r"});
        fresh("DeleteMessageBatch", batch(json!([entry(first), entry(second)])))
    };
    assert_eq!(of(&"a".repeat(80), "b"), "forward");
    assert_eq!(of(&"a".repeat(81), "b"), "AWS.SimpleQueueService.InvalidBatchEntryId");
    assert_eq!(of("a.b", "b"), "AWS.SimpleQueueService.InvalidBatchEntryId");
    assert_eq!(of("", "b"), "AWS.SimpleQueueService.InvalidBatchEntryId");
    assert_eq!(of("a", "a"), "AWS.SimpleQueueService.BatchEntryIdsNotDistinct");
}

#[test]
fn a_message_has_at_most_one_mib_with_its_attributes() {
    let of = |bytes: usize| {
        let attributes = json!({"n": {"DataType": "String", "StringValue": "value"}});
        json!({"MessageBody": "x".repeat(bytes - 12), "MessageAttributes": attributes})
    };
    assert_eq!(fresh("SendMessage", of(1 << 20)), "forward");
    assert_eq!(fresh("SendMessage", of((1 << 20) + 1)), "InvalidParameterValue");
}

#[test]
fn a_whole_batch_has_at_most_one_mib() {
    let of = |bytes: usize| {
        let entry = |id: &str, bytes: usize| json!({"Id": id, "MessageBody": "x".repeat(bytes)});
        fresh("SendMessageBatch", batch(json!([entry("a", 1 << 19), entry("b", bytes - (1 << 19))])))
    };
    assert_eq!(of(1 << 20), "forward");
    assert_eq!(of((1 << 20) + 1), "AWS.SimpleQueueService.BatchRequestTooLong");
}

#[test]
fn control_characters_are_refused_but_for_tab_and_line_ends() {
    assert_eq!(fresh("SendMessage", json!({"MessageBody": "a\t\n\rü\u{10FFFF}"})), "forward");
    for bad in ["\u{0}", "\u{1}", "\u{b}", "\u{1f}", "\u{FFFE}", "\u{FFFF}"] {
        assert_eq!(fresh("SendMessage", json!({"MessageBody": bad})), "InvalidMessageContents");
    }
}

#[test]
fn an_empty_message_is_refused() {
    assert_eq!(fresh("SendMessage", json!({"MessageBody": ""})), "MissingParameter");
}

#[test]
fn a_delay_is_at_most_900_seconds() {
    let of = |delay: i64| fresh("SendMessage", json!({"MessageBody": "x", "DelaySeconds": delay}));
    assert_eq!([of(0), of(900), of(901)], ["forward", "forward", "InvalidParameterValue"]);
}

#[test]
fn a_receive_waits_at_most_20_seconds_for_at_most_10_messages() {
    let of = |field: &str, value: i64| {
        let mut body = json!({"VisibilityTimeout": 1});
        body[field] = json!(value);
        fresh("ReceiveMessage", body)
    };
    assert_eq!([of("WaitTimeSeconds", 20), of("WaitTimeSeconds", 21)], ["forward", "InvalidParameterValue"]);
    let counts = [0, 1, 10, 11].map(|n| of("MaxNumberOfMessages", n));
    assert_eq!(counts, ["InvalidParameterValue", "forward", "forward", "InvalidParameterValue"]);
    assert_eq!(
        [of("VisibilityTimeout", 43_200), of("VisibilityTimeout", 43_201)],
        ["forward", "InvalidParameterValue"]
    );
}

#[test]
fn of_a_batch_only_what_is_refused_fails() {
    let entries = json!([
        {"Id": "good", "MessageBody": "x"},
        {"Id": "bad", "MessageBody": "\u{1}"},
        {"Id": "late", "MessageBody": "x", "DelaySeconds": 901},
    ]);
    let verdict = ask(&mut State::default(), "SendMessageBatch", batch(entries), Duration::ZERO);
    let Verdict::Part(Some(rest), Decided::Queue { successful, failed }) = verdict else {
        panic!("the batch was not parted: {verdict:?}");
    };
    assert_eq!((rest["Entries"].as_array().unwrap().len(), successful.len()), (1, 0));
    let codes: Vec<(&str, &str)> = failed.iter().map(|entry| (text(entry, "Id"), text(entry, "Code"))).collect();
    assert_eq!(codes, [("bad", "InvalidMessageContents"), ("late", "InvalidParameterValue")]);
}

#[test]
fn deleting_with_a_stale_receipt_succeeds_and_is_not_forwarded() {
    let mut state = State::default();
    receive(&mut state, "m", "old", 30, Duration::ZERO);
    receive(&mut state, "m", "new", 30, SECOND * 31);
    let mut delete =
        |receipt: &str| code(ask(&mut state, "DeleteMessage", json!({"ReceiptHandle": receipt}), SECOND * 32));
    assert_eq!([delete("old"), delete("new"), delete("never seen")], ["success", "forward", "forward"]);
}

#[test]
fn deleting_twice_succeeds_and_is_forwarded_once() {
    let mut state = State::default();
    receive(&mut state, "m", "r", 30, Duration::ZERO);
    let body = json!({"ReceiptHandle": "r"});
    assert_eq!(code(ask(&mut state, "DeleteMessage", body.clone(), SECOND)), "forward");
    pass(&mut state, "DeleteMessage", body.clone(), &json!({}), SECOND);
    assert_eq!(code(ask(&mut state, "DeleteMessage", body, SECOND)), "success");
}

#[test]
fn the_newest_receipt_deletes_even_when_the_message_is_visible_again() {
    let mut state = State::default();
    receive(&mut state, "m", "r", 30, Duration::ZERO);
    assert_eq!(code(ask(&mut state, "DeleteMessage", json!({"ReceiptHandle": "r"}), SECOND * 100)), "forward");
}

#[test]
fn a_batch_delete_forwards_only_the_newest_receipts() {
    let mut state = State::default();
    receive(&mut state, "m", "old", 30, Duration::ZERO);
    receive(&mut state, "m", "new", 30, SECOND * 31);
    let entries = json!([{"Id": "a", "ReceiptHandle": "old"}, {"Id": "b", "ReceiptHandle": "new"}]);
    let Verdict::Part(Some(rest), decided) = ask(&mut state, "DeleteMessageBatch", batch(entries.clone()), SECOND * 32)
    else {
        panic!("the batch was not parted");
    };
    assert_eq!(rest["Entries"], json!([entries[1]]));
    assert_eq!(decided, Decided::Queue { successful: vec![json!({"Id": "a"})], failed: vec![] });
    pass(&mut state, "DeleteMessageBatch", rest, &json!({"Successful": [{"Id": "b"}]}), SECOND * 32);
    assert_eq!(code(ask(&mut state, "DeleteMessage", json!({"ReceiptHandle": "new"}), SECOND * 33)), "success");
}

fn change(state: &mut State, receipt: &str, seconds: i64, now: Duration) -> String {
    let body = json!({"ReceiptHandle": receipt, "VisibilityTimeout": seconds});
    code(ask(state, "ChangeMessageVisibility", body, now))
}

#[test]
fn a_message_stays_hidden_for_at_most_12_hours_in_total() {
    let mut state = State::default();
    receive(&mut state, "m", "r", 3600, Duration::ZERO);
    let now = SECOND * 1000;
    assert_eq!(change(&mut state, "r", 43_200 - 1000, now), "forward");
    assert_eq!(change(&mut state, "r", 43_200 - 999, now), "InvalidParameterValue");
    assert_eq!(change(&mut state, "r", 43_201, Duration::ZERO), "InvalidParameterValue");
}

#[test]
fn changing_the_visibility_of_a_message_that_is_visible_again_fails() {
    let mut state = State::default();
    receive(&mut state, "m", "r", 30, Duration::ZERO);
    assert_eq!(change(&mut state, "r", 60, SECOND * 29), "forward");
    assert_eq!(change(&mut state, "r", 60, SECOND * 30), "AWS.SimpleQueueService.MessageNotInflight");
}

#[test]
fn a_change_that_comes_late_may_also_succeed_without_effect() {
    let mut state = State::default();
    receive(&mut state, "m", "r", 30, Duration::ZERO);
    let limits = SqsLimits { late_change: LateChange::Nothing, ..limits() };
    let body = json!({"QueueUrl": QUEUE, "ReceiptHandle": "r", "VisibilityTimeout": 60});
    let call = call(Service::Sqs, "ChangeMessageVisibility", body);
    assert_eq!(code(state.before(&limits, &call, &[], SECOND * 31)), "success");
}

#[test]
fn a_change_of_visibility_moves_the_time_from_when_it_was_made() {
    let mut state = State::default();
    receive(&mut state, "m", "r", 30, Duration::ZERO);
    let body = json!({"ReceiptHandle": "r", "VisibilityTimeout": 60});
    pass(&mut state, "ChangeMessageVisibility", body, &json!({}), SECOND * 20);
    assert_eq!(change(&mut state, "r", 60, SECOND * 79), "forward");
    assert_eq!(change(&mut state, "r", 60, SECOND * 80), "AWS.SimpleQueueService.MessageNotInflight");
}

#[test]
fn the_visibility_of_a_deleted_message_or_a_stale_receipt_cannot_be_changed() {
    let mut state = State::default();
    receive(&mut state, "m", "old", 30, Duration::ZERO);
    receive(&mut state, "m", "new", 30, SECOND * 31);
    assert_eq!(change(&mut state, "old", 60, SECOND * 32), "InvalidParameterValue");
    pass(&mut state, "DeleteMessage", json!({"ReceiptHandle": "new"}), &json!({}), SECOND * 33);
    assert_eq!(change(&mut state, "new", 60, SECOND * 34), "InvalidParameterValue");
}

#[test]
fn a_batch_of_changes_fails_only_where_it_must() {
    let mut state = State::default();
    receive(&mut state, "m1", "r1", 30, Duration::ZERO);
    receive(&mut state, "m2", "r2", 90, Duration::ZERO);
    let entry = |id: &str| json!({"Id": id, "ReceiptHandle": id, "VisibilityTimeout": 60});
    let verdict =
        ask(&mut state, "ChangeMessageVisibilityBatch", batch(json!([entry("r1"), entry("r2")])), SECOND * 31);
    let Verdict::Part(Some(rest), Decided::Queue { failed, .. }) = verdict else {
        panic!("the batch was not parted: {verdict:?}");
    };
    assert_eq!(rest["Entries"], json!([entry("r2")]));
    assert_eq!(text(&failed[0], "Code"), "AWS.SimpleQueueService.MessageNotInflight");
}

#[test]
fn a_queue_with_too_much_in_flight_refuses_a_short_poll_and_leaves_a_long_one_empty() {
    let mut state = State::default();
    let limits = SqsLimits { in_flight: 2, ..limits() };
    let poll = |state: &mut State, wait: u64, now| {
        let body = json!({"QueueUrl": QUEUE, "VisibilityTimeout": 5, "WaitTimeSeconds": wait});
        state.before(&limits, &call(Service::Sqs, "ReceiveMessage", body), &[], now)
    };
    receive(&mut state, "m1", "r1", 30, Duration::ZERO);
    assert_eq!(code(poll(&mut state, 0, SECOND)), "forward");
    receive(&mut state, "m2", "r2", 60, Duration::ZERO);
    assert_eq!(code(poll(&mut state, 0, SECOND)), "OverLimit");
    assert!(matches!(poll(&mut state, 20, SECOND), Verdict::Wait(wait, _) if wait == SECOND * 20));
    assert_eq!(code(poll(&mut state, 0, SECOND * 30)), "forward");
}

#[test]
fn the_queues_own_visibility_is_asked_for_once() {
    let mut state = State::default();
    let receive = call(Service::Sqs, "ReceiveMessage", json!({"QueueUrl": QUEUE}));
    let Verdict::Ask(question) = state.before(&limits(), &receive, &[], Duration::ZERO) else {
        panic!("nothing was asked");
    };
    assert_eq!(question.operation, "GetQueueAttributes");
    let told = [Answer::json(&receive, &json!({"Attributes": {"VisibilityTimeout": "90"}}))];
    assert_eq!(code(state.before(&limits(), &receive, &told, Duration::ZERO)), "forward");
    assert_eq!(code(state.before(&limits(), &receive, &[], Duration::ZERO)), "forward");
    let answer = json!({"Messages": [{"MessageId": "m", "ReceiptHandle": "r"}]});
    pass(&mut state, "ReceiveMessage", json!({}), &answer, Duration::ZERO);
    assert_eq!(change(&mut state, "r", 1, SECOND * 89), "forward");
    assert_eq!(change(&mut state, "r", 1, SECOND * 90), "AWS.SimpleQueueService.MessageNotInflight");
}

#[test]
fn a_queue_that_does_not_say_has_the_default_and_is_asked_again() {
    let mut state = State::default();
    let receive = call(Service::Sqs, "ReceiveMessage", json!({"QueueUrl": QUEUE}));
    let told = [Answer::refused(&receive, &Refusal::new("AWS.SimpleQueueService.NonExistentQueue", "x"))];
    assert_eq!(code(state.before(&limits(), &receive, &told, Duration::ZERO)), "forward");
    assert!(matches!(state.before(&limits(), &receive, &[], Duration::ZERO), Verdict::Ask(_)));
    let answer = json!({"Messages": [{"MessageId": "m", "ReceiptHandle": "r"}]});
    pass(&mut state, "ReceiveMessage", json!({}), &answer, Duration::ZERO);
    assert_eq!(change(&mut state, "r", 1, SECOND * 29), "forward");
    assert_eq!(change(&mut state, "r", 1, SECOND * 30), "AWS.SimpleQueueService.MessageNotInflight");
}

#[test]
fn a_redelivered_message_is_visible_at_once() {
    let mut state = State::default();
    receive(&mut state, "m", "r", 30, Duration::ZERO);
    let call = call(Service::Sqs, "ReceiveMessage", json!({"QueueUrl": QUEUE}));
    let answer = Answer::json(&call, &json!({"Messages": [{"MessageId": "m", "ReceiptHandle": "r"}]}));
    let question = state.redeliver(&call, &answer, SECOND).unwrap();
    assert_eq!(question.operation, "ChangeMessageVisibility");
    assert_eq!(change(&mut state, "r", 30, SECOND), "AWS.SimpleQueueService.MessageNotInflight");
}
