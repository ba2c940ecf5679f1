//! DynamoDB: sizes, transactions and their tokens, conflicts between writes, capacity, and indexes that lag.

mod conflicts;
pub(crate) mod item;
mod request;
pub(crate) mod table;
mod units;

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Value, json};

use self::conflicts::Conflicts;
use self::table::{ItemKey, Tables};
use self::units::Meter;
pub(crate) use self::units::Units;
use super::bucket::{Bucket, Rate};
use super::{Question, Verdict};
use crate::answer::{Answer, Refusal};
use crate::call::{Call, fingerprint};

/// Limits of DynamoDB.
/// <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/ServiceQuotas.html>
#[derive(Clone, Debug)]
pub struct DynamoDbLimits {
    /// Bytes of an item, names included.
    pub item_bytes: usize,
    /// Actions of a transaction.
    pub transaction_actions: usize,
    /// Bytes of all items of a transaction.
    pub transaction_bytes: usize,
    /// How long the token of a transaction is remembered.
    pub token_lives: Duration,
    /// Keys of one BatchGetItem.
    pub get_keys: usize,
    /// Requests of one BatchWriteItem.
    pub write_requests: usize,
    /// Read units, if they are bounded: an account's tables on demand begin at 12,000 a second.
    pub read_capacity: Option<Rate>,
    /// Write units, if they are bounded: an account's tables on demand begin at 4,000 a second.
    pub write_capacity: Option<Rate>,
    /// How long a written item is missing from the indexes. Zero: not at all.
    pub index_lag: Duration,
}

impl Default for DynamoDbLimits {
    fn default() -> Self {
        Self {
            item_bytes: 400 * 1024,
            transaction_actions: 100,
            transaction_bytes: 4 << 20,
            token_lives: Duration::from_secs(600),
            get_keys: 100,
            write_requests: 25,
            read_capacity: None,
            write_capacity: None,
            index_lag: Duration::ZERO,
        }
    }
}

/// What is remembered of tables.
#[derive(Debug, Default)]
pub(super) struct State {
    tables: Tables,
    meter: Meter,
    conflicts: Conflicts,
    tokens: HashMap<String, Token>,
    /// Old tokens and writes are swept out when there are so many: seldom enough to cost nothing.
    sweep_at: usize,
    reads: Bucket,
    writes: Bucket,
    /// When an item was last written, while indexes lag.
    written: HashMap<ItemKey, Duration>,
}

#[derive(Debug)]
struct Token {
    at: Duration,
    request: [u8; 32],
    /// None while the first request with it is under way.
    answer: Option<Answer>,
}

impl State {
    pub(super) fn before(&mut self, limits: &DynamoDbLimits, call: &Call, told: &[Answer], now: Duration) -> Verdict {
        if let Some(answer) = told.last() {
            self.tables.learn(&answer.value());
        }
        if let Some(refusal) = request::refusal(limits, call) {
            return Verdict::of(call, Some(refusal));
        }
        let lags = !limits.index_lag.is_zero() && call.json["IndexName"].is_string();
        let needed = request::tables(call, lags);
        let unknown = needed.into_iter().find(|name| self.tables.get(name).is_none());
        // A table that the service does not know is the service's to refuse.
        let is_refused = told.last().is_some_and(|answer| !answer.is_ok());
        if let Some(name) = unknown.filter(|_| !is_refused) {
            let body = json!({"TableName": name}).to_string();
            return Verdict::Ask(Question { operation: "DescribeTable", body, alone: false });
        }
        let touched = request::touched(call, &self.tables);
        let is_transaction = call.operation == "TransactWriteItems";
        if is_transaction {
            if request::names_one_twice(&touched) {
                let message = "Transaction request cannot include multiple operations on one item";
                return Verdict::of(call, Some(Refusal::new("ValidationException", message)));
            }
            if let Some(answer) = self.again(limits, call, now) {
                return Verdict::Answer(answer);
            }
        }
        if self.is_exhausted(limits, call, now) {
            let message = "The level of configured provisioned throughput for the table was exceeded. Consider increasing your \
                           provisioning level with the UpdateTable API.";
            return Verdict::of(call, Some(Refusal::new("ProvisionedThroughputExceededException", message)));
        }
        if let Some(refusal) = self.conflicts.begin(call, &touched) {
            return Verdict::of(call, Some(refusal));
        }
        if let Some(token) = call.text("ClientRequestToken").filter(|_| is_transaction) {
            self.sweep(limits, now);
            let request = fingerprint(&call.json["TransactItems"]);
            self.tokens.insert(token.to_owned(), Token { at: now, request, answer: None });
        }
        Verdict::Forward
    }

