//! Every event in `tests/events`, read and triaged: one snapshot each, to be read as a reviewer would.
//! And whatever is done to these events, reading them never panics and never breaks a bound.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::{Value, json};
use switchyard_core::finding::{
    DEFECTS_MAX, FINDINGS_MAX, Finding, ID_MAX_CHARS, RESOURCES_MAX, Reading, TEXT_MAX_CHARS, read, triage,
};
use switchyard_core::mapping::Mappings;

/// The recorded events and those made by hand, by name.
fn events() -> Vec<(String, Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/events");
    let mut files: Vec<PathBuf> = [folder.clone(), folder.join("made")]
        .iter()
        .flat_map(|folder| fs::read_dir(folder).expect("a folder of events"))
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "json"))
        .collect();
    files.sort();
    files
        .iter()
        .map(|path| {
            let text = fs::read_to_string(path).expect("a readable event");
            let name = path.file_stem().expect("a name").to_string_lossy();
            let event = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
            (name.into_owned(), event)
        })
        .collect()
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).expect("JSON")
}

fn render(event: &Value) -> String {
    let mut out = String::new();
    match read(event).expect("an object is an answer") {
        Reading::Findings { findings, defects } => {
            for finding in &findings {
                writeln!(out, "finding {}", pretty(&finding.to_json())).expect("a String");
                let triage = triage::triage(finding);
                writeln!(out, "triage {}", pretty(&triage.to_json())).expect("a String");
            }
            for defect in &defects {
                writeln!(out, "defect {defect}").expect("a String");
            }
        }
        Reading::Nothing { detail_type, reason } => {
            writeln!(out, "nothing [{detail_type}] {reason}").expect("a String")
        }
        Reading::Unknown { source, detail_type } => {
            writeln!(out, "unknown [{source}] [{detail_type}]").expect("a String");
        }
    }
    out
}

#[test]
fn every_event_reads_as_it_always_did() {
    for (name, event) in events() {
        insta::assert_snapshot!(name, render(&event));
    }
}

