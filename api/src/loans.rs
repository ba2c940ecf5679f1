//! What was lent to whom, over HTTP. For operators only.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use switchyard_core::lend::LoanQuery;
use switchyard_core::wire::LoanView;
use utoipa::ToSchema;

use crate::Api;
use crate::params::{LoansQuery, Params, invalid, number};
use crate::problem::Problem;

/// Records on a page unless asked otherwise.
const PAGE: usize = 50;

/// A page of records of loans, the newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LoansPage {
    /// The records. No credential is in them.
    pub loans: Vec<LoanView>,
    /// Where the next page starts, when there may be one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// GET /v1/loans
pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    Params(LoansQuery { job, since, limit, cursor }): Params<LoansQuery>,
) -> Result<Json<LoansPage>, Problem> {
    let limit = number("limit", limit, 1..=500)?.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(PAGE);
    let query = LoanQuery {
        job: job.map(|id| id.parse().map_err(|error| invalid("job", error))).transpose()?,
        since: since
            .map(|since| since.parse())
            .transpose()
            .map_err(|_| invalid("since", "expected a time such as 2026-01-31T12:00:00Z"))?,
        before: cursor.map(|cursor| cursor.parse().map_err(|error| invalid("cursor", error))).transpose()?,
        limit,
    };
    let notes = api.yard.ledger.loans(&query).await?;
    let next = notes.last().filter(|_| notes.len() == limit).map(|note| note.id.to_string());
    Ok(Json(LoansPage { loans: notes.iter().map(LoanView::from).collect(), next }))
}
