//! Tasks on demand: each a process of its own, `switchyard worker --once`, born with a socket to its desk.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use rustix::process::Signal;
use switchyard_core::catalog::GRACE_MAX;
use switchyard_core::dispatch;
use switchyard_core::job::{Epoch, Holder, Job, JobId, Nonce, Phase, StopCause, Tier};
use switchyard_core::ports::{
    Desk, LaunchFailed, LaunchFailure, Launcher, Message, PortError, StopSignal, TaskState, Yard,
};
use switchyard_core::route::{Packaging, Venue};
use switchyard_core::settle;
use switchyard_worker::credentials::Vault;
use switchyard_worker::engine::Engine;
use switchyard_worker::process::{MARK, mark, signal_group, signal_process, sweep};
use switchyard_worker::scratch::folder_of;
use tokio::net::UnixStream;
use tracing::{Instrument, debug, error, error_span, warn};

use crate::blobs_folder::remove_folder;
use crate::desk_socket;
use crate::folder::Folder;
use crate::ledger_sqlite::SqliteLedger;
use crate::places::Places;

/// What a task has to give its job back when it is told to leave: the longest grace there is, and a little.
const LEAVE: Duration = GRACE_MAX.saturating_add(Duration::from_secs(15));
/// Launches that may wait for a free place. Beyond that a launch is refused, and the job waits in the ledger.
const QUEUE: usize = 10_000;

/// How tasks are started.
#[derive(Clone, Debug)]
pub struct TaskProgram {
    /// The program: this very binary, unless a test says otherwise.
    pub program: PathBuf,
    /// Arguments before the task's own, such as where the catalog is.
    pub args: Vec<String>,
}

/// The launcher. Clones are the same launcher.
#[derive(Clone)]
pub struct ProcessLauncher(Arc<Inner>);

struct Inner {
    program: TaskProgram,
    yard_id: String,
    boot: Nonce,
    folder: Folder,
    ledger: SqliteLedger,
    engine: Option<Engine>,
    places: Places,
    tasks: Mutex<HashMap<Message, StopSignal>>,
    yard: OnceLock<(Yard, Arc<dyn Desk>)>,
}

/// The holder that the task for a run is.
pub fn holder(run: Message, boot: Nonce) -> Holder {
    Holder::new(&format!("task-{}-{}", run.id, run.epoch), boot)
}

impl ProcessLauncher {
    /// A launcher with `places` tasks at once; `engine` is where those run containers that are packaged as images.
    pub fn new(
        program: TaskProgram,
        places: usize,
        yard_id: String,
        boot: Nonce,
        folder: Folder,
        ledger: SqliteLedger,
        engine: Option<Engine>,
    ) -> Self {
        let places = Places::new(places);
        let (tasks, yard) = (Mutex::default(), OnceLock::new());
        Self(Arc::new(Inner { program, yard_id, boot, folder, ledger, engine, places, tasks, yard }))
    }

    /// Says which yard and desk the tasks belong to; the launcher is one of the yard's own doors.
    pub fn serve(&self, yard: Yard, desk: Arc<dyn Desk>) {
        // Set once, when the home opens.
        let _ = self.0.yard.set((yard, desk));
    }

