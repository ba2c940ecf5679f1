//! The minute's tick: whatever is overdue is looked at, schedules are submitted, what is held and may go is sent on, what
//! runs and is nobody's is swept, and how much stands where is told to CloudWatch.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use switchyard_aws::metrics_emf::standing;
use switchyard_core::ports::{PortError, Yard, describe};
use switchyard_core::reap::{self, Counts, ROUND};
use switchyard_core::schedule::{self, TickCounts};
use switchyard_core::sweep::{self, Swept, Tally};
use tracing::warn;

use crate::opened::Opened;

/// What one round may take: a round begins only while so much of the invocation is left.
const A_ROUND: Duration = Duration::from_secs(15);
/// What is left of it for its answer and what it has counted.
const RESERVE: Duration = Duration::from_secs(3);

/// A tick that did not do all it should. What it left undone is due still, and the next tick meets it.
#[derive(Debug, thiserror::Error)]
pub enum ReaperError {
    /// The ledger could not be asked.
    #[error("the tick could not do its work")]
    Ledger(#[source] PortError),
    /// Some of it failed, each for itself; the log names them.
    #[error("{jobs} jobs, {schedules} schedules and {swept} things to sweep could not be looked at or dealt with")]
    Some {
        /// Jobs.
        jobs: u64,
        /// Schedules.
        schedules: u64,
        /// Lists of what runs, and what was to be ended.
        swept: u64,
    },
}

/// Does what a minute asks for, and answers what that was.
///
/// # Errors
///
/// [`ReaperError`]: it makes the function's error count, on which the operator's alarm rests.
pub async fn tick(opened: &Opened, left: Duration) -> Result<Value, ReaperError> {
    let began = Instant::now();
    let until = began + left.saturating_sub(A_ROUND);
    // Neither keeps the other from its turn.
    let ticked = schedule::round(&opened.yard).await;
    let reaped = reap_until(&opened.yard, until).await;
    if let Err(error) = tell(&opened.yard).await {
        warn!(error = %describe(&error), "how much stands where is not told in this minute");
    }
    // Last: what the round has just settled is told to stop by now, and a sweep that is cut off goes on in the next minute.
    let swept = sweep(opened, left, began).await;
    let (ticked, reaped) = (ticked.map_err(ReaperError::Ledger)?, reaped.map_err(ReaperError::Ledger)?);
    if reaped.errors + ticked.errors + swept.errors() > 0 {
        let (jobs, schedules) = (reaped.errors, ticked.errors);
        return Err(ReaperError::Some { jobs, schedules, swept: swept.errors() });
    }
    let Counts { found, done, already_done, errors: _, forgotten, admitted } = reaped;
    let TickCounts { submitted, repeated, missed, overlapping, refused, errors: _, next: _ } = ticked;
    Ok(json!({
        "reaped": {
            "found": found, "done": done, "already_done": already_done, "forgotten": forgotten, "admitted": admitted,
        },
        "ticks": {
            "submitted": submitted, "repeated": repeated, "missed": missed, "overlapping": overlapping,
            "refused": refused,
        },
        "swept": swept.kinds().into_iter().map(|(kind, tally)| (kind.to_owned(), told(tally))).collect::<Map<_, _>>(),
    }))
}

fn told(Tally { found, marked, unmarked, done, already_done, errors }: Tally) -> Value {
    json!({
        "found": found, "marked": marked, "unmarked": unmarked, "done": done, "already_done": already_done,
        "errors": errors,
    })
}

/// The sweep, where there is time for it. It is safe to be cut off: what it is about to do is saved first.
async fn sweep(opened: &Opened, left: Duration, began: Instant) -> Swept {
    let left = left.saturating_sub(began.elapsed()).saturating_sub(RESERVE);
    let inventory = opened.deployment.inventory(&opened.clients, &opened.home, &opened.yard);
    match tokio::time::timeout(left, sweep::round(&opened.yard, &inventory)).await {
        Ok(swept) => swept,
        Err(_) => {
            warn!(part = "sweep", "there was no time left to sweep to the end");
            Swept::default()
        }
    }
}

/// Rounds, as long as one finds as much as it takes and there is time for another.
async fn reap_until(yard: &Yard, until: Instant) -> Result<Counts, PortError> {
    let mut all = Counts::default();
    loop {
        let Counts { found, done, already_done, errors, forgotten, admitted } = reap::round(yard).await?;
        all.found += found;
        all.done += done;
        all.already_done += already_done;
        all.errors += errors;
        all.forgotten += forgotten;
        all.admitted += admitted;
        let more = found >= ROUND as u64 || forgotten >= ROUND as u64;
        // What failed is not tried again in the same minute.
        if !more || errors > 0 || Instant::now() >= until {
            return Ok(all);
        }
    }
}

/// Writes how much stands where.
async fn tell(yard: &Yard) -> Result<(), PortError> {
    let now = yard.ambient.now();
    let (depths, workers) = (yard.ledger.depths(now).await?, yard.workers.list().await?);
    let lines = standing(&yard.meters.gather(&depths, &workers, now), now);
    let written = io::stdout().lock().write_all(lines.as_bytes());
    written.map_err(|error| PortError::retryable("write", "how much stands where", error))
}
