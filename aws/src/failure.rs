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

impl AwsError {
    /// The same, of the request with this id: of an answer that failed in part, each part knows nothing of it.
    #[must_use]
    pub fn of_request(self, id: Option<&str>) -> Self {
        Self { request_id: self.request_id.or_else(|| id.map(str::to_owned)), ..self }
    }
}

struct Request<'a>(Option<&'a str>);

impl fmt::Display for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |id| write!(f, " (request {id})"))
    }
}

/// Codes of failures that pass without anybody changing anything in the account. Nothing is decided by this list, for what
/// is not known passes too: it says which codes were thought about.
pub const PASSING: &[&str] = &[
    // Too much at once, or too much in all for now.
    "BandwidthLimitExceeded",
    "EC2ThrottledException",
    "LimitExceeded",
    "LimitExceededException",
    "OverLimit",
    "PriorRequestNotComplete",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "SlowDown",
    "ThrottledException",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
    "TransactionInProgressException",
    // Of the service's own making.
    "InternalError",
    "InternalException",
    "InternalFailure",
    "InternalServerError",
    "InternalServiceError",
    "ServerException",
    "ServiceException",
    "ServiceUnavailable",
    "ServiceUnavailableException",
    // Somebody else is at it just now.
    "ConcurrentModificationException",
    "ConditionalCheckFailedException",
    "ConflictException",
    "InvalidSequenceTokenException",
    "OperationAborted",
    "OperationAbortedException",
    "ReplicatedWriteConflictException",
    "ResourceContention",
    "ResourceInUse",
    "ResourceInUseException",
    "ScalingActivityInProgress",
    "TransactionCanceledException",
    "TransactionConflictException",
    // A name that was given up a minute ago, a role or bucket that was made a minute ago.
    "AWS.SimpleQueueService.QueueDeletedRecently",
    "QueueDeletedRecently",
    "Redirect",
    "ServiceLinkedRoleFailure",
    "TemporaryRedirect",
    // Temporary credentials that are over: whoever gave them gives the next.
    "ExpiredToken",
    "ExpiredTokenException",
    "RequestExpired",
    // A clock that is wrong, which its machine sets right. Where another code says so, its message does: `is_skewed`.
    "RequestInTheFuture",
    "RequestTimeTooSkewed",
    // The request was broken on its way.
    "BadDigest",
    "IncompleteBody",
    "RequestAbortedException",
    "RequestTimeout",
    "RequestTimeoutException",
    "XAmzContentChecksumMismatch",
    "XAmzContentSHA256Mismatch",
    // A key's service that is asked too much.
    "KMS.ThrottlingException",
    "KmsThrottled",
    // A page of a list that is too old to be followed: the list is begun anew.
    "InvalidNextToken",
];

