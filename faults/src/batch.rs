//! Batches whose entries meet different fates: some are decided here, the rest goes on, and the client sees one answer.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::answer::{Answer, Refusal};
use crate::call::Call;

/// What was decided about some entries of a batch without the service.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Decided {
    /// SQS: entries of `Successful` and of `Failed`.
    Queue { successful: Vec<Value>, failed: Vec<Value> },
    /// EventBridge: result entries by their position in the request.
    Events(BTreeMap<usize, Value>),
    /// DynamoDB: what comes back as `UnprocessedKeys` or `UnprocessedItems`, by table.
    Unprocessed { field: &'static str, tables: Map<String, Value> },
}

impl Decided {
    /// The service's answer about the rest, completed.
    pub(crate) fn complete(self, answer: Answer) -> Answer {
        if !answer.is_ok() {
            return answer;
        }
        let mut value = answer.value();
        if !value.is_object() {
            value = json!({});
        }
        match self {
            Self::Queue { successful, failed } => {
                append(&mut value["Successful"], successful);
                append(&mut value["Failed"], failed);
            }
            Self::Events(decided) => {
                let failed = value["FailedEntryCount"].as_u64().unwrap_or(0);
                value["FailedEntryCount"] = json!(failed + decided.len() as u64);
                let mut entries = value["Entries"].as_array().cloned().unwrap_or_default();
                // In rising order, so that every position is final when its entry is put there.
                for (position, entry) in decided {
                    entries.insert(position.min(entries.len()), entry);
                }
                value["Entries"] = Value::Array(entries);
            }
            Self::Unprocessed { field, tables } => {
                for (table, entries) in tables {
                    match (&mut value[field][&table], entries) {
                        (place @ Value::Null, entries) => *place = entries,
                        (place, Value::Array(more)) => append(place, more),
                        (place, mut keys) => {
                            append(
                                &mut place["Keys"],
                                keys["Keys"].as_array_mut().map(std::mem::take).unwrap_or_default(),
                            );
                        }
                    }
                }
            }
        }
        answer.with_json(&value)
    }

    /// The answer to a batch of which nothing is left for the service.
    pub(crate) fn alone(self, call: &Call) -> Answer {
        self.complete(Answer::json(call, &json!({})))
    }
}

fn append(place: &mut Value, mut more: Vec<Value>) {
    match place {
        Value::Array(list) => list.append(&mut more),
        place => *place = Value::Array(more),
    }
}

/// What becomes of one entry of an SQS batch.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fate {
    /// The service decides.
    Forward,
    /// It succeeds, and the service hears nothing of it.
    Succeed,
    /// It fails, and the service hears nothing of it.
    Fail(Refusal),
}

/// Parts an SQS batch by the fates of its entries: the body that goes on (`None`: no entry is left), and what is decided;
/// `None` where every entry goes on.
pub(crate) fn part_queue(body: &Value, mut fate: impl FnMut(&Value) -> Fate) -> Option<(Option<Value>, Decided)> {
    let entries = body["Entries"].as_array()?;
    let (mut rest, mut successful, mut failed) = (Vec::new(), Vec::new(), Vec::new());
    for entry in entries {
        match fate(entry) {
            Fate::Forward => rest.push(entry.clone()),
            Fate::Succeed => successful.push(json!({"Id": entry["Id"]})),
            Fate::Fail(refusal) => failed.push(json!({
                "Id": entry["Id"],
                "Code": refusal.code,
                "Message": refusal.message,
                "SenderFault": refusal.status < 500,
            })),
        }
    }
    if rest.len() == entries.len() {
        return None;
    }
    Some((with_entries(body, rest), Decided::Queue { successful, failed }))
}

/// Parts a PutEvents request: entries for which `refuse` gives an error code and message do not go on.
pub(crate) fn part_events(
    body: &Value,
    mut refuse: impl FnMut(&Value) -> Option<(&'static str, &'static str)>,
) -> Option<(Option<Value>, Decided)> {
    let (mut rest, mut decided) = (Vec::new(), BTreeMap::new());
    for (position, entry) in body["Entries"].as_array()?.iter().enumerate() {
        match refuse(entry) {
            None => rest.push(entry.clone()),
            Some((code, message)) => {
                decided.insert(position, json!({"ErrorCode": code, "ErrorMessage": message}));
            }
        }
    }
    if decided.is_empty() {
        return None;
    }
    Some((with_entries(body, rest), Decided::Events(decided)))
}

