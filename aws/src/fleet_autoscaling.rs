//! A pool's workers as an Auto Scaling group. It grows from outside, in one call, and only upward; it shrinks only by
//! workers that end themselves, each its own instance.

mod groups;
mod ladder;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_autoscaling::config::Config;
use aws_sdk_autoscaling::error::SdkError;
use aws_sdk_autoscaling::types::LifecycleState;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use aws_smithy_types::retry::RetryConfig;
use switchyard_core::ports::{Ambient, PortError, backoff, describe};
use tracing::{info, warn};

pub use self::groups::Groups;
pub use self::ladder::{Answer, Next, Rung, Sight, TRIES, after};
use crate::failure::{self, AwsError};

/// The wait after a first call in vain; doubled by each further one.
const PAUSE: Duration = Duration::from_secs(1);

/// One group.
#[derive(Clone)]
pub struct Group {
    client: aws_sdk_autoscaling::Client,
    name: String,
    ambient: Arc<dyn Ambient>,
}

/// A group as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupState {
    /// The least that it may be.
    pub min: u32,
    /// What it is to be.
    pub desired: u32,
    /// The most that it may be.
    pub max: u32,
    /// Its instances, those on their way in or out among them.
    pub instances: Vec<Instance>,
}

/// One instance of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Its id.
    pub id: String,
    /// Where it is in its life.
    pub lifecycle: Lifecycle,
    /// Whether the group thinks it well; else it ends and replaces it.
    pub healthy: bool,
}

/// Where an instance is in its life, as far as the fleet cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifecycle {
    /// It boots, or waits in a warm pool to.
    Coming,
    /// It works.
    InService,
    /// Somebody has set it aside.
    Aside,
    /// It ends, or leaves the group.
    Leaving,
}

impl Lifecycle {
    fn of(state: Option<&LifecycleState>) -> Self {
        // By AWS's names: what they add is a part of one of these, or nothing that takes work.
        match state.map_or("", LifecycleState::as_str) {
            "InService" => Self::InService,
            name if name.starts_with("Terminat") || name.starts_with("Detach") => Self::Leaving,
            name if name.starts_with("Warmed:Terminat") => Self::Leaving,
            name if name.starts_with("Pending") || name.starts_with("Warmed") => Self::Coming,
            _ => Self::Aside,
        }
    }
}

impl GroupState {
    /// A group as AWS tells of it.
    pub(crate) fn of(group: &aws_sdk_autoscaling::types::AutoScalingGroup) -> Self {
        let count = |n: Option<i32>| u32::try_from(n.unwrap_or_default()).unwrap_or_default();
        let instance = |instance: &aws_sdk_autoscaling::types::Instance| Instance {
            id: instance.instance_id().unwrap_or_default().to_owned(),
            lifecycle: Lifecycle::of(instance.lifecycle_state()),
            healthy: instance.health_status() == Some("Healthy"),
        };
        Self {
            min: count(group.min_size()),
            desired: count(group.desired_capacity()),
            max: count(group.max_size()),
            instances: group.instances().iter().map(instance).collect(),
        }
    }

    /// Whether a worker that ends itself makes the group smaller; at its minimum the group would replace it, and whoever
    /// is idle had better stay.
    pub fn can_shrink(&self) -> bool {
        self.desired > self.min
    }

    /// Whether its group has more than it must have without one of its instances: by its size, or by how many there are.
    /// More than its size there are where somebody has lowered that, for it takes no instance from those that are
    /// protected.
    pub fn can_do_without_one(&self) -> bool {
        let there = self.instances.iter().filter(|one| one.lifecycle != Lifecycle::Leaving).count();
        self.can_shrink() || there > usize::try_from(self.min).unwrap_or(usize::MAX)
    }

    /// What is seen of an instance that wants to leave.
    pub fn sight(&self, instance: &str) -> Sight {
        match self.instances.iter().find(|other| other.id == instance) {
            None => Sight::Gone,
            Some(Instance { lifecycle: Lifecycle::Leaving, .. }) => Sight::Gone,
            Some(_) => Sight::There { at_minimum: !self.can_shrink() },
        }
    }
}

