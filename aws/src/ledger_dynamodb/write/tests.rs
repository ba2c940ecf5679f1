use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use switchyard_core::job::{Ending, Settlement, State};
use switchyard_core::ports::Ambient;

use super::*;
use crate::clients::{Clients, Settings};
use crate::ledger_dynamodb::DynamoSettings;
use crate::testing::a_job;

struct Still;

#[async_trait]
impl Ambient for Still {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn random(&self) -> [u8; 32] {
        [7; 32]
    }

    async fn pause(&self, _: Duration) {}
}

/// A ledger that asks nobody anything.
fn ledger() -> DynamoLedger {
    let credentials = SharedCredentialsProvider::new(Credentials::new("key", "secret", None, None, "test"));
    let clients = Clients::new(Settings::new("eu-central-1"), credentials);
    let settings = DynamoSettings::new("table", Duration::from_secs(3600));
    DynamoLedger::new(&clients, settings, Arc::default(), Arc::new(Still))
}

fn ended(job: Job) -> Job {
    let settlement = Settlement { ending: Ending::Cancelled, at: Still.now(), result: None, error: None, token: None };
    Job { state: State::Settled(settlement), due: None, owed: vec![], ..job }
}

/// The words of an expression.
fn words(expression: &str) -> Vec<&str> {
    expression.split(|c: char| " ,()=<>".contains(c)).filter(|word| !word.is_empty()).collect()
}

#[test]
fn a_record_s_write_names_everything_by_placeholders_uses_each_and_touches_nothing_twice() {
    let open = a_job("ana");
    let held = Job { state: State::Held { since: Still.now() }, ..open.clone() };
    let numbered = Job { permit: Some(3), ..open.clone() };
    for job in [open.clone(), held, numbered, ended(open)] {
        for permit in [None, Some(2)] {
            for (beside, leaves) in [(false, false), (true, false), (false, true)] {
                for record in [None, Some(wire::encode(&job))] {
                    let thought = Thought { permit, beside, record };
                    let (change, condition) = ledger().change(&job, &thought, leaves);
                    let update = change.update();
                    let (update, condition) = (words(&update), words(&condition));
                    let said = ["SET", "REMOVE", "AND", "OR", "attribute_not_exists"];
                    let bare = |word: &&&str| !word.starts_with(['#', ':']) && !said.contains(*word);
                    // 573 words are reserved, and neither emulator refuses one.
                    assert_eq!(update.iter().chain(&condition).find(bare), None);
                    // DynamoDB refuses what is handed over and not used; the emulators do not.
                    let used: BTreeSet<&str> = update.iter().chain(&condition).copied().collect();
                    let given: BTreeSet<&str> =
                        change.names.keys().chain(change.values.keys()).map(String::as_str).collect();
                    assert_eq!(
                        used.iter().filter(|word| word.starts_with(['#', ':'])).copied().collect::<BTreeSet<_>>(),
                        given
                    );
                    // "Two document paths overlap with each other".
                    let touched: Vec<&&str> = update.iter().filter(|word| word.starts_with('#')).collect();
                    assert_eq!(touched.iter().collect::<BTreeSet<_>>().len(), touched.len(), "{touched:?}");
                }
            }
        }
    }
}

#[test]
fn a_time_to_live_is_set_only_on_what_has_ended_owes_nothing_and_has_nothing_beside_it() {
    let of = |job: &Job, beside: bool, leaves: bool| {
        let thought = Thought { permit: None, beside, record: None };
        ledger().change(job, &thought, leaves).0.values.contains_key(":gone")
    };
    let job = ended(a_job("ana"));
    let owing = Job { due: Some(Still.now()), ..job.clone() };
    assert!(of(&job, false, false));
    assert!(!of(&a_job("ana"), false, false), "it goes on");
    assert!(!of(&owing, false, false), "it owes something, and is due for it");
    assert!(!of(&job, true, false) && !of(&job, false, true), "what lies beside it would stay behind");
}

#[test]
fn of_a_cancelled_transaction_s_reasons_only_two_kinds_stay() {
    let reason = |code: &str| CancellationReason::builder().code(code).message("because").build();
    for code in ["None", "TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded", "SomethingNew"] {
        assert_eq!(Cancelled::permanent(&reason(code)), None, "{code}");
        assert!(!Cancelled::is_refused(&reason(code)), "{code}");
    }
    for code in ["ValidationError", "ItemCollectionSizeLimitExceeded"] {
        assert_eq!(Cancelled::permanent(&reason(code)), Some(format!("{code}: because")));
    }
    assert!(Cancelled::is_refused(&reason("ConditionalCheckFailed")));
}
