//! Processes a second through the command executor: own folder, own environment, captured output, certain end; each
//! one `/bin/true`. Prints one JSON line: the form that bench/run.py reads.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use switchyard_builtins::system::System;
use switchyard_core::catalog::Catalog;
use switchyard_core::intake::{self, Sender, Taking};
use switchyard_core::job::Epoch;
use switchyard_core::policies::{Policies, Shelf, Situation};
use switchyard_core::ports::{
    Ambient, Assignment, Emission, Executor, LoanDoor, LogLine, LogSink, Outcome, PortError, StopSignal,
};
use switchyard_core::records::Emitted;
use switchyard_core::route::Limits;
use switchyard_worker::credentials::Vault;
use switchyard_worker::executor::LocalExecutor;
use switchyard_worker::scratch::Scratch;

struct Nowhere;

#[async_trait]
impl LogSink for Nowhere {
    async fn emit(&self, _: &[Emitted]) -> Result<Emission, PortError> {
        Ok(Emission::Taken(vec![]))
    }

    async fn write(&self, _: Vec<LogLine>) {}
}

const CATALOG: &str = "version: 1
capabilities:
  - { name: noop, summary: nothing, run: { command: [/bin/true] }, needs: { memory_mib: 1 } }
";

fn main() {
    let mut args = std::env::args().skip(1);
    let (mut jobs, mut concurrency) = (2000, 4);
    while let (Some(name), Some(value)) = (args.next(), args.next()) {
        match name.as_str() {
            "--jobs" => jobs = value.parse().expect("--jobs takes a number"),
            "--concurrency" => concurrency = value.parse().expect("--concurrency takes a number"),
            other => panic!("unknown argument {other}"),
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(bench(jobs, concurrency));
}

async fn bench(jobs: usize, concurrency: usize) {
    let catalog = Catalog::parse("bench", CATALOG, &[], &BTreeMap::new()).expect("the catalog is sound");
    let shelf = Arc::new(Shelf::new(Policies { catalog, limits: Limits::one_machine(1024), ..Policies::default() }));
    let scratch: PathBuf = std::env::temp_dir().join(format!("switchyard-bench-{}", std::process::id()));
    std::fs::create_dir_all(&scratch).expect("a scratch folder");
    let executor = Arc::new(LocalExecutor {
        shelf: Arc::clone(&shelf),
        scratch: Scratch::new(&scratch, concurrency),
        vault: Vault::usual(),
        yard: "bench".to_owned(),
        boot: switchyard_core::job::Nonce(1),
        engine: None,
        task: None,
        ambient: Arc::new(System),
    });
    let next = Arc::new(AtomicUsize::new(0));
    let started = Instant::now();
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..concurrency {
        let (executor, next, shelf) = (Arc::clone(&executor), Arc::clone(&next), Arc::clone(&shelf));
        running.spawn(async move {
            let (submission, digest) = intake::read(br#"{"capability":"noop"}"#).expect("it is JSON");
            let situation = Situation { policies: shelf.policies(), ..Situation::default() };
            let sender = Sender { caller: "bench", key: None };
            let (now, random) = (System.now(), System.random());
            let prepared = intake::prepare(&submission, digest, sender, &situation, Taking::default(), now, random)
                .expect("it is sound");
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= jobs {
                    break;
                }
                let mut job = prepared.job.clone();
                job.epoch = Epoch(u32::try_from(n).expect("few enough"));
                let deadline = System.now() + Duration::from_secs(60);
                let (payload, stop) = (prepared.payload.clone(), StopSignal::default());
                let assignment = Assignment { job, payload, deadline, stop, loans: LoanDoor::NONE };
                assert_eq!(executor.run(&assignment, &Nowhere).await, Outcome::Succeeded(None));
            }
        });
    }
    while let Some(done) = running.join_next().await {
        done.expect("a runner panicked");
    }
    let seconds = started.elapsed().as_secs_f64();
    std::fs::remove_dir_all(&scratch).expect("the folder is removed");
    let line = serde_json::json!({
        "peer": "switchyard process executor",
        "jobs": jobs,
        "seconds": seconds,
        "jobs_per_second": jobs as f64 / seconds,
        "notes": format!("{concurrency} at once, each with its own folder, environment, captured output"),
    });
    println!("{line}");
}
