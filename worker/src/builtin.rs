//! The functions compiled into Switchyard, by the name a catalog uses for them.

use jiff::Timestamp;
use serde_json::Value;
use switchyard_core::catalog::{Builtin, no_settings};
use switchyard_core::finding::triage;
use switchyard_core::job::Failure;
use switchyard_core::policies::Policies;
use switchyard_core::ports::describe;

use crate::http_check;

/// Every built-in there is: what `run: { builtin: … }` may name.
pub const ALL: &[Builtin] = &[
    Builtin { name: "finding-triage", check: no_settings },
    Builtin { name: "http-check", check: http_check::check_settings },
];

/// What a built-in is given.
pub struct Call<'a> {
    /// The job's payload.
    pub payload: &'a Value,
    /// What the catalog sets for it, which its check has found good.
    pub settings: &'a Value,
    /// The rules in force when it started.
    pub policies: &'a Policies,
    /// When it started.
    pub now: Timestamp,
}

/// How a built-in failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuiltinFailed {
    /// Why.
    pub failure: Failure,
    /// Whether another attempt cannot help.
    pub permanent: bool,
}

/// Runs a built-in. Dropped before it has ended, it leaves nothing running: that is how its deadline and a request to
/// stop end it.
///
/// # Errors
///
/// The [`Failure`] of the run, and whether another attempt can help.
pub async fn run(name: &str, call: &Call<'_>) -> Result<Value, BuiltinFailed> {
    let permanent = |failure| BuiltinFailed { failure, permanent: true };
    match name {
        "finding-triage" => triage::run(call.payload, &call.policies.mappings)
            .map_err(|error| permanent(Failure::new("invalid_finding", describe(&error)))),
        "http-check" => http_check::run(call.payload, call.settings, call.now).await,
        other => Err(permanent(Failure::new("unknown_builtin", format!("this program has no built-in `{other}`")))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    async fn run_on(name: &str, payload: &Value) -> Result<Value, BuiltinFailed> {
        let (settings, policies) = (json!({}), Policies::default());
        run(name, &Call { payload, settings: &settings, policies: &policies, now: Timestamp::UNIX_EPOCH }).await
    }

    #[tokio::test]
    async fn every_listed_builtin_is_there() {
        for Builtin { name, .. } in ALL {
            let outcome = run_on(name, &json!({})).await;
            assert!(outcome.is_err_and(|failed| failed.failure.code != "unknown_builtin"), "{name}");
        }
        assert!(run_on("nothing", &json!({})).await.is_err_and(|failed| failed.failure.code == "unknown_builtin"));
    }

    #[tokio::test]
    async fn a_finding_is_triaged() {
        let event: Value = serde_json::from_str(include_str!("../../core/tests/events/ec2-duty-event.json")).unwrap();
        let triage = run_on("finding-triage", &json!({ "event": event })).await.unwrap();
        assert_eq!(triage["triages"].as_array().map(Vec::len), Some(1), "{triage}");
    }
}
