//! A deployed yard's policies: all of them in one object of a bucket, which is replaced in one step, so that whoever reads
//! it reads one version or the other. Beside it each Cloud Custodian policy lies as an object of its own, for tasks that
//! are told its key.
//!
//! They were checked, and made into JSON, by whoever writes them ([`push`]). A process reads them when it first works, and
//! asks again, at most once a minute, whether they have changed: one request, by the object's ETag, and no more than that
//! while they have not. Where nobody has pushed any, nothing is decided: policies that a yard acts by are those that its
//! operators chose, and what they removed by mistake is no reason to act by others.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::get_object::{GetObjectError, GetObjectOutput};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::ChecksumAlgorithm;
use jiff::Timestamp;
use switchyard_core::policies::{
    CUSTODIAN, Files, NotReloaded, Policies, Refused, Reload, Reloaded, Shelf, Violations, changes,
};
use switchyard_core::ports::{Ambient, PortError, describe};
use tokio::sync::Mutex;
use tracing::{info, warn};

use crate::clients::Clients;
use crate::environment::POLICY_PREFIX;
use crate::failure::{code, failed};

/// The object with all of them.
pub const POLICIES: &str = "policies.json";
/// How long what was read is trusted without asking.
const FRESH: Duration = Duration::from_secs(60);
/// The longest text of them that is read: as much as a policies folder may have.
const POLICIES_BYTES: usize = 64 * 1024 * 1024;
/// The longest text of any other object.
const OBJECT_BYTES: usize = 1024 * 1024;

/// Makes rules of files.
pub type Parse = Arc<dyn Fn(&Files) -> Result<Policies, Violations> + Send + Sync>;

/// The policies in a bucket.
pub struct S3Policies {
    client: Client,
    bucket: String,
    shelf: Arc<Shelf>,
    parse: Parse,
    ambient: Arc<dyn Ambient>,
    seen: Mutex<Seen>,
}

/// What this process saw of the object last.
#[derive(Debug, Default)]
struct Seen {
    /// When it asked.
    asked: Option<Timestamp>,
    /// The object's ETag; `None`: nobody has seen it.
    etag: Option<String>,
    /// Whether anything is in force.
    loaded: bool,
}

/// What the bucket has.
enum Found {
    /// What was seen last.
    Same,
    /// These files.
    Files(Files, Option<String>),
    /// No such object.
    Nothing,
}

/// What came of asking.
enum Asked {
    /// Nothing has changed.
    Same,
    /// Others are in force.
    Changed(Reloaded),
    /// There are none.
    Nothing,
}

/// Nobody has pushed policies into a bucket, or somebody has removed them.
#[derive(Debug, thiserror::Error)]
#[error("it is not there: `switchyard policies push` writes it")]
struct NotPushed;

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// Objects written, the one with all policies among them.
    pub written: usize,
    /// Objects removed that are no policies any more.
    pub removed: usize,
}

impl fmt::Debug for S3Policies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Policies").field("bucket", &self.bucket).finish_non_exhaustive()
    }
}

impl S3Policies {
    /// The policies in `bucket`, for this shelf.
    pub fn new(clients: &Clients, bucket: &str, shelf: Arc<Shelf>, parse: Parse, ambient: Arc<dyn Ambient>) -> Self {
        let seen = Mutex::default();
        Self { client: clients.s3(), bucket: bucket.to_owned(), shelf, parse, ambient, seen }
    }

