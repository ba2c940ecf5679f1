//! What every Rust peer shares: reading `--name value` arguments and printing the one JSON line that
//! `bench/run.py` reads. Kept free of a command line parser so that the peers stay quick to build.

use std::collections::HashMap;
use std::fmt::Display;
use std::path::PathBuf;
use std::process::exit;
use std::str::FromStr;
use std::time::Duration;

/// The `--name value` pairs of the command line, checked against the names the peer knows.
pub struct Args(HashMap<String, String>);

impl Args {
    /// Reads the process's arguments; an unknown name or a missing value ends the process with code 2.
    pub fn read(known: &[&str]) -> Self {
        let mut pairs = HashMap::new();
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let Some(name) = word.strip_prefix("--").filter(|name| known.contains(name)) else {
                usage(&format!("unknown argument {word}"), known);
            };
            let Some(value) = words.next() else {
                usage(&format!("{word} wants a value"), known);
            };
            pairs.insert(name.to_owned(), value);
        }
        Self(pairs)
    }

    /// The value of `--name`, or `default` when it was not given.
    pub fn get<T>(&self, name: &str, default: T) -> T
    where
        T: FromStr,
        T::Err: Display,
    {
        match self.0.get(name) {
            None => default,
            Some(text) => text
                .parse()
                .unwrap_or_else(|error| usage(&format!("--{name} {text}: {error}"), &[])),
        }
    }

    /// A fresh directory inside `--dir`, removed when dropped. There is no default: a temporary
    /// directory in memory would make every durable peer look better than it is.
    pub fn scratch(&self, prefix: &str) -> tempfile::TempDir {
        let Some(dir) = self.0.get("dir").map(PathBuf::from) else {
            usage(
                "--dir is needed: a directory on the disk to be measured",
                &[],
            );
        };
        std::fs::create_dir_all(&dir)
            .and_then(|()| tempfile::Builder::new().prefix(prefix).tempdir_in(&dir))
            .unwrap_or_else(|error| usage(&format!("--dir {}: {error}", dir.display()), &[]))
    }
}

fn usage(problem: &str, known: &[&str]) -> ! {
    eprintln!("{problem}");
    if !known.is_empty() {
        eprintln!("known: --{}", known.join(" --"));
    }
    exit(2);
}

/// Prints the result line. `extra` is merged in, for what only one peer has to say.
pub fn report(
    peer: &str,
    jobs: u64,
    took: Duration,
    durability: &str,
    notes: &str,
    extra: serde_json::Value,
) {
    let seconds = took.as_secs_f64();
    let mut line = serde_json::json!({
        "peer": peer,
        "jobs": jobs,
        "seconds": round(seconds, 6),
        "jobs_per_second": round(jobs as f64 / seconds, 1),
        "durability": durability,
        "notes": notes,
    });
    if let (Some(line), serde_json::Value::Object(extra)) = (line.as_object_mut(), extra) {
        line.extend(extra);
    }
    println!("{line}");
}

/// `value` with `places` decimals.
pub fn round(value: f64, places: i32) -> f64 {
    let scale = 10f64.powi(places);
    (value * scale).round() / scale
}
