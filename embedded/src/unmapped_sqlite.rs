//! Events that no mapping answers, in SQLite.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};
use switchyard_core::ports::{PortError, Unmapped, UnmappedCount, UnmappedId, UnmappedRoom, UnmappedSummary};

use crate::ledger_sqlite::SqliteLedger;

const PAGE: &str = "SELECT id, source, detail_type, why, bytes, first, last, seen FROM unmapped
                    WHERE (last, id) < (?1, ?2) ORDER BY last DESC, id DESC LIMIT ?3";
const ONE: &str = "SELECT id, source, detail_type, why, bytes, first, last, seen, event
                   FROM unmapped JOIN unmapped_texts USING (seq) WHERE id = ?1";
const DROP_ONE: &str = "DELETE FROM unmapped WHERE seq = (SELECT seq FROM unmapped ORDER BY last, id LIMIT 1)";

fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(i64::unsigned_abs)
}

fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<Timestamp> {
    let ms = row.get(column)?;
    Timestamp::from_millisecond(ms).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, ms))
}

fn summary(row: &Row<'_>) -> rusqlite::Result<UnmappedSummary> {
    Ok(UnmappedSummary {
        id: UnmappedId::from_bytes(row.get(0)?),
        source: row.get(1)?,
        detail_type: row.get(2)?,
        why: row.get(3)?,
        bytes: number(row, 4)?,
        first: time(row, 5)?,
        last: time(row, 6)?,
        seen: number(row, 7)?,
    })
}

fn count(connection: &Connection) -> rusqlite::Result<UnmappedCount> {
    let read =
        |row: &Row<'_>| Ok(UnmappedCount { events: number(row, 0)?, bytes: number(row, 1)?, dropped: number(row, 2)? });
    connection.prepare_cached("SELECT events, bytes, dropped FROM unmapped_count")?.query_row([], read)
}

fn keep(connection: &Connection, event: &Unmapped, room: UnmappedRoom) -> rusqlite::Result<()> {
    let (first, last) = (event.first.as_millisecond(), event.last.as_millisecond());
    let seen = i64::try_from(event.seen).unwrap_or(i64::MAX);
    let again = "UPDATE unmapped SET last = max(last, ?2), seen = seen + ?3, why = ?4 WHERE id = ?1";
    if connection.prepare_cached(again)?.execute(params![event.id.as_bytes(), last, seen, event.why])? == 1 {
        return Ok(());
    }
    let insert = "INSERT INTO unmapped (id, source, detail_type, why, bytes, first, last, seen)
                  VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    let bytes = i64::try_from(event.event.len()).unwrap_or(i64::MAX);
    connection.prepare_cached(insert)?.execute(params![
        event.id.as_bytes(),
        event.source,
        event.detail_type,
        event.why,
        bytes,
        first,
        last,
        seen
    ])?;
    let text = "INSERT INTO unmapped_texts (seq, event) VALUES (?1, ?2)";
    connection.prepare_cached(text)?.execute(params![connection.last_insert_rowid(), event.event])?;
    while !room.holds(&count(connection)?) {
        if connection.prepare_cached(DROP_ONE)?.execute([])? == 0 {
            break;
        }
        connection.prepare_cached("UPDATE unmapped_count SET dropped = dropped + 1")?.execute([])?;
    }
    Ok(())
}

impl SqliteLedger {
    /// See [`switchyard_core::ports::Ledger::keep_unmapped`].
    pub(crate) async fn keep_unmapped_event(&self, event: Unmapped) -> Result<(), PortError> {
        let (id, room) = (event.id, self.unmapped_room);
        let write = move |connection: &Connection| keep(connection, &event, room);
        self.store.write(write, |()| {}).await.map_err(|error| error.at("keep", format!("unmapped event {id}")))
    }

    /// See [`switchyard_core::ports::Ledger::unmapped`].
    pub(crate) fn list_unmapped(
        &self,
        before: Option<(Timestamp, UnmappedId)>,
        limit: usize,
    ) -> Result<Vec<UnmappedSummary>, PortError> {
        // Nothing is before nothing: the first page starts after every id of the last millisecond there is.
        let (last, id) = before.map_or((i64::MAX, [0xff; 16]), |(last, id)| (last.as_millisecond(), *id.as_bytes()));
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.store
            .read(|connection| connection.prepare_cached(PAGE)?.query_map(params![last, id, limit], summary)?.collect())
            .map_err(|error| error.at("list", "unmapped events"))
    }

