//! The yard's tokens: who may call, as a file keeps it. A token is stored as its hash; the token itself is shown once,
//! when it is made.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use axum::http::header;
use axum::http::request::Parts;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use switchyard_core::intake::RESERVED_CALLERS;
use switchyard_core::job::one_line;

use crate::admit::{Caller, Callers, Role, Stranger};

/// The name of this machine's own token, which lies in plain text in the yard's folder.
pub const LOCAL: &str = "local";
/// The version this program writes, and the newest it reads.
const VERSION: u32 = 1;
/// Tokens in one file: each is compared at every request.
const MOST: usize = 1000;
/// The longest file that is read: a thousand tokens take a quarter of it.
const FILE_BYTES: u64 = 1024 * 1024;

/// One token, without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Who shows it: the caller of the jobs it submits.
    pub name: String,
    /// How far it reaches.
    pub role: Role,
    /// When it was made, or last changed.
    pub created: Timestamp,
    sha256: [u8; 32],
}

/// All tokens of a yard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokens(Vec<Token>);

/// Tokens that cannot be read, or a change to them that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// The text is not what it should be.
    #[error("not the list of tokens it should be: {0}")]
    Malformed(String),
    /// A newer program wrote it.
    #[error("it is version {0}; this program reads version {VERSION}")]
    Version(u32),
    /// The name cannot be one.
    #[error(
        "`{0}` cannot name a token: expected 1 to 64 letters, digits, `.`, `_` or `-`, and no name of the yard's own"
    )]
    BadName(String),
    /// There is one of that name.
    #[error("there is a token named `{0}` already: rotate it for a new secret, or revoke it first")]
    Exists(String),
    /// There is none of that name.
    #[error("there is no token named `{0}`")]
    Missing(String),
    /// There is no room for another.
    #[error("there are {MOST} tokens: revoke one first")]
    Full,
    /// This machine's own token is always there.
    #[error("`{LOCAL}` is this machine's own token: rotate it, it cannot be revoked")]
    Local,
}

#[derive(Serialize, Deserialize)]
struct FileWire {
    version: u32,
    #[serde(default)]
    tokens: Vec<TokenWire>,
}

#[derive(Serialize, Deserialize)]
struct TokenWire {
    name: String,
    role: String,
    sha256: String,
    created_at: Timestamp,
}

/// 32 random bytes as the text of a token.
pub fn secret_of(random: [u8; 32]) -> String {
    hex(&random)
}

fn hex(bytes: &[u8; 32]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (place, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(place * 2..place * 2 + 2)?, 16).ok()?;
    }
    Some(bytes)
}

fn check_name(name: &str) -> Result<(), TokensError> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    // The yard's own callers: what they submitted is nobody else's to repeat.
    let reserved = RESERVED_CALLERS.contains(&name);
    if (1..=64).contains(&name.len()) && name.bytes().all(fits) && !reserved {
        return Ok(());
    }
    Err(TokensError::BadName(one_line(name, 64)))
}

