//! Records that runs emitted, as Kinesis brings them.

use lambda_runtime::Error;
use switchyard_aws::deployment::nothing;
use switchyard_functions::records::Listener;
use switchyard_functions::serve::{self, Opening};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let place = serve::start()?;
    let opening = Opening::new(place, nothing, |opened| Listener { yard: opened.yard.clone() });
    serve::serve(opening, async |_, listener, invoked| listener.listen(&invoked.event, invoked.left).await).await
}
