//! What a request touches, and whether it is too large.

use std::collections::HashSet;

use serde_json::Value;

use super::DynamoDbLimits;
use super::item;
use super::table::{ItemKey, Tables};
use crate::answer::Refusal;
use crate::call::Call;

pub(super) fn is_write(call: &Call) -> bool {
    ["PutItem", "UpdateItem", "DeleteItem", "BatchWriteItem", "TransactWriteItems"].contains(&call.operation.as_str())
}

pub(super) fn is_read(call: &Call) -> bool {
    ["GetItem", "BatchGetItem", "Query", "Scan", "TransactGetItems"].contains(&call.operation.as_str())
}

/// The one request in an element of `TransactItems`, with its kind.
fn action(element: &Value) -> Option<(&str, &Value)> {
    element.as_object().and_then(|element| element.iter().next()).map(|(kind, request)| (kind.as_str(), request))
}

/// Every single request in it: kind, table, and what names its item.
fn parts(call: &Call) -> Vec<(&str, &str, &Value)> {
    let body = &call.json;
    let named = |kind, request: &'static str| {
        body["TableName"].as_str().map(|table| (kind, table, &body[request])).into_iter().collect()
    };
    match call.operation.as_str() {
        "PutItem" => named("Put", "Item"),
        "UpdateItem" => named("Update", "Key"),
        "DeleteItem" => named("Delete", "Key"),
        "TransactWriteItems" | "TransactGetItems" => {
            let elements = body["TransactItems"].as_array().into_iter().flatten();
            elements
                .filter_map(action)
                .filter_map(|(kind, request)| {
                    let item = if kind == "Put" { &request["Item"] } else { &request["Key"] };
                    Some((kind, request["TableName"].as_str()?, item))
                })
                .collect()
        }
        "BatchWriteItem" => {
            let tables = body["RequestItems"].as_object().into_iter().flatten();
            let requests = tables.flat_map(|(table, requests)| {
                requests.as_array().into_iter().flatten().map(move |request| (table.as_str(), request))
            });
            requests
                .map(|(table, request)| match &request["PutRequest"]["Item"] {
                    Value::Null => ("Delete", table, &request["DeleteRequest"]["Key"]),
                    item => ("Put", table, item),
                })
                .collect()
        }
        _ => Vec::new(),
    }
}

/// The tables whose keys must be known to judge it; those of reads too, if `lags`.
pub(super) fn tables(call: &Call, lags: bool) -> Vec<&str> {
    let mut tables: Vec<&str> = parts(call).into_iter().map(|(_, table, _)| table).collect();
    tables.extend(call.text("TableName").filter(|_| lags));
    tables
}

/// The items that it touches, in its order; `None` for one whose table is unknown.
pub(super) fn touched(call: &Call, known: &Tables) -> Vec<Option<ItemKey>> {
    parts(call).into_iter().map(|(_, table, attributes)| known.key(table, attributes)).collect()
}

/// Whether two of them are the same item.
pub(super) fn names_one_twice(touched: &[Option<ItemKey>]) -> bool {
    let mut seen = HashSet::new();
    !touched.iter().flatten().all(|key| seen.insert(key))
}

/// Why it is not taken, whatever is stored.
pub(super) fn refusal(limits: &DynamoDbLimits, call: &Call) -> Option<Refusal> {
    let body = &call.json;
    let invalid = |message: String| Some(Refusal::new("ValidationException", message));
    let count = |value: &Value| value.as_array().map_or(0, Vec::len);
    let all = |list: fn(&Value) -> &Value| -> usize {
        body["RequestItems"].as_object().into_iter().flatten().map(|(_, request)| count(list(request))).sum()
    };
    match call.operation.as_str() {
        "BatchGetItem" if all(|request| &request["Keys"]) > limits.get_keys => {
            return invalid("Too many items requested for the BatchGetItem call".to_owned());
        }
        "BatchWriteItem" if all(|requests| requests) > limits.write_requests => {
            return invalid("Too many items requested for the BatchWriteItem call".to_owned());
        }
        "TransactWriteItems" | "TransactGetItems" => {
            let (actions, most) = (count(&body["TransactItems"]), limits.transaction_actions);
            if !(1..=most).contains(&actions) {
                let bound = if actions == 0 { "greater than or equal to 1".into() } else { format!("at most {most}") };
                return invalid(format!(
                    "1 validation error detected: Value at 'transactItems' failed to satisfy constraint: Member must have \
                     length {bound}"
                ));
            }
        }
        _ => {}
    }
    let parts = parts(call);
    let too_large = |(kind, _, item): &(&str, &str, &Value)| *kind == "Put" && item::size(item) > limits.item_bytes;
    if parts.iter().any(too_large) {
        return invalid("Item size has exceeded the maximum allowed size".to_owned());
    }
    if call.operation == "UpdateItem" && brought(body) > limits.item_bytes {
        return invalid("Item size to update has exceeded the maximum allowed size".to_owned());
    }
    if call.operation == "TransactWriteItems" {
        let actions = body["TransactItems"].as_array().into_iter().flatten().filter_map(action);
        let size = |(kind, request): (&str, &Value)| match kind {
            "Put" => item::size(&request["Item"]),
            _ => brought(request),
        };
        if actions.map(size).sum::<usize>() > limits.transaction_bytes {
            return invalid("The aggregate size of the items in the transaction exceeds the limit of 4 MB".to_owned());
        }
    }
    None
}

/// What an update brings at least: its key and its values.
fn brought(request: &Value) -> usize {
    let values = request["ExpressionAttributeValues"].as_object().into_iter().flatten();
    item::size(&request["Key"]) + values.map(|(_, value)| item::value_size(value)).sum::<usize>()
}
