//! result_listener: recorded, broken, repeated and reordered batches of a stream.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};
use switchyard_core::catalog::Catalog;
use switchyard_core::intake::{self, Sender, Taking};
use switchyard_core::job::{Epoch, JobId};
use switchyard_core::memory::Memory;
use switchyard_core::policies::Situation;
use switchyard_core::ports::{RecordQuery, Yard};
use switchyard_core::records::{Code, Emitted, Register, RegisterQuery};
use switchyard_core::route::Limits;
use switchyard_core::wire;
use switchyard_functions::records::Listener;

use crate::{here, read_json};

const CATALOG: &str = "version: 1
capabilities:
  - name: scan
    summary: emits
    run: { command: [scan] }
    emits: { asset: { type: object, properties: { port: { type: integer } } }, metric: true }
";

struct Scene {
    home: Memory,
    yard: Yard,
    listener: Listener,
    job: JobId,
}

impl Scene {
    async fn new() -> Self {
        let home = Memory::new(Timestamp::from_second(1_800_000_000).unwrap(), 3);
        let catalog = Catalog::parse("c.yaml", CATALOG, &[], &Default::default()).unwrap();
        let yard = home.yard(catalog, Limits::one_machine(1024));
        let (submission, digest) = intake::read(json!({ "capability": "scan" }).to_string().as_bytes()).unwrap();
        let situation = Situation { policies: yard.policies(), ..Situation::default() };
        let sender = Sender { caller: "tests", key: Some("a") };
        let (now, random) = (yard.ambient.now(), yard.ambient.random());
        let prepared =
            intake::prepare(&submission, digest, sender, &situation, Taking::default(), now, random).unwrap();
        let job = intake::accept(&yard, vec![prepared]).await.unwrap().remove(0).unwrap().job.id;
        Self { home, listener: Listener { yard: yard.clone() }, yard, job }
    }

    fn emitted(&self, n: u64, line: &str) -> Vec<u8> {
        let at = self.yard.ambient.now();
        let emitted = Emitted { job: self.job, epoch: Epoch(1), n, at, line: line.to_owned() };
        wire::encode_emitted(&emitted).into_bytes()
    }

    async fn hear(&self, records: &[Vec<u8>]) -> Value {
        self.listener.listen(&batch(records), Duration::from_secs(60)).await.unwrap()
    }

    async fn kept(&self) -> Vec<u64> {
        let query = RecordQuery { job: self.job, kind: None, after: None, limit: 500 };
        self.yard.ledger.records(&query).await.unwrap().iter().map(|record| record.n).collect()
    }
}

/// A batch as Lambda brings it: the recorded event's own record, with these data.
fn batch(records: &[Vec<u8>]) -> Value {
    let mut event = read_json(&here("tests/events/example-kinesis-event.json"));
    let recorded = event["Records"][0].clone();
    let record = |(n, data): (u64, &Vec<u8>)| {
        let mut record = recorded.clone();
        record["kinesis"]["sequenceNumber"] = format!("4957330027108401{n:040}").into();
        record["kinesis"]["data"] = STANDARD.encode(data).into();
        record
    };
    event["Records"] = (0..).zip(records).map(record).collect::<Vec<_>>().into();
    event
}

