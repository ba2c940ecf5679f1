//! What `infra/stack.sh with` has deployed, and the ways to it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use serde_json::{Value, json};
use switchyard_aws::clients::{Clients, Settings};
use tokio::runtime::Runtime;

/// Who calls.
#[derive(Clone, Copy)]
pub(crate) enum User {
    Operator,
    Submitter,
    Viewer,
    Worker,
}

/// The deployed yard, its policies pushed and a worker at work.
pub(crate) struct Deployed {
    /// The emulator's root.
    pub(crate) clients: Clients,
    /// Whether tasks can start.
    pub(crate) docker: bool,
    policies: tempfile::TempDir,
    worker: Child,
}

impl Drop for Deployed {
    fn drop(&mut self) {
        let _ = self.worker.kill();
        let _ = self.worker.wait();
    }
}

/// A variable of target/stack/env.
pub(crate) fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: this is run by `make stack-test`"))
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn program() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    target.join("debug/switchyard")
}

impl User {
    /// A part of their key.
    fn key(self, part: &str) -> String {
        let who = match self {
            Self::Operator => "OPERATOR",
            Self::Submitter => "SUBMITTER",
            Self::Viewer => "VIEWER",
            Self::Worker => "WORKER",
        };
        env(&format!("{who}_{part}"))
    }
}

fn command(user: User) -> Command {
    let mut command = Command::new(program());
    for part in ["ACCESS_KEY_ID", "SECRET_ACCESS_KEY"] {
        command.env(format!("AWS_{part}"), user.key(part));
    }
    command
}

impl Deployed {
    /// Pushes the policies, registers what tasks there are, and starts a worker.
    pub(crate) fn prepare() -> Self {
        let docker = Command::new("docker").arg("version").output().is_ok_and(|output| output.status.success());
        let policies = tempfile::tempdir().expect("a folder");
        let copied = Command::new("cp").arg("-r").arg(root().join("policies/.")).arg(policies.path()).status();
        assert!(copied.expect("cp starts").success());
        let image = std::env::var("STACK_WORKER_IMAGE").unwrap_or_default();
        let more = &include_str!("capabilities.yaml").replace("WORKER_IMAGE", &image);
        let file = policies.path().join("capabilities.yaml");
        let shipped = std::fs::read_to_string(&file).expect("the shipped capabilities");
        // What is not registered comes later: its task definition must be missing.
        let unregistered = more.find("  - name: stack-unregistered").expect("it is there");
        let after = more.find("  - name: stack-quick").expect("it is there");
        let registered = format!("{shipped}{}{}", &more[..unregistered], &more[after..]);
        std::fs::write(&file, registered).expect("written");
        let schedule = "version: 1\nschedules:\n  - { name: minutely, rate_minutes: 1, capability: stack-tick }\n";
        std::fs::write(policies.path().join("schedules.yaml"), schedule).expect("written");
        let mappings = policies.path().join("policy-mappings.json");
        let mut document: Value = serde_json::from_slice(&std::fs::read(&mappings).expect("mappings")).expect("JSON");
        let scanner = json!({
            "name": "scanner", "match": { "source": "example.scanner", "detail_type": "Scan Finished" }, "policies": ["custodian/s3-baseline.yml"],
        });
        document["mappings"].as_array_mut().expect("a list").push(scanner);
        std::fs::write(&mappings, document.to_string()).expect("written");
        let run = |args: &[&str]| {
            // The emulator's root deploys, as an administrator does.
            let output = Command::new(program()).args(args).arg(policies.path()).output().expect("it starts");
            assert!(output.status.success(), "{args:?}: {}", said(&output));
        };
        if docker {
            let (like, prefix) = (env("STACK_WORKER_DEFINITION"), env("STACK_TASK_PREFIX"));
            run(&["capabilities", "apply", "--like", &like, "--prefix", &prefix, "--policies"]);
        }
        std::fs::write(&file, format!("{shipped}{more}")).expect("written");
        let keys = Credentials::new(env("AWS_ACCESS_KEY_ID"), env("AWS_SECRET_ACCESS_KEY"), None, None, "tests");
        let settings = Settings::read(&|name| std::env::var(name).ok()).expect("a region");
        let clients = Clients::new(settings, SharedCredentialsProvider::new(keys));
        let bucket = env("POLICY_BUCKET");
        // Unless this stack is an earlier test's.
        if block(clients.s3().get_object().bucket(&bucket).key("policies.json").send()).is_err() {
            let refused = command(User::Operator).arg("jobs").output().expect("it starts");
            assert!(said(&refused).contains("`switchyard policies push` writes it (try_again)"), "{}", said(&refused));
        }
        run(&["policies", "push", "--bucket", &bucket]);
        let mut worker = command(User::Worker);
        worker.args(["worker", "--pool", "standard", "--slots", "8", "--idle-seconds", "86400"]);
        worker.env_remove("SWITCHYARD_URL").stdout(Stdio::null()).stderr(Stdio::null());
        let worker = worker.spawn().expect("the worker starts");
        let deployed = Self { clients, docker, policies, worker };
        // A function that has read those of an earlier test asks again within a minute: the API at once.
        let reloaded = deployed.cli(User::Operator, &["reload"]);
        assert!(reloaded.status.success(), "{}", said(&reloaded));
        deployed
    }

