//! The check against servers on this machine that behave well, badly and not at all.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::pki_types::PrivateKeyDer;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::fetch::Resolve;
use super::*;

/// The middle of the certificates' time.
const NOW: &str = "2026-06-01T00:00:00Z";

/// What a server does with one request, once its head was read.
#[derive(Clone)]
enum Does {
    /// Sends this and closes.
    Says(String),
    /// Sends the front, then the rest again and again until nobody listens.
    Repeats(String, String),
    /// Sends the front, then a byte of it again each time after a pause.
    Trickles(String, Duration),
    /// Sends this without having heard anything, and closes.
    Blurts(String),
    /// Nothing.
    Nothing,
}

async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, does: Does) {
    if let Does::Blurts(text) = &does {
        let _ = stream.write_all(text.as_bytes()).await;
        return;
    }
    let (mut head, mut buffer) = (Vec::new(), [0; 1024]);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut buffer).await {
            Ok(read @ 1..) => head.extend_from_slice(&buffer[..read]),
            Ok(0) | Err(_) => return,
        }
    }
    match does {
        Does::Says(text) | Does::Blurts(text) => {
            let _ = stream.write_all(text.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
        Does::Repeats(front, again) => {
            let mut sent = stream.write_all(front.as_bytes()).await;
            while sent.is_ok() {
                sent = stream.write_all(again.as_bytes()).await;
            }
        }
        Does::Trickles(front, pause) => {
            let mut sent = stream.write_all(front.as_bytes()).await;
            while sent.is_ok() {
                tokio::time::sleep(pause).await;
                sent = stream.write_all(b"a").await;
            }
        }
        Does::Nothing => std::future::pending().await,
    }
}

/// A server on loopback; it ends with the test's runtime.
async fn serve(tls: Option<ServerConfig>, does: impl Into<Does>) -> u16 {
    let (listener, does) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), does.into());
    let port = listener.local_addr().unwrap().port();
    let acceptor = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, does) = (acceptor.clone(), does.clone());
            tokio::spawn(async move {
                match acceptor {
                    None => answer(stream, does).await,
                    Some(acceptor) => {
                        if let Ok(stream) = acceptor.accept(stream).await {
                            answer(stream, does).await;
                        }
                    }
                }
            });
        }
    });
    port
}

impl From<String> for Does {
    fn from(text: String) -> Self {
        Self::Says(text)
    }
}

impl From<&str> for Does {
    fn from(text: &str) -> Self {
        Self::Says(text.to_owned())
    }
}

fn page(fields: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 2\r\n\r\nhi")
}

fn redirect(to: &str) -> String {
    format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n")
}

const GOOD: &str = "Strict-Transport-Security: max-age=31536000\r\nContent-Security-Policy: default-src 'self'; \
     frame-ancestors 'none'\r\nX-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n\
     Permissions-Policy: camera=()\r\nServer: example\r\nSet-Cookie: __Host-id=s3cret; Secure; HttpOnly; SameSite=Lax; \
     Path=/\r\n";

/// An authority of the tests' own, which no browser knows.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2040, 1, 1);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        Arc::new(roots)
    }

    /// A server's side, with a certificate for this name until the end of this year.
    fn server(&self, name: &str, until: i32) -> ServerConfig {
        let (params, key) = params(name, until);
        server(params.signed_by(&key, &self.0).unwrap(), &key)
    }
}

fn params(name: &str, until: i32) -> (CertificateParams, KeyPair) {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(until, 12, 31));
    (params, KeyPair::generate().unwrap())
}

fn server(certificate: rcgen::Certificate, key: &KeyPair) -> ServerConfig {
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap()
}

/// Names as the test has them; each lookup takes the next answer, and the last one stays.
#[derive(Default)]
struct Names(Mutex<BTreeMap<String, Vec<Vec<IpAddr>>>>);

impl Names {
    fn new(names: &[(&str, &[&[&str]])]) -> Self {
        let parsed = |addresses: &&[&str]| addresses.iter().map(|address| address.parse().unwrap()).collect();
        let entry = |(name, answers): &(&str, &[&[&str]])| ((*name).to_owned(), answers.iter().map(parsed).collect());
        Self(Mutex::new(names.iter().map(entry).collect()))
    }
}

#[async_trait]
impl Resolve for Names {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let mut names = self.0.lock().unwrap();
        let answers = names.get_mut(name).ok_or_else(|| io::Error::other("no such name"))?;
        Ok(if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() })
    }
}

/// Long enough for a busy machine where an answer comes, and short where none does.
fn limits(step: Duration) -> Limits {
    let long = Duration::from_secs(30);
    Limits { resolve: long, connect: long, handshake: step, head: step, body: step, whole: long }
}

