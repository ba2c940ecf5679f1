//! One job, then the end: what runs in a child of the yard, and what a task image has as its entry point.

use switchyard_core::execute::{self, Holding, Ran, Runs};
use switchyard_core::job::StopCause;
use switchyard_core::ports::{Message, PortError, StopSignal};

/// Claims and runs the one job, beating for it meanwhile. `leave` gives it back; hurried, without its grace.
///
/// # Errors
///
/// The desk could not be reached for the claim or the report.
pub async fn run(holding: Holding<'_>, message: Message, leave: StopSignal, runs: &Runs) -> Result<Ran, PortError> {
    let running = execute::run(&holding, message, None);
    let beating = async {
        let mut counter = 0;
        loop {
            runs.any().await;
            execute::beat_while_running(&holding, &mut counter).await;
        }
    };
    let leaving = async {
        let cause = leave.raised().await;
        runs.stop_all(match cause {
            StopCause::Cancel | StopCause::Deadline | StopCause::Stale | StopCause::Drain => cause,
        });
        leave.hurried().await;
        runs.hurry_all();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        biased;
        ran = running => ran,
        () = beating => unreachable!("the heart beats until the run ends"),
        () = leaving => unreachable!("leaving only tells the run to stop"),
    }
}
