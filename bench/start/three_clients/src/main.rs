//! A function with three clients, made as ours make them: none of the SDK's default features, one TLS stack, credentials from
//! the environment, the certificates that are shipped with it, and no client before an invocation needs one. An invocation
//! reads one item of a table, as that of `default_sdk` does.

use std::sync::OnceLock;

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_dynamodb::types::AttributeValue;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_types::SdkConfig;
use aws_types::region::Region;
use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use serde_json::{Value, json};

type Clients = (aws_sdk_dynamodb::Client, aws_sdk_s3::Client, aws_sdk_sqs::Client);

fn clients() -> Result<Clients, Error> {
    let trusted = TrustStore::empty().with_pem_certificate(std::fs::read(std::env::var("AWS_CA_BUNDLE")?)?);
    let context = TlsContext::builder().with_trust_store(trusted).build()?;
    let http = aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring));
    let (id, secret) = (std::env::var("AWS_ACCESS_KEY_ID")?, std::env::var("AWS_SECRET_ACCESS_KEY")?);
    let credentials = Credentials::new(id, secret, std::env::var("AWS_SESSION_TOKEN").ok(), None, "environment");
    let config = SdkConfig::builder()
        .behavior_version(aws_sdk_dynamodb::config::BehaviorVersion::latest())
        .region(Region::new(std::env::var("AWS_REGION")?))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .endpoint_url(std::env::var("AWS_ENDPOINT_URL")?)
        .http_client(http.tls_context(context).build_https())
        .build();
    Ok((aws_sdk_dynamodb::Client::new(&config), aws_sdk_s3::Client::new(&config), aws_sdk_sqs::Client::new(&config)))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let made: OnceLock<Result<Clients, Error>> = OnceLock::new();
    run(service_fn(async |_: LambdaEvent<Value>| {
        let (dynamodb, s3, sqs) = made.get_or_init(clients).as_ref().map_err(ToString::to_string)?;
        let key = AttributeValue::S("one".to_owned());
        let got = dynamodb.get_item().table_name("table").key("id", key).send().await?;
        // They are kept as a function that needs them would keep them.
        std::hint::black_box((s3, sqs));
        Ok::<_, Error>(json!({ "found": got.item.is_some() }))
    }))
    .await
}
