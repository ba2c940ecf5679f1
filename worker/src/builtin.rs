//! The functions compiled into Switchyard, by the name a catalog uses for them.

use serde_json::Value;
use switchyard_core::finding::triage;
use switchyard_core::job::Failure;
use switchyard_core::ports::describe;

/// Every built-in there is: what `run: { builtin: … }` may name.
pub const NAMES: &[&str] = &["finding-triage"];

/// Runs a built-in on a payload.
///
/// # Errors
///
/// The [`Failure`] of the run; none of these functions fails differently the next time.
pub fn run(name: &str, payload: &Value) -> Result<Value, Failure> {
    match name {
        "finding-triage" => triage::run(payload).map_err(|error| Failure::new("invalid_finding", describe(&error))),
        other => Err(Failure::new("unknown_builtin", format!("this program has no built-in `{other}`"))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_listed_builtin_is_there() {
        for name in NAMES {
            let outcome = run(name, &json!({}));
            assert!(outcome.is_err_and(|failure| failure.code != "unknown_builtin"), "{name}");
        }
    }

    #[test]
    fn a_finding_is_triaged() {
        let event: Value = serde_json::from_str(include_str!("../../core/tests/events/ec2-duty-event.json")).unwrap();
        let triage = run("finding-triage", &json!({ "event": event })).unwrap();
        assert_eq!(triage["triages"].as_array().map(Vec::len), Some(1), "{triage}");
    }
}
