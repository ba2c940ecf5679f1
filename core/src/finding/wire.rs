//! A finding as JSON: the payload of the jobs that it causes.

use serde::Serialize;
use serde_json::Value;

use super::envelope::{is_account, is_region};
use super::field;
use super::{Finding, OTHER_TYPES_MAX, RESOURCES_MAX, Resource, Severity, Signal, Standing, TEXT_MAX_CHARS};

/// The version of a finding's JSON. Within a version fields may be added, and are ignored by readers
/// that do not know them; anything else is another version.
pub const FINDING_VERSION: u64 = 1;

/// JSON that is no finding, or none of a version known here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: expected {expected}")]
pub struct BadFinding {
    /// The field at fault, such as `finding.resources[2].id`.
    pub field: String,
    /// What it should have been.
    pub expected: String,
}

#[derive(Serialize)]
struct WireFinding<'a> {
    version: u64,
    source: &'a str,
    detail_type: &'a str,
    finding_type: &'a str,
    other_types: &'a [String],
    title: &'a str,
    severity: Option<&'static str>,
    account: &'a str,
    region: &'a str,
    resources: Vec<WireResource<'a>>,
    id: &'a str,
    updated_at: Option<String>,
    standing: &'static str,
    signals: Vec<&'static str>,
}

#[derive(Serialize)]
struct WireResource<'a> {
    kind: &'a str,
    id: &'a str,
}

impl Finding {
    /// The finding as JSON.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let wire = WireFinding {
            version: FINDING_VERSION,
            source: &self.source,
            detail_type: &self.detail_type,
            finding_type: &self.finding_type,
            other_types: &self.other_types,
            title: &self.title,
            severity: self.severity.map(Severity::as_str),
            account: &self.account,
            region: &self.region,
            resources: self
                .resources
                .iter()
                .map(|resource| WireResource { kind: &resource.kind, id: &resource.id })
                .collect(),
            id: &self.id,
            updated_at: self.updated_at.map(|time| time.to_string()),
            standing: self.standing.as_str(),
            signals: self.signals.iter().map(|signal| signal.as_str()).collect(),
        };
        // Strings, numbers and lists of them: there is nothing here that JSON could refuse.
        serde_json::to_value(wire).unwrap_or_default()
    }

    /// Reads what [`Finding::to_json`] wrote.
    ///
    /// Anyone may submit a job with such a payload, so what [`super::read`] would have cleaned or left
    /// out is refused here.
    ///
    /// # Errors
    ///
    /// Names the first field at fault.
    pub fn from_json(json: &Value) -> Result<Self, BadFinding> {
        let finding = Place::new("finding".to_owned(), json);
        if !json.is_object() {
            return Err(finding.bad("a JSON object"));
        }
        let version = finding.get("version");
        if version.value.as_u64() != Some(FINDING_VERSION) {
            return Err(version.bad(&format!("{FINDING_VERSION}, the version known here")));
        }
        Ok(Self {
            source: finding.get("source").text()?,
            detail_type: finding.get("detail_type").text()?,
            finding_type: finding.get("finding_type").text()?,
            other_types: finding
                .get("other_types")
                .list(OTHER_TYPES_MAX)?
                .iter()
                .map(Place::text)
                .collect::<Result<_, _>>()?,
            title: finding.get("title").text()?,
            severity: finding.get("severity").severity()?,
            account: finding.get("account").checked(is_account, "12 digits")?,
            region: finding.get("region").checked(is_region, "a region")?,
            resources: finding
                .get("resources")
                .list(RESOURCES_MAX)?
                .iter()
                .map(|item| Ok(Resource { kind: item.get("kind").text()?, id: item.get("id").id()? }))
                .collect::<Result<_, _>>()?,
            id: finding.get("id").id()?,
            updated_at: finding.get("updated_at").time()?,
            standing: finding.get("standing").standing()?,
            signals: finding.get("signals").signals()?,
        })
    }
}

/// A place in a finding's JSON. Unlike the reader of events it is strict: we wrote this.
struct Place<'a> {
    path: String,
    value: &'a Value,
}

static ABSENT: Value = Value::Null;

impl<'a> Place<'a> {
    fn new(path: String, value: &'a Value) -> Self {
        Self { path, value }
    }

