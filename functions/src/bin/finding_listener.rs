//! Findings: as EventBridge sends them, and as SNS, SQS and S3 bring them.

use std::sync::Arc;

use lambda_runtime::Error;
use switchyard_aws::deployment::tasks;
use switchyard_functions::callers::{Gateway, Roles};
use switchyard_functions::findings::Listener;
use switchyard_functions::parked::Parking;
use switchyard_functions::serve::{self, Opening};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let place = serve::start()?;
    let opening = Opening::new(place, tasks, |opened| Listener {
        // No request comes in here, and so nobody calls.
        api: opened.api(Arc::new(Gateway::new(Roles::default()))),
        objects: opened.clients.s3(),
        parking: Parking::new(&opened.clients, &opened.deployment.names.bucket, "finding_listener"),
    });
    serve::serve(opening, async |_, listener, invoked| listener.listen(invoked.event, invoked.left).await).await
}
