//! What is remembered of a schedule, as it is stored.

use serde::{Deserialize, Serialize};

use super::{Ms, WireCause, WireError, bad, from_ms, from_ms_opt, ms};
use crate::schedule::Ticked;

/// The version that is written.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct TickedWire {
    v: u32,
    upto: Ms,
    times: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tick: Option<Ms>,
    #[serde(default)]
    skipped: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    why: Option<(Ms, String)>,
}

/// What is remembered of a schedule, as JSON text.
pub fn encode_ticked(ticked: &Ticked) -> String {
    let Ticked { upto, times, tick, skipped, why } = ticked;
    let wire = TickedWire {
        v: VERSION,
        upto: ms(*upto),
        times: times.clone(),
        tick: tick.map(ms),
        skipped: *skipped,
        why: why.as_ref().map(|(at, why)| (ms(*at), why.clone())),
    };
    serde_json::to_string(&wire).unwrap_or_else(|error| {
        // Numbers and texts only: there is nothing in it that JSON cannot hold.
        unreachable!("what is remembered is always JSON: {error}")
    })
}

/// Reads what [`encode_ticked`] wrote.
///
/// # Errors
///
/// [`WireError`] says why it cannot be read.
pub fn decode_ticked(text: &str) -> Result<Ticked, WireError> {
    let wrong = |cause: WireCause| bad("what is remembered of a schedule", cause);
    let wire: TickedWire = serde_json::from_str(text).map_err(|error| wrong(error.into()))?;
    if wire.v != VERSION {
        return Err(wrong(WireCause::Version { found: wire.v, known: VERSION }));
    }
    let why = wire.why.map(|(at, why)| from_ms(at).map(|at| (at, why))).transpose().map_err(wrong)?;
    Ok(Ticked {
        upto: from_ms(wire.upto).map_err(wrong)?,
        times: wire.times,
        tick: from_ms_opt(wire.tick).map_err(wrong)?,
        skipped: wire.skipped,
        why,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at;

    #[test]
    fn what_is_remembered_is_read_back_as_it_was_and_a_newer_form_is_refused() {
        let times = "*/5 * * * * UTC".to_owned();
        let bare = Ticked { upto: at(1), times, tick: None, skipped: 0, why: None };
        let full = Ticked { tick: Some(at(0)), skipped: 3, why: Some((at(-60), "overlap: x".into())), ..bare.clone() };
        for ticked in [bare, full] {
            let text = encode_ticked(&ticked);
            assert_eq!(decode_ticked(&text).unwrap(), ticked);
            assert!(decode_ticked(&text.replace("\"v\":1", "\"v\":2")).is_err());
        }
        let stored = r#"{"v":1,"upto":1000001000,"times":"*/5 * * * * UTC","tick":1000000000,"skipped":3}"#;
        assert_eq!(decode_ticked(stored).unwrap().tick, Some(at(0)));
    }
}
