//! What jobs emit: records, one JSON object a line, of which a capability says what they are.
//!
//! A record is named by its run and its place among what the run emitted: (job, epoch, n). Handed over twice, late or in
//! any order, it is one record. What is no record, or none that its capability emits, is parked with the reason, and takes
//! no other along.

mod emits;
mod intake;
mod register;

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::emits::Emits;
pub use self::intake::{Became, judge, take};
pub use self::register::{REGISTER_KEPT, Register, RegisterPage, RegisterQuery, Registered};
use crate::job::{Epoch, JobId, one_line};

/// The longest line that is a record, in bytes: with what stands around it, it must fit into one record of a Kinesis stream
/// (1 MiB; Kinesis, "Quotas and limits") and into one item of a table (400 KB; DynamoDB, "Constraints").
pub const LINE_BYTES: usize = 256 * 1024;
/// Records that one run can emit. A run that finds more than this has too much to say for one job.
pub const RUN_RECORDS: u64 = 100_000;
/// Bytes of records that one run can emit: 64 MiB.
pub const RUN_BYTES: u64 = 64 * 1024 * 1024;
/// Records that are handed over at once, at most: as many as one call to a Kinesis stream takes (`PutRecords`).
pub const BATCH_RECORDS: usize = 500;
/// Bytes of lines that are handed over at once, at most, unless one line alone is longer. Written as JSON twice over they
/// are still within what one call to a stream (5 MiB) and one line of a child's desk (16 MiB) take.
pub const BATCH_BYTES: usize = 1024 * 1024;
/// The longest name of an asset or a finding, in bytes: it is a sort key, which has 1,024 at most (DynamoDB).
pub const ID_BYTES: usize = 512;

/// What a record tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Something that is there: a host, an account, a bucket. Its `id` names it for ever.
    Asset,
    /// Something that is wrong. Its `id` names it for ever.
    Finding,
    /// A number: `name` and `value`.
    Metric,
    /// Something worth remembering, beside what the run prints: `message`.
    Log,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Asset, Self::Finding, Self::Metric, Self::Log];

    /// What `kind` calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Asset => "asset",
            Self::Finding => "finding",
            Self::Metric => "metric",
            Self::Log => "log",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no kind of record: expected asset, finding, metric or log")]
pub struct NotAKind(String);

impl FromStr for Kind {
    type Err = NotAKind;

    fn from_str(text: &str) -> Result<Self, NotAKind> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| NotAKind(one_line(text, 40)))
    }
}

/// A line that a run emitted, on its way. Nobody has judged it yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Emitted {
    /// Whose run.
    pub job: JobId,
    /// Which run.
    pub epoch: Epoch,
    /// Its place among what the run emitted, from 1.
    pub n: u64,
    /// When it was read, by the clock of whoever read it.
    pub at: Timestamp,
    /// The line, without its end.
    pub line: String,
}

impl Emitted {
    /// What names it.
    pub fn name(&self) -> (JobId, Epoch, u64) {
        (self.job, self.epoch, self.n)
    }
}

/// A record: judged, and fit to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Whose run emitted it.
    pub job: JobId,
    /// Which run.
    pub epoch: Epoch,
    /// Its place among what the run emitted, from 1.
    pub n: u64,
    /// When it was read, to the millisecond; not after the moment it was taken.
    pub at: Timestamp,
    /// What ran.
    pub capability: String,
    /// What it tells of.
    pub kind: Kind,
    /// Of an asset or a finding: what names it for ever.
    pub id: Option<String>,
    /// The line, as the run wrote it: a JSON object.
    pub body: String,
}

impl Record {
    /// What names it.
    pub fn name(&self) -> (JobId, Epoch, u64) {
        (self.job, self.epoch, self.n)
    }
}

/// Why something is no record that can be kept. Trying again does not help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Code {
    /// It is not what the yard's own programs send.
    Unreadable,
    /// The line is longer than [`LINE_BYTES`].
    TooLarge,
    /// The line is not JSON.
    NotJson,
    /// The line is JSON, and no object.
    NotAnObject,
    /// Its `kind` is none.
    UnknownKind,
    /// What every record of its kind has is missing, or is not what it must be.
    Incomplete,
    /// There is no such job.
    UnknownJob,
    /// The job never had that epoch.
    UnknownEpoch,
    /// What the job ran is not in the catalog any more.
    UnknownCapability,
    /// The capability emits no records of that kind.
    NotEmitted,
    /// It does not fit its capability's schema.
    DoesNotFit,
    /// Another record has that name: the same run said two things at one place.
    Conflict,
}

impl Code {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Unreadable,
        Self::TooLarge,
        Self::NotJson,
        Self::NotAnObject,
        Self::UnknownKind,
        Self::Incomplete,
        Self::UnknownJob,
        Self::UnknownEpoch,
        Self::UnknownCapability,
        Self::NotEmitted,
        Self::DoesNotFit,
        Self::Conflict,
    ];

    /// It, as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::TooLarge => "too_large",
            Self::NotJson => "not_json",
            Self::NotAnObject => "not_an_object",
            Self::UnknownKind => "unknown_kind",
            Self::Incomplete => "incomplete",
            Self::UnknownJob => "unknown_job",
            Self::UnknownEpoch => "unknown_epoch",
            Self::UnknownCapability => "unknown_capability",
            Self::NotEmitted => "not_emitted",
            Self::DoesNotFit => "does_not_fit",
            Self::Conflict => "conflict",
        }
    }
}

/// Why something is no record that can be kept, for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason}", code.as_str())]
pub struct Refused {
    /// Why, as programs read it.
    pub code: Code,
    /// Why, as people do: a sentence, cleaned, that repeats no value of the record.
    pub reason: String,
}

