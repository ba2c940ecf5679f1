//! The SQLite file: one writer that commits in groups, readers beside it, a schema with a version.
//!
//! Durability: WAL with synchronous=FULL, so a commit returns after its fsync (SQLite: "PRAGMA synchronous"). Writes
//! of many callers share one commit and so one fsync; each is a savepoint of its own, so that one that fails takes no
//! other with it. Nobody is answered before the commit. An fsync that fails ends the process: what the kernel then
//! keeps of the pages is unknown, and a later fsync may report success without them.

use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::hooks::Wal;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use switchyard_builtins::system::Vital;
use switchyard_core::ports::PortError;
use tokio::sync::oneshot;

/// The schema's steps: the file's `user_version` says how many were taken. A step is never changed, only added.
const MIGRATIONS: &[&str] = &[
    include_str!("schema-1.sql"),
    include_str!("schema-2.sql"),
    include_str!("schema-3.sql"),
    include_str!("schema-4.sql"),
    include_str!("schema-5.sql"),
];

/// Operations in one commit at most: a batch of 500 submissions beside what else waits.
const GROUP: usize = 1024;
/// How long another program's lock on the file is waited for.
const BUSY: Duration = Duration::from_secs(5);
/// Pages of log, of 4 KiB each, after which they are written into the file: a checkpoint's own fsyncs are then few
/// beside the commits'.
const CHECKPOINT_PAGES: i32 = 4096;

/// Why a database cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is no database, or a damaged one.
    #[error("{file} is damaged or no Switchyard database: move it away, or put a backup in its place")]
    Corrupt {
        /// The file.
        file: PathBuf,
        /// What SQLite says.
        #[source]
        cause: rusqlite::Error,
    },
    /// A newer program made it.
    #[error("{file} is of schema version {found}; this switchyard reads up to {known}: use the newer program")]
    Newer {
        /// The file.
        file: PathBuf,
        /// Its version.
        found: usize,
        /// The newest version this program knows.
        known: usize,
    },
    /// Another program holds it.
    #[error("{file} is locked by another program, such as a SQLite shell or a backup: end that one and start again")]
    Locked {
        /// The file.
        file: PathBuf,
        /// What SQLite says.
        #[source]
        cause: rusqlite::Error,
    },
    /// There is no room to make it, or to bring it up to date.
    #[error("cannot open {file}: the disk is full: make room and start again")]
    Full {
        /// The file.
        file: PathBuf,
        /// What SQLite says.
        #[source]
        cause: rusqlite::Error,
    },
    /// Anything else.
    #[error("cannot open {file}")]
    Sqlite {
        /// The file.
        file: PathBuf,
        /// What SQLite says.
        #[source]
        cause: rusqlite::Error,
    },
}

impl OpenError {
    fn new(file: &Path, cause: rusqlite::Error) -> Self {
        let file = file.to_owned();
        match cause.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Corrupt { file, cause },
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Locked { file, cause },
            Some(ErrorCode::DiskFull) => Self::Full { file, cause },
            _ => Self::Sqlite { file, cause },
        }
    }
}

/// What SQLite could not do, in the operator's words.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{text}")]
pub struct StoreError {
    text: String,
    retryable: bool,
}

impl StoreError {
    fn new(error: &rusqlite::Error) -> Self {
        let (text, retryable) = match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => ("the disk is full".to_owned(), true),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                ("the database is locked by another program".to_owned(), true)
            }
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                (format!("the database is damaged: {error}"), false)
            }
            Some(ErrorCode::SystemIoFailure) => (format!("the disk failed: {error}"), true),
            _ => (error.to_string(), false),
        };
        Self { text, retryable }
    }

    pub(crate) fn closed() -> Self {
        Self { text: "the yard is closing".to_owned(), retryable: true }
    }

    pub(crate) fn at(self, operation: &'static str, subject: impl std::fmt::Display) -> PortError {
        if self.retryable {
            PortError::retryable(operation, subject, self)
        } else {
            PortError::permanent(operation, subject, self)
        }
    }
}

/// What runs after the commit that an operation was part of, with that commit's outcome.
type Finish = Box<dyn FnOnce(Result<(), StoreError>) + Send>;
/// Writes what it writes, or, without a transaction to write in, nothing.
type Operation = Box<dyn FnOnce(Option<&Connection>) -> Finish + Send>;

/// The file, open.
pub struct Store {
    operations: Mutex<Option<mpsc::Sender<Operation>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    readers: Vec<Mutex<Connection>>,
    scanner: Mutex<Connection>,
}

