//! What an event leads to: its findings, the mapping that answers for each of their resources, and a job for every
//! policy and resource. Decided here whole, before anything is stored.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Submission, canonical_sha256};
use crate::finding::{self, Defect, Finding, NotAnEvent, Reading, Resource, Severity};
use crate::job::{Tier, one_line};
use crate::mapping::{Mapping, Mappings};

/// What answers findings: a triage that names the policy. Running the policy itself takes its place.
pub const ANSWERED_BY: &str = "finding-triage";
/// The most jobs one event makes. An event of Security Hub holds one finding, or a hundred at most (BatchImportFindings),
/// and a finding names 32 resources at most; what is over this is told, and kept for replay.
pub const EVENT_JOBS: usize = 1000;

/// What an event leads to.
#[derive(Clone, Debug, PartialEq)]
pub struct EventPlan {
    /// The envelope's source; empty where it has none.
    pub source: String,
    /// The envelope's detail-type; empty where it has none.
    pub detail_type: String,
    /// What it was taken for.
    pub read: Read,
    /// Its findings, in the event's order.
    pub findings: Vec<FindingPlan>,
    /// What could not be read of it.
    pub defects: Vec<Defect>,
    /// Jobs that are over [`EVENT_JOBS`].
    pub left_out: usize,
}

/// What an event was taken for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// Findings of a sender that is known.
    Findings,
    /// A finding, because a mapping names this detail-type; no reader knows it.
    Plainly,
    /// Nothing to act on; why, as a sentence.
    Nothing(String),
    /// An event that neither a reader nor a mapping knows; said in a sentence.
    Unknown(String),
}

/// What one finding leads to.
#[derive(Clone, Debug, PartialEq)]
pub struct FindingPlan {
    /// The finding.
    pub finding: Finding,
    /// Why nothing is done about it, as a sentence.
    pub skipped: Option<String>,
    /// What answers for each of its resources, or for itself where it names none; empty where it is skipped.
    pub answers: Vec<Answer>,
}

/// What answers for one resource of a finding.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The resource; `None`: the finding names none.
    pub resource: Option<Resource>,
    /// The mapping; `None`: there is none for it, or the yard has no mappings at all.
    pub mapping: Option<String>,
    /// A job for every policy of the mapping.
    pub jobs: Vec<EventJob>,
}

/// A job that an event makes.
#[derive(Clone, Debug, PartialEq)]
pub struct EventJob {
    /// The policy it answers with; `None` in a yard without mappings.
    pub policy: Option<String>,
    /// What is submitted.
    pub submission: Submission,
    /// Its idempotency key: the same finding at the same update, policy and resource, however it is delivered.
    pub key: String,
}

impl EventPlan {
    /// The jobs, in order.
    pub fn jobs(&self) -> impl Iterator<Item = &EventJob> {
        self.findings.iter().flat_map(|finding| &finding.answers).flat_map(|answer| &answer.jobs)
    }

    /// Why this event is kept for replay, as a sentence: a finding of it is answered by nothing at all. One of which
    /// another resource is answered has been seen to.
    pub fn unmapped(&self) -> Option<String> {
        if let Read::Unknown(why) = &self.read {
            return Some(why.clone());
        }
        let unanswered = |answer: &Answer| answer.mapping.is_none() && answer.jobs.is_empty();
        let asking = || self.findings.iter().filter(|finding| finding.skipped.is_none());
        let lost = asking().filter(|finding| finding.answers.iter().all(unanswered)).count();
        match (lost, self.left_out) {
            (0, 0) if self.read == Read::Findings && self.findings.is_empty() && !self.defects.is_empty() => {
                Some("not one of its findings could be read".to_owned())
            }
            (0, 0) => None,
            (0, over) => Some(format!("{over} of its jobs are over the {EVENT_JOBS} that one event makes")),
            (lost, _) if lost == asking().count() => Some("no mapping answers for it".to_owned()),
            (lost, _) => Some(format!("no mapping answers for {lost} of its findings")),
        }
    }
}

/// Decides what an event leads to, [`EVENT_JOBS`] at most.
///
/// # Errors
///
/// Only for a value that is not a JSON object.
pub fn plan_event(event: &Value, mappings: &Mappings) -> Result<EventPlan, NotAnEvent> {
    plan_up_to(EVENT_JOBS, event, mappings)
}

/// The same with all its jobs: for somebody who replays one event, and takes the time.
///
/// # Errors
///
/// As [`plan_event`].
pub fn plan_whole_event(event: &Value, mappings: &Mappings) -> Result<EventPlan, NotAnEvent> {
    plan_up_to(usize::MAX, event, mappings)
}

