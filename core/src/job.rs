//! A job: what was asked for, where it stands, and the one table of the steps it may take.
//!
//! Nothing outside this file takes a [`Job`] from one phase to another: every room goes through [`Job::step`], which looks the
//! step up in [`next`] and refuses what the table does not name.

mod name;
mod trace;
mod transition;

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use self::name::{ClaimToken, Epoch, Holder, JobId, Nonce, NotAJobId, Tier, TokenHash};
pub use self::trace::{NotATraceId, TraceId};
pub use self::transition::{IllegalStep, NotAPhase, Phase, Step, next, transition_table};
use crate::route::{Needs, Place, PoolName, Route, Venue};

/// Entries a timeline keeps. A job that retried for weeks must not outgrow its record (DynamoDB writes are paid by
/// the item's size), so the first and the newest entries are kept; they tell the story.
pub const TIMELINE_ENTRIES: usize = 40;

/// What was asked for. Fixed at acceptance, but for the needs, which a run may show to be larger, and the start
/// deadline, which is over once it has started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    /// The capability that runs.
    pub capability: String,
    /// How soon it must start.
    pub tier: Tier,
    /// What the caller wants to find it by; at most 16 pairs.
    pub labels: Vec<(String, String)>,
    /// The role or user that submitted it, never the session.
    pub caller: String,
    /// The idempotency key, when the caller gave one.
    pub key: Option<String>,
    /// SHA-256 of the canonical JSON as submitted, before defaults: the same key with another body is refused.
    pub body_sha256: [u8; 32],
    /// The longest one run may last.
    pub run_timeout: Duration,
    /// The moment after which it must not start any more; none once it has started.
    pub start_deadline: Option<Timestamp>,
    /// Failed attempts after which it fails for good; a manual retry grants as many again.
    pub attempts: u32,
    /// The wait after the first failed attempt; it doubles with each.
    pub backoff: Duration,
    /// Whether its settlement is announced to the outside.
    pub announce: bool,
    /// Venues and needs as the catalog had them at acceptance.
    pub needs: Needs,
    /// The trace of the request that brought it, when one did.
    pub trace: Option<TraceId>,
}

/// A job's record: the truth. A message about it is only a doorbell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its name.
    pub id: JobId,
    /// What was asked for.
    pub work: Work,
    /// Where it stands.
    pub state: State,
    /// The number of its newest dispatch.
    pub epoch: Epoch,
    /// How often the job itself failed.
    pub attempts_spent: u32,
    /// How often it may fail before it fails for good.
    pub attempts_allowed: u32,
    /// How often a holder gave it back: spends no attempt.
    pub interruptions: u32,
    /// How often its holder was lost without notice: spends no attempt, but is bounded.
    pub losses: u32,
    /// How often launching it failed since it was last running: spends no attempt, but is bounded.
    pub launch_failures: u32,
    /// The place chosen at the newest dispatch, with the verdict on each.
    pub route: Route,
    /// Which of its capability's permits it holds, where that has a limit: from its dispatch to the end of its run.
    pub permit: Option<u16>,
    /// How many tiers it has risen above its own because it waited.
    pub aged: u8,
    /// What its runs cost so far, in nano-dollars.
    pub spent_nanodollars: u64,
    /// What happened, oldest first.
    pub timeline: Vec<Entry>,
    /// When it was accepted.
    pub created: Timestamp,
    /// When somebody must look at it again, whatever happens. Set while it is not settled or something is owed.
    pub due: Option<Timestamp>,
    /// What is still to be done about it.
    pub owed: Vec<Owed>,
    /// Rises by one with every write: what a conditional write is conditional on.
    pub revision: u64,
    /// The nonce of the newest write.
    pub nonce: Nonce,
}

/// Where a job stands, with what only that state knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It waits for a moment.
    Delayed {
        /// The moment.
        until: Timestamp,
    },
    /// It may not start now: its capability's limit is reached, or somebody paused it.
    Held {
        /// Since when.
        since: Timestamp,
    },
    /// It waits for a holder, at the place of its route.
    Dispatched {
        /// Since when.
        at: Timestamp,
        /// How often the reaper has looked since.
        looks: u32,
    },
    /// Somebody runs it.
    Running(Run),
    /// It ended, and stays so unless somebody retries it.
    Settled(Settlement),
}

