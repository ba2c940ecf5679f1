//! What the measurement of the broker (bench/start/loan.py) needs of a yard: a job that runs and may borrow, as DynamoDB has it,
//! the call by which its run asks, and the policies that allow it. Prints one JSON object.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use switchyard_core::catalog::Catalog;
use switchyard_core::intake::{self, Sender, Taking};
use switchyard_core::job::{ClaimToken, Holder, Nonce};
use switchyard_core::lend::{LoanRequest, Scope};
use switchyard_core::memory::Memory;
use switchyard_core::ports::{Claim, Claimed, Voucher};
use switchyard_core::route::Limits;
use switchyard_core::wire::{self, LoanCall};

const CAPABILITIES: &str = r#"
version: 1
capabilities:
  - name: search
    summary: Borrows a key
    run: { command: ["true"] }
    needs: { timeout_seconds: 36000 }
    may_borrow: [ { kind: global, secret: shodan } ]
"#;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let now = Timestamp::now();
    let home = Memory::new(now - SignedDuration::from_secs(60), 7);
    let catalog = Catalog::parse("capabilities.yaml", CAPABILITIES, &[], &BTreeMap::new())?;
    let yard = home.yard(catalog, Limits::one_machine(4096));
    let (submission, digest) = intake::read(br#"{"capability":"search","payload":{}}"#)?;
    let sender = Sender { caller: "bench", key: None };
    let situation = yard.situation().await;
    let prepared = intake::prepare(
        &submission,
        digest,
        sender,
        &situation,
        Taking::default(),
        yard.ambient.now(),
        yard.ambient.random(),
    )?;
    let taken = intake::accept(&yard, vec![prepared]).await?.pop().ok_or("nothing was taken")??;
    let job = taken.job;
    let token = ClaimToken::new(yard.ambient.random());
    let claim = Claim {
        id: job.id,
        epoch: job.epoch,
        holder: Holder::new("bench", Nonce(1)),
        token: token.hash(),
        at_most: None,
        room: None,
    };
    let rules = yard.rules().await?;
    let Claimed::Won(job, _) = yard.ledger.claim(&claim, &rules, yard.ambient.now()).await? else {
        return Err("the claim was refused".into());
    };
    let voucher = Voucher { id: job.id, epoch: job.epoch, token };
    let call = LoanCall::Lend(LoanRequest { voucher, scope: Scope::Global { secret: "shodan".to_owned() } });
    let item = json!({
        "pk": { "S": format!("J#{}", job.id) }, "sk": { "S": "M" }, "rec": { "S": wire::encode(&job) },
        "rev": { "N": job.revision.to_string() },
    });
    println!("{}", json!({ "item": item, "call": &*wire::encode_loan_call(&call), "capabilities": CAPABILITIES }));
    Ok(())
}
