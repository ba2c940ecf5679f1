//! The store of secrets on one machine: a file that the operator names, YAML or JSON, which maps each secret's name to its text.
//!
//! ```yaml
//! shodan: 0123456789
//! github-app: |
//!   -----BEGIN RSA PRIVATE KEY-----
//!   ...
//! aws: { access_key_id: AKIA..., secret_access_key: ... }
//! ```
//!
//! `aws` is no secret's name: with those credentials roles are assumed. The file is refused where anybody but its owner may
//! read or XX What is wrong with it is told by its line and the entry's name,
//! never by a value.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use rustix::fs::{Mode, OFlags};
use secrecy::SecretString;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};
use switchyard_core::job::one_line;
use switchyard_core::lend::SecretName;
use zeroize::Zeroizing;

use crate::doors::{Vault, VaultError};

/// The longest file: a thousand private keys have less.
const FILE_BYTES: usize = 1024 * 1024;
/// The entry that is no secret.
const AWS: &str = "aws";

/// A file of secrets that is not used. It repeats nothing that is in it but names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{}: {what}", .file.display(), Line(*.line))]
pub struct FileError {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1; 0 when the whole file is meant.
    pub line: u64,
    /// What is wrong.
    pub what: String,
    /// Whether it may be right the next time: the file changed while it was read.
    pub passing: bool,
}

struct Line(u64);

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 { Ok(()) } else { write!(f, ":{}", self.0) }
    }
}

/// With what roles of AWS are assumed on one machine.
#[derive(Clone, Debug)]
pub struct AwsKeys {
    /// Which these are; not secret.
    pub access_key_id: String,
    /// What requests are signed with.
    pub secret_access_key: SecretString,
    /// What is sent along, where the credentials are temporary.
    pub session_token: Option<SecretString>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AwsEntry {
    access_key_id: String,
    secret_access_key: Zeroizing<String>,
    #[serde(default)]
    session_token: Option<Zeroizing<String>>,
}

/// What the file has.
#[derive(Default)]
struct Contents {
    secrets: BTreeMap<String, SecretString>,
    aws: Option<AwsKeys>,
}

/// By what a file is known to be as it was: where it lies, when it was changed last, how long it is.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp([i64; 7]);

impl Stamp {
    fn of(metadata: &std::fs::Metadata) -> Self {
        let number = |of: u64| i64::from_ne_bytes(of.to_ne_bytes());
        let (dev, ino, size) = (number(metadata.dev()), number(metadata.ino()), number(metadata.size()));
        let changed = [metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()];
        let [a, b, c, d] = changed;
        Self([dev, ino, size, a, b, c, d])
    }
}

/// The operator's file.
pub struct FileVault {
    path: PathBuf,
}

impl fmt::Debug for FileVault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileVault").field("path", &self.path).finish_non_exhaustive()
    }
}

