//! GitHub: tokens of an App's installation, narrowed to repositories and permissions, and personal access tokens.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::Method;
use jiff::Timestamp;
use ring::digest::{SHA256, digest};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::json;
use switchyard_core::job::one_line;
use switchyard_core::lend::{Credential, GithubBy, Issued, Level, Order, Refused};
use zeroize::Zeroizing;

use crate::Lenders;
use crate::answer::{self, VendorError};
use crate::http::{Question, Sent};
use crate::jwt::{Algorithm, Key, Times};

/// Its name in refusals.
pub(crate) const GITHUB: &str = "GitHub";
/// What every request says: the version of the API that this was written for (REST API, "API Versions").
const HEADERS: [(&str, &str); 2] = [("accept", "application/vnd.github+json"), ("x-github-api-version", "2022-11-28")];
/// What every token may read, whatever was asked for: names and the like of its repositories.
const ALWAYS: &str = "metadata";

/// What is asked for: the owner, the repositories, the permissions.
type Wanted<'a> = (&'a str, &'a [String], &'a BTreeMap<String, Level>);

/// The answer (REST API, "Create an installation access token for an app").
#[derive(Deserialize)]
struct OnlyToken {
    token: Zeroizing<String>,
}

/// What else is said of it.
#[derive(Deserialize)]
struct Given {
    expires_at: Timestamp,
    permissions: BTreeMap<String, String>,
    repository_selection: String,
    repositories: Vec<Repository>,
}

#[derive(Deserialize)]
struct Repository {
    full_name: String,
}

impl Lenders {
    pub(crate) async fn github(
        &self,
        order: &Order,
        by: &GithubBy,
        (owner, repositories, permissions): (&str, &[String], &BTreeMap<String, Level>),
    ) -> Result<Issued, Refused> {
        let (app_id, installation_id, name) = match by {
            GithubBy::App { app_id, installation_id, key } => (app_id, *installation_id, key),
            GithubBy::Token(name) => {
                let known = self.cache.secret(name).await?;
                let token = self.token(name, &known)?;
                let credential = Credential::Token(SecretString::from(token));
                return Ok(Issued { credential, expires: None, reference: Some(reference(token)), revocable: false });
            }
        };
        let wanted = (owner, repositories, permissions);
        let mut known = self.cache.secret(name).await?;
        loop {
            let key = Key::read(known.text()).map_err(|why| self.unfit(name, why))?;
            let Times { iat, exp } = Times::at(order.now);
            let claims = json!({ "iat": iat, "exp": exp, "iss": app_id });
            let app = key.sign(Algorithm::Rs256, &[], &claims).map_err(|why| self.unfit(name, why))?;
            match self.installation(order.now, &app, installation_id, wanted).await {
                Ok(issued) => return Ok(issued),
                Err(error) if error.blames_the_key() => match self.cache.renewed(name, &known).await? {
                    Some(newer) => known = newer,
                    None => return Err(error.into()),
                },
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn installation(
        &self,
        now: Timestamp,
        app: &str,
        installation_id: u64,
        wanted: Wanted<'_>,
    ) -> Result<Issued, VendorError> {
        let (_, repositories, permissions) = wanted;
        let body = json!({ "repositories": repositories, "permissions": permissions }).to_string().into_bytes();
        let question = Question {
            vendor: GITHUB,
            method: Method::POST,
            url: format!("{}/app/installations/{installation_id}/access_tokens", self.github_url()),
            bearer: Some(app),
            headers: &HEADERS,
            body: Sent::Json(body),
            secrets: &[app],
        };
        let body = self.http.ask(question).await?;
        let given: OnlyToken = answer::read(GITHUB, &body)?;
        let token = answer::token(GITHUB, &given.token)?;
        let judged = answer::read::<Given>(GITHUB, &body).and_then(|given| match odd(&given, wanted) {
            Some(what) => Err(VendorError::answer(GITHUB, what)),
            None => answer::expiry(GITHUB, now, given.expires_at),
        });
        let expires = match judged {
            Ok(expires) => expires,
            Err(error) => {
                // Nobody gets it, and so nobody should have it. It ends within the hour if this fails.
                drop(self.end(&token).await);
                return Err(error);
            }
        };
        let reference = Some(reference(token.expose_secret()));
        Ok(Issued { credential: Credential::Token(token), expires: Some(expires), reference, revocable: true })
    }

    fn github_url(&self) -> &str {
        self.settings.endpoints.github.trim_end_matches('/')
    }

    /// Ends a token of an installation (REST API, "Revoke an installation access token"). One that GitHub knows no more has
    /// ended.
    async fn end(&self, token: &SecretString) -> Result<(), VendorError> {
        let token = token.expose_secret();
        let question = Question {
            vendor: GITHUB,
            method: Method::DELETE,
            url: format!("{}/installation/token", self.github_url()),
            bearer: Some(token),
            headers: &HEADERS,
            body: Sent::Nothing,
            secrets: &[token],
        };
        match self.http.ask(question).await {
            Ok(_) | Err(VendorError::Refused { status: 401, .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Ends a token of an installation, which takes nothing but the token itself.
    pub(crate) async fn revoke_github(&self, credential: &Credential) -> Result<bool, VendorError> {
        match credential {
            Credential::Token(token) => self.end(token).await.map(|()| true),
            Credential::Aws { .. } | Credential::Value(_) => Ok(false),
        }
    }
}

/// What GitHub's audit log calls a token: the hash of it ("Identifying audit log events performed by an access token").
fn reference(token: &str) -> String {
    BASE64_STANDARD.encode(digest(&SHA256, token.as_bytes()))
}

/// What is wrong with a token that can do something else than it was asked for.
fn odd(given: &Given, (owner, repositories, permissions): Wanted<'_>) -> Option<String> {
    if given.repository_selection != "selected" {
        return Some("its token is for all repositories, and some were asked for".to_owned());
    }
    // GitHub tells no upper case from lower in names.
    let named = |name: &String| format!("{owner}/{name}").to_ascii_lowercase();
    let asked: BTreeSet<String> = repositories.iter().map(named).collect();
    let got: BTreeSet<String> = given.repositories.iter().map(|one| one.full_name.to_ascii_lowercase()).collect();
    if let Some(more) = got.difference(&asked).next() {
        return Some(format!("its token is for {}, too, which was not asked for", one_line(more, 100)));
    }
    if let Some(less) = asked.difference(&got).next() {
        return Some(format!("its token is not for {less}, which was asked for"));
    }
    let asked: BTreeMap<&str, &str> = permissions.iter().map(|(name, level)| (name.as_str(), level.as_str())).collect();
    for (name, level) in &given.permissions {
        let fits = match asked.get(name.as_str()) {
            Some(asked) => asked == level,
            None => name == ALWAYS && level == Level::Read.as_str(),
        };
        if !fits {
            let (name, level) = (one_line(name, 60), one_line(level, 20));
            return Some(format!("its token has {name}:{level}, which was not asked for"));
        }
    }
    let missing = asked.keys().find(|name| !given.permissions.contains_key(**name))?;
    Some(format!("its token lacks {missing}, which was asked for"))
}
