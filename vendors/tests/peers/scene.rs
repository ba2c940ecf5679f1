//! A world with one peer: what it heard, what it is told to play, the store of secrets, a clock, and everything that was said.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use http::HeaderMap;
use jiff::Timestamp;
use secrecy::SecretString;
use serde_json::Value;
use switchyard_core::job::{Epoch, JobId};
use switchyard_core::lend::{Grant, GrantOf, Issued, Order, Refused, Scope, SecretName};
use switchyard_core::ports::{Ambient, PortError, Vendors};
use switchyard_vendors::{Doors, Endpoints, Identity, Lenders, Patience, Settings, Vault, VaultError};

/// In every secret that can have it.
pub(crate) const MARK: &str = "CANARY";
/// What the broker shows of itself to federations.
pub(crate) const IDENTITY: &str = "identity.CANARY.token";
/// Private keys of these tests, and lines of them that nothing may show.
pub(crate) const OURS: &str = include_str!("../keys/test-only-ours.pkcs8.pem");
pub(crate) const OURS_PKCS1: &str = include_str!("../keys/test-only-ours.pkcs1.pem");
pub(crate) const OTHER: &str = include_str!("../keys/test-only-other.pkcs8.pem");
pub(crate) const CERTIFICATE: &str = include_str!("../keys/test-only-ours.certificate.pem");
pub(crate) const PUBLIC: &[u8] = include_bytes!("../keys/test-only-ours.public.der");

/// A request as a peer hears it.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Heard {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    pub(crate) fn bearer(&self) -> &str {
        self.header("authorization").strip_prefix("Bearer ").unwrap_or_default()
    }

    pub(crate) fn form(&self) -> BTreeMap<String, String> {
        assert_eq!(self.header("content-type"), "application/x-www-form-urlencoded");
        url::form_urlencoded::parse(self.body.as_bytes()).into_owned().collect()
    }

    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.header("content-type"), "application/json");
        serde_json::from_str(&self.body).unwrap()
    }
}

/// What a peer does instead of its work.
#[derive(Clone, Debug)]
pub(crate) enum Play {
    /// Answers this.
    Answer(u16, Vec<(&'static str, String)>, String),
    /// Says nothing, ever.
    Silence,
}

pub(crate) fn answer(status: u16, body: impl ToString) -> Play {
    Play::Answer(status, vec![], body.to_string())
}

/// What a vendor does with a request: its own address is the second argument.
pub(crate) type Serve = fn(&Heard, &str) -> (u16, Value);

/// A vendor on loopback.
#[derive(Clone)]
pub(crate) struct Peer {
    pub(crate) url: String,
    heard: Arc<Mutex<Vec<Heard>>>,
    script: Arc<Mutex<VecDeque<Play>>>,
    serve: Serve,
}

impl Peer {
    pub(crate) async fn start(serve: Serve) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let peer = Self { url, heard: Arc::default(), script: Arc::default(), serve };
        let router = Router::new().fallback(hear).with_state(peer.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        peer
    }

    pub(crate) fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    /// What it does with the next requests, one each.
    pub(crate) fn play(&self, plays: impl IntoIterator<Item = Play>) {
        self.script.lock().unwrap().extend(plays);
    }
}

async fn hear(State(peer): State<Peer>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = String::from_utf8(to_bytes(body, 1 << 20).await.unwrap().to_vec()).unwrap();
    let (method, path) = (head.method.to_string(), head.uri.path().to_owned());
    let heard = Heard { method, path, headers: head.headers, body };
    peer.heard.lock().unwrap().push(heard.clone());
    let played = peer.script.lock().unwrap().pop_front();
    let (status, headers, body) = match played {
        Some(Play::Silence) => std::future::pending().await,
        Some(Play::Answer(status, headers, body)) => (status, headers, body),
        None => {
            let (status, body) = (peer.serve)(&heard, &peer.url);
            (status, vec![], body.to_string())
        }
    };
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(name, value);
    }
    response.body(Body::from(body)).unwrap()
}

/// A clock that can be wrong, and knows how long it was waited for.
#[derive(Default)]
pub(crate) struct Clock {
    ahead: Mutex<i64>,
    pub(crate) pauses: Mutex<Vec<Duration>>,
}

#[async_trait]
impl Ambient for Clock {
    fn now(&self) -> Timestamp {
        Timestamp::now() + Duration::from_secs(0) + jiff::SignedDuration::from_secs(*self.ahead.lock().unwrap())
    }

    fn random(&self) -> [u8; 32] {
        [7; 32]
    }

