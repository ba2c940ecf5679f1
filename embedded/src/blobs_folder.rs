//! Large payloads and results: one file each, in a folder a job.

use std::io;
use std::path::PathBuf;

use async_trait::async_trait;
use switchyard_core::job::JobId;
use switchyard_core::ports::{BlobRef, Blobs, PortError};

use crate::folder::{Folder, write_private};

/// Blobs in a folder.
#[derive(Clone, Debug)]
pub struct FolderBlobs {
    root: PathBuf,
}

impl FolderBlobs {
    /// The blobs of a yard.
    pub fn new(folder: &Folder) -> Self {
        Self::at(&folder.blobs())
    }

    /// The blobs in the folder `root`.
    pub fn at(root: &std::path::Path) -> Self {
        Self { root: root.to_owned() }
    }

    fn path(&self, job: JobId, name: &str) -> io::Result<PathBuf> {
        let named_well = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if name.is_empty() || !name.chars().all(named_well) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a blob's name is letters, digits and `-`"));
        }
        Ok(self.root.join(job.to_string()).join(name))
    }
}

/// Does file work on a thread that nobody else waits for.
pub(crate) async fn aside<T: Send + 'static>(
    operation: &'static str,
    subject: String,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, PortError> {
    let done = tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)));
    done.map_err(|error| match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            PortError::retryable(operation, subject, "the disk is full")
        }
        io::ErrorKind::InvalidInput | io::ErrorKind::PermissionDenied => {
            PortError::permanent(operation, subject, error)
        }
        _ => PortError::retryable(operation, subject, error),
    })
}

#[async_trait]
impl Blobs for FolderBlobs {
    async fn put(&self, job: JobId, name: &str, text: &str) -> Result<BlobRef, PortError> {
        let subject = format!("blob {name} of job {job}");
        let blob = BlobRef { job, name: name.to_owned(), bytes: text.len() as u64 };
        let (path, text) = (self.path(job, name), text.to_owned());
        let root = self.root.clone();
        aside("store", subject, move || {
            let path = path?;
            if let Some(folder) = path.parent()
                && !folder.exists()
            {
                std::fs::create_dir_all(folder)?;
                // The folder's own name must last as well.
                std::fs::File::open(&root)?.sync_all()?;
            }
            write_private(&path, text.as_bytes())
        })
        .await?;
        Ok(blob)
    }

    async fn get(&self, blob: &BlobRef) -> Result<Option<String>, PortError> {
        let subject = format!("blob {} of job {}", blob.name, blob.job);
        let path = self.path(blob.job, &blob.name);
        aside("read", subject, move || match std::fs::read_to_string(path?) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        })
        .await
    }

    async fn forget(&self, job: JobId) -> Result<(), PortError> {
        let path = self.root.join(job.to_string());
        aside("forget", format!("blobs of job {job}"), move || remove_folder(&path)).await
    }
}

/// Removes a folder and what is in it; one that is not there is no error.
pub(crate) fn remove_folder(path: &std::path::Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
