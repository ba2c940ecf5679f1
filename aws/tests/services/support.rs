//! A service of AWS for a test: it speaks the wire's format, answers what the test has written down, and keeps what it
//! was asked. It listens on loopback, in the test's own process.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use switchyard_aws::clients::{Clients, Settings};
use tokio::net::TcpListener;

/// One request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// The operation, such as `RunTask`.
    pub(crate) operation: String,
    /// Its parameters: JSON, or the fields of a form as an object of strings.
    pub(crate) body: Value,
}

/// What the service does with a request.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// Answers with this JSON.
    Json(u16, Value),
    /// Answers with this XML.
    Xml(u16, String),
    /// Answers nothing, and holds the connection.
    Silence,
}

impl Answer {
    /// A JSON error.
    pub(crate) fn error(status: u16, code: &str, message: &str) -> Self {
        Self::Json(status, json!({ "__type": code, "message": message }))
    }

    /// An XML error, as the query protocol has it.
    pub(crate) fn xml_error(status: u16, code: &str, message: &str) -> Self {
        let message = message.replace('\'', "&apos;");
        Self::Xml(
            status,
            format!(
                "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>\
                 <RequestId>request-1</RequestId></ErrorResponse>"
            ),
        )
    }
}

#[derive(Default)]
struct Kept {
    asked: Vec<Asked>,
    script: HashMap<String, VecDeque<Answer>>,
}

/// The service. An operation that nothing is written down for is answered with an error that nobody retries.
#[derive(Clone)]
pub(crate) struct Aws {
    /// Where it answers.
    pub(crate) endpoint: String,
    kept: Arc<Mutex<Kept>>,
}

impl Aws {
    /// Starts it; it ends with the test's runtime.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let aws = Self { endpoint, kept: Arc::default() };
        let serving = aws.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let aws = serving.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request| aws.clone().answer(request));
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        aws
    }

    /// The next request for this operation that nothing else is written down for is answered so.
    pub(crate) fn on(&self, operation: &str, answer: Answer) -> &Self {
        self.kept.lock().unwrap().script.entry(operation.to_owned()).or_default().push_back(answer);
        self
    }

    /// Everything that was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.kept.lock().unwrap().asked.clone()
    }

    /// The operations that were asked for so far, in order.
    pub(crate) fn operations(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.operation).collect()
    }

    /// The requests for this operation.
    pub(crate) fn asked_for(&self, operation: &str) -> Vec<Value> {
        self.asked().into_iter().filter(|asked| asked.operation == operation).map(|asked| asked.body).collect()
    }

    /// Clients that talk to it: two tries of a call, and half a second for each.
    pub(crate) fn clients(&self) -> Clients {
        let settings = Settings {
            endpoint: Some(self.endpoint.clone()),
            attempts: 2,
            attempt_timeout: Duration::from_millis(500),
            ..Settings::new("eu-central-1")
        };
        let credentials = Credentials::new("tests", "tests", None, None, "tests");
        Clients::new(settings, SharedCredentialsProvider::new(credentials))
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let target = request.headers().get("x-amz-target").and_then(|target| target.to_str().ok()).map(str::to_owned);
        let bytes = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let asked = match target {
            Some(target) => Asked {
                operation: target.rsplit('.').next().unwrap_or_default().to_owned(),
                body: serde_json::from_slice(&bytes).unwrap(),
            },
            None => {
                let fields: BTreeMap<String, String> = url::form_urlencoded::parse(&bytes).into_owned().collect();
                Asked { operation: fields["Action"].clone(), body: json!(fields) }
            }
        };
        let answer = {
            let mut kept = self.kept.lock().unwrap();
            kept.asked.push(asked.clone());
            kept.script.get_mut(&asked.operation).and_then(VecDeque::pop_front)
        };
        let unscripted = || Answer::error(400, "InvalidParameterException", "the test expects no such request");
        let (status, kind, text) = match answer.unwrap_or_else(unscripted) {
            Answer::Json(status, json) => (status, "application/x-amz-json-1.1", json.to_string()),
            Answer::Xml(status, xml) => (status, "text/xml", xml),
            Answer::Silence => std::future::pending().await,
        };
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        response.headers_mut().insert("content-type", kind.parse().unwrap());
        Ok(response)
    }
}