/// How an instance left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// The rung that did it.
    pub by: Rung,
    /// What was tried, in order.
    pub tried: Vec<Tried>,
}

/// An instance that is still there after all was tried.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("instance {instance} could not leave its group: {}", Steps(tried))]
pub struct StillHere {
    /// The instance.
    pub instance: String,
    /// What was tried, in order.
    pub tried: Vec<Tried>,
}

/// One call of the ladder and what it came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// The call.
    pub rung: Rung,
    /// What it came to.
    pub answer: Answer,
    /// What AWS said of it; empty where it was accepted.
    pub said: String,
}

struct Steps<'a>(&'a [Tried]);

impl fmt::Display for Steps<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, tried) in self.0.iter().enumerate() {
            let before = if n == 0 { "" } else { "; " };
            write!(f, "{before}{:?} was {:?} ({})", tried.rung, tried.answer, tried.said)?;
        }
        Ok(())
    }
}

impl Group {
    /// The group of that name.
    pub fn new(client: aws_sdk_autoscaling::Client, name: &str, ambient: Arc<dyn Ambient>) -> Self {
        Self { client, name: name.to_owned(), ambient }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it is now.
    ///
    /// # Errors
    ///
    /// AWS does not answer, or knows no such group.
    pub async fn describe(&self) -> Result<GroupState, PortError> {
        let call = self.client.describe_auto_scaling_groups().auto_scaling_group_names(&self.name);
        let output = call.send().await.map_err(|error| failure::failed("describe group", &self.name, &error))?;
        let Some(group) =
            output.auto_scaling_groups().iter().find(|group| group.auto_scaling_group_name() == Some(&self.name))
        else {
            return Err(PortError::permanent("describe group", &self.name, "there is no such group"));
        };
        Ok(GroupState::of(group))
    }

    /// Ends this instance and makes the group one smaller; where that cannot be, ends it all the same, as the ladder says.
    ///
    /// # Errors
    ///
    /// [`StillHere`] with everything that was tried. Whoever hears it shuts the machine down, and the group finds out.
    pub async fn terminate_self(&self, instance: &str) -> Result<Left, StillHere> {
        let (mut rung, mut tries) = (Rung::Shrink, 0);
        let mut tried: Vec<Tried> = Vec::new();
        let mut next = Next::Call(rung);
        loop {
            let pauses = matches!(next, Next::Again(_) | Next::LookLater);
            if pauses {
                self.ambient.pause(backoff(PAUSE, tries, self.ambient.chance())).await;
            }
            let answer = tried.last().map_or(Answer::Busy, |tried| tried.answer);
            next = match next {
                Next::Call(called) | Next::Again(called) => {
                    tries = if called == rung { tries + 1 } else { 1 };
                    rung = called;
                    let (answer, said) = self.call(rung, instance).await;
                    if answer != Answer::Accepted {
                        warn!(instance, ?rung, ?answer, said, "the instance is not ended yet");
                    }
                    tried.push(Tried { rung, answer, said });
                    after(rung, tries, answer, None)
                }
                Next::Look | Next::LookLater => {
                    let sight = match self.describe().await {
                        Ok(state) => state.sight(instance),
                        Err(error) => {
                            warn!(instance, error = %describe(&error), "whether the instance is being ended is not known");
                            Sight::Unknown
                        }
                    };
                    after(rung, tries, answer, Some(sight))
                }
                Next::Gone => {
                    info!(instance, ?rung, "the instance ends");
                    return Ok(Left { by: rung, tried });
                }
                Next::GiveUp => return Err(StillHere { instance: instance.to_owned(), tried }),
            };
        }
    }

    /// Makes the call of a rung, once: the SDK would repeat a decrement whose answer was lost. Whether the group is to
    /// be smaller for it is said every time; AWS requires that it is.
    async fn call(&self, rung: Rung, instance: &str) -> (Answer, String) {
        let once = || Config::builder().retry_config(RetryConfig::disabled());
        match rung {
            Rung::Shrink | Rung::Replace => {
                let call = self.client.terminate_instance_in_auto_scaling_group().instance_id(instance);
                let call = call.should_decrement_desired_capacity(rung == Rung::Shrink);
                heard(call.customize().config_override(once()).send().await)
            }
            Rung::MarkUnhealthy => {
                let call = self.client.set_instance_health().instance_id(instance).health_status("Unhealthy");
                // A group gives new instances time before it believes that they are ill.
                let call = call.should_respect_grace_period(false);
                heard(call.customize().config_override(once()).send().await)
            }
        }
    }
}

/// What a call of the ladder came to.
fn heard<T, E>(outcome: Result<T, SdkError<E>>) -> (Answer, String)
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let error = match outcome {
        Ok(_) => return (Answer::Accepted, String::new()),
        Err(error) => error,
    };
    let (said, _) = failure::read(&error);
    let answer = match &error {
        SdkError::ServiceError(service) => answer(&said, service.raw().status().is_server_error()),
        SdkError::ConstructionFailure(_) => Answer::Refused,
        _ => Answer::Unclear,
    };
    (answer, said.to_string())
}

