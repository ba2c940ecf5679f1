//! The versioned JSON of everything that is stored or sent: records, what the API shows, and what a child says to
//! its yard. The domain types know nothing of it, so that renaming a field inside changes nothing outside.
//!
//! A reader ignores fields it does not know and refuses versions it does not know.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::Digest;

use crate::job::{
    ClaimToken, Ending, Entry, Epoch, Failure, Holder, Job, JobId, Nonce, Owed, Phase, ResultRef, Run, Settlement,
    State, Step, Stop, StopCause, Tier, TokenHash, Watch, Work,
};
use crate::ports::{
    Beat, BlobRef, Body, Claim, Claimed, LogLine, Message, Order, Outcome, Refusal, Report, Reported, Voucher,
};
use crate::route::Venue;
use crate::route::{Needs, Packaging, Route, Rule, Verdict};

/// The version of the stored record.
pub const RECORD_VERSION: u32 = 1;

/// A stored or sent text that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {what}")]
pub struct WireError {
    /// What it should have been.
    pub what: &'static str,
    /// Why it is not.
    #[source]
    pub cause: WireCause,
}

/// Why a text cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum WireCause {
    /// It is not the JSON it should be.
    #[error("not the JSON it should be: {0}")]
    Json(#[from] serde_json::Error),
    /// A newer program wrote it.
    #[error("it is version {found}; this program reads up to version {known}")]
    Version {
        /// The version found.
        found: u32,
        /// The newest version this program reads.
        known: u32,
    },
    /// A value is not what its field holds.
    #[error("field `{0}` holds no such value")]
    Field(&'static str),
}

fn bad(what: &'static str, cause: impl Into<WireCause>) -> WireError {
    WireError { what, cause: cause.into() }
}

/// Milliseconds since 1970: half the size of a text, and what an index sorts by.
type Ms = i64;

fn ms(at: Timestamp) -> Ms {
    at.as_millisecond()
}

/// A time as the API shows it: RFC 3339, always to the millisecond, so that columns of it line up.
fn shown(at: Timestamp) -> String {
    format!("{at:.3}")
}

fn from_ms(ms: Ms) -> Result<Timestamp, WireCause> {
    Timestamp::from_millisecond(ms).map_err(|_| WireCause::Field("a time"))
}

fn from_ms_opt(ms: Option<Ms>) -> Result<Option<Timestamp>, WireCause> {
    ms.map(from_ms).transpose()
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

fn from_hex(text: &str, field: &'static str) -> Result<[u8; 32], WireCause> {
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut bytes = [0; 32];
    if text.len() != 64 {
        return Err(WireCause::Field(field));
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = match pair {
            [high, low] => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => high << 4 | low,
                (None, _) | (_, None) => return Err(WireCause::Field(field)),
            },
            _ => return Err(WireCause::Field(field)),
        };
    }
    Ok(bytes)
}

#[derive(Serialize, Deserialize)]
struct Record {
    v: u32,
    id: JobId,
    capability: String,
    tier: Tier,
    pool: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    labels: Vec<(String, String)>,
    caller: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    body_sha256: String,
    run_timeout_s: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    start_deadline: Option<Ms>,
    attempts: u32,
    backoff_s: u64,
    #[serde(default, skip_serializing_if = "is_false")]
    announce: bool,
    needs: NeedsWire,
    state: StateWire,
    epoch: Epoch,
    attempts_spent: u32,
    attempts_allowed: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    interruptions: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    losses: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    launch_failures: u32,
    venue: Venue,
    verdicts: [Option<Rule>; 4],
    timeline: Vec<EntryWire>,
    created: Ms,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    due: Option<Ms>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    owed: Vec<OwedWire>,
    revision: u64,
    nonce: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_false(flag: &bool) -> bool {
    !flag
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[derive(Serialize, Deserialize)]
struct NeedsWire {
    packaging: Packaging,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expected_s: Option<u64>,
    memory_mib: u32,
    #[serde(default, skip_serializing_if = "is_false")]
    isolate: bool,
    interruptible: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    only: Vec<Venue>,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
enum StateWire {
    Delayed {
        until: Ms,
    },
    Dispatched {
        at: Ms,
        #[serde(default, skip_serializing_if = "is_zero")]
        looks: u32,
    },
    Running {
        holder: Holder,
        token: String,
        at: Ms,
        deadline: Ms,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stop: Option<(StopCause, Ms)>,
        #[serde(default)]
        watch: (u64, u32),
    },
    Settled {
        ending: Ending,
        at: Ms,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        result: Option<(Epoch, u64)>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<FailureWire>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        token: Option<String>,
    },
}

/// A failure, as stored and shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureWire {
    /// A stable code.
    pub code: String,
    /// A sentence.
    pub message: String,
    /// The exit code, when a process ended with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<i32>,
}

impl From<&Failure> for FailureWire {
    fn from(failure: &Failure) -> Self {
        Self { code: failure.code.clone(), message: failure.message.clone(), exit: failure.exit }
    }
}

impl From<FailureWire> for Failure {
    fn from(wire: FailureWire) -> Self {
        let failure = Self::new(&crate::job::one_line(&wire.code, 64), wire.message);
        Self { exit: wire.exit, ..failure }
    }
}

#[derive(Serialize, Deserialize)]
struct EntryWire {
    at: Ms,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    step: Option<Step>,
    phase: Phase,
    epoch: Epoch,
    reason: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    detail: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OwedWire {
    Announce(Epoch),
    StopTask(Venue, Epoch),
}

/// A job's record as it is stored.
pub fn encode(job: &Job) -> String {
    let Work { capability, tier, pool, labels, caller, key, body_sha256, .. } = job.work.clone();
    let needs = &job.work.needs;
    let record = Record {
        v: RECORD_VERSION,
        id: job.id,
        capability,
        tier,
        pool,
        labels,
        caller,
        key,
        body_sha256: hex(&body_sha256),
        run_timeout_s: job.work.run_timeout.as_secs(),
        start_deadline: job.work.start_deadline.map(ms),
        attempts: job.work.attempts,
        backoff_s: job.work.backoff.as_secs(),
        announce: job.work.announce,
        needs: NeedsWire {
            packaging: needs.packaging,
            expected_s: needs.expected.map(|expected| expected.as_secs()),
            memory_mib: needs.memory_mib,
            isolate: needs.isolate,
            interruptible: needs.interruptible,
            only: needs.only.clone(),
        },
        state: state_wire(&job.state),
        epoch: job.epoch,
        attempts_spent: job.attempts_spent,
        attempts_allowed: job.attempts_allowed,
        interruptions: job.interruptions,
        losses: job.losses,
        launch_failures: job.launch_failures,
        venue: job.route.venue,
        verdicts: job.route.verdicts.map(|verdict| verdict.rejected),
        timeline: job.timeline.iter().map(entry_wire).collect(),
        created: ms(job.created),
        due: job.due.map(ms),
        owed: job
            .owed
            .iter()
            .map(|owed| match owed {
                Owed::Announce(epoch) => OwedWire::Announce(*epoch),
                Owed::StopTask { venue, epoch } => OwedWire::StopTask(*venue, *epoch),
            })
            .collect(),
        revision: job.revision,
        nonce: job.nonce.to_string(),
    };
    serde_json::to_string(&record).unwrap_or_else(|error| {
        // Strings, numbers and arrays only: there is no key or number that JSON cannot hold.
        unreachable!("a record is always JSON: {error}")
    })
}

fn state_wire(state: &State) -> StateWire {
    match state {
        State::Delayed { until } => StateWire::Delayed { until: ms(*until) },
        State::Dispatched { at, looks } => StateWire::Dispatched { at: ms(*at), looks: *looks },
        State::Running(run) => StateWire::Running {
            holder: run.holder.clone(),
            token: hex(&run.token.0),
            at: ms(run.at),
            deadline: ms(run.deadline),
            stop: run.stop.as_ref().map(|stop| (stop.cause, ms(stop.at))),
            watch: (run.watch.counter, run.watch.misses),
        },
        State::Settled(settlement) => StateWire::Settled {
            ending: settlement.ending,
            at: ms(settlement.at),
            result: settlement.result.map(|result| (result.epoch, result.bytes)),
            error: settlement.error.as_ref().map(FailureWire::from),
            token: settlement.token.map(|token| hex(&token.0)),
        },
    }
}

fn entry_wire(entry: &Entry) -> EntryWire {
    let Entry { at, step, phase, epoch, reason, detail } = entry.clone();
    EntryWire { at: ms(at), step, phase, epoch, reason, detail }
}

/// The job whose record this is.
///
/// # Errors
///
/// [`WireError`]: it is no record, or one of a newer version.
pub fn decode(text: &str) -> Result<Job, WireError> {
    #[derive(Deserialize)]
    struct Version {
        v: u32,
    }
    let what = "a job's record";
    let record: Record = serde_json::from_str(text).map_err(|error| {
        // A newer record may fail on a field long before its version is compared: say what matters.
        match serde_json::from_str::<Version>(text) {
            Ok(Version { v }) if v > RECORD_VERSION => {
                bad(what, WireCause::Version { found: v, known: RECORD_VERSION })
            }
            Ok(_) | Err(_) => bad(what, error),
        }
    })?;
    if record.v != RECORD_VERSION {
        return Err(bad(what, WireCause::Version { found: record.v, known: RECORD_VERSION }));
    }
    job_of(record).map_err(|cause| bad(what, cause))
}

fn job_of(record: Record) -> Result<Job, WireCause> {
    let [inline, function, fargate, fleet] = record.verdicts;
    let [first, second, third, fourth] = Venue::ALL;
    let verdict = |venue, rejected| Verdict { venue, rejected };
    let verdicts = [verdict(first, inline), verdict(second, function), verdict(third, fargate), verdict(fourth, fleet)];
    let state = match record.state {
        StateWire::Delayed { until } => State::Delayed { until: from_ms(until)? },
        StateWire::Dispatched { at, looks } => State::Dispatched { at: from_ms(at)?, looks },
        StateWire::Running { holder, token, at, deadline, stop, watch: (counter, misses) } => State::Running(Run {
            holder,
            token: TokenHash(from_hex(&token, "token")?),
            at: from_ms(at)?,
            deadline: from_ms(deadline)?,
            stop: stop.map(|(cause, at)| from_ms(at).map(|at| Stop { cause, at })).transpose()?,
            watch: Watch { counter, misses },
        }),
        StateWire::Settled { ending, at, result, error, token } => State::Settled(Settlement {
            ending,
            at: from_ms(at)?,
            result: result.map(|(epoch, bytes)| ResultRef { epoch, bytes }),
            error: error.map(Failure::from),
            token: token.map(|token| from_hex(&token, "token").map(TokenHash)).transpose()?,
        }),
    };
    let timeline = record.timeline.into_iter().map(|entry| {
        let EntryWire { at, step, phase, epoch, reason, detail } = entry;
        Ok(Entry { at: from_ms(at)?, step, phase, epoch, reason, detail })
    });
    Ok(Job {
        id: record.id,
        work: Work {
            capability: record.capability,
            tier: record.tier,
            pool: record.pool,
            labels: record.labels,
            caller: record.caller,
            key: record.key,
            body_sha256: from_hex(&record.body_sha256, "body_sha256")?,
            run_timeout: Duration::from_secs(record.run_timeout_s),
            start_deadline: from_ms_opt(record.start_deadline)?,
            attempts: record.attempts,
            backoff: Duration::from_secs(record.backoff_s),
            announce: record.announce,
            needs: Needs {
                packaging: record.needs.packaging,
                expected: record.needs.expected_s.map(Duration::from_secs),
                memory_mib: record.needs.memory_mib,
                isolate: record.needs.isolate,
                interruptible: record.needs.interruptible,
                only: record.needs.only,
            },
        },
        state,
        epoch: record.epoch,
        attempts_spent: record.attempts_spent,
        attempts_allowed: record.attempts_allowed,
        interruptions: record.interruptions,
        losses: record.losses,
        launch_failures: record.launch_failures,
        route: Route { venue: record.venue, verdicts },
        timeline: timeline.collect::<Result<_, WireCause>>()?,
        created: from_ms(record.created)?,
        due: from_ms_opt(record.due)?,
        owed: record
            .owed
            .into_iter()
            .map(|owed| match owed {
                OwedWire::Announce(epoch) => Owed::Announce(epoch),
                OwedWire::StopTask(venue, epoch) => Owed::StopTask { venue, epoch },
            })
            .collect(),
        revision: record.revision,
        nonce: Nonce(u64::from_str_radix(&record.nonce, 16).map_err(|_| WireCause::Field("nonce"))?),
    })
}

/// A payload or result as stored beside a record.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum BodyWire {
    Inline(String),
    Blob(BlobRef),
}

/// A payload or result as stored beside a record: the JSON itself, or a line that says where it lies.
pub fn encode_body(body: &Body) -> String {
    let wire = match body {
        Body::Inline(text) => BodyWire::Inline(text.clone()),
        Body::Blob(blob) => BodyWire::Blob(blob.clone()),
    };
    serde_json::to_string(&wire).unwrap_or_else(|error| unreachable!("a body is always JSON: {error}"))
}

/// The payload or result that [`encode_body`] made.
///
/// # Errors
///
/// [`WireError`]: it is none.
pub fn decode_body(text: &str) -> Result<Body, WireError> {
    match serde_json::from_str(text).map_err(|error| bad("a stored payload or result", error))? {
        BodyWire::Inline(text) => Ok(Body::Inline(text)),
        BodyWire::Blob(blob) => Ok(Body::Blob(blob)),
    }
}

/// A job as the API shows it. Times are RFC 3339; fields that do not apply are left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobView {
    /// Its id.
    pub id: JobId,
    /// What runs.
    pub capability: String,
    /// Where it stands.
    pub state: Phase,
    /// How soon it must start.
    pub tier: Tier,
    /// Where it runs or ran.
    pub venue: Venue,
    /// The number of its newest dispatch.
    pub epoch: Epoch,
    /// How often it failed.
    pub attempts_spent: u32,
    /// How often it may fail.
    pub attempts_allowed: u32,
    /// How often a holder gave it back.
    pub interruptions: u32,
    /// How often its holder was lost.
    pub losses: u32,
    /// What to find it by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Who submitted it.
    pub caller: String,
    /// When it was accepted.
    pub created_at: String,
    /// When its present run started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled_at: Option<String>,
    /// What it waits for, in a sentence; while it has not ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<String>,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<FailureWire>,
    /// The size of its result in bytes; the result itself is at /v1/jobs/{id}/result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result_bytes: Option<u64>,
    /// The verdict on each venue at the newest dispatch.
    pub verdicts: BTreeMap<String, String>,
}

impl From<&Job> for JobView {
    fn from(job: &Job) -> Self {
        let settlement = match &job.state {
            State::Settled(settlement) => Some(settlement),
            State::Delayed { .. } | State::Dispatched { .. } | State::Running(_) => None,
        };
        Self {
            id: job.id,
            capability: job.work.capability.clone(),
            state: job.phase(),
            tier: job.work.tier,
            venue: job.route.venue,
            epoch: job.epoch,
            attempts_spent: job.attempts_spent,
            attempts_allowed: job.attempts_allowed,
            interruptions: job.interruptions,
            losses: job.losses,
            labels: job.work.labels.iter().cloned().collect(),
            caller: job.work.caller.clone(),
            created_at: shown(job.created),
            started_at: match &job.state {
                State::Running(run) => Some(shown(run.at)),
                State::Delayed { .. } | State::Dispatched { .. } | State::Settled(_) => None,
            },
            settled_at: settlement.map(|settlement| shown(settlement.at)),
            waits: waits(job),
            error: settlement.and_then(|settlement| settlement.error.as_ref()).map(FailureWire::from),
            result_bytes: settlement.and_then(|settlement| settlement.result).map(|result| result.bytes),
            verdicts: job
                .route
                .verdicts
                .iter()
                .map(|verdict| {
                    let found = match verdict.rejected {
                        None if verdict.venue == job.route.venue => "chosen",
                        None => "feasible",
                        Some(rule) => rule.as_text(),
                    };
                    (verdict.venue.to_string(), found.to_owned())
                })
                .collect(),
        }
    }
}

/// Why a job that has not ended is where it is, in a sentence.
fn waits(job: &Job) -> Option<String> {
    match &job.state {
        State::Delayed { until } => Some(match job.timeline.last().map(|entry| entry.reason.as_str()) {
            Some("attempt_failed") => format!("next attempt at {}", shown(*until)),
            Some("launch_failed") => format!("next launch at {}", shown(*until)),
            Some(_) | None => format!("starts at {}", shown(*until)),
        }),
        State::Dispatched { at, .. } => Some(match job.route.venue {
            Venue::Fleet => format!("waiting for a slot in the {} tier since {}", job.work.tier, shown(*at)),
            venue @ (Venue::Inline | Venue::Function | Venue::Fargate) => {
                format!("starting on {venue} since {}", shown(*at))
            }
        }),
        State::Running(run) => Some(match &run.stop {
            Some(stop) => format!("asked to end at {}; forced a minute later", shown(stop.at)),
            None => format!("running on {} until {} at the latest", run.holder, shown(run.deadline)),
        }),
        State::Settled(_) => None,
    }
}

/// One line of a job's history as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryView {
    /// When, RFC 3339.
    pub at: String,
    /// The state after it.
    pub state: Phase,
    /// The epoch after it.
    pub epoch: Epoch,
    /// Why, as a code.
    pub reason: String,
    /// What else there is to know.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

impl From<&Entry> for EntryView {
    fn from(entry: &Entry) -> Self {
        Self {
            at: shown(entry.at),
            state: entry.phase,
            epoch: entry.epoch,
            reason: entry.reason.clone(),
            detail: entry.detail.clone(),
        }
    }
}

impl LogView {
    /// The view of a line that the run at `epoch` printed.
    pub fn of(epoch: Epoch, line: &LogLine) -> Self {
        Self { at: shown(line.at), epoch, stream: line.stream, text: line.text.clone() }
    }
}

/// One line that a run printed, as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogView {
    /// When it was read, RFC 3339.
    pub at: String,
    /// The epoch of the run that printed it.
    pub epoch: Epoch,
    /// Standard output, standard error, or the yard.
    pub stream: crate::ports::Stream,
    /// The line.
    pub text: String,
}

/// A line of a log as stored: the same fields, with the time in milliseconds.
#[derive(Serialize, Deserialize)]
struct LineWire {
    at: Ms,
    s: crate::ports::Stream,
    t: String,
}

/// One line of a log as stored.
pub fn encode_line(line: &LogLine) -> String {
    let wire = LineWire { at: ms(line.at), s: line.stream, t: line.text.clone() };
    serde_json::to_string(&wire).unwrap_or_else(|error| unreachable!("a line is always JSON: {error}"))
}

/// The line that [`encode_line`] made.
///
/// # Errors
///
/// [`WireError`]: it is none.
pub fn decode_line(text: &str) -> Result<LogLine, WireError> {
    let what = "a log line";
    let LineWire { at, s, t } = serde_json::from_str(text).map_err(|error| bad(what, error))?;
    Ok(LogLine { at: from_ms(at).map_err(|cause| bad(what, cause))?, stream: s, text: t })
}

/// A settlement as it is announced, in the envelope of an EventBridge event.
pub fn completion_event(job: &Job) -> String {
    let view = JobView::from(job);
    // Derived from what it announces: an announcement made twice can be told by its id.
    let id = hex(&sha2::Sha256::digest(format!("{}:{}", job.id, job.epoch))[..16]);
    serde_json::json!({
        "version": "0",
        "id": id,
        "detail-type": "Switchyard Job Settled",
        "source": "switchyard",
        "time": view.settled_at,
        "resources": [job.id],
        "detail": view,
    })
    .to_string()
}

/// What a child says to its yard, one JSON text a line.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum CallWire {
    Claim { id: JobId, epoch: Epoch, holder: Holder, token: String, at_most_s: Option<u64> },
    Beat { holder: Holder, counter: u64, running: Vec<(JobId, Epoch)>, patience_ms: u64 },
    Log { id: JobId, epoch: Epoch, token: String, lines: Vec<LineWire> },
    Settle { id: JobId, epoch: Epoch, token: String, outcome: OutcomeWire },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OutcomeWire {
    Succeeded(Option<String>),
    Failed(FailureWire, bool),
    TimedOut,
    Stopped(StopCause),
    Interrupted(String),
}

/// A call at a desk that is reached by wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeskCall {
    /// See [`crate::ports::Desk::claim`].
    Claim(Claim),
    /// See [`crate::ports::Desk::beat`].
    Beat(Beat, Duration),
    /// See [`crate::ports::Desk::log`].
    Log(Voucher, Vec<LogLine>),
    /// See [`crate::ports::Desk::settle`].
    Settle(Report),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum AnswerWire {
    Won { record: String, payload: String },
    Lost(Refusal),
    Orders(Vec<(JobId, Epoch, StopCause)>),
    Logged,
    Reported(Reported),
    Failed { message: String, retryable: bool },
}

/// The answer to a [`DeskCall`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeskAnswer {
    /// To a claim.
    Claimed(Claimed),
    /// To a beat.
    Orders(Vec<Order>),
    /// To log lines.
    Logged,
    /// To a report.
    Reported(Reported),
    /// The yard could not do it.
    Failed {
        /// What went wrong, the whole chain in one line.
        message: String,
        /// Whether the same call may work later.
        retryable: bool,
    },
}

