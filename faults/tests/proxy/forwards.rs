//! What passes, and how it is written down.

use serde_json::json;
use switchyard_faults::{Done, Proxy, Service, Settings};

use crate::emulator::{Client, Emulator, Got};

fn plain(proxy: &Proxy) -> Client {
    Client::new(proxy, "worker-1")
}

#[test]
fn a_request_passes_as_it_was_sent() {
    let emulator = Emulator::start(|_| (200, "the answer".to_owned()));
    let proxy = emulator.proxy();
    let headers = [("x-amz-content-sha256", "abc"), ("host", "bucket.s3.amazonaws.com"), ("x-odd", "a,  b")];
    let path = "/bucket/a%20key%2Fb?x-id=PutObject&empty&tag=%C3%BC";
    let got = plain(&proxy).send("PUT", &Service::S3, path, &headers, "the body\r\n\0").unwrap();
    assert_eq!((got.status, got.body.as_str()), (200, "the answer"));
    let seen = emulator.seen().remove(0);
    assert_eq!((seen.method.as_str(), seen.uri.to_string().as_str()), ("PUT", path));
    assert_eq!(seen.body.as_ref(), b"the body\r\n\0");
    for (name, value) in headers {
        assert_eq!(seen.headers[name], value);
    }
    assert!(seen.headers["authorization"].to_str().unwrap().contains("Credential=worker-1/20260102/eu-west-1/s3/"));
}

#[test]
fn an_error_of_the_service_passes_too() {
    let emulator = Emulator::start(|_| (400, r#"{"__type":"x#ResourceNotFoundException"}"#.to_owned()));
    let proxy = emulator.proxy();
    let got = plain(&proxy).json(Service::DynamoDb, "DescribeTable", &json!({})).unwrap();
    assert_eq!((got.status, got.code().as_str()), (400, "ResourceNotFoundException"));
    assert_eq!(proxy.records().all()[0].error.as_deref(), Some("ResourceNotFoundException"));
}

#[test]
fn the_answer_to_a_head_keeps_its_length() {
    let emulator = Emulator::start(|_| (200, "five!".to_owned()));
    let proxy = emulator.proxy();
    let Got { headers, body, .. } = plain(&proxy).send("HEAD", &Service::S3, "/bucket/key", &[], "").unwrap();
    assert_eq!((headers["content-length"].to_str().unwrap(), body.as_str()), ("5", ""));
    assert_eq!(proxy.records().all()[0].operation, "HeadObject");
}

#[test]
fn each_request_is_written_down_with_its_price() {
    let emulator = Emulator::empty();
    let proxy = emulator.proxy();
    let mark = proxy.records().mark();
    let body = json!({"QueueUrl": "http://x/0/q", "MessageBody": "x"});
    plain(&proxy).json(Service::Sqs, "SendMessage", &body).unwrap();
    Client::new(&proxy, "other").json(Service::Ecs, "RunTask", &json!({})).unwrap();
    let records = proxy.records().since(mark);
    let first = &records[0];
    assert_eq!((first.client.as_str(), &first.service, first.operation.as_str()), {
        ("worker-1", &Service::Sqs, "SendMessage")
    });
    assert_eq!((first.ordinal, first.status, first.done, first.forwarded), (1, Some(200), Done::Forwarded, true));
    assert_eq!((first.bytes_in, first.bytes_out, first.nanodollars), (body.to_string().len() as u64, 2, 400));
    let tally = proxy.records().tally();
    assert_eq!((tally.total().requests, tally.of_client("other").total().requests), (2, 1));
}

#[test]
fn requests_go_where_their_service_is() {
    let (first, second) = (Emulator::empty(), Emulator::empty());
    let settings = Settings::new(&first.url).upstream_for(Service::Ecs, &second.url);
    let proxy = Proxy::start(settings).unwrap();
    plain(&proxy).json(Service::Sqs, "ListQueues", &json!({})).unwrap();
    plain(&proxy).json(Service::Ecs, "ListTasks", &json!({})).unwrap();
    assert_eq!((first.operations(), second.operations()), (vec!["ListQueues".into()], vec!["ListTasks".into()]));
}

#[test]
fn a_service_that_is_away_is_a_bad_gateway() {
    let url = Emulator::empty().url.clone();
    let proxy = Proxy::start(Settings::new(url)).unwrap();
    let got = plain(&proxy).json(Service::Sqs, "ListQueues", &json!({})).unwrap();
    assert_eq!(got.status, 502);
    assert_eq!(proxy.records().all()[0].done, Done::Unreachable);
}

#[test]
fn a_body_that_is_too_large_is_refused_and_not_forwarded() {
    let emulator = Emulator::empty();
    let proxy = emulator.proxy();
    let put = |bytes: usize| plain(&proxy).send("PUT", &Service::S3, "/b/k", &[], &"x".repeat(bytes)).unwrap().status;
    assert_eq!([put(16 << 20), put((16 << 20) + 1)], [200, 413]);
    assert_eq!(emulator.seen().len(), 1);
}

#[test]
fn an_upstream_that_is_no_plain_address_is_refused_at_the_start() {
    for url in ["https://127.0.0.1:1", "nonsense", "http://"] {
        assert!(Proxy::start(Settings::new(url)).is_err(), "{url} was taken");
    }
}

#[test]
fn the_proxy_tells_and_forgets_its_records_over_http() {
    let emulator = Emulator::empty();
    let proxy = emulator.proxy();
    plain(&proxy).json(Service::Sqs, "ListQueues", &json!({})).unwrap();
    let admin = |method: &str, path: &str| plain(&proxy).send(method, &Service::Sqs, path, &[], "").unwrap();
    let summary = admin("GET", "/_faults/records").json();
    assert_eq!(summary["operations"][0]["operation"], "ListQueues");
    assert_eq!(summary["total"]["nanodollars"], 400);
    assert_eq!(admin("POST", "/_faults/reset").status, 204);
    assert_eq!(admin("GET", "/_faults/records").json()["total"]["requests"], 0);
    assert_eq!(admin("GET", "/_faults/nothing").status, 404);
    assert_eq!(emulator.seen().len(), 1);
}

#[test]
fn a_dropped_proxy_listens_no_more() {
    let emulator = Emulator::empty();
    let proxy = emulator.proxy();
    let client = plain(&proxy);
    drop(proxy);
    crate::emulator::eventually("the port is closed", || client.json(Service::Sqs, "ListQueues", &json!({})).is_err());
}
