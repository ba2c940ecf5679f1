//! A home in memory: for tests, and for whatever plays a yard without a machine under it.
//!
//! It keeps what it is given and forgets everything with itself. Its faults are chosen by the test: [`Memory::lose`]
//! lets the next writes take effect and loses their answers, as a network does.

mod inventory;
mod records;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use event_listener::Event;
use jiff::Timestamp;

use crate::brake::{Pause, Pauses, Scope};
use crate::catalog::Catalog;
use crate::dispatch;
use crate::execute;
use crate::job::{Epoch, Holder, Job, JobId, Phase, State, Tier};
use crate::lend::{LoanId, LoanNote, LoanQuery};
use crate::policies::{Policies, Shelf, Situation};
use crate::ports::{
    self, Acceptance, Ambient, Beat, Bell, BlobRef, Blobs, Body, Claim, Claimed, Depths, FixedFleet, Herald, Lane,
    Lanes, LaunchFailed, Launcher, Ledger, LogLine, LogPage, Logs, Message, NewJob, NoLender, Permits, PortError,
    Query, Received, RecordQuery, Refusal, Saved, Spend, TaskState, TierDepth, Unmapped, UnmappedCount, UnmappedId,
    UnmappedRoom, UnmappedSummary, Worker, Workers, Yard,
};
use crate::quota::{Buckets, Drawn, Rate};
use crate::records::{Record, RegisterPage, RegisterQuery};
use crate::route::{Limits, Venue};
use crate::schedule::Ticked;

/// How long a received message stays hidden. As on AWS.
const VISIBILITY: Duration = Duration::from_secs(120);

/// Text in one page of a log, as [`Logs::read`] has it.
const PAGE_BYTES: usize = 256 * 1024;

/// The home. Clones are the same home.
#[derive(Clone, Default)]
pub struct Memory(Arc<Inner>);

#[derive(Default)]
struct Inner {
    now_ms: AtomicI64,
    dice: AtomicU64,
    lost_answers: AtomicU64,
    kept: Mutex<Kept>,
    changed: Event,
}

#[derive(Default)]
struct Kept {
    jobs: BTreeMap<JobId, Job>,
    payloads: HashMap<JobId, Body>,
    results: HashMap<(JobId, Epoch), Body>,
    beats: HashMap<Holder, Beat>,
    lanes: HashMap<Lane, VecDeque<(Message, u64)>>,
    hidden: HashMap<u64, (Lane, Message, Timestamp)>,
    receipts: u64,
    tasks: HashSet<(JobId, Epoch)>,
    launches: Vec<(Venue, Message)>,
    refuse_launches: Option<LaunchFailed>,
    blobs: HashMap<(JobId, String), String>,
    logs: BTreeMap<JobId, Vec<(Epoch, LogLine)>>,
    announced: Vec<JobId>,
    workers: Vec<Worker>,
    ticked: BTreeMap<String, Ticked>,
    pauses: Arc<Pauses>,
    buckets: Buckets,
    unmapped: BTreeMap<UnmappedId, Unmapped>,
    unmapped_dropped: u64,
    unmapped_room: UnmappedRoom,
    loans: BTreeMap<LoanId, LoanNote>,
    inventory: inventory::Kept,
    records: records::Kept,
}

impl Kept {
    /// Whether another job holds the permit that this record names.
    fn permit_taken(&self, job: &Job) -> bool {
        let of_another = |other: &Job| {
            other.id != job.id && other.work.capability == job.work.capability && other.permit == job.permit
        };
        job.permit.is_some() && self.jobs.values().any(of_another)
    }

    fn unmapped_count(&self) -> UnmappedCount {
        UnmappedCount {
            events: self.unmapped.len() as u64,
            bytes: self.unmapped.values().map(|event| event.event.len() as u64).sum(),
            dropped: self.unmapped_dropped,
        }
    }
}

impl Memory {
    /// An empty home whose clock stands at `now` and whose dice start at `seed`.
    pub fn new(now: Timestamp, seed: u64) -> Self {
        let home = Self::default();
        home.0.now_ms.store(now.as_millisecond(), Ordering::SeqCst);
        home.0.dice.store(seed, Ordering::SeqCst);
        home
    }

