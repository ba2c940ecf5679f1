//! What an event would lead to, as it is shown step by step.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Explanation;
use crate::finding::{Finding, Resource};
use crate::intake::{self, Answer, EventJob, EventPlan, FINDINGS, FindingPlan, Read, Taking};
use crate::job::{JobId, Tier};
use crate::policies::Situation;
use crate::route::explain;

/// What an event would lead to, and why. Nothing of it was stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = EventPlan))]
pub struct EventPlanView {
    /// The envelope's source.
    pub source: String,
    /// The envelope's detail-type.
    pub detail_type: String,
    /// `findings`, `plainly` (a mapping names an event that no reader knows), `nothing` (known, and nothing to act on) or
    /// `unknown`.
    pub reading: String,
    /// Why there is nothing to do, when there is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its findings.
    pub findings: Vec<FindingPlanView>,
    /// What could not be read of the event, each with its place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub defects: Vec<String>,
    /// Jobs that are over the limit of one event.
    #[serde(default)]
    pub left_out: usize,
    /// Why it would be kept for replay, where it would.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unmapped: Option<String>,
}

/// What one finding would lead to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = FindingPlan))]
pub struct FindingPlanView {
    /// The finding.
    pub finding: Value,
    /// Why nothing would be done about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
    /// What answers for each of its resources.
    pub answers: Vec<AnswerView>,
}

/// What answers for one resource of a finding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = EventAnswerFor))]
pub struct AnswerView {
    /// The resource's type and id; none where the finding names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<ResourceView>,
    /// The mapping; none where none answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mapping: Option<String>,
    /// The mappings that were considered, best first, each with why it answers or not.
    pub considered: Vec<String>,
    /// A job for each policy.
    pub jobs: Vec<EventJobView>,
}

/// A resource of a finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = Resource))]
pub struct ResourceView {
    /// Its type, such as `AwsS3Bucket`.
    pub kind: String,
    /// Its id.
    pub id: String,
}

/// A job that an event would make.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = EventJob))]
pub struct EventJobView {
    /// The policy it answers with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// What runs.
    pub capability: String,
    /// How soon it must start.
    pub tier: Tier,
    /// Its idempotency key.
    pub key: String,
    /// The id that this key gives it.
    pub id: JobId,
    /// Whether there is such a job already: an earlier delivery made it.
    pub known: bool,
    /// Where it would go, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explanation: Option<Explanation>,
    /// Why it would be refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

impl EventPlanView {
    /// The view of a plan: with what was considered, and where each job would go. `known` are the jobs of it that there
    /// are already.
    pub fn of(plan: &EventPlan, situation: &Situation, taking: Taking, known: &BTreeSet<JobId>) -> Self {
        let finding = |found: &FindingPlan| FindingPlanView {
            finding: found.finding.to_json(),
            skipped: found.skipped.clone(),
            answers: found.answers.iter().map(|one| answer(&found.finding, one, situation, taking, known)).collect(),
        };
        let (reading, reason) = plan.read.as_words();
        Self {
            source: plan.source.clone(),
            detail_type: plan.detail_type.clone(),
            reading: reading.to_owned(),
            reason: reason.map(str::to_owned),
            findings: plan.findings.iter().map(finding).collect(),
            defects: plan.defects.iter().map(ToString::to_string).collect(),
            left_out: plan.left_out,
            unmapped: plan.unmapped(),
        }
    }
}

fn answer(
    finding: &Finding,
    Answer { resource, mapping, jobs }: &Answer,
    situation: &Situation,
    taking: Taking,
    known: &BTreeSet<JobId>,
) -> AnswerView {
    let considered = situation.policies.mappings.explain(finding, resource.as_ref());
    let view = |Resource { kind, id }: &Resource| ResourceView { kind: kind.clone(), id: id.clone() };
    AnswerView {
        resource: resource.as_ref().map(view),
        mapping: mapping.clone(),
        considered: considered.into_iter().map(|considered| considered.sentence).collect(),
        jobs: jobs.iter().map(|one| job(one, situation, taking, known)).collect(),
    }
}

fn job(job: &EventJob, situation: &Situation, taking: Taking, known: &BTreeSet<JobId>) -> EventJobView {
    let id = JobId::keyed(FINDINGS, &job.key);
    let (explanation, refused) = match intake::plan(&job.submission, situation, taking) {
        Ok(plan) => (Some(Explanation::from(&explain(&plan.needs, &plan.conditions, situation.limits()))), None),
        Err(rejected) => (None, Some(rejected.to_string())),
    };
    EventJobView {
        policy: job.policy.clone(),
        capability: job.submission.capability.clone(),
        tier: job.submission.tier,
        key: job.key.clone(),
        id,
        known: known.contains(&id),
        explanation,
        refused,
    }
}

impl Read {
    /// What an event was taken for in a word, and why nothing is done where that is so.
    pub fn as_words(&self) -> (&'static str, Option<&str>) {
        match self {
            Self::Findings => ("findings", None),
            Self::Plainly => ("plainly", None),
            Self::Nothing(reason) => ("nothing", Some(reason)),
            Self::Unknown(reason) => ("unknown", Some(reason)),
        }
    }
}
