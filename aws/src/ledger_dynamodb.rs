//! Job records in one DynamoDB table.
//!
//! Under one partition key lies a job's record, small as it is, and beside it what is written once: a payload or result
//! over 1 KiB. Every write of a record is one conditional update of its item, on its revision; whatever must change
//! with it (a permit, a large result) goes into one transaction with it. A refused write is answered with the item as
//! it is: one's own nonce there means that the write took effect and its answer was lost.
//!
//! Indexes lag. Lists are made of keys from an index, read again from the table and judged again; what an index does
//! not show yet, the next look shows.

mod accept;
mod brakes;
mod item;
mod lists;
mod loans;
mod live;
mod marks;
mod records;
mod table;
mod unmapped;
mod write;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::KeysAndAttributes;
use jiff::Timestamp;
use switchyard_core::brake::{Pause, Pauses, Scope};
use switchyard_core::job::{Epoch, Holder, Job, JobId, Phase, Tier};
use switchyard_core::lend::{LoanId, LoanNote, LoanQuery};
use switchyard_core::policies::Situation;
use switchyard_core::ports::{
    Acceptance, Ambient, Beat, Body, Claim, Claimed, Depths, Kept, Ledger, NewJob, Permits, PortError, Query,
    RecordQuery, Saved, Spend, Unmapped, UnmappedCount, UnmappedId, UnmappedRoom, UnmappedSummary, Worker, Workers,
};
use switchyard_core::quota::{Drawn, Rate};
use switchyard_core::records::{Record, RegisterPage, RegisterQuery};
use switchyard_core::schedule::Ticked;
use switchyard_core::wire;

use self::item::{BODY, Forgetting, Item, PK, SK, beside, job_pk, key, main_key, near, near_body, number, s, text};
use crate::clients::Clients;
use crate::failure::failed;
use crate::sightings::Sightings;

/// How long what is paused and who works is taken to be as it was read. A pause is answered only when it has been so
/// for this long: then nobody who asks after the answer can still act on what was read before it.
pub const LIVE: Duration = Duration::from_secs(5);
/// Tries of a write that others were in the way of, at once, before the caller hears of it: three seconds or so.
const CONFLICTS: u32 = 16;
/// How long a beat is kept after it: a holder is long dead by then.
const BEAT_KEPT: Duration = Duration::from_secs(24 * 3600);

/// The ledger. Clones are the same ledger.
#[derive(Clone)]
pub struct DynamoLedger(Arc<Inner>);

struct Inner {
    client: Client,
    table: String,
    ambient: Arc<dyn Ambient>,
    /// What this process read and wrote.
    sightings: Sightings,
    /// What doorbells brought along: a claim may start from it, and nothing else.
    hints: Arc<Sightings>,
    forgetting: Forgetting,
    unmapped_room: UnmappedRoom,
    live_for: Duration,
    /// Held while it is read: whoever asks meanwhile takes what that brings.
    live: tokio::sync::Mutex<Option<(Instant, Arc<live::Live>)>>,
    /// Capabilities of which the table knows that some of their jobs may be held.
    held: Mutex<HashSet<String>>,
    /// Since when no job of a limited capability has run without a permit, as far as this process saw.
    numbered: Mutex<HashMap<String, Instant>>,
}

/// How a ledger is set up.
#[derive(Clone, Debug)]
pub struct DynamoSettings {
    /// The table's name.
    pub table: String,
    /// How long DynamoDB's time to live keeps a job after its end, where the table has it; `None`: only the reaper
    /// forgets.
    pub time_to_live: Option<Duration>,
    /// The room for events that no mapping answers.
    pub unmapped_room: UnmappedRoom,
    /// How long what was read of pauses and workers holds; [`LIVE`] unless a test is in a hurry.
    pub live_for: Duration,
}

