//! The network of containers that may reach others: a bridge of its own, guarded so that from it neither this machine
//! nor a link-local address can be reached.
//!
//! A network that is internal to an engine would not do: its containers reach the machine by the bridge's own address.
//! Rules of the packet filter vanish with a reboot and networks do not, so the network carries the boot in which it was
//! guarded, and whoever uses it compares.

use std::collections::HashMap;
use std::io;

use bollard::Docker;
use bollard::models::NetworkCreateRequest;
use rustix::process::geteuid;
use switchyard_core::job::{Failure, one_line};
use tokio::process::Command;

use crate::engine::{Engine, EngineError};

/// The network's name.
pub const NAME: &str = "switchyard";
/// Its bridge, as rules name it.
pub const BRIDGE: &str = "switchyard0";
/// The label with the boot in which it was guarded.
const GUARDED_LABEL: &str = "switchyard.guarded";
/// The kernel's own name for this boot (random(4)).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// A rule: the program that knows it, its chain, and what it says.
type Rule = (&'static str, &'static str, &'static [&'static str]);

/// What is dropped. To this machine: everything. Beyond it: link-local addresses (RFC 3927), where clouds have their
/// metadata and credentials; and all of IPv6, which the network does not have. Engines lead what they forward through
/// DOCKER-USER before any rule of their own.
const RULES: [Rule; 7] = [
    ("iptables", "INPUT", &["-i", BRIDGE, "-j", "DROP"]),
    ("iptables", "DOCKER-USER", &["-i", BRIDGE, "-d", "169.254.0.0/16", "-j", "DROP"]),
    // Where Azure, Alibaba Cloud and Oracle Cloud have theirs.
    ("iptables", "DOCKER-USER", &["-i", BRIDGE, "-d", "168.63.129.16/32", "-j", "DROP"]),
    ("iptables", "DOCKER-USER", &["-i", BRIDGE, "-d", "100.100.100.200/32", "-j", "DROP"]),
    ("iptables", "DOCKER-USER", &["-i", BRIDGE, "-d", "192.0.0.192/32", "-j", "DROP"]),
    ("ip6tables", "INPUT", &["-i", BRIDGE, "-j", "DROP"]),
    ("ip6tables", "FORWARD", &["-i", BRIDGE, "-j", "DROP"]),
];

