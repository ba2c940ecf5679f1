//! The container engine: whether it answers, the images it has or fetches, and the containers of this yard.
//!
//! It speaks the Docker Engine API, as Docker and Podman do. Whatever it says may be gone at the next call: an engine
//! is restarted and upgraded under the jobs that run in it.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error as ClientError;
use bollard::query_parameters::{
    CreateImageOptionsBuilder, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
};
use futures_lite::StreamExt;
use switchyard_core::job::{Failure, Nonce, one_line};
use tokio::sync::Mutex;

/// Where an engine usually listens.
pub const USUAL_HOST: &str = "unix:///var/run/docker.sock";
/// The label with the id of the yard that a container is of.
pub const YARD_LABEL: &str = "switchyard.yard";
/// The label with the job that a container runs.
pub const JOB_LABEL: &str = "switchyard.job";
/// The label with the run: the mark that a process would carry.
pub const RUN_LABEL: &str = "switchyard.run";
/// The label with the start of the yard that it is of.
pub const BOOT_LABEL: &str = "switchyard.boot";

/// How long an engine may take to say that it is there. Long: a machine that starts fifty containers is busy.
const ANSWER: Duration = Duration::from_secs(10);
/// How long somebody else's removal of a container may take: its program is killed, and its volume deleted.
const REMOVAL: Duration = Duration::from_secs(30);
/// Progress of a pull is told so often at most.
const PROGRESS: Duration = Duration::from_secs(5);

/// A container engine, reached again at every call. Clones are the same one.
#[derive(Clone)]
pub struct Engine {
    host: Arc<str>,
    known: Arc<Mutex<Option<Known>>>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Engine({})", self.host)
    }
}

/// What was found out when it last answered.
#[derive(Clone)]
pub(crate) struct Known {
    /// The client, at a version that both speak.
    pub(crate) docker: Docker,
    /// The processors that its containers can have, in thousandths of one.
    pub(crate) milli_vcpu: u32,
}

/// An address that no engine can be reached at from here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no address of a container engine: expected unix:///PATH or tcp://HOST:PORT")]
pub struct BadHost(String);

/// Why an engine did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// It did not answer, or not to the end.
    #[error("cannot {operation}: the container engine does not answer")]
    Gone {
        /// What it was asked.
        operation: &'static str,
        /// Why.
        #[source]
        cause: Box<ClientError>,
    },
    /// It answered that it does not do it.
    #[error("cannot {operation}: the container engine answers: {words}")]
    Refused {
        /// What it was asked.
        operation: &'static str,
        /// Its status (HTTP).
        status: u16,
        /// What it said, in one line.
        words: String,
    },
}

impl EngineError {
    /// What this error of the client means.
    pub(crate) fn of(operation: &'static str, error: ClientError) -> Self {
        let refused = |status, words: &str| Self::Refused { operation, status, words: one_line(words, 240) };
        match error {
            // 503 is a proxy's, or an engine's that is about to be there.
            ClientError::DockerResponseServerError { status_code, message } if status_code != 503 => {
                refused(status_code, &message)
            }
            // What comes in a stream has no status.
            ClientError::DockerStreamError { error } => refused(500, &error),
            ClientError::JsonDataError { message, .. } => refused(500, &message),
            error => Self::Gone { operation, cause: Box::new(error) },
        }
    }

    /// Whether the engine did not answer.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Gone { .. })
    }

    /// Whether it says that there is no such thing.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }
}

/// Why there is no image to run.
#[derive(Debug)]
pub(crate) enum ImageError {
    /// The engine said nothing, or something else than about images.
    Engine(EngineError),
    /// There is none to be had, and whether another attempt may find one.
    Failed { failure: Failure, permanent: bool },
}

