//! Runs one container image: with the least it can do its work with, output captured within limits, and an end that is
//! certain, also when the engine goes away meanwhile.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::errors::Error as ClientError;
use bollard::models::{
    ContainerCreateBody, ContainerStateStatusEnum, HostConfig, HostConfigLogConfig, Mount, MountType, ResourcesUlimits,
};
use bollard::query_parameters::{
    AttachContainerOptionsBuilder, CreateContainerOptions, DownloadFromContainerOptionsBuilder,
    KillContainerOptionsBuilder, StatsOptionsBuilder, UploadToContainerOptionsBuilder,
};
use futures_lite::{Stream, StreamExt};
use hyper::body::Bytes;
use switchyard_core::catalog::{self, ImageKind, Network};
use switchyard_core::job::{Failure, Nonce, StopCause};
use switchyard_core::ports::{Ambient, Assignment, Body, LogLine, LogSink, Message, Outcome, Usage};
use tokio::time::Instant;

use crate::capture::Capture;
use crate::credentials::{Handed, IN_CONTAINER, NO_CORE_BYTES};
use crate::engine::{BOOT_LABEL, Engine, EngineError, ImageError, JOB_LABEL, Known, RUN_LABEL, YARD_LABEL};
use crate::environment::{PAYLOAD_FILE, RECORDS_FILE, RESULT_FILE, is_large, variables};
use crate::network;
use crate::process::mark;
use crate::records::Emitter;
use crate::result;

/// Where the run's volume is in the container.
const VOLUME: &str = "/switchyard";
/// The run's folder, in that volume. Its own: the top of a volume belongs to root, and an engine lets nobody change that.
const FOLDER: &str = "run";
/// How long an engine that has gone is waited for: a restart takes a few seconds, one of a busy machine some more.
const PATIENCE: Duration = Duration::from_secs(30);
/// Looks at an engine that has gone are so far apart.
const LOOKS_APART: Duration = Duration::from_millis(250);
/// How long output is awaited after the container has ended. Nothing in it can hold the stream: the engine closes it.
const LINGER: Duration = Duration::from_secs(5);
/// How long the engine may take to end a container that it was told to kill.
const KILLED: Duration = Duration::from_secs(10);
/// The least memory that engines give a container, in MiB (Docker Engine API, `Memory`).
const MEMORY_MIB_MIN: u32 = 6;
/// The least of a processor that engines give a container, in thousandths (Docker: 0.01).
const MILLI_VCPU_MIN: u32 = 10;
/// What an archive of one file has beside the file's bytes: headers, of which a program chooses some.
const ARCHIVE_BYTES: usize = 64 * 1024;
/// The first look at the memory comes so late, and the next each after twice the time, up to [`SAMPLES_APART`].
const FIRST_SAMPLE: Duration = Duration::from_millis(200);
/// The longest between two looks.
const SAMPLES_APART: Duration = Duration::from_secs(5);
/// 128 and the number of SIGKILL: what a container ended with whose program was killed.
const EXIT_KILLED: i32 = 137;

/// What to run, and where.
pub struct Container<'a> {
    /// The engine.
    pub engine: &'a Engine,
    /// The image's reference.
    pub image: &'a str,
    /// What it has inside.
    pub kind: ImageKind,
    /// The arguments of its entry point; of a task image, whose entry point is the worker, the command in its place.
    pub args: Vec<String>,
    /// What it finds its credentials by.
    pub handed: &'a Handed,
    /// What it is granted.
    pub grant: &'a catalog::Container,
    /// What it has between SIGTERM and SIGKILL.
    pub grace: Duration,
    /// Exit codes after which another attempt is pointless.
    pub permanent_exits: &'a [i32],
    /// The yard's id, for the labels.
    pub yard: &'a str,
    /// This start of the yard, for the labels.
    pub boot: Nonce,
    /// Time.
    pub ambient: &'a dyn Ambient,
}

/// When the run must end, and why.
struct Halt<'a> {
    assignment: &'a Assignment<'a>,
    deadline: Instant,
}

impl Halt<'_> {
    async fn raised(&self) -> StopCause {
        tokio::select! {
            biased;
            cause = self.assignment.stop.raised() => cause,
            () = tokio::time::sleep_until(self.deadline) => StopCause::Deadline,
        }
    }

    async fn hurried(&self) {
        self.assignment.stop.hurried().await;
    }
}