    /// See [`switchyard_core::ports::Ledger::unmapped_event`].
    pub(crate) fn load_unmapped(&self, id: UnmappedId) -> Result<Option<Unmapped>, PortError> {
        let read = |row: &Row<'_>| {
            let UnmappedSummary { id, source, detail_type, why, bytes: _, first, last, seen } = summary(row)?;
            Ok(Unmapped { id, source, detail_type, why, event: row.get(8)?, first, last, seen })
        };
        self.store
            .read(|connection| connection.prepare_cached(ONE)?.query_row([id.as_bytes()], read).optional())
            .map_err(|error| error.at("load", format!("unmapped event {id}")))
    }

    /// See [`switchyard_core::ports::Ledger::forget_unmapped`].
    pub(crate) async fn forget_unmapped_events(&self, ids: &[UnmappedId]) -> Result<(), PortError> {
        let ids = ids.to_vec();
        let subject = format!("{} unmapped events", ids.len());
        let write = move |connection: &Connection| {
            for id in ids {
                connection.prepare_cached("DELETE FROM unmapped WHERE id = ?1")?.execute([id.as_bytes()])?;
            }
            Ok(())
        };
        self.store.write(write, |()| {}).await.map_err(|error| error.at("forget", subject))
    }

    /// See [`switchyard_core::ports::Ledger::unmapped_count`].
    pub(crate) fn count_unmapped(&self) -> Result<UnmappedCount, PortError> {
        self.store.read(count).map_err(|error| error.at("count", "unmapped events"))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use serde_json::json;
    use switchyard_builtins::system::System;
    use switchyard_core::ports::Ledger;

    use super::*;
    use crate::store::Store;

    fn open(file: &Path) -> SqliteLedger {
        SqliteLedger::new(Arc::new(Store::open(file).unwrap()), Arc::new(System))
    }

    fn event(name: &str, ms: i64) -> Unmapped {
        let at = Timestamp::from_millisecond(ms).unwrap();
        Unmapped::new(&json!({ "source": "my.app", "name": name }), "my.app", "Order", "no mapping answers it", at)
    }

    #[tokio::test]
    async fn what_was_kept_dropped_and_forgotten_is_the_same_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("yard.db");
        let ledger = open(&file).with_unmapped_room(UnmappedRoom { events: 2, bytes: 1 << 20 });
        let [gone, kept, forgotten] = [event("a", 1), event("b", 2), event("c", 3)];
        for event in [&gone, &kept, &forgotten, &kept] {
            ledger.keep_unmapped(event.clone()).await.unwrap();
        }
        ledger.forget_unmapped(&[forgotten.id]).await.unwrap();
        ledger.store.close();
        drop(ledger);
        let ledger = open(&file);
        let twice = Unmapped { seen: 2, ..kept };
        assert_eq!(ledger.unmapped(None, 10).await.unwrap(), [twice.summary()]);
        assert_eq!(ledger.unmapped_event(twice.id).await.unwrap(), Some(twice.clone()));
        for id in [gone.id, forgotten.id] {
            assert_eq!(ledger.unmapped_event(id).await.unwrap(), None);
        }
        let count = ledger.unmapped_count().await.unwrap();
        assert_eq!(count, UnmappedCount { events: 1, bytes: twice.event.len() as u64, dropped: 1 });
        let texts = |c: &Connection| c.query_row("SELECT count(*) FROM unmapped_texts", [], |row| row.get::<_, i64>(0));
        assert_eq!(ledger.store.read(texts).unwrap(), 1, "a text goes with its event");
    }

    #[tokio::test]
    async fn unless_said_otherwise_there_is_room_for_ten_thousand_events_and_64_mib() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = open(&folder.path().join("yard.db"));
        let fill = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 10000)
                    INSERT INTO unmapped (id, source, detail_type, why, bytes, first, last, seen)
                    SELECT randomblob(16), 'my.app', 'Order', '', 1, n, n, 1 FROM n";
        ledger.store.write(move |connection| connection.execute(fill, []), |_| {}).await.unwrap();
        assert_eq!(ledger.unmapped_count().await.unwrap(), UnmappedCount { events: 10_000, bytes: 10_000, dropped: 0 });
        ledger.keep_unmapped(event("one more", 20_000)).await.unwrap();
        let count = ledger.unmapped_count().await.unwrap();
        assert_eq!((count.events, count.dropped), (10_000, 1));
        let large = "UPDATE unmapped SET bytes = ?1 WHERE last = 2";
        let size = 64 * 1024 * 1024_i64;
        let write = move |connection: &Connection| {
            connection.execute(large, [size])?;
            connection.execute("UPDATE unmapped_count SET bytes = bytes + ?1 - 1", [size])
        };
        ledger.store.write(write, |_| {}).await.unwrap();
        ledger.keep_unmapped(event("and another", 20_001)).await.unwrap();
        let count = ledger.unmapped_count().await.unwrap();
        assert_eq!(
            (count.events, count.dropped),
            (10_000, 2),
            "the largest was the longest unseen, and its going is enough"
        );
        assert!(count.bytes < 20_000, "{count:?}");
    }

    #[tokio::test]
    async fn no_list_and_no_write_reads_every_event() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = open(&folder.path().join("yard.db"));
        for sql in [PAGE, DROP_ONE] {
            let plan = ledger.store.plan_of(sql);
            assert!(plan.contains("INDEX unmapped_last") && !plan.contains("TEMP B-TREE"), "{plan}");
        }
    }
}
