//! The API: API Gateway's and load balancers' requests, served by the one router; what is routed inline runs here.

use std::sync::Arc;

use lambda_runtime::Error;
use switchyard_aws::environment;
use switchyard_functions::callers::{Gateway, Roles};
use switchyard_functions::{http, serve};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let place = serve::start()?;
    let list = |name: &str| std::env::var(name).unwrap_or_default();
    let roles = Roles::new(&list(environment::OPERATORS), &list(environment::SUBMITTERS));
    http::serve(place, Arc::new(Gateway::new(roles))).await
}
