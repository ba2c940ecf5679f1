//! How tasks end, as ECS and Lambda tell of it: in every order, twice, late, of others, and with the run's own report or
//! without it.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{Method, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};
use switchyard_aws::launcher_ecs::started_by;
use switchyard_aws::launcher_function::RunRequest;
use switchyard_core::job::{ClaimToken, Ending, Epoch, Holder, Job, JobId, Nonce, Phase, State, StopCause, Tier, Work};
use switchyard_core::memory::Memory;
use switchyard_core::ports::{
    Ambient, Beat, Body, Claim, Claimed, Desk, Ledger, Message, NewJob, Order, Outcome, Report, Reported, Room, Usage,
    Voucher, Worker, Workers, Yard,
};
use switchyard_core::reap;
use switchyard_core::route::{Choice, Needs, Packaging, Pin, Place, PoolName, Route, Verdicts};
use switchyard_core::settle::{self, YardDesk};
use switchyard_functions::parked::Parking;
use switchyard_functions::tasks::TaskListener;
use switchyard_worker::roster::Roster;

use crate::bucket::Buckets;
use crate::empty_yard;

const TABLE: &str = "yard";
const TASK: &str = "0123456789abcdef0123456789abcdef";
/// The id of an invocation of `job_runner`.
const REQUEST: &str = "8476a536-e9f4-11e8-9739-2dfe598c3fcd";

/// A yard with one job that was launched at epoch 3, and what hears of its task.
struct Scene {
    memory: Memory,
    yard: Yard,
    buckets: Buckets,
    listener: TaskListener,
    id: JobId,
}

impl Scene {
    async fn new(place: Place) -> Self {
        Self::with(place, |_| {}).await
    }

    async fn with(place: Place, change: impl FnOnce(&mut Job)) -> Self {
        let (memory, yard) = empty_yard();
        let buckets = Buckets::start().await;
        let mut job = a_job(place, memory.now());
        change(&mut job);
        let id = job.id;
        memory.accept(vec![NewJob { job, payload: Body::Inline("{}".into()) }]).await.unwrap();
        let parking = Parking::new(&buckets.clients, "yard", "task_listener");
        let listener = TaskListener { yard: yard.clone(), table: TABLE.to_owned(), parking };
        Self { memory, yard, buckets, listener, id }
    }

    /// The same, claimed by this instance.
    async fn claimed(place: Place, instance: &str) -> Self {
        let scene = Self::new(place).await;
        scene.claim(instance).await;
        scene
    }

    async fn job(&self) -> Job {
        self.memory.load(self.id).await.unwrap().unwrap()
    }

    async fn claim(&self, instance: &str) {
        let claim = Claim {
            id: self.id,
            epoch: self.job().await.epoch,
            holder: Holder::new(instance, Nonce(9)),
            token: token().hash(),
            at_most: None,
            room: None,
        };
        let claimed = YardDesk(self.yard.clone()).claim(&claim).await.unwrap();
        assert!(matches!(claimed, Claimed::Won(..)), "{claimed:?}");
    }

    async fn report(&self, epoch: u32, outcome: Outcome) -> Reported {
        let voucher = Voucher { id: self.id, epoch: Epoch(epoch), token: token() };
        YardDesk(self.yard.clone()).settle(&Report { voucher, outcome, usage: Usage::default() }).await.unwrap()
    }

    async fn hear(&self, event: Value) -> Value {
        self.listener.listen(event.clone()).await.unwrap_or_else(|error| panic!("{error}: {event}"))
    }

    /// So many seconds later the minute's round comes.
    async fn reaped_after(&self, seconds: u64) -> Job {
        self.memory.advance(Duration::from_secs(seconds));
        reap::round(&self.yard).await.unwrap();
        self.job().await
    }

