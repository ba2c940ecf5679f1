//! What a log line carries is called the same everywhere: every field of every tracing macro is in the table of
//! OPERATIONS.md, and the table has no other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const MACROS: [&str; 6] = ["error!(", "warn!(", "info!(", "debug!(", "trace!(", "span!("];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The names in the first column of the table.
fn vocabulary() -> BTreeSet<String> {
    let text = std::fs::read_to_string(root().join("OPERATIONS.md")).unwrap();
    let table = text.split("| field |").nth(1).and_then(|rest| rest.split("\n\n").next()).expect("the table");
    let name = |line: &str| line.strip_prefix("| `").and_then(|rest| rest.split('`').next()).map(str::to_owned);
    table.lines().filter_map(name).collect()
}

/// The arguments of a macro whose text starts after its opening parenthesis; strings are left out but for a mark.
fn arguments(text: &str) -> Vec<String> {
    let (mut found, mut one, mut depth) = (Vec::new(), String::new(), 0);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                one.push('"');
                while let Some(inside) = chars.next() {
                    match inside {
                        '\\' => drop(chars.next()),
                        '"' => break,
                        _ => {}
                    }
                }
            }
            ')' if depth == 0 => {
                found.push(one);
                return found.into_iter().map(|one| one.trim().to_owned()).filter(|one| !one.is_empty()).collect();
            }
            ',' if depth == 0 => found.push(std::mem::take(&mut one)),
            _ => {
                depth += i32::from("([{".contains(c)) - i32::from(")]}".contains(c));
                one.push(c);
            }
        }
    }
    panic!("a macro that does not end: {}", &text[..text.len().min(80)])
}

/// The name of the field that an argument is; `None`: it is the message.
fn field(argument: &str) -> Option<&str> {
    if argument.starts_with('"') {
        return None;
    }
    let name = argument.split_once('=').map_or(argument, |(name, _)| name).trim();
    let name = name.trim_start_matches(['%', '?']);
    // What stands for itself is named by its last part.
    Some(if argument.contains('=') { name } else { name.rsplit('.').next().unwrap_or(name) })
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn log_lines_carry_fields_of_the_vocabulary_and_no_others() {
    let mut files = Vec::new();
    for member in ["core", "vendors", "worker", "embedded", "api", "cli", "functions"] {
        sources(&root().join(member).join("src"), &mut files);
    }
    let mut used: BTreeMap<String, String> = BTreeMap::new();
    let mut lines = 0;
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        for name in MACROS {
            for (at, _) in text.match_indices(name) {
                // Not the end of another word: `eprintln!` is none of these, `error_span!` is.
                let before = text[..at].chars().next_back().unwrap_or(' ');
                let line = text[..at].rsplit('\n').next().unwrap_or_default().trim_start();
                if line.starts_with("//") || (before.is_alphanumeric() && name != "span!(") {
                    continue;
                }
                let arguments = arguments(&text[at + name.len()..]);
                let place = format!("{}: {}", file.display(), arguments.join(", "));
                lines += 1;
                // A span is named by its text, a line says what happened in it; either comes without values in it.
                assert_eq!(arguments.iter().filter(|one| field(one).is_none()).count(), 1, "{place}: one message");
                for name in arguments.iter().filter_map(|one| field(one)) {
                    used.entry(name.to_owned()).or_insert_with(|| place.clone());
                }
            }
        }
    }
    assert!(lines > 60, "the search has lost its way: {lines} lines");
    let vocabulary = vocabulary();
    let unknown: Vec<_> = used.iter().filter(|(name, _)| !vocabulary.contains(name.as_str())).collect();
    assert!(unknown.is_empty(), "not in the table of OPERATIONS.md: {unknown:#?}");
    for name in &vocabulary {
        assert!(used.contains_key(name), "OPERATIONS.md explains `{name}`, and no line carries it");
    }
}

#[test]
fn the_reader_of_macros_sees_every_field() {
    let read = |text: &str| -> Vec<String> {
        arguments(text).iter().filter_map(|argument| field(argument)).map(str::to_owned).collect()
    };
    let text = "job.id = %f(a, \"b, )\"), %error, why, by = caller.name, run.epoch, ?needs, \"a, {b} (c\\\")\") rest";
    assert_eq!(read(text), ["job.id", "error", "why", "by", "epoch", "needs"]);
}
