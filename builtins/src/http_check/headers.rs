//! What an answer's headers ask of a browser, judged one by one.

use hyper::HeaderMap;
use serde_json::{Value, json};
use switchyard_core::job::one_line;

use super::SHOWN_BYTES;
use super::grade::Reason;

/// Seconds that a browser must remember to use https: half a year. Less does not outlive a visitor's holidays; lists of
/// preloaded sites ask for a year.
const HSTS_SECONDS: u64 = 182 * 24 * 3600;

/// A header, judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Judged {
    name: &'static str,
    /// What it says, cleaned; `None`: it is not there.
    value: Option<String>,
    pub(super) reasons: Vec<Reason>,
}

/// Judges the headers of an answer; `secure`: over TLS.
pub(super) fn judge(headers: &HeaderMap, secure: bool) -> Vec<Judged> {
    let values = |name: &str| -> Vec<String> {
        headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect()
    };
    let judged = |name: &'static str, judge: &dyn Fn(&[String]) -> Vec<Reason>| {
        let values = values(name);
        let value = (!values.is_empty()).then(|| one_line(&values.join(", "), SHOWN_BYTES));
        Judged { name, value, reasons: judge(&values) }
    };
    let policies = values("content-security-policy");
    let mut all = vec![
        judged("strict-transport-security", &|values| if secure { hsts(values) } else { Vec::new() }),
        judged("content-security-policy", &csp),
        judged("x-content-type-options", &sniffing),
        judged("x-frame-options", &|values| frames(values, &policies)),
        judged("referrer-policy", &referrer),
        judged("permissions-policy", &permissions),
    ];
    let leaks = ["server", "x-powered-by", "x-aspnet-version", "x-aspnetmvc-version", "x-generator"];
    all.extend(leaks.into_iter().map(|name| judged(name, &leak)).filter(|judged| judged.value.is_some()));
    all
}

/// Whether browsers are told to come back over https only (RFC 6797).
fn hsts(values: &[String]) -> Vec<Reason> {
    // The first one counts (section 8.1).
    let Some(value) = values.first() else {
        return vec![Reason::new("hsts_missing", -20, "a first visit over http can be kept there: there is no HSTS")];
    };
    let directives = value.split(';').filter_map(|directive| directive.split_once('='));
    let mut ages = directives.filter(|(name, _)| name.trim().eq_ignore_ascii_case("max-age"));
    let age = ages.next().and_then(|(_, age)| age.trim().trim_matches('"').parse::<u64>().ok());
    match age {
        None => vec![Reason::new("hsts_broken", -20, "its HSTS has no max-age, so that browsers ignore it")],
        Some(0) => vec![Reason::new("hsts_off", -20, "its HSTS makes browsers forget to use https: max-age=0")],
        Some(age) if age < HSTS_SECONDS => {
            vec![Reason::new("hsts_short", -10, &format!("its HSTS lasts {age} s, less than half a year"))]
        }
        Some(_) => Vec::new(),
    }
}

/// What scripts a page may run (Content Security Policy Level 3).
fn csp(values: &[String]) -> Vec<Reason> {
    let policies = values.iter().flat_map(|value| value.split(',')).filter(|policy| !policy.trim().is_empty());
    // All policies are in force at once, so that the strictest decides.
    let judged = policies.map(policy).min_by_key(|reasons| -reasons.iter().map(|reason| reason.points).sum::<i16>());
    judged.unwrap_or_else(|| {
        vec![Reason::new("csp_missing", -25, "an injected script runs: there is no Content-Security-Policy")]
    })
}

fn policy(text: &str) -> Vec<Reason> {
    let Some(sources) = directive(text, "script-src").or_else(|| directive(text, "default-src")) else {
        return vec![Reason::new(
            "csp_no_scripts",
            -20,
            "its CSP says nothing of scripts: neither script-src nor default-src",
        )];
    };
    let has = |source: &str| sources.iter().any(|other| other.eq_ignore_ascii_case(source));
    let begins = |front: &str| sources.iter().any(|other| other.to_ascii_lowercase().starts_with(front));
    let by_page = begins("'nonce-") || begins("'sha256-") || begins("'sha384-") || begins("'sha512-");
    let mut reasons = Vec::new();
    if has("'unsafe-inline'") && !by_page && !has("'strict-dynamic'") {
        reasons.push(Reason::new("csp_unsafe_inline", -15, "its CSP lets scripts in the page run: 'unsafe-inline'"));
    }
    if has("'unsafe-eval'") {
        reasons.push(Reason::new("csp_unsafe_eval", -5, "its CSP lets text become script: 'unsafe-eval'"));
    }
    let wide = ["*", "http:", "https:", "data:", "http://*", "https://*"];
    if let Some(source) = wide.into_iter().find(|source| has(source))
        && !(by_page && has("'strict-dynamic'"))
    {
        let because = format!("its CSP lets scripts come from anywhere: {source}");
        reasons.push(Reason::new("csp_wide", -15, &because));
    }
    reasons
}

