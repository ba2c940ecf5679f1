//! How an instance leaves its group: what is asked for, call by call, when AWS answers as it does on a bad day. Each test is
//! a trap that has cost others a fleet.

use std::time::Duration;

use switchyard_aws::fleet_autoscaling::Rung;
use switchyard_faults::Action;

use crate::group::{Fleet, HEALTH, LOOK, TERMINATE, failing};

const SHRINK: &str = "TerminateInstanceInAutoScalingGroup true";
const REPLACE: &str = "TerminateInstanceInAutoScalingGroup false";

#[tokio::test]
async fn an_instance_ends_itself_with_one_decrement() {
    Fleet::of(1, 2, 5, async |fleet| {
        let ids = fleet.instances().await;
        let left = fleet.group.terminate_self(&ids[0]).await.unwrap();
        assert_eq!((left.by, left.tried.len()), (Rung::Shrink, 1));
        assert_eq!(fleet.calls(), [SHRINK]);
        assert_eq!((fleet.now().await.desired, fleet.instances().await), (1, ids[1..].to_vec()));
    })
    .await;
}

#[tokio::test]
async fn at_the_minimum_it_says_that_it_does_not_decrement_and_the_group_replaces_it() {
    Fleet::of(1, 1, 5, async |fleet| {
        let ids = fleet.instances().await;
        assert_eq!(fleet.group.terminate_self(&ids[0]).await.unwrap().by, Rung::Replace);
        assert_eq!(
            (fleet.calls(), fleet.errors()),
            ([SHRINK, LOOK, REPLACE].map(str::to_owned).to_vec(), vec!["ValidationError".to_owned()])
        );
        let others = fleet.instances().await;
        assert_eq!((fleet.now().await.desired, others.len()), (1, 1));
        assert_ne!(others, ids);
    })
    .await;
}

#[tokio::test]
async fn of_two_that_leave_at_once_above_the_minimum_one_makes_the_group_smaller() {
    Fleet::of(1, 2, 5, async |fleet| {
        let ids = fleet.instances().await;
        let (one, two) = tokio::join!(fleet.group.terminate_self(&ids[0]), fleet.group.terminate_self(&ids[1]));
        let mut rungs = [one.unwrap().by, two.unwrap().by];
        rungs.sort_unstable_by_key(|rung| *rung != Rung::Shrink);
        assert_eq!(rungs, [Rung::Shrink, Rung::Replace]);
        let now = fleet.now().await;
        assert_eq!((now.desired, now.instances.len()), (1, 1));
    })
    .await;
}

#[tokio::test]
async fn an_activity_in_progress_and_contention_are_waited_for() {
    Fleet::of(0, 3, 5, async |fleet| {
        let codes = ["ScalingActivityInProgress", "ResourceContention", "Throttling"];
        for (n, (code, id)) in codes.into_iter().zip(fleet.instances().await).enumerate() {
            fleet.next(1, TERMINATE, failing(400, code, "busy"));
            assert_eq!(fleet.group.terminate_self(&id).await.unwrap().by, Rung::Shrink);
            assert_eq!(fleet.calls().len(), 2 * (n + 1), "{code}");
        }
        assert_eq!(fleet.now().await.desired, 0);
    })
    .await;
}

