//! `switchyard worker --once` as the child that a yard starts for one job, with its desk on standard input.

use std::os::fd::AsFd;
use std::sync::Arc;

use switchyard_builtins::system::System;
use switchyard_core::execute::{Holding, Runs};
use switchyard_core::job::{Epoch, Holder, Nonce, StopCause};
use switchyard_core::policies::Shelf;
use switchyard_core::ports::{Message, StopSignal};
use switchyard_embedded::blobs_folder::FolderBlobs;
use switchyard_embedded::desk_socket::SocketDesk;
use switchyard_worker::credentials::Vault;
use switchyard_worker::executor::LocalExecutor;
use switchyard_worker::once;
use switchyard_worker::scratch::Scratch;
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{Child, Containers};
use crate::containers;
use crate::exit::Failure;
use crate::local::start_logging;
use crate::policies;

pub(super) fn run(child: &Child, containers: &Containers) -> Result<u8, Failure> {
    start_logging();
    let id = child.job.parse().map_err(|error| Failure::BadInput(format!("--job: {error}")))?;
    let message = Message { id, epoch: Epoch(child.epoch) };
    let boot = u64::from_str_radix(&child.boot, 16).map_err(|error| Failure::BadInput(format!("--boot: {error}")))?;
    let boot = Nonce(boot);
    let engine = containers::engine(containers)?;
    let policies = policies::of_task(child.policies.as_deref())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|cause| Failure::io("start the runtime", cause))?;
    runtime.block_on(async {
        let leave = StopSignal::default();
        let runs = Runs::default();
        let no_desk = |cause| Failure::io("use standard input as the socket to a yard: this is not run by hand", cause);
        let stdin = std::io::stdin().as_fd().try_clone_to_owned().map_err(no_desk)?;
        let socket = std::os::unix::net::UnixStream::from(stdin);
        socket.set_nonblocking(true).map_err(no_desk)?;
        let gone = leave.clone();
        let desk = SocketDesk::new(
            UnixStream::from_std(socket).map_err(no_desk)?,
            // Without its yard nobody will take a report: what runs is ended at once.
            move || gone.raise(StopCause::Stale),
        );
        let mut terminated = signal(SignalKind::terminate()).map_err(|cause| Failure::io("hear SIGTERM", cause))?;
        let told = leave.clone();
        tokio::spawn(async move {
            terminated.recv().await;
            told.raise(StopCause::Drain);
        });
        let ambient = System;
        let executor = LocalExecutor {
            shelf: Arc::new(Shelf::new(policies)),
            scratch: Scratch::new(&child.scratch, 0),
            vault: Vault::usual(),
            yard: child.yard.clone(),
            boot,
            engine,
            task: None,
            ambient: Arc::new(ambient),
        };
        let blobs = FolderBlobs::at(&child.blobs);
        let holder = Holder(child.holder.clone());
        let holding = Holding {
            desk: &desk,
            executor: &executor,
            blobs: &blobs,
            ambient: &ambient,
            holder: &holder,
            runs: &runs,
        };
        match once::run(holding, message, leave, &runs).await {
            Ok(_) => Ok(0),
            Err(error) => Err(Failure::CannotOpen(error.into())),
        }
    })
}
