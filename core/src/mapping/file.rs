//! policies/policy-mappings.json: text in, [`Mappings`] or everything that is wrong with it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;

use super::index::Builder;
use super::{ALTERNATIVES_MAX, Field, MAPPED_POLICIES_MAX, MAPPINGS_MAX, Mapping, Mappings, Match};
use crate::finding::{self, Severity, TEXT_MAX_CHARS, arn};
use crate::job::{Tier, one_line};
use crate::policies::{CUSTODIAN, Document, Reading, Stand, Violations, Wrong, fields, given, is_name, not_json};

/// Policies named in a message about one that is not there.
const NAMED: usize = 10;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    #[serde(rename = "match")]
    matches: Value,
    policies: Vec<String>,
    #[serde(default = "priority")]
    tier: Tier,
}

/// A finding waits for nobody's convenience.
fn priority() -> Tier {
    Tier::Priority
}

// Any values: what is neither a string nor a list of them is refused in the same words everywhere.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MatchEntry {
    #[serde(default, deserialize_with = "given")]
    source: Option<Value>,
    #[serde(default, deserialize_with = "given")]
    detail_type: Option<Value>,
    #[serde(default, deserialize_with = "given")]
    finding_type: Option<Value>,
    #[serde(default, deserialize_with = "given")]
    resource_type: Option<Value>,
    #[serde(default, deserialize_with = "given")]
    severity_at_least: Option<Value>,
    #[serde(default, deserialize_with = "given")]
    account: Option<Value>,
    #[serde(default, deserialize_with = "given")]
    region: Option<Value>,
}

impl Mappings {
    /// Reads the mappings. `file` names them in errors; `policies` are the policy files there are, by their paths in
    /// the policies folder.
    ///
    /// # Errors
    ///
    /// [`Violations`] names everything that is wrong, and where it stands.
    pub fn parse(file: &str, text: &str, policies: &BTreeSet<String>) -> Result<Self, Violations> {
        Self::read(Reading::WRITTEN, file, text, policies)
    }

    /// Reads those that were written or pushed.
    pub(crate) fn read(
        reading: Reading,
        file: &str,
        text: &str,
        policies: &BTreeSet<String>,
    ) -> Result<Self, Violations> {
        if !reading.checked {
            // JSON is YAML, but not all YAML is JSON: other readers of this file must be able to read it, too.
            serde_json::from_str::<Value>(text).map_err(|error| not_json(file, &error))?;
        }
        let document = Document::read(reading, file, text, "mappings")?;
        if document.len() > MAPPINGS_MAX {
            let there = document.len();
            return Err(document
                .whole()
                .error("", &format!("expected at most {MAPPINGS_MAX}, there are {there}"))
                .into());
        }
        let whole = document.whole();
        let stands: Vec<Stand> = (0..document.len()).map(|at| document.place(at)).collect();
        let mut names = BTreeMap::new();
        let mappings = document.each(|entry: Entry, at| {
            let mut wrong = Vec::new();
            if let Some(first) = names.insert(entry.name.clone(), at) {
                wrong.push(("name".to_owned(), format!("is listed twice, also as mappings[{first}]")));
            }
            let mapping = entry.into_mapping(policies, &mut wrong);
            if wrong.is_empty() { Ok(mapping) } else { Err(wrong) }
        })?;
        let alternatives = mappings.iter().map(|mapping| mapping.matches.alternatives()).fold(0, usize::saturating_add);
        if alternatives > ALTERNATIVES_MAX {
            let what = format!(
                "expected at most {ALTERNATIVES_MAX} alternatives, there are {alternatives}: a mapping has \
                 one for each way to take one value of each of its lists; leave lists out, or shorten them"
            );
            return Err(whole.error("", &what).into());
        }
        Ok(Self::of(mappings, &stands))
    }

