//! The sweep, both ways, on emulators behind the proxy: the table and the tasks on MiniStack, the groups on moto. Each test is a
//! reaper that killed live work, or left something running for ever.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use switchyard_aws::clients::Clients;
use switchyard_aws::home::Home;
use switchyard_aws::inventory::{AwsInventory, Doors, TASKS_MOST, group_name};
use switchyard_aws::launcher_ecs::{self, EcsLauncher, started_by};
use switchyard_core::catalog::Catalog;
use switchyard_core::execute::LEASE;
use switchyard_core::job::{ClaimToken, Epoch, Holder, Job, JobId, Nonce, Phase};
use switchyard_core::memory::Memory;
use switchyard_core::policies::{Policies, Shelf};
use switchyard_core::ports::{
    Ambient, Body, Claim, Claimed, Inventory, Ledger, Message, NewJob, Room, Stage, Worker, Workers, Yard,
};
use switchyard_core::reap;
use switchyard_core::route::{Limits, Place, PoolName};
use switchyard_core::sweep::{self, SILENT, Swept, Tally};
use switchyard_faults::{Action, Proxy, Service, When};

use crate::emulated::yard::{clients, home, names, operations, proxy};
use crate::emulated::{Emulator, unique};
use crate::group::{LOOK, TERMINATE, failing};
use crate::world::{ARN, a_job, at, listed, settings};

const MINUTE: Duration = Duration::from_secs(60);
const CAPABILITIES: &str = r#"
version: 1
capabilities:
  - name: custodian
    summary: A test's
    run: { command: ["true"] }
"#;
const SUSPEND: &str = "SuspendProcesses";

/// A yard whose reaper sweeps.
struct SweptYard {
    table: Proxy,
    fleet: Proxy,
    clock: Memory,
    home: Home,
    yard: Yard,
    inventory: AwsInventory,
    direct: Clients,
    group: String,
}

impl SweptYard {
    /// Runs a test in a yard whose pool `standard` has so many instances of so many at least.
    async fn of(min: i32, desired: i32, test: impl AsyncFnOnce(&Self)) {
        let (table, fleet) = (proxy(Emulator::MiniStack), proxy(Emulator::Moto));
        let clock = Memory::new(at(0), 7);
        let ambient: Arc<dyn Ambient> = Arc::new(clock.clone());
        let (records, groups) = (clients(&table.endpoint(), "REAPER"), clients(&fleet.endpoint(), "REAPER"));
        let home = home(&records, names("sweep"), Arc::clone(&ambient));
        home.ledger.declare().await.unwrap();
        let catalog = Catalog::parse("test", CAPABILITIES, &[], &BTreeMap::new()).expect("the test's own catalog");
        let shelf = Arc::new(Shelf::new(Policies { catalog, limits: Limits::default(), ..Policies::default() }));
        let launcher = EcsLauncher::new(
            launcher_ecs::Doors {
                ecs: records.ecs(),
                ledger: Arc::new(home.ledger.clone()),
                blobs: Arc::new(clock.clone()),
                locate: Arc::new(|blob| blob.name.clone()),
                ambient: Arc::clone(&ambient),
                functions: None,
            },
            launcher_ecs::Settings { table: home.table().to_owned(), policies: None, ..settings() },
        );
        let yard = home.yard(Arc::new(launcher), Arc::clone(&shelf));
        let prefix = unique("yard");
        let group = group_name(&prefix, PoolName::STANDARD);
        let inventory = AwsInventory::new(Doors {
            autoscaling: groups.autoscaling(),
            groups: Some(prefix),
            ecs: records.ecs(),
            cluster: Some("yard".to_owned()),
            ledger: home.ledger.clone(),
            table: home.table().to_owned(),
            shelf,
            ambient,
        });
        let direct = clients(Emulator::Moto.endpoint(), "SETUP");
        let client = direct.autoscaling();
        let template = client.create_launch_configuration().launch_configuration_name(&group);
        template.image_id("ami-12345678").instance_type("t3.micro").send().await.unwrap();
        let make = client.create_auto_scaling_group().auto_scaling_group_name(&group).launch_configuration_name(&group);
        let make = make.min_size(min).max_size(5).desired_capacity(desired).availability_zones("us-east-1a");
        make.send().await.unwrap();
        let swept = Self { table, fleet, clock, home, yard, inventory, direct, group };
        test(&swept).await;
        let client = swept.direct.autoscaling();
        client
            .delete_auto_scaling_group()
            .auto_scaling_group_name(&swept.group)
            .force_delete(true)
            .send()
            .await
            .unwrap();
        client.delete_launch_configuration().launch_configuration_name(&swept.group).send().await.unwrap();
    }

