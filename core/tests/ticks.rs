//! Ticks on the home in memory, whose clock the tests move: what was missed, what overlaps, what is refused, what is
//! edited; and a crash between a tick's job and its being remembered.

use std::time::Duration;

use futures_lite::future::block_on;
use jiff::Timestamp;
use switchyard_core::catalog::Catalog;
use switchyard_core::intake::RESERVED_CALLERS;
use switchyard_core::job::{Job, Phase};
use switchyard_core::memory::Memory;
use switchyard_core::policies::{CATALOG_FILE, Files, Policies, SCHEDULES_FILE};
use switchyard_core::ports::{Query, Yard};
use switchyard_core::route::Limits;
use switchyard_core::schedule::{self, CALLER, TickCounts, Ticked};
use switchyard_core::settle;

const CATALOG: &str = "version: 1\ncapabilities:\n  - { name: knock, summary: s, run: { command: [a] } }\n  - { name: huge, \
                       summary: s, run: { command: [a] }, needs: { memory_mib: 1000000 } }\n";

fn policies(schedules: &str) -> Policies {
    let files = Files::from([
        (CATALOG_FILE.to_owned(), CATALOG.to_owned()),
        (SCHEDULES_FILE.to_owned(), format!("version: 1\nschedules:\n{schedules}")),
    ]);
    Policies { limits: Limits::one_machine(1024), ..Policies::parse(&files, &[], None).unwrap() }
}

fn every_ten(name: &str, fields: &str) -> String {
    format!("  - {{ name: {name}, rate_minutes: 10, capability: knock{fields} }}\n")
}

/// A home at 13 seconds past a tick of every ten minutes, whose schedules were seen for the first time.
fn home(schedules: &str) -> (Memory, Yard) {
    let home = Memory::new(Timestamp::from_second(1_800_000_013).unwrap(), 1);
    let yard = home.yard(Catalog::default(), Limits::default());
    yard.shelf.replace(policies(schedules), yard.ambient.now());
    assert_eq!(TickCounts { next: None, ..round(&yard) }, TickCounts::default());
    (home, yard)
}

fn round(yard: &Yard) -> TickCounts {
    block_on(schedule::round(yard)).unwrap()
}

fn after(home: &Memory, yard: &Yard, minutes: u64) -> TickCounts {
    home.advance(Duration::from_secs(minutes * 60));
    round(yard)
}

fn jobs(yard: &Yard) -> Vec<Job> {
    let mut jobs = block_on(yard.ledger.list(&Query { limit: 500, ..Query::default() })).unwrap();
    jobs.sort_by_key(|job| job.work.key.clone());
    jobs
}

fn keys(yard: &Yard) -> Vec<String> {
    jobs(yard).into_iter().map(|job| job.work.key.unwrap()).collect()
}

fn remembered(yard: &Yard, name: &str) -> Ticked {
    block_on(yard.ledger.last_ticks()).unwrap().remove(name).unwrap()
}

fn why(yard: &Yard, name: &str) -> String {
    remembered(yard, name).why.map(|(_, why)| why).unwrap_or_default()
}

#[test]
fn a_round_says_when_the_next_tick_is_and_submits_it_then() {
    let (home, yard) = home(&(every_ten("often", "") + "  - { name: daily, cron: 0 2 * * *, capability: knock }\n"));
    // The tick is 9 minutes and 47 seconds away.
    let next = round(&yard).next.unwrap();
    assert_eq!(next.duration_since(yard.ambient.now()).as_secs(), 9 * 60 + 47);
    assert_eq!(after(&home, &yard, 9).submitted, 0);
    let ticked = after(&home, &yard, 1);
    assert_eq!((ticked.submitted, ticked.next), (1, Some(next + Duration::from_secs(600))));
    assert_eq!(keys(&yard), [format!("often@{next}")]);
    assert_eq!(jobs(&yard)[0].work.caller, CALLER);
    assert!(RESERVED_CALLERS.contains(&CALLER));
    assert_eq!(remembered(&yard, "often").tick, Some(next));
    assert_eq!(round(&yard).submitted, 0);
}

#[test]
fn without_schedules_there_is_no_next_round() {
    let (_, yard) = home("  - { name: off, rate_minutes: 1, capability: knock, enabled: false }\n");
    assert_eq!(round(&yard).next, None);
    yard.shelf.replace(policies(&every_ten("often", "")), yard.ambient.now());
    assert!(round(&yard).next.is_some());
}

#[test]
fn what_a_sleeping_yard_missed_is_made_up_as_each_schedule_says() {
    let schedules = [("all", ", missed: all"), ("last", ""), ("skip", ", missed: skip")];
    let (home, yard) = home(&schedules.map(|(name, fields)| every_ten(name, fields)).concat());
    // The newest of six ticks is 7 minutes old: over the five that a tick may be late.
    let counts = after(&home, &yard, 67);
    assert_eq!((counts.submitted, counts.missed), (7, 11));
    let of = |name: &str| keys(&yard).iter().filter(|key| key.starts_with(name)).count();
    assert_eq!((of("all@"), of("last@"), of("skip@")), (6, 1, 0));
    assert_eq!(why(&yard, "skip"), "missed: nobody looked at 6 ticks in time");
    assert_eq!(["all", "last", "skip"].map(|name| remembered(&yard, name).skipped), [0, 5, 6]);
    let again = after(&home, &yard, 3);
    assert_eq!((again.submitted, again.missed), (3, 0), "and the next one is on time for all");
}

