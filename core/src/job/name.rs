//! What jobs, runs and writes are called by: ids, epochs, holders, nonces, tokens.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::one_line;

/// Names one job for ever: derived from (caller, idempotency key) where there is a key, else ordered by time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(Uuid);

impl JobId {
    /// The id of the job that `caller` submits under `key`. The same pair always gives the same id, so acceptance is
    /// one conditional put and a repeat meets the first job.
    pub fn keyed(caller: &str, key: &str) -> Self {
        let mut hash = Sha256::new();
        // The length in front keeps ("ab", "c") and ("a", "bc") apart.
        hash.update((caller.len() as u64).to_be_bytes());
        hash.update(caller.as_bytes());
        hash.update(key.as_bytes());
        let digest: [u8; 32] = hash.finalize().into();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        // RFC 9562, section 5.8: version 8 is for ids of a scheme of one's own.
        Self(Uuid::new_v8(bytes))
    }

    /// A new id, ordered by time (RFC 9562 version 7), for a job without a key.
    pub fn ordered(now: Timestamp, random: [u8; 10]) -> Self {
        let millis = u64::try_from(now.as_millisecond()).unwrap_or(0);
        Self(uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid())
    }

    /// The id's 16 bytes, as a database stores them.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// The id whose bytes these are.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JobId({self})")
    }
}

/// A text that is no job id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a job id: expected a UUID such as 01890a5d-ac96-774b-bcce-b302099a8057")]
pub struct NotAJobId(String);

impl FromStr for JobId {
    type Err = NotAJobId;

    fn from_str(text: &str) -> Result<Self, NotAJobId> {
        Uuid::try_parse(text).map(Self).map_err(|_| NotAJobId(one_line(text, 60)))
    }
}

/// Rises by one at every dispatch, whatever the cause: the fencing token of everything said about a run. A job that
/// was never dispatched is at epoch 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u32);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How soon a job must start. Tiers are strict: no lower one starts while a higher one waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Somebody waits for the answer.
    Synchronous,
    /// Soon.
    Priority,
    /// In its turn.
    #[default]
    Standard,
}

impl Tier {
    /// All tiers, highest first.
    pub const ALL: [Self; 3] = [Self::Synchronous, Self::Priority, Self::Standard];

    /// Where it stands in [`Tier::ALL`]; stored, so it stays as it is.
    pub const fn rank(self) -> u8 {
        match self {
            Self::Synchronous => 0,
            Self::Priority => 1,
            Self::Standard => 2,
        }
    }

    /// The tier `by` above it, or the highest.
    pub fn raised(self, by: u8) -> Self {
        match (self, by) {
            (_, 0) => self,
            (Self::Standard, 1) => Self::Priority,
            (Self::Standard | Self::Priority | Self::Synchronous, _) => Self::Synchronous,
        }
    }

    /// The tier's name in JSON, on the command line and in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Synchronous => "synchronous",
            Self::Priority => "priority",
            Self::Standard => "standard",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Who runs a job: an instance's id and the nonce of its boot, so that a restarted instance is somebody else.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Holder(pub String);

impl Holder {
    /// The holder `instance` of this `boot`.
    pub fn new(instance: &str, boot: Nonce) -> Self {
        Self(format!("{instance}/{boot}"))
    }

    /// The part that names the instance: what may hold many runs, or be one's own.
    pub fn instance(&self) -> &str {
        self.0.rsplit_once('/').map_or(self.0.as_str(), |(instance, _)| instance)
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Marks one conditional write. A writer that was refused and finds its own nonce in the record knows that its write
/// took effect and only the answer was lost.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Nonce(pub u64);

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Nonce({self})")
    }
}

/// The secret a claim makes: whoever beats, logs or settles must show it. Never stored, never printed.
///
/// The claimer draws it and sends its hash with the claim; a claim whose answer was lost is repeated with the same
/// token, and the holder still knows it.
#[derive(Clone, PartialEq, Eq)]
pub struct ClaimToken([u8; 32]);

impl ClaimToken {
    /// A token from 32 random bytes.
    pub fn new(random: [u8; 32]) -> Self {
        Self(random)
    }

    /// The secret itself, for the holder's own connection to its desk and nothing else.
    pub(crate) fn reveal(&self) -> &[u8; 32] {
        &self.0
    }

    /// What the record keeps of it.
    pub fn hash(&self) -> TokenHash {
        TokenHash(Sha256::digest(self.0).into())
    }
}

impl fmt::Debug for ClaimToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClaimToken(..)")
    }
}

/// SHA-256 of a [`ClaimToken`].
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash(pub [u8; 32]);

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenHash({:02x}{:02x}..)", self.0[0], self.0[1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keyed_id_depends_on_caller_and_key_apart() {
        assert_eq!(JobId::keyed("a", "k"), JobId::keyed("a", "k"));
        assert_ne!(JobId::keyed("ab", "c"), JobId::keyed("a", "bc"));
        assert_ne!(JobId::keyed("a", "k"), JobId::keyed("b", "k"));
    }

    #[test]
    fn a_token_never_shows_itself() {
        let token = ClaimToken::new([7; 32]);
        assert_eq!(format!("{token:?}"), "ClaimToken(..)");
        assert_ne!(token.hash(), ClaimToken::new([8; 32]).hash());
    }
}
