//! The sizes of the pools: looked at each minute, and at once where a bell rang and nobody works.

use serde_json::{Map, Value, json};
use switchyard_aws::deployment::EnvironmentError;
use switchyard_aws::environment::GROUPS;
use switchyard_aws::fleet_autoscaling::Groups;
use switchyard_aws::fleet_scaler::{Looked, Scaler};
use switchyard_aws::kicks_lambda;
use switchyard_core::ports::{Yard, describe};
use switchyard_core::route::PoolName;
use switchyard_core::scale::{Reason, Verdict};
use tracing::{debug, error, info};

use crate::opened::Opened;

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
    let looked = scaler.round(&policies.limits, only, &*yard.ambient).await;
    if let (Some(pool), true) = (only, looked.is_empty()) {
        return Err(ScalerError::NoPool(pool));
    }
    let (mut told, mut failed) = (Map::new(), 0);
    for Looked { pool, verdict, first_without, failures } in looked {
        for failure in &failures {
            error!(pool = %pool, error = %describe(failure), "a pool is not looked at in full, or not grown");
        }
        failed += failures.len();
        match verdict {
            Some(verdict) => {
                say(pool, &verdict);
                if failures.is_empty() {
                    yard.meters.scaled(pool, &verdict);
                }
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
