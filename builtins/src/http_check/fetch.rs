//! Fetches a URL by hand: every address is judged before it is connected to, and redirects are followed one by one.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONNECTION, HOST, LOCATION, USER_AGENT};
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use switchyard_core::job::one_line;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::{Host, Position, Url};

use super::{SHOWN_BYTES, URL_BYTES, certificate, shown};
use crate::addresses::{Allowed, Refused};

/// The most that an answer's head may hold: 64 KiB. Servers themselves take between 8 and 32.
const HEAD_BYTES: usize = 64 * 1024;
/// The most fields a head may have.
const HEAD_FIELDS: usize = 512;
/// What is read of a body: 256 KiB. Nothing in it is judged; a site whose front page does not end is worth a word.
const BODY_BYTES: usize = 256 * 1024;
/// Addresses of one name that are tried in turn. All of them are judged.
const ADDRESSES_TRIED: usize = 4;

/// How long each step may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) resolve: Duration,
    /// Of each address.
    pub(super) connect: Duration,
    pub(super) handshake: Duration,
    pub(super) head: Duration,
    pub(super) body: Duration,
    /// All redirects together.
    pub(super) whole: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        // A site that takes longer for any of these is broken for its users, too.
        Self {
            resolve: seconds(5),
            connect: seconds(5),
            handshake: seconds(5),
            head: seconds(10),
            body: seconds(5),
            whole: seconds(30),
        }
    }
}

/// Finds the addresses of a name.
#[async_trait]
pub(super) trait Resolve: Send + Sync {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>>;
}

/// As this machine does.
pub(super) struct System;

#[async_trait]
impl Resolve for System {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        Ok(tokio::net::lookup_host((name, 0)).await?.map(|found| found.ip()).collect())
    }
}

/// What fetching needs of the world.
pub(super) struct Fetcher<'a> {
    pub(super) allowed: Allowed,
    pub(super) resolver: &'a dyn Resolve,
    /// Who is trusted to sign certificates.
    pub(super) roots: Arc<RootCertStore>,
    pub(super) limits: Limits,
}

/// What came of it: the first answer, and one for each redirect that was followed. Never empty.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) hops: Vec<Hop>,
}

/// One answer.
#[derive(Debug)]
pub(super) struct Hop {
    pub(super) url: Url,
    pub(super) address: SocketAddr,
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Body,
    pub(super) tls: Option<Tls>,
}

/// What was read of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Body {
    pub(super) bytes: usize,
    /// Whether it ended within the limits.
    pub(super) whole: bool,
}

/// How a connection was secured.
#[derive(Debug)]
pub(super) struct Tls {
    pub(super) version: &'static str,
    pub(super) cipher: &'static str,
    pub(super) certificate: certificate::Certificate,
}

/// Why there is nothing to judge.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreached {
    /// What was asked for, or where a redirect leads, is no URL to fetch.
    #[error("{whose} cannot be fetched: {why}")]
    BadUrl { whose: String, why: String },
    /// It leads to where no job may go.
    #[error("{host} cannot be fetched")]
    Refused {
        host: String,
        #[source]
        refused: Refused,
    },
    #[error("the name {host} cannot be resolved")]
    Dns {
        host: String,
        #[source]
        cause: io::Error,
    },
    #[error("cannot connect to {host} at {address}")]
    Connect {
        host: String,
        address: SocketAddr,
        #[source]
        cause: io::Error,
    },
    #[error("{host} at {address} does not agree on TLS")]
    Tls {
        host: String,
        address: SocketAddr,
        #[source]
        cause: io::Error,
    },
    #[error("{subject}: {step} took longer than {limit:?}")]
    Timeout { subject: String, step: &'static str, limit: Duration },
    #[error("{host} sends a head of more than {HEAD_BYTES} bytes or {HEAD_FIELDS} fields")]
    HeadTooLarge { host: String },
    #[error("{host} does not answer as HTTP/1.1 asks")]
    BadAnswer {
        host: String,
        #[source]
        cause: hyper::Error,
    },
    #[error("the redirects lead in a circle, back to {url}")]
    Loop { url: String },
    #[error("there are more than {most} redirects; the next is to {url}")]
    TooMany { most: u8, url: String },
}

