//! The only doors out. Each trait is one thing a home must be able to do; the values that pass are the core's own.
//!
//! The control side of a home is a [`Yard`]: whoever accepts, settles or reaps. The working side sees a [`Desk`] and
//! an [`Executor`] only, in whatever process and on whatever machine it runs.

mod call;
mod door;
mod inventory;
mod records;
mod unmapped;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use event_listener::Event;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub(crate) use self::call::persist;
pub use self::call::{PortError, backoff, describe};
pub use self::door::LoanDoor;
pub use self::inventory::{Ended, Inventory, Listed, Machine, Machines, Marks, Stage};
pub use self::records::{Conveyor, Emission, Kept, Parked, RecordQuery, Siding};
pub use self::unmapped::{NotAnUnmappedId, Unmapped, UnmappedCount, UnmappedId, UnmappedRoom, UnmappedSummary};
use crate::brake::{Pause, Pauses, Scope, Turnstile};
use crate::job::{ClaimToken, Epoch, Failure, Holder, Job, JobId, Nonce, Phase, StopCause, Tier, TokenHash};
use crate::lend::{
    Answer, Issued, Loan, LoanId, LoanNote, LoanQuery, LoanRequest, Order as LoanOrder, Refused, RefusedCode,
};
use crate::metrics::Meters;
use crate::policies::{Policies, Shelf, Situation};
use crate::quota::{Drawn, Rate};
use crate::records::{Emitted, Record, RegisterPage, RegisterQuery};
use crate::route::{Needs, PoolName, Venue};
use crate::schedule::Ticked;

/// The control side of one home: its doors and its rules. Rooms take the whole because a decision that leads from
/// one door to the next (a failed launch to a tier, a settlement to an announcement) is the rule, not the exception.
#[derive(Clone)]
pub struct Yard {
    /// Job records.
    pub ledger: Arc<dyn Ledger>,
    /// The tiers' doorbells.
    pub lanes: Arc<dyn Lanes>,
    /// Tasks on demand.
    pub launcher: Arc<dyn Launcher>,
    /// What is too large for a record.
    pub blobs: Arc<dyn Blobs>,
    /// What jobs print.
    pub logs: Arc<dyn Logs>,
    /// Who hears of settlements.
    pub herald: Arc<dyn Herald>,
    /// Time and chance.
    pub ambient: Arc<dyn Ambient>,
    /// Who works for it.
    pub workers: Arc<dyn Workers>,
    /// Who makes them come.
    pub fleet: Arc<dyn Fleet>,
    /// Who lends credentials.
    pub lender: Arc<dyn Lender>,
    /// What carries what runs emit to where it is judged; `None`: it is judged where it comes in.
    pub conveyor: Option<Arc<dyn Conveyor>>,
    /// Where lies what runs emitted and is no record.
    pub siding: Arc<dyn Siding>,
    /// The rules in force.
    pub shelf: Arc<Shelf>,
    /// Who admits held jobs of which capability just now.
    pub turnstile: Arc<Turnstile>,
    /// What is counted.
    pub meters: Arc<Meters>,
    /// How long a settled job, and so its idempotency key, is kept.
    pub retention: Duration,
}

impl Yard {
    /// The rules in force now.
    pub fn policies(&self) -> Arc<Policies> {
        self.shelf.policies()
    }

    /// What decisions must know at this moment. A home that cannot tell who works is taken to have nobody: a job is
    /// then routed as to a cold fleet, which is never wrong, only dearer.
    pub async fn situation(&self) -> Situation {
        let workers = self.workers.list().await.unwrap_or_else(|error| {
            tracing::warn!(error = %describe(&error), "who works is not known; routing as to a cold fleet");
            Vec::new()
        });
        let pauses = self.ledger.pauses().await.unwrap_or_else(|error| {
            // The claim asks again, and is refused while nobody can tell.
            tracing::warn!(error = %describe(&error), "what is paused is not known; a claim asks again");
            Arc::default()
        });
        Situation { policies: self.policies(), workers, pauses, observed: Arc::clone(self.shelf.observed()) }
    }

    /// What is in force, without asking who works: what a claim must know.
    ///
    /// # Errors
    ///
    /// The ledger cannot say what is paused.
    pub async fn rules(&self) -> Result<Situation, PortError> {
        let pauses = self.ledger.pauses().await?;
        Ok(Situation { policies: self.policies(), pauses, ..Situation::default() })
    }
}

