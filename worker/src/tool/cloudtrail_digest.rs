//! The tool `cloudtrail-digest`: who made risky calls, out of CloudTrail's log files, in constant memory.
//!
//! Files are read in order (`files`), cut into records without being held (`split`); each record is read for what
//! matters (`record`) and judged by a table (`risk`), and what was found is kept by principal, the riskiest only
//! (`principals`). A file or a record that is broken is told and does not end the digest.

mod files;
mod principals;
mod record;
mod risk;
mod split;

use std::fmt::Write as _;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use switchyard_core::job::one_line;

use self::principals::Principals;
use self::record::Record;
use self::split::{Piece, Splitter};
use super::ToolError;

/// The version of a digest's JSON.
const DIGEST_VERSION: u64 = 1;
/// Files that could not be read whole and are named; more are counted.
const UNREADABLE_SHOWN: usize = 100;
/// What is read at once.
const CHUNK_BYTES: usize = 64 * 1024;
/// What is kept of a path or a reason.
const SHOWN_BYTES: usize = 300;

/// What the files tell.
#[derive(Debug, Default)]
pub struct Digest {
    files: u64,
    bytes: u64,
    records: u64,
    failed_calls: u64,
    first: Option<String>,
    last: Option<String>,
    broken: Broken,
    unreadable: Vec<(String, String)>,
    unreadable_more: u64,
    principals: Principals,
}

/// Records that could not be judged.
#[derive(Debug, Default)]
struct Broken {
    /// Larger than [`split::RECORD_BYTES`].
    too_large: u64,
    /// Not the JSON of a record.
    not_records: u64,
}

/// Digests files, and what lies in folders: `.json.gz` and `.json`, in the order of their names. Links are not followed.
///
/// # Errors
///
/// [`ToolError::BadInput`] where there is no path, or no file at any.
pub fn digest(paths: &[PathBuf]) -> Result<Digest, ToolError> {
    if paths.is_empty() {
        return Err(ToolError::BadInput("expected files or folders with CloudTrail's logs".to_owned()));
    }
    let mut digest = Digest::default();
    for path in paths {
        files::visit(path, &mut |path, opened| {
            let read = opened.and_then(|reader| digest.read(reader));
            if let Err(why) = read {
                digest.cannot_read(path, &why);
            }
        })?;
    }
    if digest.files == 0 && digest.unreadable.is_empty() {
        let message = "there is no .json.gz or .json file at what was given";
        return Err(ToolError::BadInput(message.to_owned()));
    }
    // That nothing could be looked at must not pass for nothing found.
    if let (0, Some((path, why))) = (digest.records, digest.unreadable.first()) {
        return Err(ToolError::BadInput(format!("not one record could be read; {path}: {why}")));
    }
    Ok(digest)
}