/// Why a container did not come to its own end.
enum Broken {
    /// The run had to end.
    Halted(StopCause),
    /// The engine.
    Engine(EngineError),
    /// It could not be started.
    Outcome(Outcome),
}

impl From<EngineError> for Broken {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ended {
    exit: i32,
    out_of_memory: bool,
    /// What it made, where it exited with 0.
    result: Result<Option<String>, Failure>,
}

/// Runs the image to its end.
///
/// The program finds in its environment what its image sets, HOME (/tmp), LANG, TZ and what [`variables`] makes.
/// Nothing of the yard's own environment, and no folder of this machine but that of its credentials, where it is lent any.
pub async fn run(container: &Container<'_>, assignment: &Assignment<'_>, log: &dyn LogSink) -> Outcome {
    let run = Message { id: assignment.job.id, epoch: assignment.job.epoch };
    let left = assignment.deadline.duration_since(container.ambient.now());
    let deadline = Instant::now() + Duration::try_from(left).unwrap_or(Duration::ZERO);
    let halt = Halt { assignment, deadline };
    if let Some(cause) = assignment.stop.cause() {
        return stopped(cause);
    }
    let outcome = to_its_end(container, assignment, run, &halt, log).await;
    let mark = mark(container.yard, run);
    let swept = async {
        loop {
            match container.engine.sweep_run(&mark).await {
                Err(error) if error.is_gone() => tokio::time::sleep(LOOKS_APART).await,
                swept => return swept,
            }
            // Another engine may answer than the one that was known.
            drop(container.engine.connect().await);
        }
    };
    match tokio::time::timeout(PATIENCE, swept).await {
        Ok(Ok(_)) => {}
        // The job's next run removes it before it starts, and so does the yard's next start.
        Ok(Err(error)) => {
            tracing::warn!(job.id = %run.id, job.epoch = %run.epoch, %error, "the run's container is left behind")
        }
        Err(_) => {
            tracing::warn!(job.id = %run.id, job.epoch = %run.epoch, "the engine is gone, and the run's container may be left behind")
        }
    }
    outcome
}

async fn to_its_end(
    container: &Container<'_>,
    assignment: &Assignment<'_>,
    run: Message,
    halt: &Halt<'_>,
    log: &dyn LogSink,
) -> Outcome {
    let id = loop {
        let made = tokio::select! {
            biased;
            cause = halt.raised() => Err(Broken::Halted(cause)),
            made = prepare(container, assignment, run, log) => made,
        };
        match made {
            Ok(id) => break id,
            Err(Broken::Engine(error)) if error.is_gone() => {
                if let Err(outcome) = come_back(container, halt, error).await {
                    return outcome;
                }
            }
            Err(broken) => return outcome_of(broken),
        }
    };
    let mut watched =
        Watched { container, id: &id, capture: Capture::new(container.ambient), log, peak_mib: AtomicU32::default() };
    let mut interrupted = false;
    let ended = loop {
        match watched.follow(halt).await {
            Ok(ended) => break Ok(ended),
            Err(Broken::Engine(error)) if error.is_gone() => {
                interrupted = true;
                watched.say("the container engine does not answer: waiting for it".to_owned()).await;
                if let Err(outcome) = come_back(container, halt, error).await {
                    break Err(outcome);
                }
            }
            Err(Broken::Engine(error)) if interrupted && error.is_not_found() => {
                break Err(Outcome::Interrupted("the container went with its engine".to_owned()));
            }
            Err(broken) => break Err(outcome_of(broken)),
        }
    };
    let peak = watched.peak_mib.load(Ordering::Relaxed);
    let output_dropped_bytes = watched.capture.dropped_bytes();
    log.used(Usage { max_rss_mib: (peak > 0).then_some(peak), output_dropped_bytes });
    let mut emitter = Emitter::new(run, Path::new(RECORDS_FILE), container.ambient);
    let fetched = watched.fetch_records(&mut emitter).await;
    let outcome = match ended {
        Ok(ended) => judge(ended, interrupted, container.permanent_exits, watched.capture.last_error_line()),
        Err(outcome) => outcome,
    };
    match (fetched, outcome) {
        // Its records may be what it was run for: they are fetched by another attempt, or nobody ever has them.
        (Err(error), Outcome::Succeeded(_)) => failed("records_unreadable", &error.to_string(), false),
        (Err(error), outcome) => {
            watched.say(format!("its records cannot be fetched: {error}")).await;
            outcome
        }
        (Ok(()), outcome) => emitter.finish(outcome, log).await,
    }
}

/// Waits until an engine that has gone answers again.
async fn come_back(container: &Container<'_>, halt: &Halt<'_>, gone: EngineError) -> Result<(), Outcome> {
    let back = async {
        // Also where it answers at once: one that answers this and nothing else is not to be asked without a pause.
        tokio::time::sleep(LOOKS_APART).await;
        while container.engine.connect().await.is_err() {
            tokio::time::sleep(LOOKS_APART).await;
        }
    };
    tokio::select! {
        biased;
        cause = halt.raised() => Err(stopped(cause)),
        back = tokio::time::timeout(PATIENCE, back) => back.map_err(|_| Outcome::Interrupted(gone.to_string())),
    }
}

fn outcome_of(broken: Broken) -> Outcome {
    match broken {
        Broken::Halted(cause) => stopped(cause),
        Broken::Outcome(outcome) => outcome,
        Broken::Engine(error) => {
            // 400: what it was asked is wrong, and will be again. Else it is the machine's state, which changes.
            let permanent = matches!(error, EngineError::Refused { status: 400, .. });
            failed("not_started", &error.to_string(), permanent)
        }
    }
}

/// What a run is that was ended for this cause.
fn stopped(cause: StopCause) -> Outcome {
    match cause {
        StopCause::Deadline => Outcome::TimedOut,
        StopCause::Cancel | StopCause::Stale | StopCause::Drain => Outcome::Stopped(cause),
    }
}

/// Finds the image, and makes the container with its folder; it does not run yet. Done again, it begins anew.
async fn prepare(
    container: &Container<'_>,
    assignment: &Assignment<'_>,
    run: Message,
    log: &dyn LogSink,
) -> Result<String, Broken> {
    let engine = container.engine;
    engine.sweep_job(container.yard, &run.id.to_string()).await?;
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let progress = move |text: String| drop(tell.send(text));
    let finding = async {
        let found = engine.image(container.image, &progress).await;
        drop(progress);
        found
    };
    let telling = async {
        while let Some(text) = told.recv().await {
            log.write(vec![container.line(text)]).await;
        }
    };
    let (image, ()) = tokio::join!(finding, telling);
    let image = image.map_err(|error| match error {
        ImageError::Engine(error) => Broken::Engine(error),
        ImageError::Failed { failure, permanent } => Broken::Outcome(Outcome::Failed { failure, permanent }),
    })?;
    let Known { docker, milli_vcpu } = engine.known().await?;
    if container.grant.network == Network::Outbound {
        let guarded = network::check(engine).await?;
        // Somebody can guard it before the next attempt.
        guarded.map_err(|failure| Broken::Outcome(Outcome::Failed { failure, permanent: false }))?;
    }
    let body = container.described(assignment, run, &image, milli_vcpu);
    let made = docker.create_container(None::<CreateContainerOptions>, body).await;
    let made = made.map_err(|error| EngineError::of("make a container", error));
    let id = made.map_err(|error| container.judge_made(error))?.id;
    let folder = archive(container.user(assignment), &assignment.payload).map_err(|error| {
        Broken::Outcome(failed("no_scratch_folder", &format!("cannot write the payload: {error}"), false))
    })?;
    let options = UploadToContainerOptionsBuilder::new().path(VOLUME).build();
    let put = docker.upload_to_container(&id, Some(options), bollard::body_full(folder.into())).await;
    put.map_err(|error| EngineError::of("make the run's folder", error))?;
    Ok(id)
}

/// The run's folder as an archive: it belongs to the user, nobody else looks into it, and a large payload lies in it.
fn archive(user: u32, payload: &str) -> std::io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut put = |path: String, kind: tar::EntryType, mode: u32, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_uid(u64::from(user));
        header.set_gid(u64::from(user));
        header.set_mode(mode);
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, path, bytes)
    };
    put(format!("{FOLDER}/"), tar::EntryType::Directory, 0o700, &[])?;
    if is_large(payload) {
        put(format!("{FOLDER}/{PAYLOAD_FILE}"), tar::EntryType::Regular, 0o400, payload.as_bytes())?;
    }
    archive.into_inner()
}

