//! The floor under every durable queue here: how long the disk takes to make 4 KiB safe, in the same
//! run as the queues. On shared machines it moves by a factor of ten within minutes, so no figure of
//! a durable queue can be read without it.

use std::fs::OpenOptions;
use std::io::Write;
use std::time::{Duration, Instant};

use bench_peers::{Args, report, round};
use serde_json::json;

fn main() -> std::io::Result<()> {
    let args = Args::read(&["jobs", "dir"]);
    let appends: usize = args.get("jobs", 500);
    let dir = args.scratch("fdatasync-");
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(dir.path().join("log"))?;
    let block = [0x5a_u8; 4096];

    let mut syncs = Vec::with_capacity(appends);
    let start = Instant::now();
    for _ in 0..appends {
        file.write_all(&block)?;
        let before = Instant::now();
        file.sync_data()?; // fdatasync(2) on Linux
        syncs.push(before.elapsed());
    }
    let took = start.elapsed();
    assert_eq!(
        file.metadata()?.len(),
        (appends * block.len()) as u64,
        "every append must be in the file"
    );

    syncs.sort_unstable();
    report(
        "fdatasync",
        appends as u64,
        took,
        "fdatasync after each 4 KiB append",
        "p50 and p99 are of the fdatasync call alone; a job here is one append with its fdatasync",
        json!({ "p50_us": micros(&syncs, 0.50), "p99_us": micros(&syncs, 0.99) }),
    );
    Ok(())
}

/// The nearest-rank quantile, in microseconds.
fn micros(sorted: &[Duration], quantile: f64) -> f64 {
    let rank = (sorted.len() as f64 * quantile).ceil() as usize;
    sorted
        .get(rank.saturating_sub(1))
        .map_or(0.0, |took| round(took.as_secs_f64() * 1e6, 1))
}
