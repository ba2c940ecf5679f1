//! EventBridge: how much fits into PutEvents, and who may speak for AWS.

use serde_json::{Value, json};

use super::Verdict;
use crate::answer::Refusal;
use crate::batch;
use crate::call::Call;
use crate::price::event_size;

/// Limits of PutEvents.
/// <https://docs.aws.amazon.com/eventbridge/latest/APIReference/API_PutEvents.html>
#[derive(Clone, Debug)]
pub struct EventsLimits {
    /// Entries in a request.
    pub entries: usize,
    /// Bytes of all entries together: 1 MiB since January 2026, 256 KiB before.
    pub bytes: u64,
}

impl Default for EventsLimits {
    fn default() -> Self {
        Self { entries: 10, bytes: 1 << 20 }
    }
}

pub(super) fn before(limits: &EventsLimits, call: &Call) -> Verdict {
    if call.operation != "PutEvents" {
        return Verdict::Forward;
    }
    let entries = call.json["Entries"].as_array().map_or(&[][..], Vec::as_slice);
    if entries.is_empty() || entries.len() > limits.entries {
        let bound = if entries.is_empty() {
            "greater than or equal to 1".to_owned()
        } else {
            format!("less than or equal to {}", limits.entries)
        };
        let message = format!(
            "1 validation error detected: Value at 'entries' failed to satisfy constraint: Member must have length {bound}"
        );
        return Verdict::of(call, Some(Refusal::new("ValidationException", message)));
    }
    if entries.iter().map(event_size).sum::<u64>() > limits.bytes {
        let message = "Total size of the entries in the request is over the limit.";
        return Verdict::of(call, Some(Refusal::new("ValidationException", message)));
    }
    Verdict::parted(batch::part_events(&call.json, refused))
}

/// Why this entry alone fails.
fn refused(entry: &Value) -> Option<(&'static str, &'static str)> {
    let missing = |field: &str| entry[field].as_str().is_none_or(str::is_empty);
    if missing("Source") {
        return Some(("InvalidArgument", "Parameter Source is not valid. Reason: Source is a required argument."));
    }
    if missing("DetailType") {
        return Some((
            "InvalidArgument",
            "Parameter DetailType is not valid. Reason: DetailType is a required argument.",
        ));
    }
    if missing("Detail") {
        return Some(("InvalidArgument", "Parameter Detail is not valid. Reason: Detail is a required argument."));
    }
    if entry["Source"].as_str().is_some_and(|source| source.starts_with("aws.")) {
        return Some(("NotAuthorizedForSourceException", "Not authorized for the source."));
    }
    let detail: Value =
        entry["Detail"].as_str().and_then(|text| serde_json::from_str(text).ok()).unwrap_or(json!(null));
    if !detail.is_object() {
        return Some(("MalformedDetail", "Detail is malformed."));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Decided;
    use crate::call::Service;
    use crate::call::tests::call;
    use std::collections::BTreeMap;

    fn entry(source: &str) -> Value {
        json!({"Source": source, "DetailType": "t", "Detail": "{}"})
    }

    fn put(entries: &[Value]) -> Verdict {
        before(&EventsLimits::default(), &call(Service::Events, "PutEvents", json!({"Entries": entries})))
    }

    fn code(verdict: Verdict) -> String {
        match verdict {
            Verdict::Answer(answer) => answer.error_code().unwrap_or_default(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn one_to_ten_entries_are_taken() {
        assert_eq!(code(put(&[])), "ValidationException");
        assert!(matches!(put(&vec![entry("me"); 10]), Verdict::Forward));
        assert_eq!(code(put(&vec![entry("me"); 11])), "ValidationException");
    }

    #[test]
    fn all_entries_together_have_at_most_one_mib() {
        // Source and detail type are three bytes, the quotes and braces of the detail eight.
        let of = |bytes: usize| {
            let detail = json!({"k": "x".repeat(bytes - 3 - 8)}).to_string();
            json!({"Source": "me", "DetailType": "t", "Detail": detail})
        };
        assert_eq!(event_size(&of(1 << 20)), 1 << 20);
        assert!(matches!(put(&[of(1 << 20)]), Verdict::Forward));
        assert_eq!(code(put(&[of((1 << 20) + 1)])), "ValidationException");
        assert_eq!(code(put(&[of(1 << 19), of((1 << 19) + 1)])), "ValidationException");
    }

    #[test]
    fn an_entry_that_speaks_for_aws_fails_and_the_others_go_on() {
        let Verdict::Part(Some(rest), Decided::Events(decided)) = put(&[entry("aws.ec2"), entry("me")]) else {
            panic!("the batch was not parted");
        };
        assert_eq!(rest["Entries"], json!([entry("me")]));
        let refused = json!({"ErrorCode": "NotAuthorizedForSourceException",
                             "ErrorMessage": "Not authorized for the source."});
        assert_eq!(decided, BTreeMap::from([(0, refused)]));
    }

    #[test]
    fn an_entry_without_source_type_or_json_detail_fails_alone() {
        for (field, value, expected) in [
            ("Source", "", "InvalidArgument"),
            ("DetailType", "", "InvalidArgument"),
            ("Detail", "", "InvalidArgument"),
            ("Detail", "no json", "MalformedDetail"),
        ] {
            let mut broken = entry("me");
            broken[field] = json!(value);
            assert_eq!(refused(&broken).map(|(code, _)| code), Some(expected));
        }
    }
}
