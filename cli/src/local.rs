//! `switchyard local`: a yard on this machine, until it is told to stop.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use switchyard_api::{Api, Inline, TokenDigest, router};
use switchyard_core::job::{Holder, StopCause};
use switchyard_core::policies::{Policies, Shelf};
use switchyard_core::ports::{Ambient, Executor, StopSignal};
use switchyard_core::route::{Limits, PoolName};
use switchyard_embedded::folder::{Folder, write_private};
use switchyard_embedded::home::{Home, Setup};
use switchyard_embedded::launcher_process::TaskProgram;
use switchyard_worker::executor::LocalExecutor;
use switchyard_worker::fleet::{Fleet, work};
use switchyard_worker::scratch::Scratch;
use switchyard_worker::system::System;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tracing::{info, warn};

use crate::args::Local;
use crate::catalog;
use crate::exit::Failure;

/// What one request may take for running a job inline: an API Gateway HTTP API answers within 30 s, less a second.
const INLINE_BUDGET: Duration = Duration::from_secs(29);
/// How long open requests are waited for when the yard is stopped.
const LINGER: Duration = Duration::from_secs(5);

/// Structured logs on standard error; RUST_LOG chooses the level, `info` without it.
pub(crate) fn start_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // JSON for whatever collects it, plain lines for whoever watches.
    let started = if std::io::stderr().is_terminal() {
        subscriber.with_ansi(false).try_init()
    } else {
        subscriber.json().flatten_event(true).try_init()
    };
    // A second start in one process changes nothing.
    drop(started);
}

pub(crate) fn run(root: &Path, local: &Local) -> Result<u8, Failure> {
    start_logging();
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|cause| Failure::io("start the runtime", cause))?.block_on(serve(root, local))
}

/// As many open files as the system lets this process have: a run takes three, a caller one.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        warn!(%error, "the limit of open files stays as it is");
    }
}

async fn serve(root: &Path, local: &Local) -> Result<u8, Failure> {
    let catalog = catalog::load(local.policies.as_deref())?;
    let shelf =
        Arc::new(Shelf::new(Policies { catalog, limits: Limits::one_machine(memory_mib()), ..Policies::default() }));
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
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let program = std::env::current_exe().map_err(|cause| Failure::io("find this program's own file", cause))?;
    let mut args = Vec::new();
    if local.policies.is_some() {
        let snapshot = std::path::absolute(root).map_err(|cause| Failure::io("find the yard's folder", cause))?;
        args.extend(["--policies".to_owned(), Folder::at(&snapshot).policies().display().to_string()]);
    }
    let ambient: Arc<dyn Ambient> = Arc::new(System);
    let setup = Setup {
        shelf: Arc::clone(&shelf),
        policies: local.policies.clone(),
        task: TaskProgram { program, args },
        tasks: local.tasks.map_or(processors * 2, usize::from),
        retention: Duration::from_secs(u64::from(local.retention_days) * 24 * 3600),
    };
    let cannot_open = |error: switchyard_embedded::home::HomeError| Failure::CannotOpen(error.into());
    let home = Home::open(root, setup, Arc::clone(&ambient)).await.map_err(cannot_open)?;
    let token = token(&home.folder, ambient.as_ref())?;
    let slots = local.slots.map_or(processors, usize::from);
    let executor: Arc<dyn Executor> = Arc::new(LocalExecutor {
        shelf,
        scratch: Scratch::new(&home.folder.scratch(), slots),
        yard: home.id.clone(),
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
        pool: PoolName::STANDARD,
        slots,
    };
    let worker = tokio::spawn(work(Arc::new(fleet), leave.clone()));
    let api = Api {
        yard: home.yard.clone(),
        inline: Inline {
            desk: Arc::clone(&home.desk),
            executor,
            holder: Holder::new("inline", home.boot),
            places: Arc::new(Semaphore::new(processors * 4)),
            budget: INLINE_BUDGET,
        },
        token: TokenDigest::of(&token),
        compute: "local",
    };
    let address = listener.local_addr().map_err(|cause| Failure::io("read the address", cause))?;
    if !address.ip().is_loopback() {
        warn!(%address, "the yard listens beyond this machine, and the token is all that guards it");
    }
    let url = format!("http://{address}");
    let endpoint = home.folder.endpoint();
    write_private(&endpoint, url.as_bytes()).map_err(|cause| Failure::io("write the endpoint file", cause))?;
    println!(
        "The yard is open at {url} (folder {}, {slots} slots). Stop it with Ctrl-C.",
        home.folder.root().display()
    );
    let stop = stop_signal()?;
    let serving = leave.clone();
    let server = axum::serve(listener, router(Arc::new(api))).with_graceful_shutdown(async move {
        serving.raised().await;
    });
    let mut server = tokio::spawn(std::future::IntoFuture::into_future(server));
    tokio::select! {
        () = stop => {}
        ended = &mut server => warn!(?ended, "the server ended by itself"),
    }
    info!("closing: runs give their jobs back");
    // Nobody finds the way in any more; then everything that runs is asked to leave.
    let _ = std::fs::remove_file(&endpoint);
    leave.raise(StopCause::Drain);
    if tokio::time::timeout(LINGER, &mut server).await.is_err() {
        server.abort();
    }
    if worker.await.is_err() {
        warn!("the worker had panicked");
    }
    home.close().await;
    info!("closed");
    Ok(0)
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

/// The yard's token: made at the first start, readable by its owner only.
fn token(folder: &Folder, ambient: &dyn Ambient) -> Result<String, Failure> {
    let path = folder.token();
    match std::fs::read_to_string(&path) {
        Ok(token) if !token.trim().is_empty() => {
            check_private(&path)?;
            return Ok(token.trim().to_owned());
        }
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(cause) => return Err(Failure::io(format!("read {}", path.display()), cause)),
    }
    let token: String = ambient.random().iter().map(|byte| format!("{byte:02x}")).collect();
    write_private(&path, token.as_bytes()).map_err(|cause| Failure::io(format!("write {}", path.display()), cause))?;
    Ok(token)
}

fn check_private(path: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(path).map_err(|cause| Failure::io(format!("read {}", path.display()), cause))?;
    if mode.permissions().mode() & 0o077 != 0 {
        let path = path.display();
        return Err(Failure::CannotOpen(
            format!("{path} can be read by others: run chmod 600 on it, or remove it for a new token").into(),
        ));
    }
    Ok(())
}

/// The machine's memory in MiB, as the pool's limit; plenty where it cannot be read.
fn memory_mib() -> u32 {
    let read = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = read
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    total.and_then(|kib| u32::try_from(kib / 1024).ok()).unwrap_or(u32::MAX)
}
