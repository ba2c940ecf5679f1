//! What runs emitted, as a stream brings it: each record is kept or parked, and what may be kept later comes again.
//!
//! A shard waits for its batch. So what can never be a record is parked at once and never fails the batch, and a failure is
//! told by the first sequence number from which everything must come again; what was taken behind it is known then.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Value, json};
use switchyard_core::ports::{Parked, PortError, Yard, backoff, describe};
use switchyard_core::records::{BATCH_RECORDS, Became, Code, Emitted, Refused, take};
use switchyard_core::wire;
use tracing::{info, warn};

/// Nothing new begins when less than this is left of the invocation: it comes again.
const LAST_START: Duration = Duration::from_secs(5);
/// How often what must come again is tried within one invocation: a throttle passes in a second, and a batch that comes again
/// is read again whole.
const TRIES: u32 = 3;
/// How long a record of a later program waits in the stream for whoever can read it, with all behind it: an upgrade takes minutes.
/// After that it is parked, for the stream would drop it in the end, and what it holds with it.
const NEWER_WAITS: Duration = Duration::from_secs(900);
/// The door that they come by, in logs and in what is parked.
const SOURCE: &str = "stream";

/// What result_listener works with.
pub struct Listener {
    /// Where records are kept.
    pub yard: Yard,
}

/// Nothing of the batch could be taken: all of it comes again.
#[derive(Debug, thiserror::Error)]
#[error("none of {records} records could be taken; the first: {why}")]
pub struct NothingTaken {
    /// How many there were.
    pub records: usize,
    /// Why the first was not.
    pub why: String,
}

/// Why an invocation took nothing: all of its records come again.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// By which policies they are to be judged is not known.
    #[error(transparent)]
    Policies(#[from] PortError),
    /// None of them could be taken.
    #[error(transparent)]
    Nothing(#[from] NothingTaken),
}

/// A record of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Streamed {
    /// Its place in its shard, as it is told to Lambda; empty where the record has none.
    pub(crate) sequence: String,
    /// What is in it.
    pub(crate) held: Held,
}

/// What a record of the stream is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    /// A line that a run emitted.
    Line(Emitted),
    /// Nothing that can ever be kept, as it came.
    Never(Refused, String),
    /// A later program's, and why it cannot be read; what it says, and when it came: whoever runs that program can read it, and
    /// takes over within minutes, or never.
    Newer(String, String, Option<Timestamp>),
}

/// What an invocation brings: the records of one shard, in their order.
pub(crate) fn read(event: &Value) -> Vec<Streamed> {
    let records = event.get("Records").and_then(Value::as_array);
    records.into_iter().flatten().map(record).collect()
}

fn record(record: &Value) -> Streamed {
    let text = |path: &str| record.pointer(path).and_then(Value::as_str);
    let sequence = text("/kinesis/sequenceNumber").unwrap_or_default().to_owned();
    let never = |code, why: &str, body: String| Held::Never(Refused::new(code, why), body);
    let held = match text("/kinesis/data") {
        None => never(Code::Unreadable, "a record of no stream, or one without data", record.to_string()),
        Some(data) => match STANDARD.decode(data) {
            Err(_) => never(Code::Unreadable, "its data are not base64", data.to_owned()),
            Ok(bytes) => match String::from_utf8(bytes) {
                Err(_) => never(Code::Unreadable, "its data are not UTF-8; they are kept as base64", data.to_owned()),
                Ok(text) => match wire::decode_emitted(&text) {
                    Ok(emitted) => Held::Line(emitted),
                    Err(error) if error.is_newer() => Held::Newer(describe(&error), text, arrived(record)),
                    Err(error) => never(Code::Unreadable, &describe(&error), text),
                },
            },
        },
    };
    Streamed { sequence, held }
}

/// When a record came into its stream, to the millisecond: Lambda tells it in seconds, with a fraction.
fn arrived(record: &Value) -> Option<Timestamp> {
    let seconds = record.pointer("/kinesis/approximateArrivalTimestamp")?.as_f64()?;
    #[expect(clippy::cast_possible_truncation, reason = "a time before the year 9999, or none")]
    Timestamp::from_millisecond((seconds * 1000.0) as i64).ok()
}

