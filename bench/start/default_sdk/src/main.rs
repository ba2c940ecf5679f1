//! A function as the SDK's own guide begins one: the default features, the configuration found by aws-config, three clients
//! made at the start. An invocation reads one item of a table.

use aws_config::BehaviorVersion;
use aws_sdk_dynamodb::types::AttributeValue;
use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use serde_json::{Value, json};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let config = aws_config::load_defaults(BehaviorVersion::latest()).await;
    let dynamodb = aws_sdk_dynamodb::Client::new(&config);
    let clients = (aws_sdk_s3::Client::new(&config), aws_sdk_sqs::Client::new(&config));
    run(service_fn(async |_: LambdaEvent<Value>| {
        let key = AttributeValue::S("one".to_owned());
        let got = dynamodb.get_item().table_name("table").key("id", key).send().await?;
        // They are kept as a function that needs them would keep them.
        std::hint::black_box(&clients);
        Ok::<_, Error>(json!({ "found": got.item.is_some() }))
    }))
    .await
}
