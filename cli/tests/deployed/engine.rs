//! A container engine that can be stopped without stopping anybody else's: a socket in front of the one that is there.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Where engines usually answer.
const USUAL: &str = "/var/run/docker.sock";

/// One worker's engine.
pub(crate) struct Engine {
    socket: PathBuf,
    stopped: Arc<AtomicBool>,
}

impl Engine {
    /// Whether there is one on this machine.
    pub(crate) fn is_here() -> bool {
        UnixStream::connect(USUAL).is_ok()
    }

    /// That of a worker, at a socket in this folder.
    pub(crate) fn of(worker: &str, folder: &Path) -> Self {
        let socket = folder.join(format!("{worker}.sock"));
        let listener = UnixListener::bind(&socket).unwrap();
        let stopped = Arc::new(AtomicBool::new(false));
        let is_stopped = Arc::clone(&stopped);
        std::thread::spawn(move || {
            for asked in listener.incoming().flatten() {
                if is_stopped.load(Ordering::Acquire) {
                    return;
                }
                let Ok(engine) = UnixStream::connect(USUAL) else { return };
                for (from, to) in [(&asked, &engine), (&engine, &asked)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    std::thread::spawn(move || pass(from, to));
                }
            }
        });
        Self { socket, stopped }
    }

    /// As the command line takes it.
    pub(crate) fn host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// From now on nobody answers there.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        drop(std::fs::remove_file(&self.socket));
    }
}

fn pass(mut from: UnixStream, mut to: UnixStream) {
    let mut part = [0; 4096];
    while let Ok(read) = from.read(&mut part)
        && read > 0
        && to.write_all(&part[..read]).is_ok()
    {}
    let _ = to.shutdown(Shutdown::Write);
}
