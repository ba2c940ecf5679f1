//! What EC2 is to one instance: a metadata service that speaks the second version's protocol, on loopback, and a group of
//! moto's that the instance is of.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use switchyard_aws::clients::{Clients, Settings};
use switchyard_aws::fleet_autoscaling::{Group, GroupState};
use switchyard_builtins::system::System;

use crate::scene::{REGION, moto};

/// The metadata service of one instance.
#[derive(Clone)]
pub(crate) struct Metadata {
    pub(crate) endpoint: String,
    told: Arc<Mutex<Told>>,
}

#[derive(Default)]
struct Told {
    /// What it says, by path.
    says: BTreeMap<String, String>,
    /// Tokens that it takes.
    tokens: BTreeSet<String>,
    given: u64,
    asked: BTreeMap<String, u64>,
    /// It takes what is asked of it, and answers nothing.
    hangs: bool,
}

impl Metadata {
    /// That of an instance of this id, until the test ends.
    pub(crate) fn of(instance: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let says = BTreeMap::from([
            ("/latest/meta-data/instance-id".to_owned(), instance.to_owned()),
            ("/latest/meta-data/autoscaling/target-lifecycle-state".to_owned(), "InService".to_owned()),
        ]);
        let told = Arc::new(Mutex::new(Told { says, ..Told::default() }));
        let served = Arc::clone(&told);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let told = Arc::clone(&served);
                std::thread::spawn(move || drop(answer(&stream, &told)));
            }
        });
        Self { endpoint, told }
    }

    pub(crate) fn says(&self, path: &str, text: &str) {
        self.told.lock().unwrap().says.insert(format!("/latest/meta-data/{path}"), text.to_owned());
    }

    /// An interruption in so many seconds.
    pub(crate) fn interrupts(&self, action: &str, seconds: i64) {
        let at = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds);
        let at = at.strftime("%Y-%m-%dT%H:%M:%SZ");
        self.says("spot/instance-action", &format!(r#"{{"action": "{action}", "time": "{at}"}}"#));
    }

    /// It says nothing of its end any more: another instance begins.
    pub(crate) fn is_quiet(&self) {
        self.told.lock().unwrap().says.retain(|path, _| !path.ends_with("spot/instance-action"));
    }

    /// No token that was given is good any more.
    pub(crate) fn forgets_its_tokens(&self) {
        self.told.lock().unwrap().tokens.clear();
    }

    pub(crate) fn hangs(&self, hangs: bool) {
        self.told.lock().unwrap().hangs = hangs;
    }

    /// Tokens it has given.
    pub(crate) fn given(&self) -> u64 {
        self.told.lock().unwrap().given
    }

    /// How often it was asked for this with a token that is good.
    pub(crate) fn asked(&self, path: &str) -> u64 {
        self.told.lock().unwrap().asked.get(&format!("/latest/meta-data/{path}")).copied().unwrap_or_default()
    }

    /// Waits until it was asked for everything once more.
    pub(crate) async fn looked_at_again(&self) {
        let last = "autoscaling/target-lifecycle-state";
        // One look may be under way.
        let (before, given_up) = (self.asked(last), Instant::now() + Duration::from_secs(30));
        while self.asked(last) < before + 2 {
            assert!(Instant::now() < given_up, "nobody asks");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn answer(stream: &TcpStream, told: &Mutex<Told>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let mut words = first.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (status, body) = {
        let mut told = told.lock().unwrap();
        if told.hangs {
            drop(told);
            // Until whoever asks has had enough.
            let _ = reader.read(&mut [0]);
            return Ok(());
        }
        let shown = headers.get("x-aws-ec2-metadata-token");
        match (method, path) {
            ("PUT", "/latest/api/token") if headers.contains_key("x-aws-ec2-metadata-token-ttl-seconds") => {
                told.given += 1;
                let token = format!("token-{}", told.given);
                told.tokens.insert(token.clone());
                ("200 OK", token)
            }
            ("GET", path) if shown.is_some_and(|token| told.tokens.contains(token)) => {
                *told.asked.entry(path.to_owned()).or_default() += 1;
                told.says.get(path).map_or(("404 Not Found", String::new()), |text| ("200 OK", text.clone()))
            }
            ("GET", _) => ("401 Unauthorized", String::new()),
            _ => ("400 Bad Request", String::new()),
        }
    };
    let mut stream = stream;
    write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

/// A group of moto's.
pub(crate) struct OfMoto {
    pub(crate) name: String,
    clients: Clients,
}

impl OfMoto {
    pub(crate) async fn of(name: &str, min: i32, desired: i32, max: i32) -> Self {
        let settings = Settings { endpoint: Some(moto().to_owned()), ..Settings::new(REGION) };
        let credentials = SharedCredentialsProvider::new(Credentials::new("tests", "tests", None, None, "tests"));
        let clients = Clients::new(settings, credentials);
        let client = clients.autoscaling();
        let template = client.create_launch_configuration().launch_configuration_name(name);
        template.image_id("ami-12345678").instance_type("t3.micro").send().await.unwrap();
        let group = client.create_auto_scaling_group().auto_scaling_group_name(name).launch_configuration_name(name);
        let group = group.min_size(min).max_size(max).desired_capacity(desired).availability_zones("us-east-1a");
        group.send().await.unwrap();
        Self { name: name.to_owned(), clients }
    }

    pub(crate) async fn now(&self) -> GroupState {
        Group::new(self.clients.autoscaling(), &self.name, Arc::new(System)).describe().await.unwrap()
    }

    /// One of its instances has gone without asking: the group starts another, for its size is what it was.
    pub(crate) async fn lose(&self, instance: &str) {
        let client = self.clients.autoscaling();
        let ended = client.terminate_instance_in_auto_scaling_group().instance_id(instance);
        let ended = ended.should_decrement_desired_capacity(false).send().await;
        // It may have left by itself a moment ago.
        drop(ended);
    }

    /// The ids of its instances.
    pub(crate) async fn instances(&self) -> Vec<String> {
        self.now().await.instances.into_iter().map(|instance| instance.id).collect()
    }
}