/// The largest file that a program may write where its root file system is none of it: as large as its /tmp. The volume
/// of the run's folder has no limit of its own, and a runaway result must not fill the machine's disk by itself.
fn largest_file(tmp_mib: u32) -> ResourcesUlimits {
    let bytes = Some(i64::from(tmp_mib) * 1024 * 1024);
    ResourcesUlimits { name: Some("fsize".to_owned()), soft: bytes, hard: bytes }
}

/// The folder of the run's credentials, which the program can read. It is bound and not copied: nothing of it is ever on a
/// disk, and what is renewed is seen at once.
fn credentials_from(folder: &Path) -> Mount {
    Mount {
        target: Some(IN_CONTAINER.to_owned()),
        source: Some(folder.display().to_string()),
        typ: Some(MountType::BIND),
        read_only: Some(true),
        ..Mount::default()
    }
}

/// No core dump: see [`crate::credentials`], which sets the same limit for processes.
fn no_core() -> ResourcesUlimits {
    ResourcesUlimits { name: Some("core".to_owned()), soft: Some(NO_CORE_BYTES), hard: Some(NO_CORE_BYTES) }
}

impl Container<'_> {
    fn line(&self, text: String) -> LogLine {
        LogLine { at: self.ambient.now(), stream: switchyard_core::ports::Stream::Yard, text }
    }

    /// Whom its program runs as: what it is granted, and 0 where it must be privileged, for nobody else has anything of it.
    fn user(&self, assignment: &Assignment<'_>) -> u32 {
        if assignment.job.work.needs.privileged { 0 } else { self.grant.user }
    }

    /// What its processes may not exceed, beside its memory and processors.
    fn limits(&self) -> Vec<ResourcesUlimits> {
        let largest = (!self.grant.writable_root).then(|| largest_file(self.grant.tmp_mib));
        largest.into_iter().chain(self.handed.folder.as_ref().map(|_| no_core())).collect()
    }

    /// What it means that a container was not made. An engine that does not find the folder of its credentials is on another
    /// machine, or this worker is in a container itself: the folder's name cannot be guessed, so one that finds it has that very
    /// folder. Nothing secret was given to it.
    fn judge_made(&self, error: EngineError) -> Broken {
        let EngineError::Refused { words, .. } = &error else { return error.into() };
        let not_there = ["bind source path does not exist", "no such file or directory"];
        if self.handed.folder.is_none() || !not_there.iter().any(|text| words.contains(text)) {
            return error.into();
        }
        let message = "the container engine does not find the folder of the run's credentials: it must be on the same \
                       machine, and see the same folder in memory";
        Broken::Outcome(failed("credentials_not_shared", message, false))
    }

    /// The container as the engine is to make it.
    fn described(
        &self,
        assignment: &Assignment<'_>,
        run: Message,
        image: &str,
        milli_vcpu: u32,
    ) -> ContainerCreateBody {
        let Self { grant, kind, args, .. } = self;
        let needs = &assignment.job.work.needs;
        let memory = i64::from(needs.memory_mib.max(MEMORY_MIB_MIN)) * 1024 * 1024;
        let folder = Path::new(VOLUME).join(FOLDER);
        let own = [("HOME", "/tmp".to_owned()), ("LANG", "C.UTF-8".to_owned()), ("TZ", "UTC".to_owned())];
        let env = own.into_iter().chain(variables(assignment, &folder)).map(|(name, value)| format!("{name}={value}"));
        let env = env.chain(self.handed.variables.iter().map(|(name, value)| format!("{name}={value}")));
        let labels = [
            (YARD_LABEL, self.yard.to_owned()),
            (JOB_LABEL, run.id.to_string()),
            (RUN_LABEL, mark(self.yard, run)),
            (BOOT_LABEL, self.boot.to_string()),
        ];
        let tmp = format!("rw,nosuid,nodev,size={}m,mode=1777", grant.tmp_mib);
        ContainerCreateBody {
            image: Some(image.to_owned()),
            // None: the image's own.
            cmd: (!args.is_empty()).then(|| args.clone()),
            // An empty text clears it.
            entrypoint: (*kind == ImageKind::Task).then(|| vec![String::new()]),
            env: Some(env.collect()),
            user: Some(format!("{0}:{0}", self.user(assignment))),
            labels: Some(labels.map(|(name, value)| (name.to_owned(), value)).into()),
            volumes: Some(vec![VOLUME.to_owned()]),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            host_config: Some(HostConfig {
                memory: Some(memory),
                // Together: what it has in all. No swap.
                memory_swap: Some(memory),
                nano_cpus: Some(i64::from(needs.milli_vcpu.clamp(MILLI_VCPU_MIN, milli_vcpu)) * 1_000_000),
                pids_limit: Some(i64::from(grant.pids)),
                ulimits: Some(self.limits()),
                mounts: self.handed.folder.as_deref().map(|folder| vec![credentials_from(folder)]),
                privileged: Some(needs.privileged),
                security_opt: Some(vec!["no-new-privileges:true".to_owned()]),
                cap_drop: Some(vec!["ALL".to_owned()]),
                cap_add: Some(grant.capabilities.clone()),
                readonly_rootfs: Some(!grant.writable_root),
                tmpfs: Some(HashMap::from([("/tmp".to_owned(), tmp)])),
                network_mode: Some(match grant.network {
                    Network::None => "none".to_owned(),
                    Network::Outbound => network::NAME.to_owned(),
                }),
                // What it prints comes by the attached stream, and fills no disk.
                log_config: Some(HostConfigLogConfig { typ: Some("none".to_owned()), config: None }),
                ipc_mode: Some("private".to_owned()),
                init: Some(false),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        }
    }
}

/// A container that is made, and whoever looks at it.
struct Watched<'a> {
    container: &'a Container<'a>,
    id: &'a str,
    capture: Capture<'a>,
    log: &'a dyn LogSink,
    /// The most memory it was seen to have; 0 before it was.
    peak_mib: AtomicU32,
}