    /// A round, in which ECS knows of these tasks.
    async fn round_with(&self, tasks: &[(&str, Message)]) -> Swept {
        let arns: Vec<&str> = tasks.iter().map(|(arn, _)| *arn).collect();
        self.table.script().play(When::call(Service::Ecs, "ListTasks").once(), listed(&arns).to_string());
        if !tasks.is_empty() {
            let task = |(arn, run): &(&str, Message)| {
                json!({ "taskArn": arn, "lastStatus": "RUNNING",
                        "startedBy": started_by(run.id, run.epoch, self.home.table()) })
            };
            let described = json!({ "tasks": tasks.iter().map(task).collect::<Vec<Value>>(), "failures": [] });
            self.table.script().play(When::call(Service::Ecs, "DescribeTasks").once(), described.to_string());
        }
        sweep::round(&self.yard, &self.inventory).await
    }

    async fn round(&self) -> Swept {
        self.round_with(&[]).await
    }

    /// How many the group is to have, and its instances.
    async fn now(&self) -> (i32, Vec<String>) {
        let described = self.direct.autoscaling().describe_auto_scaling_groups();
        let described = described.auto_scaling_group_names(&self.group).send().await.unwrap();
        let group = &described.auto_scaling_groups()[0];
        let ids = group.instances().iter().map(|one| one.instance_id().unwrap().to_owned()).collect();
        (group.desired_capacity().unwrap(), ids)
    }

    fn asked(&self, operation: &str) -> usize {
        operations(&self.fleet).iter().filter(|one| *one == operation).count()
    }

    async fn list(&self, instance: &str) -> Worker {
        let worker = Worker {
            holder: Holder::new(instance, Nonce(1)),
            pool: PoolName::STANDARD,
            capacity: Room::default(),
            free: Room::default(),
            since: at(0),
            leaving: false,
        };
        self.home.ledger.enter(&worker).await.unwrap();
        worker
    }

    async fn keep(&self, job: &Job) {
        let new = NewJob { job: job.clone(), payload: Body::Inline("{}".to_owned()) };
        self.home.ledger.accept(vec![new]).await.unwrap();
    }
}

fn tally(found: u64, marked: u64, unmarked: u64, done: u64) -> Tally {
    Tally { found, marked, unmarked, done, ..Tally::default() }
}

#[tokio::test]
async fn a_machine_that_never_reports_is_ended_after_ten_minutes_and_its_group_gets_smaller_once() {
    SweptYard::of(0, 2, async |yard| {
        let (_, ids) = yard.now().await;
        // One of them works.
        for minute in 0..=10 {
            yard.list(&ids[0]).await;
            let swept = yard.round().await;
            let done = u64::from(minute == 10);
            assert_eq!(swept.machines, tally(1, u64::from(minute == 0), 0, done), "minute {minute}");
            assert_eq!(yard.asked(TERMINATE), usize::from(minute == 10));
            yard.clock.advance(MINUTE);
        }
        assert_eq!(yard.now().await, (1, vec![ids[0].clone()]));
        yard.list(&ids[0]).await;
        assert_eq!(yard.round().await.machines, tally(0, 0, 1, 0), "it is gone, and so is its mark");
        assert_eq!(yard.asked(TERMINATE), 1);
    })
    .await;
}

