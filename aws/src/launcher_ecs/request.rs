//! What ECS is asked for: a function of the record and the settings, and of nothing else. The same launch is the same
//! request, to the byte: a client token that comes back with other parameters is a ConflictException.

use std::collections::BTreeMap;

use aws_sdk_ecs::operation::run_task::builders::RunTaskFluentBuilder;
use aws_sdk_ecs::types::{
    AssignPublicIp, AwsVpcConfiguration, CapacityProviderStrategyItem, ContainerOverride, KeyValuePair, LaunchType,
    NetworkConfiguration, PropagateTags, Tag, TaskOverride,
};
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use switchyard_core::job::{Epoch, Job, JobId};
use switchyard_core::route::{INTERRUPTIONS_ON_SPOT, Packaging};

use super::size::{Size, size};
use crate::environment;
use crate::rate::LaunchRates;

/// The most characters of a request's overrides, all of the JSON around them included (RunTask, `overrides`).
pub const OVERRIDES_MAX: usize = 8192;

/// How tasks are started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The cluster, by name or ARN.
    pub cluster: String,
    /// Which task definition runs what.
    pub definitions: Definitions,
    /// The container of the task definitions that is the worker.
    pub container: String,
    /// Where tasks are put.
    pub network: Network,
    /// The platform version; `None`: the latest.
    pub platform: Option<String>,
    /// Whether jobs that bear being interrupted are started on Fargate Spot first. The cluster must know the capacity
    /// provider FARGATE_SPOT then.
    pub spot: bool,
    /// The table of the yard's records: where a task finds its job.
    pub table: String,
    /// What else tasks find in their environment, the same for each.
    pub environment: Vec<(String, String)>,
    /// Where policies lie; `None`: tasks are handed no finding.
    pub policies: Option<PolicyStore>,
    /// Whether tasks are tagged with their job and capability; it takes the permission ecs:TagResource.
    pub tags: bool,
    /// How fast tasks may be launched.
    pub rates: LaunchRates,
}

/// Which task definition runs what: a family, a family and its revision, or an ARN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definitions {
    /// By the capability's name, before all else.
    pub by_capability: BTreeMap<String, String>,
    /// What runs built-ins and commands: the worker alone.
    pub worker: String,
    /// In front of the capability's name, that of its task image: `switchyard-`.
    pub prefix: String,
}

impl Definitions {
    /// The definition that runs this job. Which image it has inside is the definition's to say: RunTask can override a
    /// container's environment, but not its image.
    pub fn of(&self, job: &Job) -> String {
        let capability = &job.work.capability;
        if let Some(definition) = self.by_capability.get(capability) {
            return definition.clone();
        }
        match job.work.needs.packaging {
            Packaging::Builtin | Packaging::Command => self.worker.clone(),
            Packaging::TaskImage | Packaging::FunctionImage | Packaging::Image => {
                format!("{}{capability}", self.prefix)
            }
        }
    }
}

/// Where tasks are put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// The subnets; in more zones than one, for ECS has its capacity by zone.
    pub subnets: Vec<String>,
    /// The security groups.
    pub security_groups: Vec<String>,
    /// Whether tasks get a public address: in a public subnet they reach nothing without.
    pub public_address: bool,
}

/// Where policies lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyStore {
    /// The bucket.
    pub bucket: String,
    /// In front of a policy's path in the policies folder: `policies/`.
    pub prefix: String,
}

/// What a task runs on. One value, so that a launch type and a capacity provider can never both be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capacity {
    /// What AWS has left, and may take back with two minutes' notice.
    Spot,
    /// What stays.
    OnDemand,
}

impl Capacity {
    /// What is tried first. The third run goes where nothing is taken away, as on the fleet.
    pub fn first(job: &Job, settings: &Settings) -> Self {
        if settings.spot && job.work.needs.interruptible && job.interruptions < INTERRUPTIONS_ON_SPOT {
            Self::Spot
        } else {
            Self::OnDemand
        }
    }
}

/// What a task is handed of a finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The JSON of FINDING_PAYLOAD.
    pub payload: Handed,
    /// The key of the policy.
    pub policy_key: String,
}

/// How a text is handed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Handed {
    /// As it is.
    Inline(String),
    /// As the place where it lies.
    At(String),
}

