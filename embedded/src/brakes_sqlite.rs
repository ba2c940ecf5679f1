//! What the brakes need of the ledger: permits, held jobs, pauses, a caller's open jobs.

use std::sync::Arc;

use rusqlite::{Connection, Row, params};
use switchyard_core::brake::{Pause, Pauses, Scope};
use switchyard_core::job::{Job, Tier};
use switchyard_core::ports::{Permits, PortError};
use switchyard_core::wire;

use crate::ledger_sqlite::{SqliteLedger, aside, job_of, lock, unreadable};

/// What the row of a pause is called in the table `yard`.
fn pause_name(scope: &Scope) -> String {
    match scope {
        Scope::All => "pause/all".to_owned(),
        Scope::Tier(tier) => format!("pause/tier/{tier}"),
        Scope::Capability(name) => format!("pause/capability/{name}"),
    }
}

impl SqliteLedger {
    /// Whether a whole tier is paused.
    pub(crate) fn is_paused(&self, tier: Tier) -> bool {
        lock(&self.pauses).tier_paused(tier)
    }

    /// Reads the pauses that an earlier process was told of. A home does this once, before anything may start.
    ///
    /// # Errors
    ///
    /// The database failed, or holds a pause that this program cannot read: better no yard than one that starts what
    /// somebody stopped.
    pub fn read_pauses(&self) -> Result<(), PortError> {
        let sql = "SELECT value FROM yard WHERE name >= 'pause/' AND name < 'pause0'";
        let read = |row: &Row<'_>| wire::decode_pause(row.get_ref(0)?.as_str()?).map_err(unreadable);
        let pauses: Pauses = self
            .store
            .read(|connection| connection.prepare(sql)?.query_map([], read)?.collect())
            .map_err(|error| error.at("read", "the yard's pauses"))?;
        *lock(&self.pauses) = Arc::new(pauses);
        Ok(())
    }

    /// Whether any job is held.
    ///
    /// # Errors
    ///
    /// The database failed.
    pub fn holds_any(&self) -> Result<bool, PortError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM jobs WHERE phase = 'held')";
        self.store
            .read(|connection| connection.prepare_cached(sql)?.query_row([], |row| row.get(0)))
            .map_err(|error| error.at("look for", "held jobs"))
    }

    /// See [`switchyard_core::ports::Ledger::permits`].
    pub(crate) fn permits_of(&self, capability: &str) -> Result<Permits, PortError> {
        // One look at both: a job must not be missed between them.
        let sql = "SELECT permit FROM jobs WHERE capability = ?1 AND permit IS NOT NULL
                   UNION ALL
                   SELECT NULL FROM jobs WHERE capability = ?1 AND phase = 'running' AND permit IS NULL
                   ORDER BY 1";
        self.store
            .read(|connection| {
                let mut permits = Permits::default();
                let mut statement = connection.prepare_cached(sql)?;
                let mut rows = statement.query([capability])?;
                while let Some(row) = rows.next()? {
                    match row.get::<_, Option<u16>>(0)? {
                        Some(permit) => permits.held.push(permit),
                        None => permits.without += 1,
                    }
                }
                Ok(permits)
            })
            .map_err(|error| error.at("list the permits of", capability))
    }

    /// See [`switchyard_core::ports::Ledger::held`].
    pub(crate) fn held_of(&self, capability: &str, tiers: &[Tier], limit: usize) -> Result<Vec<Job>, PortError> {
        // One walk down the index for each tier; what is found first ends it.
        let sql = "SELECT record FROM jobs WHERE phase = 'held' AND capability = ?1 AND tier = ?2 ORDER BY created, id";
        let mut ranks: Vec<u8> = tiers.iter().copied().map(Tier::rank).collect();
        ranks.sort_unstable();
        self.store
            .read(|connection| {
                let mut statement = connection.prepare_cached(sql)?;
                let mut held = Vec::new();
                for rank in ranks {
                    let mut rows = statement.query(params![capability, rank])?;
                    while held.len() < limit
                        && let Some(row) = rows.next()?
                    {
                        match job_of(row) {
                            Ok(job) => held.push(job),
                            // One that cannot be read must not stand in the way of the others.
                            Err(error) => tracing::error!(%error, "a held job's record cannot be read; it stays held"),
                        }
                    }
                }
                Ok(held)
            })
            .map_err(|error| error.at("list the held jobs of", capability))
    }

    /// See [`switchyard_core::ports::Ledger::holding`].
    pub(crate) fn capabilities_held(&self) -> Result<Vec<String>, PortError> {
        // From name to name, each by one search of the index, however many are held under it. The condition on the
        // phase stands at each table for the planner's sake: it may use the index for nothing else.
        let sql = "WITH RECURSIVE name (of) AS (
                       SELECT min(capability) FROM jobs WHERE phase = 'held'
                       UNION ALL
                       SELECT (SELECT min(capability) FROM jobs WHERE phase = 'held' AND capability > name.of)
                       FROM name WHERE name.of IS NOT NULL)
                   SELECT of FROM name WHERE of IS NOT NULL";
        self.store
            .read(|connection| connection.prepare_cached(sql)?.query_map([], |row| row.get(0))?.collect())
            .map_err(|error| error.at("list", "capabilities with held jobs"))
    }

    /// See [`switchyard_core::ports::Ledger::set_pause`].
    pub(crate) async fn keep_pause(&self, scope: &Scope, pause: Option<&Pause>) -> Result<(), PortError> {
        let (name, value) = (pause_name(scope), pause.map(wire::encode_pause));
        let write = move |connection: &Connection| match value {
            Some(value) => {
                let sql = "INSERT OR REPLACE INTO yard (name, value) VALUES (?1, ?2)";
                connection.execute(sql, params![name, value]).map(drop)
            }
            None => connection.execute("DELETE FROM yard WHERE name = ?1", [name]).map(drop),
        };
        let (bells, lifted) = (Arc::clone(&self.bells), pause.is_none());
        let (kept, changed, over) = (Arc::clone(&self.pauses), pause.cloned(), scope.clone());
        let after = move |(): &()| {
            let mut kept = lock(&kept);
            let pauses = Arc::make_mut(&mut kept);
            match changed {
                Some(pause) => pauses.set(pause),
                None => drop(pauses.lift(&over)),
            }
            drop(kept);
            if lifted {
                bells.brakes.notify_one();
            }
            // Whoever passed a paused tier over looks there again.
            bells.lanes.notify_waiters();
        };
        self.store.write(write, after).await.map_err(|error| error.at("pause or resume", scope))
    }

    /// See [`switchyard_core::ports::Ledger::open_jobs`].
    pub(crate) async fn open_jobs_of(&self, caller: &str, most: u64) -> Result<u64, PortError> {
        let sql = "SELECT count(*) FROM (SELECT 1 FROM jobs WHERE due IS NOT NULL AND settled IS NULL
                   AND record ->> '$.caller' = ?1 LIMIT ?2)";
        let (store, caller) = (Arc::clone(&self.store), caller.to_owned());
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let count = move |connection: &Connection| {
            connection.prepare_cached(sql)?.query_row(params![caller, most], |row| row.get::<_, i64>(0))
        };
        // It may read every open record: not on a thread that others wait for.
        let counted = aside(move || store.scan(count)).await.map_err(|error| error.at("count", "a caller's jobs"))?;
        Ok(counted.unsigned_abs())
    }
}
