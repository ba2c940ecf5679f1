//! One finding, whatever service sent it.
//!
//! Security Hub, GuardDuty, Config, Macie, Inspector, IAM Access Analyzer, Health and CloudTrail all
//! reach the yard as EventBridge envelopes, and each says "what, how bad, where" in its own words.
//! [`read`] turns an envelope into [`Finding`]s of one shape, which a mapping then matches to
//! policies. It is a function of the event alone.
//!
//! What it holds to:
//!
//! - **Any JSON object is an answer.** An event nobody knows is [`Reading::Unknown`]; one that is
//!   known to ask for nothing is [`Reading::Nothing`], with the reason. [`NotAnEvent`] is left for
//!   values that are no object at all.
//! - **A finding is never lost to a field, or to a sibling.** What cannot be read is left out and
//!   named in the [`Defect`]s beside the findings; the rest is read.
//! - **Nothing is guessed that could make the yard act on the wrong thing.** An account, a region or
//!   a resource id that is stated and cannot be one is left empty or out, never replaced by the
//!   envelope's, which may be the aggregator's. [`read`] does not look at the envelope's `resources`:
//!   they are often empty, or name the finding.
//! - **Everything is bounded, and fit to print.** See the `*_MAX*` constants. Titles and ids are chosen
//!   by whoever caused the finding, and reach logs and terminals.
//!
//! An event is known by its `detail-type`, not by its `source`: `aws.` sources are reserved to AWS, so a
//! replayed event has to carry another, and the rule that lets it in names the sources it trusts.

mod envelope;
mod field;

// One room for each sender's notation.
mod access_analyzer;
mod cloudtrail;
mod config;
mod guardduty;
mod health;
mod inspector;
mod macie;
mod ocsf;
mod security_hub;

pub mod arn;
mod judgement;
mod wire;

pub mod triage;

use std::fmt;

use serde_json::Value;

use self::envelope::{Envelope, Outcome, settle_resources};
pub(crate) use self::envelope::{is_account, is_region};
use self::field::{Defects, Node};
pub use self::judgement::{NotASeverity, Severity, Signal, Standing};
pub use self::wire::{BadFinding, FINDING_VERSION};

/// Findings read from one event: what BatchImportFindings of the Security Hub API takes in one call.
pub const FINDINGS_MAX: usize = 100;

/// Resources read from one finding: the limit of `Resources` in the AWS Security Finding Format.
pub const RESOURCES_MAX: usize = 32;

/// Finding types kept beside the first: the limit of `Types` in the AWS Security Finding Format.
pub const OTHER_TYPES_MAX: usize = 50;

/// Characters kept of a title, a type or a source: twice the 256 that the AWS Security Finding Format
/// gives a title, because not every sender keeps to it.
pub const TEXT_MAX_CHARS: usize = 512;

/// Characters of a finding's or resource's id: the longest ARN that IAM's documentation allows.
pub const ID_MAX_CHARS: usize = 2_048;

/// Defects kept of one event: one for every finding, and a few more.
pub const DEFECTS_MAX: usize = 128;

/// Something a finding is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Resource {
    /// The resource's type as the AWS Security Finding Format spells it, whoever sent the finding:
    /// `AwsEc2Instance`, `AwsS3Bucket`; `Other` if the event does not say.
    pub kind: String,
    /// The id as the event gives it: an ARN or a bare id such as `i-99999999`. Never cut.
    pub id: String,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The envelope's `source`, such as `aws.guardduty`.
    pub source: String,
    /// The envelope's `detail-type`.
    pub detail_type: String,
    /// What was found, in the sender's words: the first of `Types` (Security Hub), `type` (GuardDuty,
    /// Macie, Inspector), the rule's name (Config), `service:Call` (CloudTrail), the event type code
    /// (Health). Empty if the event names none.
    pub finding_type: String,
    /// The further types of a finding that has several, and its control id (`S3.8`) if it is the
    /// verdict of a Security Hub control. A mapping may match any of them.
    pub other_types: Vec<String>,
    /// One line for people.
    pub title: String,
    /// None if the sender rates nothing (Config, CloudTrail, Health, Access Analyzer), or not yet.
    pub severity: Option<Severity>,
    /// The account the finding is about, 12 digits; empty if the event does not name a possible one.
    pub account: String,
    /// The region the finding is about; empty if the event does not name a possible one.
    pub region: String,
    /// What it is about, without repeats.
    pub resources: Vec<Resource>,
    /// The sender's id for it, or `derived:` and the SHA-256 of what was sent.
    pub id: String,
    /// When it last changed; the event's own time if it does not say. The same finding is sent again at
    /// every change, so that id and this together tell a repeat from news.
    pub updated_at: Option<jiff::Timestamp>,
    /// Whether it still asks for something.
    pub standing: Standing,
    /// What else the event states that bears on urgency, in order, without repeats.
    pub signals: Vec<Signal>,
}

