//! What is made of everything that ECS may answer. Each test is a trap that it has ready for whoever launches.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use switchyard_aws::launcher_ecs::{Settings, started_by};
use switchyard_aws::rate::{LaunchRates, Rate};
use switchyard_builtins::system::System;
use switchyard_core::catalog::Catalog;
use switchyard_core::dispatch;
use switchyard_core::job::{Epoch, Job, JobId, Phase, State};
use switchyard_core::ports::{Ambient, LaunchFailure, Launcher, Ledger, TaskState};
use switchyard_core::reap;
use switchyard_core::route::{Limits, Packaging, Place, PoolName, Venue};
use switchyard_faults::{Action, EcsLimits, Service, When};

use crate::world::{ARN, NO_CAPACITY, World, a_job, at, failing, launch, listed, relaunched, settings, started};

/// Settings that make another request of the same run, under the same client token.
fn changed() -> Settings {
    Settings { environment: vec![("SWITCHYARD_BUCKET".into(), "yard-blobs-2".into())], ..settings() }
}

#[tokio::test]
async fn a_client_token_that_is_in_use_with_other_parameters_means_launched() {
    let world = World::plain().await;
    world.play("RunTask", started());
    world.launch().await.unwrap();
    let other = world.beside(changed(), Arc::new(world.home.clone()));
    world.play("DescribeTasks", json!({ "tasks": [{ "taskArn": ARN, "lastStatus": "RUNNING" }] }));
    launch(&other, &world.job).await.unwrap();
    let codes: Vec<Option<String>> = world.proxy.records().all().into_iter().map(|record| record.error).collect();
    assert_eq!(codes, [None, Some("ConflictException".to_owned()), None]);
    assert_eq!(world.asked_for("DescribeTasks")[0]["tasks"], json!([ARN]));
    // Its task is adopted: known here before any list shows it, and stopped by its ARN.
    let (id, epoch) = (world.job.id, world.job.epoch);
    assert_eq!(other.find(id, epoch, Venue::Fargate).await.unwrap(), TaskState::Alive);
    other.stop(id, epoch, Venue::Fargate).await.unwrap();
    assert_eq!(world.asked_for("StopTask")[0]["task"], ARN);
}

#[tokio::test]
async fn a_conflict_whose_task_nobody_can_describe_is_launched_too() {
    let world = World::plain().await;
    world.play("RunTask", started());
    world.launch().await.unwrap();
    launch(&world.beside(changed(), Arc::new(world.home.clone())), &world.job).await.unwrap();
    assert_eq!(world.operations(), ["RunTask", "RunTask", "DescribeTasks"]);
    assert_eq!(world.started(), 1);
}

#[tokio::test]
async fn a_stopped_task_that_ecs_has_forgotten_is_no_launch() {
    let world = World::plain().await;
    world.play("RunTask", started());
    world.launch().await.unwrap();
    world.home.advance(Duration::from_secs(3601));
    world.play("DescribeTasks", json!({ "tasks": [], "failures": [{ "arn": ARN, "reason": "MISSING" }] }));
    // Stopped tasks are visible for about an hour: what came after would lead there until the token ends.
    let (kind, message) = launch(&world.launcher, &relaunched(5)).await.unwrap_err();
    assert_eq!((kind, world.started()), (LaunchFailure::Passing, 1));
    assert_eq!(message, "its task is gone, and had not claimed the job");
}

#[tokio::test]
async fn a_relaunch_that_meets_the_stopped_task_of_its_epoch_has_failed() {
    let world = World::plain().await;
    world.play("RunTask", started());
    world.launch().await.unwrap();
    world.home.advance(Duration::from_secs(61));
    let stopped = json!({ "taskArn": ARN, "lastStatus": "STOPPED", "stoppedReason": "CannotPullContainerError" });
    world.play("DescribeTasks", json!({ "tasks": [stopped] }));
    let (kind, message) = launch(&world.launcher, &relaunched(1)).await.unwrap_err();
    // The same token leads to that task for a day: only another epoch starts another.
    assert_eq!((kind, world.started()), (LaunchFailure::Passing, 1));
    assert_eq!(message, "its task stopped before it had claimed the job: CannotPullContainerError");
}

#[tokio::test]
async fn a_second_launch_of_the_same_run_is_the_same_request_to_the_byte() {
    let world = World::new(settings(), relaunched(1), "{}").await;
    world.play("RunTask", started());
    for _ in 0..2 {
        world.launch().await.unwrap();
        // Within the minute it is known here, and ECS is not asked at all.
        world.launch().await.unwrap();
        world.home.advance(Duration::from_secs(61));
    }
    let sent = world.asked_for("RunTask");
    assert_eq!((sent.len(), world.started()), (2, 1));
    assert_eq!(sent[0], sent[1]);
}