    /// Puts the policies into force that are in the bucket now. Where they have been removed, those stay that are in force.
    ///
    /// # Errors
    ///
    /// They cannot be read, or are broken; there are none, and none are in force: without rules nothing can be decided.
    pub async fn load(&self) -> Result<(), PortError> {
        let mut seen = self.seen.lock().await;
        match self.ask(&mut seen).await {
            Ok(Asked::Same | Asked::Changed(_)) => Ok(()),
            Ok(Asked::Nothing) if seen.loaded => {
                self.warn_of_none();
                Ok(())
            }
            // Whoever starts again asks again.
            Ok(Asked::Nothing) => Err(PortError::retryable("load", self.subject(POLICIES), NotPushed)),
            Err(NotReloaded::Broken(violations)) => {
                Err(PortError::permanent("load", self.subject(POLICIES), violations))
            }
            Err(NotReloaded::Failed(why)) => Err(PortError::retryable("load", self.subject(POLICIES), why)),
            Err(other) => Err(PortError::retryable("load", self.subject(POLICIES), other)),
        }
    }

    /// Asks for them again when what is known may be old. What fails is in the log, and leaves the rules in force; so
    /// does what is broken.
    pub async fn refresh(&self) {
        let mut seen = self.seen.lock().await;
        if seen.asked.is_some_and(|asked| self.ambient.now() < asked + FRESH) {
            return;
        }
        match self.ask(&mut seen).await {
            Ok(Asked::Same) => {}
            Ok(Asked::Nothing) => self.warn_of_none(),
            Ok(Asked::Changed(reloaded)) => {
                info!(digest = reloaded.digest, changes = ?reloaded.changes, "the policies have changed")
            }
            Err(error) => warn!(error = %describe(&error), "the policies stay as they are"),
        }
    }

    /// The text of another object of the bucket, if there is one; at most 1 MiB.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub async fn object(&self, key: &str) -> Result<Option<String>, PortError> {
        match self.client.get_object().bucket(&self.bucket).key(key).send().await {
            Ok(output) => text(output, OBJECT_BYTES, &self.subject(key)).await.map(Some),
            Err(error) if code(&error) == Some("NoSuchKey") => Ok(None),
            Err(error) => Err(failed("read", self.subject(key), &error)),
        }
    }

    fn subject(&self, key: &str) -> String {
        format!("object {key} in bucket {}", self.bucket)
    }

    fn warn_of_none(&self) {
        warn!(error = %self.none(), "the policies stay as they are");
    }

    fn none(&self) -> String {
        format!("{}: {NotPushed}", self.subject(POLICIES))
    }

    /// Asks, and puts what has changed into force.
    async fn ask(&self, seen: &mut Seen) -> Result<Asked, NotReloaded> {
        let now = self.ambient.now();
        // A bucket that does not answer is asked again in a minute, and not by every invocation.
        seen.asked = Some(now);
        let found = self.find(seen).await.map_err(|error| NotReloaded::Failed(describe(&error)))?;
        let (files, etag) = match found {
            Found::Same => return Ok(Asked::Same),
            Found::Nothing => return Ok(Asked::Nothing),
            Found::Files(files, etag) => (files, etag),
        };
        // Also of broken ones: they are judged once, and not every minute.
        seen.etag = etag;
        let policies = (self.parse)(&files).map_err(|violations| {
            self.shelf.refuse(Refused { at: now, why: violations.lines() });
            NotReloaded::Broken(violations)
        })?;
        let digest = policies.digest.clone();
        let before = self.shelf.policies();
        if seen.loaded && before.digest == digest {
            return Ok(Asked::Same);
        }
        let changes = changes(&before, &policies);
        self.shelf.replace(policies, now);
        seen.loaded = true;
        Ok(Asked::Changed(Reloaded { at: now, digest, changes }))
    }

    async fn find(&self, seen: &Seen) -> Result<Found, PortError> {
        let asked = self.client.get_object().bucket(&self.bucket).key(POLICIES).set_if_none_match(seen.etag.clone());
        match asked.send().await {
            Ok(output) => {
                let etag = output.e_tag().map(str::to_owned);
                let text = text(output, POLICIES_BYTES, &self.subject(POLICIES)).await?;
                let files = serde_json::from_str(&text)
                    .map_err(|error| PortError::permanent("read", self.subject(POLICIES), error))?;
                Ok(Found::Files(files, etag))
            }
            Err(error) if is_unchanged(&error) => Ok(Found::Same),
            Err(error) if code(&error) == Some("NoSuchKey") => Ok(Found::Nothing),
            Err(error) => Err(failed("read", self.subject(POLICIES), &error)),
        }
    }
}