/// The values of a policy's directive; the first of that name counts.
fn directive<'a>(policy: &'a str, name: &str) -> Option<Vec<&'a str>> {
    policy.split(';').find_map(|directive| {
        let mut words = directive.split_ascii_whitespace();
        words.next().filter(|first| first.eq_ignore_ascii_case(name)).map(|_| words.collect())
    })
}

/// Whether browsers must believe the content's type.
fn sniffing(values: &[String]) -> Vec<Reason> {
    let first = values.first().and_then(|value| value.split(',').next()).unwrap_or_default();
    if first.trim().eq_ignore_ascii_case("nosniff") {
        return Vec::new();
    }
    let because = "an upload can pass for a script: X-Content-Type-Options is not nosniff";
    vec![Reason::new("sniffing", -5, because)]
}

/// Whether others may show the page in a frame of theirs.
fn frames(values: &[String], policies: &[String]) -> Vec<Reason> {
    let ancestors =
        policies.iter().flat_map(|value| value.split(',')).find_map(|text| directive(text, "frame-ancestors"));
    let good = match ancestors {
        // It takes the place of the older header (CSP Level 3, section 6.4.2).
        Some(sources) => !sources.iter().any(|source| ["*", "http:", "https:"].contains(source)),
        None => {
            let mut words = values.iter().flat_map(|value| value.split(',')).map(str::trim).peekable();
            let known = |word: &str| ["deny", "sameorigin"].contains(&word.to_ascii_lowercase().as_str());
            words.peek().is_some() && words.all(known)
        }
    };
    if good {
        return Vec::new();
    }
    let because =
        "others can put it in a frame and steal clicks: neither X-Frame-Options nor frame-ancestors forbids it";
    vec![Reason::new("frames", -20, because)]
}

/// What other sites are told of where a visitor comes from.
fn referrer(values: &[String]) -> Vec<Reason> {
    const POLICIES: [&str; 8] = [
        "no-referrer",
        "no-referrer-when-downgrade",
        "origin",
        "origin-when-cross-origin",
        "same-origin",
        "strict-origin",
        "strict-origin-when-cross-origin",
        "unsafe-url",
    ];
    let mut words = values.iter().flat_map(|value| value.split(',')).map(|word| word.trim().to_ascii_lowercase());
    // The last one that a browser knows is in force (Referrer Policy, section 8.1).
    match words.rfind(|word| POLICIES.contains(&word.as_str())).as_deref() {
        None => {
            let because = "what other sites learn of a visit is left to the browser: there is no Referrer-Policy";
            vec![Reason::new("referrer_missing", -2, because)]
        }
        Some("unsafe-url" | "no-referrer-when-downgrade") => {
            vec![Reason::new("referrer_leaks", -5, "its Referrer-Policy sends other sites whole URLs")]
        }
        Some(_) => Vec::new(),
    }
}

/// Whether a page gives up what it does not use of a browser.
fn permissions(values: &[String]) -> Vec<Reason> {
    if values.iter().any(|value| !value.trim().is_empty()) {
        return Vec::new();
    }
    let because = "what is injected may ask for camera and place: there is no Permissions-Policy";
    vec![Reason::new("permissions_missing", -2, because)]
}

/// Whether it tells what runs there, so that an attacker need not try.
fn leak(values: &[String]) -> Vec<Reason> {
    let Some(value) = values.iter().find(|value| value.chars().any(|c| c.is_ascii_digit())) else { return Vec::new() };
    vec![Reason::new("version_told", -3, &format!("it tells which version runs there: {}", one_line(value, 80)))]
}

