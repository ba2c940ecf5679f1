//! The sizes of pools: at every boundary, and beside the step policy taken at its word.

use super::*;
use crate::job::{Holder, Tier};
use crate::ports::{Depths, Room, TierDepth};
use crate::testing::at;

const SYNCHRONOUS: usize = 0;
const PRIORITY: usize = 1;
const STANDARD: usize = 2;

/// The shipped rules with this policy: slots for 2 jobs of a minute, 5 / 90 / 600 s to start, 75 s to boot.
fn rules(policy: Policy) -> Rules {
    Rules {
        scaling: Scaling { policy, ..Scaling::default() },
        targets: Limits::default().start_targets,
        boot: Duration::from_secs(75),
    }
}

/// A pool that may have 20, with so many workers at work, of which each of 2 slots is taken, and so much in the standard
/// tier.
fn seen(workers: u32, waiting: u64) -> Seen {
    let in_flight = u64::from(workers) * 2;
    Seen {
        age: Duration::ZERO,
        backlog: Some(Backlog { visible: [0, 0, waiting], in_flight: [0, 0, in_flight], counted: None }),
        group: Some(GroupSeen { desired: workers, max: 20, in_service: workers, ..GroupSeen::default() }),
        workers: Some(vec![worker(2, Standing::Stays); workers as usize]),
    }
}

fn worker(busy: u32, standing: Standing) -> WorkerSeen {
    WorkerSeen { slots: 2, busy, standing }
}

/// The same, where nobody runs anything.
fn idle(workers: u32, waiting: u64) -> Seen {
    let mut seen = seen(workers, waiting);
    seen.backlog = Some(Backlog { in_flight: [0; 3], ..seen.backlog.unwrap() });
    seen.workers = Some(vec![worker(0, Standing::Stays); workers as usize]);
    seen
}

fn grown(seen: &mut Seen, change: impl FnOnce(&mut GroupSeen)) {
    change(seen.group.as_mut().unwrap());
}

fn told(seen: &Seen, policy: Policy) -> (Reason, Option<u32>) {
    let verdict = decide(seen, &rules(policy));
    (verdict.reason, verdict.grow_to)
}

/// The step policy of seed templates at its word: what it sets the group to, within 0 and its maximum.
fn literally(seen: &Seen) -> u32 {
    let (backlog, group) = (seen.backlog.unwrap(), seen.group.unwrap());
    match backlog.visible.iter().sum::<u64>() {
        0..=9 => group.desired.saturating_sub(1),
        10..=50 => (group.desired + 2).min(group.max),
        _ => (group.desired + 5).min(group.max),
    }
}

#[test]
fn the_step_policy_steps_at_its_bounds_and_never_down() {
    for (waiting, expected) in [
        (0, (Reason::Fewer, None)),
        (9, (Reason::Fewer, None)),
        (10, (Reason::Step, Some(6))),
        (50, (Reason::Step, Some(6))),
        (51, (Reason::Step, Some(9))),
        (1_000_000, (Reason::Step, Some(9))),
    ] {
        assert_eq!(told(&idle(4, waiting), Policy::Steps), expected, "{waiting}");
    }
}

#[test]
fn the_backlog_policy_has_as_many_as_start_what_waits_within_its_target() {
    // An instance of two slots starts 20 jobs of a minute within ten minutes, 3 within 90 s, 2 at once.
    for (tier, waiting, expected) in [
        (STANDARD, 0, (Reason::Fewer, None)),
        (STANDARD, 20, (Reason::Fewer, None)),
        (STANDARD, 21, (Reason::Enough, None)),
        (STANDARD, 40, (Reason::Enough, None)),
        (STANDARD, 41, (Reason::Backlog, Some(3))),
        (STANDARD, 60, (Reason::Backlog, Some(3))),
        (STANDARD, 61, (Reason::Backlog, Some(4))),
        (PRIORITY, 6, (Reason::Enough, None)),
        (PRIORITY, 7, (Reason::Backlog, Some(3))),
        (SYNCHRONOUS, 4, (Reason::Enough, None)),
        (SYNCHRONOUS, 5, (Reason::Backlog, Some(3))),
    ] {
        let mut seen = idle(2, 0);
        seen.backlog.as_mut().unwrap().visible[tier] = waiting;
        assert_eq!(told(&seen, Policy::Backlog), expected, "{tier}: {waiting}");
    }
    let mut all = idle(0, 40);
    all.backlog.as_mut().unwrap().visible = [2, 3, 20];
    assert_eq!(told(&all, Policy::Backlog), (Reason::First, Some(3)), "one for each tier's part");
}

