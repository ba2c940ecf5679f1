//! Sizes the pools: invoked each minute, and by a kick.

use lambda_runtime::Error;
use switchyard_functions::{scaler, serve};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let opened = serve::open().await?;
    let scaler = scaler::open(&opened)?;
    serve::serve(opened, async |opened, invoked| scaler::round(&opened.yard, &scaler, &invoked.event).await).await
}