fn plan_up_to(most: usize, event: &Value, mappings: &Mappings) -> Result<EventPlan, NotAnEvent> {
    let word = |name: &str| one_line(event.get(name).and_then(Value::as_str).unwrap_or_default(), 128);
    let (source, detail_type) = (word("source"), word("detail-type"));
    let (read, findings, defects) = match finding::read(event)? {
        Reading::Findings { findings, defects } => (Read::Findings, findings, defects),
        Reading::Nothing { reason, .. } => (Read::Nothing(reason), Vec::new(), Vec::new()),
        Reading::Unknown { source, detail_type } if mappings.names_event(&source, &detail_type) => {
            let (finding, defects) = finding::read_plainly(event);
            (Read::Plainly, vec![finding], defects)
        }
        Reading::Unknown { source, detail_type } => {
            let why =
                format!("no reader and no mapping knows events of source `{source}` and detail-type `{detail_type}`");
            (Read::Unknown(one_line(&why, 400)), Vec::new(), Vec::new())
        }
    };
    let mut room = most;
    let mut left_out = 0;
    let plan = |finding: Finding| {
        let skipped = skipped(&finding);
        let answers = if skipped.is_some() { Vec::new() } else { answers(&finding, mappings) };
        let mut plan = FindingPlan { finding, skipped, answers };
        for answer in &mut plan.answers {
            let over = answer.jobs.len().saturating_sub(room);
            answer.jobs.truncate(room);
            room -= answer.jobs.len();
            left_out += over;
        }
        plan
    };
    let findings = findings.into_iter().map(plan).collect();
    Ok(EventPlan { source, detail_type, read, findings, defects, left_out })
}

/// Why nothing is done about a finding that was read.
fn skipped(finding: &Finding) -> Option<String> {
    (!finding.standing.asks_for_action()).then(|| {
        let standing = finding.standing;
        format!("it is {standing}: only what stands and nobody has taken up is acted upon")
    })
}

/// What answers for each resource. Without any mappings a finding is triaged as a whole: a new yard shows something.
fn answers(finding: &Finding, mappings: &Mappings) -> Vec<Answer> {
    if mappings.iter().next().is_none() {
        let jobs = vec![job(finding, None, None, None)];
        return vec![Answer { resource: None, mapping: None, jobs }];
    }
    let answer = |resource: Option<&Resource>| {
        let mapping = mappings.choose(finding, resource);
        let policies = mapping.map(|mapping| mapping.policies.as_slice()).unwrap_or_default();
        Answer {
            resource: resource.cloned(),
            mapping: mapping.map(|mapping| mapping.name.clone()),
            jobs: policies.iter().map(|policy| job(finding, resource, mapping, Some(policy))).collect(),
        }
    };
    match finding.resources.as_slice() {
        [] => vec![answer(None)],
        resources => resources.iter().map(Some).map(answer).collect(),
    }
}

/// The job that answers for a resource with a policy.
fn job(finding: &Finding, resource: Option<&Resource>, mapping: Option<&Mapping>, policy: Option<&str>) -> EventJob {
    let mut labels = BTreeMap::new();
    let mut label = |name: &str, value: &str| {
        // A label is for finding jobs by; a value that cannot be one is in the payload all the same.
        let value: String = value.chars().filter(|c| !c.is_control() && *c != '=').take(60).collect();
        if !value.is_empty() {
            labels.insert(name.to_owned(), value);
        }
    };
    label("source", &finding.source);
    label("account", &finding.account);
    label("severity", finding.severity.map_or("", Severity::as_str));
    label("mapping", mapping.map_or("", |mapping| &mapping.name));
    label("policy", policy.unwrap_or_default());
    let updated = finding.updated_at.map(|at| at.to_string()).unwrap_or_default();
    let mut parts = vec![finding.id.as_str(), updated.as_str()];
    // A yard without mappings made this key before there were any.
    if let Some(policy) = policy {
        parts.extend([policy, resource.map_or("", |resource| &resource.id)]);
    }
    let digest = canonical_sha256(&Value::from(parts));
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut payload = json!({ "finding": finding.to_json() });
    if let (Some(mapping), Some(policy)) = (mapping, policy) {
        // Of its resources the one it answers for: a finding that names many makes as many jobs.
        let one = Finding { resources: resource.cloned().into_iter().collect(), ..finding.clone() };
        payload = json!({ "finding": one.to_json(), "answer": { "mapping": mapping.name, "policy": policy } });
    }
    let submission = Submission {
        capability: ANSWERED_BY.to_owned(),
        payload,
        tier: mapping.map_or(Tier::Priority, |mapping| mapping.tier),
        labels,
        run_timeout_seconds: None,
        start_within_seconds: None,
        delay_seconds: None,
        announce: false,
    };
    EventJob { policy: policy.map(str::to_owned), submission, key: format!("finding-{hex}") }
}