    /// The yard whose doors all lead here.
    pub fn yard(&self, catalog: Catalog, limits: Limits) -> Yard {
        Yard {
            ledger: Arc::new(self.clone()),
            lanes: Arc::new(self.clone()),
            launcher: Arc::new(self.clone()),
            blobs: Arc::new(self.clone()),
            logs: Arc::new(self.clone()),
            herald: Arc::new(self.clone()),
            ambient: Arc::new(self.clone()),
            workers: Arc::new(self.clone()),
            fleet: Arc::new(FixedFleet),
            lender: Arc::new(NoLender),
            conveyor: None,
            siding: Arc::new(self.clone()),
            shelf: Arc::new(Shelf::new(Policies { catalog, limits, ..Policies::default() })),
            turnstile: Arc::default(),
            meters: Arc::default(),
            retention: Duration::from_secs(7 * 24 * 3600),
        }
    }

    /// Lets time pass.
    pub fn advance(&self, by: Duration) {
        let by = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        self.0.now_ms.fetch_add(by, Ordering::SeqCst);
        self.0.changed.notify(usize::MAX);
    }

    /// The next `n` writes of the ledger take effect, and their answers are lost.
    pub fn lose(&self, n: u64) {
        self.0.lost_answers.store(n, Ordering::SeqCst);
    }

    /// From now on there is so much room for unmapped events.
    pub fn make_unmapped_room(&self, room: UnmappedRoom) {
        self.kept().unmapped_room = room;
    }

    /// From now on launches fail like this; `None`: they work again.
    pub fn refuse_launches(&self, failed: Option<LaunchFailed>) {
        self.kept().refuse_launches = failed;
    }

    /// What was launched so far.
    pub fn launches(&self) -> Vec<(Venue, Message)> {
        self.kept().launches.clone()
    }

    /// The jobs whose settlement was announced, once an announcement.
    pub fn announced(&self) -> Vec<JobId> {
        self.kept().announced.clone()
    }

    /// Who works, from now on.
    pub fn set_workers(&self, workers: Vec<Worker>) {
        self.kept().workers = workers;
    }

    /// Loses every message of every lane.
    pub fn lose_messages(&self) {
        let mut kept = self.kept();
        kept.lanes.clear();
        kept.hidden.clear();
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what the lane shows, and hides it; first brings back what was hidden long enough.
    fn take(&self, lane: &Lane, max: usize) -> Vec<(Message, u64)> {
        let now = self.now();
        let mut kept = self.kept();
        if kept.pauses.tier_paused(lane.tier) {
            return Vec::new();
        }
        let over = |(_, (_, _, until)): &(&u64, &(Lane, Message, Timestamp))| *until <= now;
        let back: Vec<u64> = kept.hidden.iter().filter(over).map(|(receipt, _)| *receipt).collect();
        for receipt in back {
            if let Some((lane, message, _)) = kept.hidden.remove(&receipt) {
                kept.lanes.entry(lane).or_default().push_back((message, receipt));
            }
        }
        let queue = kept.lanes.entry(*lane).or_default();
        let taken: Vec<(Message, u64)> = queue.drain(..queue.len().min(max)).collect();
        for (message, receipt) in &taken {
            kept.hidden.insert(*receipt, (*lane, *message, now + VISIBILITY));
        }
        taken
    }

    fn answer<T>(&self, operation: &'static str, value: T) -> Result<T, PortError> {
        self.0.changed.notify(usize::MAX);
        let lose = |n: u64| n.checked_sub(1);
        match self.0.lost_answers.fetch_update(Ordering::SeqCst, Ordering::SeqCst, lose) {
            Ok(_) => Err(PortError::retryable(operation, "something", "the answer was lost on the way")),
            Err(_) => Ok(value),
        }
    }
}

#[async_trait]
impl Ambient for Memory {
    fn now(&self) -> Timestamp {
        Timestamp::from_millisecond(self.0.now_ms.load(Ordering::SeqCst)).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    fn random(&self) -> [u8; 32] {
        // SplitMix64 (Steele, Lea, Flood 2014): small, and the same on every machine for the same seed.
        let mut bytes = [0; 32];
        for chunk in bytes.chunks_exact_mut(8) {
            let state = self.0.dice.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::SeqCst);
            let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            chunk.copy_from_slice(&(z ^ (z >> 31)).to_be_bytes());
        }
        bytes
    }