    fn get(&self, key: &str) -> Place<'a> {
        Place::new(format!("{}.{key}", self.path), self.value.get(key).unwrap_or(&ABSENT))
    }

    fn bad(&self, expected: &str) -> BadFinding {
        BadFinding { field: self.path.clone(), expected: expected.to_owned() }
    }

    fn text(&self) -> Result<String, BadFinding> {
        match self.value.as_str() {
            Some(text) if field::is_clean(text, TEXT_MAX_CHARS) => Ok(text.to_owned()),
            Some(_) | None => Err(self.bad(&format!("a string of at most {TEXT_MAX_CHARS} printable characters"))),
        }
    }

    fn id(&self) -> Result<String, BadFinding> {
        match self.value.as_str() {
            Some(id) if !id.is_empty() && field::is_exact(id) => Ok(id.to_owned()),
            Some(_) | None => Err(self.bad(&format!("an id of 1 to {} printable characters", super::ID_MAX_CHARS))),
        }
    }

    fn checked(&self, possible: fn(&str) -> bool, what: &str) -> Result<String, BadFinding> {
        match self.value.as_str() {
            Some(text) if text.is_empty() || possible(text) => Ok(text.to_owned()),
            Some(_) | None => Err(self.bad(&format!("{what}, or an empty string"))),
        }
    }

    fn list(&self, max: usize) -> Result<Vec<Place<'a>>, BadFinding> {
        match self.value {
            // A writer that has no items may leave the list out.
            Value::Null => Ok(Vec::new()),
            Value::Array(items) if items.len() <= max => Ok(items
                .iter()
                .enumerate()
                .map(|(index, item)| Place::new(format!("{}[{index}]", self.path), item))
                .collect()),
            Value::Array(_) | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
                Err(self.bad(&format!("a list of at most {max} items")))
            }
        }
    }

    fn severity(&self) -> Result<Option<Severity>, BadFinding> {
        if self.value.is_null() {
            return Ok(None);
        }
        let word = self.value.as_str().unwrap_or_default();
        match word.parse() {
            Ok(severity) => Ok(Some(severity)),
            Err(_) => Err(self.one_of(Severity::ALL.map(Severity::as_str))),
        }
    }

    fn standing(&self) -> Result<Standing, BadFinding> {
        Standing::ALL
            .into_iter()
            .find(|standing| self.value.as_str() == Some(standing.as_str()))
            .ok_or_else(|| self.one_of(Standing::ALL.map(Standing::as_str)))
    }

    fn signals(&self) -> Result<Vec<Signal>, BadFinding> {
        let mut signals = Vec::new();
        for item in self.list(Signal::ALL.len())? {
            let signal = Signal::ALL
                .into_iter()
                .find(|signal| item.value.as_str() == Some(signal.as_str()))
                .ok_or_else(|| item.one_of(Signal::ALL.map(Signal::as_str)))?;
            signals.push(signal);
        }
        signals.sort_unstable();
        signals.dedup();
        Ok(signals)
    }

    fn time(&self) -> Result<Option<jiff::Timestamp>, BadFinding> {
        match self.value {
            Value::Null => Ok(None),
            Value::String(text) => match text.parse() {
                Ok(time) => Ok(Some(time)),
                Err(_) => Err(self.bad("a time such as 2017-12-08T15:32:49Z")),
            },
            Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                Err(self.bad("a time such as 2017-12-08T15:32:49Z"))
            }
        }
    }

    fn one_of<const N: usize>(&self, words: [&str; N]) -> BadFinding {
        self.bad(&format!("one of {}", words.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn finding() -> Finding {
        Finding {
            source: "aws.guardduty".to_owned(),
            detail_type: "GuardDuty Finding".to_owned(),
            finding_type: "Backdoor:EC2/C&CActivity.B!DNS".to_owned(),
            other_types: vec!["GuardDuty.1".to_owned()],
            title: "A title".to_owned(),
            severity: Some(Severity::Medium),
            account: "123456789012".to_owned(),
            region: "us-east-1".to_owned(),
            resources: vec![Resource { kind: "AwsEc2Instance".to_owned(), id: "i-99999999".to_owned() }],
            id: "b4b01b60".to_owned(),
            updated_at: "2017-12-08T15:32:49.865Z".parse().ok(),
            standing: Standing::Active,
            signals: vec![Signal::Public, Signal::Sample],
        }
    }

    #[test]
    fn a_finding_comes_back_as_it_went() {
        assert_eq!(Finding::from_json(&finding().to_json()), Ok(finding()));
    }

    #[test]
    fn a_field_of_tomorrow_is_ignored_and_a_list_of_today_may_be_missing() {
        let mut json = finding().to_json();
        json["owner"] = json!("team-a");
        json.as_object_mut().unwrap().remove("signals");
        let expected = Finding { signals: Vec::new(), ..finding() };
        assert_eq!(Finding::from_json(&json), Ok(expected));
    }

    #[test]
    fn every_refusal_names_its_field() {
        for (pointer, value, field) in [
            ("/version", json!(2), "finding.version"),
            ("/title", json!("bell\u{7}"), "finding.title"),
            ("/title", json!("x".repeat(513)), "finding.title"),
            ("/severity", json!("severe"), "finding.severity"),
            ("/account", json!("12"), "finding.account"),
            ("/region", json!("EU"), "finding.region"),
            ("/resources/0/id", json!(""), "finding.resources[0].id"),
            ("/resources", json!({}), "finding.resources"),
            ("/resources", json!(vec![json!({}); 33]), "finding.resources"),
            ("/id", json!(null), "finding.id"),
            ("/updated_at", json!("soon"), "finding.updated_at"),
            ("/standing", json!("new"), "finding.standing"),
            ("/signals/0", json!("loud"), "finding.signals[0]"),
            ("", json!("text"), "finding"),
        ] {
            let mut json = finding().to_json();
            *json.pointer_mut(pointer).unwrap() = value;
            let refused = Finding::from_json(&json).unwrap_err();
            assert_eq!(refused.field, field);
        }
    }
}
