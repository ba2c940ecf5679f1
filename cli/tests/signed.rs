//! Requests to a yard behind API Gateway, judged by a reading of Signature Version 4 of its own (AWS IAM User Guide, "Create
//! a signed AWS API request"), and what is told when the gateway answers in the yard's place.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};

use sha2::{Digest, Sha256};

const KEY: &str = "AKIDEXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const TOKEN: &str = "session-token-of-the-tests";

/// A request as it came over the wire.
#[derive(Clone, Debug)]
struct Request {
    method: String,
    path: String,
    query: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Request {
    fn read(from: impl Read) -> Self {
        let mut from = BufReader::new(from);
        let mut line = || {
            let mut line = String::new();
            from.read_line(&mut line).unwrap();
            line.trim_end().to_owned()
        };
        let first = line();
        let [method, target, _] = first.split(' ').collect::<Vec<_>>()[..] else { panic!("{first}") };
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let (method, path, query) = (method.to_owned(), path.to_owned(), query.to_owned());
        let mut headers = BTreeMap::new();
        loop {
            let header = line();
            let Some((name, value)) = header.split_once(':') else { break };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        from.read_exact(&mut body).unwrap();
        Self { method, path, query, headers, body }
    }

    /// Whether it is signed as the specification has it, with the tests' secret, for this region.
    fn is_signed_for(&self, region: &str) -> bool {
        let Some(said) = self.headers.get("authorization") else { return false };
        let Some(said) = said.strip_prefix("AWS4-HMAC-SHA256 ") else { return false };
        let parts: BTreeMap<_, _> = said.split(", ").filter_map(|part| part.split_once('=')).collect();
        let date = &self.headers["x-amz-date"];
        let scope = format!("{}/{region}/execute-api/aws4_request", &date[..8]);
        if parts["Credential"] != format!("{KEY}/{scope}") {
            return false;
        }
        let mut query: Vec<&str> = self.query.split('&').filter(|pair| !pair.is_empty()).collect();
        query.sort_unstable();
        let signed: String =
            parts["SignedHeaders"].split(';').map(|name| format!("{name}:{}\n", self.headers[name])).collect();
        // The path is quoted once more than it came: for all services but S3.
        let (method, path) = (&self.method, self.path.replace('%', "%25"));
        let body = hex(&Sha256::digest(&self.body));
        let canonical = format!("{method}\n{path}\n{}\n{signed}\n{}\n{body}", query.join("&"), parts["SignedHeaders"]);
        let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hex(&Sha256::digest(canonical)));
        let mut key = format!("AWS4{SECRET}").into_bytes();
        for part in [&date[..8], region, "execute-api", "aws4_request"] {
            key = hmac(&key, part.as_bytes());
        }
        hex(&hmac(&key, text.as_bytes())) == parts["Signature"]
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// HMAC-SHA-256 (RFC 2104), of a key that is no longer than a block.
fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let pad = |with: u8| -> Vec<u8> { (0..64).map(|n| key.get(n).copied().unwrap_or_default() ^ with).collect() };
    let inner = Sha256::digest([pad(0x36), text.to_vec()].concat());
    Sha256::digest([pad(0x5c), inner.to_vec()].concat()).to_vec()
}

/// Runs the program against a server that answers each request so, and answers what it was asked and how it ended.
fn ask(args: &[&str], set: &[(&str, &str)], answer: (u16, &str)) -> (Vec<Request>, Output) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/stage", listener.local_addr().unwrap());
    let (status, body) = (answer.0, answer.1.to_owned());
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let request = Request::read(stream.try_clone().unwrap());
            let head = format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\nconnection: close\r\n");
            write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len()).unwrap();
            tell.send(request).unwrap();
        }
    });
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard"));
    command.env_clear().env("HOME", home.path()).env("SWITCHYARD_URL", url).envs(set.iter().copied());
    let output = command.args(args).stdin(Stdio::null()).output().unwrap();
    for said in [&output.stdout, &output.stderr] {
        let said = String::from_utf8_lossy(said);
        assert!(!said.contains(SECRET) && !said.contains(TOKEN), "a secret is told: {said}");
    }
    (told.try_iter().collect(), output)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).trim().to_owned()
}

