//! Rules: what AWS enforces and the emulators do not. Always on; their limits are the documented ones, and a test may
//! lower them.
//!
//! A rule sees a request before it is forwarded and may answer it, and sees the answer before the client does. It knows the
//! time only as an argument. What it must know of the service's state and cannot have seen, it asks for.

mod bucket;
pub(crate) mod autoscaling;
pub(crate) mod dynamodb;
pub(crate) mod ecs;
pub(crate) mod events;
pub(crate) mod logs;
pub(crate) mod sqs;

use std::time::Duration;

use serde_json::Value;

use crate::answer::{Answer, Refusal};
use crate::batch::Decided;
use crate::call::{Call, Service};

pub use autoscaling::AutoScalingLimits;
pub use bucket::Rate;
pub use dynamodb::DynamoDbLimits;
pub(crate) use dynamodb::Units;
pub use ecs::EcsLimits;
pub use events::EventsLimits;
pub use logs::LogsLimits;
pub use sqs::{LateChange, SqsLimits};

/// The limits of every service; the default is what AWS documents.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// Of Auto Scaling.
    pub autoscaling: AutoScalingLimits,
    /// Of DynamoDB.
    pub dynamodb: DynamoDbLimits,
    /// Of ECS.
    pub ecs: EcsLimits,
    /// Of EventBridge.
    pub events: EventsLimits,
    /// Of CloudWatch Logs.
    pub logs: LogsLimits,
    /// Of SQS.
    pub sqs: SqsLimits,
}

/// What is to be done with a request.
#[derive(Clone, Debug)]
pub(crate) enum Verdict {
    /// The service answers. Whoever is told so must report the end: [`Rules::after`] or [`Rules::gone`].
    Forward,
    /// A batch of which this body goes on (`None`: nothing does); the rest is decided. Where something goes on, the end must
    /// be reported too.
    Part(Option<Value>, Decided),
    /// This is the answer, and the service hears nothing.
    Answer(Answer),
    /// The same, so much later: a long poll that finds nothing.
    Wait(Duration, Answer),
    /// First the service must be asked; then the request is judged again, with the answer.
    Ask(Question),
}

impl Verdict {
    /// An error, if there is one; else the request goes on.
    fn of(call: &Call, refusal: Option<Refusal>) -> Self {
        refusal.map_or(Self::Forward, |refusal| Self::Answer(Answer::refused(call, &refusal)))
    }

    /// What [`crate::batch`] has made of a batch.
    fn parted(parted: Option<(Option<Value>, Decided)>) -> Self {
        parted.map_or(Self::Forward, |(rest, decided)| Self::Part(rest, decided))
    }
}

/// A question to the service that the request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    /// The operation.
    pub(crate) operation: &'static str,
    /// JSON, or the form of a service that speaks the Query protocol.
    pub(crate) body: String,
    /// Whether no other request that asks may run until this one is answered: what it decides on must not change.
    pub(crate) alone: bool,
}

/// All rules and what they remember.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    pub(crate) limits: Limits,
    sqs: sqs::State,
    ecs: ecs::State,
    dynamodb: dynamodb::State,
}

impl Rules {
    /// Rules with these limits.
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Judges a request; `told` are the answers to the questions that were asked about it so far.
    pub(crate) fn before(&mut self, call: &Call, told: &[Answer], now: Duration) -> Verdict {
        let limits = &self.limits;
        match &call.service {
            Service::Sqs => self.sqs.before(&limits.sqs, call, told, now),
            Service::Ecs => self.ecs.before(&limits.ecs, call, now),
            Service::DynamoDb => self.dynamodb.before(&limits.dynamodb, call, told, now),
            Service::AutoScaling => autoscaling::before(&limits.autoscaling, call, told),
            Service::Events => events::before(&limits.events, call),
            Service::Logs => Verdict::of(call, logs::refusal(&limits.logs, call)),
            Service::S3 | Service::Sts | Service::Other(_) => Verdict::Forward,
        }
    }

    /// The service has answered: what the client gets to see, and what was consumed.
    pub(crate) fn after(&mut self, call: &Call, answer: Answer, now: Duration) -> (Answer, Units) {
        match &call.service {
            Service::Sqs => {
                self.sqs.after(call, &answer, now);
                (answer, Units::default())
            }
            Service::Ecs => {
                self.ecs.after(call, &answer, now);
                (answer, Units::default())
            }
            Service::DynamoDb => self.dynamodb.after(&self.limits.dynamodb, call, answer, now),
            Service::AutoScaling | Service::Events | Service::Logs | Service::S3 | Service::Sts | Service::Other(_) => {
                (answer, Units::default())
            }
        }
    }

    /// The service was not reached.
    pub(crate) fn gone(&mut self, call: &Call) {
        self.ecs.gone(call);
        self.dynamodb.gone(call);
    }

    /// The first message of this ReceiveMessage answer, as a request that makes it visible again.
    pub(crate) fn redeliver(&mut self, call: &Call, answer: &Answer, now: Duration) -> Option<Question> {
        self.sqs.redeliver(call, answer, now)
    }
}
