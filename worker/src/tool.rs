//! The tools that capabilities run as commands, and people by hand: `switchyard tool NAME`.

pub mod cloudtrail_digest;
pub mod port_scan;

/// Why a tool has no result.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// What it was given cannot be used: the same input fails again.
    #[error("{0}")]
    BadInput(String),
    /// An address that it may not reach.
    #[error("{target} cannot be scanned")]
    Refused {
        /// What was asked for.
        target: String,
        /// The address, and why not.
        #[source]
        refused: switchyard_builtins::addresses::Refused,
    },
    /// What it needs of the machine or the network failed; another attempt may help.
    #[error("cannot {what}")]
    Failed {
        /// What was tried.
        what: String,
        /// Why not.
        #[source]
        cause: std::io::Error,
    },
}

impl ToolError {
    /// Whether the same input fails again.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::BadInput(_) | Self::Refused { .. } => true,
            Self::Failed { .. } => false,
        }
    }
}