impl From<EngineError> for ImageError {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

impl Engine {
    /// The engine at `host`: `unix:///var/run/docker.sock`, or `tcp://host:port` without TLS.
    ///
    /// # Errors
    ///
    /// It is no such address.
    pub fn at(host: &str) -> Result<Self, BadHost> {
        let known = ["unix://", "tcp://", "http://"];
        if known.iter().any(|scheme| host.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty())) {
            return Ok(Self { host: host.into(), known: Arc::default() });
        }
        Err(BadHost(one_line(host, 80)))
    }

    /// Where it is.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Asks it whether it is there.
    ///
    /// # Errors
    ///
    /// It does not answer.
    pub async fn answers(&self) -> Result<(), EngineError> {
        self.connect().await.map(drop)
    }

    /// The client, and what is known of the engine; it is asked at the first call only.
    pub(crate) async fn known(&self) -> Result<Known, EngineError> {
        let known = self.known.lock().await.clone();
        match known {
            Some(known) => Ok(known),
            None => self.connect().await,
        }
    }

    /// Asks anew: an engine that was gone may be another one now.
    pub(crate) async fn connect(&self) -> Result<Known, EngineError> {
        let operation = "reach the container engine";
        let asked = async {
            let docker = Docker::connect_with_host(&self.host)?.negotiate_version().await?;
            let info = docker.info().await?;
            // Every machine has one processor.
            let processors = info.ncpu.and_then(|count| u32::try_from(count).ok()).unwrap_or(1).max(1);
            Ok(Known { docker, milli_vcpu: processors.saturating_mul(1000) })
        };
        let answered = tokio::time::timeout(ANSWER, asked).await.unwrap_or(Err(ClientError::RequestTimeoutError));
        let known = answered.map_err(|error| EngineError::of(operation, error));
        *self.known.lock().await = known.as_ref().ok().cloned();
        known
    }

    /// Removes every container of a yard. Answers how many there were.
    ///
    /// # Errors
    ///
    /// The engine does not answer, or cannot remove one.
    pub async fn sweep_yard(&self, yard: &str) -> Result<usize, EngineError> {
        self.sweep(YARD_LABEL, yard, |_| true).await
    }

    /// Removes the containers of a yard that another start of it left. Answers how many there were.
    ///
    /// # Errors
    ///
    /// As [`Engine::sweep_yard`].
    pub async fn sweep_other_boots(&self, yard: &str, boot: Nonce) -> Result<usize, EngineError> {
        let boot = boot.to_string();
        self.sweep(YARD_LABEL, yard, |labels| labels.get(BOOT_LABEL) != Some(&boot)).await
    }

    /// Removes the container of a run, if it is there. Answers how many there were.
    ///
    /// # Errors
    ///
    /// As [`Engine::sweep_yard`].
    pub async fn sweep_run(&self, mark: &str) -> Result<usize, EngineError> {
        self.sweep(RUN_LABEL, mark, |_| true).await
    }

    /// Removes what an earlier run of the same job left, wherever it was lost: of one job, one run at a time.
    pub(crate) async fn sweep_job(&self, yard: &str, job: &str) -> Result<usize, EngineError> {
        self.sweep(JOB_LABEL, job, |labels| labels.get(YARD_LABEL).is_some_and(|of| of == yard)).await
    }