struct World {
    names: Names,
    roots: Arc<RootCertStore>,
    allow: &'static [&'static str],
    step: Duration,
}

impl World {
    fn new(roots: Arc<RootCertStore>) -> Self {
        let names: [(&str, &[&[&str]]); 2] = [("site.test", &[&["127.0.0.1"]]), ("other.test", &[&["127.0.0.1"]])];
        Self { names: Names::new(&names), roots, allow: &["127.0.0.0/8"], step: Duration::from_secs(30) }
    }

    fn plain() -> Self {
        Self::new(Arc::new(RootCertStore::empty()))
    }

    fn impatient() -> Self {
        Self { step: Duration::from_millis(300), ..Self::plain() }
    }

    async fn check(&self, url: &str, max_redirects: u8) -> Result<Value, BuiltinFailed> {
        let fetcher = Fetcher {
            allowed: allowed(&json!({ "allow": self.allow })).unwrap(),
            resolver: &self.names,
            roots: Arc::clone(&self.roots),
            limits: limits(self.step),
        };
        check(&fetcher, &Payload { url: url.to_owned(), max_redirects }, NOW.parse().unwrap()).await
    }

    /// The code of a failure, whether it is for good, and its message without the ports of this run.
    async fn fails(&self, url: &str) -> String {
        let BuiltinFailed { failure, permanent } = self.check(url, 5).await.unwrap_err();
        let ending = if permanent { "for good" } else { "another attempt may help" };
        format!("{} [{ending}]: {}", failure.code, mask(&failure.message))
    }
}

/// The text without the ports of this run.
fn mask(text: &str) -> String {
    let mut parts = text.split(':');
    let mut masked = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let digits = part.chars().take_while(char::is_ascii_digit).count();
        masked.push(':');
        masked.push_str(if digits >= 4 { "PORT" } else { &part[..digits] });
        masked.push_str(&part[digits..]);
    }
    masked
}

fn codes(result: &Value) -> Vec<&str> {
    result["reasons"].as_array().unwrap().iter().map(|reason| reason["code"].as_str().unwrap()).skip(1).collect()
}

#[tokio::test]
async fn a_good_site_has_the_best_grade_and_no_secret_of_it_is_told() {
    let authority = Authority::new();
    let port = serve(Some(authority.server("site.test", 2026)), page(GOOD)).await;
    let url = format!("https://site.test:{port}/a/b?token=s3cret#s3cret");
    let result = World::new(authority.roots()).check(&url, 5).await.unwrap();
    assert_eq!(
        (&result["grade"], &result["score"], codes(&result)),
        (&json!("A+"), &json!(100), Vec::new()),
        "{result:#}"
    );
    assert!(!result.to_string().contains("s3cret"), "{result:#}");
    let told = serde_json::to_string_pretty(&result).unwrap().replace(&port.to_string(), "PORT");
    insta::assert_snapshot!(told);
}

#[tokio::test]
async fn a_bad_certificate_is_told_and_does_not_end_the_check() {
    let authority = Authority::new();
    let (params, key) = params("site.test", 2026);
    let cases = [
        ("expired", authority.server("site.test", 2025), vec!["certificate_expired"]),
        ("wrong name", authority.server("elsewhere.test", 2026), vec!["certificate_wrong_name"]),
        ("self-signed", server(params.self_signed(&key).unwrap(), &key), vec!["certificate_untrusted"]),
        ("of another authority", Authority::new().server("site.test", 2026), vec!["certificate_untrusted"]),
        (
            "expired, of another, for another",
            Authority::new().server("elsewhere.test", 2025),
            vec!["certificate_untrusted", "certificate_wrong_name", "certificate_expired"],
        ),
    ];
    for (case, config, expected) in cases {
        let port = serve(Some(config), page(GOOD)).await;
        let result = World::new(authority.roots()).check(&format!("https://site.test:{port}/"), 5).await.unwrap();
        assert_eq!((codes(&result), &result["certificate"]["faults"]), (expected.clone(), &json!(expected)), "{case}");
        assert!(matches!(result["grade"].as_str(), Some("D" | "F")), "{case}: {result:#}");
    }
}