/// What is too large for a record, or small enough to lie beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// The JSON text itself, at most [`Body::INLINE_BYTES`].
    Inline(String),
    /// Where it lies in the blob store.
    Blob(BlobRef),
}

impl Body {
    /// The longest text kept by the ledger; longer ones go to the blob store.
    pub const INLINE_BYTES: usize = 64 * 1024;
    /// The longest text taken at all: payloads and results alike.
    pub const MAX_BYTES: usize = 1024 * 1024;

    /// Its length in bytes.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Inline(text) => text.len() as u64,
            Self::Blob(blob) => blob.bytes,
        }
    }
}

/// Names one blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobRef {
    /// The job it belongs to, and goes with.
    pub job: JobId,
    /// Its name among the job's blobs: letters, digits and `-`.
    pub name: String,
    /// Its length in bytes.
    pub bytes: u64,
}

/// A job at the door: its record and its payload, kept apart so that no later write pays for the payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewJob {
    /// The record, at revision 1.
    pub job: Job,
    /// The payload.
    pub payload: Body,
}

/// What became of a job at the door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acceptance {
    /// It is durable now.
    Accepted,
    /// A job with that id was there before: this one.
    Existing(Box<Job>),
}

/// What became of a conditional write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Saved {
    /// The record is as sent, durably.
    Saved,
    /// Somebody else wrote first; this is the record now. `None`: there is no such record.
    Refused(Option<Box<Job>>),
    /// The permit that the record names is another job's: nothing was written, and the record is as it was.
    PermitTaken,
}

/// What a claimer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The job.
    pub id: JobId,
    /// The epoch the doorbell named.
    pub epoch: Epoch,
    /// Who claims.
    pub holder: Holder,
    /// The hash of the token that the claimer drew for this claim.
    pub token: TokenHash,
    /// The longest this claimer can run it: the rest of an invocation.
    pub at_most: Option<Duration>,
    /// The most room it has for it; `None` where it has a place of its own.
    pub room: Option<Room>,
}

/// What became of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// The claimer holds it.
    Won(Box<Job>, Body),
    /// It does not.
    Lost(Refusal),
}

/// Why a claim was refused, and so what becomes of the doorbell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// No such record: it was forgotten after its retention.
    Unknown,
    /// The job has ended.
    Settled,
    /// The job has been dispatched again since: another doorbell rings for it.
    Newer,
    /// Somebody else runs this very epoch; should that holder be lost, the next dispatch rings anew.
    // As earlier children read and write it.
    #[serde(rename = "held")]
    Taken,
    /// The job waits for a moment, or for the reaper to expire it.
    NotNow,
    /// It needs so much, and that is more than it was offered.
    NoRoom(Room),
    /// The job is held: when it may go on, another doorbell rings for it.
    Braked,
}

impl Refusal {
    /// Whether the doorbell says nothing any more and can be deleted; else it is left for whoever comes next.
    pub fn is_final(self) -> bool {
        match self {
            Self::Unknown | Self::Settled | Self::Newer | Self::Taken | Self::Braked => true,
            Self::NotNow | Self::NoRoom(_) => false,
        }
    }
}

/// Which records to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// Only jobs in this phase.
    pub phase: Option<Phase>,
    /// Only jobs of this capability.
    pub capability: Option<String>,
    /// Only jobs with this label.
    pub label: Option<(String, String)>,
    /// Only jobs accepted before this one: where the last page ended.
    pub before: Option<(Timestamp, JobId)>,
    /// Only jobs accepted at or after this moment.
    pub since: Option<Timestamp>,
    /// At most so many; 1 to 500.
    pub limit: usize,
}

/// What some jobs have cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Spend {
    /// What ran.
    pub capability: String,
    /// Where it ran last.
    pub venue: Venue,
    /// How many jobs.
    pub jobs: u64,
    /// What all their runs cost, in nano-dollars.
    pub nanodollars: u64,
}

/// What of a capability's limit is taken: as records say it, and no count that somebody keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permits {
    /// The permits that are held, lowest first.
    pub held: Vec<u16>,
    /// Jobs that run without one: they were claimed while there was no limit, and take as much of it as any other.
    pub without: usize,
}

impl Permits {
    /// How many jobs take a part of the limit; more than it is, where it came or was lowered while they ran.
    pub fn used(&self) -> usize {
        self.held.len() + self.without
    }
}

