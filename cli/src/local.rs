//! `switchyard local`: a yard on this machine, until it is told to stop.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use switchyard_api::edge::Edge;
use switchyard_api::{Api, Budget, Inline, serve as serve_http};
use switchyard_aws::quiet::may_be_logged;
use switchyard_builtins::system::System;
use switchyard_core::job::{Holder, StopCause};
use switchyard_core::policies::{Machine, Reload, Shelf};
use switchyard_core::ports::{Ambient, Executor, Room, StopSignal};
use switchyard_core::route::PoolName;
use switchyard_embedded::folder::{Folder, write_private};
use switchyard_embedded::home::{Home, Setup};
use switchyard_embedded::launcher_process::TaskProgram;
use switchyard_worker::credentials::Vault;
use switchyard_worker::executor::LocalExecutor;
use switchyard_worker::fleet::{Fleet, work};
use switchyard_worker::scratch::Scratch;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tracing::{info, warn};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::args::Local;
use crate::containers;
use crate::exit::Failure;
use crate::lenders;
use crate::policies::{self, Rules};
use crate::show::escaped;
use crate::tokens;

/// What one request may take for running a job inline: an API Gateway HTTP API answers within 30 s, less a second.
pub(crate) const INLINE_BUDGET: Duration = Duration::from_secs(29);

/// How long threads that nobody waits for any more may still run when the yard is closed.
const LINGER: Duration = Duration::from_secs(5);

/// Structured logs on standard error; RUST_LOG chooses the level, `info` without it.
pub(crate) fn start_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    // A log that cannot be written is lost, and the work goes on: the library would panic over it.
    let lines = tracing_subscriber::fmt::layer().with_writer(|| LogLines).log_internal_errors(false);
    let all = tracing_subscriber::registry().with(filter).with(filter_fn(may_be_logged));
    // JSON for whatever collects it, plain lines for whoever watches.
    let started = if std::io::stderr().is_terminal() {
        all.with(lines.with_ansi(false)).try_init()
    } else {
        // Every span once: the innermost is one of the list.
        all.with(lines.json().flatten_event(true).with_current_span(false)).try_init()
    };
    // A second start in one process changes nothing.
    drop(started);
}

/// Standard error, to which each line goes in one write: whatever its values hold, it is one line, and drives no terminal.
struct LogLines;

impl Write for LogLines {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let mut safe = escaped(text.strip_suffix('\n').unwrap_or(&text));
        safe.push('\n');
        std::io::stderr().lock().write_all(safe.as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

pub(crate) fn run(root: &Path, local: &Local) -> Result<u8, Failure> {
    start_logging();
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|cause| Failure::io("start the runtime", cause))?;
    let served = runtime.block_on(serve(root, local));
    // A thread that hangs in a file system of others must not keep the process: everything of ours is closed.
    runtime.shutdown_timeout(LINGER);
    served
}

/// As many open files as the system lets this process have: a run takes three, a caller one.
pub(crate) fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        warn!(%error, "the limit of open files stays as it is");
    }
}

