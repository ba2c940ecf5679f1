//! The rules in force over HTTP: what they are, and how they are loaded again.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use switchyard_core::catalog::Capability;
use switchyard_core::policies::{InForce, NotReloaded, Reloaded};
use utoipa::ToSchema;

use crate::Api;
use crate::params::{Nothing, Params};
use crate::problem::{Code, Problem};

/// What a reload did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReloadAnswer {
    /// When the rules came into force.
    pub loaded_at: String,
    /// The digest of their files.
    pub digest: String,
    /// What they change, one a line; empty when they say what was in force already.
    pub changes: Vec<String>,
}

/// POST /v1/reload
pub(crate) async fn reload(State(api): State<Arc<Api>>, _: Params<Nothing>) -> Result<Json<ReloadAnswer>, Problem> {
    // A raised limit, or a capability that is back: the night watch hears of it, and sends on who was held for it.
    let Reloaded { at, digest, changes } = api.rules.reload().await?;
    Ok(Json(ReloadAnswer { loaded_at: format!("{at:.3}"), digest, changes }))
}

impl From<NotReloaded> for Problem {
    fn from(refused: NotReloaded) -> Self {
        let detail = refused.to_string();
        match refused {
            NotReloaded::BuiltIn => Self::new(Code::NothingToReload, detail),
            NotReloaded::Broken(violations) => {
                let violations = violations.lines();
                let detail = "the rules in force stay: those that were read are broken";
                Self { violations, ..Self::new(Code::InvalidPolicies, detail) }
            }
            NotReloaded::Failed(_) => Self::new(Code::HomeFailed, detail),
        }
    }
}

/// GET /v1/capabilities
pub(crate) async fn capabilities(State(api): State<Arc<Api>>, _: Params<Nothing>) -> Json<Value> {
    let InForce { policies, since, refused } = api.yard.shelf.in_force();
    let observed = |capability: &Capability| {
        let observed = api.yard.shelf.observed().of(&capability.name)?;
        Some(observed.view(&capability.needs, &policies.limits))
    };
    let capabilities: Vec<Value> = policies
        .catalog
        .iter()
        .map(|capability| {
            serde_json::json!({
                "name": capability.name,
                "summary": capability.summary,
                "input": capability.input.written(),
                "timeout_seconds": capability.timeout.as_secs(),
                "expected_seconds": capability.needs.expected.map(|expected| expected.as_secs()),
                "attempts": capability.retry.attempts,
                "observed": observed(capability),
            })
        })
        .collect();
    let refused =
        refused.map(|refused| serde_json::json!({ "at": format!("{:.3}", refused.at), "violations": refused.why }));
    Json(serde_json::json!({
        "capabilities": capabilities,
        "loaded_at": since.map(|since| format!("{since:.3}")),
        "digest": policies.digest,
        "refused": refused,
    }))
}
