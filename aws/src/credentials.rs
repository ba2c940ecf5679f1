//! Where a process has its credentials from. None of them is ever logged: what the SDK shows of them is redacted.

use std::time::SystemTime;

use aws_config::ecs::EcsCredentialsProvider;
use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::meta::credentials::CredentialsProviderChain;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_async::rt::sleep::TokioSleep;
use aws_types::region::Region;

use crate::clients::{Settings, http_client};
use crate::deployment::EnvironmentError;

/// The names under which Lambda hands a function its role's credentials ("Defined runtime environment variables").
const NAMES: [&str; 3] = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];

/// The credentials of a function: Lambda sets them in its environment, and starts another process before they expire.
///
/// # Errors
///
/// They are not set.
pub fn of_function() -> Result<SharedCredentialsProvider, EnvironmentError> {
    from(&|name| std::env::var(name).ok()).map(SharedCredentialsProvider::new)
}

fn from(get: &dyn Fn(&str) -> Option<String>) -> Result<Credentials, EnvironmentError> {
    let [id, secret, token] = NAMES;
    let must = |name: &'static str| {
        let value = get(name).filter(|value| !value.is_empty());
        value.ok_or_else(|| EnvironmentError { name, what: "it is not set".to_owned() })
    };
    let token = get(token).filter(|token| !token.is_empty());
    Ok(Credentials::new(must(id)?, must(secret)?, token, None::<SystemTime>, "environment"))
}

/// The credentials of whatever else runs on AWS, asked for when they are first needed and again before they expire: those
/// in the environment, else the task's, else the instance's.
pub fn found(settings: &Settings) -> SharedCredentialsProvider {
    let config = ProviderConfig::without_region()
        .with_region(Some(Region::new(settings.region.clone())))
        .with_http_client(http_client(settings))
        .with_sleep_impl(TokioSleep::new());
    let chain = CredentialsProviderChain::first_try("environment", EnvironmentVariableCredentialsProvider::new())
        .or_else("task", EcsCredentialsProvider::builder().configure(&config).build())
        .or_else("instance", ImdsCredentialsProvider::builder().configure(&config).build());
    SharedCredentialsProvider::new(chain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_finds_them_in_its_environment_and_shows_them_to_nobody() {
        let set = |name: &str| NAMES.contains(&name).then(|| format!("s3cret-{name}"));
        let found = from(&set).unwrap();
        assert_eq!(found.session_token(), Some("s3cret-AWS_SESSION_TOKEN"));
        let shown = format!("{found:?} {:?}", SharedCredentialsProvider::new(found.clone()));
        assert!(!shown.contains("s3cret-AWS_SECRET_ACCESS_KEY"), "{shown}");
        assert!(!shown.contains("s3cret-AWS_SESSION_TOKEN"), "{shown}");
        for missing in &NAMES[..2] {
            let error = from(&|name: &str| if name == *missing { Some(String::new()) } else { set(name) }).unwrap_err();
            assert_eq!(error.name, *missing);
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
        let without_token = from(&|name: &str| if name == NAMES[2] { None } else { set(name) }).unwrap();
        assert_eq!(without_token.session_token(), None, "as a user's keys have none");
    }
}
