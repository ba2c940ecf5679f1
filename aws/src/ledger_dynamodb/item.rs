//! How things lie in the table: keys, attributes, and what each index needs of a record. Plain functions over values.
//!
//! Names of attributes are short, for every write pays for them too.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use jiff::Timestamp;
use switchyard_core::dispatch;
use switchyard_core::job::{Job, JobId, Phase, State};
use switchyard_core::ports::{Body, PortError};
use switchyard_core::route::Venue;
use switchyard_core::wire;

/// What lies under one key.
pub(super) type Item = HashMap<String, AttributeValue>;

/// The table's partition key.
pub(super) const PK: &str = "pk";
/// The table's sort key.
pub(super) const SK: &str = "sk";
/// The sort key of a record; its payload and results are `P` and `R#epoch` beside it.
pub(super) const MAIN: &str = "M";
/// The record itself, as `core`'s wire has it.
pub(super) const RECORD: &str = "rec";
/// The record's revision.
pub(super) const REVISION: &str = "rev";
/// A payload that is short enough to lie in the record's item.
pub(super) const PAYLOAD: &str = "pay";
/// When DynamoDB may remove the item by itself, in seconds since 1970. Declared as the table's time to live.
pub(super) const GONE: &str = "gone";
/// Index `due`: a shard of what is open (`D#`) or has ended and owes nothing (`E#`),
pub(super) const DUE_KEY: &str = "dk";
/// and when it is due, or when it ended.
pub(super) const DUE_AT: &str = "da";
/// Index `recent`: a shard of all jobs.
pub(super) const RECENT_KEY: &str = "rk";
/// Index `capability`: the jobs of one.
pub(super) const CAPABILITY_KEY: &str = "ck";
/// When the job was accepted, and its id: what both of these are sorted by.
pub(super) const CREATED: &str = "cr";
/// Index `held`: the held jobs of a capability,
pub(super) const HELD_KEY: &str = "hk";
/// by tier, then by age.
pub(super) const HELD_AT: &str = "ha";
/// The phase.
pub(super) const PHASE: &str = "ph";
/// The capability.
pub(super) const CAPABILITY: &str = "cap";
/// The tier's rank: of what waits in a lane that lane's, else the job's own.
pub(super) const TIER: &str = "tr";
/// The permit it holds.
pub(super) const PERMIT: &str = "per";
/// Who submitted it.
pub(super) const CALLER: &str = "by";
/// Since when it waits, in milliseconds since 1970.
pub(super) const SINCE: &str = "since";
/// The venue of its last dispatch.
pub(super) const VENUE: &str = "ven";
/// What its runs cost, in nano-dollars.
pub(super) const COST: &str = "usd";
/// There is something beside the item: a payload or result of its own, or a blob.
pub(super) const BESIDE: &str = "big";

/// What the index `due` shows of a record beside its keys.
pub(super) const SHOWN: [&str; 9] = [PHASE, CAPABILITY, TIER, PERMIT, CALLER, SINCE, VENUE, COST, BESIDE];

/// Partitions of the indexes over all jobs. An index partition takes 1,000 writes a second (DynamoDB's quota for one
/// partition); a job writes about six entries of `due` in its life, so that eight take some 1,300 jobs a second, and a
/// reaper's round asks eight questions.
pub(super) const SHARDS: u8 = 8;

/// The longest payload or result that lies in the record's own item. Beside it, it would cost a second item, and both
/// twice, because they must be written together; in it, each of the two or three later writes pays for it again.
pub(super) const NEAR_BYTES: usize = 1024;

pub(super) fn s(text: impl Into<String>) -> AttributeValue {
    AttributeValue::S(text.into())
}

pub(super) fn n(number: impl ToString) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

pub(super) fn text<'a>(item: &'a Item, name: &str) -> Option<&'a str> {
    item.get(name)?.as_s().ok().map(String::as_str)
}

pub(super) fn number(item: &Item, name: &str) -> Option<i64> {
    item.get(name)?.as_n().ok()?.parse().ok()
}

pub(super) fn time(item: &Item, name: &str) -> Option<Timestamp> {
    Timestamp::from_millisecond(number(item, name)?).ok()
}

/// A key of the table.
pub(super) fn key(pk: impl Into<String>, sk: impl Into<String>) -> Item {
    Item::from([(PK.to_owned(), s(pk)), (SK.to_owned(), s(sk))])
}

/// The partition of a job and all that lies beside it.
pub(super) fn job_pk(id: JobId) -> String {
    format!("J#{id}")
}

/// What lies under a partition key of the table or of an index, as errors tell it; `None`: all sorts of things do.
pub(super) fn named(pk: &str) -> Option<String> {
    match pk.split_once('#')? {
        ("J", id) => Some(format!("job {id}")),
        ("B", holder) => Some(format!("holder {holder}")),
        ("C" | "H" | "L", capability) => Some(format!("capability {capability}")),
        // Whose it is stands there as a hash.
        ("Q", _) => Some("a caller".to_owned()),
        ("O", id) => Some(format!("records of job {id}")),
        ("G", _) => Some("the register".to_owned()),
        ("U", id) => Some(format!("unmapped event {id}")),
        ("A", of) => Some(format!("the loans of {of}")),
        _ => None,
    }
}

