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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const PKCS8: &str = include_str!("../tests/keys/test-only-ours.pkcs8.pem");
    const PKCS1: &str = include_str!("../tests/keys/test-only-ours.pkcs1.pem");
    /// By `openssl dgst -sha256 -sign`, of the same header and claims with the same key: this padding leaves nothing to chance.
    const BY_OPENSSL: &str = concat!(
        "eyJhbGciOiJSUzI1NiIsImtpZCI6ImtleS0xIiwidHlwIjoiSldUIn0.eyJpc3MiOiIxMjM0NSJ9.UY91wT7FCPby_eSsOos9-Bd",
        "x6mwHDoMfQVaeCRD9T-L0F9BB4WuHrcUhc1gMTjxGHZqzScTz4_y7Cwy9VhXLAXfP5dJZuOqixPIshWc82gpF9TxvNm_DZ2f_YR9",
        "95_C0xaqfPF09Aw6YwZxopgWe2e7_c3b2t6UicL8vGXXtHPoM0g4As0i99B2RKxiytLmMVc9ofQ6v6l8laZv2SOtfgH2l3JhRk60",
        "c6QjSGWKU8Iw6LfnwFqYGyJvSbe_91PoVM3-JExOgnbhKmoZpAoSn7PMW6LEL49zLEQJFDUHMiKX64_gKVGFJM9mjPk7GseE_BE1",
        "jf95em1gQNvvG7f9sYQ",
    );

    #[test]
    fn a_signature_is_what_another_library_makes_of_the_same() {
        for pem in [PKCS8, PKCS1] {
            let key = Key::read(pem).unwrap();
            let signed = key.sign(Algorithm::Rs256, &[("kid", "key-1")], &json!({ "iss": "12345" })).unwrap();
            assert_eq!(*signed, BY_OPENSSL);
            // The other padding has chance in it, so that no two are the same; tests/peers checks it.
            let [one, two] = [(); 2].map(|()| key.sign(Algorithm::Ps256, &[], &json!({})).unwrap());
            assert_ne!(*one, *two);
        }
    }

    #[test]
    fn no_buffer_of_a_statement_grows() {
        let key = Key::read(PKCS8).unwrap();
        for n in 0..70 {
            let claims = json!({ "scope": "s".repeat(n * 13) });
            let signed = key.sign(Algorithm::Rs256, &[("kid", &"k".repeat(n))], &claims).unwrap();
            let header = json!({ "alg": "RS256", "typ": "JWT", "kid": "k".repeat(n) }).to_string();
            let most = (header.len() + claims.to_string().len() + 256).div_ceil(3) * 4 + 16;
            assert!(signed.len() <= most && signed.capacity() < 2 * most, "{n}: {} of {most}", signed.len());
        }
    }

    #[test]
    fn a_statement_is_of_a_minute_ago_and_lasts_five() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        assert_eq!(Times::at(now), Times { iat: 1_799_999_940, exp: 1_800_000_300 });
    }

    #[test]
    fn what_is_no_key_is_refused_and_not_repeated() {
        let body = PKCS8.replace("PRIVATE KEY", "EC PRIVATE KEY");
        let cut = format!("{}-----END PRIVATE KEY-----\n", &PKCS8[..PKCS8.len() / 2]);
        for (text, why) in [
            ("", "it has no private key, PEM"),
            ("hunter2", "it has no private key, PEM"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "it has no private key, PEM"),
            ("-----BEGIN PRIVATE KEY-----\n!!!!\n-----END PRIVATE KEY-----\n", "it has no private key, PEM"),
            (&body, "its private key is not one of RSA"),
            (&PKCS8[..1000], "it has no private key, PEM"),
        ] {
            assert_eq!(Key::read(text).err(), Some(why), "{text}");
        }
        assert!(Key::read(&cut).is_err());
    }
}