type Output = Pin<Box<dyn Stream<Item = Result<LogOutput, ClientError>> + Send>>;

impl Watched<'_> {
    async fn say(&self, text: String) {
        self.log.write(vec![self.container.line(text)]).await;
    }

    /// Starts the container unless it was, and watches it to its end: its own, or the one it is brought to. Done again
    /// after the engine was gone, it goes on with what is there.
    async fn follow(&mut self, halt: &Halt<'_>) -> Result<Ended, Broken> {
        let docker = self.container.engine.known().await?.docker;
        let state = self.state(&docker).await?;
        if is_over(state.status) {
            return self.ended(&docker, &state).await;
        }
        let options = AttachContainerOptionsBuilder::new().stream(true).stdout(true).stderr(true).build();
        let attached = docker.attach_container(self.id, Some(options)).await;
        let output = attached.map_err(|error| EngineError::of("read what a container prints", error))?.output;
        if state.status == Some(ContainerStateStatusEnum::CREATED) {
            match docker
                .start_container(self.id, None)
                .await
                .map_err(|error| EngineError::of("start a container", error))
            {
                Err(error @ EngineError::Refused { .. }) => return Err(Broken::Outcome(not_started(&error))),
                started => started?,
            }
        }
        let stopped = self.watch(&docker, output, halt).await?;
        if let Some(cause) = stopped {
            return Err(Broken::Halted(cause));
        }
        let state = self.state(&docker).await?;
        self.ended(&docker, &state).await
    }

    async fn state(&self, docker: &Docker) -> Result<bollard::models::ContainerState, EngineError> {
        let looked = docker.inspect_container(self.id, None).await;
        let looked = looked.map_err(|error| EngineError::of("look at a container", error))?;
        Ok(looked.state.unwrap_or_default())
    }

    /// Waits for the end, whichever comes first: the program's own, its deadline, or a request to stop.
    async fn watch(
        &mut self,
        docker: &Docker,
        mut output: Output,
        halt: &Halt<'_>,
    ) -> Result<Option<StopCause>, EngineError> {
        let Self { container, id, capture, log, peak_mib } = self;
        let (id, log) = (*id, *log);
        let pump = async {
            while let Some(Ok(part)) = output.next().await {
                let (stream, bytes) = match part {
                    LogOutput::StdErr { message } => (switchyard_core::ports::Stream::Stderr, message),
                    LogOutput::StdOut { message } | LogOutput::StdIn { message } | LogOutput::Console { message } => {
                        (switchyard_core::ports::Stream::Stdout, message)
                    }
                };
                capture.add(stream, &bytes, log).await;
            }
            capture.finish(log).await;
        };
        let sampling = sample(docker, id, peak_mib);
        let ended = over(docker, id);
        tokio::pin!(pump, sampling, ended);
        let mut pumped = false;
        let cause = loop {
            tokio::select! {
                biased;
                over = &mut ended => { over?; break None; }
                cause = halt.raised() => break Some(cause),
                () = &mut pump, if !pumped => pumped = true,
                () = &mut sampling => unreachable!("it samples for ever"),
            }
        };
        if let Some(cause) = cause {
            signal(docker, id, "SIGTERM").await?;
            let grace = tokio::time::sleep(container.grace);
            tokio::pin!(grace);
            let heeded = loop {
                tokio::select! {
                    biased;
                    over = &mut ended => { over?; break true; }
                    () = &mut grace => break false,
                    () = halt.hurried() => break false,
                    () = &mut pump, if !pumped => pumped = true,
                }
            };
            if !heeded {
                signal(docker, id, "SIGKILL").await?;
                if tokio::time::timeout(KILLED, &mut ended).await.is_err() {
                    tracing::warn!(container = id, "a container was killed and does not end");
                }
            }
            if !pumped {
                let _ = tokio::time::timeout(LINGER, &mut pump).await;
            }
            let how = if heeded { "it ended after SIGTERM" } else { "it ignored SIGTERM and was killed" };
            log.write(vec![container.line(format!("stopped ({cause:?}): {how}"))]).await;
            return Ok(Some(cause));
        }
        if !pumped {
            let _ = tokio::time::timeout(LINGER, &mut pump).await;
        }
        Ok(None)
    }

    /// What a container that is over leaves.
    async fn ended(&self, docker: &Docker, state: &bollard::models::ContainerState) -> Result<Ended, Broken> {
        let exit = state.exit_code.and_then(|code| i32::try_from(code).ok()).unwrap_or(-1);
        let result = if exit == 0 { self.result(docker).await? } else { Ok(None) };
        Ok(Ended { exit, out_of_memory: state.oom_killed.unwrap_or(false), result })
    }

    async fn result(&self, docker: &Docker) -> Result<Result<Option<String>, Failure>, EngineError> {
        let path = format!("{VOLUME}/{FOLDER}/{RESULT_FILE}");
        let options = DownloadFromContainerOptionsBuilder::new().path(&path).build();
        let mut parts = std::pin::pin!(docker.download_from_container(self.id, Some(options)));
        let mut archive: Vec<u8> = Vec::new();
        // What is larger is told by its header alone.
        while archive.len() < Body::MAX_BYTES + ARCHIVE_BYTES
            && let Some(part) = parts.next().await
        {
            let part: Bytes = match part.map_err(|error| EngineError::of("fetch the result", error)) {
                Err(error) if error.is_not_found() => return Ok(Ok(None)),
                part => part?,
            };
            archive.extend_from_slice(&part);
        }
        Ok(read_result(&archive))
    }

    /// Fetches what the run emitted out of its volume, once it is over: an engine shows a file as a whole and not what is
    /// new in it.
    async fn fetch_records(&self, emitter: &mut Emitter<'_>) -> Result<(), EngineError> {
        let docker = self.container.engine.known().await?.docker;
        let path = format!("{VOLUME}/{FOLDER}/{RECORDS_FILE}");
        let options = DownloadFromContainerOptionsBuilder::new().path(&path).build();
        let mut parts = std::pin::pin!(docker.download_from_container(self.id, Some(options)));
        let mut file = FirstFile::default();
        while let Some(part) = parts.next().await {
            let part: Bytes = match part.map_err(|error| EngineError::of("fetch the records", error)) {
                Err(error) if error.is_not_found() => return Ok(()),
                part => part?,
            };
            let bytes = file.take(&part);
            if !emitter.feed(&bytes, self.log).await || file.is_over() {
                break;
            }
        }
        Ok(())
    }
}

