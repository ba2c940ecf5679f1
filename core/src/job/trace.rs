//! Traces: what a request, the jobs it makes and everything said about them have in common (W3C Trace Context).

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use super::{Epoch, JobId};

/// The longest `traceparent` looked at, in bytes: versions after 00 may be longer than its 55, and an end must be.
const LONGEST: usize = 512;

/// Names one trace: 16 bytes, not all zero (W3C Trace Context, section 3.2.2.3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TraceId([u8; 16]);

impl TraceId {
    /// A new trace, from 16 random bytes.
    pub fn drawn(random: [u8; 16]) -> Self {
        // All zero means that there is none; one of 2^128 draws is put right.
        if random == [0; 16] { Self([1; 16]) } else { Self(random) }
    }

    /// The trace that a `traceparent` names; `None` for anything that the specification calls invalid, which is then
    /// to be taken as if nothing had been sent (section 4.3).
    pub fn of_traceparent(header: &[u8]) -> Option<Self> {
        let (known, rest) = header.split_at_checked(55)?;
        let [v0, v1, b'-', fields @ ..] = known else { return None };
        let version = u8::try_from(digit(*v0)? << 4 | digit(*v1)?).ok()?;
        match version {
            0 if rest.is_empty() => {}
            // A later version is read as far as this one goes, where it goes on after a dash.
            1..=0xfe if rest.is_empty() || (rest[0] == b'-' && header.len() <= LONGEST) => {}
            _ => return None,
        }
        let (trace, fields) = fields.split_at_checked(32)?;
        let [b'-', fields @ ..] = fields else { return None };
        let (parent, fields) = fields.split_at_checked(16)?;
        let [b'-', flags @ ..] = fields else { return None };
        bytes::<1>(flags)?;
        bytes::<8>(parent).filter(|parent| *parent != [0; 8])?;
        bytes::<16>(trace).filter(|trace| *trace != [0; 16]).map(Self)
    }

    /// The `traceparent` that a program finds which runs this job at this epoch: the run is its parent span, and is
    /// sampled.
    pub fn traceparent(self, id: JobId, epoch: Epoch) -> String {
        let mut hash = Sha256::new();
        hash.update(id.as_bytes());
        hash.update(epoch.0.to_be_bytes());
        let digest: [u8; 32] = hash.finalize().into();
        let [a, b, c, d, e, f, g, h, ..] = digest;
        // A span's id is not all zero either.
        let span = u64::from_be_bytes([a, b, c, d, e, f, g, h]).max(1);
        format!("00-{self}-{span:016x}-01")
    }
}

/// The value of a hexadecimal digit; capitals are none here (section 3.2.2).
fn digit(c: u8) -> Option<u32> {
    if c.is_ascii_uppercase() { None } else { char::from(c).to_digit(16) }
}

fn bytes<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    if text.len() != N * 2 {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let [high, low] = pair else { return None };
        *byte = u8::try_from(digit(*high)? << 4 | digit(*low)?).ok()?;
    }
    Some(bytes)
}

impl From<JobId> for TraceId {
    /// The trace of a job that nobody's request brought.
    fn from(id: JobId) -> Self {
        Self::drawn(*id.as_bytes())
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TraceId({self})")
    }
}

/// A text that is no trace id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected 32 hexadecimal digits in lower case, not all zero")]
pub struct NotATraceId;

impl FromStr for TraceId {
    type Err = NotATraceId;

    fn from_str(text: &str) -> Result<Self, NotATraceId> {
        bytes::<16>(text.as_bytes()).filter(|trace| *trace != [0; 16]).map(Self).ok_or(NotATraceId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn read(header: &str) -> Option<String> {
        TraceId::of_traceparent(header.as_bytes()).map(|trace| trace.to_string())
    }

    #[test]
    fn a_traceparent_is_read_as_the_specification_says() {
        let good = [
            format!("00-{TRACE}-00f067aa0ba902b7-01"),
            format!("00-{TRACE}-00f067aa0ba902b7-00"),
            // Flags that nobody knows yet.
            format!("00-{TRACE}-00f067aa0ba902b7-ff"),
            format!("cc-{TRACE}-00f067aa0ba902b7-01"),
            format!("cc-{TRACE}-00f067aa0ba902b7-01-what-the-future-will-be-like"),
            format!("fe-{TRACE}-00f067aa0ba902b7-01-"),
        ];
        for header in good {
            assert_eq!(read(&header).as_deref(), Some(TRACE), "{header}");
        }
        let upper = TRACE.to_uppercase();
        let bad = [
            String::new(),
            TRACE.to_owned(),
            format!("ff-{TRACE}-00f067aa0ba902b7-01"),
            format!("0-{TRACE}-00f067aa0ba902b7-01"),
            format!("0g-{TRACE}-00f067aa0ba902b7-01"),
            format!("00-{upper}-00f067aa0ba902b7-01"),
            format!("00-{TRACE}-00F067AA0BA902B7-01"),
            format!("CC-{TRACE}-00f067aa0ba902b7-01"),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("00-{TRACE}-00f067aa0ba902b7-1"),
            format!("00-{TRACE}-00f067aa0ba902b7-0x"),
            format!("00-{TRACE}-00f067aa0ba902b7-01-"),
            format!("00-{TRACE}-00f067aa0ba902b7-01-more"),
            format!("cc-{TRACE}-00f067aa0ba902b7-01.more"),
            format!("cc-{TRACE}-00f067aa0ba902b7-01-{}", "x".repeat(LONGEST)),
            format!(" 00-{TRACE}-00f067aa0ba902b7-01"),
            format!("00_{TRACE}_00f067aa0ba902b7_01"),
            format!("00-{}é-00f067aa0ba902b7-01", &TRACE[2..]),
        ];
        for header in bad {
            assert_eq!(read(&header), None, "{header}");
        }
    }

    #[test]
    fn a_run_is_a_span_of_its_own_in_the_trace_of_its_job() {
        let (id, trace) = (JobId::keyed("a", "k"), TRACE.parse::<TraceId>().unwrap());
        let first = trace.traceparent(id, Epoch(1));
        assert_eq!(read(&first).as_deref(), Some(TRACE), "what is handed on is itself valid");
        assert_eq!(first, trace.traceparent(id, Epoch(1)));
        assert_ne!(first, trace.traceparent(id, Epoch(2)));
        assert_ne!(first, trace.traceparent(JobId::keyed("a", "l"), Epoch(1)));
        assert_eq!(first.len(), 55);
    }

    #[test]
    fn a_trace_is_never_all_zero() {
        assert_ne!(TraceId::drawn([0; 16]).to_string(), "0".repeat(32));
        assert_eq!("0".repeat(32).parse::<TraceId>(), Err(NotATraceId));
        assert_eq!(TRACE.parse::<TraceId>().unwrap().to_string(), TRACE);
        let id: JobId = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        assert_eq!(TraceId::from(id).to_string(), id.to_string().replace('-', ""));
    }
}
