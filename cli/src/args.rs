//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Background work on AWS, run where it is cheapest and fast enough; and on this machine with no AWS account.
#[derive(Debug, Parser)]
#[command(name = "switchyard", version, after_help = crate::exit::EXIT_CODES, propagate_version = true)]
pub(crate) struct Args {
    /// Print JSON instead of tables.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) connection: Connection,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Where the yard is.
#[derive(Debug, clap::Args)]
pub(crate) struct Connection {
    /// The yard's folder on this machine [default: the user's data folder].
    #[arg(long, global = true, env = "SWITCHYARD_DATA", value_name = "FOLDER")]
    pub(crate) data: Option<PathBuf>,
    /// The yard's URL; without it the running yard is found in its folder.
    #[arg(long, global = true, env = "SWITCHYARD_URL")]
    pub(crate) url: Option<String>,
}

impl Connection {
    /// The folder given, or $XDG_DATA_HOME/switchyard (XDG Base Directory Specification).
    pub(crate) fn data_folder(&self) -> PathBuf {
        if let Some(data) = &self.data {
            return data.clone();
        }
        let data = std::env::var_os("XDG_DATA_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
        let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("."), PathBuf::from);
        data.unwrap_or_else(|| home.join(".local/share")).join("switchyard")
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a yard on this machine until it is stopped.
    Local(Local),
    /// Submit a job.
    Submit(Submit),
    /// Show one job.
    Job {
        /// Its id.
        id: String,
        /// Show its history too.
        #[arg(long)]
        timeline: bool,
    },
    /// List jobs, newest first.
    Jobs(Jobs),
    /// Show what a job printed.
    Logs {
        /// Its id.
        id: String,
        /// Go on until the job ends.
        #[arg(short, long)]
        follow: bool,
    },
    /// Print what a job made.
    Result {
        /// Its id.
        id: String,
    },
    /// Cancel a job, or ask its holder to end it.
    Cancel {
        /// Its id.
        id: String,
    },
    /// Run a job again that ended without success.
    Retry {
        /// Its id.
        id: String,
    },
    /// Say what an event would lead to; with --submit, deliver it to the yard.
    Replay {
        /// A file with one EventBridge event, or - for standard input.
        event: PathBuf,
        /// Deliver it.
        #[arg(long)]
        submit: bool,
    },
    /// Let no more jobs start: all of them, a tier's, or a capability's. What runs, runs to its end.
    Pause(Pause),
    /// Lift a pause.
    Resume(Scope),
    /// Show the yard at a glance: pauses, what waits and for how long, limits, what ended.
    Yard,
    /// List what the yard can run.
    Capabilities {
        /// Say instead whether the policies in this folder are sound; no yard is needed.
        #[arg(long, value_name = "FOLDER")]
        check: Option<PathBuf>,
    },
    /// Run one job for a yard that started this process: nothing to call by hand.
    #[command(hide = true)]
    Worker(Worker),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Local {
    /// The address to listen on; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:7420", env = "SWITCHYARD_LISTEN")]
    pub(crate) listen: SocketAddr,
    /// The folder with capabilities.yaml [default: the capabilities this program was built with].
    #[arg(long, env = "SWITCHYARD_POLICIES", value_name = "FOLDER")]
    pub(crate) policies: Option<PathBuf>,
    /// Jobs the worker runs at once [default: the number of processors].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) slots: Option<u16>,
    /// On-demand tasks at once [default: twice the number of processors].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) tasks: Option<u16>,
    /// Days a settled job, and so its idempotency key, is kept.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..=3660))]
    pub(crate) retention_days: u16,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Submit {
    /// The capability to run.
    pub(crate) capability: String,
    /// Its input as JSON; @FILE reads it from a file, - from standard input.
    #[arg(default_value = "{}")]
    pub(crate) payload: String,
    /// How soon it must start.
    #[arg(long, default_value = "standard", value_parser = ["synchronous", "priority", "standard"])]
    pub(crate) tier: String,
    /// The same key again gives the same job.
    #[arg(long)]
    pub(crate) key: Option<String>,
    /// NAME=VALUE to find it by; can be given again.
    #[arg(long = "label", value_name = "NAME=VALUE")]
    pub(crate) labels: Vec<String>,
    /// Seconds before it may start.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) delay: Option<u64>,
    /// Seconds within which it must have started, or it expires.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) start_within: Option<u64>,
    /// The longest one run may last.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) run_timeout: Option<u64>,
    /// Announce its settlement.
    #[arg(long)]
    pub(crate) announce: bool,
    /// Wait until it has ended, and print what it made. Exits with 1 when it did not succeed.
    #[arg(long)]
    pub(crate) wait: bool,
}

/// What a pause is over: everything unless a tier or a capability is named.
#[derive(Debug, clap::Args)]
pub(crate) struct Scope {
    /// The jobs of this tier.
    #[arg(long, value_parser = ["synchronous", "priority", "standard"], conflicts_with = "capability")]
    pub(crate) tier: Option<String>,
    /// The jobs of this capability.
    #[arg(long, value_name = "NAME")]
    pub(crate) capability: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Pause {
    #[command(flatten)]
    pub(crate) scope: Scope,
    /// Why: shown with every job it holds.
    #[arg(long, default_value = "")]
    pub(crate) reason: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Jobs {
    /// Only jobs in this state.
    #[arg(long)]
    pub(crate) state: Option<String>,
    /// Only jobs of this capability.
    #[arg(long)]
    pub(crate) capability: Option<String>,
    /// Only jobs with this label, NAME=VALUE.
    #[arg(long)]
    pub(crate) label: Option<String>,
    /// Only jobs accepted since, such as 2026-01-31T12:00:00Z.
    #[arg(long)]
    pub(crate) since: Option<String>,
    /// At most so many.
    #[arg(long, default_value_t = 50)]
    pub(crate) limit: usize,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Worker {
    /// One job, then end.
    #[arg(long, required = true)]
    pub(crate) once: bool,
    #[arg(long)]
    pub(crate) job: String,
    #[arg(long)]
    pub(crate) epoch: u32,
    #[arg(long)]
    pub(crate) holder: String,
    #[arg(long)]
    pub(crate) yard: String,
    #[arg(long)]
    pub(crate) scratch: PathBuf,
    #[arg(long)]
    pub(crate) blobs: PathBuf,
    #[arg(long)]
    pub(crate) policies: Option<PathBuf>,
}
