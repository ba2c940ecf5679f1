//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use switchyard_core::route::Packaging;

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
    /// Sign requests for this region's API Gateway, with AWS_ACCESS_KEY_ID and its like; for the host of an API that is
    /// done unasked. SWITCHYARD_TOKEN, where it is set, is shown instead.
    #[arg(long, global = true, env = "SWITCHYARD_SIGN", value_name = "REGION")]
    pub(crate) sign: Option<String>,
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
        /// Go on showing it until it has ended.
        #[arg(long)]
        watch: bool,
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
        /// Print the lines as the job did, also what drives a terminal; without it that is taken out.
        #[arg(long, conflicts_with = "json")]
        raw: bool,
    },
    /// Print what a job made.
    Result {
        /// Its id.
        id: String,
    },
    /// List what a job emitted as records.
    Records {
        /// Its id.
        id: String,
        /// Only records of this kind.
        #[arg(long, value_parser = ["asset", "finding", "metric", "log"])]
        kind: Option<String>,
    },
    /// List the assets that jobs saw, by id, each as it was seen last.
    Assets(Registered),
    /// List the findings that jobs emitted, by id, each as it was seen last.
    Findings(Registered),
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
    Replay(Replay),
    /// List the events that no mapping answers, seen last first; with an ID print that event.
    Unmapped {
        /// The event's id, as the list shows it.
        id: Option<String>,
        /// Deliver those again that the rules in force answer now; they are kept no longer.
        #[arg(long, conflicts_with = "id")]
        replay: bool,
        /// At most so many.
        #[arg(long, default_value_t = 50, conflicts_with = "id", value_parser = clap::value_parser!(u16).range(1..=500))]
        limit: u16,
    },
    /// List what credentials were lent and refused, and given back, newest first.
    Loans {
        /// Only those of this job.
        #[arg(long)]
        job: Option<String>,
        /// Only those since, such as 2026-01-31T12:00:00Z.
        #[arg(long)]
        since: Option<String>,
        /// At most so many.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=500))]
        limit: u16,
    },
    /// Say where a job would go, what every place would cost, and why not there.
    Explain(Explain),
    /// Show what jobs have cost, by capability and venue; on one machine what AWS would have charged.
    Cost {
        /// Only jobs that ended since, such as 2026-01-31T12:00:00Z.
        #[arg(long)]
        since: Option<String>,
    },
    /// Let no more jobs start: all of them, a tier's, or a capability's. What runs, runs to its end.
    Pause(Pause),
    /// Lift a pause.
    Resume(Scope),
    /// Show the yard at a glance: pauses, what waits and for how long, limits, what ended.
    Yard,
    /// List what the yard can run.
    #[command(args_conflicts_with_subcommands = true)]
    Capabilities {
        /// As `policies check`.
        #[arg(long, value_name = "FOLDER")]
        check: Option<PathBuf>,
        #[command(subcommand)]
        command: Option<Capabilities>,
    },
    /// Make, list and change the tokens of the yard on this machine; it need not run.
    #[command(subcommand)]
    Token(Token),
    /// Print a script that completes this program's commands and options in a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// The policies that a yard may be opened with.
    #[command(subcommand)]
    Policies(Policies),
    /// Make the yard read its policies again; jobs that it has taken keep the needs they were taken with.
    Reload,
    /// List what runs by the clock.
    Schedules,
    /// Make the network of containers that may reach others, and guard this machine from it; as root, once a boot.
    Guard(Guard),
    /// List who works, what room they have and what they run.
    Workers,
    /// Run one of the tools that capabilities run as commands; by hand they print what they find.
    #[command(subcommand, hide = true)]
    Tool(Tool),
    /// Run jobs for the yard that is deployed on AWS, as one of its fleet; with --once a single one, as a task on ECS.
    Worker(Worker),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Policies {
    /// Say whether the policies in a folder are sound, and else all that is wrong; no yard is needed.
    Check {
        /// The folder.
        folder: PathBuf,
    },
    /// Check the policies in a folder and put them into force for the yard on AWS, all at once: its processes read them
    /// within a minute. AWS_REGION says where; nothing is written when they are broken.
    Push {
        /// The bucket of the yard's policies.
        #[arg(long, env = "POLICY_BUCKET", value_name = "NAME")]
        bucket: String,
        /// The folder [default: the policies this program was built with].
        folder: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Capabilities {
    /// Register a task definition on ECS for each capability with a task image; those that are as they should be are left.
    Apply(Apply),
}

/// A definition is made after the worker's: its container `worker` gets the capability's image, the task the smallest size
/// on Fargate that has what the capability needs, and all else is as it is there. AWS_REGION says where. Definitions of
/// capabilities that are gone are named, and stay.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 all is registered; 2 the policies are broken, a capability is larger than any task, or --like \
is none; 7 AWS did not answer, trying again can help; 8 AWS refuses it. What was registered before a failure stays, and is \
`unchanged` the next time."
)]
pub(crate) struct Apply {
    /// The task definition of the worker: a family, FAMILY:REVISION or an ARN.
    #[arg(long, env = "ECS_TASK_DEFINITION", value_name = "DEFINITION")]
    pub(crate) like: String,
    /// In front of a capability's name: the family of its task definition.
    #[arg(long, env = "SWITCHYARD_TASK_PREFIX", value_name = "PREFIX")]
    pub(crate) prefix: String,
    /// The folder with capabilities.yaml [default: the policies this program was built with].
    #[arg(long, value_name = "FOLDER")]
    pub(crate) policies: Option<PathBuf>,
    /// Say what would be registered, and register nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Local {
    /// The address to listen on; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:7420", env = "SWITCHYARD_LISTEN")]
    pub(crate) listen: SocketAddr,
    /// The folder with capabilities.yaml and schedules.yaml [default: the policies this program was built with].
    #[arg(long, env = "SWITCHYARD_POLICIES", value_name = "FOLDER")]
    pub(crate) policies: Option<PathBuf>,
    /// Jobs the worker runs at once [default: the number of processors].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) slots: Option<u16>,
    /// On-demand tasks at once [default: twice the number of processors].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) tasks: Option<u16>,
    #[command(flatten)]
    pub(crate) containers: Containers,
    /// The file of secrets that credentials are lent by; nobody else may read it. Without it nothing is lent.
    #[arg(long, value_name = "FILE")]
    pub(crate) credentials: Option<PathBuf>,
    /// Days a settled job, and so its idempotency key, is kept.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..=3660))]
    pub(crate) retention_days: u16,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Guard {
    /// The container engine on this machine [default: $DOCKER_HOST, else unix:///var/run/docker.sock].
    #[arg(long, value_name = "URI")]
    pub(crate) docker_host: Option<String>,
    /// Take the network and its rules away again.
    #[arg(long)]
    pub(crate) undo: bool,
}

/// Where containers run.
#[derive(Debug, clap::Args)]
pub(crate) struct Containers {
    /// The container engine: unix:///PATH, or tcp://HOST:PORT without TLS [default: $DOCKER_HOST, else
    /// unix:///var/run/docker.sock]. Where none answers, no images are run, and everything else is.
    #[arg(long, value_name = "URI")]
    pub(crate) docker_host: Option<String>,
    /// Use no container engine.
    #[arg(long, conflicts_with = "docker_host")]
    pub(crate) no_docker: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// List the tokens: names and roles, never secrets.
    List,
    /// Make a token and print its secret, this once.
    Create {
        /// Who will show it: the caller of the jobs it submits.
        name: String,
        /// How far it reaches.
        #[arg(long, value_parser = ["viewer", "submitter", "operator"])]
        role: String,
    },
    /// Give a token another secret and print it, this once; the old one is nobody's at once.
    Rotate {
        /// Its name.
        name: String,
    },
    /// Remove a token; it is nobody's at once.
    Revoke {
        /// Its name.
        name: String,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Submit {
    /// The capability to run.
    #[arg(required_unless_present = "batch")]
    pub(crate) capability: Option<String>,
    /// Its input as JSON; @FILE reads it from a file, - from standard input.
    #[arg(default_value = "{}", conflicts_with = "batch")]
    pub(crate) payload: String,
    /// Submit every line of this file (- for standard input) instead: a submission each as POST /v1/jobs takes it, or
    /// with a CAPABILITY its payload. What is given here besides holds for lines that do not say otherwise.
    #[arg(long, value_name = "FILE")]
    pub(crate) batch: Option<PathBuf>,
    /// How soon it must start [default: standard].
    #[arg(long, value_parser = ["synchronous", "priority", "standard"])]
    pub(crate) tier: Option<String>,
    /// The same key again gives the same job. With --batch, the line's number is added to it.
    #[arg(long)]
    pub(crate) key: Option<String>,
    /// The trace it is of, as the header of that name (W3C Trace Context) [default: one of its own].
    #[arg(long)]
    pub(crate) traceparent: Option<String>,
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
    /// Wait until it has ended, and print what it made; with --batch, until all have. Exits with 1 without success.
    #[arg(long)]
    pub(crate) wait: bool,
}

/// Which assets or findings.
#[derive(Debug, clap::Args)]
pub(crate) struct Registered {
    /// Only what was seen since, such as 2026-01-31T12:00:00Z.
    #[arg(long)]
    pub(crate) since: Option<String>,
    /// Only what this capability saw last.
    #[arg(long, value_name = "NAME")]
    pub(crate) capability: Option<String>,
    /// At most so many.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=500))]
    pub(crate) limit: u16,
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
pub(crate) struct Explain {
    /// The capability; without one describe the job with --aws and --run.
    pub(crate) capability: Option<String>,
    /// Its input as JSON; @FILE reads it from a file, - from standard input.
    #[arg(default_value = "{}")]
    pub(crate) payload: String,
    /// How soon it must start.
    #[arg(long, default_value = "standard", value_parser = ["synchronous", "priority", "standard"])]
    pub(crate) tier: String,
    /// Decide as the yard on AWS would, without asking a yard.
    #[arg(long)]
    pub(crate) aws: bool,
    /// With --aws: the folder with routing.yaml, prices.yaml and capabilities.yaml [default: what this program was built
    /// with].
    #[arg(long, value_name = "FOLDER", requires = "aws")]
    pub(crate) policies: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) need: Need,
    #[command(flatten)]
    pub(crate) suppose: Suppose,
}

/// A job that no catalog names.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "A job that no catalog names, with --aws")]
pub(crate) struct Need {
    /// How it is packaged.
    #[arg(long, value_enum, requires = "aws")]
    pub(crate) run: Option<Run>,
    /// How long a run is expected to take; without it nobody knows.
    #[arg(long, value_name = "SECONDS", requires = "run")]
    pub(crate) expected: Option<u64>,
    /// Memory.
    #[arg(long, value_name = "MIB", default_value_t = 512, requires = "run")]
    pub(crate) memory: u32,
    /// Processors.
    #[arg(long, value_name = "N", default_value_t = 0.25, requires = "run")]
    pub(crate) vcpu: f64,
    /// It talks to a Docker daemon.
    #[arg(long, requires = "run")]
    pub(crate) docker: bool,
    /// It needs raw sockets or network tools.
    #[arg(long, requires = "run")]
    pub(crate) network_tools: bool,
    /// Its connections must come from a known address.
    #[arg(long, requires = "run")]
    pub(crate) static_ip: bool,
    /// It must run privileged.
    #[arg(long, requires = "run")]
    pub(crate) privileged: bool,
    /// It must have a task of its own.
    #[arg(long, requires = "run")]
    pub(crate) isolate: bool,
    /// It does not bear being interrupted and run again.
    #[arg(long, requires = "run")]
    pub(crate) no_interruptible: bool,
    /// Pin it to a venue or pool; can be given again.
    #[arg(long, value_name = "PLACE", requires = "run")]
    pub(crate) only: Vec<String>,
    /// Favour a venue or pool; can be given again.
    #[arg(long, value_name = "PLACE", requires = "run")]
    pub(crate) prefer: Vec<String>,
}

/// How a described job is packaged.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Run {
    /// Compiled into Switchyard.
    Builtin,
    /// A program and its arguments.
    Command,
    /// A container image whose entry point is the worker.
    TaskImage,
    /// A container image that speaks the Lambda Runtime API.
    FunctionImage,
    /// Any other container image.
    Image,
}

impl From<Run> for Packaging {
    fn from(run: Run) -> Self {
        match run {
            Run::Builtin => Self::Builtin,
            Run::Command => Self::Command,
            Run::TaskImage => Self::TaskImage,
            Run::FunctionImage => Self::FunctionImage,
            Run::Image => Self::Image,
        }
    }
}

/// Conditions in place of the real ones.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Conditions in place of the real ones")]
pub(crate) struct Suppose {
    /// Seconds left of the invocation that takes it; 0: none is at hand [default with --aws: 29, a request's].
    #[arg(long, value_name = "SECONDS")]
    pub(crate) left: Option<u64>,
    /// A pool with a slot free; can be given again.
    #[arg(long, value_name = "POOL")]
    pub(crate) free: Vec<String>,
    /// How many such jobs come together.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) batch: Option<u32>,
    /// How often it was interrupted already.
    #[arg(long, value_name = "N")]
    pub(crate) interruptions: Option<u32>,
    /// Launching it was tried as often as is sensible.
    #[arg(long)]
    pub(crate) launches_exhausted: bool,
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
    /// Go on showing them until interrupted.
    #[arg(long)]
    pub(crate) watch: bool,
}

#[derive(Debug, Subcommand)]
#[command(after_help = "As the command of a capability a tool writes its result to SWITCHYARD_RESULT_PATH, too.

Exit codes: 0 done; 1 another attempt may help; 2 the same input fails again; 143 ended by SIGTERM")]
pub(crate) enum Tool {
    /// Find the open TCP ports of a host, by connecting to each.
    PortScan(PortScan),
    /// Say who made risky calls, out of CloudTrail's log files, in constant memory.
    CloudtrailDigest {
        /// Files, or folders with .json.gz and .json files; links are not followed.
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct PortScan {
    /// The name or address of a host.
    pub(crate) target: String,
    /// The ports, such as 22,80,8000-8100; at most 4096.
    #[arg(long)]
    pub(crate) ports: String,
    /// A network that may be reached, such as 10.0.0.0/8; can be given again [default: this machine only].
    #[arg(long, value_name = "CIDR")]
    pub(crate) allow: Vec<String>,
    /// Connections at once.
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) concurrency: u16,
    /// How long a port has to answer.
    #[arg(long, default_value_t = 1000, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub(crate) timeout_ms: u64,
    /// Keep the first printable bytes that a service says unasked.
    #[arg(long)]
    pub(crate) banners: bool,
}

/// A worker of the yard that is deployed on AWS, which the environment tells of.
#[derive(Debug, clap::Args)]
#[command(after_help = WORKER_HELP)]
pub(crate) struct Worker {
    /// Run the one job that SWITCHYARD_JOB_ID and SWITCHYARD_EPOCH name, then end: the entry point of a task on ECS.
    #[arg(long)]
    pub(crate) once: bool,
    /// The pool whose jobs it runs [default: $SWITCHYARD_POOL, else standard].
    #[arg(long, value_name = "NAME", conflicts_with = "once")]
    pub(crate) pool: Option<String>,
    /// Jobs at once [default: the number of processors].
    #[arg(long, value_name = "N", env = "SWITCHYARD_SLOTS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) slots: Option<u16>,
    /// Go home after so long without a job [default: on an instance of a group, as routing.yaml says of the pool; else it
    /// stays until it is told to leave].
    #[arg(long, value_name = "SECONDS", env = "SWITCHYARD_IDLE_SECONDS")]
    pub(crate) idle_seconds: Option<u64>,
    #[command(flatten)]
    pub(crate) containers: Containers,
    #[command(flatten)]
    pub(crate) child: Option<Child>,
    /// With --once, in a capability's task image: what runs where the capability has no `args`; an image's own command,
    /// which ECS puts here.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

const WORKER_HELP: &str = "The environment of the yard, as template.yaml sets it: SWITCHYARD_TABLE, SWITCHYARD_QUEUES, SWITCHYARD_BUCKET, \
SWITCHYARD_LOG_GROUP, SWITCHYARD_BUS, POLICY_BUCKET, AWS_REGION. Credentials: those in the environment, else the task's, else \
the instance's.

At SIGTERM or SIGINT it takes nothing new and gives back what runs, which spends no attempt of it; a second one spares the \
last 20 s, in which a receive that is under way may still bring something to give back. Once a minute, and at its \
end, it writes what it counted to standard output, in CloudWatch's embedded metric format; its log goes to standard error.

On an EC2 instance SWITCHYARD_GROUP names its Auto Scaling group. Then it claims in the instance's name, heeds what the metadata \
service says of its end (an interruption, a risk of one, a decision of the group), takes nothing new once the container engine or \
the disk is no good, and when it is idle it ends the instance and makes the group one smaller.

Exit codes: 0 it went home, or the job of --once was settled or was not to be run; 2 the environment is not a yard's; 7 AWS did \
not answer, trying again can help; 8 what it stands on is not there, or refuses it; \
9 it went home, and its machine cannot leave its group";

/// What the yard on this machine tells a child: all of it, or nothing.
#[derive(Debug, clap::Args)]
pub(crate) struct Child {
    #[arg(long, hide = true, required = false, requires_all = ["once", "epoch", "holder", "yard", "boot", "scratch", "blobs"])]
    pub(crate) job: String,
    #[arg(long, hide = true, required = false)]
    pub(crate) epoch: u32,
    #[arg(long, hide = true, required = false)]
    pub(crate) holder: String,
    #[arg(long, hide = true, required = false)]
    pub(crate) yard: String,
    #[arg(long, hide = true, required = false)]
    pub(crate) boot: String,
    #[arg(long, hide = true, required = false)]
    pub(crate) scratch: PathBuf,
    #[arg(long, hide = true, required = false)]
    pub(crate) blobs: PathBuf,
    #[arg(long, hide = true)]
    pub(crate) policies: Option<PathBuf>,
}

/// How an event is replayed.
#[derive(Debug, clap::Args)]
pub(crate) struct Replay {
    /// A file with one EventBridge event, or - for standard input.
    pub(crate) event: PathBuf,
    /// Deliver it to the yard.
    #[arg(long)]
    pub(crate) submit: bool,
    /// Ask the open yard, which says too which jobs there are already; else it is decided here.
    #[arg(long, conflicts_with_all = ["submit", "policies", "aws"])]
    pub(crate) yard: bool,
    /// The policies to decide by; without them those that are built in.
    #[arg(long, value_name = "FOLDER", conflicts_with = "submit")]
    pub(crate) policies: Option<PathBuf>,
    /// Decide as the yard on AWS would, and not as one machine.
    #[arg(long, conflicts_with = "submit")]
    pub(crate) aws: bool,
}