    async fn pause(&self, duration: Duration) {
        self.advance(duration);
    }
}

#[async_trait]
impl Ledger for Memory {
    async fn accept(&self, jobs: Vec<NewJob>) -> Result<Vec<Acceptance>, PortError> {
        let mut kept = self.kept();
        let acceptances = jobs
            .into_iter()
            .map(|NewJob { job, payload }| match kept.jobs.get(&job.id) {
                Some(existing) => Acceptance::Existing(Box::new(existing.clone())),
                None => {
                    kept.payloads.insert(job.id, payload);
                    kept.jobs.insert(job.id, job);
                    Acceptance::Accepted
                }
            })
            .collect();
        drop(kept);
        self.answer("accept", acceptances)
    }

    async fn load(&self, id: JobId) -> Result<Option<Job>, PortError> {
        Ok(self.kept().jobs.get(&id).cloned())
    }

    async fn save(&self, job: Job, result: Option<Body>) -> Result<Saved, PortError> {
        let mut kept = self.kept();
        let saved = match kept.jobs.get(&job.id) {
            Some(current) if current.revision + 1 == job.revision && kept.permit_taken(&job) => Saved::PermitTaken,
            Some(current) if current.revision + 1 == job.revision => {
                if let Some(result) = result {
                    kept.results.insert((job.id, job.epoch), result);
                }
                kept.jobs.insert(job.id, job);
                Saved::Saved
            }
            current => Saved::Refused(current.cloned().map(Box::new)),
        };
        drop(kept);
        self.answer("save", saved)
    }

    async fn claim(&self, claim: &Claim, situation: &Situation, now: Timestamp) -> Result<Claimed, PortError> {
        let nonce = (self as &dyn Ambient).nonce();
        let mut kept = self.kept();
        let decide = |job: &Job| (job.clone(), execute::claim(job, claim, situation, now));
        let claimed = match kept.jobs.get(&claim.id).map(decide) {
            None => Claimed::Lost(Refusal::Unknown),
            Some((_, Err(refusal))) => Claimed::Lost(refusal),
            Some((before, Ok(job))) => {
                let payload = kept.payloads.get(&job.id).cloned().unwrap_or(Body::Inline("{}".into()));
                // A repeated claim changes nothing, and so writes nothing.
                let job = if before == job { job } else { job.stamped(nonce) };
                kept.jobs.insert(job.id, job.clone());
                Claimed::Won(Box::new(job), payload)
            }
        };
        drop(kept);
        self.answer("claim", claimed)
    }

    async fn payload(&self, id: JobId) -> Result<Option<Body>, PortError> {
        Ok(self.kept().payloads.get(&id).cloned())
    }

    async fn result(&self, id: JobId, epoch: Epoch) -> Result<Option<Body>, PortError> {
        Ok(self.kept().results.get(&(id, epoch)).cloned())
    }

    async fn due(&self, now: Timestamp, limit: usize) -> Result<Vec<JobId>, PortError> {
        let kept = self.kept();
        let mut due: Vec<(Timestamp, JobId)> =
            kept.jobs.values().filter_map(|job| job.due.filter(|due| *due <= now).map(|due| (due, job.id))).collect();
        due.sort();
        Ok(due.into_iter().take(limit).map(|(_, id)| id).collect())
    }