#[tokio::test]
async fn failures_with_http_200_are_a_failure() {
    for (reason, kind) in [
        (NO_CAPACITY, LaunchFailure::Passing),
        ("RESOURCE:ENI", LaunchFailure::Passing),
        ("AGENT", LaunchFailure::Passing),
        ("MISSING", LaunchFailure::Permanent),
    ] {
        let world = World::plain().await;
        world.play("RunTask", failing(reason));
        let (failed, message) = world.launch().await.unwrap_err();
        assert_eq!((failed, message), (kind, format!("ECS started no task: {reason} (d)")));
        assert_eq!(world.operations(), ["RunTask"]);
        // Nothing was launched, so that nothing is bound to its client token.
        world.play("RunTask", started());
        world.launch().await.unwrap();
        let sent = world.asked_for("RunTask");
        assert_eq!(sent[0], sent[1]);
    }
}

#[tokio::test]
async fn an_answer_with_neither_tasks_nor_failures_is_a_failure_that_passes() {
    for answer in [json!({}), json!({ "tasks": [], "failures": [] })] {
        let world = World::plain().await;
        world.play("RunTask", answer);
        let (kind, message) = world.launch().await.unwrap_err();
        assert_eq!(kind, LaunchFailure::Passing);
        assert_eq!(message, "ECS answered with neither a task nor a failure");
    }
}

#[tokio::test]
async fn exceptions_pass_or_stay_as_their_causes_do() {
    for (code, message, kind) in [
        ("InvalidParameterException", "No subnets", LaunchFailure::Permanent),
        ("AccessDeniedException", "iam:PassRole", LaunchFailure::Permanent),
        ("ClusterNotFoundException", "Cluster not found.", LaunchFailure::Permanent),
        ("ClientException", "TaskDefinition not found.", LaunchFailure::Permanent),
        ("ClientException", "The maximum number of tasks in the PROVISIONING state", LaunchFailure::Passing),
    ] {
        let world = World::plain().await;
        world.next(1, "RunTask", Action::fail(code, message));
        let (failed, said) = world.launch().await.unwrap_err();
        assert_eq!(failed, kind, "{code}: {message}");
        assert!(said.starts_with(&format!("cannot start a task in cluster yard: {code}: {message}")), "{said}");
    }
}

#[tokio::test]
async fn spot_without_capacity_falls_back_to_on_demand_in_the_same_launch_with_another_token() {
    let world = World::on_spot(a_job(Place::Fargate)).await;
    world.play("RunTask", failing(NO_CAPACITY));
    world.play("RunTask", started());
    world.launch().await.unwrap();
    let sent = world.asked_for("RunTask");
    assert_eq!(sent.len(), 2);
    assert_eq!(sent[0]["capacityProviderStrategy"][0]["capacityProvider"], "FARGATE_SPOT");
    assert_eq!(sent[1]["launchType"], "FARGATE");
    assert_ne!(sent[0]["clientToken"], sent[1]["clientToken"]);
    assert_eq!(sent[0]["startedBy"], sent[1]["startedBy"]);
    assert_eq!(sent[0]["overrides"], sent[1]["overrides"]);
}

#[tokio::test]
async fn spot_that_fails_for_another_reason_than_capacity_is_not_tried_on_demand() {
    let world = World::on_spot(a_job(Place::Fargate)).await;
    world.next(1, "RunTask", Action::fail("AccessDeniedException", "no"));
    assert_eq!(world.launch().await.unwrap_err().0, LaunchFailure::Permanent);
    assert_eq!(world.operations(), ["RunTask"]);
}

#[tokio::test]
async fn a_throttle_that_outlasts_the_retries_passes_and_slows_the_next_launch_down() {
    let world = World::plain().await;
    let none = switchyard_faults::Rate { burst: 0.0, per_second: 0.0 };
    world.proxy.rules(|limits| limits.ecs.calls = none);
    assert_eq!(world.launch().await.unwrap_err().0, LaunchFailure::Passing);
    assert_eq!(world.operations(), ["RunTask", "RunTask"]);
    world.proxy.rules(|limits| limits.ecs = EcsLimits::default());
    world.play("RunTask", started());
    let before = world.home.now();
    world.launch().await.unwrap();
    assert_eq!(world.home.now().duration_since(before).as_millis(), 50);
}

