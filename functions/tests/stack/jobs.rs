//! Jobs to every venue.

use std::process::Command;

use serde_json::{Value, json};
use switchyard_core::job::{Epoch, JobId};
use switchyard_core::ports::Message;
use switchyard_core::wire::encode_doorbell;

use crate::deployed::{Deployed, User, block, env, root, said, wait};

fn event() -> Value {
    let text = std::fs::read_to_string(root().join("core/tests/events/event-config-rule-security-group.json"));
    json!({ "event": serde_json::from_str::<Value>(&text.expect("recorded")).expect("JSON") })
}

fn ran_at(job: &Value, venue: &str) {
    assert_eq!((job["state"].as_str(), job["venue"].as_str()), (Some("succeeded"), Some(venue)), "{job:#}");
}

pub(crate) fn inline(yard: &Deployed) {
    let args = ["submit", "finding-triage", &event().to_string(), "--tier", "synchronous", "--wait"];
    let job = yard.ask(User::Submitter, &args);
    ran_at(&job, "inline");
    assert!(job["result"]["triages"][0]["score"].is_number(), "{job:#}");
    assert_eq!(job["caller"], json!(format!("user/{}-submitter", env("STACK_QUEUE_PREFIX"))));
}

pub(crate) fn function(yard: &Deployed) {
    let id = yard.submit("stack-unmeasured", &event());
    let job = yard.ended(&id, 60);
    ran_at(&job, "function");
}

pub(crate) fn fleet(yard: &Deployed) {
    let id = yard.submit("port-scan", &json!({ "target": "127.0.0.1", "ports": "9" }));
    ran_at(&yard.ended(&id, 60), "fleet");
    let result = yard.cli(User::Viewer, &["result", &id]);
    assert!(said(&result).contains("\"addresses\""), "{}", said(&result));
}

pub(crate) fn batch(yard: &Deployed) {
    let file = yard.policies().join("batch.ndjson");
    std::fs::write(&file, "{\"capability\":\"stack-quick\",\"labels\":{\"of\":\"batch\"}}\n".repeat(500))
        .expect("written");
    let args = ["submit", "--batch", file.to_str().expect("a path"), "--wait"];
    let submitted = yard.cli(User::Submitter, &args);
    assert!(submitted.status.success(), "{}", said(&submitted));
    let page = yard.ask(User::Viewer, &["jobs", "--label", "of=batch", "--limit", "500"]);
    let states = page.as_array().expect("jobs").iter().filter(|job| job["state"] == "succeeded").count();
    assert_eq!(states, 500);
}

pub(crate) fn cancelled(yard: &Deployed) {
    let id = yard.submit("stack-long", &json!({}));
    yard.job_when(&id, 60, "runs", |job| job["state"] == "running");
    wait(30, "its first line", || {
        let logs = said(&yard.cli(User::Viewer, &["logs", &id]));
        if logs.contains("begun") { Ok(()) } else { Err(logs) }
    });
    yard.ask(User::Submitter, &["cancel", &id]);
    // A beat brings the order: each is a quarter of a minute after the one before.
    let job = yard.ended(&id, 45);
    assert_eq!(job["state"], "cancelled", "{job:#}");
}

pub(crate) fn doubled(yard: &Deployed) {
    let id = yard.submit("stack-quick", &json!({}));
    let before = yard.ended(&id, 60);
    let job: JobId = id.parse().expect("an id");
    let sqs = yard.clients.sqs();
    let name = format!("{}-standard-priority", env("SWITCHYARD_QUEUES"));
    let url = block(sqs.get_queue_url().queue_name(name).send()).expect("the queue").queue_url.expect("its URL");
    for epoch in [1, 1, 0] {
        let body = encode_doorbell(Message { id: job, epoch: Epoch(epoch) }, None);
        block(sqs.send_message().queue_url(&url).message_body(body).send()).expect("it is rung");
    }
    wait(60, "the doorbells are gone", || {
        use aws_sdk_sqs::types::QueueAttributeName::{
            ApproximateNumberOfMessages as Visible, ApproximateNumberOfMessagesNotVisible as Hidden,
        };
        let asked = sqs.get_queue_attributes().queue_url(&url).attribute_names(Visible).attribute_names(Hidden);
        let found = block(asked.send()).expect("counted").attributes.unwrap_or_default();
        if found.values().all(|count| count == "0") { Ok(()) } else { Err(format!("{found:?}")) }
    });
    let after = yard.job(&id);
    assert_eq!(after["timeline"], before["timeline"], "nothing has happened to it");
}

