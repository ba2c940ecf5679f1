//! Where vendors answer, and how long they are waited for.

use std::net::IpAddr;
use std::time::Duration;

use http::Uri;

/// What can be set of the lenders.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Where vendors answer.
    pub endpoints: Endpoints,
    /// How long they are waited for.
    pub patience: Patience,
    /// Certificates that are trusted instead of Mozilla's list, PEM: those of a proxy that looks into what leaves.
    pub trusted: Option<Vec<u8>>,
}

/// Where vendors answer. Each is a URL: `https`, or `http` to this machine itself, so that no secret leaves it in the clear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// Google's token endpoint, also the audience of what is signed for it.
    pub google_token: String,
    /// Google's token exchange.
    pub google_exchange: String,
    /// In front of the paths of Google's IAM Service Account Credentials API.
    pub google_credentials: String,
    /// In front of a tenant's paths at Microsoft Entra.
    pub entra: String,
    /// In front of the paths of GitHub's REST API.
    pub github: String,
}

impl Default for Endpoints {
    /// Those of the public clouds, as their references have them.
    fn default() -> Self {
        Self {
            google_token: "https://oauth2.googleapis.com/token".to_owned(),
            google_exchange: "https://sts.googleapis.com/v1/token".to_owned(),
            google_credentials: "https://iamcredentials.googleapis.com".to_owned(),
            entra: "https://login.microsoftonline.com".to_owned(),
            github: "https://api.github.com".to_owned(),
        }
    }
}

/// How long one vendor is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For one try, from the connection to the last byte of the answer.
    pub attempt: Duration,
    /// How many tries there are for one question, the first counted.
    pub tries: u32,
    /// The longest pause before the second try; it doubles with each further one.
    pub first_backoff: Duration,
    /// The longest pause that a vendor can ask for (`Retry-After`). One that asks for more is down.
    pub longest_pause: Duration,
    /// For one credential: all its questions, tries and pauses together.
    pub budget: Duration,
}

impl Default for Patience {
    /// Vendors answer within a second; five mean a lost connection. Three tries of those and their pauses fit into the
    /// budget, and the budget into the 30 seconds that a worker waits for its broker.
    fn default() -> Self {
        Self {
            attempt: Duration::from_secs(5),
            tries: 3,
            first_backoff: Duration::from_millis(300),
            longest_pause: Duration::from_secs(5),
            budget: Duration::from_secs(20),
        }
    }
}

/// Settings with which nothing can be lent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {what}")]
pub struct BadSettings {
    /// Which of the settings.
    pub name: &'static str,
    /// What is wrong with it.
    pub what: String,
}

impl Endpoints {
    /// Whether each is a URL to which secrets may be sent.
    ///
    /// # Errors
    ///
    /// Which is not, and why.
    pub fn check(&self) -> Result<(), BadSettings> {
        let all = [
            ("google_token", &self.google_token),
            ("google_exchange", &self.google_exchange),
            ("google_credentials", &self.google_credentials),
            ("entra", &self.entra),
            ("github", &self.github),
        ];
        for (name, url) in all {
            check(url).map_err(|what| BadSettings { name, what: what.to_owned() })?;
        }
        Ok(())
    }
}

fn check(url: &str) -> Result<(), &'static str> {
    let uri: Uri = url.parse().map_err(|_| "expected a URL")?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err("expected a URL with its scheme and host");
    };
    if authority.as_str().contains('@') {
        return Err("has a user in it");
    }
    if uri.query().is_some() || url.contains('#') {
        return Err("has a `?` or `#`");
    }
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    match scheme {
        "https" => Ok(()),
        "http" if here => Ok(()),
        _ => Err("expected https: what is sent there is secret"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_sent_over_tls_or_not_off_this_machine() {
        Endpoints::default().check().unwrap();
        for (github, fits) in [
            ("https://ghe.example.com/api/v3", true),
            ("http://127.0.0.1:8080", true),
            ("http://[::1]:8080", true),
            ("http://localhost:8080", true),
            ("http://api.github.com", false),
            ("http://127.0.0.1.example.com", false),
            ("http://localhost.example.com", false),
            ("https://user:secret@api.github.com", false),
            ("http://127.0.0.1@evil.example.com", false),
            ("https://api.github.com/?a=b", false),
            ("https://api.github.com#a", false),
            ("ftp://127.0.0.1", false),
            ("api.github.com", false),
            ("", false),
        ] {
            let endpoints = Endpoints { github: github.to_owned(), ..Endpoints::default() };
            let checked = endpoints.check();
            assert_eq!(checked.is_ok(), fits, "{github}: {checked:?}");
            assert!(checked.err().is_none_or(|error| error.name == "github"));
        }
    }

    #[test]
    fn all_tries_and_pauses_fit_into_the_budget() {
        let patience = Patience::default();
        let pauses = patience.first_backoff * 3;
        assert!(patience.attempt * patience.tries + pauses <= patience.budget);
    }
}