#[test]
fn the_pools_own_bound_holds_for_every_tier_and_a_run_is_the_least_that_is_waited_for() {
    let with = |backlog, run, waiting| {
        let mut rules = rules(Policy::Backlog);
        rules.scaling.backlog = Duration::from_secs(backlog);
        rules.scaling.run = Duration::from_secs(run);
        decide(&idle(0, waiting), &rules).grow_to
    };
    assert_eq!(with(120, 60, 40), Some(10), "4 jobs an instance in two minutes");
    assert_eq!(with(600, 3600, 40), Some(20), "runs of an hour: a slot each");
    assert_eq!(with(600, 3600, 5), Some(3));
}

#[test]
fn what_runs_counts_by_the_measure_of_the_most_urgent_that_waits() {
    let mut seen = seen(4, 20);
    assert_eq!(decide(&seen, &rules(Policy::Backlog)).wanted, 4, "(20 + 8) / 20, and a slot for each of 8 that run");
    seen.backlog.as_mut().unwrap().visible = [2, 0, 20];
    assert_eq!(
        told(&seen, Policy::Backlog),
        (Reason::Backlog, Some(6)),
        "4 are busy; one for the two, one for the rest"
    );
}

#[test]
fn from_none_to_the_first_worker_is_a_rule_of_its_own() {
    for policy in [Policy::Backlog, Policy::Steps] {
        assert_eq!(told(&idle(0, 0), policy), (Reason::Idle, None));
        for waiting in [1, 9] {
            assert_eq!(told(&idle(0, waiting), policy), (Reason::First, Some(1)), "{policy:?} {waiting}");
        }
        let mut lost = idle(0, 0);
        lost.backlog.as_mut().unwrap().in_flight = [0, 0, 1];
        assert_eq!(told(&lost, policy), (Reason::First, Some(1)), "it comes back when its time is over");
    }
    assert_eq!(told(&idle(0, 10), Policy::Steps), (Reason::First, Some(2)));
    assert_eq!(told(&idle(0, 51), Policy::Steps), (Reason::First, Some(5)));
    assert_eq!(told(&idle(0, 100), Policy::Backlog), (Reason::First, Some(5)));
}

#[test]
fn a_pool_grows_to_its_maximum_and_no_further() {
    for policy in [Policy::Backlog, Policy::Steps] {
        assert_eq!(told(&idle(18, 1_000_000), policy).1, Some(20), "{policy:?}");
        assert_eq!(told(&idle(20, 1_000_000), policy), (Reason::AtMaximum, None), "{policy:?}");
        // Somebody has lowered the maximum under what there is: the rest goes home by itself.
        assert_eq!(told(&idle(25, 1_000_000), policy), (Reason::AtMaximum, None), "{policy:?}");
    }
}

#[test]
fn instances_that_boot_are_counted_whether_they_run_yet_or_not() {
    for coming in [0, 3, 5] {
        let mut seen = idle(0, 100);
        grown(&mut seen, |group| {
            (group.desired, group.coming) = (5, coming);
            // The others run already, and their workers have not come yet.
            group.in_service = 5 - coming;
        });
        assert_eq!(told(&seen, Policy::Backlog), (Reason::Booting, None), "{coming}");
        assert_eq!(told(&seen, Policy::Steps), (Reason::Booting, None), "{coming}");
    }
    let mut more = idle(0, 101);
    grown(&mut more, |group| (group.desired, group.coming) = (5, 5));
    assert_eq!(told(&more, Policy::Backlog), (Reason::Backlog, Some(6)), "more than those that boot can take");
    assert_eq!(told(&more, Policy::Steps), (Reason::Booting, None));
}

