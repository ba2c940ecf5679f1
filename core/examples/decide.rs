//! Nanoseconds and allocations a decision: the rows of the design's table, with the limits of the shipped files and
//! their three pools, again and again.
//!
//! Prints one JSON line: the form that bench/run.py reads. With `--passes N` it goes through the table so often;
//! bench/run.py runs it twice under valgrind with different N, and the difference is the instructions of a decision.
#![expect(unsafe_code, reason = "an allocator that counts is an allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use switchyard_core::job::Tier;
use switchyard_core::route::{Conditions, Limits, Needs, Packaging, PoolName, route};

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

struct Counting;

// SAFETY: everything is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps to this function's contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn rows() -> Vec<(Needs, Conditions)> {
    let needs = |packaging, expected: Option<u64>| Needs {
        packaging,
        expected: expected.map(Duration::from_secs),
        memory_mib: 512,
        milli_vcpu: 250,
        docker: false,
        privileged: false,
        network_tools: false,
        static_address: false,
        isolate: false,
        interruptible: true,
        only: vec![],
        prefer: vec![],
    };
    let given = |tier| Conditions { tier, ..Conditions::default() };
    let left = |tier, left| Conditions { invocation_left: Some(Duration::from_secs(left)), ..given(tier) };
    let (synchronous, standard) = (Tier::Synchronous, Tier::Standard);
    let (built_in, task) = (Packaging::Builtin, Packaging::TaskImage);
    let isolated = || Needs { isolate: true, ..needs(task, Some(60)) };
    let large = || Needs { memory_mib: 12 * 1024, ..needs(task, Some(120)) };
    let docker = || Needs { docker: true, ..needs(Packaging::Image, Some(120)) };
    vec![
        (needs(built_in, Some(5)), left(synchronous, 29)),
        (needs(built_in, None), left(standard, 29)),
        (needs(built_in, Some(28)), left(standard, 10)),
        (needs(built_in, Some(120)), left(standard, 29)),
        (Needs { memory_mib: 2048, ..needs(Packaging::FunctionImage, Some(120)) }, given(synchronous)),
        (needs(task, Some(120)), given(standard)),
        (needs(task, Some(120)), Conditions { free: vec![PoolName::STANDARD], ..given(standard) }),
        (needs(task, Some(120)), Conditions { companions: 499, ..given(standard) }),
        (isolated(), given(Tier::Priority)),
        (isolated(), Conditions { launches_exhausted: true, ..given(Tier::Priority) }),
        (Needs { network_tools: true, ..needs(Packaging::Image, Some(5)) }, given(synchronous)),
        (large(), given(standard)),
        (Needs { docker: true, ..large() }, given(standard)),
        (docker(), Conditions { interruptions: 2, ..given(standard) }),
    ]
}

fn main() {
    let mut args = std::env::args().skip(1);
    let passes: u64 = match (args.next().as_deref(), args.next()) {
        (None, None) => 200_000,
        (Some("--passes"), Some(passes)) => passes.parse().expect("--passes: a number"),
        _ => panic!("usage: decide [--passes N]"),
    };
    let (rows, limits) = (rows(), Limits::default());
    assert_eq!(limits.pools.len(), 3);
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    let start = Instant::now();
    for _ in 0..passes {
        for (needs, conditions) in &rows {
            // A refusal is a decision too.
            let _ = black_box(route(black_box(needs), black_box(conditions), black_box(&limits)));
        }
    }
    let took = start.elapsed();
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
    let decisions = passes * rows.len() as u64;
    println!(
        "{{\"name\":\"decide\",\"jobs\":{decisions},\"jobs_per_second\":{:.0},\"ns_per_decision\":{:.1},\
         \"allocations\":{allocations},\"notes\":\"14 kinds of jobs, 3 pools\",\"durability\":\"none\"}}",
        decisions as f64 / took.as_secs_f64(),
        took.as_secs_f64() * 1e9 / decisions as f64,
    );
}
