//! Job records in SQLite. Beats are kept in memory: every holder of this home ends with the process that keeps them.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, ToSql, params};
use switchyard_core::brake::{Pause, Pauses, Scope};
use switchyard_core::execute;
use switchyard_core::job::{Epoch, Holder, Job, JobId, Phase, State, Tier};
use switchyard_core::lend::{LoanId, LoanNote, LoanQuery};
use switchyard_core::policies::Situation;
use switchyard_core::ports::{
    Acceptance, Ambient, Beat, Body, Claim, Claimed, Depths, Kept, Lane, Ledger, NewJob, Permits, PortError, Query,
    RecordQuery, Refusal, Saved, Spend, Unmapped, UnmappedCount, UnmappedId, UnmappedRoom, UnmappedSummary,
};
use switchyard_core::quota::{Buckets, Drawn, Rate};
use switchyard_core::records::{Record, RegisterPage, RegisterQuery};
use switchyard_core::route::Venue;
use switchyard_core::schedule::Ticked;
use switchyard_core::wire;
use tokio::sync::Notify;

use crate::depths_sqlite::depths;
use crate::store::{Store, StoreError};

/// How long after a job was held the night watch must have swept.
#[expect(clippy::cast_possible_truncation, reason = "half a minute")]
const SWEEP_MS: i64 = switchyard_core::brake::SWEEP.as_millis() as i64;

/// The ledger. Clones are the same ledger.
#[derive(Clone)]
pub struct SqliteLedger {
    pub(crate) store: Arc<Store>,
    /// What waits for commits.
    pub bells: Arc<Bells>,
    beats: Arc<Mutex<HashMap<Holder, Beat>>>,
    /// What the table `yard` says of pauses: read at every claim, replaced after the commit that changes one.
    pub(crate) pauses: Arc<Mutex<Arc<Pauses>>>,
    /// One process takes all jobs: what callers drew need not outlive it.
    buckets: Arc<Mutex<Buckets>>,
    pub(crate) unmapped_room: UnmappedRoom,
    ambient: Arc<dyn Ambient>,
}

/// What is rung after a commit, so that nothing has to poll.
#[derive(Debug)]
pub struct Bells {
    /// A job waits in a lane.
    pub lanes: Notify,
    /// How many commits brought a job into each lane: whoever found a lane empty need not look again until this moves.
    rung: Mutex<HashMap<String, u64>>,
    /// Something is due earlier than what the reaper waits for.
    pub due: Notify,
    /// What the reaper waits for, in milliseconds since 1970.
    armed: AtomicI64,
    /// A pause was lifted: what it held is swept at once.
    pub brakes: Notify,
    /// A run was asked to stop, or is not the job's any more.
    pub stops: Notify,
    watched: Mutex<HashMap<JobId, (Arc<Notify>, usize)>>,
}

impl Default for Bells {
    fn default() -> Self {
        Self {
            lanes: Notify::new(),
            rung: Mutex::default(),
            due: Notify::new(),
            armed: AtomicI64::new(i64::MAX),
            brakes: Notify::new(),
            stops: Notify::new(),
            watched: Mutex::default(),
        }
    }
}

impl Bells {
    /// The reaper says what it waits for; the bell rings for whatever is due before.
    pub fn arm(&self, at: Option<Timestamp>) {
        self.armed.store(at.map_or(i64::MAX, Timestamp::as_millisecond), Ordering::SeqCst);
    }

    /// How many commits have brought a job into the lane of this name.
    pub(crate) fn rung(&self, lane: &str) -> u64 {
        lock(&self.rung).get(lane).copied().unwrap_or_default()
    }