#[test]
fn workers_that_leave_are_left_out_and_stay_in_the_desired_size_until_they_have_left() {
    for policy in [Policy::Backlog, Policy::Steps] {
        let mut seen = idle(3, 1);
        seen.workers = Some(vec![worker(0, Standing::Leaves); 3]);
        let verdict = decide(&seen, &rules(policy));
        assert_eq!((verdict.reason, verdict.grow_to, verdict.present, verdict.leaving), (Reason::First, Some(4), 0, 3));
        grown(&mut seen, |group| group.max = 3);
        assert_eq!(told(&seen, policy), (Reason::AtMaximum, None), "when one has left there is room");
        // They have left, and are still listed.
        let mut gone = idle(0, 1);
        gone.workers = Some(vec![worker(0, Standing::Elsewhere); 3]);
        grown(&mut gone, |group| group.leaving = 3);
        assert_eq!(told(&gone, policy), (Reason::First, Some(1)));
    }
}

#[test]
fn what_a_leaving_worker_runs_asks_for_no_other() {
    let mut seen = seen(2, 0);
    seen.workers = Some(vec![worker(2, Standing::Stays), worker(2, Standing::Leaves)]);
    assert_eq!(told(&seen, Policy::Backlog), (Reason::Enough, None));
}

#[test]
fn instances_without_a_worker_for_too_long_are_no_help() {
    let mut seen = idle(2, 10);
    seen.workers = Some(Vec::new());
    assert_eq!(told(&seen, Policy::Backlog), (Reason::Fewer, None), "they boot");
    grown(&mut seen, |group| group.silent = 2);
    assert_eq!(told(&seen, Policy::Backlog), (Reason::First, Some(3)));
}

#[test]
fn instances_set_aside_and_ended_change_nothing() {
    let mut other = idle(2, 41);
    grown(&mut other, |group| (group.aside, group.leaving) = (7, 7));
    assert_eq!(told(&other, Policy::Backlog), told(&idle(2, 41), Policy::Backlog));
}

#[test]
fn what_is_old_or_missing_keeps_the_size() {
    let whole = idle(2, 1000);
    assert!(told(&whole, Policy::Backlog).1.is_some());
    let at_the_bound = Seen { age: STALE, ..whole.clone() };
    assert!(told(&at_the_bound, Policy::Backlog).1.is_some());
    let cases = [
        (Seen { age: STALE + Duration::from_nanos(1), ..whole.clone() }, Reason::Stale),
        (Seen { backlog: None, ..whole.clone() }, Reason::BacklogUnknown),
        (Seen { group: None, ..whole.clone() }, Reason::GroupUnknown),
        (Seen { workers: None, ..whole }, Reason::WorkersUnknown),
    ];
    for (seen, reason) in cases {
        assert_eq!(told(&seen, Policy::Backlog), (reason, None));
        assert_eq!(told(&seen, Policy::Steps), (reason, None));
    }
    let empty = Seen { workers: None, ..idle(0, 1) };
    assert_eq!(told(&empty, Policy::Backlog), (Reason::First, Some(1)), "an empty group has nobody");
}

#[test]
fn a_workers_own_slots_count_as_soon_as_there_is_one() {
    let mut large = idle(1, 100);
    large.workers.as_mut().unwrap()[0].slots = 8;
    assert_eq!(told(&large, Policy::Backlog), (Reason::Backlog, Some(2)), "80 jobs an instance");
    large.workers.as_mut().unwrap()[0].slots = 0;
    assert_eq!(told(&large, Policy::Backlog), (Reason::Backlog, Some(10)), "one that says nonsense has one");
}

