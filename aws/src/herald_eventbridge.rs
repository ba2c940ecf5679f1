//! Settlements as events on a bus: one PutEvents each, in the envelope that every home announces in.
//!
//! EventBridge delivers at least once and gives an event an id of its own; who must act once goes by the detail's `id`
//! and `epoch`.

use async_trait::async_trait;
use aws_sdk_eventbridge::Client;
use aws_sdk_eventbridge::primitives::DateTime;
use aws_sdk_eventbridge::types::{PutEventsRequestEntry, PutEventsResultEntry};
use aws_types::request_id::RequestId;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use switchyard_core::job::Job;
use switchyard_core::ports::{Herald, PortError};
use switchyard_core::wire;
use tokio::sync::OnceCell;

use crate::clients::Clients;
use crate::failure::{AwsError, failed};

/// The largest event. AWS takes a megabyte since January 2026, but not in every partition, and not every target.
const EVENT_BYTES_MOST: usize = 256 * 1024;
/// What an event's time counts, as the user guide has it.
const TIME_BYTES: usize = 14;
/// What an event too large goes without, one after the other: first what the API tells as well.
const SPARED: [&str; 4] = ["verdicts", "labels", "why", "error"];

/// Announces on a bus.
#[derive(Debug)]
pub struct EventBridgeHerald {
    client: Client,
    bus: String,
    there: OnceCell<()>,
}

impl EventBridgeHerald {
    /// The herald that announces on `bus`: a name, or an ARN.
    pub fn new(clients: &Clients, bus: &str) -> Self {
        Self { client: clients.eventbridge(), bus: bus.to_owned(), there: OnceCell::new() }
    }

    /// Asks once whether the bus is there: to events for a bus that is not, AWS answers as if it had delivered them.
    ///
    /// # Errors
    ///
    /// There is no such bus, or nobody can tell.
    pub async fn check(&self) -> Result<(), PortError> {
        let ask = || async {
            let asked = self.client.describe_event_bus().name(&self.bus).send().await;
            asked.map(drop).map_err(|error| failed("look for", format!("event bus {}", self.bus), &error))
        };
        self.there.get_or_try_init(ask).await.copied()
    }
}

#[async_trait]
impl Herald for EventBridgeHerald {
    async fn announce(&self, job: &Job) -> Result<(), PortError> {
        let (operation, subject) = ("announce", format!("job {} on event bus {}", job.id, self.bus));
        let event = Event::read(&wire::completion_event(job))
            .map_err(|error| PortError::permanent(operation, &subject, error))?
            .fitted(EVENT_BYTES_MOST)
            .map_err(|bytes| PortError::permanent(operation, &subject, format!("its event has {bytes} bytes")))?;
        self.check().await?;
        let put = self.client.put_events().entries(event.entry(&self.bus)).send().await;
        let put = put.map_err(|error| failed(operation, &subject, &error))?;
        // 200 is the answer also when the event was not taken.
        match (put.failed_entry_count(), put.entries()) {
            (0, _) => Ok(()),
            (_, entries) => Err(match refusal(entries) {
                (error, true) => PortError::retryable(operation, subject, error.of_request(put.request_id())),
                (error, false) => PortError::permanent(operation, subject, error.of_request(put.request_id())),
            }),
        }
    }
}

/// What is announced, as EventBridge takes it.
#[derive(Debug, Deserialize)]
struct Event {
    #[serde(rename = "detail-type")]
    detail_type: String,
    source: String,
    time: Option<Timestamp>,
    resources: Vec<String>,
    detail: Box<RawValue>,
}

impl Event {
    fn read(envelope: &str) -> serde_json::Result<Self> {
        serde_json::from_str(envelope)
    }

    /// Its size, as AWS counts it.
    fn bytes(&self) -> usize {
        let time = if self.time.is_some() { TIME_BYTES } else { 0 };
        let resources: usize = self.resources.iter().map(String::len).sum();
        time + self.source.len() + self.detail_type.len() + self.detail.get().len() + resources
    }