    fn saved(&self, columns: &Columns) {
        if let Some(lane) = &columns.lane {
            let mut rung = lock(&self.rung);
            match rung.get_mut(lane) {
                Some(times) => *times += 1,
                None => drop(rung.insert(lane.clone(), 1)),
            }
            drop(rung);
            self.lanes.notify_waiters();
        }
        // What is held is swept long before it is due.
        let swept =
            if columns.phase == Phase::Held { columns.rang.map(|since| since.saturating_add(SWEEP_MS)) } else { None };
        if columns.due.into_iter().chain(swept).min().is_some_and(|due| due < self.armed.load(Ordering::SeqCst)) {
            self.due.notify_one();
        }
        if columns.may_stop {
            self.stops.notify_waiters();
        }
        if let Some((bell, _)) = lock(&self.watched).get(&columns.id) {
            bell.notify_waiters();
        }
    }

    fn watch(self: &Arc<Self>, id: JobId) -> Watched {
        let mut watched = lock(&self.watched);
        let (bell, watchers) = watched.entry(id).or_default();
        *watchers += 1;
        Watched { bells: Arc::clone(self), id, bell: Arc::clone(bell) }
    }
}

struct Watched {
    bells: Arc<Bells>,
    id: JobId,
    bell: Arc<Notify>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut watched = lock(&self.bells.watched);
        if let Some((_, watchers)) = watched.get_mut(&self.id) {
            *watchers -= 1;
            if *watchers == 0 {
                watched.remove(&self.id);
            }
        }
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic in between leaves a map without half-done entries.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the indexes need of a record, beside the record.
struct Columns {
    id: JobId,
    revision: i64,
    phase: Phase,
    due: Option<i64>,
    lane: Option<String>,
    rang: Option<i64>,
    epoch: Epoch,
    settled: Option<i64>,
    tier: u8,
    permit: Option<u16>,
    venue: Venue,
    cost: i64,
    may_stop: bool,
    record: String,
}

impl Columns {
    fn of(job: &Job) -> Self {
        let (lane, rang) = match &job.state {
            State::Dispatched { at, .. } if job.route.venue() == Venue::Fleet => {
                (Some(lane_name(&switchyard_core::dispatch::lane(job))), Some(at.as_millisecond()))
            }
            State::Held { since } => (None, Some(since.as_millisecond())),
            State::Dispatched { .. } | State::Delayed { .. } | State::Running(_) | State::Settled(_) => (None, None),
        };
        Self {
            id: job.id,
            revision: i64::try_from(job.revision).unwrap_or(i64::MAX),
            phase: job.phase(),
            due: job.due.map(Timestamp::as_millisecond),
            lane,
            rang,
            epoch: job.epoch,
            settled: match &job.state {
                State::Settled(settlement) => Some(settlement.at.as_millisecond()),
                State::Dispatched { .. } | State::Delayed { .. } | State::Held { .. } | State::Running(_) => None,
            },
            tier: job.work.tier.rank(),
            permit: job.permit,
            venue: job.route.venue(),
            cost: i64::try_from(job.spent_nanodollars).unwrap_or(i64::MAX),
            may_stop: match &job.state {
                State::Running(run) => run.stop.is_some(),
                State::Settled(settlement) => settlement.token.is_none(),
                // After a run that was buried, its old holder must hear of it.
                State::Dispatched { .. } | State::Held { .. } => job.losses > 0,
                State::Delayed { .. } => false,
            },
            record: wire::encode(job),
        }
    }
}

/// A lane as the index knows it.
pub(crate) fn lane_name(lane: &Lane) -> String {
    // One digit for the tier keeps the name short; the pool comes first because lanes of a pool are read together.
    format!("{}/{}", lane.pool, lane.tier.rank())
}

/// Reads on a thread that nobody else waits for.
pub(crate) async fn aside<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(read).await.unwrap_or_else(|_| Err(StoreError::closed()))
}

pub(crate) fn unreadable(error: wire::WireError) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error))
}

pub(crate) fn job_of(row: &Row<'_>) -> rusqlite::Result<Job> {
    wire::decode(row.get_ref(0)?.as_str()?).map_err(unreadable)
}

fn id_of(row: &Row<'_>) -> rusqlite::Result<JobId> {
    row.get::<_, [u8; 16]>(0).map(JobId::from_bytes)
}