/// One run, from claim to report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Who runs it.
    pub holder: Holder,
    /// What the holder must show.
    pub token: TokenHash,
    /// Since when.
    pub at: Timestamp,
    /// When it must have ended.
    pub deadline: Timestamp,
    /// What its holder has been asked to do.
    pub stop: Option<Stop>,
    /// What the reaper saw of the holder when it last looked.
    pub watch: Watch,
    /// That its task has ended, where somebody saw it end; its report may still be under way.
    pub ended: Option<TaskEnd>,
}

/// How a task ended, as whoever saw it tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskEnd {
    /// When that was told.
    pub at: Timestamp,
    /// What it ended by.
    pub cause: TaskEndCause,
    /// How, in one line.
    pub how: String,
}

/// What a task ended by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskEndCause {
    /// By itself, with whatever exit code.
    Exited,
    /// For the memory it took.
    OutOfMemory,
    /// It was taken away, through no fault of the job.
    TakenAway,
}

/// The reaper's note on a holder: the beat counter it saw, and how often in a row that did not move.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    /// The holder's beat counter at the last look.
    pub counter: u64,
    /// Looks in a row at which the counter had not moved, or the beat did not name this run.
    pub misses: u32,
}

/// A request to the holder to end its run. The holder settles; the reaper forces it a minute later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// Why.
    pub cause: StopCause,
    /// Since when.
    pub at: Timestamp,
}

/// Why a run is asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopCause {
    /// Somebody cancelled the job.
    Cancel,
    /// The run's deadline has passed.
    Deadline,
    /// The holder no longer holds the job: whatever still runs is stale.
    Stale,
    /// The holder leaves (spot notice, drain, shutdown): the job goes back.
    Drain,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// The end.
    pub ending: Ending,
    /// When. Retention counts from here.
    pub at: Timestamp,
    /// What the run made, when it succeeded and made something.
    pub result: Option<ResultRef>,
    /// What went wrong, when something did.
    pub error: Option<Failure>,
    /// The token of the run whose report settled it; none when no run did.
    pub token: Option<TokenHash>,
}

/// The ways a job ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// It did what it was asked.
    Succeeded,
    /// It failed as often as it was allowed to, or for good.
    Failed,
    /// It ran longer than it was allowed to.
    TimedOut,
    /// Somebody cancelled it.
    Cancelled,
    /// It did not start in time.
    Expired,
}

/// Which result a settlement made: results are kept by job and epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResultRef {
    /// The epoch whose run made it.
    pub epoch: Epoch,
    /// Its size in bytes.
    pub bytes: u64,
}

/// Whether a character does something on a screen instead of standing on it: controls, what ends a line, what reorders
/// what a reader sees (CVE-2021-42574), and what cannot be seen. Joiners stay: some scripts are not written without.
pub fn is_unsafe_on_screen(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// `text` as one line that is safe in a log and on a terminal: what is unsafe there becomes a space, and what is over
/// `most` bytes is cut at a character and marked with `…`.
pub fn one_line(text: &str, most: usize) -> String {
    let mut line = String::with_capacity(text.len().min(most));
    for c in text.trim().chars() {
        if line.len() + c.len_utf8() > most {
            line.push('…');
            break;
        }
        line.push(if is_unsafe_on_screen(c) { ' ' } else { c });
    }
    line
}

/// Why a run, a launch or a job failed: a stable code to act on, a sentence to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// A stable snake_case code, such as `exit_nonzero`.
    pub code: String,
    /// One sentence; no secret, no control characters, at most [`Failure::MESSAGE_BYTES`].
    pub message: String,
    /// The exit code, when a process ended with one.
    pub exit: Option<i32>,
}

impl Failure {
    /// A message's limit: enough for the last line of a program's complaint, small beside the record's 1 KiB.
    pub const MESSAGE_BYTES: usize = 300;

    /// A failure, its message made safe for a log and a terminal.
    pub fn new(code: &str, message: impl AsRef<str>) -> Self {
        let message = one_line(message.as_ref(), Self::MESSAGE_BYTES);
        Self { code: code.to_owned(), message, exit: None }
    }

