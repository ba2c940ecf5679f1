//! A yard in memory, and somebody of each role to ask it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use axum::http::header;
use axum::http::request::Parts;
use jiff::Timestamp;
use switchyard_core::brake::{Pause, Pauses, Scope};
use switchyard_core::catalog::Catalog;
use switchyard_core::intake;
use switchyard_core::job::{ClaimToken, Epoch, Holder, Job, JobId, Nonce, Phase, Tier, TraceId};
use switchyard_core::lend::{LoanId, LoanNote, LoanQuery};
use switchyard_core::memory::Memory;
use switchyard_core::policies::{NotReloaded, Reload, Reloaded, Situation};
use switchyard_core::ports::{
    self, Acceptance, Assignment, Beat, Body, Claim, Claimed, Depths, Executor, Kept, LogSink, NewJob, Outcome,
    Permits, PortError, Query, RecordQuery, Saved, Spend, Unmapped, UnmappedCount, UnmappedId, UnmappedSummary, Yard,
};
use switchyard_core::quota::{Drawn, Rate};
use switchyard_core::records::{Record, RegisterPage, RegisterQuery};
use switchyard_core::route::Limits;
use switchyard_core::schedule::Ticked;
use switchyard_core::settle::YardDesk;
use tokio::sync::Semaphore;

use crate::admit::{Caller, Callers, Role, Stranger};
use crate::edge::{Edge, EdgeLimits};
use crate::request::Trace;
use crate::{Api, Inline};

