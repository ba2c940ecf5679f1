//! How tasks ended that could not say so themselves: told by ECS, by EC2, and by Lambda of the function that runs jobs.

use lambda_runtime::Error;
use switchyard_aws::deployment::nothing;
use switchyard_functions::parked::Parking;
use switchyard_functions::serve::{self, Opening};
use switchyard_functions::tasks::TaskListener;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let place = serve::start()?;
    let opening = Opening::new(place, nothing, |opened| TaskListener {
        yard: opened.yard.clone(),
        table: opened.deployment.names.table.clone(),
        parking: Parking::new(&opened.clients, &opened.deployment.names.bucket, "task_listener"),
    });
    serve::serve(opening, async |_, listener, invoked| listener.listen(invoked.event).await).await
}
