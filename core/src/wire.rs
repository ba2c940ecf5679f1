//! The versioned JSON of everything that is stored or sent: records, what the API shows, doorbells, and what a child
//! says to its yard. The domain types know nothing of it, so that renaming a field inside changes nothing outside.
//!
//! A reader ignores fields it does not know and refuses versions it does not know.

mod brakes;
mod desk;
mod doorbell;
mod event;
mod holder;
mod loan;
mod marks;
mod record;
mod records;
#[cfg(feature = "openapi")]
mod schema;
mod ticked;
mod view;
mod workers;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use self::brakes::{LimitView, PauseView, ScopeView, StateCount, TierView, YardView, decode_pause, encode_pause};
pub use self::desk::{DeskAnswer, DeskCall, decode_answer, decode_call, encode_answer, encode_call};
pub use self::doorbell::{DOORBELL_VERSION, Doorbell, decode_doorbell, encode_doorbell};
pub use self::event::{AnswerView, EventJobView, EventPlanView, FindingPlanView, ResourceView};
pub use self::holder::{decode_runs, decode_worker, encode_runs, encode_worker};
pub use self::loan::{
    LoanAnswer, LoanCall, LoanOutcomeName, LoanView, decode_loan_answer, decode_loan_call, decode_loan_note,
    encode_loan_answer, encode_loan_call, encode_loan_note,
};
pub use self::marks::{decode_marks, encode_marks};
pub use self::record::{RECORD_VERSION, decode, encode};
pub use self::records::{EMITTED_VERSION, RecordView, RegisteredView, decode_emitted, encode_emitted, encode_parked};
pub use self::ticked::{decode_ticked, encode_ticked};
pub use self::view::{EntryView, Explanation, JobView, LogView, Supposed, VerdictView, completion_event, verdicts};
pub use self::workers::{RunView, WorkerView};
use crate::job::Failure;
use crate::ports::{BlobRef, Body, LogLine, Stream};

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

impl WireError {
    /// Whether a newer program wrote it: whoever runs that can read it.
    pub fn is_newer(&self) -> bool {
        matches!(self.cause, WireCause::Version { found, known } if found > known)
    }
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

/// A failure, as stored and shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = Failure))]
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

/// A line of a log as stored: the same fields, with the time in milliseconds.
#[derive(Serialize, Deserialize)]
struct LineWire {
    at: Ms,
    s: Stream,
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::dispatch;
    use crate::job::{ClaimToken, Failure, Holder, Job, State, StopCause, TaskEnd, TaskEndCause};
    use crate::ports::{Beat, Claim, Claimed, Emission, Message, Order, Outcome, Refusal, Report, Reported, Voucher};
    use crate::records::{Code, Emitted, Refused};
    use crate::route::Limits;
    use crate::route::Venue;
    use crate::settle;
    use crate::testing::{a_claim, a_job, a_running_job, at, limited};
    use crate::why::Facts;

    /// One job in every state, with everything optional set at least once.
    fn jobs() -> Vec<Job> {
        let limits = crate::policies::Situation::from(Limits::one_machine(8192));
        let mut running = a_running_job(Venue::Fargate, 1);
        running.work.announce = true;
        running.work.start_deadline = Some(at(500));
        running.work.needs.expected = Some(Duration::from_secs(9));
        running.work.needs.only = vec![crate::route::Pin::Venue(Venue::Fargate)];
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
        let mut traced = a_job(Venue::Fleet);
        traced.work.trace = Some("4bf92f3577b34da6a3ce929d0e0e4736".parse().unwrap());
        let end =
            TaskEnd { at: at(6), cause: TaskEndCause::TakenAway, how: "its task stopped: SpotInterruption".into() };
        let ended = settle::task_seen_to_end(running.clone(), running.epoch, "worker-1", end, &limits, at(6), 0);
        let ended = ended.unwrap().unwrap().job;
        vec![a_job(Venue::Inline), running, stopping, succeeded, failed, lost, delayed.job, traced, ended]
    }

    #[test]
    fn a_record_is_read_back_as_it_was() {
        for job in jobs() {
            assert_eq!(decode(&encode(&job)).unwrap(), job);
        }
    }

