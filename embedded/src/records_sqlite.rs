//! What runs emitted, and the register of what they saw, in SQLite.

use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};
use switchyard_core::job::{Epoch, JobId};
use switchyard_core::ports::{Kept, PortError, RecordQuery};
use switchyard_core::records::{Kind, Record, Register, RegisterPage, RegisterQuery, Registered};

use crate::ledger_sqlite::{SqliteLedger, aside};

const PAGE: &str = "SELECT r.epoch, r.n, r.kind, r.at, r.body, j.capability FROM jobs j JOIN records r ON r.job = j.seq
                    WHERE j.id = ?1 AND (r.epoch, r.n) > (?2, ?3) AND (?4 IS NULL OR r.kind = ?4)
                    ORDER BY r.epoch, r.n LIMIT ?5";
const REGISTER_PAGE: &str = "SELECT id, first_seen, last_seen, job, epoch, n, capability, body FROM register
                             WHERE register = ?1 AND id > ?2 AND (?3 IS NULL OR capability = ?3)
                             AND (?4 IS NULL OR last_seen >= ?4) ORDER BY id LIMIT ?5";
/// An entry as it is when this sighting is added: the newest stays, as the core decides by the same order.
const SEEN: &str = "INSERT INTO register (register, id, first_seen, last_seen, job, epoch, n, capability, body)
                    VALUES (?1, ?2, ?3, ?3, ?4, ?5, ?6, ?7, ?8)
                    ON CONFLICT (register, id) DO UPDATE SET
                        last_seen = excluded.last_seen, job = excluded.job, epoch = excluded.epoch, n = excluded.n,
                        capability = excluded.capability, body = excluded.body
                    WHERE (register.last_seen, register.job, register.epoch, register.n)
                        < (excluded.last_seen, excluded.job, excluded.epoch, excluded.n)";
const SEEN_FIRST: &str = "UPDATE register SET first_seen = ?3 WHERE register = ?1 AND id = ?2 AND first_seen > ?3";
const FORGET: &str = "DELETE FROM register WHERE rowid IN
                      (SELECT rowid FROM register WHERE last_seen < ?1 ORDER BY last_seen LIMIT ?2)";

fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<Timestamp> {
    let ms = row.get(column)?;
    Timestamp::from_millisecond(ms).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, ms))
}

fn kind(row: &Row<'_>, column: usize) -> rusqlite::Result<Kind> {
    let kind = rusqlite::types::Type::Text;
    let text = row.get_ref(column)?.as_str()?;
    text.parse().map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, kind, Box::new(error)))
}

fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(i64::unsigned_abs)
}

/// What names an asset or a finding. It was judged when the record was kept; a record of another kind has none.
fn id_of(kind: Kind, body: &str) -> Option<String> {
    Register::of(kind)?;
    let fields: serde_json::Value = serde_json::from_str(body).ok()?;
    Some(fields.get("id")?.as_str()?.to_owned())
}

fn keep(connection: &Connection, record: &Record) -> rusqlite::Result<Kept> {
    let Record { job, epoch, n, at, kind, body, .. } = record;
    let insert = "INSERT INTO records (job, epoch, n, kind, at, body)
                  SELECT seq, ?2, ?3, ?4, ?5, ?6 FROM jobs WHERE id = ?1 ON CONFLICT DO NOTHING";
    let (n, at) = (whole(*n), at.as_millisecond());
    let values = params![job.as_bytes(), epoch.0, n, kind.as_str(), at, body];
    if connection.prepare_cached(insert)?.execute(values)? == 0 {
        let known = "SELECT body = ?4 FROM records WHERE job = (SELECT seq FROM jobs WHERE id = ?1)
                     AND epoch = ?2 AND n = ?3";
        let same = connection
            .prepare_cached(known)?
            .query_row(params![job.as_bytes(), epoch.0, n, body], |row| row.get(0))
            .optional()?;
        return match same {
            Some(true) => Ok(Kept::Known),
            Some(false) => Ok(Kept::Conflict),
            // Its job was forgotten since it was looked at: the next look says so.
            None => Err(rusqlite::Error::QueryReturnedNoRows),
        };
    }
    if let Some((register, seen)) = Registered::of(record) {
        let (register, id) = (register.kind().as_str(), &seen.id);
        let values = params![register, id, at, job.as_bytes(), epoch.0, n, seen.capability, seen.body];
        if connection.prepare_cached(SEEN)?.execute(values)? == 0 {
            // An older sighting than the newest may be the first.
            connection.prepare_cached(SEEN_FIRST)?.execute(params![register, id, at])?;
        }
    }
    Ok(Kept::New)
}

impl SqliteLedger {
    /// See [`switchyard_core::ports::Ledger::keep_records`]: all of them in one savepoint, and so in one commit.
    pub(crate) async fn keep_all_records(&self, records: &[Record]) -> Vec<Result<Kept, PortError>> {
        let count = records.len();
        let records = records.to_vec();
        let write = move |connection: &Connection| {
            records.iter().map(|record| keep(connection, record)).collect::<rusqlite::Result<Vec<_>>>()
        };
        match self.store.write(write, |_| {}).await {
            Ok(kept) => kept.into_iter().map(Ok).collect(),
            Err(error) => (0..count).map(|_| Err(error.clone().at("keep", format!("{count} records")))).collect(),
        }
    }