impl Refused {
    /// The longest reason, in bytes.
    pub const REASON_BYTES: usize = 300;

    /// Refused for this.
    pub fn new(code: Code, reason: impl AsRef<str>) -> Self {
        Self { code, reason: one_line(reason.as_ref(), Self::REASON_BYTES) }
    }
}

/// What a line says, when it is a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// What it tells of.
    pub kind: Kind,
    /// Of an asset or a finding: what names it for ever.
    pub id: Option<String>,
}

/// Reads a line as a record of a capability that emits these.
///
/// # Errors
///
/// [`Refused`] says why it is none.
pub fn read(line: &str, emits: &Emits) -> Result<Said, Refused> {
    if line.len() > LINE_BYTES {
        let what = format!("the line has {} bytes, and {LINE_BYTES} is the most", line.len());
        return Err(Refused::new(Code::TooLarge, what));
    }
    let value: Value = serde_json::from_str(line).map_err(|error| {
        // The message alone may repeat a value; where it stands is enough.
        let what = format!("it is not JSON: {} at column {}", category(&error), error.column());
        Refused::new(Code::NotJson, what)
    })?;
    let Value::Object(fields) = &value else {
        return Err(Refused::new(Code::NotAnObject, "it is JSON, but no object"));
    };
    let kind = match fields.get("kind").and_then(Value::as_str).map(str::parse::<Kind>) {
        Some(Ok(kind)) => kind,
        Some(Err(unknown)) => return Err(Refused::new(Code::UnknownKind, unknown.to_string())),
        None => return Err(Refused::new(Code::UnknownKind, "it has no `kind`: asset, finding, metric or log")),
    };
    let text = |name: &str| fields.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let missing = |what: &str| Err(Refused::new(Code::Incomplete, format!("of kind {kind}, it must have {what}")));
    let id = match kind {
        Kind::Asset | Kind::Finding => match text("id") {
            Some(id) if id.len() <= ID_BYTES && !id.chars().any(char::is_control) => Some(id.to_owned()),
            Some(_) | None => {
                return missing("an `id`: a text of 1 to 512 bytes without control characters");
            }
        },
        Kind::Metric if text("name").is_none() || !fields.get("value").is_some_and(Value::is_number) => {
            return missing("a `name` and a number as its `value`");
        }
        Kind::Log if text("message").is_none() => return missing("a `message`"),
        Kind::Metric | Kind::Log => None,
    };
    emits.check(kind, &value)?;
    Ok(Said { kind, id })
}

fn category(error: &serde_json::Error) -> &'static str {
    match error.classify() {
        serde_json::error::Category::Eof => "it ends too early",
        serde_json::error::Category::Io | serde_json::error::Category::Syntax | serde_json::error::Category::Data => {
            "something is wrong"
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::catalog::Schema;

    fn emits() -> Emits {
        let asset = json!({ "type": "object", "properties": { "port": { "type": "integer" } } });
        let all = Kind::ALL.map(|kind| (kind, Schema::new(Value::Bool(true))));
        let mut emits = BTreeMap::from(all);
        emits.insert(Kind::Asset, Schema::new(asset));
        emits.remove(&Kind::Log);
        Emits::new(emits)
    }

    #[test]
    fn every_kind_of_line_is_read_or_refused_with_its_reason() {
        let long = format!(r#"{{"kind":"asset","id":"{}"}}"#, "x".repeat(513));
        let longer = format!(r#"{{"kind":"asset","id":"{}"}}"#, "x".repeat(LINE_BYTES));
        let lines = [
            r#"{"kind":"asset","id":"host:10.0.0.1","port":22}"#,
            r#" {"id":"f-1","kind":"finding"} "#,
            r#"{"kind":"metric","name":"open_ports","value":3.5}"#,
            r#"{"kind":"log","message":"hello"}"#,
            "",
            "{",
            "\u{0}",
            "[1]",
            "null",
            r#"{"kind":"host","id":"a"}"#,
            r#"{"kind":7,"id":"a"}"#,
            r#"{"id":"a"}"#,
            r#"{"kind":"asset"}"#,
            r#"{"kind":"asset","id":""}"#,
            r#"{"kind":"asset","id":7}"#,
            r#"{"kind":"asset","id":"a\u0000b"}"#,
            &long,
            &longer,
            r#"{"kind":"metric","name":"open_ports","value":"3"}"#,
            r#"{"kind":"metric","value":3}"#,
            r#"{"kind":"log"}"#,
            r#"{"kind":"asset","id":"a","port":"s3cret"}"#,
            "{\"kind\":\"asset\",\"id\":\"a\"} trailing s3cret",
        ];
        let told: Vec<String> = lines
            .iter()
            .map(|line| match read(line, &emits()) {
                Ok(said) => format!("{line:.60}  ->  {} {}", said.kind, said.id.unwrap_or_default()),
                Err(refused) => {
                    assert!(!refused.to_string().contains("s3cret"), "{refused}");
                    format!("{:.60}  ->  {refused}", format!("{line:?}"))
                }
            })
            .collect();
        insta::assert_snapshot!(told.join("\n"));
    }

    #[test]
    fn a_kind_is_read_as_it_is_written_and_so_is_each_code_once() {
        for kind in Kind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
            assert_eq!(serde_json::to_value(kind).unwrap(), json!(kind.as_str()));
        }
        assert!("Asset".parse::<Kind>().unwrap_err().to_string().contains("`Asset` is no kind"));
        let mut codes = Code::ALL.map(Code::as_str).to_vec();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Code::ALL.len());
    }
}
