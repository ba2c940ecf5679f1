//! A worker on an EC2 instance of a group: the real program, beside a metadata service and a group.

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use switchyard_core::job::{Job, Phase, State};
use switchyard_core::ports::Workers;

use crate::ec2::{Metadata, OfMoto};
use crate::scene::{Ended, Scene, moto, unique};
use crate::{block, tell};

/// One instance of a group, with a worker on it.
pub(crate) struct OnEc2 {
    pub(crate) scene: Scene,
    pub(crate) group: OfMoto,
    pub(crate) instance: String,
    pub(crate) metadata: Metadata,
}

impl OnEc2 {
    pub(crate) async fn open(what: &str, min: i32, desired: i32) -> Self {
        let scene = Scene::open(what).await;
        let group = OfMoto::of(&unique(what), min, desired, 4).await;
        let instance = group.instances().await.remove(0);
        let metadata = Metadata::of(&instance);
        Self { scene, group, instance, metadata }
    }

    pub(crate) fn worker(&self, idle_seconds: &str) -> Command {
        let mut command = self.scene.switchyard();
        command.args(["worker", "--no-docker", "--slots", "2", "--idle-seconds", idle_seconds]);
        command.env("SWITCHYARD_GROUP", &self.group.name).env("AWS_ENDPOINT_URL_AUTO_SCALING", moto());
        command.env("AWS_EC2_METADATA_SERVICE_ENDPOINT", &self.metadata.endpoint);
        command
    }

    pub(crate) async fn runs(&self, job: &Job) {
        let job = self.scene.until(job, Phase::Running).await;
        let State::Running(run) = &job.state else { panic!("{job:?}") };
        assert_eq!(run.holder.instance(), self.instance, "it claims in the instance's name");
    }