/// The first regular file of an archive that comes in parts. Its bytes are passed on and not kept.
#[derive(Default)]
struct FirstFile {
    /// What is read of a header.
    header: Vec<u8>,
    /// What an entry before it has still to be let go.
    skip: u64,
    /// What is left of it, once its header was read.
    left: Option<u64>,
}

impl FirstFile {
    /// A block of an archive (pax, IEEE Std 1003.1-2017).
    const BLOCK: usize = 512;

    /// What stands in this part of the file.
    fn take(&mut self, part: &[u8]) -> Vec<u8> {
        let mut part = part;
        let mut taken = Vec::new();
        while !part.is_empty() && self.left != Some(0) {
            let length = part.len() as u64;
            if let Some(left) = &mut self.left {
                let here = usize::try_from((*left).min(length)).unwrap_or(part.len());
                taken.extend_from_slice(&part[..here]);
                *left -= here as u64;
                part = &part[here..];
            } else if self.skip > 0 {
                let here = usize::try_from(self.skip.min(length)).unwrap_or(part.len());
                self.skip -= here as u64;
                part = &part[here..];
            } else {
                let here = (Self::BLOCK - self.header.len()).min(part.len());
                self.header.extend_from_slice(&part[..here]);
                part = &part[here..];
                if self.header.len() == Self::BLOCK {
                    self.read_header();
                }
            }
        }
        taken
    }

