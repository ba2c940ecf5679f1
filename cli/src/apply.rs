//! `capabilities apply`: a task definition on ECS for each capability with a task image, made after that of the worker.

use aws_sdk_ecs::Client;
use aws_sdk_ecs::types::{
    ContainerDefinition, KeyValuePair, Tag, TaskDefinition, TaskDefinitionFamilyStatus, TaskDefinitionField,
};
use serde::Serialize;
use switchyard_aws::deployment::CONTAINER;
use switchyard_aws::failure::{code, failed};
use switchyard_aws::launcher_ecs::{Size, size};
use switchyard_core::catalog::{Capability, ImageKind, Program};
use switchyard_core::job::one_line;
use switchyard_core::policies::Policies;
use switchyard_core::ports::PortError;

use crate::args::Apply;
use crate::cloud::{clients, refused};
use crate::exit::Failure;
use crate::policies;
use crate::show::{print, print_json};

/// What a capability's task needs of its definition.
struct Wanted<'a> {
    capability: &'a str,
    family: String,
    image: &'a str,
    size: Size,
}

/// What became of one.
#[derive(Debug, Serialize)]
struct Applied {
    capability: String,
    family: String,
    /// The newest revision; `None` where it would only be registered.
    revision: Option<i32>,
    state: &'static str,
    /// What differed.
    why: Vec<&'static str>,
}

/// What became of all of them.
#[derive(Debug, Serialize)]
struct Done {
    applied: Vec<Applied>,
    /// Families of that prefix which belong to no capability any more. They stay: what runs may be of them.
    left: Vec<String>,
}

/// Registers what is missing or differs. What cannot be registered at all is said before anything is.
pub(crate) fn run(apply: &Apply, json: bool) -> Result<u8, Failure> {
    let policies = policies::as_on_aws(apply.policies.as_deref())?;
    let wanted = wanted(&policies, &apply.prefix)?;
    for Wanted { capability, image, .. } in wanted.iter().filter(|wanted| !wanted.image.contains("@sha256:")) {
        eprintln!(
            "warning: capability {capability}: the image {} is not pinned by its digest (NAME@sha256:...): what runs can \
             change without anything here",
            one_line(image, 300)
        );
    }
    let client = clients()?.ecs();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|cause| Failure::io("start the runtime", cause))?;
    let done = runtime.block_on(all(&client, apply, &wanted))?;
    if json {
        print_json(&done)?;
        return Ok(0);
    }
    if done.applied.is_empty() {
        print("no capability has a task image: there is nothing to register")?;
    }
    for Applied { capability, family, revision, state, why } in &done.applied {
        let revision = revision.map(|revision| format!(":{revision}")).unwrap_or_default();
        let why = if why.is_empty() { String::new() } else { format!(" ({})", why.join(", ")) };
        print(&format!("{capability}: {state} {family}{revision}{why}"))?;
    }
    for family in &done.left {
        print(&format!("left: {} is of no capability; deregister it once nothing of it runs", one_line(family, 300)))?;
    }
    Ok(0)
}

/// The capabilities with task images.
fn wanted<'a>(policies: &'a Policies, prefix: &str) -> Result<Vec<Wanted<'a>>, Failure> {
    let of = |capability: &'a Capability| {
        let Program::Image { kind: ImageKind::Task, reference, .. } = &capability.run else { return None };
        let needs = &capability.needs;
        let family = format!("{prefix}{}", capability.name);
        let wanted = size(needs.milli_vcpu, needs.memory_mib).map(|size| Wanted {
            capability: &capability.name,
            family,
            image: reference,
            size,
        });
        Some(wanted.ok_or_else(|| {
            let (name, memory, vcpu) = (&capability.name, needs.memory_mib, f64::from(needs.milli_vcpu) / 1000.0);
            let largest = "the largest task on Fargate has 122880 MiB and 16 vCPU";
            Failure::BadInput(format!("capability {name} needs {memory} MiB and {vcpu} vCPU: {largest}"))
        }))
    };
    policies.catalog.iter().filter_map(|capability| of(capability)).collect()
}

