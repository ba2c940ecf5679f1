//! What jobs have cost, over HTTP.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use switchyard_core::ports::Spend;
use utoipa::ToSchema;

use crate::Api;
use crate::params::{Params, invalid};
use crate::problem::Problem;

/// What the settled jobs that are still kept have cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CostAnswer {
    /// By capability and venue, the dearest first.
    pub spend: Vec<Spend>,
    /// All of it, in nano-dollars.
    pub nanodollars: u64,
    /// The region whose prices these are.
    pub region: String,
    /// The day of these prices.
    pub as_of: String,
    /// What the figures are.
    pub note: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CostQuery {
    since: Option<String>,
}

/// GET /v1/cost
pub(crate) async fn answer(
    State(api): State<Arc<Api>>,
    Params(query): Params<CostQuery>,
) -> Result<Json<CostAnswer>, Problem> {
    let since = match query.since {
        None => Timestamp::UNIX_EPOCH,
        Some(since) => since.parse().map_err(|_| invalid("since", "expected a time such as 2026-01-31T12:00:00Z"))?,
    };
    let spend = api.yard.ledger.spend(since).await?;
    let policies = api.yard.policies();
    let prices = &policies.limits.prices;
    let note = match api.compute {
        "local" => "what AWS would have charged: on one machine nothing is paid",
        _ => "computed from the price list, without free tiers and savings plans",
    };
    Ok(Json(CostAnswer {
        nanodollars: spend.iter().map(|spend| spend.nanodollars).sum(),
        spend,
        region: prices.region.clone(),
        as_of: prices.as_of.clone(),
        note: note.to_owned(),
    }))
}