#[async_trait]
impl Reload for S3Policies {
    async fn reload(&self) -> Result<Reloaded, NotReloaded> {
        let mut seen = self.seen.lock().await;
        match self.ask(&mut seen).await? {
            Asked::Changed(reloaded) => Ok(reloaded),
            Asked::Same => {
                let in_force = self.shelf.in_force();
                let at = in_force.since.unwrap_or_else(|| self.ambient.now());
                Ok(Reloaded { at, digest: in_force.policies.digest.clone(), changes: Vec::new() })
            }
            Asked::Nothing => Err(NotReloaded::Failed(self.none())),
        }
    }
}

/// Writes policies into a bucket: first those that a task is told of by itself, then all of them in one object, by which
/// they come into force, then what is none of them any more goes. Whoever writes them has checked them.
///
/// # Errors
///
/// S3 refused one of these. What is in force then is what was before, or, if only a removal failed, what was written.
pub async fn push(clients: &Clients, bucket: &str, files: &Files) -> Result<Pushed, PortError> {
    let client = clients.s3();
    let subject = |key: &str| format!("object {key} in bucket {bucket}");
    let whole =
        serde_json::to_string(files).map_err(|error| PortError::permanent("write", subject(POLICIES), error))?;
    let single: BTreeSet<String> =
        files.keys().filter(|path| path.starts_with(CUSTODIAN)).map(|path| format!("{POLICY_PREFIX}{path}")).collect();
    let texts = files.iter().filter(|(path, _)| path.starts_with(CUSTODIAN));
    let texts = texts.map(|(path, text)| (format!("{POLICY_PREFIX}{path}"), text.clone()));
    let mut pushed = Pushed { written: 0, removed: 0 };
    for (key, text) in texts.chain([(POLICIES.to_owned(), whole)]) {
        let put = client.put_object().bucket(bucket).key(&key).checksum_algorithm(ChecksumAlgorithm::Crc32);
        let put = put.body(ByteStream::from(text.into_bytes())).send().await;
        put.map_err(|error| failed("write", subject(&key), &error))?;
        pushed.written += 1;
    }
    let listed = client.list_objects_v2().bucket(bucket).prefix(format!("{POLICY_PREFIX}{CUSTODIAN}"));
    let mut pages = listed.into_paginator().send();
    while let Some(page) = pages.next().await {
        let page = page.map_err(|error| failed("list", subject(POLICY_PREFIX), &error))?;
        for key in page.contents().iter().filter_map(|object| object.key()) {
            if !single.contains(key) {
                let removed = client.delete_object().bucket(bucket).key(key).send().await;
                removed.map_err(|error| failed("remove", subject(key), &error))?;
                pushed.removed += 1;
            }
        }
    }
    Ok(pushed)
}

/// Whether S3 says that the object is the one whose ETag was sent: an answer without a body, which the SDK takes for an
/// error.
fn is_unchanged(error: &SdkError<GetObjectError>) -> bool {
    matches!(error, SdkError::ServiceError(answer) if answer.raw().status().as_u16() == 304)
}

/// An object's text, held in memory whole.
async fn text(mut output: GetObjectOutput, most: usize, subject: &str) -> Result<String, PortError> {
    let mut bytes = Vec::new();
    while let Some(part) = output.body.next().await {
        bytes.extend_from_slice(&part.map_err(|error| PortError::retryable("read", subject, error))?);
        if bytes.len() > most {
            return Err(PortError::permanent("read", subject, format!("it has over {most} bytes")));
        }
    }
    String::from_utf8(bytes).map_err(|error| PortError::permanent("read", subject, error.utf8_error()))
}
