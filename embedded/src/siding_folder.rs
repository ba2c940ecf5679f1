//! What runs emitted and is no record: files in a folder, within a limit.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use async_trait::async_trait;
use switchyard_core::ports::{Parked, PortError, Siding};
use switchyard_core::wire;

use crate::blobs_folder::aside;
use crate::folder::{Folder, write_private};

/// What is kept of it, in bytes: 64 MiB, as of unmapped events. The oldest files make room.
const MOST_BYTES: u64 = 64 * 1024 * 1024;

/// Parks in a folder.
#[derive(Clone, Debug)]
pub struct FolderSiding {
    root: PathBuf,
    most_bytes: u64,
}

impl FolderSiding {
    /// The siding of a yard.
    pub fn new(folder: &Folder) -> Self {
        Self { root: folder.parked(), most_bytes: MOST_BYTES }
    }
}

#[async_trait]
impl Siding for FolderSiding {
    async fn park(&self, parked: &[Parked]) -> Result<(), PortError> {
        let mut text = String::new();
        for one in parked {
            text.push_str(&wire::encode_parked(one));
            text.push('\n');
        }
        // The same things again have the same name: they lie where they lay.
        let path = self.root.join(format!("{}.ndjson", Parked::digest(parked)));
        let (root, most) = (self.root.clone(), self.most_bytes);
        aside("park", format!("{} lines", parked.len()), move || {
            if path.exists() {
                return Ok(());
            }
            make_room(&root, most.saturating_sub(text.len() as u64))?;
            write_private(&path, text.as_bytes())
        })
        .await
    }
}

/// Removes the oldest files until the others have no more than this.
fn make_room(root: &Path, most: u64) -> io::Result<()> {
    let mut files: Vec<(SystemTime, PathBuf, u64)> = Vec::new();
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        files.push((metadata.modified()?, entry.path(), metadata.len()));
    }
    let mut bytes: u64 = files.iter().map(|(.., bytes)| bytes).sum();
    files.sort();
    for (_, path, size) in files {
        if bytes <= most {
            break;
        }
        fs::remove_file(path)?;
        bytes -= size;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use switchyard_core::job::{Epoch, JobId};
    use switchyard_core::records::{Code, Emitted, Refused};

    use super::*;

    fn parked(n: u64, line: &str) -> Parked {
        let at = Timestamp::UNIX_EPOCH;
        let line = Emitted { job: JobId::keyed("tests", "one"), epoch: Epoch(1), n, at, line: line.to_owned() };
        Parked::of(&line, "run", Refused::new(Code::NotJson, "it is not JSON"), at)
    }

    #[tokio::test]
    async fn what_is_parked_lies_there_once_with_its_reason_and_the_oldest_makes_room() {
        let root = tempfile::tempdir().unwrap();
        let siding = FolderSiding { root: root.path().to_owned(), most_bytes: 1000 };
        let first = [parked(1, "{"), parked(2, "[")];
        siding.park(&first).await.unwrap();
        siding.park(&first).await.unwrap();
        let files = || fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
        let [file] = files().try_into().unwrap();
        let text = fs::read_to_string(&file).unwrap();
        assert_eq!(text.lines().count(), 2);
        assert!(text.contains(r#""code":"not_json","reason":"it is not JSON""#) && text.contains(r#""body":"[""#));
        siding.park(&[parked(3, &"x".repeat(700))]).await.unwrap();
        let [newer] = files().try_into().unwrap();
        assert_ne!(newer, file, "there is no room for both");
    }
}