/// How much stands where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Depths {
    /// Jobs that have not ended, by phase; phases without any are left out.
    pub open: Vec<(Phase, u64)>,
    /// What waits in each tier that something waits in: in the lanes of the fleet, and held.
    pub tiers: Vec<TierDepth>,
    /// Capabilities of which a job runs, has a permit or is held back: jobs that run or have a permit, held jobs.
    pub capabilities: Vec<(String, u64, u64)>,
    /// Jobs that ended since the moment asked for and owe nothing, by phase.
    pub ended: Vec<(Phase, u64)>,
}

/// What waits in one tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TierDepth {
    /// The tier: of what waits in a lane that lane's, of what is held its own.
    pub tier: Tier,
    /// Jobs that wait for a worker.
    pub waiting: u64,
    /// Jobs that are held.
    pub held: u64,
    /// Since when the oldest of them all waits.
    pub oldest: Timestamp,
}

/// Job records. Every write is durable when its call returns, and conditional.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// Puts each job if its id is free; answers in the same order.
    async fn accept(&self, jobs: Vec<NewJob>) -> Result<Vec<Acceptance>, PortError>;
    /// The record, as last written.
    async fn load(&self, id: JobId) -> Result<Option<Job>, PortError>;
    /// Those of these records that are there, in any order.
    async fn load_all(&self, ids: &[JobId]) -> Result<Vec<Job>, PortError> {
        let mut jobs = Vec::with_capacity(ids.len());
        for id in ids {
            jobs.extend(self.load(*id).await?);
        }
        Ok(jobs)
    }
    /// The record as this process saw it last, where a home remembers that, or as it is. It may be old: only a decision
    /// whose write is conditional may start from it, and one that writes nothing must be taken again on [`Self::load`].
    async fn glimpse(&self, id: JobId) -> Result<Option<Job>, PortError> {
        self.load(id).await
    }
    /// Writes `job` if the record's revision is one less, and with it the result that its settlement names. A permit
    /// that it names is put if free, in the same write.
    async fn save(&self, job: Job, result: Option<Body>) -> Result<Saved, PortError>;
    /// Decides a claim as [`crate::execute::claim`] does, in one conditional write.
    async fn claim(&self, claim: &Claim, situation: &Situation, now: Timestamp) -> Result<Claimed, PortError>;
    /// The payload of a job.
    async fn payload(&self, id: JobId) -> Result<Option<Body>, PortError>;
    /// The result that a run at `epoch` made.
    async fn result(&self, id: JobId, epoch: Epoch) -> Result<Option<Body>, PortError>;
    /// Jobs whose `due` is not after `now`, the longest overdue first.
    async fn due(&self, now: Timestamp, limit: usize) -> Result<Vec<JobId>, PortError>;
    /// Jobs newest first.
    async fn list(&self, query: &Query) -> Result<Vec<Job>, PortError>;
    /// How many jobs stand in each phase; phases without jobs are left out.
    async fn count(&self) -> Result<Vec<(Phase, u64)>, PortError>;
    /// What of a capability's limit is taken.
    async fn permits(&self, capability: &str) -> Result<Permits, PortError>;
    /// Held jobs of a capability in these tiers: the highest tier first, then the oldest; at most `limit`.
    async fn held(&self, capability: &str, tiers: &[Tier], limit: usize) -> Result<Vec<Job>, PortError>;
    /// The capabilities with held jobs.
    async fn holding(&self) -> Result<Vec<String>, PortError>;
    /// The pauses in force. Asked at every claim: a home keeps them where that costs nothing.
    async fn pauses(&self) -> Result<Arc<Pauses>, PortError>;
    /// Puts a pause into force in the place of the scope's earlier one, or lifts that; durable before it answers.
    /// Waiting receives of a home that can wake them look again.
    async fn set_pause(&self, scope: &Scope, pause: Option<&Pause>) -> Result<(), PortError>;
    /// What stands where at this moment, and what ended since that one. It may read every open record.
    async fn depths(&self, since: Timestamp) -> Result<Depths, PortError>;
    /// How many jobs of a caller have not ended, counted no further than `most`.
    async fn open_jobs(&self, caller: &str, most: u64) -> Result<u64, PortError>;
    /// Draws `n` jobs from the caller's bucket, as [`crate::quota::draw`] decides.
    async fn draw(&self, caller: &str, n: u32, rate: Rate, now: Timestamp) -> Result<Drawn, PortError>;
    /// Waits until the record's revision is above `seen` or `patience` ends, and answers the record as it is then.
    async fn watch(&self, id: JobId, seen: u64, patience: Duration) -> Result<Option<Job>, PortError>;
    /// What the jobs that settled at or after `since` and owe nothing have cost, by capability and by the venue of their
    /// last run; the dearest first.
    async fn spend(&self, since: Timestamp) -> Result<Vec<Spend>, PortError>;
    /// Records a holder's beat.
    async fn beat(&self, beat: &Beat) -> Result<(), PortError>;
    /// The holder's newest beat.
    async fn last_beat(&self, holder: &Holder) -> Result<Option<Beat>, PortError>;
    /// Jobs settled before this moment that owe nothing.
    async fn forgettable(&self, settled_before: Timestamp, limit: usize) -> Result<Vec<JobId>, PortError>;
    /// What is remembered of each schedule, by its name.
    async fn last_ticks(&self) -> Result<BTreeMap<String, Ticked>, PortError>;
    /// Remembers how far a schedule came; `None` forgets it.
    async fn ticked(&self, schedule: &str, ticked: Option<&Ticked>) -> Result<(), PortError>;
    /// Removes those of these records that are still settled and owe nothing, for good, with what their runs emitted; their
    /// keys are free again.
    async fn forget(&self, ids: &[JobId]) -> Result<(), PortError>;
    /// Keeps an event that no mapping answered; durable before it answers. Of the same event again only `last`, `seen`
    /// and `why` change. What there is no room for goes in the same write, the longest unseen first, and is counted.
    async fn keep_unmapped(&self, event: Unmapped) -> Result<(), PortError>;
    /// Unmapped events without their texts, those seen last first; with `before` only those that were seen before that
    /// one. What comes again between two pages moves to the front, and is on neither.
    async fn unmapped(
        &self,
        before: Option<(Timestamp, UnmappedId)>,
        limit: usize,
    ) -> Result<Vec<UnmappedSummary>, PortError>;
    /// One unmapped event, with its text.
    async fn unmapped_event(&self, id: UnmappedId) -> Result<Option<Unmapped>, PortError>;
    /// Removes these events for good, those of them that are there: a mapping answered them.
    async fn forget_unmapped(&self, ids: &[UnmappedId]) -> Result<(), PortError>;
    /// How many unmapped events are kept, and how many no longer.
    async fn unmapped_count(&self) -> Result<UnmappedCount, PortError>;
    /// Keeps records, no two of one name among them, and with each asset and finding its entry in the register, as
    /// [`crate::records::Registered::with`] decides. Says of each what became of it, in their order; what is answered as
    /// kept is durable, with its entry. One that failed takes no other along, and can be given again.
    async fn keep_records(&self, records: &[Record]) -> Vec<Result<Kept, PortError>>;
    /// Records of a job, as its runs emitted them: by epoch, then by number.
    async fn records(&self, query: &RecordQuery) -> Result<Vec<Record>, PortError>;
    /// Entries of a register, by id.
    async fn registered(&self, query: &RegisterQuery) -> Result<RegisterPage, PortError>;
    /// Removes entries of the registers that were seen last before this moment, `limit` of them at most. Answers how many;
    /// a home whose table forgets by itself need not.
    async fn forget_registered(&self, seen_before: Timestamp, limit: usize) -> Result<u64, PortError>;
    /// Writes down what became of a request for a credential; durable before it answers. The same again is one record.
    async fn note_loan(&self, note: &LoanNote) -> Result<(), PortError>;
    /// What was written down of one loan to this job, as it is now.
    async fn loan(&self, job: JobId, id: LoanId) -> Result<Option<LoanNote>, PortError>;
    /// What was written down of loans, newest first. A home keeps it for [`LOANS_KEPT`].
    async fn loans(&self, query: &LoanQuery) -> Result<Vec<LoanNote>, PortError>;
}

