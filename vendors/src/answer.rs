//! What vendors answer: a token that can be used, a refusal that can be told, or neither. A vendor is not trusted to answer
//! what it was asked, nor to keep to itself what it was sent.

use std::time::Duration;

use jiff::Timestamp;
use secrecy::SecretString;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use switchyard_core::job::one_line;
use switchyard_core::lend::{Refused, RefusedCode};
use zeroize::Zeroizing;

/// The longest token: more than any header of an HTTP request usually may have in all (8 KiB at most servers).
const TOKEN_BYTES: usize = 16 * 1024;
/// The longest that a token can last: Microsoft's longest-lived ones have a day (Microsoft Entra, "Configurable token
/// lifetimes"), Google's half of that. More is a mistake, or a lie.
const LONGEST: Duration = Duration::from_secs(48 * 3600);
/// How much of what a vendor said is told.
const SAID_BYTES: usize = 200;
/// So many characters of a secret in a vendor's words are no accident.
const ECHO: usize = 12;

/// A question to a vendor that brought no credential.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum VendorError {
    /// It cannot be reached, or fails.
    #[error("{vendor}: {what}")]
    Down {
        /// Who.
        vendor: &'static str,
        /// How.
        what: String,
    },
    /// It will not.
    #[error("{vendor} refused (status {status}): {}", Said(.said))]
    Refused {
        /// Who.
        vendor: &'static str,
        /// The status of its answer.
        status: u16,
        /// Its own words.
        said: Words,
    },
    /// Its answer is none.
    #[error("{vendor}: {what}")]
    Answer {
        /// Who.
        vendor: &'static str,
        /// What is wrong with it.
        what: String,
    },
}

/// What a vendor said of a refusal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Words {
    /// Its short code, such as `invalid_grant`.
    pub(crate) code: Option<String>,
    /// A sentence.
    pub(crate) text: Option<String>,
}

struct Said<'a>(&'a Words);

impl std::fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.0.code, &self.0.text) {
            (Some(code), Some(text)) => write!(f, "{code}: {text}"),
            (Some(only), None) | (None, Some(only)) => f.write_str(only),
            (None, None) => f.write_str("it does not say why"),
        }
    }
}

impl VendorError {
    pub(crate) fn down(vendor: &'static str, what: impl Into<String>) -> Self {
        Self::Down { vendor, what: what.into() }
    }

    pub(crate) fn answer(vendor: &'static str, what: impl Into<String>) -> Self {
        Self::Answer { vendor, what: what.into() }
    }

    /// Whether the vendor says that what we showed it is not what it knows: OAuth's codes (RFC 6749, section 5.2), or the
    /// status of whoever has no codes.
    pub(crate) fn blames_the_key(&self) -> bool {
        match self {
            Self::Refused { status, said, .. } => {
                *status == 401 || matches!(said.code.as_deref(), Some("invalid_client" | "invalid_grant"))
            }
            Self::Down { .. } | Self::Answer { .. } => false,
        }
    }
}

impl From<VendorError> for Refused {
    fn from(error: VendorError) -> Self {
        let code = match &error {
            VendorError::Down { .. } => RefusedCode::VendorDown,
            VendorError::Refused { .. } => RefusedCode::VendorRefused,
            VendorError::Answer { .. } => RefusedCode::VendorAnswer,
        };
        Self::new(code, error.to_string())
    }
}

/// The vendor's own words in the body of a refusal, in the three forms that these vendors have. None that repeat a part of
/// what was secret in the question are told.
pub(crate) fn words(body: &[u8], secrets: &[&str]) -> Words {
    let Ok(body) = serde_json::from_slice::<Value>(body) else { return Words::default() };
    let told = |value: &Value| {
        let text = value.as_str().filter(|text| !text.trim().is_empty())?;
        if secrets.iter().any(|secret| repeats(text, secret)) {
            return Some("(what it says repeats a secret)".to_owned());
        }
        Some(one_line(text, SAID_BYTES))
    };
    let (code, text) = match &body["error"] {
        Value::Object(error) => (error.get("status").and_then(told), error.get("message").and_then(told)),
        code => (told(code), told(&body["error_description"]).or_else(|| told(&body["message"]))),
    };
    Words { code, text }
}

/// Whether a text has a good part of a secret in it.
fn repeats(text: &str, secret: &str) -> bool {
    let (text, secret) = (text.as_bytes(), secret.as_bytes());
    if secret.is_empty() {
        return false;
    }
    let part = ECHO.min(secret.len());
    secret.windows(part).any(|part| text.windows(part.len()).any(|found| found == part))
}