const SIGNED: [(&str, &str); 4] = [
    ("AWS_ACCESS_KEY_ID", KEY),
    ("AWS_SECRET_ACCESS_KEY", SECRET),
    ("AWS_SESSION_TOKEN", TOKEN),
    ("SWITCHYARD_SIGN", "eu-central-1"),
];
const FORBIDDEN: (u16, &str) = (403, r#"{"message":"Forbidden"}"#);

#[test]
fn queries_bodies_keys_and_strange_ids_are_signed_right() {
    let commands: [&[&str]; 4] = [
        &["jobs", "--label", "team=a b/ü+&", "--state", "running", "--since", "2026-01-31T12:00:00Z"],
        &["submit", "sh", r#"{"script":"echo ü"}"#, "--key", "a key", "--wait"],
        &["job", "no id/at all%ü"],
        &["capabilities"],
    ];
    for args in commands {
        let (requests, output) = ask(args, &SIGNED, FORBIDDEN);
        assert_eq!(output.status.code(), Some(6), "{output:?}");
        let [request] = &requests[..] else { panic!("{requests:?}") };
        assert!(request.is_signed_for("eu-central-1"), "{request:?}");
        assert_eq!(request.headers["x-amz-security-token"], TOKEN);
        assert!(!request.is_signed_for("eu-west-1"));
        let mut other = request.clone();
        other.body.push(b' ');
        assert!(!other.is_signed_for("eu-central-1"), "the body counts");
        let other = Request { path: format!("{}x", request.path), ..request.clone() };
        assert!(!other.is_signed_for("eu-central-1"), "the path counts");
    }
}

#[test]
fn an_answer_is_waited_for_no_longer_than_a_gateway_waits() {
    let (requests, _) = ask(&["submit", "sh", "--wait"], &SIGNED, FORBIDDEN);
    assert_eq!(requests[0].query, "wait=25");
}

#[test]
fn a_token_that_is_set_is_shown_and_nothing_is_signed() {
    let set = [&SIGNED[..], &[("SWITCHYARD_TOKEN", "yard-token")]].concat();
    let (requests, _) = ask(&["jobs"], &set, FORBIDDEN);
    assert_eq!(requests[0].headers["authorization"], "Bearer yard-token");
    assert!(!requests[0].headers.contains_key("x-amz-date"));
    // Neither asked for, nor an API's own host: as before.
    let (requests, _) = ask(&["jobs"], &SIGNED[..3], FORBIDDEN);
    assert!(!requests[0].headers.contains_key("authorization"), "{requests:?}");
}

#[test]
fn without_credentials_nothing_is_asked() {
    let (requests, output) = ask(&["jobs"], &SIGNED[1..], FORBIDDEN);
    assert_eq!((requests.len(), output.status.code()), (0, Some(2)), "{output:?}");
    assert!(said(&output).contains("aws configure export-credentials --format env"), "{output:?}");
}

#[test]
fn what_a_gateway_answers_in_the_yard_s_place_is_told_as_its_own() {
    for (answer, code, word) in [
        (FORBIDDEN, 6, "Forbidden; are the credentials"),
        ((401, r#"{"message":"Unauthorized"}"#), 6, "SWITCHYARD_TOKEN"),
        ((404, r#"{"message":"Not Found"}"#), 5, "is the URL complete"),
        ((413, r#"{"message":"Request Too Long"}"#), 2, "10 MB"),
        ((429, r#"{"message":"Too Many Requests"}"#), 7, "try again later"),
        ((503, r#"{"message":"Service Unavailable"}"#), 7, "try again"),
        ((502, "<html>"), 7, "answered what no yard answers"),
    ] {
        let (_, output) = ask(&["jobs"], &SIGNED, answer);
        assert_eq!(output.status.code(), Some(code), "{answer:?}: {output:?}");
        assert!(said(&output).contains(word) && said(&output).lines().count() == 1, "{answer:?}: {output:?}");
    }
}