/// How long it is kept what was lent to whom: a quarter, in which most who must look do.
pub const LOANS_KEPT: Duration = Duration::from_secs(90 * 24 * 3600);

/// Who lends credentials to runs: the broker, or whoever reaches it.
#[async_trait]
pub trait Lender: Send + Sync {
    /// Asks for a credential. Neither the request nor the answer is ever logged on the way.
    async fn lend(&self, request: &LoanRequest) -> Result<Answer, PortError>;
    /// Gives one back when its run has ended.
    async fn take_back(&self, voucher: &Voucher, loan: &Loan) -> Result<(), PortError>;
}

/// Who has nothing to lend: processes in which nothing runs that could borrow.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoLender;

#[async_trait]
impl Lender for NoLender {
    async fn lend(&self, request: &LoanRequest) -> Result<Answer, PortError> {
        let message = format!("nothing here lends credentials of kind {}", request.scope.kind());
        Ok(Answer::Refused(Refused::new(RefusedCode::NoLender, message)))
    }

    async fn take_back(&self, _voucher: &Voucher, _loan: &Loan) -> Result<(), PortError> {
        Ok(())
    }
}

/// Where credentials come from: AWS's STS, the token endpoints of others, the yard's own store of secrets. Only a broker has
/// this door.
#[async_trait]
pub trait Vendors: Send + Sync {
    /// Gets one credential. The refusal names the vendor, and tells one that is down from one that will not.
    async fn issue(&self, order: &LoanOrder) -> Result<Issued, Refused>;
    /// Ends a credential at its vendor before its time; `false` where the vendor cannot. One that has ended already was
    /// revoked, too.
    async fn revoke(&self, loan: &Loan) -> Result<bool, PortError>;
}

