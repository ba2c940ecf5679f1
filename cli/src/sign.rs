//! Requests signed as API Gateway's IAM authorizer asks for (AWS Signature Version 4, service `execute-api`).

use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use aws_smithy_runtime_api::client::identity::Identity;

use crate::exit::Failure;

/// What a yard behind API Gateway is asked as.
const SERVICE: &str = "execute-api";

/// Signs requests. It has no `Debug`: its credentials show nowhere.
pub(crate) struct Signer {
    region: String,
    identity: Identity,
}

impl Signer {
    /// The signer for a yard that answers at `url`: in the region that is asked for, else in that of the URL's host when
    /// it is API Gateway's own; `None` when neither says that it signs. `get` reads the environment.
    ///
    /// # Errors
    ///
    /// The region is none, the URL no web address, or no credentials are set.
    pub(crate) fn find(
        url: &str,
        asked: Option<&str>,
        get: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, Failure> {
        let Some(region) = asked.map(str::to_owned).or_else(|| region_of(url)) else { return Ok(None) };
        let is_region = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if region.is_empty() || !region.chars().all(is_region) {
            return Err(Failure::BadInput("--sign: expected a region, such as eu-central-1".to_owned()));
        }
        if host(url).is_none_or(str::is_empty) {
            return Err(Failure::BadInput(format!(
                "--url {url}: expected http:// or https://, and a host, to sign for"
            )));
        }
        let set = |name: &str| get(name).filter(|value| !value.is_empty());
        let (Some(key), Some(secret)) = (set("AWS_ACCESS_KEY_ID"), set("AWS_SECRET_ACCESS_KEY")) else {
            return Err(Failure::BadInput(format!(
                "{url} wants signed requests, and AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not both set: for a \
                 profile or a single sign-on run `eval \"$(aws configure export-credentials --format env)\"` first, or set \
                 SWITCHYARD_TOKEN where tokens are accepted"
            )));
        };
        let identity = Credentials::new(key, secret, set("AWS_SESSION_TOKEN"), None, "environment").into();
        Ok(Some(Self { region, identity }))
    }

    /// The headers that sign this request at this moment; `headers` are those that it has already.
    ///
    /// # Errors
    ///
    /// It is no request that can be signed.
    pub(crate) fn headers(
        &self,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        now: SystemTime,
    ) -> Result<Vec<(String, String)>, Failure> {
        // Neither the library's words nor the request's own are repeated: they may hold what is secret.
        let unsigned = |what: &str| Failure::BadInput(format!("cannot sign the request to {url}: {what}"));
        let params = v4::SigningParams::builder()
            .identity(&self.identity)
            .region(&self.region)
            .name(SERVICE)
            .time(now)
            .settings(SigningSettings::default())
            .build()
            .map_err(|_| unsigned("its parameters are incomplete"))?
            .into();
        let request = SignableRequest::new(method, url, headers.iter().copied(), SignableBody::Bytes(body))
            .map_err(|_| unsigned("its URL is none"))?;
        let (signed, _) = sign(request, &params).map_err(|_| unsigned("its URL or a header is none"))?.into_parts();
        Ok(signed.headers().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }
}

/// The host of a web address, with its port.
fn host(url: &str) -> Option<&str> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
    rest.split(['/', '?', '#']).next()
}

/// The region of an API's own host name, `ID.execute-api.REGION.amazonaws.com` (API Gateway Developer Guide, "Invoke
/// URL"; in China it ends with `.cn`).
fn region_of(url: &str) -> Option<String> {
    let host = host(url)?.to_ascii_lowercase();
    let name = host.split(':').next()?;
    let name = name.strip_suffix(".cn").unwrap_or(name).strip_suffix(".amazonaws.com")?;
    let (id, region) = name.split_once(".execute-api.")?;
    (!id.is_empty() && !region.contains('.')).then(|| region.to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
    const URL: &str = "https://abcde12345.execute-api.eu-central-1.amazonaws.com";

    fn set(name: &str) -> Option<String> {
        let set = BTreeMap::from([("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"), ("AWS_SECRET_ACCESS_KEY", SECRET)]);
        set.get(name).map(|value| (*value).to_owned())
    }

    #[test]
    fn an_api_s_own_host_says_its_region_and_no_other_host_does() {
        for (url, region) in [
            (URL, Some("eu-central-1")),
            ("https://abc.execute-api.cn-north-1.amazonaws.com.cn/v1/jobs?a=b", Some("cn-north-1")),
            ("https://ABC.Execute-API.us-east-1.amazonaws.com:443/", Some("us-east-1")),
            ("http://127.0.0.1:7420", None),
            ("https://yard.example.com/x.execute-api.eu-central-1.amazonaws.com", None),
            ("https://abc.execute-api.eu-central-1.amazonaws.com.example.com", None),
            ("https://.execute-api.eu-central-1.amazonaws.com", None),
            ("abc.execute-api.eu-central-1.amazonaws.com", None),
        ] {
            assert_eq!(region_of(url).as_deref(), region, "{url}");
            assert_eq!(Signer::find(url, None, &set).unwrap().map(|signer| signer.region).as_deref(), region);
        }
        let asked = Signer::find("http://127.0.0.1:4566/x", Some("us-west-2"), &set).unwrap().unwrap();
        assert_eq!(asked.region, "us-west-2");
    }

    #[test]
    fn without_credentials_it_says_how_to_get_some() {
        let half = |name: &str| (name == "AWS_SECRET_ACCESS_KEY").then(|| SECRET.to_owned());
        for get in [&half as &dyn Fn(&str) -> Option<String>, &|_| None, &|_| Some(String::new())] {
            let said = Signer::find(URL, None, get).err().unwrap().to_string();
            assert!(said.contains("aws configure export-credentials --format env"), "{said}");
            assert!(said.contains("SWITCHYARD_TOKEN") && !said.contains(SECRET), "{said}");
        }
        for (url, region) in [(URL, "EU"), (URL, ""), ("yard", "eu-central-1"), ("http:///x", "eu-central-1")] {
            assert!(Signer::find(url, Some(region), &set).is_err(), "{url} {region}");
        }
    }

    /// Whether the signature is right, `cli/tests/signed.rs` judges by a reading of its own.
    #[test]
    fn what_is_sent_besides_is_signed_and_the_secret_shows_nowhere() {
        let token = |name: &str| set(name).or_else(|| (name == "AWS_SESSION_TOKEN").then(|| "session".to_owned()));
        let signer = Signer::find(URL, None, &token).unwrap().unwrap();
        let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let url = format!("{URL}/v1/jobs?wait=25&label=a%3Db");
        let sign = |headers: &[(&str, &str)], body: &[u8]| {
            let signed = signer.headers("POST", &url, headers, body, now).unwrap();
            signed.into_iter().collect::<BTreeMap<_, _>>()
        };
        let one = sign(&[("idempotency-key", "k")], b"{}");
        assert_eq!(one["x-amz-date"], "20231114T221320Z");
        assert_eq!(one["x-amz-security-token"], "session");
        let said = &one["authorization"];
        assert!(said.contains("Credential=AKIDEXAMPLE/20231114/eu-central-1/execute-api/aws4_request"), "{said}");
        assert!(said.contains("SignedHeaders=host;idempotency-key;x-amz-date;x-amz-security-token"), "{said}");
        assert!(one.values().all(|value| !value.contains(SECRET)));
        assert_ne!(sign(&[("idempotency-key", "l")], b"{}")["authorization"], *said);
        assert_ne!(sign(&[("idempotency-key", "k")], b"{ }")["authorization"], *said);
        let failed = signer.headers("POST", "http://[", &[], b"", now).err().unwrap().to_string();
        assert!(!failed.contains(SECRET) && !failed.contains("session"), "{failed}");
    }
}