    fn read_header(&mut self) {
        let mut header = tar::Header::new_old();
        header.as_mut_bytes().copy_from_slice(&self.header);
        self.header.clear();
        let size = header.entry_size().unwrap_or(0);
        match header.entry_type() {
            // What stands before a file to say more of it.
            tar::EntryType::XHeader
            | tar::EntryType::XGlobalHeader
            | tar::EntryType::GNULongName
            | tar::EntryType::GNULongLink => self.skip = size.next_multiple_of(Self::BLOCK as u64),
            tar::EntryType::Regular | tar::EntryType::Continuous => self.left = Some(size),
            // A link or a folder holds no records.
            _ => self.left = Some(0),
        }
    }

    fn is_over(&self) -> bool {
        self.left == Some(0)
    }
}

/// Resolves when the container does not run any more.
async fn over(docker: &Docker, id: &str) -> Result<(), EngineError> {
    let mut waiting = std::pin::pin!(docker.wait_container(id, None));
    match waiting.next().await {
        Some(Ok(_) | Err(ClientError::DockerContainerWaitError { .. })) => Ok(()),
        Some(Err(error)) => Err(EngineError::of("wait for a container", error)),
        None => {
            let cut = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
            Err(EngineError::of("wait for a container", ClientError::from(cut)))
        }
    }
}

