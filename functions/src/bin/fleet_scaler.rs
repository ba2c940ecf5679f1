//! Sizes the pools: invoked each minute, and by a kick.

use lambda_runtime::Error;
use switchyard_aws::deployment::nothing;
use switchyard_functions::scaler;
use switchyard_functions::serve::{self, Opening};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let opening = Opening::new(serve::start()?, nothing, scaler::open);
    serve::serve(opening, async |opened, scaler, invoked| {
        let scaler = scaler.as_ref().map_err(Clone::clone)?;
        scaler::round(&opened.yard, scaler, &invoked.event).await
    })
    .await
}