/// The three ways in which the step policy at its word strands jobs or overshoots, and that ours does neither.
mod taken_at_its_word {
    use super::*;

    #[test]
    fn nine_jobs_and_one_worker_leave_nobody_for_nine_jobs() {
        let seen = seen(1, 9);
        assert_eq!(literally(&seen), 0);
        let ours = decide(&seen, &rules(Policy::Steps));
        assert_eq!((ours.reason, ours.grow_to, ours.wanted), (Reason::Enough, None, 1));
        assert_eq!(literally(&idle(0, 9)), 0, "and of none it makes none");
        assert_eq!(told(&idle(0, 9), Policy::Steps), (Reason::First, Some(1)));
    }

    #[test]
    fn forty_runs_and_an_empty_queue_cut_a_busy_worker() {
        let seen = seen(20, 0);
        assert_eq!(sum(&seen.backlog.unwrap().in_flight), 40);
        assert_eq!(literally(&seen), 19);
        let ours = decide(&seen, &rules(Policy::Steps));
        assert_eq!((ours.reason, ours.grow_to, ours.wanted), (Reason::Enough, None, 20));
    }

    #[test]
    fn steps_repeat_each_minute_while_instances_boot() {
        let (mut literal, mut ours) = (idle(0, 12), idle(0, 12));
        let (mut steps, mut sizes) = (Vec::new(), Vec::new());
        for _ in 0..4 {
            let to = literally(&literal);
            grown(&mut literal, |group| (group.desired, group.coming) = (to, to));
            steps.push(to);
            let to = decide(&ours, &rules(Policy::Steps)).grow_to;
            grown(&mut ours, |group| group.desired = to.unwrap_or(group.desired));
            sizes.push(ours.group.unwrap().desired);
        }
        assert_eq!(steps, [2, 4, 6, 8], "for twelve jobs");
        assert_eq!(sizes, [2, 2, 2, 2]);
    }
}

/// Every slot is taken: bells of jobs that run for over two minutes lie among those that wait.
mod where_every_slot_is_taken {
    use super::*;

    fn counted(waiting: [u64; 3], oldest: [Option<u64>; 3]) -> Option<Counted> {
        Some(Counted { waiting, oldest: oldest.map(|age| age.map(Duration::from_secs)) })
    }

    #[test]
    fn the_ledgers_count_is_asked_for_only_where_it_decides() {
        let wants = |seen: &Seen| wants_count(seen, &rules(Policy::Backlog));
        assert!(wants(&seen(10, 20)), "they may all be bells of jobs that run, or have waited for an hour");
        assert!(wants(&seen(10, 210)));
        assert!(!wants(&seen(10, 1_000_000)), "it goes to its maximum either way");
        assert!(!wants(&seen(20, 20)), "it is at its maximum");
        assert!(!wants(&seen(10, 0)));
        assert!(!wants(&idle(10, 210)), "whoever is free hears those bells, and they go");
        let mut free = seen(10, 210);
        free.workers.as_mut().unwrap()[0].busy = 1;
        assert!(!wants(&free));
        let mut asked = seen(10, 210);
        asked.backlog.as_mut().unwrap().counted = counted([0; 3], [None; 3]);
        assert!(!wants(&asked), "it has been asked");
        assert!(!wants(&Seen { workers: None, ..seen(10, 210) }));
    }

    #[test]
    fn bells_of_jobs_that_run_ask_for_nobody() {
        // Twenty jobs of an hour: their bells are all visible again, and nobody is free to hear them.
        let mut seen = seen(10, 20);
        seen.backlog = Some(Backlog { in_flight: [0; 3], ..seen.backlog.unwrap() });
        let mut rules = rules(Policy::Backlog);
        rules.scaling.run = Duration::from_secs(3600);
        assert_eq!(decide(&seen, &rules).grow_to, Some(20), "by the queues alone twice as many");
        assert!(wants_count(&seen, &rules));
        seen.backlog.as_mut().unwrap().counted = counted([0; 3], [None; 3]);
        let verdict = decide(&seen, &rules);
        assert_eq!((verdict.reason, verdict.grow_to, verdict.waiting), (Reason::Enough, None, 0));
    }

