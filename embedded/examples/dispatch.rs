//! How soon an idle yard on SQLite starts a job: from its submission (read, checked, routed) by way of its durable
//! acceptance, doorbell and durable claim to the first instruction of what runs. One job at a time, and the disk's own
//! fdatasync of 4 KiB before each: the two share every mood of the disk.
//!
//! Then the yard is left alone, and how often its threads are switched onto a processor is counted.
//!
//! Prints one JSON line: the form that bench/run.py reads.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use switchyard_builtins::system::System;
use switchyard_core::catalog::Catalog;
use switchyard_core::intake::{self, Sender, Taking};
use switchyard_core::job::{Holder, StopCause};
use switchyard_core::policies::{Policies, Shelf};
use switchyard_core::ports::{Ambient, Assignment, Executor, LogSink, Outcome, Room, StopSignal};
use switchyard_core::route::{Limits, PoolName};
use switchyard_embedded::home::{Home, Setup};
use switchyard_embedded::launcher_process::TaskProgram;
use switchyard_worker::fleet::{Fleet, work};
use tokio::sync::mpsc;

/// Jobs before the clock: the first ones fill caches.
const WARM: usize = 50;
/// How long the idle yard is watched.
const IDLE: Duration = Duration::from_secs(3);

/// Says when it was started.
struct Noop(mpsc::UnboundedSender<Instant>);

#[async_trait]
impl Executor for Noop {
    async fn run(&self, _: &Assignment<'_>, _: &dyn LogSink) -> Outcome {
        // Nobody listens any more when the last job has been measured.
        let _ = self.0.send(Instant::now());
        Outcome::Succeeded(None)
    }
}