    /// What ECS tells of a task of this job.
    fn task(&self, status: &str, change: Value) -> Value {
        let arn = format!("arn:aws:ecs:eu-central-1:111122223333:task/yard/{TASK}");
        let mut detail = json!({
            "clusterArn": "arn:aws:ecs:eu-central-1:111122223333:cluster/yard", "taskArn": arn, "version": 5,
            "desiredStatus": status, "lastStatus": status, "startedBy": started_by(self.id, Epoch(3), TABLE),
            "launchType": "FARGATE", "containers": [{ "name": "worker", "lastStatus": status, "taskArn": arn }],
        });
        for (name, value) in change.as_object().unwrap() {
            detail[name] = value.clone();
        }
        json!({
            "version": "0", "id": "1", "source": "aws.ecs", "detail-type": "ECS Task State Change",
            "account": "111122223333", "region": "eu-central-1", "resources": [arn], "detail": detail,
        })
    }

    fn stopped(&self, code: &str) -> Value {
        let container = json!({ "name": "worker", "exitCode": 0, "lastStatus": "STOPPED" });
        let reason = "Essential container in task exited";
        self.task("STOPPED", json!({ "stopCode": code, "stoppedReason": reason, "containers": [container] }))
    }

    /// What Lambda tells `job_runner`'s failure destination ("Capturing records of Lambda asynchronous invocations").
    fn given_up(&self, condition: &str) -> Value {
        let request = RunRequest { job: self.id, epoch: Epoch(3) }.encode();
        json!({
            "version": "1.0", "timestamp": "2026-01-01T00:00:00.000Z",
            "requestContext": {
                "requestId": REQUEST, "condition": condition, "approximateInvokeCount": 1,
                "functionArn": "arn:aws:lambda:eu-central-1:111122223333:function:yard-job_runner:$LATEST",
            },
            "requestPayload": serde_json::from_str::<Value>(&request).unwrap(),
            "responseContext": { "statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled" },
            "responsePayload": { "errorMessage": "RequestId: 8476a536 Error: Runtime exited: signal: killed" },
        })
    }
}

fn token() -> ClaimToken {
    ClaimToken::new([7; 32])
}

/// A job that may run nowhere else.
fn a_job(place: Place, now: Timestamp) -> Job {
    Job {
        id: JobId::keyed("tests", "one"),
        work: Work {
            capability: "cloudtrail-digest".into(),
            tier: Tier::Standard,
            labels: vec![],
            caller: "tests".into(),
            key: Some("one".into()),
            body_sha256: [5; 32],
            run_timeout: Duration::from_secs(600),
            start_deadline: None,
            attempts: 3,
            backoff: Duration::from_secs(10),
            announce: false,
            needs: Needs {
                packaging: if place == Place::Function { Packaging::Builtin } else { Packaging::Command },
                expected: Some(Duration::from_secs(120)),
                memory_mib: 512,
                milli_vcpu: 250,
                docker: false,
                privileged: false,
                network_tools: false,
                static_address: false,
                isolate: false,
                interruptible: true,
                only: vec![Pin::Venue(place.venue())],
                prefer: vec![],
            },
            trace: None,
        },
        state: State::Dispatched { at: now, looks: 0 },
        epoch: Epoch(3),
        attempts_spent: 0,
        attempts_allowed: 3,
        interruptions: 0,
        losses: 0,
        launch_failures: 0,
        route: Route { place, choice: Choice::Cheapest, verdicts: Verdicts::new() },
        permit: None,
        aged: 0,
        spent_nanodollars: 0,
        timeline: vec![],
        created: now,
        due: Some(now + Duration::from_secs(60)),
        owed: vec![],
        revision: 1,
        nonce: Nonce(1),
    }
}

fn reasons(job: &Job) -> Vec<&str> {
    job.timeline.iter().map(|entry| entry.reason.as_str()).collect()
}

/// All orders of these.
fn orders(events: &[Value]) -> Vec<Vec<Value>> {
    if events.is_empty() {
        return vec![vec![]];
    }
    let mut all = Vec::new();
    for (n, first) in events.iter().enumerate() {
        let rest: Vec<Value> = events.iter().enumerate().filter(|(m, _)| *m != n).map(|(_, one)| one.clone()).collect();
        all.extend(orders(&rest).into_iter().map(|rest| [vec![first.clone()], rest].concat()));
    }
    all
}

