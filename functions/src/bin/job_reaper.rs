//! The night watch and the clock: invoked each minute, whatever it is invoked with.

use std::sync::Arc;

use lambda_runtime::Error;
use switchyard_functions::opened::Opened;
use switchyard_functions::{reaper, serve};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    serve::start_logging();
    let opened = Arc::new(Opened::from_environment().await?);
    serve::serve(opened, async |opened, invoked| reaper::tick(opened, invoked.left).await).await
}
