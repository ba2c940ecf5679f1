//! apalis-sqlite as a peer of the embedded queue: no-op jobs of 256 bytes pushed one by one by 64
//! clients, each push durable before the client goes on, drained and acknowledged by apalis workers
//! in the same process. Measured from the first push to the last acknowledgement in the database.
//!
//! Two things differ from a plain start. `SqliteStorage::setup` turns `synchronous` OFF on whichever
//! connection it happens to get, which loses acknowledged jobs when the power goes; so only its
//! migrations are run here, its other pragmas are given to every connection, and FULL is read back
//! from all of them before and after the run. And without statistics SQLite answers the statement
//! that acknowledges by walking every job the worker ever claimed, so that 8,000 jobs take six times
//! as long as they need; so some jobs go through first, then ANALYZE, then the clock starts.
//!
//! The rest is the fastest configuration found that still claims each job for one worker and records
//! its completion: what mattered was a single runtime thread and more than one connection; batch size
//! above 64, workers, poll interval and `lock_tasks` did not. The flags let it be checked.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use apalis::prelude::*;
use apalis_sqlite::{Config, SqliteConnectOptions, SqlitePool, SqlitePoolOptions, SqliteStorage};
use bench_peers::{Args, report};
use futures::channel::mpsc;
use serde_json::json;
use sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous};

const PAYLOAD_BYTES: usize = 256;
const QUEUE: &str = "bench";

type Running = tokio::task::JoinHandle<Result<(), WorkerError>>;

/// What the handlers leave behind, to prove that each job ran exactly once.
struct Ran {
    seen: Vec<AtomicBool>,
    first_runs: AtomicU64,
    repeats: AtomicU64,
}

/// The no-op job. It reads its number from the payload, so that a lost or repeated job shows.
async fn job(payload: String, ran: Data<Arc<Ran>>) -> Result<(), BoxDynError> {
    assert_eq!(payload.len(), PAYLOAD_BYTES);
    let number: usize = payload[..10].parse()?;
    if ran.seen[number].swap(true, Ordering::Relaxed) {
        ran.repeats.fetch_add(1, Ordering::Relaxed);
    } else {
        ran.first_runs.fetch_add(1, Ordering::Release);
    }
    Ok(())
}

fn main() -> Result<(), BoxDynError> {
    let args = Args::read(&[
        "jobs",
        "dir",
        "clients",
        "workers",
        "batch",
        "connections",
        "threads",
        "interval-us",
        "lock",
        "wake",
        "warm-up",
    ]);
    let threads: usize = args.get("threads", 1);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()?
        .block_on(run(args, threads))
}

async fn run(args: Args, threads: usize) -> Result<(), BoxDynError> {
    let jobs: u64 = args.get("jobs", 5000);
    let clients: u64 = args.get("clients", 64);
    let workers: usize = args.get("workers", 1);
    let batch: usize = args.get("batch", 256);
    let connections: u32 = args.get("connections", 4);
    let interval = Duration::from_micros(args.get("interval-us", 20_000));
    let lock: bool = args.get("lock", false);
    let wake: bool = args.get("wake", true);
    let warm_up: u64 = args.get("warm-up", 1000);

    let dir = args.scratch("apalis-");
    let options = SqliteConnectOptions::new()
        .filename(dir.path().join("jobs.db"))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(Duration::from_secs(60))
        .pragma("temp_store", "MEMORY")
        .pragma("cache_size", "64000")
        .pragma("journal_size_limit", "67108864");
    // A connection of our own, so that looking for the end takes none from apalis. It comes first and
    // alone, because the switch to WAL does not wait for a lock as everything else does.
    let watcher = SqlitePoolOptions::new()
        .max_connections(1)
        .connect_with(options.clone())
        .await?;
    let pool = SqlitePoolOptions::new()
        .min_connections(connections)
        .max_connections(connections)
        .acquire_timeout(Duration::from_secs(60))
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_with(options)
        .await?;
    SqliteStorage::migrations().run(&pool).await?;
    check_durability(&pool, connections).await?;

    let config = Config::default()
        .queue(QUEUE)
        .batch_size(batch)
        .lock_tasks(lock)
        .persist_results(true);
    let ran = Arc::new(Ran {
        seen: (0..warm_up + jobs)
            .map(|_| AtomicBool::new(false))
            .collect(),
        first_runs: AtomicU64::new(0),
        repeats: AtomicU64::new(0),
    });

    let mut wakers = Vec::new();
    let mut running: Vec<Running> = Vec::new();
    for number in 0..workers {
        let (waker, woken) = mpsc::channel::<()>(1);
        if wake {
            wakers.push(waker);
        }
        let backend = SqliteStorage::<String>::new(&pool).with_config(config.clone());
        let strategy = Strategy::new().interval(interval).stream(woken);
        let worker = WorkerBuilder::new(format!("worker-{number}"))
            .backend(backend.poll_with_strategy(strategy))
            .data(Arc::clone(&ran))
            .build(job);
        running.push(tokio::spawn(worker.run()));
    }
    wait_until(&watcher, "SELECT COUNT(*) FROM Workers", workers as i64).await?;

    let bench = Bench {
        pool: pool.clone(),
        watcher: watcher.clone(),
        config,
        clients,
        wakers,
        ran: Arc::clone(&ran),
    };
    if warm_up > 0 {
        bench.run(0..warm_up, &running).await?;
        analyze(&watcher).await?;
    }
    let (pushed, took) = bench.run(warm_up..warm_up + jobs, &running).await?;

    check_durability(&pool, connections).await?;
    let repeats = ran.repeats.load(Ordering::Relaxed);
    let rows: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM Jobs")
        .fetch_one(&watcher)
        .await?;
    if rows != (warm_up + jobs) as i64 || repeats != 0 {
        return Err(format!("{rows} rows of {}, {repeats} repeated runs", warm_up + jobs).into());
    }
    for worker in &running {
        worker.abort();
    }

    report(
        "apalis_sqlite",
        jobs,
        took,
        "SQLite WAL, synchronous=FULL on every connection (read back), each push committed before the next",
        &format!(
            "apalis-sqlite 1.0.0, {clients} clients, {workers} worker(s), batch_size {batch}, \
             {connections} connection(s), {threads} runtime thread(s), poll {} us{}, lock_tasks {lock} (a claim sets lock_by anyway), \
             {warm_up} jobs and ANALYZE before the clock",
            interval.as_micros(),
            if wake { " and woken by each push" } else { "" },
        ),
        json!({ "executed": jobs, "repeated": repeats, "push_seconds": bench_peers::round(pushed.as_secs_f64(), 6) }),
    );
    Ok(())
}