/// A call as it is sent.
pub fn encode_call(call: &DeskCall) -> String {
    let wire = match call {
        DeskCall::Claim(claim) => CallWire::Claim {
            id: claim.id,
            epoch: claim.epoch,
            holder: claim.holder.clone(),
            token: hex(&claim.token.0),
            at_most_s: claim.at_most.map(|most| most.as_secs()),
        },
        DeskCall::Beat(beat, patience) => CallWire::Beat {
            holder: beat.holder.clone(),
            counter: beat.counter,
            running: beat.running.iter().map(|run| (run.id, run.epoch)).collect(),
            patience_ms: u64::try_from(patience.as_millis()).unwrap_or(u64::MAX),
        },
        DeskCall::Log(voucher, lines) => CallWire::Log {
            id: voucher.id,
            epoch: voucher.epoch,
            token: hex(voucher.token.reveal()),
            lines: lines
                .iter()
                .map(|line| LineWire { at: ms(line.at), s: line.stream, t: line.text.clone() })
                .collect(),
        },
        DeskCall::Settle(Report { voucher, outcome }) => CallWire::Settle {
            id: voucher.id,
            epoch: voucher.epoch,
            token: hex(voucher.token.reveal()),
            outcome: match outcome {
                Outcome::Succeeded(result) => OutcomeWire::Succeeded(result.clone()),
                Outcome::Failed { failure, permanent } => OutcomeWire::Failed(failure.into(), *permanent),
                Outcome::TimedOut => OutcomeWire::TimedOut,
                Outcome::Stopped(cause) => OutcomeWire::Stopped(*cause),
                Outcome::Interrupted(why) => OutcomeWire::Interrupted(why.clone()),
            },
        },
    };
    serde_json::to_string(&wire).unwrap_or_else(|error| unreachable!("a call is always JSON: {error}"))
}

