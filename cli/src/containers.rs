//! The container engine that a yard uses, or none.

use switchyard_worker::engine::{Engine, USUAL_HOST};
use switchyard_worker::network;
use tracing::{info, warn};

use crate::args::{Containers, Guard};
use crate::exit::Failure;
use crate::show;

/// The engine that was asked for, or the usual one. It need not be there.
pub(crate) fn engine(containers: &Containers) -> Result<Option<Engine>, Failure> {
    if containers.no_docker {
        return Ok(None);
    }
    if let Some(host) = &containers.docker_host {
        let engine = Engine::at(host).map_err(|error| Failure::BadInput(format!("--docker-host: {error}")))?;
        return Ok(Some(engine));
    }
    let host = std::env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty());
    match Engine::at(host.as_deref().unwrap_or(USUAL_HOST)) {
        Ok(engine) => Ok(Some(engine)),
        // Meant for other programs, perhaps: nothing fails without an engine.
        Err(error) => {
            warn!(%error, "DOCKER_HOST is left alone, and no container engine is used");
            Ok(None)
        }
    }
}

/// The same engine, as arguments of a task.
pub(crate) fn arguments(engine: Option<&Engine>) -> Vec<String> {
    engine.map_or_else(
        || vec!["--no-docker".to_owned()],
        |engine| vec!["--docker-host".to_owned(), engine.host().to_owned()],
    )
}

/// Whether images can be run now.
pub(crate) async fn answers(engine: Option<&Engine>) -> bool {
    let Some(engine) = engine else { return false };
    match engine.answers().await {
        Ok(()) => true,
        Err(error) => {
            info!(%error, host = engine.host(), "no images are run: reload once an engine answers");
            false
        }
    }
}

/// Guards the network of containers that may reach others, or takes it away.
pub(crate) fn guard(guard: &Guard) -> Result<u8, Failure> {
    let asked = Containers { docker_host: guard.docker_host.clone(), no_docker: false };
    let engine = engine(&asked)?.ok_or_else(|| Failure::BadInput("DOCKER_HOST names no engine to use".to_owned()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|cause| Failure::io("start the runtime", cause))?;
    let done = runtime
        .block_on(async { if guard.undo { network::unguard(&engine).await } else { network::guard(&engine).await } });
    done.map_err(|error| Failure::CannotOpen(error.into()))?;
    let (name, bridge) = (network::NAME, network::BRIDGE);
    show::print(&if guard.undo {
        format!("The network {name} and its rules are gone.")
    } else {
        format!(
            "The network {name} is guarded until this machine starts again: nothing in it reaches this machine by {bridge}."
        )
    })?;
    Ok(0)
}