impl Store {
    /// Opens the file, brings its schema up to date and starts the writer.
    ///
    /// # Errors
    ///
    /// [`OpenError`] says what is wrong with the file and what to do.
    pub fn open(file: &Path) -> Result<Self, OpenError> {
        let fail = |cause| OpenError::new(file, cause);
        // No mutexes of SQLite's own: each connection is one thread's at a time, by a lock or by being moved.
        let flags = OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let create = flags | OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        // Made by us, so that nobody else can read it; SQLite gives its log the same mode.
        let made = std::fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(file);
        made.map_err(|error| fail(rusqlite::Error::ToSqlConversionFailure(Box::new(error))))?;
        let mut writer = Connection::open_with_flags(file, create).map_err(fail)?;
        writer.busy_timeout(BUSY).map_err(fail)?;
        let version = user_version(&writer).map_err(fail)?;
        if version > MIGRATIONS.len() {
            return Err(OpenError::Newer { file: file.to_owned(), found: version, known: MIGRATIONS.len() });
        }
        writer.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;").map_err(fail)?;
        writer.execute_batch("PRAGMA cache_size = -8192;").map_err(fail)?;
        // In place of SQLite's own checkpoints, which tell nobody when their fsync fails.
        let log_pages = Arc::new(AtomicI32::new(0));
        let pages = Arc::clone(&log_pages);
        let told = writer.wal_hook(Some(move |_: &mut Wal, now: i32| {
            pages.store(now, Ordering::Relaxed);
            Ok(())
        }));
        told.map_err(fail)?;
        for (done, step) in MIGRATIONS.iter().enumerate().skip(version) {
            let next = done + 1;
            writer
                .execute_batch(&format!("BEGIN IMMEDIATE; {step} PRAGMA user_version = {next}; COMMIT;"))
                .map_err(fail)?;
        }
        // A lock or damage shows here, before anything is promised.
        writer.execute_batch("BEGIN IMMEDIATE; SELECT count(*) FROM yard; COMMIT;").map_err(fail)?;
        keep_plans(&writer).map_err(fail)?;
        writer.set_prepared_statement_cache_capacity(64);
        let reader = || {
            let reader = Connection::open_with_flags(file, flags | OpenFlags::SQLITE_OPEN_READ_ONLY)?;
            reader.busy_timeout(BUSY)?;
            reader.execute_batch("PRAGMA cache_size = -2048;")?;
            keep_plans(&reader)?;
            reader.set_prepared_statement_cache_capacity(32);
            Ok(Mutex::new(reader))
        };
        let readers = (0..2).map(|_| reader()).collect::<Result<_, rusqlite::Error>>().map_err(fail)?;
        let (operations, queue) = mpsc::channel();
        let writer = std::thread::Builder::new()
            .name("writer".to_owned())
            .spawn(move || write_groups(&writer, &queue, &log_pages));
        let writer = writer.map_err(|error| fail(rusqlite::Error::ToSqlConversionFailure(Box::new(error))))?;
        let scanner = reader().map_err(fail)?;
        Ok(Self { operations: Mutex::new(Some(operations)), writer: Mutex::new(Some(writer)), readers, scanner })
    }

    /// Does `write` in the next group, and answers when the group is durable. `after` runs then, before the answer,
    /// and whether or not the caller still waits. What fails halfway is undone.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        write: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
        after: impl FnOnce(&T) + Send + 'static,
    ) -> Result<T, StoreError> {
        self.write_one(|connection| in_savepoint(connection, write), after).await
    }

    /// The same for a `write` of one statement that changes something. SQLite undoes such a one by itself, which spares
    /// it the two statements around a savepoint.
    pub(crate) async fn write_one<T: Send + 'static>(
        &self,
        write: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
        after: impl FnOnce(&T) + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        let operation: Operation = Box::new(move |connection| {
            let outcome = connection.map(write);
            Box::new(move |committed| {
                let outcome = committed.and_then(|()| match outcome {
                    Some(outcome) => outcome.map_err(|error| StoreError::new(&error)),
                    None => Err(StoreError::closed()),
                });
                if let Ok(value) = &outcome {
                    after(value);
                }
                // Nobody waits any more: the write stands all the same.
                let _ = answer.send(outcome);
            })
        });
        let sent = match lock(&self.operations).as_ref() {
            Some(operations) => operations.send(operation).is_ok(),
            None => false,
        };
        if !sent {
            return Err(StoreError::closed());
        }
        answered.await.unwrap_or_else(|_| Err(StoreError::closed()))
    }

    /// Reads with one of the readers; what was answered as written before is seen.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        let free = self.readers.iter().find_map(|reader| reader.try_lock().ok());
        let reader = free.unwrap_or_else(|| lock(&self.readers[0]));
        read(&reader).map_err(|error| StoreError::new(&error))
    }

    /// Reads much, on a thread and with a reader that nobody else waits for.
    pub(crate) fn scan<T>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        read(&lock(&self.scanner)).map_err(|error| StoreError::new(&error))
    }

    /// Ends the writer after what was sent before, and waits for it.
    pub fn close(&self) {
        lock(&self.operations).take();
        if let Some(writer) = lock(&self.writer).take()
            && writer.join().is_err()
        {
            tracing::error!("the writer had panicked");
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.close();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these guard is a channel, a handle or a connection: usable whatever panicked beside it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has SQLite plan a statement once, whatever values it is given later: else it plans some of them anew for every other
/// value, which took a twentieth of all a job costs.
fn keep_plans(connection: &Connection) -> rusqlite::Result<bool> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)
}