pub(crate) fn ticks(yard: &Deployed) {
    // The deployed schedule fires each minute; a tick is looked at by the first that comes after it.
    let ticked = wait(150, "a tick of the schedule", || {
        let jobs = yard.labelled("schedule=minutely");
        if jobs.is_empty() { Err("no job of it".to_owned()) } else { Ok(jobs) }
    });
    assert_eq!(ticked[0]["capability"], "stack-tick", "{ticked:#?}");
    let keys: Vec<&str> = ticked.iter().filter_map(|job| job["id"].as_str()).collect();
    let (answer, failed) = yard.invoke("JOB_REAPER", &json!({}));
    assert!(!failed && answer["ticks"].is_object(), "{answer}");
    let again = yard.labelled("schedule=minutely");
    for key in &keys {
        assert_eq!(again.iter().filter(|job| job["id"] == *key).count(), 1, "a tick that is run twice is one job");
    }
}

pub(crate) fn task(yard: &Deployed) {
    if without_docker(yard) {
        return;
    }
    let id = yard.submit("stack-task", &json!({}));
    let job = yard.ended(&id, 120);
    ran_at(&job, "fargate");
    // CloudWatch Logs shows what it has taken a moment later.
    wait(30, "what it printed", || {
        let logs = said(&yard.cli(User::Viewer, &["logs", &id]));
        if logs.contains("127.0.0.1") { Ok(()) } else { Err(logs) }
    });
}

pub(crate) fn unlaunched(yard: &Deployed) {
    if without_docker(yard) {
        return;
    }
    let id = yard.submit("stack-unregistered", &json!({}));
    let job = yard.ended(&id, 240);
    ran_at(&job, "fleet");
    let timeline = job["timeline"].to_string();
    assert!(timeline.contains("launches_exhausted"), "{timeline}");
    assert_eq!(job["attempts_spent"], 0, "a launch that fails spends no attempt");
}

pub(crate) fn killed(yard: &Deployed) {
    if without_docker(yard) {
        return;
    }
    let id = yard.submit("stack-killed", &json!({}));
    let running = yard.job_when(&id, 120, "runs", |job| job["state"] == "running");
    let (container, arn) = container_of(&id);
    let dead = Command::new("docker").args(["kill", &container]).output().expect("docker starts");
    assert!(dead.status.success(), "{}", said(&dead));
    // No emulator sends this event, and only AWS may put one: the function is invoked as the deployed rule does.
    let stopped = |last_status: &str, arn: &str| {
        json!({
            "source": "aws.ecs", "detail-type": "ECS Task State Change", "id": "1", "version": "0",
            "detail": {
                "taskArn": arn, "lastStatus": last_status, "stopCode": "EssentialContainerExited",
                "startedBy": started_by(&id, &running), "version": 5, "stoppedReason": "Essential container in task exited",
                "containers": [{ "name": "worker", "exitCode": 137 }],
            },
        })
    };
    let other = stopped("STOPPED", &format!("{arn}0"));
    assert_eq!(yard.invoke("TASK_LISTENER", &other).0["changed"], false, "a second task's end is not the run's");
    assert_eq!(yard.invoke("TASK_LISTENER", &stopped("STOPPED", &arn)).0["changed"], true);
    assert_eq!(yard.invoke("TASK_LISTENER", &stopped("STOPPED", &arn)).0["changed"], false, "told twice");
    assert_eq!(yard.invoke("TASK_LISTENER", &stopped("RUNNING", &arn)).0["heard"], "nothing", "out of order");
    let job = yard.ended(&id, 180);
    assert_eq!((job["state"].as_str(), job["attempts_spent"].as_u64()), (Some("failed"), Some(1)), "{job:#}");
    assert_eq!(job["error"]["code"], "ended_without_report", "{job:#}");
}

/// What RunTask was called with.
fn started_by(id: &str, job: &Value) -> String {
    let epoch = Epoch(job["epoch"].as_u64().and_then(|epoch| u32::try_from(epoch).ok()).expect("an epoch"));
    switchyard_aws::launcher_ecs::started_by(id.parse().expect("an id"), epoch, &env("SWITCHYARD_TABLE"))
}

/// The container that runs a job, and the ARN of its task.
fn container_of(id: &str) -> (String, String) {
    let docker = |args: &[&str]| said(&Command::new("docker").args(args).output().expect("docker starts"));
    let all = docker(&["ps", "--quiet", "--filter", "label=com.amazonaws.ecs.container-name=worker"]);
    let format = "{{index .Config.Labels \"com.amazonaws.ecs.task-arn\"}} {{.Config.Env}}";
    let found = all.lines().find_map(|container| {
        let inspected = docker(&["inspect", "--format", format, container]);
        let arn = inspected.split(' ').next()?.to_owned();
        inspected.contains(id).then(|| (container.to_owned(), arn))
    });
    found.unwrap_or_else(|| panic!("no container runs job {id}: {all}"))
}

fn without_docker(yard: &Deployed) -> bool {
    if !yard.docker {
        let case = std::thread::current().name().unwrap_or_default().to_owned();
        eprintln!("skipped, for no container engine answers: {case}");
    }
    !yard.docker
}
