//! Tasks on demand: each a Fargate task of its own, whose worker claims one job and ends.
//!
//! Launching the same (job, epoch) again launches nothing: the request is the same to the byte, client token and all.
//! Those tokens live for 24 hours at most, so that an older epoch is looked for first.

mod answer;
mod request;
mod size;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use switchyard_core::job::{Epoch, Job, JobId, State};
use switchyard_core::ports::{
    Ambient, BlobRef, Blobs, Body, LaunchFailed, LaunchFailure, Launcher, Ledger, Message, PortError, TaskState,
    describe,
};
use switchyard_core::route::Venue;
use tracing::{debug, warn};

use self::answer::Heard;
pub use self::answer::{Cause, of_error, of_failure};
pub use self::request::{
    Capacity, Definitions, Finding, Handed, Network, NoRequest, OVERRIDES_MAX, PolicyStore, Settings, TaskRequest,
    client_token, finding, read_started_by, request, started_by,
};
pub use self::size::{Size, size};
use crate::failure;
use crate::rate::LaunchBuckets;

/// The longest a launch waits for its turn. Whoever launches waits for it, an API call perhaps; a job that has to wait
/// longer waits in the ledger, for nothing.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How long a task that was launched here is taken to live although no list shows it: ECS is eventually consistent.
const UNSEEN: Duration = Duration::from_secs(60);
/// When a client token is no longer trusted: an hour before the 24 that it lives at most.
const TOKEN_LIFE: Duration = Duration::from_secs(23 * 3600);
/// How long ECS tells of a task that has stopped.
const TOLD_OF: Duration = Duration::from_secs(3600);
/// How long after an answer that did not come its task is looked for.
const SETTLE: Duration = Duration::from_secs(1);
/// What a finding's payload is called among its job's blobs.
const PAYLOAD_BLOB: &str = "finding-payload";

/// Says where a blob lies, for a task: `s3://bucket/key`.
pub type Locate = Arc<dyn Fn(&BlobRef) -> String + Send + Sync>;

/// What the launcher reaches the world by.
#[derive(Clone)]
pub struct Doors {
    /// ECS.
    pub ecs: aws_sdk_ecs::Client,
    /// Where payloads are read.
    pub ledger: Arc<dyn Ledger>,
    /// Where large ones lie, and what is too long to be handed over is put.
    pub blobs: Arc<dyn Blobs>,
    /// Where that is, as a task reads it.
    pub locate: Locate,
    /// Time and chance.
    pub ambient: Arc<dyn Ambient>,
    /// What launches functions; `None`: this home has none.
    pub functions: Option<Arc<dyn Launcher>>,
}

/// The launcher. Clones are the same launcher; a process has one, for its rates are the account's.
#[derive(Clone)]
pub struct EcsLauncher(Arc<Inner>);

struct Inner {
    doors: Doors,
    settings: Settings,
    buckets: Mutex<LaunchBuckets>,
    recent: Mutex<HashMap<Message, Recent>>,
}

/// Since when a job waits to be claimed; `None`: it does not.
fn dispatched(job: &Job) -> Option<Timestamp> {
    match &job.state {
        State::Dispatched { at, .. } => Some(*at),
        State::Delayed { .. } | State::Held { .. } | State::Running(_) | State::Settled(_) => None,
    }
}

/// A task that was launched here not long ago.
#[derive(Clone)]
struct Recent {
    at: Timestamp,
    arns: Vec<String>,
}

/// Why no task was started, and what ECS said.
type Refused = (Cause, String);

impl EcsLauncher {
    /// A launcher that starts tasks so.
    pub fn new(doors: Doors, settings: Settings) -> Self {
        let buckets = Mutex::new(LaunchBuckets::new(settings.rates));
        Self(Arc::new(Inner { doors, settings, buckets, recent: Mutex::default() }))
    }