/// What a task is handed of the finding in its job's payload; `None` when there is no finding in it, or no policy that
/// answers it.
pub fn finding(payload: &str, store: &PolicyStore) -> Option<Finding> {
    let payload: Value = serde_json::from_str(payload).ok()?;
    let finding = payload.get("finding").filter(|finding| finding.is_object())?;
    let policy = payload.pointer("/answer/policy")?.as_str()?;
    let policy_key = format!("{}{policy}", store.prefix);
    let text = json!({ "finding": finding, "policy_key": policy_key }).to_string();
    Some(Finding { payload: Handed::Inline(text), policy_key })
}

/// A call of RunTask, as its JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskRequest {
    cluster: String,
    task_definition: String,
    count: i32,
    client_token: String,
    started_by: String,
    #[serde(flatten)]
    capacity: CapacityFields,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform_version: Option<String>,
    network_configuration: NetworkFields,
    overrides: Overrides,
    propagate_tags: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tags: Vec<TagField>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum CapacityFields {
    LaunchType(&'static str),
    CapacityProviderStrategy([ProviderField; 1]),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct ProviderField {
    capacity_provider: &'static str,
    weight: i32,
    base: i32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct NetworkFields {
    awsvpc_configuration: VpcFields,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct VpcFields {
    subnets: Vec<String>,
    security_groups: Vec<String>,
    assign_public_ip: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Overrides {
    container_overrides: [ContainerFields; 1],
    cpu: String,
    memory: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct ContainerFields {
    name: String,
    environment: Vec<Variable>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Variable {
    name: String,
    value: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct TagField {
    key: &'static str,
    value: String,
}

/// Why a job has no request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRequest {
    /// No task is that large.
    #[error("no Fargate task has {memory_mib} MiB and {milli_vcpu} thousandths of a processor")]
    TooLarge {
        /// The memory that is needed.
        memory_mib: u32,
        /// The processors that are needed.
        milli_vcpu: u32,
    },
}

/// The request that launches this job.
///
/// # Errors
///
/// [`NoRequest::TooLarge`]: routing's limits are wider than Fargate's sizes.
pub fn request(
    job: &Job,
    settings: &Settings,
    capacity: Capacity,
    finding: Option<&Finding>,
) -> Result<TaskRequest, NoRequest> {
    let (memory_mib, milli_vcpu) = (job.work.needs.memory_mib, job.work.needs.milli_vcpu);
    let Size { cpu_units, memory_mib } =
        size(milli_vcpu, memory_mib).ok_or(NoRequest::TooLarge { memory_mib, milli_vcpu })?;
    let network = &settings.network;
    let vpc = VpcFields {
        subnets: network.subnets.clone(),
        security_groups: network.security_groups.clone(),
        assign_public_ip: if network.public_address { "ENABLED" } else { "DISABLED" },
    };
    let container =
        ContainerFields { name: settings.container.clone(), environment: variables(job, settings, finding) };
    let tag = |key: &'static str, value: String| TagField { key, value };
    Ok(TaskRequest {
        cluster: settings.cluster.clone(),
        task_definition: settings.definitions.of(job),
        count: 1,
        client_token: client_token(job.id, job.epoch, &settings.table, capacity),
        started_by: started_by(job.id, job.epoch, &settings.table),
        capacity: match capacity {
            Capacity::Spot => CapacityFields::CapacityProviderStrategy([ProviderField {
                capacity_provider: "FARGATE_SPOT",
                weight: 1,
                base: 0,
            }]),
            Capacity::OnDemand => CapacityFields::LaunchType("FARGATE"),
        },
        platform_version: settings.platform.clone(),
        network_configuration: NetworkFields { awsvpc_configuration: vpc },
        overrides: Overrides {
            container_overrides: [container],
            cpu: cpu_units.to_string(),
            memory: memory_mib.to_string(),
        },
        propagate_tags: "TASK_DEFINITION",
        tags: if settings.tags {
            vec![tag("switchyard:job", job.id.to_string()), tag("switchyard:capability", job.work.capability.clone())]
        } else {
            Vec::new()
        },
    })
}

fn variables(job: &Job, settings: &Settings, finding: Option<&Finding>) -> Vec<Variable> {
    let variable = |name: &str, value: String| Variable { name: name.to_owned(), value };
    let mut variables = vec![
        variable(environment::JOB_ID, job.id.to_string()),
        variable(environment::EPOCH, job.epoch.to_string()),
        variable(environment::TABLE, settings.table.clone()),
    ];
    variables.extend(settings.environment.iter().map(|(name, value)| variable(name, value.clone())));
    if let (Some(finding), Some(store)) = (finding, &settings.policies) {
        variables.push(match &finding.payload {
            Handed::Inline(text) => variable(environment::FINDING_PAYLOAD, text.clone()),
            Handed::At(uri) => variable(environment::FINDING_PAYLOAD_URI, uri.clone()),
        });
        variables.push(variable(environment::POLICY_BUCKET, store.bucket.clone()));
        variables.push(variable(environment::POLICY_KEY, finding.policy_key.clone()));
    }
    variables
}

impl TaskRequest {
    /// How much of [`OVERRIDES_MAX`] it takes: the bytes of its overrides' JSON as it is sent. AWS says characters, and
    /// does not say of which encoding; there are never more of them than bytes.
    pub fn overrides_len(&self) -> usize {
        // Texts only: that they cannot be written is a defect of this file.
        serde_json::to_string(&self.overrides).map_or(usize::MAX, |json| json.len())
    }

    /// Whether ECS takes its overrides.
    pub fn fits(&self) -> bool {
        self.overrides_len() <= OVERRIDES_MAX
    }

    /// The call. Its parts are built of what they require, so that `ok()` drops no error.
    pub(super) fn call(&self, ecs: &aws_sdk_ecs::Client) -> RunTaskFluentBuilder {
        let vpc = &self.network_configuration.awsvpc_configuration;
        let Overrides { container_overrides: [container], cpu, memory } = &self.overrides;
        let pair = |variable: &Variable| KeyValuePair::builder().name(&variable.name).value(&variable.value).build();
        let container = ContainerOverride::builder()
            .name(&container.name)
            .set_environment(Some(container.environment.iter().map(pair).collect()))
            .build();
        let overrides = TaskOverride::builder().container_overrides(container).cpu(cpu).memory(memory).build();
        let call = ecs
            .run_task()
            .cluster(&self.cluster)
            .task_definition(&self.task_definition)
            .count(self.count)
            .client_token(&self.client_token)
            .started_by(&self.started_by)
            .set_platform_version(self.platform_version.clone())
            .set_network_configuration(
                AwsVpcConfiguration::builder()
                    .set_subnets(Some(vpc.subnets.clone()))
                    .set_security_groups(Some(vpc.security_groups.clone()))
                    .assign_public_ip(AssignPublicIp::from(vpc.assign_public_ip))
                    .build()
                    .ok()
                    .map(|vpc| NetworkConfiguration::builder().awsvpc_configuration(vpc).build()),
            )
            .overrides(overrides)
            .propagate_tags(PropagateTags::from(self.propagate_tags));
        let tag = |tag: &TagField| Tag::builder().key(tag.key).value(&tag.value).build();
        let call = self.tags.iter().map(tag).fold(call, RunTaskFluentBuilder::tags);
        match &self.capacity {
            CapacityFields::LaunchType(launch_type) => call.launch_type(LaunchType::from(*launch_type)),
            CapacityFields::CapacityProviderStrategy([provider]) => call.set_capacity_provider_strategy(
                CapacityProviderStrategyItem::builder()
                    .capacity_provider(provider.capacity_provider)
                    .weight(provider.weight)
                    .base(provider.base)
                    .build()
                    .ok()
                    .map(|provider| vec![provider]),
            ),
        }
    }
}

/// The yard's mark: yards of one cluster may have jobs of the same id, for that is made of the caller and the key.
fn yard(table: &str) -> String {
    Sha256::digest(table)[..4].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What makes a launch that is asked for again the same launch, for 24 hours: 58 characters at most, of 64. On-demand and
/// spot are two calls with other parameters, and have a token each.
pub fn client_token(id: JobId, epoch: Epoch, table: &str, capacity: Capacity) -> String {
    let capacity = match capacity {
        Capacity::Spot => "s",
        Capacity::OnDemand => "d",
    };
    format!("{}-{id}-{epoch}-{capacity}", yard(table))
}

/// What finds the task of a run again: 67 characters at most, of 128.
pub fn started_by(id: JobId, epoch: Epoch, table: &str) -> String {
    format!("switchyard/{}/{id}/{epoch}", yard(table))
}

/// The run that a task was started for, if it was started by the yard of this table.
pub fn read_started_by(text: &str, table: &str) -> Option<(JobId, Epoch)> {
    let run = text.strip_prefix("switchyard/")?.strip_prefix(&yard(table))?.strip_prefix('/')?;
    let (id, epoch) = run.split_once('/')?;
    Some((id.parse().ok()?, Epoch(epoch.parse().ok()?)))
}
