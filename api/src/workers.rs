//! Who works, and on what.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use switchyard_core::wire::WorkerView;
use utoipa::ToSchema;

use crate::Api;
use crate::params::{Nothing, Params};
use crate::problem::Problem;

/// Every worker that is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkersAnswer {
    /// The workers, by holder.
    pub workers: Vec<WorkerView>,
}

/// GET /v1/workers
pub(crate) async fn list(State(api): State<Arc<Api>>, _: Params<Nothing>) -> Result<Json<WorkersAnswer>, Problem> {
    let mut workers = Vec::new();
    for worker in api.yard.workers.list().await? {
        // A beat names what its holder really runs; the records say what that is.
        let beat = api.yard.ledger.last_beat(&worker.holder).await?;
        let mut named = Vec::new();
        for run in beat.into_iter().flat_map(|beat| beat.running) {
            named.extend(api.yard.ledger.load(run.id).await?);
        }
        workers.push(WorkerView::of(&worker, &named));
    }
    workers.sort_by(|a, b| a.holder.cmp(&b.holder));
    Ok(Json(WorkersAnswer { workers }))
}
