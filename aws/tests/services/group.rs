//! A group of an emulator, for a test.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use switchyard_aws::clients::Clients;
use switchyard_aws::fleet_autoscaling::{Group, GroupState};
use switchyard_core::memory::Memory;
use switchyard_faults::{Action, Proxy, Rule, Service, When};

use crate::emulated::yard::{clients, clients_with, proxy};
use crate::emulated::{Emulator, unique};

pub(crate) const TERMINATE: &str = "TerminateInstanceInAutoScalingGroup";
pub(crate) const LOOK: &str = "DescribeAutoScalingGroups";
pub(crate) const HEALTH: &str = "SetInstanceHealth";

/// A group, and how a worker in it reaches AWS.
pub(crate) struct Fleet {
    pub(crate) proxy: Proxy,
    pub(crate) group: Group,
    /// Whoever sets the test up and looks at what came of it, past the proxy.
    direct: Clients,
}

impl Fleet {
    /// A name for a group, and nothing by it.
    pub(crate) fn nowhere() -> Self {
        let proxy = proxy(Emulator::Moto);
        let direct = clients(Emulator::Moto.endpoint(), "SETUP");
        let group = group(&clients(&proxy.endpoint(), "WORKER"), &unique("pool"));
        Self { proxy, group, direct }
    }

    /// Runs a test in a group of so many instances, and takes the group away after it: the rules ask about all groups.
    pub(crate) async fn of(min: i32, desired: i32, max: i32, test: impl AsyncFnOnce(&Fleet)) {
        let fleet = Self::nowhere();
        let (client, name) = (fleet.direct.autoscaling(), fleet.group.name());
        let template = client.create_launch_configuration().launch_configuration_name(name);
        template.image_id("ami-12345678").instance_type("t3.micro").send().await.unwrap();
        let group = client.create_auto_scaling_group().auto_scaling_group_name(name).launch_configuration_name(name);
        let group = group.min_size(min).max_size(max).desired_capacity(desired).availability_zones("us-east-1a");
        group.send().await.unwrap();
        test(&fleet).await;
        client.delete_auto_scaling_group().auto_scaling_group_name(name).force_delete(true).send().await.unwrap();
        client.delete_launch_configuration().launch_configuration_name(name).send().await.unwrap();
    }

    /// The group, whose worker waits so long for an answer.
    pub(crate) fn impatient(&self, attempt_timeout: Duration) -> Group {
        let change = |settings: &mut switchyard_aws::clients::Settings| settings.attempt_timeout = attempt_timeout;
        group(&clients_with(&self.proxy.endpoint(), "WORKER", change), self.group.name())
    }

    /// The group as it is, whatever the script says.
    pub(crate) async fn now(&self) -> GroupState {
        group(&self.direct, self.group.name()).describe().await.unwrap()
    }

    /// The ids of its instances.
    pub(crate) async fn instances(&self) -> Vec<String> {
        self.now().await.instances.into_iter().map(|instance| instance.id).collect()
    }

    /// The next `n` such calls meet this.
    pub(crate) fn next(&self, n: u64, operation: &str, action: Action) -> Rule {
        self.proxy.script().on(When::call(Service::AutoScaling, operation).first(n), action)
    }

    /// The `n`-th such call from now on meets this.
    pub(crate) fn nth(&self, n: u64, operation: &str, action: Action) -> Rule {
        self.proxy.script().on(When::call(Service::AutoScaling, operation).nth(n), action)
    }

    /// The next look shows the group with these instances, for what the emulator passes through in no time.
    pub(crate) fn show(&self, desired: u32, instances: &[(&str, &str)]) -> Rule {
        let member = |(id, state): &(&str, &str)| {
            format!(
                "<member><InstanceId>{id}</InstanceId><LifecycleState>{state}</LifecycleState>\
                 <HealthStatus>Healthy</HealthStatus><AvailabilityZone>a</AvailabilityZone>\
                 <ProtectedFromScaleIn>true</ProtectedFromScaleIn></member>"
            )
        };
        let instances: String = instances.iter().map(member).collect();
        let name = self.group.name();
        let answer = format!(
            "<DescribeAutoScalingGroupsResponse><DescribeAutoScalingGroupsResult><AutoScalingGroups><member>\
             <AutoScalingGroupName>{name}</AutoScalingGroupName><MinSize>0</MinSize><MaxSize>5</MaxSize>\
             <DesiredCapacity>{desired}</DesiredCapacity><DefaultCooldown>300</DefaultCooldown>\
             <HealthCheckType>EC2</HealthCheckType><CreatedTime>2026-01-01T00:00:00Z</CreatedTime>\
             <AvailabilityZones><member>a</member></AvailabilityZones><Instances>{instances}</Instances>\
             </member></AutoScalingGroups></DescribeAutoScalingGroupsResult></DescribeAutoScalingGroupsResponse>"
        );
        self.proxy.script().play(When::call(Service::AutoScaling, LOOK).once(), answer)
    }

    /// The worker's calls in order; of a termination, whether it decrements.
    pub(crate) fn calls(&self) -> Vec<String> {
        let call = |record: switchyard_faults::Record| {
            let request = record.request.unwrap_or_default();
            match request["ShouldDecrementDesiredCapacity"].as_str() {
                Some(decrement) => format!("{} {decrement}", record.operation),
                None => record.operation,
            }
        };
        self.proxy.records().all().into_iter().map(call).collect()
    }

    /// The requests for this operation.
    pub(crate) fn asked_for(&self, operation: &str) -> Vec<Value> {
        self.proxy.records().requests(operation)
    }

    /// The codes of the errors that the worker met.
    pub(crate) fn errors(&self) -> Vec<String> {
        self.proxy.records().all().into_iter().filter_map(|record| record.error).collect()
    }
}

fn group(clients: &Clients, name: &str) -> Group {
    let home = Memory::new(Timestamp::from_second(1_700_000_000).unwrap(), 7);
    Group::new(clients.autoscaling(), name, Arc::new(home))
}

/// An error with this status.
pub(crate) fn failing(status: u16, code: &str, message: &str) -> Action {
    Action::Fail { code: code.to_owned(), status, message: message.to_owned() }
}