    async fn launch_task(&self, job: &Job) -> Result<(), LaunchFailed> {
        let run = Message { id: job.id, epoch: job.epoch };
        if self.recent(run).is_some() {
            return Ok(());
        }
        if self.token_has_expired(job) {
            match self.list(run).await {
                Ok(arns) if !arns.is_empty() => return Ok(()),
                Ok(_) => {}
                Err(error) => return Err(of_port(&error)),
            }
        }
        let finding = self.finding(job).await?;
        let mut capacity = Capacity::first(job, &self.0.settings);
        loop {
            let request = self.request(job, capacity, finding.as_ref()).await?;
            match self.ask(job, &request).await? {
                Ok(arns) => {
                    self.remember(run, arns);
                    return Ok(());
                }
                // Now and not at the next try: that Spot has nothing left is not a failed launch.
                Err((Cause::Capacity, why)) if capacity == Capacity::Spot => {
                    debug!(job.id = %job.id, job.epoch = %job.epoch, reason = %why, "no spot capacity; on demand");
                    capacity = Capacity::OnDemand;
                }
                Err((cause, message)) => return Err(LaunchFailed { message, kind: cause.kind() }),
            }
        }
    }

    /// Whether this epoch waits so long that another launch of it could be one too many.
    fn token_has_expired(&self, job: &Job) -> bool {
        match job.state {
            State::Dispatched { at, .. } => self.0.doors.ambient.now() > at + TOKEN_LIFE,
            State::Delayed { .. } | State::Held { .. } | State::Running(_) | State::Settled(_) => false,
        }
    }

    /// What the job's task is handed of its finding, when it is about one.
    async fn finding(&self, job: &Job) -> Result<Option<Finding>, LaunchFailed> {
        let Some(store) = &self.0.settings.policies else { return Ok(None) };
        let doors = &self.0.doors;
        let text = match doors.ledger.payload(job.id).await.map_err(|error| of_port(&error))? {
            Some(Body::Inline(text)) => Some(text),
            Some(Body::Blob(blob)) => doors.blobs.get(&blob).await.map_err(|error| of_port(&error))?,
            None => None,
        };
        match text {
            Some(text) => Ok(finding(&text, store)),
            None => Err(passing("its payload is not there".to_owned())),
        }
    }

    /// The request; what is too long to be handed over is put where the task can read it.
    async fn request(
        &self,
        job: &Job,
        capacity: Capacity,
        finding: Option<&Finding>,
    ) -> Result<TaskRequest, LaunchFailed> {
        let of = |finding: Option<&Finding>| {
            request(job, &self.0.settings, capacity, finding).map_err(|error| permanent(error.to_string()))
        };
        let whole = of(finding)?;
        let shorter = match finding {
            Some(Finding { payload: Handed::Inline(text), policy_key }) if !whole.fits() => {
                let doors = &self.0.doors;
                let put = doors.blobs.put(job.id, PAYLOAD_BLOB, text).await.map_err(|error| of_port(&error))?;
                let payload = Handed::At((doors.locate)(&put));
                of(Some(&Finding { payload, policy_key: policy_key.clone() }))?
            }
            Some(_) | None => whole,
        };
        if shorter.fits() {
            return Ok(shorter);
        }
        let (len, most) = (shorter.overrides_len(), OVERRIDES_MAX);
        Err(permanent(format!(
            "what its task is handed takes {len} characters, and ECS takes {most}: shorten `environment`"
        )))
    }

    /// Calls RunTask when it is its turn, and answers with the tasks that are there for the job now.
    async fn ask(&self, job: &Job, request: &TaskRequest) -> Result<Result<Vec<String>, Refused>, LaunchFailed> {
        let doors = &self.0.doors;
        let Some(wait) = self.turn() else {
            let message = format!("more launches wait for their turn than fit into {} s", PATIENCE.as_secs());
            return Err(LaunchFailed { message, kind: LaunchFailure::NoPlace });
        };
        if !wait.is_zero() {
            doors.ambient.pause(wait).await;
        }
        let heard = match request.call(&doors.ecs).send().await {
            Ok(output) => answer::heard(&output),
            Err(error) => answer::heard_error(&error, &self.0.settings.cluster),
        };
        Ok(match heard {
            // A launch that was asked for before, as only the reaper does: the task that it met may be over.
            Heard::Tasks(arns) if looks(job) > 0 => self.met(job, arns).await,
            Heard::Tasks(arns) => Ok(arns),
            Heard::Conflict(arns) => self.met(job, arns).await,
            Heard::Refused(Cause::Throttled, why) => {
                let mut buckets = self.buckets();
                *buckets = buckets.drained(doors.ambient.now());
                Err((Cause::Throttled, why))
            }
            Heard::Refused(cause, why) => Err((cause, why)),
            // Its launch may have happened all the same. Were it not found, its worker would be told that it is late.
            Heard::Nothing(why) => {
                doors.ambient.pause(SETTLE).await;
                match self.list(Message { id: job.id, epoch: job.epoch }).await {
                    Ok(arns) if !arns.is_empty() => Ok(arns),
                    Ok(_) | Err(_) => Err((Cause::Passing, why)),
                }
            }
        })
    }