#[tokio::test]
async fn a_machine_that_is_told_to_end_and_is_slow_is_not_told_again_at_once() {
    SweptYard::of(0, 1, async |yard| {
        let (_, ids) = yard.now().await;
        yard.round().await;
        yard.clock.advance(SILENT);
        // The order is taken, and nothing is seen of it: the group still shows the instance at work.
        let taken = "<TerminateInstanceInAutoScalingGroupResponse/>";
        yard.fleet.script().play(When::call(Service::AutoScaling, TERMINATE).once(), taken.to_owned());
        assert_eq!(yard.round().await.machines.done, 1);
        for _ in 0..5 {
            yard.clock.advance(MINUTE);
            assert_eq!(yard.round().await.machines, tally(1, 0, 0, 0));
        }
        assert_eq!((yard.asked(TERMINATE), yard.now().await), (1, (1, ids)));
        yard.clock.advance(SILENT);
        assert_eq!(yard.round().await.machines.done, 1);
        assert_eq!(yard.now().await, (0, vec![]), "an idle yard ends at nothing");
    })
    .await;
}

#[tokio::test]
async fn a_machine_whose_worker_reports_late_is_unmarked() {
    SweptYard::of(0, 1, async |yard| {
        let (_, ids) = yard.now().await;
        assert_eq!(yard.round().await.machines, tally(1, 1, 0, 0));
        yard.clock.advance(SILENT - MINUTE);
        yard.list(&ids[0]).await;
        assert_eq!(yard.round().await.machines, tally(0, 0, 1, 0));
        // Listed no more, it may yet be alive: its clock may be slow, or the table may refuse what it says.
        yard.clock.advance(2 * MINUTE + Duration::from_secs(1));
        assert_eq!(yard.round().await.machines, tally(0, 0, 0, 0));
        // Its next silence counts from its own beginning. What was read of the list holds for real seconds.
        yard.clock.advance(16 * MINUTE);
        yard.home.ledger.workers_now().await.unwrap();
        assert_eq!(yard.round().await.machines, tally(1, 1, 0, 0));
        assert_eq!((yard.asked(TERMINATE), yard.now().await.0), (0, 1));
    })
    .await;
}

#[tokio::test]
async fn a_machine_at_its_group_s_minimum_is_replaced() {
    SweptYard::of(1, 1, async |yard| {
        let (_, ids) = yard.now().await;
        yard.round().await;
        yard.clock.advance(SILENT);
        assert_eq!(yard.round().await.machines.done, 1);
        let (desired, now) = yard.now().await;
        assert_eq!((desired, now.len()), (1, 1));
        assert_ne!(now, ids);
    })
    .await;
}

#[tokio::test]
async fn a_worker_without_a_machine_is_struck_out_at_the_second_look() {
    SweptYard::of(0, 1, async |yard| {
        let (_, ids) = yard.now().await;
        let gone = yard.list("i-0123456789abcdef0").await;
        // Neither the machine that is there nor a worker that somebody has started on their own.
        let others = [yard.list(&ids[0]).await, yard.list("a-laptop").await];
        assert_eq!(yard.round().await.workers, tally(1, 1, 0, 0));
        assert!(Workers::list(&yard.home.ledger).await.unwrap().contains(&gone), "one look never acts");
        yard.clock.advance(MINUTE);
        assert_eq!(yard.round().await.workers, tally(1, 0, 0, 1));
        let mut listed = Workers::list(&yard.home.ledger).await.unwrap();
        listed.sort_by_key(|worker| worker.holder != others[0].holder);
        assert_eq!(listed, others);
    })
    .await;
}

