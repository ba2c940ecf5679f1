//! Finds the files and opens them. What lies there was put there by others.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use flate2::bufread::MultiGzDecoder;
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::ToolError;

/// The most files of one folder: a busy organisation's day in one region. Their names are held while they are sorted.
const ENTRIES_MAX: usize = 50_000;
/// The deepest folder; CloudTrail's own layout has eight levels.
const DEPTH_MAX: usize = 32;
/// How a gzip member begins (RFC 1952).
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// A file's text, or why it cannot be read.
type Opened = Result<Box<dyn Read>, String>;

/// Hands over what lies at a path: a file, or every log in a folder and the folders in it.
///
/// # Errors
///
/// [`ToolError::BadInput`] where there is nothing, or the folder cannot be listed.
pub(super) fn visit(path: &Path, read: &mut dyn FnMut(&Path, Opened)) -> Result<(), ToolError> {
    let bad =
        |cause: &dyn std::fmt::Display| ToolError::BadInput(format!("{} cannot be read: {cause}", path.display()));
    let kind = fs::symlink_metadata(path).map_err(|error| bad(&error))?.file_type();
    if kind.is_dir() {
        fs::read_dir(path).map_err(|error| bad(&error))?;
        folder(path, 0, read);
    } else {
        read(path, open(path));
    }
    Ok(())
}

fn folder(path: &Path, depth: usize, read: &mut dyn FnMut(&Path, Opened)) {
    if depth == DEPTH_MAX {
        return read(path, Err(format!("it lies more than {DEPTH_MAX} folders deep")));
    }
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) => return read(path, Err(format!("it cannot be listed: {error}"))),
    };
    let mut names = Vec::new();
    for entry in entries {
        match entry {
            Ok(_) if names.len() == ENTRIES_MAX => {
                return read(
                    path,
                    Err(format!("it holds more than {ENTRIES_MAX} entries: give its parts by themselves")),
                );
            }
            Ok(entry) => names.push(entry.file_name()),
            Err(error) => return read(path, Err(format!("it cannot be listed: {error}"))),
        }
    }
    names.sort();
    for name in names {
        let inside = path.join(&name);
        let name = name.to_string_lossy();
        match fs::symlink_metadata(&inside).map(|metadata| metadata.file_type()) {
            Ok(kind) if kind.is_dir() => folder(&inside, depth + 1, read),
            Ok(kind) if kind.is_file() && (name.ends_with(".json.gz") || name.ends_with(".json")) => {
                read(&inside, open(&inside));
            }
            Ok(_) => {}
            Err(error) => read(&inside, Err(error.to_string())),
        }
    }
}

/// Opens a file that holds JSON, compressed or not.
fn open(path: &Path) -> Opened {
    // No link is followed and nothing is waited for, whatever took the file's place since it was listed.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = OpenOptions::new().read(true).custom_flags(i32::try_from(flags.bits()).unwrap_or(0)).open(path);
    let file: File = opened.map_err(|error| match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::LOOP) => "it is a link, and links are not followed".to_owned(),
        _ => error.to_string(),
    })?;
    if !file.metadata().map_err(|error| error.to_string())?.is_file() {
        return Err("it is no regular file".to_owned());
    }
    let mut reader = BufReader::with_capacity(super::CHUNK_BYTES, file);
    let compressed = reader.fill_buf().map_err(|error| error.to_string())?.starts_with(&GZIP);
    match (compressed, path.extension().is_some_and(|extension| extension == "gz")) {
        (true, _) => Ok(Box::new(MultiGzDecoder::new(reader))),
        (false, true) => Err("it is no gzip file".to_owned()),
        (false, false) => Ok(Box::new(reader)),
    }
}
