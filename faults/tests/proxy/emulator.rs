//! An upstream that answers as the test says and keeps what it has seen; and a client that signs as the SDK does.

use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use serde_json::Value;
use switchyard_faults::{Proxy, Service, Settings};

/// One request, as the upstream got it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Seen {
    /// The operation of a JSON service; of others the `Action`, else nothing.
    pub(crate) fn operation(&self) -> String {
        let target = self.headers.get("x-amz-target").and_then(|target| target.to_str().ok());
        let form = std::str::from_utf8(&self.body).unwrap_or_default();
        let action = form.strip_prefix("Action=").and_then(|rest| rest.split('&').next());
        target.and_then(|target| target.rsplit('.').next()).or(action).unwrap_or_default().to_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// A running upstream.
pub(crate) struct Emulator {
    pub(crate) url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Emulator {
    /// One that answers each request with what `answer` makes of it.
    pub(crate) fn start(answer: impl Fn(&Seen) -> (u16, String) + Send + Sync + 'static) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (kept, answer) = (Arc::clone(&seen), Arc::new(answer));
        let handler = move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| {
            let (kept, answer) = (Arc::clone(&kept), Arc::clone(&answer));
            async move {
                let request = Seen { method, uri, headers, body };
                // An answer may take its time without holding up others.
                let (status, body) = tokio::task::spawn_blocking({
                    let request = request.clone();
                    move || answer(&request)
                })
                .await
                .unwrap();
                kept.lock().unwrap().push(request);
                (StatusCode::from_u16(status).unwrap(), body)
            }
        };
        let router = Router::new().fallback(handler).layer(DefaultBodyLimit::disable());
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self { url, seen, runtime: Some(runtime) }
    }

    /// One that answers everything with an empty success.
    pub(crate) fn empty() -> Self {
        Self::start(|_| (200, "{}".to_owned()))
    }

    /// A proxy before it, with AWS's limits and calm weather.
    pub(crate) fn proxy(&self) -> Proxy {
        Proxy::start(Settings::new(&self.url)).unwrap()
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The operations that it saw.
    pub(crate) fn operations(&self) -> Vec<String> {
        self.seen().iter().map(Seen::operation).collect()
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// What a client gets.
#[derive(Clone, Debug)]
pub(crate) struct Got {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Got {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }

    /// The error code, as the SDK reads it from a JSON service.
    pub(crate) fn code(&self) -> String {
        let kind = self.json()["__type"].as_str().unwrap_or_default().to_owned();
        kind.rsplit('#').next().unwrap_or_default().to_owned()
    }
}

/// A client with a name.
#[derive(Clone)]
pub(crate) struct Client {
    endpoint: String,
    name: String,
    timeout: Duration,
}

impl Client {
    pub(crate) fn new(proxy: &Proxy, name: &str) -> Self {
        Self { endpoint: proxy.endpoint(), name: name.to_owned(), timeout: Duration::from_secs(10) }
    }

    /// The same that gives up sooner.
    pub(crate) fn patient_for(&self, timeout: Duration) -> Self {
        Self { timeout, ..self.clone() }
    }

    /// A JSON request; an error where no answer came.
    pub(crate) fn json(&self, service: Service, operation: &str, body: &Value) -> Result<Got, ureq::Error> {
        let prefix = match service {
            Service::DynamoDb => "DynamoDB_20120810",
            Service::Ecs => "AmazonEC2ContainerServiceV20141113",
            Service::Events => "AWSEvents",
            Service::Logs => "Logs_20140328",
            _ => "AmazonSQS",
        };
        let target = format!("{prefix}.{operation}");
        let headers = [("x-amz-target", target.as_str()), ("content-type", "application/x-amz-json-1.0")];
        self.send("POST", &service, "/", &headers, &body.to_string())
    }

    /// A request of the Query protocol.
    pub(crate) fn form(&self, service: Service, body: &str) -> Result<Got, ureq::Error> {
        let headers = [("content-type", "application/x-www-form-urlencoded")];
        self.send("POST", &service, "/", &headers, body)
    }

    /// Any request.
    pub(crate) fn send(
        &self,
        method: &str,
        service: &Service,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<Got, ureq::Error> {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_idle_connections(0)
            .timeout_global(Some(self.timeout))
            .build()
            .new_agent();
        let scope = format!("{}/20260102/eu-west-1/{service}/aws4_request", self.name);
        let signature = format!("AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0");
        let mut request = axum::http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.endpoint))
            .header("authorization", signature);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut response = agent.run(request.body(body.to_owned()).unwrap())?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Got { status, headers, body: response.body_mut().read_to_string()? })
    }

    /// The same JSON request on a thread of its own.
    pub(crate) fn later(
        &self,
        service: Service,
        operation: &'static str,
        body: Value,
    ) -> JoinHandle<Result<Got, ureq::Error>> {
        let client = self.clone();
        std::thread::spawn(move || client.json(service, operation, &body))
    }
}

/// Waits until it holds; fails the test after ten seconds.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("not within ten seconds: {what}");
}