async fn all(client: &Client, apply: &Apply, wanted: &[Wanted<'_>]) -> Result<Done, Failure> {
    let missing = || {
        Failure::BadInput(format!("--like {}: there is no such task definition in this account and region", apply.like))
    };
    let (like, tags) = described(client, &apply.like).await.map_err(refused)?.ok_or_else(missing)?;
    if !like.container_definitions().iter().any(is_worker) {
        return Err(Failure::BadInput(format!("--like {}: it has no container `{CONTAINER}`", apply.like)));
    }
    let mut applied = Vec::new();
    for wanted in wanted {
        let definition = derived(&like, wanted);
        let newest = described(client, &wanted.family).await.map_err(refused)?.map(|(newest, _)| newest);
        let why = newest.as_ref().map_or_else(|| vec!["new"], |newest| differences(newest, &definition));
        let (state, revision) = if why.is_empty() {
            ("unchanged", newest.map(|newest| newest.revision()))
        } else if apply.dry_run {
            ("would register", None)
        } else {
            ("registered", Some(register(client, &definition, &wanted.family, &tags).await.map_err(refused)?))
        };
        let (capability, family) = (wanted.capability.to_owned(), wanted.family.clone());
        applied.push(Applied { capability, family, revision, state, why });
    }
    let left = left(client, &apply.prefix, like.family().unwrap_or_default(), wanted).await.map_err(refused)?;
    Ok(Done { applied, left })
}

fn is_worker(container: &ContainerDefinition) -> bool {
    container.name() == Some(CONTAINER)
}

/// A definition and its tags, by family, by family and revision, or by ARN; `None`: there is none.
async fn described(client: &Client, name: &str) -> Result<Option<(TaskDefinition, Vec<Tag>)>, PortError> {
    let asked = client.describe_task_definition().task_definition(name).include(TaskDefinitionField::Tags);
    match asked.send().await {
        Ok(answer) => {
            let tags = answer.tags().to_vec();
            Ok(answer.task_definition.map(|definition| (definition, tags)))
        }
        // "Unable to describe task definition.": ECS has no code of its own for that.
        Err(error) if code(&error) == Some("ClientException") => Ok(None),
        Err(error) => Err(failed("describe task definition", name, &error)),
    }
}

/// The worker's definition with the capability's image and size. Its container has the whole task to itself: what limits
/// the worker's would be too little, or refused beside another size.
fn derived(like: &TaskDefinition, wanted: &Wanted<'_>) -> TaskDefinition {
    let mut definition = like.clone();
    definition.cpu = Some(wanted.size.cpu_units.to_string());
    definition.memory = Some(wanted.size.memory_mib.to_string());
    for container in definition.container_definitions.iter_mut().flatten().filter(|one| is_worker(one)) {
        container.image = Some(wanted.image.to_owned());
        container.cpu = 0;
        container.memory = None;
        container.memory_reservation = None;
    }
    definition
}

/// What two definitions differ in, of what a registration says.
fn differences(newest: &TaskDefinition, wanted: &TaskDefinition) -> Vec<&'static str> {
    let images = |definition: &TaskDefinition| -> Vec<_> {
        definition.container_definitions().iter().map(|one| (one.name.clone(), one.image.clone())).collect()
    };
    // ECS keeps lists in no certain order.
    let variables = |definition: &TaskDefinition| -> Vec<_> {
        let of = |one: &ContainerDefinition| {
            let mut set: Vec<KeyValuePair> = one.environment().to_vec();
            set.sort_by(|a, b| a.name.cmp(&b.name));
            let mut secrets = one.secrets().to_vec();
            secrets.sort_by(|a, b| a.name.cmp(&b.name));
            (set, secrets)
        };
        definition.container_definitions().iter().map(of).collect()
    };
    let containers = |definition: &TaskDefinition| -> Vec<_> {
        let bare = |one: &ContainerDefinition| ContainerDefinition::clone(one);
        let mut bare: Vec<_> = definition.container_definitions().iter().map(bare).collect();
        for container in &mut bare {
            (container.image, container.environment, container.secrets) = (None, None, None);
        }
        bare
    };
    let roles = |one: &TaskDefinition| (one.task_role_arn.clone(), one.execution_role_arn.clone());
    let sizes = |one: &TaskDefinition| (one.cpu.clone(), one.memory.clone());
    let rest = |one: &TaskDefinition| {
        (
            one.network_mode.clone(),
            one.volumes().to_vec(),
            one.requires_compatibilities().to_vec(),
            one.runtime_platform.clone(),
            one.ephemeral_storage.clone(),
        )
    };
    [
        ("image", images(newest) != images(wanted)),
        ("size", sizes(newest) != sizes(wanted)),
        ("environment", variables(newest) != variables(wanted)),
        ("roles", roles(newest) != roles(wanted)),
        ("settings", containers(newest) != containers(wanted) || rest(newest) != rest(wanted)),
    ]
    .into_iter()
    .filter_map(|(what, differs)| differs.then_some(what))
    .collect()
}

