//! The proxy itself: how it starts and ends, its connections, and what it is asked about itself.

mod line;
mod road;
mod upstream;

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};

use self::line::Line;
use self::upstream::Upstream;
use crate::answer::{Answer, Refusal};
use crate::call::{Call, Service};
use crate::records::Records;
use crate::report::summary;
use crate::rules::{Limits, Rules};
use crate::script::Script;
use crate::weather::Weather;

/// The largest body of a request or an answer; both are kept in memory.
const BODY_BYTES: usize = 16 << 20;

/// How a proxy starts.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it listens. Port 0 is any that is free.
    pub listen: SocketAddr,
    /// Where requests go: a plain `http://` address.
    pub upstream: String,
    /// Where those of some services go instead.
    pub upstreams: BTreeMap<Service, String>,
    /// What the rules enforce.
    pub limits: Limits,
    /// What happens by chance.
    pub weather: Weather,
    /// How long a held connection is kept at most, if its client does not end it before.
    pub hold_for: Duration,
    /// How many records are kept; what comes after is only added up.
    pub records: usize,
    /// Whether records keep the parameters of their requests.
    pub keep_requests: bool,
}

impl Settings {
    /// On any free port of this machine, to this emulator, with AWS's limits and calm weather.
    pub fn new(upstream: impl Into<String>) -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            upstream: upstream.into(),
            upstreams: BTreeMap::new(),
            limits: Limits::default(),
            weather: Weather::calm(),
            hold_for: Duration::from_secs(3600),
            records: 1_000_000,
            keep_requests: false,
        }
    }

    /// Requests for this service go there instead.
    pub fn upstream_for(mut self, service: Service, upstream: impl Into<String>) -> Self {
        self.upstreams.insert(service, upstream.into());
        self
    }
}

/// A running proxy. It has threads of its own, so a test may block; dropping it ends it.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

impl Proxy {
    /// Starts one.
    pub fn start(settings: Settings) -> io::Result<Self> {
        let upstream = Upstream::new(&settings.upstream, &settings.upstreams)?;
        let listener = std::net::TcpListener::bind(settings.listen)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = Builder::new_multi_thread().worker_threads(2).thread_name("faults").enable_all().build()?;
        let shared = Arc::new(Shared {
            started: Instant::now(),
            hold_for: settings.hold_for,
            upstream,
            ordinals: AtomicU64::new(0),
            places: Mutex::default(),
            script: Script::default(),
            weather: Mutex::new(settings.weather),
            rules: Mutex::new(Rules::new(settings.limits)),
            records: Records::new(settings.records),
            keep_requests: settings.keep_requests,
            alone: tokio::sync::Mutex::new(()),
            writing: tokio::sync::Mutex::new(()),
        });
        let listener = {
            let _entered = runtime.enter();
            TcpListener::from_std(listener)?
        };
        runtime.spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { address, shared, runtime: Some(runtime) })
    }

    /// Where clients find it.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What tests write down.
    pub fn script(&self) -> &Script {
        &self.shared.script
    }

    /// What came so far.
    pub fn records(&self) -> &Records {
        &self.shared.records
    }

    /// From now on the weather is this.
    pub fn set_weather(&self, weather: Weather) {
        *lock(&self.shared.weather) = weather;
    }

    /// Changes what the rules enforce.
    pub fn rules(&self, change: impl FnOnce(&mut Limits)) {
        change(&mut lock(&self.shared.rules).limits);
    }

    /// Forgets records, script and whatever the rules remember; limits and weather stay, and clients' ordinals begin anew.
    pub fn reset(&self) {
        self.shared.reset();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Not the usual end, which waits for what runs and may not be used where futures are polled.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[derive(Debug)]
struct Shared {
    started: Instant,
    hold_for: Duration,
    upstream: Upstream,
    ordinals: AtomicU64,
    /// How many requests each client has made.
    places: Mutex<HashMap<String, u64>>,
    script: Script,
    weather: Mutex<Weather>,
    rules: Mutex<Rules>,
    records: Records,
    keep_requests: bool,
    /// Held by a request whose decision must stay true until the service has answered it.
    alone: tokio::sync::Mutex<()>,
    /// Held while a service carries out a write that must not be carried out beside another.
    writing: tokio::sync::Mutex<()>,
}

/// How a request ends.
#[derive(Debug)]
enum Outcome {
    Answer(Answer),
    Reset,
    /// Never answered; reset after so long.
    Park(Duration),
}

/// The connection is to be reset.
#[derive(Debug)]
struct Reset;

impl fmt::Display for Reset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("reset on purpose")
    }
}

impl std::error::Error for Reset {}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) -> Infallible {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(serve(stream, Arc::clone(&shared)))),
            // Out of file descriptors, most likely: some will be free again.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    let is_reset = Arc::new(AtomicBool::new(false));
    let line = TokioIo::new(Line::new(stream, Arc::clone(&is_reset)));
    let service = service_fn(move |request| {
        let (shared, is_reset) = (Arc::clone(&shared), Arc::clone(&is_reset));
        async move {
            let outcome = shared.receive(request).await;
            if let Outcome::Park(hold) = outcome {
                tokio::time::sleep(hold).await;
            }
            match outcome {
                Outcome::Answer(answer) => Ok(response(answer)),
                Outcome::Reset | Outcome::Park(_) => {
                    is_reset.store(true, Ordering::SeqCst);
                    Err(Reset)
                }
            }
        }
    });
    // An error is a client that went away, or a reset on purpose.
    let _ = http1::Builder::new().timer(TokioTimer::new()).serve_connection(line, service).await;
}

fn response(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(answer.body));
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    response
}

impl Shared {
    async fn receive(self: Arc<Self>, request: Request<Incoming>) -> Outcome {
        let (parts, body) = request.into_parts();
        let body = match Limited::new(body, BODY_BYTES).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => {
                let call = Call::read(0, &parts.method, &parts.uri, &parts.headers, Bytes::new());
                let refusal = Refusal::new("RequestEntityTooLarge", error.to_string()).status(413);
                return Outcome::Answer(Answer::refused(&call, &refusal));
            }
        };
        if let Some(path) = parts.uri.path().strip_prefix("/_faults/") {
            return Outcome::Answer(self.administer(&parts, path));
        }
        // In a task of its own: a service carries a request out even if its client has gone away meanwhile.
        let task = tokio::spawn(async move { self.handle(&parts, body).await });
        task.await.unwrap_or(Outcome::Reset)
    }

    fn administer(&self, parts: &Parts, path: &str) -> Answer {
        let call = Call::read(0, &parts.method, &parts.uri, &parts.headers, Bytes::new());
        match (&parts.method, path) {
            (&Method::GET, "records") => Answer::json(&call, &summary(&self.records)),
            (&Method::POST, "reset") => {
                self.reset();
                Answer { status: StatusCode::NO_CONTENT, ..Answer::plain(&call, String::new()) }
            }
            _ => {
                let message = "The fault proxy knows GET /_faults/records and POST /_faults/reset.";
                Answer::refused(&call, &Refusal::new("NotFound", message).status(404))
            }
        }
    }

    fn reset(&self) {
        self.records.clear();
        self.script.clear();
        lock(&self.places).clear();
        let mut rules = lock(&self.rules);
        *rules = Rules::new(rules.limits.clone());
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }
}
