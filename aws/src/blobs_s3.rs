//! Large payloads and results in a bucket: one object each, under a prefix a job.
//!
//! A put is one PutObject, which S3 makes visible whole or not at all and checks by its CRC32; sent twice it stores
//! the same. Encryption is the bucket's own default. That an object is not there is answered only to who may list the
//! bucket (`s3:ListBucket`): to others S3 says that it is forbidden, and so does this.

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, Delete, Error, ObjectIdentifier};
use aws_types::request_id::RequestId;
use switchyard_core::job::JobId;
use switchyard_core::ports::{BlobRef, Blobs, PortError};

use crate::clients::Clients;
use crate::failure::{AwsError, code, failed, is_retryable};

/// The longest text of one blob: sixteen times what a payload or result may have. It is held in memory whole.
pub const BLOB_BYTES_MOST: usize = 16 * 1024 * 1024;
/// Keys that one DeleteObjects takes, and that one page of a listing has: S3's limits.
const KEYS_MOST: i32 = 1000;
/// Pages that one `forget` removes. A job has a payload and a result a run; what is left is for the next round.
const PAGES_MOST: usize = 100;

/// Blobs in a bucket.
#[derive(Clone, Debug)]
pub struct S3Blobs {
    client: Client,
    bucket: String,
}

/// A blob that is not what was stored.
#[derive(Debug, thiserror::Error)]
#[error("it is corrupt: {0}")]
struct Corrupt(String);

impl S3Blobs {
    /// The blobs in `bucket`.
    pub fn new(clients: &Clients, bucket: &str) -> Self {
        Self { client: clients.s3(), bucket: bucket.to_owned() }
    }

    /// Where a blob lies, as `s3://BUCKET/KEY`.
    pub fn place(&self, blob: &BlobRef) -> String {
        format!("s3://{}/{}{}", self.bucket, prefix(blob.job), blob.name)
    }

    fn subject(&self, job: JobId, name: &str) -> String {
        format!("blob {name} of job {job} in bucket {}", self.bucket)
    }

    /// Removes what the page before listed; how many there were, and whether there are more.
    async fn forget_some(&self, job: JobId, subject: &str) -> Result<bool, PortError> {
        let listed = self.client.list_objects_v2().bucket(&self.bucket).prefix(prefix(job)).max_keys(KEYS_MOST);
        let listed = listed.send().await.map_err(|error| failed("list", subject, &error))?;
        let keys: Vec<&str> = listed.contents().iter().filter_map(|object| object.key()).collect();
        if keys.is_empty() {
            return Ok(false);
        }
        let delete = deletion(&keys).map_err(|error| PortError::permanent("forget", subject, error))?;
        let deleted = self.client.delete_objects().bucket(&self.bucket).delete(delete).send().await;
        let deleted = deleted.map_err(|error| failed("forget", subject, &error))?;
        // 200 is the answer also when no key was deleted.
        undeleted(deleted.errors()).map_or(Ok(()), |(error, retryable)| {
            let error = error.of_request(deleted.request_id());
            Err(if retryable {
                PortError::retryable("forget", subject, error)
            } else {
                PortError::permanent("forget", subject, error)
            })
        })?;
        Ok(listed.is_truncated() == Some(true))
    }
}

#[async_trait]
impl Blobs for S3Blobs {
    async fn put(&self, job: JobId, name: &str, text: &str) -> Result<BlobRef, PortError> {
        let subject = self.subject(job, name);
        let key = key(job, name).map_err(|error| PortError::permanent("store", &subject, error))?;
        if text.len() > BLOB_BYTES_MOST {
            let message = format!("it has {} bytes, and {BLOB_BYTES_MOST} is the most", text.len());
            return Err(PortError::permanent("store", subject, message));
        }
        let put = self.client.put_object().bucket(&self.bucket).key(key).content_type("application/json");
        let put = put.checksum_algorithm(ChecksumAlgorithm::Crc32).body(ByteStream::from(text.as_bytes().to_vec()));
        put.send().await.map_err(|error| failed("store", &subject, &error))?;
        Ok(BlobRef { job, name: name.to_owned(), bytes: text.len() as u64 })
    }

    async fn get(&self, blob: &BlobRef) -> Result<Option<String>, PortError> {
        let subject = self.subject(blob.job, &blob.name);
        let key = key(blob.job, &blob.name).map_err(|error| PortError::permanent("read", &subject, error))?;
        let mut found = match self.client.get_object().bucket(&self.bucket).key(key).send().await {
            Ok(found) => found,
            Err(error) if code(&error) == Some("NoSuchKey") => return Ok(None),
            Err(error) => return Err(failed("read", &subject, &error)),
        };
        let said = found.content_length().and_then(|bytes| u64::try_from(bytes).ok());
        let expected = expected(blob.bytes, said).map_err(|error| PortError::permanent("read", &subject, error))?;
        let mut bytes = Vec::with_capacity(expected);
        // The connection can break within the body; the SDK tries only up to its start, and ends a body that stalls.
        while let Some(part) = found.body.next().await {
            bytes.extend_from_slice(&part.map_err(|error| PortError::retryable("read", &subject, error))?);
            if bytes.len() > expected {
                break;
            }
        }
        whole(bytes, expected).map(Some).map_err(|error| PortError::permanent("read", &subject, error))
    }

