//! Capacity units: what a request consumes on demand.
//!
//! A put says how large its item is. An update does not: unless it returns the new item, its size is the larger of what
//! last passed here under that key and what the update itself brings; so it is a lower bound.

use std::collections::HashMap;

use serde_json::Value;

use super::item;
use super::table::{ItemKey, Tables};
use crate::answer::Answer;
use crate::call::Call;

/// Sizes remembered at most; beyond, an unknown size counts as one unit.
const SIZES: usize = 1_000_000;

/// What one request consumes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Units {
    /// Read units in halves: an eventually consistent read of 4 KiB is one half.
    pub(crate) read_halves: u64,
    /// Write units, with those of the indexes.
    pub(crate) writes: u64,
}

/// Remembers how large items are.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    sizes: HashMap<ItemKey, usize>,
}

impl Meter {
    /// What this request, answered so, has consumed.
    pub(crate) fn units(&mut self, tables: &Tables, call: &Call, answer: &Answer) -> Units {
        let (body, value) = (&call.json, answer.value());
        let refused = answer.error_code();
        let is_condition =
            matches!(refused.as_deref(), Some("ConditionalCheckFailedException" | "TransactionCanceledException"))
                && std::str::from_utf8(&answer.body).is_ok_and(|body| body.contains("ConditionalCheckFailed"));
        if refused.is_some() && !is_condition {
            return Units::default();
        }
        let done = refused.is_none();
        let writes = match call.operation.as_str() {
            "PutItem" => self.put(tables, body, &body["Item"], done),
            "UpdateItem" => self.update(tables, body, &value["Attributes"], done),
            "DeleteItem" => self.delete(tables, body, done),
            "TransactWriteItems" => self.transaction(tables, body, done),
            "BatchWriteItem" => self.batch(tables, body),
            _ => return Units { read_halves: reads(call, &value), writes: 0 },
        };
        Units { read_halves: 0, writes }
    }

    fn put(&mut self, tables: &Tables, request: &Value, item: &Value, done: bool) -> u64 {
        let table = table(request);
        let size = item::size(item);
        let old = self.known(tables, table, item);
        if !done {
            return kib(old);
        }
        self.remember(tables, table, item, Some(size));
        let indexes = tables.get(table).map_or(0, |table| {
            table.indexes.iter().filter(|keys| keys.iter().all(|key| item.get(key).is_some())).count() as u64
        });
        kib(size.max(old)) + indexes
    }

    fn update(&mut self, tables: &Tables, request: &Value, returned: &Value, done: bool) -> u64 {
        let (table, key) = (table(request), &request["Key"]);
        let old = self.known(tables, table, key);
        if !done {
            return kib(old);
        }
        let brought = request["ExpressionAttributeValues"].as_object().into_iter().flatten();
        let brought = item::size(key) + brought.map(|(_, value)| item::value_size(value)).sum::<usize>();
        let new = if request["ReturnValues"] == "ALL_NEW" { item::size(returned) } else { brought.max(old) };
        self.remember(tables, table, key, Some(new));
        let (set, removed) = touched(request);
        let entries = |keys: &Vec<String>| {
            // A changed key is a deletion and a put in the index.
            let hit = |names: &[String]| keys.iter().any(|key| names.contains(key));
            if hit(&set) { 2 } else { u64::from(hit(&removed)) }
        };
        let indexes = tables.get(table).map_or(0, |table| table.indexes.iter().map(entries).sum());
        kib(new.max(old)) + indexes
    }

    fn delete(&mut self, tables: &Tables, request: &Value, done: bool) -> u64 {
        let (table, key) = (table(request), &request["Key"]);
        let old = self.known(tables, table, key);
        if done {
            self.remember(tables, table, key, None);
        }
        kib(old)
    }

    /// Prepared and committed: twice the units of the table, once those of the indexes.
    fn transaction(&mut self, tables: &Tables, body: &Value, done: bool) -> u64 {
        let mut units = 0;
        for action in body["TransactItems"].as_array().into_iter().flatten() {
            let Some((kind, request)) = action.as_object().and_then(|action| action.iter().next()) else { continue };
            let (all, old) = match kind.as_str() {
                "Put" => {
                    let item = &request["Item"];
                    let plain = kib(item::size(item).max(self.known(tables, table(request), item)));
                    (self.put(tables, request, item, done), plain)
                }
                "Update" => {
                    let all = self.update(tables, request, &Value::Null, done);
                    (all, kib(self.known(tables, table(request), &request["Key"])))
                }
                "Delete" => {
                    let units = self.delete(tables, request, done);
                    (units, units)
                }
                _ => {
                    let units = kib(self.known(tables, table(request), &request["Key"]));
                    (units, units)
                }
            };
            units += all + old;
        }
        units
    }

