//! What runs for a home in memory: what a test says that there is.

use async_trait::async_trait;

use super::Memory;
use crate::job::Holder;
use crate::ports::{Ended, Inventory, Listed, Machines, Marks, Message, PortError};
use crate::route::PoolName;
use crate::sweep::Mark;

/// What is kept of it.
#[derive(Default)]
pub(super) struct Kept {
    machines: Machines,
    ended: Vec<String>,
    struck_out: Vec<Holder>,
    marks: Vec<Mark>,
    written: u64,
    overtaken: bool,
    refused: bool,
}

impl Memory {
    /// From now on the fleet is this.
    pub fn set_machines(&self, machines: Machines) {
        self.kept().inventory.machines = machines;
    }

    /// From now on machines and tasks cannot be listed, or can again.
    pub fn refuse_inventory(&self, refused: bool) {
        self.kept().inventory.refused = refused;
    }

    /// The next time that marks are read, another process writes them right after.
    pub fn overtake_marks(&self) {
        self.kept().inventory.overtaken = true;
    }

    /// The machines that were ended so far.
    pub fn ended_machines(&self) -> Vec<String> {
        self.kept().inventory.ended.clone()
    }

    /// The workers that were struck out so far.
    pub fn struck_out(&self) -> Vec<Holder> {
        self.kept().inventory.struck_out.clone()
    }

    /// How many tasks run.
    pub fn tasks_left(&self) -> usize {
        self.kept().tasks.len()
    }

    fn may_list(&self, what: &'static str) -> Result<(), PortError> {
        if self.kept().inventory.refused {
            return Err(PortError::retryable(what, "the yard", "throttled"));
        }
        Ok(())
    }
}

#[async_trait]
impl Inventory for Memory {
    async fn machines(&self) -> Result<Machines, PortError> {
        self.may_list("list machines")?;
        Ok(self.kept().inventory.machines.clone())
    }

    async fn tasks(&self) -> Result<Listed<Message>, PortError> {
        self.may_list("list tasks")?;
        let found = self.kept().tasks.iter().map(|(id, epoch)| Message { id: *id, epoch: *epoch }).collect();
        Ok(Listed { found, whole: true })
    }

    async fn end_machine(&self, _pool: PoolName, id: &str) -> Result<Ended, PortError> {
        let mut kept = self.kept();
        let before = kept.inventory.machines.machines.len();
        kept.inventory.machines.machines.retain(|machine| machine.id != id);
        if kept.inventory.machines.machines.len() == before {
            return Ok(Ended::Gone);
        }
        kept.inventory.ended.push(id.to_owned());
        Ok(Ended::Done)
    }

    async fn strike_out(&self, holder: &Holder) -> Result<(), PortError> {
        let mut kept = self.kept();
        kept.workers.retain(|worker| worker.holder != *holder);
        kept.inventory.struck_out.push(holder.clone());
        Ok(())
    }

    async fn marks(&self) -> Result<Marks, PortError> {
        let inventory = &mut self.kept().inventory;
        let read = Marks { marks: inventory.marks.clone(), version: Some(inventory.written.to_string()) };
        inventory.written += u64::from(std::mem::take(&mut inventory.overtaken));
        Ok(read)
    }

    async fn remember(&self, before: &Marks, marks: Vec<Mark>) -> Result<bool, PortError> {
        let inventory = &mut self.kept().inventory;
        if before.version != Some(inventory.written.to_string()) {
            return Ok(false);
        }
        (inventory.marks, inventory.written) = (marks, inventory.written + 1);
        Ok(true)
    }
}
