//! SQS: limits of messages and batches, the life of receipts, and what may be in flight.

mod receipts;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use serde_json::{Value, json};

use self::receipts::{Receipts, Standing};
use super::{Question, Verdict};
use crate::answer::{Answer, Refusal};
use crate::batch::{self, Fate};
use crate::call::Call;

/// Limits of standard queues.
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html>
#[derive(Clone, Debug)]
pub struct SqsLimits {
    /// Entries in a batch.
    pub batch_entries: usize,
    /// Characters of an entry's id.
    pub id_chars: usize,
    /// Bytes of a message with its attributes.
    pub message_bytes: usize,
    /// Bytes of all messages of a batch.
    pub batch_bytes: usize,
    /// The longest delay.
    pub delay_seconds: i64,
    /// The longest long poll.
    pub wait_seconds: i64,
    /// Messages of one receive.
    pub receive_messages: i64,
    /// The longest that a message stays hidden, from its receive on, all changes together.
    pub visibility_seconds: i64,
    /// Messages in flight in one queue.
    pub in_flight: usize,
    /// What a change of visibility answers once the message is visible again.
    pub late_change: LateChange,
}

impl Default for SqsLimits {
    fn default() -> Self {
        Self {
            batch_entries: 10,
            id_chars: 80,
            message_bytes: 1 << 20,
            batch_bytes: 1 << 20,
            delay_seconds: 900,
            wait_seconds: 20,
            receive_messages: 10,
            visibility_seconds: 12 * 3600,
            in_flight: 120_000,
            late_change: LateChange::NotInFlight,
        }
    }
}

/// What ChangeMessageVisibility answers about a message that is visible again and was not received since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LateChange {
    /// `MessageNotInflight`, as documented.
    NotInFlight,
    /// Success without effect, as was seen on AWS (localstack/localstack pull request 9632).
    Nothing,
}

/// What is remembered of queues.
#[derive(Debug, Default)]
pub(super) struct State {
    receipts: Receipts,
    /// The queues' own visibility time-outs.
    visibility: HashMap<String, Duration>,
}

/// The visibility time-out of a queue that has none set.
const VISIBILITY: Duration = Duration::from_secs(30);

impl State {
    pub(super) fn before(&mut self, limits: &SqsLimits, call: &Call, told: &[Answer], now: Duration) -> Verdict {
        let body = &call.json;
        let refused = match call.operation.as_str() {
            "SendMessage" => send_refusal(limits, body),
            "SendMessageBatch" | "DeleteMessageBatch" | "ChangeMessageVisibilityBatch" => batch_refusal(limits, call),
            "ReceiveMessage" => receive_refusal(limits, body),
            _ => None,
        };
        if refused.is_some() {
            return Verdict::of(call, refused);
        }
        match call.operation.as_str() {
            "SendMessageBatch" => Verdict::parted(batch::part_queue(body, |entry| {
                send_refusal(limits, entry).map_or(Fate::Forward, Fate::Fail)
            })),
            "DeleteMessage" if self.delete(body) == Fate::Succeed => Verdict::Answer(Answer::json(call, &json!({}))),
            "DeleteMessageBatch" => Verdict::parted(batch::part_queue(body, |entry| self.delete(entry))),
            "ChangeMessageVisibility" => match self.change(limits, body, now) {
                Fate::Forward => Verdict::Forward,
                Fate::Succeed => Verdict::Answer(Answer::json(call, &json!({}))),
                Fate::Fail(refusal) => Verdict::of(call, Some(refusal)),
            },
            "ChangeMessageVisibilityBatch" => {
                Verdict::parted(batch::part_queue(body, |entry| self.change(limits, entry, now)))
            }
            "ReceiveMessage" => self.receive(limits, call, told, now),
            _ => Verdict::Forward,
        }
    }

    fn receive(&mut self, limits: &SqsLimits, call: &Call, told: &[Answer], now: Duration) -> Verdict {
        let queue = queue(&call.json);
        if let Some(answer) = told.last() {
            self.learn_visibility(queue, &answer.value()["Attributes"]);
        }
        if self.receipts.in_flight(queue, now) >= limits.in_flight {
            // "If you use long polling, Amazon SQS returns no error messages."
            let wait = call.json["WaitTimeSeconds"].as_u64().unwrap_or(0);
            let message = "The maximum number of in flight messages is reached.";
            return match wait {
                0 => Verdict::of(call, Some(Refusal::new("OverLimit", message).status(403))),
                _ => Verdict::Wait(Duration::from_secs(wait), Answer::json(call, &json!({}))),
            };
        }
        let is_known = call.json["VisibilityTimeout"].is_i64() || self.visibility.contains_key(queue);
        // Asked once about each request; a queue that does not say has the default.
        if is_known || !told.is_empty() {
            return Verdict::Forward;
        }
        let body = json!({"QueueUrl": call.json["QueueUrl"], "AttributeNames": ["VisibilityTimeout"]}).to_string();
        Verdict::Ask(Question { operation: "GetQueueAttributes", body, alone: false })
    }

