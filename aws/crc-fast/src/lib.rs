//! Stands in for the crate `crc-fast`, of which S3's client (by `aws-smithy-checksums`) uses three algorithms of some
//! hundred. The crate chooses among all of them while it runs, so that a linker can leave none out: 0.8 MB of tables in each
//! function, which hardly compress. Here are those three, of two libraries that have one table each, and nothing else of
//! its interface: a client that comes to ask for more does not compile.
//!
//! The root `Cargo.toml` puts it in that crate's place.

use std::fmt;

use crc::{CRC_32_ISCSI, CRC_64_NVME, Crc, Table};

static ISCSI: Crc<u32, Table<1>> = Crc::<u32, Table<1>>::new(&CRC_32_ISCSI);
static NVME: Crc<u64, Table<1>> = Crc::<u64, Table<1>>::new(&CRC_64_NVME);

/// The algorithms, as S3 names them in `x-amz-checksum-…` ("Checking object integrity", Amazon S3 User Guide).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrcAlgorithm {
    /// CRC32: that of Ethernet, ZIP and PNG (ISO-HDLC).
    Crc32IsoHdlc,
    /// CRC32C: Castagnoli's, that of iSCSI (RFC 3720).
    Crc32Iscsi,
    /// CRC64NVME.
    Crc64Nvme,
}

/// A checksum under way.
pub struct Digest(Running);

enum Running {
    IsoHdlc(crc32fast::Hasher),
    Iscsi(crc::Digest<'static, u32, Table<1>>),
    Nvme(crc::Digest<'static, u64, Table<1>>),
}

impl Digest {
    /// That of no bytes.
    pub fn new(algorithm: CrcAlgorithm) -> Self {
        Self(match algorithm {
            CrcAlgorithm::Crc32IsoHdlc => Running::IsoHdlc(crc32fast::Hasher::new()),
            CrcAlgorithm::Crc32Iscsi => Running::Iscsi(ISCSI.digest()),
            CrcAlgorithm::Crc64Nvme => Running::Nvme(NVME.digest()),
        })
    }

    /// Takes these bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            Running::IsoHdlc(running) => running.update(bytes),
            Running::Iscsi(running) => running.update(bytes),
            Running::Nvme(running) => running.update(bytes),
        }
    }

    /// The checksum of all that was taken in; in the lower 32 bits where the algorithm has no more.
    pub fn finalize(self) -> u64 {
        match self.0 {
            Running::IsoHdlc(running) => running.finalize().into(),
            Running::Iscsi(running) => running.finalize().into(),
            Running::Nvme(running) => running.finalize(),
        }
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Running::IsoHdlc(_) => "CRC32",
            Running::Iscsi(_) => "CRC32C",
            Running::Nvme(_) => "CRC64NVME",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(algorithm: CrcAlgorithm, parts: &[&[u8]]) -> u64 {
        let mut digest = Digest::new(algorithm);
        parts.iter().for_each(|part| digest.update(part));
        digest.finalize()
    }

    /// The check values of the catalogue of CRC algorithms (reveng), which are those of the nine digits in ASCII.
    #[test]
    fn each_is_the_algorithm_that_it_is_called() {
        for (algorithm, check) in [
            (CrcAlgorithm::Crc32IsoHdlc, 0xcbf4_3926),
            (CrcAlgorithm::Crc32Iscsi, 0xe306_9283),
            (CrcAlgorithm::Crc64Nvme, 0xae8b_1486_0a79_9888),
        ] {
            assert_eq!(of(algorithm, &[b"123456789"]), check, "{algorithm:?}");
            assert_eq!(of(algorithm, &[b"1234", b"", b"56789"]), check, "{algorithm:?} in parts");
            assert_eq!(of(algorithm, &[]), 0, "{algorithm:?} of nothing");
        }
    }
}