/// A clock that stands still: all that waits, waits from the same moment on.
struct Frozen;

#[async_trait::async_trait]
impl Ambient for Frozen {
    fn now(&self) -> Timestamp {
        at(1)
    }

    fn random(&self) -> [u8; 32] {
        [0; 32]
    }

    async fn pause(&self, _duration: Duration) {}
}

#[tokio::test]
async fn a_launch_that_would_wait_over_ten_seconds_for_its_turn_waits_in_the_ledger() {
    let slow = Rate { burst: 1, per_second: 1 };
    let world = World::plain().await;
    let settings = Settings { rates: LaunchRates { calls: slow, launches: slow }, policies: None, ..settings() };
    let launcher = world.beside(settings, Arc::new(Frozen));
    let mut kinds = Vec::new();
    for n in 0..13 {
        world.play("RunTask", started());
        let job = Job { id: JobId::keyed("tests", &n.to_string()), ..a_job(Place::Fargate) };
        kinds.push(launcher.launch(&job).await.map_err(|failed| failed.kind));
    }
    // One goes at once, ten within ten seconds; who comes after them is told to come again, and nothing is spent.
    assert_eq!(kinds[..11], [Ok(()); 11]);
    assert_eq!(kinds[11..], [Err(LaunchFailure::NoPlace); 2]);
    assert_eq!(world.started(), 11);
}

#[tokio::test]
async fn a_crowd_of_launches_is_spread_out_as_ecs_takes_them() {
    let world = World::plain().await;
    let launcher = world.beside(Settings { policies: None, ..settings() }, Arc::new(System));
    let mut launches = tokio::task::JoinSet::new();
    for n in 0..60 {
        world.play("RunTask", started());
        let launcher = launcher.clone();
        let state = State::Dispatched { at: System.now(), looks: 0 };
        let job = Job { id: JobId::keyed("tests", &n.to_string()), state, ..a_job(Place::Fargate) };
        launches.spawn(async move { (launch(&launcher, &job).await, job) });
    }
    let throttled: Vec<Job> = launches
        .join_all()
        .await
        .into_iter()
        .filter_map(|(launched, job)| {
            let (kind, message) = launched.err()?;
            assert!(kind == LaunchFailure::Passing && message.contains("ThrottlingException"), "{message}");
            Some(job)
        })
        .collect();
    // Calls do not arrive as evenly as they leave. All at once two thirds would be refused.
    assert!(throttled.len() <= 10, "{} of 60 were throttled", throttled.len());
    for job in &throttled {
        launch(&launcher, job).await.unwrap();
    }
    assert_eq!(world.started(), 60);
}

#[tokio::test]
async fn a_launch_whose_answer_is_lost_is_looked_for_and_found() {
    for lost in [Action::ResetAfter, Action::HoldAfter] {
        let world = World::plain().await.waiting(Duration::from_secs(1));
        world.play("RunTask", started());
        world.next(2, "RunTask", lost);
        world.play("ListTasks", listed(&[ARN]));
        world.launch().await.unwrap();
        assert_eq!(world.operations(), ["RunTask", "RunTask", "ListTasks"]);
        // The SDK's own second try had the first one's token: AWS starts one task for both.
        let sent = world.asked_for("RunTask");
        assert_eq!(sent[0], sent[1]);
        assert_eq!(world.started(), 1);
    }
}

#[tokio::test]
async fn a_server_error_after_the_retries_passes_when_no_task_is_found() {
    let (code, message) = ("ServerException".to_owned(), "Service Unavailable".to_owned());
    let world = World::plain().await;
    world.next(2, "RunTask", Action::Fail { code, status: 500, message });
    let (kind, message) = world.launch().await.unwrap_err();
    assert_eq!(kind, LaunchFailure::Passing);
    assert!(message.contains("ServerException: Service Unavailable"), "{message}");
}

#[tokio::test]
async fn an_epoch_older_than_a_client_token_lives_is_looked_for_before_it_is_launched_again() {
    let world = World::new(settings(), relaunched(9), "{}").await;
    world.home.advance(Duration::from_secs(24 * 3600));
    world.play("ListTasks", listed(&[ARN]));
    world.launch().await.unwrap();
    assert_eq!(world.operations(), ["ListTasks"]);
    world.play("RunTask", started());
    world.launch().await.unwrap();
    assert_eq!(world.operations(), ["ListTasks", "ListTasks", "RunTask", "DescribeTasks"]);
}

