//! Which items are being written, and who must therefore stand back.
//!
//! <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/transaction-apis.html>, "Transaction conflict handling".

use std::collections::HashMap;

use serde_json::{Value, json};

use super::request;
use super::table::ItemKey;
use crate::answer::Refusal;
use crate::call::Call;

/// The writes under way.
#[derive(Debug, Default)]
pub(super) struct Conflicts {
    /// How many plain writes and how many transactions an item takes part in.
    busy: HashMap<ItemKey, (u32, u32)>,
    /// What each request must give back at its end.
    held: HashMap<u64, Vec<ItemKey>>,
}

impl Conflicts {
    /// A request on these items begins, unless another one is in its way.
    pub(super) fn begin(&mut self, call: &Call, touched: &[Option<ItemKey>]) -> Option<Refusal> {
        let busy = |key: &Option<ItemKey>| key.as_ref().and_then(|key| self.busy.get(key)).copied().unwrap_or((0, 0));
        let is_transaction = call.operation.starts_with("Transact");
        if is_transaction {
            let hits: Vec<bool> = touched.iter().map(|key| busy(key) != (0, 0)).collect();
            if hits.contains(&true) {
                return Some(cancelled(&hits));
            }
        } else if call.operation != "BatchWriteItem" && touched.iter().any(|key| busy(key).1 > 0) {
            return Some(Refusal::new("TransactionConflictException", ONGOING));
        }
        if request::is_write(call) {
            let keys: Vec<ItemKey> = touched.iter().flatten().cloned().collect();
            for key in &keys {
                let (plain, transactions) = self.busy.entry(key.clone()).or_default();
                *(if is_transaction { transactions } else { plain }) += 1;
            }
            self.held.insert(call.ordinal, keys);
        }
        None
    }

    /// The request is done.
    pub(super) fn end(&mut self, call: &Call) {
        let is_transaction = call.operation.starts_with("Transact");
        for key in self.held.remove(&call.ordinal).into_iter().flatten() {
            let Some((plain, transactions)) = self.busy.get_mut(&key) else { continue };
            let count = if is_transaction { &mut *transactions } else { &mut *plain };
            *count = count.saturating_sub(1);
            if (*plain, *transactions) == (0, 0) {
                self.busy.remove(&key);
            }
        }
    }
}

const ONGOING: &str = "Transaction is ongoing for the item";

fn cancelled(hits: &[bool]) -> Refusal {
    let code = |hit: &bool| if *hit { "TransactionConflict" } else { "None" };
    let codes: Vec<&str> = hits.iter().map(code).collect();
    let reason = |hit: &bool| match hit {
        true => json!({"Code": code(hit), "Message": ONGOING}),
        false => json!({"Code": code(hit)}),
    };
    let reasons: Vec<Value> = hits.iter().map(reason).collect();
    let message = "Transaction cancelled, please refer cancellation reasons for specific reasons";
    Refusal::new("TransactionCanceledException", format!("{message} [{}]", codes.join(", ")))
        .with("CancellationReasons", Value::Array(reasons))
}