    async fn list(&self, query: &Query) -> Result<Vec<Job>, PortError> {
        let kept = self.kept();
        let mut jobs: Vec<&Job> = kept
            .jobs
            .values()
            .filter(|job| query.phase.is_none_or(|phase| job.phase() == phase))
            .filter(|job| query.capability.as_ref().is_none_or(|name| job.work.capability == *name))
            .filter(|job| query.label.as_ref().is_none_or(|label| job.work.labels.contains(label)))
            .filter(|job| query.before.is_none_or(|before| (job.created, job.id) < before))
            .filter(|job| query.since.is_none_or(|since| job.created >= since))
            .collect();
        jobs.sort_by_key(|job| std::cmp::Reverse((job.created, job.id)));
        Ok(jobs.into_iter().take(query.limit).cloned().collect())
    }

    async fn count(&self) -> Result<Vec<(Phase, u64)>, PortError> {
        let mut counts: BTreeMap<Phase, u64> = BTreeMap::new();
        for job in self.kept().jobs.values() {
            *counts.entry(job.phase()).or_default() += 1;
        }
        Ok(counts.into_iter().collect())
    }

    async fn spend(&self, since: Timestamp) -> Result<Vec<Spend>, PortError> {
        let mut spent: BTreeMap<(String, Venue), (u64, u64)> = BTreeMap::new();
        for job in self.kept().jobs.values() {
            if matches!(&job.state, State::Settled(settlement) if settlement.at >= since && job.due.is_none()) {
                let entry = spent.entry((job.work.capability.clone(), job.route.venue())).or_default();
                *entry = (entry.0 + 1, entry.1 + job.spent_nanodollars);
            }
        }
        let spend = |((capability, venue), (jobs, nanodollars))| Spend { capability, venue, jobs, nanodollars };
        let mut spent: Vec<Spend> = spent.into_iter().map(spend).collect();
        spent.sort_by_key(|spend| std::cmp::Reverse(spend.nanodollars));
        Ok(spent)
    }

    async fn permits(&self, capability: &str) -> Result<Permits, PortError> {
        let kept = self.kept();
        let mut permits = Permits::default();
        for job in kept.jobs.values().filter(|job| job.work.capability == capability) {
            match job.permit {
                Some(permit) => permits.held.push(permit),
                None => permits.without += usize::from(job.phase() == Phase::Running),
            }
        }
        permits.held.sort_unstable();
        Ok(permits)
    }

    async fn held(&self, capability: &str, tiers: &[Tier], limit: usize) -> Result<Vec<Job>, PortError> {
        let kept = self.kept();
        let mut held: Vec<&Job> = kept
            .jobs
            .values()
            .filter(|job| job.phase() == Phase::Held && job.work.capability == capability)
            .filter(|job| tiers.contains(&job.work.tier))
            .collect();
        held.sort_by_key(|job| (job.work.tier, job.created, job.id));
        Ok(held.into_iter().take(limit).cloned().collect())
    }

    async fn holding(&self) -> Result<Vec<String>, PortError> {
        let kept = self.kept();
        let held = kept.jobs.values().filter(|job| job.phase() == Phase::Held);
        let names: BTreeSet<&String> = held.map(|job| &job.work.capability).collect();
        Ok(names.into_iter().cloned().collect())
    }

    async fn pauses(&self) -> Result<Arc<Pauses>, PortError> {
        Ok(Arc::clone(&self.kept().pauses))
    }

    async fn set_pause(&self, scope: &Scope, pause: Option<&Pause>) -> Result<(), PortError> {
        let mut kept = self.kept();
        let pauses = Arc::make_mut(&mut kept.pauses);
        match pause {
            Some(pause) => pauses.set(pause.clone()),
            None => drop(pauses.lift(scope)),
        }
        drop(kept);
        self.0.changed.notify(usize::MAX);
        Ok(())
    }

