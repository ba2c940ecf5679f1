//! Lends credentials to runs: invoked by whoever runs jobs, who waits for the answer.

use lambda_runtime::Error;
use switchyard_aws::deployment::nothing;
use switchyard_functions::broker;
use switchyard_functions::serve::{self, Opening};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let opening = Opening::new(serve::start()?, nothing, broker::open);
    serve::serve(opening, async |opened, vendors, invoked| {
        let vendors = vendors.as_ref().map_err(Clone::clone)?;
        broker::answer(&opened.yard, vendors, &invoked.event).await
    })
    .await
}
