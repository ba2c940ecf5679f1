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

/// What is said of an interruption. That anything is said means that the machine goes, whatever it may be called one day.
fn interruption_of(text: &str, now: Timestamp) -> (Action, Timestamp) {
    match serde_json::from_str::<InstanceAction>(text) {
        Ok(told) => match told.action.as_str() {
            "hibernate" => (Action::Hibernate, told.time),
            "stop" => (Action::Stop, told.time),
            _ => (Action::Terminate, told.time),
        },
        Err(_) => (Action::Terminate, now),
    }
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

    /// What the machine says of its end, as far as it answers: a question that is not answered takes nothing from the
    /// others. And the first failure, if there was any. `now` is when an interruption is whose moment cannot be read.
    pub async fn said(&self, now: Timestamp) -> (Said, Option<PortError>) {
        let mut failed = None;
        let mut keep = |asked: Result<Option<String>, PortError>| match asked {
            Ok(said) => said,
            Err(error) => {
                failed.get_or_insert(error);
                None
            }
        };
        let interruption = keep(self.get("/latest/meta-data/spot/instance-action").await);
        let at_risk = keep(self.get("/latest/meta-data/events/recommendations/rebalance").await).is_some();
        let target = keep(self.get("/latest/meta-data/autoscaling/target-lifecycle-state").await);
        let interruption = interruption.map(|text| interruption_of(&text, now));
        (Said { interruption, at_risk, target }, failed)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interruption_is_one_whatever_it_is_called_and_whether_or_not_its_moment_can_be_read() {
        let (now, at): (Timestamp, Timestamp) =
            ("2026-11-27T12:00:00Z".parse().unwrap(), "2026-11-27T12:02:00Z".parse().unwrap());
        for (text, said) in [
            (r#"{"action": "terminate", "time": "2026-11-27T12:02:00Z"}"#, (Action::Terminate, at)),
            (r#"{"action": "stop", "time": "2026-11-27T12:02:00Z"}"#, (Action::Stop, at)),
            (r#"{"action": "hibernate", "time": "2026-11-27T12:02:00Z"}"#, (Action::Hibernate, at)),
            (r#"{"action": "recycle", "time": "2026-11-27T12:02:00Z"}"#, (Action::Terminate, at)),
            (r#"{"action": "terminate"}"#, (Action::Terminate, now)),
            ("soon", (Action::Terminate, now)),
        ] {
            assert_eq!(interruption_of(text, now), said, "{text}");
        }
    }

    #[test]
    fn an_address_is_a_host_perhaps_with_a_port() {
        let host = |endpoint| Metadata::at(endpoint).map(|metadata| metadata.host);
        assert_eq!(host(LINK_LOCAL).as_deref(), Ok("169.254.169.254:80"));
        assert_eq!(host("http://127.0.0.1:1338/").as_deref(), Ok("127.0.0.1:1338"));
        assert_eq!(host("http://[fd00:ec2::254]").as_deref(), Ok("[fd00:ec2::254]:80"));
        assert_eq!(host("http://[fd00:ec2::254]:81").as_deref(), Ok("[fd00:ec2::254]:81"));
        for wrong in ["", "http://", "https://169.254.169.254", "169.254.169.254", "http://a/b"] {
            assert!(host(wrong).is_err(), "{wrong}");
        }
    }
}