/// Why the network is not guarded.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// Rules are root's.
    #[error("only root can set rules of the packet filter: run this as root")]
    NotRoot,
    /// Rules of this machine say nothing on another.
    #[error("the engine at {0} may be on another machine: run this there")]
    Elsewhere(String),
    /// The boot's name cannot be read.
    #[error("cannot read {BOOT_ID}")]
    Boot(#[source] io::Error),
    /// A program of the packet filter cannot be started.
    #[error("cannot start {program}")]
    NotStarted {
        /// Which.
        program: &'static str,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// It does not do it.
    #[error("{program} cannot change the chain {chain}: {words}")]
    Refused {
        /// Which program.
        program: &'static str,
        /// Which chain.
        chain: &'static str,
        /// What it said, in one line.
        words: String,
    },
    /// The network cannot be made.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

fn boot_id() -> Result<String, GuardError> {
    Ok(std::fs::read_to_string(BOOT_ID).map_err(GuardError::Boot)?.trim().to_owned())
}

/// Sets the rules and makes the network, as far as they are not there. The rules come first: a network that says it is
/// guarded is.
///
/// # Errors
///
/// [`GuardError`] says what is in the way.
pub async fn guard(engine: &Engine) -> Result<(), GuardError> {
    may(engine)?;
    for rule in rules() {
        if !holds(rule).await? {
            filter(rule, "-I").await?;
        }
    }
    let boot = boot_id()?;
    let docker = engine.known().await?.docker;
    match look(&docker).await? {
        Some((_, guarded)) if guarded.as_ref() == Some(&boot) => return Ok(()),
        // Of an earlier boot: nothing runs there, and its label cannot be changed.
        Some((id, _)) => remove(&docker, &id).await?,
        None => {}
    }
    let options = [
        ("com.docker.network.bridge.name", BRIDGE),
        // Containers do not reach each other.
        ("com.docker.network.bridge.enable_icc", "false"),
    ];
    let request = NetworkCreateRequest {
        name: NAME.to_owned(),
        driver: Some("bridge".to_owned()),
        enable_ipv6: Some(false),
        options: Some(options.map(|(name, value)| (name.to_owned(), value.to_owned())).into()),
        labels: Some(HashMap::from([(GUARDED_LABEL.to_owned(), boot)])),
        ..NetworkCreateRequest::default()
    };
    match docker.create_network(request).await.map_err(|error| EngineError::of("make the guarded network", error)) {
        // Somebody else made it just now, by the same rules.
        Err(EngineError::Refused { status: 409, .. }) if look(&docker).await?.is_some() => Ok(()),
        made => Ok(made.map(drop)?),
    }
}

/// Takes the network and the rules away again.
///
/// # Errors
///
/// As [`guard`]; containers in the network keep it.
pub async fn unguard(engine: &Engine) -> Result<(), GuardError> {
    may(engine)?;
    let docker = engine.known().await?.docker;
    if let Some((id, _)) = look(&docker).await? {
        remove(&docker, &id).await?;
    }
    for rule in rules() {
        while holds(rule).await? {
            filter(rule, "-D").await?;
        }
    }
    Ok(())
}

/// Whether a container may be put there: `Err` says why not, and what to do. Root sees to it itself.
pub(crate) async fn check(engine: &Engine) -> Result<Result<(), Failure>, EngineError> {
    let refused =
        |why: &str| Failure::new("network_not_guarded", format!("the network `{NAME}` is not guarded: {why}"));
    if may(engine).is_ok() {
        return match guard(engine).await {
            Ok(()) => Ok(Ok(())),
            Err(GuardError::Engine(error)) => Err(error),
            Err(error) => Ok(Err(refused(&error.to_string()))),
        };
    }
    let Ok(boot) = boot_id() else { return Ok(Err(refused("the boot's name cannot be read"))) };
    let docker = engine.known().await?.docker;
    Ok(match look(&docker).await? {
        Some((_, Some(guarded))) if guarded == boot => Ok(()),
        Some(_) => Err(refused("not since this machine started: run `switchyard guard` as root, then retry the job")),
        None => Err(refused("there is none: run `switchyard guard` as root, then retry the job")),
    })
}

/// Whether rules can be set here for this engine.
fn may(engine: &Engine) -> Result<(), GuardError> {
    if !engine.host().starts_with("unix://") {
        return Err(GuardError::Elsewhere(engine.host().to_owned()));
    }
    if geteuid().is_root() { Ok(()) } else { Err(GuardError::NotRoot) }
}

/// The rules that can be set: a kernel without IPv6 has nothing to filter.
fn rules() -> impl Iterator<Item = Rule> {
    let ipv6 = std::path::Path::new("/proc/sys/net/ipv6").exists();
    RULES.into_iter().filter(move |(program, ..)| ipv6 || *program == "iptables")
}

/// The network's id and the boot in which it was guarded.
async fn look(docker: &Docker) -> Result<Option<(String, Option<String>)>, EngineError> {
    match docker
        .inspect_network(NAME, None)
        .await
        .map_err(|error| EngineError::of("look at the guarded network", error))
    {
        Ok(found) => {
            let guarded = found.labels.and_then(|mut labels| labels.remove(GUARDED_LABEL));
            Ok(Some((found.id.unwrap_or_default(), guarded)))
        }
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

async fn remove(docker: &Docker, id: &str) -> Result<(), EngineError> {
    match docker.remove_network(id).await.map_err(|error| EngineError::of("remove a network", error)) {
        Err(error) if error.is_not_found() => Ok(()),
        removed => removed,
    }
}

/// Whether the rule is in force.
async fn holds(rule: Rule) -> Result<bool, GuardError> {
    Ok(call(rule, "-C").await?.status.success())
}

async fn filter(rule: Rule, verb: &str) -> Result<(), GuardError> {
    let (program, chain, _) = rule;
    let output = call(rule, verb).await?;
    if output.status.success() {
        return Ok(());
    }
    let words = one_line(&String::from_utf8_lossy(&output.stderr), 200);
    Err(GuardError::Refused { program, chain, words })
}

async fn call((program, chain, says): Rule, verb: &str) -> Result<std::process::Output, GuardError> {
    // -w: another program may hold the filter's lock.
    let call = Command::new(program).args(["-w", verb, chain]).args(says).process_group(0).output().await;
    call.map_err(|cause| GuardError::NotStarted { program, cause })
}
