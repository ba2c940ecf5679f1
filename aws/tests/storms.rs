//! The contract suite in storms: throttling, errors, slow and silent answers, resets, answers lost after the write took
//! effect, batches that fail in part, all by seed. `SWITCHYARD_TEST_SEEDS` says how many seeds, 48 unless it does; the
//! whole suite for each of them takes hours, so that each runs its share of the cases, and every case meets about as many
//! storms as any other.
//!
//! Of SQS no answer is lost here: a bell would ring twice, or be hidden for two minutes, and the suite counts bells. The
//! crash points and the lanes' own tests lose those.

mod emulated;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use emulated::Emulator;
use emulated::yard::{clients_with, home, names, pools, proxy, yard};
use switchyard_builtins::system::System;
use switchyard_core::contract::{Case, cases};
use switchyard_faults::{Service, Weather};

/// Cases that a seed runs: with 48 seeds each case meets at least one storm on MiniStack, with 2000 sixty.
const SHARE: usize = 2;
/// Storms at once.
const AT_ONCE: usize = 4;

fn seeds() -> u64 {
    std::env::var("SWITCHYARD_TEST_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(48)
}

fn storm(seed: u64) -> Weather {
    Weather {
        slow_at_most: Duration::from_millis(30),
        silent_for: Duration::from_millis(200),
        redelivered: 0.0,
        answers: vec![Service::Sqs],
        ..Weather::storm(seed)
    }
}

/// One case on a home of its own, made in calm weather. Answers how many requests met a fault.
fn run(emulator: Emulator, seed: u64, case: Case) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let proxy = proxy(emulator);
        let clients = clients_with(&proxy.endpoint(), "STORM", |settings| {
            // An attempt fails with a probability of 7 %: a call of eight tries fails once in a billion.
            settings.attempts = 8;
            settings.first_backoff = Duration::from_millis(5);
        });
        let home = home(&clients, names("storm"), Arc::new(System));
        home.declare(&clients, &pools()).await.expect("declare");
        proxy.set_weather(storm(seed));
        let mark = proxy.records().mark();
        case(&yard(&home)).await;
        proxy.records().tally_since(mark).total().faulted
    })
}

/// So many storms on an emulator, a few at once: they wait more than they work.
fn storms(emulator: Emulator, seeds: u64) {
    let cases = cases();
    assert!(emulator == Emulator::Moto || seeds as usize * SHARE >= cases.len(), "each case meets a storm");
    let (next, faulted, failed) = (AtomicU64::new(0), AtomicU64::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= seeds {
                        break;
                    }
                    for place in 0..SHARE {
                        let (name, case) = cases[(seed as usize * SHARE + place) % cases.len()];
                        match std::panic::catch_unwind(|| run(emulator, seed, case)) {
                            Ok(met) => drop(faulted.fetch_add(met, Ordering::SeqCst)),
                            Err(_) => failed.lock().expect("whole").push(format!("{name} in the storm of seed {seed}")),
                        }
                    }
                }
            });
        }
    });
    let (faulted, failed) = (faulted.into_inner(), failed.into_inner().expect("whole"));
    println!("{seeds} storms on {}: {faulted} requests met a fault", emulator.name());
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(faulted > seeds, "storms that hardly touch anything show nothing: {faulted}");
}

#[test]
fn the_contract_holds_in_storms_on_ministack() {
    storms(Emulator::MiniStack, seeds());
}

#[test]
fn the_contract_holds_in_storms_on_moto() {
    // moto takes five times as long for the same.
    storms(Emulator::Moto, seeds().div_ceil(5));
}
