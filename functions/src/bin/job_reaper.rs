//! The night watch and the clock: invoked each minute, whatever it is invoked with.

use lambda_runtime::Error;
use switchyard_functions::{reaper, serve};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let opened = serve::open().await?;
    serve::serve(opened, async |opened, invoked| reaper::tick(opened, invoked.left).await).await
}
