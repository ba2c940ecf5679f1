//! What containers do to whoever runs them, and what is left of it: nothing but the outcome and the log.
//!
//! After every run, here whatever the case: no container carries its label, and no volume is left. Where no container
//! engine answers, each of these tests says so and passes.

mod image;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bollard::Docker;
use bollard::query_parameters::{KillContainerOptionsBuilder, ListContainersOptionsBuilder};
use image::{Image, docker, engine};
use serde_json::{Value, json};
use switchyard_builtins::system::System;
use switchyard_core::catalog::Catalog;
use switchyard_core::execute;
use switchyard_core::intake::{self, Sender, Taking};
use switchyard_core::job::{ClaimToken, Holder, Nonce, StopCause};
use switchyard_core::policies::{Policies, Shelf, Situation};
use switchyard_core::ports::{
    Ambient, Assignment, Body, Claim, Emission, Executor, LoanDoor, LogLine, LogSink, Outcome, PortError, StopSignal,
    Stream, Usage,
};
use switchyard_core::records::Emitted;
use switchyard_core::route::Limits;
use switchyard_worker::capture::OUTPUT_BYTES;
use switchyard_worker::credentials::Vault;
use switchyard_worker::engine::Engine;
use switchyard_worker::executor::LocalExecutor;
use switchyard_worker::network;
use switchyard_worker::scratch::Scratch;

const CATALOG: &str = r#"
version: 1
capabilities:
  - name: probe
    summary: does what it is told
    run: { image: "IMAGE", args: ["{{do}}", "{{what}}"] }
    needs: { timeout_seconds: 120, grace_seconds: 1, memory_mib: 64 }
    retry: { permanent_exits: [3] }
  - name: brief
    summary: has three seconds for it
    run: { image: "IMAGE", args: ["{{do}}", "{{what}}"] }
    needs: { timeout_seconds: 3, grace_seconds: 1, memory_mib: 64 }
  - name: crowded
    summary: may have few processes
    run: { image: "IMAGE", args: ["{{do}}", "{{what}}"], container: { pids: 20 } }
    needs: { timeout_seconds: 120, memory_mib: 64 }
  - name: granted
    summary: may do more
    run: { image: "IMAGE", args: ["{{do}}", "{{what}}"], container: { capabilities: [NET_RAW], writable_root: true } }
    needs: { timeout_seconds: 120, memory_mib: 64 }
  - name: outbound
    summary: may reach others
    run: { image: "IMAGE", args: ["{{do}}", "{{what}}"], container: { network: outbound } }
    needs: { timeout_seconds: 120, memory_mib: 64 }
  - name: bare
    summary: has no arguments
    run: { image: "IMAGE" }
  - name: task
    summary: runs its arguments in place of the entry point
    run: { task_image: "IMAGE", args: ["/probe", "{{do}}", "{{what}}"] }
  - name: lost
    summary: runs what is not there
    run: { task_image: "IMAGE", args: ["/none"] }
"#;

/// A log that is looked at afterwards.
#[derive(Default)]
struct Kept(Mutex<Vec<LogLine>>, Mutex<Usage>, Mutex<Vec<String>>);

#[async_trait]
impl LogSink for Kept {
    async fn emit(&self, lines: &[Emitted]) -> Result<Emission, PortError> {
        self.2.lock().unwrap().extend(lines.iter().map(|line| line.line.clone()));
        Ok(Emission::Taken(vec![]))
    }

    async fn write(&self, lines: Vec<LogLine>) {
        self.0.lock().unwrap().extend(lines);
    }

    fn used(&self, usage: Usage) {
        *self.1.lock().unwrap() = usage;
    }
}

/// Containers of one yard that is not there.
struct Bench {
    engine: Engine,
    yard: String,
    image: String,
}

/// What one run left.
#[derive(Debug)]
struct Run {
    outcome: Outcome,
    log: Vec<LogLine>,
    usage: Usage,
    emitted: Vec<String>,
}