    /// Waits until the worker has struck itself out, or is listed as one that leaves, and spares it the wait for its last
    /// receives.
    pub(crate) async fn ended(&self, child: Child) -> Ended {
        let given_up = Instant::now() + Duration::from_secs(40);
        while self.scene.home.ledger.list().await.unwrap().iter().any(|worker| !worker.leaving) {
            assert!(Instant::now() < given_up, "it is still counted on");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tell(&child, Signal::TERM);
        let ended = Ended::after(child).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        ended
    }

    /// Waits until the worker has gone by itself: struck itself out, and left its group.
    async fn gone_home(&self, child: Child) -> Ended {
        let given_up = Instant::now() + Duration::from_secs(40);
        while !self.scene.home.ledger.list().await.unwrap().is_empty() {
            assert!(Instant::now() < given_up, "it is still listed");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.ended(child).await
    }

    /// Tells a worker to leave, and again to leave at once, and waits until it has.
    pub(crate) async fn ended_by_signal(&self, child: Child) -> Ended {
        tell(&child, Signal::TERM);
        self.ended(child).await
    }

    /// The group as it was made: nobody has taken an instance from it, or asked for another.
    async fn group_is_untouched(&self) {
        let now = self.group.now().await;
        assert_eq!((now.desired, now.instances.iter().any(|one| one.id == self.instance)), (1, true), "{now:?}");
    }
}

#[test]
fn an_interruption_gives_back_what_runs_in_time_and_spends_no_attempt() {
    block(async {
        let on = OnEc2::open("spot", 0, 1).await;
        // One that ends when it is asked to, and one that would outlast any notice.
        let heeds = on.scene.submit("sh", "exec sleep 60", "standard").await;
        let ignores = on.scene.submit("stubborn", "trap '' TERM; while :; do sleep 1; done", "standard").await;
        let child = on.worker("60").spawn().unwrap();
        on.runs(&heeds).await;
        on.runs(&ignores).await;
        let noticed = Instant::now();
        // Twenty seconds before the end everything is over: seven from now.
        on.metadata.interrupts("terminate", 27);
        let ended = on.ended(child).await;
        assert!(noticed.elapsed() < Duration::from_secs(20), "it would have been taken: {:?}", noticed.elapsed());
        for job in [&heeds, &ignores] {
            let back = on.scene.job(job).await;
            assert_eq!((back.phase(), back.epoch.0), (Phase::Dispatched, job.epoch.0 + 1), "{ended:?}");
            assert_eq!((back.attempts_spent, back.interruptions, back.losses), (0, 1, 0));
        }
        // EC2 ends it, and the group finds out: a decrement by the worker would be one too many.
        on.group_is_untouched().await;
    });
}

#[test]
fn a_hibernation_leaves_no_time_at_all() {
    block(async {
        let on = OnEc2::open("hibernate", 0, 1).await;
        let job = on.scene.submit("stubborn", "trap '' TERM; while :; do sleep 1; done", "standard").await;
        let child = on.worker("60").spawn().unwrap();
        on.runs(&job).await;
        let noticed = Instant::now();
        on.metadata.interrupts("hibernate", 120);
        on.ended(child).await;
        assert!(noticed.elapsed() < Duration::from_secs(15), "{:?}", noticed.elapsed());
        assert_eq!(on.scene.job(&job).await.interruptions, 1);
    });
}

#[test]
fn at_risk_it_takes_nothing_new_lets_what_runs_end_and_goes_home() {
    block(async {
        let on = OnEc2::open("risk", 0, 1).await;
        let runs = on.scene.submit("sh", "sleep 12; echo done", "standard").await;
        let child = on.worker("60").spawn().unwrap();
        on.runs(&runs).await;
        on.metadata.says("events/recommendations/rebalance", r#"{"noticeTime": "2026-11-27T12:00:00Z"}"#);
        on.metadata.looked_at_again().await;
        let late = on.scene.submit("sh", "echo late", "synchronous").await;
        on.scene.until(&runs, Phase::Succeeded).await;
        on.gone_home(child).await;
        assert_eq!(on.scene.job(&late).await.phase(), Phase::Dispatched, "it is another's");
        let group = on.group.now().await;
        assert_eq!((group.desired, group.instances.len()), (0, 0), "it has left by itself: {group:?}");
    });
}

#[test]
fn what_its_group_ends_is_given_back_and_the_group_is_left_alone() {
    block(async {
        let on = OnEc2::open("target", 0, 1).await;
        let job = on.scene.submit("sh", "exec sleep 60", "standard").await;
        let child = on.worker("60").spawn().unwrap();
        on.runs(&job).await;
        on.metadata.says("autoscaling/target-lifecycle-state", "Terminated");
        on.ended(child).await;
        let back = on.scene.job(&job).await;
        assert_eq!((back.phase(), back.attempts_spent, back.interruptions), (Phase::Dispatched, 0, 1));
        on.group_is_untouched().await;
    });
}

#[test]
fn idle_it_ends_its_own_instance_and_its_group_is_one_smaller() {
    block(async {
        let on = OnEc2::open("idle", 0, 2).await;
        let job = on.scene.submit("sh", "echo done", "standard").await;
        let child = on.worker("1").spawn().unwrap();
        on.scene.until(&job, Phase::Succeeded).await;
        let ended = on.gone_home(child).await;
        let group = on.group.now().await;
        assert_eq!((group.desired, group.instances.len()), (1, 1), "once, and no other came: {ended:?}");
        assert_ne!(group.instances[0].id, on.instance);
    });
}

#[test]
fn at_its_group_s_minimum_it_stays_however_idle() {
    block(async {
        let on = OnEc2::open("minimum", 1, 1).await;
        let child = on.worker("1").spawn().unwrap();
        let stays = Instant::now() + Duration::from_secs(8);
        while Instant::now() < stays {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let job = on.scene.submit("sh", "echo still here", "standard").await;
        on.scene.until(&job, Phase::Succeeded).await;
        tell(&child, Signal::TERM);
        let ended = Ended::after(child).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.stderr.contains("its group must have it"), "{ended:?}");
        on.group_is_untouched().await;
    });
}

#[test]
fn without_an_engine_that_answers_it_takes_nothing_new_and_leaves() {
    block(async {
        let on = OnEc2::open("unfit", 0, 1).await;
        let mut worker = on.scene.switchyard();
        worker.args(["worker", "--docker-host", "unix:///nowhere/docker.sock", "--idle-seconds", "600"]);
        worker.env("SWITCHYARD_GROUP", &on.group.name).env("AWS_ENDPOINT_URL_AUTO_SCALING", moto());
        let child = worker.env("AWS_EC2_METADATA_SERVICE_ENDPOINT", &on.metadata.endpoint).spawn().unwrap();
        let given_up = Instant::now() + Duration::from_secs(120);
        while on.group.now().await.desired > 0 {
            assert!(Instant::now() < given_up, "it stays");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let ended = Ended::after(child).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.stderr.contains("this worker takes nothing new, and goes home"), "{ended:?}");
        assert_eq!(on.group.instances().await, Vec::<String>::new());
    });
}

#[test]
fn a_metadata_service_that_forgets_or_hangs_does_no_harm() {
    block(async {
        let on = OnEc2::open("silent", 0, 1).await;
        let child = on.worker("120").spawn().unwrap();
        let job = on.scene.submit("sh", "echo one", "standard").await;
        on.scene.until(&job, Phase::Succeeded).await;
        on.metadata.looked_at_again().await;
        assert_eq!(on.metadata.given(), 1, "one token for all questions");
        on.metadata.forgets_its_tokens();
        on.metadata.looked_at_again().await;
        assert_eq!(on.metadata.given(), 2, "a 401 asks for another");
        on.metadata.hangs(true);
        tokio::time::sleep(Duration::from_secs(6)).await;
        let job = on.scene.submit("sh", "echo two", "standard").await;
        on.scene.until(&job, Phase::Succeeded).await;
        on.metadata.hangs(false);
        on.metadata.looked_at_again().await;
        tell(&child, Signal::TERM);
        let ended = Ended::after(child).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.stderr.contains("what the machine says of its end is not known"), "{ended:?}");
    });
}

#[test]
fn a_worker_that_cannot_learn_which_instance_it_is_does_not_begin() {
    block(async {
        let on = OnEc2::open("nobody", 0, 1).await;
        let mut nowhere = on.worker("1");
        nowhere.env("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9");
        let ended = Ended::of(&mut nowhere).await;
        assert_eq!(ended.code, Some(7), "{ended:?}");
        assert!(ended.said().contains("metadata service"), "{ended:?}");
        let ended = Ended::of(on.worker("1").env("AWS_EC2_METADATA_SERVICE_ENDPOINT", "ftp://x")).await;
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(ended.said().contains("AWS_EC2_METADATA_SERVICE_ENDPOINT"), "{ended:?}");
    });
}
