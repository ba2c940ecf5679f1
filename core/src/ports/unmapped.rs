//! Events that no mapping answers: kept, so that they can be replayed when one does.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::intake::canonical_sha256;
use crate::job::one_line;

/// Names an unmapped event: the first 16 bytes of the SHA-256 of its canonical JSON, so that the same event delivered
/// again is the same. Shown as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UnmappedId([u8; 16]);

impl UnmappedId {
    /// The id of this event.
    pub fn of(event: &Value) -> Self {
        let digest = canonical_sha256(event);
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        Self(bytes)
    }

    /// The id's 16 bytes, as a database stores them.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The id whose bytes these are.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for UnmappedId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for UnmappedId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UnmappedId({self})")
    }
}

/// A text that is no id of an unmapped event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not an unmapped event's id: expected 32 hexadecimal digits, as the list of unmapped events shows them"
)]
pub struct NotAnUnmappedId(String);

impl FromStr for UnmappedId {
    type Err = NotAnUnmappedId;

    fn from_str(text: &str) -> Result<Self, NotAnUnmappedId> {
        let wrong = || NotAnUnmappedId(one_line(text, 60));
        // What the standard library reads as a number may have a sign in front.
        if text.len() != 32 || !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(wrong());
        }
        u128::from_str_radix(text, 16).map(|number| Self(number.to_be_bytes())).map_err(|_| wrong())
    }
}

impl TryFrom<String> for UnmappedId {
    type Error = NotAnUnmappedId;

    fn try_from(text: String) -> Result<Self, NotAnUnmappedId> {
        text.parse()
    }
}

impl From<UnmappedId> for String {
    fn from(id: UnmappedId) -> Self {
        id.to_string()
    }
}

/// An event that no mapping answered, with its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmapped {
    /// Which it is.
    pub id: UnmappedId,
    /// Its `source`, cleaned.
    pub source: String,
    /// Its `detail-type`, cleaned.
    pub detail_type: String,
    /// Why nothing answered it when it was last seen: a sentence, cleaned.
    pub why: String,
    /// The event itself, as JSON text.
    pub event: String,
    /// When it came first, to the millisecond.
    pub first: Timestamp,
    /// When it came last, to the millisecond.
    pub last: Timestamp,
    /// How often it came.
    pub seen: u64,
}

impl Unmapped {
    /// The longest source or detail-type that is kept beside an event, in bytes.
    pub const NAME_BYTES: usize = 256;
    /// The longest reason, in bytes.
    pub const WHY_BYTES: usize = 400;

    /// The event as it comes at `now`, for the first time as far as it knows.
    pub fn new(event: &Value, source: &str, detail_type: &str, why: &str, now: Timestamp) -> Self {
        // Pages are told apart by milliseconds.
        let now = Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now);
        Self {
            id: UnmappedId::of(event),
            source: one_line(source, Self::NAME_BYTES),
            detail_type: one_line(detail_type, Self::NAME_BYTES),
            why: one_line(why, Self::WHY_BYTES),
            event: event.to_string(),
            first: now,
            last: now,
            seen: 1,
        }
    }

    /// The event as lists have it.
    pub fn summary(&self) -> UnmappedSummary {
        UnmappedSummary {
            id: self.id,
            source: self.source.clone(),
            detail_type: self.detail_type.clone(),
            why: self.why.clone(),
            bytes: self.event.len() as u64,
            first: self.first,
            last: self.last,
            seen: self.seen,
        }
    }
}

/// An unmapped event without its text: a page of texts could be hundreds of megabytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnmappedSummary {
    /// Which it is.
    pub id: UnmappedId,
    /// Its `source`, cleaned.
    pub source: String,
    /// Its `detail-type`, cleaned.
    pub detail_type: String,
    /// Why nothing answered it when it was last seen.
    pub why: String,
    /// How long its text is, in bytes.
    pub bytes: u64,
    /// When it came first.
    pub first: Timestamp,
    /// When it came last.
    pub last: Timestamp,
    /// How often it came.
    pub seen: u64,
}

/// How much is kept of unmapped events, and how much no longer is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnmappedCount {
    /// Events that are kept.
    pub events: u64,
    /// The length of all their texts, in bytes.
    pub bytes: u64,
    /// Events that were dropped for want of room since the yard was made. What was forgotten on request is not counted.
    pub dropped: u64,
}

/// How much room a home has for unmapped events. Who sends events nobody foresaw must not fill the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnmappedRoom {
    /// Events at most.
    pub events: u64,
    /// Bytes of all their texts at most.
    pub bytes: u64,
}

impl UnmappedRoom {
    /// Whether as much fits in as is kept; while it does not, a home drops the event that was not seen for longest.
    pub fn holds(&self, kept: &UnmappedCount) -> bool {
        kept.events <= self.events && kept.bytes <= self.bytes
    }
}

impl Default for UnmappedRoom {
    /// 10,000 events and 64 MiB.
    fn default() -> Self {
        Self { events: 10_000, bytes: 64 * 1024 * 1024 }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_is_the_same_however_its_fields_are_ordered_and_another_one_is_not() {
        let read = |text: &str| UnmappedId::of(&serde_json::from_str(text).unwrap());
        assert_eq!(read(r#"{"id":"1","source":"my.app"}"#), read(r#"{ "source": "my.app", "id": "1" }"#));
        assert_ne!(read(r#"{"id":"1","source":"my.app"}"#), read(r#"{"id":"2","source":"my.app"}"#));
    }

    #[test]
    fn an_id_is_read_as_it_is_shown_and_nothing_else_is() {
        let id = UnmappedId::of(&json!({}));
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(
            "000102030405060708090a0b0c0d0e0f".parse(),
            Ok(UnmappedId([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]))
        );
        for wrong in ["", "0", "+00102030405060708090a0b0c0d0e0f", "000102030405060708090A0B0C0D0E0F", &"ä".repeat(16)]
        {
            assert!(wrong.parse::<UnmappedId>().is_err(), "{wrong}");
        }
        assert!("a\u{1b}[2J".parse::<UnmappedId>().unwrap_err().to_string().starts_with("`a [2J` is not"));
    }

    #[test]
    fn what_an_event_says_of_itself_is_cleaned_and_bounded_and_its_text_is_not() {
        let event = json!({ "source": "a\u{1b}[2Jb" });
        let now: Timestamp = "2026-01-31T12:00:00.123456Z".parse().unwrap();
        let kept = Unmapped::new(&event, "a\u{1b}[2Jb", &"x".repeat(1000), "no\nmapping", now);
        assert_eq!((kept.source.as_str(), kept.why.as_str()), ("a [2Jb", "no mapping"));
        assert!(kept.detail_type.len() <= Unmapped::NAME_BYTES + '…'.len_utf8());
        assert_eq!(serde_json::from_str::<Value>(&kept.event).unwrap(), event);
        assert_eq!(kept.last.to_string(), "2026-01-31T12:00:00.123Z");
        assert_eq!(kept.summary().bytes, kept.event.len() as u64);
    }

    #[test]
    fn room_ends_by_count_or_by_bytes() {
        let room = UnmappedRoom { events: 2, bytes: 10 };
        let kept = |events, bytes| UnmappedCount { events, bytes, dropped: 0 };
        assert!(room.holds(&kept(2, 10)) && room.holds(&kept(0, 0)));
        assert!(!room.holds(&kept(3, 3)) && !room.holds(&kept(1, 11)));
    }
}