impl DynamoSettings {
    /// A table as AWS.md describes it.
    pub fn new(table: &str, retention: Duration) -> Self {
        Self {
            table: table.to_owned(),
            time_to_live: Some(retention),
            unmapped_room: UnmappedRoom::default(),
            live_for: LIVE,
        }
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic in between leaves a map without half-done entries.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl DynamoLedger {
    /// The ledger in a table. `hints` are what doorbells bring along of records, from the lanes.
    pub fn new(clients: &Clients, settings: DynamoSettings, hints: Arc<Sightings>, ambient: Arc<dyn Ambient>) -> Self {
        Self(Arc::new(Inner {
            client: clients.dynamodb(),
            table: settings.table,
            ambient,
            sightings: Sightings::default(),
            hints,
            forgetting: Forgetting { retention: settings.time_to_live },
            unmapped_room: settings.unmapped_room,
            live_for: settings.live_for,
            live: tokio::sync::Mutex::default(),
            held: Mutex::default(),
            numbered: Mutex::default(),
        }))
    }

    /// What an error says that is about the table as a whole.
    fn subject(&self, of: impl std::fmt::Display) -> String {
        format!("{of} in table {}", self.0.table)
    }

    /// What an error says that is about what lies under a partition key.
    fn subject_at(&self, pk: &str) -> String {
        item::named(pk).map_or_else(|| format!("in table {}", self.0.table), |named| self.subject(named))
    }

    /// Whether an item is over its time to live, though DynamoDB has not removed it yet: it takes days for some. Its key
    /// is free, and so it is no longer there.
    fn is_over(&self, item: &Item) -> bool {
        number(item, item::GONE).is_some_and(|gone| gone < self.0.ambient.now().as_second())
    }

    /// One item, as last written.
    async fn get(&self, key: Item, operation: &'static str) -> Result<Option<Item>, PortError> {
        let subject = || self.subject_at(text(&key, PK).unwrap_or_default());
        let got = self.0.client.get_item().table_name(&self.0.table).set_key(Some(key.clone())).consistent_read(true);
        let got = got.send().await.map_err(|error| failed(operation, subject(), &error))?;
        Ok(got.item)
    }

    /// Items by their keys, as last written, in any order; those that are not there are left out. At most 100 a call,
    /// and what a call left unprocessed is asked for again.
    async fn get_all(
        &self,
        keys: Vec<Item>,
        show: Option<&[&str]>,
        operation: &'static str,
    ) -> Result<Vec<Item>, PortError> {
        let mut found = Vec::with_capacity(keys.len());
        let subject = match keys.first().and_then(|first| text(first, PK)) {
            Some(pk) if keys.iter().all(|key| text(key, PK) == Some(pk)) => self.subject_at(pk),
            Some(_) | None => self.subject(format_args!("{} records", keys.len())),
        };
        let mut left = keys;
        let mut fruitless = 0;
        while !left.is_empty() {
            let rest = left.split_off(left.len().min(100));
            let mut wanted = KeysAndAttributes::builder().consistent_read(true);
            if let Some(show) = show {
                let mut expression = item::Expression::default();
                let shown: Vec<String> = show.iter().map(|name| expression.name(name)).collect();
                wanted = wanted.projection_expression(shown.join(", "));
                wanted = wanted.set_expression_attribute_names(Some(expression.names));
            }
            let wanted = wanted.set_keys(Some(left)).build();
            let wanted = wanted.map_err(|error| PortError::permanent(operation, &subject, error))?;
            let got = self.0.client.batch_get_item().request_items(&self.0.table, wanted).send().await;
            let got = got.map_err(|error| failed(operation, &subject, &error))?;
            let some: Vec<Item> = got.responses.into_iter().flatten().flat_map(|(_, items)| items).collect();
            let unprocessed = got.unprocessed_keys.into_iter().flatten().flat_map(|(_, keys)| keys.keys);
            left = unprocessed.collect();
            // DynamoDB says so when it is asked for more than it may give just now.
            fruitless = if some.is_empty() && !left.is_empty() { fruitless + 1 } else { 0 };
            if fruitless >= CONFLICTS {
                return Err(PortError::retryable(operation, &subject, "DynamoDB left them unprocessed"));
            }
            if !left.is_empty() {
                self.wait(fruitless + 1).await;
            }
            found.extend(some);
            left.extend(rest);
        }
        Ok(found)
    }

    /// Lets whoever is in the way finish: 10 ms, doubled from try to try up to 320.
    async fn wait(&self, tried: u32) {
        let pause = switchyard_core::ports::backoff(Duration::from_millis(10), tried.min(6), self.0.ambient.chance());
        tokio::time::sleep(pause).await;
    }

    async fn load_now(&self, id: JobId) -> Result<Option<Job>, PortError> {
        let item = self.get(main_key(id), "load").await?;
        let Some(item) = item.filter(|item| !self.is_over(item)) else {
            self.0.sightings.forget(id);
            return Ok(None);
        };
        let job = item::job(&item, "load")?;
        self.0.sightings.note(&job);
        Ok(Some(job))
    }

    /// A payload (epoch 0) or result: in the record's item, or beside it.
    async fn body(&self, id: JobId, epoch: Epoch, operation: &'static str) -> Result<Option<Body>, PortError> {
        let keys = vec![main_key(id), key(job_pk(id), beside(epoch.0))];
        let attribute = near(epoch.0);
        let items = self.get_all(keys, Some(&[PK, SK, BODY, &attribute]), operation).await?;
        // A payload whose record is gone is nobody's.
        if !items.iter().any(|item| text(item, SK) == Some(item::MAIN)) {
            return Ok(None);
        }
        for item in &items {
            if let Some(encoded) = text(item, BODY) {
                return item::body(item, encoded, operation).map(Some);
            }
            if let Some(body) = near_body(item, epoch.0, operation)? {
                return Ok(Some(body));
            }
        }
        Ok(None)
    }

    async fn watch_for(&self, id: JobId, seen: u64, patience: Duration) -> Result<Option<Job>, PortError> {
        // Nothing tells of a change: it is asked for, ever more rarely. A wait over HTTP is 30 s at most.
        let until = tokio::time::Instant::now() + patience;
        let mut pause = Duration::from_millis(100);
        loop {
            let job = self.load_now(id).await?;
            let left = until.saturating_duration_since(tokio::time::Instant::now());
            if left.is_zero() || job.as_ref().is_none_or(|job| job.revision > seen) {
                return Ok(job);
            }
            tokio::time::sleep(pause.min(left)).await;
            pause = (pause * 2).min(Duration::from_secs(2));
        }
    }

    async fn keep_beat(&self, beat: &Beat) -> Result<(), PortError> {
        let mut item = key(format!("B#{}", beat.holder), "B");
        let gone = self.0.ambient.now() + BEAT_KEPT;
        item.insert("cnt".to_owned(), item::n(beat.counter));
        item.insert("run".to_owned(), s(wire::encode_runs(&beat.running)));
        item.insert(item::GONE.to_owned(), item::n(gone.as_second()));
        let mut only = item::Expression::default();
        // Two beats under way at once may arrive in any order; the newest stays.
        let condition = format!(
            "attribute_not_exists({}) OR {} <= {}",
            only.name(PK),
            only.name("cnt"),
            only.value("cnt", item::n(beat.counter))
        );
        let put = self.0.client.put_item().table_name(&self.0.table).set_item(Some(item));
        let put = put.condition_expression(condition);
        let put = put.set_expression_attribute_names(Some(only.names));
        let put = put.set_expression_attribute_values(Some(only.values));
        match put.send().await {
            Err(error) if crate::failure::code(&error) == Some(write::REFUSED) => Ok(()),
            sent => sent.map(drop).map_err(|error| failed("beat for", self.subject(&beat.holder), &error)),
        }
    }

    async fn newest_beat(&self, holder: &Holder) -> Result<Option<Beat>, PortError> {
        let operation = "read the beat of";
        let Some(item) = self.get(key(format!("B#{holder}"), "B"), operation).await? else { return Ok(None) };
        let unreadable = |what: &'static str| PortError::permanent(operation, holder, what);
        let counter = number(&item, "cnt").ok_or_else(|| unreadable("it has no counter"))?.unsigned_abs();
        let running = text(&item, "run").ok_or_else(|| unreadable("it names no runs"))?;
        let running = wire::decode_runs(running).map_err(|error| PortError::permanent(operation, holder, error))?;
        Ok(Some(Beat { holder: holder.clone(), counter, running }))
    }
}

#[async_trait]
impl Ledger for DynamoLedger {
    async fn accept(&self, jobs: Vec<NewJob>) -> Result<Vec<Acceptance>, PortError> {
        self.accept_all(jobs).await
    }

    async fn load(&self, id: JobId) -> Result<Option<Job>, PortError> {
        self.load_now(id).await
    }

    async fn load_all(&self, ids: &[JobId]) -> Result<Vec<Job>, PortError> {
        // DynamoDB refuses a batch that names a key twice: a holder may run a job at two epochs for a moment.
        let ids: std::collections::BTreeSet<JobId> = ids.iter().copied().collect();
        let keys = ids.into_iter().map(main_key).collect();
        let items = self.get_all(keys, Some(&[PK, SK, item::RECORD, item::GONE]), "load").await?;
        items.iter().filter(|item| !self.is_over(item)).map(|item| item::job(item, "load")).collect()
    }

    async fn glimpse(&self, id: JobId) -> Result<Option<Job>, PortError> {
        match self.0.sightings.seen(id) {
            Some(job) => Ok(Some(job)),
            None => self.load_now(id).await,
        }
    }

    async fn save(&self, job: Job, result: Option<Body>) -> Result<Saved, PortError> {
        self.save_one(&job, result).await
    }

    async fn claim(&self, claim: &Claim, situation: &Situation, now: Timestamp) -> Result<Claimed, PortError> {
        self.claim_one(claim, situation, now).await
    }

    async fn payload(&self, id: JobId) -> Result<Option<Body>, PortError> {
        self.body(id, Epoch(0), "read the payload of").await
    }

    async fn result(&self, id: JobId, epoch: Epoch) -> Result<Option<Body>, PortError> {
        if epoch == Epoch(0) {
            return Ok(None);
        }
        self.body(id, epoch, "read the result of").await
    }

    async fn due(&self, now: Timestamp, limit: usize) -> Result<Vec<JobId>, PortError> {
        self.due_by(now, limit).await
    }

    async fn list(&self, query: &Query) -> Result<Vec<Job>, PortError> {
        self.list_jobs(query).await
    }

    async fn count(&self) -> Result<Vec<(Phase, u64)>, PortError> {
        self.count_phases().await
    }

    async fn permits(&self, capability: &str) -> Result<Permits, PortError> {
        self.permits_of(capability).await
    }

    async fn held(&self, capability: &str, tiers: &[Tier], limit: usize) -> Result<Vec<Job>, PortError> {
        self.held_of(capability, tiers, limit).await
    }

    async fn holding(&self) -> Result<Vec<String>, PortError> {
        self.capabilities_held().await
    }

    async fn pauses(&self) -> Result<Arc<Pauses>, PortError> {
        Ok(Arc::clone(&self.live().await?.pauses))
    }

    async fn set_pause(&self, scope: &Scope, pause: Option<&Pause>) -> Result<(), PortError> {
        self.keep_pause(scope, pause).await
    }

    async fn depths(&self, since: Timestamp) -> Result<Depths, PortError> {
        self.count_depths(since).await
    }

    async fn open_jobs(&self, caller: &str, most: u64) -> Result<u64, PortError> {
        self.open_jobs_of(caller, most).await
    }

    async fn draw(&self, caller: &str, n: u32, rate: Rate, now: Timestamp) -> Result<Drawn, PortError> {
        self.draw_from(caller, n, rate, now).await
    }

    async fn watch(&self, id: JobId, seen: u64, patience: Duration) -> Result<Option<Job>, PortError> {
        self.watch_for(id, seen, patience).await
    }

    async fn spend(&self, since: Timestamp) -> Result<Vec<Spend>, PortError> {
        self.spend_since(since).await
    }

    async fn beat(&self, beat: &Beat) -> Result<(), PortError> {
        self.keep_beat(beat).await
    }

    async fn last_beat(&self, holder: &Holder) -> Result<Option<Beat>, PortError> {
        self.newest_beat(holder).await
    }

    async fn forgettable(&self, settled_before: Timestamp, limit: usize) -> Result<Vec<JobId>, PortError> {
        self.forgettable_by(settled_before, limit).await
    }

    async fn last_ticks(&self) -> Result<BTreeMap<String, Ticked>, PortError> {
        self.ticks().await
    }

    async fn ticked(&self, schedule: &str, ticked: Option<&Ticked>) -> Result<(), PortError> {
        self.keep_tick(schedule, ticked).await
    }

    async fn forget(&self, ids: &[JobId]) -> Result<(), PortError> {
        self.forget_all(ids).await
    }

    async fn keep_unmapped(&self, event: Unmapped) -> Result<(), PortError> {
        self.keep_unmapped_event(event).await
    }

    async fn unmapped(
        &self,
        before: Option<(Timestamp, UnmappedId)>,
        limit: usize,
    ) -> Result<Vec<UnmappedSummary>, PortError> {
        self.list_unmapped(before, limit).await
    }

    async fn unmapped_event(&self, id: UnmappedId) -> Result<Option<Unmapped>, PortError> {
        self.load_unmapped(id).await
    }

    async fn forget_unmapped(&self, ids: &[UnmappedId]) -> Result<(), PortError> {
        self.forget_unmapped_events(ids).await
    }

    async fn unmapped_count(&self) -> Result<UnmappedCount, PortError> {
        self.count_unmapped().await
    }

    async fn note_loan(&self, note: &LoanNote) -> Result<(), PortError> {
        self.note_one_loan(note).await
    }

    async fn loan(&self, job: JobId, id: LoanId) -> Result<Option<LoanNote>, PortError> {
        self.load_loan(job, id).await
    }

    async fn loans(&self, query: &LoanQuery) -> Result<Vec<LoanNote>, PortError> {
        self.list_loans(query).await
    }

    async fn keep_records(&self, records: &[Record]) -> Vec<Result<Kept, PortError>> {
        self.keep_all_records(records).await
    }

    async fn records(&self, query: &RecordQuery) -> Result<Vec<Record>, PortError> {
        self.list_records(query).await
    }

    async fn registered(&self, query: &RegisterQuery) -> Result<RegisterPage, PortError> {
        self.list_registered(query).await
    }

    async fn forget_registered(&self, _seen_before: Timestamp, _limit: usize) -> Result<u64, PortError> {
        // Each entry says when it is over: nobody is shown it from then on, and the table removes it by itself, which costs
        // nothing. To look for them would be sixteen questions in every round.
        Ok(0)
    }
}

#[async_trait]
impl Workers for DynamoLedger {
    async fn list(&self) -> Result<Vec<Worker>, PortError> {
        Ok(self.live().await?.workers.clone())
    }

    async fn perhaps(&self) -> Result<Vec<Holder>, PortError> {
        Ok(self.live().await?.perhaps.clone())
    }
}