/// A tier of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lane {
    /// The pool.
    pub pool: PoolName,
    /// The tier.
    pub tier: Tier,
}

/// A doorbell: there is a job at this epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Message {
    /// The job.
    pub id: JobId,
    /// Its epoch when the bell rang.
    pub epoch: Epoch,
}

impl Message {
    /// The doorbell of the job as this record has it.
    pub fn of(job: &Job) -> Self {
        Self { id: job.id, epoch: job.epoch }
    }
}

/// A doorbell to ring.
#[derive(Clone, Copy, Debug)]
pub struct Bell<'a> {
    /// In which lane.
    pub lane: Lane,
    /// For which job, as it was saved. A home may send the record along as a hint that spares the claimer a read, and
    /// treat callers fairly by it; what the bell says is its [`Bell::message`].
    pub job: &'a Job,
}

impl Bell<'_> {
    /// What it says.
    pub fn message(&self) -> Message {
        Message::of(self.job)
    }
}

/// A message taken from a lane, with what it takes to delete or return it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The doorbell.
    pub message: Message,
    /// Where it came from.
    pub lane: Lane,
    /// The home's own handle on this delivery.
    pub receipt: String,
}

/// Doorbells of the fleet's tiers. They may be lost, late, out of order or doubled: the record decides.
#[async_trait]
pub trait Lanes: Send + Sync {
    /// Rings them, all at once, and answers those that may not have rung.
    async fn ring(&self, bells: &[Bell<'_>]) -> Vec<(Message, PortError)>;
    /// Takes up to `max` messages, hidden from others until deleted, released, or the visibility timeout ends.
    /// With `wait` an empty lane is waited for, as long as the home thinks fit; without it the answer is at once.
    /// Dropped before it has answered, it leaves nothing hidden: what it took meanwhile the home gives back.
    async fn receive(&self, lane: &Lane, max: usize, wait: bool) -> Result<Vec<Received>, PortError>;
    /// Removes a message for good.
    async fn delete(&self, received: &Received) -> Result<(), PortError>;
    /// Makes a message visible again at once.
    async fn release(&self, received: &Received) -> Result<(), PortError>;
    /// Messages that a receive could return now.
    async fn visible(&self, lane: &Lane) -> Result<u64, PortError>;
}

/// A worker, as it last said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    /// In whose name it claims.
    pub holder: Holder,
    /// The pool it serves.
    pub pool: PoolName,
    /// What it has in all.
    pub capacity: Room,
    /// What of that is not taken.
    pub free: Room,
    /// Since when it works.
    pub since: Timestamp,
    /// Whether it takes nothing new any more.
    pub leaving: bool,
}

/// Room for jobs: how many, and for how much of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Room {
    /// Jobs.
    pub slots: u32,
    /// Processors, in thousandths of one.
    pub milli_vcpu: u32,
    /// Memory, in MiB.
    pub memory_mib: u32,
}

impl Room {
    /// What a job with these needs takes.
    pub fn of(needs: &Needs) -> Self {
        Self { slots: 1, milli_vcpu: needs.milli_vcpu, memory_mib: needs.memory_mib }
    }

