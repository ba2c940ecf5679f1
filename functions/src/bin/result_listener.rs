//! Records that runs emitted, as Kinesis brings them.

use lambda_runtime::Error;
use switchyard_aws::deployment::nothing;
use switchyard_functions::records::{ListenError, Listener};
use switchyard_functions::serve::{self, Opening};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let place = serve::start()?;
    let opening = Opening::new(place, nothing, |opened| Listener { yard: opened.yard.clone() });
    serve::serve(opening, async |opened, listener, invoked| {
        // What was emitted under new policies must not be judged by those of a minute ago: it would be parked for good.
        opened.policies.load().await?;
        Ok::<_, ListenError>(listener.listen(&invoked.event, invoked.left).await?)
    })
    .await
}