/// Something in an event that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defect {
    /// Where, such as `detail.findings[3].AwsAccountId`.
    pub path: String,
    /// What was expected there, and what was found.
    pub problem: String,
}

/// What an event turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    /// An event of a known sender. Both lists can be empty, not both of them together.
    Findings {
        /// The findings, in the event's order.
        findings: Vec<Finding>,
        /// What could not be read of them.
        defects: Vec<Defect>,
    },
    /// An event that is known to carry nothing to act on.
    Nothing {
        /// The envelope's `detail-type`.
        detail_type: String,
        /// Why, as a sentence.
        reason: String,
    },
    /// An event of a sender nobody here knows.
    Unknown {
        /// The envelope's `source`; empty if it has none.
        source: String,
        /// The envelope's `detail-type`; empty if it has none.
        detail_type: String,
    },
}

/// The value is not an event of any kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: expected {expected}, found {found}")]
pub struct NotAnEvent {
    /// The field at fault; `event` is the whole value.
    pub field: String,
    /// What it should have been.
    pub expected: &'static str,
    /// What it was.
    pub found: &'static str,
}

/// Reads an EventBridge envelope, or the invocation of a Config custom rule.
///
/// # Errors
///
/// Only for a value that is not a JSON object.
pub fn read(event: &Value) -> Result<Reading, NotAnEvent> {
    if !event.is_object() {
        return Err(NotAnEvent {
            field: "event".to_owned(),
            expected: "a JSON object",
            found: field::type_name(event),
        });
    }
    let mut defects = Defects::default();
    let (detail_type, outcome) = if config::is_rule_invocation(event) {
        let outcome = config::rule_invocation(event, &mut defects);
        (config::RULE_INVOCATION.to_owned(), outcome)
    } else {
        let envelope = Envelope::open(event, &mut defects);
        let Some(sender) = sender(&envelope.source, &envelope.detail_type) else {
            return Ok(Reading::Unknown { source: envelope.source, detail_type: envelope.detail_type });
        };
        let outcome = read_sender(sender, &envelope, &mut defects);
        (envelope.detail_type, outcome)
    };
    Ok(match outcome {
        Outcome::Findings(findings) => Reading::Findings { findings, defects: defects.into_vec() },
        Outcome::Nothing(reason) => Reading::Nothing { detail_type, reason },
    })
}

/// Reads an event of a sender nobody here knows as a finding, of what its envelope alone says. It is for an event that
/// an operator has named in a mapping: then the envelope's `resources`, which no known sender is believed, are all there
/// is to go by.
pub fn read_plainly(event: &Value) -> (Finding, Vec<Defect>) {
    let mut defects = Defects::default();
    let envelope = Envelope::open(event, &mut defects);
    let root = Node::new("", event);
    let list = root.get("resources");
    // The envelope does not say of what type they are.
    let found = list.items(&mut defects).iter().filter_map(|field| field.resource("Other", &mut defects)).collect();
    let finding = Finding {
        finding_type: envelope.detail_type.clone(),
        title: envelope.detail_type.clone(),
        resources: settle_resources(found, "resources", &mut defects),
        id: envelope.id_of(&root.get("id"), envelope.detail.value(), &mut defects),
        ..envelope.blank()
    };
    (finding, defects.into_vec())
}

