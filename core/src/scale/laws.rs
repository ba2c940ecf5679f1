//! What holds of a pool's size whatever is seen.

use proptest::prelude::*;

use super::*;

/// The shipped targets, and a pool of these rules.
fn rules_of(policy: Policy, slots: u32, run: u64, backlog: u64) -> Rules {
    let (backlog, run) = (Duration::from_secs(backlog), Duration::from_secs(run));
    Rules {
        scaling: Scaling { policy, backlog, run, slots },
        targets: Limits::default().start_targets,
        boot: Duration::from_secs(75),
    }
}

fn policies() -> impl Strategy<Value = Policy> {
    prop_oneof![Just(Policy::Backlog), Just(Policy::Steps)]
}

prop_compose! {
    fn backlogs()(visible in [0..300u64, 0..300u64, 0..5000u64], in_flight in [0..20u64, 0..20u64, 0..200u64],
        ledger in proptest::option::of(([0..300u64, 0..300u64, 0..5000u64], std::array::from_fn::<_, 3, _>(|_| proptest::option::of(0..2000u64)))))
        -> Backlog
    {
        let counted = ledger.map(|(waiting, oldest)| Counted { waiting, oldest: oldest.map(|age| age.map(Duration::from_secs)) });
        Backlog { visible, in_flight, counted }
    }
}

prop_compose! {
    fn anything()(backlog in backlogs(), desired in 0..60u32, max in 0..50u32, in_service in 0..60u32, silent in 0..4u32,
        workers in proptest::collection::vec((1..9u32, 0..9u32, 0..3u8), 0..40)) -> Seen
    {
        let standing = |kind| match kind { 0 => Standing::Stays, 1 => Standing::Leaves, _ => Standing::Elsewhere };
        let workers = workers.into_iter().map(|(slots, busy, kind)| {
            WorkerSeen { slots, busy: busy.min(slots), standing: standing(kind) }
        });
        let group = GroupSeen { desired, max, in_service, silent, ..GroupSeen::default() };
        Seen { age: Duration::ZERO, backlog: Some(backlog), group: Some(group), workers: Some(workers.collect()) }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_never_asks_for_more_than_the_maximum_nor_for_less_than_there_is(
        seen in anything(), policy in policies(), slots in 1..9u32, run in 1..86_400u64, backlog in 1..86_400u64,
    ) {
        let group = seen.group.unwrap();
        if let Some(to) = decide(&seen, &rules_of(policy, slots, run, backlog)).grow_to {
            prop_assert!(to <= group.max && to > group.desired, "{to} {group:?}");
        }
    }

    #[test]
    fn it_is_monotone_in_the_backlog(
        seen in anything(), policy in policies(), tier in 0..3usize, more in 1..500u64, in_flight in 0..50u64,
        run in 1..4000u64,
    ) {
        let rules = rules_of(policy, 2, run, 600);
        let mut larger = seen.clone();
        let backlog = larger.backlog.as_mut().unwrap();
        backlog.visible[tier] += more;
        backlog.in_flight[tier] += in_flight;
        let size = |seen: &Seen| decide(seen, &rules).grow_to.unwrap_or(seen.group.unwrap().desired);
        prop_assert!(size(&larger) >= size(&seen), "{} {}", size(&larger), size(&seen));
        prop_assert!(decide(&larger, &rules).wanted >= decide(&seen, &rules).wanted);
    }

    #[test]
    fn while_those_that_were_asked_for_boot_it_asks_for_no_more(
        mut seen in anything(), policy in policies(), run in 1..4000u64, coming in any::<bool>(),
    ) {
        let rules = rules_of(policy, 2, run, 600);
        // A group is to be no smaller than its members, each of which has one worker or none.
        let members = seen.workers.iter().flatten().filter(|worker| worker.standing != Standing::Elsewhere).count() as u32;
        if let Some(group) = seen.group.as_mut() {
            group.in_service = members + group.silent;
            group.desired = group.desired.max(group.in_service);
        }
        if let Some(to) = decide(&seen, &rules).grow_to {
            let mut next = seen.clone();
            let group = next.group.as_mut().unwrap();
            *(if coming { &mut group.coming } else { &mut group.in_service }) += to - group.desired;
            group.desired = to;
            prop_assert_eq!(decide(&next, &rules).grow_to, None);
        }
    }

    #[test]
    fn where_there_is_work_and_room_somebody_is_there_or_comes(
        seen in anything(), policy in policies(), run in 1..4000u64,
    ) {
        let (backlog, group) = (seen.backlog.unwrap(), seen.group.unwrap());
        let verdict = decide(&seen, &rules_of(policy, 2, run, 600));
        if sum(&backlog.visible) + sum(&backlog.in_flight) > 0 && group.desired < group.max {
            prop_assert!(verdict.present > 0 || verdict.grow_to.is_some(), "{verdict:?}");
        }
    }
}
