//! Buckets on loopback, as far as the listeners know S3: objects are put and read, and requests are refused when a test
//! says so.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::Response;
use axum::{Router, serve};
use serde_json::Value;
use switchyard_aws::clients::{Clients, Settings};
use tokio::net::TcpListener;

#[derive(Default)]
struct Kept {
    /// By the path of the request, as it is on the wire.
    objects: BTreeMap<String, Vec<u8>>,
    refused: Option<(Method, StatusCode, &'static str)>,
}

/// The buckets. Clones are the same ones.
#[derive(Clone)]
pub(crate) struct Buckets {
    kept: Arc<Mutex<Kept>>,
    pub(crate) clients: Clients,
}

/// A parked object, without when it came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Parked {
    pub(crate) source: String,
    pub(crate) reason: String,
    pub(crate) body: String,
}

impl Buckets {
    pub(crate) async fn start() -> Self {
        let kept = Arc::<Mutex<Kept>>::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(answer).with_state(Arc::clone(&kept));
        tokio::spawn(async move { serve(listener, router).await });
        let credentials = SharedCredentialsProvider::new(Credentials::new("TEST", "secret", None, None, "test"));
        let settings =
            Settings { endpoint: Some(format!("http://{address}")), attempts: 1, ..Settings::new("eu-central-1") };
        Self { kept, clients: Clients::new(settings, credentials) }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap()
    }

    /// Puts an object; `path` is its bucket and key, as a URL has them.
    pub(crate) fn put(&self, path: &str, bytes: impl Into<Vec<u8>>) {
        self.kept().objects.insert(format!("/{path}"), bytes.into());
    }

    /// From now on requests of this method are refused with this code; `None`: none are.
    pub(crate) fn refuse(&self, refused: Option<(Method, StatusCode, &'static str)>) {
        self.kept().refused = refused;
    }

    /// What is parked, by its reason.
    pub(crate) fn parked(&self) -> Vec<Parked> {
        let mut parked: Vec<Parked> = (self.kept().objects.iter())
            .filter(|(path, _)| path.starts_with("/yard/parked/"))
            .map(|(_, bytes)| {
                let object: Value = serde_json::from_slice(bytes).expect("what is parked is JSON");
                let text = |name: &str| object[name].as_str().expect(name).to_owned();
                assert_eq!(object["version"], 1);
                Parked { source: text("source"), reason: text("reason"), body: text("body") }
            })
            .collect();
        parked.sort_by(|a, b| (&a.reason, &a.body).cmp(&(&b.reason, &b.body)));
        parked
    }
}

async fn answer(State(kept): State<Arc<Mutex<Kept>>>, request: Request) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let body = to_bytes(request.into_body(), usize::MAX).await.unwrap();
    let mut kept = kept.lock().unwrap();
    let refusal = |status: StatusCode, code: &str| {
        let text = format!("<Error><Code>{code}</Code><Message>as the test says</Message></Error>");
        Response::builder().status(status).body(Body::from(text)).unwrap()
    };
    if let Some((refused, status, code)) = &kept.refused
        && *refused == method
    {
        return refusal(*status, code);
    }
    if method == Method::PUT {
        kept.objects.insert(path, body.to_vec());
        return Response::new(Body::empty());
    }
    assert_eq!(method, Method::GET, "the listeners ask for nothing else");
    match kept.objects.get(&path) {
        Some(bytes) => Response::new(Body::from(bytes.clone())),
        None => refusal(StatusCode::NOT_FOUND, "NoSuchKey"),
    }
}