    /// See [`switchyard_core::ports::Ledger::records`].
    pub(crate) async fn list_records(&self, query: &RecordQuery) -> Result<Vec<Record>, PortError> {
        let RecordQuery { job, kind: only, after, limit } = query.clone();
        let (epoch, n) = after.unwrap_or((Epoch(0), 0));
        let read = move |row: &Row<'_>| {
            let (kind, body) = (kind(row, 2)?, row.get::<_, String>(4)?);
            let id = id_of(kind, &body);
            let (epoch, n, at) = (Epoch(row.get(0)?), number(row, 1)?, time(row, 3)?);
            Ok(Record { job, epoch, n, at, capability: row.get(5)?, kind, id, body })
        };
        let store = Arc::clone(&self.store);
        // Of one kind among many it may read all that a job emitted: not on a thread that others wait for.
        let list = move || {
            store.scan(|connection| {
                let values = params![job.as_bytes(), epoch.0, whole(n), only.map(Kind::as_str), whole(limit as u64)];
                connection.prepare_cached(PAGE)?.query_map(values, read)?.collect::<rusqlite::Result<Vec<_>>>()
            })
        };
        aside(list).await.map_err(|error| error.at("list", format!("records of job {job}")))
    }

    /// See [`switchyard_core::ports::Ledger::registered`].
    pub(crate) async fn list_registered(&self, query: &RegisterQuery) -> Result<RegisterPage, PortError> {
        let RegisterQuery { register, capability, since, after, limit } = query.clone();
        let read = |row: &Row<'_>| {
            Ok(Registered {
                id: row.get(0)?,
                first_seen: time(row, 1)?,
                last_seen: time(row, 2)?,
                job: JobId::from_bytes(row.get(3)?),
                epoch: Epoch(row.get(4)?),
                n: number(row, 5)?,
                capability: row.get(6)?,
                body: row.get(7)?,
            })
        };
        let store = Arc::clone(&self.store);
        let list = move || {
            store.scan(|connection| {
                let after = after.unwrap_or_default();
                let since = since.map(Timestamp::as_millisecond);
                let values = params![register.kind().as_str(), after, capability, since, whole(limit as u64)];
                let mut statement = connection.prepare_cached(REGISTER_PAGE)?;
                statement.query_map(values, read)?.collect::<rusqlite::Result<Vec<_>>>()
            })
        };
        let entries = aside(list).await.map_err(|error| error.at("list", format!("the register of {register:?}")))?;
        let full = entries.len() == limit;
        Ok(RegisterPage { next: entries.last().filter(|_| full).map(|last| last.id.clone()), entries })
    }

    /// See [`switchyard_core::ports::Ledger::forget_registered`].
    pub(crate) async fn forget_seen_before(&self, before: Timestamp, limit: usize) -> Result<u64, PortError> {
        let (before, limit) = (before.as_millisecond(), whole(limit as u64));
        let old = "SELECT EXISTS (SELECT 1 FROM register WHERE last_seen < ?1)";
        let looked =
            self.store.read(|connection| connection.prepare_cached(old)?.query_row([before], |row| row.get(0)));
        // Most often there is nothing, and that takes no commit.
        if !looked.map_err(|error| error.at("look for", "what nobody sees any more"))? {
            return Ok(0);
        }
        let write = move |connection: &Connection| connection.prepare_cached(FORGET)?.execute([before, limit]);
        let gone = self.store.write(write, |_| {}).await;
        gone.map(|gone| gone as u64).map_err(|error| error.at("forget", "what nobody sees any more"))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use switchyard_builtins::system::System;
    use switchyard_core::ports::Ledger;
    use switchyard_core::records::REGISTER_KEPT;

    use super::*;
    use crate::store::Store;

    fn open(file: &Path) -> SqliteLedger {
        SqliteLedger::new(Arc::new(Store::open(file).unwrap()), Arc::new(System))
    }

    async fn seen(ledger: &SqliteLedger, id: &'static str, at: i64) {
        let insert = "INSERT INTO register VALUES (?1, ?2, ?3, ?3, zeroblob(16), 1, 1, 'scan', '{}')";
        let values = ("asset", id, at);
        ledger.store.write(move |connection| connection.execute(insert, values), |_| {}).await.unwrap();
    }

    #[tokio::test]
    async fn what_nobody_sees_any_more_is_forgotten_the_longest_unseen_first_and_what_is_seen_stays() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = open(&folder.path().join("yard.db"));
        for (id, at) in [("host:c", 3), ("host:a", 1), ("host:d", 4), ("host:b", 2)] {
            seen(&ledger, id, at).await;
        }
        let before = Timestamp::from_millisecond(4).unwrap();
        assert_eq!(ledger.forget_registered(before, 2).await.unwrap(), 2);
        let query = RegisterQuery { register: Register::Assets, capability: None, since: None, after: None, limit: 10 };
        let ids = async || -> Vec<String> {
            ledger.registered(&query).await.unwrap().entries.into_iter().map(|entry| entry.id).collect()
        };
        assert_eq!(ids().await, ["host:c", "host:d"]);
        assert_eq!(ledger.forget_registered(before, 2).await.unwrap(), 1);
        assert_eq!(ledger.forget_registered(before, 2).await.unwrap(), 0, "and nothing is written");
        assert_eq!(ids().await, ["host:d"]);
        assert_eq!(REGISTER_KEPT.as_secs(), 90 * 24 * 3600);
    }

    #[tokio::test]
    async fn no_page_and_no_forgetting_reads_everything() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = open(&folder.path().join("yard.db"));
        for (sql, by) in
            [(PAGE, "PRIMARY KEY (job=?"), (REGISTER_PAGE, "(register=? AND id>?)"), (FORGET, "register_last")]
        {
            let plan = ledger.store.plan_of(sql);
            assert!(plan.contains(by) && !plan.contains("SCAN") && !plan.contains("TEMP B-TREE"), "{plan}");
        }
    }
}