/// What an error that AWS answered with means to the ladder.
fn answer(said: &AwsError, server: bool) -> Answer {
    match said.code.as_str() {
        "ValidationError" => Answer::Invalid,
        "ResourceContention"
        | "ResourceContentionFault"
        | "ScalingActivityInProgress"
        | "ScalingActivityInProgressFault"
        | "Throttling"
        | "ThrottlingException"
        | "RequestLimitExceeded" => Answer::Busy,
        _ if server => Answer::Unclear,
        _ => Answer::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(min: u32, desired: u32, max: u32) -> GroupState {
        GroupState { min, desired, max, instances: Vec::new() }
    }

    #[test]
    fn every_state_that_aws_names_is_coming_working_aside_or_leaving() {
        let table: Vec<String> = LifecycleState::values()
            .iter()
            .map(|name| format!("{name}: {:?}", Lifecycle::of(Some(&LifecycleState::from(*name)))))
            .collect();
        insta::assert_snapshot!(table.join("\n"));
    }

    #[test]
    fn a_group_can_do_without_one_above_its_minimum_and_when_it_has_more_than_its_size() {
        let with = |min, desired, stages: &[Lifecycle]| {
            let one = |lifecycle: &Lifecycle| Instance { id: String::new(), lifecycle: *lifecycle, healthy: true };
            GroupState { instances: stages.iter().map(one).collect(), ..group(min, desired, 9) }
        };
        use Lifecycle::{InService, Leaving};
        for (state, can) in [
            (with(0, 1, &[InService]), true),
            (with(1, 1, &[InService]), false),
            // Somebody has set its size to nothing, and it may not take what is protected.
            (with(0, 0, &[InService]), true),
            (with(1, 1, &[InService, InService]), true),
            (with(1, 1, &[InService, Leaving]), false),
        ] {
            assert_eq!(state.can_do_without_one(), can, "{state:?}");
        }
    }

    #[test]
    fn an_instance_that_is_not_in_the_group_or_ends_is_gone() {
        let instance = |id: &str, lifecycle| Instance { id: id.to_owned(), lifecycle, healthy: true };
        let instances = vec![instance("i-1", Lifecycle::InService), instance("i-2", Lifecycle::Leaving)];
        let state = GroupState { instances, ..group(1, 2, 3) };
        assert_eq!(state.sight("i-1"), Sight::There { at_minimum: false });
        assert_eq!(GroupState { min: 2, ..state.clone() }.sight("i-1"), Sight::There { at_minimum: true });
        assert_eq!(state.sight("i-2"), Sight::Gone);
        assert_eq!(state.sight("i-3"), Sight::Gone);
    }
}
