//! The listeners' whole way, from what Lambda invokes them with to the jobs of a yard in memory and the objects that are
//! parked.

#[path = "../yard/mod.rs"]
mod yard;

mod batches;
mod bucket;
mod malformed;
mod recorded;
mod records;
mod tasks;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use switchyard_builtins::builtin;
use switchyard_core::catalog::Catalog;
use switchyard_core::job::JobId;
use switchyard_core::memory::Memory;
use switchyard_core::policies::{Policies, Shelf};
use switchyard_core::ports::{Ledger, Query, Yard};
use switchyard_core::route::Limits;
use switchyard_functions::callers::{Gateway, Roles};
use switchyard_functions::findings::{ComeAgain, Listener};
use switchyard_functions::parked::Parking;
use switchyard_worker::policies;

use crate::bucket::Buckets;

/// The policies that a yard has when it is given none, in force.
pub(crate) fn shelf() -> Arc<Shelf> {
    static SHELF: OnceLock<Arc<Shelf>> = OnceLock::new();
    let parse = || Policies::parse(&policies::built_in(), builtin::ALL, None).unwrap_or_else(|wrong| panic!("{wrong}"));
    Arc::clone(SHELF.get_or_init(|| Arc::new(Shelf::new(parse()))))
}

/// A yard in memory with those policies.
pub(crate) fn empty_yard() -> (Memory, Yard) {
    let memory = Memory::new(Timestamp::from_second(1_800_000_000).unwrap(), 7);
    let yard = Yard { shelf: shelf(), ..memory.yard(Catalog::default(), Limits::default()) };
    (memory, yard)
}

/// finding_listener, with a yard and buckets of its own.
pub(crate) struct Scene {
    pub(crate) memory: Memory,
    pub(crate) buckets: Buckets,
    listener: Listener,
}

impl Scene {
    pub(crate) async fn new() -> Self {
        Self::with(Buckets::start().await)
    }

    pub(crate) fn with(buckets: Buckets) -> Self {
        let (memory, yard) = empty_yard();
        let listener = Listener {
            api: yard::api(yard, Arc::new(Gateway::new(Roles::default()))),
            objects: buckets.clients.s3(),
            parking: Parking::new(&buckets.clients, "yard", "finding_listener"),
        };
        Self { memory, buckets, listener }
    }

    /// An invocation that has a minute.
    pub(crate) async fn hear(&self, event: Value) -> Result<Value, ComeAgain> {
        self.hear_within(event, Duration::from_secs(60)).await
    }

    pub(crate) async fn hear_within(&self, event: Value, left: Duration) -> Result<Value, ComeAgain> {
        self.listener.listen(event, left).await
    }

    /// The jobs there are, by their ids.
    pub(crate) async fn jobs(&self) -> Vec<JobId> {
        let jobs = self.memory.list(&Query { limit: 500, ..Query::default() }).await.unwrap();
        let mut ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
        ids.sort();
        ids
    }

    /// How many events are kept because nothing answers them.
    pub(crate) async fn unmapped(&self) -> u64 {
        self.memory.unmapped_count().await.unwrap().events
    }
}

/// A finding of GuardDuty about this instance: one job under the shipped mappings.
pub(crate) fn a_finding(instance: &str) -> Value {
    let mut event = read_json(&here("../core/tests/events/made/guardduty-instance.json"));
    event["detail"]["id"] = format!("finding-{instance}").into();
    event["detail"]["resource"]["instanceDetails"]["instanceId"] = instance.into();
    event
}

/// A batch of SQS: messages by their ids and bodies.
pub(crate) fn sqs<'a>(messages: impl IntoIterator<Item = (&'a str, String)>) -> Value {
    let record = |(id, body): (&str, String)| {
        json!({
            "messageId": id, "receiptHandle": "r", "body": body, "attributes": { "ApproximateReceiveCount": "1" },
            "eventSource": "aws:sqs", "eventSourceARN": "arn:aws:sqs:eu-central-1:123456789012:yard-findings",
        })
    };
    json!({ "Records": messages.into_iter().map(record).collect::<Vec<_>>() })
}

/// The answer that acknowledges a batch but for these messages.
pub(crate) fn failed(ids: &[&str]) -> Value {
    let failed: Vec<Value> = ids.iter().map(|id| json!({ "itemIdentifier": id })).collect();
    json!({ "batchItemFailures": failed })
}

/// S3's notification of these objects of the drop box; keys as S3 writes them there.
pub(crate) fn s3_notification(keys: &[&str]) -> Value {
    let record = |key: &&str| {
        let s3 = json!({ "bucket": { "name": "drop" }, "object": { "key": key, "size": 1 } });
        json!({ "eventVersion": "2.1", "eventSource": "aws:s3", "eventName": "ObjectCreated:Put", "s3": s3 })
    };
    json!({ "Records": keys.iter().map(record).collect::<Vec<_>>() })
}

pub(crate) fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

pub(crate) fn read_json(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The JSON files of these folders, by their names.
pub(crate) fn events(folders: &[&str]) -> Vec<(String, Value)> {
    let files =
        folders.iter().flat_map(|folder| fs::read_dir(here(folder)).unwrap()).map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|end| end == "json")).collect();
    files.sort();
    assert!(files.len() >= folders.len());
    files.iter().map(|path| (path.file_stem().unwrap().to_string_lossy().into_owned(), read_json(path))).collect()
}
