//! How a group is seen, grown and protected. Each test is a trap that has cost others a fleet.

use serde_json::Value;
use switchyard_aws::fleet_autoscaling::{Growth, Lifecycle};

use crate::group::{Fleet, LOOK, PROTECT, SET, failing};

#[tokio::test]
async fn a_group_is_told_with_its_bounds_and_its_instances() {
    Fleet::of(1, 2, 5, async |fleet| {
        let ids = fleet.instances().await;
        fleet.group.protect(&ids[..1], true).await.unwrap();
        let state = fleet.group.describe().await.unwrap();
        assert_eq!((state.min, state.desired, state.max), (1, 2, 5));
        assert!(state.instances.iter().all(|one| one.healthy && one.lifecycle == Lifecycle::InService));
        assert_eq!(state.instances.iter().map(|one| one.protected).collect::<Vec<_>>(), [true, false]);
        assert!(state.can_shrink());
        fleet.show(2, &[("i-1", "InService"), ("i-2", "Terminating:Wait")]);
        assert_eq!(fleet.group.describe().await.unwrap().instances[1].lifecycle, Lifecycle::Leaving);
    })
    .await;
}

#[tokio::test]
async fn a_group_that_is_not_there_is_said() {
    let fleet = Fleet::nowhere();
    let error = fleet.group.describe().await.unwrap_err();
    assert_eq!(error.to_string(), format!("cannot describe group {}", fleet.group.name()));
    assert!(!error.retryable);
}

#[tokio::test]
async fn a_group_grows_in_one_call_to_its_maximum_and_without_a_cooldown() {
    Fleet::of(0, 2, 10, async |fleet| {
        assert_eq!(fleet.group.grow_to(50).await.unwrap(), Growth::Grown { from: 2, to: 10 });
        // More than the maximum would be refused.
        assert_eq!((fleet.calls(), fleet.errors()), (vec![LOOK.to_owned(), SET.to_owned()], vec![]));
        let set = &fleet.asked_for(SET)[0];
        assert_eq!((&set["DesiredCapacity"], &set["HonorCooldown"]), (&"10".into(), &"false".into()));
        assert_eq!(fleet.now().await.desired, 10);
    })
    .await;
}

#[tokio::test]
async fn a_group_is_never_set_to_less_than_it_is() {
    Fleet::of(0, 2, 10, async |fleet| {
        for wanted in [0, 1, 2] {
            assert_eq!(fleet.group.grow_to(wanted).await.unwrap(), Growth::AsItWas(2));
        }
        assert_eq!(fleet.calls(), [LOOK; 3]);
    })
    .await;
}

#[tokio::test]
async fn instances_are_protected_fifty_at_a_time() {
    Fleet::of(0, 101, 101, async |fleet| {
        fleet.group.protect(&fleet.instances().await, true).await.unwrap();
        let ids = |asked: &Value| {
            asked.as_object().unwrap().keys().filter(|name| name.starts_with("InstanceIds.member.")).count()
        };
        // A fifty-first would be refused.
        assert_eq!(fleet.asked_for(PROTECT).iter().map(ids).collect::<Vec<_>>(), [50, 50, 1]);
        assert!(fleet.errors().is_empty(), "{:?}", fleet.errors());
        assert!(fleet.now().await.instances.iter().all(|instance| instance.protected));
    })
    .await;
}

#[tokio::test]
async fn an_instance_that_has_gone_keeps_no_other_from_being_protected() {
    Fleet::of(0, 2, 10, async |fleet| {
        let ids = fleet.instances().await;
        fleet.show(2, &[(&ids[0], "InService"), (&ids[1], "Terminating")]);
        let three = [ids[0].clone(), "i-gone".to_owned(), ids[1].clone()];
        fleet.group.protect(&three, true).await.unwrap();
        assert_eq!(fleet.errors(), ["ValidationError"]);
        let again = &fleet.asked_for(PROTECT)[1];
        assert_eq!((&again["InstanceIds.member.1"], again.get("InstanceIds.member.2")), (&(*ids[0]).into(), None));
        let now = fleet.now().await.instances;
        assert_eq!(now.iter().map(|one| one.protected).collect::<Vec<_>>(), [true, false]);
    })
    .await;
}

#[tokio::test]
async fn a_refusal_of_protection_that_no_absent_instance_explains_is_told() {
    Fleet::of(0, 1, 10, async |fleet| {
        let ids = fleet.instances().await;
        fleet.next(1, PROTECT, failing(400, "ValidationError", "something else"));
        assert!(fleet.group.protect(&ids, true).await.is_err());
        assert_eq!(fleet.calls(), [PROTECT, LOOK]);
        fleet.next(1, PROTECT, failing(403, "AccessDenied", "no"));
        assert!(fleet.group.protect(&ids, true).await.is_err());
        assert_eq!(fleet.calls(), [PROTECT, LOOK, PROTECT]);
        fleet.group.protect(&ids, false).await.unwrap();
        assert_eq!(fleet.asked_for(PROTECT)[2]["ProtectedFromScaleIn"], "false");
    })
    .await;
}