#[test]
fn more_than_a_round_takes_comes_in_the_next_rounds_in_order() {
    let (home, yard) = home(&every_ten("all", ", missed: all"));
    let now = home.clone();
    let first = after(&home, &yard, 2500);
    assert_eq!(first.submitted, schedule::TICKS_MAX as u64);
    assert_eq!(first.next, Some(switchyard_core::ports::Ambient::now(&now)), "at once");
    let more: u64 = (0..2).map(|_| round(&yard).submitted).sum();
    assert_eq!((more, keys(&yard).len()), (150, 250));
    assert!(round(&yard).next.is_some_and(|next| next > switchyard_core::ports::Ambient::now(&now)));
}

#[test]
fn a_tick_is_left_out_while_the_job_of_the_last_one_has_not_ended() {
    let (home, yard) = home(&(every_ten("alone", ", overlap: skip") + &every_ten("allow", "")));
    assert_eq!(after(&home, &yard, 10).submitted, 2);
    for skipped in 1..=2 {
        let counts = after(&home, &yard, 10);
        assert_eq!((counts.submitted, counts.overlapping), (1, 1));
        assert_eq!(remembered(&yard, "alone").skipped, skipped);
    }
    let first = jobs(&yard).into_iter().find(|job| job.work.key.as_ref().unwrap().starts_with("alone")).unwrap();
    let tick = remembered(&yard, "alone").tick.unwrap();
    assert_eq!(why(&yard, "alone"), format!("overlap: job {} of the tick at {tick} is dispatched", first.id));
    let ended = block_on(settle::cancel_job(&yard, first.id, "tests")).unwrap();
    assert_eq!(ended.phase(), Phase::Cancelled);
    let counts = after(&home, &yard, 10);
    assert_eq!((counts.submitted, counts.overlapping), (2, 0));
    // What was left out stays out, and is remembered.
    assert_eq!(remembered(&yard, "alone").skipped, 2);
}

#[test]
fn what_is_missed_and_must_not_overlap_is_made_up_once() {
    let (home, yard) = home(&every_ten("alone", ", overlap: skip, missed: all"));
    let counts = after(&home, &yard, 60);
    assert_eq!((counts.submitted, counts.overlapping), (1, 5));
}

#[test]
fn a_tick_that_is_refused_is_told_and_keeps_no_other_from_its_way() {
    let a_huge = every_ten("a-huge", "").replace("knock", "huge");
    let (home, yard) = home(&(a_huge + &every_ten("b-small", "")));
    let counts = after(&home, &yard, 10);
    assert_eq!((counts.submitted, counts.refused, counts.errors), (1, 1, 0));
    assert!(why(&yard, "a-huge").starts_with("refused: no venue can run it"), "{}", why(&yard, "a-huge"));
    assert_eq!(remembered(&yard, "a-huge").tick, None);
    // It is not tried again, and the next tick is.
    assert_eq!(round(&yard).refused, 0);
    assert_eq!(after(&home, &yard, 10).refused, 1);
}

#[test]
fn a_crash_before_a_tick_is_remembered_makes_no_second_job_even_if_the_schedule_is_edited() {
    let (home, yard) = home(&every_ten("often", ", payload: { a: 1 }"));
    let before = remembered(&yard, "often");
    assert_eq!(after(&home, &yard, 10).submitted, 1);
    let first = jobs(&yard);
    for edited in [", payload: { a: 1 }", ", payload: { a: 2 }", ", labels: { a: b }, tier: priority"] {
        yard.shelf.replace(policies(&every_ten("often", edited)), yard.ambient.now());
        block_on(yard.ledger.ticked("often", Some(&before))).unwrap();
        let counts = round(&yard);
        assert_eq!((counts.submitted, counts.repeated, counts.refused), (0, 1, 0), "{edited}");
        assert_eq!(jobs(&yard), first, "{edited}");
    }
    // Nor if nothing could run it any more.
    yard.shelf.replace(policies(&every_ten("often", "").replace("knock", "huge")), yard.ambient.now());
    block_on(yard.ledger.ticked("often", Some(&before))).unwrap();
    let counts = round(&yard);
    assert_eq!((counts.repeated, counts.refused), (1, 0));
}

#[test]
fn whatever_answer_is_lost_each_tick_becomes_one_job() {
    for lost in 1..8 {
        let (home, yard) = home(&(every_ten("a", ", missed: all") + &every_ten("b", ", missed: all")));
        home.advance(Duration::from_secs(30 * 60));
        home.lose(lost);
        let mut errors = 0;
        while round(&yard).errors > 0 {
            errors += 1;
            assert!(errors < 20);
        }
        assert!(errors > 0, "{lost} answers are lost");
        assert_eq!(keys(&yard).len(), 6, "{lost} answers are lost");
        assert_eq!(round(&yard).submitted, 0);
    }
}

#[test]
fn other_times_a_pause_or_a_schedule_that_was_gone_start_from_now() {
    let changes = [
        (every_ten("often", ", missed: all"), every_ten("often", ", missed: all").replace("10", "5")),
        (every_ten("often", ", missed: all, enabled: false"), every_ten("often", ", missed: all")),
        (every_ten("other", ", missed: all"), every_ten("often", ", missed: all")),
    ];
    for (during, after_it) in changes {
        let (home, yard) = home(&every_ten("often", ", missed: all"));
        yard.shelf.replace(policies(&during), yard.ambient.now());
        round(&yard);
        home.advance(Duration::from_secs(3600));
        yard.shelf.replace(policies(&after_it), yard.ambient.now());
        let counts = round(&yard);
        assert_eq!((counts.submitted, counts.missed), (0, 0), "{during}{after_it}");
        assert_eq!(after(&home, &yard, 10).submitted, if after_it.contains("minutes: 5,") { 2 } else { 1 });
    }
}
