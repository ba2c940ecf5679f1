//! Emitted lines as a stream carries them, what is parked, and records as the API shows them.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Ms, WireCause, WireError, bad, from_ms, ms, shown};
use crate::job::{Epoch, JobId};
use crate::ports::Parked;
use crate::records::{Emitted, Kind, Record, Registered};

/// The version that is written.
pub const EMITTED_VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct EmittedWire {
    v: u32,
    job: JobId,
    epoch: Epoch,
    n: u64,
    at: Ms,
    /// As a text and not as JSON: nobody has judged yet whether it is any.
    line: String,
}

/// An emitted line as a stream carries it: `{"v":1,"job":"…","epoch":1,"n":1,"at":…,"line":"…"}`. No token is in it: who
/// may write to the stream may speak for any run.
pub fn encode_emitted(emitted: &Emitted) -> String {
    let Emitted { job, epoch, n, at, line } = emitted;
    let wire = EmittedWire { v: EMITTED_VERSION, job: *job, epoch: *epoch, n: *n, at: ms(*at), line: line.clone() };
    serde_json::to_string(&wire).unwrap_or_else(|error| unreachable!("an emitted line is always JSON: {error}"))
}

/// The line that [`encode_emitted`] made, here or in a later program of the same version.
///
/// # Errors
///
/// [`WireError`]: a newer program wrote it, which [`WireError::is_newer`] tells, or it is none.
pub fn decode_emitted(text: &str) -> Result<Emitted, WireError> {
    #[derive(Deserialize)]
    struct Versioned {
        v: u32,
    }
    let what = "an emitted line";
    let Versioned { v: found } = serde_json::from_str(text).map_err(|error| bad(what, error))?;
    if found != EMITTED_VERSION {
        return Err(bad(what, WireCause::Version { found, known: EMITTED_VERSION }));
    }
    let EmittedWire { v: _, job, epoch, n, at, line } = serde_json::from_str(text).map_err(|error| bad(what, error))?;
    Ok(Emitted { job, epoch, n, at: from_ms(at).map_err(|cause| bad(what, cause))?, line })
}

/// Something that is parked, as a line of JSON.
pub fn encode_parked(parked: &Parked) -> String {
    #[derive(Serialize)]
    struct ParkedWire<'a> {
        v: u32,
        source: &'a str,
        name: &'a str,
        code: &'a str,
        reason: &'a str,
        received_at: String,
        body: &'a str,
    }
    let Parked { source, name, refused, body, at } = parked;
    let (code, reason) = (refused.code.as_str(), refused.reason.as_str());
    let wire = ParkedWire { v: 1, source, name, code, reason, received_at: shown(*at), body };
    serde_json::to_string(&wire).unwrap_or_else(|error| unreachable!("what is parked is always JSON: {error}"))
}

/// A record as the API shows it. Times are RFC 3339.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RecordView {
    /// The run that emitted it, of its job.
    pub epoch: Epoch,
    /// Its place among what that run emitted, from 1.
    pub n: u64,
    /// When it was emitted, as far as whoever ran the job could tell.
    pub at: String,
    /// What it tells of.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub kind: Kind,
    /// Of an asset or a finding: what names it for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The record, as the run wrote it.
    pub record: Value,
}

impl From<Record> for RecordView {
    fn from(record: Record) -> Self {
        let Record { job: _, epoch, n, at, capability: _, kind, id, body } = record;
        Self { epoch, n, at: shown(at), kind, id, record: object(&body) }
    }
}

/// An asset or a finding as the API shows it: as it was seen last. Times are RFC 3339.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RegisteredView {
    /// What names it for ever.
    pub id: String,
    /// When it was seen first, of what is known.
    pub first_seen: String,
    /// When it was seen last.
    pub last_seen: String,
    /// The job that saw it last; it may be forgotten by now.
    pub job: JobId,
    /// What ran.
    pub capability: String,
    /// What that run said of it.
    pub record: Value,
}

impl From<Registered> for RegisteredView {
    fn from(entry: Registered) -> Self {
        let Registered { id, first_seen, last_seen, job, epoch: _, n: _, capability, body } = entry;
        let record = object(&body);
        Self { id, first_seen: shown(first_seen), last_seen: shown(last_seen), job, capability, record }
    }
}

/// A record's JSON. It was judged to be an object before it was kept; what a home has lost of it is null.
fn object(body: &str) -> Value {
    serde_json::from_str(body).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{Code, Refused};
    use crate::testing::at;

    fn emitted(line: &str) -> Emitted {
        Emitted { job: JobId::keyed("tests", "one"), epoch: Epoch(2), n: 17, at: at(3), line: line.to_owned() }
    }

    #[test]
    fn an_emitted_line_is_read_back_as_it_was_whatever_it_holds() {
        for line in [r#"{"kind":"log","message":"a \"b\""}"#, "{", "", "\u{0}\t\u{1b}[2J", "ä🚂\u{202e}"] {
            let sent = encode_emitted(&emitted(line));
            assert!(!sent.contains('\n'));
            assert_eq!(decode_emitted(&sent).unwrap(), emitted(line));
        }
    }

    /// A stream holds what an earlier program put into it: this text must be readable for ever.
    #[test]
    fn the_form_in_a_stream_is_this_and_a_newer_one_is_named() {
        let sent = r#"{"v":1,"job":"JOB","epoch":2,"n":17,"at":1000003000,"line":"{}"}"#;
        let sent = sent.replace("JOB", &JobId::keyed("tests", "one").to_string());
        assert_eq!(encode_emitted(&emitted("{}")), sent);
        assert_eq!(decode_emitted(&sent.replace("\"line\"", "\"more\":1,\"line\"")).unwrap(), emitted("{}"));
        assert!(decode_emitted(&sent.replace("\"v\":1", "\"v\":2")).unwrap_err().is_newer());
        assert!(decode_emitted(&sent.replace("\"n\":17", "\"n\":-1")).is_err_and(|error| !error.is_newer()));
    }

    #[test]
    fn what_is_parked_is_one_line_with_its_reason() {
        let refused = Refused::new(Code::NotJson, "it is not JSON");
        let line = encode_parked(&Parked::of(&emitted("a\nb"), "run", refused, at(9)));
        insta::assert_snapshot!(line.replace(&JobId::keyed("tests", "one").to_string(), "JOB"));
    }
}
