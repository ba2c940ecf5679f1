//! What a failed call to AWS is to the yard: the operation, the resource, whether trying again can help, and the
//! request's id, which AWS's support asks for first.

use std::error::Error;
use std::fmt;

use aws_sdk_sqs::error::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use aws_types::request_id::RequestId;
use switchyard_core::job::one_line;
use switchyard_core::ports::PortError;

/// A message's limit: AWS repeats whole policies and requests in some.
const MESSAGE_BYTES: usize = 500;

/// What AWS, or the way to it, answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}{}", Request(request_id.as_deref()))]
pub struct AwsError {
    /// AWS's own code, such as `AccessDeniedException`; ours, in snake case, where no answer came.
    pub code: String,
    /// One sentence.
    pub message: String,
    /// The id of the last try's request, when AWS answered it.
    pub request_id: Option<String>,
}

struct Request<'a>(Option<&'a str>);

impl fmt::Display for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |id| write!(f, " (request {id})"))
    }
}

/// Whether a code that AWS answered with says that the same call can succeed later, without anybody changing anything
/// in the account. What is unknown is: giving a job up for an error nobody foresaw would lose it.
pub fn is_retryable(code: &str) -> bool {
    !matches!(
        code,
        "AccessDenied"
            | "AccessDeniedException"
            | "AuthFailure"
            | "UnauthorizedOperation"
            | "UnrecognizedClientException"
            | "InvalidClientTokenId"
            | "InvalidAccessKeyId"
            | "InvalidSignatureException"
            | "SignatureDoesNotMatch"
            | "MissingAuthenticationTokenException"
            | "IncompleteSignature"
            | "OptInRequired"
            | "ResourceNotFoundException"
            | "QueueDoesNotExist"
            | "AWS.SimpleQueueService.NonExistentQueue"
            | "NoSuchBucket"
            | "ClusterNotFoundException"
            | "ValidationException"
            | "ValidationError"
            | "SerializationException"
            | "InvalidParameterException"
            | "InvalidParameterValue"
            | "InvalidParameterValueException"
            | "InvalidMessageContents"
            | "ItemCollectionSizeLimitExceededException"
            | "IdempotentParameterMismatchException"
            | "PlatformUnknownException"
            | "PlatformTaskDefinitionIncompatibilityException"
            | "UnsupportedFeatureException"
            | "BlockedException"
    )
}

/// What the SDK says of a failed call, and whether another try can help.
pub fn read<E>(error: &SdkError<E>) -> (AwsError, bool)
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    let plain = |code: &str, message: String| AwsError {
        code: code.to_owned(),
        message: one_line(&message, MESSAGE_BYTES),
        request_id: None,
    };
    match error {
        SdkError::ServiceError(service) => {
            let answered = service.err();
            let code = answered.code().unwrap_or("Unknown").to_owned();
            let message = answered.message().map_or_else(
                || format!("HTTP {}", service.raw().status().as_u16()),
                |message| one_line(message, MESSAGE_BYTES),
            );
            let retryable = is_retryable(&code) || service.raw().status().is_server_error();
            let request_id = service.raw().request_id().map(str::to_owned);
            (AwsError { code, message, request_id }, retryable)
        }
        SdkError::TimeoutError(_) => (plain("timed_out", chain(error)), true),
        SdkError::DispatchFailure(_) => (plain("not_reached", chain(error)), true),
        SdkError::ResponseError(_) => (plain("answer_unreadable", chain(error)), true),
        // The request could not be made of what it was given: another try makes the same.
        SdkError::ConstructionFailure(_) => (plain("not_asked", chain(error)), false),
        _ => (plain("failed", chain(error)), true),
    }
}

/// Everything an error and its causes say, each once.
fn chain(error: &dyn Error) -> String {
    error.source().map_or_else(|| error.to_string(), switchyard_core::ports::describe)
}

/// The failure of `operation` on `subject`.
pub fn failed<E>(operation: &'static str, subject: impl fmt::Display, error: &SdkError<E>) -> PortError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    let (cause, retryable) = read(error);
    if retryable {
        PortError::retryable(operation, subject, cause)
    } else {
        PortError::permanent(operation, subject, cause)
    }
}

/// AWS's code of a failed call, where it answered with one.
pub fn code<E: ProvideErrorMetadata>(error: &SdkError<E>) -> Option<&str> {
    match error {
        SdkError::ServiceError(service) => service.err().code(),
        _ => None,
    }
}
