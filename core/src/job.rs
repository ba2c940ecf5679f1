//! A job: what was asked for, where it stands, and the one table of the steps it may take.
//!
//! Nothing outside this file changes a [`Job`]'s state: every room goes through [`Job::step`], which looks the
//! step up in [`next`] and refuses what the table does not name.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::route::Route;

/// Entries a timeline keeps. A job that retried for weeks must not outgrow its record (DynamoDB writes are paid by
/// the item's size), so the middle is dropped and counted; the first and the newest entries tell the story.
pub const TIMELINE_ENTRIES: usize = 40;

/// Names one job for ever: derived from (caller, idempotency key) where there is a key, else ordered by time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(Uuid);

impl JobId {
    /// The id of the job that `caller` submits under `key`. The same pair always gives the same id, so acceptance is
    /// one conditional put and a repeat meets the first job.
    pub fn keyed(caller: &str, key: &str) -> Self {
        let mut hash = Sha256::new();
        // The length in front keeps ("ab", "c") and ("a", "bc") apart.
        hash.update((caller.len() as u64).to_be_bytes());
        hash.update(caller.as_bytes());
        hash.update(key.as_bytes());
        let digest: [u8; 32] = hash.finalize().into();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        // RFC 9562, section 5.8: version 8 is for ids of a scheme of one's own.
        Self(Uuid::new_v8(bytes))
    }

    /// A new id, ordered by time (RFC 9562 version 7), for a job without a key.
    pub fn ordered(now: Timestamp, random: [u8; 10]) -> Self {
        let millis = u64::try_from(now.as_millisecond()).unwrap_or(0);
        Self(uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid())
    }

    /// The id's 16 bytes, as a database stores them.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// The id whose bytes these are.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JobId({self})")
    }
}

/// A text that is no job id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a job id: expected a UUID such as 01890a5d-ac96-774b-bcce-b302099a8057")]
pub struct NotAJobId(String);

impl FromStr for JobId {
    type Err = NotAJobId;

    fn from_str(text: &str) -> Result<Self, NotAJobId> {
        Uuid::try_parse(text).map(Self).map_err(|_| NotAJobId(one_line(text, 60)))
    }
}

/// Rises by one at every dispatch, whatever the cause: the fencing token of everything said about a run. A job that
/// was never dispatched is at epoch 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u32);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How soon a job must start. Tiers are strict: no lower one starts while a higher one waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Somebody waits for the answer.
    Synchronous,
    /// Soon.
    Priority,
    /// In its turn.
    #[default]
    Standard,
}

impl Tier {
    /// All tiers, highest first.
    pub const ALL: [Self; 3] = [Self::Synchronous, Self::Priority, Self::Standard];

    /// The tier's name in JSON, on the command line and in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Synchronous => "synchronous",
            Self::Priority => "priority",
            Self::Standard => "standard",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Where a job can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Venue {
    /// In the function that took it; on one machine, in the yard's own process.
    Inline,
    /// In `job_runner`, a function of its own; on one machine, a process of its own with the same budget.
    Function,
    /// An on-demand task; on one machine, a process.
    Fargate,
    /// A worker's slot, by way of a tier.
    Fleet,
}

impl Venue {
    /// All venues, by rank: the first of two equal ones is taken.
    pub const ALL: [Self; 4] = [Self::Inline, Self::Function, Self::Fargate, Self::Fleet];

    /// The venue's name in JSON, on the command line and in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inline => "inline",
            Self::Function => "function",
            Self::Fargate => "fargate",
            Self::Fleet => "fleet",
        }
    }
}

impl fmt::Display for Venue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Who runs a job: an instance's id and the nonce of its boot, so that a restarted instance is somebody else.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Holder(pub String);

impl Holder {
    /// The holder `instance` of this `boot`.
    pub fn new(instance: &str, boot: Nonce) -> Self {
        Self(format!("{instance}/{boot}"))
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Marks one conditional write. A writer that was refused and finds its own nonce in the record knows that its write
/// took effect and only the answer was lost.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Nonce(pub u64);

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Nonce({self})")
    }
}

/// The secret a claim makes: whoever beats, logs or settles must show it. Never stored, never printed.
///
/// The claimer draws it and sends its hash with the claim; a claim whose answer was lost is repeated with the same
/// token, and the holder still knows it.
#[derive(Clone, PartialEq, Eq)]
pub struct ClaimToken([u8; 32]);

impl ClaimToken {
    /// A token from 32 random bytes.
    pub fn new(random: [u8; 32]) -> Self {
        Self(random)
    }

    /// The secret itself, for the holder's own connection to its desk and nothing else.
    pub(crate) fn reveal(&self) -> &[u8; 32] {
        &self.0
    }