fn load(connection: &Connection, id: JobId) -> rusqlite::Result<Option<Job>> {
    let mut statement = connection.prepare_cached("SELECT record FROM jobs WHERE id = ?1")?;
    statement.query_row([id.as_bytes()], job_of).optional()
}

/// A record and its payload, which is written once: in one statement, for each takes a lock of its own.
fn load_with_payload(connection: &Connection, id: JobId) -> rusqlite::Result<Option<(Job, Option<Body>)>> {
    let sql = "SELECT record, (SELECT body FROM bodies WHERE job = seq AND epoch = 0) FROM jobs WHERE id = ?1";
    let read = |row: &Row<'_>| {
        let payload = row.get_ref(1)?.as_str_or_null()?.map(wire::decode_body).transpose().map_err(unreadable)?;
        Ok((job_of(row)?, payload))
    };
    connection.prepare_cached(sql)?.query_row([id.as_bytes()], read).optional()
}

fn body(connection: &Connection, id: JobId, epoch: Epoch) -> rusqlite::Result<Option<Body>> {
    let sql = "SELECT body FROM bodies WHERE job = (SELECT seq FROM jobs WHERE id = ?1) AND epoch = ?2";
    let mut statement = connection.prepare_cached(sql)?;
    let read = |row: &Row<'_>| wire::decode_body(row.get_ref(0)?.as_str()?).map_err(unreadable);
    statement.query_row(params![id.as_bytes(), epoch.0], read).optional()
}

/// A new job with its texts already made: the writer thread only writes.
struct Row1 {
    columns: Columns,
    capability: String,
    created: i64,
    payload: String,
}

fn insert(connection: &Connection, new: &Row1) -> rusqlite::Result<Acceptance> {
    let Columns { id, revision, phase, due, lane, rang, epoch, settled, tier, permit, venue, cost, record, .. } =
        &new.columns;
    let sql = "INSERT INTO jobs (id, revision, phase, capability, created, due, lane, rang, epoch, settled, record,
                                 tier, permit, venue, cost)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)
               ON CONFLICT (id) DO NOTHING";
    let values = params![
        id.as_bytes(),
        revision,
        phase.as_str(),
        new.capability,
        new.created,
        due,
        lane,
        rang,
        epoch.0,
        settled,
        record,
        tier,
        permit,
        venue.as_str(),
        cost
    ];
    if connection.prepare_cached(sql)?.execute(values)? == 1 {
        let sql = "INSERT INTO bodies (job, epoch, body) VALUES (?1, 0, ?2)";
        connection.prepare_cached(sql)?.execute(params![connection.last_insert_rowid(), new.payload])?;
        return Ok(Acceptance::Accepted);
    }
    let existing = load(connection, *id)?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
    Ok(Acceptance::Existing(Box::new(existing)))
}

fn update(connection: &Connection, columns: &Columns, result: Option<&str>) -> rusqlite::Result<Saved> {
    let Columns { id, revision, phase, due, lane, rang, epoch, settled, permit, venue, cost, record, .. } = columns;
    let sql = "UPDATE jobs SET revision = ?2, phase = ?3, due = ?4, lane = ?5, rang = ?6, epoch = ?7, settled = ?8,
               record = ?9, permit = ?10, venue = ?11, cost = ?12 WHERE id = ?1 AND revision = ?2 - 1";
    let values = params![
        id.as_bytes(),
        revision,
        phase.as_str(),
        due,
        lane,
        rang,
        epoch.0,
        settled,
        record,
        permit,
        venue.as_str(),
        cost
    ];
    let written = match connection.prepare_cached(sql)?.execute(values) {
        // The index of permits is the only one that an update can offend.
        Err(error) if is_taken(&error) => return Ok(Saved::PermitTaken),
        written => written?,
    };
    if written == 1 {
        if let Some(result) = result {
            let sql = "INSERT OR REPLACE INTO bodies (job, epoch, body)
                       SELECT seq, ?2, ?3 FROM jobs WHERE id = ?1";
            connection.prepare_cached(sql)?.execute(params![id.as_bytes(), epoch.0, result])?;
        }
        return Ok(Saved::Saved);
    }
    Ok(Saved::Refused(load(connection, *id)?.map(Box::new)))
}