#[tokio::test]
async fn contention_without_end_leads_to_an_unhealthy_instance_that_nobody_waits_for() {
    Fleet::of(0, 1, 5, async |fleet| {
        let ids = fleet.instances().await;
        fleet.next(5, TERMINATE, failing(500, "ResourceContention", "busy"));
        assert_eq!(fleet.group.terminate_self(&ids[0]).await.unwrap().by, Rung::MarkUnhealthy);
        assert_eq!(fleet.asked_for(TERMINATE).len(), 5);
        let health = &fleet.asked_for(HEALTH)[0];
        let asked = (&health["HealthStatus"], &health["ShouldRespectGracePeriod"]);
        assert_eq!(asked, (&"Unhealthy".into(), &"false".into()));
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_is_lost_is_never_followed_by_a_second_decrement_of_an_instance_that_ends() {
    Fleet::of(0, 3, 5, async |fleet| {
        let ids = fleet.instances().await;
        fleet.next(1, TERMINATE, Action::ResetAfter);
        fleet.group.terminate_self(&ids[0]).await.unwrap();
        // Not by the SDK either, which would repeat a call that timed out.
        assert_eq!(fleet.calls(), [SHRINK, LOOK]);
        assert_eq!(fleet.now().await.desired, 2);
        fleet.next(1, TERMINATE, Action::HoldAfter);
        fleet.show(1, &[(&ids[1], "Terminating")]);
        fleet.impatient(Duration::from_secs(1)).terminate_self(&ids[1]).await.unwrap();
        assert_eq!(fleet.calls()[2..], [SHRINK, LOOK]);
    })
    .await;
}

#[tokio::test]
async fn a_server_error_is_an_answer_that_is_lost() {
    Fleet::of(0, 1, 5, async |fleet| {
        let ids = fleet.instances().await;
        fleet.next(1, TERMINATE, failing(500, "InternalFailure", "oops"));
        fleet.show(1, &[]);
        fleet.group.terminate_self(&ids[0]).await.unwrap();
        assert_eq!(fleet.calls(), [SHRINK, LOOK]);
    })
    .await;
}

#[tokio::test]
async fn a_decrement_that_was_not_done_is_asked_for_again_after_a_look() {
    Fleet::of(0, 2, 5, async |fleet| {
        let ids = fleet.instances().await;
        fleet.next(1, TERMINATE, Action::ResetBefore);
        assert_eq!(fleet.group.terminate_self(&ids[0]).await.unwrap().by, Rung::Shrink);
        assert_eq!(fleet.calls(), [SHRINK, LOOK, SHRINK]);
        assert_eq!(fleet.now().await.desired, 1);
    })
    .await;
}

#[tokio::test]
async fn an_instance_that_nobody_knows_has_gone() {
    Fleet::of(0, 1, 5, async |fleet| {
        fleet.group.terminate_self("i-gone").await.unwrap();
        assert_eq!(fleet.errors(), ["ValidationError"]);
        assert_eq!(fleet.now().await.desired, 1);
    })
    .await;
}

#[tokio::test]
async fn what_all_was_tried_in_vain_is_told() {
    let fleet = Fleet::nowhere();
    fleet.next(1, TERMINATE, failing(403, "AccessDenied", "not authorized"));
    fleet.next(1, HEALTH, failing(403, "AccessDenied", "nor for this"));
    let here = fleet.group.terminate_self("i-1").await.unwrap_err();
    insta::assert_snapshot!(here.to_string());
    assert_eq!(here.tried.len(), 2);
}

/// What one call of the ladder can meet, by how AWS would say it.
const BAD_LUCK: [&str; 7] = ["", "activity", "contention", "throttle", "server error", "lost before", "lost after"];

fn action(luck: &str) -> Option<Action> {
    Some(match luck {
        "" => return None,
        "activity" => failing(400, "ScalingActivityInProgress", "busy"),
        "contention" => failing(500, "ResourceContention", "busy"),
        "throttle" => failing(400, "Throttling", "slow down"),
        "server error" => failing(500, "InternalFailure", "oops"),
        "lost before" => Action::ResetBefore,
        "lost after" => Action::ResetAfter,
        other => panic!("{other}"),
    })
}

#[tokio::test]
async fn whatever_two_calls_meet_the_instance_goes_and_the_group_is_smaller_by_one_at_most_and_never_below_its_minimum()
{
    for min in [0, 1] {
        for (first, second) in BAD_LUCK.into_iter().flat_map(|first| BAD_LUCK.map(|second| (first, second))) {
            Fleet::of(min, 1, 5, async |fleet| {
                let case = format!("minimum {min}, {first:?} then {second:?}");
                let ids = fleet.instances().await;
                for (n, luck) in [first, second].into_iter().enumerate() {
                    if let Some(action) = action(luck) {
                        fleet.nth(n as u64 + 1, TERMINATE, action);
                    }
                }
                let left = fleet.group.terminate_self(&ids[0]).await;
                let left = left.unwrap_or_else(|error| panic!("{case}: {error}"));
                let now = fleet.now().await;
                assert!(now.desired >= u32::try_from(min).unwrap(), "{case}: {now:?}");
                let gone = now.instances.iter().all(|one| one.id != ids[0]);
                // moto does nothing about an unhealthy instance; AWS ends it.
                let marked = left.by == Rung::MarkUnhealthy && fleet.asked_for(HEALTH).len() == 1;
                assert!(gone || marked, "{case}: {left:?} {now:?}");
                let by_one = usize::from(min == 0 && gone && left.by == Rung::Shrink);
                assert_eq!(1 - now.desired as usize, by_one, "{case}: {left:?} {now:?}");
                assert_eq!(now.instances.len(), now.desired as usize, "{case}: {left:?} {now:?}");
            })
            .await;
        }
    }
}

#[tokio::test]
async fn a_group_that_cannot_be_looked_at_is_not_decremented_a_second_time() {
    Fleet::of(0, 2, 5, async |fleet| {
        let ids = fleet.instances().await;
        fleet.next(1, TERMINATE, Action::HoldAfter);
        fleet.next(100, LOOK, failing(400, "Throttling", "slow down"));
        // It has gone, and whoever asks cannot know: the rungs below say so, and the reason is told.
        let here = fleet.impatient(Duration::from_secs(1)).terminate_self(&ids[0]).await.unwrap_err();
        assert_eq!((here.tried[0].rung, here.tried[1].rung), (Rung::Shrink, Rung::MarkUnhealthy), "{here}");
        assert_eq!((fleet.asked_for(TERMINATE).len(), fleet.now().await.desired), (1, 1));
    })
    .await;
}
