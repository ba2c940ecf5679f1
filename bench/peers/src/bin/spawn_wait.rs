//! The bound on a process executor: nothing but spawn and wait, in as many threads as the executor
//! runs jobs at once. What the executor adds (claims, output, limits, settlement) is the difference.

use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use bench_peers::{Args, report};
use serde_json::json;

fn main() {
    let args = Args::read(&["jobs", "concurrency", "dir"]);
    let jobs: u64 = args.get("jobs", 2000);
    let concurrency: u64 = args.get("concurrency", 4);

    let next = AtomicU64::new(0);
    let succeeded = AtomicU64::new(0);
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..concurrency {
            scope.spawn(|| {
                while next.fetch_add(1, Ordering::Relaxed) < jobs {
                    let status = Command::new("/bin/true")
                        .spawn()
                        .and_then(|mut child| child.wait());
                    match status {
                        Ok(status) if status.success() => succeeded.fetch_add(1, Ordering::Relaxed),
                        other => panic!("/bin/true did not succeed: {other:?}"),
                    };
                }
            });
        }
    });
    let took = start.elapsed();
    assert_eq!(
        succeeded.into_inner(),
        jobs,
        "every process must have run and succeeded"
    );

    report(
        "spawn_wait",
        jobs,
        took,
        "none",
        &format!("/bin/true, spawn and wait in {concurrency} threads, inherited standard streams"),
        json!({ "concurrency": concurrency }),
    );
}
