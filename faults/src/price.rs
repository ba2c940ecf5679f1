//! What AWS charges for a request: us-east-1, on demand, without free tiers or volume discounts, as the services' pricing
//! pages had it in 2026. Storage, data transfer and running tasks are not requests, and so not in it.

use serde_json::Value;

use crate::answer::Answer;
use crate::call::{Call, Service};
use crate::rules::Units;

/// A DynamoDB write request unit, on demand, standard table class: $0.625 a million.
/// <https://aws.amazon.com/dynamodb/pricing/on-demand/>
const DYNAMODB_WRITE_UNIT: u64 = 625;

/// A DynamoDB read request unit: $0.125 a million. <https://aws.amazon.com/dynamodb/pricing/on-demand/>
const DYNAMODB_READ_UNIT: u64 = 125;

/// An SQS request to a standard queue, each 64 KiB of payload: $0.40 a million. <https://aws.amazon.com/sqs/pricing/>
const SQS_REQUEST: u64 = 400;

/// An S3 PUT, COPY, POST or LIST request: $0.005 a thousand. <https://aws.amazon.com/s3/pricing/>
const S3_WRITE: u64 = 5_000;

/// An S3 GET, HEAD or other request: $0.0004 a thousand. <https://aws.amazon.com/s3/pricing/>
const S3_READ: u64 = 400;

/// A custom event on an EventBridge bus, each 64 KiB: $1.00 a million. <https://aws.amazon.com/eventbridge/pricing/>
const EVENT: u64 = 1_000;

/// A GiB that CloudWatch Logs takes in, standard class: $0.50. <https://aws.amazon.com/cloudwatch/pricing/>
const LOGS_GIB: u64 = 500_000_000;

const GIB: u64 = 1 << 30;

/// What SQS and EventBridge count as one.
const CHUNK: u64 = 64 * 1024;

/// What CloudWatch Logs adds to each event's message.
const LOG_EVENT_OVERHEAD: u64 = 26;

/// The price of a request that the service has answered so, in billionths of a dollar, rounded up.
pub(crate) fn nanodollars(call: &Call, answer: &Answer, units: Units) -> u64 {
    match &call.service {
        Service::DynamoDb => units.writes * DYNAMODB_WRITE_UNIT + (units.read_halves * DYNAMODB_READ_UNIT).div_ceil(2),
        // S3 charges for looking in vain too.
        Service::S3 if answer.is_ok() || answer.status.as_u16() == 404 => s3(&call.operation),
        Service::Sqs if answer.is_ok() => chunks(queue_payload(call, answer)) * SQS_REQUEST,
        Service::Events if answer.is_ok() && call.operation == "PutEvents" => {
            let refused = |at: usize| answer.value()["Entries"][at]["ErrorCode"].is_string();
            let entries = call.json["Entries"].as_array().into_iter().flatten().enumerate();
            entries.filter(|(at, _)| !refused(*at)).map(|(_, entry)| chunks(event_size(entry)) * EVENT).sum()
        }
        Service::Logs if answer.is_ok() && call.operation == "PutLogEvents" => {
            (log_bytes(&call.json) * LOGS_GIB).div_ceil(GIB)
        }
        Service::S3 | Service::Sqs | Service::Events | Service::Logs => 0,
        Service::AutoScaling | Service::Ecs | Service::Sts | Service::Other(_) => 0,
    }
}

fn chunks(bytes: u64) -> u64 {
    bytes.div_ceil(CHUNK).max(1)
}

fn s3(operation: &str) -> u64 {
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| operation.starts_with(prefix));
    if starts(&["Delete", "Abort"]) {
        0
    } else if starts(&["Put", "Copy", "Post", "List", "Create", "Upload", "Complete"]) {
        S3_WRITE
    } else {
        S3_READ
    }
}

/// The bytes of messages sent or received.
fn queue_payload(call: &Call, answer: &Answer) -> u64 {
    let length = |message: &Value, field: &str| message[field].as_str().map_or(0, str::len) as u64;
    let all = |list: &Value, field: &str| -> u64 {
        list.as_array().into_iter().flatten().map(|message| length(message, field)).sum()
    };
    match call.operation.as_str() {
        "SendMessage" => length(&call.json, "MessageBody"),
        "SendMessageBatch" => all(&call.json["Entries"], "MessageBody"),
        "ReceiveMessage" => all(&answer.value()["Messages"], "Body"),
        _ => 0,
    }
}

