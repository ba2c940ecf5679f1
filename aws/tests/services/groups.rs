//! Auto Scaling groups: what is asked for, call by call, when AWS answers as it does on a bad day. Each test is a trap
//! that has cost others a fleet.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;
use switchyard_aws::fleet_autoscaling::{Group, Growth, Lifecycle, Rung};
use switchyard_core::memory::Memory;

use crate::support::{Answer, Asked, Aws};

const ME: &str = "i-1";

async fn a_group() -> (Aws, Group) {
    let aws = Aws::start().await;
    let home = Memory::new(Timestamp::from_second(1_700_000_000).unwrap(), 7);
    let group = Group::new(aws.clients().autoscaling(), "pool", Arc::new(home));
    (aws, group)
}

/// DescribeAutoScalingGroups of a group with these instances.
fn shown(min: u32, desired: u32, max: u32, instances: &[(&str, &str)]) -> Answer {
    let member = |(id, state): &(&str, &str)| {
        format!(
            "<member><InstanceId>{id}</InstanceId><LifecycleState>{state}</LifecycleState>\
             <HealthStatus>Healthy</HealthStatus><AvailabilityZone>a</AvailabilityZone>\
             <ProtectedFromScaleIn>true</ProtectedFromScaleIn></member>"
        )
    };
    let instances: String = instances.iter().map(member).collect();
    Answer::Xml(
        200,
        format!(
            "<DescribeAutoScalingGroupsResponse><DescribeAutoScalingGroupsResult><AutoScalingGroups><member>\
             <AutoScalingGroupName>pool</AutoScalingGroupName><MinSize>{min}</MinSize><MaxSize>{max}</MaxSize>\
             <DesiredCapacity>{desired}</DesiredCapacity><DefaultCooldown>300</DefaultCooldown>\
             <HealthCheckType>EC2</HealthCheckType><CreatedTime>2026-01-01T00:00:00Z</CreatedTime>\
             <AvailabilityZones><member>a</member></AvailabilityZones><Instances>{instances}</Instances>\
             </member></AutoScalingGroups></DescribeAutoScalingGroupsResult></DescribeAutoScalingGroupsResponse>"
        ),
    )
}

fn done(operation: &str) -> Answer {
    Answer::Xml(200, format!("<{operation}Response><{operation}Result></{operation}Result></{operation}Response>"))
}

const TERMINATE: &str = "TerminateInstanceInAutoScalingGroup";
const LOOK: &str = "DescribeAutoScalingGroups";
const HEALTH: &str = "SetInstanceHealth";
const SET: &str = "SetDesiredCapacity";
const PROTECT: &str = "SetInstanceProtection";

fn at_minimum() -> Answer {
    let message = "Currently, desiredSize equals minSize (1). Terminating instance without replacement will violate \
                   group's min size constraint. Either set shouldDecrementDesiredCapacity flag to false or lower group's \
                   min size.";
    Answer::xml_error(400, "ValidationError", message)
}

/// The calls in order; of a termination, whether it decrements.
fn calls(aws: &Aws) -> Vec<String> {
    let call = |asked: Asked| match asked.body["ShouldDecrementDesiredCapacity"].as_str() {
        Some(decrement) => format!("{} {decrement}", asked.operation),
        None => asked.operation,
    };
    aws.asked().into_iter().map(call).collect()
}

#[tokio::test]
async fn a_group_is_told_with_its_bounds_and_its_instances() {
    let (aws, group) = a_group().await;
    aws.on(LOOK, shown(1, 2, 5, &[("i-1", "InService"), ("i-2", "Terminating:Wait")]));
    let state = group.describe().await.unwrap();
    assert_eq!((state.min, state.desired, state.max), (1, 2, 5));
    assert_eq!(state.instances.len(), 2);
    assert_eq!(state.instances[0].lifecycle, Lifecycle::InService);
    assert_eq!(state.instances[1].lifecycle, Lifecycle::Leaving);
    assert!(state.instances[0].healthy && state.instances[0].protected);
    assert!(state.can_shrink());
}

