//! A process that submits a job, runs it and settles it is killed at each of its requests to AWS: after it had effect and
//! before its answer arrives, and a small job's also before it has effect (`SWITCHYARD_TEST_BOTH_SIDES`: every job's). The
//! reaper brings the job to its end every time.
//!
//! The process is real and is killed for real: the test starts its own program again, which then lives the life of one
//! job and holds still at the request that the proxy was told to hold.

mod emulated;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use emulated::yard::{clients, home, home_as, names, pools, proxy, run, work};
use emulated::{Emulator, block};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;
use switchyard_aws::clients::Clients;
use switchyard_aws::home::{Home, Names};
use switchyard_aws::launcher_ecs::{Definitions, Doors, EcsLauncher, Network, Settings as TaskSettings};
use switchyard_aws::rate::LaunchRates;
use switchyard_builtins::system::System;
use switchyard_core::catalog::Catalog;
use switchyard_core::intake::{self, Prepared, Sender, Taken, Taking};
use switchyard_core::job::{Job, JobId, Phase, Step};
use switchyard_core::policies::{Policies, Shelf};
use switchyard_core::ports::{
    Ambient, Assignment, Body, Executor, LogLine, LogSink, Message, Outcome, Query, Stream, Yard,
};
use switchyard_core::reap;
use switchyard_core::route::{Limits, Venue};
use switchyard_faults::{Action, Proxy, Service, When};

/// What the killed process finds in its environment: what to do, as JSON.
const LIFE: &str = "SWITCHYARD_TEST_LIFE";
/// With this in the environment every job is killed on both sides of each request, and not the small one alone.
const BOTH_SIDES: &str = "SWITCHYARD_TEST_BOTH_SIDES";
/// The access key id by which the proxy tells it from its parent.
const PROCESS: &str = "PROCESS";

const CAPABILITIES: &str = r#"
version: 1
capabilities:
  - name: plain
    summary: Whatever it is given
    run: { command: [echo] }
    needs: { timeout_seconds: 600 }
    retry: { attempts: 3, backoff_seconds: 1 }
  - name: limited
    summary: One at once
    run: { command: [echo] }
    needs: { timeout_seconds: 600 }
    retry: { attempts: 3, backoff_seconds: 1 }
    limits: { concurrent: 1 }
  - name: task
    summary: A task of its own
    run: { command: [echo] }
    needs: { timeout_seconds: 600 }
    route: { only: [fargate] }
    retry: { attempts: 3, backoff_seconds: 1 }
"#;

/// What ECS says of a task it starts. Nothing starts: the test is the task.
const STARTED: &str = r#"{"tasks":[{"taskArn":"arn:aws:ecs:us-east-1:000000000000:task/yard/1"}],"failures":[]}"#;

/// The life of one job.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Life {
    endpoint: String,
    /// What the resources are called.
    name: String,
    capability: String,
    /// Bytes of its payload, and so of its result.
    bytes: usize,
    /// Where each run leaves a line.
    runs: PathBuf,
}

impl Life {
    fn names(&self) -> Names {
        Names::called(&self.name)
    }
}

/// The machine's time, moved on by a test.
struct Later(AtomicI64);

#[async_trait]
impl Ambient for Later {
    fn now(&self) -> Timestamp {
        System.now() + Duration::from_secs(self.0.load(Ordering::SeqCst).unsigned_abs())
    }

    fn random(&self) -> [u8; 32] {
        System.random()
    }

    async fn pause(&self, duration: Duration) {
        System.pause(duration).await;
    }
}

/// Makes the payload its result, and leaves a line wherever it runs.
struct Echo(PathBuf);

#[async_trait]
impl Executor for Echo {
    async fn run(&self, assignment: &Assignment<'_>, log: &dyn LogSink) -> Outcome {
        let before = std::fs::read_to_string(&self.0).unwrap_or_default();
        std::fs::write(&self.0, format!("{before}{}\n", assignment.job.epoch)).expect("a line for each run");
        let line = LogLine { at: System.now(), stream: Stream::Stdout, text: "at work".to_owned() };
        log.write(vec![line]).await;
        Outcome::Succeeded(Some(assignment.payload.clone()))
    }
}

