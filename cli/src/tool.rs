//! `switchyard tool`: programs of their own that capabilities run as commands, and people by hand.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use switchyard_worker::tool::cloudtrail_digest;
use switchyard_worker::tool::port_scan::{Manner, Scan};
use switchyard_worker::tool::{ToolError, port_scan};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::Tool;
use crate::exit::Failure;
use crate::show;

/// Where a run's result is written; people by hand have none.
const RESULT_PATH: &str = "SWITCHYARD_RESULT_PATH";
/// What a program ends with that was stopped by SIGTERM, as a shell tells it: 128 and the signal's number (POSIX).
const TERMINATED: u8 = 143;

/// What a tool found.
struct Found {
    json: Value,
    text: String,
}

pub(crate) fn run(tool: Tool, json: bool) -> Result<u8, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|cause| Failure::io("start the runtime", cause))?;
    let found = runtime.block_on(async {
        // Heard, and not left to the kernel: a container's first process is sent no signal that it does not hear.
        let mut terminated = signal(SignalKind::terminate()).map_err(|cause| Failure::io("hear SIGTERM", cause))?;
        tokio::select! {
            _ = terminated.recv() => Ok(None),
            found = work(tool) => found.map(Some).map_err(Failure::Tool),
        }
    });
    // What reads files is not waited for.
    runtime.shutdown_background();
    let Some(Found { json: result, text }) = found? else { return Ok(TERMINATED) };
    if let Some(path) = std::env::var_os(RESULT_PATH).filter(|path| !path.is_empty()).map(PathBuf::from) {
        std::fs::write(&path, result.to_string())
            .map_err(|cause| Failure::io(format!("write the result to {}", path.display()), cause))?;
    }
    if json {
        show::print_json(&result)?
    } else {
        show::print(&text)?
    }
    Ok(0)
}

async fn work(tool: Tool) -> Result<Found, ToolError> {
    match tool {
        Tool::PortScan(asked) => {
            let manner = Manner {
                concurrency: asked.concurrency,
                timeout: Duration::from_millis(asked.timeout_ms),
                banners: asked.banners,
            };
            let report: port_scan::Report = Scan::new(&asked.target, &asked.ports, &asked.allow, manner)?.run().await?;
            Ok(Found { json: report.to_json(), text: report.to_text() })
        }
        Tool::CloudtrailDigest { paths } => {
            let digesting = tokio::task::spawn_blocking(move || cloudtrail_digest::digest(&paths));
            let failed = |error| ToolError::Failed { what: "digest".to_owned(), cause: io::Error::other(error) };
            let digest = digesting.await.map_err(failed)??;
            Ok(Found { json: digest.to_json(), text: digest.to_text() })
        }
    }
}