#[tokio::test]
async fn in_whatever_order_and_number_its_events_come_a_task_ends_once() {
    let example = Scene::claimed(Place::Fargate, TASK).await;
    let stopped = example.stopped("EssentialContainerExited");
    let events = [
        example.task("PENDING", json!({})),
        example.task("RUNNING", json!({})),
        example.task("DEPROVISIONING", json!({ "stopCode": "EssentialContainerExited" })),
        stopped.clone(),
        stopped,
    ];
    let orders = orders(&events);
    assert_eq!(orders.len(), 120);
    for order in orders {
        let scene = Scene::claimed(Place::Fargate, TASK).await;
        let mut changed = 0;
        for event in order {
            changed += u32::from(scene.hear(event).await["changed"] == json!(true));
        }
        let job = scene.job().await;
        assert_eq!((changed, job.phase(), job.epoch), (1, Phase::Running, Epoch(3)));
        assert_eq!(reasons(&job), ["claimed", "task_ended"]);
        let job = scene.reaped_after(61).await;
        assert_eq!((job.attempts_spent, job.phase()), (1, Phase::Delayed));
    }
}

#[tokio::test]
async fn a_task_that_is_about_to_stop_has_not_ended() {
    let scene = Scene::claimed(Place::Fargate, TASK).await;
    for status in ["PROVISIONING", "PENDING", "ACTIVATING", "RUNNING", "DEACTIVATING", "STOPPING", "DEPROVISIONING"] {
        let told = scene.hear(scene.task(status, json!({ "stopCode": "SpotInterruption" }))).await;
        assert_eq!(told["heard"], json!("nothing"), "{status}");
    }
    assert_eq!(reasons(&scene.job().await), ["claimed"]);
}

#[tokio::test]
async fn a_report_that_was_under_way_counts_and_what_ecs_said_does_not() {
    for event in ["EssentialContainerExited", "SpotInterruption", "UserInitiated"] {
        let scene = Scene::claimed(Place::Fargate, TASK).await;
        scene.hear(scene.stopped(event)).await;
        let waiting = scene.reaped_after(30).await;
        assert_eq!(waiting.phase(), Phase::Running);
        assert_eq!(scene.report(3, Outcome::Succeeded(Some("[1]".into()))).await, Reported::Recorded);
        let job = scene.reaped_after(3600).await;
        let spent = (job.attempts_spent, job.interruptions, job.losses);
        assert_eq!((job.phase(), job.epoch, spent), (Phase::Succeeded, Epoch(3), (0, 0, 0)));
        assert_eq!(scene.hear(scene.stopped(event)).await["changed"], json!(false), "told again");
    }
}

#[tokio::test]
async fn without_a_report_the_attempt_has_failed_after_a_minute_and_its_late_report_is_nobodys() {
    let scene = Scene::claimed(Place::Fargate, TASK).await;
    scene.hear(scene.stopped("EssentialContainerExited")).await;
    assert_eq!(scene.reaped_after(59).await.phase(), Phase::Running);
    let job = scene.reaped_after(2).await;
    assert_eq!((job.phase(), job.attempts_spent, job.interruptions), (Phase::Delayed, 1, 0));
    let last = job.timeline.last().unwrap();
    assert!(last.detail.contains("its task stopped: EssentialContainerExited; Essential container"), "{last:?}");
    assert!(last.detail.contains("exit code 0"), "{last:?}");
    assert_eq!(scene.report(3, Outcome::Succeeded(None)).await, Reported::Stale);
    let job = scene.reaped_after(60).await;
    assert_eq!((job.phase(), job.epoch), (Phase::Dispatched, Epoch(4)), "its next attempt");
    assert_eq!(scene.hear(scene.stopped("EssentialContainerExited")).await["changed"], json!(false), "an older epoch");
    assert_eq!(scene.job().await.launch_failures, 0);
}

