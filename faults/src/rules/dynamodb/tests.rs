use super::*;
use crate::call::Service;
use crate::call::tests::call;
use crate::rules::dynamodb::table::tests::{description, yard};

const SECOND: Duration = Duration::from_secs(1);

/// A state that knows the table `yard`.
fn state() -> State {
    State { tables: yard(), ..State::default() }
}

fn request(ordinal: u64, operation: &str, body: Value) -> Call {
    Call { ordinal, ..call(Service::DynamoDb, operation, body) }
}

fn code(verdict: Verdict) -> String {
    match verdict {
        Verdict::Forward => "forward".to_owned(),
        Verdict::Answer(answer) => answer.error_code().unwrap_or_else(|| "success".to_owned()),
        other => format!("{other:?}"),
    }
}

fn judged(state: &mut State, call: &Call) -> String {
    code(state.before(&DynamoDbLimits::default(), call, &[], Duration::ZERO))
}

fn fresh(operation: &str, body: Value) -> String {
    judged(&mut state(), &request(1, operation, body))
}

fn key(id: &str) -> Value {
    json!({"PK": {"S": id}, "SK": {"S": "M"}})
}

fn put(id: &str) -> Value {
    json!({"TableName": "yard", "Item": key(id)})
}

fn transaction(ids: &[&str]) -> Value {
    let actions: Vec<Value> = ids.iter().map(|id| json!({"Put": put(id)})).collect();
    json!({"TransactItems": actions, "ClientRequestToken": "token"})
}

/// An item of so many bytes; five are the names and the value of the sort key.
fn item(id: &str, bytes: usize) -> Value {
    let mut item = key(id);
    item["x"] = json!({"S": "x".repeat(bytes - 5 - id.len() - 1)});
    assert_eq!(item::size(&item), bytes);
    item
}

#[test]
fn an_item_has_at_most_400_kib() {
    let of = |bytes: usize| fresh("PutItem", json!({"TableName": "yard", "Item": item("a", bytes)}));
    assert_eq!([of(409_600), of(409_601)], ["forward", "ValidationException"]);
    let update = |bytes: usize| {
        let values = json!({":v": {"S": "x".repeat(bytes - 6)}});
        fresh("UpdateItem", json!({"TableName": "yard", "Key": key("a"), "ExpressionAttributeValues": values}))
    };
    assert_eq!([update(409_600), update(409_601)], ["forward", "ValidationException"]);
}

#[test]
fn a_transaction_has_one_to_a_hundred_actions() {
    let of = |n: usize| {
        let ids: Vec<String> = (0..n).map(|n| n.to_string()).collect();
        fresh("TransactWriteItems", transaction(&ids.iter().map(String::as_str).collect::<Vec<_>>()))
    };
    assert_eq!([of(0), of(1), of(100), of(101)], ["ValidationException", "forward", "forward", "ValidationException"]);
}

#[test]
fn a_transaction_has_at_most_4_mib() {
    let of = |last: usize| {
        let sizes = (0..10).map(|_| 409_600).chain([last]);
        let actions = sizes
            .enumerate()
            .map(|(n, bytes)| json!({"Put": {"TableName": "yard", "Item": item(&format!("{n:02}"), bytes)}}));
        fresh("TransactWriteItems", json!({"TransactItems": actions.collect::<Vec<_>>()}))
    };
    let rest = (4 << 20) - 10 * 409_600;
    assert_eq!([of(rest), of(rest + 1)], ["forward", "ValidationException"]);
}

#[test]
fn two_actions_on_one_item_are_refused_whatever_they_are() {
    let check = json!({"ConditionCheck": {"TableName": "yard", "Key": key("a")}});
    let body = |id: &str| json!({"TransactItems": [{"Put": put(id)}, check]});
    assert_eq!(fresh("TransactWriteItems", body("b")), "forward");
    assert_eq!(fresh("TransactWriteItems", body("a")), "ValidationException");
}