    /// Asks every task to give its job back, waits until all are gone, and takes no more.
    pub async fn close(&self) {
        self.0.places.close();
        for signal in self.tasks().values() {
            signal.raise(StopCause::Drain);
        }
        let gone = async {
            while !self.tasks().is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(LEAVE, gone).await.is_err() {
            warn!(tasks = self.tasks().len(), "tasks did not leave in time; the next start sweeps them");
        }
    }

    fn tasks(&self) -> MutexGuard<'_, HashMap<Message, StopSignal>> {
        // A panic in between leaves a map without half-done entries.
        self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(self, run: Message, tier: Tier, since: Timestamp, packaging: Packaging, stop: StopSignal) {
        let how = {
            let place = tokio::select! {
                place = self.0.places.take(run, tier, since) => place,
                _ = stop.raised() => None,
            };
            match (place, self.0.yard.get()) {
                (Some(_place), Some((_, desk))) => self.live(run, &stop, packaging, Arc::clone(desk)).await,
                // Stopped before it started, or the yard closes: the record says what is next.
                (None, _) | (_, None) => None,
            }
        };
        self.0.ledger.forget_holder(&holder(run, self.0.boot));
        if let (Some(how), Some((yard, _))) = (how, self.0.yard.get()) {
            let told = if stop.cause() == Some(StopCause::Drain) && waits(yard, run).await {
                // It left before it had claimed: nothing failed, and the next start launches it.
                Ok(())
            } else {
                settle::task_ended(yard, run.id, run.epoch, &how).await
            };
            if let Err(error) = told {
                warn!(job.id = %run.id, job.epoch = %run.epoch, %error, "the end of a task is not recorded; the reaper finds out");
            }
        }
        // Last: whoever closes the yard waits until everything said of its tasks is written.
        self.tasks().remove(&run);
    }

    /// Starts the process, serves its desk, and answers how it ended.
    async fn live(&self, run: Message, stop: &StopSignal, packaging: Packaging, desk: Arc<dyn Desk>) -> Option<String> {
        let (ours, theirs) = match std::os::unix::net::UnixStream::pair() {
            Ok(pair) => pair,
            Err(error) => return Some(format!("no socket for the task: {error}")),
        };
        let inner = &self.0;
        let spawned = tokio::process::Command::new(&inner.program.program)
            .args(["worker", "--once", "--job"])
            .arg(run.id.to_string())
            .args(["--epoch", &run.epoch.to_string(), "--holder", &holder(run, inner.boot).0, "--yard", &inner.yard_id])
            .args(["--boot", &inner.boot.to_string()])
            .arg("--scratch")
            .arg(inner.folder.scratch())
            .arg("--blobs")
            .arg(inner.folder.blobs())
            .args(&inner.program.args)
            .env(MARK, mark(&inner.yard_id, run))
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .process_group(0)
            .spawn();
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) => return Some(format!("cannot start {}: {error}", inner.program.program.display())),
        };
        let served = async {
            ours.set_nonblocking(true)?;
            desk_socket::serve(UnixStream::from_std(ours)?, desk, run).await
        };
        let leader = child.id();
        let told_to_leave = async {
            if stop.raised().await == StopCause::Stale {
                // Nobody takes a report of it any more: there is nothing to wait for.
                return;
            }
            if let Some(leader) = leader {
                // The task hears it, stops its run, reports, and ends. Not its group: a command that it is about to
                // start is in it until it has one of its own, and would end as if it had failed.
                signal_process(leader, Signal::TERM);
                // One that somebody has stopped would not hear it.
                signal_process(leader, Signal::CONT);
            }
            tokio::time::sleep(LEAVE).await;
        };
        tokio::select! {
            served = served => if let Err(error) = served {
                warn!(job.id = %run.id, job.epoch = %run.epoch, %error, "a task's connection broke");
            },
            () = told_to_leave => {}
        }
        // Its end of the socket is closed: it has reported or never will. A moment to end by itself, then the end.
        let moment = if stop.cause() == Some(StopCause::Stale) { Duration::ZERO } else { Duration::from_secs(2) };
        let ended = match tokio::time::timeout(moment, child.wait()).await {
            Ok(ended) => ended,
            Err(_) => {
                if let Some(leader) = leader {
                    signal_group(leader, Signal::KILL);
                }
                child.wait().await
            }
        };
        let (marked, scratch) = (mark(&inner.yard_id, run), folder_of(&inner.folder.scratch(), run));
        let left = tokio::task::spawn_blocking(move || {
            let swept = sweep(&marked)?;
            // The task removes its folders itself, unless it was killed.
            Vault::usual().sweep()?;
            remove_folder(&scratch).map(|()| swept)
        });
        match left.await {
            Ok(Ok(0)) => {}
            Ok(Ok(swept)) => debug!(job.id = %run.id, job.epoch = %run.epoch, swept, "swept what a task left"),
            Ok(Err(error)) => {
                error!(job.id = %run.id, job.epoch = %run.epoch, %error, "what a task left cannot be swept")
            }
            Err(_) => {}
        }
        if let Some(engine) = inner.engine.as_ref().filter(|_| packaging.is_image()) {
            // The task removes its container itself, unless it was killed.
            match engine.sweep_run(&mark(&inner.yard_id, run)).await {
                Ok(0) => {}
                Ok(swept) => debug!(job.id = %run.id, swept, "removed the container that a task left"),
                Err(error) => error!(job.id = %run.id, %error, "the container of a task may be left"),
            }
        }
        Some(describe_end(ended))
    }
}

/// Whether the job still waits for somebody to claim it at this epoch.
async fn waits(yard: &Yard, run: Message) -> bool {
    let job = yard.ledger.load(run.id).await.ok().flatten();
    job.is_some_and(|job| job.epoch == run.epoch && job.phase() == Phase::Dispatched)
}

fn describe_end(ended: std::io::Result<ExitStatus>) -> String {
    match ended {
        Ok(status) => format!("its process ended without a report ({status})"),
        Err(error) => format!("its process cannot be awaited: {error}"),
    }
}

#[async_trait]
impl Launcher for ProcessLauncher {
    async fn launch(&self, job: &Job) -> Result<(), LaunchFailed> {
        let run = Message { id: job.id, epoch: job.epoch };
        let signal = StopSignal::default();
        {
            let mut tasks = self.tasks();
            if tasks.contains_key(&run) {
                return Ok(());
            }
            if tasks.len() >= QUEUE {
                let message = format!("{QUEUE} tasks wait for a place already");
                return Err(LaunchFailed { message, kind: LaunchFailure::NoPlace });
            }
            tasks.insert(run, signal.clone());
        }
        let span = error_span!("task", trace.id = %job.trace_id());
        let packaging = job.work.needs.packaging;
        let lives = self.clone().run(run, dispatch::lane(job).tier, job.created, packaging, signal);
        tokio::spawn(lives.instrument(span));
        Ok(())
    }

    async fn find(&self, id: JobId, epoch: Epoch, _venue: Venue) -> Result<TaskState, PortError> {
        let run = Message { id, epoch };
        if !self.tasks().contains_key(&run) {
            return Ok(TaskState::Absent);
        }
        Ok(self.0.places.before(run).map_or(TaskState::Alive, |before| TaskState::Waiting(before as u64)))
    }

    async fn stop(&self, id: JobId, epoch: Epoch, _venue: Venue) -> Result<(), PortError> {
        if let Some(signal) = self.tasks().get(&Message { id, epoch }) {
            signal.raise(StopCause::Stale);
        }
        Ok(())
    }
}
