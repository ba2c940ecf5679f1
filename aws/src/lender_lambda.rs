//! The broker of credentials as whoever runs jobs reaches it: one synchronous invocation a loan. Neither what it is invoked with,
//! which holds the run's token, nor what it answers is ever logged; Lambda keeps neither.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_lambda::Client;
use aws_sdk_lambda::config::retry::RetryConfig;
use aws_sdk_lambda::config::timeout::TimeoutConfig;
use aws_sdk_lambda::primitives::Blob;
use aws_sdk_lambda::types::InvocationType;
use serde_json::Value;
use switchyard_core::job::one_line;
use switchyard_core::lend::{Answer, Loan, LoanRequest};
use switchyard_core::ports::{Lender, PortError, Voucher};
use switchyard_core::wire::{self, LoanAnswer, LoanCall};
use zeroize::Zeroizing;

use crate::clients::Clients;
use crate::failure::failed;

/// The longest that the one invocation is waited for: the function's own time, and room for its answer to come.
pub const PATIENCE: Duration = Duration::from_secs(31);

/// Asks the broker's function.
#[derive(Clone)]
pub struct LambdaLender {
    client: Client,
    function: String,
}

impl fmt::Debug for LambdaLender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LambdaLender").field(&self.function).finish()
    }
}

impl LambdaLender {
    /// The broker that is this function, by name or ARN.
    pub fn new(clients: &Clients, function: &str) -> Self {
        Self { client: clients.lambda(), function: function.to_owned() }
    }

    async fn ask(&self, operation: &'static str, call: &LoanCall) -> Result<LoanAnswer, PortError> {
        let subject = || format!("the broker, function {}", self.function);
        let payload = wire::encode_loan_call(call);
        let patient = TimeoutConfig::builder().operation_attempt_timeout(PATIENCE).build();
        let invoke =
            self.client.invoke().function_name(&self.function).invocation_type(InvocationType::RequestResponse);
        let invoke = invoke.payload(Blob::new(payload.as_bytes())).customize();
        // Once: an answer that came too late may have lent something, and whoever asks decides whether to ask again.
        let once = aws_sdk_lambda::config::Builder::new().timeout_config(patient).retry_config(RetryConfig::disabled());
        let invoke = invoke.config_override(once);
        let answered = invoke.send().await.map_err(|error| failed(operation, subject(), &error))?;
        let failed_in_it = answered.function_error.is_some();
        let answer = answered.payload.map(|blob| Zeroizing::new(blob.into_inner())).unwrap_or_default();
        if failed_in_it {
            // What the function failed with, in its own words: it is our own program, and says nothing secret.
            let said = serde_json::from_slice::<Value>(&answer).ok();
            let said =
                said.as_ref().and_then(|said| said.get("errorMessage")?.as_str()).unwrap_or("it did not say why");
            return Err(PortError::retryable(operation, subject(), format!("it failed: {}", one_line(said, 300))));
        }
        // An answer that is none may be one of another program: nothing of it is repeated.
        let text = std::str::from_utf8(&answer)
            .map_err(|_| PortError::permanent(operation, subject(), "its answer is no text"))?;
        wire::decode_loan_answer(text).map_err(|error| PortError::permanent(operation, subject(), error))
    }
}

#[async_trait]
impl Lender for LambdaLender {
    async fn lend(&self, request: &LoanRequest) -> Result<Answer, PortError> {
        match self.ask("borrow from", &LoanCall::Lend(request.clone())).await? {
            LoanAnswer::Answer(answer) => Ok(answer),
            LoanAnswer::TakenBack => {
                Err(PortError::permanent("borrow from", "the broker", "its answer is not one to this request"))
            }
        }
    }

    async fn take_back(&self, voucher: &Voucher, loan: &Loan) -> Result<(), PortError> {
        match self.ask("give back to", &LoanCall::TakeBack(voucher.clone(), Box::new(loan.clone()))).await? {
            LoanAnswer::TakenBack => Ok(()),
            LoanAnswer::Answer(_) => {
                Err(PortError::permanent("give back to", "the broker", "its answer is not one to this request"))
            }
        }
    }
}
