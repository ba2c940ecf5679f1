//! One of the policies' files: what it says, where everything in it stands, and what is wrong with it.
//!
//! A file is read as the JSON it stands for, as its published schema means it, so that a part can be judged by whoever
//! knows it. What is wrong is named by file, line, column and path: the places are looked up in the text then, and cost
//! nothing while nothing is.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use serde_saphyr::Spanned;

use crate::intake::{Named, Once};
use crate::job::one_line;

/// Violations that are told at once: a screen full. Who mended those reads on.
pub const VIOLATIONS_MAX: usize = 20;

/// One thing that is wrong with the policies, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}{}: {message}", Place(*.line, *.column))]
pub struct PolicyError {
    /// The file.
    pub file: String,
    /// The line, from 1; 0 when the whole file is meant.
    pub line: u64,
    /// The column, from 1; 0 when the whole line is meant.
    pub column: u64,
    /// What is wrong, after the path of the field.
    pub message: String,
}

struct Place(u64, u64);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0, self.1) {
            (0, _) => Ok(()),
            (line, 0) => write!(f, ":{line}"),
            (line, column) => write!(f, ":{line}:{column}"),
        }
    }
}

/// Everything that is wrong with the policies, in the order of their places.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Violations(Vec<PolicyError>);

impl Violations {
    /// One line each, with its place; at most [`VIOLATIONS_MAX`], and one that says how many more there are.
    pub fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.0.iter().take(VIOLATIONS_MAX).map(PolicyError::to_string).collect();
        let more = self.0.len().saturating_sub(VIOLATIONS_MAX);
        if more > 0 {
            lines.push(format!("and {more} more"));
        }
        lines
    }

    /// The same, with the files named as they lie in `folder`.
    #[must_use]
    pub fn within(mut self, folder: &str) -> Self {
        for error in &mut self.0 {
            error.file = format!("{}/{}", folder.trim_end_matches('/'), error.file);
        }
        self
    }

    /// All of both.
    #[must_use]
    pub fn and(mut self, more: Self) -> Self {
        self.0.extend(more.0);
        Self::from(self.0)
    }

    /// Nothing is wrong: `value`; else all that is.
    pub(crate) fn or<T>(self, value: T) -> Result<T, Self> {
        if self.0.is_empty() { Ok(value) } else { Err(self) }
    }
}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines().join("\n"))
    }
}

impl std::error::Error for Violations {}

impl From<PolicyError> for Violations {
    fn from(error: PolicyError) -> Self {
        Self(vec![error])
    }
}

impl From<Vec<PolicyError>> for Violations {
    fn from(mut errors: Vec<PolicyError>) -> Self {
        errors.sort_by(|one, other| (&one.file, one.line, one.column).cmp(&(&other.file, other.line, other.column)));
        Self(errors)
    }
}

/// How the files are read, by who wrote them.
///
/// Two functions and no question asked of a value: what reads pushed files alone, as Lambda functions do, has no reader of YAML
/// in its binary.
#[derive(Clone, Copy)]
pub(crate) struct Reading {
    /// Whether they were held against themselves before, by whoever put them where they are read from: schemas are schemas,
    /// and what refers to them fits.
    pub(crate) checked: bool,
    value: fn(&str, &str) -> Result<Value, PolicyError>,
    places: fn(&str, &str) -> Places,
}

impl Reading {
    /// As operators write them: YAML, of which JSON is a part.
    pub(crate) const WRITTEN: Self = Self { checked: false, value: read_value, places: places_of };
    /// As they are pushed into a bucket: JSON to the letter, found good before. A place in it would tell nobody anything.
    pub(crate) const PUSHED: Self = Self { checked: true, value: read_json, places: |_, _| Places::new() };
}

/// The place of every field of a file, by its path: line and column from 1.
type Places = BTreeMap<String, (u64, u64)>;

/// Reads an operator's YAML file, and names what is wrong with it as all of them are named.
fn read_yaml<T: DeserializeOwned>(file: &str, text: &str) -> Result<T, PolicyError> {
    // Two million nodes are what 10,000 mappings can have; whoever reads a file has bounded its bytes.
    let budget = serde_saphyr::budget! { max_nodes: 4_000_000, max_events: 8_000_000 };
    // YAML 1.2, as the published schemas' readers have it: `on` and `no` are words.
    let options = serde_saphyr::options! { strict_booleans: true, budget: budget };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let (line, column) = error.location().map_or((0, 0), |at| (at.line(), at.column()));
        let message = error.without_snippet().to_string();
        // The place stands in front already.
        let message = message.split(" at line ").next().unwrap_or(&message);
        // An operator has no options to set.
        let message = message.split(", set DuplicateKeyPolicy").next().unwrap_or(message);
        PolicyError { file: file.to_owned(), line, column, message: one_line(message, 400) }
    })
}

