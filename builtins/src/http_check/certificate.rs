//! What a certificate says of itself, and what is wrong with it. A bad one is recorded and no reason to stop.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};
use serde_json::{Value, json};
use switchyard_core::job::one_line;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::SHOWN_BYTES;

/// Days before its end at which a certificate should have been renewed: what ACME clients leave at the latest of a
/// 90 days' certificate is 30, and of a 45 days' one 15.
const SOON_DAYS: i64 = 14;
/// Names of a certificate that are shown; there may be hundreds.
const NAMES_SHOWN: usize = 50;

/// Who browsers trust.
pub(super) fn public_roots() -> Arc<RootCertStore> {
    Arc::new(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() })
}

/// A certificate, judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Certificate {
    pub(super) details: Option<Details>,
    pub(super) faults: Vec<Fault>,
}

/// What it says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Details {
    pub(super) subject: String,
    pub(super) issuer: String,
    /// Who it is for; at most [`NAMES_SHOWN`].
    pub(super) names: Vec<String>,
    pub(super) names_in_all: usize,
    pub(super) not_before: Option<Timestamp>,
    pub(super) not_after: Option<Timestamp>,
    pub(super) days_left: i64,
    pub(super) key: String,
    pub(super) signature: String,
}

/// Something wrong with a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nothing can be told of it.
    Unreadable,
    /// No public authority answers for it, for this reason.
    Untrusted(String),
    /// Its time is over.
    Expired,
    /// Its time has not come.
    NotYetValid,
    /// It is for others.
    WrongName,
    /// Its time is over in so many days.
    ExpiresSoon(i64),
    /// Its key is too short.
    WeakKey(String),
    /// Its signature is made with what is broken.
    WeakSignature(String),
}

/// Judges what a server showed: its certificate first, then those that lead to an authority.
pub(super) fn judge(
    chain: &[CertificateDer<'_>],
    name: &ServerName<'_>,
    roots: &RootCertStore,
    now: Timestamp,
) -> Certificate {
    let unreadable = || Certificate { details: None, faults: vec![Fault::Unreadable] };
    let Some((first, intermediates)) = chain.split_first() else { return unreadable() };
    let Ok((_, x509)) = X509Certificate::from_der(first) else { return unreadable() };
    let (from, until) = (x509.validity().not_before.timestamp(), x509.validity().not_after.timestamp());
    let mut faults = Vec::new();
    // An authority is asked for at a moment within its time, so that an old certificate of a good authority is told from
    // one of nobody.
    let at = Duration::from_secs(u64::try_from(now.as_second().min(until).max(from)).unwrap_or(0));
    if let Err(why) = trusted(first, intermediates, roots, UnixTime::since_unix_epoch(at)) {
        faults.push(Fault::Untrusted(why));
    }
    if ParsedCertificate::try_from(first).and_then(|parsed| verify_server_name(&parsed, name)).is_err() {
        faults.push(Fault::WrongName);
    }
    let days_left = (until - now.as_second()).div_euclid(24 * 3600);
    if now.as_second() > until {
        faults.push(Fault::Expired);
    } else if now.as_second() < from {
        faults.push(Fault::NotYetValid);
    } else if days_left < SOON_DAYS {
        faults.push(Fault::ExpiresSoon(days_left));
    }
    let (key, weak) = key(x509.public_key());
    if weak {
        faults.push(Fault::WeakKey(key.clone()));
    }
    let (signature, weak) = signature(&x509.signature_algorithm.algorithm.to_id_string());
    if weak {
        faults.push(Fault::WeakSignature(signature.clone()));
    }
    let names = names(&x509);
    let details = Details {
        subject: one_line(&x509.subject().to_string(), SHOWN_BYTES),
        issuer: one_line(&x509.issuer().to_string(), SHOWN_BYTES),
        names_in_all: names.len(),
        names: names.into_iter().take(NAMES_SHOWN).collect(),
        not_before: Timestamp::from_second(from).ok(),
        not_after: Timestamp::from_second(until).ok(),
        days_left,
        key,
        signature,
    };
    Certificate { details: Some(details), faults }
}

fn trusted(
    first: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    roots: &RootCertStore,
    at: UnixTime,
) -> Result<(), String> {
    let algorithms = ring::default_provider().signature_verification_algorithms;
    let verified = ParsedCertificate::try_from(first).and_then(|parsed| {
        verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, at, algorithms.all)
    });
    verified.map_err(|error| match error {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => "no known authority issued it".to_owned(),
        error => one_line(&error.to_string(), 200),
    })
}

/// Who it is for: its DNS names and addresses.
fn names(x509: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(names)) = x509.subject_alternative_name() else { return Vec::new() };
    let shown = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(one_line(name, SHOWN_BYTES)),
        GeneralName::IPAddress(bytes) => match (<[u8; 4]>::try_from(*bytes), <[u8; 16]>::try_from(*bytes)) {
            (Ok(v4), _) => Some(IpAddr::from(v4).to_string()),
            (_, Ok(v6)) => Some(IpAddr::from(v6).to_string()),
            (Err(_), Err(_)) => None,
        },
        _ => None,
    };
    names.value.general_names.iter().filter_map(shown).collect()
}

