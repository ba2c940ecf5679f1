//! A yard on MiniStack, and the real program beside it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use switchyard_aws::clients::{Clients, Settings};
use switchyard_aws::deployment::{Deployment, nothing};
use switchyard_aws::home::{Home, Names};
use switchyard_builtins::builtin;
use switchyard_builtins::system::System;
use switchyard_core::intake::{self, Sender, Taking};
use switchyard_core::job::{Epoch, Job, JobId, Phase};
use switchyard_core::policies::{CATALOG_FILE, Files, Shelf, as_json};
use switchyard_core::ports::{Ambient, LaunchFailed, Launcher, PortError, TaskState, Yard};
use switchyard_core::route::{PoolName, Venue};
use switchyard_worker::policies::built_in;

pub(crate) const REGION: &str = "us-east-1";
pub(crate) const SECRET: &str = "s3cret-of-the-tests";

/// What its jobs may be.
pub(crate) const CATALOG: &str = r#"
version: 1
capabilities:
  - name: sh
    summary: runs a script on the fleet
    run: { command: [sh, -c, "{{script}}"] }
    needs: { timeout_seconds: 60, grace_seconds: 1, memory_mib: 16 }
    route: { only: [fleet] }
    retry: { attempts: 1 }
  - name: stubborn
    summary: runs a script on the fleet, and gives it long to end
    run: { command: [sh, -c, "{{script}}"] }
    needs: { timeout_seconds: 120, grace_seconds: 30, memory_mib: 16 }
    route: { only: [fleet] }
    retry: { attempts: 1 }
  - name: task
    summary: runs a script as a task
    run: { command: [sh, -c, "{{script}}"] }
    needs: { timeout_seconds: 60, grace_seconds: 1, memory_mib: 16 }
    route: { only: [fargate] }
    retry: { attempts: 1 }
  - name: image
    summary: an image with the worker as its entry point
    run: { task_image: "registry.example.com/tool@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", args: [sh, -c, "{{script}}"] }
    needs: { timeout_seconds: 60, grace_seconds: 1, memory_mib: 1500, vcpu: 0.25 }
    route: { only: [fargate] }
    retry: { attempts: 1 }
  - name: bare
    summary: an image that brings its own command
    run: { task_image: "registry.example.com/bare:1" }
    needs: { timeout_seconds: 60, memory_mib: 512 }
    route: { only: [fargate] }
    retry: { attempts: 1 }
"#;

/// MiniStack, as `make test` says, as another test left it, or started now.
pub(crate) fn endpoint() -> &'static str {
    &endpoints().0
}

/// moto, in the same way.
pub(crate) fn moto() -> &'static str {
    &endpoints().1
}

fn endpoints() -> &'static (String, String) {
    static ENDPOINTS: OnceLock<(String, String)> = OnceLock::new();
    ENDPOINTS.get_or_init(|| from_environment().or_else(running).unwrap_or_else(started))
}

fn from_environment() -> Option<(String, String)> {
    Some((std::env::var("SWITCHYARD_TEST_MINISTACK").ok()?, std::env::var("SWITCHYARD_TEST_MOTO").ok()?))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn running() -> Option<(String, String)> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let endpoint = |name: &str| {
        let port = std::fs::read_to_string(target.join("emulators").join(format!("{name}.port"))).ok()?;
        let port: u16 = port.trim().parse().ok()?;
        std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
        Some(format!("http://127.0.0.1:{port}"))
    };
    Some((endpoint("ministack")?, endpoint("moto")?))
}

fn started() -> (String, String) {
    let output = Command::new("sh").arg(root().join("infra/emulators/run.sh")).arg("start").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "the emulators do not start: {}", String::from_utf8_lossy(&output.stderr));
    let endpoint = |name: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(name)).expect("an endpoint");
        line.trim_start_matches('=').to_owned()
    };
    (endpoint("SWITCHYARD_TEST_MINISTACK"), endpoint("SWITCHYARD_TEST_MOTO"))
}

/// A name that no other test uses, of this run or another.
pub(crate) fn unique(what: &str) -> String {
    let boot: &dyn Ambient = &System;
    format!("{what}-{}", boot.nonce())
}

/// Says that each task was launched: the tests start them.
struct Launched;

#[async_trait::async_trait]
impl Launcher for Launched {
    async fn launch(&self, _: &Job) -> Result<(), LaunchFailed> {
        Ok(())
    }

    async fn find(&self, _: JobId, _: Epoch, _: Venue) -> Result<TaskState, PortError> {
        Ok(TaskState::Absent)
    }

    async fn stop(&self, _: JobId, _: Epoch, _: Venue) -> Result<(), PortError> {
        Ok(())
    }
}

/// A yard of its own on the emulator.
pub(crate) struct Scene {
    pub(crate) names: Names,
    pub(crate) clients: Clients,
    pub(crate) home: Home,
    pub(crate) yard: Yard,
    endpoint: String,
}

impl Scene {
    /// The yard, with the tests' catalog in its bucket.
    pub(crate) async fn open(what: &str) -> Self {
        Self::open_at(what, endpoint(), CATALOG, &[PoolName::STANDARD, "steady".parse().unwrap()]).await
    }

