//! What runs for the yard in an account: the machines of its Auto Scaling groups, and its tasks on ECS.
//!
//! A round of the sweep asks for the groups in one call, for the tasks in one call a hundred, and for what it remembers; where
//! nothing runs that is three requests.

use std::sync::Arc;

use async_trait::async_trait;
use switchyard_core::job::Holder;
use switchyard_core::policies::Shelf;
use switchyard_core::ports::{
    Ambient, Ended, Inventory, Listed, Machine, Machines, Marks, Message, PortError, Stage, describe,
};
use switchyard_core::route::PoolName;
use switchyard_core::sweep::Mark;
use tracing::{info, warn};

use crate::failure;
use crate::fleet_autoscaling::{Group, GroupState, Lifecycle, Rung};
use crate::launcher_ecs::read_started_by;
use crate::ledger_dynamodb::DynamoLedger;

/// The most tasks that one round looks at: ten lists and ten descriptions of a hundred each, and as many reads of records.
pub const TASKS_MOST: usize = 1000;
/// What ListTasks and DescribeTasks have room for (Amazon ECS API Reference).
const AT_ONCE: usize = 100;
/// The process by which a group ends instances to have as many in each zone. Whatever runs there; and no property of a group
/// in a template says that it shall not.
const REBALANCE: &str = "AZRebalance";

/// What an inventory is taken by.
#[derive(Clone)]
pub struct Doors {
    /// Auto Scaling.
    pub autoscaling: aws_sdk_autoscaling::Client,
    /// What the groups' names begin with: `PREFIX-POOL`. `None`: this yard has none.
    pub groups: Option<String>,
    /// ECS.
    pub ecs: aws_sdk_ecs::Client,
    /// The cluster of its tasks; `None`: it has none.
    pub cluster: Option<String>,
    /// Who is listed, what the sweep remembers, and which yard this is.
    pub ledger: DynamoLedger,
    /// The table, by which a task knows its yard.
    pub table: String,
    /// Which pools there are.
    pub shelf: Arc<Shelf>,
    /// Time and chance.
    pub ambient: Arc<dyn Ambient>,
}

/// The inventory of an account.
#[derive(Clone)]
pub struct AwsInventory(Doors);

impl AwsInventory {
    /// One that is taken so. Nothing is asked of AWS yet.
    pub fn new(doors: Doors) -> Self {
        Self(doors)
    }

    fn group(&self, prefix: &str, pool: PoolName) -> Group {
        Group::new(self.0.autoscaling.clone(), &group_name(prefix, pool), Arc::clone(&self.0.ambient))
    }

    /// Has a group leave its zones as they are. Nothing rests on it at once: it is tried again in the next round.
    async fn leave_zones_alone(&self, pool: PoolName, name: &str) {
        let call = self.0.autoscaling.suspend_processes().auto_scaling_group_name(name).scaling_processes(REBALANCE);
        match call.send().await {
            Ok(_) => info!(%pool, "its group does not end instances any more to balance its zones"),
            Err(error) => {
                let error = failure::failed("suspend the balance between zones of group", name, &error);
                warn!(%pool, error = %describe(&error), "its group may end instances to balance its zones");
            }
        }
    }

    /// The runs of these tasks, as far as they are of this yard. Those that ECS knows nothing of any more have ended.
    async fn runs(&self, cluster: &str, arns: &[String]) -> Result<Vec<Message>, PortError> {
        let call = self.0.ecs.describe_tasks().cluster(cluster).set_tasks(Some(arns.to_vec()));
        let described = call.send().await.map_err(|error| failure::failed("describe tasks of", cluster, &error))?;
        let started_by = described.tasks().iter().filter_map(|task| task.started_by());
        let runs = started_by.filter_map(|by| read_started_by(by, &self.0.table));
        Ok(runs.map(|(id, epoch)| Message { id, epoch }).collect())
    }
}

/// The name of a pool's group, as infra/fleet.yaml has it.
pub fn group_name(prefix: &str, pool: PoolName) -> String {
    format!("{prefix}-{pool}")
}