    /// What the record keeps of it.
    pub fn hash(&self) -> TokenHash {
        TokenHash(Sha256::digest(self.0).into())
    }
}

impl fmt::Debug for ClaimToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClaimToken(..)")
    }
}

/// SHA-256 of a [`ClaimToken`].
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash(pub [u8; 32]);

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenHash({:02x}{:02x}..)", self.0[0], self.0[1])
    }
}

/// What was asked for. Fixed at acceptance, but for the pool, which a new dispatch may change, and the start deadline,
/// which is over once it has started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    /// The capability that runs.
    pub capability: String,
    /// How soon it must start.
    pub tier: Tier,
    /// The pool whose workers may take it.
    pub pool: String,
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
    pub needs: crate::route::Needs,
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
    /// The venue chosen at the newest dispatch, with the verdict on each.
    pub route: Route,
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
    /// It waits for a holder, at the venue of its route.
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

/// `text` as one line that is safe in a log and on a terminal: control characters become spaces, and what is over
/// `most` bytes is cut at a character and marked with `…`.
pub fn one_line(text: &str, most: usize) -> String {
    // Bidirectional controls reorder what a reader sees (CVE-2021-42574); they go with the control characters.
    let unsafe_on_screen = |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut line = String::with_capacity(text.len().min(most));
    for c in text.trim().chars() {
        if line.len() + c.len_utf8() > most {
            line.push('…');
            break;
        }
        line.push(if unsafe_on_screen(c) { ' ' } else { c });
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

/// A state without what it knows: the rows of the transition table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// See [`State::Delayed`].
    Delayed,
    /// See [`State::Dispatched`].
    Dispatched,
    /// See [`State::Running`].
    Running,
    /// See [`Ending::Succeeded`].
    Succeeded,
    /// See [`Ending::Failed`].
    Failed,
    /// See [`Ending::TimedOut`].
    TimedOut,
    /// See [`Ending::Cancelled`].
    Cancelled,
    /// See [`Ending::Expired`].
    Expired,
}

impl Phase {
    /// Every phase, in the order a job meets them.
    pub const ALL: [Self; 8] = [
        Self::Delayed,
        Self::Dispatched,
        Self::Running,
        Self::Succeeded,
        Self::Failed,
        Self::TimedOut,
        Self::Cancelled,
        Self::Expired,
    ];

    /// The phase's name in JSON, on the command line and in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delayed => "delayed",
            Self::Dispatched => "dispatched",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }

    /// Whether a job in this phase has ended.
    pub fn is_settled(self) -> bool {
        match self {
            Self::Delayed | Self::Dispatched | Self::Running => false,
            Self::Succeeded | Self::Failed | Self::TimedOut | Self::Cancelled | Self::Expired => true,
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A text that names no phase.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a state: expected delayed, dispatched, running, succeeded, failed, timed_out, cancelled or expired"
)]
pub struct NotAPhase(String);

impl FromStr for Phase {
    type Err = NotAPhase;

    fn from_str(text: &str) -> Result<Self, NotAPhase> {
        Self::ALL.into_iter().find(|phase| phase.as_str() == text).ok_or_else(|| NotAPhase(one_line(text, 60)))
    }
}

impl From<Ending> for Phase {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::Succeeded => Self::Succeeded,
            Ending::Failed => Self::Failed,
            Ending::TimedOut => Self::TimedOut,
            Ending::Cancelled => Self::Cancelled,
            Ending::Expired => Self::Expired,
        }
    }
}

/// What can happen to a job: the columns of the transition table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// It is routed and sent to a venue; the epoch rises.
    Dispatch,
    /// It is put off.
    Delay,
    /// A holder takes it.
    Claim,
    /// Its run did what it was asked.
    Succeed,
    /// It failed for good.
    Fail,
    /// Its run took too long.
    TimeOut,
    /// Somebody cancelled it.
    Cancel,
    /// It did not start in time.
    Expire,
}

impl Step {
    /// Every step.
    pub const ALL: [Self; 8] = [
        Self::Dispatch,
        Self::Delay,
        Self::Claim,
        Self::Succeed,
        Self::Fail,
        Self::TimeOut,
        Self::Cancel,
        Self::Expire,
    ];

    /// The step's name in JSON and documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dispatch => "dispatch",
            Self::Delay => "delay",
            Self::Claim => "claim",
            Self::Succeed => "succeed",
            Self::Fail => "fail",
            Self::TimeOut => "time_out",
            Self::Cancel => "cancel",
            Self::Expire => "expire",
        }
    }
}

