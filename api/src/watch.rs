//! Answers that are held back: until a job has ended, until its log goes on. Each request has so many looks and no
//! more, however restless the job, and none outlasts the yard.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use switchyard_core::job::{Job, JobId, Phase};
use switchyard_core::ports::PortError;
use switchyard_core::wire::LogView;
use tokio::time::Instant;
use utoipa::ToSchema;

use crate::Api;
use crate::jobs::{load, not_found};
use crate::params::{Id, LogsQuery, Params, wait};
use crate::problem::Problem;

/// How often one request looks at the ledger at most: a job that changes more often than once a second for the whole of
/// the longest wait is shown as it is then, and asked for again.
const LOOKS: u32 = 64;
/// The first pause before a log that somebody follows is read again, while its job runs.
const FOLLOW: Duration = Duration::from_millis(250);
/// The longest such pause: they double up to it, for a log that is silent is likely to stay so.
const FOLLOW_MOST: Duration = Duration::from_secs(2);

/// A part of a job's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogsPage {
    /// The trace that the job is of.
    #[serde(default)]
    pub trace_id: String,
    /// The lines, oldest first.
    pub lines: Vec<LogView>,
    /// Where the next part starts.
    pub next: String,
    /// Whether nothing more will come: the job has ended and this was the rest.
    pub done: bool,
}

/// What is left of a request's patience, and of its looks.
struct Budget {
    until: Instant,
    looks: u32,
}

impl Budget {
    fn of(patience: Duration) -> Self {
        Self { until: Instant::now() + patience, looks: LOOKS }
    }

    fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    fn is_spent(&self) -> bool {
        self.looks == 0 || self.left().is_zero()
    }

    /// The job as soon as its revision is above `seen`, or as it is after `patience` or when the yard closes; `None`:
    /// it is gone. Whether the yard closes is the second answer.
    async fn look(&mut self, api: &Api, id: JobId, seen: u64, patience: Duration) -> Result<Option<Job>, PortError> {
        self.looks = self.looks.saturating_sub(1);
        tokio::select! {
            job = api.yard.ledger.watch(id, seen, patience.min(self.left())) => job,
            () = api.edge.closing() => {
                self.looks = 0;
                api.yard.ledger.load(id).await
            }
        }
    }
}

/// The job, as soon as it has ended, or as it is when the budget is spent.
pub(crate) async fn until_settled(api: &Api, id: JobId, patience: Duration) -> Result<Option<Job>, PortError> {
    let mut budget = Budget::of(patience);
    let mut seen = 0;
    loop {
        match budget.look(api, id, seen, patience).await? {
            Some(job) if !job.is_settled() && !budget.is_spent() => seen = job.revision,
            job => return Ok(job),
        }
    }
}

/// GET /v1/jobs/{id}/logs
pub(crate) async fn logs(
    State(api): State<Arc<Api>>,
    Id(id): Id,
    Params(LogsQuery { cursor, wait: seconds }): Params<LogsQuery>,
) -> Result<Json<LogsPage>, Problem> {
    let mut budget = Budget::of(wait(seconds)?.min(api.edge.limits.wait));
    let mut pause = FOLLOW;
    let mut job = load(&api, id).await?;
    budget.looks -= 1;
    loop {
        // The job before its log: what it printed last is there when it has ended.
        let page = api.yard.logs.read(id, &cursor).await?;
        let done = job.is_settled() && page.lines.is_empty();
        if !page.lines.is_empty() || done || budget.is_spent() {
            let lines = page.lines.iter().map(|(epoch, line)| LogView::of(*epoch, line)).collect();
            let trace_id = job.trace_id().to_string();
            return Ok(Json(LogsPage { trace_id, lines, next: page.next, done }));
        }
        let patience = if job.phase() == Phase::Running { pause } else { Duration::MAX };
        pause = (pause * 2).min(FOLLOW_MOST);
        job = budget.look(&api, id, job.revision, patience).await?.ok_or_else(|| not_found(id))?;
    }
}

#[cfg(test)]
mod tests {
    use switchyard_core::job::Epoch;

    use super::*;
    use crate::testing::{self, Ledger};

    /// The longest wait there is, for nothing: no line is printed, and the job does not end.
    async fn follow(api: &Arc<Api>, id: JobId) -> LogsPage {
        let query = LogsQuery { cursor: String::new(), wait: Some("60".to_owned()) };
        logs(State(Arc::clone(api)), Id(id), Params(query)).await.unwrap().0
    }

    #[tokio::test(start_paused = true)]
    async fn following_a_silent_log_for_a_minute_takes_few_looks() {
        let (api, ledger) = testing::api_over(Ledger::new());
        let id = testing::a_job(&api, "somebody").await;
        testing::claim(&api, id).await;
        ledger.looks();
        let began = Instant::now();
        let page = follow(&api, id).await;
        assert!(page.lines.is_empty() && !page.done);
        assert_eq!(began.elapsed().as_secs(), 60, "nothing came, and the patience was the caller's");
        // 0.25 + 0.5 + 1 s, then every 2 s.
        assert!((30..=36).contains(&ledger.looks()), "a look every two seconds in the end");
        // The same for a job that nobody runs: one look, and one when patience ends.
        let id = testing::a_job(&api, "somebody").await;
        ledger.looks();
        follow(&api, id).await;
        assert!(ledger.looks() <= 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_restless_job_is_looked_at_so_often_and_no_more() {
        let (api, ledger) = testing::api_over(Ledger::restless());
        let id = testing::a_job(&api, "somebody").await;
        ledger.looks();
        let job = until_settled(&api, id, Duration::from_secs(60)).await.unwrap().unwrap();
        assert_eq!(ledger.looks(), LOOKS);
        assert_eq!((job.epoch, job.is_settled()), (Epoch(1), false), "it is shown as it is");
        follow(&api, id).await;
        assert_eq!(ledger.looks(), LOOKS);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_is_answered_when_the_yard_closes() {
        let api = testing::api_over(Ledger::new()).0;
        let id = testing::a_job(&api, "somebody").await;
        let began = Instant::now();
        let closes = async {
            tokio::time::sleep(Duration::from_secs(7)).await;
            api.edge.close();
        };
        let (_, job, page) = tokio::join!(closes, until_settled(&api, id, Duration::from_secs(60)), follow(&api, id));
        assert!(!job.unwrap().unwrap().is_settled() && !page.done);
        assert_eq!(began.elapsed().as_secs(), 7);
        assert!(until_settled(&api, id, Duration::from_secs(60)).await.unwrap().is_some());
        assert_eq!(began.elapsed().as_secs(), 7);
    }
}
