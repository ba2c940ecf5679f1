//! Runs one job of the venue `function`: a built-in, for up to the 900 s that Lambda gives.

use std::sync::Arc;

use lambda_runtime::Error;
use switchyard_functions::opened::Opened;
use switchyard_functions::{runner, serve};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    serve::start_logging();
    let opened = Arc::new(Opened::from_environment().await?);
    serve::serve(opened, runner::run).await
}
