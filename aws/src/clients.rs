//! The SDK's clients, all set up in one way: one HTTP client and one TLS stack, time-outs and retries on purpose, and an
//! endpoint for each service, so that tests, emulators and private endpoints can be put in between.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_async::rt::sleep::{SharedAsyncSleep, TokioSleep};
use aws_smithy_http_client::tls::{TlsContext, TrustStore};
use aws_smithy_http_client::{Builder, tls};
use aws_smithy_runtime_api::client::behavior_version::BehaviorVersion;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_types::retry::RetryConfig;
use aws_smithy_types::timeout::TimeoutConfig;
use aws_types::SdkConfig;
use aws_types::region::Region;

/// The services that a home talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    /// Auto Scaling groups.
    AutoScaling,
    /// CloudWatch Logs.
    Logs,
    /// DynamoDB.
    DynamoDb,
    /// Elastic Container Service.
    Ecs,
    /// EventBridge.
    EventBridge,
    /// Kinesis Data Streams.
    Kinesis,
    /// Functions.
    Lambda,
    /// Simple Storage Service.
    S3,
    /// Secrets Manager.
    SecretsManager,
    /// Simple Queue Service.
    Sqs,
    /// Systems Manager, of which parameters are asked for.
    Ssm,
    /// Security Token Service.
    Sts,
}

impl Service {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::AutoScaling,
        Self::Logs,
        Self::DynamoDb,
        Self::Ecs,
        Self::EventBridge,
        Self::Kinesis,
        Self::Lambda,
        Self::S3,
        Self::SecretsManager,
        Self::Sqs,
        Self::Ssm,
        Self::Sts,
    ];

    /// Its name in variables such as `AWS_ENDPOINT_URL_SQS` (AWS SDKs and Tools Reference Guide, "Service-specific
    /// endpoints").
    pub fn in_environment(self) -> &'static str {
        match self {
            Self::AutoScaling => "AUTO_SCALING",
            Self::Logs => "CLOUDWATCH_LOGS",
            Self::DynamoDb => "DYNAMODB",
            Self::Ecs => "ECS",
            Self::EventBridge => "EVENTBRIDGE",
            Self::Kinesis => "KINESIS",
            Self::Lambda => "LAMBDA",
            Self::S3 => "S3",
            Self::SecretsManager => "SECRETS_MANAGER",
            Self::Sqs => "SQS",
            Self::Ssm => "SSM",
            Self::Sts => "STS",
        }
    }
}

/// How the clients reach AWS.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The region, such as `eu-central-1`.
    pub region: String,
    /// Where all services answer instead of at AWS: an emulator.
    pub endpoint: Option<String>,
    /// Where single services answer; before `endpoint`.
    pub endpoints: BTreeMap<Service, String>,
    /// How often one call is tried in all, its first time counted.
    pub attempts: u32,
    /// The longest one try may take; a long poll's may take [`LONG_POLL`] more.
    pub attempt_timeout: Duration,
    /// Where the certificates lie that are trusted instead of the system's.
    pub ca_bundle: Option<PathBuf>,
    /// Those certificates, as PEM, once they are read. None of them is broken.
    pub trusted: Option<Vec<u8>>,
    /// The longest pause before a second try; it doubles with each further one, up to three seconds.
    pub first_backoff: Duration,
}

impl Settings {
    /// Five tries of five seconds each. The SDK's own three are spent by one throttled second; a single-digit
    /// millisecond is what these services usually take, so that five seconds mean a lost connection.
    pub fn new(region: &str) -> Self {
        Self {
            region: region.to_owned(),
            endpoint: None,
            endpoints: BTreeMap::new(),
            attempts: 5,
            attempt_timeout: Duration::from_secs(5),
            ca_bundle: None,
            trusted: None,
            first_backoff: Duration::from_millis(100),
        }
    }
}

/// The clients. Each is made when it is first asked for by whoever keeps it; making one connects to nothing.
#[derive(Clone, Debug)]
pub struct Clients {
    shared: SdkConfig,
    settings: Settings,
}

/// The longest a long poll of SQS waits (its documented maximum), and so what a receive may take beside its answer.
pub const LONG_POLL: Duration = Duration::from_secs(20);

/// The one way that anything here speaks HTTP: rustls with ring, and the certificates that the settings trust, or else the
/// system.
pub(crate) fn http_client(settings: &Settings) -> SharedHttpClient {
    let client = Builder::new().tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring));
    let store = settings.trusted.as_ref().map(|pem| TrustStore::empty().with_pem_certificate(pem.as_slice()));
    match store.map(|store| TlsContext::builder().with_trust_store(store).build()) {
        Some(Ok(context)) => client.tls_context(context).build_https(),
        // The builder of a context fails for none of these.
        Some(Err(_)) | None => client.build_https(),
    }
}