/// What the key is, and whether it is too short: under 2048 bits of RSA or 224 of a curve (NIST SP 800-131A).
fn key(key: &SubjectPublicKeyInfo<'_>) -> (String, bool) {
    let algorithm = key.algorithm.algorithm.to_id_string();
    match (key.parsed(), algorithm.as_str()) {
        (Ok(PublicKey::RSA(rsa)), _) => (format!("RSA {}", rsa.key_size()), rsa.key_size() < 2048),
        (Ok(PublicKey::EC(point)), _) => {
            let curve = key.algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
            let curve = curve.map(|curve| curve.to_id_string()).unwrap_or_default();
            let (name, bits) = match curve.as_str() {
                "1.2.840.10045.3.1.7" => ("P-256".to_owned(), 256),
                "1.3.132.0.34" => ("P-384".to_owned(), 384),
                "1.3.132.0.35" => ("P-521".to_owned(), 521),
                _ => (curve, point.key_size()),
            };
            (format!("EC {name}"), bits < 224)
        }
        (Ok(PublicKey::DSA(_)), _) => ("DSA".to_owned(), true),
        (_, "1.3.101.112") => ("Ed25519".to_owned(), false),
        (_, "1.3.101.113") => ("Ed448".to_owned(), false),
        _ => (algorithm, false),
    }
}

/// What the signature is made with, and whether that is broken.
fn signature(algorithm: &str) -> (String, bool) {
    let (name, weak) = match algorithm {
        "1.2.840.113549.1.1.4" => ("MD5 with RSA", true),
        "1.2.840.113549.1.1.5" => ("SHA-1 with RSA", true),
        "1.2.840.10045.4.1" => ("SHA-1 with ECDSA", true),
        "1.2.840.113549.1.1.10" => ("RSASSA-PSS", false),
        "1.2.840.113549.1.1.11" => ("SHA-256 with RSA", false),
        "1.2.840.113549.1.1.12" => ("SHA-384 with RSA", false),
        "1.2.840.113549.1.1.13" => ("SHA-512 with RSA", false),
        "1.2.840.10045.4.3.2" => ("SHA-256 with ECDSA", false),
        "1.2.840.10045.4.3.3" => ("SHA-384 with ECDSA", false),
        "1.2.840.10045.4.3.4" => ("SHA-512 with ECDSA", false),
        "1.3.101.112" => ("Ed25519", false),
        other => (other, false),
    };
    (name.to_owned(), weak)
}

impl Certificate {
    pub(super) fn to_json(&self) -> Value {
        let faults: Vec<&str> = self.faults.iter().map(Fault::code).collect();
        let Some(details) = &self.details else { return json!({ "faults": faults }) };
        json!({
            "faults": faults,
            "subject": details.subject,
            "issuer": details.issuer,
            "names": details.names,
            "names_in_all": details.names_in_all,
            "not_before": details.not_before.map(|at| at.to_string()),
            "not_after": details.not_after.map(|at| at.to_string()),
            "days_left": details.days_left,
            "key": details.key,
            "signature": details.signature,
        })
    }
}

impl Fault {
    /// The stable word for it.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Unreadable => "certificate_unreadable",
            Self::Untrusted(_) => "certificate_untrusted",
            Self::Expired => "certificate_expired",
            Self::NotYetValid => "certificate_not_yet_valid",
            Self::WrongName => "certificate_wrong_name",
            Self::ExpiresSoon(_) => "certificate_expires_soon",
            Self::WeakKey(_) => "certificate_weak_key",
            Self::WeakSignature(_) => "certificate_weak_signature",
        }
    }

    /// What it costs, and why.
    pub(super) fn judged(&self) -> (i16, String) {
        match self {
            Self::Unreadable => (-60, "its certificate cannot be read".to_owned()),
            Self::Untrusted(why) => (-60, format!("its certificate is not trusted: {why}")),
            Self::Expired => (-60, "its certificate has expired".to_owned()),
            Self::NotYetValid => (-60, "its certificate is not valid yet".to_owned()),
            Self::WrongName => (-60, "its certificate is for other names".to_owned()),
            Self::ExpiresSoon(days) => (-10, format!("its certificate expires in {days} days")),
            Self::WeakKey(key) => (-30, format!("its certificate's key is too short: {key}")),
            Self::WeakSignature(made) => (-30, format!("its certificate's signature can be forged: {made}")),
        }
    }
}

/// Takes every certificate, because it is judged afterwards. That the server holds its key is verified still.
#[derive(Debug)]
pub(super) struct Whoever(pub(super) Arc<CryptoProvider>);

impl ServerCertVerifier for Whoever {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
