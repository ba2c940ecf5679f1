//! A doorbell as a queue carries it: `{"v":1,"job":"…","epoch":1,"record":{…}}`.
//!
//! The record is the job as whoever rang saw it, and only a hint: it spares the claimer a read, and the claim is decided
//! on the record in the ledger. So a hint that cannot be used is no hint, and never a reason not to hear a bell.

use std::fmt::Write;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{WireCause, WireError, bad, record};
use crate::job::{Epoch, Job, JobId};
use crate::ports::Message;

/// The version that is written.
pub const DOORBELL_VERSION: u32 = 1;

#[derive(Serialize)]
struct Rung<'a> {
    v: u32,
    job: JobId,
    epoch: Epoch,
    #[serde(skip_serializing_if = "Option::is_none")]
    record: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Heard {
    v: u32,
    job: JobId,
    epoch: Epoch,
    #[serde(default)]
    record: Option<Box<RawValue>>,
}

/// A doorbell that was heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doorbell {
    /// What it says.
    pub message: Message,
    /// The job as whoever rang saw it.
    pub hint: Option<Box<Job>>,
}

/// A doorbell as text, in printable ASCII: no queue's rules on characters can refuse it, whatever a record holds.
pub fn encode_doorbell(message: Message, hint: Option<&Job>) -> String {
    let record = hint.map(|job| {
        RawValue::from_string(record::encode(job)).unwrap_or_else(|error| unreachable!("a record is JSON: {error}"))
    });
    let Message { id: job, epoch } = message;
    let rung = Rung { v: DOORBELL_VERSION, job, epoch, record: record.as_deref() };
    let text = serde_json::to_string(&rung).unwrap_or_else(|error| unreachable!("a doorbell is always JSON: {error}"));
    in_ascii(text)
}

/// JSON text whose characters outside printable ASCII are escaped. Compact JSON has such only within strings, where an
/// escape means the same.
fn in_ascii(json: String) -> String {
    let plain = |c: char| matches!(c, ' '..='~');
    if json.chars().all(plain) {
        return json;
    }
    let mut text = String::with_capacity(json.len() * 2);
    for c in json.chars() {
        if plain(c) {
            text.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            write!(text, "\\u{unit:04x}").unwrap_or_else(|error| unreachable!("a string takes all: {error}"));
        }
    }
    text
}

