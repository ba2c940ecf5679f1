//! The one HTTP client that vendors are asked with: HTTP/1.1 over TLS by rustls and ring, no redirects, answers of a bounded
//! length, a bounded number of tries.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use jiff::Timestamp;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use switchyard_core::ports::{Ambient, backoff, describe};
use tracing::warn;
use zeroize::Zeroizing;

use crate::answer::{VendorError, words};
use crate::settings::{BadSettings, Patience, Settings};

/// The longest answer: a token and what it is for take a few KiB.
const ANSWER_BYTES: usize = 64 * 1024;

/// A question to a vendor.
pub(crate) struct Question<'a> {
    /// Who is asked.
    pub(crate) vendor: &'static str,
    /// How.
    pub(crate) method: Method,
    /// Where.
    pub(crate) url: String,
    /// What says who asks, where that is a header's to say.
    pub(crate) bearer: Option<&'a str>,
    /// What else is said in headers; nothing secret.
    pub(crate) headers: &'a [(&'static str, &'static str)],
    /// What is sent.
    pub(crate) body: Sent,
    /// What of all that is secret.
    pub(crate) secrets: &'a [&'a str],
}

/// What is sent.
pub(crate) enum Sent {
    /// Nothing.
    Nothing,
    /// A form, as OAuth has it.
    Form(Zeroizing<Vec<u8>>),
    /// JSON.
    Json(Vec<u8>),
}

impl Sent {
    /// A form of these fields.
    pub(crate) fn form(fields: &[(&str, &str)]) -> Self {
        // Room for all at once: a buffer that grows leaves copies of secrets behind.
        let most = fields.iter().map(|(name, value)| 3 * (name.len() + value.len()) + 2).sum();
        let mut form = Zeroizing::new(Vec::with_capacity(most));
        for (name, value) in fields {
            if !form.is_empty() {
                form.push(b'&');
            }
            encode(name, &mut form);
            form.push(b'=');
            encode(value, &mut form);
        }
        Self::Form(form)
    }
}

/// `application/x-www-form-urlencoded` (RFC 6749, appendix B).
fn encode(text: &str, form: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'*' => form.push(byte),
            b' ' => form.push(b'+'),
            _ => form.extend([b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]),
        }
    }
}

/// The client.
pub(crate) struct Http {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    patience: Patience,
    ambient: Arc<dyn Ambient>,
}

/// A try that failed.
enum Failed {
    /// Another may not.
    Passing {
        what: String,
        /// How long the vendor asks to be left alone.
        pause: Option<Duration>,
    },
    /// So would any other.
    Lasting(VendorError),
}