#[tokio::test]
async fn a_task_without_a_job_is_stopped_at_the_second_look_and_one_with_a_job_is_not() {
    SweptYard::of(0, 0, async |yard| {
        let job = a_job(Place::Fargate);
        yard.keep(&job).await;
        let wanted = ("arn:aws:ecs:eu-central-1:1:task/yard/wanted", Message::of(&job));
        let unknown = (ARN, Message { id: JobId::keyed("tests", "forgotten"), epoch: Epoch(1) });
        let tasks = [wanted, unknown];
        assert_eq!(yard.round_with(&tasks).await.tasks, tally(1, 1, 0, 0));
        yard.clock.advance(MINUTE);
        let script = yard.table.script();
        let of_run = When::call(Service::Ecs, "ListTasks").once();
        // The sweep's list first, then the launcher's of the run that it stops.
        script.play(of_run.clone(), listed(&[wanted.0, unknown.0]).to_string());
        let task = |(arn, run): (&str, Message)| {
            json!({ "taskArn": arn, "startedBy": started_by(run.id, run.epoch, yard.home.table()) })
        };
        let described = json!({ "tasks": [task(wanted), task(unknown)], "failures": [] });
        script.play(When::call(Service::Ecs, "DescribeTasks").once(), described.to_string());
        script.play(of_run, listed(&[unknown.0]).to_string());
        script.play(When::call(Service::Ecs, "StopTask").once(), json!({ "task": {} }).to_string());
        let swept = sweep::round(&yard.yard, &yard.inventory).await;
        assert_eq!(swept.tasks, tally(1, 0, 0, 1));
        let stopped: Vec<Value> = yard.table.records().requests("StopTask");
        assert_eq!(stopped.iter().map(|one| one["task"].clone()).collect::<Vec<_>>(), [ARN]);
        yard.clock.advance(MINUTE);
        assert_eq!(yard.round_with(&[wanted]).await.tasks, tally(0, 0, 1, 0));
    })
    .await;
}

#[tokio::test]
async fn a_task_that_ends_a_moment_after_its_job_is_never_stopped() {
    SweptYard::of(0, 0, async |yard| {
        let run = Message { id: JobId::keyed("tests", "done"), epoch: Epoch(1) };
        assert_eq!(yard.round_with(&[(ARN, run)]).await.tasks, tally(1, 1, 0, 0));
        yard.clock.advance(MINUTE);
        assert_eq!(yard.round().await.tasks, tally(0, 0, 1, 0));
        assert_eq!(yard.table.records().requests("StopTask"), Vec::<Value>::new());
    })
    .await;
}

#[tokio::test]
async fn tasks_of_others_in_the_cluster_are_nobody_s_affair_here() {
    SweptYard::of(0, 0, async |yard| {
        let run = Message { id: JobId::keyed("tests", "theirs"), epoch: Epoch(1) };
        for round in 0..3 {
            yard.table.script().play(When::call(Service::Ecs, "ListTasks").once(), listed(&[ARN, "b"]).to_string());
            let theirs = json!({ "tasks": [
                { "taskArn": ARN, "startedBy": started_by(run.id, run.epoch, "another-table") },
                { "taskArn": "b", "startedBy": "ecs-svc/123" },
            ], "failures": [{ "arn": "c", "reason": "MISSING" }] });
            yard.table.script().play(When::call(Service::Ecs, "DescribeTasks").once(), theirs.to_string());
            assert_eq!(sweep::round(&yard.yard, &yard.inventory).await, Swept::default(), "round {round}");
            yard.clock.advance(MINUTE);
        }
    })
    .await;
}

#[tokio::test]
async fn a_throttled_description_acts_on_nothing_and_forgets_nothing() {
    SweptYard::of(0, 1, async |yard| {
        let gone = yard.list("i-0123456789abcdef0").await;
        yard.round().await;
        yard.clock.advance(SILENT);
        let worker = yard.list("i-0123456789abcdef0").await;
        assert_eq!(worker.holder, gone.holder);
        // As often as the client tries.
        let throttled = || failing(400, "Throttling", "Rate exceeded");
        yard.fleet.script().on(When::call(Service::AutoScaling, LOOK).first(5), throttled());
        let blind = yard.round().await;
        assert_eq!((blind.unseen, blind.machines, blind.workers), (1, Tally::default(), Tally::default()));
        assert_eq!((yard.asked(TERMINATE), yard.now().await.0), (0, 1));
        assert_eq!(Workers::list(&yard.home.ledger).await.unwrap().len(), 1);
        // The marks are as they were: the next look that sees something is a later one.
        let next = yard.round().await;
        assert_eq!((next.machines.done, next.workers.done), (0, 1), "the machine's silence begins anew");
        yard.clock.advance(SILENT);
        assert_eq!(yard.round().await.machines.done, 1);
    })
    .await;
}