    async fn forget(&self, job: JobId) -> Result<(), PortError> {
        let subject = format!("blobs of job {job} in bucket {}", self.bucket);
        for _ in 0..PAGES_MOST {
            // The listing starts anew each time: what it named before is gone.
            if !self.forget_some(job, &subject).await? {
                return Ok(());
            }
        }
        Err(PortError::retryable("forget", subject, "there are more than one call removes"))
    }
}

/// What all of a job's keys start with.
fn prefix(job: JobId) -> String {
    format!("jobs/{job}/")
}

/// Where a blob lies in its bucket. A name that could leave the job's prefix is none.
fn key(job: JobId, name: &str) -> Result<String, &'static str> {
    let named_well = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if name.is_empty() || name.len() > 100 || !name.chars().all(named_well) {
        return Err("a blob's name is 1 to 100 letters, digits and `-`");
    }
    Ok(prefix(job) + name)
}

/// How many bytes to read: as many as were stored, if that is what there is.
fn expected(stored: u64, said: Option<u64>) -> Result<usize, Corrupt> {
    let corrupt = |is: u64| Corrupt(format!("{stored} bytes were stored, and {is} are there"));
    match said {
        Some(said) if said != stored => Err(corrupt(said)),
        _ => usize::try_from(stored)
            .ok()
            .filter(|stored| *stored <= BLOB_BYTES_MOST)
            .ok_or_else(|| Corrupt(format!("its record says {stored} bytes, and {BLOB_BYTES_MOST} is the most"))),
    }
}

/// The text, if the bytes are as many as were stored, and a text.
fn whole(bytes: Vec<u8>, expected: usize) -> Result<String, Corrupt> {
    if bytes.len() != expected {
        return Err(Corrupt(format!("{expected} bytes were stored, and {} or more are there", bytes.len())));
    }
    String::from_utf8(bytes).map_err(|error| Corrupt(format!("it is not UTF-8: {}", error.utf8_error())))
}

/// The request's list of keys, quiet: only what could not be deleted is answered.
fn deletion(keys: &[&str]) -> Result<Delete, aws_smithy_types::error::operation::BuildError> {
    let objects = keys.iter().map(|key| ObjectIdentifier::builder().key(*key).build());
    Delete::builder().set_objects(Some(objects.collect::<Result<_, _>>()?)).quiet(true).build()
}

/// What could not be deleted, told by the first of it, and whether another try may delete some of it.
fn undeleted(errors: &[Error]) -> Option<(AwsError, bool)> {
    let first = errors.first()?;
    let code = first.code().unwrap_or("Unknown").to_owned();
    let message = format!(
        "{} object(s) are not deleted, the first is {}: {}",
        errors.len(),
        first.key().unwrap_or("?"),
        first.message().unwrap_or("no reason given")
    );
    let retryable = errors.iter().any(|error| error.code().is_none_or(is_retryable));
    Some((AwsError { code, message, request_id: None }, retryable))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> JobId {
        JobId::keyed("tests", "blobs")
    }

    #[test]
    fn a_key_is_the_job_s_prefix_and_the_name_and_no_name_leaves_it() {
        assert_eq!(key(job(), "result-3").unwrap(), format!("jobs/{}/result-3", job()));
        assert!(key(job(), &"x".repeat(100)).is_ok());
        for name in ["", "../x", "a/b", "a b", "ä", ".", &"x".repeat(101)] {
            assert!(key(job(), name).is_err(), "{name}");
        }
    }

    #[test]
    fn another_length_than_the_stored_one_is_corrupt() {
        assert_eq!(expected(3, Some(3)).unwrap(), 3);
        assert_eq!(expected(3, None).unwrap(), 3);
        assert_eq!(expected(0, Some(0)).unwrap(), 0);
        let error = expected(3, Some(4)).unwrap_err();
        assert_eq!(error.to_string(), "it is corrupt: 3 bytes were stored, and 4 are there");
        let most = BLOB_BYTES_MOST as u64;
        assert!(expected(most, Some(most)).is_ok());
        assert!(expected(most + 1, Some(most + 1)).is_err());
        assert_eq!(whole(b"abc".to_vec(), 3).unwrap(), "abc");
        assert!(whole(b"ab".to_vec(), 3).is_err(), "cut");
        assert!(whole(b"abcd".to_vec(), 3).is_err(), "more than its head said");
        let error = whole(vec![b'a', 0xff, b'c'], 3).unwrap_err();
        assert!(error.to_string().starts_with("it is corrupt: it is not UTF-8: "), "{error}");
    }

    #[test]
    fn keys_that_a_200_left_undeleted_are_an_error_and_retryable_while_one_may_pass() {
        let error = |code: &str| Error::builder().key("jobs/x/y").code(code).message("no").build();
        assert!(undeleted(&[]).is_none());
        let (told, retryable) = undeleted(&[error("AccessDenied"), error("AccessDenied")]).unwrap();
        assert!(!retryable);
        assert_eq!(told.to_string(), "AccessDenied: 2 object(s) are not deleted, the first is jobs/x/y: no");
        assert!(undeleted(&[error("AccessDenied"), error("InternalError")]).unwrap().1);
        assert!(undeleted(&[Error::builder().build()]).unwrap().1, "without a code nobody knows");
    }
}