#[tokio::test]
async fn the_last_attempt_that_ended_without_a_report_says_so() {
    let scene = Scene::with(Place::Fargate, |job| job.attempts_allowed = 1).await;
    scene.claim(TASK).await;
    scene.hear(scene.stopped("EssentialContainerExited")).await;
    let job = scene.reaped_after(61).await;
    let State::Settled(settled) = job.state else { panic!("{job:?}") };
    let error = settled.error.unwrap();
    assert_eq!((settled.ending, error.code.as_str()), (Ending::Failed, "ended_without_report"));
}

#[tokio::test]
async fn a_task_that_was_taken_away_spends_no_attempt() {
    for code in
        ["SpotInterruption", "TerminationNotice", "InfrastructureHealth", "ServiceSchedulerInitiated", "UserInitiated"]
    {
        let scene = Scene::claimed(Place::Fargate, TASK).await;
        scene.hear(scene.stopped(code)).await;
        let job = scene.reaped_after(61).await;
        assert_eq!((job.attempts_spent, job.interruptions, job.losses), (0, 1, 0), "{code}");
        assert_eq!((job.phase(), job.epoch), (Phase::Dispatched, Epoch(4)), "{code}: at once again");
    }
}

#[tokio::test]
async fn a_task_that_was_killed_for_its_memory_has_its_job_need_more() {
    let scene = Scene::claimed(Place::Fargate, TASK).await;
    let container = json!({ "exitCode": 137, "reason": "OutOfMemoryError: Container killed due to memory usage" });
    let stopped = scene.task("STOPPED", json!({ "stopCode": "EssentialContainerExited", "containers": [container] }));
    scene.hear(stopped).await;
    let job = scene.reaped_after(61).await;
    assert_eq!((job.attempts_spent, job.work.needs.memory_mib, job.phase()), (1, 1024, Phase::Delayed));
}

#[tokio::test]
async fn a_cancelled_run_whose_task_is_stopped_for_it_ends_cancelled() {
    let scene = Scene::claimed(Place::Fargate, TASK).await;
    settle::cancel_job(&scene.yard, scene.id, "ana").await.unwrap();
    scene.hear(scene.stopped("UserInitiated")).await;
    let job = scene.reaped_after(61).await;
    assert_eq!((job.phase(), job.attempts_spent, job.interruptions), (Phase::Cancelled, 0, 0));
}

#[tokio::test]
async fn a_task_that_never_claimed_is_one_failed_launch_however_often_it_is_told() {
    let scene = Scene::new(Place::Fargate).await;
    let event = scene.stopped("TaskFailedToStart");
    assert_eq!(scene.hear(scene.task("RUNNING", json!({}))).await["heard"], json!("nothing"));
    assert_eq!(scene.hear(event.clone()).await["changed"], json!(true));
    assert_eq!(scene.hear(event).await["changed"], json!(false));
    let job = scene.job().await;
    assert_eq!((job.launch_failures, job.attempts_spent, job.phase()), (1, 0, Phase::Delayed));
}

#[tokio::test]
async fn what_others_run_and_what_came_too_late_says_nothing_of_this_run() {
    let scene = Scene::claimed(Place::Fargate, TASK).await;
    let before = scene.job().await;
    let by = |text: &str| scene.task("STOPPED", json!({ "startedBy": text, "stopCode": "SpotInterruption" }));
    let second = "arn:aws:ecs:eu-central-1:111122223333:task/yard/ffffffffffffffffffffffffffffffff";
    for (event, heard) in [
        (by(&started_by(scene.id, Epoch(3), "another-yard")), "nothing"),
        (by("ecs-svc/1234567890123456789"), "nothing"),
        (by("switchyard/zz"), "nothing"),
        (by(""), "nothing"),
        (scene.task("STOPPED", json!({ "startedBy": null })), "nothing"),
        (by(&started_by(scene.id, Epoch(2), TABLE)), "ended"),
        (by(&started_by(scene.id, Epoch(4), TABLE)), "ended"),
        (by(&started_by(JobId::keyed("tests", "forgotten"), Epoch(3), TABLE)), "ended"),
        // Two were launched for one run, and this one found it held.
        (scene.task("STOPPED", json!({ "taskArn": second, "stopCode": "EssentialContainerExited" })), "ended"),
    ] {
        let told = scene.hear(event.clone()).await;
        assert_eq!(told["heard"], json!(heard), "{event}");
        assert_ne!(told.get("changed"), Some(&json!(true)), "{event}");
    }
    assert_eq!(scene.job().await, before);
    assert_eq!(scene.buckets.parked(), []);
}