    /// A receipt that is not the newest of its message deletes nothing, and says so to nobody.
    fn delete(&self, request: &Value) -> Fate {
        match self.receipts.standing(text(request, "ReceiptHandle")) {
            Standing::Stale | Standing::Deleted => Fate::Succeed,
            Standing::Unknown | Standing::Newest { .. } => Fate::Forward,
        }
    }

    fn change(&self, limits: &SqsLimits, request: &Value, now: Duration) -> Fate {
        let seconds = request["VisibilityTimeout"].as_i64().unwrap_or(0);
        let (most, receipt) = (limits.visibility_seconds, text(request, "ReceiptHandle"));
        let invalid = |reason: &str| {
            let message = format!("Value {seconds} for parameter VisibilityTimeout is invalid. Reason: {reason}");
            Fate::Fail(Refusal::new("InvalidParameterValue", message))
        };
        if !(0..=most).contains(&seconds) {
            return invalid(&format!("Must be between 0 and {most}."));
        }
        match self.receipts.standing(receipt) {
            Standing::Unknown => Fate::Forward,
            Standing::Stale | Standing::Deleted => {
                let reason = "Message does not exist or is not available for visibility timeout change.";
                let message = format!("Value {receipt} for parameter ReceiptHandle is invalid. Reason: {reason}");
                Fate::Fail(Refusal::new("InvalidParameterValue", message))
            }
            Standing::Newest { hidden_until, .. } if hidden_until <= now => match limits.late_change {
                LateChange::Nothing => Fate::Succeed,
                LateChange::NotInFlight => {
                    let code = "AWS.SimpleQueueService.MessageNotInflight";
                    Fate::Fail(Refusal::new(code, "The specified message isn't in flight."))
                }
            },
            Standing::Newest { received, .. } => {
                let total = now.saturating_sub(received) + Duration::from_secs(seconds.unsigned_abs());
                if total > Duration::from_secs(most.unsigned_abs()) {
                    return invalid(&format!(
                        "Total VisibilityTimeout for the message is beyond the limit [{most} seconds]"
                    ));
                }
                Fate::Forward
            }
        }
    }

    pub(super) fn after(&mut self, call: &Call, answer: &Answer, now: Duration) {
        if !answer.is_ok() {
            return;
        }
        let (body, value) = (&call.json, answer.value());
        let queue = queue(body);
        let entries = || body["Entries"].as_array().into_iter().flatten();
        let succeeded = |entry: &&Value| {
            let mut done = value["Successful"].as_array().into_iter().flatten();
            done.any(|result| result["Id"] == entry["Id"])
        };
        let until = |request: &Value| now + Duration::from_secs(request["VisibilityTimeout"].as_u64().unwrap_or(0));
        match call.operation.as_str() {
            "ReceiveMessage" => {
                let own = self.visibility.get(queue).copied().unwrap_or(VISIBILITY);
                let hidden = body["VisibilityTimeout"].as_u64().map_or(own, Duration::from_secs);
                for message in value["Messages"].as_array().into_iter().flatten() {
                    let (id, receipt) = (text(message, "MessageId"), text(message, "ReceiptHandle"));
                    self.receipts.received(queue, id, receipt, now, now + hidden);
                }
            }
            "DeleteMessage" => self.receipts.deleted(text(body, "ReceiptHandle")),
            "DeleteMessageBatch" => {
                entries().filter(succeeded).for_each(|entry| self.receipts.deleted(text(entry, "ReceiptHandle")));
            }
            "ChangeMessageVisibility" => self.receipts.hide(text(body, "ReceiptHandle"), until(body)),
            "ChangeMessageVisibilityBatch" => {
                let hide = |entry: &Value| self.receipts.hide(text(entry, "ReceiptHandle"), until(entry));
                entries().filter(succeeded).for_each(hide);
            }
            "PurgeQueue" | "DeleteQueue" => self.receipts.forget(queue),
            "CreateQueue" => self.learn_visibility(self::queue(&value), &body["Attributes"]),
            "SetQueueAttributes" => self.learn_visibility(queue, &body["Attributes"]),
            "GetQueueAttributes" => self.learn_visibility(queue, &value["Attributes"]),
            _ => {}
        }
    }

    /// Makes the first message of the answer visible again, as if the service had delivered a copy: it will be received
    /// anew, and the receipt in this answer is then no longer the newest.
    pub(super) fn redeliver(&mut self, call: &Call, answer: &Answer, now: Duration) -> Option<Question> {
        let value = answer.value();
        let receipt = value["Messages"][0]["ReceiptHandle"].as_str()?;
        self.receipts.hide(receipt, now);
        let body = json!({"QueueUrl": call.json["QueueUrl"], "ReceiptHandle": receipt, "VisibilityTimeout": 0});
        Some(Question { operation: "ChangeMessageVisibility", body: body.to_string(), alone: false })
    }

    fn learn_visibility(&mut self, queue: &str, attributes: &Value) {
        if let Some(seconds) = attributes["VisibilityTimeout"].as_str().and_then(|text| text.parse().ok()) {
            self.visibility.insert(queue.to_owned(), Duration::from_secs(seconds));
        }
    }
}