/// Codes of failures that stay until somebody changes something: in the account, in the yard's settings, in what it was
/// given.
pub const LASTING: &[&str] = &[
    // Not allowed.
    "AccessDenied",
    "AccessDeniedException",
    "AccountProblem",
    "AllAccessDisabled",
    "AuthFailure",
    "BlockedException",
    "InvalidSecurity",
    "NotAuthorized",
    "NotSignedUp",
    "OperationDisabledException",
    "OptInRequired",
    "UnauthorizedOperation",
    // Nobody's credentials, or not signed with their key.
    "IncompleteSignature",
    "IncompleteSignatureException",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "InvalidToken",
    "MissingAuthenticationToken",
    "MissingAuthenticationTokenException",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
    // The account, or its region, has not switched that on.
    "OutboundWebIdentityFederationDisabledException",
    "RegionDisabledException",
    // Not there.
    "AWS.SimpleQueueService.NonExistentQueue",
    "ClusterNotFoundException",
    "NoSuchBucket",
    "NoSuchKey",
    "ParameterNotFound",
    "ParameterVersionNotFound",
    "QueueDoesNotExist",
    "ResourceNotFoundException",
    "TableNotFoundException",
    "TaskNotFoundException",
    // Elsewhere: another region's.
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "InvalidEndpointException",
    "PermanentRedirect",
    // Another's, or there already.
    "AlreadyExists",
    "BucketAlreadyExists",
    "BucketAlreadyOwnedByYou",
    "DataAlreadyAcceptedException",
    "QueueAlreadyExists",
    "QueueNameExists",
    "ResourceAlreadyExistsException",
    // In a state that it does not leave by itself.
    "InvalidBucketState",
    "InvalidObjectState",
    "InvalidStateException",
    // A key that may not be used, is not there or is switched off.
    "DecryptionFailure",
    "InvalidKeyId",
    "KMS.AccessDeniedException",
    "KMS.DisabledException",
    "KMS.InvalidKeyUsageException",
    "KMS.InvalidStateException",
    "KMS.KMSInvalidStateException",
    "KMS.NotFoundException",
    "KMS.OptInRequired",
    "KmsAccessDenied",
    "KmsDisabled",
    "KmsInvalidKeyUsage",
    "KmsInvalidState",
    "KmsNotFound",
    "KmsOptInRequired",
    // More than may be asked for, or put into one.
    "JWTPayloadSizeExceededException",
    "MalformedPolicyDocument",
    "PackedPolicyTooLarge",
    "SessionDurationEscalationException",
    // Wrong in itself: the same request is as wrong the next time.
    "AWS.SimpleQueueService.BatchEntryIdsNotDistinct",
    "AWS.SimpleQueueService.BatchRequestTooLong",
    "AWS.SimpleQueueService.EmptyBatchRequest",
    "AWS.SimpleQueueService.InvalidBatchEntryId",
    "AWS.SimpleQueueService.TooManyEntriesInBatchRequest",
    "AWS.SimpleQueueService.UnsupportedOperation",
    "EncryptionTypeMismatch",
    "EntityTooLarge",
    "IdempotentParameterMismatchException",
    "InvalidAction",
    "InvalidAddress",
    "InvalidArgument",
    "InvalidAttributeName",
    "InvalidAttributeValue",
    "InvalidBucketName",
    "InvalidDigest",
    "InvalidMessageContents",
    "InvalidParameterCombination",
    "InvalidParameterException",
    "InvalidRequestException",
    "InvalidParameterValue",
    "InvalidParameterValueException",
    "InvalidRequest",
    "ItemCollectionSizeLimitExceededException",
    "KeyTooLongError",
    "MalformedQueryString",
    "MethodNotAllowed",
    "MissingParameter",
    "MissingRequiredParameterException",
    "NotImplemented",
    "PlatformTaskDefinitionIncompatibilityException",
    "PlatformUnknownException",
    "RequestEntityTooLarge",
    "SerializationException",
    "UnknownOperationException",
    "UnsupportedFeatureException",
    "UnsupportedOperation",
    "ValidationError",
    "ValidationException",
];

/// Whether a code that AWS answered with says that the same call can succeed later, without anybody changing anything
/// in the account. What is unknown is: giving a job up for an error nobody foresaw would lose it.
pub fn is_retryable(code: &str) -> bool {
    !LASTING.contains(&code)
}

/// Whether a signature is refused for its time and not for its key. The JSON services say so with the code of any wrong
/// signature: "Signature expired: 20260102T030405Z is now earlier than 20260102T031405Z (20260102T031905Z - 5 min.)",
/// "Signature not yet current: …".
fn is_skewed(message: &str) -> bool {
    message.starts_with("Signature expired") || message.starts_with("Signature not yet current")
}

/// The same of a code with the message that came with it.
pub fn passes(code: &str, message: &str) -> bool {
    is_retryable(code) || is_skewed(message)
}

