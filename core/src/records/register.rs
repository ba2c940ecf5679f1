//! The register: what all jobs together know of assets and findings. One entry each, as it was seen last.

use std::time::Duration;

use jiff::Timestamp;

use super::{Kind, Record};
use crate::job::{Epoch, JobId};

/// How long the register keeps what nobody sees any more, from when it was seen last: 90 days, a quarter's scans.
pub const REGISTER_KEPT: Duration = Duration::from_secs(90 * 24 * 3600);

/// The two registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Register {
    /// What is there.
    Assets,
    /// What is wrong.
    Findings,
}

impl Register {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Assets, Self::Findings];

    /// Which one records of this kind go into, if any.
    pub fn of(kind: Kind) -> Option<Self> {
        match kind {
            Kind::Asset => Some(Self::Assets),
            Kind::Finding => Some(Self::Findings),
            Kind::Metric | Kind::Log => None,
        }
    }

    /// The kind of the records that go into it.
    pub fn kind(self) -> Kind {
        match self {
            Self::Assets => Kind::Asset,
            Self::Findings => Kind::Finding,
        }
    }
}

/// One asset or finding, as it was seen last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// What names it for ever.
    pub id: String,
    /// When it was seen first, of what is known.
    pub first_seen: Timestamp,
    /// When it was seen last.
    pub last_seen: Timestamp,
    /// The job that saw it last.
    pub job: JobId,
    /// That job's run.
    pub epoch: Epoch,
    /// The record's place among what that run emitted.
    pub n: u64,
    /// What ran.
    pub capability: String,
    /// What that run said of it: a JSON object.
    pub body: String,
}

impl Registered {
    /// The entry that a record alone makes, and in which register; `None`: it goes into none.
    pub fn of(record: &Record) -> Option<(Register, Self)> {
        let (register, id) = (Register::of(record.kind)?, record.id.clone()?);
        let Record { job, epoch, n, at, capability, kind: _, id: _, body } = record.clone();
        Some((register, Self { id, first_seen: at, last_seen: at, job, epoch, n, capability, body }))
    }

    /// What decides which of two sightings is the newer: the time, and where that is the same, the record's name. So the
    /// entry is the same in the end, in whatever order records come.
    pub fn order(&self) -> (i64, JobId, Epoch, u64) {
        (self.last_seen.as_millisecond(), self.job, self.epoch, self.n)
    }

    /// What both together say.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        let first_seen = self.first_seen.min(other.first_seen);
        let newer = if self.order() < other.order() { other } else { self };
        Self { first_seen, ..newer }
    }
}

/// Which entries to list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisterQuery {
    /// Of which register.
    pub register: Register,
    /// Only what this capability saw last.
    pub capability: Option<String>,
    /// Only what was seen at or after this moment.
    pub since: Option<Timestamp>,
    /// Only entries whose id is after this one: where the last page ended.
    pub after: Option<String>,
    /// At most so many; 1 to 500.
    pub limit: usize,
}

impl RegisterQuery {
    /// Whether an entry is one that is asked for, wherever its page begins.
    pub fn asks_for(&self, entry: &Registered) -> bool {
        self.capability.as_ref().is_none_or(|capability| *capability == entry.capability)
            && self.since.is_none_or(|since| entry.last_seen >= since)
    }
}

/// A part of a register, by id: an order that stays while entries are seen again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegisterPage {
    /// The entries. A page may have fewer than were asked for, or none, and not be the last.
    pub entries: Vec<Registered>,
    /// After which id the next page starts; `None`: there is nothing more.
    pub next: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(ms: i64, n: u64) -> Registered {
        let at = Timestamp::from_millisecond(ms).unwrap();
        let job = JobId::keyed("tests", "one");
        let body = format!("{{\"n\":{n}}}");
        let id = "host:a".to_owned();
        Registered { id, first_seen: at, last_seen: at, job, epoch: Epoch(1), n, capability: "scan".into(), body }
    }

    #[test]
    fn the_newest_sighting_stays_and_the_first_one_is_remembered_in_whatever_order_they_come() {
        let sightings = [seen(5, 1), seen(9, 2), seen(9, 3), seen(2, 4)];
        let expected = Registered { first_seen: sightings[3].first_seen, ..sightings[2].clone() };
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1], [1, 3, 0, 2]] {
            let merged = order.map(|at| sightings[at].clone()).into_iter().reduce(Registered::with);
            assert_eq!(merged, Some(expected.clone()), "{order:?}");
        }
        assert_eq!(seen(5, 1).with(seen(5, 1)), seen(5, 1), "the same again changes nothing");
    }
}
