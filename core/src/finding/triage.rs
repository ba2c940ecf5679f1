//! The built-in capability `finding-triage`: what a finding touches, how urgent it is, and why.
//!
//! The score is a sum of named points, cut to 0..=100, so that whoever disagrees can see with which. It
//! is made of what the finding itself says and of nothing else: no names are guessed at, no account is
//! looked up. The points are a judgement of this project's, on a scale where 80 means now.

mod hint;
mod score;

use serde_json::{Value, json};

use super::arn::{self, Arn};
use super::{BadFinding, Finding, NotAnEvent, Reading, Resource, Severity, Standing};
use crate::mapping::Mappings;

/// The version of a triage's JSON.
pub const TRIAGE_VERSION: u64 = 1;

/// When somebody should look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Urgency {
    /// Nobody has to.
    Informational,
    /// In the course of this week.
    ThisWeek,
    /// Today.
    Today,
    /// At once.
    Now,
}

/// Some of the points of a score.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// A stable word for it, such as `severity` or `exfiltration`.
    pub code: &'static str,
    /// What it adds, or takes away.
    pub points: i16,
    /// Why, for people.
    pub because: String,
}

/// A resource, with its ARN taken apart if it has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Touched {
    /// As in [`super::Resource`].
    pub kind: String,
    /// As in [`super::Resource`].
    pub id: String,
    /// The ARN's partition; none of these five for a bare id.
    pub partition: Option<String>,
    /// The ARN's region; empty for a global resource.
    pub region: Option<String>,
    /// The ARN's account; empty where the service leaves it out.
    pub account: Option<String>,
    /// The ARN's resource part.
    pub resource: Option<String>,
}

/// The resources of one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceGroup {
    /// The service as ARNs name it, such as `ec2`; `other` if neither ARN nor kind tells.
    pub service: String,
    /// Its resources, in the finding's order.
    pub resources: Vec<Touched>,
}

/// What came of looking at one finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Triage {
    /// The finding's id.
    pub finding_id: String,
    /// The finding's type.
    pub finding_type: String,
    /// The finding's severity.
    pub severity: Option<Severity>,
    /// Whether the finding still stands.
    pub standing: Standing,
    /// 0 to 100: the sum of the reasons' points, cut to that range.
    pub score: u8,
    /// What made the score, in the order it was added.
    pub reasons: Vec<Reason>,
    /// The account that is touched; empty if unknown.
    pub account: String,
    /// The region that is touched; empty if unknown.
    pub region: String,
    /// What is touched, by service in alphabetical order.
    pub services: Vec<ServiceGroup>,
    /// When somebody should look.
    pub urgency: Urgency,
    /// All of it in a sentence.
    pub summary: String,
}