    /// The same with the exit code it came from.
    pub fn with_exit(self, exit: i32) -> Self {
        Self { exit: Some(exit), ..self }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

/// Something that must still be done about a job after its record says it ended or moved on. The reaper pays what a
/// crash left; paying twice is harmless.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owed {
    /// Tell the outside that the job settled at this epoch.
    Announce(Epoch),
    /// End what may still run at an epoch that was buried or forced.
    StopTask {
        /// Where it was launched.
        venue: Venue,
        /// The epoch it was launched for.
        epoch: Epoch,
    },
}

/// One line of a job's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When.
    pub at: Timestamp,
    /// The step taken; none for acceptance and for notes that change no state.
    pub step: Option<Step>,
    /// The phase after it.
    pub phase: Phase,
    /// The epoch after it.
    pub epoch: Epoch,
    /// Why, as a stable code.
    pub reason: String,
    /// What a reader may want besides; empty when there is nothing.
    pub detail: String,
}

impl State {
    /// The state without what it knows.
    pub fn phase(&self) -> Phase {
        match self {
            Self::Delayed { .. } => Phase::Delayed,
            Self::Held { .. } => Phase::Held,
            Self::Dispatched { .. } => Phase::Dispatched,
            Self::Running(_) => Phase::Running,
            Self::Settled(settlement) => settlement.ending.into(),
        }
    }
}

impl Job {
    /// The phase it is in.
    pub fn phase(&self) -> Phase {
        self.state.phase()
    }

    /// The pool whose workers take it, or would.
    pub fn pool(&self) -> PoolName {
        match self.route.place {
            Place::Fleet(pool) => pool,
            Place::Inline | Place::Function | Place::Fargate => PoolName::STANDARD,
        }
    }

    /// The trace that it and everything said about it is of: its request's, or one of its own.
    pub fn trace_id(&self) -> TraceId {
        self.work.trace.unwrap_or_else(|| self.id.into())
    }

    /// Whether it has ended.
    pub fn is_settled(&self) -> bool {
        self.phase().is_settled()
    }

    /// Takes `step` into `state`, writes the timeline, and leaves everything else to the room that decided it.
    ///
    /// # Errors
    ///
    /// [`IllegalStep`] when the table has no such step or it leads to another phase; the job is unchanged.
    pub fn step(
        &mut self,
        step: Step,
        state: State,
        now: Timestamp,
        reason: &str,
        detail: impl Into<String>,
    ) -> Result<(), IllegalStep> {
        let from = self.phase();
        if next(from, step) != Some(state.phase()) {
            return Err(IllegalStep { id: self.id, from, step });
        }
        // Retried by hand it is another life, also when it is held at first: no two ends are of one epoch.
        if step == Step::Dispatch || from.is_settled() {
            self.epoch = Epoch(self.epoch.0.saturating_add(1));
        }
        self.state = state;
        self.note(Some(step), now, reason, detail);
        Ok(())
    }

    /// Takes a step that the decision knows to be legal, because it matched on the state it starts from.
    ///
    /// # Panics
    ///
    /// The table has no such step: a defect of the decision, not of the job.
    pub(crate) fn take(&mut self, step: Step, state: State, now: Timestamp, reason: &str, detail: impl Into<String>) {
        if let Err(illegal) = self.step(step, state, now, reason, detail) {
            unreachable!("a decision took an illegal step: {illegal}");
        }
    }

    /// Adds a line to the timeline without changing the state. Over [`TIMELINE_ENTRIES`] the oldest but the first
    /// goes.
    pub fn note(&mut self, step: Option<Step>, now: Timestamp, reason: &str, detail: impl Into<String>) {
        self.timeline.push(Entry {
            at: now,
            step,
            phase: self.phase(),
            epoch: self.epoch,
            reason: reason.to_owned(),
            detail: detail.into(),
        });
        if self.timeline.len() > TIMELINE_ENTRIES {
            self.timeline.remove(1);
        }
    }

    /// Marks the record as the next write: `revision` rises and `nonce` is the writer's.
    pub fn stamped(mut self, nonce: Nonce) -> Self {
        self.revision += 1;
        self.nonce = nonce;
        self
    }
}
