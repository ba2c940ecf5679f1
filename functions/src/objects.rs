//! Objects that hold events: one event, a JSON array of them, or one a line; packed with gzip or not.

use std::io::Read;

use aws_sdk_s3::Client;
use flate2::read::MultiGzDecoder;
use serde_json::value::RawValue;
use switchyard_aws::failure::{code, failed};
use switchyard_core::ports::PortError;

use crate::doors::Object;

/// The largest object that is read.
const PACKED_BYTES: usize = 8 * 1024 * 1024;
/// The most that it may unpack to: it is held in memory twice, once in parts, and the function has 512 MiB.
const UNPACKED_BYTES: usize = 32 * 1024 * 1024;
/// Events in one object. Each is a write or two, and the function has a minute.
const EVENTS: usize = 5_000;

/// An object that was not read.
#[derive(Debug, thiserror::Error)]
pub enum NotRead {
    /// Another try may read it.
    #[error(transparent)]
    Passing(PortError),
    /// No try will.
    #[error("{0}")]
    Never(String),
}

/// The texts in an object, each of which should be an event.
///
/// # Errors
///
/// [`NotRead`]: of an object that can never be read nothing is taken.
pub async fn texts(client: &Client, object: &Object) -> Result<Vec<String>, NotRead> {
    let subject = format!("object {} in bucket {}", object.key, object.bucket);
    let mut found = match client.get_object().bucket(&object.bucket).key(&object.key).send().await {
        Ok(found) => found,
        Err(error) if code(&error) == Some("NoSuchKey") => return Err(NotRead::Never("it is not there".to_owned())),
        // What it lacks besides, such as a permission, the operator can give: then it comes again from where it was kept.
        Err(error) => return Err(NotRead::Passing(failed("read", &subject, &error))),
    };
    let mut bytes = Vec::new();
    while let Some(part) = found.body.next().await {
        let part = part.map_err(|error| NotRead::Passing(PortError::retryable("read", &subject, error)))?;
        bytes.extend_from_slice(&part);
        if bytes.len() > PACKED_BYTES {
            return Err(NotRead::Never(format!("it has over {PACKED_BYTES} bytes")));
        }
    }
    parts(bytes).map_err(NotRead::Never)
}

/// The texts in an object's bytes.
fn parts(bytes: Vec<u8>) -> Result<Vec<String>, String> {
    // RFC 1952, section 2.3.1: every gzip file begins so, and no JSON does.
    let bytes = if bytes.starts_with(&[0x1f, 0x8b]) { unpacked(&bytes)? } else { bytes };
    let text = String::from_utf8(bytes).map_err(|error| format!("not UTF-8: {}", error.utf8_error()))?;
    // Some programs put a byte order mark in front.
    let text = text.trim_start_matches('\u{feff}').trim();
    let parts: Vec<String> = if text.starts_with('[') {
        let array: Vec<Box<RawValue>> =
            serde_json::from_str(text).map_err(|error| format!("not a JSON array: {error}"))?;
        array.into_iter().map(|part| part.get().to_owned()).collect()
    } else if serde_json::from_str::<&RawValue>(text).is_ok() {
        vec![text.to_owned()]
    } else {
        text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
    };
    if parts.len() > EVENTS {
        return Err(format!("it holds {} events, and {EVENTS} is the most", parts.len()));
    }
    Ok(parts)
}

fn unpacked(packed: &[u8]) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let most = UNPACKED_BYTES as u64 + 1;
    // A file may be several put together, as log shippers and `cat` do it (RFC 1952, section 2.2).
    MultiGzDecoder::new(packed).take(most).read_to_end(&mut bytes).map_err(|error| format!("not gzip: {error}"))?;
    if bytes.len() > UNPACKED_BYTES {
        return Err(format!("it unpacks to over {UNPACKED_BYTES} bytes"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn packed(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn one_event_an_array_and_lines_are_told_apart() {
        for (text, expected) in [
            (r#"{"a":1}"#, vec![r#"{"a":1}"#]),
            ("\u{feff}{\n \"a\": 1\n}\n", vec!["{\n \"a\": 1\n}"]),
            (r#"[{"a":1}, {"b":[2]}]"#, vec![r#"{"a":1}"#, r#"{"b":[2]}"#]),
            ("{\"a\":1}\r\n\n{\"b\":2}\n", vec![r#"{"a":1}"#, r#"{"b":2}"#]),
            ("{\"a\":1}\n{\"cut\":", vec![r#"{"a":1}"#, r#"{"cut":"#]),
            ("", vec![]),
            ("[]", vec![]),
        ] {
            assert_eq!(parts(text.as_bytes().to_vec()).unwrap(), expected, "{text}");
            assert_eq!(parts(packed(text.as_bytes())).unwrap(), expected, "packed: {text}");
        }
    }

    #[test]
    fn what_is_too_much_or_nothing_of_the_kind_is_not_taken_in_part() {
        assert_eq!(parts(packed(&vec![b' '; UNPACKED_BYTES + 1])).unwrap_err(), "it unpacks to over 33554432 bytes");
        assert!(parts("{}\n".repeat(EVENTS).into_bytes()).is_ok());
        assert!(parts("{}\n".repeat(EVENTS + 1).into_bytes()).unwrap_err().contains("5001 events"));
        assert!(parts(vec![0xff, 0xfe]).unwrap_err().starts_with("not UTF-8"));
        assert!(parts(b"[1,".to_vec()).unwrap_err().starts_with("not a JSON array"));
        assert!(parts(packed(b"{}")[..12].to_vec()).unwrap_err().starts_with("not gzip"));
    }
}
