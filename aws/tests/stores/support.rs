//! What the tests of the stores stand on: the emulators that the environment names, and a server of a test's own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use jiff::Timestamp;
use switchyard_aws::clients::{Clients, Settings};
use switchyard_core::catalog::Catalog;
use switchyard_core::memory::Memory;
use switchyard_core::ports::{Blobs, Herald, Logs, Yard};
use switchyard_core::route::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Clients of whatever answers at `endpoint`.
pub(crate) fn clients(endpoint: &str) -> Clients {
    let mut settings = Settings::new("eu-central-1");
    settings.endpoint = Some(endpoint.to_owned());
    settings.attempts = 3;
    let credentials = Credentials::new("test", "test", None, None, "tests");
    Clients::new(settings, SharedCredentialsProvider::new(credentials))
}

/// A name that no other test of this or another run has.
pub(crate) fn unique(what: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{what}-{}-{}-{count}", std::process::id(), Timestamp::now().as_nanosecond() % 1_000_000_000_000)
}

/// A home in memory at this moment: its chance, its time, and whatever door a test does not put in its place.
pub(crate) fn memory() -> Memory {
    Memory::new(Timestamp::now(), u64::try_from(Timestamp::now().as_microsecond()).unwrap())
}

/// A yard in memory with these doors in the place of its own.
pub(crate) fn yard(blobs: Arc<dyn Blobs>, logs: Arc<dyn Logs>, herald: Arc<dyn Herald>) -> Yard {
    Yard { blobs, logs, herald, ..memory().yard(Catalog::default(), Limits::default()) }
}

/// Runs a test where the environment variable says that an emulator answers.
pub(crate) fn on<F: Future<Output = ()>>(variable: &str, test: &str, run: impl FnOnce(String) -> F) {
    match std::env::var(variable) {
        Ok(endpoint) => block_on(run(endpoint)),
        Err(_) => println!("skipped: {test}: {variable} is not set"),
    }
}

pub(crate) fn block_on(run: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(run);
}

/// What a server of a test's own does with a request.
pub(crate) enum Answer {
    /// It answers so: a status, a media type, a body.
    Of(u16, &'static str, String),
    /// It hands the request on and the answer back.
    PassOn,
    /// It hands the request on and hangs up: the answer is lost.
    HangUp,
}

/// Serves on loopback until the test ends, in front of `behind` if it passes requests on; `answer` is asked with each
/// request's head and body.
pub(crate) async fn serve(behind: &str, answer: impl Fn(&str, &str) -> Answer + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (behind, answer) = (behind.trim_start_matches("http://").to_owned(), Arc::new(answer));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (behind, answer) = (behind.clone(), Arc::clone(&answer));
            tokio::spawn(async move {
                let (head, body) = request(&mut stream).await?;
                let answer = answer(&head, &String::from_utf8_lossy(&body));
                let reply = match &answer {
                    Answer::Of(status, kind, text) => format!(
                        "HTTP/1.1 {status} x\r\nConnection: close\r\nContent-Type: {kind}\r\n\
                         Content-Length: {}\r\n\r\n{text}",
                        text.len()
                    )
                    .into_bytes(),
                    Answer::PassOn | Answer::HangUp => {
                        let head = head.replacen("\r\n", "\r\nConnection: close\r\n", 1);
                        let mut on = TcpStream::connect(behind).await?;
                        on.write_all(&[head.as_bytes(), &body].concat()).await?;
                        let mut reply = Vec::new();
                        on.read_to_end(&mut reply).await?;
                        reply
                    }
                };
                if !matches!(answer, Answer::HangUp) {
                    stream.write_all(&reply).await?;
                }
                stream.shutdown().await
            });
        }
    });
    endpoint
}

/// One request, whole; the SDK says how long it is.
async fn request(stream: &mut TcpStream) -> std::io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end + 4]).into_owned();
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
            });
            if bytes.len() >= end + 4 + length.unwrap_or(0) {
                return Ok((head, bytes.split_off(end + 4)));
            }
        }
        if tokio::time::timeout(Duration::from_secs(10), stream.read_buf(&mut bytes)).await?? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}