#[tokio::test]
async fn a_table_that_does_not_answer_keeps_every_machine_alive() {
    SweptYard::of(0, 1, async |yard| {
        yard.round().await;
        yard.clock.advance(SILENT);
        let refused = || Action::Fail { code: "AccessDeniedException".into(), status: 400, message: "no".into() };
        yard.table.script().on(When::call(Service::DynamoDb, "PutItem").once(), refused());
        let swept = yard.round().await;
        assert_eq!((swept.unseen, swept.machines), (1, Tally::default()), "save, then act");
        yard.table.script().on(When::call(Service::DynamoDb, "GetItem").once(), refused());
        assert_eq!(yard.round().await.unseen, 1);
        // Whoever is listed makes the process ask anew.
        yard.list("a-laptop").await;
        yard.table.script().on(When::call(Service::DynamoDb, "Query").once(), refused());
        assert_eq!(yard.round().await.unseen, 1, "who works is not known");
        assert_eq!((yard.asked(TERMINATE), yard.now().await.0), (0, 1));
    })
    .await;
}

#[tokio::test]
async fn marks_whose_answer_was_lost_are_known_by_their_own_number_and_of_two_writers_one_wins() {
    SweptYard::of(0, 1, async |yard| {
        let before = yard.inventory.marks().await.unwrap();
        yard.table.script().on(When::call(Service::DynamoDb, "PutItem").once(), Action::ResetAfter);
        assert_eq!(yard.round().await.machines, tally(1, 1, 0, 0));
        let after = yard.inventory.marks().await.unwrap();
        assert_eq!(after.marks.len(), 1);
        assert!(!yard.inventory.remember(&before, vec![]).await.unwrap(), "somebody has written since");
        assert!(yard.inventory.remember(&after, vec![]).await.unwrap());
        assert!(!yard.inventory.remember(&after, vec![]).await.unwrap());
    })
    .await;
}

#[tokio::test]
async fn a_group_is_told_once_not_to_balance_its_zones() {
    SweptYard::of(0, 0, async |yard| {
        for _ in 0..3 {
            yard.round().await;
        }
        assert_eq!(operations(&yard.fleet), [LOOK, SUSPEND, LOOK, LOOK]);
        let suspended = &yard.fleet.records().requests(SUSPEND)[0];
        assert_eq!(suspended["ScalingProcesses.member.1"], "AZRebalance");
    })
    .await;
}

#[tokio::test]
async fn a_sweep_over_nothing_is_four_requests_and_a_list_of_tasks_has_an_end() {
    SweptYard::of(0, 0, async |yard| {
        yard.round().await;
        let (table, fleet) = (yard.table.records().mark(), yard.fleet.records().mark());
        // Who works is read for more than the sweep, and is fresh when that has its turn.
        yard.clock.advance(MINUTE);
        assert_eq!(yard.round().await, Swept::default());
        let (table, fleet) = (yard.table.records().tally_since(table), yard.fleet.records().tally_since(fleet));
        assert_eq!((table.total().requests, fleet.total().requests), (3, 1), "{}", table.table());
        // A thousand tasks, and more.
        let arns: Vec<String> = (0..100).map(|n| format!("arn:aws:ecs:eu-central-1:1:task/yard/{n}")).collect();
        let page = json!({ "taskArns": arns, "nextToken": "more" });
        let pages = TASKS_MOST / 100;
        for _ in 0..pages {
            yard.table.script().play(When::call(Service::Ecs, "ListTasks").once(), page.to_string());
            let none = json!({ "tasks": [], "failures": [] });
            yard.table.script().play(When::call(Service::Ecs, "DescribeTasks").once(), none.to_string());
        }
        let mark = yard.table.records().mark();
        assert!(!yard.inventory.tasks().await.unwrap().whole);
        assert_eq!(yard.table.records().tally_since(mark).total().requests, 2 * pages as u64);
    })
    .await;
}