#[tokio::test]
async fn an_address_that_is_refused_is_not_connected_to_wherever_it_comes_from() {
    let mut told = Vec::new();
    let open = World::plain();
    let port = serve(None, page("")).await;
    for url in [
        "http://10.0.0.1/",
        "http://169.254.169.254/latest/",
        "http://[::ffff:169.254.169.254]/",
        "http://[fd00:ec2::254]/",
    ] {
        told.push(format!("{url}\n    {}", open.fails(url).await));
    }
    let closed = World { allow: &[], ..World::plain() };
    for url in ["http://127.0.0.1", "http://2130706433", "http://0x7f.1", "http://[::1]", "http://site.test"] {
        told.push(format!("{url} (nothing is listed)\n    {}", closed.fails(&format!("{url}:{port}/")).await));
    }
    for to in [
        "http://169.254.169.254/latest/meta-data/",
        "http://[::ffff:a9fe:a9fe]/",
        "http://10.0.0.1/?token=s3cret",
        "file:///etc/passwd",
        "ftp://site.test/",
        "javascript:alert(1)",
        "http://user:s3cret@site.test/",
        "http://",
        "//0/",
    ] {
        let port = serve(None, redirect(to)).await;
        told.push(format!("-> {to}\n    {}", open.fails(&format!("http://site.test:{port}/")).await));
    }
    let told = told.join("\n");
    // It stands in what was asked, and in no answer.
    assert!(!told.lines().any(|line| line.starts_with("    ") && line.contains("s3cret")), "{told}");
    insta::assert_snapshot!(told);
}

#[tokio::test]
async fn a_name_that_changes_its_address_is_judged_by_the_one_that_is_connected_to() {
    // One lookup a hop: what it found is judged and connected to.
    let port = serve(None, redirect("/again")).await;
    let names = Names::new(&[("site.test", &[&["127.0.0.1"], &["169.254.169.254"]])]);
    let world = World { names, ..World::plain() };
    assert!(world.fails(&format!("http://site.test:{port}/")).await.starts_with("refused_address"));
    // One bad address among good ones is a name to stay away from.
    let names = Names::new(&[("site.test", &[&["127.0.0.1", "10.0.0.1"]])]);
    let world = World { names, ..World::plain() };
    assert!(world.fails(&format!("http://site.test:{port}/")).await.starts_with("refused_address"));
}

#[tokio::test]
async fn what_cannot_be_reached_has_a_code() {
    let mut told = Vec::new();
    let closed = { TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port() };
    let plain = serve(None, Does::Blurts("220 mail.site.test ESMTP\r\n".to_owned())).await;
    for url in [
        "http://nowhere.test/".to_owned(),
        format!("http://site.test:{closed}/"),
        format!("https://site.test:{plain}/"),
        "ftp://site.test/".to_owned(),
        "http://user@site.test/".to_owned(),
        "http://:s3cret@site.test/".to_owned(),
        "http://site.test:0/".to_owned(),
        "site.test".to_owned(),
        "http://\u{1b}[31m/".to_owned(),
        format!("http://site.test/{}", "a".repeat(URL_BYTES)),
    ] {
        told.push(World::plain().fails(&url).await);
    }
    let endless = "X-Filler: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n";
    let badly: [(&str, Does); 7] = [
        ("endless headers", Does::Repeats("HTTP/1.1 200 OK\r\n".to_owned(), endless.to_owned())),
        ("an endless header", Does::Repeats("HTTP/1.1 200 OK\r\nX: ".to_owned(), "a".repeat(1000))),
        ("many small headers", Does::Repeats("HTTP/1.1 200 OK\r\n".to_owned(), "a:\r\n".to_owned())),
        ("endless hints", Does::Repeats(String::new(), "HTTP/1.1 103 Early Hints\r\n\r\n".to_owned())),
        ("no HTTP", "220 mail.site.test ESMTP\r\n".into()),
        ("a trickling head", Does::Trickles("HTTP/1.1 200 OK\r\nX: ".to_owned(), Duration::from_millis(10))),
        ("nothing", Does::Nothing),
    ];
    for (case, does) in badly {
        let port = serve(None, does).await;
        told.push(format!("{case}: {}", World::impatient().fails(&format!("http://site.test:{port}/")).await));
    }
    // A server that does not begin a handshake.
    let port = serve(None, Does::Nothing).await;
    told.push(format!("no handshake: {}", World::impatient().fails(&format!("https://site.test:{port}/")).await));
    insta::assert_snapshot!(told.join("\n"));
}

