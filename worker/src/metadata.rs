//! The metadata service of an EC2 instance, in its second version: what the machine is called, and what it says of its end.
//!
//! Every question carries a token, which is asked for by a PUT and held for its time; a 401 says that it is no good any more
//! (Amazon EC2 User Guide, "Use the Instance Metadata Service"). What the service has nothing to say about is a 404.

use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use serde::Deserialize;
use switchyard_core::notice::{Action, Said};
use switchyard_core::ports::PortError;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

/// Where the service answers, on any instance.
pub const LINK_LOCAL: &str = "http://169.254.169.254";
/// How long a token is asked to hold: a sixth of the longest that can be had.
const TOKEN_HOLDS: Duration = Duration::from_secs(3600);
/// So long before its end it is asked for anew.
const TOKEN_AHEAD: Duration = Duration::from_secs(60);
/// What one question may take. The service is on the machine itself, and answers within milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest answer that is read.
const ANSWER_BYTES: usize = 64 * 1024;

/// The service.
#[derive(Debug)]
pub struct Metadata {
    host: String,
    token: Mutex<Option<(String, Instant)>>,
}

/// An answer to one question.
enum Answer {
    Text(String),
    Nothing,
    TokenIsOver,
}

#[derive(Deserialize)]
struct InstanceAction {
    action: String,
    time: Timestamp,
}

impl Metadata {
    /// The service at this address, such as [`LINK_LOCAL`]: `http://` and a host, perhaps with a port.
    ///
    /// # Errors
    ///
    /// What is wrong with the address.
    pub fn at(endpoint: &str) -> Result<Self, String> {
        let host = endpoint.strip_prefix("http://").map(|rest| rest.trim_end_matches('/'));
        let host = host.filter(|host| !host.is_empty() && !host.contains('/'));
        let host = host.ok_or_else(|| "expected http:// and a host, perhaps with a port".to_owned())?;
        let host = if host.rsplit(']').next().is_some_and(|rest| rest.contains(':')) {
            host.to_owned()
        } else {
            format!("{host}:80")
        };
        Ok(Self { host, token: Mutex::default() })
    }

    /// What the instance is called: `i-…`.
    ///
    /// # Errors
    ///
    /// The service does not answer.
    pub async fn instance(&self) -> Result<String, PortError> {
        let path = "/latest/meta-data/instance-id";
        let found = self.get(path).await?;
        found.ok_or_else(|| PortError::permanent("ask the metadata service for", path, "it has nothing to say"))
    }

    /// What the machine says of its end.
    ///
    /// # Errors
    ///
    /// The service does not answer one of the questions, or says what is not understood.
    pub async fn said(&self) -> Result<Said, PortError> {
        let path = "/latest/meta-data/spot/instance-action";
        let interruption = match self.get(path).await? {
            None => None,
            Some(text) => {
                let told: InstanceAction = serde_json::from_str(&text)
                    .map_err(|error| PortError::permanent("read the metadata service's answer on", path, error))?;
                let action = match told.action.as_str() {
                    "hibernate" => Action::Hibernate,
                    "stop" => Action::Stop,
                    // Whatever else it may be called one day, the instance is to go.
                    _ => Action::Terminate,
                };
                Some((action, told.time))
            }
        };
        let at_risk = self.get("/latest/meta-data/events/recommendations/rebalance").await?.is_some();
        let target = self.get("/latest/meta-data/autoscaling/target-lifecycle-state").await?;
        Ok(Said { interruption, at_risk, target })
    }

    /// What it says to one question; `None`: nothing.
    async fn get(&self, path: &str) -> Result<Option<String>, PortError> {
        let operation = "ask the metadata service for";
        let mut held = self.token.lock().await;
        // A token that is refused is asked for anew, once.
        for fresh in [false, true] {
            let token = match held.take_if(|(_, until)| fresh || *until <= Instant::now()) {
                None if held.is_some() => held.as_ref().map(|(token, _)| token.clone()).unwrap_or_default(),
                _ => {
                    let token = self.token().await.map_err(|why| PortError::retryable(operation, "a token", why))?;
                    *held = Some((token.clone(), Instant::now() + TOKEN_HOLDS.saturating_sub(TOKEN_AHEAD)));
                    token
                }
            };
            let header = ("x-aws-ec2-metadata-token", token.as_str());
            match self.ask(Method::GET, path, header).await.map_err(|why| PortError::retryable(operation, path, why))? {
                Answer::Text(text) => return Ok(Some(text)),
                Answer::Nothing => return Ok(None),
                Answer::TokenIsOver => {}
            }
        }
        Err(PortError::retryable(operation, path, "it refuses a token that it has just given"))
    }

    async fn token(&self) -> Result<String, String> {
        let holds = TOKEN_HOLDS.as_secs().to_string();
        let header = ("x-aws-ec2-metadata-token-ttl-seconds", holds.as_str());
        match self.ask(Method::PUT, "/latest/api/token", header).await? {
            Answer::Text(token) => Ok(token),
            Answer::Nothing | Answer::TokenIsOver => Err("it gives none".to_owned()),
        }
    }

    async fn ask(&self, method: Method, path: &str, (name, value): (&str, &str)) -> Result<Answer, String> {
        let answered = timeout(PATIENCE, async {
            let stream = TcpStream::connect(&self.host).await.map_err(|error| error.to_string())?;
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
            let request = Request::builder().method(method).uri(path).header("host", &self.host).header(name, value);
            let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
            // It ends with the answer, or when that is not waited for any more.
            let connection = tokio::spawn(connection);
            let answer = async {
                let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
                let status = answer.status();
                let body = Limited::new(answer.into_body(), ANSWER_BYTES).collect().await;
                let body = body.map_err(|error| error.to_string())?.to_bytes();
                Ok::<_, String>((status, String::from_utf8_lossy(&body).into_owned()))
            };
            let answered = answer.await;
            connection.abort();
            answered
        });
        let (status, text) = answered.await.map_err(|_| format!("no answer within {} s", PATIENCE.as_secs()))??;
        match status {
            StatusCode::OK => Ok(Answer::Text(text.trim().to_owned())),
            StatusCode::NOT_FOUND => Ok(Answer::Nothing),
            StatusCode::UNAUTHORIZED => Ok(Answer::TokenIsOver),
            other => Err(format!("it answers {other}")),
        }
    }
}
