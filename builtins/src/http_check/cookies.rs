//! What a site asks a browser to keep, and how well that is guarded (RFC 6265bis). A cookie's value is never looked at.

use hyper::HeaderMap;
use hyper::header::SET_COOKIE;
use serde_json::{Value, json};
use switchyard_core::job::one_line;

use super::grade::Reason;

/// Cookies that are judged; browsers keep at least so many of a site (RFC 6265).
const COOKIES: usize = 50;

/// A cookie, judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cookie {
    name: String,
    secure: bool,
    http_only: bool,
    same_site: Option<&'static str>,
    pub(super) reasons: Vec<Reason>,
}

/// Judges the cookies that an answer sets; `secure`: over TLS.
pub(super) fn judge(headers: &HeaderMap, secure: bool) -> Vec<Cookie> {
    let fields = headers.get_all(SET_COOKIE).iter().take(COOKIES);
    fields.map(|field| cookie(&String::from_utf8_lossy(field.as_bytes()), secure)).collect()
}

fn cookie(field: &str, over_tls: bool) -> Cookie {
    let mut parts = field.split(';');
    let pair = parts.next().unwrap_or_default();
    // Without `=` it is a value that has no name.
    let name = pair.split_once('=').map_or("", |(name, _)| name).trim();
    let (mut secure, mut http_only, mut same_site, mut domain, mut root) = (false, false, None, false, false);
    for part in parts {
        let (attribute, value) = part.split_once('=').unwrap_or((part, ""));
        let value = value.trim();
        match attribute.trim().to_ascii_lowercase().as_str() {
            "secure" => secure = true,
            "httponly" => http_only = true,
            "domain" => domain = !value.is_empty(),
            "path" => root = value == "/",
            "samesite" => {
                let known = ["Strict", "Lax", "None"];
                same_site = known.into_iter().find(|known| known.eq_ignore_ascii_case(value));
            }
            _ => {}
        }
    }
    let shown = one_line(name, 60);
    let mut reasons = Vec::new();
    let mut fault = |code, points, because: &str| {
        reasons.push(Reason::new(code, points, &format!("cookie `{shown}` {because}")));
    };
    if !secure && over_tls {
        fault("cookie_not_secure", -10, "is sent over plain http, too: it lacks Secure");
    }
    if !http_only {
        fault("cookie_not_http_only", -5, "can be read by scripts: it lacks HttpOnly");
    }
    match same_site {
        None => fault("cookie_no_same_site", -5, "leaves it to the browser which sites may send it: it lacks SameSite"),
        Some("None") if !secure => fault("cookie_same_site_none", -5, "says SameSite=None, which needs Secure"),
        Some(_) => {}
    }
    let begins = |prefix: &str| name.get(..prefix.len()).is_some_and(|front| front.eq_ignore_ascii_case(prefix));
    if begins("__Host-") && !(secure && root && !domain && over_tls) {
        fault("cookie_prefix", -10, "is refused by browsers: __Host- needs https, Secure, Path=/ and no Domain");
    } else if begins("__Secure-") && !(secure && over_tls) {
        fault("cookie_prefix", -10, "is refused by browsers: __Secure- needs https and Secure");
    }
    Cookie { name: shown, secure, http_only, same_site, reasons }
}

impl Cookie {
    pub(super) fn to_json(&self) -> Value {
        let faults: Vec<&str> = self.reasons.iter().map(|reason| reason.code).collect();
        json!({
            "name": self.name,
            "secure": self.secure,
            "http_only": self.http_only,
            "same_site": self.same_site,
            "faults": faults,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_guard_a_cookie_and_to_fail() {
        let fields = [
            "id=s3cret; Secure; HttpOnly; SameSite=Lax",
            "id=s3cret",
            "ID=s3cret; secure; HTTPONLY; samesite=STRICT; Path=/",
            "id=s3cret; Secure; HttpOnly; SameSite=None",
            "id=s3cret; HttpOnly; SameSite=None",
            "id=s3cret; Secure; HttpOnly; SameSite=sometimes",
            "__Host-id=s3cret; Secure; HttpOnly; SameSite=Lax; Path=/",
            "__Host-id=s3cret; Secure; HttpOnly; SameSite=Lax; Path=/; Domain=example.org",
            "__host-id=s3cret; Secure; HttpOnly; SameSite=Lax",
            "__Secure-id=s3cret; HttpOnly; SameSite=Lax",
            "__Secure-id=s3cret; Secure; HttpOnly; SameSite=Lax",
            "s3cret",
            "\u{1b}[31mred\u{202e}=s3cret; Secure; HttpOnly; SameSite=Lax",
            "",
            ";;;=;",
        ];
        let mut table = Vec::new();
        for (field, over_tls) in fields.into_iter().flat_map(|field| [(field, true), (field, false)]) {
            let json = cookie(field, over_tls).to_json();
            assert!(!json.to_string().contains("s3cret"), "{json}");
            table.push(format!("{} {:?}\n    {json}", if over_tls { "https" } else { "http " }, field));
        }
        insta::assert_snapshot!(table.join("\n"));
    }
}