fn shelf() -> Arc<Shelf> {
    let catalog = Catalog::parse("test", CAPABILITIES, &[], &Default::default()).expect("the test's own catalog");
    Arc::new(Shelf::new(Policies { catalog, limits: Limits::one_machine(4096), ..Policies::default() }))
}

/// The yard of a home, with tasks on ECS.
fn ruled(home: &Home, clients: &Clients, ambient: Arc<dyn Ambient>) -> Yard {
    let doors = Doors {
        ecs: clients.ecs(),
        ledger: Arc::new(home.ledger.clone()),
        blobs: Arc::new(home.blobs.clone()),
        locate: Arc::new(|blob| format!("s3://bucket/{}", blob.name)),
        ambient,
        functions: None,
    };
    let settings = TaskSettings {
        cluster: "yard".to_owned(),
        definitions: Definitions { by_capability: [].into(), worker: "worker".to_owned(), prefix: String::new() },
        container: "worker".to_owned(),
        network: Network {
            subnets: vec!["subnet-1".to_owned()],
            security_groups: vec!["sg-1".to_owned()],
            public_address: false,
        },
        platform: None,
        spot: false,
        table: home.table().to_owned(),
        environment: Vec::new(),
        policies: None,
        tags: false,
        rates: LaunchRates::default(),
    };
    home.yard(Arc::new(EcsLauncher::new(doors, settings)), shelf())
}

async fn submit(yard: &Yard, life: &Life) -> Taken {
    let text = "x".repeat(life.bytes);
    let body = json!({ "capability": life.capability, "payload": { "text": text }, "announce": true });
    let (submission, digest) = intake::read(body.to_string().as_bytes()).expect("the test's own submission");
    let sender = Sender { caller: "tester", key: Some("once") };
    let situation = yard.situation().await;
    let prepared: Prepared = intake::prepare(
        &submission,
        digest,
        sender,
        &situation,
        Taking::default(),
        yard.ambient.now(),
        yard.ambient.random(),
    )
    .expect("the test's own submission");
    intake::accept(yard, vec![prepared]).await.expect("accept").remove(0).expect("taken")
}

/// What the killed process does.
async fn live(life: &Life) {
    let clients = clients(&life.endpoint, PROCESS);
    // What is paused is read once in its life, so that every life makes the same requests.
    let home = home_as(&clients, life.names(), Arc::new(System), Duration::from_secs(60));
    let yard = ruled(&home, &clients, Arc::new(System));
    let executor = Echo(life.runs.clone());
    let Taken { job, .. } = submit(&yard, life).await;
    match job.route.venue() {
        Venue::Fargate => drop(run(&yard, "task", &executor, Message::of(&job)).await),
        Venue::Inline | Venue::Function | Venue::Fleet => while work(&yard, "process", &executor, true).await == 0 {},
    }
}

/// Its own program again, to live this life.
fn spawn(test: &str, life: &Life) -> Child {
    Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", test, "--nocapture"])
        .env(LIFE, serde_json::to_string(life).expect("JSON"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("this program starts")
}

/// Whether this is the process that is to be killed; then it has lived, and the test is over for it.
fn is_the_process() -> bool {
    let Ok(life) = std::env::var(LIFE) else { return false };
    block(live(&serde_json::from_str(&life).expect("a life")));
    true
}

struct Scenario {
    test: &'static str,
    capability: &'static str,
    bytes: usize,
    /// Killed on both sides of each request, and not after it alone.
    both_sides: bool,
}

impl Scenario {
    /// On which sides of a request the process is killed. Before one request AWS holds what it held after the last: the two
    /// differ by what the process did in between, which is shown with the small job and need not be with every other.
    fn sides(&self) -> &'static [(&'static str, Action)] {
        static SIDES: [(&str, Action); 2] = [("after", Action::HoldAfter), ("before", Action::HoldBefore)];
        if self.both_sides || std::env::var_os(BOTH_SIDES).is_some() { &SIDES } else { &SIDES[..1] }
    }
}