    /// Whether there is as much of everything in `other`.
    pub fn fits_in(self, other: Self) -> bool {
        self.slots <= other.slots && self.milli_vcpu <= other.milli_vcpu && self.memory_mib <= other.memory_mib
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            slots: self.slots.saturating_add(other.slots),
            milli_vcpu: self.milli_vcpu.saturating_add(other.milli_vcpu),
            memory_mib: self.memory_mib.saturating_add(other.memory_mib),
        }
    }

    /// What is left of it without `other`.
    #[must_use]
    pub fn less(self, other: Self) -> Self {
        Self {
            slots: self.slots.saturating_sub(other.slots),
            milli_vcpu: self.milli_vcpu.saturating_sub(other.milli_vcpu),
            memory_mib: self.memory_mib.saturating_sub(other.memory_mib),
        }
    }

    /// One job's part when so many share it.
    #[must_use]
    pub fn shared_by(self, jobs: u32) -> Self {
        let jobs = jobs.max(1);
        Self { slots: 1, milli_vcpu: self.milli_vcpu / jobs, memory_mib: self.memory_mib / jobs }
    }
}

impl Worker {
    /// Whether a job with these needs could start there at once.
    pub fn has_room_for(&self, needs: &Needs) -> bool {
        !self.leaving && Room::of(needs).fits_in(self.free)
    }
}

/// Who works.
#[async_trait]
pub trait Workers: Send + Sync {
    /// Every worker that is known, as it last said of itself.
    async fn list(&self) -> Result<Vec<Worker>, PortError>;
    /// Every holder that may be alive: those listed, and those of which that is not known, because their clocks differ, what
    /// they say cannot be read, or they could not say it lately. Nobody is to be ended who is one of these.
    async fn perhaps(&self) -> Result<Vec<Holder>, PortError> {
        Ok(self.list().await?.into_iter().map(|worker| worker.holder).collect())
    }
}

/// What became of a kick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kicked {
    /// Whoever sizes the pool looks at it now.
    Sent,
    /// Somebody kicked a moment ago, and what that led to is still under way.
    Lately,
}

/// Who makes workers come.
#[async_trait]
pub trait Fleet: Send + Sync {
    /// Whether there is nobody to kick: then nobody need be asked who works, either.
    fn is_fixed(&self) -> bool {
        false
    }
    /// Has the size of a pool looked at now, because a doorbell rang where nobody works. Many kicks within a moment are
    /// one. One that fails loses nothing: each pool is looked at every minute.
    async fn kick(&self, pool: PoolName) -> Result<Kicked, PortError>;
}

/// Workers that are there or not, whoever kicks: those of one machine, and those of a process that may not ask for any.
#[derive(Clone, Copy, Debug, Default)]
pub struct FixedFleet;

#[async_trait]
impl Fleet for FixedFleet {
    fn is_fixed(&self) -> bool {
        true
    }

    async fn kick(&self, _pool: PoolName) -> Result<Kicked, PortError> {
        Ok(Kicked::Lately)
    }
}

/// A launch that did not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct LaunchFailed {
    /// What the venue said.
    pub message: String,
    /// Whether, and how, another try can help.
    pub kind: LaunchFailure,
}

/// Whether a launch that did not happen can be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaunchFailure {
    /// Too many wait before it already: nothing is wrong with it, and it waits in the ledger for its next look.
    NoPlace,
    /// No capacity, a throttle: another try can help, and some in vain lead elsewhere.
    Passing,
    /// The venue will never take it.
    Permanent,
}

/// What a launcher knows of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskState {
    /// There is none for that job and epoch, or it has ended.
    Absent,
    /// It waits for a place, behind so many others.
    Waiting(u64),
    /// It starts or runs.
    Alive,
}

/// Tasks on demand: a function or a task of its own.
#[async_trait]
pub trait Launcher: Send + Sync {
    /// Launches the job at its venue and epoch. Launching the same (job, epoch) again launches nothing.
    async fn launch(&self, job: &Job) -> Result<(), LaunchFailed>;
    /// What has become of the task for (job, epoch).
    async fn find(&self, id: JobId, epoch: Epoch, venue: Venue) -> Result<TaskState, PortError>;
    /// Ends the task for (job, epoch) if there is one.
    async fn stop(&self, id: JobId, epoch: Epoch, venue: Venue) -> Result<(), PortError>;
}