/// Reads an operator's file as the JSON that it stands for. One that is JSON to the letter, as mappings are, is read as that,
/// for a tenth of the cost; what is wrong with it is then named by whoever reads YAML, of which JSON is a part.
pub(crate) fn read_value(file: &str, text: &str) -> Result<Value, PolicyError> {
    if text.starts_with('{')
        && let Ok(Once(value)) = serde_json::from_str(text)
    {
        return Ok(value);
    }
    read_yaml::<Once>(file, text).map(|Once(value)| value)
}

/// Reads a pushed file.
fn read_json(file: &str, text: &str) -> Result<Value, PolicyError> {
    serde_json::from_str(text).map(|Once(value)| value).map_err(|error| not_json(file, &error))
}

/// What JSON's reader says, with the place in front.
pub(crate) fn not_json(file: &str, error: &serde_json::Error) -> PolicyError {
    let text = error.to_string();
    // serde_json ends its messages with the place; here it stands in front, as in all others.
    let reason = text.split(" at line ").next().unwrap_or(&text);
    let (line, column) = (error.line() as u64, error.column() as u64);
    PolicyError { file: file.to_owned(), line, column, message: one_line(&format!("not JSON: {reason}"), 400) }
}

/// Whether this can be the name of a capability or a schedule.
pub(crate) fn is_name(name: &str) -> bool {
    let named_well = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=64).contains(&name.len()) && name.chars().all(named_well)
}

/// Reads a field that may be left out, but not left empty.
pub(crate) fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// What is wrong with a part, before its place is looked up: the path in the part, and the reason.
pub(crate) type Wrong = (String, String);

/// Reads named fields as what they are.
pub(crate) fn fields<T: DeserializeOwned>(value: &Value) -> Result<T, Wrong> {
    serde_path_to_error::deserialize(Named(value)).map_err(|error| {
        let path = error.path().to_string();
        (if path == "." { String::new() } else { path }, in_words(&error.inner().to_string()))
    })
}

/// What serde says, without Rust's names for numbers.
fn in_words(message: &str) -> String {
    let (what, kind) = message.rsplit_once(", expected ").unwrap_or((message, ""));
    let whole = |least: i64, most: i64| format!("{what}, expected a whole number from {least} to {most}");
    match kind {
        "u8" => whole(0, u8::MAX.into()),
        "u16" => whole(0, u16::MAX.into()),
        "u32" => whole(0, u32::MAX.into()),
        "i32" => whole(i32::MIN.into(), i32::MAX.into()),
        "u64" => format!("{what}, expected a whole number, not below zero"),
        "f64" => format!("{what}, expected a number"),
        _ => message.to_owned(),
    }
}

/// A file that was read: `version: 1`, and fields.
pub(crate) struct Sheet {
    text: Arc<Text>,
    fields: Map<String, Value>,
}

impl Sheet {
    /// Reads a file which has these fields, as a sentence names them, beside its version.
    pub(crate) fn read(reading: Reading, file: &str, text: &str, expected: &str) -> Result<Self, PolicyError> {
        let value = (reading.value)(file, text)?;
        let text =
            Text { file: file.to_owned(), text: text.to_owned(), locate: reading.places, places: OnceLock::new() };
        let Value::Object(mut fields) = value else {
            return Err(text.error("", &format!("expected `version` and {expected}")));
        };
        let version = fields.remove("version").map(|version| version.as_u64());
        match version {
            Some(Some(1)) => Ok(Self { text: Arc::new(text), fields }),
            None => Err(text.error("", "missing field `version`")),
            Some(None) => Err(text.error("version", "expected 1")),
            Some(Some(other)) => {
                let what = format!("this Switchyard reads version 1, the file is version {other}");
                Err(text.error("version", &what))
            }
        }
    }

    /// Reads its fields as what they are.
    pub(crate) fn fields<T: DeserializeOwned>(&self) -> Result<T, PolicyError> {
        fields(&Value::Object(self.fields.clone())).map_err(|wrong| self.error(wrong))
    }

    /// What is wrong at a path in it.
    pub(crate) fn error(&self, (path, what): Wrong) -> PolicyError {
        self.text.error(&path, &what)
    }
}

/// A file that was read: `version: 1` and one list of entries.
pub(crate) struct Document {
    text: Arc<Text>,
    entries: Vec<Value>,
    list: &'static str,
}