/// The key of a job's record.
pub(super) fn main_key(id: JobId) -> Item {
    key(job_pk(id), MAIN)
}

/// The sort key of a payload or result that lies beside its record; epoch 0 is the payload.
pub(super) fn beside(epoch: u32) -> String {
    if epoch == 0 { "P".to_owned() } else { format!("R#{epoch}") }
}

/// The attribute of a payload or result that lies in its record's item.
pub(super) fn near(epoch: u32) -> String {
    if epoch == 0 { PAYLOAD.to_owned() } else { format!("r{epoch}") }
}

/// The job that a partition of [`job_pk`] is of.
pub(super) fn job_of_pk(item: &Item) -> Option<JobId> {
    text(item, PK)?.strip_prefix("J#")?.parse().ok()
}

/// Which shard a job is in: by a byte that is random in both kinds of id.
fn shard(id: JobId) -> u8 {
    id.as_bytes()[15] % SHARDS
}

/// The shards of an index, by the letter of what lies there.
pub(super) fn shards(letter: char) -> impl Iterator<Item = String> {
    (0..SHARDS).map(move |shard| format!("{letter}#{shard}"))
}

/// What sorts by acceptance: milliseconds padded so that texts sort as numbers, and the id after them.
pub(super) fn created_key(created: Timestamp, id: impl std::fmt::Display) -> String {
    format!("{:015}#{id}", created.as_millisecond().max(0))
}

/// A record's time to live and its use: whether the table forgets by itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Forgetting {
    /// How long after its end a job is kept by DynamoDB's own time to live; `None`: until somebody removes it.
    pub(super) retention: Option<std::time::Duration>,
}

/// Everything that is written of a record at each of its writes: what is set, and what is removed.
#[derive(Debug, PartialEq)]
pub(super) struct Columns {
    pub(super) set: Vec<(&'static str, AttributeValue)>,
    pub(super) remove: Vec<&'static str>,
}

/// When the table may forget a record by itself, where nothing of it lies outside its item; `None`: not yet.
pub(super) fn gone(job: &Job, forgetting: Forgetting) -> Option<AttributeValue> {
    match &job.state {
        State::Settled(settlement) if job.due.is_none() => {
            forgetting.retention.map(|retention| n((settlement.at + retention).as_second()))
        }
        State::Settled(_)
        | State::Delayed { .. }
        | State::Held { .. }
        | State::Dispatched { .. }
        | State::Running(_) => None,
    }
}

/// What the indexes need of a record, beside the record.
pub(super) fn columns(job: &Job) -> Columns {
    let mut columns = Columns { set: Vec::with_capacity(16), remove: Vec::with_capacity(8) };
    let mut put = |name: &'static str, value: Option<AttributeValue>| match value {
        Some(value) => columns.set.push((name, value)),
        None => columns.remove.push(name),
    };
    put(RECORD, Some(s(wire::encode(job))));
    put(REVISION, Some(n(job.revision)));
    let ended = match &job.state {
        State::Settled(settlement) => Some(settlement.at),
        State::Delayed { .. } | State::Held { .. } | State::Dispatched { .. } | State::Running(_) => None,
    };
    let (letter, at) = match (job.due, ended) {
        (Some(due), _) => ('D', Some(due)),
        (None, ended) => ('E', ended),
    };
    put(DUE_KEY, at.map(|_| s(format!("{letter}#{}", shard(job.id)))));
    put(DUE_AT, at.map(|at| n(at.as_millisecond())));
    put(PHASE, Some(s(job.phase().as_str())));
    put(CAPABILITY, Some(s(&*job.work.capability)));
    let waits = match &job.state {
        State::Dispatched { at, .. } if job.route.venue() == Venue::Fleet => Some((dispatch::lane(job).tier, *at)),
        State::Held { since } => Some((job.work.tier, *since)),
        State::Dispatched { .. } | State::Delayed { .. } | State::Running(_) | State::Settled(_) => None,
    };
    put(TIER, waits.map(|(tier, _)| n(tier.rank())));
    put(SINCE, waits.map(|(_, since)| n(since.as_millisecond())));
    put(PERMIT, job.permit.map(n));
    put(CALLER, Some(s(&*job.work.caller)));
    put(VENUE, Some(s(job.route.venue().as_str())));
    put(COST, Some(n(job.spent_nanodollars)));
    let held = job.phase() == Phase::Held;
    put(HELD_KEY, held.then(|| s(held_pk(&job.work.capability))));
    put(HELD_AT, held.then(|| s(held_at(job))));
    columns
}