fn user_version(connection: &Connection) -> rusqlite::Result<usize> {
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    // A negative one is no version of ours: take it for one that nobody knows.
    Ok(usize::try_from(version).unwrap_or(usize::MAX))
}

fn in_savepoint<T>(
    connection: &Connection,
    write: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    let step = |sql: &str| step(connection, sql);
    step("SAVEPOINT operation")?;
    match write(connection) {
        Ok(value) => step("RELEASE operation").map(|()| value),
        Err(error) => {
            // After a full disk SQLite has rolled back everything by itself, and there is no savepoint any more.
            if !connection.is_autocommit() {
                step("ROLLBACK TO operation")?;
                step("RELEASE operation")?;
            }
            Err(error)
        }
    }
}

fn step(connection: &Connection, sql: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.execute([]).map(drop)
}

fn write_groups(connection: &Connection, queue: &mpsc::Receiver<Operation>, log_pages: &AtomicI32) {
    let _vital = Vital("the writer");
    let mut group = Vec::new();
    while let Ok(first) = queue.recv() {
        group.push(first);
        // Two looks: whoever the last commit answered is about to send the next operation, and a commit shared is an
        // fsync saved. Giving way costs a microsecond where nobody comes.
        for _ in 0..2 {
            while group.len() < GROUP
                && let Ok(next) = queue.try_recv()
            {
                group.push(next);
            }
            std::thread::yield_now();
        }
        write_group(connection, &mut group);
        if log_pages.load(Ordering::Relaxed) >= CHECKPOINT_PAGES {
            checkpoint(connection);
        }
    }
    // Whoever copies the file of a yard that was stopped gets everything: SQLite would do this at the last close, but
    // the last to close is a reader, and readers cannot write.
    if let Err(error) = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())) {
        tracing::warn!(%error, "the log is not folded into the database; the next start reads both");
    }
}

fn write_group(connection: &Connection, group: &mut Vec<Operation>) {
    let mut finishes: Vec<Finish> = Vec::with_capacity(group.len());
    let mut operations = group.drain(..).peekable();
    while operations.peek().is_some() {
        let begun = step(connection, "BEGIN IMMEDIATE");
        if let Err(error) = begun {
            let error = StoreError::new(&error);
            for operation in operations.by_ref() {
                operation(None)(Err(error.clone()));
            }
            break;
        }
        let mut undone = None;
        for operation in operations.by_ref() {
            finishes.push(operation(Some(connection)));
            if connection.is_autocommit() {
                undone = Some(StoreError {
                    text: "the disk is full or failed; nothing of this was written".to_owned(),
                    retryable: true,
                });
                break;
            }
        }
        let committed = match undone {
            Some(error) => Err(error),
            None => commit(connection),
        };
        for finish in finishes.drain(..) {
            finish(committed.clone());
        }
    }
}

fn commit(connection: &Connection) -> Result<(), StoreError> {
    let Err(error) = step(connection, "COMMIT") else { return Ok(()) };
    end_if_fsync_failed(&error);
    if !connection.is_autocommit()
        && let Err(error) = step(connection, "ROLLBACK")
    {
        tracing::error!(%error, "a failed commit could not be rolled back");
    }
    Err(StoreError::new(&error))
}

/// Writes the log into the file, as far as no reader is in the way; the next commit tries again for the rest.
fn checkpoint(connection: &Connection) {
    let done = connection
        .prepare_cached("PRAGMA wal_checkpoint(PASSIVE)")
        .and_then(|mut statement| statement.query_row([], |_| Ok(())));
    if let Err(error) = done {
        // Were the log begun anew after this, the pages that the kernel dropped would be gone.
        end_if_fsync_failed(&error);
        tracing::warn!(%error, "the log was not written into the database; it is kept, and tried again");
    }
}

