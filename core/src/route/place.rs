//! Where a job can run, and what a catalog calls those places.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::job::one_line;

/// The kinds of place where a job can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Venue {
    /// In the function that took it; on one machine, in the yard's own process.
    Inline,
    /// In `job_runner`, a function of its own; on one machine, a process of its own with the same budget.
    Function,
    /// An on-demand task; on one machine, a process.
    Fargate,
    /// A worker's slot, by way of a tier.
    Fleet,
}

impl Venue {
    /// All venues, by rank: the first of two equal ones is taken.
    pub const ALL: [Self; 4] = [Self::Inline, Self::Function, Self::Fargate, Self::Fleet];

    /// The venue's name in JSON, on the command line and in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inline => "inline",
            Self::Function => "function",
            Self::Fargate => "fargate",
            Self::Fleet => "fleet",
        }
    }
}

impl fmt::Display for Venue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Where a job can run: a venue, and for the fleet which pool of it. Ordered by rank, then by the pool's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// See [`Venue::Inline`].
    Inline,
    /// See [`Venue::Function`].
    Function,
    /// See [`Venue::Fargate`].
    Fargate,
    /// See [`Venue::Fleet`].
    Fleet(PoolName),
}

impl Place {
    /// The venue it is of.
    pub fn venue(self) -> Venue {
        match self {
            Self::Inline => Venue::Inline,
            Self::Function => Venue::Function,
            Self::Fargate => Venue::Fargate,
            Self::Fleet(_) => Venue::Fleet,
        }
    }

    /// The pool whose workers take the job, where they do.
    pub fn pool(self) -> Option<PoolName> {
        match self {
            Self::Fleet(pool) => Some(pool),
            Self::Inline | Self::Function | Self::Fargate => None,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inline | Self::Function | Self::Fargate => f.pad(self.venue().as_str()),
            Self::Fleet(pool) => f.pad(&format!("fleet/{pool}")),
        }
    }
}

/// What a pool of workers is called: 1 to 15 lower-case letters, digits and `-`. Kept in place and not on the heap,
/// so that a decision copies it for nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolName {
    // Filled with zeros behind the name: bytes compare as the names do.
    bytes: [u8; Self::BYTES],
}

impl PoolName {
    const BYTES: usize = 15;

    /// The pool that every home has.
    pub const STANDARD: Self = Self { bytes: *b"standard\0\0\0\0\0\0\0" };

    /// The name as text.
    pub fn as_str(&self) -> &str {
        let end = self.bytes.iter().position(|byte| *byte == 0).unwrap_or(Self::BYTES);
        std::str::from_utf8(&self.bytes[..end]).unwrap_or_else(|error| unreachable!("it was checked: {error}"))
    }
}

impl fmt::Display for PoolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for PoolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PoolName({self})")
    }
}

/// A text that cannot be a pool's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` cannot name a pool: expected 1 to 15 lower-case letters, digits and `-`")]
pub struct NotAPoolName(String);

impl FromStr for PoolName {
    type Err = NotAPoolName;

    fn from_str(text: &str) -> Result<Self, NotAPoolName> {
        let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if text.is_empty() || text.len() > Self::BYTES || !text.bytes().all(good) {
            return Err(NotAPoolName(one_line(text, 40)));
        }
        let mut bytes = [0; Self::BYTES];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Ok(Self { bytes })
    }
}

impl Serialize for PoolName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for PoolName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A place as a capability pins or favours it: a whole venue, or one pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pin {
    /// Any place of the venue.
    Venue(Venue),
    /// The workers of one pool.
    Pool(PoolName),
}

impl Pin {
    /// Whether the place is meant.
    pub fn covers(self, place: Place) -> bool {
        match self {
            Self::Venue(venue) => place.venue() == venue,
            Self::Pool(pool) => place == Place::Fleet(pool),
        }
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Venue(venue) => venue.fmt(f),
            Self::Pool(pool) => pool.fmt(f),
        }
    }
}

impl FromStr for Pin {
    type Err = NotAPoolName;

    /// A venue's name means the venue; every other name a pool.
    fn from_str(text: &str) -> Result<Self, NotAPoolName> {
        match Venue::ALL.into_iter().find(|venue| venue.as_str() == text) {
            Some(venue) => Ok(Self::Venue(venue)),
            None => text.parse().map(Self::Pool),
        }
    }
}

impl Serialize for Pin {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Pin {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// How what runs is packaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Packaging {
    /// Compiled into Switchyard.
    Builtin,
    /// A program and its arguments, run as a process.
    Command,
    /// A container image whose entry point is the worker.
    TaskImage,
    /// A container image that speaks the Lambda Runtime API.
    FunctionImage,
    /// Any other container image.
    Image,
}

impl Packaging {
    /// Whether it takes a container engine, or a service that is one, to run it.
    pub fn is_image(self) -> bool {
        match self {
            Self::Builtin | Self::Command => false,
            Self::TaskImage | Self::FunctionImage | Self::Image => true,
        }
    }

    /// Whether a venue can run what is packaged this way.
    pub fn runs_at(self, venue: Venue) -> bool {
        match (self, venue) {
            (Self::Builtin, _) => true,
            (Self::Command | Self::TaskImage, Venue::Inline | Venue::Function) => false,
            (Self::Command | Self::TaskImage, Venue::Fargate | Venue::Fleet) => true,
            // A function's image expects the Runtime API: a function has it, and a worker plays it.
            (Self::FunctionImage, Venue::Function | Venue::Fleet) => true,
            (Self::FunctionImage, Venue::Inline | Venue::Fargate) => false,
            // What reports for it must be beside it: only a worker is.
            (Self::Image, Venue::Fleet) => true,
            (Self::Image, Venue::Inline | Venue::Function | Venue::Fargate) => false,
        }
    }
}