fn is_taken(error: &rusqlite::Error) -> bool {
    error.sqlite_error().is_some_and(|error| error.extended_code == rusqlite::ffi::SQLITE_CONSTRAINT_UNIQUE)
}

impl SqliteLedger {
    /// The ledger in `store`.
    pub fn new(store: Arc<Store>, ambient: Arc<dyn Ambient>) -> Self {
        Self {
            store,
            bells: Arc::default(),
            beats: Arc::default(),
            pauses: Arc::default(),
            buckets: Arc::default(),
            unmapped_room: UnmappedRoom::default(),
            ambient,
        }
    }

    /// The same ledger with so much room for unmapped events. What is over it goes with the next one that is kept.
    #[must_use]
    pub fn with_unmapped_room(self, room: UnmappedRoom) -> Self {
        Self { unmapped_room: room, ..self }
    }

    /// The next moment at which the reaper has something to do: what is due, or what may be forgotten.
    ///
    /// # Errors
    ///
    /// The database failed.
    pub fn next_due(&self, retention: Duration) -> Result<Option<Timestamp>, PortError> {
        let retention = i64::try_from(retention.as_millis()).unwrap_or(i64::MAX);
        let (due, settled): (Option<i64>, Option<i64>) = self
            .store
            .read(|connection| {
                let one = |sql: &str| connection.prepare_cached(sql)?.query_row([], |row| row.get(0));
                Ok((
                    one("SELECT min(due) FROM jobs WHERE due IS NOT NULL")?,
                    one("SELECT min(settled) FROM jobs WHERE settled IS NOT NULL AND due IS NULL")?,
                ))
            })
            .map_err(|error| error.at("find", "the next due job"))?;
        // One past the retention's end: what is forgotten was settled before that moment, not at it.
        let forget = settled.map(|settled| settled.saturating_add(retention).saturating_add(1));
        let next = [due, forget].into_iter().flatten().min();
        Ok(next.and_then(|ms| Timestamp::from_millisecond(ms).ok()))
    }

    /// Every job that has not ended, oldest first: what a restarted yard looks at.
    ///
    /// # Errors
    ///
    /// The database failed.
    pub fn unsettled(&self) -> Result<Vec<JobId>, PortError> {
        let sql = "SELECT id FROM jobs WHERE due IS NOT NULL AND settled IS NULL ORDER BY seq";
        self.store
            .read(|connection| connection.prepare(sql)?.query_map([], id_of)?.collect())
            .map_err(|error| error.at("list", "unsettled jobs"))
    }

    /// The yard's own id, made at its first start.
    ///
    /// # Errors
    ///
    /// The database failed.
    pub async fn yard_id(&self) -> Result<String, PortError> {
        let fresh = format!("{}", self.ambient.nonce());
        let write = move |connection: &Connection| {
            connection.execute("INSERT OR IGNORE INTO yard (name, value) VALUES ('id', ?1)", [fresh])?;
            connection.query_row("SELECT value FROM yard WHERE name = 'id'", [], |row| row.get(0))
        };
        self.store.write(write, |_| {}).await.map_err(|error| error.at("read", "the yard's id"))
    }

    /// Keeps what runs showed of their capabilities' needs: names and values.
    ///
    /// # Errors
    ///
    /// The database failed.
    pub async fn keep_observed(&self, observed: Vec<(String, String)>) -> Result<(), PortError> {
        let write = move |connection: &Connection| {
            for (capability, value) in observed {
                let sql = "INSERT OR REPLACE INTO yard (name, value) VALUES ('observed/' || ?1, ?2)";
                connection.prepare_cached(sql)?.execute([capability, value])?;
            }
            Ok(())
        };
        self.store.write(write, |()| {}).await.map_err(|error| error.at("keep", "what was observed"))
    }