    async fn depths(&self, since: Timestamp) -> Result<Depths, PortError> {
        let kept = self.kept();
        let (mut open, mut ended) = (BTreeMap::<Phase, u64>::new(), BTreeMap::<Phase, u64>::new());
        let mut tiers: BTreeMap<Tier, TierDepth> = BTreeMap::new();
        let mut capabilities: BTreeMap<&String, (u64, u64)> = BTreeMap::new();
        for job in kept.jobs.values() {
            let mut waits = |tier, oldest, waiting, held| {
                let depth = tiers.entry(tier).or_insert(TierDepth { tier, waiting: 0, held: 0, oldest });
                depth.oldest = depth.oldest.min(oldest);
                (depth.waiting, depth.held) = (depth.waiting + waiting, depth.held + held);
            };
            match &job.state {
                State::Held { since } => waits(job.work.tier, *since, 0, 1),
                State::Dispatched { at, .. } if job.route.venue() == Venue::Fleet => {
                    waits(dispatch::lane(job).tier, *at, 1, 0);
                }
                State::Dispatched { .. } | State::Delayed { .. } | State::Running(_) => {}
                State::Settled(settlement) => {
                    if settlement.at >= since && job.due.is_none() {
                        *ended.entry(job.phase()).or_default() += 1;
                    }
                    continue;
                }
            }
            *open.entry(job.phase()).or_default() += 1;
            let held = job.phase() == Phase::Held;
            if held || job.permit.is_some() || job.phase() == Phase::Running {
                let (permits, waiting) = capabilities.entry(&job.work.capability).or_default();
                (*permits, *waiting) = (*permits + u64::from(!held), *waiting + u64::from(held));
            }
        }
        Ok(Depths {
            open: open.into_iter().collect(),
            tiers: tiers.into_values().collect(),
            capabilities: capabilities.into_iter().map(|(name, (used, held))| (name.clone(), used, held)).collect(),
            ended: ended.into_iter().collect(),
        })
    }

    async fn open_jobs(&self, caller: &str, most: u64) -> Result<u64, PortError> {
        let kept = self.kept();
        let open = kept.jobs.values().filter(|job| job.work.caller == caller && !job.is_settled());
        Ok((open.count() as u64).min(most))
    }

    async fn draw(&self, caller: &str, n: u32, rate: Rate, now: Timestamp) -> Result<Drawn, PortError> {
        Ok(self.kept().buckets.draw(caller, n, rate, now))
    }

    async fn watch(&self, id: JobId, seen: u64, patience: Duration) -> Result<Option<Job>, PortError> {
        let until = self.now() + patience;
        loop {
            let changed = self.0.changed.listen();
            let job = self.load(id).await?;
            if job.as_ref().is_none_or(|job| job.revision > seen) || self.now() >= until {
                return Ok(job);
            }
            changed.await;
        }
    }

    async fn beat(&self, beat: &Beat) -> Result<(), PortError> {
        self.kept().beats.insert(beat.holder.clone(), beat.clone());
        Ok(())
    }

    async fn last_beat(&self, holder: &Holder) -> Result<Option<Beat>, PortError> {
        Ok(self.kept().beats.get(holder).cloned())
    }

    async fn forgettable(&self, settled_before: Timestamp, limit: usize) -> Result<Vec<JobId>, PortError> {
        let kept = self.kept();
        let old = kept.jobs.values().filter(|job| match &job.state {
            State::Settled(settlement) => settlement.at < settled_before && job.owed.is_empty(),
            State::Delayed { .. } | State::Held { .. } | State::Dispatched { .. } | State::Running(_) => false,
        });
        Ok(old.map(|job| job.id).take(limit).collect())
    }

    async fn last_ticks(&self) -> Result<BTreeMap<String, Ticked>, PortError> {
        Ok(self.kept().ticked.clone())
    }

    async fn ticked(&self, schedule: &str, ticked: Option<&Ticked>) -> Result<(), PortError> {
        let mut kept = self.kept();
        match ticked {
            Some(ticked) => drop(kept.ticked.insert(schedule.to_owned(), ticked.clone())),
            None => drop(kept.ticked.remove(schedule)),
        }
        drop(kept);
        self.answer("remember", ())
    }

    async fn forget(&self, ids: &[JobId]) -> Result<(), PortError> {
        let mut kept = self.kept();
        for id in ids {
            if kept.jobs.get(id).is_none_or(|job| !job.is_settled() || job.due.is_some()) {
                continue;
            }
            kept.jobs.remove(id);
            kept.payloads.remove(id);
            kept.results.retain(|(job, _), _| job != id);
            kept.records.forget(*id);
        }
        Ok(())
    }