    /// What a launch amounts to that met tasks of an earlier one: those live, or have stopped before they claimed.
    async fn met(&self, job: &Job, arns: Vec<String>) -> Result<Vec<String>, Refused> {
        if arns.is_empty() {
            return Ok(arns);
        }
        let Inner { doors, settings, .. } = &*self.0;
        let call = doors.ecs.describe_tasks().cluster(&settings.cluster).set_tasks(Some(arns.clone()));
        let tasks = match call.send().await {
            Ok(output) => output.tasks.unwrap_or_default(),
            Err(error) => {
                warn!(error = %failure::read(&error).0, "whether a task of an earlier launch lives is not known");
                return Ok(arns);
            }
        };
        // A stopped task is told of for an hour. Of one that was launched just now ECS may not know yet; but nothing new is
        // launched under a token this old.
        let of_old = dispatched(job).is_some_and(|at| doors.ambient.now() > at + TOLD_OF);
        if tasks.is_empty() && of_old && !self.token_has_expired(job) {
            return Err((Cause::Passing, "its task is gone, and had not claimed the job".to_owned()));
        }
        let stopped = tasks.iter().all(|task| task.last_status() == Some("STOPPED"));
        match tasks.first() {
            // At this epoch it stays so: the client token leads to that task for a day.
            Some(task) if stopped => {
                let why = task.stopped_reason().unwrap_or("for no reason given");
                Err((Cause::Passing, format!("its task stopped before it had claimed the job: {why}")))
            }
            Some(_) | None => Ok(arns),
        }
    }

    /// What an error says that it is about.
    fn subject(&self, id: JobId) -> String {
        format!("job {id} in cluster {}", self.0.settings.cluster)
    }

    /// Books a launch, and says how long it has to wait.
    fn turn(&self) -> Option<Duration> {
        let mut buckets = self.buckets();
        let (next, wait) = buckets.take(self.0.doors.ambient.now(), PATIENCE);
        *buckets = next;
        wait
    }

    /// The tasks of a run that shall run; ones that were launched a moment ago may be missing.
    async fn list(&self, run: Message) -> Result<Vec<String>, PortError> {
        let Inner { doors, settings, .. } = &*self.0;
        // `startedBy` must be the only filter; without a desired status the list is of those that shall run.
        let started_by = started_by(run.id, run.epoch, &settings.table);
        let pages = doors.ecs.list_tasks().cluster(&settings.cluster).started_by(started_by);
        pages
            .into_paginator()
            .items()
            .send()
            .try_collect()
            .await
            .map_err(|error| failure::failed("find the task of", self.subject(run.id), &error))
    }

    fn buckets(&self) -> MutexGuard<'_, LaunchBuckets> {
        // One value, replaced whole.
        self.0.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recents(&self) -> MutexGuard<'_, HashMap<Message, Recent>> {
        // A panic in between leaves a map without half-done entries.
        self.0.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recent(&self, run: Message) -> Option<Recent> {
        let now = self.0.doors.ambient.now();
        self.recents().get(&run).filter(|recent| recent.at + UNSEEN > now).cloned()
    }

    fn remember(&self, run: Message, arns: Vec<String>) {
        let now = self.0.doors.ambient.now();
        let mut recents = self.recents();
        // A minute's launches at most: the rate limits how many.
        recents.retain(|_, recent| recent.at + UNSEEN > now);
        recents.insert(run, Recent { at: now, arns });
    }
}