impl Document {
    /// Reads a file whose entries stand in `list`.
    pub(crate) fn read(reading: Reading, file: &str, text: &str, list: &'static str) -> Result<Self, Violations> {
        let Sheet { text, mut fields } = Sheet::read(reading, file, text, &format!("`{list}`"))?;
        let mut document = Self { text, entries: Vec::new(), list };
        let mut errors = Vec::new();
        match fields.remove(list) {
            Some(Value::Array(entries)) => document.entries = entries,
            Some(_) => errors.push(document.error(list, "expected a list")),
            None => errors.push(document.error("", &format!("missing field `{list}`"))),
        }
        let unknown =
            |field: &String| document.error(field, &format!("unknown field, expected one of `version`, `{list}`"));
        errors.extend(fields.keys().map(unknown));
        Violations::from(errors).or(document)
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Reads every entry as what it is: what `read` makes of each, and whatever is wrong with any.
    pub(crate) fn each<E: DeserializeOwned, T>(
        self,
        mut read: impl FnMut(E, usize) -> Result<T, Vec<Wrong>>,
    ) -> Result<Vec<T>, Violations> {
        let (mut all, mut errors) = (Vec::new(), Vec::new());
        for (at, value) in self.entries.iter().enumerate() {
            match fields(value).map_err(|wrong| vec![wrong]).and_then(|entry| read(entry, at)) {
                Ok(entry) => all.push(entry),
                Err(wrong) => errors.extend(wrong.iter().map(|(path, what)| self.within(at, path, what))),
            }
        }
        Violations::from(errors).or(all)
    }

    /// Where the whole list stands.
    pub(crate) fn whole(&self) -> Stand {
        Stand { text: Arc::clone(&self.text), entry: self.list.to_owned() }
    }

    /// Where an entry stands, for whoever finds something wrong with it later.
    pub(crate) fn place(&self, entry: usize) -> Stand {
        Stand { text: Arc::clone(&self.text), entry: format!("{}[{entry}]", self.list) }
    }

    fn within(&self, entry: usize, path: &str, what: &str) -> PolicyError {
        self.error(&join(&format!("{}[{entry}]", self.list), path), what)
    }

    fn error(&self, path: &str, what: &str) -> PolicyError {
        self.text.error(path, what)
    }
}

/// Where a list, or an entry and its fields stand in their file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stand {
    text: Arc<Text>,
    entry: String,
}

impl Stand {
    /// What is wrong at a path in it.
    pub(crate) fn error(&self, path: &str, what: &str) -> PolicyError {
        self.text.error(&join(&self.entry, path), what)
    }
}

/// A file's text, and the place of every field in it once somebody asks.
struct Text {
    file: String,
    text: String,
    /// How they are found.
    locate: fn(&str, &str) -> Places,
    places: OnceLock<Places>,
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        (&self.file, &self.text) == (&other.file, &other.text)
    }
}

impl Eq for Text {}

impl Text {
    /// What is wrong at a path; where that is not in the file, as a field that is missing, the place of what should hold it.
    fn error(&self, path: &str, what: &str) -> PolicyError {
        let places = self.places.get_or_init(|| (self.locate)(&self.file, &self.text));
        let mut known = path;
        let (line, column) = loop {
            match (places.get(known), known.rfind(['.', '['])) {
                (Some(place), _) => break *place,
                (None, Some(end)) => known = &known[..end],
                (None, None) => break places.get("").copied().unwrap_or((0, 0)),
            }
        };
        let path = one_line(path, 200);
        let message = if path.is_empty() { what.to_owned() } else { format!("{path}: {what}") };
        PolicyError { file: self.file.clone(), line, column, message: one_line(&message, 600) }
    }
}

/// The places of a YAML file.
fn places_of(file: &str, text: &str) -> Places {
    let mut places = Places::new();
    // It was read before: what cannot be read has no entries that could be wrong.
    if let Ok(node) = read_yaml::<Spanned<Node>>(file, text) {
        node.value.settle("", &mut places);
    }
    places
}

pub(crate) fn join(front: &str, path: &str) -> String {
    if front.is_empty() || path.is_empty() || path.starts_with('[') {
        format!("{front}{path}")
    } else {
        format!("{front}.{path}")
    }
}

/// Any YAML's places: of a field its name's, of an item its own.
enum Node {
    Leaf,
    List(Vec<Spanned<Node>>),
    Fields(Vec<(Spanned<String>, Node)>),
}

impl Node {
    /// Puts the places in it down by their paths.
    fn settle(self, path: &str, places: &mut Places) {
        if path.is_empty() {
            places.insert(String::new(), (1, 0));
        }
        match self {
            Self::Leaf => {}
            Self::List(items) => {
                for (at, item) in items.into_iter().enumerate() {
                    let path = format!("{path}[{at}]");
                    places.insert(path.clone(), (item.defined.line(), item.defined.column()));
                    item.value.settle(&path, places);
                }
            }
            Self::Fields(fields) => {
                for (name, node) in fields {
                    let path = join(path, &name.value);
                    places.insert(path.clone(), (name.defined.line(), name.defined.column()));
                    node.settle(&path, places);
                }
            }
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyNode)
    }
}

struct AnyNode;

impl<'de> Visitor<'de> for AnyNode {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("what JSON can say")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_str<E>(self, _: &str) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mut fields = Vec::new();
        while let Some(name) = entries.next_key()? {
            fields.push((name, entries.next_value()?));
        }
        Ok(Node::Fields(fields))
    }
}