/// One database, its workers and what wakes them.
struct Bench {
    pool: SqlitePool,
    watcher: SqlitePool,
    config: Config,
    clients: u64,
    wakers: Vec<mpsc::Sender<()>>,
    ran: Arc<Ran>,
}

impl Bench {
    /// Pushes the jobs of these numbers and waits until the database has them all as done. Answers
    /// with the time to the last push and the time to the last acknowledgement.
    async fn run(
        &self,
        numbers: Range<u64>,
        workers: &[Running],
    ) -> Result<(Duration, Duration), BoxDynError> {
        let next = Arc::new(AtomicU64::new(numbers.start));
        let start = Instant::now();
        let pushers: Vec<_> = (0..self.clients)
            .map(|_| {
                let next = Arc::clone(&next);
                let mut wakers = self.wakers.clone();
                let mut storage =
                    SqliteStorage::<String>::new(&self.pool).with_config(self.config.clone());
                tokio::spawn(async move {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= numbers.end {
                            return Ok::<(), BoxDynError>(());
                        }
                        storage.push(format!("{number:010}{:x<246}", "")).await?;
                        for waker in &mut wakers {
                            let _ = waker.try_send(()); // full means that a wake-up is already on its way
                        }
                    }
                })
            })
            .collect();
        for pusher in pushers {
            pusher.await??;
        }
        let pushed = start.elapsed();
        while self.ran.first_runs.load(Ordering::Acquire) < numbers.end {
            if workers.iter().any(Running::is_finished) {
                return Err("a worker ended before its jobs did".into());
            }
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
        wait_until(
            &self.watcher,
            "SELECT COUNT(*) FROM Jobs WHERE status = 'Done'",
            numbers.end as i64,
        )
        .await?;
        Ok((pushed, start.elapsed()))
    }
}

/// Polls until `query` counts `wanted`.
async fn wait_until(
    pool: &SqlitePool,
    query: &'static str,
    wanted: i64,
) -> Result<(), sqlx::Error> {
    loop {
        let count: i64 = sqlx::query_scalar(query).fetch_one(pool).await?;
        if count >= wanted {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Gives the planner its statistics, holding the write lock from the start so that no worker's claim
/// can come between ANALYZE's reading and its writing.
async fn analyze(pool: &SqlitePool) -> Result<(), sqlx::Error> {
    let mut connection = pool.acquire().await?;
    for statement in ["BEGIN IMMEDIATE", "ANALYZE", "COMMIT"] {
        sqlx::query(statement).execute(&mut *connection).await?;
    }
    Ok(())
}

/// Reads the durability settings back from every connection of the pool at once.
async fn check_durability(pool: &SqlitePool, connections: u32) -> Result<(), BoxDynError> {
    let mut held = Vec::new();
    for _ in 0..connections {
        held.push(pool.acquire().await?);
    }
    for connection in &mut held {
        let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous")
            .fetch_one(&mut **connection)
            .await?;
        let journal: String = sqlx::query_scalar("PRAGMA journal_mode")
            .fetch_one(&mut **connection)
            .await?;
        if synchronous != 2 || journal != "wal" {
            return Err(format!(
                "synchronous is {synchronous}, not FULL (2), or journal_mode {journal}, not wal"
            )
            .into());
        }
    }
    Ok(())
}