#[test]
fn a_batch_reads_at_most_100_and_writes_at_most_25() {
    let reads = |n: usize| fresh("BatchGetItem", json!({"RequestItems": {"yard": {"Keys": vec![key("a"); n]}}}));
    assert_eq!([reads(100), reads(101)], ["forward", "ValidationException"]);
    let writes = |n: usize| {
        let requests: Vec<Value> = (0..n).map(|n| json!({"PutRequest": {"Item": key(&n.to_string())}})).collect();
        fresh("BatchWriteItem", json!({"RequestItems": {"yard": requests}}))
    };
    assert_eq!([writes(25), writes(26)], ["forward", "ValidationException"]);
}

#[test]
fn a_repeated_token_with_the_same_body_succeeds_without_the_service() {
    let mut state = state();
    let first = request(1, "TransactWriteItems", transaction(&["a"]));
    assert_eq!(judged(&mut state, &first), "forward");
    let again = request(2, "TransactWriteItems", transaction(&["a"]));
    assert_eq!(judged(&mut state, &again), "TransactionInProgressException");
    let limits = DynamoDbLimits::default();
    state.after(&limits, &first, Answer::json(&first, &json!({})), Duration::ZERO);
    let at = |state: &mut State, now| code(state.before(&limits, &again, &[], now));
    assert_eq!(at(&mut state, SECOND * 599), "success");
    assert_eq!(at(&mut state, SECOND * 600), "forward");
}

#[test]
fn a_repeated_token_with_another_body_is_a_mismatch() {
    let mut state = state();
    let first = request(1, "TransactWriteItems", transaction(&["a"]));
    judged(&mut state, &first);
    state.after(&DynamoDbLimits::default(), &first, Answer::json(&first, &json!({})), Duration::ZERO);
    let other = request(2, "TransactWriteItems", transaction(&["b"]));
    assert_eq!(judged(&mut state, &other), "IdempotentParameterMismatchException");
}

#[test]
fn a_transaction_that_was_refused_or_lost_leaves_its_token_free() {
    let mut state = state();
    let first = request(1, "TransactWriteItems", transaction(&["a"]));
    judged(&mut state, &first);
    let refused = Answer::refused(&first, &Refusal::new("TransactionCanceledException", "x"));
    state.after(&DynamoDbLimits::default(), &first, refused, Duration::ZERO);
    assert_eq!(judged(&mut state, &first), "forward");
    state.gone(&first);
    assert_eq!(judged(&mut state, &first), "forward");
}

#[test]
fn a_plain_write_stands_back_from_a_transaction_on_its_item() {
    let mut state = state();
    let running = request(1, "TransactWriteItems", transaction(&["a", "b"]));
    assert_eq!(judged(&mut state, &running), "forward");
    assert_eq!(judged(&mut state, &request(2, "PutItem", put("b"))), "TransactionConflictException");
    assert_eq!(judged(&mut state, &request(3, "PutItem", put("c"))), "forward");
    state.after(&DynamoDbLimits::default(), &running, Answer::json(&running, &json!({})), Duration::ZERO);
    assert_eq!(judged(&mut state, &request(4, "PutItem", put("b"))), "forward");
}

#[test]
fn a_transaction_is_cancelled_by_any_write_under_way_and_says_where() {
    let mut state = state();
    let plain = request(1, "UpdateItem", json!({"TableName": "yard", "Key": key("b")}));
    assert_eq!(judged(&mut state, &plain), "forward");
    let second = request(2, "TransactWriteItems", transaction(&["a", "b"]));
    let Verdict::Answer(answer) = state.before(&DynamoDbLimits::default(), &second, &[], Duration::ZERO) else {
        panic!("it was forwarded");
    };
    let value = answer.value();
    assert_eq!(answer.error_code().unwrap(), "TransactionCanceledException");
    assert_eq!(value["CancellationReasons"][0], json!({"Code": "None"}));
    assert_eq!(value["CancellationReasons"][1]["Code"], "TransactionConflict");
    assert!(value["Message"].as_str().unwrap().ends_with("[None, TransactionConflict]"));
    state.gone(&plain);
    assert_eq!(judged(&mut state, &second), "forward");
    let read = json!({"TransactItems": [{"Get": {"TableName": "yard", "Key": key("a")}}]});
    assert_eq!(judged(&mut state, &request(3, "TransactGetItems", read)), "TransactionCanceledException");
}

#[test]
fn plain_writes_do_not_conflict_with_each_other() {
    let mut state = state();
    assert_eq!(judged(&mut state, &request(1, "PutItem", put("a"))), "forward");
    assert_eq!(judged(&mut state, &request(2, "PutItem", put("a"))), "forward");
}