impl Listener {
    /// Takes what an invocation brings, and answers as an event source mapping of a stream wants to hear it: from which
    /// record on all must come again, if any must.
    ///
    /// # Errors
    ///
    /// [`NothingTaken`]: the yard cannot be reached. Told as a failure of the whole it is counted as one, and is one also to
    /// a source that does not read answers.
    pub async fn listen(&self, event: &Value, left: Duration) -> Result<Value, NothingTaken> {
        let until = Instant::now() + left.saturating_sub(LAST_START);
        let records = read(event);
        let mut failed = self.take(&records, until).await;
        for tried in 1..TRIES {
            if failed.is_empty() || Instant::now() >= until {
                break;
            }
            self.yard.ambient.pause(backoff(Duration::from_millis(500), tried, self.yard.ambient.chance())).await;
            let again: Vec<Streamed> = failed.iter().map(|(at, _)| records[*at].clone()).collect();
            let still = self.take(&again, until).await;
            failed = still.into_iter().map(|(at, why)| (failed[at].0, why)).collect();
        }
        info!(source = SOURCE, items = records.len(), failed = failed.len(), "heard");
        let Some((first, why)) = failed.first() else { return Ok(json!({ "batchItemFailures": [] })) };
        let sequence = &records[*first].sequence;
        if failed.len() == records.len() || sequence.is_empty() {
            return Err(NothingTaken { records: records.len(), why: why.clone() });
        }
        warn!(source = SOURCE, reason = %why, "not taken: it comes again, with all behind it");
        Ok(json!({ "batchItemFailures": [{ "itemIdentifier": sequence }] }))
    }