impl Clients {
    /// Clients that sign with these credentials.
    pub fn new(settings: Settings, credentials: SharedCredentialsProvider) -> Self {
        let timeouts = TimeoutConfig::builder()
            // A TCP handshake within a region takes a millisecond; a lost SYN is sent again after one second.
            .connect_timeout(Duration::from_millis(3100))
            .operation_attempt_timeout(settings.attempt_timeout)
            .build();
        let retries = RetryConfig::standard()
            .with_max_attempts(settings.attempts)
            .with_initial_backoff(settings.first_backoff)
            .with_max_backoff(Duration::from_secs(3));
        let shared = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(settings.region.clone()))
            .credentials_provider(credentials)
            .http_client(http_client(&settings))
            .sleep_impl(SharedAsyncSleep::new(TokioSleep::new()))
            .timeout_config(timeouts)
            .retry_config(retries)
            .build();
        Self { shared, settings }
    }

    /// The region that is spoken to.
    pub fn region(&self) -> &str {
        &self.settings.region
    }

    fn endpoint(&self, service: Service) -> Option<String> {
        self.settings.endpoints.get(&service).or(self.settings.endpoint.as_ref()).cloned()
    }

    /// A client of Auto Scaling.
    pub fn autoscaling(&self) -> aws_sdk_autoscaling::Client {
        let mut config = aws_sdk_autoscaling::config::Builder::from(&self.shared);
        config.set_endpoint_url(self.endpoint(Service::AutoScaling));
        aws_sdk_autoscaling::Client::from_conf(config.build())
    }

    /// A client of CloudWatch Logs.
    pub fn logs(&self) -> aws_sdk_cloudwatchlogs::Client {
        let mut config = aws_sdk_cloudwatchlogs::config::Builder::from(&self.shared);
        config.set_endpoint_url(self.endpoint(Service::Logs));
        aws_sdk_cloudwatchlogs::Client::from_conf(config.build())
    }

    /// A client of DynamoDB.
    pub fn dynamodb(&self) -> aws_sdk_dynamodb::Client {
        let mut config = aws_sdk_dynamodb::config::Builder::from(&self.shared);
        config.set_endpoint_url(self.endpoint(Service::DynamoDb));
        aws_sdk_dynamodb::Client::from_conf(config.build())
    }

    /// A client of ECS.
    pub fn ecs(&self) -> aws_sdk_ecs::Client {
        let mut config = aws_sdk_ecs::config::Builder::from(&self.shared);
        config.set_endpoint_url(self.endpoint(Service::Ecs));
        aws_sdk_ecs::Client::from_conf(config.build())
    }

    /// A client of EventBridge.
    pub fn eventbridge(&self) -> aws_sdk_eventbridge::Client {
        let mut config = aws_sdk_eventbridge::config::Builder::from(&self.shared);
        config.set_endpoint_url(self.endpoint(Service::EventBridge));
        aws_sdk_eventbridge::Client::from_conf(config.build())
    }

    /// A client of Kinesis.
    pub fn kinesis(&self) -> aws_sdk_kinesis::Client {
        let mut config = aws_sdk_kinesis::config::Builder::from(&self.shared);
        config.set_endpoint_url(self.endpoint(Service::Kinesis));
        aws_sdk_kinesis::Client::from_conf(config.build())
    }

    /// A client of Lambda.
    pub fn lambda(&self) -> aws_sdk_lambda::Client {
        let mut config = aws_sdk_lambda::config::Builder::from(&self.shared);
        config.set_endpoint_url(self.endpoint(Service::Lambda));
        aws_sdk_lambda::Client::from_conf(config.build())
    }

    /// A client of S3. Buckets are named in the path where an endpoint is given: no emulator answers at a bucket's own
    /// host name.
    pub fn s3(&self) -> aws_sdk_s3::Client {
        let endpoint = self.endpoint(Service::S3);
        let mut config = aws_sdk_s3::config::Builder::from(&self.shared).force_path_style(endpoint.is_some());
        config.set_endpoint_url(endpoint);
        aws_sdk_s3::Client::from_conf(config.build())
    }

    /// A client of Secrets Manager.
    pub fn secretsmanager(&self) -> aws_sdk_secretsmanager::Client {
        let mut config = aws_sdk_secretsmanager::config::Builder::from(&self.shared);
        config.set_endpoint_url(self.endpoint(Service::SecretsManager));
        aws_sdk_secretsmanager::Client::from_conf(config.build())
    }

    /// A client of SQS. Its tries take as long as those of any other; a long poll's are given [`LONG_POLL`] more by whoever
    /// asks for one.
    pub fn sqs(&self) -> aws_sdk_sqs::Client {
        let mut config = aws_sdk_sqs::config::Builder::from(&self.shared);
        config.set_endpoint_url(self.endpoint(Service::Sqs));
        aws_sdk_sqs::Client::from_conf(config.build())
    }

    /// A client of Systems Manager.
    pub fn ssm(&self) -> aws_sdk_ssm::Client {
        let mut config = aws_sdk_ssm::config::Builder::from(&self.shared);
        config.set_endpoint_url(self.endpoint(Service::Ssm));
        aws_sdk_ssm::Client::from_conf(config.build())
    }

    /// A client of STS, at the region's own endpoint: not all it does is done at the global one.
    pub fn sts(&self) -> aws_sdk_sts::Client {
        let mut config = aws_sdk_sts::config::Builder::from(&self.shared);
        config.set_endpoint_url(self.endpoint(Service::Sts));
        aws_sdk_sts::Client::from_conf(config.build())
    }
}
