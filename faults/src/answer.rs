//! An answer, and errors in the wire format of the service that would have sent them.

use hyper::body::Bytes;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE};
use hyper::{HeaderMap, StatusCode};
use serde_json::{Map, Value};

use crate::call::{Call, Service};

/// What goes back to a client.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// An error of AWS, before it is put into a service's words.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Refusal {
    pub(crate) code: String,
    pub(crate) status: u16,
    pub(crate) message: String,
    /// Fields beside code and message: `resourceIds`, `CancellationReasons`.
    pub(crate) more: Map<String, Value>,
}

impl Refusal {
    /// An error of the sender's making: status 400.
    pub(crate) fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), status: 400, message: message.into(), more: Map::new() }
    }

    /// The same with another status.
    pub(crate) fn status(self, status: u16) -> Self {
        Self { status, ..self }
    }

    /// The same with one field more.
    pub(crate) fn with(mut self, field: &str, value: Value) -> Self {
        self.more.insert(field.to_owned(), value);
        self
    }
}

impl Answer {
    /// A success with this JSON, as the JSON services send it.
    pub(crate) fn json(call: &Call, json: &Value) -> Self {
        Self::made(call, 200, json_type(&call.service), json.to_string())
    }

    /// A success with this body in the service's content type.
    pub(crate) fn plain(call: &Call, body: String) -> Self {
        let kind = if call.json.is_null() { "text/xml" } else { json_type(&call.service) };
        Self::made(call, 200, kind, body)
    }

    /// An error, as this service words it.
    pub(crate) fn refused(call: &Call, refusal: &Refusal) -> Self {
        let Refusal { code, status, message, .. } = refusal;
        let fault = if *status < 500 { "Sender" } else { "Receiver" };
        match &call.service {
            Service::S3 => {
                let body = if call.is_head { String::new() } else { s3_error(call, code, message) };
                Self::made(call, *status, "application/xml", body)
            }
            Service::AutoScaling | Service::Sts => {
                let body = format!(
                    "<ErrorResponse xmlns=\"{}\">\n  <Error>\n    <Type>{fault}</Type>\n    <Code>{}</Code>\n    \
                     <Message>{}</Message>\n  </Error>\n  <RequestId>{}</RequestId>\n</ErrorResponse>\n",
                    namespace(&call.service),
                    escaped(code),
                    escaped(message),
                    call.request_id(),
                );
                Self::made(call, *status, "text/xml", body)
            }
            Service::Sqs => {
                let mut answer = Self::made(call, *status, json_type(&call.service), json_error(call, refusal));
                let compatible = format!("{code};{fault}");
                answer.headers.extend(compatible.parse().ok().map(|value| (header("x-amzn-query-error"), value)));
                answer
            }
            Service::DynamoDb | Service::Ecs | Service::Events | Service::Logs | Service::Other(_) => {
                let mut answer = Self::made(call, *status, json_type(&call.service), json_error(call, refusal));
                // REST services read the code here, the others in the body.
                answer.headers.extend(code.parse().ok().map(|value| (header("x-amzn-errortype"), value)));
                answer
            }
        }
    }

    fn made(call: &Call, status: u16, kind: &'static str, body: String) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
        for name in ["x-amzn-requestid", "x-amz-request-id"] {
            headers.extend(call.request_id().parse().ok().map(|value| (header(name), value)));
        }
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, headers, body: Bytes::from(body) }
    }

    /// Whether it reports a success.
    pub(crate) fn is_ok(&self) -> bool {
        self.status.is_success()
    }

    /// The body as JSON; `Null` where it is none.
    pub(crate) fn value(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The same answer with another body.
    pub(crate) fn with_json(mut self, json: &Value) -> Self {
        self.body = Bytes::from(json.to_string());
        // Both speak of the body that it had.
        self.headers.remove(CONTENT_LENGTH);
        self.headers.remove("x-amz-crc32");
        self
    }

    /// The error code in it, whatever the service.
    pub(crate) fn error_code(&self) -> Option<String> {
        if self.status.as_u16() < 400 {
            return None;
        }
        let text = |name: &str| self.headers.get(name).and_then(|value| value.to_str().ok());
        let compatible = text("x-amzn-query-error").and_then(|error| error.split(';').next()).map(str::to_owned);
        let typed = || {
            let json = self.value();
            let name = json.get("__type").or_else(|| json.get("code")).and_then(Value::as_str)?;
            Some(name.rsplit('#').next().unwrap_or(name).to_owned())
        };
        let tagged = || {
            let body = std::str::from_utf8(&self.body).ok()?;
            Some(body.split_once("<Code>")?.1.split_once("</Code>")?.0.to_owned())
        };
        let headed = || text("x-amzn-errortype").and_then(|error| error.split(':').next()).map(str::to_owned);
        let bare = || Some(format!("HTTP {}", self.status.as_u16()));
        compatible.or_else(typed).or_else(tagged).or_else(headed).or_else(bare)
    }
}

fn header(name: &'static str) -> hyper::header::HeaderName {
    hyper::header::HeaderName::from_static(name)
}

