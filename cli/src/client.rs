//! Talks to a yard over HTTP.

use std::time::{Duration, SystemTime};

use serde::de::DeserializeOwned;
use serde_json::Value;
use switchyard_api::Problem;
use switchyard_core::job::TraceId;
use switchyard_embedded::folder::Folder;
use ureq::http::{Method, Request};
use ureq::{Agent, Body};

use crate::args::Connection;
use crate::exit::Failure;
use crate::sign::Signer;

/// How long a busy yard is asked again.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long a gateway that throttles is left alone: its buckets fill again each second.
const THROTTLED: Duration = Duration::from_secs(1);
/// The longest that an answer is asked to be held back, in seconds: behind API Gateway one that is not there after 30 is
/// no answer any more.
pub(crate) const WAIT_SECONDS: u64 = 25;

/// One yard.
pub(crate) struct Client {
    agent: Agent,
    url: String,
    token: String,
    /// What signs requests, where the yard wants that.
    signer: Option<Signer>,
    traceparent: Option<String>,
}

impl Client {
    /// Finds the yard: by --url, or as the one that runs on the data folder. It is shown SWITCHYARD_TOKEN where that is
    /// set; else a yard behind API Gateway signed requests, and any other the token in the data folder.
    pub(crate) fn find(connection: &Connection) -> Result<Self, Failure> {
        let root = connection.data_folder();
        let read = |path: std::path::PathBuf| match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Failure::io(format!("read {}", path.display()), error)),
        };
        let folder = Folder::at(&root);
        let url = match &connection.url {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => read(folder.endpoint())?.ok_or_else(|| Failure::NoYard(root.clone()))?,
        };
        // From the environment and not from an argument: arguments are seen by every user of the machine.
        let token = std::env::var("SWITCHYARD_TOKEN").ok().filter(|token| !token.is_empty());
        let environment = |name: &str| std::env::var(name).ok();
        let signer = match (&token, &connection.url) {
            (None, Some(_)) => Signer::find(&url, connection.sign.as_deref(), &environment)?,
            (Some(_), _) | (None, None) => None,
        };
        let token = match (token, &signer) {
            (Some(token), _) => token,
            (None, Some(_)) => String::new(),
            (None, None) => read(folder.token())?.unwrap_or_default(),
        };
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(5)))
            // The yard holds an answer back for at most a minute.
            .timeout_recv_response(Some(Duration::from_secs(90)));
        Ok(Self { agent: config.build().into(), url, token, signer, traceparent: None })
    }

    /// The same, its requests parts of a trace.
    pub(crate) fn traced(self, traceparent: Option<&str>) -> Result<Self, Failure> {
        // The yard would ignore one that is invalid: whoever gives one wants to find it again.
        if traceparent.is_some_and(|given| TraceId::of_traceparent(given.as_bytes()).is_none()) {
            let expected = "expected one such as 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
            return Err(Failure::BadInput(format!("--traceparent is none (W3C Trace Context): {expected}")));
        }
        Ok(Self { traceparent: traceparent.map(str::to_owned), ..self })
    }

    /// GET, as JSON.
    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.ask(Method::GET, path, None, None)
    }

    /// POST, as JSON.
    pub(crate) fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: Option<&[u8]>,
        key: Option<&str>,
    ) -> Result<T, Failure> {
        self.ask(Method::POST, path, body, key)
    }

    /// POST, as JSON; while the yard says that it is busy, after the pause it asks for, for ten minutes in all.
    pub(crate) fn post_patiently<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &[u8],
        busy: impl Fn(Duration, &str),
    ) -> Result<T, Failure> {
        let mut left = PATIENCE;
        loop {
            match self.ask(Method::POST, path, Some(body), None) {
                Err(Failure::Busy { problem, retry_after }) => {
                    let Some(rest) = left.checked_sub(retry_after) else {
                        return Err(Failure::Busy { problem, retry_after });
                    };
                    left = rest;
                    busy(retry_after, &problem.code);
                    std::thread::sleep(retry_after);
                }
                // Not taken: API Gateway says so before the yard hears of it.
                Err(Failure::Gateway { status: 429, .. }) if left >= THROTTLED => {
                    left -= THROTTLED;
                    busy(THROTTLED, "throttled");
                    std::thread::sleep(THROTTLED);
                }
                answered => return answered,
            }
        }
    }

    fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&[u8]>,
        key: Option<&str>,
    ) -> Result<T, Failure> {
        let url = format!("{}{path}", self.url);
        let mut headers = vec![("accept", "application/json".to_owned())];
        if !self.token.is_empty() {
            check_header("the token", &self.token)?;
            headers.push(("authorization", format!("Bearer {}", self.token)));
        }
        if let Some(key) = key {
            check_header("--key", key)?;
            headers.push(("idempotency-key", key.to_owned()));
        }
        if let Some(traceparent) = &self.traceparent {
            check_header("--traceparent", traceparent)?;
            headers.push(("traceparent", traceparent.clone()));
        }
        if body.is_some() {
            headers.push(("content-type", "application/json".to_owned()));
        }
        let mut request = Request::builder().method(&method).uri(&url);
        for (name, value) in &headers {
            request = request.header(*name, value);
        }
        if let Some(signer) = &self.signer {
            let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let now = SystemTime::now();
            for (name, value) in signer.headers(method.as_str(), &url, &headers, body.unwrap_or_default(), now)? {
                request = request.header(name, value);
            }
        }
        let sent = match body {
            Some(body) => self.agent.run(request.body(body).map_err(|error| bad_request(&url, &error))?),
            None => self.agent.run(request.body(()).map_err(|error| bad_request(&url, &error))?),
        };
        let mut response =
            sent.map_err(|error| Failure::Unreachable { url: self.url.clone(), cause: error.to_string() })?;
        let status = response.status();
        let retry_after = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
        let retry_after = retry_after.map(|seconds: u64| Duration::from_secs(seconds.max(1)));
        let value = read(response.body_mut()).map_err(|cause| Failure::NotAYard { url: url.clone(), cause })?;
        if status.is_success() {
            serde_json::from_value(value).map_err(|error| Failure::NotAYard { url, cause: error.to_string() })
        } else {
            let gateway = value.get("message").and_then(Value::as_str).map(str::to_owned);
            let problem: Result<Problem, _> = serde_json::from_value(value);
            Err(match (problem, retry_after) {
                (Ok(problem), Some(retry_after)) => Failure::Busy { problem, retry_after },
                (Ok(problem), None) => Failure::Problem(problem),
                (Err(_), _) => match gateway {
                    Some(message) => Failure::Gateway { url: self.url.clone(), status: status.as_u16(), message },
                    None => Failure::NotAYard { url, cause: format!("status {status} without a problem document") },
                },
            })
        }
    }
}

/// Says that a value cannot stand in a header, without repeating it.
fn check_header(what: &str, value: &str) -> Result<(), Failure> {
    if value.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
        return Ok(());
    }
    Err(Failure::BadInput(format!("{what} holds what a header cannot: expected printable ASCII characters")))
}

fn bad_request(url: &str, error: &ureq::http::Error) -> Failure {
    Failure::BadInput(format!("cannot ask {url}: {error}"))
}

fn read(body: &mut Body) -> Result<Value, String> {
    // A page of 500 jobs is under a megabyte; a result is at most one, and a job may carry it.
    let text = body.with_config().limit(64 * 1024 * 1024).read_to_string().map_err(|error| error.to_string())?;
    serde_json::from_str(&text).map_err(|error| error.to_string())
}

/// A value as it stands in a query.
pub(crate) fn quote(value: &str) -> String {
    let mut quoted = String::new();
    for byte in value.bytes() {
        // RFC 3986, section 2.3: these need no quoting.
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            quoted.push(char::from(byte));
        } else {
            quoted.push_str(&format!("%{byte:02X}"));
        }
    }
    quoted
}