    fn of(mappings: Vec<Mapping>, stands: &[Stand]) -> Self {
        let mut builder = Builder::default();
        let mut warnings = Vec::new();
        for (place, (mapping, stand)) in mappings.iter().zip(stands).enumerate() {
            warnings.extend(mapping.matches.never_matches().into_iter().map(|(path, what)| stand.error(&path, &what)));
            if let Some(earlier) = builder.enter(place, &mapping.matches) {
                let names: Vec<String> = earlier.iter().map(|at| format!("`{}`", mappings[*at].name)).collect();
                let (names, them) = (listed(&names), if names.len() == 1 { "stands" } else { "stand" });
                let name = &mapping.name;
                let what = format!("`{name}` never answers: {names} asked for the same and {them} earlier; remove one");
                warnings.push(stand.error("match", &what));
            }
        }
        Self { mappings, warnings, index: builder.build() }
    }
}

impl Entry {
    fn into_mapping(self, there: &BTreeSet<String>, wrong: &mut Vec<Wrong>) -> Mapping {
        let Self { name, matches, policies, tier } = self;
        if !is_name(&name) {
            let what = "expected 1 to 64 lower-case letters, digits and `-`";
            wrong.push(("name".to_owned(), what.to_owned()));
        }
        match policies.len() {
            0 => wrong.push(("policies".to_owned(), "expected at least one".to_owned())),
            1..=MAPPED_POLICIES_MAX => {}
            more => {
                wrong
                    .push(("policies".to_owned(), format!("expected at most {MAPPED_POLICIES_MAX}, there are {more}")));
            }
        }
        for (at, policy) in policies.iter().enumerate() {
            let what = match () {
                () if policies[..at].contains(policy) => "is listed twice".to_owned(),
                () if !is_policy_path(policy) => {
                    format!("expected a path such as {CUSTODIAN}stop-instance.yml: below {CUSTODIAN}, without `..`")
                }
                () if !there.contains(policy) => {
                    let policies: Vec<String> = there.iter().cloned().collect();
                    format!("there is no `{}`; there are: {}", one_line(policy, 200), listed(&policies))
                }
                () => continue,
            };
            wrong.push((format!("policies[{at}]"), what));
        }
        let matches = match fields::<MatchEntry>(&matches) {
            Ok(matches) => matches.into_match(wrong),
            Err((path, what)) => {
                let path = if path.is_empty() { "match".to_owned() } else { format!("match.{path}") };
                wrong.push((path, what));
                Match::default()
            }
        };
        Mapping { name, matches, policies, tier }
    }
}

impl MatchEntry {
    fn into_match(self, wrong: &mut Vec<Wrong>) -> Match {
        let text = |_: &str| None;
        let account = |value: &str| (!finding::is_account(value)).then_some("expected an account id of 12 digits");
        let region = |value: &str| (!finding::is_region(value)).then_some("expected a region such as eu-west-1");
        Match {
            source: values(Field::Source, self.source, text, wrong),
            detail_type: values(Field::DetailType, self.detail_type, text, wrong),
            finding_type: values(Field::FindingType, self.finding_type, text, wrong),
            resource_type: values(Field::ResourceType, self.resource_type, text, wrong),
            severity_at_least: self.severity_at_least.and_then(|word| severity(&word, wrong)),
            account: values(Field::Account, self.account, account, wrong),
            region: values(Field::Region, self.region, region, wrong),
        }
    }
}