/// The partition of a capability's held jobs.
pub(super) fn held_pk(capability: &str) -> String {
    format!("H#{capability}")
}

fn held_at(job: &Job) -> String {
    format!("{}#{}", job.work.tier.rank(), created_key(job.created, job.id))
}

/// The partition of a capability's permits.
pub(super) fn permits_pk(capability: &str) -> String {
    format!("L#{capability}")
}

/// The key of one permit.
pub(super) fn permit_key(capability: &str, permit: u16) -> Item {
    key(permits_pk(capability), format!("{permit:05}"))
}

/// The partition of a capability's jobs.
pub(super) fn capability_pk(capability: &str) -> String {
    format!("C#{capability}")
}

/// Whether a body is short enough for its record's item. A blob's name is, but its job has something beside it.
pub(super) fn is_near(encoded: &str) -> bool {
    encoded.len() <= NEAR_BYTES
}

/// Whether something of this payload or result lies outside the record's item.
pub(super) fn lies_beside(body: &Body, encoded: &str) -> bool {
    matches!(body, Body::Blob(_)) || !is_near(encoded)
}

/// A new job's item, but for its payload.
pub(super) fn new_item(job: &Job) -> Item {
    let mut item = main_key(job.id);
    item.extend(columns(job).set.into_iter().map(|(name, value)| (name.to_owned(), value)));
    item.insert(RECENT_KEY.to_owned(), s(format!("R#{}", shard(job.id))));
    item.insert(CAPABILITY_KEY.to_owned(), s(capability_pk(&job.work.capability)));
    item.insert(CREATED.to_owned(), s(created_key(job.created, job.id)));
    item
}

/// About how many bytes DynamoDB counts for an item: its names and its values.
pub(super) fn size(item: &Item) -> usize {
    let value = |value: &AttributeValue| match value {
        AttributeValue::S(text) => text.len(),
        AttributeValue::N(digits) => digits.len() / 2 + 2,
        _ => 1,
    };
    item.iter().map(|(name, of)| name.len() + value(of)).sum()
}

/// The job whose record an item holds.
pub(super) fn job(item: &Item, operation: &'static str) -> Result<Job, PortError> {
    let subject = || text(item, PK).and_then(named).unwrap_or_else(|| "an item".to_owned());
    let record =
        text(item, RECORD).ok_or_else(|| PortError::permanent(operation, subject(), "its item holds no record"))?;
    wire::decode(record).map_err(|error| PortError::permanent(operation, subject(), error))
}

/// The payload (epoch 0) or result that lies in a record's item.
pub(super) fn near_body(item: &Item, epoch: u32, operation: &'static str) -> Result<Option<Body>, PortError> {
    text(item, &near(epoch)).map(|text| body(item, text, operation)).transpose()
}

/// A payload or result as stored.
pub(super) fn body(item: &Item, encoded: &str, operation: &'static str) -> Result<Body, PortError> {
    let subject = || text(item, PK).and_then(named).unwrap_or_else(|| "an item".to_owned());
    wire::decode_body(encoded).map_err(|error| PortError::permanent(operation, subject(), error))
}

/// Where a payload or result lies that is in an item of its own.
pub(super) const BODY: &str = "body";

/// An expression of DynamoDB's, put together from names and values. Every name goes in by a placeholder: 573 words are
/// reserved, and neither emulator knows them.
#[derive(Clone, Debug, Default)]
pub(super) struct Expression {
    pub(super) names: HashMap<String, String>,
    pub(super) values: Item,
    sets: Vec<String>,
    removes: Vec<String>,
}

impl Expression {
    /// The placeholder of an attribute.
    pub(super) fn name(&mut self, name: &str) -> String {
        let placeholder = format!("#{name}");
        self.names.insert(placeholder.clone(), name.to_owned());
        placeholder
    }

    /// The placeholder of a value.
    pub(super) fn value(&mut self, name: &str, value: AttributeValue) -> String {
        let placeholder = format!(":{name}");
        self.values.insert(placeholder.clone(), value);
        placeholder
    }

    /// Sets an attribute.
    pub(super) fn set(&mut self, name: &str, value: AttributeValue) {
        let set = format!("{} = {}", self.name(name), self.value(name, value));
        self.sets.push(set);
    }

    /// Removes an attribute.
    pub(super) fn remove(&mut self, name: &str) {
        let name = self.name(name);
        self.removes.push(name);
    }

    /// Sets and removes what a record's write does.
    pub(super) fn write(&mut self, columns: Columns) {
        for (name, value) in columns.set {
            self.set(name, value);
        }
        for name in columns.remove {
            self.remove(name);
        }
    }

    /// The update itself.
    pub(super) fn update(&self) -> String {
        let mut update = format!("SET {}", self.sets.join(", "));
        if !self.removes.is_empty() {
            update.push_str(" REMOVE ");
            update.push_str(&self.removes.join(", "));
        }
        update
    }
}