const CATALOG: &str = "version: 1
capabilities:
  - { name: noop, summary: nothing, run: { command: [\"true\"] }, needs: { memory_mib: 1 } }
";

fn main() {
    let mut args = std::env::args().skip(1);
    let (mut jobs, mut dir) = (1000, PathBuf::from("."));
    while let (Some(name), Some(value)) = (args.next(), args.next()) {
        match name.as_str() {
            "--jobs" => jobs = value.parse().expect("--jobs takes a number"),
            "--dir" => dir = value.into(),
            other => panic!("unknown argument {other}"),
        }
    }
    let root = dir.join(format!("yard-{}", std::process::id()));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let mut bench = runtime.block_on(Bench::open(&root));
    let began = Instant::now();
    let times = runtime.block_on(bench.measure(&root, jobs));
    let seconds = began.elapsed().as_secs_f64();
    // On this thread, outside the runtime: nothing of the watching wakes what is watched, but its own sleep's end.
    std::thread::sleep(Duration::from_secs(1));
    let before = switches();
    std::thread::sleep(IDLE);
    let woken = switches() - before;
    runtime.block_on(bench.close());
    std::fs::remove_dir_all(&root).expect("the folder is removed");
    let [start, accept, disk] = [times.start, times.accept, times.disk].map(sorted);
    let line = serde_json::json!({
        "peer": "switchyard, one job at a time",
        "jobs": jobs,
        "seconds": seconds,
        "jobs_per_second": jobs as f64 / seconds,
        "p50_us": quantile(&start, 0.50),
        "p99_us": quantile(&start, 0.99),
        "accept_p50_us": quantile(&accept, 0.50),
        "fdatasync_p50_us": quantile(&disk, 0.50),
        "fdatasync_p99_us": quantile(&disk, 0.99),
        "idle_switches_per_second": woken as f64 / IDLE.as_secs_f64(),
        "durability": "SQLite WAL, synchronous=FULL: the acceptance and the claim are committed before the job starts",
        "notes": "from submission to the first instruction of what runs, and a 4 KiB append with fdatasync before each",
    });
    println!("{line}");
}

struct Bench {
    home: Home,
    started: mpsc::UnboundedReceiver<Instant>,
    worker: tokio::task::JoinHandle<()>,
    leave: StopSignal,
}

/// What was measured, one of each for each job.
struct Times {
    start: Vec<Duration>,
    accept: Vec<Duration>,
    disk: Vec<Duration>,
}

impl Bench {
    async fn open(root: &Path) -> Self {
        let catalog = Catalog::parse("bench", CATALOG, &[], &BTreeMap::new()).expect("the catalog is sound");
        let setup = Setup {
            shelf: Arc::new(Shelf::new(Policies { catalog, limits: Limits::one_machine(1024), ..Policies::default() })),
            policies: None,
            task: TaskProgram { program: "/bin/false".into(), args: vec![] },
            tasks: 1,
            retention: Duration::from_secs(3600),
            engine: None,
            vendors: None,
        };
        let home = Home::open(root, setup, Arc::new(System)).await.expect("the yard opens");
        let (told, started) = mpsc::unbounded_channel();
        let fleet = Fleet {
            lanes: Arc::clone(&home.yard.lanes),
            desk: Arc::clone(&home.desk),
            executor: Arc::new(Noop(told)),
            blobs: Arc::clone(&home.yard.blobs),
            ambient: Arc::new(System),
            roster: Arc::clone(&home.roster),
            holder: Holder::new("bench", home.boot),
            pool: PoolName::STANDARD,
            room: Room { slots: 2, milli_vcpu: 2000, memory_mib: 1024 },
            idle: None,
            finish: StopSignal::default(),
        };
        let leave = StopSignal::default();
        let worker = tokio::spawn(work(Arc::new(fleet), leave.clone()));
        Self { home, started, worker, leave }
    }

    async fn measure(&mut self, root: &Path, jobs: usize) -> Times {
        let mut log = OpenOptions::new().create(true).append(true).open(root.join("floor")).expect("a file");
        let mut times = Times { start: Vec::new(), accept: Vec::new(), disk: Vec::new() };
        for n in 0..WARM + jobs {
            let disk = floor(&mut log);
            let submitted = Instant::now();
            let id = self.submit(n).await;
            let accepted = submitted.elapsed();
            let started = self.started.recv().await.expect("the worker lives");
            if n >= WARM {
                times.disk.push(disk);
                times.accept.push(accepted);
                times.start.push(started.duration_since(submitted));
            }
            // Settled, and the worker idle again.
            let mut seen = 0;
            while let Some(job) =
                self.home.yard.ledger.watch(id, seen, Duration::from_secs(60)).await.expect("the job is read")
                && !job.is_settled()
            {
                seen = job.revision;
            }
        }
        times
    }

    async fn submit(&self, n: usize) -> switchyard_core::job::JobId {
        let yard = &self.home.yard;
        let key = n.to_string();
        let body = format!(r#"{{"capability":"noop","payload":{{"data":"{}"}}}}"#, "x".repeat(240));
        let (submission, digest) = intake::read(body.as_bytes()).expect("it is JSON");
        let sender = Sender { caller: "bench", key: Some(&key) };
        let (situation, now, random) = (yard.situation().await, System.now(), System.random());
        let prepared = intake::prepare(&submission, digest, sender, &situation, Taking::default(), now, random)
            .expect("it is a sound submission");
        let taken = intake::accept(yard, vec![prepared]).await.expect("it is accepted").remove(0);
        taken.expect("it is new").job.id
    }

    async fn close(self) {
        self.leave.raise(StopCause::Drain);
        self.worker.await.expect("the worker panicked");
        self.home.close().await;
    }
}

/// What the disk takes for 4 KiB.
fn floor(log: &mut File) -> Duration {
    log.write_all(&[0x5a; 4096]).expect("the disk takes it");
    let before = Instant::now();
    log.sync_data().expect("the disk syncs");
    before.elapsed()
}

/// How often this process's threads have been switched onto a processor (proc(5), `/proc/pid/task/tid/status`).
fn switches() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux");
    let statuses = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("status")).ok());
    let of_task = |status: String| -> u64 {
        let counts = status.lines().filter(|line| line.contains("ctxt_switches"));
        counts.filter_map(|line| line.split_whitespace().last()?.parse::<u64>().ok()).sum()
    };
    statuses.map(of_task).sum()
}

fn sorted(mut times: Vec<Duration>) -> Vec<Duration> {
    times.sort_unstable();
    times
}

/// The nearest-rank quantile, in microseconds.
fn quantile(sorted: &[Duration], quantile: f64) -> f64 {
    let rank = (sorted.len() as f64 * quantile).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).map_or(0.0, |took| (took.as_secs_f64() * 1e7).round() / 10.0)
}