#[tokio::test]
async fn a_group_that_is_not_there_is_said() {
    let (aws, group) = a_group().await;
    let none = "<DescribeAutoScalingGroupsResponse><DescribeAutoScalingGroupsResult><AutoScalingGroups/>\
                </DescribeAutoScalingGroupsResult></DescribeAutoScalingGroupsResponse>";
    aws.on(LOOK, Answer::Xml(200, none.to_owned()));
    let error = group.describe().await.unwrap_err();
    assert_eq!(error.to_string(), "cannot describe group pool");
    assert!(!error.retryable);
}

#[tokio::test]
async fn a_group_grows_in_one_call_to_its_maximum_and_without_a_cooldown() {
    let (aws, group) = a_group().await;
    aws.on(LOOK, shown(0, 2, 10, &[])).on(SET, done(SET));
    assert_eq!(group.grow_to(50).await.unwrap(), Growth::Grown { from: 2, to: 10 });
    let set = &aws.asked_for(SET);
    assert_eq!(set.len(), 1);
    assert_eq!((&set[0]["DesiredCapacity"], &set[0]["HonorCooldown"]), (&"10".into(), &"false".into()));
}

#[tokio::test]
async fn a_group_is_never_set_to_less_than_it_is() {
    for wanted in [0, 1, 2] {
        let (aws, group) = a_group().await;
        aws.on(LOOK, shown(0, 2, 10, &[]));
        assert_eq!(group.grow_to(wanted).await.unwrap(), Growth::AsItWas(2));
        assert_eq!(aws.operations(), [LOOK]);
    }
}

#[tokio::test]
async fn instances_are_protected_fifty_at_a_time() {
    let (aws, group) = a_group().await;
    let instances: Vec<String> = (0..101).map(|n| format!("i-{n}")).collect();
    for _ in 0..3 {
        aws.on(PROTECT, done(PROTECT));
    }
    group.protect(&instances, true).await.unwrap();
    let ids = |asked: &Value| {
        asked.as_object().unwrap().keys().filter(|name| name.starts_with("InstanceIds.member.")).count()
    };
    assert_eq!(aws.asked_for(PROTECT).iter().map(ids).collect::<Vec<_>>(), [50, 50, 1]);
    assert!(aws.asked_for(PROTECT).iter().all(|asked| asked["ProtectedFromScaleIn"] == "true"));
}

#[tokio::test]
async fn an_instance_that_has_gone_keeps_no_other_from_being_protected() {
    let (aws, group) = a_group().await;
    let stranger = "The instance i-2 is not part of Auto Scaling group pool.";
    aws.on(PROTECT, Answer::xml_error(400, "ValidationError", stranger));
    aws.on(LOOK, shown(0, 2, 10, &[("i-1", "InService"), ("i-3", "Terminating")])).on(PROTECT, done(PROTECT));
    let instances = ["i-1", "i-2", "i-3"].map(str::to_owned);
    group.protect(&instances, false).await.unwrap();
    let again = &aws.asked_for(PROTECT)[1];
    assert_eq!((&again["InstanceIds.member.1"], again.get("InstanceIds.member.2")), (&"i-1".into(), None));
    assert_eq!(again["ProtectedFromScaleIn"], "false");
}

#[tokio::test]
async fn a_refusal_of_protection_that_no_absent_instance_explains_is_told() {
    let (aws, group) = a_group().await;
    aws.on(PROTECT, Answer::xml_error(400, "ValidationError", "something else"));
    aws.on(LOOK, shown(0, 1, 10, &[("i-1", "InService")]));
    assert!(group.protect(&["i-1".to_owned()], true).await.is_err());
    let (aws, group) = a_group().await;
    aws.on(PROTECT, Answer::xml_error(403, "AccessDenied", "no"));
    assert!(group.protect(&["i-1".to_owned()], true).await.is_err());
    assert_eq!(aws.operations(), [PROTECT]);
}

#[tokio::test]
async fn an_instance_ends_itself_with_one_decrement() {
    let (aws, group) = a_group().await;
    aws.on(TERMINATE, done(TERMINATE));
    let left = group.terminate_self(ME).await.unwrap();
    assert_eq!((left.by, left.tried.len()), (Rung::Shrink, 1));
    assert_eq!(calls(&aws), ["TerminateInstanceInAutoScalingGroup true"]);
    assert_eq!(aws.asked_for(TERMINATE)[0]["InstanceId"], ME);
}