fn json_type(service: &Service) -> &'static str {
    match service {
        Service::DynamoDb | Service::Sqs => "application/x-amz-json-1.0",
        Service::Ecs | Service::Events | Service::Logs => "application/x-amz-json-1.1",
        Service::AutoScaling | Service::S3 | Service::Sts => "text/xml",
        Service::Other(_) => "application/json",
    }
}

fn namespace(service: &Service) -> &'static str {
    match service {
        Service::Sts => "https://sts.amazonaws.com/doc/2011-06-15/",
        _ => "http://autoscaling.amazonaws.com/doc/2011-01-01/",
    }
}

fn json_error(call: &Call, refusal: &Refusal) -> String {
    let mut fields = refusal.more.clone();
    fields.insert("__type".to_owned(), Value::from(type_name(&call.service, &refusal.code)));
    // The one error of these services whose model has its message with a capital letter and is read for more.
    let message = if refusal.code == "TransactionCanceledException" { "Message" } else { "message" };
    fields.insert(message.to_owned(), Value::from(refusal.message.as_str()));
    Value::Object(fields).to_string()
}

/// The error's full type. Errors of the common front (signature, rate, form) do not belong to the service's own space.
fn type_name(service: &Service, code: &str) -> String {
    match (service, code) {
        (Service::DynamoDb, "ValidationException") => format!("com.amazon.coral.validate#{code}"),
        (Service::DynamoDb, "ThrottlingException") => format!("com.amazon.coral.availability#{code}"),
        (
            Service::DynamoDb | Service::Sqs,
            "AccessDeniedException" | "ExpiredTokenException" | "UnrecognizedClientException" | "RequestTimeTooSkewed",
        ) => format!("com.amazon.coral.service#{code}"),
        (Service::DynamoDb, _) => format!("com.amazonaws.dynamodb.v20120810#{code}"),
        (Service::Sqs, "InvalidParameterValue") => "com.amazonaws.sqs#InvalidParameterValueException".to_owned(),
        (Service::Sqs, "MissingParameter") => "com.amazonaws.sqs#MissingRequiredParameterException".to_owned(),
        (Service::Sqs, "AWS.SimpleQueueService.NonExistentQueue") => "com.amazonaws.sqs#QueueDoesNotExist".to_owned(),
        (Service::Sqs, _) => format!("com.amazonaws.sqs#{}", code.trim_start_matches("AWS.SimpleQueueService.")),
        _ => code.to_owned(),
    }
}

fn s3_error(call: &Call, code: &str, message: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{}</Code><Message>{}</Message><RequestId>{}\
         </RequestId><HostId>{}</HostId></Error>",
        escaped(code),
        escaped(message),
        call.request_id(),
        call.request_id(),
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::tests::call;
    use serde_json::json;

    fn shown(service: Service, refusal: &Refusal) -> String {
        let answer = Answer::refused(&call(service, "Any", json!({})), refusal);
        let mut lines = vec![answer.status.to_string()];
        lines.extend(answer.headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())));
        format!("{}\n\n{}", lines.join("\n"), std::str::from_utf8(&answer.body).unwrap())
    }

    #[test]
    fn every_service_words_its_errors_as_aws_does() {
        let refusal = Refusal::new("ThrottlingException", "Rate <exceeded> & more");
        insta::assert_snapshot!("dynamodb_error", shown(Service::DynamoDb, &refusal));
        insta::assert_snapshot!("ecs_error", shown(Service::Ecs, &refusal));
        insta::assert_snapshot!("autoscaling_error", shown(Service::AutoScaling, &refusal));
        insta::assert_snapshot!("s3_error", shown(Service::S3, &refusal.status(503)));
        let invalid = Refusal::new("AWS.SimpleQueueService.MessageNotInflight", "The message is not in flight.");
        insta::assert_snapshot!("sqs_error", shown(Service::Sqs, &invalid));
    }

    #[test]
    fn an_error_code_is_read_back_from_what_every_service_sends() {
        for service in [Service::DynamoDb, Service::Sqs, Service::Ecs, Service::AutoScaling, Service::S3, Service::Sts]
        {
            let refused = Answer::refused(&call(service, "Any", json!({})), &Refusal::new("SomeError", "x"));
            assert_eq!(refused.error_code().as_deref(), Some("SomeError"));
        }
        assert_eq!(Answer::json(&call(Service::Sqs, "Any", json!({})), &json!({})).error_code(), None);
    }

    #[test]
    fn the_answer_to_a_head_request_has_no_body() {
        let head = Call { is_head: true, ..call(Service::S3, "HeadObject", json!({})) };
        assert!(Answer::refused(&head, &Refusal::new("NoSuchKey", "x").status(404)).body.is_empty());
    }

    #[test]
    fn a_rewritten_body_takes_its_length_and_checksum_along() {
        let mut answer = Answer::json(&call(Service::DynamoDb, "Query", json!({})), &json!({"Count": 1}));
        answer.headers.insert("x-amz-crc32", hyper::header::HeaderValue::from_static("1"));
        let answer = answer.with_json(&json!({"Count": 0}));
        assert_eq!(answer.value(), json!({"Count": 0}));
        assert!(!answer.headers.contains_key("x-amz-crc32"));
    }
}
