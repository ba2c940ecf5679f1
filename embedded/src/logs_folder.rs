//! What jobs print: a file for each epoch, one JSON text a line. Logs are not the truth and are not synced.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use switchyard_core::job::{Epoch, JobId};
use switchyard_core::ports::{LogLine, LogPage, Logs, PortError};
use switchyard_core::wire;

use crate::blobs_folder::{aside, remove_folder};
use crate::folder::Folder;

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
            let path = folder.join(format!("{epoch}.ndjson"));
            // One write of whole lines: a reader never sees half of one, a crash leaves at most a torn last line.
            OpenOptions::new().create(true).append(true).mode(0o600).open(path)?.write_all(text.as_bytes())
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
        file.seek(SeekFrom::Start(offset))?;
        let mut reader = BufReader::new(file);
        let mut line = String::new();
        while bytes < PAGE_BYTES {
            line.clear();
            let read = reader.read_line(&mut line)?;
            // The end, or a line that is still being written.
            if read == 0 || !line.ends_with('\n') {
                break;
            }
            offset += read as u64;
            bytes += read as u64;
            if let Ok(line) = wire::decode_line(&line) {
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