/// The call that [`encode_call`] made.
///
/// # Errors
///
/// [`WireError`]: it is none.
pub fn decode_call(text: &str) -> Result<DeskCall, WireError> {
    let what = "a call at the desk";
    let wire: CallWire = serde_json::from_str(text).map_err(|error| bad(what, error))?;
    let voucher = |id, epoch, token: &str| {
        let token = ClaimToken::new(from_hex(token, "token").map_err(|cause| bad(what, cause))?);
        Ok::<_, WireError>(Voucher { id, epoch, token })
    };
    Ok(match wire {
        CallWire::Claim { id, epoch, holder, token, at_most_s } => DeskCall::Claim(Claim {
            id,
            epoch,
            holder,
            token: TokenHash(from_hex(&token, "token").map_err(|cause| bad(what, cause))?),
            at_most: at_most_s.map(Duration::from_secs),
        }),
        CallWire::Beat { holder, counter, running, patience_ms } => {
            let running = running.into_iter().map(|(id, epoch)| Message { id, epoch }).collect();
            DeskCall::Beat(Beat { holder, counter, running }, Duration::from_millis(patience_ms))
        }
        CallWire::Log { id, epoch, token, lines } => {
            let lines = lines.into_iter().map(|LineWire { at, s, t }| {
                Ok(LogLine { at: from_ms(at).map_err(|cause| bad(what, cause))?, stream: s, text: t })
            });
            DeskCall::Log(voucher(id, epoch, &token)?, lines.collect::<Result<_, WireError>>()?)
        }
        CallWire::Settle { id, epoch, token, outcome } => DeskCall::Settle(Report {
            voucher: voucher(id, epoch, &token)?,
            outcome: match outcome {
                OutcomeWire::Succeeded(result) => Outcome::Succeeded(result),
                OutcomeWire::Failed(failure, permanent) => Outcome::Failed { failure: failure.into(), permanent },
                OutcomeWire::TimedOut => Outcome::TimedOut,
                OutcomeWire::Stopped(cause) => Outcome::Stopped(cause),
                OutcomeWire::Interrupted(why) => Outcome::Interrupted(why),
            },
        }),
    })
}