impl Run {
    /// What it printed on one stream, line by line.
    fn printed(&self, stream: Stream) -> Vec<&str> {
        self.log.iter().filter(|line| line.stream == stream).map(|line| line.text.as_str()).collect()
    }

    /// The outcome in a line, for a reviewer.
    fn told(&self) -> String {
        match &self.outcome {
            Outcome::Failed { failure, permanent } => {
                format!("{failure} [{}]", if *permanent { "for good" } else { "another attempt may help" })
            }
            other => format!("{other:?}"),
        }
    }

    /// The code of its failure, whether it is for good, and its exit.
    fn failure(&self) -> (&str, bool, Option<i32>) {
        match &self.outcome {
            Outcome::Failed { failure, permanent } => (&failure.code, *permanent, failure.exit),
            other => panic!("{other:?}"),
        }
    }
}

impl Bench {
    fn new(engine: &Engine, image: &str) -> Self {
        static YARDS: AtomicU32 = AtomicU32::new(0);
        let yard = format!("test-{}-{}", std::process::id(), YARDS.fetch_add(1, Ordering::Relaxed));
        Self { engine: engine.clone(), yard, image: image.to_owned() }
    }

    async fn probe(&self, what: &str, how: &str) -> Run {
        self.run("probe", json!({ "do": what, "what": how })).await
    }

    /// Runs one job of a capability, and holds what is left to the promise above.
    async fn run(&self, capability: &str, payload: Value) -> Run {
        self.run_until(capability, payload, StopSignal::default()).await
    }

    async fn run_until(&self, capability: &str, payload: Value, stop: StopSignal) -> Run {
        let catalog = CATALOG.replace("IMAGE", &self.image);
        let catalog = Catalog::parse("catalog.yaml", &catalog, &[], &BTreeMap::new()).unwrap();
        let limits = Limits::default().on_one_machine(4096, 64_000, true);
        let shelf = Arc::new(Shelf::new(Policies { catalog, limits, ..Policies::default() }));
        let situation = Situation { policies: shelf.policies(), ..Situation::default() };
        let body = json!({ "capability": capability, "payload": payload }).to_string();
        let (submission, digest) = intake::read(body.as_bytes()).unwrap();
        let sender = Sender { caller: "tests", key: None };
        let (now, random) = (System.now(), System.random());
        let prepared =
            intake::prepare(&submission, digest, sender, &situation, Taking::default(), now, random).unwrap();
        let claim = Claim {
            id: prepared.job.id,
            epoch: prepared.job.epoch,
            holder: Holder("tests".to_owned()),
            token: ClaimToken::new([7; 32]).hash(),
            at_most: None,
            room: None,
        };
        let job = execute::claim(&prepared.job, &claim, &situation, System.now()).unwrap();
        let deadline = System.now() + job.work.run_timeout;
        let assignment = Assignment { job, payload: prepared.payload, deadline, stop, loans: LoanDoor::NONE };
        let scratch = tempfile::tempdir().unwrap();
        let executor = LocalExecutor {
            shelf,
            scratch: Scratch::new(scratch.path(), 0),
            vault: Vault::usual(),
            yard: self.yard.clone(),
            boot: Nonce(1),
            engine: Some(self.engine.clone()),
            task: None,
            ambient: Arc::new(System),
        };
        let log = Kept::default();
        let outcome = executor.run(&assignment, &log).await;
        let Kept(lines, usage, emitted) = log;
        let (log, usage) = (lines.into_inner().unwrap(), usage.into_inner().unwrap());
        let run = Run { outcome, log, usage, emitted: emitted.into_inner().unwrap() };
        let left = self.containers(&docker(&self.engine).await).await;
        assert!(left.is_empty(), "containers of ended runs are left: {left:?}");
        run
    }