#[tokio::test]
async fn a_body_is_read_within_limits_and_its_end_is_not_waited_for() {
    let cases: [(&str, Does, bool); 4] = [
        ("endless", Does::Repeats("HTTP/1.1 200 OK\r\n\r\n".to_owned(), "a".repeat(4096)), false),
        ("trickling", Does::Trickles("HTTP/1.1 200 OK\r\n\r\n".to_owned(), Duration::from_millis(10)), false),
        ("shorter than it says", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhi".into(), false),
        ("whole", page("").into(), true),
    ];
    for (case, does, whole) in cases {
        let port = serve(None, does).await;
        let result = World::impatient().check(&format!("http://site.test:{port}/"), 5).await.unwrap();
        assert_eq!(result["body"]["whole"], whole, "{case}: {result:#}");
        assert!(result["body"]["bytes"].as_u64() <= Some(256 * 1024), "{case}: {result:#}");
    }
}

#[tokio::test]
async fn redirects_are_followed_to_their_end_and_no_further_than_allowed() {
    let authority = Authority::new();
    let end = serve(Some(authority.server("site.test", 2026)), page(GOOD)).await;
    let upgrade = serve(None, redirect(&format!("https://site.test:{end}/?state=s3cret"))).await;
    let world = World::new(authority.roots());
    let result = world.check(&format!("http://site.test:{upgrade}/"), 5).await.unwrap();
    assert_eq!(result["redirects"], json!({ "followed": 1, "to_https": true, "downgraded": false }));
    assert_eq!((codes(&result), &result["grade"]), (Vec::new(), &json!("A+")));
    assert!(!result.to_string().contains("s3cret"), "{result:#}");

    let plain = serve(None, page("Server: nginx/1.2\r\nSet-Cookie: id=s3cret\r\n")).await;
    let down = redirect(&format!("http://other.test:{plain}/"));
    let down = serve(Some(authority.server("elsewhere.test", 2026)), down).await;
    let result = world.check(&format!("https://site.test:{down}/"), 5).await.unwrap();
    assert_eq!(result["redirects"]["downgraded"], true);
    // The certificate of a hop on the way counts as well.
    assert_eq!(codes(&result)[..3], ["downgrade", "no_tls", "certificate_wrong_name"]);
    assert_eq!((&result["score"], &result["grade"]), (&json!(0), &json!("F")));

    let asked = world.check(&format!("http://site.test:{upgrade}/"), 0).await.unwrap();
    assert_eq!((&asked["hops"][0]["status"], &asked["redirects"]["followed"]), (&json!(302), &json!(0)));

    let circle = serve(None, redirect("/")).await;
    assert!(world.fails(&format!("http://site.test:{circle}/")).await.starts_with("redirect_loop [for good]"));
    let spiral = serve(None, redirect("x/")).await;
    assert!(world.fails(&format!("http://site.test:{spiral}/")).await.starts_with("too_many_redirects [for good]"));
}

#[tokio::test]
async fn nothing_that_a_server_says_reaches_a_result_raw() {
    let hostile = "Server: \u{9b}31mred\u{202e} 1.2\r\nSet-Cookie: \u{9b}2J=s3cret\r\nX-Frame-Options: \u{85}\r\n";
    let port = serve(None, page(hostile)).await;
    let result = World::plain().check(&format!("http://site.test:{port}/"), 5).await.unwrap();
    let mut texts = vec![&result];
    while let Some(value) = texts.pop() {
        match value {
            Value::String(text) => assert!(!text.chars().any(|c| c.is_control() || c == '\u{202e}'), "{text:?}"),
            Value::Array(values) => texts.extend(values),
            Value::Object(fields) => texts.extend(fields.values()),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    assert!(codes(&result).contains(&"version_told"), "{result:#}");
}

#[tokio::test]
async fn a_check_that_is_dropped_leaves_no_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let world = World::plain();
    let url = format!("http://site.test:{}/", address.port());
    let mut stream = tokio::select! {
        _ = world.check(&url, 5) => panic!("nobody answers"),
        accepted = async {
            let mut stream = listener.accept().await.unwrap().0;
            stream.read_u8().await.unwrap();
            stream
        } => accepted,
    };
    let mut rest = Vec::new();
    // The end of the connection, which comes only when the other side has let go.
    stream.read_to_end(&mut rest).await.unwrap();
}

#[test]
fn settings_are_networks_and_errors_name_the_one_at_fault() {
    let told = |settings: Value| check_settings(&settings).map_err(|error| error.to_string());
    assert_eq!(told(json!({})), Ok(()));
    assert_eq!(told(json!({ "allow": ["127.0.0.0/8", "fd00::/8"] })), Ok(()));
    assert_eq!(
        told(json!({ "allow": ["127.0.0.0/8", "localhost"] })).unwrap_err(),
        "allow[1]: `localhost` is no network: expected one such as 10.0.0.0/8 or fd00::/8"
    );
    assert!(told(json!({ "deny": [] })).unwrap_err().contains("unknown field `deny`"));
    assert!(told(json!({ "allow": "127.0.0.0/8" })).is_err());
}

#[tokio::test]
async fn a_payload_that_is_none_is_refused_and_the_defaults_reach_no_private_address() {
    let now = NOW.parse().unwrap();
    let failed = run(&json!({}), &json!({}), now).await.unwrap_err();
    assert_eq!((failed.failure.code.as_str(), failed.permanent), ("invalid_payload", true));
    let failed = run(&json!({ "url": "http://127.0.0.1:1/" }), &json!({}), now).await.unwrap_err();
    assert_eq!((failed.failure.code.as_str(), failed.permanent), ("refused_address", true));
}