    async fn pause(&self, duration: Duration) {
        self.pauses.lock().unwrap().push(duration);
    }
}

/// A store of secrets that counts how often it is asked.
#[derive(Default)]
pub(crate) struct Store {
    pub(crate) secrets: Mutex<BTreeMap<String, String>>,
    pub(crate) reads: Mutex<u32>,
    pub(crate) down: Mutex<bool>,
}

#[async_trait]
impl Vault for Store {
    async fn secret(&self, name: &SecretName) -> Result<SecretString, VaultError> {
        *self.reads.lock().unwrap() += 1;
        if *self.down.lock().unwrap() {
            return Err(VaultError::Passing { name: name.clone(), cause: "it does not answer".into() });
        }
        let secrets = self.secrets.lock().unwrap();
        let found = secrets.get(&name.0).ok_or_else(|| VaultError::Missing(name.clone()))?;
        Ok(SecretString::from(found.as_str()))
    }
}

struct Broker;

#[async_trait]
impl Identity for Broker {
    async fn token(&self, audience: &str) -> Result<SecretString, PortError> {
        match audience {
            "//iam.googleapis.com/projects/1/refused" => {
                Err(PortError::permanent("vouch for", "the broker", "the account has not switched it on"))
            }
            "//iam.googleapis.com/projects/1/down" => {
                Err(PortError::retryable("vouch for", "the broker", "STS does not answer"))
            }
            _ => Ok(SecretString::from(IDENTITY)),
        }
    }
}

/// The lenders, before one peer that is all vendors.
pub(crate) struct World {
    pub(crate) peer: Peer,
    pub(crate) clock: Arc<Clock>,
    pub(crate) store: Arc<Store>,
    pub(crate) lenders: Lenders,
}

pub(crate) fn endpoints(url: &str) -> Endpoints {
    Endpoints {
        google_token: format!("{url}/token"),
        google_exchange: format!("{url}/v1/token"),
        google_credentials: url.to_owned(),
        entra: url.to_owned(),
        github: url.to_owned(),
    }
}

/// Patience for peers that answer at once or never.
pub(crate) fn patient() -> Patience {
    Patience { attempt: Duration::from_secs(30), budget: Duration::from_secs(60), ..Patience::default() }
}

impl World {
    pub(crate) async fn new(serve: Serve) -> Self {
        Self::with(Peer::start(serve).await, |_| {})
    }

    pub(crate) fn with(peer: Peer, change: impl FnOnce(&mut Settings)) -> Self {
        listen();
        let (clock, store) = (Arc::new(Clock::default()), Arc::new(Store::default()));
        let mut settings = Settings { endpoints: endpoints(&peer.url), patience: patient(), ..Settings::default() };
        change(&mut settings);
        let doors = Doors {
            vault: Arc::clone(&store) as Arc<dyn Vault>,
            roles: None,
            identity: Some(Arc::new(Broker)),
            ambient: Arc::clone(&clock) as Arc<dyn Ambient>,
        };
        let lenders = Lenders::new(doors, settings).unwrap();
        Self { peer, clock, store, lenders }
    }

    pub(crate) fn keep(&self, name: &str, secret: impl Into<String>) {
        self.store.secrets.lock().unwrap().insert(name.to_owned(), secret.into());
    }

    /// Sets our clock wrong.
    pub(crate) fn ahead(&self, seconds: i64) {
        *self.clock.ahead.lock().unwrap() = seconds;
    }

    pub(crate) fn order(&self, of: GrantOf, scope: Scope, seconds: u64) -> Order {
        let now = self.clock.now();
        Order {
            grant: Grant { of, at_most_seconds: None },
            scope,
            job: JobId::keyed("tests", "one"),
            epoch: Epoch(3),
            capability: "scan".to_owned(),
            now,
            until: now + Duration::from_secs(seconds),
        }
    }

    /// Asks, and looks whether anything that is secret was said.
    pub(crate) async fn issue(&self, of: GrantOf, scope: Scope) -> Result<Issued, Refused> {
        let issued = self.lenders.issue(&self.order(of, scope, 3000)).await;
        if let Err(refused) = &issued {
            nothing_secret_in(&refused.message);
        }
        nothing_secret_in(&format!("{issued:?}"));
        self.nothing_secret_was_logged();
        issued
    }

    /// Nothing that was sent or kept has been logged since somebody looked last, whoever did that.
    pub(crate) fn nothing_secret_was_logged(&self) {
        let said = std::mem::take(&mut *log().lock().unwrap());
        nothing_secret_in(&String::from_utf8_lossy(&said));
    }

    pub(crate) fn pauses(&self) -> Vec<Duration> {
        self.clock.pauses.lock().unwrap().clone()
    }

    pub(crate) fn reads(&self) -> u32 {
        *self.store.reads.lock().unwrap()
    }
}

/// No mark, and no line of a private key.
pub(crate) fn nothing_secret_in(said: &str) {
    assert!(!said.contains(MARK), "a secret is told: {said}");
    for key in [OURS, OURS_PKCS1, OTHER] {
        for line in key.lines().filter(|line| line.len() > 30 && !line.starts_with('-')) {
            assert!(!said.contains(&line[..20]), "a line of a key is told: {said}");
        }
    }
    // The first part of whatever is signed here.
    assert!(!said.contains("eyJhbGciOi"), "an assertion is told: {said}");
}

fn log() -> &'static Arc<Mutex<Vec<u8>>> {
    static LOG: OnceLock<Arc<Mutex<Vec<u8>>>> = OnceLock::new();
    LOG.get_or_init(Arc::default)
}

struct Ear;

impl Write for Ear {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        log().lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Hears everything that is logged, whoever logs it.
fn listen() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(|| Ear).init();
        tracing::trace!("listening");
        assert!(!log().lock().unwrap().is_empty(), "nothing would be heard");
    });
}

pub(crate) fn token(issued: &Issued) -> &str {
    use secrecy::ExposeSecret;
    match &issued.credential {
        switchyard_core::lend::Credential::Token(token) => token.expose_secret(),
        switchyard_core::lend::Credential::Value(value) => value.expose_secret(),
        switchyard_core::lend::Credential::Aws { .. } => panic!("of AWS"),
    }
}