/// A payload that the capability cannot work on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TriageError {
    /// It is neither of the two things it can be.
    #[error("payload: expected an object with either `event` or `finding`")]
    Payload,
    /// `event` is no event.
    #[error("payload.event is not an event")]
    Event(#[source] NotAnEvent),
    /// `finding` is no finding.
    #[error("payload.finding is not a finding")]
    Finding(#[source] BadFinding),
}

/// Judges one finding.
#[must_use]
pub fn triage(finding: &Finding) -> Triage {
    let reasons = score::reasons(finding);
    let sum: i32 = reasons.iter().map(|reason| i32::from(reason.points)).sum();
    // Within u8 after the clamp.
    let score = u8::try_from(sum.clamp(0, 100)).unwrap_or(0);
    let urgency = score::urgency(score, finding);
    Triage {
        finding_id: finding.id.clone(),
        finding_type: finding.finding_type.clone(),
        severity: finding.severity,
        standing: finding.standing,
        score,
        reasons,
        account: finding.account.clone(),
        region: finding.region.clone(),
        services: services(finding),
        urgency,
        summary: summary(finding, urgency),
    }
}

/// Runs the capability on a job's payload: `{"event": ...}` with an EventBridge envelope, or
/// `{"finding": ...}` with a finding's JSON, and beside that `answer`, the mapping and policy that the job was made for,
/// which comes back in the result. Each triage names the policies that answer for each resource under `mappings`. An
/// event without findings is an answer, not an error.
///
/// # Errors
///
/// Names the field at fault.
pub fn run(payload: &Value, mappings: &Mappings) -> Result<Value, TriageError> {
    let judged = |finding: &Finding| (triage(finding), answers(finding, mappings));
    match (payload.get("event"), payload.get("finding")) {
        (Some(event), None) => match super::read(event).map_err(TriageError::Event)? {
            Reading::Findings { findings, defects } => {
                let defects: Vec<String> = defects.iter().map(ToString::to_string).collect();
                let triages = findings.iter().map(judged).collect();
                Ok(answer("findings", triages, &defects, None))
            }
            Reading::Nothing { reason, .. } => Ok(answer("nothing", Vec::new(), &[], Some(&reason))),
            Reading::Unknown { .. } => {
                Ok(answer("unknown", Vec::new(), &[], Some("No reader knows events of this detail-type.")))
            }
        },
        (None, Some(finding)) => {
            let finding = Finding::from_json(finding).map_err(TriageError::Finding)?;
            let mut result = answer("findings", vec![judged(&finding)], &[], None);
            if let Some(answer) = payload.get("answer") {
                result["answer"] = answer.clone();
            }
            Ok(result)
        }
        (Some(_), Some(_)) | (None, None) => Err(TriageError::Payload),
    }
}

/// One shape for every outcome, the most urgent triage first.
fn answer(reading: &str, mut triages: Vec<(Triage, Value)>, defects: &[String], reason: Option<&str>) -> Value {
    triages.sort_by_key(|(triage, _)| std::cmp::Reverse((triage.urgency, triage.score)));
    let shown = |(triage, answers): (Triage, Value)| {
        let mut shown = triage.to_json();
        shown["answers"] = answers;
        shown
    };
    json!({
        "version": TRIAGE_VERSION,
        "reading": reading,
        "reason": reason,
        "triages": triages.into_iter().map(shown).collect::<Vec<_>>(),
        "defects": defects,
    })
}

/// Which policies would answer for each resource, and by which mapping; without a mapping none would.
fn answers(finding: &Finding, mappings: &Mappings) -> Value {
    let answer = |resource: Option<&Resource>| {
        let mapping = mappings.choose(finding, resource);
        json!({
            "resource": resource.map(|resource| json!({"kind": resource.kind, "id": resource.id})),
            "mapping": mapping.map(|mapping| mapping.name.as_str()),
            "policies": mapping.map(|mapping| mapping.policies.as_slice()).unwrap_or_default(),
        })
    };
    match finding.resources.as_slice() {
        [] => Value::from(vec![answer(None)]),
        resources => resources.iter().map(Some).map(answer).collect(),
    }
}

impl Urgency {
    /// The words for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Informational => "informational",
            Self::ThisWeek => "this week",
            Self::Today => "today",
            Self::Now => "now",
        }
    }
}

impl Triage {
    /// The triage as JSON.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let reasons: Vec<Value> =
            self.reasons.iter().map(|r| json!({"code": r.code, "points": r.points, "because": r.because})).collect();
        let services: Vec<Value> = self
            .services
            .iter()
            .map(|group| {
                let resources: Vec<Value> = group.resources.iter().map(Touched::to_json).collect();
                json!({"service": group.service, "resources": resources})
            })
            .collect();
        json!({
            "version": TRIAGE_VERSION,
            "finding_id": self.finding_id,
            "finding_type": self.finding_type,
            "severity": self.severity.map(Severity::as_str),
            "standing": self.standing.as_str(),
            "score": self.score,
            "urgency": self.urgency.as_str(),
            "summary": self.summary,
            "reasons": reasons,
            "touches": {"account": self.account, "region": self.region, "services": services},
        })
    }
}

impl Touched {
    fn to_json(&self) -> Value {
        json!({
            "kind": self.kind,
            "id": self.id,
            "partition": self.partition,
            "region": self.region,
            "account": self.account,
            "resource": self.resource,
        })
    }
}