    /// The clients of a user.
    pub(crate) fn clients_of(&self, user: User) -> Clients {
        let keys = Credentials::new(user.key("ACCESS_KEY_ID"), user.key("SECRET_ACCESS_KEY"), None, None, "tests");
        let settings = Settings::read(&|name| std::env::var(name).ok()).expect("a region");
        Clients::new(settings, SharedCredentialsProvider::new(keys))
    }

    /// The folder of the policies in force.
    pub(crate) fn policies(&self) -> &Path {
        self.policies.path()
    }

    /// Runs the CLI as a user.
    pub(crate) fn cli(&self, user: User, args: &[&str]) -> Output {
        command(user).arg("--json").args(args).output().expect("the program starts")
    }

    /// What the CLI answers, which must succeed.
    pub(crate) fn ask(&self, user: User, args: &[&str]) -> Value {
        let output = self.cli(user, args);
        assert!(output.status.success(), "{args:?}: {}", said(&output));
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{args:?}: {error}: {}", said(&output)))
    }

    /// Submits a job as the submitter, and answers its id.
    pub(crate) fn submit(&self, capability: &str, payload: &Value) -> String {
        let job = self.ask(User::Submitter, &["submit", capability, &payload.to_string()]);
        job["id"].as_str().expect("an id").to_owned()
    }

    /// The job, as soon as this holds of it.
    pub(crate) fn job_when(&self, id: &str, patience: u64, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        wait(patience, &format!("job {id} {what}"), || {
            let job = self.job(id);
            if holds(&job) { Ok(job) } else { Err(job.to_string()) }
        })
    }

    /// The job, its timeline with it.
    pub(crate) fn job(&self, id: &str) -> Value {
        let shown = self.ask(User::Viewer, &["job", id, "--timeline"]);
        let mut job = shown["job"].clone();
        job["timeline"] = shown["timeline"].clone();
        job
    }

    /// The job, when it has ended.
    pub(crate) fn ended(&self, id: &str, patience: u64) -> Value {
        self.job_when(id, patience, "ends", |job| job["settled_at"].is_string())
    }

    /// Jobs with this label.
    pub(crate) fn labelled(&self, label: &str) -> Vec<Value> {
        let page = self.ask(User::Viewer, &["jobs", "--label", label]);
        page.as_array().cloned().unwrap_or_default()
    }

    /// Invokes a function, and answers its answer and whether it failed.
    pub(crate) fn invoke(&self, function: &str, event: &Value) -> (Value, bool) {
        let payload = aws_sdk_lambda::primitives::Blob::new(event.to_string());
        let name = env(&format!("STACK_{function}_FUNCTION"));
        let invoked = block(self.clients.lambda().invoke().function_name(name).payload(payload).send());
        let invoked = invoked.expect("it is invoked");
        let answer = invoked.payload().map(|blob| serde_json::from_slice(blob.as_ref()).expect("JSON"));
        (answer.unwrap_or_default(), invoked.function_error().is_some())
    }

    /// What is parked of what runs emitted, by the name it has there.
    pub(crate) fn parked_records(&self, named: &str) -> Vec<Value> {
        let (s3, bucket) = (self.clients.s3(), env("SWITCHYARD_BUCKET"));
        block(async {
            let listed = s3.list_objects_v2().bucket(&bucket).prefix("parked/records/").send().await;
            let mut found = Vec::new();
            for object in listed.expect("listed").contents() {
                let got = s3.get_object().bucket(&bucket).key(object.key().expect("a key")).send().await.expect("got");
                let bytes = got.body.collect().await.expect("read").into_bytes();
                let text = String::from_utf8_lossy(&bytes).into_owned();
                found.extend(text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")));
            }
            found.retain(|one| one["name"].as_str().is_some_and(|name| name.starts_with(named)));
            found
        })
    }

    /// The parked objects of a function that say this.
    pub(crate) fn parked(&self, function: &str, saying: &str) -> Vec<Value> {
        let (s3, bucket) = (self.clients.s3(), env("SWITCHYARD_BUCKET"));
        block(async {
            let listed = s3.list_objects_v2().bucket(&bucket).prefix(format!("parked/{function}/")).send().await;
            let mut found = Vec::new();
            for object in listed.expect("listed").contents() {
                let got = s3.get_object().bucket(&bucket).key(object.key().expect("a key")).send().await.expect("got");
                let bytes = got.body.collect().await.expect("read").into_bytes();
                if String::from_utf8_lossy(&bytes).contains(saying) {
                    found.push(serde_json::from_slice(&bytes).expect("JSON"));
                }
            }
            found
        })
    }
}

/// Both outputs of a program.
pub(crate) fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Asks again and again, until it is so.
pub(crate) fn wait<T>(patience: u64, what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let until = Instant::now() + Duration::from_secs(patience);
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) if Instant::now() > until => panic!("not within {patience} s: {what}: {seen}"),
            Err(_) => std::thread::sleep(Duration::from_millis(500)),
        }
    }
}

/// Runs one call. All of them in one runtime: the clients share their connections, which live in it.
pub(crate) fn block<T>(call: impl Future<Output = T>) -> T {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime =
        RUNTIME.get_or_init(|| tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime"));
    runtime.block_on(call)
}