    /// The event within the limit, without what it can spare; its size, if that is not enough.
    fn fitted(mut self, most: usize) -> Result<Self, usize> {
        let mut spared = SPARED.iter();
        while self.bytes() > most {
            let field = spared.next().ok_or(self.bytes())?;
            let detail = serde_json::from_str(self.detail.get()).map(|mut detail: Map<String, Value>| {
                detail.remove(*field);
                detail
            });
            self.detail =
                detail.and_then(|detail| serde_json::value::to_raw_value(&detail)).map_err(|_| self.bytes())?;
        }
        Ok(self)
    }

    fn entry(self, bus: &str) -> PutEventsRequestEntry {
        PutEventsRequestEntry::builder()
            .event_bus_name(bus)
            .source(self.source)
            .detail_type(self.detail_type)
            .set_time(self.time.map(|time| DateTime::from_millis(time.as_millisecond())))
            .set_resources(Some(self.resources))
            .detail(self.detail.get())
            .build()
    }
}

/// Why the one event was not taken, and whether it may be another time. What nobody foresaw is, as everywhere.
fn refusal(entries: &[PutEventsResultEntry]) -> (AwsError, bool) {
    let entry = entries.first();
    let code = entry.and_then(|entry| entry.error_code()).unwrap_or("Unknown");
    let message = entry.and_then(|entry| entry.error_message()).unwrap_or("no reason given");
    let retryable = !matches!(
        code,
        "AccessDeniedException"
            | "InvalidAccountIdException"
            | "InvalidArgument"
            | "MalformedDetail"
            | "RedactionFailure"
            | "NotAuthorizedForSourceException"
            | "NotAuthorizedForSource"
            | "NotAuthorizedForDetailTypeException"
    );
    (AwsError { code: code.to_owned(), message: message.to_owned(), request_id: None }, retryable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(detail: &str) -> Event {
        let envelope = format!(
            r#"{{"version":"0","id":"1","detail-type":"Switchyard Job Settled","source":"switchyard",
               "time":"2026-02-03T04:05:06Z","resources":["job-1"],"detail":{detail}}}"#
        );
        Event::read(&envelope).unwrap()
    }

    #[test]
    fn an_entry_is_the_envelope_that_every_home_announces_in() {
        let entry = event(r#"{"id":"job-1","epoch":2}"#).fitted(EVENT_BYTES_MOST).unwrap().entry("yard");
        assert_eq!(entry.event_bus_name(), Some("yard"));
        assert_eq!((entry.source(), entry.detail_type()), (Some("switchyard"), Some("Switchyard Job Settled")));
        assert_eq!(entry.detail(), Some(r#"{"id":"job-1","epoch":2}"#));
        assert_eq!(entry.resources(), ["job-1"]);
        assert_eq!(entry.time(), Some(&DateTime::from_secs(1_770_091_506)));
    }

    #[test]
    fn an_event_too_large_goes_without_what_it_can_spare_and_no_more() {
        let detail = r#"{"id":"job-1","labels":{"a":"b"},"verdicts":["long"],"why":"so"}"#;
        let whole = event(detail).bytes();
        assert_eq!(whole, 14 + 10 + 22 + 5 + detail.len());
        assert_eq!(event(detail).fitted(whole).unwrap().detail.get(), detail);
        let spared = event(detail).fitted(whole - 1).unwrap();
        assert_eq!(spared.detail.get(), r#"{"id":"job-1","labels":{"a":"b"},"why":"so"}"#);
        let least = event(r#"{"id":"job-1"}"#).bytes();
        assert_eq!(event(detail).fitted(least).unwrap().detail.get(), r#"{"id":"job-1"}"#);
        assert_eq!(event(detail).fitted(least - 1).unwrap_err(), least);
    }

    #[test]
    fn a_throttled_event_may_be_taken_later_and_a_forbidden_one_never() {
        let entry = |code: &str| PutEventsResultEntry::builder().error_code(code).error_message("no").build();
        for code in ["ThrottlingException", "InternalFailure", "InternalException", "SomethingNew"] {
            assert!(refusal(&[entry(code)]).1, "{code}");
        }
        for code in ["AccessDeniedException", "NotAuthorizedForSourceException", "MalformedDetail", "InvalidArgument"] {
            assert!(!refusal(&[entry(code)]).1, "{code}");
        }
        assert_eq!(refusal(&[entry("MalformedDetail")]).0.to_string(), "MalformedDetail: no");
        assert!(refusal(&[]).1);
    }
}
