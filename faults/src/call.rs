//! What a request is: who sends it, to which service, and which operation.
//!
//! Nothing is asked of the sender but what it signs anyway: the access key id is the client's name, the credential
//! scope names the service.

use std::collections::BTreeMap;
use std::fmt;

use hyper::body::Bytes;
use hyper::{HeaderMap, Method, Uri};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use url::form_urlencoded;

/// A service of AWS that the proxy knows by its wire format; of any other it forwards, counts and fails requests too.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    /// Auto Scaling: Query protocol.
    AutoScaling,
    /// DynamoDB: JSON 1.0.
    DynamoDb,
    /// Elastic Container Service: JSON 1.1.
    Ecs,
    /// EventBridge: JSON 1.1.
    Events,
    /// CloudWatch Logs: JSON 1.1.
    Logs,
    /// Simple Storage Service: REST with XML.
    S3,
    /// Simple Queue Service: JSON 1.0 with the error codes of its former Query protocol.
    Sqs,
    /// Security Token Service: Query protocol.
    Sts,
    /// Any other, by the name in its credential scope.
    Other(String),
}

impl Service {
    /// The service of a credential scope's name: `dynamodb`, `sqs`, `events` and so on.
    pub fn named(name: &str) -> Self {
        match name {
            "autoscaling" => Self::AutoScaling,
            "dynamodb" => Self::DynamoDb,
            "ecs" => Self::Ecs,
            "events" => Self::Events,
            "logs" => Self::Logs,
            "s3" => Self::S3,
            "sqs" => Self::Sqs,
            "sts" => Self::Sts,
            other => Self::Other(other.to_owned()),
        }
    }

    /// Its name in a credential scope.
    pub fn as_str(&self) -> &str {
        match self {
            Self::AutoScaling => "autoscaling",
            Self::DynamoDb => "dynamodb",
            Self::Ecs => "ecs",
            Self::Events => "events",
            Self::Logs => "logs",
            Self::S3 => "s3",
            Self::Sqs => "sqs",
            Self::Sts => "sts",
            Self::Other(name) => name,
        }
    }

    /// What stands before the dot of `X-Amz-Target`, for the services that the rules ask questions of.
    pub(crate) fn target(&self) -> Option<&'static str> {
        match self {
            Self::DynamoDb => Some("DynamoDB_20120810"),
            Self::Ecs => Some("AmazonEC2ContainerServiceV20141113"),
            Self::Events => Some("AWSEvents"),
            Self::Logs => Some("Logs_20140328"),
            Self::Sqs => Some("AmazonSQS"),
            Self::AutoScaling | Self::S3 | Self::Sts | Self::Other(_) => None,
        }
    }

    /// The service of an unsigned request, by its target or by its API version.
    fn guessed(target: Option<&str>, form: &BTreeMap<String, String>) -> Self {
        let json = [Self::DynamoDb, Self::Ecs, Self::Events, Self::Logs, Self::Sqs];
        let prefix = target.and_then(|target| target.split_once('.')).map(|(prefix, _)| prefix);
        if let Some(service) = json.into_iter().find(|service| prefix.is_some() && service.target() == prefix) {
            return service;
        }
        match form.get("Version").map(String::as_str) {
            Some("2011-01-01") => Self::AutoScaling,
            Some("2011-06-15") => Self::Sts,
            _ => Self::Other("unknown".to_owned()),
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One request, read.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// Its place among all requests of this proxy, from 1.
    pub(crate) ordinal: u64,
    /// The access key id that signed it.
    pub(crate) client: String,
    pub(crate) service: Service,
    pub(crate) operation: String,
    /// Whether it may be answered with headers only.
    pub(crate) is_head: bool,
    pub(crate) body: Bytes,
    /// The body, where it is JSON.
    pub(crate) json: Value,
    /// The body's fields, where it speaks the Query protocol.
    pub(crate) form: BTreeMap<String, String>,
}

impl Call {
    /// Whether it may write on a condition: DynamoDB looks and writes as one step, and moto's threads do not.
    pub(crate) fn is_conditional_write(&self) -> bool {
        self.service == Service::DynamoDb
            && matches!(&*self.operation, "PutItem" | "UpdateItem" | "DeleteItem" | "TransactWriteItems")
    }

    /// Reads a request.
    pub(crate) fn read(ordinal: u64, method: &Method, uri: &Uri, headers: &HeaderMap, body: Bytes) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let query: BTreeMap<String, String> =
            form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
        let is_form = text("content-type").is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded"));
        let form: BTreeMap<String, String> =
            if is_form { form_urlencoded::parse(&body).into_owned().collect() } else { BTreeMap::new() };
        let target = text("x-amz-target");
        let presigned = query.get("X-Amz-Credential").map(String::as_str);
        let (client, scope) = credential(text("authorization")).or_else(|| scope(presigned?)).unzip();
        let service = scope.map_or_else(|| Service::guessed(target, &form), |name| Service::named(&name));
        let operation = match (target, form.get("Action"), &service) {
            (Some(target), _, _) => target.rsplit('.').next().unwrap_or(target).to_owned(),
            (None, Some(action), _) => action.clone(),
            (None, None, Service::S3) => s3_operation(method, uri.path(), &query, headers),
            (None, None, _) => format!("{method} {}", uri.path()),
        };
        let json = if target.is_some() { serde_json::from_slice(&body).unwrap_or_default() } else { Value::Null };
        let client = client.unwrap_or_else(|| "anonymous".to_owned());
        Self { ordinal, client, service, operation, is_head: *method == Method::HEAD, body, json, form }
    }

    /// The same request with another JSON body.
    pub(crate) fn with_json(&self, json: Value) -> Self {
        Self { body: Bytes::from(json.to_string()), json, ..self.clone() }
    }

    /// A string field of the JSON body.
    pub(crate) fn text(&self, field: &str) -> Option<&str> {
        self.json.get(field).and_then(Value::as_str)
    }

    /// Its JSON, or the fields of its form; `Null` for a service that speaks neither.
    pub(crate) fn parameters(&self) -> Value {
        if self.form.is_empty() { self.json.clone() } else { json!(self.form) }
    }

    /// An id for an answer that is made here: it leads back to the record.
    pub(crate) fn request_id(&self) -> String {
        format!("fa017000-0000-4000-8000-{:012x}", self.ordinal)
    }
}