impl Judged {
    pub(super) fn to_json(&self) -> Value {
        let verdict = match (&self.value, self.reasons.is_empty()) {
            (_, false) if self.value.is_none() => "missing",
            (_, false) => "weak",
            (Some(_), true) => "good",
            (None, true) => "not_needed",
        };
        json!({
            "name": self.name,
            "value": self.value,
            "verdict": verdict,
            "faults": self.reasons.iter().map(|reason| reason.code).collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::{HeaderName, HeaderValue};

    use super::*;

    fn told(fields: &[(&str, &str)], secure: bool) -> String {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let touched = |judged: &Judged| {
            fields.iter().any(|(name, _)| name.eq_ignore_ascii_case(judged.name)) || fields.is_empty()
        };
        let lines = judge(&headers, secure).into_iter().filter(touched).map(|judged| {
            let reasons: Vec<String> =
                judged.reasons.iter().map(|r| format!("\n      {} {}: {}", r.points, r.code, r.because)).collect();
            format!("    {}{}", judged.to_json(), reasons.concat())
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn every_judgement_of_a_header() {
        const HSTS: &str = "Strict-Transport-Security";
        const CSP: &str = "Content-Security-Policy";
        const FRAME: &str = "X-Frame-Options";
        const REFERRER: &str = "Referrer-Policy";
        let long = "a".repeat(5000);
        let cases: Vec<Vec<(&str, &str)>> = vec![
            vec![],
            vec![(HSTS, "max-age=31536000; includeSubDomains; preload")],
            vec![(HSTS, "Max-Age=\"31536000\"")],
            vec![(HSTS, "max-age=300")],
            vec![(HSTS, "max-age=0")],
            vec![(HSTS, "includeSubDomains")],
            vec![(HSTS, "max-age=-1")],
            vec![(HSTS, "max-age=99999999999999999999999")],
            vec![(HSTS, "max-age=300"), (HSTS, "max-age=31536000")],
            vec![(CSP, "default-src 'self'")],
            vec![(CSP, "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'")],
            vec![(CSP, "script-src 'nonce-abc' 'unsafe-inline' 'strict-dynamic' https:")],
            vec![(CSP, "script-src 'nonce-abc' https:")],
            vec![(CSP, "SCRIPT-SRC *")],
            vec![(CSP, "img-src 'self'; upgrade-insecure-requests")],
            vec![(CSP, "script-src *"), (CSP, "script-src 'none'")],
            vec![(CSP, "script-src *, script-src 'self'")],
            vec![(CSP, "")],
            vec![(CSP, ";;;   ; ;")],
            vec![(CSP, "script-src 'self'; script-src *")],
            vec![("X-Content-Type-Options", "NoSniff")],
            vec![("X-Content-Type-Options", "sniff")],
            vec![(FRAME, "DENY")],
            vec![(FRAME, "SAMEORIGIN, SAMEORIGIN")],
            vec![(FRAME, "ALLOW-FROM https://example.org")],
            vec![(FRAME, "DENY, ALLOWALL")],
            vec![(FRAME, "ALLOWALL"), (CSP, "default-src 'self'; frame-ancestors 'none'")],
            vec![(FRAME, "DENY"), (CSP, "default-src 'self'; frame-ancestors *")],
            vec![(REFERRER, "no-referrer, strict-origin-when-cross-origin")],
            vec![(REFERRER, "same-origin, unsafe-url")],
            vec![(REFERRER, "same-origin, one-of-the-future")],
            vec![(REFERRER, "nonsense")],
            vec![("Permissions-Policy", "camera=()")],
            vec![("Server", "nginx")],
            vec![("Server", "nginx/1.2.3")],
            vec![("X-Powered-By", "PHP/5.4"), ("X-AspNet-Version", "4.0.30319")],
            vec![("Server", "\u{9b}31mred 1\u{202e}detsurt")],
            vec![(HSTS, &long)],
        ];
        let table = |secure: bool| {
            let told = cases.iter().map(|case| {
                let fields: Vec<String> = case.iter().map(|(name, value)| format!("{name}: {:.90?}", value)).collect();
                let fields = if fields.is_empty() { "(none)".to_owned() } else { fields.join("\n") };
                format!("{fields}\n{}", told(case, secure))
            });
            told.collect::<Vec<_>>().join("\n")
        };
        insta::assert_snapshot!(table(true));
        insta::assert_snapshot!("over_plain_http", told(&[], false));
    }
}
