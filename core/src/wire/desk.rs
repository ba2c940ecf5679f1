//! What a child and its yard say to each other.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    FailureWire, LineWire, WireError, bad, decode, decode_body, encode, encode_body, from_hex, from_ms, hex, ms,
};
use crate::job::{ClaimToken, Epoch, Holder, JobId, StopCause, TokenHash};
use crate::ports::{
    Beat, Claim, Claimed, Emission, LogLine, Message, Order, Outcome, Refusal, Report, Reported, Room, Usage, Voucher,
};
use crate::records::{Code, Emitted, Refused};

/// What a child says to its yard, one JSON text a line.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum CallWire {
    Claim {
        id: JobId,
        epoch: Epoch,
        holder: Holder,
        token: String,
        at_most_s: Option<u64>,
        #[serde(default)]
        room: Option<Room>,
    },
    Beat {
        holder: Holder,
        counter: u64,
        running: Vec<(JobId, Epoch)>,
        patience_ms: u64,
    },
    Log {
        id: JobId,
        epoch: Epoch,
        token: String,
        lines: Vec<LineWire>,
    },
    Emit {
        id: JobId,
        epoch: Epoch,
        token: String,
        /// Each by its number, with the time it was read at.
        lines: Vec<(u64, i64, String)>,
    },
    Settle {
        id: JobId,
        epoch: Epoch,
        token: String,
        outcome: OutcomeWire,
        /// A child of an earlier program does not say.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_rss_mib: Option<u32>,
        #[serde(default, skip_serializing_if = "is_zero")]
        output_dropped_bytes: u64,
    },
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OutcomeWire {
    Succeeded(Option<String>),
    Failed(FailureWire, bool),
    OutOfMemory(FailureWire),
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
    /// See [`crate::ports::Desk::emit`]. The lines are those of the voucher's run.
    Emit(Voucher, Vec<Emitted>),
    /// See [`crate::ports::Desk::settle`].
    Settle(Report),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum AnswerWire {
    Won {
        record: String,
        payload: String,
    },
    Lost(Refusal),
    Orders(Vec<(JobId, Epoch, StopCause)>),
    Logged,
    /// `None`: the run is stale. Else what was refused, each by its number.
    Emitted(Option<Vec<(u64, String, String)>>),
    Reported(Reported),
    Failed {
        message: String,
        retryable: bool,
    },
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
    /// To emitted lines.
    Emitted(Emission),
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
            room: claim.room,
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
        DeskCall::Emit(voucher, lines) => CallWire::Emit {
            id: voucher.id,
            epoch: voucher.epoch,
            token: hex(voucher.token.reveal()),
            lines: lines.iter().map(|line| (line.n, ms(line.at), line.line.clone())).collect(),
        },
        DeskCall::Settle(Report { voucher, outcome, usage }) => CallWire::Settle {
            id: voucher.id,
            epoch: voucher.epoch,
            token: hex(voucher.token.reveal()),
            outcome: match outcome {
                Outcome::Succeeded(result) => OutcomeWire::Succeeded(result.clone()),
                Outcome::Failed { failure, permanent } => OutcomeWire::Failed(failure.into(), *permanent),
                Outcome::OutOfMemory(failure) => OutcomeWire::OutOfMemory(failure.into()),
                Outcome::TimedOut => OutcomeWire::TimedOut,
                Outcome::Stopped(cause) => OutcomeWire::Stopped(*cause),
                Outcome::Interrupted(why) => OutcomeWire::Interrupted(why.clone()),
            },
            max_rss_mib: usage.max_rss_mib,
            output_dropped_bytes: usage.output_dropped_bytes,
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
        CallWire::Claim { id, epoch, holder, token, at_most_s, room } => DeskCall::Claim(Claim {
            id,
            epoch,
            holder,
            token: TokenHash(from_hex(&token, "token").map_err(|cause| bad(what, cause))?),
            at_most: at_most_s.map(Duration::from_secs),
            room,
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
        CallWire::Emit { id, epoch, token, lines } => {
            let lines = lines.into_iter().map(|(n, at, line)| {
                Ok(Emitted { job: id, epoch, n, at: from_ms(at).map_err(|cause| bad(what, cause))?, line })
            });
            DeskCall::Emit(voucher(id, epoch, &token)?, lines.collect::<Result<_, WireError>>()?)
        }
        CallWire::Settle { id, epoch, token, outcome, max_rss_mib, output_dropped_bytes } => DeskCall::Settle(Report {
            voucher: voucher(id, epoch, &token)?,
            outcome: match outcome {
                OutcomeWire::Succeeded(result) => Outcome::Succeeded(result),
                OutcomeWire::Failed(failure, permanent) => Outcome::Failed { failure: failure.into(), permanent },
                OutcomeWire::OutOfMemory(failure) => Outcome::OutOfMemory(failure.into()),
                OutcomeWire::TimedOut => Outcome::TimedOut,
                OutcomeWire::Stopped(cause) => Outcome::Stopped(cause),
                OutcomeWire::Interrupted(why) => Outcome::Interrupted(why),
            },
            usage: Usage { max_rss_mib, output_dropped_bytes },
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
        DeskAnswer::Emitted(Emission::Stale) => AnswerWire::Emitted(None),
        DeskAnswer::Emitted(Emission::Taken(refused)) => {
            let told = |(n, refused): &(u64, Refused)| (*n, refused.code.as_str().to_owned(), refused.reason.clone());
            AnswerWire::Emitted(Some(refused.iter().map(told).collect()))
        }
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
        AnswerWire::Emitted(None) => DeskAnswer::Emitted(Emission::Stale),
        AnswerWire::Emitted(Some(refused)) => {
            let told = |(n, code, reason): (u64, String, String)| {
                // A code that a later yard knows says as much as that the line is no record.
                let code = Code::ALL.into_iter().find(|known| known.as_str() == code).unwrap_or(Code::Unreadable);
                (n, Refused { code, reason })
            };
            DeskAnswer::Emitted(Emission::Taken(refused.into_iter().map(told).collect()))
        }
        AnswerWire::Reported(reported) => DeskAnswer::Reported(reported),
        AnswerWire::Failed { message, retryable } => DeskAnswer::Failed { message, retryable },
    })
}