/// How often the reaper has looked at a job since its dispatch.
fn looks(job: &Job) -> u32 {
    match job.state {
        State::Dispatched { looks, .. } => looks,
        State::Delayed { .. } | State::Held { .. } | State::Running(_) | State::Settled(_) => 0,
    }
}

fn passing(message: String) -> LaunchFailed {
    LaunchFailed { message, kind: LaunchFailure::Passing }
}

fn permanent(message: String) -> LaunchFailed {
    LaunchFailed { message, kind: LaunchFailure::Permanent }
}

/// A launch that another door failed.
fn of_port(error: &PortError) -> LaunchFailed {
    if error.retryable { passing(describe(error)) } else { permanent(describe(error)) }
}

#[async_trait]
impl Launcher for EcsLauncher {
    async fn launch(&self, job: &Job) -> Result<(), LaunchFailed> {
        match (job.route.venue(), &self.0.doors.functions) {
            (Venue::Fargate, _) => self.launch_task(job).await,
            (Venue::Function, Some(functions)) => functions.launch(job).await,
            (Venue::Function, None) => Err(permanent("this yard has no functions to run jobs in".to_owned())),
            (venue @ (Venue::Inline | Venue::Fleet), _) => Err(permanent(format!("nothing is launched {venue}"))),
        }
    }

    async fn find(&self, id: JobId, epoch: Epoch, venue: Venue) -> Result<TaskState, PortError> {
        let run = Message { id, epoch };
        match (venue, &self.0.doors.functions) {
            (Venue::Fargate, _) if self.recent(run).is_some() => Ok(TaskState::Alive),
            (Venue::Fargate, _) => {
                Ok(if self.list(run).await?.is_empty() { TaskState::Absent } else { TaskState::Alive })
            }
            (Venue::Function, Some(functions)) => functions.find(id, epoch, venue).await,
            (Venue::Function, None) | (Venue::Inline | Venue::Fleet, _) => Ok(TaskState::Absent),
        }
    }

    async fn stop(&self, id: JobId, epoch: Epoch, venue: Venue) -> Result<(), PortError> {
        match (venue, &self.0.doors.functions) {
            (Venue::Fargate, _) => self.stop_task(Message { id, epoch }).await,
            (Venue::Function, Some(functions)) => functions.stop(id, epoch, venue).await,
            (Venue::Function, None) | (Venue::Inline | Venue::Fleet, _) => Ok(()),
        }
    }
}

impl EcsLauncher {
    /// Stops every task of a run, also one that no list shows yet; one that fails does not spare the others.
    async fn stop_task(&self, run: Message) -> Result<(), PortError> {
        let recent = self.recents().remove(&run);
        let listed = self.list(run).await;
        let mut arns = recent.map(|recent| recent.arns).unwrap_or_default();
        arns.extend(listed.iter().flatten().cloned());
        arns.sort_unstable();
        arns.dedup();
        let mut outcome = listed.map(drop);
        let Inner { doors, settings, .. } = &*self.0;
        let reason = format!("Switchyard has no more use for the run of job {} at epoch {}", run.id, run.epoch);
        for arn in arns {
            let call = doors.ecs.stop_task().cluster(&settings.cluster).task(&arn).reason(&reason);
            if let Err(error) = call.send().await
                && !is_gone(failure::code(&error), &failure::read(&error).0.message)
            {
                outcome = outcome.and(Err(failure::failed("stop the task of", self.subject(run.id), &error)));
            }
        }
        outcome
    }
}

/// Whether StopTask says that there is no such task any more: an ARN that ECS itself has named can be wrong in no other
/// way. One that has stopped already is stopped again without an error.
fn is_gone(code: Option<&str>, message: &str) -> bool {
    match code {
        Some("ResourceNotFoundException" | "TaskNotFoundException") => true,
        Some("InvalidParameterException" | "ClientException") => message.to_lowercase().contains("not found"),
        Some(_) | None => false,
    }
}