impl FileVault {
    /// The file there. It is not looked at before somebody asks.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Whether the file can be used as it is now.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), FileError> {
        self.contents().map(drop)
    }

    /// With what roles are assumed, as the file says now; `None`: it does not say.
    ///
    /// # Errors
    ///
    /// What is wrong with the file.
    pub fn aws(&self) -> Result<Option<AwsKeys>, FileError> {
        self.contents().map(|contents| contents.aws)
    }

    fn wrong(&self, what: impl Into<String>) -> FileError {
        FileError { file: self.path.clone(), line: 0, what: what.into(), passing: false }
    }

    /// What is in it now. A file of this length on the machine itself is read in less time than it takes to have another thread
    /// do it.
    fn contents(&self) -> Result<Contents, FileError> {
        let failed = |error: std::io::Error| self.wrong(format!("it cannot be read: {error}"));
        // Whoever names a pipe is told so, and not kept waiting.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let opened = rustix::fs::open(&self.path, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
        let mut file = std::fs::File::from(opened);
        // Asked of the open file, and not of its name: another could have that name by now.
        let metadata = file.metadata().map_err(failed)?;
        self.fit(&metadata)?;
        let stamp = Stamp::of(&metadata);
        // Room for all at once: a buffer that grows leaves copies of secrets behind.
        let mut text = Zeroizing::new(Vec::with_capacity(FILE_BYTES + 1));
        let most = u64::try_from(FILE_BYTES).unwrap_or(u64::MAX);
        file.by_ref().take(most + 1).read_to_end(&mut text).map_err(failed)?;
        if text.len() > FILE_BYTES {
            return Err(self.wrong(format!("it has over {FILE_BYTES} bytes")));
        }
        if Stamp::of(&file.metadata().map_err(failed)?) != stamp {
            return Err(FileError { passing: true, ..self.wrong("it changed while it was read") });
        }
        let text = std::str::from_utf8(&text).map_err(|_| self.wrong("it is no text (UTF-8)"))?;
        self.parse(text)
    }

    /// Whether it is a file that nobody else can read or change.
    fn fit(&self, metadata: &std::fs::Metadata) -> Result<(), FileError> {
        if !metadata.is_file() {
            return Err(self.wrong("it is no regular file"));
        }
        let (owner, us) = (metadata.uid(), rustix::process::geteuid().as_raw());
        if owner != us && owner != 0 {
            return Err(self.wrong(format!("it is user {owner}'s, and must be ours ({us}) or root's")));
        }
        let mode = metadata.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(self.wrong(format!("its mode is {mode:03o}: others than its owner may use it; set it to 600")));
        }
        Ok(())
    }

    fn parse(&self, text: &str) -> Result<Contents, FileError> {
        let mut at = None;
        let read = serde_saphyr::with_deserializer_from_str(text, |deserializer| {
            Entries { at: &mut at }.deserialize(deserializer)
        });
        // The reader's own words may repeat a value, and a value is a secret: only where it stands is told.
        read.map_err(|error| {
            let line = error.location().map_or(0, |at| at.line());
            let what = match at {
                Some(name) => format!("entry `{}` is not what it must be: a text, and each once", one_line(&name, 100)),
                None => "expected a map of names to texts".to_owned(),
            };
            FileError { line, ..self.wrong(what) }
        })
    }
}

/// Reads the entries, and remembers which it is at.
struct Entries<'a> {
    at: &'a mut Option<String>,
}

impl<'de> DeserializeSeed<'de> for Entries<'_> {
    type Value = Contents;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Contents, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Entries<'_> {
    type Value = Contents;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of names to texts")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Contents, A::Error> {
        let mut contents = Contents::default();
        while let Some(name) = map.next_key::<String>()? {
            *self.at = Some(name.clone());
            if name == AWS {
                let AwsEntry { access_key_id, secret_access_key, session_token } = map.next_value()?;
                let keys = AwsKeys {
                    access_key_id,
                    secret_access_key: SecretString::from(secret_access_key.as_str()),
                    session_token: session_token.map(|token| SecretString::from(token.as_str())),
                };
                if contents.aws.replace(keys).is_some() {
                    return Err(A::Error::custom("twice"));
                }
            } else {
                let text: Zeroizing<String> = map.next_value()?;
                if contents.secrets.insert(name, SecretString::from(text.as_str())).is_some() {
                    return Err(A::Error::custom("twice"));
                }
            }
        }
        Ok(contents)
    }
}