/// Registers a definition as the newest of its family, and answers its revision.
async fn register(client: &Client, like: &TaskDefinition, family: &str, tags: &[Tag]) -> Result<i32, PortError> {
    let like = like.clone();
    // Those of AWS itself, CloudFormation's say, are nobody else's to set.
    let tags: Vec<_> =
        tags.iter().filter(|tag| tag.key().is_some_and(|key| !key.starts_with("aws:"))).cloned().collect();
    let registered = client
        .register_task_definition()
        .family(family)
        .set_task_role_arn(like.task_role_arn)
        .set_execution_role_arn(like.execution_role_arn)
        .set_network_mode(like.network_mode)
        .set_container_definitions(like.container_definitions)
        .set_volumes(like.volumes)
        .set_requires_compatibilities(like.requires_compatibilities)
        .set_cpu(like.cpu)
        .set_memory(like.memory)
        .set_tags((!tags.is_empty()).then_some(tags))
        .set_ephemeral_storage(like.ephemeral_storage)
        .set_runtime_platform(like.runtime_platform)
        .send()
        .await
        .map_err(|error| failed("register task definition", family, &error))?;
    let revision = registered.task_definition().map(TaskDefinition::revision);
    revision.ok_or_else(|| PortError::permanent("register task definition", family, "the answer has no revision"))
}

/// Families of this prefix that are of no capability, and not the worker's own.
async fn left(client: &Client, prefix: &str, like: &str, wanted: &[Wanted<'_>]) -> Result<Vec<String>, PortError> {
    let listed =
        client.list_task_definition_families().family_prefix(prefix).status(TaskDefinitionFamilyStatus::Active);
    let mut pages = listed.into_paginator().send();
    let mut left = Vec::new();
    while let Some(page) = pages.next().await {
        let page = page.map_err(|error| failed("list task definition families of", prefix, &error))?;
        let others = page.families().iter().filter(|family| *family != like);
        left.extend(others.filter(|family| !wanted.iter().any(|wanted| wanted.family == **family)).cloned());
    }
    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "registry.example.com/nmap@sha256:0123";

    fn like() -> TaskDefinition {
        let set = |name: &str, value: &str| KeyValuePair::builder().name(name).value(value).build();
        let worker = ContainerDefinition::builder()
            .name(CONTAINER)
            .image("registry.example.com/worker@sha256:ffff")
            .cpu(256)
            .memory(512)
            .environment(set("SWITCHYARD_TABLE", "yard"))
            .environment(set("AWS_REGION", "eu-central-1"));
        let other = ContainerDefinition::builder().name("logs").image("logs:1");
        TaskDefinition::builder()
            .family("yard-worker")
            .cpu("256")
            .memory("512")
            .task_role_arn("arn:aws:iam::1:role/task")
            .container_definitions(worker.build())
            .container_definitions(other.build())
            .build()
    }

    fn wanted(image: &str) -> Wanted<'_> {
        Wanted { capability: "nmap", family: "yard-nmap".to_owned(), image, size: size(1000, 3000).unwrap() }
    }

    #[test]
    fn only_the_worker_s_image_and_the_size_are_the_capability_s_own() {
        let made = derived(&like(), &wanted(DIGEST));
        assert_eq!((made.cpu(), made.memory()), (Some("1024"), Some("3072")));
        let [worker, other] = made.container_definitions() else { panic!("{made:?}") };
        assert_eq!((worker.image(), worker.cpu(), worker.memory()), (Some(DIGEST), 0, None));
        assert_eq!((worker.environment().len(), other.image()), (2, Some("logs:1")));
        assert_eq!(made.task_role_arn(), Some("arn:aws:iam::1:role/task"));
    }

    #[test]
    fn a_definition_differs_in_what_is_registered_and_in_nothing_else() {
        let made = derived(&like(), &wanted(DIGEST));
        let mut kept = made.clone();
        (kept.revision, kept.family) = (7, Some("yard-nmap".to_owned()));
        kept.container_definitions.as_mut().unwrap()[0].environment.as_mut().unwrap().reverse();
        assert_eq!(differences(&kept, &made), Vec::<&str>::new());
        type Change = fn(&mut TaskDefinition);
        let changes: [(&str, Change); 5] = [
            ("image", |one| one.container_definitions.as_mut().unwrap()[0].image = Some("other".to_owned())),
            ("size", |one| one.memory = Some("4096".to_owned())),
            ("environment", |one| {
                drop(one.container_definitions.as_mut().unwrap()[0].environment.as_mut().unwrap().pop())
            }),
            ("roles", |one| one.execution_role_arn = Some("arn:aws:iam::1:role/other".to_owned())),
            ("settings", |one| one.container_definitions.as_mut().unwrap()[0].stop_timeout = Some(60)),
        ];
        for (what, change) in changes {
            let mut other = made.clone();
            change(&mut other);
            assert_eq!(differences(&other, &made), [what]);
        }
    }
}