    async fn keep_unmapped(&self, event: Unmapped) -> Result<(), PortError> {
        let mut kept = self.kept();
        match kept.unmapped.get_mut(&event.id) {
            Some(known) => {
                known.last = known.last.max(event.last);
                known.seen = known.seen.saturating_add(event.seen);
                known.why = event.why;
            }
            None => drop(kept.unmapped.insert(event.id, event)),
        }
        while !kept.unmapped_room.holds(&kept.unmapped_count()) {
            let longest_unseen = kept.unmapped.values().map(|event| (event.last, event.id)).min();
            let Some((_, id)) = longest_unseen else { break };
            kept.unmapped.remove(&id);
            kept.unmapped_dropped += 1;
        }
        drop(kept);
        self.answer("keep", ())
    }

    async fn unmapped(
        &self,
        before: Option<(Timestamp, UnmappedId)>,
        limit: usize,
    ) -> Result<Vec<UnmappedSummary>, PortError> {
        let kept = self.kept();
        let at = |event: &Unmapped| (event.last, event.id);
        let mut events: Vec<&Unmapped> =
            kept.unmapped.values().filter(|event| before.is_none_or(|before| at(event) < before)).collect();
        events.sort_by_key(|event| std::cmp::Reverse(at(event)));
        Ok(events.into_iter().take(limit).map(Unmapped::summary).collect())
    }

    async fn unmapped_event(&self, id: UnmappedId) -> Result<Option<Unmapped>, PortError> {
        Ok(self.kept().unmapped.get(&id).cloned())
    }

    async fn forget_unmapped(&self, ids: &[UnmappedId]) -> Result<(), PortError> {
        let mut kept = self.kept();
        for id in ids {
            kept.unmapped.remove(id);
        }
        drop(kept);
        self.answer("forget", ())
    }

    async fn unmapped_count(&self) -> Result<UnmappedCount, PortError> {
        Ok(self.kept().unmapped_count())
    }

    async fn note_loan(&self, note: &LoanNote) -> Result<(), PortError> {
        self.kept().loans.insert(note.id, note.clone());
        self.answer("note", ())
    }

    async fn loan(&self, job: JobId, id: LoanId) -> Result<Option<LoanNote>, PortError> {
        Ok(self.kept().loans.get(&id).filter(|note| note.job == job).cloned())
    }

    async fn loans(&self, query: &LoanQuery) -> Result<Vec<LoanNote>, PortError> {
        let kept = self.kept();
        Ok(kept.loans.values().rev().filter(|note| query.wants(note)).take(query.limit).cloned().collect())
    }

    async fn keep_records(&self, records: &[Record]) -> Vec<Result<ports::Kept, PortError>> {
        self.keep_all(records)
    }

    async fn records(&self, query: &RecordQuery) -> Result<Vec<Record>, PortError> {
        Ok(self.kept().records.list(query))
    }

    async fn registered(&self, query: &RegisterQuery) -> Result<RegisterPage, PortError> {
        Ok(self.kept().records.page(query))
    }