impl Digest {
    /// Reads one file to its end, or to where it breaks: what was read until then counts.
    fn read(&mut self, mut reader: impl Read) -> Result<(), String> {
        self.files += 1;
        let mut splitter = Splitter::default();
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let read = match reader.read(&mut chunk) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(format!("it breaks after {} bytes: {error}", splitter.bytes())),
            };
            self.bytes += read as u64;
            splitter.push(&chunk[..read], &mut |piece| self.take(&piece));
        }
        if splitter.finish() { Ok(()) } else { Err("it ends within a record".to_owned()) }
    }

    fn take(&mut self, piece: &Piece<'_>) {
        let bytes = match piece {
            Piece::Record(bytes) => bytes,
            Piece::TooLarge => {
                self.broken.too_large += 1;
                return;
            }
            Piece::Garbage => {
                self.broken.not_records += 1;
                return;
            }
        };
        let Some(record) = Record::read(bytes) else {
            self.broken.not_records += 1;
            return;
        };
        self.records += 1;
        self.failed_calls += u64::from(record.failed());
        if let Some(at) = record.at() {
            if self.first.as_deref().is_none_or(|first| at < first) {
                self.first = Some(at.to_owned());
            }
            if self.last.as_deref().is_none_or(|last| at > last) {
                self.last = Some(at.to_owned());
            }
        }
        self.principals.add(&record, &risk::judge(&record));
    }

    fn cannot_read(&mut self, path: &Path, why: &str) {
        if self.unreadable.len() < UNREADABLE_SHOWN {
            let path = one_line(&path.display().to_string(), SHOWN_BYTES);
            self.unreadable.push((path, one_line(why, SHOWN_BYTES)));
        } else {
            self.unreadable_more += 1;
        }
    }

    /// The digest as JSON.
    pub fn to_json(&self) -> Value {
        let unreadable: Vec<Value> =
            self.unreadable.iter().map(|(file, why)| json!({ "file": file, "why": why })).collect();
        let (principals, others) = self.principals.ranked();
        json!({
            "version": DIGEST_VERSION,
            "files": self.files,
            "bytes": self.bytes,
            "records": self.records,
            "failed_calls": self.failed_calls,
            "first": self.first,
            "last": self.last,
            "reasons": self.principals.totals(),
            "principals": principals.iter().map(|(name, principal)| principal.to_json(name)).collect::<Vec<_>>(),
            "others": others.to_json(),
            "broken_records": { "too_large": self.broken.too_large, "not_records": self.broken.not_records },
            "unreadable": unreadable,
            "unreadable_more": self.unreadable_more,
        })
    }

    /// The digest for people.
    pub fn to_text(&self) -> String {
        let (principals, others) = self.principals.ranked();
        let span = match (&self.first, &self.last) {
            (Some(first), Some(last)) => format!(", from {first} to {last}"),
            _ => String::new(),
        };
        let mut text =
            format!("records: {}, of files: {}{span}; failed calls: {}", self.records, self.files, self.failed_calls);
        for (name, principal) in principals.iter().filter(|(_, principal)| principal.risk() > 0) {
            let _ = write!(text, "\n{:>3}  {name}", principal.risk());
            for line in principal.lines() {
                let _ = write!(text, "\n       {line}");
            }
        }
        let quiet = principals.iter().filter(|(_, principal)| principal.risk() == 0).count() as u64;
        let _ = write!(text, "\nfurther principals: {}", quiet + others.principals);
        let broken = self.broken.too_large + self.broken.not_records;
        if broken > 0 {
            let Broken { too_large, not_records } = self.broken;
            let _ = write!(text, "\nrecords left out: {broken} ({too_large} too large, {not_records} no records)");
        }
        for (file, why) in &self.unreadable {
            let _ = write!(text, "\n{file}: {why}");
        }
        if self.unreadable_more > 0 {
            let _ = write!(text, "\nfurther files that could not be read whole: {}", self.unreadable_more);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn record(user: &str, source: &str, name: &str, more: Value) -> Value {
        let mut record = json!({
            "eventTime": "2026-01-31T12:00:00Z", "eventSource": format!("{source}.amazonaws.com"), "eventName": name,
            "sourceIPAddress": "203.0.113.7", "recipientAccountId": "111122223333",
            "userIdentity": { "type": "IAMUser", "arn": format!("arn:aws:iam::111122223333:user/{user}") },
        });
        let fields = more.as_object().unwrap().clone();
        record.as_object_mut().unwrap().extend(fields);
        record
    }

    fn gzip(text: &str) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    fn of(files: &[(&str, Vec<u8>)]) -> (tempfile::TempDir, Digest) {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        let digest = digest(&[folder.path().to_owned()]).unwrap();
        (folder, digest)
    }

    #[test]
    fn a_folder_of_logs_in_every_form_is_digested_and_what_is_broken_is_told() {
        let denied = json!({ "errorCode": "AccessDenied" });
        let burst: Vec<Value> = (0..60).map(|_| record("eve", "s3", "GetObject", denied.clone())).collect();
        let wrapped = |records: &[&Value]| json!({ "Records": records }).to_string();
        let stop = record("mallory", "cloudtrail", "StopLogging", json!({}));
        let tried = record("trudy", "cloudtrail", "DeleteTrail", denied.clone());
        let quiet = record("ada", "s3", "ListBuckets", json!({ "eventTime": "2026-02-01T00:00:00Z" }));
        let hostile =
            record("\u{1b}[31mred\u{202e}", "iam", "CreateAccessKey", json!({ "sourceIPAddress": "\u{9b}2J" }));
        let members = [gzip(&wrapped(&[&stop])), gzip(&wrapped(&[&quiet]))].concat();
        let whole = gzip(&wrapped(&burst.iter().collect::<Vec<_>>()));
        let deep = format!(r#"{{"eventSource":"s3.amazonaws.com","eventName":{}1}}"#, "[".repeat(10_000));
        let (folder, digest) = of(&[
            ("a/1.json.gz", members),
            ("a/2.json.gz", whole.clone()),
            ("a/3.json.gz", whole[..whole.len() / 2].to_vec()),
            ("a/4.json.gz", b"not gzip".to_vec()),
            ("a/5.json", format!("{stop}\n{tried}\n{hostile}\n").into_bytes()),
            ("a/6.json", format!("{{\"Records\":[{{\"a\":1}},7,{{\"eventName\":[]}},{stop}]}}").into_bytes()),
            ("a/7.json", format!("{}\n{deep}\n{stop}\n", "garbage ".repeat(3)).into_bytes()),
            ("a/8.json", format!("{{\"Records\":[{{\"filler\":\"{}\"}},{stop}]}}", "x".repeat(2 << 20)).into_bytes()),
            ("a/9.json", wrapped(&[&stop]).as_bytes()[..100].to_vec()),
            ("a/10.json", Vec::new()),
            ("a/notes.txt", stop.to_string().into_bytes()),
        ]);
        let place = folder.path().display().to_string();
        let told = serde_json::to_string_pretty(&digest.to_json()).unwrap().replace(&place, "FOLDER");
        assert!(!told.chars().any(|c| c == '\u{1b}' || c == '\u{202e}' || c == '\u{9b}'), "{told}");
        insta::assert_snapshot!(told);
        insta::assert_snapshot!("for_people", digest.to_text().replace(&place, "FOLDER"));
    }

    #[test]
    fn links_and_what_is_no_file_are_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let secret = outside.path().join("secret.json");
        std::fs::write(&secret, record("ada", "s3", "ListBuckets", json!({})).to_string()).unwrap();
        std::os::unix::fs::symlink(&secret, folder.path().join("link.json")).unwrap();
        std::os::unix::fs::symlink(outside.path(), folder.path().join("folder")).unwrap();
        let nothing = digest(&[folder.path().to_owned()]).unwrap_err();
        assert!(matches!(nothing, ToolError::BadInput(_)), "{nothing}");
        let link = digest(&[folder.path().join("link.json")]).unwrap_err().to_string();
        assert!(link.ends_with("it is a link, and links are not followed"), "{link}");
        let device = digest(&["/dev/null".into()]).unwrap_err().to_string();
        assert_eq!(device, "not one record could be read; /dev/null: it is no regular file");
        assert!(digest(&[folder.path().join("absent")]).is_err());
        assert!(digest(&[]).is_err());
    }

    #[test]
    fn principals_are_bounded_and_the_riskiest_stay() {
        let mut lines = String::new();
        for n in 0..9000 {
            // Who only tried comes first and is let go; one in a thousand succeeded.
            let more = if n % 1000 == 0 { json!({}) } else { json!({ "errorCode": "AccessDenied" }) };
            lines += &format!("{}\n", record(&format!("u{n}"), "kms", "ScheduleKeyDeletion", more));
        }
        let (_folder, digest) = of(&[("log.json", lines.into_bytes())]);
        let (named, others) = digest.principals.ranked();
        assert_eq!(named.len() as u64 + others.principals, 9000);
        let risks: Vec<u16> = named.iter().map(|(_, principal)| principal.risk()).collect();
        assert_eq!(risks, [[40].repeat(9), [20].repeat(91)].concat());
    }
}
