//! The deployed yard: template.yaml as it is, on an emulator that runs the real bootstraps and, where an engine answers,
//! real containers; driven by the CLI, by a worker, and by whatever invokes the functions. `make stack-test` deploys it and
//! ends it; one deployment is for all the cases, which run side by side and disturb each other as little as strangers do.

mod deployed;
mod events;
mod jobs;
mod lent;
mod records;
mod refused;
mod swept;
mod upgrade;

use std::panic::AssertUnwindSafe;
use std::time::Instant;

use deployed::Deployed;

type Case = (&'static str, fn(&Deployed));

/// Every case; those that need containers last, for they take longest.
const CASES: [Case; 21] = [
    ("a built-in runs inline in the call that asked for it", jobs::inline),
    ("a built-in that nobody has measured runs in the function that runs jobs", jobs::function),
    ("a network tool runs on the worker of the fleet and prints what it found", jobs::fleet),
    ("five hundred jobs of one batch all end", jobs::batch),
    ("a job is cancelled while it runs, and its log was followed until then", jobs::cancelled),
    ("a doorbell that rings twice, and one of an older epoch, start nothing", jobs::doubled),
    ("a run is lent what its capability may borrow, and nobody else is", lent::borrowed),
    ("the clock's ticks come by the deployed schedule", jobs::ticks),
    ("every recorded event that is delivered twice makes its jobs once", events::recorded),
    ("a finding comes in by the queue, by the topic, and as an object", events::doors),
    ("an event of a source of one's own comes in by the deployed rule", events::rule),
    ("what can never be taken is parked with its reason, and takes nothing along", events::parked),
    ("an invocation that asks for no run ends where failures are heard", events::destination),
    ("what a job emits is in the registers, and what is no record is parked", records::emitted),
    ("a stream of everything keeps the good once and parks the bad, and loses nothing", records::streamed),
    ("nobody comes in unsigned, and each role as far as it reaches", refused::roles),
    ("an event of another function's kind is answered with an error", refused::kinds),
    ("a worker whose machine is not there is struck out at a second look", swept::worker),
    ("a task runs in a container of its own, and its log and result come back", jobs::task),
    ("a launch that fails leads to the fleet", jobs::unlaunched),
    ("a task that is killed has failed a minute after ECS says so", jobs::killed),
];

#[test]
#[ignore = "deploys the stack: make stack-test"]
fn the_deployed_yard_keeps_its_promises() {
    let deployed = Deployed::prepare();
    let failed: Vec<&str> = std::thread::scope(|scope| {
        let running: Vec<_> = CASES
            .iter()
            .map(|(name, case)| {
                let deployed = &deployed;
                let run = move || {
                    let began = Instant::now();
                    let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| case(deployed)));
                    let said = if outcome.is_ok() { "ok" } else { "FAILED" };
                    eprintln!("{said}: {name} ({} s)", began.elapsed().as_secs());
                    outcome.is_err().then_some(*name)
                };
                std::thread::Builder::new().name((*name).to_owned()).spawn_scoped(scope, run).expect("a thread")
            })
            .collect();
        running.into_iter().filter_map(|case| case.join().expect("a case's panic is caught")).collect()
    });
    // Alone: it puts other functions in the place of those that the cases call.
    upgrade::upgraded_and_rolled_back(&deployed);
    assert!(failed.is_empty(), "{} of {} cases failed: {failed:#?}", failed.len(), CASES.len());
}