fn services(finding: &Finding) -> Vec<ServiceGroup> {
    let mut groups: Vec<ServiceGroup> = Vec::new();
    for resource in &finding.resources {
        let arn = Arn::parse(&resource.id);
        let service = arn
            .map(|arn| arn.service.to_owned())
            .or_else(|| arn::service_of_kind(&resource.kind))
            .unwrap_or_else(|| "other".to_owned());
        let touched = Touched {
            kind: resource.kind.clone(),
            id: resource.id.clone(),
            partition: arn.map(|arn| arn.partition.to_owned()),
            region: arn.map(|arn| arn.region.to_owned()),
            account: arn.map(|arn| arn.account.to_owned()),
            resource: arn.map(|arn| arn.resource.to_owned()),
        };
        match groups.iter_mut().find(|group| group.service == service) {
            Some(group) => group.resources.push(touched),
            None => groups.push(ServiceGroup { service, resources: vec![touched] }),
        }
    }
    groups.sort_by(|one, other| one.service.cmp(&other.service));
    groups
}

fn summary(finding: &Finding, urgency: Urgency) -> String {
    let severity = match finding.severity {
        Some(Severity::Informational) => "Informational",
        Some(Severity::Low) => "Low",
        Some(Severity::Medium) => "Medium",
        Some(Severity::High) => "High",
        Some(Severity::Critical) => "Critical",
        None => "Unrated",
    };
    let kind = match finding.finding_type.as_str() {
        "" => &finding.detail_type,
        kind => kind,
    };
    let subject = match finding.resources.as_slice() {
        [] => "no named resource".to_owned(),
        [one] => format!("{} {}", one.kind, one.id),
        [one, more @ ..] => format!("{} {} and {} more", one.kind, one.id, more.len()),
    };
    let account = match finding.account.as_str() {
        "" => "an unknown account".to_owned(),
        account => format!("account {account}"),
    };
    let region = match finding.region.as_str() {
        "" => String::new(),
        region => format!(" ({region})"),
    };
    let advice = match urgency {
        Urgency::Now => "look now",
        Urgency::Today => "look today",
        Urgency::ThisWeek => "look this week",
        Urgency::Informational => "nothing to do",
    };
    format!("{severity} {kind} on {subject} in {account}{region}: {advice}.")
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;
    use crate::finding::Signal;

    fn finding(finding_type: &str, severity: Option<Severity>) -> Finding {
        let event = json!({"detail-type": "GuardDuty Finding", "account": "123456789012",
            "region": "eu-west-1", "detail": {"id": "f", "type": finding_type}});
        match super::super::read(&event) {
            Ok(Reading::Findings { mut findings, .. }) => Finding { severity, ..findings.remove(0) },
            other => panic!("{other:?}"),
        }
    }

    fn codes(triage: &Triage) -> Vec<(&str, i16)> {
        triage.reasons.iter().map(|r| (r.code, r.points)).collect()
    }

    #[test]
    fn severity_alone_decides_when_nothing_else_is_known() {
        for (severity, score, urgency) in [
            (Some(Severity::Critical), 80, Urgency::Now),
            (Some(Severity::High), 60, Urgency::Today),
            (Some(Severity::Medium), 40, Urgency::ThisWeek),
            (None, 30, Urgency::ThisWeek),
            (Some(Severity::Low), 20, Urgency::Informational),
            (Some(Severity::Informational), 5, Urgency::Informational),
        ] {
            let triage = triage(&finding("Some:Type", severity));
            assert_eq!((triage.score, triage.urgency), (score, urgency));
        }
    }

    #[test]
    fn what_an_attacker_does_makes_a_high_finding_urgent() {
        let mut finding = finding("Backdoor:EC2/C&CActivity.B!DNS", Some(Severity::High));
        finding.signals = vec![Signal::Public];
        let triage = triage(&finding);
        assert_eq!(codes(&triage), [("severity", 60), ("command-and-control", 20), ("exposure", 15)]);
        assert_eq!((triage.score, triage.urgency), (95, Urgency::Now));
    }

    #[test]
    fn the_score_is_its_reasons_cut_at_a_hundred() {
        let mut finding = finding("Exfiltration:IAMUser/AnomalousBehavior", Some(Severity::Critical));
        finding.signals = vec![Signal::RootIdentity];
        let triage = triage(&finding);
        let sum: i16 = triage.reasons.iter().map(|r| r.points).sum();
        assert!(sum > 100, "{sum}");
        assert_eq!(triage.score, 100);
    }

    #[test]
    fn what_is_settled_or_made_up_asks_for_nothing() {
        for standing in Standing::ALL {
            let mut finding = finding("Trojan:EC2/DropPoint", Some(Severity::Critical));
            finding.standing = standing;
            let urgency = triage(&finding).urgency;
            let stands = matches!(standing, Standing::Active | Standing::Notified);
            assert_eq!(urgency == Urgency::Now, stands, "{standing}");
        }
        let mut sample = finding("Trojan:EC2/DropPoint", Some(Severity::Critical));
        sample.signals = vec![Signal::Sample];
        let triage = triage(&sample);
        assert_eq!((triage.score, triage.urgency), (0, Urgency::Informational));
    }

    #[test]
    fn further_resources_count_a_little_and_not_without_end() {
        for (count, points) in [(1, None), (2, Some(2)), (6, Some(10)), (32, Some(10))] {
            let mut finding = finding("Some:Type", None);
            finding.resources =
                (0..count).map(|n| Resource { kind: "AwsEc2Instance".to_owned(), id: format!("i-{n}") }).collect();
            let triage = triage(&finding);
            let found = triage.reasons.iter().find(|r| r.code == "resources");
            assert_eq!(found.map(|r| r.points), points, "{count}");
        }
    }

    #[test]
    fn resources_are_grouped_by_the_service_of_their_arn_or_kind() {
        let mut finding = finding("Some:Type", None);
        finding.resources = [
            ("AwsS3Bucket", "arn:aws-cn:s3:::ledger"),
            ("AwsEc2Instance", "i-1"),
            ("Other", "arn:aws:ec2:eu-west-1:123456789012:volume/vol-1"),
            ("Other", "something"),
        ]
        .map(|(kind, id)| Resource { kind: kind.to_owned(), id: id.to_owned() })
        .to_vec();
        let triage = triage(&finding);
        let services: Vec<(&str, usize)> =
            triage.services.iter().map(|g| (g.service.as_str(), g.resources.len())).collect();
        assert_eq!(services, [("ec2", 2), ("other", 1), ("s3", 1)]);
        assert_eq!(triage.services[2].resources[0].partition.as_deref(), Some("aws-cn"));
    }

    #[test]
    fn a_payload_is_an_event_or_a_finding_and_errors_name_the_field() {
        let finding = finding("Some:Type", None).to_json();
        let answer = run(&json!({"finding": finding}), &Mappings::default()).unwrap();
        assert_eq!(answer["triages"][0]["score"], 30);
        for payload in [json!({}), json!(7), json!({"event": {}, "finding": finding})] {
            assert_eq!(run(&payload, &Mappings::default()), Err(TriageError::Payload));
        }
        let error = run(&json!({"event": []}), &Mappings::default()).unwrap_err();
        assert_eq!(error.to_string(), "payload.event is not an event");
        assert_eq!(error.source().unwrap().to_string(), "event: expected a JSON object, found a list");
        let error = run(&json!({"finding": {"version": 1}}), &Mappings::default()).unwrap_err();
        assert!(error.source().unwrap().to_string().starts_with("finding.source: "));
    }

    #[test]
    fn an_event_without_findings_is_an_answer() {
        let unknown = run(&json!({"event": {"source": "my.app"}}), &Mappings::default()).unwrap();
        assert_eq!(unknown["reading"], "unknown");
        assert_eq!(unknown["triages"], json!([]));
    }
}
