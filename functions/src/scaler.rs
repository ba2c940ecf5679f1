//! The sizes of the pools: looked at each minute, and at once where a bell rang and nobody works.

use std::time::Duration;

use serde_json::{Map, Value, json};
use switchyard_aws::deployment::EnvironmentError;
use switchyard_aws::environment::GROUPS;
use switchyard_aws::fleet_autoscaling::Groups;
use switchyard_aws::fleet_scaler::{Looked, Round, Scaler};
use switchyard_aws::kicks_lambda;
use switchyard_core::ports::{Yard, describe};
use switchyard_core::route::PoolName;
use switchyard_core::scale::{Reason, Verdict};
use tracing::{debug, error, info};

use crate::opened::Opened;

/// How long SQS may take to count a message that was sent: its counts are approximate, and settle within seconds.
const COUNTED_WITHIN: Duration = Duration::from_secs(5);

/// A look that did not see or do all it should. Sizes stand as they were there, and the next minute looks again.
#[derive(Debug, thiserror::Error)]
pub enum ScalerError {
    /// The environment names no groups.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// The invocation is neither the minute's nor a kick.
    #[error("it was invoked with something that is no kick: {0}")]
    NoKick(String),
    /// A kick for a pool that is not in routing.yaml.
    #[error("there is no pool {0} to look at")]
    NoPool(PoolName),
    /// Some of it failed; the log names each.
    #[error("{0} calls failed while the pools were looked at")]
    Some(usize),
}

/// The scaler of the yard that this process has opened.
///
/// # Errors
///
/// The environment names no groups.
pub fn open(opened: &Opened) -> Result<Scaler, EnvironmentError> {
    let prefix = opened.deployment.groups.as_deref();
    let prefix = prefix.ok_or_else(|| EnvironmentError { name: GROUPS, what: "it is not set".to_owned() })?;
    let groups = Groups::new(&opened.clients, prefix);
    Ok(Scaler::new(groups, opened.home.lanes.clone(), opened.home.ledger.clone()))
}

/// Looks at all pools, or at the one that was kicked; says what was decided, and answers with it.
///
/// # Errors
///
/// [`ScalerError`]: it makes the function's error count, on which the operator's alarm rests.
pub async fn round(yard: &Yard, scaler: &Scaler, event: &Value) -> Result<Value, ScalerError> {
    let only = kicks_lambda::decode(event).map_err(ScalerError::NoKick)?;
    let policies = yard.policies();
    let mut round = scaler.round(&policies.limits, only, &*yard.ambient).await;
    let saw_nothing = |looked: &Looked| looked.verdict.as_ref().is_some_and(|verdict| verdict.reason == Reason::Idle);
    if only.is_some() && round.pools.iter().all(saw_nothing) {
        // A bell rang, and SQS has not counted it yet.
        yard.ambient.pause(COUNTED_WITHIN).await;
        round = scaler.round(&policies.limits, only, &*yard.ambient).await;
    }
    let Round { pools, failures } = round;
    if let (Some(pool), true) = (only, pools.is_empty()) {
        return Err(ScalerError::NoPool(pool));
    }
    for failure in &failures {
        error!(error = %describe(failure), "no pool is looked at in full");
    }
    let (mut told, mut failed) = (Map::new(), failures.len());
    for Looked { pool, verdict, first_without, failures } in pools {
        for failure in &failures {
            error!(pool = %pool, error = %describe(failure), "a pool is not looked at in full, or not grown");
        }
        failed += failures.len();
        match verdict {
            Some(verdict) => {
                say(pool, &verdict);
                yard.meters.scaled(pool, &verdict);
                told.insert(pool.to_string(), json!(verdict));
            }
            None if first_without => {
                info!(pool = %pool, "the pool has no group: nobody makes workers come");
            }
            None => debug!(pool = %pool, "the pool has no group"),
        }
    }
    if failed > 0 {
        return Err(ScalerError::Some(failed));
    }
    Ok(Value::Object(told))
}

/// One line for a pool. Of an idle one nobody need read.
fn say(pool: PoolName, verdict: &Verdict) {
    let Verdict { reason, grow_to, wanted, present, booting, leaving, silent, desired, maximum, waiting, in_flight } =
        *verdict;
    let reason_code = reason.as_str();
    if reason == Reason::Idle {
        debug!(pool = %pool, reason = reason_code, "the pool is idle");
        return;
    }
    info!(
        pool = %pool, reason = reason_code, grow_to, wanted, present, booting, leaving, silent, desired, maximum, waiting,
        in_flight, "the size of a pool"
    );
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use aws_credential_types::Credentials;
    use aws_credential_types::provider::SharedCredentialsProvider;
    use switchyard_aws::clients::{Clients, Settings};
    use switchyard_aws::home::{Home, Keeping, Names};
    use switchyard_core::catalog::Catalog;
    use switchyard_core::memory::Memory;
    use switchyard_core::metrics;
    use switchyard_core::route::Limits;

    use super::*;

    /// A yard, and a scaler of it whose AWS nobody can reach.
    fn cut_off() -> (Yard, Scaler) {
        let settings = Settings {
            // Nothing listens on the port of TCP's multiplexer.
            endpoint: Some("http://127.0.0.1:1".to_owned()),
            attempt_timeout: Duration::from_secs(1),
            attempts: 1,
            ..Settings::new("us-east-1")
        };
        let credentials = SharedCredentialsProvider::new(Credentials::new("nobody", "nothing", None, None, "test"));
        let clients = Clients::new(settings, credentials);
        let memory = Memory::default();
        let home = Home::new(&clients, Names::called("yard"), Keeping::default(), Arc::new(memory.clone()));
        let scaler = Scaler::new(Groups::new(&clients, "yard"), home.lanes, home.ledger);
        (memory.yard(Catalog::default(), Limits::default()), scaler)
    }

    #[tokio::test]
    async fn what_is_no_kick_or_for_no_pool_of_ours_is_an_error_and_asks_nobody() {
        let (yard, scaler) = cut_off();
        let told = round(&yard, &scaler, &json!({ "pool": 7 })).await.unwrap_err();
        assert!(matches!(told, ScalerError::NoKick(_)), "{told}");
        let told = round(&yard, &scaler, &json!({ "pool": "nowhere" })).await.unwrap_err();
        assert_eq!(told.to_string(), "there is no pool nowhere to look at");
    }

    #[tokio::test]
    async fn a_look_that_sees_nothing_fails_and_is_counted_for_each_pool() {
        let (yard, scaler) = cut_off();
        let told = round(&yard, &scaler, &json!({ "tick": "2026-11-27T10:00:00Z" })).await.unwrap_err();
        assert_eq!(
            told.to_string(),
            "5 calls failed while the pools were looked at",
            "groups, workers, three backlogs"
        );
        let told = round(&yard, &scaler, &json!({ "pool": "static" })).await.unwrap_err();
        assert_eq!(told.to_string(), "3 calls failed while the pools were looked at");
        let text = metrics::text(&yard.meters.gather(&Default::default(), &[], yard.ambient.now()));
        for (pool, count) in [("standard", 1), ("static", 2), ("steady", 1)] {
            let line =
                format!("switchyard_scaling_rounds_total{{pool=\"{pool}\",reason=\"backlog_unknown\"}} {count}\n");
            assert!(text.contains(&line), "{text}");
        }
    }
}