    /// Takes these, and answers which of them must come again, each with the reason.
    async fn take(&self, records: &[Streamed], until: Instant) -> Vec<(usize, String)> {
        let mut failed = Vec::new();
        let mut never = Vec::new();
        let mut lines: Vec<(usize, Emitted)> = Vec::with_capacity(records.len());
        let now = self.yard.ambient.now();
        for (at, Streamed { sequence, held }) in records.iter().enumerate() {
            match held {
                Held::Line(emitted) => lines.push((at, emitted.clone())),
                Held::Newer(why, _, came) if came.is_none_or(|came| now < came + NEWER_WAITS) => {
                    failed.push((at, why.clone()));
                }
                Held::Newer(why, body, _) => never.push((
                    at,
                    Parked {
                        source: SOURCE,
                        name: format!("sequence {sequence}"),
                        refused: Refused::new(Code::Unreadable, why),
                        body: body.clone(),
                        at: now,
                    },
                )),
                Held::Never(refused, body) => never.push((
                    at,
                    Parked {
                        source: SOURCE,
                        name: format!("sequence {sequence}"),
                        refused: refused.clone(),
                        body: body.clone(),
                        at: now,
                    },
                )),
            }
        }
        let (places, parked): (Vec<usize>, Vec<Parked>) = never.into_iter().unzip();
        if !parked.is_empty() {
            match self.yard.siding.park(&parked).await {
                Ok(()) => parked.iter().for_each(|one| self.yard.meters.record_parked(one.refused.code)),
                Err(error) => {
                    let why = format!("it cannot be parked: {}", describe(&error));
                    failed.extend(places.into_iter().map(|at| (at, why.clone())));
                }
            }
        }
        for some in lines.chunks(BATCH_RECORDS) {
            if Instant::now() >= until {
                failed.extend(some.iter().map(|(at, _)| (*at, "the invocation's time is over".to_owned())));
                continue;
            }
            let (places, emitted): (Vec<usize>, Vec<Emitted>) = some.iter().cloned().unzip();
            for (at, became) in places.into_iter().zip(take(&self.yard, SOURCE, &emitted).await) {
                match became {
                    Became::Stored | Became::Known | Became::Refused(_) => {}
                    Became::Later(why) => failed.push((at, why)),
                }
            }
        }
        failed.sort();
        failed
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use switchyard_core::catalog::Catalog;
    use switchyard_core::intake::{self, Sender, Taking};
    use switchyard_core::job::{Epoch, JobId};
    use switchyard_core::memory::Memory;
    use switchyard_core::policies::Situation;
    use switchyard_core::ports::RecordQuery;
    use switchyard_core::route::Limits;

    use super::*;

    const CATALOG: &str = "version: 1
capabilities:
  - name: scan
    summary: emits
    run: { command: [scan] }
    emits: { asset: true }
";

    async fn home() -> (Memory, Listener, JobId) {
        let home = Memory::new(jiff::Timestamp::from_second(1_800_000_000).unwrap(), 1);
        let catalog = Catalog::parse("c.yaml", CATALOG, &[], &BTreeMap::new()).unwrap();
        let yard = home.yard(catalog, Limits::one_machine(1024));
        let (submission, digest) = intake::read(json!({ "capability": "scan" }).to_string().as_bytes()).unwrap();
        let situation = Situation { policies: yard.policies(), ..Situation::default() };
        let sender = Sender { caller: "tests", key: Some("a") };
        let (now, random) = (yard.ambient.now(), yard.ambient.random());
        let prepared =
            intake::prepare(&submission, digest, sender, &situation, Taking::default(), now, random).unwrap();
        let job = intake::accept(&yard, vec![prepared]).await.unwrap().remove(0).unwrap().job.id;
        (home, Listener { yard }, job)
    }

    fn data(job: JobId, n: u64, line: &str) -> String {
        let at = jiff::Timestamp::from_second(1_800_000_000).unwrap();
        STANDARD.encode(wire::encode_emitted(&Emitted { job, epoch: Epoch(1), n, at, line: line.to_owned() }))
    }

    fn event(data: &[String]) -> Value {
        let record = |(n, data): (u64, &String)| json!({ "eventSource": "aws:kinesis", "kinesis": { "sequenceNumber": n.to_string(), "data": data } });
        json!({ "Records": (100..).zip(data).map(record).collect::<Vec<_>>() })
    }

    const LEFT: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn good_records_are_kept_and_bad_ones_parked_and_nothing_fails_the_batch() {
        let (home, listener, job) = home().await;
        let good = |n: u64| data(job, n, &format!(r#"{{"kind":"asset","id":"host:{n}"}}"#));
        let batch = [
            good(1),
            "%%%".to_owned(),
            STANDARD.encode([0xff, 0xfe]),
            STANDARD.encode("{}"),
            STANDARD.encode("not JSON"),
            data(job, 2, "{"),
            data(job, 3, &"x".repeat(300_000)),
            data(JobId::keyed("tests", "never"), 1, "{}"),
            good(4),
            good(1),
        ];
        for _ in 0..2 {
            let answer = listener.listen(&event(&batch), LEFT).await.unwrap();
            assert_eq!(answer, json!({ "batchItemFailures": [] }));
        }
        let query = RecordQuery { job, kind: None, after: None, limit: 10 };
        let kept: Vec<u64> = listener.yard.ledger.records(&query).await.unwrap().iter().map(|one| one.n).collect();
        assert_eq!(kept, [1, 4]);
        let parked = home.parked();
        assert_eq!(parked.len(), 7, "each once: {parked:#?}");
        assert!(parked.iter().any(|one| one.body == "//4=" && one.refused.code == Code::Unreadable));
        assert_eq!(listener.listen(&json!({}), LEFT).await.unwrap(), json!({ "batchItemFailures": [] }));
    }

    #[tokio::test]
    async fn a_later_program_s_record_is_waited_with_for_as_long_as_an_upgrade_takes_and_then_parked_whole() {
        let (home, listener, job) = home().await;
        let newer = r#"{"v":2,"of":"a later program"}"#;
        let good = data(job, 1, r#"{"kind":"asset","id":"a"}"#);
        for (age, waits) in [(600.0, true), (901.0, false)] {
            let mut event = event(&[STANDARD.encode(newer), good.clone()]);
            event["Records"][0]["kinesis"]["approximateArrivalTimestamp"] = json!(1_800_000_000.0 - age);
            let answer = listener.listen(&event, LEFT).await.unwrap();
            assert_eq!(answer["batchItemFailures"].as_array().unwrap().is_empty(), !waits, "{age} {answer}");
        }
        let parked = home.parked();
        assert_eq!(parked.iter().map(|one| &*one.body).collect::<Vec<_>>(), [newer]);
        assert!(parked[0].refused.to_string().contains("version 2"), "{parked:?}");
    }

    #[tokio::test]
    async fn what_may_be_kept_later_is_named_by_the_first_and_a_later_program_s_is_not_parked_at_once() {
        let (home, listener, job) = home().await;
        let newer = STANDARD.encode(r#"{"v":2,"of":"a later program"}"#);
        let good = data(job, 1, r#"{"kind":"asset","id":"a"}"#);
        let answer = listener.listen(&event(&[good.clone(), newer.clone(), good.clone()]), LEFT).await.unwrap();
        assert_eq!(answer, json!({ "batchItemFailures": [{ "itemIdentifier": "101" }] }));
        assert_eq!(home.parked(), []);
        let error = listener.listen(&event(&[newer]), LEFT).await.unwrap_err();
        assert!(error.to_string().contains("none of 1 records") && error.why.contains("version 2"), "{error}");
    }

    #[tokio::test]
    async fn what_fails_in_passing_is_tried_again_within_the_invocation() {
        let (home, listener, job) = home().await;
        let batch = [data(job, 1, r#"{"kind":"asset","id":"a"}"#), data(job, 2, "{"), "%".to_owned()];
        home.lose(2);
        let answer = listener.listen(&event(&batch), LEFT).await.unwrap();
        assert_eq!(answer, json!({ "batchItemFailures": [] }));
        assert_eq!(home.parked().len(), 2);
        home.lose(u64::MAX);
        let error = listener.listen(&event(&batch[1..]), LEFT).await.unwrap_err();
        assert!(error.why.contains("cannot be parked"), "{error}");
    }

    #[tokio::test]
    async fn without_time_nothing_is_begun() {
        let (_, listener, job) = home().await;
        let batch = [data(job, 1, r#"{"kind":"asset","id":"a"}"#)];
        let error = listener.listen(&event(&batch), Duration::from_secs(1)).await.unwrap_err();
        assert_eq!(error.why, "the invocation's time is over");
    }
}
