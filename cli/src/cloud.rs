//! What commands that reach AWS start from: the environment of this process.

use switchyard_aws::clients::{Clients, Settings};
use switchyard_aws::credentials;
use switchyard_aws::deployment::EnvironmentError;
use switchyard_core::ports::PortError;

use crate::exit::Failure;

/// A variable of this process's environment.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Clients of AWS in AWS_REGION, at AWS_ENDPOINT_URL where that is set, with the credentials of the environment, of the
/// task, or of the instance. Nothing is asked of AWS yet.
///
/// # Errors
///
/// No region is set; certificates that it names cannot be read.
pub(crate) fn clients() -> Result<Clients, Failure> {
    let settings = Settings::read(&variable).and_then(Settings::trust).map_err(unset)?;
    let credentials = credentials::found(&settings);
    Ok(Clients::new(settings, credentials))
}

/// A variable that is missing or wrong.
pub(crate) fn unset(error: EnvironmentError) -> Failure {
    Failure::BadInput(error.to_string())
}

/// What AWS did not do: another try may help, or nothing of the kind can be done here.
pub(crate) fn refused(error: PortError) -> Failure {
    if error.retryable { Failure::Aws(error) } else { Failure::CannotOpen(error.into()) }
}
