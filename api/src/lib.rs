//! One HTTP router for every home: it reads a request, calls a room, and shows what came of it.

pub mod serve;
pub mod edge;
pub mod routes;
pub mod request;
pub mod admit;
pub mod tokens;
mod body;
mod params;
mod cost;
mod brakes;
mod events;
mod records;
mod unmapped;
mod loans;
mod explain;
mod jobs;
mod batch;
mod watch;
mod policies;
mod schedules;
mod workers;
mod metrics;
pub mod problem;
pub mod openapi;
mod describe;
#[cfg(test)]
mod testing;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::State;
use switchyard_core::execute::{self, Holding, Ran, Runs};
use switchyard_core::job::Holder;
use switchyard_core::policies::Reload;
use switchyard_core::ports::{Desk, Executor, Message, PortError, Yard};
use tokio::sync::Semaphore;

use crate::admit::Callers;
use crate::edge::Edge;
pub use batch::{BatchAnswer, BatchItem};
pub use cost::CostAnswer;
pub use events::{EventAnswer, deliver};
pub use jobs::{JobAnswer, JobsPage, TimelineAnswer};
pub use loans::LoansPage;
pub use policies::ReloadAnswer;
pub use problem::Problem;
pub use records::{AssetsPage, FindingsPage, RecordsPage};
pub use routes::router;
pub use schedules::{ScheduleView, SchedulesAnswer, SkipView};
pub use serve::serve;
pub use unmapped::{ReplayAnswer, UnmappedAnswer, UnmappedPage, UnmappedView};
pub use watch::LogsPage;
pub use workers::WorkersAnswer;

/// The largest request body: a payload of 1 MiB and what stands around it.
pub const BODY_BYTES: usize = 1024 * 1024 + 64 * 1024;
/// The largest body of a batch.
pub const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// Jobs in a batch.
pub const BATCH_JOBS: usize = 500;
/// The longest that an answer is held back for `?wait`, in seconds.
pub const WAIT_SECONDS: u64 = 60;

/// What the router serves, and with what.
pub struct Api {
    /// The control side of the home.
    pub yard: Yard,
    /// Runs inline jobs.
    pub inline: Inline,
    /// Tells who calls.
    pub callers: Arc<dyn Callers>,
    /// What callers may take.
    pub edge: Edge,
    /// Reads the rules again.
    pub rules: Arc<dyn Reload>,
    /// Where this router runs: `local`, `lambda` or `fargate`; shown by /health.
    pub compute: &'static str,
}

/// Runs jobs inline: in the process, and while the request, that took them.
pub struct Inline {
    /// Where claims and reports go.
    pub desk: Arc<dyn Desk>,
    /// What runs the work.
    pub executor: Arc<dyn Executor>,
    /// In whose name.
    pub holder: Holder,
    /// How many at once; beyond that there is no invocation with room.
    pub places: Arc<Semaphore>,
    /// What is left for it.
    pub budget: Budget,
}

/// What the invocation that took a job has left for running it.
#[derive(Clone, Debug)]
pub enum Budget {
    /// So much for each request, whenever it comes: a server.
    Each(Duration),
    /// What is left of the one invocation that is under way: a function, which has one at a time.
    Rest(Invocation),
}

impl Budget {
    fn left(&self) -> Duration {
        match self {
            Self::Each(budget) => *budget,
            Self::Rest(invocation) => invocation.left(),
        }
    }
}

/// The invocation that is under way. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Invocation(Arc<Mutex<Option<Instant>>>);

impl Invocation {
    /// The next one begins, and has until then for its work; what it needs to answer is taken off already.
    pub fn begin(&self, until: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }

    /// What is left of it; nothing between two.
    pub fn left(&self) -> Duration {
        let until = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }
}

impl Inline {
    /// What is left of the invocation for a job it takes now.
    fn left(&self) -> Option<Duration> {
        let left = self.budget.left();
        (self.places.available_permits() > 0 && !left.is_zero()).then_some(left)
    }

    async fn run(&self, yard: &Yard, message: Message) -> Result<Ran, PortError> {
        // Whoever was routed here while there was room waits for it: the record is due in a minute if it takes longer.
        let _place = self.places.acquire().await;
        let runs = Runs::default();
        let holding = Holding {
            desk: self.desk.as_ref(),
            executor: self.executor.as_ref(),
            blobs: yard.blobs.as_ref(),
            ambient: yard.ambient.as_ref(),
            holder: &self.holder,
            runs: &runs,
        };
        execute::run(&holding, message, Some(self.budget.left())).await
    }
}

async fn health(State(api): State<Arc<Api>>) -> axum::Json<serde_json::Value> {
    axum::Json(serde_json::json!({
        "status": "ok",
        "compute": api.compute,
        "version": env!("CARGO_PKG_VERSION"),
    }))
}
