//! How a group is seen by those who are of it. How it grows, aws/tests/scaling shows.

use switchyard_aws::fleet_autoscaling::Lifecycle;

use crate::group::Fleet;

#[tokio::test]
async fn a_group_is_told_with_its_bounds_and_its_instances() {
    Fleet::of(1, 2, 5, async |fleet| {
        let state = fleet.group.describe().await.unwrap();
        assert_eq!((state.min, state.desired, state.max), (1, 2, 5));
        assert!(state.instances.iter().all(|one| one.healthy && one.lifecycle == Lifecycle::InService));
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