    /// The answer to a transaction whose token was seen before.
    fn again(&self, limits: &DynamoDbLimits, call: &Call, now: Duration) -> Option<Answer> {
        let token = self.tokens.get(call.text("ClientRequestToken")?)?;
        if now.saturating_sub(token.at) >= limits.token_lives {
            return None;
        }
        if token.request != fingerprint(&call.json["TransactItems"]) {
            let message = "The request token was used before with another request.";
            return Some(Answer::refused(call, &Refusal::new("IdempotentParameterMismatchException", message)));
        }
        let busy = "The transaction with the given request token is already in progress.";
        let busy = || Answer::refused(call, &Refusal::new("TransactionInProgressException", busy));
        Some(token.answer.clone().unwrap_or_else(busy))
    }

    fn is_exhausted(&mut self, limits: &DynamoDbLimits, call: &Call, now: Duration) -> bool {
        let (rate, bucket) = if request::is_write(call) {
            (limits.write_capacity, &mut self.writes)
        } else if request::is_read(call) {
            (limits.read_capacity, &mut self.reads)
        } else {
            return false;
        };
        // What it consumes is known afterwards, so anything left lets it through.
        rate.is_some_and(|rate| bucket.left(rate, now) <= 0.0)
    }

    pub(super) fn after(
        &mut self,
        limits: &DynamoDbLimits,
        call: &Call,
        answer: Answer,
        now: Duration,
    ) -> (Answer, Units) {
        self.conflicts.end(call);
        if call.operation == "TransactWriteItems"
            && let Some(name) = call.text("ClientRequestToken")
        {
            if !answer.is_ok() {
                self.tokens.remove(name);
            } else if let Some(token) = self.tokens.get_mut(name) {
                (token.at, token.answer) = (now, Some(answer.clone()));
            }
        }
        if answer.is_ok() && call.operation.ends_with("Table") {
            self.tables.learn(&answer.value());
        }
        let units = self.meter.units(&self.tables, call, &answer);
        if let Some(rate) = limits.read_capacity {
            self.reads.charge(rate, units.read_halves as f64 / 2.0, now);
        }
        if let Some(rate) = limits.write_capacity {
            self.writes.charge(rate, units.writes as f64, now);
        }
        if limits.index_lag.is_zero() || !answer.is_ok() {
            return (answer, units);
        }
        if request::is_write(call) {
            self.sweep(limits, now);
            let touched = request::touched(call, &self.tables).into_iter().flatten();
            self.written.extend(touched.map(|key| (key, now)));
        }
        (self.lagging(limits, call, answer, now), units)
    }

    /// The answer of an index without what was written a moment ago.
    fn lagging(&self, limits: &DynamoDbLimits, call: &Call, answer: Answer, now: Duration) -> Answer {
        let mut value = answer.value();
        let (Some(table), true) = (call.text("TableName"), call.json["IndexName"].is_string()) else { return answer };
        let Some(items) = value["Items"].as_array_mut() else { return answer };
        let before = items.len();
        let is_new = |item: &Value| {
            let written = self.tables.key(table, item).and_then(|key| self.written.get(&key));
            written.is_some_and(|at| now.saturating_sub(*at) < limits.index_lag)
        };
        items.retain(|item| !is_new(item));
        let left = items.len();
        if left == before {
            return answer;
        }
        value["Count"] = json!(left);
        answer.with_json(&value)
    }

    pub(super) fn gone(&mut self, call: &Call) {
        self.conflicts.end(call);
        if call.operation == "TransactWriteItems"
            && let Some(token) = call.text("ClientRequestToken")
        {
            self.tokens.remove(token);
        }
    }

    fn sweep(&mut self, limits: &DynamoDbLimits, now: Duration) {
        if self.tokens.len() + self.written.len() >= self.sweep_at {
            self.tokens.retain(|_, token| now.saturating_sub(token.at) < limits.token_lives);
            self.written.retain(|_, at| now.saturating_sub(*at) < limits.index_lag);
            self.sweep_at = (self.tokens.len() + self.written.len()) * 2 + 1000;
        }
    }
}

#[cfg(test)]
mod tests;
