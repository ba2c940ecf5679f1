//! Runs one job of the venue `function`: a built-in, for up to the 900 s that Lambda gives.

use lambda_runtime::Error;
use switchyard_aws::deployment::nothing;
use switchyard_functions::runner;
use switchyard_functions::serve::{self, Opening};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let place = serve::start()?;
    serve::serve(Opening::new(place, nothing, |_| ()), async |opened, (), invoked| runner::run(opened, invoked).await)
        .await
}
