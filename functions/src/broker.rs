//! The broker of credentials: the only function that can read secrets. It is invoked by whoever runs a job, and waits for the
//! vendor.

use std::sync::Arc;

use serde_json::Value;
use switchyard_aws::deployment::EnvironmentError;
use switchyard_aws::environment::VAULT;
use switchyard_aws::identity_sts::StsIdentity;
use switchyard_aws::roles_sts::StsRoles;
use switchyard_aws::vault_secrets::AwsVault;
use switchyard_core::lend;
use switchyard_core::ports::{PortError, Vendors, Yard};
use switchyard_core::wire::{self, LoanAnswer, LoanCall, WireError};
use switchyard_vendors::{BadSettings, Doors, Lenders, Settings};
use zeroize::Zeroizing;

use crate::opened::Opened;

/// An invocation that came to no answer. Its message goes to whoever invoked, and repeats nothing of what they said.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The environment does not say where secrets are.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// What lends cannot be set up.
    #[error("nothing can be lent")]
    Lenders(#[from] BadSettings),
    /// It asks for nothing that the broker knows.
    #[error(transparent)]
    NotACall(#[from] WireError),
    /// The yard could not be asked, or not told.
    #[error(transparent)]
    Yard(#[from] PortError),
}

/// Why the broker of this process lends nothing, for each invocation that it fails.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Closed {
    /// The environment does not say where secrets are.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// What lends cannot be set up.
    #[error(transparent)]
    Lenders(#[from] BadSettings),
}

impl From<Closed> for BrokerError {
    fn from(closed: Closed) -> Self {
        match closed {
            Closed::Environment(error) => Self::Environment(error),
            Closed::Lenders(error) => Self::Lenders(error),
        }
    }
}

/// Everyone who lends something to this yard. Nobody is asked yet.
///
/// # Errors
///
/// The environment does not say where secrets are.
pub fn open(opened: &Opened) -> Result<Lenders, Closed> {
    let prefix = opened.deployment.vault.as_deref();
    let prefix = prefix.ok_or_else(|| EnvironmentError { name: VAULT, what: "it is not set".to_owned() })?;
    let doors = Doors {
        vault: Arc::new(AwsVault::new(&opened.clients, prefix)),
        roles: Some(Arc::new(StsRoles::new(&opened.clients))),
        identity: Some(Arc::new(StsIdentity::new(&opened.clients))),
        ambient: Arc::clone(&opened.yard.ambient),
    };
    Ok(Lenders::new(doors, Settings::default())?)
}

/// Answers one invocation.
///
/// # Errors
///
/// [`BrokerError`]; nothing was lent that is not on record, and the same call can be made again.
pub async fn answer(yard: &Yard, vendors: &dyn Vendors, event: &Value) -> Result<Value, BrokerError> {
    let call = Zeroizing::new(event.to_string());
    let answer = wire::encode_loan_answer(&answer_call(yard, vendors, &call).await?);
    Ok(serde_json::from_str(&answer).unwrap_or_else(|error| unreachable!("an answer is always JSON: {error}")))
}

async fn answer_call(yard: &Yard, vendors: &dyn Vendors, call: &str) -> Result<LoanAnswer, BrokerError> {
    Ok(match wire::decode_loan_call(call)? {
        LoanCall::Lend(request) => LoanAnswer::Answer(lend::lend(yard, vendors, &request).await?),
        LoanCall::TakeBack(voucher, loan) => {
            lend::take_back(yard, vendors, &voucher, &loan).await?;
            LoanAnswer::TakenBack
        }
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use async_trait::async_trait;
    use jiff::Timestamp;
    use switchyard_core::catalog::Catalog;
    use switchyard_core::job::{ClaimToken, Epoch, JobId};
    use switchyard_core::lend::{Answer, Issued, Loan, LoanQuery, LoanRequest, Order, Refused, RefusedCode, Scope};
    use switchyard_core::memory::Memory;
    use switchyard_core::ports::Voucher;
    use switchyard_core::route::Limits;

    use super::*;

    /// Nobody is to be asked here.
    struct Nobody;

    #[async_trait]
    impl Vendors for Nobody {
        async fn issue(&self, order: &Order) -> Result<Issued, Refused> {
            unreachable!("{order:?}")
        }

        async fn revoke(&self, _: &Loan) -> Result<bool, PortError> {
            unreachable!("nothing was lent")
        }
    }

    fn yard() -> Yard {
        let catalog = Catalog::parse("c.yaml", "version: 1\ncapabilities: []\n", &[], &BTreeMap::new()).unwrap();
        Memory::new(Timestamp::from_second(1_800_000_000).unwrap(), 1).yard(catalog, Limits::default())
    }

    #[tokio::test]
    async fn a_request_is_answered_and_written_down_also_when_it_is_refused() {
        let yard = yard();
        let voucher = Voucher { id: JobId::keyed("a", "b"), epoch: Epoch(1), token: ClaimToken::new([7; 32]) };
        let request = LoanRequest { voucher, scope: Scope::Global { secret: "shodan".to_owned() } };
        let call = wire::encode_loan_call(&LoanCall::Lend(request));
        let LoanAnswer::Answer(Answer::Refused(refused)) = answer_call(&yard, &Nobody, &call).await.unwrap() else {
            panic!("lent");
        };
        assert_eq!(refused.code, RefusedCode::UnknownJob);
        let query = LoanQuery { limit: 10, ..LoanQuery::default() };
        assert_eq!(yard.ledger.loans(&query).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn what_asks_for_nothing_is_told_so_and_not_repeated() {
        let yard = yard();
        let token = "07".repeat(32);
        for call in [
            "null".to_owned(),
            "{}".to_owned(),
            r#"{"v":2,"lend":{}}"#.to_owned(),
            r#"{"v":1,"steal":{}}"#.to_owned(),
            format!(
                r#"{{"v":1,"lend":{{"voucher":{{"job":"x","epoch":1,"token":"{token}"}},"scope":{{"kind":"global"}}}}}}"#
            ),
            format!(r#"{{"v":1,"lend":{{"voucher":{{"token":"{token}0"}}}}}}"#),
        ] {
            let failed = answer_call(&yard, &Nobody, &call).await.unwrap_err();
            let said = format!("{failed:?} {}", switchyard_core::ports::describe(&failed));
            assert!(matches!(failed, BrokerError::NotACall(_)) && !said.contains(&token), "{said}");
        }
        assert!(yard.ledger.loans(&LoanQuery { limit: 10, ..LoanQuery::default() }).await.unwrap().is_empty());
    }
}
