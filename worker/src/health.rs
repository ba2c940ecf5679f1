//! Whether a machine is fit to run jobs: its container engine answers, and its disk has room.

use std::path::Path;

use rustix::fs::statvfs;

use crate::engine::Engine;

/// Looks in a row that find a machine unfit before it is: an engine that is restarted answers again within seconds.
pub const LOOKS: u32 = 3;
/// What must be free of a disk, in percent, and of its inodes: a run that cannot write fails for no reason of its own.
const FREE_PERCENT: u64 = 3;
/// As much is enough whatever the percentage says: 2 GiB, of a large disk.
const FREE_BYTES: u64 = 2 << 30;

/// What of a file system is there, and what of it is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Disk {
    bytes: u64,
    free_bytes: u64,
    inodes: u64,
    free_inodes: u64,
}

/// What is wrong with this machine; `None`: nothing. `folder` is where runs work.
pub async fn wrong(engine: Option<&Engine>, folder: &Path) -> Option<String> {
    if let Some(engine) = engine
        && let Err(error) = engine.answers().await
    {
        return Some(format!("the container engine does not answer: {error}"));
    }
    match statvfs(folder) {
        Ok(found) => too_full(&Disk {
            bytes: found.f_blocks.saturating_mul(found.f_frsize),
            free_bytes: found.f_bavail.saturating_mul(found.f_frsize),
            inodes: found.f_files,
            free_inodes: found.f_favail,
        })
        .map(|what| format!("the disk of {} has {what}", folder.display())),
        Err(error) => Some(format!("the disk of {} cannot be looked at: {error}", folder.display())),
    }
}

/// What there is too little of.
fn too_full(disk: &Disk) -> Option<String> {
    let little = |free: u64, all: u64| free.saturating_mul(100) < all.saturating_mul(FREE_PERCENT);
    if disk.free_bytes < FREE_BYTES && little(disk.free_bytes, disk.bytes) {
        return Some(format!("{} MiB free of {} MiB", disk.free_bytes >> 20, disk.bytes >> 20));
    }
    // Some file systems make inodes as they need them, and say that they have none (statvfs(3)).
    if disk.inodes > 0 && little(disk.free_inodes, disk.inodes) {
        return Some(format!("{} inodes free of {}", disk.free_inodes, disk.inodes));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_too_full_by_its_bytes_or_by_its_inodes() {
        let disk = |gib: u64, free_mib: u64, inodes, free_inodes| Disk {
            bytes: gib << 30,
            free_bytes: free_mib << 20,
            inodes,
            free_inodes,
        };
        for (disk, said) in [
            (disk(30, 1000, 1000, 1000), None),
            (disk(30, 921, 1000, 1000), Some("921 MiB free of 30720 MiB")),
            (disk(1000, 2048, 1000, 1000), None),
            (disk(1000, 2047, 1000, 1000), Some("2047 MiB free of 1024000 MiB")),
            (disk(1, 40, 1000, 1000), None),
            (disk(30, 20_000, 1000, 30), None),
            (disk(30, 20_000, 1000, 29), Some("29 inodes free of 1000")),
            (disk(30, 20_000, 0, 0), None),
        ] {
            assert_eq!(too_full(&disk).as_deref(), said, "{disk:?}");
        }
    }

    #[tokio::test]
    async fn an_engine_that_does_not_answer_makes_a_machine_unfit() {
        let folder = tempfile::tempdir().unwrap();
        let gone = format!("unix://{}/no.sock", folder.path().display());
        let engine = Engine::at(&gone).unwrap();
        let said = wrong(Some(&engine), folder.path()).await.unwrap();
        assert!(said.starts_with("the container engine does not answer: "), "{said}");
    }
}