impl Unreached {
    /// The stable word for it.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::BadUrl { .. } => "bad_url",
            Self::Refused { .. } => "refused_address",
            Self::Dns { .. } => "dns",
            Self::Connect { .. } => "connect",
            Self::Tls { .. } => "tls",
            Self::Timeout { .. } => "timeout",
            Self::HeadTooLarge { .. } => "head_too_large",
            Self::BadAnswer { .. } => "bad_answer",
            Self::Loop { .. } => "redirect_loop",
            Self::TooMany { .. } => "too_many_redirects",
        }
    }

    /// Whether the site must change, or the payload, before another attempt can help.
    pub(super) fn is_permanent(&self) -> bool {
        match self {
            Self::BadUrl { .. }
            | Self::Refused { .. }
            | Self::HeadTooLarge { .. }
            | Self::Loop { .. }
            | Self::TooMany { .. } => true,
            Self::Dns { .. }
            | Self::Connect { .. }
            | Self::Tls { .. }
            | Self::Timeout { .. }
            | Self::BadAnswer { .. } => false,
        }
    }
}

/// The URL that was asked for.
///
/// # Errors
///
/// [`Unreached::BadUrl`].
pub(super) fn asked(text: &str) -> Result<Url, Unreached> {
    let whose = || "the URL".to_owned();
    if text.len() > URL_BYTES {
        return Err(Unreached::BadUrl { whose: whose(), why: format!("it is longer than {URL_BYTES} bytes") });
    }
    let url = Url::parse(text).map_err(|error| Unreached::BadUrl { whose: whose(), why: error.to_string() })?;
    fetchable(url, whose)
}