#[tokio::test]
async fn at_the_minimum_it_says_that_it_does_not_decrement_and_the_group_replaces_it() {
    let (aws, group) = a_group().await;
    aws.on(TERMINATE, at_minimum()).on(LOOK, shown(1, 1, 5, &[(ME, "InService")])).on(TERMINATE, done(TERMINATE));
    assert_eq!(group.terminate_self(ME).await.unwrap().by, Rung::Replace);
    let (yes, no) = (format!("{TERMINATE} true"), format!("{TERMINATE} false"));
    assert_eq!(calls(&aws), [yes, LOOK.to_owned(), no]);
}

#[tokio::test]
async fn an_activity_in_progress_and_contention_are_waited_for() {
    for code in ["ScalingActivityInProgress", "ResourceContention", "Throttling"] {
        let (aws, group) = a_group().await;
        aws.on(TERMINATE, Answer::xml_error(400, code, "busy")).on(TERMINATE, done(TERMINATE));
        assert_eq!(group.terminate_self(ME).await.unwrap().by, Rung::Shrink);
        assert_eq!(calls(&aws).len(), 2, "{code}");
    }
}

#[tokio::test]
async fn contention_without_end_leads_to_an_unhealthy_instance_that_nobody_waits_for() {
    let (aws, group) = a_group().await;
    for _ in 0..5 {
        aws.on(TERMINATE, Answer::xml_error(500, "ResourceContention", "busy"));
    }
    aws.on(HEALTH, done(HEALTH));
    assert_eq!(group.terminate_self(ME).await.unwrap().by, Rung::MarkUnhealthy);
    assert_eq!(aws.asked_for(TERMINATE).len(), 5);
    let health = &aws.asked_for(HEALTH)[0];
    assert_eq!((&health["HealthStatus"], &health["ShouldRespectGracePeriod"]), (&"Unhealthy".into(), &"false".into()));
}

#[tokio::test]
async fn an_answer_that_is_lost_is_never_followed_by_a_second_decrement_of_an_instance_that_ends() {
    let (aws, group) = a_group().await;
    aws.on(TERMINATE, Answer::Silence).on(LOOK, shown(0, 1, 5, &[(ME, "Terminating")]));
    group.terminate_self(ME).await.unwrap();
    // Not by the SDK either, which would repeat a call that timed out.
    assert_eq!(calls(&aws), [format!("{TERMINATE} true"), LOOK.to_owned()]);
}

#[tokio::test]
async fn a_server_error_is_an_answer_that_is_lost() {
    let (aws, group) = a_group().await;
    aws.on(TERMINATE, Answer::xml_error(500, "InternalFailure", "oops")).on(LOOK, shown(0, 1, 5, &[]));
    group.terminate_self(ME).await.unwrap();
    assert_eq!(calls(&aws), [format!("{TERMINATE} true"), LOOK.to_owned()]);
}

#[tokio::test]
async fn a_decrement_that_was_not_done_is_asked_for_again_after_a_look() {
    let (aws, group) = a_group().await;
    aws.on(TERMINATE, Answer::Silence).on(LOOK, shown(0, 2, 5, &[(ME, "InService")])).on(TERMINATE, done(TERMINATE));
    assert_eq!(group.terminate_self(ME).await.unwrap().by, Rung::Shrink);
    assert_eq!(calls(&aws).len(), 3);
}

#[tokio::test]
async fn an_instance_that_nobody_knows_has_gone() {
    let (aws, group) = a_group().await;
    let unknown = "Instance Id not found - No managed instance found for instance ID: i-1";
    aws.on(TERMINATE, Answer::xml_error(400, "ValidationError", unknown)).on(LOOK, shown(0, 0, 5, &[]));
    group.terminate_self(ME).await.unwrap();
}

#[tokio::test]
async fn what_all_was_tried_in_vain_is_told() {
    let (aws, group) = a_group().await;
    aws.on(TERMINATE, Answer::xml_error(403, "AccessDenied", "not authorized"));
    aws.on(HEALTH, Answer::xml_error(403, "AccessDenied", "nor for this"));
    let here = group.terminate_self(ME).await.unwrap_err();
    insta::assert_snapshot!(here.to_string());
    assert_eq!(here.tried.len(), 2);
}