#[test]
fn a_table_that_is_not_known_is_asked_for_once_and_then_left_to_the_service() {
    let mut state = State::default();
    let limits = DynamoDbLimits::default();
    let call = request(1, "PutItem", put("a"));
    let Verdict::Ask(question) = state.before(&limits, &call, &[], Duration::ZERO) else {
        panic!("nothing was asked");
    };
    assert_eq!((question.operation, question.body.as_str()), ("DescribeTable", r#"{"TableName":"yard"}"#));
    let unknown = Answer::refused(&call, &Refusal::new("ResourceNotFoundException", "x"));
    assert_eq!(code(state.before(&limits, &call, &[unknown], Duration::ZERO)), "forward");
    let known = Answer::json(&call, &json!({"Table": description()["TableDescription"]}));
    assert_eq!(code(state.before(&limits, &call, &[known], Duration::ZERO)), "forward");
    assert_eq!(judged(&mut state, &request(2, "PutItem", put("b"))), "forward");
}

#[test]
fn a_table_is_learnt_from_its_creation() {
    let mut state = State::default();
    let create = request(1, "CreateTable", json!({"TableName": "yard"}));
    assert_eq!(judged(&mut state, &create), "forward");
    let created = Answer::json(&create, &description());
    state.after(&DynamoDbLimits::default(), &create, created, Duration::ZERO);
    assert_eq!(judged(&mut state, &request(2, "PutItem", put("a"))), "forward");
}

#[test]
fn capacity_that_is_used_up_refuses_until_it_flows_back() {
    let mut state = state();
    let rate = Rate { burst: 2.0, per_second: 1.0 };
    let limits = DynamoDbLimits { write_capacity: Some(rate), ..DynamoDbLimits::default() };
    let mut write = |ordinal: u64, now: Duration| {
        let call = request(ordinal, "PutItem", json!({"TableName": "yard", "Item": item("a", 3000)}));
        let verdict = code(state.before(&limits, &call, &[], now));
        if verdict == "forward" {
            state.after(&limits, &call, Answer::json(&call, &json!({})), now);
        }
        verdict
    };
    assert_eq!(
        [write(1, Duration::ZERO), write(2, SECOND), write(3, SECOND * 2)],
        ["forward", "ProvisionedThroughputExceededException", "forward"]
    );
    assert_eq!(code(state.before(&limits, &request(4, "GetItem", put("a")), &[], SECOND * 2)), "forward");
}

#[test]
fn an_index_does_not_show_what_was_written_a_moment_ago() {
    let mut state = state();
    let limits = DynamoDbLimits { index_lag: SECOND, ..DynamoDbLimits::default() };
    let write = request(1, "PutItem", put("a"));
    state.after(&limits, &write, Answer::json(&write, &json!({})), Duration::ZERO);
    let mut seen = |index: Value, now: Duration| {
        let query = request(2, "Query", json!({"TableName": "yard", "IndexName": index}));
        let answer = Answer::json(&query, &json!({"Items": [key("a"), key("b")], "Count": 2}));
        let (answer, units) = state.after(&limits, &query, answer, now);
        assert_eq!(units.read_halves, 1);
        answer.value()["Count"].as_u64().unwrap()
    };
    assert_eq!(seen(json!("GSI1"), SECOND / 2), 1);
    assert_eq!(seen(json!("GSI1"), SECOND), 2);
    assert_eq!(seen(Value::Null, SECOND / 2), 2);
}

#[test]
fn a_refused_write_does_not_hide_its_item() {
    let mut state = state();
    let limits = DynamoDbLimits { index_lag: SECOND, ..DynamoDbLimits::default() };
    let write = request(1, "PutItem", put("a"));
    let refused = Answer::refused(&write, &Refusal::new("ConditionalCheckFailedException", "x"));
    state.after(&limits, &write, refused, Duration::ZERO);
    let query = request(2, "Query", json!({"TableName": "yard", "IndexName": "GSI1"}));
    let answer = Answer::json(&query, &json!({"Items": [key("a")], "Count": 1}));
    assert_eq!(state.after(&limits, &query, answer, Duration::ZERO).0.value()["Count"], 1);
}