/// An answer as it is sent.
pub fn encode_answer(answer: &DeskAnswer) -> String {
    let wire = match answer {
        DeskAnswer::Claimed(Claimed::Won(job, payload)) => {
            AnswerWire::Won { record: encode(job), payload: encode_body(payload) }
        }
        DeskAnswer::Claimed(Claimed::Lost(refusal)) => AnswerWire::Lost(*refusal),
        DeskAnswer::Orders(orders) => {
            AnswerWire::Orders(orders.iter().map(|order| (order.run.id, order.run.epoch, order.cause)).collect())
        }
        DeskAnswer::Logged => AnswerWire::Logged,
        DeskAnswer::Reported(reported) => AnswerWire::Reported(*reported),
        DeskAnswer::Failed { message, retryable } => {
            AnswerWire::Failed { message: message.clone(), retryable: *retryable }
        }
    };
    serde_json::to_string(&wire).unwrap_or_else(|error| unreachable!("an answer is always JSON: {error}"))
}

/// The answer that [`encode_answer`] made.
///
/// # Errors
///
/// [`WireError`]: it is none.
pub fn decode_answer(text: &str) -> Result<DeskAnswer, WireError> {
    let wire: AnswerWire = serde_json::from_str(text).map_err(|error| bad("an answer of the desk", error))?;
    Ok(match wire {
        AnswerWire::Won { record, payload } => {
            DeskAnswer::Claimed(Claimed::Won(Box::new(decode(&record)?), decode_body(&payload)?))
        }
        AnswerWire::Lost(refusal) => DeskAnswer::Claimed(Claimed::Lost(refusal)),
        AnswerWire::Orders(orders) => DeskAnswer::Orders(
            orders.into_iter().map(|(id, epoch, cause)| Order { run: Message { id, epoch }, cause }).collect(),
        ),
        AnswerWire::Logged => DeskAnswer::Logged,
        AnswerWire::Reported(reported) => DeskAnswer::Reported(reported),
        AnswerWire::Failed { message, retryable } => DeskAnswer::Failed { message, retryable },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch;
    use crate::route::Limits;
    use crate::settle;
    use crate::testing::{a_claim, a_job, a_running_job, at};

    /// One job in every state, with everything optional set at least once.
    fn jobs() -> Vec<Job> {
        let limits = Limits::one_machine(8192);
        let mut running = a_running_job(Venue::Fargate, 1);
        running.work.announce = true;
        running.work.start_deadline = Some(at(500));
        running.work.needs.expected = Some(Duration::from_secs(9));
        running.work.needs.only = vec![Venue::Fargate];
        let stopping = settle::cancel(running.clone(), at(3), "local").unwrap().unwrap().job;
        let outcome = Outcome::Succeeded(Some("{}".into()));
        let told = settle::Told { epoch: running.epoch, token: None, outcome: &outcome };
        let succeeded = settle::report(running.clone(), told, &limits, at(4), 0).unwrap().job;
        let failure = Failure::new("exit_nonzero", "exit 3").with_exit(3);
        let outcome = Outcome::Failed { failure, permanent: true };
        let told = settle::Told { outcome: &outcome, ..told };
        let failed = settle::report(running.clone(), told, &limits, at(4), 0).unwrap().job;
        let lost = settle::lost(running.clone(), &limits, at(5), "no beat").job;
        let delayed = dispatch::delay(a_job(Venue::Fleet), at(90), at(1), "attempt_failed", "x");
        vec![a_job(Venue::Inline), running, stopping, succeeded, failed, lost, delayed.job]
    }

    #[test]
    fn a_record_is_read_back_as_it_was() {
        for job in jobs() {
            assert_eq!(decode(&encode(&job)).unwrap(), job);
        }
    }

    #[test]
    fn a_record_of_a_later_program_of_the_same_version_is_read() {
        let text = encode(&a_job(Venue::Fleet));
        let newer = text.replacen('{', r#"{"hint":{"from":"the future"},"#, 1);
        assert_eq!(decode(&newer).unwrap(), a_job(Venue::Fleet));
    }

    #[test]
    fn a_record_of_a_newer_version_is_refused_and_named() {
        let newer = encode(&a_job(Venue::Fleet)).replacen(r#""v":1"#, r#""v":2"#, 1);
        let error = decode(&newer).unwrap_err();
        assert_eq!(error.cause.to_string(), "it is version 2; this program reads up to version 1");
        let changed = newer.replacen(r#""capability":"#, r#""kind":"#, 1);
        assert!(decode(&changed).unwrap_err().cause.to_string().contains("version 2"));
        assert!(decode("{}").is_err());
    }

    /// The stored form is a contract with every database there is: this text must be readable for ever.
    #[test]
    fn the_stored_record_has_this_form() {
        let texts: Vec<String> = jobs().iter().map(encode).collect();
        insta::assert_snapshot!(texts.join("\n"));
        assert!(texts.iter().all(|text| text.len() < 1400), "a record is about 1 KiB");
    }

    #[test]
    fn the_view_shows_what_a_reader_needs_and_no_token() {
        let views: Vec<_> = jobs().iter().map(JobView::from).collect();
        let text = serde_json::to_string_pretty(&views).unwrap();
        assert!(!text.contains("token"), "a token's hash is nobody's business");
        insta::assert_snapshot!(text);
    }

    #[test]
    fn calls_and_answers_are_read_back_as_they_were() {
        let job = a_running_job(Venue::Fargate, 1);
        let voucher = Voucher { id: job.id, epoch: job.epoch, token: ClaimToken::new([3; 32]) };
        let line = LogLine { at: at(1), stream: crate::ports::Stream::Stderr, text: "oops \u{1}".into() };
        let here = Message { id: job.id, epoch: job.epoch };
        let beat = Beat { holder: Holder("a/b".into()), counter: 4, running: vec![here] };
        let outcomes = [
            Outcome::Succeeded(Some("[1]".into())),
            Outcome::Failed { failure: Failure::new("x", "y").with_exit(4), permanent: true },
            Outcome::TimedOut,
            Outcome::Stopped(StopCause::Drain),
            Outcome::Interrupted("gone".into()),
        ];
        let mut calls = vec![
            DeskCall::Claim(Claim { at_most: Some(Duration::from_secs(9)), ..a_claim(&job, 2) }),
            DeskCall::Beat(beat, Duration::from_millis(1500)),
            DeskCall::Log(voucher.clone(), vec![line]),
        ];
        calls.extend(outcomes.map(|outcome| DeskCall::Settle(Report { voucher: voucher.clone(), outcome })));
        for call in calls {
            let text = encode_call(&call);
            assert!(!text.contains('\n'));
            assert_eq!(decode_call(&text).unwrap(), call);
        }
        let answers = [
            DeskAnswer::Claimed(Claimed::Won(Box::new(job), Body::Inline("{\"a\":\"\n\"}".into()))),
            DeskAnswer::Claimed(Claimed::Lost(Refusal::Newer)),
            DeskAnswer::Orders(vec![Order { run: here, cause: StopCause::Cancel }]),
            DeskAnswer::Logged,
            DeskAnswer::Reported(Reported::Stale),
            DeskAnswer::Failed { message: "disk full".into(), retryable: true },
        ];
        for answer in answers {
            let text = encode_answer(&answer);
            assert!(!text.contains('\n'));
            assert_eq!(decode_answer(&text).unwrap(), answer);
        }
    }

    #[test]
    fn the_completion_event_is_an_eventbridge_envelope_with_a_stable_id() {
        let settled = jobs().into_iter().find(Job::is_settled).unwrap();
        assert_eq!(completion_event(&settled), completion_event(&settled));
        insta::assert_snapshot!(completion_event(&settled));
    }
}