    async fn sweep(
        &self,
        label: &str,
        value: &str,
        which: impl Fn(&HashMap<String, String>) -> bool,
    ) -> Result<usize, EngineError> {
        let docker = self.known().await?.docker;
        let filters = HashMap::from([("label", vec![format!("{label}={value}")])]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let listed = docker.list_containers(Some(options)).await;
        let listed = listed.map_err(|error| EngineError::of("list containers", error))?;
        let (mut swept, mut failed) = (0, None);
        for container in listed.into_iter().filter(|container| which(&container.labels.clone().unwrap_or_default())) {
            match remove(&docker, &container.id.unwrap_or_default()).await {
                Ok(()) => swept += 1,
                // One that cannot be removed must not keep the others.
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(swept), Err)
    }

    /// The id of the image that `reference` names; it is fetched where it is missing, and `progress` hears how that goes.
    pub(crate) async fn image(
        &self,
        reference: &str,
        progress: &(dyn Fn(String) + Send + Sync),
    ) -> Result<String, ImageError> {
        let docker = self.known().await?.docker;
        if let Some(id) = present(&docker, reference).await? {
            return Ok(id);
        }
        pull(&docker, reference, progress).await?;
        match present(&docker, reference).await? {
            Some(id) => Ok(id),
            None => {
                let message = format!("the engine fetched {reference} and does not have it");
                Err(failed("image_pull_failed", &message, false))
            }
        }
    }
}

/// Removes a container with its volume, whatever it does, and returns when it is gone. One that is gone is no error.
pub(crate) async fn remove(docker: &Docker, id: &str) -> Result<(), EngineError> {
    let operation = "remove a container";
    let began = tokio::time::Instant::now();
    loop {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        match docker.remove_container(id, Some(options)).await.map_err(|error| EngineError::of(operation, error)) {
            Err(error) if error.is_not_found() => return Ok(()),
            // Somebody else removes it just now: it is gone when there is none.
            Err(EngineError::Refused { status: 409, .. }) if began.elapsed() < REMOVAL => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            removed => return removed,
        }
    }
}

/// The id of an image that the engine has. One that is named by its digest must have it.
async fn present(docker: &Docker, reference: &str) -> Result<Option<String>, ImageError> {
    let digest = reference.split_once('@').map(|(_, digest)| digest);
    // An image that was built here has no digest of a registry's; its id is as good.
    for name in digest.into_iter().chain([reference]) {
        let image = match docker.inspect_image(name).await.map_err(|error| EngineError::of("look an image up", error)) {
            Ok(image) => image,
            Err(EngineError::Refused { status: 400 | 404, .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        let id = image.id.unwrap_or_default();
        let digests = image.repo_digests.unwrap_or_default();
        return match digest {
            Some(digest) if !has_digest(digest, &id, &digests) => {
                let found = digests.first().unwrap_or(&id);
                let message = format!("the engine has {} for {reference}", one_line(found, 150));
                Err(failed("image_digest_mismatch", &message, true))
            }
            Some(_) | None => Ok(Some(id)),
        };
    }
    Ok(None)
}

fn has_digest(digest: &str, id: &str, digests: &[String]) -> bool {
    id == digest || digests.iter().any(|known| known.split_once('@').is_some_and(|(_, known)| known == digest))
}

async fn pull(docker: &Docker, reference: &str, progress: &(dyn Fn(String) + Send + Sync)) -> Result<(), ImageError> {
    progress(format!("fetching {reference}"));
    let options = CreateImageOptionsBuilder::new().from_image(&with_tag(reference)).build();
    let mut answers = std::pin::pin!(docker.create_image(Some(options), None, None));
    let mut layers: HashMap<String, (i64, i64)> = HashMap::new();
    let mut told = tokio::time::Instant::now();
    while let Some(answer) = answers.next().await {
        let answer = answer.map_err(|error| judge_pull(reference, EngineError::of("fetch an image", error)))?;
        if let (Some(layer), Some(detail)) = (answer.id, answer.progress_detail)
            // The engine's word for the number of layers is taken up to what images have (overlay takes 128).
            && (layers.len() < 512 || layers.contains_key(&layer))
            && let (Some(current), Some(total)) = (detail.current, detail.total)
        {
            layers.insert(layer, (current, total));
        }
        if told.elapsed() >= PROGRESS && !layers.is_empty() {
            told = tokio::time::Instant::now();
            let (had, of) = layers.values().fold((0, 0), |(had, of), (current, total)| (had + current, of + total));
            progress(format!("fetching {reference}: {} of {} MiB so far", had >> 20, of >> 20));
        }
    }
    progress(format!("fetched {reference}"));
    Ok(())
}

/// The reference with the tag that it means. Without one an engine fetches every image of that name.
fn with_tag(reference: &str) -> String {
    let name = reference.rsplit('/').next().unwrap_or(reference);
    if name.contains([':', '@']) { reference.to_owned() } else { format!("{reference}:latest") }
}

/// What a pull that failed means. Engines say it in words: these are Docker's, and those of registries (OCI
/// Distribution Specification, error codes).
fn judge_pull(reference: &str, error: EngineError) -> ImageError {
    let EngineError::Refused { status, words, .. } = error else { return error.into() };
    let said = words.to_lowercase();
    let any = |texts: &[&str]| texts.iter().any(|text| said.contains(text));
    let (code, permanent) = if any(&["verification failed", "digest mismatch", "unexpected digest"]) {
        ("image_digest_mismatch", true)
    } else if any(&["no matching manifest", "does not match the specified platform"]) {
        ("not_started", true)
    } else if any(&["access denied", "unauthorized", "forbidden", "no basic auth", "authentication required"]) {
        ("image_pull_denied", true)
    } else if status == 400 || any(&["manifest unknown", "name unknown", "not found", "does not exist"]) {
        ("image_not_found", true)
    } else {
        ("image_pull_failed", false)
    };
    failed(code, &format!("cannot fetch {reference}: {words}"), permanent)
}

fn failed(code: &str, message: &str, permanent: bool) -> ImageError {
    ImageError::Failed { failure: Failure::new(code, message), permanent }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_fetched_under_one_tag() {
        for (reference, meant) in [
            ("nmap", "nmap:latest"),
            ("localhost:5000/nmap", "localhost:5000/nmap:latest"),
            ("localhost:5000/nmap:7.95", "localhost:5000/nmap:7.95"),
            ("nmap@sha256:00", "nmap@sha256:00"),
        ] {
            assert_eq!(with_tag(reference), meant);
        }
    }

    #[test]
    fn what_an_engine_says_of_a_pull_has_a_code_and_an_end_or_another_attempt() {
        let said = [
            (404, "pull access denied for nmap, repository does not exist or may require 'docker login': denied"),
            (404, "manifest for nmap:9 not found: manifest unknown: manifest unknown"),
            (500, "Get \"https://registry.example/v2/\": unauthorized: authentication required"),
            (500, "Get \"https://registry.example/v2/\": dial tcp: lookup registry.example: no such host"),
            (500, "Get \"https://registry.example/v2/\": net/http: TLS handshake timeout"),
            (500, "toomanyrequests: You have reached your pull rate limit."),
            (500, "manifest verification failed for digest sha256:00"),
            (404, "no matching manifest for linux/amd64 in the manifest list entries"),
            (400, "invalid reference format"),
        ];
        let told = said.map(|(status, words)| {
            let refused = EngineError::Refused { operation: "fetch an image", status, words: words.to_owned() };
            match judge_pull("nmap", refused) {
                ImageError::Failed { failure, permanent } => format!("{} permanent={permanent}  {words}", failure.code),
                ImageError::Engine(error) => panic!("{error}"),
            }
        });
        insta::assert_snapshot!(told.join("\n"));
    }

    #[test]
    fn an_address_of_another_kind_is_refused() {
        for host in ["", "unix://", "ssh://me@there", "https://there:2376", "/var/run/docker.sock"] {
            assert!(Engine::at(host).is_err(), "{host}");
        }
        assert_eq!(Engine::at(USUAL_HOST).map(|engine| engine.host().to_owned()), Ok(USUAL_HOST.to_owned()));
    }

    #[tokio::test]
    async fn an_engine_that_is_not_there_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let engine = Engine::at(&format!("unix://{}/none.sock", folder.path().display())).unwrap();
        assert!(engine.answers().await.unwrap_err().is_gone());
        assert!(engine.sweep_yard("y").await.unwrap_err().is_gone());
    }
}