    /// The containers of this yard, by id, with their volumes.
    async fn containers(&self, docker: &Docker) -> Vec<(String, Vec<String>)> {
        let filters = HashMap::from([("label", vec![format!("switchyard.yard={}", self.yard)])]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let listed = docker.list_containers(Some(options)).await.unwrap();
        let volumes = |mounts: Option<Vec<bollard::models::MountPoint>>| {
            mounts.unwrap_or_default().into_iter().filter_map(|mount| mount.name).collect()
        };
        listed.into_iter().map(|each| (each.id.unwrap(), volumes(each.mounts))).collect()
    }

    /// The container of the one run that is under way, once it runs.
    async fn running(&self, docker: &Docker) -> (String, Vec<String>) {
        for _ in 0..1200 {
            for (id, volumes) in self.containers(docker).await {
                let looked = docker.inspect_container(&id, None).await;
                if looked.is_ok_and(|looked| looked.state.is_some_and(|state| state.running == Some(true))) {
                    return (id, volumes);
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("no container of {} runs", self.yard);
    }
}

/// The engine and a bench with the program on it; none where no engine answers.
async fn bench(test: &str) -> Option<(Bench, Image)> {
    let engine = engine(test).await?;
    let image = Image::with_probe(&engine).await;
    Some((Bench::new(&engine, &image.name), image))
}

#[tokio::test]
async fn an_end_is_told_as_a_commands_is() {
    let Some((bench, _image)) = bench("an_end_is_told_as_a_commands_is").await else { return };
    let well = bench.probe("exit", "0").await;
    assert_eq!(well.outcome, Outcome::Succeeded(None));
    assert_eq!(well.printed(Stream::Stderr), ["about to exit with 0"]);
    assert_eq!(well.printed(Stream::Yard), Vec::<&str>::new());
    let told = [bench.probe("exit", "7").await.told(), bench.probe("exit", "3").await.told()];
    insta::assert_snapshot!(told.join("\n"));
}

#[tokio::test]
async fn a_program_finds_what_it_is_given_and_nothing_of_the_yards() {
    // The yard of this test: its own environment holds what a container must not see.
    let Some((bench, _image)) = bench("a_program_finds_what_it_is_given_and_nothing_of_the_yards").await else {
        return;
    };
    let run = bench.probe("environment", "").await;
    assert_eq!(run.outcome, Outcome::Succeeded(None), "{run:?}");
    let names: Vec<&str> =
        run.printed(Stream::Stdout).iter().map(|line| line.split_once('=').map_or(*line, |(name, _)| name)).collect();
    let mut sorted = names.clone();
    sorted.sort_unstable();
    // PATH and HOSTNAME are the engine's; OF_THE_IMAGE is the image's own.
    assert_eq!(
        sorted,
        [
            "HOME",
            "HOSTNAME",
            "LANG",
            "OF_THE_IMAGE",
            "PATH",
            "SWITCHYARD_DEADLINE",
            "SWITCHYARD_EPOCH",
            "SWITCHYARD_JOB_ID",
            "SWITCHYARD_PAYLOAD",
            "SWITCHYARD_RECORDS_PATH",
            "SWITCHYARD_RESULT_PATH",
            "TRACEPARENT",
            "TZ"
        ]
    );
    assert!(run.printed(Stream::Stdout).contains(&"SWITCHYARD_RESULT_PATH=/switchyard/run/result.json"));

    let task = bench.run("task", json!({ "do": "arguments", "what": "x -y" })).await;
    assert_eq!(task.printed(Stream::Stdout), [r#"["arguments", "x -y"]"#], "{}", task.told());
}

/// The fields of /proc/self/status that say what a process may do (proc(5)).
fn status(run: &Run) -> BTreeMap<&str, Vec<&str>> {
    let fields = run.printed(Stream::Stdout).into_iter().filter_map(|line| line.split_once(':'));
    fields.map(|(name, value)| (name, value.split_whitespace().collect())).collect()
}

#[tokio::test]
async fn what_the_catalog_grants_takes_effect_and_nothing_else_does() {
    let Some((bench, _image)) = bench("what_the_catalog_grants_takes_effect_and_nothing_else_does").await else {
        return;
    };
    let run = bench.run("granted", json!({ "do": "status", "what": "" })).await;
    let found = status(&run);
    // CAP_NET_RAW is bit 13 (linux/capability.h).
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(found[set], ["0000000000002000"], "{set}");
    }
    assert_eq!((found["Uid"][1], found["NoNewPrivs"][0]), ("0", "1"));
    let wrote = bench.run("granted", json!({ "do": "write", "what": "" })).await;
    assert_eq!(wrote.printed(Stream::Stdout)[0], "/: done");
}

#[tokio::test]
async fn a_program_may_do_the_least() {
    let Some((bench, _image)) = bench("a_program_may_do_the_least").await else { return };
    let run = bench.probe("status", "").await;
    let found = status(&run);
    assert_eq!(found["Uid"], ["65532"; 4]);
    assert_eq!(found["Gid"], ["65532"; 4]);
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(found[set], ["0000000000000000"], "{set}");
    }
    assert_eq!(found["NoNewPrivs"], ["1"]);
    assert_eq!(found["Seccomp"], ["2"], "the engine's filter of system calls is on");
    let wrote = bench.probe("write", "").await;
    assert_eq!(
        wrote.printed(Stream::Stdout),
        ["/: ReadOnlyFilesystem", "/etc: ReadOnlyFilesystem", "/tmp: done", "the run's folder: done"]
    );
}

#[tokio::test]
async fn a_program_sees_no_process_and_no_credentials_of_the_worker() {
    let Some((bench, _image)) = bench("a_program_sees_no_process_and_no_credentials_of_the_worker").await else {
        return;
    };
    let run = bench.probe("processes", "").await;
    let seen = run.printed(Stream::Stdout);
    assert_eq!(seen.len(), 1, "itself: {seen:?}");
    assert!(seen[0].starts_with("1 "), "{seen:?}");
    // What the worker is started with, where its role's credentials may lie, and the engine that would give everything.
    let own = format!("/proc/{}/environ", std::process::id());
    let paths = [own.as_str(), "/root/.aws/credentials", "/var/run/docker.sock", "/run/docker.sock"];
    let run = bench.probe("read", &paths.join(",")).await;
    assert_eq!(run.printed(Stream::Stdout), paths.map(|path| format!("{path}: NotFound")), "{}", run.told());
}

#[tokio::test]
async fn a_result_is_taken_as_a_commands_is() {
    let Some((bench, _image)) = bench("a_result_is_taken_as_a_commands_is").await else { return };
    let small = bench.probe("result", r#"{"found":[1,2]}"#).await;
    assert_eq!(small.outcome, Outcome::Succeeded(Some(r#"{"found":[1,2]}"#.to_owned())));
    let largest = bench.probe("large-result", &Body::MAX_BYTES.to_string()).await;
    let Outcome::Succeeded(Some(result)) = &largest.outcome else { panic!("{}", largest.told()) };
    assert_eq!(result.len(), Body::MAX_BYTES);
    let mut told = Vec::new();
    for (what, how) in [
        ("large-result", (Body::MAX_BYTES + 1).to_string()),
        ("large-result", (16 << 20).to_string()),
        ("result", "{\"a\": 1,}".to_owned()),
        ("result", String::new()),
        ("linked-result", String::new()),
        ("folder-result", String::new()),
    ] {
        told.push(format!("{what} {how}\n    {}", bench.probe(what, &how).await.told()));
    }
    insta::assert_snapshot!(told.join("\n"));
}

#[tokio::test]
async fn what_a_container_emits_is_taken_when_it_has_ended_however_that_was() {
    let Some((bench, _image)) = bench("what_a_container_emits_is_taken_when_it_has_ended_however_that_was").await
    else {
        return;
    };
    let many = bench.probe("emit", "3000").await;
    assert_eq!(many.outcome, Outcome::Succeeded(None), "{}", many.told());
    assert!(many.emitted.len() == 3000 && many.emitted[2999].contains("host:2999"), "{}", many.emitted.len());
    let failed = bench.probe("emit-and-fail", "2").await;
    assert_eq!(failed.emitted.len(), 2, "{}", failed.told());
    assert!(matches!(failed.outcome, Outcome::Failed { .. }));
    let linked = bench.probe("linked-records", "").await;
    assert_eq!((linked.outcome, linked.emitted), (Outcome::Succeeded(None), vec![]), "a link is no file of records");
}

#[tokio::test]
async fn a_large_payload_is_a_file() {
    let Some((bench, _image)) = bench("a_large_payload_is_a_file").await else { return };
    let payload = json!({ "do": "payload", "what": "", "more": "x".repeat(300_000) });
    let run = bench.run("probe", payload.clone()).await;
    assert_eq!(run.printed(Stream::Stdout), [format!("{} bytes", payload.to_string().len())], "{}", run.told());
}

#[tokio::test]
async fn too_little_memory_is_told_from_a_kill() {
    let Some((bench, _image)) = bench("too_little_memory_is_told_from_a_kill").await else { return };
    let ate = bench.probe("eat", "500").await;
    let Outcome::OutOfMemory(failure) = &ate.outcome else { panic!("{}", ate.told()) };
    assert_eq!((failure.code.as_str(), failure.exit), ("out_of_memory", Some(137)));
    let fits = bench.probe("eat", "30").await;
    assert_eq!(fits.outcome, Outcome::Succeeded(None), "{}", fits.told());
    let mib = fits.usage.max_rss_mib.expect("it ran long enough to be looked at");
    assert!((30..=64).contains(&mib), "{mib} MiB");

    let docker = docker(&bench.engine).await;
    let killing = async {
        let (id, volumes) = bench.running(&docker).await;
        let options = KillContainerOptionsBuilder::new().signal("SIGKILL").build();
        docker.kill_container(&id, Some(options)).await.unwrap();
        volumes
    };
    let (killed, volumes) = tokio::join!(bench.probe("stubborn", ""), killing);
    assert_eq!(killed.failure(), ("killed", false, Some(137)));
    assert_eq!(volumes.len(), 1);
    assert!(docker.inspect_volume(&volumes[0]).await.is_err(), "the volume goes with its container");
}

#[tokio::test]
async fn a_deadline_and_a_cancellation_end_what_ignores_sigterm() {
    let Some((bench, _image)) = bench("a_deadline_and_a_cancellation_end_what_ignores_sigterm").await else { return };
    let late = bench.run("brief", json!({ "do": "stubborn", "what": "" })).await;
    assert_eq!(late.outcome, Outcome::TimedOut);
    assert_eq!(late.printed(Stream::Yard), ["stopped (Deadline): it ignored SIGTERM and was killed"]);
    assert_eq!(late.printed(Stream::Stdout), ["ready"]);

    let docker = docker(&bench.engine).await;
    for (program, how) in [("stubborn", "it ignored SIGTERM and was killed"), ("polite", "it ended after SIGTERM")] {
        let stop = StopSignal::default();
        let cancelling = async {
            bench.running(&docker).await;
            // Until it has said that it is ready, SIGTERM finds it with no handler.
            tokio::time::sleep(Duration::from_secs(1)).await;
            stop.raise(StopCause::Cancel);
        };
        let payload = json!({ "do": program, "what": "" });
        let (cancelled, ()) = tokio::join!(bench.run_until("probe", payload, stop.clone()), cancelling);
        assert_eq!(cancelled.outcome, Outcome::Stopped(StopCause::Cancel), "{program}");
        assert_eq!(cancelled.printed(Stream::Yard), [format!("stopped (Cancel): {how}")]);
    }
    let stop = StopSignal::default();
    stop.raise(StopCause::Drain);
    let never = bench.run_until("probe", json!({ "do": "exit", "what": "0" }), stop).await;
    assert_eq!((never.outcome, never.log), (Outcome::Stopped(StopCause::Drain), vec![]));
}

#[tokio::test]
async fn a_fork_bomb_is_stopped_at_its_limit() {
    let Some((bench, _image)) = bench("a_fork_bomb_is_stopped_at_its_limit").await else { return };
    let run = bench.run("crowded", json!({ "do": "bomb", "what": "" })).await;
    assert_eq!(run.outcome, Outcome::Succeeded(None), "{}", run.told());
    assert_eq!(run.printed(Stream::Stdout), ["19 children, and no more"]);
}

/// The most memory this process has had (proc(5), VmHWM), in MiB.
fn peak_mib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() / 1024
}

#[tokio::test]
async fn a_gigabyte_of_output_is_cut_and_fills_nothing() {
    let Some((bench, _image)) = bench("a_gigabyte_of_output_is_cut_and_fills_nothing").await else { return };
    let before = peak_mib();
    let run = bench.probe("flood", "1024").await;
    assert_eq!(run.outcome, Outcome::Succeeded(None), "{}", run.told());
    let kept: usize = run.printed(Stream::Stdout).iter().map(|line| line.len()).sum();
    assert!(kept <= OUTPUT_BYTES && kept > OUTPUT_BYTES / 2, "{kept}");
    assert_eq!(run.printed(Stream::Yard), ["output cut: a run's log keeps 10 MiB"]);
    assert!(peak_mib() - before < 128, "{} MiB", peak_mib() - before);
}

#[tokio::test]
async fn what_cannot_be_started_says_why() {
    let Some((bench, image)) = bench("what_cannot_be_started_says_why").await else { return };
    let lost = bench.run("lost", json!({})).await;
    assert_eq!(lost.failure(), ("not_started", true, None), "{}", lost.told());
    let text = Image::with("ENTRYPOINT [\"/text\"]", &[("text", 0o755, b"\x7fELF no program")], &bench.engine).await;
    let run = Bench::new(&bench.engine, &text.name).run("bare", json!({})).await;
    assert_eq!(run.failure().0, "not_started", "{}", run.told());
    assert!(run.failure().1, "{}", run.told());
    let empty = Image::with("LABEL a=b", &[("text", 0o644, b"x")], &bench.engine).await;
    let run = Bench::new(&bench.engine, &empty.name).run("bare", json!({})).await;
    assert_eq!(run.failure(), ("not_started", true, None), "{}", run.told());
    drop(image);
}

#[tokio::test]
async fn an_image_that_cannot_be_had_says_why() {
    let Some((bench, image)) = bench("an_image_that_cannot_be_had_says_why").await else { return };
    let docker = docker(&bench.engine).await;
    // By its id, as by the digest of a registry, it is the very one.
    let id = docker.inspect_image(&image.name).await.unwrap().id.unwrap();
    let pinned = Bench::new(&bench.engine, &format!("switchyard-test@{id}"));
    assert_eq!(pinned.probe("exit", "0").await.outcome, Outcome::Succeeded(None));

    let registry = Registry::open().await;
    let digest = format!("sha256:{}", "0".repeat(64));
    let cases = [
        ("missing:1".to_owned(), "image_not_found", true),
        ("denied:1".to_owned(), "image_pull_denied", true),
        (format!("changed@{digest}"), "image_digest_mismatch", true),
        ("broken:1".to_owned(), "image_pull_failed", false),
    ];
    for (name, code, permanent) in cases {
        let bench = Bench::new(&bench.engine, &format!("127.0.0.1:{}/{name}", registry.port));
        let run = bench.probe("exit", "0").await;
        assert_eq!(run.failure(), (code, permanent, None), "{name}: {}", run.told());
        assert!(run.printed(Stream::Yard)[0].starts_with("fetching 127.0.0.1:"), "{run:?}");
    }
}

/// A registry that has nothing, and says so in several ways (OCI Distribution Specification).
struct Registry {
    port: u16,
}

impl Registry {
    async fn open() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut caller, _)) = listener.accept().await {
                tokio::spawn(async move {
                    use tokio::io::{AsyncReadExt, AsyncWriteExt};
                    let mut head = Vec::new();
                    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                        if caller.read_buf(&mut head).await.unwrap_or(0) == 0 {
                            return;
                        }
                    }
                    let head = String::from_utf8_lossy(&head).into_owned();
                    let path = head.split(' ').nth(1).unwrap_or_default();
                    let error = |code: &str| format!(r#"{{"errors":[{{"code":"{code}","message":"no"}}]}}"#);
                    let (status, kind, body) = match path.split('/').nth(2).unwrap_or_default() {
                        "" => ("200 OK", "application/json", "{}".to_owned()),
                        "missing" => ("404 Not Found", "application/json", error("MANIFEST_UNKNOWN")),
                        "denied" => ("403 Forbidden", "application/json", error("DENIED")),
                        "changed" => {
                            let manifest = r#"{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json","config":{},"layers":[]}"#;
                            ("200 OK", "application/vnd.docker.distribution.manifest.v2+json", manifest.to_owned())
                        }
                        _ => ("500 Internal Server Error", "application/json", error("UNKNOWN")),
                    };
                    let length = body.len();
                    let body = if head.starts_with("HEAD") { String::new() } else { body };
                    let answer = format!(
                        "HTTP/1.1 {status}\r\nDocker-Distribution-Api-Version: registry/2.0\r\nContent-Type: {kind}\r\n\
                         Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
                    );
                    let _ = caller.write_all(answer.as_bytes()).await;
                });
            }
        });
        Self { port }
    }
}

#[tokio::test]
async fn what_an_earlier_run_of_the_job_left_is_removed_and_others_are_not() {
    let test = "what_an_earlier_run_of_the_job_left_is_removed_and_others_are_not";
    let Some((bench, _image)) = bench(test).await else { return };
    let docker = docker(&bench.engine).await;
    let stop = StopSignal::default();
    let sweeping = async {
        let (id, _) = bench.running(&docker).await;
        assert_eq!(bench.engine.sweep_other_boots(&bench.yard, Nonce(1)).await.unwrap(), 0, "it is this start's");
        assert_eq!(bench.engine.sweep_yard("another").await.unwrap(), 0);
        assert!(docker.inspect_container(&id, None).await.is_ok());
        assert_eq!(bench.engine.sweep_other_boots(&bench.yard, Nonce(2)).await.unwrap(), 1);
    };
    let (run, ()) =
        tokio::join!(bench.run_until("probe", json!({ "do": "stubborn", "what": "" }), stop.clone()), sweeping);
    // Whoever removes it under its holder is not the job's fault, nor its success.
    assert!(matches!(run.outcome, Outcome::Failed { .. } | Outcome::Interrupted(_)), "{}", run.told());
}

/// Every address of this machine, loopback and link-local IPv6 left out: those are another machine's inside.
fn own_addresses() -> Vec<String> {
    let listed = std::process::Command::new("ip").args(["-4", "-o", "addr", "show"]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let fields = listed.lines().filter_map(|line| line.split_whitespace().nth(3));
    fields
        .filter_map(|field| field.split('/').next())
        .filter(|own| !own.starts_with("127."))
        .map(str::to_owned)
        .collect()
}

/// How many packets the rule has dropped.
fn dropped(chain: &str, rule: &str) -> u64 {
    let listed = std::process::Command::new("iptables").args(["-w", "-nvxL", chain]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let line = listed.lines().find(|line| line.contains("switchyard0") && line.contains(rule));
    let line = line.unwrap_or_else(|| panic!("{chain} has no such rule:\n{listed}"));
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn outbound_reaches_neither_this_machine_nor_metadata() {
    let test = "outbound_reaches_neither_this_machine_nor_metadata";
    let Some((bench, image)) = bench(test).await else { return };
    if !rustix::process::geteuid().is_root() || std::env::var("DOCKER_HOST").is_ok_and(|host| !host.starts_with("unix"))
    {
        eprintln!("SKIPPED {test}: only root on the engine's own machine can guard the network");
        return;
    }
    let docker = docker(&bench.engine).await;
    let there_before = docker.inspect_network(network::NAME, None).await.is_ok();
    let engine = bench.engine.clone();
    // A task of its own: what it finds is told after everything is put away again.
    let found = tokio::spawn(nothing_is_reached(bench, image.name.clone())).await;
    if !there_before {
        network::unguard(&engine).await.unwrap();
        assert!(docker.inspect_network(network::NAME, None).await.is_err());
        let rules = std::process::Command::new("iptables-save").output().unwrap();
        assert!(!String::from_utf8(rules.stdout).unwrap().contains("switchyard0"));
    }
    found.unwrap();
}

async fn nothing_is_reached(bench: Bench, image: String) {
    let docker = docker(&bench.engine).await;
    network::guard(&bench.engine).await.unwrap();
    // Again: what is there is left as it is.
    let first = docker.inspect_network(network::NAME, None).await.unwrap();
    network::guard(&bench.engine).await.unwrap();
    assert_eq!(docker.inspect_network(network::NAME, None).await.unwrap().id, first.id);
    let listener = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let own = own_addresses();
    let gateway = first.ipam.unwrap().config.unwrap()[0].gateway.clone().unwrap();
    assert!(own.contains(&gateway), "{own:?}");
    let mut addresses: Vec<String> = own.iter().map(|own| format!("{own}:{port}")).collect();

    // Without the guard all of them are reached: the addresses are right, and somebody listens.
    let reached = reach_from_the_usual_bridge(&docker, &image, &addresses.join(",")).await;
    for address in &addresses {
        assert!(reached.contains(&format!("{address} reached")), "{reached}");
    }

    addresses.extend(["169.254.169.254:80".to_owned(), "169.254.170.2:80".to_owned()]);
    let before = (dropped("INPUT", "0.0.0.0/0"), dropped("DOCKER-USER", "169.254.0.0/16"));
    let run = bench.run("outbound", json!({ "do": "reach", "what": addresses.join(",") })).await;
    let expected: Vec<String> = addresses.iter().map(|address| format!("{address} out of reach")).collect();
    assert_eq!(run.printed(Stream::Stdout), expected, "{}", run.told());
    assert!(dropped("INPUT", "0.0.0.0/0") > before.0, "it was the rule that kept them away");
    assert!(dropped("DOCKER-USER", "169.254.0.0/16") > before.1, "it was the rule that kept them away");
    let none = bench.probe("reach", &addresses.join(",")).await;
    assert_eq!(none.printed(Stream::Stdout), expected, "without a network nothing is in reach");
}

/// What a container on the engine's own bridge reaches, as it tells.
async fn reach_from_the_usual_bridge(docker: &Docker, image: &str, addresses: &str) -> String {
    use bollard::models::{ContainerCreateBody, HostConfig};
    use futures_lite::StreamExt;
    let body = ContainerCreateBody {
        image: Some(image.to_owned()),
        cmd: Some(vec!["reach".to_owned(), addresses.to_owned()]),
        host_config: Some(HostConfig { network_mode: Some("bridge".to_owned()), ..HostConfig::default() }),
        ..ContainerCreateBody::default()
    };
    let id = docker.create_container(None::<bollard::query_parameters::CreateContainerOptions>, body).await.unwrap().id;
    let started = docker.start_container(&id, None).await;
    let ended: Vec<_> = if started.is_ok() { docker.wait_container(&id, None).collect().await } else { vec![] };
    let options = bollard::query_parameters::LogsOptionsBuilder::new().stdout(true).stderr(true).build();
    let logs: Vec<_> = docker.logs(&id, Some(options)).collect().await;
    let options = bollard::query_parameters::RemoveContainerOptionsBuilder::new().force(true).v(true).build();
    docker.remove_container(&id, Some(options)).await.unwrap();
    assert!(started.is_ok() && ended.iter().all(Result::is_ok), "{started:?} {ended:?}");
    logs.into_iter().map(|part| part.unwrap().to_string()).collect()
}