impl Http {
    pub(crate) fn new(settings: &Settings, ambient: Arc<dyn Ambient>) -> Result<Self, BadSettings> {
        let bad = |name, what: &str| BadSettings { name, what: what.to_owned() };
        let mut roots = RootCertStore::empty();
        match &settings.trusted {
            Some(pem) => {
                for certificate in CertificateDer::pem_slice_iter(pem) {
                    let certificate = certificate.map_err(|_| bad("trusted", "is no PEM of certificates"))?;
                    roots.add(certificate).map_err(|_| bad("trusted", "has a broken certificate"))?;
                }
            }
            None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        }
        if roots.is_empty() {
            return Err(bad("trusted", "has no certificate"));
        }
        let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|_| bad("trusted", "no protocol version fits"))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
        // A function that is frozen for minutes comes back to connections that are none.
        let client = Client::builder(TokioExecutor::new()).pool_idle_timeout(Duration::from_secs(20)).build(connector);
        Ok(Self { client, patience: settings.patience, ambient })
    }

    /// The body of the answer, if the vendor grants what is asked. What may pass is tried again; so often that is what
    /// asking for a token twice costs nobody anything.
    pub(crate) async fn ask(&self, question: Question<'_>) -> Result<Zeroizing<Vec<u8>>, VendorError> {
        let Question { vendor, method, url, bearer, headers, body, secrets } = question;
        let mut sent = HeaderMap::new();
        sent.insert(USER_AGENT, HeaderValue::from_static(concat!("switchyard/", env!("CARGO_PKG_VERSION"))));
        sent.insert(ACCEPT, HeaderValue::from_static("application/json"));
        for (name, value) in headers {
            sent.insert(*name, HeaderValue::from_static(value));
        }
        if let Some(bearer) = bearer {
            let text = Zeroizing::new(format!("Bearer {bearer}"));
            let value = HeaderValue::from_str(&text);
            let mut value = value.map_err(|_| VendorError::answer(vendor, "a token that no header could carry"))?;
            value.set_sensitive(true);
            sent.insert(AUTHORIZATION, value);
        }
        let body = match body {
            Sent::Nothing => Bytes::new(),
            Sent::Form(form) => {
                sent.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
                Bytes::from_owner(form)
            }
            Sent::Json(json) => {
                sent.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                Bytes::from(json)
            }
        };
        let mut tried = 1;
        loop {
            let request = Request::builder().method(method.clone()).uri(&url).body(Full::new(body.clone()));
            let mut request = request.map_err(|_| VendorError::down(vendor, "its endpoint is no URL"))?;
            request.headers_mut().clone_from(&sent);
            let (what, pause) = match self.once(vendor, request, secrets).await {
                Ok(body) => return Ok(body),
                Err(Failed::Lasting(error)) => return Err(error),
                Err(Failed::Passing { what, pause }) => (what, pause.unwrap_or_default()),
            };
            if pause > self.patience.longest_pause {
                let what = format!("{what}, and asks for {} seconds of rest", pause.as_secs());
                return Err(VendorError::down(vendor, what));
            }
            if tried >= self.patience.tries {
                return Err(VendorError::down(vendor, format!("{what}, {tried} times")));
            }
            let own = backoff(self.patience.first_backoff, tried, self.ambient.chance());
            warn!(error = %format_args!("{vendor}: {what}"), tried, "a vendor does not answer as it should; trying again");
            self.ambient.pause(own.max(pause)).await;
            tried += 1;
        }
    }

    /// One try.
    async fn once(
        &self,
        vendor: &'static str,
        request: Request<Full<Bytes>>,
        secrets: &[&str],
    ) -> Result<Zeroizing<Vec<u8>>, Failed> {
        let passing = |what: String| Failed::Passing { what, pause: None };
        let exchange = async {
            let answer = self.client.request(request).await;
            let (head, mut body) = answer.map_err(|error| passing(describe(&error)))?.into_parts();
            // Room for all at once: a buffer that grows leaves copies of secrets behind.
            let mut read = Zeroizing::new(Vec::with_capacity(ANSWER_BYTES));
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| passing(format!("its answer broke off: {}", describe(&error))))?;
                let Ok(data) = frame.into_data() else { continue };
                if read.len() + data.len() > ANSWER_BYTES {
                    let what = format!("its answer has over {ANSWER_BYTES} bytes");
                    return Err(Failed::Lasting(VendorError::answer(vendor, what)));
                }
                read.extend_from_slice(&data);
            }
            Ok((head, read))
        };
        let exchanged = tokio::time::timeout(self.patience.attempt, exchange).await;
        let seconds = self.patience.attempt.as_secs_f64();
        let (head, body) = exchanged.map_err(|_| passing(format!("no answer in {seconds} seconds")))??;
        let now = self.ambient.now();
        let whole = || if spent(&head.headers) { reset(&head.headers, now) } else { None };
        let pause = rest(&head.headers, now).or_else(whole);
        let status = head.status;
        match status {
            _ if status.is_success() => Ok(body),
            // GitHub says so of its limits by 403, of the hourly one with nothing left (REST API, "Rate limits").
            StatusCode::FORBIDDEN if pause.is_some() || spent(&head.headers) => {
                Err(Failed::Passing { what: told(status), pause })
            }
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                Err(Failed::Passing { what: told(status), pause })
            }
            _ if status.is_server_error() => Err(Failed::Passing { what: told(status), pause }),
            _ if status.is_client_error() => {
                let said = words(&body, secrets);
                Err(Failed::Lasting(VendorError::Refused { vendor, status: status.as_u16(), said }))
            }
            // Whoever sends us elsewhere wants a secret sent elsewhere.
            _ => Err(Failed::Lasting(VendorError::answer(vendor, format!("{}, and nothing else", told(status))))),
        }
    }
}

/// Whether nothing is left of what may be asked in an hour.
fn spent(headers: &HeaderMap) -> bool {
    headers.get("x-ratelimit-remaining").is_some_and(|left| left.as_bytes() == b"0")
}

/// When a limit that is spent is whole again, in seconds since 1970.
fn reset(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let at = headers.get("x-ratelimit-reset")?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::try_from(Timestamp::from_second(at).ok()?.duration_since(now)).unwrap_or_default())
}

fn told(status: StatusCode) -> String {
    format!("it answers with status {}", status.as_u16())
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http").field("patience", &self.patience).finish_non_exhaustive()
    }
}

/// How long an answer asks to be left alone (RFC 9110, section 10.2.3): so many seconds, or until a date.
fn rest(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(Duration::try_from(date.duration_since(now)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_has_no_character_that_means_something_else() {
        let Sent::Form(form) = Sent::form(&[("a b", "c&d=e%+/\n"), ("scope", "https://x.y/.default ü*-._")]) else {
            panic!("no form");
        };
        let expected = "a+b=c%26d%3De%25%2B%2F%0A&scope=https%3A%2F%2Fx.y%2F.default+%C3%BC*-._";
        assert_eq!(std::str::from_utf8(&form).unwrap(), expected);
    }

    #[test]
    fn a_rest_is_read_in_both_of_its_forms() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        for (text, expected) in [
            ("0", Some(0)),
            ("7", Some(7)),
            ("Fri, 15 Jan 2027 08:00:30 GMT", Some(30)),
            ("Fri, 15 Jan 2027 07:00:00 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
        ] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_str(text).unwrap())]);
            assert_eq!(rest(&headers, now), expected.map(Duration::from_secs), "{text}");
        }
        assert_eq!(rest(&HeaderMap::new(), now), None);
    }
}