    #[test]
    fn a_job_without_a_request_is_a_trace_of_its_own_also_from_an_earlier_record() {
        let text = encode(&a_job(Venue::Fleet));
        assert!(!text.contains("trace"), "an earlier program's record has none");
        let job = decode(&text).unwrap();
        assert_eq!((job.work.trace, job.trace_id()), (None, job.id.into()));
        let mut traced = a_job(Venue::Fleet);
        traced.work.trace = Some("4bf92f3577b34da6a3ce929d0e0e4736".parse().unwrap());
        let mangled = encode(&traced).replace("4bf9", "zzzz");
        assert!(decode(&mangled).unwrap_err().cause.to_string().contains("trace"));
    }

    #[test]
    fn a_record_of_a_later_program_of_the_same_version_is_read() {
        let text = encode(&a_job(Venue::Fleet));
        let newer = text.replacen('{', r#"{"hint":{"from":"the future"},"#, 1);
        assert_eq!(decode(&newer).unwrap(), a_job(Venue::Fleet));
    }

    #[test]
    fn that_a_task_has_ended_is_passed_over_by_a_program_that_knows_nothing_of_it() {
        let ended = jobs().pop().unwrap();
        let mut running = ended.clone();
        let State::Running(run) = &mut running.state else { panic!("{ended:?}") };
        assert!(run.ended.take().is_some());
        // As such a program reads it: a field of the state that it does not know. Then the missing beats tell.
        let unknown = encode(&ended).replacen(r#""ended":"#, r#""later":"#, 1);
        assert!(unknown.contains("later"), "{unknown}");
        assert_eq!(decode(&unknown).unwrap(), running);
        // And as it writes it: without.
        assert!(!encode(&running).contains(r#""ended":"#));
        for cause in [TaskEndCause::Exited, TaskEndCause::OutOfMemory, TaskEndCause::TakenAway] {
            let State::Running(run) = &mut running.state else { panic!() };
            run.ended = Some(TaskEnd { at: at(7), cause, how: "exit code 1 \"\u{1}".into() });
            assert_eq!(decode(&encode(&running)).unwrap(), running);
        }
    }

    #[test]
    fn a_record_of_a_newer_version_is_refused_and_named() {
        let newer = encode(&a_job(Venue::Fleet)).replacen(r#""v":2"#, r#""v":3"#, 1);
        let error = decode(&newer).unwrap_err();
        assert_eq!(error.cause.to_string(), "it is version 3; this program reads up to version 2");
        let changed = newer.replacen(r#""capability":"#, r#""kind":"#, 1);
        assert!(decode(&changed).unwrap_err().cause.to_string().contains("version 3"));
        assert!(decode("{}").is_err());
    }

    #[test]
    fn records_of_version_1_are_read_and_written_as_version_2() {
        let old = include_str!("wire/old/records-v1.jsonl");
        for (text, job) in old.lines().zip(jobs()) {
            let read = decode(text).unwrap();
            assert_eq!((read.id, read.state.phase(), read.pool()), (job.id, job.phase(), job.pool()));
            assert_eq!((&read.work, &read.timeline, &read.owed), (&job.work, &job.timeline, &job.owed));
            assert_eq!((read.permit, read.aged, read.spent_nanodollars), (None, 0, 0));
            assert_eq!(decode(&encode(&read)).unwrap(), read);
        }
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
        let views: Vec<_> = jobs().iter().map(|job| JobView::of(job, &limited(None), &Facts::default())).collect();
        let text = serde_json::to_string_pretty(&views).unwrap();
        assert!(!text.contains("token"), "a token's hash is nobody's business");
        insta::assert_snapshot!(text);
    }

    #[test]
    fn calls_and_answers_are_read_back_as_they_were() {
        let job = a_running_job(Venue::Fargate, 1);
        let voucher = Voucher { id: job.id, epoch: job.epoch, token: ClaimToken::new([3; 32]) };
        let line = LogLine { at: at(1), stream: crate::ports::Stream::Stderr, text: "oops \u{1}".into() };
        let emitted = Emitted { job: job.id, epoch: job.epoch, n: 3, at: at(1), line: "{\"a\": \"\u{1}\"}".into() };
        let here = Message { id: job.id, epoch: job.epoch };
        let beat = Beat { holder: Holder("a/b".into()), counter: 4, running: vec![here] };
        let outcomes = [
            Outcome::Succeeded(Some("[1]".into())),
            Outcome::Failed { failure: Failure::new("x", "y").with_exit(4), permanent: true },
            Outcome::OutOfMemory(Failure::new("out_of_memory", "z").with_exit(137)),
            Outcome::TimedOut,
            Outcome::Stopped(StopCause::Drain),
            Outcome::Interrupted("gone".into()),
        ];
        let a_room = crate::ports::Room { slots: 1, milli_vcpu: 500, memory_mib: 64 };
        let mut calls = vec![
            DeskCall::Claim(Claim { at_most: Some(Duration::from_secs(9)), ..a_claim(&job, 2) }),
            DeskCall::Claim(Claim { room: Some(a_room), ..a_claim(&job, 2) }),
            DeskCall::Beat(beat, Duration::from_millis(1500)),
            DeskCall::Log(voucher.clone(), vec![line]),
            DeskCall::Emit(voucher.clone(), vec![emitted]),
        ];
        let usage = crate::ports::Usage { max_rss_mib: Some(7), output_dropped_bytes: 9 };
        calls.extend(outcomes.map(|outcome| DeskCall::Settle(Report { voucher: voucher.clone(), outcome, usage })));
        for call in calls {
            let text = encode_call(&call);
            assert!(!text.contains('\n'));
            assert_eq!(decode_call(&text).unwrap(), call);
        }
        // What a child of before workers had rooms says.
        let claim = a_claim(&job, 2);
        let earlier = encode_call(&DeskCall::Claim(claim.clone())).replace(",\"room\":null", "");
        assert!(!earlier.contains("room"));
        assert_eq!(decode_call(&earlier).unwrap(), DeskCall::Claim(claim));
        let answers = [
            DeskAnswer::Claimed(Claimed::Won(Box::new(job), Body::Inline("{\"a\":\"\n\"}".into()))),
            DeskAnswer::Claimed(Claimed::Lost(Refusal::Newer)),
            DeskAnswer::Claimed(Claimed::Lost(Refusal::NoRoom(a_room))),
            DeskAnswer::Orders(vec![Order { run: here, cause: StopCause::Cancel }]),
            DeskAnswer::Logged,
            DeskAnswer::Emitted(Emission::Stale),
            DeskAnswer::Emitted(Emission::Taken(vec![])),
            DeskAnswer::Emitted(Emission::Taken(vec![(3, Refused::new(Code::NotJson, "it is not JSON"))])),
            DeskAnswer::Reported(Reported::Stale),
            DeskAnswer::Failed { message: "disk full".into(), retryable: true },
        ];
        for answer in answers {
            let text = encode_answer(&answer);
            assert!(!text.contains('\n'));
            assert_eq!(decode_answer(&text).unwrap(), answer);
        }
        let taken = DeskAnswer::Claimed(Claimed::Lost(Refusal::Taken));
        assert_eq!(*encode_answer(&taken), r#"{"lost":"held"}"#, "as a child of an earlier program knows it");
        assert_eq!(decode_answer(r#"{"lost":"held"}"#).unwrap(), taken);
    }

    #[test]
    fn a_report_of_a_child_that_says_nothing_of_its_use_is_read() {
        let job = a_running_job(Venue::Fargate, 1);
        let voucher = Voucher { id: job.id, epoch: job.epoch, token: ClaimToken::new([3; 32]) };
        let report = Report { voucher, outcome: Outcome::TimedOut, usage: crate::ports::Usage::default() };
        let text = encode_call(&DeskCall::Settle(report.clone()));
        assert!(!text.contains("max_rss_mib") && !text.contains("dropped"), "{}", *text);
        assert_eq!(decode_call(&text).unwrap(), DeskCall::Settle(report));
    }

    #[test]
    fn the_completion_event_is_an_eventbridge_envelope_with_a_stable_id() {
        let settled = jobs().into_iter().find(Job::is_settled).unwrap();
        assert_eq!(completion_event(&settled), completion_event(&settled));
        insta::assert_snapshot!(completion_event(&settled));
    }
}
