//! The built-in capability `http-check`: how a website presents itself to a browser, graded, and why.
//!
//! A URL is fetched with GET, from addresses that were judged first (`fetch`); what came of it is judged by plain functions
//! over values (`certificate`, `headers`, `cookies`, `grade`). Nothing that could be a secret is kept: of a URL no query,
//! of a cookie no value.

mod certificate;
mod cookies;
mod fetch;
mod grade;
mod headers;
#[cfg(test)]
mod tests;

use ipnet::IpNet;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use switchyard_core::catalog::BadSettings;
use switchyard_core::job::{Failure, one_line};
use switchyard_core::ports::describe;
use url::Url;

use self::fetch::{Fetcher, Limits, System};
use crate::addresses::Allowed;
use crate::builtin::BuiltinFailed;

/// The version of a result's JSON.
const RESULT_VERSION: u64 = 1;
/// Redirects that are followed unless the payload says otherwise: what browsers' users meet is one or two.
const REDIRECTS: u8 = 5;
/// The most redirects a payload may ask for.
const REDIRECTS_MAX: u8 = 10;
/// The longest URL that is taken, as most servers have it.
const URL_BYTES: usize = 8 * 1024;
/// What is kept of a text that a server chose.
const SHOWN_BYTES: usize = 300;

/// What a job asks for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Payload {
    url: String,
    #[serde(default = "redirects")]
    max_redirects: u8,
}

fn redirects() -> u8 {
    REDIRECTS
}

/// What an operator sets in the catalog.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    allow: Vec<String>,
}

/// Judges the settings in the catalog: `allow`, a list of networks that may be reached beside public addresses.
///
/// # Errors
///
/// Names what is wrong.
pub(crate) fn check_settings(settings: &Value) -> Result<(), BadSettings> {
    allowed(settings).map(drop)
}

fn allowed(settings: &Value) -> Result<Allowed, BadSettings> {
    let Settings { allow } = Settings::deserialize(settings)
        .map_err(|error| BadSettings { path: String::new(), message: one_line(&error.to_string(), 200) })?;
    let network = |(at, text): (usize, &String)| {
        text.parse::<IpNet>().map_err(|_| BadSettings {
            path: format!("allow[{at}]"),
            message: format!("`{}` is no network: expected one such as 10.0.0.0/8 or fd00::/8", one_line(text, 60)),
        })
    };
    Ok(Allowed::public(allow.iter().enumerate().map(network).collect::<Result<_, _>>()?))
}

/// Runs the capability on a job's payload.
///
/// # Errors
///
/// What could not be reached, with a code: `invalid_payload`, `bad_settings`, and those of [`fetch::Unreached`].
pub(crate) async fn run(payload: &Value, settings: &Value, now: Timestamp) -> Result<Value, BuiltinFailed> {
    let permanent =
        |code: &str, message: String| BuiltinFailed { failure: Failure::new(code, message), permanent: true };
    let payload =
        Payload::deserialize(payload).map_err(|error| permanent("invalid_payload", format!("payload: {error}")))?;
    let allowed = allowed(settings).map_err(|error| permanent("bad_settings", format!("run.with.{error}")))?;
    let fetcher = Fetcher { allowed, resolver: &System, roots: certificate::public_roots(), limits: Limits::default() };
    check(&fetcher, &payload, now).await
}

async fn check(fetcher: &Fetcher<'_>, payload: &Payload, now: Timestamp) -> Result<Value, BuiltinFailed> {
    let unreached = |error: fetch::Unreached| BuiltinFailed {
        failure: Failure::new(error.code(), describe(&error)),
        permanent: error.is_permanent(),
    };
    let url = fetch::asked(&payload.url).map_err(unreached)?;
    let seen = fetcher.fetch(url, payload.max_redirects.min(REDIRECTS_MAX), now).await.map_err(unreached)?;
    Ok(result(&seen))
}

/// All that is told of a website.
fn result(seen: &fetch::Seen) -> Value {
    let last = seen.last();
    let headers = headers::judge(&last.headers, last.is_secure());
    let cookies = cookies::judge(&last.headers, last.is_secure());
    let grade = grade::grade(seen, &headers, &cookies);
    let hops: Vec<Value> = seen.hops.iter().map(fetch::Hop::to_json).collect();
    json!({
        "version": RESULT_VERSION,
        "url": shown(&seen.hops[0].url),
        "final_url": shown(&last.url),
        "score": grade.score,
        "grade": grade.letter,
        "reasons": grade.reasons.iter().map(grade::Reason::to_json).collect::<Vec<_>>(),
        "hops": hops,
        "redirects": {
            "followed": seen.hops.len() - 1,
            "to_https": seen.changes("http", "https"),
            "downgraded": seen.changes("https", "http"),
        },
        "body": { "bytes": last.body.bytes, "whole": last.body.whole },
        "tls": last.tls.as_ref().map(|tls| json!({ "version": tls.version, "cipher": tls.cipher })),
        "certificate": last.tls.as_ref().map(|tls| tls.certificate.to_json()),
        "headers": headers.iter().map(headers::Judged::to_json).collect::<Vec<_>>(),
        "cookies": cookies.iter().map(cookies::Cookie::to_json).collect::<Vec<_>>(),
    })
}

/// A URL as a result shows it: what is behind `?` may be a secret.
fn shown(url: &Url) -> String {
    let mut shown = url.clone();
    shown.set_fragment(None);
    if shown.query().is_some() {
        shown.set_query(Some("…"));
    }
    // The query was escaped again.
    one_line(&shown.as_str().replace("?%E2%80%A6", "?…"), SHOWN_BYTES)
}