    #[test]
    fn what_has_waited_for_longer_than_it_may_is_given_a_slot_each_whatever_a_run_is_said_to_take() {
        let mut seen = seen(10, 4);
        let with = |seen: &mut Seen, oldest| {
            seen.backlog.as_mut().unwrap().counted = counted([0, 0, 4], [None, None, oldest]);
            told(seen, Policy::Backlog)
        };
        assert_eq!(with(&mut seen, Some(675)), (Reason::Enough, None), "a target and a boot");
        assert_eq!(with(&mut seen, Some(676)), (Reason::Late, Some(12)));
        assert_eq!(with(&mut seen, None), (Reason::Enough, None));
    }

    #[test]
    fn the_ledger_counts_all_pools_and_the_queues_bound_what_is_this_ones() {
        let mut seen = seen(2, 50);
        seen.backlog.as_mut().unwrap().counted = counted([0, 0, 1000], [None; 3]);
        assert_eq!(decide(&seen, &rules(Policy::Backlog)).waiting, 50);
        // What waits longest is another pool's: this one's queue of that tier is empty.
        seen.backlog.as_mut().unwrap().visible = [0; 3];
        seen.backlog.as_mut().unwrap().counted = counted([5, 0, 5], [Some(9999), None, Some(9999)]);
        assert_eq!(told(&seen, Policy::Backlog), (Reason::Enough, None));
    }

    #[test]
    fn of_the_ledgers_depths_those_count_that_wait_and_held_jobs_hide_the_oldest() {
        let depth = |tier, waiting, held| TierDepth { tier, waiting, held, oldest: at(10) };
        let tiers = vec![depth(Tier::Priority, 3, 0), depth(Tier::Standard, 4, 1)];
        let counted = Counted::of(&Depths { tiers, ..Depths::default() }, at(40));
        assert_eq!(counted.waiting, [0, 3, 4]);
        assert_eq!(counted.oldest, [None, Some(Duration::from_secs(30)), None]);
    }
}

#[test]
fn a_pool_is_deserted_when_every_worker_of_it_leaves() {
    let worker = |pool: &str, leaving| Worker {
        holder: Holder("i-1/0".to_owned()),
        pool: pool.parse().unwrap(),
        capacity: Room { slots: 2, milli_vcpu: 2000, memory_mib: 1024 },
        free: Room { slots: 1, milli_vcpu: 2000, memory_mib: 1024 },
        since: at(0),
        leaving,
    };
    let of = |workers: &[Worker]| is_deserted(PoolName::STANDARD, workers);
    assert!(of(&[]));
    assert!(of(&[worker("steady", false)]), "another pool's");
    assert!(of(&[worker("standard", true)]), "one that leaves has swept for the last time");
    assert!(!of(&[worker("standard", true), worker("standard", false)]));
    let seen = |in_group, leaving| WorkerSeen::of(&worker("standard", leaving), in_group);
    assert_eq!(seen(true, false), WorkerSeen { slots: 2, busy: 1, standing: Standing::Stays });
    assert_eq!(seen(true, true).standing, Standing::Leaves);
    assert_eq!((seen(false, false).standing, seen(false, true).standing), (Standing::Elsewhere, Standing::Elsewhere));
}

#[test]
fn every_reason_has_the_code_that_it_is_written_as() {
    for reason in [
        Reason::First,
        Reason::Backlog,
        Reason::InFlight,
        Reason::Step,
        Reason::Late,
        Reason::Enough,
        Reason::Booting,
        Reason::Fewer,
        Reason::AtMaximum,
        Reason::Idle,
        Reason::Stale,
        Reason::BacklogUnknown,
        Reason::GroupUnknown,
        Reason::WorkersUnknown,
    ] {
        assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
    }
}