    fn batch(&mut self, tables: &Tables, body: &Value) -> u64 {
        let mut units = 0;
        for (name, requests) in body["RequestItems"].as_object().into_iter().flatten() {
            for request in requests.as_array().into_iter().flatten() {
                let named = |inner: &Value| {
                    let mut inner = inner.clone();
                    inner["TableName"] = Value::from(name.as_str());
                    inner
                };
                units += match (&request["PutRequest"], &request["DeleteRequest"]) {
                    (put @ Value::Object(_), _) => self.put(tables, &named(put), &put["Item"], true),
                    (_, delete @ Value::Object(_)) => self.delete(tables, &named(delete), true),
                    _ => 0,
                };
            }
        }
        units
    }

    fn known(&self, tables: &Tables, table: &str, attributes: &Value) -> usize {
        tables.key(table, attributes).and_then(|key| self.sizes.get(&key).copied()).unwrap_or(0)
    }

    fn remember(&mut self, tables: &Tables, table: &str, attributes: &Value, size: Option<usize>) {
        let Some(key) = tables.key(table, attributes) else { return };
        match size {
            None => drop(self.sizes.remove(&key)),
            Some(size) if self.sizes.len() < SIZES || self.sizes.contains_key(&key) => {
                self.sizes.insert(key, size);
            }
            Some(_) => {}
        }
    }
}

fn table(request: &Value) -> &str {
    request["TableName"].as_str().unwrap_or_default()
}

/// Write units of so many bytes: one for each started KiB, and for nothing too.
fn kib(bytes: usize) -> u64 {
    (bytes as u64).div_ceil(1024).max(1)
}

/// Half read units of so many bytes.
fn halves(bytes: usize, is_consistent: bool) -> u64 {
    (bytes as u64).div_ceil(4096).max(1) * if is_consistent { 2 } else { 1 }
}

fn reads(call: &Call, answer: &Value) -> u64 {
    let body = &call.json;
    let is_consistent = |request: &Value| request["ConsistentRead"] == true;
    match call.operation.as_str() {
        "GetItem" => halves(item::size(&answer["Item"]), is_consistent(body)),
        // Their items are added up before they are rounded.
        "Query" | "Scan" => {
            let items = answer["Items"].as_array().into_iter().flatten();
            halves(items.map(item::size).sum(), is_consistent(body))
        }
        "BatchGetItem" => {
            let mut sum = 0;
            for (name, request) in body["RequestItems"].as_object().into_iter().flatten() {
                let (asked, is_consistent) = (request["Keys"].as_array().map_or(0, Vec::len), is_consistent(request));
                let left = answer["UnprocessedKeys"][name]["Keys"].as_array().map_or(0, Vec::len);
                let found = answer["Responses"][name].as_array().map_or(&[][..], Vec::as_slice);
                let missing = asked.saturating_sub(left).saturating_sub(found.len()) as u64;
                sum += found.iter().map(|item| halves(item::size(item), is_consistent)).sum::<u64>();
                sum += missing * halves(0, is_consistent);
            }
            sum
        }
        "TransactGetItems" => {
            let found = answer["Responses"].as_array().into_iter().flatten();
            found.map(|response| 2 * halves(item::size(&response["Item"]), true)).sum()
        }
        _ => 0,
    }
}