/// Who sends what: one variant for each shape of `detail`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sender {
    SecurityHub,
    SecurityHubOcsf,
    SecurityHubInsight,
    GuardDuty,
    ConfigCompliance,
    ConfigItem,
    Macie,
    Inspector,
    AccessAnalyzer,
    AccessPreview,
    CloudTrail,
    Health,
    Schedule,
}

fn sender(source: &str, detail_type: &str) -> Option<Sender> {
    Some(match detail_type {
        "Security Hub Findings - Imported" | "Security Hub Findings - Custom Action" => Sender::SecurityHub,
        "Findings Imported V2" => Sender::SecurityHubOcsf,
        "Security Hub Insight Results" => Sender::SecurityHubInsight,
        "GuardDuty Finding" => Sender::GuardDuty,
        "Config Rules Compliance Change" => Sender::ConfigCompliance,
        "Config Configuration Item Change" => Sender::ConfigItem,
        "Macie Finding" => Sender::Macie,
        "Inspector2 Finding" => Sender::Inspector,
        "Access Analyzer Finding" | "Unused Access Finding for IAM entities" => Sender::AccessAnalyzer,
        "Access Preview State Change" => Sender::AccessPreview,
        "AWS API Call via CloudTrail"
        | "AWS Console Action via CloudTrail"
        | "AWS Console Sign In via CloudTrail"
        | "AWS Service Event via CloudTrail" => Sender::CloudTrail,
        "AWS Health Event" | "AWS Health Abuse Event" => Sender::Health,
        // The one name here that is common enough for somebody else's event to bear it.
        "Scheduled Event" if matches!(source, "aws.events" | "aws.scheduler") => Sender::Schedule,
        _ => return None,
    })
}

/// Sources that send nothing but unrated findings.
pub(crate) const UNRATED_SOURCES: [&str; 4] = ["aws.access-analyzer", "aws.config", "aws.health", "aws.signin"];

/// Whether findings of such events are rated; None: nobody here knows.
pub(crate) fn is_rated(detail_type: &str) -> Option<bool> {
    if detail_type == config::RULE_INVOCATION {
        return Some(false);
    }
    Some(match sender("", detail_type)? {
        Sender::SecurityHub
        | Sender::SecurityHubOcsf
        | Sender::SecurityHubInsight
        | Sender::GuardDuty
        | Sender::Macie
        | Sender::Inspector => true,
        Sender::ConfigCompliance
        | Sender::ConfigItem
        | Sender::AccessAnalyzer
        | Sender::AccessPreview
        | Sender::CloudTrail
        | Sender::Health
        | Sender::Schedule => false,
    })
}

fn read_sender(sender: Sender, envelope: &Envelope<'_>, defects: &mut Defects) -> Outcome {
    match sender {
        Sender::SecurityHub => security_hub::findings(envelope, defects),
        Sender::SecurityHubOcsf => ocsf::findings(envelope, defects),
        Sender::SecurityHubInsight => {
            Outcome::nothing("Insight results count findings by resource and carry none of them.")
        }
        Sender::GuardDuty => guardduty::finding(envelope, defects),
        Sender::ConfigCompliance => config::compliance_change(envelope, defects),
        Sender::ConfigItem => config::item_change(envelope, defects),
        Sender::Macie => macie::finding(envelope, defects),
        Sender::Inspector => inspector::finding(envelope, defects),
        Sender::AccessAnalyzer => access_analyzer::finding(envelope, defects),
        Sender::AccessPreview => Outcome::nothing("An access preview is about a policy that is not in force."),
        Sender::CloudTrail => cloudtrail::call(envelope, defects),
        Sender::Health => health::event(envelope, defects),
        Sender::Schedule => Outcome::nothing("A schedule's tick is not a finding."),
    }
}

impl Finding {
    /// Its type and its other types.
    pub fn types(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.finding_type.as_str())
            .chain(self.other_types.iter().map(String::as_str))
            .filter(|name| !name.is_empty())
    }
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.problem)
    }
}