    /// What [`SqliteLedger::keep_observed`] kept.
    ///
    /// # Errors
    ///
    /// The database failed.
    pub fn observed(&self) -> Result<Vec<(String, String)>, PortError> {
        let sql = "SELECT substr(name, 10), value FROM yard WHERE name LIKE 'observed/%'";
        self.store
            .read(|connection| connection.prepare(sql)?.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect())
            .map_err(|error| error.at("read", "what was observed"))
    }

    /// Forgets the beats of a holder that has ended.
    pub fn forget_holder(&self, holder: &Holder) {
        lock(&self.beats).remove(holder);
    }

    fn load_now(&self, id: JobId) -> Result<Option<Job>, PortError> {
        self.store.read(|connection| load(connection, id)).map_err(|error| error.at("load", format!("job {id}")))
    }
}

#[async_trait]
impl Ledger for SqliteLedger {
    async fn accept(&self, jobs: Vec<NewJob>) -> Result<Vec<Acceptance>, PortError> {
        let subject = format!("{} jobs", jobs.len());
        let rows: Vec<Row1> = jobs
            .iter()
            .map(|new| Row1 {
                columns: Columns::of(&new.job),
                capability: new.job.work.capability.clone(),
                created: new.job.created.as_millisecond(),
                payload: wire::encode_body(&new.payload),
            })
            .collect();
        let bells = Arc::clone(&self.bells);
        let write = move |connection: &Connection| {
            let accepted = rows.iter().map(|row| insert(connection, row)).collect::<rusqlite::Result<Vec<_>>>()?;
            Ok((accepted, rows))
        };
        let ring = move |(accepted, rows): &(Vec<Acceptance>, Vec<Row1>)| {
            for (acceptance, row) in accepted.iter().zip(rows) {
                if *acceptance == Acceptance::Accepted {
                    bells.saved(&row.columns);
                }
            }
        };
        let written = self.store.write(write, ring).await;
        written.map(|(accepted, _)| accepted).map_err(|error| error.at("accept", subject))
    }

    async fn load(&self, id: JobId) -> Result<Option<Job>, PortError> {
        self.load_now(id)
    }

    async fn save(&self, job: Job, result: Option<Body>) -> Result<Saved, PortError> {
        let id = job.id;
        let columns = Columns::of(&job);
        let result = result.as_ref().map(wire::encode_body);
        let one = result.is_none();
        let bells = Arc::clone(&self.bells);
        let write = move |connection: &Connection| {
            update(connection, &columns, result.as_deref()).map(|saved| (saved, columns))
        };
        let ring = move |(saved, columns): &(Saved, Columns)| {
            if *saved == Saved::Saved {
                bells.saved(columns);
            }
        };
        let written = if one { self.store.write_one(write, ring).await } else { self.store.write(write, ring).await };
        written.map(|(saved, _)| saved).map_err(|error| error.at("save", format!("job {id}")))
    }

    async fn claim(&self, claim: &Claim, situation: &Situation, now: Timestamp) -> Result<Claimed, PortError> {
        // Decided on what a reader sees, written on condition that it is still so: the writer's thread does no work
        // that another can do.
        loop {
            let found = self.store.read(|connection| load_with_payload(connection, claim.id));
            let found = found.map_err(|error| error.at("claim", format!("job {}", claim.id)))?;
            let Some((job, payload)) = found else { return Ok(Claimed::Lost(Refusal::Unknown)) };
            let claimed = match execute::claim(&job, claim, situation, now) {
                Err(refusal) => return Ok(Claimed::Lost(refusal)),
                Ok(claimed) => claimed,
            };
            let won = if claimed == job {
                Some(job)
            } else {
                let claimed = claimed.stamped(self.ambient.nonce());
                match self.save(claimed.clone(), None).await? {
                    Saved::Saved => Some(claimed),
                    Saved::Refused(_) | Saved::PermitTaken => None,
                }
            };
            if let Some(job) = won {
                let payload = payload.ok_or_else(|| {
                    PortError::permanent("claim", format!("job {}", claim.id), "its payload is not in the database")
                })?;
                return Ok(Claimed::Won(Box::new(job), payload));
            }
        }
    }