fn stage(lifecycle: Lifecycle) -> Stage {
    match lifecycle {
        Lifecycle::Coming => Stage::Coming,
        Lifecycle::InService => Stage::AtWork,
        Lifecycle::Aside => Stage::Aside,
        Lifecycle::Leaving => Stage::Leaving,
    }
}

#[async_trait]
impl Inventory for AwsInventory {
    async fn machines(&self) -> Result<Machines, PortError> {
        let Some(prefix) = &self.0.groups else { return Ok(Machines::default()) };
        let policies = self.0.shelf.policies();
        let pools: Vec<PoolName> = policies.limits.pools.iter().map(|pool| pool.name).collect();
        let names = pools.iter().map(|pool| group_name(prefix, *pool)).collect();
        // At most eight pools: all of them are on the first page of fifty.
        let call = self.0.autoscaling.describe_auto_scaling_groups().set_auto_scaling_group_names(Some(names));
        let groups = call.send().await.map_err(|error| failure::failed("describe groups", prefix, &error))?;
        let mut found = Machines::default();
        for pool in pools {
            let name = group_name(prefix, pool);
            let group = groups.auto_scaling_groups().iter().find(|one| one.auto_scaling_group_name() == Some(&name));
            // A pool without a group is one whose workers somebody starts by hand, or nobody.
            let Some(group) = group else { continue };
            if !group.suspended_processes().iter().any(|one| one.process_name() == Some(REBALANCE)) {
                self.leave_zones_alone(pool, &name).await;
            }
            let machine = |one: crate::fleet_autoscaling::Instance| {
                let stage = stage(one.lifecycle);
                Machine { id: one.id, pool, stage }
            };
            found.pools.push(pool);
            found.machines.extend(GroupState::of(group).instances.into_iter().map(machine));
        }
        Ok(found)
    }

    async fn tasks(&self) -> Result<Listed<Message>, PortError> {
        let mut listed = Listed { found: Vec::new(), whole: true };
        let Some(cluster) = &self.0.cluster else { return Ok(listed) };
        let (mut next, mut looked) = (None, 0);
        loop {
            // Without a desired status it is of those that shall run: what was told to stop is not in it.
            let call = self.0.ecs.list_tasks().cluster(cluster).set_next_token(next);
            let page = call.send().await.map_err(|error| failure::failed("list tasks of", cluster, &error))?;
            for arns in page.task_arns().chunks(AT_ONCE) {
                listed.found.extend(self.runs(cluster, arns).await?);
            }
            looked += page.task_arns().len();
            next = page.next_token().filter(|token| !token.is_empty()).map(str::to_owned);
            if next.is_none() || looked >= TASKS_MOST {
                listed.whole = next.is_none();
                return Ok(listed);
            }
        }
    }

    async fn end_machine(&self, pool: PoolName, id: &str) -> Result<Ended, PortError> {
        let Some(prefix) = &self.0.groups else { return Ok(Ended::Gone) };
        let group = self.group(prefix, pool);
        // As the group is now, and not as it was when the round began: a worker leaves by itself, too.
        if group.describe().await?.sight(id) == crate::fleet_autoscaling::Sight::Gone {
            return Ok(Ended::Gone);
        }
        let left = group.terminate_self(id).await;
        let left = left.map_err(|still| PortError::retryable("end machine", id, still))?;
        if left.by != Rung::Shrink {
            warn!(%pool, instance = id, "it is ended, and its group starts another");
        }
        Ok(Ended::Done)
    }

    async fn strike_out(&self, holder: &Holder) -> Result<(), PortError> {
        self.0.ledger.leave(holder).await
    }

    async fn marks(&self) -> Result<Marks, PortError> {
        self.0.ledger.sweep_marks().await
    }

    async fn remember(&self, before: &Marks, marks: Vec<Mark>) -> Result<bool, PortError> {
        self.0.ledger.remember_marks(before, &marks).await
    }
}