#[tokio::test]
async fn a_job_without_a_task_is_launched_again_as_the_same_launch() {
    SweptYard::of(0, 0, async |yard| {
        let job = a_job(Place::Fargate);
        yard.keep(&job).await;
        yard.clock.advance(MINUTE);
        // No task of it: the same request again, which is one launch to ECS however often it is made.
        yard.table.script().play(When::call(Service::Ecs, "ListTasks").once(), listed(&[]).to_string());
        let launched = json!({ "tasks": [{ "taskArn": ARN, "lastStatus": "PROVISIONING" }], "failures": [] });
        yard.table.script().play(When::call(Service::Ecs, "RunTask").once(), launched.to_string());
        let told = json!({ "tasks": [{ "taskArn": ARN, "lastStatus": "RUNNING" }], "failures": [] });
        yard.table.script().play(When::call(Service::Ecs, "DescribeTasks").once(), told.to_string());
        let counts = reap::round(&yard.yard).await.unwrap();
        assert_eq!((counts.found, counts.done), (1, 1), "{:?}", operations(&yard.table));
        let asked = yard.table.records().requests("RunTask");
        assert_eq!(asked.len(), 1, "{:?}", operations(&yard.table));
        assert_eq!(asked[0]["startedBy"], started_by(job.id, job.epoch, yard.home.table()));
        let now = yard.yard.ledger.load(job.id).await.unwrap().unwrap();
        assert_eq!((now.epoch, now.phase()), (job.epoch, Phase::Dispatched), "no new epoch, and no attempt");
    })
    .await;
}

#[tokio::test]
async fn a_job_whose_task_is_gone_while_it_runs_is_given_up_at_its_beat_s_second_look() {
    SweptYard::of(0, 0, async |yard| {
        let job = a_job(Place::Fargate);
        yard.keep(&job).await;
        let claim = Claim {
            id: job.id,
            epoch: job.epoch,
            holder: Holder::new("task", Nonce(1)),
            token: ClaimToken::new([7; 32]).hash(),
            at_most: None,
            room: None,
        };
        let claimed =
            yard.yard.ledger.claim(&claim, &yard.yard.situation().await, yard.yard.ambient.now()).await.unwrap();
        assert!(matches!(claimed, Claimed::Won(..)), "{claimed:?}");
        let mut phases = Vec::new();
        for _ in 0..2 {
            yard.clock.advance(LEASE + MINUTE);
            assert_eq!(reap::round(&yard.yard).await.unwrap().found, 1);
            let now = yard.yard.ledger.load(job.id).await.unwrap().unwrap();
            phases.push((now.phase(), now.epoch.0, now.losses, now.attempts_spent));
        }
        let given_up = (Phase::Dispatched, job.epoch.0 + 1, 1, 0);
        assert_eq!(phases, [(Phase::Running, job.epoch.0, 0, 0), given_up], "one look never acts");
    })
    .await;
}

#[tokio::test]
async fn machines_are_seen_in_every_stage_of_their_life() {
    SweptYard::of(0, 2, async |yard| {
        let machines = yard.inventory.machines().await.unwrap();
        assert_eq!(machines.pools, [PoolName::STANDARD], "the other pools have no group");
        assert!(machines.machines.iter().all(|one| one.stage == Stage::AtWork && one.pool == PoolName::STANDARD));
        assert_eq!(machines.machines.len(), 2);
    })
    .await;
}