fn end_if_fsync_failed(error: &rusqlite::Error) {
    if is_failed_fsync(error) {
        tracing::error!(%error, "an fsync failed: what is on the disk is unknown; the yard ends and recovers at its next start");
        // EX_IOERR of sysexits.h.
        std::process::exit(74);
    }
}

fn is_failed_fsync(error: &rusqlite::Error) -> bool {
    use rusqlite::ffi::{SQLITE_IOERR_DIR_FSYNC, SQLITE_IOERR_FSYNC};
    error.sqlite_error().is_some_and(|error| matches!(error.extended_code, SQLITE_IOERR_FSYNC | SQLITE_IOERR_DIR_FSYNC))
}

#[cfg(test)]
impl Store {
    /// How SQLite would carry a statement out, in its own words: which index it goes by, what it reads whole.
    pub(crate) fn plan_of(&self, sql: &str) -> String {
        let read = |connection: &Connection| {
            let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}"))?;
            for parameter in 1..=statement.parameter_count() {
                statement.raw_bind_parameter(parameter, 1)?;
            }
            let mut rows = statement.raw_query();
            let mut plan = Vec::new();
            while let Some(row) = rows.next()? {
                plan.push(row.get::<_, String>(3)?);
            }
            Ok(plan.join("; "))
        };
        self.read(read).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_a_damaged_and_a_locked_file_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let newer = folder.path().join("newer.db");
        Connection::open(&newer).unwrap().execute_batch("PRAGMA user_version = 99").unwrap();
        assert!(matches!(Store::open(&newer).err(), Some(OpenError::Newer { found: 99, .. })));
        let damaged = folder.path().join("damaged.db");
        std::fs::write(&damaged, vec![7; 8192]).unwrap();
        assert!(matches!(Store::open(&damaged).err(), Some(OpenError::Corrupt { .. })));
    }

    #[test]
    fn a_file_of_each_earlier_version_is_brought_up_to_date() {
        let folder = tempfile::tempdir().unwrap();
        for version in 0..=MIGRATIONS.len() {
            let file = folder.path().join(format!("{version}.db"));
            let old = Connection::open(&file).unwrap();
            for step in &MIGRATIONS[..version] {
                old.execute_batch(step).unwrap();
            }
            old.execute_batch(&format!("PRAGMA user_version = {version}")).unwrap();
            drop(old);
            let store = Store::open(&file).unwrap();
            let now = store.read(user_version).unwrap();
            assert_eq!(now, MIGRATIONS.len());
        }
    }

    #[tokio::test]
    async fn one_failed_operation_takes_no_other_of_its_group_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("yard.db")).unwrap();
        let insert = |name: &'static str| {
            store
                .write(move |c| c.execute("INSERT INTO yard (name, value) VALUES (?1, 'x')", [name]).map(drop), |()| {})
        };
        let (a, twice, b) = tokio::join!(insert("a"), insert("a"), insert("b"));
        assert!(a.is_ok() && b.is_ok());
        assert!(twice.unwrap_err().to_string().contains("UNIQUE"));
        let count: i64 = store.read(|c| c.query_row("SELECT count(*) FROM yard", [], |row| row.get(0))).unwrap();
        assert_eq!(count, 2);
    }

    #[tokio::test]
    async fn a_full_database_refuses_writes_keeps_what_it_has_and_goes_on_when_there_is_room() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("yard.db")).unwrap();
        let limit = |pages: u32| {
            store.write(move |c| c.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(())), |()| {})
        };
        let insert = |name: String| {
            let value = "x".repeat(50_000);
            store.write(
                move |c| c.execute("INSERT INTO yard (name, value) VALUES (?1, ?2)", (name, value)).map(drop),
                |()| {},
            )
        };
        insert("before".into()).await.unwrap();
        limit(40).await.unwrap();
        let mut refused: i64 = 0;
        for n in 0..10 {
            if let Err(error) = insert(format!("n{n}")).await {
                assert!(error.to_string().contains("the disk is full"), "{error}");
                assert!(error.retryable);
                refused += 1;
            }
        }
        assert!(refused > 5, "{refused}");
        limit(1_000_000).await.unwrap();
        insert("after".into()).await.unwrap();
        let kept: i64 = store.read(|c| c.query_row("SELECT count(*) FROM yard", [], |row| row.get(0))).unwrap();
        assert_eq!(kept, 12 - refused);
    }
}
