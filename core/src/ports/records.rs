//! Where emitted records go, and what is no record.

use async_trait::async_trait;
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::PortError;
use crate::job::{Epoch, JobId};
use crate::records::{Emitted, Kind, Refused};

/// What became of a record that a ledger was to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It is kept now.
    New,
    /// This very record was kept before; nothing was changed.
    Known,
    /// Another record has its name; nothing was changed.
    Conflict,
}

/// Which records of a job to list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordQuery {
    /// Whose.
    pub job: JobId,
    /// Only of this kind.
    pub kind: Option<Kind>,
    /// Only those after this one: where the last page ended.
    pub after: Option<(Epoch, u64)>,
    /// At most so many; 1 to 500.
    pub limit: usize,
}

/// What became of lines that a run handed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Emission {
    /// All of them are kept, parked, or on their way and safe. Those that were judged at once and refused are named, each
    /// by its place among what the run emitted.
    Taken(Vec<(u64, Refused)>),
    /// The run is no longer the job's: nothing was taken.
    Stale,
}

/// Carries emitted lines to where they are judged, where that is somewhere else.
#[async_trait]
pub trait Conveyor: Send + Sync {
    /// Takes all of these lines, durably. Any of them may arrive twice, late, or out of order; after an error, too.
    async fn carry(&self, lines: &[Emitted]) -> Result<(), PortError>;
}

/// Something that is no record, with the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parked {
    /// By which door it came: `run`, `stream`.
    pub source: &'static str,
    /// What names it where it came from.
    pub name: String,
    /// Why it is no record.
    pub refused: Refused,
    /// It, as it came.
    pub body: String,
    /// When it was judged.
    pub at: Timestamp,
}

impl Parked {
    /// An emitted line that is no record.
    pub fn of(line: &Emitted, source: &'static str, refused: Refused, at: Timestamp) -> Self {
        let name = format!("{}/{}/{}", line.job, line.epoch, line.n);
        Self { source, name, refused, body: line.line.clone(), at }
    }

    /// What the same things parked again are known by, whenever that is: a SHA-256 of their names and bodies, in hexadecimal.
    pub fn digest(parked: &[Self]) -> String {
        let mut digest = Sha256::new();
        for one in parked {
            for text in [&one.name, &one.body] {
                // With their lengths, or other texts might be cut to be the same.
                digest.update((text.len() as u64).to_be_bytes());
                digest.update(text);
            }
        }
        digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Where lies what can never be a record: for people to look at. Nothing reads it again by itself.
#[async_trait]
pub trait Siding: Send + Sync {
    /// Parks all of these, durably. The same ones again lie where they lay.
    async fn park(&self, parked: &[Parked]) -> Result<(), PortError>;
}