/// A message without what must not be told. Where a signature is wrong, AWS repeats all that should have been signed, the
/// session's token among it.
fn without_secrets(message: &str) -> &str {
    let token = message.to_ascii_lowercase().find("x-amz-security-token");
    let end = [message.find("The Canonical String"), message.find("The String-to-Sign"), token];
    let end = end.into_iter().flatten().min().unwrap_or(message.len());
    message[..end].trim_end()
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
            let said = answered.message().map(without_secrets).filter(|said| !said.is_empty());
            let retryable = passes(&code, said.unwrap_or_default()) || service.raw().status().is_server_error();
            let message = said.map_or_else(
                || format!("HTTP {}", service.raw().status().as_u16()),
                |message| one_line(message, MESSAGE_BYTES),
            );
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The errors that the API models name for the operations that are called here, and those that every operation of a
    /// service has.
    const MODELLED: [(&str, &[&str]); 10] = [
        (
            "DynamoDB",
            &[
                "AccessDeniedException",
                "ConditionalCheckFailedException",
                "ExpiredTokenException",
                "IdempotentParameterMismatchException",
                "IncompleteSignatureException",
                "InternalServerError",
                "InvalidEndpointException",
                "InvalidSignatureException",
                "ItemCollectionSizeLimitExceededException",
                "LimitExceededException",
                "MissingAuthenticationTokenException",
                "ProvisionedThroughputExceededException",
                "ReplicatedWriteConflictException",
                "RequestLimitExceeded",
                "ResourceInUseException",
                "ResourceNotFoundException",
                "SerializationException",
                "ServiceUnavailable",
                "ThrottlingException",
                "TransactionCanceledException",
                "TransactionConflictException",
                "TransactionInProgressException",
                "UnrecognizedClientException",
                "ValidationException",
            ],
        ),
        (
            "SQS",
            &[
                "AWS.SimpleQueueService.BatchEntryIdsNotDistinct",
                "AWS.SimpleQueueService.BatchRequestTooLong",
                "AWS.SimpleQueueService.EmptyBatchRequest",
                "AWS.SimpleQueueService.InvalidBatchEntryId",
                "AWS.SimpleQueueService.NonExistentQueue",
                "AWS.SimpleQueueService.QueueDeletedRecently",
                "AWS.SimpleQueueService.TooManyEntriesInBatchRequest",
                "AWS.SimpleQueueService.UnsupportedOperation",
                "AccessDenied",
                "ExpiredToken",
                "InvalidAddress",
                "InvalidAttributeName",
                "InvalidAttributeValue",
                "InvalidClientTokenId",
                "InvalidMessageContents",
                "InvalidSecurity",
                "KMS.AccessDeniedException",
                "KMS.DisabledException",
                "KMS.InvalidKeyUsageException",
                "KMS.InvalidStateException",
                "KMS.NotFoundException",
                "KMS.OptInRequired",
                "KMS.ThrottlingException",
                "OverLimit",
                "QueueAlreadyExists",
                "RequestThrottled",
            ],
        ),
        (
            "S3",
            &[
                "AccessDenied",
                "AuthorizationHeaderMalformed",
                "BadDigest",
                "BucketAlreadyExists",
                "BucketAlreadyOwnedByYou",
                "EncryptionTypeMismatch",
                "ExpiredToken",
                "IncompleteBody",
                "InternalError",
                "InvalidAccessKeyId",
                "InvalidBucketName",
                "InvalidObjectState",
                "InvalidRequest",
                "InvalidToken",
                "KMS.DisabledException",
                "KMS.KMSInvalidStateException",
                "KMS.NotFoundException",
                "NoSuchBucket",
                "NoSuchKey",
                "OperationAborted",
                "PermanentRedirect",
                "RequestTimeTooSkewed",
                "RequestTimeout",
                "ServiceUnavailable",
                "SignatureDoesNotMatch",
                "SlowDown",
                "TemporaryRedirect",
            ],
        ),
        (
            "CloudWatch Logs",
            &[
                "DataAlreadyAcceptedException",
                "InvalidParameterException",
                "InvalidSequenceTokenException",
                "LimitExceededException",
                "OperationAbortedException",
                "ResourceAlreadyExistsException",
                "ResourceNotFoundException",
                "ServiceUnavailableException",
                "UnrecognizedClientException",
                "ValidationException",
            ],
        ),
        (
            "EventBridge",
            &[
                "ConcurrentModificationException",
                "InternalException",
                "InvalidStateException",
                "LimitExceededException",
                "OperationDisabledException",
                "ResourceAlreadyExistsException",
                "ResourceNotFoundException",
            ],
        ),
        (
            "ECS",
            &[
                "AccessDeniedException",
                "BlockedException",
                "ClusterNotFoundException",
                "ConflictException",
                "InvalidParameterException",
                "PlatformTaskDefinitionIncompatibilityException",
                "PlatformUnknownException",
                "ServerException",
                "UnsupportedFeatureException",
            ],
        ),
        (
            "STS",
            &[
                "AccessDenied",
                "ExpiredToken",
                "ExpiredTokenException",
                "InvalidClientTokenId",
                "JWTPayloadSizeExceededException",
                "MalformedPolicyDocument",
                "OutboundWebIdentityFederationDisabledException",
                "PackedPolicyTooLarge",
                "RegionDisabledException",
                "SessionDurationEscalationException",
                "ValidationError",
            ],
        ),
        (
            "Secrets Manager",
            &[
                "AccessDeniedException",
                "DecryptionFailure",
                "InternalServiceError",
                "InvalidParameterException",
                "InvalidRequestException",
                "ResourceNotFoundException",
            ],
        ),
        (
            "Systems Manager",
            &[
                "AccessDeniedException",
                "InternalServerError",
                "InvalidKeyId",
                "ParameterNotFound",
                "ParameterVersionNotFound",
                "ValidationException",
            ],
        ),
        (
            "Auto Scaling",
            &[
                "InvalidNextToken",
                "LimitExceeded",
                "RequestExpired",
                "ResourceContention",
                "ScalingActivityInProgress",
                "Throttling",
                "ValidationError",
            ],
        ),
    ];

    #[test]
    fn every_known_code_is_in_one_class() {
        let (passing, lasting): (BTreeSet<_>, BTreeSet<_>) =
            (PASSING.iter().copied().collect(), LASTING.iter().copied().collect());
        assert_eq!((passing.len(), lasting.len()), (PASSING.len(), LASTING.len()), "each once");
        assert_eq!(passing.intersection(&lasting).collect::<Vec<_>>(), [] as [&&str; 0]);
        for (service, codes) in MODELLED {
            let unknown: Vec<_> =
                codes.iter().filter(|code| !passing.contains(*code) && !lasting.contains(*code)).collect();
            assert!(unknown.is_empty(), "{service}: {unknown:?}");
        }
        assert!(PASSING.iter().all(|code| is_retryable(code)) && !LASTING.iter().any(|code| is_retryable(code)));
        assert!(is_retryable("SomethingNew"), "what nobody foresaw gives no job up");
    }

    #[test]
    fn every_way_to_say_throttled_or_expired_passes() {
        for code in MODELLED.iter().flat_map(|(_, codes)| *codes) {
            let passes = ["hrottl", "Expired", "Skewed", "Unavailable", "Internal"];
            assert!(!passes.iter().any(|word| code.contains(word)) || is_retryable(code), "{code}");
        }
    }

    #[test]
    fn a_signature_refused_for_its_time_is_a_clock_and_one_refused_for_its_key_a_key() {
        let early = "Signature not yet current: 20260102T031500Z is still later than 20260102T031000Z (… + 5 min.)";
        assert!(is_skewed("Signature expired: 20260102T030405Z is now earlier than 20260102T031405Z (… - 5 min.)"));
        assert!(is_skewed(early));
        assert!(!is_skewed("The request signature we calculated does not match the signature you provided."));
    }

    #[test]
    fn what_should_have_been_signed_is_not_told() {
        let told = "The request signature we calculated does not match the signature you provided. Check your key.";
        let canonical = format!(
            "{told}\n\nThe Canonical String for this request should have been\n'POST\n/\n\nx-amz-security-token:SECRET'"
        );
        assert_eq!(without_secrets(&canonical), told);
        assert_eq!(without_secrets("bad header X-Amz-Security-Token: SECRET"), "bad header");
        assert_eq!(without_secrets(told), told);
    }
}
