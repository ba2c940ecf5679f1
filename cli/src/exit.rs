//! How the program ends: every failure has its exit code and says what to do next.

use std::path::PathBuf;
use std::time::Duration;

use switchyard_api::Problem;
use switchyard_core::job::one_line;
use switchyard_core::policies::Violations;
use switchyard_core::ports::PortError;
use switchyard_worker::tool::ToolError;

/// The list that `--help` ends with.
pub(crate) const EXIT_CODES: &str = "Exit codes:
  0  done
  1  the job ended, but did not succeed; a tool could not do its work
  2  bad input: an argument, a variable, a file, a submission
  3  no such job, or nothing to show
  4  the job, or the yard, stands where that cannot be done
  5  no yard answers
  6  the yard does not accept the token or the signature
  7  the yard, AWS or this machine failed; trying again can help
  8  the yard cannot be opened
  9  a worker's machine cannot leave its group: shut it down";

/// The exit code of a worker that went home, and whose machine is still of its group after all that can be tried. The unit
/// that started it shuts the machine down.
pub(crate) const CANNOT_LEAVE: u8 = 9;

/// Why the program did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// What was given cannot be used.
    #[error("{0}")]
    BadInput(String),
    /// The yard refused.
    #[error("{} ({})", .0.detail, .0.code)]
    Problem(Problem),
    /// The yard refused for now.
    #[error("{} ({})", .problem.detail, .problem.code)]
    Busy {
        /// What it said.
        problem: Problem,
        /// When it can be tried again.
        retry_after: Duration,
    },
    /// No yard runs where one was looked for.
    #[error("no yard is running for {0}: start one with `switchyard local`, or name one with --url")]
    NoYard(PathBuf),
    /// The yard did not answer.
    #[error("the yard at {url} does not answer: {cause}; is it still running?")]
    Unreachable {
        /// Where it was looked for.
        url: String,
        /// What the connection said.
        cause: String,
    },
    /// What stands before the yard answered in its place.
    #[error("what stands before the yard at {url} answers {status}: {message}{}", gateway_advice(*.status))]
    Gateway {
        /// Where the yard was looked for.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What it said.
        message: String,
    },
    /// The answer is none of the yard's.
    #[error("{url} answered what no yard answers: {cause}")]
    NotAYard {
        /// What was asked.
        url: String,
        /// What was wrong with the answer.
        cause: String,
    },
    /// A file or stream of this machine failed.
    #[error("cannot {what}: {cause}")]
    Io {
        /// What was tried.
        what: String,
        /// Why not.
        cause: std::io::Error,
    },
    /// Policies are broken.
    #[error("{wrong}")]
    Policies {
        /// All that is wrong with them.
        wrong: Violations,
        /// 2 where they were given to be judged, 8 where a yard was to be opened with them.
        exit: u8,
    },
    /// A tool has no result.
    #[error("{}", switchyard_core::ports::describe(.0))]
    Tool(ToolError),
    /// AWS did not do what it was asked, and another try may help.
    #[error("{}", switchyard_core::ports::describe(.0))]
    Aws(PortError),
    /// The yard cannot be opened.
    #[error("{}", switchyard_core::ports::describe(.0.as_ref()))]
    CannotOpen(Box<dyn std::error::Error + Send + Sync>),
}

/// What may help when API Gateway answers with this status (API Gateway Developer Guide, "Gateway response types").
fn gateway_advice(status: u16) -> &'static str {
    match status {
        401 | 403 => {
            "; are the credentials (AWS_ACCESS_KEY_ID, or SWITCHYARD_TOKEN) still good, may they call this API              (execute-api:Invoke), and is this machine's clock right?"
        }
        404 => "; is the URL complete, with its stage if it has one?",
        413 => "; a request may have 10 MB there",
        429 => "; it is asked more often than it allows: try again later",
        503 | 504 => "; try again",
        _ => "",
    }
}

impl Failure {
    /// A file or stream that failed.
    pub(crate) fn io(what: impl Into<String>, cause: std::io::Error) -> Self {
        Self::Io { what: what.into(), cause }
    }

    /// What is printed, in one line, or in one for each violation: what others wrote into a message must not drive the
    /// terminal.
    pub(crate) fn describe(&self) -> String {
        let lines = match self {
            Self::Policies { wrong, .. } => wrong.lines(),
            Self::Problem(problem) if !problem.violations.is_empty() => {
                let mut lines = vec![self.to_string()];
                lines.extend(problem.violations.iter().cloned());
                lines
            }
            _ => vec![self.to_string()],
        };
        lines.iter().map(|line| one_line(line, 4000)).collect::<Vec<_>>().join("\n")
    }

    /// What the program exits with, as [`EXIT_CODES`] lists.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::BadInput(_) => 2,
            Self::Tool(error) => {
                if error.is_permanent() {
                    2
                } else {
                    1
                }
            }
            Self::Problem(problem) => match problem.status {
                401 | 403 => 6,
                404 => 3,
                409 => 4,
                400..500 => 2,
                _ => 7,
            },
            Self::Busy { .. } => 7,
            Self::Gateway { status, .. } => match status {
                401 | 403 => 6,
                404 => 5,
                429 => 7,
                400..500 => 2,
                _ => 7,
            },
            Self::NoYard(_) | Self::Unreachable { .. } => 5,
            Self::NotAYard { .. } | Self::Io { .. } | Self::Aws(_) => 7,
            Self::CannotOpen(_) => 8,
            Self::Policies { exit, .. } => *exit,
        }
    }
}