#[test]
fn the_triage_capability_answers_every_event() {
    for (name, event) in events() {
        let answer =
            triage::run(&json!({"event": event}), &Mappings::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(answer["triages"].is_array(), "{name}");
    }
}

#[test]
fn only_what_is_no_object_is_no_event() {
    for value in [json!(null), json!(1), json!("{}"), json!([]), json!(true)] {
        let error = read(&value).unwrap_err().to_string();
        assert!(error.starts_with("event: expected a JSON object, found "), "{error}");
    }
    assert!(read(&json!({})).is_ok());
}

#[test]
fn more_findings_than_can_be_are_cut_and_said_to_be() {
    let event = json!({"detail-type": "Security Hub Findings - Imported",
        "detail": {"findings": vec![json!({"Id": "x"}); 250]}});
    let Ok(Reading::Findings { findings, defects }) = read(&event) else {
        panic!("findings");
    };
    assert_eq!(findings.len(), FINDINGS_MAX);
    assert_eq!(defects[0].to_string(), "detail.findings: 250 items; only the first 100 are read");
}

/// One thing done to an event somewhere.
#[derive(Debug, Clone)]
enum Change {
    Remove,
    Replace(Value),
    Truncate(usize),
    Rename(String),
    /// In a text that is JSON itself, such as a Config rule's `invokingEvent`: something else done inside it.
    Within(usize, Box<Change>),
    /// In any text: this in place of so many characters, from one of them on.
    Splice(usize, usize, String),
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,40}".prop_map(Value::from),
        Just(Value::from("\u{1b}[2J\u{0}\u{202e}")),
        Just(Value::from("é".repeat(5_000))),
        Just(Value::from("arn:aws:s3:::")),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map("[a-zA-Z]{0,8}", inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn any_change() -> impl Strategy<Value = Change> {
    let change = prop_oneof![
        Just(Change::Remove),
        any_json().prop_map(Change::Replace),
        (0_usize..40).prop_map(Change::Truncate),
        "[a-z]{0,6}".prop_map(Change::Rename),
        (any::<usize>(), 0_usize..4, "[\\[\\]{}\":,\\\\0-9a-z\u{0}]{0,3}")
            .prop_map(|(from, most, text)| Change::Splice(from, most, text)),
    ];
    change.prop_recursive(2, 4, 1, |inner| {
        (any::<usize>(), inner).prop_map(|(pick, inner)| Change::Within(pick, Box::new(inner)))
    })
}

/// The texts in an event that are JSON objects themselves, as pointers.
fn embedded(event: &Value, all: &[String]) -> Vec<String> {
    let holds_json = |pointer: &&String| {
        let text = event.pointer(pointer).and_then(Value::as_str).filter(|text| text.starts_with('{'));
        text.is_some_and(|text| serde_json::from_str::<Value>(text).is_ok())
    };
    all.iter().filter(holds_json).cloned().collect()
}

/// The JSON pointers of all values below the root.
fn pointers(value: &Value, at: &str, out: &mut Vec<String>) {
    let escape = |key: &str| key.replace('~', "~0").replace('/', "~1");
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let pointer = format!("{at}/{}", escape(key));
                out.push(pointer.clone());
                pointers(value, &pointer, out);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                let pointer = format!("{at}/{index}");
                out.push(pointer.clone());
                pointers(value, &pointer, out);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn apply(event: &mut Value, pick: usize, change: Change) {
    let mut all = Vec::new();
    pointers(event, "", &mut all);
    if all.is_empty() {
        return;
    }
    if let Change::Within(inside, change) = change {
        let texts = embedded(event, &all);
        // Few events have such texts: the others are changed as they are.
        let Some(pointer) = texts.get(pick % texts.len().max(1)) else { return apply(event, inside, *change) };
        let Some(Value::String(text)) = event.pointer_mut(pointer) else { return };
        let mut within = serde_json::from_str(text).expect("JSON");
        apply(&mut within, inside, *change);
        *text = within.to_string();
        return;
    }
    let pointer = &all[pick % all.len()];
    match change {
        Change::Within(..) => {}
        Change::Splice(from, most, with) => {
            // Where there is JSON in a text, there: to break it is what nothing else does.
            let texts = embedded(event, &all);
            let pointer = texts.get(pick % (2 * texts.len()).max(1)).unwrap_or(pointer);
            if let Some(Value::String(text)) = event.pointer_mut(pointer) {
                let chars: Vec<char> = text.chars().collect();
                let from = from % (chars.len() + 1);
                let rest = &chars[(from + most).min(chars.len())..];
                *text = chars[..from].iter().chain(&with.chars().collect::<Vec<_>>()).chain(rest).collect();
            }
        }
        Change::Replace(value) => {
            if let Some(place) = event.pointer_mut(pointer) {
                *place = value;
            }
        }
        Change::Truncate(length) => {
            if let Some(Value::String(text)) = event.pointer_mut(pointer) {
                *text = text.chars().take(length).collect();
            }
        }
        Change::Remove | Change::Rename(_) => {
            let (parent, key) = pointer.rsplit_once('/').expect("below the root");
            let key = key.replace("~1", "/").replace("~0", "~");
            match event.pointer_mut(parent) {
                Some(Value::Object(fields)) => {
                    let value = fields.remove(&key);
                    if let (Change::Rename(name), Some(value)) = (change, value) {
                        fields.insert(name, value);
                    }
                }
                Some(Value::Array(items)) => {
                    items.remove(key.parse::<usize>().expect("an index"));
                }
                Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) | None => {}
            }
        }
    }
}

fn printable(text: &str) -> bool {
    !text.chars().any(char::is_control) && !text.contains('\u{202e}')
}

fn check(finding: &Finding) {
    for text in finding.types().chain([finding.title.as_str(), finding.source.as_str(), finding.detail_type.as_str()]) {
        assert!(printable(text) && text.chars().count() <= TEXT_MAX_CHARS, "{text:?}");
    }
    assert!(finding.resources.len() <= RESOURCES_MAX);
    for id in finding.resources.iter().map(|r| &r.id).chain([&finding.id]) {
        assert!(!id.is_empty() && printable(id) && id.chars().count() <= ID_MAX_CHARS, "{id:?}");
    }
    assert!(finding.account.is_empty() || finding.account.len() == 12);
    assert_eq!(Finding::from_json(&finding.to_json()).as_ref(), Ok(finding));
    let triage = triage::triage(finding);
    assert!(triage.score <= 100);
    assert!(printable(&triage.summary));
}

/// 10,000 mutated events, or as many as PROPTEST_CASES says: `make soak` asks for more.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(10_000)
}

#[test]
fn changes_reach_into_the_json_that_a_config_rule_is_invoked_with() {
    let (_, event) =
        events().into_iter().find(|(_, event)| event.get("ruleParameters").is_some()).expect("an invocation");
    let mut all = Vec::new();
    pointers(&event, "", &mut all);
    let texts = embedded(&event, &all);
    assert_eq!(texts, ["/invokingEvent", "/ruleParameters"]);
    for (pick, pointer) in texts.iter().enumerate() {
        let inside =
            |event: &Value| serde_json::from_str::<Value>(event.pointer(pointer).and_then(Value::as_str).unwrap());
        let mut changed = event.clone();
        apply(&mut changed, pick, Change::Within(0, Box::new(Change::Remove)));
        assert!(inside(&changed).unwrap() != inside(&event).unwrap(), "{pointer}");
        let mut broken = event.clone();
        apply(&mut broken, pick, Change::Splice(0, 1, String::new()));
        assert!(inside(&broken).is_err(), "{pointer}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_done_to_an_event_it_is_read_within_bounds(
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<usize>(), any_change()), 1..6),
    ) {
        thread_local!(static EVENTS: Vec<(String, Value)> = events());
        let mut event = EVENTS.with(|events| events[which.index(events.len())].1.clone());
        for (pick, change) in changes {
            apply(&mut event, pick, change);
        }
        if let Reading::Findings { findings, defects } = read(&event).expect("an object") {
            assert!(findings.len() <= FINDINGS_MAX && defects.len() <= DEFECTS_MAX);
            assert!(!findings.is_empty() || !defects.is_empty());
            assert!(defects.iter().all(|defect| printable(&defect.to_string())));
            findings.iter().for_each(check);
        }
    }

    #[test]
    fn any_json_is_read_or_refused(value in any_json()) {
        let _ = read(&value);
        let _ = Finding::from_json(&value);
        let _ = triage::run(&value, &Mappings::default());
        let _ = triage::run(&json!({"finding": value}), &Mappings::default());
    }
}