/// What the yard of the tests can run: `greet` waits for a worker, and there is none.
const CATALOG: &str = "version: 1
capabilities:
  - name: greet
    summary: says hello
    run: { command: [echo, \"{{name}}\"] }
    input: { type: object, required: [name], properties: { name: { type: string } } }
    needs: { timeout_seconds: 60 }
";

/// Each role's token is the role's name and so is the caller's.
pub(crate) fn token(role: Role) -> &'static str {
    role.as_str()
}

struct Named;

impl Callers for Named {
    fn who(&self, request: &Parts) -> Result<Caller, Stranger> {
        let shown = request.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = shown.ok_or(Stranger::Silent)?.strip_prefix("Bearer ").ok_or(Stranger::Unknown)?;
        let role = token.parse().map_err(|_| Stranger::Unknown)?;
        Ok(Caller { name: token.to_owned(), role })
    }
}

struct Idle;

#[async_trait]
impl Executor for Idle {
    async fn run(&self, _: &Assignment<'_>, _: &dyn LogSink) -> Outcome {
        Outcome::Succeeded(None)
    }
}

/// Rules that nobody wrote down.
struct BuiltIn;

#[async_trait]
impl Reload for BuiltIn {
    async fn reload(&self) -> Result<Reloaded, NotReloaded> {
        Err(NotReloaded::BuiltIn)
    }
}

/// A router's state over a new yard in memory.
pub(crate) fn api() -> Arc<Api> {
    api_over(Ledger::new()).0
}

/// A router's state over a new yard in memory, with an edge of these limits.
pub(crate) fn api_with(ledger: Ledger, limits: EdgeLimits) -> Arc<Api> {
    let (api, _) = api_over(ledger);
    let api = Arc::try_unwrap(api).unwrap_or_else(|_| unreachable!("nobody else has it yet"));
    Arc::new(Api { edge: Edge::new(limits), ..api })
}

/// A router's state over a new yard in memory with this ledger.
pub(crate) fn api_over(ledger: Ledger) -> (Arc<Api>, Ledger) {
    let catalog = Catalog::parse("c.yaml", CATALOG, &[], &std::collections::BTreeMap::new()).unwrap();
    let yard = Yard { ledger: Arc::new(ledger.clone()), ..ledger.home.yard(catalog, Limits::one_machine(1024)) };
    let api = Api {
        inline: Inline {
            desk: Arc::new(YardDesk(yard.clone())),
            executor: Arc::new(Idle),
            holder: Holder::new("inline", Nonce(1)),
            places: Arc::new(Semaphore::new(4)),
            budget: crate::Budget::Each(Duration::from_secs(29)),
        },
        yard,
        callers: Arc::new(Named),
        edge: Edge::default(),
        rules: Arc::new(BuiltIn),
        compute: "local",
    };
    (Arc::new(api), ledger)
}

/// A ledger in memory that counts how often a single record is looked at, and whose waits end by the runtime's clock.
#[derive(Clone)]
pub(crate) struct Ledger {
    home: Memory,
    looks: Arc<AtomicU32>,
    accepts: Arc<AtomicU32>,
    restless: bool,
    held: bool,
}

impl Ledger {
    pub(crate) fn new() -> Self {
        let home = Memory::new(Timestamp::from_second(1_800_000_000).unwrap(), 7);
        Self { home, looks: Arc::default(), accepts: Arc::default(), restless: false, held: false }
    }

    /// One whose jobs have changed whenever somebody looks.
    pub(crate) fn restless() -> Self {
        Self { restless: true, ..Self::new() }
    }

    /// One that answers no list.
    pub(crate) fn held() -> Self {
        Self { held: true, ..Self::new() }
    }

    /// The looks since the last time this was asked.
    pub(crate) fn looks(&self) -> u32 {
        self.looks.swap(0, Ordering::SeqCst)
    }

    /// The writes that accepted jobs, since the last time this was asked.
    pub(crate) fn accepts(&self) -> u32 {
        self.accepts.swap(0, Ordering::SeqCst)
    }
}

#[async_trait]
impl ports::Ledger for Ledger {
    async fn accept(&self, jobs: Vec<NewJob>) -> Result<Vec<Acceptance>, PortError> {
        self.accepts.fetch_add(1, Ordering::SeqCst);
        self.home.accept(jobs).await
    }

    async fn load(&self, id: JobId) -> Result<Option<Job>, PortError> {
        self.looks.fetch_add(1, Ordering::SeqCst);
        self.home.load(id).await
    }

    async fn save(&self, job: Job, result: Option<Body>) -> Result<Saved, PortError> {
        self.home.save(job, result).await
    }

    async fn claim(&self, claim: &Claim, situation: &Situation, now: Timestamp) -> Result<Claimed, PortError> {
        self.home.claim(claim, situation, now).await
    }

    async fn payload(&self, id: JobId) -> Result<Option<Body>, PortError> {
        self.home.payload(id).await
    }

    async fn result(&self, id: JobId, epoch: Epoch) -> Result<Option<Body>, PortError> {
        self.home.result(id, epoch).await
    }

    async fn due(&self, now: Timestamp, limit: usize) -> Result<Vec<JobId>, PortError> {
        self.home.due(now, limit).await
    }

    async fn list(&self, query: &Query) -> Result<Vec<Job>, PortError> {
        if self.held {
            std::future::pending::<()>().await;
        }
        self.home.list(query).await
    }

    async fn count(&self) -> Result<Vec<(Phase, u64)>, PortError> {
        self.home.count().await
    }

    async fn watch(&self, id: JobId, seen: u64, patience: Duration) -> Result<Option<Job>, PortError> {
        self.looks.fetch_add(1, Ordering::SeqCst);
        if self.restless {
            return Ok(self.home.load(id).await?.map(|job| Job { revision: seen + 1, ..job }));
        }
        match tokio::time::timeout(patience, self.home.watch(id, seen, Duration::from_secs(3600))).await {
            Ok(found) => found,
            Err(_) => self.home.load(id).await,
        }
    }

    async fn beat(&self, beat: &Beat) -> Result<(), PortError> {
        self.home.beat(beat).await
    }

    async fn last_beat(&self, holder: &Holder) -> Result<Option<Beat>, PortError> {
        self.home.last_beat(holder).await
    }

    async fn forgettable(&self, settled_before: Timestamp, limit: usize) -> Result<Vec<JobId>, PortError> {
        self.home.forgettable(settled_before, limit).await
    }

    async fn forget(&self, ids: &[JobId]) -> Result<(), PortError> {
        self.home.forget(ids).await
    }

    async fn permits(&self, capability: &str) -> Result<Permits, PortError> {
        self.home.permits(capability).await
    }

    async fn held(&self, capability: &str, tiers: &[Tier], limit: usize) -> Result<Vec<Job>, PortError> {
        self.home.held(capability, tiers, limit).await
    }

    async fn holding(&self) -> Result<Vec<String>, PortError> {
        self.home.holding().await
    }

    async fn pauses(&self) -> Result<Arc<Pauses>, PortError> {
        self.home.pauses().await
    }

    async fn set_pause(&self, scope: &Scope, pause: Option<&Pause>) -> Result<(), PortError> {
        self.home.set_pause(scope, pause).await
    }

    async fn depths(&self, since: Timestamp) -> Result<Depths, PortError> {
        self.home.depths(since).await
    }

    async fn open_jobs(&self, caller: &str, most: u64) -> Result<u64, PortError> {
        self.home.open_jobs(caller, most).await
    }

    async fn draw(&self, caller: &str, n: u32, rate: Rate, now: Timestamp) -> Result<Drawn, PortError> {
        self.home.draw(caller, n, rate, now).await
    }

    async fn spend(&self, since: Timestamp) -> Result<Vec<Spend>, PortError> {
        self.home.spend(since).await
    }

    async fn last_ticks(&self) -> Result<BTreeMap<String, Ticked>, PortError> {
        self.home.last_ticks().await
    }

    async fn ticked(&self, name: &str, ticked: Option<&Ticked>) -> Result<(), PortError> {
        self.home.ticked(name, ticked).await
    }

    async fn keep_unmapped(&self, event: Unmapped) -> Result<(), PortError> {
        self.home.keep_unmapped(event).await
    }

    async fn unmapped(
        &self,
        before: Option<(Timestamp, UnmappedId)>,
        limit: usize,
    ) -> Result<Vec<UnmappedSummary>, PortError> {
        self.home.unmapped(before, limit).await
    }

    async fn unmapped_event(&self, id: UnmappedId) -> Result<Option<Unmapped>, PortError> {
        self.home.unmapped_event(id).await
    }

    async fn forget_unmapped(&self, ids: &[UnmappedId]) -> Result<(), PortError> {
        self.home.forget_unmapped(ids).await
    }

    async fn unmapped_count(&self) -> Result<UnmappedCount, PortError> {
        self.home.unmapped_count().await
    }

    async fn note_loan(&self, note: &LoanNote) -> Result<(), PortError> {
        self.home.note_loan(note).await
    }

    async fn loan(&self, job: JobId, id: LoanId) -> Result<Option<LoanNote>, PortError> {
        self.home.loan(job, id).await
    }

    async fn loans(&self, query: &LoanQuery) -> Result<Vec<LoanNote>, PortError> {
        self.home.loans(query).await
    }

    async fn keep_records(&self, records: &[Record]) -> Vec<Result<Kept, PortError>> {
        self.home.keep_records(records).await
    }

    async fn records(&self, query: &RecordQuery) -> Result<Vec<Record>, PortError> {
        self.home.records(query).await
    }

    async fn registered(&self, query: &RegisterQuery) -> Result<RegisterPage, PortError> {
        self.home.registered(query).await
    }

    async fn forget_registered(&self, seen_before: Timestamp, limit: usize) -> Result<u64, PortError> {
        self.home.forget_registered(seen_before, limit).await
    }
}

/// The trace of every request of the tests.
pub(crate) fn trace() -> Trace {
    Trace(TraceId::drawn([7; 16]))
}

/// Claims a job for a worker that never reports.
pub(crate) async fn claim(api: &Api, id: JobId) {
    let claim = Claim {
        id,
        epoch: Epoch(1),
        holder: Holder::new("worker", Nonce(1)),
        token: ClaimToken::new([1; 32]).hash(),
        at_most: None,
        room: None,
    };
    assert!(matches!(
        api.yard.ledger.claim(&claim, &api.yard.situation().await, api.yard.ambient.now()).await,
        Ok(Claimed::Won(..))
    ));
}

/// A job that waits, submitted by `caller`.
pub(crate) async fn a_job(api: &Api, caller: &str) -> JobId {
    let (submission, digest) = intake::read(br#"{"capability":"greet","payload":{"name":"Ada"}}"#).unwrap();
    let sender = intake::Sender { caller, key: None };
    let yard = &api.yard;
    let (now, random) = (yard.ambient.now(), yard.ambient.random());
    let (situation, taking) = (yard.situation().await, intake::Taking::default());
    let prepared = intake::prepare(&submission, digest, sender, &situation, taking, now, random).unwrap();
    intake::accept(yard, vec![prepared]).await.unwrap().remove(0).unwrap().job.id
}