/// A life on resources of its own, and the yard that is there when it is over.
async fn prepare(proxy: &Proxy, scenario: &Scenario, folder: &Path) -> (Life, Yard, Arc<Later>) {
    let names = names("crash");
    let life = Life {
        endpoint: proxy.endpoint(),
        name: names.table.clone(),
        capability: scenario.capability.to_owned(),
        bytes: scenario.bytes,
        runs: folder.join(&names.table),
    };
    let clients = clients(&proxy.endpoint(), "PARENT");
    let later = Arc::new(Later(AtomicI64::new(0)));
    let home = home(&clients, names, Arc::<Later>::clone(&later));
    home.declare(&clients, &pools()).await.expect("declare");
    proxy.script().clear();
    proxy.script().on(When::call(Service::Ecs, "RunTask").client("PARENT"), Action::Replace(STARTED.to_owned()));
    proxy.script().on(When::call(Service::Ecs, "ListTasks"), Action::Replace(r#"{"taskArns":[]}"#.to_owned()));
    let yard = ruled(&home, &clients, Arc::<Later>::clone(&later));
    (life, yard, later)
}

fn epochs_run(life: &Life) -> Vec<u32> {
    let lines = std::fs::read_to_string(&life.runs).unwrap_or_default();
    lines.lines().map(|line| line.parse().expect("an epoch")).collect()
}

/// The reaper and another worker bring whatever the process left to its end, a minute a round.
async fn recover(yard: &Yard, proxy: &Proxy, later: &Later, life: &Life, id: JobId, place: &str) -> Job {
    let executor = Echo(life.runs.clone());
    for _ in 0..24 {
        let mark = proxy.records().mark();
        reap::round(yard).await.unwrap_or_else(|error| panic!("{place}: {error:?}"));
        while work(yard, "another", &executor, false).await > 0 {}
        let launched = proxy.records().tally_since(mark).of(&Service::Ecs, "RunTask").requests;
        if launched > 0 {
            let job = yard.ledger.load(id).await.expect("load").expect("an accepted job is there");
            run(yard, "another task", &executor, Message::of(&job)).await;
        }
        let job = yard.ledger.load(id).await.expect("load").expect("an accepted job is there");
        if job.is_settled() && job.owed.is_empty() {
            return job;
        }
        later.0.fetch_add(65, Ordering::SeqCst);
    }
    let job = yard.ledger.load(id).await.expect("load");
    panic!("{place}: the reaper does not bring it to its end: {job:#?}")
}

fn every_crash_point(scenario: &Scenario) {
    if is_the_process() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let proxy = proxy(Emulator::MiniStack);
    let requests = block(async {
        let (life, _, _) = prepare(&proxy, scenario, folder.path()).await;
        proxy.script().on(When::call(Service::Ecs, "RunTask"), Action::Replace(STARTED.to_owned()));
        let mut process = spawn(scenario.test, &life);
        assert!(process.wait().expect("it ends").success(), "undisturbed, it lives its life");
        assert_eq!(epochs_run(&life).len(), 1);
        proxy.records().all().iter().filter(|record| record.client == PROCESS).count()
    });
    assert!(requests >= 7, "at least: accept, dispatch, claim, log, settle, announce, strike out: {requests}");
    let mut reached = 0;
    let sides = scenario.sides();
    // What a process does at once may differ by a request or two from life to life.
    for nth in 1..=requests + 1 {
        for (kept, action) in sides {
            let place = format!("killed {kept} request {nth} of {requests}");
            reached +=
                usize::from(block(one_crash_point(&proxy, scenario, folder.path(), nth, action.clone(), &place)));
        }
    }
    let all = sides.len() * requests;
    assert!(reached + 2 >= all, "nearly every crash point was reached: {reached} of {all}");
}

/// One life, killed at its `nth` request. Answers whether it came so far.
async fn one_crash_point(
    proxy: &Proxy,
    scenario: &Scenario,
    folder: &Path,
    nth: usize,
    action: Action,
    place: &str,
) -> bool {
    let (life, yard, later) = prepare(proxy, scenario, folder).await;
    let mark = proxy.records().mark();
    let held = proxy.script().on(When::any().client(PROCESS).nth(nth as u64), action);
    proxy.script().on(When::call(Service::Ecs, "RunTask"), Action::Replace(STARTED.to_owned()));
    let mut process = spawn(scenario.test, &life);
    let died = loop {
        tokio::select! {
            () = held.reached() => break true,
            () = tokio::time::sleep(Duration::from_millis(20)) => {
                if let Some(status) = process.try_wait().expect("it can be asked") {
                    assert!(status.success(), "{place}: it failed by itself");
                    break false;
                }
            }
        }
    };
    if died {
        process.kill().expect("kill");
        process.wait().expect("it is gone");
        proxy.script().cut(PROCESS);
    }
    let before = epochs_run(&life);
    // Whoever submitted it and heard nothing submits it again, under its key: it is the same job, or the first.
    let Taken { job, .. } = submit(&yard, &life).await;
    let listed = yard.ledger.list(&Query { limit: 10, ..Query::default() }).await.expect("list");
    assert_eq!(listed.len(), 1, "{place}: one job, however often it was submitted");
    let job = recover(&yard, proxy, &later, &life, job.id, place).await;
    proxy.script().clear();
    // Counts.
    let succeeded = job.timeline.iter().filter(|entry| entry.step == Some(Step::Succeed)).count();
    assert_eq!((job.phase(), succeeded), (Phase::Succeeded, 1), "{place}: settled, and once");
    assert_eq!((job.attempts_spent, job.permit), (0, None), "{place}: a crash is no failure of the job's");
    assert!(job.losses <= 1 && job.epoch.0 <= 3, "{place}: {} losses, epoch {}", job.losses, job.epoch);
    let runs = epochs_run(&life);
    assert!(runs.len() <= before.len() + 1, "{place}: one run more at most: {runs:?}");
    assert!(runs.windows(2).all(|pair| pair[0] < pair[1]), "{place}: each run at an epoch of its own: {runs:?}");
    let payload = json!({ "text": "x".repeat(life.bytes) }).to_string();
    let made = yard.ledger.result(job.id, job.epoch).await.expect("result").expect("a result");
    let made = match made {
        Body::Inline(text) => text,
        Body::Blob(blob) => yard.blobs.get(&blob).await.expect("get").expect("it is there"),
    };
    assert_eq!(made, payload, "{place}: the result of the run that settled it");
    assert_eq!(yard.ledger.permits(&life.capability).await.expect("permits").used(), 0, "{place}: no permit leaks");
    assert_eq!(yard.ledger.due(job.created + Duration::from_secs(1 << 30), 10).await.expect("due"), [], "{place}");
    let events = proxy.records().since(mark);
    let announced =
        events.iter().filter(|record| record.service == Service::Events && record.operation == "PutEvents").count();
    assert!((1..=3).contains(&announced), "{place}: announced at least once: {announced}");
    died
}

#[test]
fn a_small_job_survives_the_death_of_its_process_at_every_request() {
    every_crash_point(&Scenario {
        test: "a_small_job_survives_the_death_of_its_process_at_every_request",
        capability: "plain",
        bytes: 20,
        both_sides: true,
    });
}

#[test]
fn a_limited_job_with_a_payload_of_its_own_survives_the_death_of_its_process_at_every_request() {
    every_crash_point(&Scenario {
        test: "a_limited_job_with_a_payload_of_its_own_survives_the_death_of_its_process_at_every_request",
        capability: "limited",
        bytes: 5000,
        both_sides: false,
    });
}

#[test]
fn a_task_survives_the_death_of_its_process_at_every_request() {
    every_crash_point(&Scenario {
        test: "a_task_survives_the_death_of_its_process_at_every_request",
        capability: "task",
        bytes: 20,
        both_sides: false,
    });
}

#[test]
fn a_job_with_blobs_survives_the_death_of_its_process_at_every_request() {
    every_crash_point(&Scenario {
        test: "a_job_with_blobs_survives_the_death_of_its_process_at_every_request",
        capability: "plain",
        bytes: 100_000,
        both_sides: false,
    });
}
