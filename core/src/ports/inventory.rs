//! What runs for the yard, as whoever bills it has it.

use async_trait::async_trait;

use super::{Message, PortError};
use crate::job::Holder;
use crate::route::PoolName;
use crate::sweep::Mark;

/// A list that has an end somewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed<T> {
    /// What was found.
    pub found: Vec<T>,
    /// Whether that is all there is.
    pub whole: bool,
}

/// The machines of the fleet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machines {
    /// The pools whose machines these are: a pool that is not here has no machines that the home knows of.
    pub pools: Vec<PoolName>,
    /// All that these pools have.
    pub machines: Vec<Machine>,
}

/// A machine of the fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Its id: the instance in its worker's [`Holder`].
    pub id: String,
    /// Its pool.
    pub pool: PoolName,
    /// Where it is in its life.
    pub stage: Stage,
}

/// Where a machine is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It starts.
    Coming,
    /// It has started, and should work.
    AtWork,
    /// Somebody has set it aside, and looks after it.
    Aside,
    /// It is being ended.
    Leaving,
}

/// What became of what was to be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It ends.
    Done,
    /// It was not there any more.
    Gone,
}

/// What the sweep remembers from round to round.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// The marks.
    pub marks: Vec<Mark>,
    /// The home's own handle on how it read them.
    pub version: Option<String>,
}

/// What runs and is paid for, whatever the yard believes. A home whose machines and tasks end with it needs none.
#[async_trait]
pub trait Inventory: Send + Sync {
    /// The machines of all pools that have any of their own.
    async fn machines(&self) -> Result<Machines, PortError>;
    /// The tasks that run, or are to, as the runs that they were launched for: of this yard alone, and so many at most.
    async fn tasks(&self) -> Result<Listed<Message>, PortError>;
    /// Ends a machine, and has its pool be one smaller for it where it may be. Asked for twice within minutes it could make
    /// the pool smaller twice.
    async fn end_machine(&self, pool: PoolName, id: &str) -> Result<Ended, PortError>;
    /// Takes a worker out of the list. One that lives says so again.
    async fn strike_out(&self, holder: &Holder) -> Result<(), PortError>;
    /// What was remembered last.
    async fn marks(&self) -> Result<Marks, PortError>;
    /// Remembers this in its place, unless somebody else has written since: then nothing is, and the answer is `false`.
    async fn remember(&self, before: &Marks, marks: Vec<Mark>) -> Result<bool, PortError>;
}