#[tokio::test]
async fn started_by_is_the_only_filter_a_task_is_found_with() {
    let world = World::plain().await;
    world.play("ListTasks", listed(&[ARN]));
    assert_eq!(world.find().await, TaskState::Alive);
    assert_eq!(world.find().await, TaskState::Absent);
    let started_by = started_by(world.job.id, world.job.epoch, "switchyard-test");
    assert_eq!(world.asked_for("ListTasks")[0], json!({ "cluster": "yard", "startedBy": started_by }));
}

#[tokio::test]
async fn a_task_that_no_list_shows_yet_lives_for_a_minute() {
    let world = World::plain().await;
    world.play("RunTask", started());
    world.launch().await.unwrap();
    world.home.advance(Duration::from_secs(59));
    assert_eq!(world.find().await, TaskState::Alive);
    world.home.advance(Duration::from_secs(1));
    assert_eq!(world.find().await, TaskState::Absent);
}

#[tokio::test]
async fn a_list_of_several_pages_is_read_to_its_end() {
    let world = World::plain().await;
    let page = json!({ "taskArns": [], "nextToken": "more" });
    world.play("ListTasks", page);
    world.play("ListTasks", listed(&[ARN]));
    assert_eq!(world.find().await, TaskState::Alive);
}

#[tokio::test]
async fn a_task_that_has_gone_is_stopped_and_one_that_cannot_be_spares_no_other() {
    let world = World::plain().await;
    world.play("ListTasks", listed(&["1-gone", "2-refused", "3-alive"]));
    let stop = |task: &str| When::call(Service::Ecs, "StopTask").containing(task);
    world.proxy.script().on(stop("2-refused"), Action::fail("AccessDeniedException", "no"));
    let alive = world.proxy.script().play(stop("3-alive"), "{}");
    let error = world.launcher.stop(world.job.id, world.job.epoch, Venue::Fargate).await.unwrap_err();
    assert_eq!(error.to_string(), format!("cannot stop the task of job {} in cluster yard", world.job.id));
    let stopped: Vec<Value> = world.asked_for("StopTask").iter().map(|asked| asked["task"].clone()).collect();
    assert_eq!(stopped, ["1-gone", "2-refused", "3-alive"]);
    assert_eq!(alive.hits(), 1);
    assert!(world.asked_for("StopTask")[0]["reason"].as_str().unwrap().contains("at epoch 3"));
}

#[tokio::test]
async fn a_run_without_a_task_is_stopped_already() {
    let world = World::plain().await;
    world.launcher.stop(world.job.id, world.job.epoch, Venue::Fargate).await.unwrap();
    assert_eq!(world.operations(), ["ListTasks"]);
}

#[tokio::test]
async fn what_is_no_task_is_not_launched_here() {
    let world = World::new(settings(), a_job(Place::Function), "{}").await;
    let (kind, message) = world.launch().await.unwrap_err();
    assert_eq!((kind, message.as_str()), (LaunchFailure::Permanent, "this yard has no functions to run jobs in"));
    assert_eq!(world.launcher.find(world.job.id, Epoch(3), Venue::Function).await.unwrap(), TaskState::Absent);
    world.launcher.stop(world.job.id, Epoch(3), Venue::Function).await.unwrap();
    assert!(world.operations().is_empty());
}

#[tokio::test]
async fn launches_that_fail_three_times_lead_to_the_fleet_and_lose_no_job() {
    let world = World::plain().await;
    let text = "version: 1\ncapabilities:\n  - name: custodian\n    summary: a test's\n    run: { command: [echo] }\n";
    let catalog = Catalog::parse("tests.yaml", text, &[], &BTreeMap::new()).unwrap();
    let mut yard = world.home.yard(catalog, Limits::default());
    yard.launcher = Arc::new(world.launcher.clone());
    let mut job = world.job.clone();
    job.work.needs.packaging = Packaging::Command;
    for _ in 0..3 {
        world.play("RunTask", failing(NO_CAPACITY));
    }
    dispatch::carry_out(&yard, job.clone(), dispatch::acts(&job)).await;
    for _ in 0..5 {
        world.home.advance(Duration::from_secs(120));
        reap::round(&yard).await.unwrap();
    }
    let job = world.home.load(job.id).await.unwrap().unwrap();
    assert_eq!((job.phase(), job.route.place), (Phase::Dispatched, Place::Fleet(PoolName::STANDARD)));
    assert_eq!((job.launch_failures, job.attempts_spent), (dispatch::LAUNCHES, 0));
    assert_eq!(world.operations(), ["RunTask"; 3]);
}
