//! One field of somebody else's JSON: found by its path, cleaned, bounded, or named as a defect.

use jiff::Timestamp;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{DEFECTS_MAX, Defect, FINDINGS_MAX, ID_MAX_CHARS, Resource, Severity, TEXT_MAX_CHARS};

static ABSENT: Value = Value::Null;

/// A place in an event, whether or not anything is there.
#[derive(Debug, Clone)]
pub(super) struct Node<'a> {
    path: String,
    value: &'a Value,
}

/// The defects of one event, bounded.
#[derive(Debug, Default)]
pub(super) struct Defects(Vec<Defect>);

impl Defects {
    pub(super) fn add(&mut self, path: &str, problem: impl Into<String>) {
        if self.0.len() < DEFECTS_MAX {
            self.0.push(Defect { path: path.to_owned(), problem: problem.into() });
        }
    }

    pub(super) fn into_vec(self) -> Vec<Defect> {
        self.0
    }
}

impl<'a> Node<'a> {
    pub(super) fn new(path: impl Into<String>, value: &'a Value) -> Self {
        Self { path: path.into(), value }
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn value(&self) -> &'a Value {
        self.value
    }

    /// Null counts as absent: senders write both for the same thing.
    pub(super) fn is_absent(&self) -> bool {
        self.value.is_null()
    }

    /// The field below, by a dotted path: `Severity.Label`.
    pub(super) fn get(&self, dotted: &str) -> Node<'a> {
        let mut value = self.value;
        for key in dotted.split('.') {
            value = value.get(key).unwrap_or(&ABSENT);
        }
        let path = if self.path.is_empty() { dotted.to_owned() } else { format!("{}.{dotted}", self.path) };
        Node { path, value }
    }

    /// The fields below, by a dotted path in which `[]` stands for each item of a list:
    /// `instancesSet.items[].instanceId`.
    pub(super) fn walk(&self, dotted: &str, defects: &mut Defects) -> Vec<Node<'a>> {
        match dotted.split_once("[]") {
            None => vec![self.get(dotted)],
            Some((head, tail)) => {
                let items = self.get(head).items(defects);
                match tail.strip_prefix('.') {
                    None => items,
                    Some(rest) => items.iter().flat_map(|item| item.walk(rest, defects)).collect(),
                }
            }
        }
    }

    /// The items of a list; none if it is absent. Every list is read as far as one of findings may be.
    pub(super) fn items(&self, defects: &mut Defects) -> Vec<Node<'a>> {
        match self.value {
            Value::Null => Vec::new(),
            Value::Array(items) => {
                if items.len() > FINDINGS_MAX {
                    defects.add(&self.path, format!("{} items; only the first {FINDINGS_MAX} are read", items.len()));
                }
                items
                    .iter()
                    .take(FINDINGS_MAX)
                    .enumerate()
                    .map(|(index, value)| Node::new(format!("{}[{index}]", self.path), value))
                    .collect()
            }
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
                self.expected("a list", defects);
                Vec::new()
            }
        }
    }

    /// The node itself if it is an object; else a defect.
    pub(super) fn object(&self, defects: &mut Defects) -> Option<&Self> {
        if self.value.is_object() {
            return Some(self);
        }
        self.expected("an object", defects);
        None
    }

    /// Text for people: cleaned, cut, and None if nothing is left of it.
    pub(super) fn text(&self, defects: &mut Defects) -> Option<String> {
        let text = clean(self.string(defects)?, TEXT_MAX_CHARS);
        (!text.is_empty()).then_some(text)
    }

    /// A finding's id. It must stay itself, so what has to be cut or cleaned is told apart from others
    /// cut alike by the start of its hash.
    pub(super) fn finding_id(&self, defects: &mut Defects) -> Option<String> {
        let given = self.string(defects)?;
        if given.is_empty() || is_exact(given) {
            return (!given.is_empty()).then(|| given.to_owned());
        }
        let hash = hex(&Sha256::digest(given.as_bytes()));
        let kept = clean(given, ID_MAX_CHARS - 17);
        Some(format!("{kept}~{}", &hash[..16]))
    }

    /// An id to act on: as given, or not at all. One that was cut or cleaned would name something else.
    pub(super) fn exact(&self, defects: &mut Defects) -> Option<String> {
        let given = self.string(defects)?;
        if given.is_empty() {
            return None;
        }
        if is_exact(given) {
            return Some(given.to_owned());
        }
        defects.add(&self.path, format!("expected an id of at most {ID_MAX_CHARS} printable characters"));
        None
    }

    /// A resource of this kind whose id stands here.
    pub(super) fn resource(&self, kind: &str, defects: &mut Defects) -> Option<Resource> {
        let id = self.exact(defects)?;
        Some(Resource { kind: kind.to_owned(), id })
    }

    pub(super) fn boolean(&self, defects: &mut Defects) -> Option<bool> {
        match self.value {
            Value::Null => None,
            Value::Bool(flag) => Some(*flag),
            Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
                self.expected("true or false", defects);
                None
            }
        }
    }

    pub(super) fn number(&self, defects: &mut Defects) -> Option<f64> {
        match self.value {
            Value::Null => None,
            Value::Number(number) => number.as_f64(),
            Value::Bool(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
                self.expected("a number", defects);
                None
            }
        }
    }

    /// One of the five severity words; `UNTRIAGED` and `UNKNOWN` are honest ways to say none.
    pub(super) fn severity(&self, defects: &mut Defects) -> Option<Severity> {
        let word = self.text(defects)?;
        match word.parse() {
            Ok(severity) => Some(severity),
            Err(_) if matches!(&*word.to_ascii_uppercase(), "UNTRIAGED" | "UNKNOWN") => None,
            Err(_) => {
                defects.add(
                    &self.path,
                    format!("expected informational, low, medium, high or critical, found \"{word}\""),
                );
                None
            }
        }
    }

    /// A time, in any of the notations that the known senders use.
    pub(super) fn time(&self, defects: &mut Defects) -> Option<Timestamp> {
        let found = match self.value {
            Value::Null => return None,
            Value::String(text) => parse_time(text),
            // OCSF counts milliseconds.
            Value::Number(number) => {
                number.as_i64().and_then(|milliseconds| Timestamp::from_millisecond(milliseconds).ok())
            }
            Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        };
        if found.is_none() {
            self.expected("a time", defects);
        }
        found
    }

    /// Records that something else stands here.
    pub(super) fn expected(&self, what: &str, defects: &mut Defects) {
        defects.add(&self.path, format!("expected {what}, found {}", type_name(self.value)));
    }

    fn string(&self, defects: &mut Defects) -> Option<&'a str> {
        match self.value {
            Value::Null => None,
            Value::String(text) => Some(text),
            Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                self.expected("a string", defects);
                None
            }
        }
    }
}

