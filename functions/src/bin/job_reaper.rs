//! The night watch and the clock: invoked each minute, whatever it is invoked with.

use lambda_runtime::Error;
use switchyard_aws::deployment::tasks;
use switchyard_functions::reaper;
use switchyard_functions::serve::{self, Opening};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let place = serve::start()?;
    serve::serve(Opening::new(place, tasks, |_| ()), async |opened, (), invoked| {
        reaper::tick(opened, invoked.left).await
    })
    .await
}
