//! The functions compiled into Switchyard, by the name a catalog uses for them.

use serde_json::Value;
use switchyard_core::finding::triage;
use switchyard_core::job::Failure;
use switchyard_core::policies::Policies;
use switchyard_core::ports::describe;

/// Every built-in there is: what `run: { builtin: … }` may name.
pub const NAMES: &[&str] = &["finding-triage"];

/// What a built-in is given.
pub struct Call<'a> {
    /// The job's payload.
    pub payload: &'a Value,
    /// The rules in force when it started.
    pub policies: &'a Policies,
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
        other => Err(permanent(Failure::new("unknown_builtin", format!("this program has no built-in `{other}`")))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn every_listed_builtin_is_there() {
        let policies = Policies::default();
        for name in NAMES {
            let outcome = run(name, &Call { payload: &json!({}), policies: &policies }).await;
            assert!(outcome.is_err_and(|failed| failed.failure.code != "unknown_builtin"), "{name}");
        }
    }

    #[tokio::test]
    async fn a_finding_is_triaged() {
        let event: Value = serde_json::from_str(include_str!("../../core/tests/events/ec2-duty-event.json")).unwrap();
        let (payload, policies) = (json!({ "event": event }), Policies::default());
        let triage = run("finding-triage", &Call { payload: &payload, policies: &policies }).await.unwrap();
        assert_eq!(triage["triages"].as_array().map(Vec::len), Some(1), "{triage}");
    }
}