/// The kind of a JSON value, for error messages.
pub(super) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Text that can be printed: line ends and tabs as spaces, no control characters, none of the marks that
/// reorder what a terminal shows, at most `max_chars` long.
pub(super) fn clean(text: &str, max_chars: usize) -> String {
    let printable: String = text
        .chars()
        .map(|c| if matches!(c, '\n' | '\r' | '\t') { ' ' } else { c })
        .filter(|&c| is_printable(c))
        .take(max_chars)
        .collect();
    printable.trim().to_owned()
}

/// Whether [`clean`] would leave it alone.
pub(super) fn is_clean(text: &str, max_chars: usize) -> bool {
    text.chars().all(is_printable) && text.chars().count() <= max_chars && text.trim() == text
}

/// Whether an id can be kept as it is.
pub(super) fn is_exact(id: &str) -> bool {
    id.chars().all(is_printable) && id.chars().count() <= ID_MAX_CHARS
}

/// The hash of JSON values, whatever order their keys came in.
pub(super) fn digest(values: &[&Value]) -> String {
    let mut text = String::new();
    for value in values {
        write_canonical(value, &mut text);
        text.push('\n');
    }
    hex(&Sha256::digest(text.as_bytes()))
}

fn is_printable(c: char) -> bool {
    !c.is_control() && !matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn parse_time(text: &str) -> Option<Timestamp> {
    if let Ok(time) = text.parse() {
        return Some(time);
    }
    // Health writes `Wed, 27 Jun 2023 06:27:57 GMT`, and not always with the right day of the week.
    let mail = jiff::fmt::rfc2822::DateTimeParser::new().relaxed_weekday(true);
    if let Ok(time) = mail.parse_timestamp(text) {
        return Some(time);
    }
    // Inspector writes `Jan 19, 2023, 10:46:15 PM`, in UTC, newer senders with a narrow no-break space.
    let spaced: String = text.chars().map(|c| if c.is_whitespace() { ' ' } else { c }).collect();
    let civil = jiff::civil::DateTime::strptime("%b %d, %Y, %I:%M:%S %p", &spaced).ok()?;
    let zoned = civil.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    Some(zoned.timestamp())
}

fn write_canonical(value: &Value, out: &mut String) {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            out.push_str(&value.to_string());
        }
        Value::Array(items) => {
            out.push('[');
            for item in items {
                write_canonical(item, out);
                out.push(',');
            }
            out.push(']');
        }
        Value::Object(fields) => {
            // Sorted here, because a cargo feature of serde_json decides whether its maps are.
            let mut keys: Vec<&String> = fields.keys().collect();
            keys.sort_unstable();
            out.push('{');
            for key in keys {
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push(':');
                write_canonical(&fields[key], out);
                out.push(',');
            }
            out.push('}');
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_senders_notation_of_a_time_is_read() {
        let expected: Timestamp = "2023-01-19T22:46:15Z".parse().unwrap();
        for value in [
            json!("2023-01-19T22:46:15Z"),
            json!("2023-01-19T23:46:15.000+01:00"),
            json!("Thu, 19 Jan 2023 22:46:15 GMT"),
            json!("Wed, 19 Jan 2023 22:46:15 GMT"),
            json!("Jan 19, 2023, 10:46:15 PM"),
            json!("Jan 19, 2023, 10:46:15\u{202f}PM"),
            json!(1_674_168_375_000_i64),
        ] {
            let mut defects = Defects::default();
            assert_eq!(Node::new("t", &value).time(&mut defects), Some(expected), "{value}");
        }
    }

    #[test]
    fn what_is_no_time_is_a_defect() {
        for value in [json!("yesterday"), json!(i64::MAX), json!(true), json!([])] {
            let mut defects = Defects::default();
            assert_eq!(Node::new("t", &value).time(&mut defects), None, "{value}");
            assert_eq!(defects.into_vec().len(), 1, "{value}");
        }
    }

    #[test]
    fn text_loses_what_could_drive_a_terminal_and_is_cut_between_characters() {
        assert_eq!(clean("a\u{1b}[31mb\u{7}\nc\u{202e}d", 100), "a[31mb cd");
        assert_eq!(clean(&"é".repeat(600), TEXT_MAX_CHARS), "é".repeat(512));
    }

    #[test]
    fn an_id_to_act_on_is_never_cut_or_cleaned() {
        for value in [json!("i-1\u{0}"), json!("x".repeat(ID_MAX_CHARS + 1))] {
            let mut defects = Defects::default();
            assert_eq!(Node::new("id", &value).exact(&mut defects), None);
            assert_eq!(defects.into_vec().len(), 1);
        }
    }

    #[test]
    fn long_finding_ids_with_one_beginning_stay_apart() {
        let [one, other] = ["1", "2"].map(|end| json!("x".repeat(ID_MAX_CHARS) + end));
        let mut defects = Defects::default();
        let one = Node::new("id", &one).finding_id(&mut defects).unwrap();
        let other = Node::new("id", &other).finding_id(&mut defects).unwrap();
        assert_ne!(one, other);
        assert!(is_exact(&one), "{} characters", one.chars().count());
    }

    #[test]
    fn a_digest_does_not_see_the_order_of_keys() {
        let one: Value = serde_json::from_str(r#"{"a":1,"b":[{"c":2,"d":3}]}"#).unwrap();
        let other: Value = serde_json::from_str(r#"{"b":[{"d":3,"c":2}],"a":1}"#).unwrap();
        assert_eq!(digest(&[&one]), digest(&[&other]));
        assert_ne!(digest(&[&one]), digest(&[&json!({"a": 1})]));
    }
}
