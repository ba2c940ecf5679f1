//! The way to the emulators.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, Request, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use super::BODY_BYTES;
use crate::answer::{Answer, Refusal};
use crate::call::{Call, Service};
use crate::rules::Question;

/// An answer that takes longer is none: a long poll takes 20 seconds, everything else less.
const TIMEOUT: Duration = Duration::from_secs(300);

/// The emulators, by service.
#[derive(Debug)]
pub(super) struct Upstream {
    default: Uri,
    services: BTreeMap<Service, Uri>,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Upstream {
    pub(super) fn new(default: &str, services: &BTreeMap<Service, String>) -> io::Result<Self> {
        let read = |url: &str| {
            let uri: Option<Uri> = url.parse().ok().filter(|uri: &Uri| uri.scheme_str() == Some("http"));
            uri.filter(|uri| uri.authority().is_some()).ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidInput, format!("upstream {url:?} is not a plain http:// address"))
            })
        };
        let services = services.iter().map(|(service, url)| Ok((service.clone(), read(url)?)));
        Ok(Self {
            default: read(default)?,
            services: services.collect::<io::Result<_>>()?,
            client: Client::builder(TokioExecutor::new()).build(HttpConnector::new()),
        })
    }

    /// Passes a request on, with the body of `call`, which is the client's own unless `is_changed`.
    pub(super) async fn forward(&self, parts: &Parts, call: &Call, is_changed: bool) -> Result<Answer, String> {
        let mut headers = parts.headers.clone();
        strip(&mut headers);
        if is_changed {
            headers.remove(CONTENT_LENGTH);
        }
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        self.send(&call.service, parts.method.clone(), path, headers, call.body.clone()).await
    }

    /// Asks the service something on behalf of whoever sent `parts`: same account, same region.
    pub(super) async fn ask(&self, parts: &Parts, call: &Call, question: &Question) -> Answer {
        let mut headers = HeaderMap::new();
        for name in [AUTHORIZATION, HOST, HeaderName::from_static("x-amz-date")] {
            headers.extend(parts.headers.get(&name).cloned().map(|value| (name, value)));
        }
        let target = call.service.target().map(|prefix| format!("{prefix}.{}", question.operation));
        let kind = if target.is_some() { "application/x-amz-json-1.0" } else { "application/x-www-form-urlencoded" };
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        let target = target.and_then(|target| target.parse().ok());
        headers.extend(target.map(|target| (HeaderName::from_static("x-amz-target"), target)));
        let body = Bytes::from(question.body.clone());
        match self.send(&call.service, Method::POST, "/", headers, body).await {
            Ok(answer) => answer,
            Err(why) => Answer::refused(call, &unreachable(&why)),
        }
    }

    async fn send(
        &self,
        service: &Service,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Answer, String> {
        let is_head = method == Method::HEAD;
        let base = self.services.get(service).unwrap_or(&self.default);
        let host = base.authority().map_or("", |authority| authority.as_str());
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = format!("http://{host}{path}").parse().map_err(|error| format!("{path}: {error}"))?;
        *request.headers_mut() = headers;
        let exchange = async {
            let (parts, body) = self.client.request(request).await.map_err(|error| chain(&error))?.into_parts();
            let body = Limited::new(body, BODY_BYTES).collect().await.map_err(|error| error.to_string())?.to_bytes();
            let mut headers = parts.headers;
            strip(&mut headers);
            // The length of a body that a HEAD leaves out is an answer of its own.
            if !is_head {
                headers.remove(CONTENT_LENGTH);
            }
            Ok(Answer { status: parts.status, headers, body })
        };
        tokio::time::timeout(TIMEOUT, exchange).await.unwrap_or_else(|_| Err("no answer in time".to_owned()))
    }
}

/// What a client hears of a service that could not be reached.
pub(super) fn unreachable(why: &str) -> Refusal {
    Refusal::new("BadGateway", format!("The upstream of the fault proxy did not answer: {why}")).status(502)
}

/// Headers that speak of one connection only.
fn strip(headers: &mut HeaderMap) {
    for name in ["connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"] {
        headers.remove(name);
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