fn values(
    field: Field,
    given: Option<Value>,
    bad: fn(&str) -> Option<&'static str>,
    wrong: &mut Vec<Wrong>,
) -> Vec<String> {
    let path = format!("match.{field}");
    let (items, listed) = match given {
        None => return Vec::new(),
        Some(Value::Array(items)) => (items, true),
        Some(one) => (vec![one], false),
    };
    if items.is_empty() {
        wrong.push((path.clone(), "expected at least one; to ask for nothing, leave it out".to_owned()));
    }
    let mut values: Vec<String> = Vec::new();
    let mut seen = BTreeSet::new();
    for (at, item) in items.into_iter().enumerate() {
        let what = match item {
            Value::String(value) => {
                let what = if value.is_empty()
                    || value.chars().count() > TEXT_MAX_CHARS
                    || one_line(&value, usize::MAX) != value
                {
                    // What a finding has is bounded and cleaned likewise: nothing else could ever match.
                    Some("expected 1 to 512 characters on one line, without space around them")
                } else if !seen.insert(value.clone()) {
                    Some("is listed twice")
                } else {
                    bad(&value)
                };
                values.push(value);
                what
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) if listed => {
                Some("expected a string")
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                Some("expected a string or a list of strings")
            }
        };
        let path = if listed { format!("{path}[{at}]") } else { path.clone() };
        wrong.extend(what.map(|what| (path, what.to_owned())));
    }
    values
}

fn severity(word: &Value, wrong: &mut Vec<Wrong>) -> Option<Severity> {
    let known = Severity::ALL.into_iter().find(|severity| word.as_str() == Some(severity.as_str()));
    if known.is_none() {
        let words = Severity::ALL.map(Severity::as_str).join(", ");
        wrong.push((format!("match.{}", Field::SeverityAtLeast), format!("expected one of {words}")));
    }
    known
}

/// Whether this can be the path of a policy: relative, below its folder, and never out of it.
fn is_policy_path(path: &str) -> bool {
    let Some(below) = path.strip_prefix(CUSTODIAN) else { return false };
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    let named = |part: &str| !part.is_empty() && part != "." && part != "..";
    let ends_well = [".yml", ".yaml"]
        .iter()
        .any(|end| below.strip_suffix(end).is_some_and(|stem| !stem.is_empty() && !stem.ends_with('/')));
    path.len() <= 255 && ends_well && below.chars().all(fits) && below.split('/').all(named)
}

/// The names, or as many as a line takes.
fn listed(names: &[String]) -> String {
    let few: Vec<String> = names.iter().take(NAMED).map(|name| one_line(name, 100)).collect();
    match (few.is_empty(), names.len().saturating_sub(NAMED)) {
        (true, _) => "none".to_owned(),
        (false, 0) => few.join(", "),
        (false, more) => format!("{} and {more} more", few.join(", ")),
    }
}

impl Match {
    /// Why it can match nothing that is ever sent.
    fn never_matches(&self) -> Vec<Wrong> {
        let mut warnings = Vec::new();
        for (at, glob) in self.finding_type.iter().enumerate().filter(|(_, glob)| glob.chars().all(|c| c == '*')) {
            let what =
                format!("`{glob}` puts this mapping before all that ask for no finding_type: leave it out for any");
            warnings.push((format!("match.{}[{at}]", Field::FindingType), what));
        }
        if self.severity_at_least.is_some() && self.senders_rate_nothing() {
            let what = "matches nothing: none of the senders it names rates its findings; leave it out";
            warnings.push((format!("match.{}", Field::SeverityAtLeast), what.to_owned()));
        }
        for (at, kind) in self.resource_type.iter().enumerate() {
            let path = match self.resource_type.len() {
                1 => format!("match.{}", Field::ResourceType),
                _ => format!("match.{}[{at}]", Field::ResourceType),
            };
            if let Some(right) = arn::respelt(kind) {
                let (kind, right) = (one_line(kind, 100), one_line(&right, 100));
                warnings.push((path, format!("matches nothing: findings have `{right}`, not `{kind}`")));
            }
        }
        warnings
    }

    fn senders_rate_nothing(&self) -> bool {
        match (self.detail_type.as_slice(), self.source.as_slice()) {
            ([], []) => false,
            ([], sources) => sources.iter().all(|source| finding::UNRATED_SOURCES.contains(&source.as_str())),
            (detail_types, _) => detail_types.iter().all(|one| finding::is_rated(one) == Some(false)),
        }
    }
}