/// A digest of JSON that does not depend on the order of its fields: the SDK's maps have none.
pub(crate) fn fingerprint(value: &Value) -> [u8; 32] {
    fn feed(digest: &mut Sha256, value: &Value) {
        match value {
            Value::Object(fields) => {
                let sorted: BTreeMap<&String, &Value> = fields.iter().collect();
                digest.update(b"{");
                for (name, value) in sorted {
                    feed(digest, &Value::from(name.as_str()));
                    feed(digest, value);
                }
                digest.update(b"}");
            }
            Value::Array(items) => {
                digest.update(b"[");
                items.iter().for_each(|item| feed(digest, item));
                digest.update(b"]");
            }
            // As JSON, so that where one ends and the next begins is plain.
            plain => digest.update(format!("{plain},")),
        }
    }
    let mut digest = Sha256::new();
    feed(&mut digest, value);
    digest.finalize().into()
}

/// Access key id and service out of an `Authorization` header.
fn credential(header: Option<&str>) -> Option<(String, String)> {
    let (_, rest) = header?.split_once("Credential=")?;
    scope(rest.split([',', ' ']).next()?)
}

/// Access key id and service out of `KEY/date/region/service/aws4_request`.
fn scope(credential: &str) -> Option<(String, String)> {
    // From the right, since nobody promised that a key has no slash.
    let mut parts = credential.rsplitn(5, '/');
    let (_, service, _, _) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    Some((parts.next()?.to_owned(), service.to_owned()))
}