fn text<'a>(of: &'a Value, field: &str) -> &'a str {
    of[field].as_str().unwrap_or_default()
}

/// The queue's path: clients may reach the same queue by other hosts.
fn queue(body: &Value) -> &str {
    let url = text(body, "QueueUrl");
    url.split_once("://").map_or(url, |(_, rest)| rest.find('/').map_or(rest, |at| &rest[at..]))
}

fn message_bytes(message: &Value) -> usize {
    let attributes = message["MessageAttributes"].as_object().into_iter().flatten();
    let sizes = attributes.map(|(name, value)| {
        // A binary value stands in base64.
        let binary = text(value, "BinaryValue").trim_end_matches('=').len() * 3 / 4;
        name.len() + text(value, "DataType").len() + text(value, "StringValue").len() + binary
    });
    text(message, "MessageBody").len() + sizes.sum::<usize>()
}

/// Why this message, alone or in a batch, is not taken.
fn send_refusal(limits: &SqsLimits, message: &Value) -> Option<Refusal> {
    let body = text(message, "MessageBody");
    let invalid = |message: String| Some(Refusal::new("InvalidParameterValue", message));
    if body.is_empty() {
        return Some(Refusal::new("MissingParameter", "The request must contain the parameter MessageBody."));
    }
    if message_bytes(message) > limits.message_bytes {
        return invalid(format!(
            "One or more parameters are invalid. Reason: Message must be shorter than {} bytes.",
            limits.message_bytes
        ));
    }
    if let Some(bad) = body.chars().find(|letter| is_refused(*letter)) {
        return Some(Refusal::new(
            "InvalidMessageContents",
            format!(
                "Invalid binary character '#x{:X}' was found in the message body, the set of allowed characters is #x9 | #xA \
                 | #xD | #x20 to #xD7FF | #xE000 to #xFFFD | #x10000 to #x10FFFF",
                u32::from(bad)
            ),
        ));
    }
    let delay = message["DelaySeconds"].as_i64().unwrap_or(0);
    if !(0..=limits.delay_seconds).contains(&delay) {
        let most = limits.delay_seconds;
        return invalid(format!(
            "Value {delay} for parameter DelaySeconds is invalid. Reason: DelaySeconds must be >= 0 and <= {most}."
        ));
    }
    None
}

/// Characters outside of XML 1.0's.
fn is_refused(letter: char) -> bool {
    (letter < ' ' && !matches!(letter, '\t' | '\n' | '\r')) || matches!(letter, '\u{FFFE}' | '\u{FFFF}')
}

fn receive_refusal(limits: &SqsLimits, request: &Value) -> Option<Refusal> {
    let checks = [
        ("MaxNumberOfMessages", 1, limits.receive_messages),
        ("WaitTimeSeconds", 0, limits.wait_seconds),
        ("VisibilityTimeout", 0, limits.visibility_seconds),
    ];
    let (name, value, least, most) = checks.into_iter().find_map(|(name, least, most)| {
        let value = request[name].as_i64().filter(|value| !(least..=most).contains(value))?;
        Some((name, value, least, most))
    })?;
    let reason = format!("Must be between {least} and {most}, if provided.");
    let message = format!("Value {value} for parameter {name} is invalid. Reason: {reason}");
    Some(Refusal::new("InvalidParameterValue", message))
}

/// Why the batch as a whole is not taken.
fn batch_refusal(limits: &SqsLimits, call: &Call) -> Option<Refusal> {
    let refused = |code: &str, message: String| Some(Refusal::new(&format!("AWS.SimpleQueueService.{code}"), message));
    let entries = call.json["Entries"].as_array().map_or(&[][..], Vec::as_slice);
    if entries.is_empty() {
        return refused(
            "EmptyBatchRequest",
            format!("There should be at least one {}RequestEntry in the request.", { &call.operation }),
        );
    }
    if entries.len() > limits.batch_entries {
        return refused("TooManyEntriesInBatchRequest", {
            let most = limits.batch_entries;
            format!("Maximum number of entries per request are {most}. You have sent {}.", entries.len())
        });
    }
    let is_id = |id: &str| {
        let is_allowed = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_');
        (1..=limits.id_chars).contains(&id.len()) && id.chars().all(is_allowed)
    };
    if !entries.iter().all(|entry| is_id(text(entry, "Id"))) {
        let most = limits.id_chars;
        return refused("InvalidBatchEntryId", {
            format!(
                "A batch entry id can only contain alphanumeric characters, hyphens and underscores. It can be at most {most} \
                 letters long."
            )
        });
    }
    let mut seen = HashSet::new();
    if let Some(twice) = entries.iter().find(|entry| !seen.insert(text(entry, "Id"))) {
        return refused("BatchEntryIdsNotDistinct", format!("Id {} repeated.", text(twice, "Id")));
    }
    let bytes: usize = entries.iter().map(message_bytes).sum();
    if bytes > limits.batch_bytes {
        let most = limits.batch_bytes;
        return refused("BatchRequestTooLong", {
            format!("Batch requests cannot be longer than {most} bytes. You have sent {bytes} bytes.")
        });
    }
    None
}

#[cfg(test)]
mod tests;
