//! Kicks: one asynchronous invocation of the function that sizes pools.
//!
//! Whoever dispatches does not size a pool itself. Then every function that takes jobs could set the size of a group, and
//! two of them could set it at once, the lesser one last; and a caller would wait while queues, groups and workers are
//! read. An invocation is one request, and there is one owner of the size.
//!
//! Of all who find a pool deserted within [`KICK_WINDOW`] one kicks. This process remembers its own; what others did it
//! sees in what it reads of workers anyway; and where both come too late one conditional write decides. So the one that
//! kicks makes two requests, and everybody else none, or in the first moments of a burst the one that is refused.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use aws_sdk_lambda::Client;
use aws_sdk_lambda::primitives::Blob;
use aws_sdk_lambda::types::InvocationType;
use serde_json::{Value, json};
use switchyard_core::ports::{Fleet, Kicked, PortError};
use switchyard_core::route::PoolName;
use switchyard_core::scale::KICK_WINDOW;

use crate::clients::Clients;
use crate::failure::failed;
use crate::ledger_dynamodb::{DynamoLedger, lock};

/// The longest that a kick keeps its caller, who answers for a job that is accepted already. Two requests take 20 ms.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the function is invoked with for a kick.
pub fn encode(pool: PoolName) -> Value {
    json!({ "pool": pool.as_str() })
}

/// Which pool an invocation asks for; `None`: all of them, as each minute.
///
/// # Errors
///
/// It names no pool that could be.
pub fn decode(event: &Value) -> Result<Option<PoolName>, String> {
    match event.get("pool") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(pool)) => pool.parse().map(Some).map_err(|error| format!("pool: {error}")),
        Some(_) => Err("pool: expected a name".to_owned()),
    }
}

/// Kicks by invoking a function. Clones are the same.
#[derive(Clone)]
pub struct LambdaKicks(Arc<Inner>);

struct Inner {
    client: Client,
    function: String,
    ledger: DynamoLedger,
    /// When this process last kicked which pool, or heard that another had.
    lately: Mutex<HashMap<PoolName, Instant>>,
}

impl LambdaKicks {
    /// Kicks of this function, by name or ARN. What was kicked is noted in the ledger.
    pub fn new(clients: &Clients, function: &str, ledger: DynamoLedger) -> Self {
        let lately = Mutex::default();
        Self(Arc::new(Inner { client: clients.lambda(), function: function.to_owned(), ledger, lately }))
    }
}

impl fmt::Debug for LambdaKicks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LambdaKicks").field(&self.0.function).finish()
    }
}

impl Inner {
    /// Whether this process need not look any further; else it is noted that it does so now. Failed or not, it does not
    /// try again within the window: a function that cannot be invoked must not cost every job of a burst two seconds.
    fn knows(&self, pool: PoolName) -> bool {
        let (mut lately, now) = (lock(&self.lately), Instant::now());
        if lately.get(&pool).is_some_and(|kicked| now.duration_since(*kicked) < KICK_WINDOW) {
            return true;
        }
        lately.insert(pool, now);
        false
    }

    async fn kick(&self, pool: PoolName) -> Result<Kicked, PortError> {
        if self.ledger.was_kicked(pool).await? || !self.ledger.take_kick(pool).await? {
            return Ok(Kicked::Lately);
        }
        let invoke = self.client.invoke().function_name(&self.function).invocation_type(InvocationType::Event);
        let sent = invoke.payload(Blob::new(encode(pool).to_string())).send().await;
        sent.map_err(|error| failed("invoke function", &self.function, &error))?;
        Ok(Kicked::Sent)
    }
}

#[async_trait]
impl Fleet for LambdaKicks {
    async fn kick(&self, pool: PoolName) -> Result<Kicked, PortError> {
        if self.0.knows(pool) {
            return Ok(Kicked::Lately);
        }
        let late = |_| PortError::retryable("kick pool", pool, format!("no answer within {PATIENCE:?}"));
        tokio::time::timeout(PATIENCE, self.0.kick(pool)).await.map_err(late)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kick_names_its_pool_and_the_minute_names_none() {
        let pool: PoolName = "static".parse().unwrap();
        assert_eq!(decode(&encode(pool)), Ok(Some(pool)));
        for all in [json!({ "tick": "2026-11-27T10:00:00Z" }), json!({ "pool": null }), json!(null)] {
            assert_eq!(decode(&all), Ok(None), "{all}");
        }
        for wrong in [json!({ "pool": 7 }), json!({ "pool": "No Pool" }), json!({ "pool": "" })] {
            assert!(decode(&wrong).unwrap_err().starts_with("pool: "), "{wrong}");
        }
    }
}