#[tokio::test]
async fn an_invocation_that_lambda_gave_up_is_heard_of_and_its_report_still_counts() {
    let scene = Scene::claimed(Place::Function, REQUEST).await;
    let event = scene.given_up("RetriesExhausted");
    assert_eq!(scene.hear(event.clone()).await["changed"], json!(true));
    assert_eq!(scene.hear(event.clone()).await["changed"], json!(false));
    assert_eq!(scene.reaped_after(30).await.phase(), Phase::Running);
    let job = scene.reaped_after(31).await;
    assert_eq!((job.attempts_spent, job.phase()), (1, Phase::Delayed));
    let detail = &job.timeline.last().unwrap().detail;
    assert!(
        detail.contains("its invocation failed (RetriesExhausted)") && detail.contains("signal: killed"),
        "{detail}"
    );

    let scene = Scene::claimed(Place::Function, REQUEST).await;
    scene.hear(event).await;
    assert_eq!(scene.report(3, Outcome::Succeeded(None)).await, Reported::Recorded);
    assert_eq!(scene.reaped_after(61).await.phase(), Phase::Succeeded);
}

#[tokio::test]
async fn an_invocation_that_never_began_is_a_failed_launch_and_another_ones_end_is_none_of_this_run() {
    let scene = Scene::new(Place::Function).await;
    let mut event = scene.given_up("EventAgeExceeded");
    let told = event.as_object_mut().unwrap();
    told.remove("responsePayload");
    told.remove("responseContext");
    assert_eq!(scene.hear(event.clone()).await["changed"], json!(true));
    let job = scene.job().await;
    assert_eq!((job.launch_failures, job.attempts_spent, job.phase()), (1, 0, Phase::Delayed));

    let scene = Scene::claimed(Place::Function, "another-invocation").await;
    assert_eq!(scene.hear(event.clone()).await["changed"], json!(false));
    event["requestContext"].as_object_mut().unwrap().remove("requestId");
    assert_eq!(scene.hear(event).await["changed"], json!(false), "whose it was nobody knows: its deadline tells");
    assert_eq!(reasons(&scene.job().await), ["claimed"]);
}

#[tokio::test]
async fn what_cannot_be_read_is_parked_or_comes_again_and_never_ends_a_run() {
    let scene = Scene::claimed(Place::Fargate, TASK).await;
    let mut newer = scene.given_up("RetriesExhausted");
    newer["requestPayload"]["version"] = json!(2);
    let odd = [
        json!(null),
        json!(7),
        json!("x"),
        json!([]),
        json!({}),
        json!({ "source": "aws.ecs" }),
        json!({ "source": "aws.ecs", "detail-type": "ECS Task State Change" }),
        json!({ "source": "aws.ecs", "detail-type": "ECS Task State Change", "detail": null }),
        scene.task("STOPPED", json!({ "taskArn": 7 })),
        scene.task("STOPPED", json!({ "containers": null })),
        scene.task("STOPPED", json!({ "containers": [{ "exitCode": 1e300 }] })),
        json!({ "source": "aws.ec2", "detail-type": "EC2 Spot Instance Interruption Warning", "detail": {} }),
        json!({ "source": "aws.ec2", "detail-type": "EC2 Instance State-change Notification", "detail": {} }),
        json!({ "requestContext": {}, "requestPayload": {} }),
        newer,
    ];
    for event in &odd {
        assert_eq!(scene.hear(event.clone()).await["heard"], json!("unknown"), "{event}");
    }
    assert_eq!(scene.buckets.parked().len(), odd.len(), "each once");
    assert_eq!(reasons(&scene.job().await), ["claimed"]);
    scene.buckets.refuse(Some((Method::PUT, StatusCode::SERVICE_UNAVAILABLE, "SlowDown")));
    assert!(scene.listener.listen(json!({ "odd": true })).await.unwrap_err().retryable);
}