/// Payloads and results too large for the ledger.
#[async_trait]
pub trait Blobs: Send + Sync {
    /// Stores `text` durably under the job and name; the same name again replaces it.
    async fn put(&self, job: JobId, name: &str, text: &str) -> Result<BlobRef, PortError>;
    /// The text stored there.
    async fn get(&self, blob: &BlobRef) -> Result<Option<String>, PortError>;
    /// Removes all of a job's blobs.
    async fn forget(&self, job: JobId) -> Result<(), PortError>;
}

/// Which of a program's outputs a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// Switchyard itself: output was cut, a signal was sent.
    Yard,
}

/// One line that a run printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// When it was read.
    pub at: Timestamp,
    /// Where it came from.
    pub stream: Stream,
    /// The line, without its end; at most 16 KiB.
    pub text: String,
}

/// A part of a job's log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogPage {
    /// Lines with the epoch of the run that printed them, oldest first.
    pub lines: Vec<(Epoch, LogLine)>,
    /// Where the next page starts; also when there is nothing more yet.
    pub next: String,
}

/// What jobs print, kept by job and epoch.
#[async_trait]
pub trait Logs: Send + Sync {
    /// Adds lines to the log of (job, epoch).
    async fn append(&self, job: JobId, epoch: Epoch, lines: &[LogLine]) -> Result<(), PortError>;
    /// Lines from `cursor` on (empty: from the start), at most about 256 KiB of them.
    async fn read(&self, job: JobId, cursor: &str) -> Result<LogPage, PortError>;
    /// Removes the job's log.
    async fn forget(&self, job: JobId) -> Result<(), PortError>;
}

/// Who is told of settlements, at least once each.
#[async_trait]
pub trait Herald: Send + Sync {
    /// Tells the outside that the job settled.
    async fn announce(&self, job: &Job) -> Result<(), PortError>;
}

/// The two things a room cannot compute: what time it is, and chance.
#[async_trait]
pub trait Ambient: Send + Sync {
    /// The time.
    fn now(&self) -> Timestamp;
    /// 32 unpredictable bytes.
    fn random(&self) -> [u8; 32];
    /// Lets time pass.
    async fn pause(&self, duration: Duration);
}

impl dyn Ambient + '_ {
    /// A nonce for one conditional write.
    pub fn nonce(&self) -> Nonce {
        Nonce(self.chance())
    }

    /// 64 random bits: what jitter is made of.
    pub fn chance(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.random();
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}

/// One sign of life of a holder, for all its runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    /// Whose.
    pub holder: Holder,
    /// Rises with every beat. Only its movement counts: no two machines' clocks are ever compared.
    pub counter: u64,
    /// What the holder really runs.
    pub running: Vec<Message>,
}

/// What a beat brings back: this run must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// Which run.
    pub run: Message,
    /// Why.
    pub cause: StopCause,
}

/// What a holder shows with whatever it says about a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Voucher {
    /// The job.
    pub id: JobId,
    /// The epoch it was claimed at.
    pub epoch: Epoch,
    /// The claim's token.
    pub token: ClaimToken,
}

/// How a run ended, as its holder tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It did what it was asked; with the JSON text it made, if any.
    Succeeded(Option<String>),
    /// It failed; `permanent` when another attempt cannot help.
    Failed {
        /// Why.
        failure: Failure,
        /// Whether retrying is pointless.
        permanent: bool,
    },
    /// It needed more memory than it had, and was ended for it.
    OutOfMemory(Failure),
    /// It was ended at its deadline.
    TimedOut,
    /// It was ended on request.
    Stopped(StopCause),
    /// The holder gives it back through no fault of the job.
    Interrupted(String),
}

/// A report: the end of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Which run, and the right to speak of it.
    pub voucher: Voucher,
    /// How it ended.
    pub outcome: Outcome,
    /// What it used.
    pub usage: Usage,
}

/// What a run used, as far as whoever ran it could tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// The most memory it had at once, in MiB.
    pub max_rss_mib: Option<u32>,
    /// What it printed over the limit of its output, and was not kept, in bytes.
    pub output_dropped_bytes: u64,
}

/// What became of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reported {
    /// It is recorded.
    Recorded,
    /// The run was no longer the job's: nothing was changed.
    Stale,
}

