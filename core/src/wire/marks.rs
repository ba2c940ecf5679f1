//! What the sweep remembers, as it is stored.

use serde::{Deserialize, Serialize};

use super::{Ms, WireCause, WireError, bad, from_ms, from_ms_opt, ms};
use crate::job::{Epoch, Holder};
use crate::ports::Message;
use crate::sweep::{Mark, Suspect};

/// The version that is written.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct MarksWire {
    v: u32,
    marks: Vec<MarkWire>,
}

#[derive(Serialize, Deserialize)]
struct MarkWire {
    #[serde(flatten)]
    suspect: SuspectWire,
    since: Ms,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    told: Option<Ms>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SuspectWire {
    Worker(String),
    Machine { pool: String, id: String },
    Task { job: String, epoch: u32 },
}

/// The marks, as JSON text.
pub fn encode_marks(marks: &[Mark]) -> String {
    let mark = |Mark { suspect, since, told }: &Mark| MarkWire {
        suspect: match suspect {
            Suspect::Worker(holder) => SuspectWire::Worker(holder.0.clone()),
            Suspect::Machine { pool, id } => SuspectWire::Machine { pool: pool.to_string(), id: id.clone() },
            Suspect::Task(run) => SuspectWire::Task { job: run.id.to_string(), epoch: run.epoch.0 },
        },
        since: ms(*since),
        told: told.map(ms),
    };
    let wire = MarksWire { v: VERSION, marks: marks.iter().map(mark).collect() };
    serde_json::to_string(&wire).unwrap_or_else(|error| {
        // Numbers and texts only: there is nothing in it that JSON cannot hold.
        unreachable!("marks are always JSON: {error}")
    })
}

/// Reads what [`encode_marks`] wrote.
///
/// # Errors
///
/// [`WireError`] says why it cannot be read.
pub fn decode_marks(text: &str) -> Result<Vec<Mark>, WireError> {
    let wrong = |cause: WireCause| bad("what the sweep remembers", cause);
    let wire: MarksWire = serde_json::from_str(text).map_err(|error| wrong(error.into()))?;
    if wire.v != VERSION {
        return Err(wrong(WireCause::Version { found: wire.v, known: VERSION }));
    }
    let mark = |MarkWire { suspect, since, told }| {
        let suspect = match suspect {
            SuspectWire::Worker(holder) => Suspect::Worker(Holder(holder)),
            SuspectWire::Machine { pool, id } => {
                Suspect::Machine { pool: pool.parse().map_err(|_| WireCause::Field("pool"))?, id }
            }
            SuspectWire::Task { job, epoch } => {
                Suspect::Task(Message { id: job.parse().map_err(|_| WireCause::Field("job"))?, epoch: Epoch(epoch) })
            }
        };
        Ok(Mark { suspect, since: from_ms(since)?, told: from_ms_opt(told)? })
    };
    wire.marks.into_iter().map(mark).collect::<Result<_, WireCause>>().map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{JobId, Nonce};
    use crate::route::PoolName;
    use crate::testing::at;

    #[test]
    fn marks_are_read_back_as_they_were_and_a_newer_form_is_refused() {
        let mark = |suspect, told| Mark { suspect, since: at(1), told };
        let run = Message { id: JobId::keyed("tests", "one"), epoch: Epoch(3) };
        let marks = vec![
            mark(Suspect::Worker(Holder::new("i-0a", Nonce(1))), None),
            mark(Suspect::Machine { pool: PoolName::STANDARD, id: "i-0b".into() }, Some(at(2))),
            mark(Suspect::Task(run), None),
        ];
        let text = encode_marks(&marks);
        assert_eq!(decode_marks(&text).unwrap(), marks);
        assert!(decode_marks(&text.replace("\"v\":1", "\"v\":2")).unwrap_err().is_newer());
        let stored =
            r#"{"v":1,"marks":[{"machine":{"pool":"standard","id":"i-0b"},"since":1000001000,"told":1000002000}]}"#;
        assert_eq!(decode_marks(stored).unwrap(), marks[1..2]);
        assert!(decode_marks(&stored.replace("standard", "No Pool")).is_err());
    }
}
