//! Signed statements of who we are (RFC 7515, RFC 7519), as token endpoints take them in the place of a password.

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::Timestamp;
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding, RsaKeyPair};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use serde::Serialize;
use zeroize::Zeroizing;

/// How long before now a statement says that it was made: a vendor whose clock is behind ours must not find it to be of the
/// future. It is what GitHub advises ("Generating a JSON Web Token (JWT) for a GitHub App").
const BACKDATED: Duration = Duration::from_secs(60);
/// How long from now it can be used: enough for all tries, short for whoever gets hold of it. Google takes an hour at most,
/// GitHub ten minutes, Microsoft advises five to ten.
const LASTS: Duration = Duration::from_secs(300);

/// How it is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256, which Google and GitHub ask for.
    Rs256,
    /// RSASSA-PSS with SHA-256, which Microsoft Entra asks for.
    Ps256,
}

/// When a statement was made, and until when it can be used: seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Times {
    pub(crate) iat: i64,
    pub(crate) exp: i64,
}

impl Times {
    pub(crate) fn at(now: Timestamp) -> Self {
        Self { iat: (now - BACKDATED).as_second(), exp: (now + LASTS).as_second() }
    }
}

/// An RSA key that signs.
pub(crate) struct Key(RsaKeyPair);

impl Key {
    /// The first private key of a PEM text, PKCS#8 or PKCS#1.
    ///
    /// # Errors
    ///
    /// What is wrong with it, and nothing of it.
    pub(crate) fn read(pem: &str) -> Result<Self, &'static str> {
        let der = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| "it has no private key, PEM")?;
        let der = Zeroizing::new(der);
        let pair = match &*der {
            PrivateKeyDer::Pkcs8(der) => RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()),
            PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der()),
            _ => return Err("its private key is not one of RSA"),
        };
        pair.map(Self).map_err(|_| "its private key is not one of RSA with 2,048 to 4,096 bits")
    }

    /// The statement, signed: header, claims and signature in their compact form. Until it is over it is worth as much as
    /// what it is shown for.
    pub(crate) fn sign(
        &self,
        algorithm: Algorithm,
        key_id: &[(&str, &str)],
        claims: &impl Serialize,
    ) -> Result<Zeroizing<String>, &'static str> {
        let (name, padding): (_, &'static dyn RsaEncoding) = match algorithm {
            Algorithm::Rs256 => ("RS256", &RSA_PKCS1_SHA256),
            Algorithm::Ps256 => ("PS256", &RSA_PSS_SHA256),
        };
        let mut header = serde_json::Map::new();
        for (field, value) in [("alg", name), ("typ", "JWT")].iter().chain(key_id) {
            header.insert((*field).to_owned(), (*value).into());
        }
        let header = serde_json::Value::Object(header).to_string();
        let claims = serde_json::to_vec(claims).map_err(|_| "its claims are no JSON")?;
        let mut signature = vec![0; self.0.public().modulus_len()];
        // Room for all at once: a buffer that grows leaves copies behind.
        let most = (header.len() + claims.len() + signature.len()).div_ceil(3) * 4 + 16;
        let mut token = Zeroizing::new(String::with_capacity(most));
        BASE64_URL_SAFE_NO_PAD.encode_string(header, &mut token);
        token.push('.');
        BASE64_URL_SAFE_NO_PAD.encode_string(claims, &mut token);
        let signed = self.0.sign(padding, &SystemRandom::new(), token.as_bytes(), &mut signature);
        signed.map_err(|_| "its private key does not sign")?;
        token.push('.');
        BASE64_URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }
}
