//! The test image: a static program and nothing else, made here, so that no registry is asked for one.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use bollard::Docker;
use bollard::query_parameters::{CreateImageOptionsBuilder, RemoveImageOptionsBuilder};
use futures_lite::StreamExt;
use switchyard_worker::engine::{Engine, USUAL_HOST};

/// The engine that tests use, or none: then the test says by name that it is skipped, and passes.
pub(crate) async fn engine(test: &str) -> Option<Engine> {
    let host = std::env::var("DOCKER_HOST").unwrap_or_else(|_| USUAL_HOST.to_owned());
    let engine = Engine::at(&host);
    match &engine {
        Ok(engine) if engine.answers().await.is_ok() => return Some(engine.clone()),
        Ok(_) | Err(_) => eprintln!("SKIPPED {test}: no container engine answers at {host}"),
    }
    None
}

/// A client of the same engine, to look at it from outside.
pub(crate) async fn docker(engine: &Engine) -> Docker {
    Docker::connect_with_host(engine.host()).unwrap().negotiate_version().await.unwrap()
}

/// An image that goes with this value.
pub(crate) struct Image {
    host: String,
    pub(crate) name: String,
}

impl Image {
    /// The image with the program, under a name of its own.
    pub(crate) async fn with_probe(engine: &Engine) -> Self {
        let program = std::fs::read(probe()).unwrap();
        Self::with("ENTRYPOINT [\"/probe\"]\nENV OF_THE_IMAGE=kept", &[("probe", 0o755, &program)], engine).await
    }

    /// An image with these files, changed as a Dockerfile would.
    pub(crate) async fn with(changes: &str, files: &[(&str, u32, &[u8])], engine: &Engine) -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let tag = format!("{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let mut archive = tar::Builder::new(Vec::new());
        for (path, mode, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_mode(*mode);
            header.set_size(bytes.len() as u64);
            archive.append_data(&mut header, path, *bytes).unwrap();
        }
        let changes: Vec<String> = changes.lines().map(str::to_owned).collect();
        let options =
            CreateImageOptionsBuilder::new().from_src("-").repo("switchyard-test").tag(&tag).changes(changes).build();
        let root = bollard::body_full(archive.into_inner().unwrap().into());
        let docker = docker(engine).await;
        let made: Vec<_> = docker.create_image(Some(options), Some(root), None).collect().await;
        for step in made {
            step.unwrap();
        }
        Self { host: engine.host().to_owned(), name: format!("switchyard-test:{tag}") }
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let (host, name) = (self.host.clone(), self.name.clone());
        let removing = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                // An engine that was a test's own may be gone, and its images with it.
                let Ok(docker) = Docker::connect_with_host(&host) else { return };
                let Ok(docker) = docker.negotiate_version().await else { return };
                let options = RemoveImageOptionsBuilder::new().force(true).build();
                if let Err(error) = docker.remove_image(&name, Some(options), None).await {
                    eprintln!("{name} is left: {error}");
                }
            });
        });
        let _ = removing.join();
    }
}

/// The program, compiled once for all tests.
fn probe() -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../worker/tests/image/probe.rs");
    let built = Path::new(env!("CARGO_TARGET_TMPDIR")).join("switchyard-probe");
    let age = |path: &Path| std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    if age(&built) > age(&source) {
        return built;
    }
    // In a folder of its own first: others may be compiling it too, and find the whole of it or none.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let part = folder.path().join("probe");
    let compiled = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .args(["--edition", "2021", "-O", "-C", "target-feature=+crt-static", "-C", "strip=symbols", "--target"])
        .arg(format!("{}-unknown-linux-gnu", std::env::consts::ARCH))
        .arg("-o")
        .args([&part, &source])
        .output()
        .expect("rustc is there");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    std::fs::rename(&part, &built).unwrap();
    built
}
