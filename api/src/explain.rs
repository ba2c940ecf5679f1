//! Why a job would go where: the decision over HTTP, without a job.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use switchyard_core::intake::{self, Taking};
use switchyard_core::route::explain;
use switchyard_core::wire::Explanation;

use crate::body::Whole;
use crate::params::{Nothing, Params};
use crate::problem::Problem;
use crate::{Api, BODY_BYTES};

/// POST /v1/explain: a submission, and beside it `conditions` in place of those that the yard meets. That no place can
/// run it is an answer, and no error.
pub(crate) async fn answer(
    State(api): State<Arc<Api>>,
    _: Params<Nothing>,
    Whole(body, _room): Whole<BODY_BYTES>,
) -> Result<Json<Explanation>, Problem> {
    let (submission, supposed) = intake::read_supposed(&body)?;
    let situation = api.yard.situation().await;
    let taking = Taking { invocation_left: api.inline.left(), companions: 0 };
    let plan = intake::plan(&submission, &situation, taking)?;
    let explained = explain(&plan.needs, &supposed.over(plan.conditions), situation.limits());
    let observed = situation.observed.of(&plan.capability.name);
    let observed = observed.map(|observed| observed.view(&plan.capability.needs, situation.limits()));
    Ok(Json(Explanation { observed, ..Explanation::from(&explained) }))
}