    async fn forget_registered(&self, seen_before: Timestamp, limit: usize) -> Result<u64, PortError> {
        Ok(self.kept().records.forget_before(seen_before, limit))
    }
}

#[async_trait]
impl Lanes for Memory {
    async fn ring(&self, bells: &[Bell<'_>]) -> Vec<(Message, PortError)> {
        let mut kept = self.kept();
        for bell in bells {
            kept.receipts += 1;
            let receipt = kept.receipts;
            kept.lanes.entry(bell.lane).or_default().push_back((bell.message(), receipt));
        }
        drop(kept);
        self.0.changed.notify(usize::MAX);
        Vec::new()
    }

    async fn receive(&self, lane: &Lane, max: usize, wait: bool) -> Result<Vec<Received>, PortError> {
        loop {
            let changed = self.0.changed.listen();
            let taken = self.take(lane, max);
            if !taken.is_empty() || !wait || max == 0 {
                let received = |(message, receipt): (Message, u64)| Received {
                    message,
                    lane: *lane,
                    receipt: receipt.to_string(),
                };
                return Ok(taken.into_iter().map(received).collect());
            }
            changed.await;
        }
    }

    async fn delete(&self, received: &Received) -> Result<(), PortError> {
        // A stale receipt deletes nothing and succeeds, as on SQS.
        if let Ok(receipt) = received.receipt.parse::<u64>() {
            self.kept().hidden.remove(&receipt);
        }
        Ok(())
    }

    async fn release(&self, received: &Received) -> Result<(), PortError> {
        if let Ok(receipt) = received.receipt.parse::<u64>() {
            let mut kept = self.kept();
            if let Some((lane, message, _)) = kept.hidden.remove(&receipt) {
                kept.lanes.entry(lane).or_default().push_front((message, receipt));
            }
        }
        self.0.changed.notify(usize::MAX);
        Ok(())
    }

    async fn visible(&self, lane: &Lane) -> Result<u64, PortError> {
        Ok(self.kept().lanes.get(lane).map_or(0, |queue| queue.len() as u64))
    }
}

#[async_trait]
impl Launcher for Memory {
    async fn launch(&self, job: &Job) -> Result<(), LaunchFailed> {
        let mut kept = self.kept();
        if let Some(failed) = &kept.refuse_launches {
            return Err(failed.clone());
        }
        let message = Message { id: job.id, epoch: job.epoch };
        if kept.tasks.insert((job.id, job.epoch)) {
            kept.launches.push((job.route.venue(), message));
        }
        Ok(())
    }

    async fn find(&self, id: JobId, epoch: Epoch, _venue: Venue) -> Result<TaskState, PortError> {
        Ok(if self.kept().tasks.contains(&(id, epoch)) { TaskState::Alive } else { TaskState::Absent })
    }

    async fn stop(&self, id: JobId, epoch: Epoch, _venue: Venue) -> Result<(), PortError> {
        self.kept().tasks.remove(&(id, epoch));
        Ok(())
    }
}

#[async_trait]
impl Blobs for Memory {
    async fn put(&self, job: JobId, name: &str, text: &str) -> Result<BlobRef, PortError> {
        self.kept().blobs.insert((job, name.to_owned()), text.to_owned());
        Ok(BlobRef { job, name: name.to_owned(), bytes: text.len() as u64 })
    }

    async fn get(&self, blob: &BlobRef) -> Result<Option<String>, PortError> {
        Ok(self.kept().blobs.get(&(blob.job, blob.name.clone())).cloned())
    }

    async fn forget(&self, job: JobId) -> Result<(), PortError> {
        self.kept().blobs.retain(|(other, _), _| *other != job);
        Ok(())
    }
}

#[async_trait]
impl Logs for Memory {
    async fn append(&self, job: JobId, epoch: Epoch, lines: &[LogLine]) -> Result<(), PortError> {
        let lines = lines.iter().map(|line| (epoch, line.clone()));
        self.kept().logs.entry(job).or_default().extend(lines);
        Ok(())
    }

    async fn read(&self, job: JobId, cursor: &str) -> Result<LogPage, PortError> {
        let from = cursor.parse().unwrap_or(0);
        let kept = self.kept();
        let mut left = PAGE_BYTES;
        let fits = |(_, line): &&(Epoch, LogLine)| {
            let fits = left > 0;
            left = left.saturating_sub(line.text.len());
            fits
        };
        let log = kept.logs.get(&job).map_or(&[][..], Vec::as_slice);
        let lines: Vec<_> = log.iter().skip(from).take_while(fits).cloned().collect();
        Ok(LogPage { next: (from + lines.len()).to_string(), lines })
    }

    async fn forget(&self, job: JobId) -> Result<(), PortError> {
        self.kept().logs.remove(&job);
        Ok(())
    }
}

#[async_trait]
impl Herald for Memory {
    async fn announce(&self, job: &Job) -> Result<(), PortError> {
        self.kept().announced.push(job.id);
        Ok(())
    }
}

#[async_trait]
impl Workers for Memory {
    async fn list(&self) -> Result<Vec<Worker>, PortError> {
        Ok(self.kept().workers.clone())
    }
}