#[async_trait]
impl Vault for FileVault {
    async fn secret(&self, name: &SecretName) -> Result<SecretString, VaultError> {
        match self.contents() {
            Ok(contents) => contents.secrets.get(&name.0).cloned().ok_or_else(|| VaultError::Missing(name.clone())),
            Err(error) if error.passing => Err(VaultError::Passing { name: name.clone(), cause: error.into() }),
            Err(error) => Err(VaultError::Lasting { name: name.clone(), cause: error.into() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use secrecy::ExposeSecret;

    use super::*;

    const CANARY: &str = "canary-0a1b2c3d4e5f";

    struct Scene {
        folder: tempfile::TempDir,
        vault: FileVault,
    }

    impl Scene {
        fn of(text: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let vault = FileVault::new(&folder.path().join("secrets.yaml"));
            let scene = Self { folder, vault };
            scene.write(text);
            scene
        }

        fn write(&self, text: &str) {
            let fresh = self.folder.path().join("fresh");
            std::fs::write(&fresh, text).unwrap();
            std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600)).unwrap();
            std::fs::rename(&fresh, &self.vault.path).unwrap();
        }

        fn mode(&self, mode: u32) {
            std::fs::set_permissions(&self.vault.path, std::fs::Permissions::from_mode(mode)).unwrap();
        }

        fn secret(&self, name: &str) -> Result<String, VaultError> {
            let name = SecretName(name.to_owned());
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(self.vault.secret(&name)).map(|secret| secret.expose_secret().to_owned())
        }

        fn wrong(&self) -> FileError {
            self.vault.check().unwrap_err()
        }
    }

    #[test]
    fn a_file_is_yaml_or_json() {
        let yaml = Scene::of("a/b: one\nnumber: 0123\npem: |\n  -----BEGIN\n  -----END\n");
        assert_eq!(yaml.secret("a/b").unwrap(), "one");
        assert_eq!(yaml.secret("number").unwrap(), "0123", "to the letter");
        assert_eq!(yaml.secret("pem").unwrap(), "-----BEGIN\n-----END\n");
        assert!(matches!(yaml.secret("other"), Err(VaultError::Missing(name)) if name.0 == "other"));
        assert!(yaml.vault.aws().unwrap().is_none());
        let json = Scene::of(r#"{"a": "one\n", "aws": {"access_key_id": "AKIA", "secret_access_key": "s"}}"#);
        assert_eq!(json.secret("a").unwrap(), "one\n");
        let keys = json.vault.aws().unwrap().unwrap();
        assert_eq!((keys.access_key_id.as_str(), keys.secret_access_key.expose_secret()), ("AKIA", "s"));
        assert!(matches!(json.secret("aws"), Err(VaultError::Missing(_))));
    }

    #[test]
    fn a_file_that_others_may_use_is_refused_whenever_that_is_seen() {
        let scene = Scene::of("a: one\n");
        assert_eq!(scene.secret("a").unwrap(), "one");
        for mode in [0o640, 0o620, 0o604, 0o602, 0o601, 0o644, 0o777] {
            scene.mode(mode);
            assert!(scene.wrong().what.contains(&format!("{mode:03o}")), "{mode:o}");
            assert!(matches!(scene.secret("a"), Err(VaultError::Lasting { .. })));
        }
        for mode in [0o600, 0o400] {
            scene.mode(mode);
            assert_eq!(scene.secret("a").unwrap(), "one");
        }
    }

    #[test]
    fn what_is_no_file_is_refused_and_nobody_waits_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        for path in [folder.path(), pipe.as_path()] {
            assert_eq!(FileVault::new(path).check().unwrap_err().what, "it is no regular file");
        }
        let missing = FileVault::new(&folder.path().join("missing")).check().unwrap_err();
        assert!(missing.what.starts_with("it cannot be read"), "{missing}");
    }

    #[test]
    fn a_file_is_read_anew_when_it_has_changed() {
        let scene = Scene::of("a: one\n");
        assert_eq!(scene.secret("a").unwrap(), "one");
        scene.write("a: two\nb: more\n");
        assert_eq!((scene.secret("a").unwrap(), scene.secret("b").unwrap()), ("two".into(), "more".into()));
        // What is broken now is not used as it was before.
        scene.write("a: [");
        assert!(matches!(scene.secret("a"), Err(VaultError::Lasting { .. })));
        scene.write("a: three\n");
        assert_eq!(scene.secret("a").unwrap(), "three");
    }

    #[test]
    fn a_broken_file_is_told_by_line_and_name_and_never_by_a_value() {
        for (text, line, name) in [
            (format!("a: one\nb: [{CANARY}]\n"), 2, Some("`b`")),
            (format!("a: one\nb: {{ x: {CANARY} }}\n"), 2, Some("`b`")),
            (format!("a: {CANARY}\na: {CANARY}\n"), 2, Some("`a`")),
            (format!("aws: {{ access_key_id: A, secret_access_key: {CANARY}, more: {CANARY} }}\n"), 1, Some("`aws`")),
            (format!("aws: {{ access_key_id: [{CANARY}] }}\n"), 1, Some("`aws`")),
            (format!("aws: {CANARY}\n"), 1, Some("`aws`")),
            (format!("- {CANARY}\n"), 1, None),
            (format!("a: \"{CANARY}"), 1, None),
            (CANARY.to_owned(), 1, None),
            (format!("{{\"a\": \"{CANARY}\", }} {CANARY}"), 1, None),
        ] {
            let error = Scene::of(&text).wrong();
            let said = format!("{error} {error:?}");
            assert!(!said.contains("canary"), "{text}: {said}");
            assert!(error.line == line, "{text}: {error}");
            assert!(name.is_none_or(|name| error.what.contains(name)), "{text}: {error}");
        }
        let long = Scene::of(&format!("a: {}\n", "x".repeat(FILE_BYTES)));
        assert!(long.wrong().what.contains("over 1048576 bytes"));
        let shown = format!("{:?}", Scene::of(&format!("a: {CANARY}")).vault);
        assert!(!shown.contains(CANARY));
    }
}