/// The size of an event entry, as EventBridge counts it.
/// <https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-putevents.html>
pub(crate) fn event_size(entry: &Value) -> u64 {
    let length = |field: &str| entry[field].as_str().map_or(0, str::len);
    let resources = entry["Resources"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::len);
    let time = if entry["Time"].is_null() { 0 } else { 14 };
    (time + length("Source") + length("DetailType") + length("Detail") + resources.sum::<usize>()) as u64
}

/// The size of a PutLogEvents request, as CloudWatch Logs counts it.
pub(crate) fn log_bytes(body: &Value) -> u64 {
    let events = body["logEvents"].as_array().into_iter().flatten();
    events.map(|event| event["message"].as_str().map_or(0, str::len) as u64 + LOG_EVENT_OVERHEAD).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::Refusal;
    use crate::call::tests::call;
    use serde_json::json;

    fn price(service: Service, operation: &str, body: Value, answer: Value, units: Units) -> u64 {
        let call = call(service, operation, body);
        nanodollars(&call, &Answer::json(&call, &answer), units)
    }

    #[test]
    fn what_requests_cost() {
        use Service::{AutoScaling, DynamoDb, Ecs, Events, Logs, S3, Sqs};
        let none = Units::default();
        let text = |bytes: usize| "x".repeat(bytes);
        let entry = |source: &str, bytes: usize| json!({"Source": source, "DetailType": "d", "Detail": text(bytes)});
        let failed = json!({"Entries": [{"EventId": "1"}, {"ErrorCode": "x"}]});
        let sent = |bytes: usize| json!({"MessageBody": text(bytes)});
        let lines = [
            ("DynamoDB, 1 write unit", price(DynamoDb, "PutItem", json!({}), json!({}), Units { writes: 1, ..none })),
            ("DynamoDB, 1 half read unit", {
                price(DynamoDb, "GetItem", json!({}), json!({}), Units { read_halves: 1, ..none })
            }),
            ("DynamoDB, 1 read unit", {
                price(DynamoDb, "GetItem", json!({}), json!({}), Units { read_halves: 2, ..none })
            }),
            ("SQS, an empty receive", price(Sqs, "ReceiveMessage", json!({}), json!({}), none)),
            ("SQS, 64 KiB sent", price(Sqs, "SendMessage", sent(65_536), json!({}), none)),
            ("SQS, a byte more", price(Sqs, "SendMessage", sent(65_537), json!({}), none)),
            ("SQS, 130 KiB received", {
                price(Sqs, "ReceiveMessage", json!({}), json!({"Messages": [{"Body": text(133_120)}]}), none)
            }),
            ("S3, PutObject", price(S3, "PutObject", json!({}), json!({}), none)),
            ("S3, ListObjectsV2", price(S3, "ListObjectsV2", json!({}), json!({}), none)),
            ("S3, GetObject", price(S3, "GetObject", json!({}), json!({}), none)),
            ("S3, HeadObject", price(S3, "HeadObject", json!({}), json!({}), none)),
            ("S3, DeleteObjects", price(S3, "DeleteObjects", json!({}), json!({}), none)),
            ("EventBridge, 2 events, 1 refused", {
                let body = json!({"Entries": [entry("me", 10), entry("aws.x", 10)]});
                price(Events, "PutEvents", body, failed, none)
            }),
            ("EventBridge, an event of 100 KiB", {
                price(Events, "PutEvents", json!({"Entries": [entry("me", 102_400)]}), json!({}), none)
            }),
            ("CloudWatch Logs, 1 MiB", {
                let body = json!({"logEvents": [{"message": text((1 << 20) - 26)}]});
                price(Logs, "PutLogEvents", body, json!({}), none)
            }),
            ("ECS, RunTask", price(Ecs, "RunTask", json!({}), json!({}), none)),
            ("Auto Scaling", price(AutoScaling, "SetDesiredCapacity", json!({}), json!({}), none)),
        ];
        let table: Vec<String> = lines.iter().map(|(what, price)| format!("{what:<36}{price:>8}")).collect();
        insta::assert_snapshot!(table.join("\n"));
    }

    #[test]
    fn what_failed_costs_nothing_but_s3_charges_for_looking_in_vain() {
        let cost = |service: Service, status: u16| {
            let call = call(service, "GetObject", json!({}));
            nanodollars(&call, &Answer::refused(&call, &Refusal::new("X", "x").status(status)), Units::default())
        };
        assert_eq!([cost(Service::Sqs, 400), cost(Service::S3, 503), cost(Service::S3, 404)], [0, 0, 400]);
    }
}