/// Refuses what is not to be fetched by its form alone.
fn fetchable(mut url: Url, whose: impl Fn() -> String) -> Result<Url, Unreached> {
    let bad = |why: String| Err(Unreached::BadUrl { whose: whose(), why });
    if !matches!(url.scheme(), "http" | "https") {
        let scheme = one_line(url.scheme(), 20);
        return bad(format!("expected http or https, and it begins with `{scheme}:`"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return bad("it has a user name or a password in it".to_owned());
    }
    if url.host().is_none() || url.port() == Some(0) {
        return bad("it names no host and port".to_owned());
    }
    url.set_fragment(None);
    Ok(url)
}

/// Where an answer redirects to.
fn target(hop: &Hop) -> Result<Option<Url>, Unreached> {
    let location = match (hop.status, hop.headers.get(LOCATION)) {
        (301 | 302 | 303 | 307 | 308, Some(location)) => String::from_utf8_lossy(location.as_bytes()),
        _ => return Ok(None),
    };
    let whose = || format!("the redirect from {}", shown(&hop.url));
    if location.len() > URL_BYTES {
        return Err(Unreached::BadUrl { whose: whose(), why: format!("it is longer than {URL_BYTES} bytes") });
    }
    let url = hop.url.join(&location);
    let url = url.map_err(|error| Unreached::BadUrl { whose: whose(), why: error.to_string() })?;
    fetchable(url, whose).map(Some)
}

impl Fetcher<'_> {
    /// Fetches the URL, and what it redirects to. With `max_redirects` 0 a redirect itself is the answer.
    ///
    /// # Errors
    ///
    /// [`Unreached`] for the first hop that cannot be had.
    pub(super) async fn fetch(&self, url: Url, max_redirects: u8, now: jiff::Timestamp) -> Result<Seen, Unreached> {
        let (subject, limit) = (shown(&url), self.limits.whole);
        within(limit, "the check", &subject, self.follow(url, max_redirects, now)).await?
    }

    async fn follow(&self, mut url: Url, max_redirects: u8, now: jiff::Timestamp) -> Result<Seen, Unreached> {
        let mut hops: Vec<Hop> = Vec::new();
        loop {
            hops.push(self.hop(url, now).await?);
            match target(&hops[hops.len() - 1])? {
                Some(next) if max_redirects > 0 => url = next,
                Some(_) | None => return Ok(Seen { hops }),
            }
            if hops.iter().any(|hop| hop.url == url) {
                return Err(Unreached::Loop { url: shown(&url) });
            }
            if hops.len() > usize::from(max_redirects) {
                return Err(Unreached::TooMany { most: max_redirects, url: shown(&url) });
            }
        }
    }

    /// One request, on a connection of its own.
    async fn hop(&self, url: Url, now: jiff::Timestamp) -> Result<Hop, Unreached> {
        let host = one_line(url.host_str().unwrap_or_default(), SHOWN_BYTES);
        let (stream, address) = self.connect(&url, &host).await?;
        let (answer, tls) = if url.scheme() == "https" {
            let (stream, tls) = self.secure(&url, &host, stream, address, now).await?;
            (self.exchange(&url, &host, stream).await?, Some(tls))
        } else {
            (self.exchange(&url, &host, stream).await?, None)
        };
        let (status, headers, body) = answer;
        Ok(Hop { url, address, status, headers, body, tls })
    }

    /// Connects to an address that was judged: the name is not looked up again.
    async fn connect(&self, url: &Url, host: &str) -> Result<(TcpStream, SocketAddr), Unreached> {
        let addresses = match url.host() {
            Some(Host::Ipv4(address)) => vec![IpAddr::V4(address)],
            Some(Host::Ipv6(address)) => vec![IpAddr::V6(address)],
            Some(Host::Domain(name)) => {
                let found = within(self.limits.resolve, "the name's lookup", host, self.resolver.resolve(name)).await?;
                found.map_err(|cause| Unreached::Dns { host: host.to_owned(), cause })?
            }
            None => Vec::new(),
        };
        for address in &addresses {
            let judged = self.allowed.judge(*address);
            judged.map_err(|refused| Unreached::Refused { host: host.to_owned(), refused })?;
        }
        let port = url.port_or_known_default().unwrap_or(80);
        let nowhere = || Unreached::Dns { host: host.to_owned(), cause: io::Error::other("it has no address") };
        let mut outcome = Err(nowhere());
        for address in addresses.into_iter().take(ADDRESSES_TRIED) {
            let address = SocketAddr::new(address, port);
            let connecting = within(self.limits.connect, "to connect", host, TcpStream::connect(address));
            outcome = match connecting.await {
                Ok(Ok(stream)) => return Ok((stream, address)),
                Ok(Err(cause)) => Err(Unreached::Connect { host: host.to_owned(), address, cause }),
                Err(late) => Err(late),
            };
        }
        outcome
    }

    /// A handshake with whoever answers: their certificate is judged afterwards, and nothing but one GET is sent.
    async fn secure(
        &self,
        url: &Url,
        host: &str,
        stream: TcpStream,
        address: SocketAddr,
        now: jiff::Timestamp,
    ) -> Result<(tokio_rustls::client::TlsStream<TcpStream>, Tls), Unreached> {
        let failed = |cause| Unreached::Tls { host: host.to_owned(), address, cause };
        let name = match url.host() {
            Some(Host::Ipv4(address)) => ServerName::from(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => ServerName::from(IpAddr::V6(address)),
            Some(Host::Domain(name)) => ServerName::try_from(name.to_owned())
                .map_err(|error| Unreached::BadUrl { whose: host.to_owned(), why: error.to_string() })?,
            None => return Err(failed(io::Error::other("there is no host"))),
        };
        let config = client_config().map_err(|error| failed(io::Error::other(error)))?;
        let connecting = TlsConnector::from(Arc::new(config)).connect(name.clone(), stream);
        let stream = within(self.limits.handshake, "the TLS handshake", host, connecting).await?.map_err(failed)?;
        let (_, session) = stream.get_ref();
        let chain: &[CertificateDer<'_>] = session.peer_certificates().unwrap_or_default();
        let tls = Tls {
            version: session.protocol_version().and_then(|version| version.as_str()).unwrap_or("unknown"),
            cipher: session.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).unwrap_or("unknown"),
            certificate: certificate::judge(chain, &name, &self.roots, now),
        };
        Ok((stream, tls))
    }

    async fn exchange(
        &self,
        url: &Url,
        host: &str,
        stream: impl AsyncRead + AsyncWrite + Unpin,
    ) -> Result<(u16, HeaderMap, Body), Unreached> {
        let bad = |why: String| Unreached::BadUrl { whose: host.to_owned(), why };
        let failed = |cause: hyper::Error| match cause.is_parse_too_large() {
            true => Unreached::HeadTooLarge { host: host.to_owned() },
            false => Unreached::BadAnswer { host: host.to_owned(), cause },
        };
        let authority = &url[Position::BeforeHost..Position::AfterPort];
        let request = Request::get(&url[Position::BeforePath..Position::AfterQuery])
            .header(HOST, authority)
            .header(USER_AGENT, concat!("switchyard-http-check/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT, "text/html,*/*;q=0.8")
            .header(CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(|error| bad(error.to_string()))?;
        let mut builder = http1::Builder::new();
        builder.max_buf_size(HEAD_BYTES).max_headers(HEAD_FIELDS);
        let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(failed)?;
        let exchange = async {
            let answer = within(self.limits.head, "its answer", host, sender.send_request(request)).await?;
            let answer = answer.map_err(failed)?;
            let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
            Ok((status, headers, read(answer, self.limits.body).await))
        };
        // Driven here and not in a task of its own, so that nothing outlives this function.
        let (mut connection, mut exchange) = (pin!(connection), pin!(exchange));
        let mut open = true;
        loop {
            tokio::select! {
                answer = &mut exchange => return answer,
                // What went wrong with it, the exchange is told.
                _ = &mut connection, if open => open = false,
            }
        }
    }
}

/// Reads a body within the limits.
async fn read(answer: Response<Incoming>, limit: Duration) -> Body {
    let (mut body, mut bytes) = (answer.into_body(), 0);
    let reading = async {
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return false };
            bytes += frame.data_ref().map_or(0, Bytes::len);
            if bytes > BODY_BYTES {
                return false;
            }
        }
        true
    };
    let whole = tokio::time::timeout(limit, reading).await.unwrap_or(false);
    Body { bytes: bytes.min(BODY_BYTES), whole }
}

async fn within<T>(
    limit: Duration,
    step: &'static str,
    subject: &str,
    future: impl Future<Output = T>,
) -> Result<T, Unreached> {
    let late = |_| Unreached::Timeout { subject: subject.to_owned(), step, limit };
    tokio::time::timeout(limit, future).await.map_err(late)
}

fn client_config() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(certificate::Whoever(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

impl Seen {
    /// The answer that is judged.
    pub(super) fn last(&self) -> &Hop {
        &self.hops[self.hops.len() - 1]
    }

    /// Whether a redirect led from one scheme to the other.
    pub(super) fn changes(&self, from: &str, to: &str) -> bool {
        self.hops.windows(2).any(|pair| pair[0].url.scheme() == from && pair[1].url.scheme() == to)
    }
}

impl Hop {
    pub(super) fn to_json(&self) -> Value {
        json!({ "url": shown(&self.url), "address": self.address.ip().to_string(), "status": self.status })
    }

    /// Whether it came over TLS.
    pub(super) fn is_secure(&self) -> bool {
        self.tls.is_some()
    }
}