/// The attributes that an update sets and those that it removes.
fn touched(request: &Value) -> (Vec<String>, Vec<String>) {
    let resolved = |path: &str| {
        let name = path.trim().split(['.', '[']).next().unwrap_or_default();
        request["ExpressionAttributeNames"][name].as_str().unwrap_or(name).to_owned()
    };
    let (mut clause, mut texts) = ("", [String::new(), String::new()]);
    for word in request["UpdateExpression"].as_str().unwrap_or_default().split_whitespace() {
        match word.to_ascii_uppercase().as_str() {
            "SET" => clause = "set",
            "REMOVE" => clause = "remove",
            "ADD" | "DELETE" => clause = "other",
            _ if clause == "set" => texts[0].push_str(word),
            _ if clause == "remove" => texts[1].push_str(word),
            _ => {}
        }
    }
    let set = texts[0].split(',').filter_map(|part| part.split_once('=')).map(|(path, _)| resolved(path)).collect();
    let removed = texts[1].split(',').filter(|part| !part.is_empty()).map(resolved).collect();
    (set, removed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::Refusal;
    use crate::call::Service;
    use crate::call::tests::call;
    use crate::rules::dynamodb::table::tests::yard;
    use serde_json::json;

    fn consumed(meter: &mut Meter, operation: &str, body: Value, answer: Value) -> Units {
        let call = call(Service::DynamoDb, operation, body);
        let answer = Answer::json(&call, &answer);
        meter.units(&yard(), &call, &answer)
    }

    fn writes(meter: &mut Meter, operation: &str, body: Value) -> u64 {
        consumed(meter, operation, body, json!({})).writes
    }

    fn put(bytes: usize) -> Value {
        // Four bytes are the names of the key's attributes.
        json!({"TableName": "yard", "Item": {"PK": {"S": "x".repeat(bytes - 5)}, "SK": {"S": "m"}}})
    }

    #[test]
    fn a_put_costs_a_unit_for_each_started_kib() {
        let mut meter = Meter::default();
        assert_eq!(writes(&mut meter, "PutItem", put(1024)), 1);
        assert_eq!(writes(&mut meter, "PutItem", put(1025)), 2);
    }

    #[test]
    fn an_index_costs_a_unit_more_only_if_the_item_has_its_keys() {
        let mut meter = Meter::default();
        let mut item = put(100);
        item["Item"]["D"] = json!({"S": "d"});
        assert_eq!(writes(&mut meter, "PutItem", item.clone()), 1);
        item["Item"]["due"] = json!({"N": "1"});
        assert_eq!(writes(&mut meter, "PutItem", item), 2);
    }

    #[test]
    fn an_update_pays_for_the_whole_item_and_twice_for_an_index_key() {
        let mut meter = Meter::default();
        writes(&mut meter, "PutItem", put(3000));
        let key = put(3000)["Item"].clone();
        let update = |expression: &str| {
            json!({"TableName": "yard", "Key": key, "UpdateExpression": expression,
                   "ExpressionAttributeNames": {"#d": "due"}, "ExpressionAttributeValues": {":v": {"N": "1"}}})
        };
        assert_eq!(writes(&mut meter, "UpdateItem", update("SET phase = :v")), 3);
        assert_eq!(writes(&mut meter, "UpdateItem", update("SET phase = :v, #d = if_not_exists(#d, :v)")), 5);
        assert_eq!(writes(&mut meter, "UpdateItem", update("SET phase = :v REMOVE #d")), 4);
    }

    #[test]
    fn a_transaction_costs_twice_and_its_index_once() {
        let mut meter = Meter::default();
        let mut item = put(100);
        item["Item"]["D"] = json!({"S": "d"});
        item["Item"]["due"] = json!({"N": "1"});
        let check = json!({"ConditionCheck": {"TableName": "yard", "Key": {"PK": {"S": "a"}, "SK": {"S": "b"}}}});
        let body = json!({"TransactItems": [{"Put": item}, check]});
        assert_eq!(writes(&mut meter, "TransactWriteItems", body), 2 + 1 + 2);
    }

    #[test]
    fn a_refused_condition_costs_and_a_throttled_write_does_not() {
        let call = call(Service::DynamoDb, "PutItem", put(100));
        let of = |code: &str| {
            let answer = Answer::refused(&call, &Refusal::new(code, "x"));
            Meter::default().units(&yard(), &call, &answer).writes
        };
        assert_eq!(of("ConditionalCheckFailedException"), 1);
        assert_eq!(of("ThrottlingException"), 0);
    }

    #[test]
    fn an_eventually_consistent_read_costs_half() {
        let mut meter = Meter::default();
        let mut get = |consistent: bool, bytes: usize| {
            let body = json!({"TableName": "yard", "ConsistentRead": consistent});
            consumed(&mut meter, "GetItem", body, json!({"Item": put(bytes)["Item"]})).read_halves
        };
        assert_eq!([get(false, 4096), get(true, 4096), get(false, 4097)], [1, 2, 2]);
    }

    #[test]
    fn a_query_rounds_once_and_a_batch_for_each_item() {
        let mut meter = Meter::default();
        let items = json!([put(1000)["Item"], put(1000)["Item"]]);
        let query = consumed(&mut meter, "Query", json!({"TableName": "yard"}), json!({"Items": items}));
        assert_eq!(query.read_halves, 1);
        let body = json!({"RequestItems": {"yard": {"Keys": [1, 2, 3]}}});
        let batch = consumed(&mut meter, "BatchGetItem", body, json!({"Responses": {"yard": items}}));
        assert_eq!(batch.read_halves, 3);
    }
}