/// Sends a signal. A container that has ended meanwhile is no error.
async fn signal(docker: &Docker, id: &str, name: &str) -> Result<(), EngineError> {
    let options = KillContainerOptionsBuilder::new().signal(name).build();
    match docker.kill_container(id, Some(options)).await.map_err(|error| EngineError::of("signal a container", error)) {
        Err(EngineError::Refused { status: 404 | 409, .. }) => Ok(()),
        sent => sent,
    }
}

/// Looks at the container's memory again and again, and keeps the most it had.
async fn sample(docker: &Docker, id: &str, peak_mib: &AtomicU32) {
    let mut apart = FIRST_SAMPLE;
    loop {
        tokio::time::sleep(apart).await;
        apart = (apart * 2).min(SAMPLES_APART);
        let options = StatsOptionsBuilder::new().stream(false).one_shot(true).build();
        let looked = std::pin::pin!(docker.stats(id, Some(options))).next().await;
        // What cannot be looked at now is looked at next time; that it has gone, others see.
        let Some(Ok(looked)) = looked else { continue };
        let Some(memory) = looked.memory_stats else { continue };
        let mib = used_mib(memory.usage.unwrap_or(0), &memory.stats.unwrap_or_default());
        peak_mib.fetch_max(mib, Ordering::Relaxed);
    }
}

/// The memory in use, in MiB: without the pages of files that can be dropped, as `docker stats` tells it. Control groups
/// have called them `total_inactive_file` (version 1) and `inactive_file` (version 2).
fn used_mib(usage: u64, stats: &HashMap<String, u64>) -> u32 {
    let droppable = stats.get("total_inactive_file").or_else(|| stats.get("inactive_file")).copied().unwrap_or(0);
    u32::try_from(usage.saturating_sub(droppable).div_ceil(1024 * 1024)).unwrap_or(u32::MAX)
}

fn is_over(status: Option<ContainerStateStatusEnum>) -> bool {
    matches!(
        status,
        Some(ContainerStateStatusEnum::EXITED | ContainerStateStatusEnum::DEAD | ContainerStateStatusEnum::REMOVING)
    )
}

