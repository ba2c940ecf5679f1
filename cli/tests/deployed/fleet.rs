//! A fleet: real workers that come and go as a group does, under a burst and under everything that can happen to them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use switchyard_aws::fleet_autoscaling::Groups;
use switchyard_aws::fleet_scaler::Scaler;
use switchyard_builtins::system::System;
use switchyard_core::job::{Job, JobId, Phase, State};
use switchyard_core::ports::{Fleet, Kicked, PortError, Yard};
use switchyard_core::reap;
use switchyard_core::route::{Limits, PoolName};
use switchyard_faults::{Proxy, Service, Settings, Weather};
use tokio::sync::Mutex;

use crate::block;
use crate::ec2::OfMoto;
use crate::engine::Engine;
use crate::host::Host;
use crate::scene::{Scene, endpoint, moto};

const CATALOG: &str = r#"
version: 1
capabilities:
  - name: work
    summary: leaves a line when it begins and one when it has done its work
    run: { command: [sh, -c, "{{script}}"] }
    needs: { timeout_seconds: 120, grace_seconds: 1, memory_mib: 16, vcpu: 0.25 }
    route: { only: [fleet] }
    retry: { attempts: 3, backoff_seconds: 1 }
"#;

/// The pools, and how many instances each may have.
fn pools() -> [(PoolName, i32); 2] {
    [(PoolName::STANDARD, 4), ("steady".parse().unwrap(), 1)]
}

/// A kick, as the function that is kicked would carry it out.
struct Kicks {
    scaler: Arc<Scaler>,
    limits: Limits,
    /// When a pool was kicked last: as in the table, a burst is one kick.
    last: Mutex<BTreeMap<PoolName, Instant>>,
}

#[async_trait]
impl Fleet for Kicks {
    async fn kick(&self, pool: PoolName) -> Result<Kicked, PortError> {
        let mut last = self.last.lock().await;
        if last.get(&pool).is_some_and(|at| at.elapsed() < Duration::from_secs(10)) {
            return Ok(Kicked::Lately);
        }
        last.insert(pool, Instant::now());
        self.scaler.round(&self.limits, Some(pool), &System).await;
        Ok(Kicked::Sent)
    }
}

struct Fleeting {
    scene: Scene,
    proxy: Proxy,
    yard: Yard,
    scaler: Arc<Scaler>,
    limits: Limits,
    host: Host,
    folder: tempfile::TempDir,
}

impl Fleeting {
    async fn open(what: &str) -> Self {
        let settings = Settings { keep_requests: true, ..Settings::new(endpoint()) };
        let proxy = Proxy::start(settings.upstream_for(Service::AutoScaling, moto())).unwrap();
        let scene = Scene::open_at(what, &proxy.endpoint(), CATALOG, &pools().map(|(pool, _)| pool)).await;
        let mut groups = Vec::new();
        for (pool, most) in pools() {
            groups.push((pool, OfMoto::of(&format!("{}-{pool}", scene.names.queues), 0, 0, most).await));
        }
        let folder = tempfile::tempdir().unwrap();
        let of_groups = Groups::new(&scene.clients, &scene.names.queues);
        let scaler = Arc::new(Scaler::new(of_groups, scene.home.lanes.clone(), scene.home.ledger.clone()));
        let limits = scene.yard.policies().limits.clone();
        let fleet = Kicks { scaler: Arc::clone(&scaler), limits: limits.clone(), last: Mutex::default() };
        let yard = Yard { fleet: Arc::new(fleet), ..scene.yard.clone() };
        let host = Host::new(groups, folder.path().to_owned());
        Self { scene, proxy, yard, scaler, limits, host, folder }
    }

    /// Submits so many jobs, each of which takes so long, and leaves its lines in a file of its own.
    async fn submit(&self, jobs: usize, seconds: f32) -> BTreeSet<JobId> {
        let file = self.folder.path().join("runs");
        let script = format!(
            "echo \"begin $SWITCHYARD_JOB_ID $SWITCHYARD_EPOCH\" >>{0}; sleep {seconds}; \
             echo \"$SWITCHYARD_EPOCH\" >\"$SWITCHYARD_RESULT_PATH\"; \
             echo \"end $SWITCHYARD_JOB_ID $SWITCHYARD_EPOCH\" >>{0}",
            file.display()
        );
        self.scene.submit_many(&self.yard, "work", &script, jobs).await.into_iter().map(|job| job.id).collect()
    }

