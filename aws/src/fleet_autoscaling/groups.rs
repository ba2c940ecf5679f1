//! All pools' groups, seen in one call.

use std::collections::BTreeMap;

use aws_sdk_autoscaling::Client;
use switchyard_core::ports::PortError;
use switchyard_core::route::PoolName;

use super::GroupState;
use crate::clients::Clients;
use crate::failure::failed;

/// The groups of a yard's pools: that of a pool is `PREFIX-POOL`.
#[derive(Clone, Debug)]
pub struct Groups {
    client: Client,
    prefix: String,
}

impl Groups {
    /// The groups whose names begin so.
    pub fn new(clients: &Clients, prefix: &str) -> Self {
        Self { client: clients.autoscaling(), prefix: prefix.to_owned() }
    }

    /// The name of a pool's group.
    pub fn name(&self, pool: PoolName) -> String {
        format!("{}-{pool}", self.prefix)
    }

    /// Those of these pools' groups that are there. Pools are at most eight, and one answer holds fifty groups.
    ///
    /// # Errors
    ///
    /// AWS does not answer.
    pub async fn look(&self, pools: &[PoolName]) -> Result<BTreeMap<PoolName, GroupState>, PortError> {
        let names: Vec<String> = pools.iter().map(|pool| self.name(*pool)).collect();
        if names.is_empty() {
            // Without a name AWS would answer with every group of the account.
            return Ok(BTreeMap::new());
        }
        let call = self.client.describe_auto_scaling_groups().set_auto_scaling_group_names(Some(names));
        let subject = format!("groups of {}", self.prefix);
        let answer = call.send().await.map_err(|error| failed("describe the", subject, &error))?;
        let pool_of = |name: &str| pools.iter().copied().find(|pool| self.name(*pool) == name);
        let groups = answer.auto_scaling_groups().iter();
        Ok(groups
            .filter_map(|group| Some((pool_of(group.auto_scaling_group_name()?)?, GroupState::of(group))))
            .collect())
    }

    /// Sets what a pool's group is to be. Whoever calls this has decided it on a look a moment ago: it must not be less.
    ///
    /// # Errors
    ///
    /// AWS does not answer, or refuses.
    pub async fn set(&self, pool: PoolName, desired: u32) -> Result<(), PortError> {
        set(&self.client, &self.name(pool), desired).await
    }
}

/// Cooldowns are not waited for: the yard's own scaler decides, and there is no other.
pub(super) async fn set(client: &Client, name: &str, desired: u32) -> Result<(), PortError> {
    let capacity = i32::try_from(desired).unwrap_or(i32::MAX);
    let call = client.set_desired_capacity().auto_scaling_group_name(name);
    let call = call.desired_capacity(capacity).honor_cooldown(false);
    call.send().await.map(drop).map_err(|error| failed("grow group", name, &error))
}