impl Tokens {
    /// Whose token a request shows.
    ///
    /// # Errors
    ///
    /// It shows none, or nobody's.
    pub fn who(&self, request: &Parts) -> Result<Caller, Stranger> {
        let shown = request.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let (scheme, secret) = shown.ok_or(Stranger::Silent)?.split_once(' ').ok_or(Stranger::Unknown)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Stranger::Unknown);
        }
        let token = self.find(secret.trim()).ok_or(Stranger::Unknown)?;
        Ok(Caller { name: token.name.clone(), role: token.role })
    }

    /// The tokens that [`Tokens::to_json`] wrote.
    ///
    /// # Errors
    ///
    /// [`TokensError`]: it is something else.
    pub fn from_json(text: &str) -> Result<Self, TokensError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let malformed = |what: String| TokensError::Malformed(one_line(&what, 200));
        let Versioned { version } = serde_json::from_str(text).map_err(|error| malformed(error.to_string()))?;
        if version != VERSION {
            return Err(TokensError::Version(version));
        }
        let file: FileWire = serde_json::from_str(text).map_err(|error| malformed(error.to_string()))?;
        let mut tokens = Self::default();
        for wire in file.tokens {
            let role = wire.role.parse().map_err(|error| malformed(format!("token `{}`: role: {error}", wire.name)))?;
            let sha256 = from_hex(&wire.sha256)
                .ok_or_else(|| malformed(format!("token `{}`: sha256: expected 64 hexadecimal digits", wire.name)))?;
            tokens.add(Token { name: wire.name, role, created: wire.created_at, sha256 })?;
        }
        Ok(tokens)
    }

    /// The tokens as a file keeps them: names, roles and hashes.
    pub fn to_json(&self) -> String {
        let wire = |token: &Token| TokenWire {
            name: token.name.clone(),
            role: token.role.as_str().to_owned(),
            sha256: hex(&token.sha256),
            created_at: token.created,
        };
        let file = FileWire { version: VERSION, tokens: self.0.iter().map(wire).collect() };
        serde_json::to_string_pretty(&file).unwrap_or_else(|error| unreachable!("tokens are always JSON: {error}"))
    }

    /// The tokens, in the order in which they were made.
    pub fn iter(&self) -> impl Iterator<Item = &Token> {
        self.0.iter()
    }

    fn add(&mut self, token: Token) -> Result<(), TokensError> {
        check_name(&token.name)?;
        if self.0.iter().any(|known| known.name == token.name) {
            return Err(TokensError::Exists(token.name));
        }
        if self.0.len() >= MOST {
            return Err(TokensError::Full);
        }
        self.0.push(token);
        Ok(())
    }

    /// Adds a token.
    ///
    /// # Errors
    ///
    /// [`TokensError`]: the name cannot be one, is taken, or there are too many.
    pub fn create(&mut self, name: &str, role: Role, secret: &str, now: Timestamp) -> Result<(), TokensError> {
        self.add(Token { name: name.to_owned(), role, created: now, sha256: Sha256::digest(secret).into() })
    }

    /// Gives a token another secret.
    ///
    /// # Errors
    ///
    /// [`TokensError::Missing`]
    pub fn rotate(&mut self, name: &str, secret: &str, now: Timestamp) -> Result<Role, TokensError> {
        let token = self.0.iter_mut().find(|token| token.name == name);
        let token = token.ok_or_else(|| TokensError::Missing(one_line(name, 64)))?;
        (token.sha256, token.created) = (Sha256::digest(secret).into(), now);
        Ok(token.role)
    }

    /// Removes a token.
    ///
    /// # Errors
    ///
    /// [`TokensError::Missing`], or [`TokensError::Local`].
    pub fn revoke(&mut self, name: &str) -> Result<(), TokensError> {
        if name == LOCAL {
            return Err(TokensError::Local);
        }
        let place = self.0.iter().position(|token| token.name == name);
        self.0.remove(place.ok_or_else(|| TokensError::Missing(one_line(name, 64)))?);
        Ok(())
    }

    /// The token of this secret.
    pub fn find(&self, secret: &str) -> Option<&Token> {
        let digest = Sha256::digest(secret);
        self.0.iter().find(|token| token.sha256.ct_eq(&digest).into())
    }
}

/// What tells one state of a file from the next, whoever wrote it and however: it costs one stat(2) to know.
type Stamp = (u64, u64, i64, i64, i64, i64);

fn stamp(file: &Metadata) -> Stamp {
    (file.ino(), file.size(), file.mtime(), file.mtime_nsec(), file.ctime(), file.ctime_nsec())
}

/// The tokens in a file that may change at any moment. A change counts from the next request on; a broken file changes
/// nothing, and its defect is logged.
pub struct TokenFile {
    path: PathBuf,
    known: RwLock<(Option<Stamp>, Arc<Tokens>)>,
}

impl TokenFile {
    /// The tokens in this file.
    ///
    /// # Errors
    ///
    /// It cannot be read, or holds something else.
    pub fn open(path: &Path) -> io::Result<Self> {
        let (stamp, tokens) = read(path)?;
        Ok(Self { path: path.to_owned(), known: RwLock::new((Some(stamp), Arc::new(tokens?))) })
    }

    /// The tokens as the file has them now.
    fn tokens(&self) -> Arc<Tokens> {
        let now = std::fs::metadata(&self.path).ok().map(|file| stamp(&file));
        {
            // A panic elsewhere leaves what was read whole.
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            if known.0 == now {
                return Arc::clone(&known.1);
            }
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let file = self.path.display();
        match read(&self.path) {
            Ok((stamp, Ok(tokens))) => {
                if known.0 != Some(stamp) {
                    tracing::info!(%file, tokens = tokens.0.len(), "the tokens have changed");
                }
                *known = (Some(stamp), Arc::new(tokens));
            }
            // Said once for each state of the file.
            Ok((stamp, Err(error))) if known.0 != Some(stamp) => {
                tracing::error!(%file, %error, "the tokens stay as they were");
                known.0 = Some(stamp);
            }
            Ok((_, Err(_))) => {}
            Err(error) if known.0.is_some() => {
                tracing::error!(%file, %error, "the tokens stay as they were");
                known.0 = None;
            }
            Err(_) => {}
        }
        Arc::clone(&known.1)
    }
}

/// The file's stamp, and the tokens it holds.
fn read(path: &Path) -> io::Result<(Stamp, Result<Tokens, io::Error>)> {
    let mut file = File::open(path)?;
    // Of the file that is read, which may be another one than the path leads to a moment later.
    let stamp = stamp(&file.metadata()?);
    let mut text = String::new();
    let tokens = match (&mut file).take(FILE_BYTES).read_to_string(&mut text) {
        Ok(_) => Tokens::from_json(&text).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)),
        Err(error) => Err(error),
    };
    Ok((stamp, tokens))
}

