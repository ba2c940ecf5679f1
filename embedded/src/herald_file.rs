//! Announced settlements: appended to a file, one JSON text a line, in the envelope of an EventBridge event.

use std::path::PathBuf;

use async_trait::async_trait;
use switchyard_core::job::Job;
use switchyard_core::ports::{Herald, PortError};
use switchyard_core::wire;

use crate::blobs_folder::aside;
use crate::folder::{Folder, append_lines};

/// Announces to a file.
#[derive(Clone, Debug)]
pub struct FileHerald {
    file: PathBuf,
}

impl FileHerald {
    /// The herald of a yard.
    pub fn new(folder: &Folder) -> Self {
        Self { file: folder.events() }
    }
}

#[async_trait]
impl Herald for FileHerald {
    async fn announce(&self, job: &Job) -> Result<(), PortError> {
        let line = wire::completion_event(job) + "\n";
        let path = self.file.clone();
        aside("announce", format!("job {}", job.id), move || append_lines(&path, &line)?.sync_data()).await
    }
}
