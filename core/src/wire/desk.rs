//! What a child and its yard say to each other.

use std::time::Duration;

use serde::de::Error;
use serde::{Deserialize, Serialize};
use serde_json::error::Category;
use zeroize::Zeroizing;

use super::loan::{LoanAnswer, LoanAnswerWire, LoanCall, LoanCallWire};
use super::{
    FailureWire, LineWire, WireCause, WireError, bad, decode, decode_body, encode, encode_body, from_hex, from_ms, hex,
    ms,
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
    Loan(LoanCallWire),
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
#[derive(Clone, Debug, PartialEq)]
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
    /// See [`crate::ports::Desk::borrow`] and [`crate::ports::Desk::give_back`].
    Loan(LoanCall),
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
    Loan(LoanAnswerWire),
    Failed {
        message: String,
        retryable: bool,
    },
}

/// The answer to a [`DeskCall`].
#[derive(Clone, Debug, PartialEq)]
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
    /// To a request for a loan, or to one that was given back.
    Loan(LoanAnswer),
    /// The yard could not do it.
    Failed {
        /// What went wrong, the whole chain in one line.
        message: String,
        /// Whether the same call may work later.
        retryable: bool,
    },
}

/// A reader's error without what was read, which may be a credential: what is wrong, and where.
fn unquoted(error: &serde_json::Error) -> WireCause {
    let what = match error.classify() {
        Category::Data => "a value is not what its field holds",
        Category::Syntax => "it is no JSON",
        Category::Eof | Category::Io => "it ends in the middle",
    };
    WireCause::Json(serde_json::Error::custom(format!("{what}, at column {}", error.column())))
}

/// A call as it is sent. A claim's token is in it, and may be a credential: it is wiped when it is dropped.
pub fn encode_call(call: &DeskCall) -> Zeroizing<String> {
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
        DeskCall::Loan(call) => CallWire::Loan(call.into()),
    };
    let text = serde_json::to_string(&wire);
    Zeroizing::new(text.unwrap_or_else(|error| unreachable!("a call is always JSON: {error}")))
}

/// The call that [`encode_call`] made.
///
/// # Errors
///
/// [`WireError`]: it is none.
pub fn decode_call(text: &str) -> Result<DeskCall, WireError> {
    let what = "a call at the desk";
    let wire: CallWire = serde_json::from_str(text).map_err(|error| bad(what, unquoted(&error)))?;
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
        CallWire::Loan(call) => DeskCall::Loan(call.try_into().map_err(|cause| bad(what, cause))?),
    })
}

/// An answer as it is sent. There may be a credential in it: it is wiped when it is dropped.
pub fn encode_answer(answer: &DeskAnswer) -> Zeroizing<String> {
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
        DeskAnswer::Loan(answer) => AnswerWire::Loan(answer.into()),
        DeskAnswer::Failed { message, retryable } => {
            AnswerWire::Failed { message: message.clone(), retryable: *retryable }
        }
    };
    let text = serde_json::to_string(&wire);
    Zeroizing::new(text.unwrap_or_else(|error| unreachable!("an answer is always JSON: {error}")))
}

/// The answer that [`encode_answer`] made.
///
/// # Errors
///
/// [`WireError`]: it is none.
pub fn decode_answer(text: &str) -> Result<DeskAnswer, WireError> {
    let wire: AnswerWire =
        serde_json::from_str(text).map_err(|error| bad("an answer of the desk", unquoted(&error)))?;
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
        AnswerWire::Loan(answer) => {
            DeskAnswer::Loan(answer.try_into().map_err(|cause| bad("an answer of the desk", cause))?)
        }
        AnswerWire::Failed { message, retryable } => DeskAnswer::Failed { message, retryable },
    })
}

#[cfg(test)]
mod tests {
    use secrecy::SecretString;
    use serde_json::Value;

    use super::*;
    use crate::lend::{Answer, Credential, Loan, LoanId, Scope};

    const CANARY: &str = "canary-5e1f";

    /// Every text with one value of it replaced by another.
    fn spoilt(value: &Value) -> Vec<Value> {
        let odd = || [Value::from(CANARY), Value::from(7), Value::Null, Value::from(vec![CANARY])];
        let mut all: Vec<Value> = odd().into();
        match value {
            Value::Object(fields) => {
                for (name, inner) in fields {
                    let with = |inner: Value| {
                        let mut fields = fields.clone();
                        fields.insert(name.clone(), inner);
                        Value::Object(fields)
                    };
                    all.extend(spoilt(inner).into_iter().map(with));
                    all.push(Value::Object([(CANARY.to_owned(), inner.clone())].into_iter().collect()));
                }
            }
            Value::Array(list) => {
                for (at, inner) in list.iter().enumerate() {
                    let with = |inner: Value| {
                        let mut list = list.clone();
                        list[at] = inner;
                        Value::Array(list)
                    };
                    all.extend(spoilt(inner).into_iter().map(with));
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
        all
    }

    #[test]
    fn no_error_of_a_reader_repeats_a_credential() {
        let secret = || SecretString::from(CANARY);
        let loan = Loan {
            id: LoanId::from_bytes([1; 16]),
            scope: Scope::Global { secret: "search".to_owned() },
            credential: Credential::Aws {
                access_key_id: "ASIA".to_owned(),
                secret_access_key: secret(),
                session_token: secret(),
            },
            until: crate::testing::at(9),
        };
        let voucher = Voucher { id: JobId::from_bytes([2; 16]), epoch: Epoch(1), token: ClaimToken::new([3; 32]) };
        let call = DeskCall::Loan(LoanCall::TakeBack(voucher, Box::new(loan.clone())));
        let answer = DeskAnswer::Loan(LoanAnswer::Answer(Answer::Lent(Box::new(loan))));
        assert_eq!(decode_call(&encode_call(&call)).unwrap(), call);
        assert_eq!(decode_answer(&encode_answer(&answer)).unwrap(), answer);
        let shown = format!("{call:?} {answer:?}");
        assert!(!shown.contains(CANARY) && !shown.contains("03030303"), "{shown}");
        let texts = |text: &str| {
            let whole: Value = serde_json::from_str(text).unwrap();
            let mut all: Vec<String> = spoilt(&whole).iter().map(Value::to_string).collect();
            all.extend((0..text.len()).map(|length| text[..length].to_owned()));
            all.push(format!("{text} {CANARY}"));
            all
        };
        let mut told = std::collections::BTreeSet::new();
        let call_errors = texts(&encode_call(&call)).into_iter().filter_map(|text| decode_call(&text).err());
        let answer_errors = texts(&encode_answer(&answer)).into_iter().filter_map(|text| decode_answer(&text).err());
        for error in call_errors.chain(answer_errors) {
            let error = crate::ports::describe(&error);
            assert!(!error.contains(CANARY), "{error}");
            told.insert(error.split(", at column").next().unwrap().to_owned());
        }
        assert!(told.len() > 4, "the search has lost its way: {told:?}");
    }
}
