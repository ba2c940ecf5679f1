//! Schedules over HTTP: when they tick, and what became of it.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use switchyard_core::job::{JobId, Phase};
use switchyard_core::schedule;

use utoipa::ToSchema;

use crate::Api;
use crate::params::{Nothing, Params};
use crate::problem::Problem;

/// Every schedule, by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SchedulesAnswer {
    /// The schedules.
    pub schedules: Vec<ScheduleView>,
}

/// A schedule as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ScheduleView {
    /// Its name.
    pub name: String,
    /// Its cron expression, or `every N minutes`.
    pub when: String,
    /// The time zone that the expression means.
    pub time_zone: String,
    /// What its jobs run.
    pub capability: String,
    /// Whether it ticks at all.
    pub enabled: bool,
    /// When it ticks next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_tick: Option<String>,
    /// The last tick that became a job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_tick: Option<String>,
    /// That job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_job: Option<JobId>,
    /// Where that job stands; not shown once its record is forgotten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_job_state: Option<Phase>,
    /// Ticks that became no job.
    pub skipped: u64,
    /// The last of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_skip: Option<SkipView>,
}

/// A tick that became no job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SkipView {
    /// The tick; of ticks that were missed, when that was found.
    pub at: String,
    /// `missed`, `overlap` or `refused`, and more about it.
    pub why: String,
}

/// A moment as schedules have it: they tick at whole minutes.
fn shown(at: Timestamp) -> String {
    format!("{at:.0}")
}

/// GET /v1/schedules
pub(crate) async fn list(State(api): State<Arc<Api>>, _: Params<Nothing>) -> Result<Json<SchedulesAnswer>, Problem> {
    let policies = api.yard.policies();
    let mut remembered = api.yard.ledger.last_ticks().await?;
    let now = api.yard.ambient.now();
    let mut schedules = Vec::new();
    for schedule in policies.schedules.iter() {
        let ticked = remembered.remove(&schedule.name);
        let tick = ticked.as_ref().and_then(|ticked| ticked.tick);
        let job = tick.map(|tick| schedule::job_of(schedule, tick));
        let state = match job {
            Some(job) => api.yard.ledger.load(job).await?.map(|job| job.phase()),
            None => None,
        };
        schedules.push(ScheduleView {
            name: schedule.name.clone(),
            when: schedule.when.to_string(),
            time_zone: schedule.zone().to_owned(),
            capability: schedule.capability.clone(),
            enabled: schedule.enabled,
            next_tick: schedule::next(schedule, now).map(shown),
            last_tick: tick.map(shown),
            last_job: job,
            last_job_state: state,
            skipped: ticked.as_ref().map_or(0, |ticked| ticked.skipped),
            last_skip: ticked.and_then(|ticked| ticked.why).map(|(at, why)| SkipView { at: shown(at), why }),
        });
    }
    Ok(Json(SchedulesAnswer { schedules }))
}