/// Whether a text can be sent as a token: visible ASCII and nothing else.
pub(crate) fn is_token(text: &str) -> bool {
    (1..=TOKEN_BYTES).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Reads the JSON of a granted answer. What is wrong with it is not told in the reader's words: they may repeat a value.
pub(crate) fn read<T: DeserializeOwned>(vendor: &'static str, body: &[u8]) -> Result<T, VendorError> {
    serde_json::from_slice(body).map_err(|error| {
        let what = if error.is_data() { "lacks what it must have" } else { "is no JSON" };
        VendorError::answer(vendor, format!("its answer {what}"))
    })
}

/// A token, if it is one.
pub(crate) fn token(vendor: &'static str, text: &str) -> Result<SecretString, VendorError> {
    if is_token(text) {
        return Ok(SecretString::from(text));
    }
    Err(VendorError::answer(vendor, "its answer has a token that no header could carry"))
}

/// When a token ends, held against what is possible.
pub(crate) fn expiry(vendor: &'static str, now: Timestamp, expires: Timestamp) -> Result<Timestamp, VendorError> {
    if expires <= now {
        return Err(VendorError::answer(vendor, "its answer has a token that is over"));
    }
    if expires > now + LONGEST {
        return Err(VendorError::answer(vendor, "its answer has a token that lasts longer than any"));
    }
    Ok(expires)
}

/// A granted answer of a token endpoint (RFC 6749, section 5.1).
#[derive(Deserialize)]
pub(crate) struct Granted {
    access_token: Zeroizing<String>,
    token_type: String,
    expires_in: i64,
    /// What it is for, where that is not what was asked for.
    #[serde(default)]
    pub(crate) scope: Option<String>,
}

impl Granted {
    /// The token, and when it ends.
    pub(crate) fn token(&self, vendor: &'static str, now: Timestamp) -> Result<(SecretString, Timestamp), VendorError> {
        if !self.token_type.eq_ignore_ascii_case("bearer") {
            return Err(VendorError::answer(vendor, "its answer has a token of another type than `Bearer`"));
        }
        // A span that no timestamp can take is as absurd as one of a year.
        let seconds = Duration::from_secs(u64::try_from(self.expires_in).unwrap_or(0).min(u64::from(u32::MAX)));
        Ok((token(vendor, &self.access_token)?, expiry(vendor, now, now + seconds)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_each_vendor_are_found() {
        for (body, expected) in [
            (r#"{"error":"invalid_grant","error_description":"Invalid JWT."}"#, "invalid_grant: Invalid JWT."),
            (r#"{"error":{"code":403,"status":"PERMISSION_DENIED","message":"No."}}"#, "PERMISSION_DENIED: No."),
            (r#"{"message":"Bad credentials","documentation_url":"d"}"#, "Bad credentials"),
            (r#"{"error":"a\u001b[31m\nb"}"#, "a [31m b"),
            (r#"{"error":[1]}"#, "it does not say why"),
            ("<html>Oops</html>", "it does not say why"),
            ("", "it does not say why"),
        ] {
            assert_eq!(Said(&words(body.as_bytes(), &[])).to_string(), expected, "{body}");
        }
        let long = words(format!(r#"{{"error":"{}"}}"#, "a".repeat(9000)).as_bytes(), &[]);
        assert!(long.code.unwrap().len() <= SAID_BYTES + '…'.len_utf8());
    }

    #[test]
    fn words_that_repeat_a_part_of_a_secret_are_not_told() {
        let secret = "0123456789abcdefghij";
        for (said, told) in [
            ("bad secret 0123456789abcdefghij", false),
            ("bad secret starting 0123456789ab", false),
            ("bad secret ending 89abcdefghij.", false),
            ("bad secret 0123456789", true),
            ("nothing of it", true),
        ] {
            let words = words(format!(r#"{{"error":"e","error_description":"{said}"}}"#).as_bytes(), &[secret]);
            assert_eq!(words.text.as_deref() == Some(said), told, "{words:?}");
        }
        assert!(repeats("the short one is hunter2", "hunter2") && !repeats("anything", ""));
    }

    #[test]
    fn a_token_that_cannot_be_is_none() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let granted = |token: &str, of: &str, seconds: i64| {
            let answer = serde_json::json!({ "access_token": token, "token_type": of, "expires_in": seconds });
            read::<Granted>("V", answer.to_string().as_bytes()).unwrap().token("V", now)
        };
        let (_, expires) = granted("ya29.abc", "bearer", 3599).unwrap();
        assert_eq!(expires, now + Duration::from_secs(3599));
        for (token, of, seconds) in [
            ("", "Bearer", 3600),
            ("a b", "Bearer", 3600),
            ("a\r\nX-Evil: b", "Bearer", 3600),
            ("é", "Bearer", 3600),
            ("ya29.abc", "mac", 3600),
            ("ya29.abc", "", 3600),
            ("ya29.abc", "Bearer", 0),
            ("ya29.abc", "Bearer", -1),
            ("ya29.abc", "Bearer", 48 * 3600 + 1),
            ("ya29.abc", "Bearer", i64::MAX),
        ] {
            let error = granted(token, of, seconds).unwrap_err();
            assert!(matches!(error, VendorError::Answer { .. }), "{error}");
        }
        granted(&"a".repeat(TOKEN_BYTES + 1), "Bearer", 3600).unwrap_err();
    }
}