/// The first file of an archive, which may be cut behind what is taken of a result.
fn read_result(archive: &[u8]) -> Result<Option<String>, Failure> {
    let unreadable = |what: &str| Failure::new("result_unreadable", what);
    let mut archive = tar::Archive::new(archive);
    let mut entries = archive.entries().map_err(|error| unreadable(&format!("the result cannot be read: {error}")))?;
    let entry = match entries.next() {
        None => return Ok(None),
        Some(entry) => entry.map_err(|error| unreadable(&format!("the result cannot be read: {error}")))?,
    };
    match entry.header().entry_type() {
        tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => {}
        tar::EntryType::Symlink | tar::EntryType::Link => return Err(unreadable("the result is a link, not a file")),
        _ => return Err(unreadable("the result is not a file")),
    }
    let size = entry.size();
    let mut bytes = Vec::new();
    let read = entry.take(Body::MAX_BYTES as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|error| unreadable(&format!("the result cannot be read: {error}")))?;
    result::check(bytes, size)
}

/// A container that the engine did not start: its words, and whether it ever will. There is no such program in the
/// image, or none that can run, says the runtime in words (runc, crun).
fn not_started(error: &EngineError) -> Outcome {
    let said = error.to_string();
    let for_good = ["executable file not found", "no such file or directory", "permission denied", "exec format error"];
    let permanent =
        matches!(error, EngineError::Refused { status: 400, .. }) || for_good.iter().any(|text| said.contains(text));
    failed("not_started", &said, permanent)
}

/// What an end means. `interrupted`: the engine was gone meanwhile, and may itself have ended the program.
fn judge(ended: Ended, interrupted: bool, permanent_exits: &[i32], last_error_line: &str) -> Outcome {
    let Ended { exit, out_of_memory, result } = ended;
    let and_said = if last_error_line.is_empty() { String::new() } else { format!(": {last_error_line}") };
    match (exit, result) {
        // A program that was asked to end may end well; one that also left its result had done its work.
        (0, Ok(None)) if interrupted => {
            Outcome::Interrupted("its container engine was gone, and it made no result".to_owned())
        }
        (0, Ok(result)) => Outcome::Succeeded(result),
        // The program made it so: it will again.
        (0, Err(failure)) => Outcome::Failed { failure, permanent: true },
        _ if interrupted => Outcome::Interrupted(format!("its container engine was gone, and it ended with {exit}")),
        (exit, _) if out_of_memory => {
            let message =
                format!("it exited with {exit}, and the kernel had ended a process of it for memory{and_said}");
            Outcome::OutOfMemory(Failure::new("out_of_memory", message).with_exit(exit))
        }
        (EXIT_KILLED, _) if !permanent_exits.contains(&EXIT_KILLED) => {
            let message =
                format!("it was ended by SIGKILL, which Switchyard did not send, and not for memory{and_said}");
            Outcome::Failed { failure: Failure::new("killed", message).with_exit(EXIT_KILLED), permanent: false }
        }
        // The runtime's own words, in place of a program's: the file is for another kind of processor, or no program.
        (exit, _) if last_error_line.starts_with("exec ") && last_error_line.ends_with("exec format error") => {
            Outcome::Failed { failure: Failure::new("not_started", last_error_line).with_exit(exit), permanent: true }
        }
        (exit, _) => {
            let failure = Failure::new("exit_nonzero", format!("it exited with {exit}{and_said}")).with_exit(exit);
            Outcome::Failed { failure, permanent: permanent_exits.contains(&exit) }
        }
    }
}

fn failed(code: &str, message: &str, permanent: bool) -> Outcome {
    Outcome::Failed { failure: Failure::new(code, message), permanent }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_file_of_an_archive_is_the_same_in_parts_of_any_size() {
        let text = "{\"kind\":\"log\"}\n".repeat(100);
        let mut archive = tar::Builder::new(Vec::new());
        archive.append_pax_extensions([("mtime", b"1.5".as_slice())]).unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_size(text.len() as u64);
        header.set_entry_type(tar::EntryType::Regular);
        archive.append_data(&mut header, "records.ndjson", text.as_bytes()).unwrap();
        let archive = archive.into_inner().unwrap();
        for size in [1, 7, 511, 512, 513, 4096, archive.len()] {
            let mut file = FirstFile::default();
            let taken: Vec<u8> = archive.chunks(size).flat_map(|part| file.take(part)).collect();
            assert!(taken == text.as_bytes() && file.is_over(), "parts of {size}");
        }
        let mut link = tar::Header::new_ustar();
        link.set_entry_type(tar::EntryType::Symlink);
        link.set_size(0);
        let mut file = FirstFile::default();
        assert!(file.take(link.as_bytes()).is_empty() && file.is_over(), "a link is no file");
    }
}
