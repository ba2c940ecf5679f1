//! What was lent to whom, in SQLite.

use rusqlite::{Connection, OptionalExtension, params};
use switchyard_core::job::JobId;
use switchyard_core::lend::{LoanId, LoanNote, LoanQuery};
use switchyard_core::ports::{LOANS_KEPT, PortError};
use switchyard_core::wire;

use crate::ledger_sqlite::SqliteLedger;

const PAGE: &str = "SELECT record FROM loans WHERE id < ?1 AND id >= ?2 ORDER BY id DESC LIMIT ?3";
const PAGE_OF_JOB: &str = "SELECT record FROM loans WHERE job = ?4 AND id < ?1 AND id >= ?2 ORDER BY id DESC LIMIT ?3";

/// What no id is below, or above.
const FIRST: [u8; 16] = [0; 16];
const LAST: [u8; 16] = [0xff; 16];

impl SqliteLedger {
    /// See [`switchyard_core::ports::Ledger::note_loan`].
    pub(crate) async fn note_one_loan(&self, note: &LoanNote) -> Result<(), PortError> {
        let (id, job, record) = (note.id, note.job, wire::encode_loan_note(note));
        let kept_since = LoanId::ordered(note.at - LOANS_KEPT, [0; 32]);
        let write = move |connection: &Connection| {
            // What is older goes with what is new: nothing else needs to look for it.
            connection.prepare_cached("DELETE FROM loans WHERE id < ?1")?.execute([kept_since.as_bytes()])?;
            let insert = "INSERT OR IGNORE INTO loans (id, job, record) VALUES (?1, ?2, ?3)";
            connection.prepare_cached(insert)?.execute(params![id.as_bytes(), job.as_bytes(), record])?;
            Ok(())
        };
        self.store.write(write, |()| {}).await.map_err(|error| error.at("note", format!("loan {id}")))
    }

    /// See [`switchyard_core::ports::Ledger::loan`].
    pub(crate) fn load_loan(&self, job: JobId, id: LoanId) -> Result<Option<LoanNote>, PortError> {
        let found: Result<Option<String>, _> = self.store.read(|connection| {
            let sql = "SELECT record FROM loans WHERE id = ?1 AND job = ?2";
            connection
                .prepare_cached(sql)?
                .query_row(params![id.as_bytes(), job.as_bytes()], |row| row.get(0))
                .optional()
        });
        let subject = || format!("loan {id}");
        let record = found.map_err(|error| error.at("load", subject()))?;
        let note = record.map(|text| wire::decode_loan_note(&text)).transpose();
        note.map_err(|error| PortError::permanent("load", subject(), error))
    }

    /// See [`switchyard_core::ports::Ledger::loans`].
    pub(crate) fn list_loans(&self, query: &LoanQuery) -> Result<Vec<LoanNote>, PortError> {
        let before = query.before.map_or(LAST, |id| *id.as_bytes());
        let since = query.since.map_or(FIRST, |since| *LoanId::ordered(since, [0; 32]).as_bytes());
        let limit = i64::try_from(query.limit).unwrap_or(i64::MAX);
        let records = self.store.read(|connection| match query.job {
            None => {
                let mut page = connection.prepare_cached(PAGE)?;
                page.query_map(params![before, since, limit], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()
            }
            Some(job) => {
                let mut page = connection.prepare_cached(PAGE_OF_JOB)?;
                let rows = page.query_map(params![before, since, limit, job.as_bytes()], |row| row.get(0))?;
                rows.collect()
            }
        });
        let records = records.map_err(|error| error.at("list", "loans"))?;
        let notes = records.iter().map(|text| wire::decode_loan_note(text));
        notes.collect::<Result<_, _>>().map_err(|error| PortError::permanent("list", "loans", error))
    }
}
