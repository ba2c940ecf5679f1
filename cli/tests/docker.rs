//! The program with a container engine: what runs there, what is left after a kill, what becomes of it when the engine
//! goes away. Where no engine answers, each of these tests says so and passes.

#[path = "../../worker/tests/image/mod.rs"]
mod image;
#[expect(dead_code, reason = "other tests use the rest")]
mod yard;

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bollard::Docker;
use bollard::query_parameters::ListContainersOptionsBuilder;
use image::{Image, docker, engine};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use switchyard_worker::engine::Engine;
use tempfile::TempDir;
use yard::{Yard, eventually};

const CATALOG: &str = r#"
version: 1
capabilities:
  - name: probe
    summary: does what it is told
    run: { image: "IMAGE", args: ["{{do}}", "{{what}}"] }
    needs: { timeout_seconds: 300, grace_seconds: 1, memory_mib: 32, vcpu: 0.02 }
    retry: { attempts: 1 }
  - name: task
    summary: the same in a task of its own
    run: { task_image: "IMAGE", args: ["/probe", "{{do}}", "{{what}}"] }
    needs: { timeout_seconds: 300, grace_seconds: 1, memory_mib: 32, vcpu: 0.02, isolate: true }
    retry: { attempts: 1 }
  - name: lambda
    summary: speaks the Lambda Runtime API
    run: { function_image: "IMAGE" }
  - name: plain
    summary: needs no engine
    run: { command: ["true"] }
"#;

fn job(capability: &str, what: &str, how: &str) -> Value {
    json!({ "capability": capability, "payload": { "do": what, "what": how } })
}

/// A yard with the image in its catalog, not open yet.
fn yard(image: &str, slots: u16) -> Yard {
    let yard = Yard::new(slots, 4);
    fs::write(yard.policies().join("capabilities.yaml"), CATALOG.replace("IMAGE", image)).unwrap();
    yard
}

/// The running containers of this yard.
async fn running(docker: &Docker, yard: &Yard) -> Vec<String> {
    let id: String =
        yard.database().query_row("SELECT value FROM yard WHERE name = 'id'", [], |row| row.get(0)).unwrap();
    let filters = HashMap::from([("label", vec![format!("switchyard.yard={id}")])]);
    let options = ListContainersOptionsBuilder::new().filters(&filters).build();
    // An engine that starts again does not answer yet.
    let listed = docker.list_containers(Some(options)).await.unwrap_or_default();
    listed.into_iter().filter_map(|container| container.id).collect()
}