/// What a holder needs of the yard, from wherever it runs.
#[async_trait]
pub trait Desk: Send + Sync {
    /// Asks for a job. The same claim (same token) again gets the same answer while the run lasts.
    async fn claim(&self, claim: &Claim) -> Result<Claimed, PortError>;
    /// Shows life, and learns which runs must end. A home may hold the answer back for up to `patience` while there
    /// is nothing to say.
    async fn beat(&self, beat: &Beat, patience: Duration) -> Result<Vec<Order>, PortError>;
    /// Adds to the run's log; refused quietly when the run is no longer the job's.
    async fn log(&self, voucher: &Voucher, lines: &[LogLine]) -> Result<(), PortError>;
    /// Takes lines that the run emitted as records; not those of a run that is no longer the job's. After an error all of
    /// them can be handed over again: what was taken is not taken twice.
    async fn emit(&self, voucher: &Voucher, lines: &[Emitted]) -> Result<Emission, PortError>;
    /// Reports the end of a run.
    async fn settle(&self, report: &Report) -> Result<Reported, PortError>;
    /// Asks for a credential for a run.
    async fn borrow(&self, request: &LoanRequest) -> Result<Answer, PortError>;
    /// Gives one back when the run has ended.
    async fn give_back(&self, voucher: &Voucher, loan: &Loan) -> Result<(), PortError>;
}

/// A run as the executor sees it.
#[derive(Clone, Debug)]
pub struct Assignment<'a> {
    /// The job, as claimed.
    pub job: Job,
    /// Its payload, JSON text.
    pub payload: String,
    /// When it must have ended.
    pub deadline: Timestamp,
    /// Raised when the run must end before that.
    pub stop: StopSignal,
    /// Where it borrows credentials.
    pub loans: LoanDoor<'a>,
}

/// Where an executor puts what a run prints.
#[async_trait]
pub trait LogSink: Send + Sync {
    /// Adds lines. A log that cannot be written does not fail a run.
    async fn write(&self, lines: Vec<LogLine>);
    /// Hears what the run used, once it is known. Who only keeps lines need not listen.
    fn used(&self, _usage: Usage) {}
    /// Takes lines that the run emitted as records.
    ///
    /// # Errors
    ///
    /// They are not safe yet: all of them must be given again.
    async fn emit(&self, lines: &[Emitted]) -> Result<Emission, PortError>;
}

/// Runs one job, by whatever it is packaged as.
#[async_trait]
pub trait Executor: Send + Sync {
    /// Runs it to its end, within its deadline, and tells how it ended. Nothing of it runs any more afterwards.
    async fn run(&self, assignment: &Assignment<'_>, log: &dyn LogSink) -> Outcome;
}

/// Tells one run to end. Cloned handles are the same signal; the first cause stays.
#[derive(Clone, Default)]
pub struct StopSignal(Arc<(AtomicU8, AtomicBool, Event)>);

impl StopSignal {
    /// Asks the run to end.
    pub fn raise(&self, cause: StopCause) {
        let (state, _, event) = &*self.0;
        let code = match cause {
            StopCause::Cancel => 1,
            StopCause::Deadline => 2,
            StopCause::Stale => 3,
            StopCause::Drain => 4,
        };
        if state.compare_exchange(0, code, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            event.notify(usize::MAX);
        }
    }

    /// Why the run must end, if it must.
    pub fn cause(&self) -> Option<StopCause> {
        match self.0.0.load(Ordering::Acquire) {
            1 => Some(StopCause::Cancel),
            2 => Some(StopCause::Deadline),
            3 => Some(StopCause::Stale),
            4 => Some(StopCause::Drain),
            _ => None,
        }
    }

    /// Waits until the run must end.
    pub async fn raised(&self) -> StopCause {
        loop {
            let listener = self.0.2.listen();
            if let Some(cause) = self.cause() {
                return cause;
            }
            listener.await;
        }
    }
}

impl StopSignal {
    /// There is no time left: whoever was asked to end, or is asked from now on, has no grace.
    pub fn hurry(&self) {
        self.0.1.store(true, Ordering::Release);
        self.0.2.notify(usize::MAX);
    }

    /// Whether there is no time left.
    pub fn is_hurried(&self) -> bool {
        self.0.1.load(Ordering::Acquire)
    }

    /// Waits until there is no time left.
    pub async fn hurried(&self) {
        loop {
            let listener = self.0.2.listen();
            if self.is_hurried() {
                return;
            }
            listener.await;
        }
    }
}

impl fmt::Debug for StopSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StopSignal({:?})", self.cause())
    }
}
