//! Runs one job of the venue `function`: a built-in, for up to the 900 s that Lambda gives.

use lambda_runtime::Error;
use switchyard_functions::{runner, serve};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let opened = serve::open().await?;
    serve::serve(opened, runner::run).await
}