async fn until_running(docker: &Docker, yard: &Yard, count: usize) -> Vec<String> {
    for _ in 0..2400 {
        let found = running(docker, yard).await;
        if found.len() == count {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("never were {count} containers running:\n{}", yard.log_end());
}

fn text_of(client: &yard::client::Client, id: &str) -> String {
    client.get(&format!("/v1/jobs/{id}/logs")).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn images_run_and_see_nothing_of_the_yards_secrets() {
    let Some(engine) = engine("images_run_and_see_nothing_of_the_yards_secrets").await else { return };
    let image = Image::with_probe(&engine).await;
    let mut yard = yard(&image.name, 2);
    yard.environment = vec![("AWS_SECRET_ACCESS_KEY", "a-secret-of-the-yard"), ("SWITCHYARD_TOKEN", "another-secret")];
    yard.start();
    let client = yard.client();
    for capability in ["probe", "task"] {
        let (id, _) = client.submit(&format!("environment-{capability}"), &job(capability, "environment", ""));
        let done = client.settled(&id);
        assert_eq!(done["state"], "succeeded", "{done}");
        let log = text_of(&client, &id);
        assert!(log.contains("OF_THE_IMAGE=kept") && log.contains("SWITCHYARD_JOB_ID="), "{log}");
        assert!(!log.contains("secret"), "{log}");
    }
    let refused = client.try_post("/v1/jobs", None, &job("lambda", "", "")).unwrap();
    assert!(refused.body.to_string().contains("Lambda Runtime API"), "{refused:?}");
    yard.close_and_leave_nothing();
    let docker = docker(&engine).await;
    assert_eq!(running(&docker, &yard).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_does_not_outlive_a_yard_that_is_killed_and_its_job_runs_again() {
    let test = "a_container_does_not_outlive_a_yard_that_is_killed_and_its_job_runs_again";
    let Some(engine) = engine(test).await else { return };
    let image = Image::with_probe(&engine).await;
    let docker = docker(&engine).await;
    let mut yard = yard(&image.name, 2);
    yard.start();
    let client = yard.client();
    let (id, _) = client.submit("slow", &job("probe", "sleep", "20000"));
    let first = until_running(&docker, &yard, 1).await;
    yard.kill();
    assert_eq!(running(&docker, &yard).await, first, "a container knows nothing of its yard");
    yard.start();
    assert!(docker.inspect_container(&first[0], None).await.is_err(), "removed before the yard was open");
    let second = until_running(&docker, &yard, 1).await;
    assert_ne!(first, second);
    client.try_post(&format!("/v1/jobs/{id}/cancel"), None, &json!({})).unwrap();
    let ended = client.settled(&id);
    assert_eq!((&ended["state"], &ended["attempts_spent"]), (&json!("cancelled"), &json!(0)), "{ended}");
    yard.close_and_leave_nothing();
    assert_eq!(running(&docker, &yard).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_containers_run_at_once() {
    let Some(engine) = engine("fifty_containers_run_at_once").await else { return };
    let image = Image::with_probe(&engine).await;
    let docker = docker(&engine).await;
    let mut yard = yard(&image.name, 50);
    yard.start();
    let client = yard.client();
    let ids: Vec<String> =
        (0..50).map(|nth| client.submit(&format!("all-{nth}"), &job("probe", "polite", "")).0).collect();
    until_running(&docker, &yard, 50).await;
    for id in &ids {
        client.try_post(&format!("/v1/jobs/{id}/cancel"), None, &json!({})).unwrap();
    }
    for id in &ids {
        assert_eq!(client.settled(id)["state"], "cancelled");
    }
    yard.close_and_leave_nothing();
    assert_eq!(running(&docker, &yard).await, Vec::<String>::new());
}

#[test]
fn a_yard_without_an_engine_runs_the_rest() {
    for engine in [vec!["--no-docker"], vec!["--docker-host", "unix:///nowhere/docker.sock"]] {
        let mut yard = yard("nmap:7.95", 2);
        yard.more = engine;
        yard.start();
        let client = yard.client();
        let (id, _) = client.submit("plain", &json!({ "capability": "plain" }));
        assert_eq!(client.settled(&id)["state"], "succeeded");
        let refused = client.try_post("/v1/jobs", None, &job("probe", "exit", "0")).unwrap();
        assert!(refused.body.to_string().contains("no container images are run here"), "{refused:?}");
        yard.close_and_leave_nothing();
    }
}

/// An engine of the test's own, which it may stop and start.
struct PrivateEngine {
    folder: TempDir,
    process: Option<Child>,
}

impl PrivateEngine {
    /// None where one cannot be had: not root, or no dockerd.
    async fn start(test: &str) -> Option<Self> {
        let folder = tempfile::Builder::new().prefix("dockerd-").tempdir().unwrap();
        let mut engine = Self { folder, process: None };
        if engine.up().await {
            return Some(engine);
        }
        eprintln!("SKIPPED {test}: no engine of its own can be started");
        None
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn host(&self) -> String {
        format!("unix://{}", self.path("s").display())
    }

    async fn up(&mut self) -> bool {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("log")).unwrap();
        // The machine's own configuration must not be this engine's.
        fs::write(self.path("daemon.json"), "{}").unwrap();
        // In a network of its own: an engine without a bridge deletes `docker0` where it finds one, and that is the
        // machine's engine's.
        let mut command = Command::new("unshare");
        command.args(["--net", "dockerd", "--config-file"]).arg(self.path("daemon.json"));
        for (option, name) in [("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "pid")] {
            command.arg(option).arg(self.path(name));
        }
        command.args(["-H", &self.host(), "--bridge=none", "--iptables=false", "--ip6tables=false"]);
        command.args(["--storage-driver", "vfs", "--shutdown-timeout", "2"]);
        let Ok(process) = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn() else { return false };
        self.process = Some(process);
        let engine = Engine::at(&self.host()).unwrap();
        for _ in 0..600 {
            if engine.answers().await.is_ok() {
                return true;
            }
            if self.process.as_mut().is_some_and(|process| process.try_wait().unwrap().is_some()) {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        false
    }

    /// Ends the engine, by force or as a restart does.
    fn down(&mut self, by: Signal) {
        let Some(mut process) = self.process.take() else { return };
        // Gone already: what was wanted.
        let _ = kill_process(Pid::from_child(&process), by);
        process.wait().unwrap();
        // Whoever is killed leaves these, and the next start would wait for processes that are no more.
        let _ = fs::remove_file(self.path("pid"));
        if by == Signal::KILL {
            let _ = fs::remove_file(self.path("exec/containerd/containerd.pid"));
        }
    }

    /// Ends what a killed engine left: processes that name its folder in their arguments.
    fn end_strays(&self) {
        let folder = self.folder.path().display().to_string();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let pid = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
            if let Some(pid) = pid
                && String::from_utf8_lossy(&arguments).contains(&folder)
            {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

impl Drop for PrivateEngine {
    fn drop(&mut self) {
        self.down(Signal::TERM);
        self.end_strays();
        // What a driver mounted keeps its folder.
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        let root = self.folder.path().display().to_string();
        for mount in mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|path| path.starts_with(&root)) {
            let _ = Command::new("umount").args(["-l", mount]).status();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_survive_an_engine_that_is_restarted_under_them() {
    let test = "jobs_survive_an_engine_that_is_restarted_under_them";
    if engine(test).await.is_none() {
        return;
    }
    let Some(mut private) = PrivateEngine::start(test).await else { return };
    let engine = Engine::at(&private.host()).unwrap();
    let image = Image::with_probe(&engine).await;
    let docker = docker(&engine).await;
    let mut yard = yard(&image.name, 4);
    let host = private.host();
    yard.more = vec!["--docker-host", &*host.leak()];
    yard.start();
    let client = yard.client();
    let jobs = |wave: &str| -> Vec<String> {
        (0..4).map(|nth| client.submit(&format!("{wave}-{nth}"), &job("probe", "sleep", "8000")).0).collect()
    };
    for (wave, by) in [("restarted", Signal::TERM), ("killed", Signal::KILL)] {
        let ids = jobs(wave);
        until_running(&docker, &yard, 4).await;
        private.down(by);
        assert!(private.up().await, "{}", fs::read_to_string(private.path("log")).unwrap());
        for id in &ids {
            let done = client.settled(id);
            let told = (&done["state"], &done["attempts_spent"]);
            assert_eq!(told, (&json!("succeeded"), &json!(0)), "{wave}: {done}\n{:#?}", client.timeline(id));
            eventually("the job to have been interrupted", || (done["epoch"].as_u64() > Some(1)).then_some(()));
        }
    }
    yard.close_and_leave_nothing();
    assert_eq!(running(&docker, &yard).await, Vec::<String>::new());
}
