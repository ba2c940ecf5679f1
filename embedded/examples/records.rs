//! Records a second through the judge and into SQLite: each line read as JSON, held against its capability's schema, kept
//! once, an asset with its entry in the register; durable before it is answered. Batches of 500, as a worker hands them over.
//!
//! Prints one JSON line: the form that bench/run.py reads.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use switchyard_builtins::system::System;
use switchyard_core::catalog::Catalog;
use switchyard_core::intake::{self, Sender, Taking};
use switchyard_core::job::Epoch;
use switchyard_core::policies::{Policies, Shelf};
use switchyard_core::ports::Ambient;
use switchyard_core::records::{BATCH_RECORDS, Became, Emitted, take};
use switchyard_core::route::Limits;
use switchyard_embedded::home::{Home, Setup};
use switchyard_embedded::launcher_process::TaskProgram;

const CATALOG: &str = "version: 1
capabilities:
  - name: scan
    summary: emits
    run: { command: [\"true\"] }
    needs: { memory_mib: 1 }
    emits:
      asset:
        type: object
        required: [ports]
        properties: { ports: { type: array, items: { type: integer, minimum: 1, maximum: 65535 } } }
      metric: true
";

fn main() {
    let mut args = std::env::args().skip(1);
    let (mut records, mut dir) = (100_000, PathBuf::from("."));
    while let (Some(name), Some(value)) = (args.next(), args.next()) {
        match name.as_str() {
            "--jobs" => records = value.parse().expect("--jobs takes a number"),
            "--dir" => dir = value.into(),
            other => panic!("unknown argument {other}"),
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(bench(records, dir.join(format!("yard-{}", std::process::id()))));
}

async fn bench(records: usize, root: PathBuf) {
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
    let yard = home.yard.clone();
    let (submission, digest) = intake::read(br#"{"capability":"scan"}"#).expect("it is JSON");
    let sender = Sender { caller: "bench", key: Some("one") };
    let (situation, now) = (yard.situation().await, System.now());
    let prepared = intake::prepare(&submission, digest, sender, &situation, Taking::default(), now, System.random());
    let taken = intake::accept(&yard, vec![prepared.expect("a sound submission")]).await.expect("it is accepted");
    let job = taken.into_iter().flatten().next().expect("one job").job.id;
    let lines: Vec<Emitted> = (1..=records as u64)
        .map(|n| {
            // One of two is an asset, each of them another; 200 bytes or so, as a scan's are.
            let line = if n % 2 == 0 {
                format!(r#"{{"kind":"asset","id":"host:{n}","ports":[22,443],"banner":"{}"}}"#, "x".repeat(140))
            } else {
                format!(r#"{{"kind":"metric","name":"latency_ms","value":{n},"of":"{}"}}"#, "x".repeat(140))
            };
            Emitted { job, epoch: Epoch(1), n, at: now, line }
        })
        .collect();
    let run = async |what: Became| {
        let started = Instant::now();
        for batch in lines.chunks(BATCH_RECORDS) {
            let became = take(&yard, "run", batch).await;
            assert!(became.iter().all(|became| *became == what), "{became:?}");
        }
        started.elapsed().as_secs_f64()
    };
    let seconds = run(Became::Stored).await;
    let again = run(Became::Known).await;
    drop(yard);
    home.close().await;
    std::fs::remove_dir_all(&root).expect("the folder is removed");
    let line = serde_json::json!({
        "peer": "switchyard, records",
        "jobs": records,
        "seconds": seconds,
        "jobs_per_second": records as f64 / seconds,
        "again_per_second": records as f64 / again,
        "durability": "SQLite WAL, synchronous=FULL, each batch of 500 answered after its commit",
        "notes": "half of them assets with an entry each in the register; then all of them again",
    });
    println!("{line}");
}
