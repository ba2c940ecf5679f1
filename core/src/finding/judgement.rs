//! What a sender thinks of its finding: how bad it is, whether it still stands, what else bears on it.

use std::fmt;
use std::str::FromStr;

/// How bad a finding is, in the five words of the AWS Security Finding Format, mildest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// No problem was found.
    Informational,
    /// No action is needed by itself.
    Low,
    /// Must be seen to, but not urgently.
    Medium,
    /// Must be seen to with priority.
    High,
    /// Must be seen to at once.
    Critical,
}

/// Whether a finding still asks for something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// It stands, and nobody has taken it up.
    Active,
    /// It stands, and somebody has been told or works on it.
    Notified,
    /// It was put away: `RecordState` ARCHIVED, or GuardDuty's and Macie's `archived`.
    Archived,
    /// What it complained of is gone: a passed check, COMPLIANT, a closed event.
    Resolved,
    /// Somebody decided not to hear of it.
    Suppressed,
    /// The finding or its resource no longer exists.
    Deleted,
}

/// A fact, stated by the event itself, that makes its finding weigh more or less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signal {
    /// The resource can be reached by anyone, or has a public address.
    Public,
    /// The account's root user was at work.
    RootIdentity,
    /// Somebody signed in without a second factor.
    NoMfa,
    /// An exploit of the vulnerability is known.
    ExploitAvailable,
    /// The sender made it up, to be tried with.
    Sample,
}

/// A word that names no severity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("severity: expected one of informational, low, medium, high, critical")]
pub struct NotASeverity;

impl Severity {
    /// Every severity, mildest first.
    pub const ALL: [Self; 5] = [Self::Informational, Self::Low, Self::Medium, Self::High, Self::Critical];

    /// The word for it, in lower case.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Informational => "informational",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

impl Standing {
    /// Every standing.
    pub const ALL: [Self; 6] =
        [Self::Active, Self::Notified, Self::Archived, Self::Resolved, Self::Suppressed, Self::Deleted];

    /// The word for it, in lower case.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Notified => "notified",
            Self::Archived => "archived",
            Self::Resolved => "resolved",
            Self::Suppressed => "suppressed",
            Self::Deleted => "deleted",
        }
    }

    /// Whether a policy should act on it: it stands, and nobody has taken it up.
    #[must_use]
    pub const fn asks_for_action(self) -> bool {
        match self {
            Self::Active => true,
            Self::Notified | Self::Archived | Self::Resolved | Self::Suppressed | Self::Deleted => false,
        }
    }
}

impl Signal {
    /// Every signal.
    pub const ALL: [Self; 5] = [Self::Public, Self::RootIdentity, Self::NoMfa, Self::ExploitAvailable, Self::Sample];

    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::RootIdentity => "root-identity",
            Self::NoMfa => "no-mfa",
            Self::ExploitAvailable => "exploit-available",
            Self::Sample => "sample",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Severity {
    type Err = NotASeverity;

    /// Takes the word in any case: senders write `HIGH`, `High` and `high`.
    fn from_str(word: &str) -> Result<Self, NotASeverity> {
        Self::ALL.into_iter().find(|severity| word.eq_ignore_ascii_case(severity.as_str())).ok_or(NotASeverity)
    }
}
