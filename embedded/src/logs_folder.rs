//! What jobs print: a file for each epoch, one JSON text a line. Logs are not the truth and are not synced.

use std::fs::{self, DirBuilder, File};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use switchyard_core::job::{Epoch, JobId};
use switchyard_core::ports::{LogLine, LogPage, Logs, PortError};
use switchyard_core::wire;

use crate::blobs_folder::{aside, remove_folder};
use crate::folder::{Folder, append_lines};

/// About as much of a log as one answer carries.
const PAGE_BYTES: u64 = 256 * 1024;

/// Logs in a folder.
#[derive(Clone, Debug)]
pub struct FolderLogs {
    root: PathBuf,
}

impl FolderLogs {
    /// The logs of a yard.
    pub fn new(folder: &Folder) -> Self {
        Self { root: folder.logs() }
    }
}

#[async_trait]
impl Logs for FolderLogs {
    async fn append(&self, job: JobId, epoch: Epoch, lines: &[LogLine]) -> Result<(), PortError> {
        let mut text = String::new();
        for line in lines {
            text.push_str(&wire::encode_line(line));
            text.push('\n');
        }
        let folder = self.root.join(job.to_string());
        aside("append to", format!("the log of job {job}"), move || {
            DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
            append_lines(&folder.join(format!("{epoch}.ndjson")), &text).map(drop)
        })
        .await
    }

    async fn read(&self, job: JobId, cursor: &str) -> Result<LogPage, PortError> {
        let folder = self.root.join(job.to_string());
        let (epoch, offset) = cursor.split_once('.').unwrap_or(("0", "0"));
        let (epoch, offset) = (epoch.parse().unwrap_or(0), offset.parse().unwrap_or(0));
        aside("read", format!("the log of job {job}"), move || read_page(&folder, epoch, offset)).await
    }

    async fn forget(&self, job: JobId) -> Result<(), PortError> {
        let folder = self.root.join(job.to_string());
        aside("forget", format!("the log of job {job}"), move || remove_folder(&folder)).await
    }
}

fn read_page(folder: &Path, from_epoch: u32, from_offset: u64) -> io::Result<LogPage> {
    let mut epochs: Vec<u32> = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
        Ok(entries) => entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_suffix(".ndjson")?.parse().ok())
            .filter(|epoch| *epoch >= from_epoch)
            .collect(),
    };
    epochs.sort_unstable();
    let mut page = LogPage { lines: Vec::new(), next: format!("{from_epoch}.{from_offset}") };
    let mut bytes = 0;
    for epoch in epochs {
        let mut offset = if epoch == from_epoch { from_offset } else { 0 };
        let mut file = File::open(folder.join(format!("{epoch}.ndjson")))?;
        // A cursor comes back from outside: one beyond the end, or within a line, is a place like any other.
        offset = offset.min(file.metadata()?.len());
        file.seek(SeekFrom::Start(offset))?;
        let mut reader = BufReader::new(file);
        let mut line = Vec::new();
        while bytes < PAGE_BYTES {
            line.clear();
            let read = reader.read_until(b'\n', &mut line)?;
            // The end, or a line that is still being written.
            if read == 0 || !line.ends_with(b"\n") {
                break;
            }
            offset += read as u64;
            bytes += read as u64;
            // Half a line, left by a full disk or a crash, may end within a character: it hides itself and no other.
            if let Some(line) = str::from_utf8(&line).ok().and_then(|line| wire::decode_line(line).ok()) {
                page.lines.push((Epoch(epoch), line));
            }
        }
        page.next = format!("{epoch}.{offset}");
        if bytes >= PAGE_BYTES {
            break;
        }
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use switchyard_core::job::Nonce;
    use switchyard_core::ports::Stream;

    use super::*;

    fn line(text: &str) -> LogLine {
        LogLine { at: Timestamp::UNIX_EPOCH, stream: Stream::Stdout, text: text.to_owned() }
    }

    #[tokio::test]
    async fn a_torn_line_hides_no_other_and_no_cursor_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        let logs = FolderLogs { root: root.path().to_owned() };
        let job = JobId::keyed("tests", &Nonce(1).to_string());
        logs.append(job, Epoch(1), &[line("one €")]).await.unwrap();
        let file = root.path().join(job.to_string()).join("1.ndjson");
        let mut bytes = fs::read(&file).unwrap();
        // The disk was full within the first byte of a character; later there was room again.
        let torn = bytes.iter().position(|byte| *byte > 0x7f).unwrap() + 1;
        bytes.extend_from_within(..torn);
        fs::write(&file, &bytes).unwrap();
        logs.append(job, Epoch(1), &[line("two"), line("three")]).await.unwrap();
        let page = logs.read(job, "").await.unwrap();
        let texts: Vec<&str> = page.lines.iter().map(|(_, line)| line.text.as_str()).collect();
        assert_eq!(texts, ["one €", "two", "three"]);
        for offset in 0..bytes.len() {
            logs.read(job, &format!("1.{offset}")).await.unwrap();
        }
        for cursor in ["1.18446744073709551615", "1.9999", "9.0", "x", ".", "-1.-1"] {
            logs.read(job, cursor).await.unwrap();
        }
    }
}
