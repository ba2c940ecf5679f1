//! The envelope that EventBridge puts around every event (EventBridge User Guide, "AWS service event
//! metadata"), and what all senders' findings have in common.

use jiff::Timestamp;
use serde_json::Value;

use super::field::{self, Defects, Node};
use super::{Finding, RESOURCES_MAX, Resource, Signal, Standing};

/// What a sender's room made of an event.
#[derive(Debug)]
pub(super) enum Outcome {
    Findings(Vec<Finding>),
    Nothing(String),
}

impl Outcome {
    pub(super) fn nothing(reason: &str) -> Self {
        Self::Nothing(reason.to_owned())
    }
}

/// An envelope, opened.
#[derive(Debug)]
pub(super) struct Envelope<'a> {
    pub(super) source: String,
    pub(super) detail_type: String,
    pub(super) account: String,
    pub(super) region: String,
    pub(super) time: Option<Timestamp>,
    pub(super) detail: Node<'a>,
}

impl<'a> Envelope<'a> {
    pub(super) fn open(event: &'a Value, defects: &mut Defects) -> Self {
        let root = Node::new("", event);
        Self {
            source: root.get("source").text(defects).unwrap_or_default(),
            detail_type: root.get("detail-type").text(defects).unwrap_or_default(),
            account: stated(&[root.get("account")], "", is_account, ACCOUNT, defects),
            region: stated(&[root.get("region")], "", is_region, REGION, defects),
            time: root.get("time").time(defects),
            detail: root.get("detail"),
        }
    }

    /// The account a finding is about: the first of these fields that is there, else the envelope's.
    pub(super) fn account_of(&self, fields: &[Node<'_>], defects: &mut Defects) -> String {
        stated(fields, &self.account, is_account, ACCOUNT, defects)
    }

    /// The region a finding is about, likewise.
    pub(super) fn region_of(&self, fields: &[Node<'_>], defects: &mut Defects) -> String {
        stated(fields, &self.region, is_region, REGION, defects)
    }

    /// When a finding changed: the first of these fields that is a time, else the envelope's. A sender's
    /// unreadable time must not make an update look like a repeat.
    pub(super) fn time_of(&self, fields: &[Node<'_>], defects: &mut Defects) -> Option<Timestamp> {
        fields.iter().find_map(|field| field.time(defects)).or(self.time)
    }

    /// The id as given, or one derived from what was sent: the same for a repeat, another for any
    /// other. The envelope's id and time are left out, as they differ when a sender repeats itself.
    pub(super) fn id_of(&self, field: &Node<'_>, body: &Value, defects: &mut Defects) -> String {
        field.finding_id(defects).unwrap_or_else(|| self.derived_id(body))
    }

    pub(super) fn derived_id(&self, body: &Value) -> String {
        let names =
            [&self.source, &self.detail_type, &self.account, &self.region].map(|name| Value::from(name.as_str()));
        let mut parts: Vec<&Value> = names.iter().collect();
        parts.push(body);
        format!("derived:{}", field::digest(&parts))
    }

    /// A finding that says what the envelope says; a sender's room fills in the rest.
    pub(super) fn blank(&self) -> Finding {
        Finding {
            source: self.source.clone(),
            detail_type: self.detail_type.clone(),
            finding_type: String::new(),
            other_types: Vec::new(),
            title: String::new(),
            severity: None,
            account: self.account.clone(),
            region: self.region.clone(),
            resources: Vec::new(),
            id: String::new(),
            updated_at: self.time,
            standing: Standing::Active,
            signals: Vec::new(),
        }
    }

    /// The findings of an event that carries a list of them in `detail.findings`, each read by `read`.
    pub(super) fn each_finding(
        &self,
        defects: &mut Defects,
        read: impl Fn(&Node<'_>, &Self, &mut Defects) -> Finding,
    ) -> Outcome {
        let list = self.detail.get("findings");
        if list.is_absent() {
            list.expected("a list of findings", defects);
        }
        let mut findings = Vec::new();
        for node in list.items(defects) {
            if node.object(defects).is_some() {
                findings.push(read(&node, self, defects));
            }
        }
        if findings.is_empty() && list.value().as_array().is_some_and(Vec::is_empty) {
            return Outcome::nothing("The event's list of findings is empty.");
        }
        Outcome::Findings(findings)
    }
}

/// A list of resources as a finding holds it: without repeats, within the limit.
pub(super) fn settle_resources(found: Vec<Resource>, path: &str, defects: &mut Defects) -> Vec<Resource> {
    let mut kept: Vec<Resource> = Vec::new();
    let mut left_out: usize = 0;
    for resource in found {
        if kept.contains(&resource) {
            continue;
        }
        if kept.len() < RESOURCES_MAX {
            kept.push(resource);
        } else {
            left_out += 1;
        }
    }
    if left_out > 0 {
        defects.add(path, format!("{left_out} resources beyond the first {RESOURCES_MAX} are not read"));
    }
    kept
}

/// Signals as a finding holds them.
pub(super) fn settle_signals<const N: usize>(stated: [(Signal, bool); N]) -> Vec<Signal> {
    let mut signals: Vec<Signal> = stated.into_iter().filter_map(|(signal, holds)| holds.then_some(signal)).collect();
    signals.sort_unstable();
    signals.dedup();
    signals
}

/// Whether text can be an account id: 12 digits (AWS Account Management Reference Guide).
pub(crate) fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit())
}

/// Whether text can be a region, or stand in for one as `global` and `aws-global` do.
pub(crate) fn is_region(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 64
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

const ACCOUNT: &str = "an account id of 12 digits";
const REGION: &str = "a region such as eu-west-1";

/// The first field that is there, or the fallback if none is. One that is there and cannot be true
/// yields nothing: the fallback may be the aggregator's, and acting there would be worse than not acting.
fn stated(
    fields: &[Node<'_>],
    fallback: &str,
    possible: fn(&str) -> bool,
    expected: &str,
    defects: &mut Defects,
) -> String {
    let Some(field) = fields.iter().find(|field| !field.is_absent()) else {
        return fallback.to_owned();
    };
    match field.value().as_str() {
        Some(text) if possible(text) => text.to_owned(),
        Some(_) => {
            defects.add(field.path(), format!("expected {expected}"));
            String::new()
        }
        None => {
            field.expected(expected, defects);
            String::new()
        }
    }
}