impl Callers for TokenFile {
    fn who(&self, request: &Parts) -> Result<Caller, Stranger> {
        self.tokens().who(request)
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn tokens() -> Tokens {
        let mut tokens = Tokens::default();
        tokens.create(LOCAL, Role::Operator, "one", now()).unwrap();
        tokens.create("ci.main", Role::Submitter, "two", now()).unwrap();
        tokens
    }

    fn who(file: &TokenFile, secret: &str) -> Result<Caller, Stranger> {
        let request = Request::builder().header("authorization", format!("bearer {secret}")).body(()).unwrap();
        file.who(&request.into_parts().0)
    }

    #[test]
    fn the_file_keeps_hashes_and_is_read_back_as_it_was() {
        let text = tokens().to_json();
        assert_eq!(Tokens::from_json(&text).unwrap(), tokens());
        insta::assert_snapshot!(text);
    }

    #[test]
    fn what_is_no_list_of_tokens_is_refused_with_the_place() {
        let sound = tokens().to_json();
        let cases = [
            "{".to_owned(),
            "{}".to_owned(),
            sound.replace("\"version\": 1", "\"version\": 2"),
            sound.replace("submitter", "admin"),
            sound.replacen("\"sha256\": \"", "\"sha256\": \"x", 1),
            sound.replace("ci.main", "ci main"),
            sound.replace("ci.main", "local"),
        ];
        let told = cases.map(|text| Tokens::from_json(&text).unwrap_err().to_string());
        insta::assert_snapshot!(told.join("\n"));
    }

    #[test]
    fn tokens_are_made_changed_and_removed_by_name() {
        let mut tokens = tokens();
        assert_eq!(tokens.find("two").unwrap().name, "ci.main");
        assert_eq!(tokens.rotate("ci.main", "three", now()).unwrap(), Role::Submitter);
        assert!(tokens.find("two").is_none());
        assert_eq!(tokens.find("three").unwrap().role, Role::Submitter);
        tokens.revoke("ci.main").unwrap();
        assert!(tokens.find("three").is_none());
        let told = [
            tokens.create("local", Role::Viewer, "x", now()).unwrap_err(),
            tokens.create("a b", Role::Viewer, "x", now()).unwrap_err(),
            tokens.create("", Role::Viewer, "x", now()).unwrap_err(),
            tokens.rotate("nobody", "x", now()).unwrap_err(),
            tokens.revoke("nobody").unwrap_err(),
            tokens.revoke("local").unwrap_err(),
        ];
        insta::assert_snapshot!(told.map(|error| error.to_string()).join("\n"));
    }

    #[test]
    fn a_change_of_the_file_counts_from_the_next_request_on_and_a_broken_file_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.json");
        // As an edit is made: another file takes the name.
        let replace = |text: &str| {
            std::fs::write(folder.path().join("new"), text).unwrap();
            std::fs::rename(folder.path().join("new"), &path).unwrap();
        };
        replace(&tokens().to_json());
        let file = TokenFile::open(&path).unwrap();
        assert_eq!(who(&file, "two").unwrap(), Caller { name: "ci.main".to_owned(), role: Role::Submitter });
        let mut changed = tokens();
        changed.rotate("ci.main", "three", now()).unwrap();
        replace(&changed.to_json());
        assert_eq!(who(&file, "two"), Err(Stranger::Unknown));
        assert_eq!(who(&file, "three").unwrap().name, "ci.main");
        for broken in ["", "{", "{\"version\":2}"] {
            replace(broken);
            assert_eq!(who(&file, "three").unwrap().name, "ci.main", "{broken}");
            assert_eq!(who(&file, "two"), Err(Stranger::Unknown), "{broken}");
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(who(&file, "one").unwrap().name, LOCAL);
        replace(&tokens().to_json());
        assert_eq!(who(&file, "three"), Err(Stranger::Unknown), "sound again");
        assert!(TokenFile::open(&folder.path().join("nowhere")).is_err());
    }
}