fn asset(n: u64) -> String {
    format!(r#"{{"kind":"asset","id":"host:{n}","port":{n}}}"#)
}

const NOTHING_FAILED: &str = r#"{"batchItemFailures":[]}"#;

#[tokio::test]
async fn a_recorded_event_of_somebody_else_s_stream_is_parked_whole_and_acknowledged() {
    let scene = Scene::new().await;
    let event = read_json(&here("tests/events/example-kinesis-event.json"));
    let answer = scene.listener.listen(&event, Duration::from_secs(60)).await.unwrap();
    assert_eq!(answer.to_string(), NOTHING_FAILED);
    let parked = scene.home.parked();
    assert_eq!(parked.len(), event["Records"].as_array().unwrap().len());
    let data = event["Records"][0]["kinesis"]["data"].as_str().unwrap();
    assert_eq!(parked[0].body.as_bytes(), STANDARD.decode(data).unwrap(), "as it came");
    assert_eq!(parked[0].refused.code, Code::Unreadable);
}

#[tokio::test]
async fn a_batch_of_everything_keeps_the_good_and_parks_the_bad_also_when_it_comes_twice() {
    let scene = Scene::new().await;
    let e = |n, line: &str| scene.emitted(n, line);
    let records = [
        e(3, &asset(3)),
        e(1, &asset(1)),
        b"malformed".to_vec(),
        e(2, r#"{"kind":"asset","id":"x","port":"no number"}"#),
        e(1, &asset(1)),
        e(1, &asset(9)),
        e(4, &format!(r#"{{"kind":"asset","id":"{}"}}"#, "x".repeat(300_000))),
        vec![0xff; 10],
        e(5, r#"{"kind":"metric","name":"m","value":1}"#),
        Vec::new(),
    ];
    for _ in 0..2 {
        assert_eq!(scene.hear(&records).await.to_string(), NOTHING_FAILED);
    }
    assert_eq!(scene.kept().await, [1, 3, 5]);
    let mut codes: Vec<&str> = scene.home.parked().iter().map(|parked| parked.refused.code.as_str()).collect();
    codes.sort_unstable();
    assert_eq!(codes, ["conflict", "does_not_fit", "too_large", "unreadable", "unreadable", "unreadable"]);
}

#[tokio::test]
async fn events_that_are_no_batch_of_a_stream_fail_nothing_and_lose_nothing() {
    let scene = Scene::new().await;
    for event in [json!({}), json!(null), json!([]), json!({ "Records": [] }), json!({ "Records": 7 })] {
        let answer = scene.listener.listen(&event, Duration::from_secs(60)).await.unwrap();
        assert_eq!(answer.to_string(), NOTHING_FAILED, "{event}");
    }
    let odd = json!({ "Records": [null, 7, {}, { "kinesis": {} }, { "kinesis": { "data": 7 } }] });
    scene.listener.listen(&odd, Duration::from_secs(60)).await.unwrap();
    assert_eq!(scene.home.parked().len(), 5);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// A source that brings everything again from the first failure on, as Lambda does: whatever answers are lost, in the end
    /// all is kept once or parked once.
    #[test]
    fn a_source_that_goes_on_from_the_first_failure_loses_nothing(
        bad in prop::collection::vec(any::<bool>(), 1..30),
        losses in prop::collection::vec(0..12_u64, 30),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let scene = Scene::new().await;
            let of = |(n, bad): (u64, &bool)| scene.emitted(n, &if *bad { "{".to_owned() } else { asset(n) });
            let records: Vec<Vec<u8>> = (1..).zip(&bad).map(of).collect();
            let mut from = 0;
            let mut losses = losses.into_iter();
            while from < records.len() {
                scene.home.lose(losses.next().unwrap_or(0));
                let event = batch(&records[from..]);
                let answered = scene.listener.listen(&event, Duration::from_secs(60)).await;
                let Ok(answer) = answered else { continue };
                let Some(failed) = answer["batchItemFailures"][0]["itemIdentifier"].as_str() else { break };
                let of_batch = event["Records"].as_array().unwrap();
                from += of_batch.iter().position(|record| record["kinesis"]["sequenceNumber"] == failed).unwrap();
            }
            let good: Vec<u64> = (1..).zip(&bad).filter(|(_, bad)| !**bad).map(|(n, _)| n).collect();
            assert_eq!(scene.kept().await, good);
            assert_eq!(scene.home.parked().len(), bad.len() - good.len());
            let query =
                RegisterQuery { register: Register::Assets, capability: None, since: None, after: None, limit: 500 };
            assert_eq!(scene.yard.ledger.registered(&query).await.unwrap().entries.len(), good.len());
        });
    }
}
