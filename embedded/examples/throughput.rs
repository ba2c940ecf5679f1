//! Jobs a second through the whole yard on SQLite: accepted with an idempotency key, routed, received, claimed, run as
//! a no-op, settled with history; every step durable before it is acknowledged. 64 clients, 64 slots.
//!
//! Prints one JSON line: the form that bench/run.py reads, with every fsync of the process counted.
#![expect(unsafe_code, reason = "the C library's fsync is replaced by one that counts")]

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
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
use tokio::sync::Notify;

static FSYNCS: AtomicU64 = AtomicU64::new(0);

/// Counts, then syncs. SQLite is linked in, so its calls come here.
#[unsafe(no_mangle)]
extern "C" fn fsync(fd: i32) -> i32 {
    FSYNCS.fetch_add(1, Ordering::Relaxed);
    // SAFETY: the caller passes a descriptor it has open, as for the function this stands for.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    if rustix::fs::fsync(fd).is_ok() { 0 } else { -1 }
}

/// Counts, then syncs.
#[unsafe(no_mangle)]
extern "C" fn fdatasync(fd: i32) -> i32 {
    FSYNCS.fetch_add(1, Ordering::Relaxed);
    // SAFETY: as above.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    if rustix::fs::fdatasync(fd).is_ok() { 0 } else { -1 }
}

struct Noop {
    left: AtomicUsize,
    last: Notify,
}

#[async_trait]
impl Executor for Noop {
    async fn run(&self, _: &Assignment<'_>, _: &dyn LogSink) -> Outcome {
        if self.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.last.notify_one();
        }
        Outcome::Succeeded(None)
    }
}

const CATALOG: &str = "version: 1
capabilities:
  - { name: noop, summary: nothing, run: { command: [\"true\"] }, needs: { memory_mib: 1 } }
";

fn main() {
    let mut args = std::env::args().skip(1);
    let (mut jobs, mut dir, mut clients) = (20_000, PathBuf::from("."), 64);
    while let (Some(name), Some(value)) = (args.next(), args.next()) {
        match name.as_str() {
            "--jobs" => jobs = value.parse().expect("--jobs takes a number"),
            "--clients" => clients = value.parse().expect("--clients takes a number"),
            "--dir" => dir = value.into(),
            other => panic!("unknown argument {other}"),
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(bench(jobs, clients, dir.join(format!("yard-{}", std::process::id()))));
}

async fn bench(jobs: usize, clients: usize, root: PathBuf) {
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
    let home = Home::open(&root, setup, Arc::new(System)).await.expect("the yard opens");
    let noop = Arc::new(Noop { left: AtomicUsize::new(jobs), last: Notify::new() });
    let fleet = Fleet {
        lanes: Arc::clone(&home.yard.lanes),
        desk: Arc::clone(&home.desk),
        executor: noop.clone(),
        blobs: Arc::clone(&home.yard.blobs),
        ambient: Arc::new(System),
        holder: Holder::new("bench", home.boot),
        roster: Arc::clone(&home.roster),
        pool: PoolName::STANDARD,
        room: Room { slots: 64, milli_vcpu: 64_000, memory_mib: 1024 },
        idle: None,
        finish: StopSignal::default(),
    };
    let leave = StopSignal::default();
    let worker = tokio::spawn(work(Arc::new(fleet), leave.clone()));
    let before = FSYNCS.load(Ordering::Relaxed);
    let started = Instant::now();
    let mut submitting = tokio::task::JoinSet::new();
    for client in 0..clients {
        let yard = home.yard.clone();
        let share = jobs / clients + usize::from(client < jobs % clients);
        submitting.spawn(async move {
            for n in 0..share {
                let key = format!("{client}-{n}");
                let body = format!(r#"{{"capability":"noop","payload":{{"data":"{}"}}}}"#, "x".repeat(240));
                let (submission, digest) = intake::read(body.as_bytes()).expect("it is JSON");
                let sender = Sender { caller: "bench", key: Some(&key) };
                let (now, random) = (System.now(), System.random());
                let situation = yard.situation().await;
                let prepared = intake::prepare(&submission, digest, sender, &situation, Taking::default(), now, random)
                    .expect("it is a sound submission");
                let taken = intake::accept(&yard, vec![prepared]).await.expect("it is accepted");
                assert!(taken.iter().flatten().all(|taken| taken.fresh));
            }
        });
    }
    while let Some(done) = submitting.join_next().await {
        done.expect("a client panicked");
    }
    let accepted = started.elapsed();
    noop.last.notified().await;
    // The last ones have run: wait until their settlements are durable too.
    leave.raise(StopCause::Drain);
    worker.await.expect("the worker panicked");
    let seconds = started.elapsed().as_secs_f64();
    let fsyncs = FSYNCS.load(Ordering::Relaxed) - before;
    let counts = home.yard.ledger.count().await.expect("jobs are counted");
    assert_eq!(counts, [(switchyard_core::job::Phase::Succeeded, jobs as u64)]);
    home.close().await;
    std::fs::remove_dir_all(&root).expect("the folder is removed");
    let line = serde_json::json!({
        "peer": "switchyard",
        "jobs": jobs,
        "seconds": seconds,
        "accepted_seconds": accepted.as_secs_f64(),
        "jobs_per_second": jobs as f64 / seconds,
        "fsyncs": fsyncs,
        "fsyncs_per_job": fsyncs as f64 / jobs as f64,
        "durability": "SQLite WAL, synchronous=FULL, each acceptance, claim and settlement acknowledged after its commit",
        "notes": format!("{clients} clients, 64 slots, idempotency key and history on each job"),
    });
    println!("{line}");
}