    /// The yard, reached there, with this catalog and queues for these pools.
    pub(crate) async fn open_at(what: &str, endpoint: &str, catalog: &str, pools: &[PoolName]) -> Self {
        let names = Names::called(&unique(what));
        let settings = Settings { endpoint: Some(endpoint.to_owned()), attempts: 8, ..Settings::new(REGION) };
        let credentials = Credentials::new("tests", SECRET, None, None, "tests");
        let clients = Clients::new(settings, SharedCredentialsProvider::new(credentials));
        let set = environment(&names, endpoint);
        let deployment =
            Deployment::read(&|asked| set.iter().find(|(name, _)| *name == asked).map(|(_, value)| value.clone()));
        let mut deployment = deployment.unwrap();
        // The tests look at who works all the time.
        deployment.keeping.live_for = Duration::from_millis(20);
        let mut files: Files = built_in();
        files.insert(CATALOG_FILE.to_owned(), catalog.to_owned());
        // As `switchyard policies push` writes them.
        let files = as_json(&files).unwrap();
        let policies = deployment.parser(builtin::ALL)(&files).unwrap();
        let (home, _) = deployment.open(&clients, Arc::default(), Arc::new(System), nothing);
        let yard = home.yard(Arc::new(Launched), Arc::new(Shelf::new(policies)));
        home.declare(&clients, pools).await.unwrap();
        switchyard_aws::policies_s3::push(&clients, &names.bucket, &files).await.unwrap();
        Self { names, clients, home, yard, endpoint: endpoint.to_owned() }
    }

    /// The program, in the environment of a process of this yard and with nothing else of the tests' own.
    pub(crate) fn switchyard(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard"));
        command
            .env_clear()
            .envs(environment(&self.names, &self.endpoint))
            .env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Submits a script.
    pub(crate) async fn submit(&self, capability: &str, script: &str, tier: &str) -> Job {
        let prepared = self.prepared(capability, script, tier).await;
        intake::accept(&self.yard, vec![prepared]).await.unwrap().remove(0).unwrap().job
    }

    /// Submits a script so many times at once, to this yard by these doors.
    pub(crate) async fn submit_many(&self, yard: &Yard, capability: &str, script: &str, jobs: usize) -> Vec<Job> {
        let mut batch = Vec::with_capacity(jobs);
        for _ in 0..jobs {
            batch.push(self.prepared(capability, script, "standard").await);
        }
        intake::accept(yard, batch).await.unwrap().into_iter().map(|taken| taken.unwrap().job).collect()
    }

    async fn prepared(&self, capability: &str, script: &str, tier: &str) -> intake::Prepared {
        let payload = serde_json::json!({ "script": script });
        let body = serde_json::json!({ "capability": capability, "payload": payload, "tier": tier }).to_string();
        let (submission, digest) = intake::read(body.as_bytes()).unwrap();
        let (sender, now) = (Sender { caller: "tests", key: None }, System.now());
        let situation = self.yard.situation().await;
        intake::prepare(&submission, digest, sender, &situation, Taking::default(), now, System.random()).unwrap()
    }

    pub(crate) async fn job(&self, job: &Job) -> Job {
        self.yard.ledger.load(job.id).await.unwrap().expect("it is kept")
    }

    pub(crate) async fn until(&self, job: &Job, phase: Phase) -> Job {
        let given_up = Instant::now() + Duration::from_secs(30);
        loop {
            let now = self.job(job).await;
            if now.phase() == phase {
                return now;
            }
            assert!(Instant::now() < given_up, "still not {phase:?}: {now:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What a run printed.
    pub(crate) async fn log(&self, job: &Job) -> String {
        let page = self.yard.logs.read(job.id, "").await.unwrap();
        page.lines.into_iter().map(|(_, line)| line.text + "\n").collect()
    }
}

fn environment(names: &Names, endpoint: &str) -> Vec<(&'static str, String)> {
    let Names { table, queues, bucket, log_group, bus } = names.clone();
    vec![
        ("SWITCHYARD_TABLE", table),
        ("SWITCHYARD_QUEUES", queues),
        ("SWITCHYARD_BUCKET", bucket.clone()),
        ("SWITCHYARD_LOG_GROUP", log_group),
        ("SWITCHYARD_BUS", bus),
        ("POLICY_BUCKET", bucket),
        ("AWS_REGION", REGION.to_owned()),
        ("AWS_ENDPOINT_URL", endpoint.to_owned()),
        ("AWS_ACCESS_KEY_ID", "tests".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
        ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
    ]
}

/// A run of the program to its end.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// Runs it to its end, in a thread of its own: the tests' runtime goes on.
    pub(crate) async fn of(command: &mut Command) -> Self {
        Self::after(command.spawn().unwrap()).await
    }

    pub(crate) async fn after(child: Child) -> Self {
        let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let ended = Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) };
        assert!(!ended.stdout.contains(SECRET) && !ended.stderr.contains(SECRET), "a secret is told: {ended:?}");
        ended
    }

    /// The line that says why it failed.
    pub(crate) fn said(&self) -> &str {
        self.stderr.lines().last().unwrap_or_default()
    }
}