/// The doorbell that [`encode_doorbell`] made, here or in a later program of the same version.
///
/// # Errors
///
/// [`WireError`]: a newer program rang it, which [`WireError::is_newer`] tells, or it is no doorbell.
pub fn decode_doorbell(text: &str) -> Result<Doorbell, WireError> {
    #[derive(Deserialize)]
    struct Version {
        v: u32,
    }
    let what = "a doorbell";
    // First of all: of a newer one nothing else is known.
    let Version { v } = serde_json::from_str(text).map_err(|error| bad(what, error))?;
    if v > DOORBELL_VERSION {
        return Err(bad(what, WireCause::Version { found: v, known: DOORBELL_VERSION }));
    }
    let heard: Heard = serde_json::from_str(text).map_err(|error| bad(what, error))?;
    if heard.v == 0 {
        return Err(bad(what, WireCause::Field("v")));
    }
    let message = Message { id: heard.job, epoch: heard.epoch };
    let hint = heard.record.and_then(|text| record::decode(text.get()).ok());
    // One of another job or epoch says nothing of this bell.
    let hint = hint.filter(|job| Message::of(job) == message).map(Box::new);
    Ok(Doorbell { message, hint })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::route::Venue;
    use crate::testing::a_job;

    fn message() -> Message {
        Message::of(&a_job(Venue::Fleet))
    }

    #[test]
    fn a_doorbell_has_this_form() {
        let text = encode_doorbell(message(), None);
        assert_eq!(text, format!(r#"{{"v":1,"job":"{}","epoch":1}}"#, message().id));
        let hinted = encode_doorbell(message(), Some(&a_job(Venue::Fleet)));
        let record = record::encode(&a_job(Venue::Fleet));
        assert_eq!(hinted, format!(r#"{{"v":1,"job":"{}","epoch":1,"record":{record}}}"#, message().id));
    }

    #[test]
    fn an_old_reader_hears_a_later_program_of_the_same_version_and_takes_its_hint() {
        let job = a_job(Venue::Fleet);
        let later = encode_doorbell(message(), Some(&job)).replacen('{', r#"{"rang":{"by":"the future"},"#, 1);
        assert_eq!(decode_doorbell(&later).unwrap(), Doorbell { message: message(), hint: Some(Box::new(job)) });
    }

    #[test]
    fn a_new_reader_hears_an_earlier_program_that_sent_no_hint() {
        let earlier = encode_doorbell(message(), None);
        assert_eq!(decode_doorbell(&earlier).unwrap(), Doorbell { message: message(), hint: None });
        let null = earlier.replacen('}', r#","record":null}"#, 1);
        assert_eq!(decode_doorbell(&null).unwrap().hint, None);
    }

    #[test]
    fn a_newer_version_is_told_from_what_is_no_doorbell() {
        let newer = decode_doorbell(r#"{"v":2,"jobs":[1,2,3]}"#).unwrap_err();
        assert!(newer.is_newer());
        assert_eq!(newer.cause.to_string(), "it is version 2; this program reads up to version 1");
        let same = encode_doorbell(message(), None).replacen(r#""v":1"#, r#""v":2"#, 1);
        assert!(decode_doorbell(&same).unwrap_err().is_newer(), "whatever else it looks like");
        let nothing = encode_doorbell(message(), None).replacen(r#""v":1"#, r#""v":0"#, 1);
        for text in ["", "hello", "[]", "{}", r#"{"v":"2"}"#, r#"{"v":1}"#, r#"{"v":1,"job":"x","epoch":1}"#, &nothing]
        {
            assert!(!decode_doorbell(text).unwrap_err().is_newer(), "{text}");
        }
    }

    #[test]
    fn a_hint_that_cannot_be_used_is_dropped_and_the_bell_is_heard() {
        let job = a_job(Venue::Fleet);
        let good = encode_doorbell(message(), Some(&job));
        let record = record::encode(&job);
        let of_another = Job { id: JobId::keyed("tests", "two"), ..job.clone() };
        let of_another_epoch = Job { epoch: Epoch(2), ..job.clone() };
        let unusable = [
            "7".to_owned(),
            r#"{"v":99}"#.to_owned(),
            record.replacen(r#""v":2"#, r#""v":3"#, 1),
            record::encode(&of_another),
            record::encode(&of_another_epoch),
        ];
        for hint in unusable {
            let text = good.replacen(&record, &hint, 1);
            assert_eq!(decode_doorbell(&text).unwrap(), Doorbell { message: message(), hint: None }, "{hint}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// SQS refuses most control characters and a few others: none is ever sent.
        #[test]
        fn a_doorbell_is_printable_ascii_and_is_read_back_whatever_its_record_holds(
            caller in any::<String>(),
            labels in proptest::collection::vec((any::<String>(), "[\u{0}-\u{1f}\u{7f}-\u{9f}\u{fffe}\u{ffff}🚂]*"), 0..4),
            epoch in any::<u32>(),
        ) {
            let mut job = Job { epoch: Epoch(epoch), ..a_job(Venue::Fleet) };
            (job.work.caller, job.work.labels) = (caller, labels);
            let text = encode_doorbell(Message::of(&job), Some(&job));
            prop_assert!(text.bytes().all(|byte| matches!(byte, b' '..=b'~')));
            let heard = decode_doorbell(&text).unwrap();
            prop_assert_eq!(heard, Doorbell { message: Message::of(&job), hint: Some(Box::new(job)) });
        }
    }
}