#[tokio::test]
async fn an_end_whose_note_nobody_confirmed_is_told_again_and_noted_once() {
    let scene = Scene::claimed(Place::Fargate, TASK).await;
    let event = scene.stopped("EssentialContainerExited");
    // Longer than it is written again.
    scene.memory.lose(100);
    assert!(scene.listener.listen(event.clone()).await.unwrap_err().retryable);
    scene.memory.lose(0);
    assert_eq!(scene.hear(event).await["changed"], json!(false), "it took effect all the same");
    assert_eq!(reasons(&scene.job().await), ["claimed", "task_ended"]);
}

const INSTANCE: &str = "i-0123456789abcdef0";

fn spot_warning(instance: &str) -> Value {
    json!({
        "source": "aws.ec2", "detail-type": "EC2 Spot Instance Interruption Warning",
        "detail": { "instance-id": instance, "instance-action": "terminate" },
    })
}

#[tokio::test]
async fn a_spot_warning_for_an_instance_of_others_is_heard_and_changes_nothing() {
    let scene = Scene::new(Place::Fleet(PoolName::STANDARD)).await;
    let told = scene.hear(spot_warning(INSTANCE)).await;
    let expected = json!({ "heard": "interruption", "instance": INSTANCE, "ours": false, "ordered_back": 0 });
    assert_eq!(told, expected);
    assert_eq!(scene.job().await.phase(), Phase::Dispatched);
}

#[tokio::test]
async fn a_spot_warning_orders_back_what_the_worker_there_runs_by_its_next_beat() {
    let mut scene = Scene::new(Place::Fleet(PoolName::STANDARD)).await;
    let roster = Arc::new(Roster::default());
    scene.yard.workers = Arc::clone(&roster) as Arc<dyn Workers>;
    let parking = Parking::new(&scene.buckets.clients, "yard", "task_listener");
    scene.listener = TaskListener { yard: scene.yard.clone(), table: TABLE.to_owned(), parking };
    scene.claim(INSTANCE).await;
    let holder = Holder::new(INSTANCE, Nonce(9));
    let room = Room { slots: 2, milli_vcpu: 2000, memory_mib: 900 };
    for holder in [holder.clone(), Holder::new("i-0000000000000000f", Nonce(9))] {
        let since = scene.memory.now();
        roster.enter(Worker { holder, pool: PoolName::STANDARD, capacity: room, free: room, since, leaving: false });
    }
    let desk = YardDesk(scene.yard.clone());
    let run = Message { id: scene.id, epoch: scene.job().await.epoch };
    let beat = |counter| Beat { holder: holder.clone(), counter, running: vec![run] };
    assert_eq!(desk.beat(&beat(1), Duration::ZERO).await.unwrap(), []);
    assert_eq!(scene.hear(spot_warning("i-0000000000000000f")).await["ordered_back"], json!(0), "another's");
    assert_eq!(desk.beat(&beat(2), Duration::ZERO).await.unwrap(), []);
    for _ in 0..2 {
        let told = scene.hear(spot_warning(INSTANCE)).await;
        assert_eq!((&told["ours"], &told["ordered_back"]), (&json!(true), &json!(1)), "told again it is the same");
        let orders = desk.beat(&beat(3), Duration::ZERO).await.unwrap();
        assert_eq!(orders, [Order { run, cause: StopCause::Drain }]);
    }
    assert_eq!(reasons(&scene.job().await), ["claimed", "ordered_back"]);
    assert_eq!(scene.report(3, Outcome::Stopped(StopCause::Drain)).await, Reported::Recorded);
    let job = scene.job().await;
    assert_eq!((job.phase(), job.epoch, job.attempts_spent, job.interruptions), (Phase::Dispatched, Epoch(4), 0, 1));
    assert_eq!(scene.hear(spot_warning(INSTANCE)).await["ordered_back"], json!(0), "it runs there no more");
}
