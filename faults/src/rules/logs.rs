//! CloudWatch Logs: what one PutLogEvents may hold.

use crate::answer::Refusal;
use crate::call::Call;
use crate::price::log_bytes;

/// Limits of PutLogEvents.
/// <https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_PutLogEvents.html>
#[derive(Clone, Debug)]
pub struct LogsLimits {
    /// Events in a request.
    pub events: usize,
    /// Bytes of all messages, with 26 more for each.
    pub bytes: u64,
    /// From the first event to the last.
    pub span_ms: i64,
}

impl Default for LogsLimits {
    fn default() -> Self {
        Self { events: 10_000, bytes: 1 << 20, span_ms: 24 * 3600 * 1000 }
    }
}

pub(super) fn refusal(limits: &LogsLimits, call: &Call) -> Option<Refusal> {
    if call.operation != "PutLogEvents" {
        return None;
    }
    let invalid = |message: String| Some(Refusal::new("InvalidParameterException", message));
    let events = call.json["logEvents"].as_array().map_or(&[][..], Vec::as_slice);
    if events.is_empty() || events.len() > limits.events {
        let bound =
            if events.is_empty() { "greater than or equal to 1".into() } else { format!("at most {}", limits.events) };
        return invalid(format!(
            "1 validation error detected: Value at 'logEvents' failed to satisfy constraint: Member must have length {bound}"
        ));
    }
    let bytes = log_bytes(&call.json);
    if bytes > limits.bytes {
        return invalid(format!("Upload too large: {bytes} bytes exceeds limit of {}", limits.bytes));
    }
    let times: Vec<i64> = events.iter().filter_map(|event| event["timestamp"].as_i64()).collect();
    if times.len() < events.len() || events.iter().any(|event| event["message"].as_str().is_none_or(str::is_empty)) {
        return invalid("1 validation error detected: an event must have a timestamp and a message".to_owned());
    }
    if !times.is_sorted() {
        return invalid("Log events in a single PutLogEvents request must be in chronological order.".to_owned());
    }
    let span = times.last().zip(times.first()).map_or(0, |(last, first)| last - first);
    if span > limits.span_ms {
        return invalid(
            "The batch of log events in a single PutLogEvents request cannot span more than 24 hours.".to_owned(),
        );
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Service;
    use crate::call::tests::call;
    use serde_json::{Value, json};

    fn event(at: i64, message: &str) -> Value {
        json!({"timestamp": at, "message": message})
    }

    fn message(events: &[Value]) -> Option<String> {
        let call = call(Service::Logs, "PutLogEvents", json!({"logEvents": events}));
        let refusal = refusal(&LogsLimits::default(), &call)?;
        assert_eq!((refusal.code.as_str(), refusal.status), ("InvalidParameterException", 400));
        Some(refusal.message)
    }

    #[test]
    fn one_to_ten_thousand_events_are_taken() {
        assert!(message(&[]).is_some());
        assert_eq!(message(&vec![event(1, "x"); 10_000]), None);
        assert!(message(&vec![event(1, "x"); 10_001]).is_some());
    }

    #[test]
    fn an_upload_has_at_most_one_mib_with_26_bytes_an_event() {
        let half = (1 << 19) - 26;
        let of = |bytes: usize| [event(1, &"x".repeat(bytes)), event(1, &"x".repeat(half))];
        assert_eq!(message(&of(half)), None);
        assert_eq!(message(&of(half + 1)).unwrap(), "Upload too large: 1048577 bytes exceeds limit of 1048576");
    }

    #[test]
    fn events_stand_in_the_order_of_time() {
        assert_eq!(message(&[event(1, "a"), event(1, "b"), event(2, "c")]), None);
        assert!(message(&[event(2, "a"), event(1, "b")]).unwrap().contains("chronological"));
    }

    #[test]
    fn events_span_at_most_a_day() {
        let day = 24 * 3600 * 1000;
        assert_eq!(message(&[event(0, "a"), event(day, "b")]), None);
        assert!(message(&[event(0, "a"), event(day + 1, "b")]).unwrap().contains("24 hours"));
    }

    #[test]
    fn an_event_has_a_time_and_a_text() {
        assert!(message(&[json!({"message": "x"})]).is_some());
        assert!(message(&[event(1, "")]).is_some());
    }
}