/// The operation of a path-style S3 request: the SDK names it in `x-id`, others are told by their shape.
fn s3_operation(method: &Method, path: &str, query: &BTreeMap<String, String>, headers: &HeaderMap) -> String {
    if let Some(named) = query.get("x-id") {
        return named.clone();
    }
    let is_object = path.trim_start_matches('/').split_once('/').is_some_and(|(_, key)| !key.is_empty());
    let is_service = path.trim_matches('/').is_empty();
    let has = |name: &str| query.contains_key(name);
    let known = match (method.as_str(), is_object) {
        ("GET", false) if is_service => "ListBuckets",
        ("GET", false) if query.get("list-type").is_some_and(|kind| kind == "2") => "ListObjectsV2",
        ("POST", false) if has("delete") => "DeleteObjects",
        ("PUT", true) if has("partNumber") => "UploadPart",
        ("PUT", true) if headers.contains_key("x-amz-copy-source") => "CopyObject",
        ("POST", true) if has("uploads") => "CreateMultipartUpload",
        ("POST", true) if has("uploadId") => "CompleteMultipartUpload",
        ("DELETE", true) if has("uploadId") => "AbortMultipartUpload",
        _ => "",
    };
    if !known.is_empty() {
        return known.to_owned();
    }
    // A sub-resource is a parameter without a value: `?lifecycle`, `?tagging`.
    let part = query.iter().find(|(_, value)| value.is_empty()).map(|(name, _)| capitalised(name));
    match (method.as_str(), is_object, part) {
        ("PUT", false, None) => "CreateBucket".to_owned(),
        ("GET", false, None) => "ListObjects".to_owned(),
        (verb, is_object, part) => {
            let thing = if is_object { "Object" } else { "Bucket" };
            format!("{}{thing}{}", capitalised(&verb.to_lowercase()), part.unwrap_or_default())
        }
    }
}

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A signed JSON request of a client named `tester`.
    pub(crate) fn call(service: Service, operation: &str, json: Value) -> Call {
        let none = BTreeMap::new();
        let body = Bytes::from(json.to_string());
        let (client, operation) = ("tester".to_owned(), operation.to_owned());
        Call { ordinal: 7, client, service, operation, is_head: false, body, json, form: none }
    }

    fn read(method: Method, uri: &str, headers: &[(&'static str, &str)], body: &str) -> Call {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        Call::read(1, &method, &uri.parse().unwrap(), &map, Bytes::from(body.to_owned()))
    }

    fn signed(service: &str) -> String {
        format!("AWS4-HMAC-SHA256 Credential=worker-1/20260102/eu-west-1/{service}/aws4_request, SignedHeaders=host")
    }

    #[test]
    fn the_client_is_the_access_key_id_and_the_target_names_the_operation() {
        let headers = [("authorization", &*signed("dynamodb")), ("x-amz-target", "DynamoDB_20120810.PutItem")];
        let call = read(Method::POST, "/", &headers, r#"{"TableName":"t"}"#);
        assert_eq!((call.client.as_str(), call.service, call.operation.as_str()), {
            ("worker-1", Service::DynamoDb, "PutItem")
        });
        assert_eq!(call.json, json!({"TableName": "t"}));
    }

    #[test]
    fn the_query_protocol_names_its_operation_in_the_form() {
        let headers =
            [("authorization", &*signed("autoscaling")), ("content-type", "application/x-www-form-urlencoded")];
        let call = read(Method::POST, "/", &headers, "Action=SetDesiredCapacity&Version=2011-01-01&DesiredCapacity=3");
        assert_eq!((call.service, call.operation.as_str()), (Service::AutoScaling, "SetDesiredCapacity"));
        assert_eq!(call.form["DesiredCapacity"], "3");
    }

    #[test]
    fn an_unsigned_request_is_anonymous_and_known_by_its_target_or_version() {
        let queue = read(Method::POST, "/", &[("x-amz-target", "AmazonSQS.SendMessage")], "{}");
        assert_eq!((queue.client.as_str(), queue.service), ("anonymous", Service::Sqs));
        let form = [("content-type", "application/x-www-form-urlencoded")];
        let group = read(Method::POST, "/", &form, "Action=DescribePolicies&Version=2011-01-01");
        assert_eq!(group.service, Service::AutoScaling);
        assert_eq!(read(Method::GET, "/x", &[], "").service, Service::Other("unknown".to_owned()));
    }

    #[test]
    fn a_presigned_url_carries_its_credential_in_the_query() {
        let call = read(Method::GET, "/b/k?X-Amz-Credential=w%2F20260102%2Feu-west-1%2Fs3%2Faws4_request", &[], "");
        assert_eq!((call.client.as_str(), call.operation.as_str()), ("w", "GetObject"));
    }

    #[test]
    fn a_fingerprint_ignores_the_order_of_fields_and_nothing_else() {
        let of = |text: &str| fingerprint(&serde_json::from_str(text).unwrap());
        assert_eq!(of(r#"{"a": 1, "b": [2]}"#), of(r#"{"b": [2], "a": 1}"#));
        assert_ne!(of(r#"{"a": [1, 2]}"#), of(r#"{"a": [2, 1]}"#));
        assert_ne!(of(r#"["a", "b"]"#), of(r#"["ab"]"#));
        assert_ne!(of("[[1], 2]"), of("[[1, 2]]"));
    }

    #[test]
    fn s3_operations_are_told_by_their_shape() {
        let signed = signed("s3");
        let of = |method: Method, uri: &str| read(method, uri, &[("authorization", &signed)], "").operation;
        assert_eq!(of(Method::PUT, "/b/k/l"), "PutObject");
        assert_eq!(of(Method::GET, "/b/k?x-id=GetObject"), "GetObject");
        assert_eq!(of(Method::HEAD, "/b/k"), "HeadObject");
        assert_eq!(of(Method::DELETE, "/b/k"), "DeleteObject");
        assert_eq!(of(Method::POST, "/b?delete"), "DeleteObjects");
        assert_eq!(of(Method::GET, "/b?list-type=2&prefix="), "ListObjectsV2");
        assert_eq!(of(Method::GET, "/b?prefix=x"), "ListObjects");
        assert_eq!(of(Method::PUT, "/b"), "CreateBucket");
        assert_eq!(of(Method::PUT, "/b/"), "CreateBucket");
        assert_eq!(of(Method::HEAD, "/b"), "HeadBucket");
        assert_eq!(of(Method::GET, "/"), "ListBuckets");
        assert_eq!(of(Method::PUT, "/b?lifecycle"), "PutBucketLifecycle");
        assert_eq!(of(Method::POST, "/b/k?uploads"), "CreateMultipartUpload");
        assert_eq!(of(Method::PUT, "/b/k?partNumber=1&uploadId=u"), "UploadPart");
    }
}