    /// Whatever AWS and the yard's functions do meanwhile: machines come and go, what is overdue is looked at, and from time
    /// to time the sizes of the pools.
    async fn meanwhile(&mut self, looks: u32) {
        let scene = &self.scene;
        let worker = |id: &str,
                      pool: PoolName,
                      group: &OfMoto,
                      metadata: &crate::ec2::Metadata,
                      engine: Option<&Engine>|
         -> Command {
            let mut command = scene.switchyard();
            command.args(["worker", "--slots", "4", "--idle-seconds", "4", "--pool", &pool.to_string()]);
            match engine {
                Some(engine) => command.args(["--docker-host", &engine.host()]),
                None => command.arg("--no-docker"),
            };
            command.env("SWITCHYARD_GROUP", &group.name).env("AWS_ACCESS_KEY_ID", id);
            command.env("AWS_EC2_METADATA_SERVICE_ENDPOINT", &metadata.endpoint);
            command
        };
        self.host.look(&worker).await;
        // A round or a look that fails is the next one's work, as it is in the functions.
        if looks.is_multiple_of(4) {
            drop(reap::round(&self.yard).await);
        }
        if looks.is_multiple_of(10) {
            self.scaler.round(&self.limits, None, &System).await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }

    /// Those of the jobs that have not ended.
    async fn open_ones(&self, jobs: &BTreeSet<JobId>) -> Vec<Job> {
        let ids: Vec<JobId> = jobs.iter().copied().collect();
        let Ok(found) = self.yard.ledger.load_all(&ids).await else { return self.all_of(jobs).await };
        assert_eq!(found.len(), jobs.len(), "a job is lost");
        found.into_iter().filter(|job| !matches!(job.state, State::Settled(_))).collect()
    }

    async fn all_of(&self, jobs: &BTreeSet<JobId>) -> Vec<Job> {
        let ids: Vec<JobId> = jobs.iter().copied().collect();
        loop {
            if let Ok(found) = self.yard.ledger.load_all(&ids).await {
                return found;
            }
        }
    }

    /// Runs until every job has ended and nothing is left running.
    async fn until_all_is_over(&mut self, jobs: &BTreeSet<JobId>, patience: Duration) {
        let given_up = Instant::now() + patience;
        let mut looks = 0;
        loop {
            self.meanwhile(looks).await;
            looks += 1;
            if looks % 5 == 0 && self.host.is_empty().await && self.open_ones(jobs).await.is_empty() {
                return;
            }
            if Instant::now() > given_up {
                let kept = self.folder.path().display().to_string();
                let open = self.open_ones(jobs).await;
                let said = std::fs::read_dir(self.host.logs()).unwrap().flatten().map(|log| tail(&log.path()));
                let said: Vec<String> = said.collect();
                panic!("{} jobs open after {patience:?} ({kept}): {:?}\n{}", open.len(), open.first(), said.join("\n"));
            }
        }
    }

    /// What holds whatever happens: every job has ended well, once, by the run whose result it has, and no attempt was spent.
    async fn all_is_well(&self, jobs: &BTreeSet<JobId>) -> Vec<Job> {
        let ended = self.all_of(jobs).await;
        assert_eq!(ended.len(), jobs.len(), "a job is lost");
        for job in &ended {
            assert_eq!((job.phase(), job.attempts_spent), (Phase::Succeeded, 0), "{job:?}");
            let ends = job.timeline.iter().filter(|one| one.phase == Phase::Succeeded).count();
            assert_eq!(ends, 1, "settled once: {:?}", job.timeline);
        }
        let runs = std::fs::read_to_string(self.folder.path().join("runs")).unwrap();
        for job in &ended {
            let line = format!("end {} {}", job.id, job.epoch.0);
            assert_eq!(runs.lines().filter(|run| **run == line).count(), 1, "the run that counts came to its end once");
        }
        ended
    }
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    format!("{}: {}", log.display(), lines[lines.len().saturating_sub(4)..].join(" / "))
}

#[test]
fn a_burst_of_five_hundred_jobs_is_done_by_a_fleet_that_comes_from_nothing_and_goes_home() {
    block(async {
        let mut fleet = Fleeting::open("burst").await;
        assert!(fleet.host.is_empty().await);
        let jobs = fleet.submit(500, 0.05).await;
        fleet.until_all_is_over(&jobs, Duration::from_secs(240)).await;
        fleet.all_is_well(&jobs).await;
        let sizes: Vec<String> = fleet.proxy.records().requests("SetDesiredCapacity").iter().map(of_size).collect();
        assert_eq!(sizes, ["4"], "one capacity call for the burst, and as many as it may have");
        assert_eq!((fleet.host.started, fleet.host.most), (4, 4), "no instance too many");
        let ends = fleet.proxy.records().requests("TerminateInstanceInAutoScalingGroup");
        assert!(ends.len() >= 4, "each has left by itself: {ends:?}");
    });
}

fn of_size(set: &serde_json::Value) -> String {
    set["DesiredCapacity"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn under_interruptions_kills_hangs_and_throttles_no_job_is_lost_or_settled_twice() {
    block(async {
        let seconds = std::env::var("SWITCHYARD_TEST_CHAOS_SECONDS").ok().map_or(60, |text| text.parse().unwrap());
        let mut fleet = Fleeting::open("chaos").await;
        // Lost answers of SQS hide a message for its whole visibility, which is right, and too long for a test.
        let storm = Weather { answers: vec![Service::Sqs], ..Weather::storm(11) };
        fleet.proxy.set_weather(Weather { silent: 0.0, redelivered: 0.01, ..storm });
        let mut jobs = fleet.submit(60, 1.5).await;
        let (began, mut looks, mut hung) = (Instant::now(), 0_u32, None::<(String, Instant)>);
        let (mut interrupted, mut taken, mut hangs, mut engines) = (0, 0, 0, 0);
        while began.elapsed() < Duration::from_secs(seconds) {
            fleet.meanwhile(looks).await;
            looks += 1;
            if let Some((id, _)) = hung.take_if(|(_, since)| since.elapsed() > Duration::from_secs(20)) {
                fleet.host.hang(&id, false);
            }
            let well = fleet.host.well();
            let free: Vec<&String> =
                well.iter().filter(|id| hung.as_ref().is_none_or(|(other, _)| other != *id)).collect();
            match (looks % 60, free.first()) {
                (20, Some(id)) => {
                    fleet.host.interrupt(id, 24);
                    interrupted += 1;
                }
                (40, Some(id)) => {
                    fleet.host.take(id);
                    taken += 1;
                }
                (55, Some(id)) if hung.is_none() => {
                    fleet.host.hang(id, true);
                    hung = Some(((*id).clone(), Instant::now()));
                    hangs += 1;
                }
                (5, Some(id)) => engines += usize::from(fleet.host.stop_engine(id)),
                (30, _) => jobs.extend(fleet.submit(20, 1.5).await),
                _ => {}
            }
        }
        if let Some((id, _)) = hung {
            fleet.host.hang(&id, false);
        }
        assert!(interrupted > 0 && taken > 0 && hangs > 0, "{interrupted} {taken} {hangs}");
        if !Engine::is_here() {
            eprintln!("skipped: no container engine answers, and none was stopped");
        }
        // A holder without a beat is dead after two leases.
        fleet.until_all_is_over(&jobs, Duration::from_secs(600)).await;
        let ended = fleet.all_is_well(&jobs).await;
        let (came_back, lost): (u32, u32) =
            ended.iter().fold((0, 0), |(back, lost), job| (back + job.interruptions, lost + job.losses));
        println!(
            "{} jobs; {interrupted} notices, {taken} kills, {hangs} hangs, {engines} engines stopped; {} instances; {came_back} runs given back, {lost} lost",
            jobs.len(),
            fleet.host.started
        );
        assert!(came_back + lost > 0, "nothing happened to any run");
    });
}