    async fn payload(&self, id: JobId) -> Result<Option<Body>, PortError> {
        let read = |connection: &Connection| body(connection, id, Epoch(0));
        self.store.read(read).map_err(|error| error.at("read the payload of", format!("job {id}")))
    }

    async fn result(&self, id: JobId, epoch: Epoch) -> Result<Option<Body>, PortError> {
        if epoch == Epoch(0) {
            return Ok(None);
        }
        let read = |connection: &Connection| body(connection, id, epoch);
        self.store.read(read).map_err(|error| error.at("read the result of", format!("job {id}")))
    }

    async fn due(&self, now: Timestamp, limit: usize) -> Result<Vec<JobId>, PortError> {
        let sql = "SELECT id FROM jobs WHERE due IS NOT NULL AND due <= ?1 ORDER BY due LIMIT ?2";
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.store
            .read(|connection| {
                connection.prepare_cached(sql)?.query_map(params![now.as_millisecond(), limit], id_of)?.collect()
            })
            .map_err(|error| error.at("list", "due jobs"))
    }

    async fn list(&self, query: &Query) -> Result<Vec<Job>, PortError> {
        let mut sql = "SELECT record FROM jobs WHERE true".to_owned();
        let mut values: Vec<Box<dyn ToSql + Send>> = Vec::new();
        let mut and = |condition: &str, value: Vec<Box<dyn ToSql + Send>>| {
            sql.push_str(" AND ");
            sql.push_str(condition);
            values.extend(value);
        };
        if let Some(phase) = query.phase {
            and("phase = ?", vec![Box::new(phase.as_str())]);
        }
        if let Some(capability) = &query.capability {
            and("capability = ?", vec![Box::new(capability.clone())]);
        }
        if let Some((name, value)) = &query.label {
            let label = "EXISTS (SELECT 1 FROM json_each(record, '$.labels') AS label
                         WHERE label.value ->> 0 = ? AND label.value ->> 1 = ?)";
            and(label, vec![Box::new(name.clone()), Box::new(value.clone())]);
        }
        if let Some((created, id)) = query.before {
            and("(created, id) < (?, ?)", vec![Box::new(created.as_millisecond()), Box::new(*id.as_bytes())]);
        }
        if let Some(since) = query.since {
            and("created >= ?", vec![Box::new(since.as_millisecond())]);
        }
        sql.push_str(" ORDER BY created DESC, id DESC LIMIT ?");
        values.push(Box::new(i64::try_from(query.limit).unwrap_or(i64::MAX)));
        // A filtered list may read the whole table: not on a thread that others wait for.
        let store = Arc::clone(&self.store);
        let read = move || {
            store.scan(|connection| {
                let values = rusqlite::params_from_iter(values.iter().map(|value| value.as_ref() as &dyn ToSql));
                let mut statement = connection.prepare_cached(&sql)?;
                let mut rows = statement.query(values)?;
                let mut jobs = Vec::new();
                while let Some(row) = rows.next()? {
                    match job_of(row) {
                        Ok(job) => jobs.push(job),
                        // One that cannot be read must not hide the others.
                        Err(error) => tracing::error!(%error, "a job's record cannot be read, and is left out"),
                    }
                }
                Ok(jobs)
            })
        };
        aside(read).await.map_err(|error| error.at("list", "jobs"))
    }

    async fn count(&self) -> Result<Vec<(Phase, u64)>, PortError> {
        let store = Arc::clone(&self.store);
        let read = move || {
            store.scan(|connection| {
                let mut statement = connection.prepare_cached("SELECT phase, count(*) FROM jobs GROUP BY phase")?;
                let count = |row: &Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?));
                statement.query_map([], count)?.collect::<rusqlite::Result<Vec<_>>>()
            })
        };
        let counted = aside(read).await.map_err(|error| error.at("count", "jobs"))?;
        let mut counts: Vec<(Phase, u64)> = counted
            .into_iter()
            .filter_map(|(phase, count)| Some((phase.parse().ok()?, u64::try_from(count).ok()?)))
            .collect();
        counts.sort();
        Ok(counts)
    }

    async fn spend(&self, since: Timestamp) -> Result<Vec<Spend>, PortError> {
        let (store, since) = (Arc::clone(&self.store), since.as_millisecond());
        let read = move || {
            store.scan(|connection| {
                let sql = "SELECT capability, venue, count(*), sum(cost) FROM jobs
                           WHERE settled IS NOT NULL AND due IS NULL AND settled >= ?1
                           GROUP BY capability, venue ORDER BY 4 DESC, capability, venue";
                let mut statement = connection.prepare_cached(sql)?;
                let spend = |row: &Row<'_>| {
                    Ok((
                        row.get::<_, String>(0)?,
                        row.get::<_, String>(1)?,
                        row.get::<_, i64>(2)?,
                        row.get::<_, i64>(3)?,
                    ))
                };
                statement.query_map([since], spend)?.collect::<rusqlite::Result<Vec<_>>>()
            })
        };
        let spent = aside(read).await.map_err(|error| error.at("add up", "what jobs cost"))?;
        let whole = |number: i64| u64::try_from(number).unwrap_or(0);
        let spend = |(capability, venue, jobs, nanodollars): (String, String, i64, i64)| {
            let venue = Venue::ALL.into_iter().find(|known| known.as_str() == venue)?;
            Some(Spend { capability, venue, jobs: whole(jobs), nanodollars: whole(nanodollars) })
        };
        Ok(spent.into_iter().filter_map(spend).collect())
    }

    async fn permits(&self, capability: &str) -> Result<Permits, PortError> {
        self.permits_of(capability)
    }

    async fn held(&self, capability: &str, tiers: &[Tier], limit: usize) -> Result<Vec<Job>, PortError> {
        self.held_of(capability, tiers, limit)
    }

    async fn holding(&self) -> Result<Vec<String>, PortError> {
        self.capabilities_held()
    }

    async fn pauses(&self) -> Result<Arc<Pauses>, PortError> {
        Ok(Arc::clone(&lock(&self.pauses)))
    }

    async fn set_pause(&self, scope: &Scope, pause: Option<&Pause>) -> Result<(), PortError> {
        self.keep_pause(scope, pause).await
    }

    async fn depths(&self, since: Timestamp) -> Result<Depths, PortError> {
        let store = Arc::clone(&self.store);
        let read = move || store.scan(|connection| depths(connection, since));
        aside(read).await.map_err(|error| error.at("count", "what waits"))
    }

    async fn open_jobs(&self, caller: &str, most: u64) -> Result<u64, PortError> {
        self.open_jobs_of(caller, most).await
    }

    async fn draw(&self, caller: &str, n: u32, rate: Rate, now: Timestamp) -> Result<Drawn, PortError> {
        Ok(lock(&self.buckets).draw(caller, n, rate, now))
    }

    async fn watch(&self, id: JobId, seen: u64, patience: Duration) -> Result<Option<Job>, PortError> {
        let watched = self.bells.watch(id);
        let patience = tokio::time::sleep(patience);
        tokio::pin!(patience);
        loop {
            let changed = watched.bell.notified();
            tokio::pin!(changed);
            // Listening before looking: a change in between is not missed.
            changed.as_mut().enable();
            let job = self.load_now(id)?;
            if job.as_ref().is_none_or(|job| job.revision > seen) {
                return Ok(job);
            }
            tokio::select! {
                () = changed => {}
                () = &mut patience => return self.load_now(id),
            }
        }
    }

    async fn beat(&self, beat: &Beat) -> Result<(), PortError> {
        lock(&self.beats).insert(beat.holder.clone(), beat.clone());
        Ok(())
    }

    async fn last_beat(&self, holder: &Holder) -> Result<Option<Beat>, PortError> {
        Ok(lock(&self.beats).get(holder).cloned())
    }

    async fn forgettable(&self, settled_before: Timestamp, limit: usize) -> Result<Vec<JobId>, PortError> {
        let sql = "SELECT id FROM jobs WHERE settled IS NOT NULL AND due IS NULL AND settled < ?1
                   ORDER BY settled LIMIT ?2";
        let values = (settled_before.as_millisecond(), i64::try_from(limit).unwrap_or(i64::MAX));
        self.store
            .read(|connection| connection.prepare_cached(sql)?.query_map(values, id_of)?.collect())
            .map_err(|error| error.at("list", "jobs to forget"))
    }

    async fn last_ticks(&self) -> Result<BTreeMap<String, Ticked>, PortError> {
        // Up to what follows the prefix: `;` comes after `:`.
        let sql = "SELECT substr(name, 10), value FROM yard WHERE name >= 'schedule:' AND name < 'schedule;'";
        let read = |row: &Row<'_>| {
            let ticked = wire::decode_ticked(row.get_ref(1)?.as_str()?).map_err(unreadable)?;
            Ok((row.get(0)?, ticked))
        };
        self.store
            .read(|connection| connection.prepare_cached(sql)?.query_map([], read)?.collect())
            .map_err(|error| error.at("read", "what is remembered of schedules"))
    }

    async fn ticked(&self, schedule: &str, ticked: Option<&Ticked>) -> Result<(), PortError> {
        let (name, value) = (format!("schedule:{schedule}"), ticked.map(wire::encode_ticked));
        let write = move |connection: &Connection| match value {
            Some(value) => {
                let sql = "INSERT OR REPLACE INTO yard (name, value) VALUES (?1, ?2)";
                connection.prepare_cached(sql)?.execute([name, value]).map(drop)
            }
            None => connection.prepare_cached("DELETE FROM yard WHERE name = ?1")?.execute([name]).map(drop),
        };
        let written = self.store.write(write, |()| {}).await;
        written.map_err(|error| error.at("remember", format!("schedule {schedule}")))
    }

    async fn forget(&self, ids: &[JobId]) -> Result<(), PortError> {
        if ids.is_empty() {
            return Ok(());
        }
        let ids = ids.to_vec();
        let subject = format!("{} jobs", ids.len());
        let write = move |connection: &Connection| {
            for id in ids {
                let sql = "DELETE FROM jobs WHERE id = ?1 AND settled IS NOT NULL AND due IS NULL RETURNING seq";
                let seq: Option<i64> =
                    connection.prepare_cached(sql)?.query_row([id.as_bytes()], |row| row.get(0)).optional()?;
                connection.prepare_cached("DELETE FROM bodies WHERE job = ?1")?.execute([seq])?;
                connection.prepare_cached("DELETE FROM records WHERE job = ?1")?.execute([seq])?;
            }
            Ok(())
        };
        self.store.write(write, |()| {}).await.map_err(|error| error.at("forget", subject))
    }

    async fn keep_unmapped(&self, event: Unmapped) -> Result<(), PortError> {
        self.keep_unmapped_event(event).await
    }

    async fn unmapped(
        &self,
        before: Option<(Timestamp, UnmappedId)>,
        limit: usize,
    ) -> Result<Vec<UnmappedSummary>, PortError> {
        self.list_unmapped(before, limit)
    }

    async fn unmapped_event(&self, id: UnmappedId) -> Result<Option<Unmapped>, PortError> {
        self.load_unmapped(id)
    }

    async fn forget_unmapped(&self, ids: &[UnmappedId]) -> Result<(), PortError> {
        self.forget_unmapped_events(ids).await
    }

    async fn unmapped_count(&self) -> Result<UnmappedCount, PortError> {
        self.count_unmapped()
    }

    async fn note_loan(&self, note: &LoanNote) -> Result<(), PortError> {
        self.note_one_loan(note).await
    }

    async fn loan(&self, job: JobId, id: LoanId) -> Result<Option<LoanNote>, PortError> {
        self.load_loan(job, id)
    }

    async fn loans(&self, query: &LoanQuery) -> Result<Vec<LoanNote>, PortError> {
        self.list_loans(query)
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

    async fn forget_registered(&self, seen_before: Timestamp, limit: usize) -> Result<u64, PortError> {
        self.forget_seen_before(seen_before, limit).await
    }
}
