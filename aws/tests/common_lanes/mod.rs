//! A home whose lanes are SQS's and everything else is in memory; between it and an emulator somebody who counts calls
//! and makes some of them fail.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use switchyard_aws::clients::{Clients, Settings};
use switchyard_aws::lanes_sqs::SqsLanes;
use switchyard_aws::sightings::Sightings;
use switchyard_core::catalog::Catalog;
use switchyard_core::contract::UNMAPPED_ROOM;
use switchyard_core::dispatch;
use switchyard_core::intake::{self, Sender, Taking};
use switchyard_core::job::{Job, Tier};
use switchyard_core::memory::Memory;
use switchyard_core::policies::Situation;
use switchyard_core::ports::{Ambient, Bell, Body, Lane, Lanes, Message, NewJob, PortError, Yard};
use switchyard_core::route::{Limits, PoolName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Time as it is, and chance enough for jitter and ids.
pub(crate) struct Real;

#[async_trait]
impl Ambient for Real {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn random(&self) -> [u8; 32] {
        static DRAWN: AtomicU64 = AtomicU64::new(0);
        let drawn = DRAWN.fetch_add(1, Ordering::Relaxed);
        Sha256::digest(format!("{} {} {drawn}", Timestamp::now().as_nanosecond(), std::process::id())).into()
    }

    async fn pause(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

/// What becomes of a call.
pub(crate) enum Fault {
    /// It is not made, and answered with this error.
    Error(u16, &'static str),
    /// It is made without these entries, and they are answered as failed: code, and whether it is the sender's fault.
    Entries(Vec<(usize, &'static str, bool)>),
}

type Calls = Vec<(String, Value)>;

/// Stands between the lanes and the emulator.
#[derive(Clone, Default)]
pub(crate) struct Between {
    calls: Arc<Mutex<Calls>>,
    faults: Arc<Mutex<BTreeMap<&'static str, VecDeque<Fault>>>>,
}

impl Between {
    /// The next call of that operation meets this.
    pub(crate) fn next(&self, operation: &'static str, fault: Fault) {
        self.faults.lock().unwrap().entry(operation).or_default().push_back(fault);
    }

    /// The calls of that operation so far.
    pub(crate) fn calls(&self, operation: &str) -> Vec<Value> {
        let calls = self.calls.lock().unwrap();
        calls.iter().filter(|(name, _)| name == operation).map(|(_, body)| body.clone()).collect()
    }

    async fn start(&self, upstream: String) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let between = self.clone();
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let (between, upstream) = (between.clone(), upstream.clone());
                tokio::spawn(async move { between.pass(client, &upstream).await });
            }
        });
        format!("http://{address}")
    }

    async fn pass(&self, mut client: TcpStream, upstream: &str) -> Option<()> {
        let (head, body) = message(&mut client).await?;
        let operation = head.lines().find_map(|line| line.strip_prefix("x-amz-target: AmazonSQS."))?.to_owned();
        let mut body: Value = serde_json::from_slice(&body).ok()?;
        self.calls.lock().unwrap().push((operation.clone(), body.clone()));
        let fault = self.faults.lock().unwrap().get_mut(operation.as_str()).and_then(VecDeque::pop_front);
        let mut failed = Vec::new();
        match fault {
            Some(Fault::Error(status, code)) => {
                let body = json!({ "__type": format!("com.amazonaws.sqs#{code}"), "message": "by order" }).to_string();
                return answer(&mut client, status, &body).await;
            }
            Some(Fault::Entries(entries)) => {
                let all = body["Entries"].as_array_mut()?;
                for (n, code, sender_fault) in entries.iter().rev() {
                    let id = all.remove(*n)["Id"].clone();
                    failed.push(json!({ "Id": id, "Code": code, "SenderFault": sender_fault, "Message": "by order" }));
                }
            }
            None => {}
        }
        let body = body.to_string();
        let mut server = TcpStream::connect(upstream.trim_start_matches("http://")).await.ok()?;
        let mut sent = String::from("POST / HTTP/1.1\r\n");
        let skipped = ["content-length:", "connection:", "host:"];
        for line in head.lines().skip(1).filter(|line| !line.is_empty()) {
            if !skipped.iter().any(|name| line.starts_with(name)) {
                sent.push_str(&format!("{line}\r\n"));
            }
        }
        let host = upstream.trim_start_matches("http://");
        sent.push_str(&format!("host: {host}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len()));
        server.write_all(sent.as_bytes()).await.ok()?;
        let (head, body) = message(&mut server).await?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let mut body: Value = serde_json::from_slice(&body).unwrap_or_else(|_| json!({}));
        if !failed.is_empty() {
            body["Failed"].as_array_mut()?.append(&mut failed);
        }
        answer(&mut client, status, &body.to_string()).await
    }
}

async fn answer(client: &mut TcpStream, status: u16, body: &str) -> Option<()> {
    let head = format!(
        "HTTP/1.1 {status} OK\r\ncontent-type: application/x-amz-json-1.0\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    client.write_all(format!("{head}{body}").as_bytes()).await.ok()
}

/// A message's head, its names in lower case, and its body.
async fn message(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let (end, length) = loop {
        let mut part = [0; 16 * 1024];
        let read = stream.read(&mut part).await.ok().filter(|read| *read > 0)?;
        bytes.extend_from_slice(&part[..read]);
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(": ")?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
            });
            break (end, length.unwrap_or(0));
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let head: Vec<String> = head
        .lines()
        .map(|line| {
            line.split_once(": ").map_or(line.to_owned(), |(name, value)| format!("{}: {value}", name.to_lowercase()))
        })
        .collect();
    let mut body = bytes.split_off(end + 4);
    while body.len() < length {
        let mut part = [0; 16 * 1024];
        let read = stream.read(&mut part).await.ok().filter(|read| *read > 0)?;
        body.extend_from_slice(&part[..read]);
    }
    Some((head.join("\r\n"), body))
}

/// A fresh home with queues of its own.
pub(crate) struct Scene {
    pub(crate) lanes: SqsLanes,
    pub(crate) yard: Yard,
    pub(crate) client: aws_sdk_sqs::Client,
    pub(crate) sightings: Arc<Sightings>,
    pub(crate) between: Between,
    pub(crate) prefix: String,
    home: Memory,
}

impl Scene {
    /// The home on the emulator whose address that variable holds; nothing without one.
    pub(crate) async fn open(variable: &str, name: &str) -> Option<Self> {
        let Ok(endpoint) = std::env::var(variable) else {
            eprintln!("skipped: {variable} is not set");
            return None;
        };
        let between = Between::default();
        let endpoint = between.start(endpoint.trim_end_matches('/').to_owned()).await;
        let settings = Settings { endpoint: Some(endpoint), ..Settings::new("us-east-1") };
        let credentials = Credentials::new("test", "test", None, None, "tests");
        let client = Clients::new(settings, SharedCredentialsProvider::new(credentials)).sqs();
        let text = "version: 1\ncapabilities:\n  - { name: knock, summary: Knocks, run: { command: [echo] } }\n";
        let catalog = Catalog::parse("test", text, &[], &BTreeMap::new()).unwrap();
        let home = Memory::new(Timestamp::from_second(1_800_000_000).unwrap(), 1);
        home.make_unmapped_room(UNMAPPED_ROOM);
        let in_memory = home.yard(catalog, Limits::one_machine(1024));
        let sightings = Arc::new(Sightings::default());
        let prefix =
            format!("t{:x}-{name:.20}", Real.random().iter().take(4).fold(0_u32, |n, b| n << 8 | u32::from(*b)));
        let ledger = Arc::clone(&in_memory.ledger);
        let lanes = SqsLanes::new(client.clone(), &prefix, [], ledger, Arc::clone(&sightings), Arc::new(Real));
        lanes.declare(&[PoolName::STANDARD, "steady".parse().unwrap()]).await.unwrap();
        let yard = Yard { lanes: Arc::new(lanes.clone()), ..in_memory };
        Some(Self { lanes, yard, client, sightings, between, prefix, home })
    }

    /// So many jobs, in the ledger; no bell has rung.
    pub(crate) async fn jobs(&self, count: usize) -> Vec<Job> {
        let (submission, digest) = intake::read(br#"{"capability":"knock"}"#).unwrap();
        let situation = Situation { policies: self.yard.policies(), ..Situation::default() };
        let sender = Sender { caller: "tests", key: None };
        let one = |_| {
            let (now, random) = (self.home.now(), self.home.random());
            let prepared =
                intake::prepare(&submission, digest, sender, &situation, Taking::default(), now, random).unwrap();
            NewJob { job: prepared.job, payload: Body::Inline(prepared.payload) }
        };
        let new: Vec<_> = (0..count).map(one).collect();
        let jobs = new.iter().map(|new| new.job.clone()).collect();
        self.yard.ledger.accept(new).await.unwrap();
        jobs
    }

    /// The lane of all its jobs.
    pub(crate) fn lane(&self) -> Lane {
        Lane { pool: PoolName::STANDARD, tier: Tier::Standard }
    }

    /// Rings for these jobs.
    pub(crate) async fn ring(&self, jobs: &[Job]) -> Vec<(Message, PortError)> {
        let bells: Vec<Bell<'_>> = jobs.iter().map(|job| Bell { lane: dispatch::lane(job), job }).collect();
        self.lanes.ring(&bells).await
    }

    /// The URL of a queue of that name.
    pub(crate) async fn url(&self, name: &str) -> String {
        self.client.get_queue_url().queue_name(name).send().await.unwrap().queue_url.unwrap()
    }
}