/// THE transition table: the phase after `step` from `phase`, or `None` where the step is illegal.
pub const fn next(phase: Phase, step: Step) -> Option<Phase> {
    use Phase as P;
    use Step as S;
    match (phase, step) {
        // Due, retried at once, handed on to another venue, given back, or retried by hand.
        (P::Delayed | P::Dispatched | P::Running, S::Dispatch) => Some(P::Dispatched),
        (P::Failed | P::TimedOut | P::Cancelled | P::Expired, S::Dispatch) => Some(P::Dispatched),
        // A success is final: doing it again is a new job.
        (P::Succeeded, S::Dispatch) => None,
        // A launch that failed, a run that failed or was lost.
        (P::Dispatched | P::Running, S::Delay) => Some(P::Delayed),
        (P::Dispatched, S::Claim) => Some(P::Running),
        (P::Running, S::Succeed) => Some(P::Succeeded),
        // From dispatched: it could not be launched. From delayed: nothing can run it any more.
        (P::Delayed | P::Dispatched | P::Running, S::Fail) => Some(P::Failed),
        (P::Running, S::TimeOut) => Some(P::TimedOut),
        (P::Delayed | P::Dispatched | P::Running, S::Cancel) => Some(P::Cancelled),
        (P::Delayed | P::Dispatched, S::Expire) => Some(P::Expired),
        // A running job has started: it cannot expire. One that waits for nobody cannot end by itself.
        (P::Running, S::Claim | S::Expire) => None,
        (P::Dispatched, S::Succeed | S::TimeOut) => None,
        (P::Delayed, S::Delay | S::Claim | S::Succeed | S::TimeOut) => None,
        (
            P::Succeeded | P::Failed | P::TimedOut | P::Cancelled | P::Expired,
            S::Delay | S::Claim | S::Succeed | S::Fail | S::TimeOut | S::Cancel | S::Expire,
        ) => None,
    }
}

/// The table as text, one row a phase: shown in ARCHITECTURE.md and held to it by a test.
pub fn transition_table() -> String {
    let mut table = format!("{:<11}", "from \\ step");
    for step in Step::ALL {
        table.push_str(&format!(" {:<10}", step.as_str()));
    }
    for phase in Phase::ALL {
        let mut row = format!("{:<11}", phase.as_str());
        for step in Step::ALL {
            row.push_str(&format!(" {:<10}", next(phase, step).map_or("-", Phase::as_str)));
        }
        table.push('\n');
        table.push_str(row.trim_end());
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// A step that the table does not name, or one that led to another state than the table says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("job {id}: a {} job cannot {}", .from.as_str(), .step.as_str())]
pub struct IllegalStep {
    /// The job.
    pub id: JobId,
    /// Where it stood.
    pub from: Phase,
    /// What was tried.
    pub step: Step,
}

impl State {
    /// The state without what it knows.
    pub fn phase(&self) -> Phase {
        match self {
            Self::Delayed { .. } => Phase::Delayed,
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
        if step == Step::Dispatch {
            self.epoch = Epoch(self.epoch.0.saturating_add(1));
        }
        self.state = state;
        self.note(Some(step), now, reason, detail);
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transition_table_is_the_one_in_architecture_md() {
        let table = transition_table();
        insta::assert_snapshot!(table);
        let document = include_str!("../../ARCHITECTURE.md");
        assert!(document.contains(&table), "ARCHITECTURE.md must show this table:\n{table}");
    }

    #[test]
    fn every_settled_phase_but_success_can_be_retried_and_does_nothing_else() {
        for phase in Phase::ALL.into_iter().filter(|phase| phase.is_settled()) {
            let legal: Vec<Step> = Step::ALL.into_iter().filter(|step| next(phase, *step).is_some()).collect();
            let expected = if phase == Phase::Succeeded { vec![] } else { vec![Step::Dispatch] };
            assert_eq!(legal, expected, "{phase}");
        }
    }

    #[test]
    fn a_keyed_id_depends_on_caller_and_key_apart() {
        assert_eq!(JobId::keyed("a", "k"), JobId::keyed("a", "k"));
        assert_ne!(JobId::keyed("ab", "c"), JobId::keyed("a", "bc"));
        assert_ne!(JobId::keyed("a", "k"), JobId::keyed("b", "k"));
    }

    #[test]
    fn a_token_never_shows_itself() {
        let token = ClaimToken::new([7; 32]);
        assert_eq!(format!("{token:?}"), "ClaimToken(..)");
        assert_ne!(token.hash(), ClaimToken::new([8; 32]).hash());
    }

    #[test]
    fn phases_are_read_back_and_a_wrong_one_is_named() {
        for phase in Phase::ALL {
            assert_eq!(phase.as_str().parse(), Ok(phase));
        }
        assert!("done\u{1b}".parse::<Phase>().unwrap_err().to_string().starts_with("`done"));
    }
}