/// Parts a BatchGetItem or BatchWriteItem: entries that `leave` chooses come back unprocessed. At least one goes on, since
/// DynamoDB answers with an error, not with an empty success, when it can process none.
pub(crate) fn part_items(body: &Value, mut leave: impl FnMut() -> bool) -> Option<(Option<Value>, Decided)> {
    let requests = body["RequestItems"].as_object()?;
    let (mut rest, mut tables) = (Map::new(), Map::new());
    for (table, request) in requests {
        let is_read = request.is_object();
        let entries = if is_read { &request["Keys"] } else { request };
        let (left, kept): (Vec<Value>, Vec<Value>) = entries.as_array()?.iter().cloned().partition(|_| leave());
        let wrapped = |entries: Vec<Value>| {
            let mut wrapped = request.clone();
            *(if is_read { &mut wrapped["Keys"] } else { &mut wrapped }) = Value::Array(entries);
            wrapped
        };
        if !kept.is_empty() {
            rest.insert(table.clone(), wrapped(kept));
        }
        if !left.is_empty() {
            tables.insert(table.clone(), wrapped(left));
        }
    }
    if tables.is_empty() || rest.is_empty() {
        return None;
    }
    let is_read = requests.values().any(Value::is_object);
    let field = if is_read { "UnprocessedKeys" } else { "UnprocessedItems" };
    let mut body = body.clone();
    body["RequestItems"] = Value::Object(rest);
    Some((Some(body), Decided::Unprocessed { field, tables }))
}

fn with_entries(body: &Value, entries: Vec<Value>) -> Option<Value> {
    if entries.is_empty() {
        return None;
    }
    let mut body = body.clone();
    body["Entries"] = Value::Array(entries);
    Some(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Service;
    use crate::call::tests::call;

    #[test]
    fn entries_of_a_queue_batch_meet_their_fates_apart() {
        let body = json!({"QueueUrl": "q", "Entries": [{"Id": "a"}, {"Id": "b"}, {"Id": "c"}]});
        let (rest, decided) = part_queue(&body, |entry| match entry["Id"].as_str() {
            Some("a") => Fate::Succeed,
            Some("b") => Fate::Fail(Refusal::new("InternalError", "x").status(500)),
            _ => Fate::Forward,
        })
        .unwrap();
        assert_eq!(rest, Some(json!({"QueueUrl": "q", "Entries": [{"Id": "c"}]})));
        let answer =
            Answer::json(&call(Service::Sqs, "DeleteMessageBatch", body), &json!({"Successful": [{"Id": "c"}]}));
        assert_eq!(
            decided.complete(answer).value(),
            json!({
                "Successful": [{"Id": "c"}, {"Id": "a"}],
                "Failed": [{"Id": "b", "Code": "InternalError", "Message": "x", "SenderFault": false}],
            })
        );
    }

    #[test]
    fn a_batch_whose_entries_all_go_on_is_not_parted() {
        assert_eq!(part_queue(&json!({"Entries": [{"Id": "a"}]}), |_| Fate::Forward), None);
    }

    #[test]
    fn refused_events_keep_their_places_in_the_answer() {
        let body = json!({"Entries": [{"Source": "aws.x"}, {"Source": "mine"}, {"Source": "aws.y"}]});
        let aws = |entry: &Value| entry["Source"].as_str()?.starts_with("aws.").then_some(("No", "no"));
        let (rest, decided) = part_events(&body, aws).unwrap();
        assert_eq!(rest, Some(json!({"Entries": [{"Source": "mine"}]})));
        let upstream = json!({"FailedEntryCount": 0, "Entries": [{"EventId": "1"}]});
        let answer = decided.complete(Answer::json(&call(Service::Events, "PutEvents", body), &upstream));
        let no = json!({"ErrorCode": "No", "ErrorMessage": "no"});
        assert_eq!(answer.value(), json!({"FailedEntryCount": 2, "Entries": [no, {"EventId": "1"}, no]}));
    }

    #[test]
    fn keys_left_unprocessed_come_back_beside_those_of_the_service() {
        let body = json!({"RequestItems": {"t": {"Keys": [1, 2, 3], "ConsistentRead": true}}});
        let mut turn = 0;
        let (rest, decided) = part_items(&body, || {
            turn += 1;
            turn == 2
        })
        .unwrap();
        assert_eq!(rest, Some(json!({"RequestItems": {"t": {"Keys": [1, 3], "ConsistentRead": true}}})));
        let upstream = json!({"Responses": {"t": []}, "UnprocessedKeys": {"t": {"Keys": [3]}}});
        let answer = decided.complete(Answer::json(&call(Service::DynamoDb, "BatchGetItem", body), &upstream));
        assert_eq!(answer.value()["UnprocessedKeys"], json!({"t": {"Keys": [3, 2]}}));
    }

    #[test]
    fn something_of_a_batch_is_always_processed() {
        assert_eq!(part_items(&json!({"RequestItems": {"t": [1, 2]}}), || true), None);
    }

    #[test]
    fn an_error_about_the_rest_is_the_answer_about_all() {
        let call = call(Service::Sqs, "SendMessageBatch", json!({}));
        let refused = Answer::refused(&call, &Refusal::new("InternalError", "x").status(500));
        let decided = Decided::Queue { successful: vec![], failed: vec![json!({"Id": "a"})] };
        assert_eq!(decided.complete(refused).status.as_u16(), 500);
    }
}
