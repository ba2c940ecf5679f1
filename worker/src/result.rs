//! The result file that a run may leave, whatever ran.

use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use switchyard_core::job::Failure;
use switchyard_core::ports::Body;

/// Reads the result file: none, or JSON of at most [`Body::MAX_BYTES`].
///
/// # Errors
///
/// A [`Failure`] says what is wrong with it. The program made it so, and will again.
pub fn read(path: &Path) -> Result<Option<String>, Failure> {
    let unreadable = |error: io::Error| match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
        Some(rustix::io::Errno::LOOP) => Failure::new("result_unreadable", "the result is a link, not a file"),
        _ => Failure::new("result_unreadable", format!("the result file cannot be read: {error}")),
    };
    // No link is followed and nothing is waited for: the program chose what lies at this path.
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let mut options = std::fs::OpenOptions::new();
    let opened = options.read(true).custom_flags(i32::try_from(flags.bits()).unwrap_or(0)).open(path);
    let file = match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
        Ok(file) => file,
    };
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(Failure::new("result_unreadable", "the result is not a file"));
    }
    let mut bytes = Vec::new();
    file.take(Body::MAX_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    check(bytes, metadata.len())
}

/// Judges what was read of a result file of `size` bytes: at most one byte more than is taken.
///
/// # Errors
///
/// As [`read`].
pub fn check(bytes: Vec<u8>, size: u64) -> Result<Option<String>, Failure> {
    if bytes.len() > Body::MAX_BYTES {
        let most = Body::MAX_BYTES;
        return Err(Failure::new(
            "result_too_large",
            format!("the result file is {size} bytes; at most {most} are taken"),
        ));
    }
    if bytes.is_empty() {
        return Ok(None);
    }
    let text = String::from_utf8(bytes).map_err(|_| Failure::new("result_not_json", "the result file is not UTF-8"))?;
    match serde_json::from_str::<serde_json::Value>(&text) {
        Ok(_) => Ok(Some(text)),
        Err(error) => Err(Failure::new("result_not_json", format!("the result file is not JSON: {error}"))),
    }
}
