//! The program on AWS: workers and tasks of a yard on MiniStack, and what an operator publishes there.

mod bounds;
mod ec2;
mod engine;
mod fleet;
mod host;
mod instance;
mod scene;

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use scene::{CATALOG, Ended, Scene, unique};
use switchyard_aws::policies_s3::{Parse, S3Policies};
use switchyard_builtins::builtin;
use switchyard_builtins::system::System;
use switchyard_core::job::{Holder, Job, Phase, State};
use switchyard_core::policies::{NotReloaded, Policies, Reload as _, Shelf};
use switchyard_core::ports::{Beat, Message, Workers};

/// Runs a test that has to wait for something.
fn block<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(test)
}

fn tell(child: &std::process::Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// The entry point of the task that was launched for a job.
fn task(scene: &Scene, job: &Job) -> std::process::Command {
    let mut command = scene.switchyard();
    command.args(["worker", "--once"]);
    command.env("SWITCHYARD_JOB_ID", job.id.to_string()).env("SWITCHYARD_EPOCH", job.epoch.to_string());
    command
}

/// The fleet's worker, for so long without a job.
fn worker(scene: &Scene, idle_seconds: &str) -> std::process::Command {
    let mut command = scene.switchyard();
    command.args(["worker", "--no-docker", "--slots", "2", "--idle-seconds", idle_seconds]);
    command
}

/// Waits until a worker has struck itself out, and spares it the wait for its last receives.
async fn went_home(scene: &Scene, child: std::process::Child) -> Ended {
    let given_up = Instant::now() + Duration::from_secs(20);
    while !scene.home.ledger.list().await.unwrap().is_empty() {
        assert!(Instant::now() < given_up, "it is still listed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tell(&child, Signal::TERM);
    let ended = Ended::after(child).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    ended
}

/// A holder's first beat with a run in it: its heart beats as soon as it runs something.
async fn first_beat(scene: &Scene, holder: &Holder) -> Beat {
    let given_up = Instant::now() + Duration::from_secs(20);
    loop {
        match scene.yard.ledger.last_beat(holder).await.unwrap() {
            Some(beat) if !beat.running.is_empty() => return beat,
            beat => assert!(Instant::now() < given_up, "no beat of {holder}: {beat:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Tells a worker to leave, and waits until it has.
async fn goes_home(scene: &Scene, child: std::process::Child) -> Ended {
    tell(&child, Signal::TERM);
    went_home(scene, child).await
}

#[test]
fn a_task_runs_the_job_it_was_launched_for_with_its_finding_and_no_credentials() {
    block(async {
        let scene = Scene::open("task").await;
        let script =
            "echo \"answers $POLICY_KEY in $AWS_REGION\"; env | grep -c -e ^AWS_SECRET -e ^SWITCHYARD_TABLE; exit 0";
        for (capability, from_image) in [("task", ""), ("image", "/opt/tool")] {
            let job = scene.submit(capability, &format!("echo \"image $TOOL_HOME\"; {script}"), "standard").await;
            let handed = [("POLICY_KEY", "policies/custodian/a.yml"), ("TOOL_HOME", "/opt/tool")];
            let ended = Ended::of(task(&scene, &job).envs(handed)).await;
            assert_eq!(ended.code, Some(0), "{ended:?}");
            assert_eq!(scene.job(&job).await.phase(), Phase::Succeeded, "{ended:?}");
            let printed = format!("image {from_image}\nanswers policies/custodian/a.yml in us-east-1\n0\n");
            assert_eq!(scene.log(&job).await, printed);
            assert!(
                ended.stdout.lines().all(|line| line.contains("\"_aws\"")) && !ended.stdout.is_empty(),
                "{ended:?}"
            );
            // As ECS may: the same task twice. The record says that there is nothing to do.
            let again = Ended::of(&mut task(&scene, &job)).await;
            assert_eq!((again.code, again.stdout.as_str()), (Some(0), ""), "{again:?}");
        }
    });
}

#[test]
fn an_image_s_own_command_runs_where_the_capability_has_none() {
    block(async {
        let scene = Scene::open("bare").await;
        let of = async |words: &[&str]| {
            let job = scene.submit("bare", "", "standard").await;
            let ended = Ended::of(task(&scene, &job).args(words)).await;
            assert_eq!(ended.code, Some(0), "{ended:?}");
            (scene.job(&job).await, scene.log(&job).await)
        };
        let (job, log) = of(&["sh", "-c", "echo from the image"]).await;
        assert_eq!((job.phase(), log.as_str()), (Phase::Succeeded, "from the image\n"));
        let (job, _) = of(&[]).await;
        let State::Settled(settlement) = &job.state else { panic!("{job:?}") };
        assert!(format!("{settlement:?}").contains("no_command"), "{settlement:?}");
    });
}

#[test]
fn a_worker_drains_every_tier_and_goes_home_when_it_is_idle() {
    block(async {
        let scene = Scene::open("tiers").await;
        let mut jobs = Vec::new();
        for tier in ["standard", "priority", "synchronous"] {
            jobs.push(scene.submit("sh", "echo done", tier).await);
        }
        let child = worker(&scene, "1").spawn().unwrap();
        for job in &jobs {
            scene.until(job, Phase::Succeeded).await;
        }
        let ended = went_home(&scene, child).await;
        for job in &jobs {
            assert_eq!(scene.log(job).await, "done\n");
        }
        assert!(ended.stdout.lines().all(|line| line.contains("\"_aws\"")) && !ended.stdout.is_empty(), "{ended:?}");
    });
}

#[test]
fn told_to_leave_a_worker_and_a_task_give_back_what_runs() {
    block(async {
        let scene = Scene::open("drained").await;
        let (queued, launched) =
            (scene.submit("sh", "sleep 60", "standard").await, scene.submit("task", "sleep 60", "standard").await);
        let programs = [(&queued, worker(&scene, "60")), (&launched, task(&scene, &launched))];
        for (job, mut program) in programs {
            let child = program.spawn().unwrap();
            let running = scene.until(job, Phase::Running).await;
            let State::Running(run) = &running.state else { panic!("{running:?}") };
            let beat = first_beat(&scene, &run.holder).await;
            assert_eq!(beat.running, [Message { id: job.id, epoch: job.epoch }]);
            if job.id == queued.id {
                let listed = scene.home.ledger.list().await.unwrap();
                assert_eq!(
                    listed.iter().map(|one| (&one.holder, one.capacity.slots)).collect::<Vec<_>>(),
                    [(&run.holder, 2)]
                );
            }
            let told = Instant::now();
            let ended = if job.id == queued.id {
                goes_home(&scene, child).await
            } else {
                tell(&child, Signal::TERM);
                Ended::after(child).await
            };
            assert!(told.elapsed() < Duration::from_secs(25), "ECS waits 30 s");
            assert_eq!(ended.code, Some(0), "{ended:?}");
            let back = scene.job(job).await;
            assert_eq!((back.phase(), back.epoch.0), (Phase::Dispatched, job.epoch.0 + 1), "{ended:?}");
            assert_eq!((back.attempts_spent, back.interruptions), (0, 1));
        }
        // Its doorbell rings again: whoever comes next takes it. Killed, that one leaves a beat that moves no more.
        let mut child = worker(&scene, "60").spawn().unwrap();
        let running = scene.until(&queued, Phase::Running).await;
        let State::Running(run) = &running.state else { panic!("{running:?}") };
        let beat = first_beat(&scene, &run.holder).await;
        assert_eq!(beat.running, [Message { id: queued.id, epoch: running.epoch }]);
        tell(&child, Signal::KILL);
        child.wait().unwrap();
        assert_eq!(scene.yard.ledger.last_beat(&run.holder).await.unwrap(), Some(beat));
        assert_eq!(scene.job(&queued).await.phase(), Phase::Running, "until the reaper buries its holder");
    });
}

#[test]
fn what_is_wrong_with_its_environment_is_told_in_a_sentence() {
    block(async {
        let scene = Scene::open("wrong").await;
        let job = scene.submit("task", "true", "standard").await;
        let mut told = Vec::new();
        let mut refused = async |case: &str, command: &mut std::process::Command, code: i32| {
            let ended = Ended::of(command).await;
            assert_eq!((ended.code, ended.stdout.as_str()), (Some(code), ""), "{case}: {ended:?}");
            assert!(ended.said().starts_with("switchyard: "), "{case}: {ended:?}");
            let said = ended.said().replace(&scene.names.table, "[yard]");
            let said = said.split(" (request ").next().unwrap();
            // The holder is another each time.
            let said: Vec<&str> =
                said.split(' ').map(|word| if word.starts_with("live#") { "[worker]" } else { word }).collect();
            let said = said.join(" ");
            told.push(format!("{case}\n    exit {code}: {said}"));
        };
        refused("no job", scene.switchyard().args(["worker", "--once"]), 2).await;
        refused("no epoch", task(&scene, &job).env_remove("SWITCHYARD_EPOCH"), 2).await;
        refused("an id that is none", task(&scene, &job).env("SWITCHYARD_JOB_ID", "seven"), 2).await;
        refused("an epoch that is none", task(&scene, &job).env("SWITCHYARD_EPOCH", "-1"), 2).await;
        refused("no table named", task(&scene, &job).env_remove("SWITCHYARD_TABLE"), 2).await;
        refused("no region", worker(&scene, "1").env_remove("AWS_REGION"), 2).await;
        refused("no policies' bucket", worker(&scene, "1").env("POLICY_BUCKET", "no-such-bucket"), 7).await;
        refused("no table there", task(&scene, &job).env("SWITCHYARD_TABLE", "no-such-table"), 8).await;
        refused("no table there, for a worker", worker(&scene, "1").env("SWITCHYARD_TABLE", "no-such-table"), 8).await;
        refused("no queues there", worker(&scene, "1").env("SWITCHYARD_QUEUES", "no-such-queues"), 8).await;
        refused("no pool", worker(&scene, "1").args(["--pool", "No Pool"]), 2).await;
        refused("a pool that is not there", worker(&scene, "1").args(["--pool", "gpu"]), 2).await;
        refused("a pool of the environment that is not there", worker(&scene, "1").env("SWITCHYARD_POOL", "gpu"), 2)
            .await;
        refused("a command without --once", worker(&scene, "1").arg("sh"), 2).await;
        let removed = scene.clients.s3().delete_object().bucket(&scene.names.bucket).key("policies.json").send().await;
        removed.unwrap();
        refused("no policies pushed", &mut worker(&scene, "1"), 7).await;
        insta::assert_snapshot!(told.join("\n"));
    });
}

#[test]
fn policies_are_pushed_whole_and_broken_ones_not_at_all() {
    block(async {
        let scene = Scene::open("policies").await;
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("capabilities.yaml"), CATALOG.replace("name: sh", "name: shell")).unwrap();
        let push = || {
            let mut command = scene.switchyard();
            command.args(["policies", "push", "--bucket", &scene.names.bucket]).arg(folder.path());
            command
        };
        let ended = Ended::of(&mut push()).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.stdout.starts_with("5 capabilities in force within a minute: 1 objects written"), "{ended:?}");
        // The yard's next process knows the new name and the old one no more.
        let job = scene.submit("sh", "true", "standard").await;
        let child = worker(&scene, "60").spawn().unwrap();
        let held = scene.until(&job, Phase::Held).await;
        assert!(format!("{:?}", held.timeline).contains("its capability is not in the catalog"), "{held:?}");
        goes_home(&scene, child).await;
        std::fs::write(folder.path().join("capabilities.yaml"), "version: 1\ncapabilities: [{ name: x }]\n").unwrap();
        let read = async || {
            let object = scene.clients.s3().get_object().bucket(&scene.names.bucket).key("policies.json").send().await;
            object.unwrap().body.collect().await.unwrap().to_vec()
        };
        let before = read().await;
        let ended = Ended::of(&mut push()).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{ended:?}");
        assert!(ended.stderr.contains("capabilities.yaml:2:"), "{ended:?}");
        assert_eq!(read().await, before, "nothing is written");
        let built_in = Ended::of(scene.switchyard().args(["--json", "policies", "push"])).await;
        let told: serde_json::Value = serde_json::from_str(&built_in.stdout).unwrap();
        assert!(told["written"].as_u64().is_some_and(|written| written > 5), "{built_in:?}");
        let none = Ended::of(scene.switchyard().args(["policies", "push", "--bucket", "no-such-bucket"])).await;
        assert_eq!(none.code, Some(8), "{none:?}");
        assert!(none.said().contains("no-such-bucket") && none.said().contains("NoSuchBucket"), "{none:?}");
    });
}

#[test]
fn policies_that_are_removed_from_their_bucket_stay_in_force_where_they_are() {
    block(async {
        let scene = Scene::open("removed").await;
        let (shelf, ambient) = (Arc::new(Shelf::default()), Arc::new(System));
        let parse: Parse = Arc::new(|files| Policies::parse_pushed(files, builtin::ALL));
        let policies = S3Policies::new(&scene.clients, &scene.names.bucket, Arc::clone(&shelf), parse, ambient);
        policies.load().await.unwrap();
        let digest = shelf.policies().digest.clone();
        assert_eq!(digest, policies.reload().await.unwrap().digest);
        let removed = scene.clients.s3().delete_object().bucket(&scene.names.bucket).key("policies.json").send().await;
        removed.unwrap();
        let told = policies.reload().await.unwrap_err();
        assert!(matches!(&told, NotReloaded::Failed(why) if why.contains("`switchyard policies push`")), "{told:?}");
        assert_eq!(shelf.policies().digest, digest);
        policies.load().await.unwrap();
        assert_eq!(shelf.policies().digest, digest);
    });
}

#[test]
fn a_task_definition_is_registered_for_each_task_image_and_only_when_it_differs() {
    block(async {
        let scene = Scene::open("apply").await;
        let folder = tempfile::tempdir().unwrap();
        let catalog = folder.path().join("capabilities.yaml");
        std::fs::write(&catalog, CATALOG).unwrap();
        let ecs = scene.clients.ecs();
        let prefix = unique("yard") + "-";
        let like = format!("{prefix}worker");
        let register = async |family: &str, variable: &str| {
            use aws_sdk_ecs::types::{Compatibility, ContainerDefinition, KeyValuePair, NetworkMode};
            let set = KeyValuePair::builder().name("SWITCHYARD_TABLE").value(variable).build();
            let worker = ContainerDefinition::builder().name("worker").image("worker@sha256:ff").environment(set);
            let asked = ecs.register_task_definition().family(family).cpu("256").memory("512");
            let asked = asked.network_mode(NetworkMode::Awsvpc).requires_compatibilities(Compatibility::Fargate);
            asked.container_definitions(worker.build()).send().await.unwrap();
        };
        register(&like, "a").await;
        register(&format!("{prefix}gone"), "a").await;
        let apply = || {
            let mut command = scene.switchyard();
            command
                .args(["capabilities", "apply", "--like", &like, "--prefix", &prefix, "--policies"])
                .arg(folder.path());
            command
        };
        let said = async |command: &mut std::process::Command| {
            let ended = Ended::of(command).await;
            assert_eq!(ended.code, Some(0), "{ended:?}");
            assert!(ended.stderr.contains("warning: capability bare") && !ended.stderr.contains("capability image"));
            ended.stdout.replace(&prefix, "yard-")
        };
        let left = "left: yard-gone is of no capability; deregister it once nothing of it runs\n";
        let dry = "bare: would register yard-bare (new)\nimage: would register yard-image (new)\n";
        assert_eq!(said(apply().arg("--dry-run")).await, format!("{dry}{left}"));
        let first = "bare: registered yard-bare:1 (new)\nimage: registered yard-image:1 (new)\n";
        assert_eq!(said(&mut apply()).await, format!("{first}{left}"));
        let same = "bare: unchanged yard-bare:1\nimage: unchanged yard-image:1\n";
        assert_eq!(said(&mut apply()).await, format!("{same}{left}"));
        let made = ecs.describe_task_definition().task_definition(format!("{prefix}image")).send().await.unwrap();
        let made = made.task_definition.unwrap();
        assert_eq!((made.cpu(), made.memory()), (Some("256"), Some("2048")));
        assert!(made.container_definitions()[0].image().unwrap().starts_with("registry.example.com/tool@sha256:"));
        register(&like, "b").await;
        std::fs::write(&catalog, CATALOG.replace("memory_mib: 1500", "memory_mib: 3000")).unwrap();
        let changed =
            "bare: registered yard-bare:2 (environment)\nimage: registered yard-image:2 (size, environment)\n";
        assert_eq!(said(&mut apply()).await, format!("{changed}{left}"));
        let none =
            Ended::of(scene.switchyard().args(["capabilities", "apply", "--like", "none", "--prefix", "x-"])).await;
        assert_eq!(none.code, Some(2), "{none:?}");
        assert!(none.said().contains("--like none: there is no such task definition"), "{none:?}");
    });
}