async fn serve(root: &Path, local: &Local) -> Result<u8, Failure> {
    let ambient: Arc<dyn Ambient> = Arc::new(System);
    let processors = processors();
    let room = room(processors, local.slots);
    let engine = containers::engine(&local.containers)?;
    let answers = containers::answers(engine.as_ref()).await;
    let machine = machine(local.slots, answers);
    let read = policies::load(local.policies.as_deref(), machine);
    let (policies, files) = read.map_err(|wrong| Failure::Policies { wrong, exit: 8 })?;
    policies::log_warnings(&policies, local.policies.as_deref());
    let shelf = Arc::new(Shelf::default());
    shelf.replace(policies, ambient.now());
    let listener = TcpListener::bind(local.listen).await.map_err(|cause| {
        let listen = local.listen;
        let advice = match cause.kind() {
            std::io::ErrorKind::AddrInUse => {
                "another program listens there; choose another with --listen, or port 0 for a free one"
            }
            _ => "choose another address with --listen",
        };
        Failure::CannotOpen(format!("cannot listen on {listen}: {cause}: {advice}").into())
    })?;
    let program = std::env::current_exe().map_err(|cause| Failure::io("find this program's own file", cause))?;
    let absolute = std::path::absolute(root).map_err(|cause| Failure::io("find the yard's folder", cause))?;
    let for_tasks = Folder::at(&absolute).policies();
    let mut args = containers::arguments(engine.as_ref());
    if local.policies.is_some() {
        args.extend(["--policies".to_owned(), for_tasks.display().to_string()]);
    }
    let vendors = local.credentials.as_deref().map(|file| lenders::of(file, Arc::clone(&ambient))).transpose()?;
    let setup = Setup {
        shelf: Arc::clone(&shelf),
        policies: files.map(policies::for_tasks),
        task: TaskProgram { program, args },
        tasks: local.tasks.map_or(processors * 2, usize::from),
        retention: Duration::from_secs(u64::from(local.retention_days) * 24 * 3600),
        engine: engine.clone(),
        vendors,
    };
    let cannot_open = |error: switchyard_embedded::home::HomeError| Failure::CannotOpen(error.into());
    let home = Home::open(root, setup, Arc::clone(&ambient)).await.map_err(cannot_open)?;
    let rules = Rules {
        folder: local.policies.clone(),
        machine,
        for_tasks,
        shelf: Arc::clone(&shelf),
        ambient: Arc::clone(&ambient),
        turn: Arc::default(),
        engine: engine.clone(),
        yard: home.id.clone(),
        boot: home.boot,
    };
    let callers = tokens::open(&home.folder, ambient.as_ref())?;
    let executor: Arc<dyn Executor> = Arc::new(LocalExecutor {
        shelf,
        scratch: Scratch::new(&home.folder.scratch(), usize::try_from(room.slots).unwrap_or(usize::MAX)),
        vault: Vault::usual(),
        yard: home.id.clone(),
        boot: home.boot,
        engine,
        task: None,
        ambient: Arc::clone(&ambient),
    });
    let leave = StopSignal::default();
    let fleet = Fleet {
        lanes: Arc::clone(&home.yard.lanes),
        desk: Arc::clone(&home.desk),
        executor: Arc::clone(&executor),
        blobs: Arc::clone(&home.yard.blobs),
        ambient: Arc::clone(&ambient),
        holder: Holder::new("worker", home.boot),
        roster: Arc::clone(&home.roster),
        pool: PoolName::STANDARD,
        room,
        idle: None,
        finish: StopSignal::default(),
    };
    let worker = tokio::spawn(work(Arc::new(fleet), leave.clone()));
    let api = Api {
        yard: home.yard.clone(),
        inline: Inline {
            desk: Arc::clone(&home.desk),
            executor,
            holder: Holder::new("inline", home.boot),
            places: Arc::new(Semaphore::new(processors * 4)),
            budget: Budget::Each(INLINE_BUDGET),
        },
        callers: Arc::new(callers),
        edge: Edge::default(),
        rules: Arc::new(rules.clone()),
        compute: "local",
    };
    let address = listener.local_addr().map_err(|cause| Failure::io("read the address", cause))?;
    if !address.ip().is_loopback() {
        warn!(%address, "the yard listens beyond this machine, and its tokens are all that guards it");
    }
    let url = format!("http://{address}");
    let endpoint = home.folder.endpoint();
    write_private(&endpoint, url.as_bytes()).map_err(|cause| Failure::io("write the endpoint file", cause))?;
    // Whether anybody reads it or not: the endpoint file says the same to programs.
    let _ = writeln!(
        std::io::stdout(),
        "The yard is open at {url} (folder {}, {} slots). Stop it with Ctrl-C.",
        home.folder.root().display(),
        room.slots
    );
    let stop = stop_signal()?;
    tokio::spawn(reload_at_hangups(rules)?);
    let api = Arc::new(api);
    let mut server = tokio::spawn(serve_http(listener, Arc::clone(&api)));
    tokio::select! {
        () = stop => {}
        ended = &mut server => warn!(outcome = ?ended, "the server ended by itself"),
    }
    info!("closing: runs give their jobs back");
    // Nobody finds the way in any more; then everything that runs is asked to leave.
    let _ = std::fs::remove_file(&endpoint);
    leave.raise(StopCause::Drain);
    api.edge.close();
    if !server.is_finished() && server.await.is_err() {
        warn!("the server had panicked");
    }
    if worker.await.is_err() {
        warn!("the worker had panicked");
    }
    home.close().await;
    info!("closed");
    Ok(0)
}

/// Reads the policies again at every SIGHUP.
fn reload_at_hangups(rules: Rules) -> Result<impl Future<Output = ()>, Failure> {
    let mut hangup = signal(SignalKind::hangup()).map_err(|cause| Failure::io("hear signals", cause))?;
    Ok(async move {
        while hangup.recv().await.is_some() {
            // What came of it is in the log, and whoever asks for the capabilities sees it.
            drop(rules.reload().await);
        }
    })
}

/// Resolves at the first SIGINT or SIGTERM; at a second one the process ends at once, as after a crash.
fn stop_signal() -> Result<impl Future<Output = ()>, Failure> {
    let hear = |kind| signal(kind).map_err(|cause| Failure::io("hear signals", cause));
    let (mut interrupt, mut terminate) = (hear(SignalKind::interrupt())?, hear(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        tokio::spawn(async move {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            warn!("stopped at once; the next start takes up what was running");
            std::process::exit(130);
        });
    })
}

pub(crate) fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The machine that jobs are routed for: what its worker has no room for is not sent to it.
pub(crate) fn machine(slots: Option<u16>, containers: bool) -> Machine {
    let room = room(processors(), slots);
    Machine { memory_mib: room.memory_mib, milli_vcpu: room.milli_vcpu, containers }
}

/// What the worker has: so many jobs at once, a processor for each at least, and the machine's memory but for a tenth,
/// which is the yard's own and the system's.
pub(crate) fn room(processors: usize, slots: Option<u16>) -> Room {
    let processors = u32::try_from(processors).unwrap_or(u32::MAX);
    let slots = slots.map_or(processors, u32::from);
    Room { slots, milli_vcpu: processors.max(slots).saturating_mul(1000), memory_mib: memory_mib() / 10 * 9 }
}

/// The machine's memory in MiB; plenty where it cannot be read.
fn memory_mib() -> u32 {
    let read = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = read
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    total.and_then(|kib| u32::try_from(kib / 1024).ok()).unwrap_or(u32::MAX)
}
