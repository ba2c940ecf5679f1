//! What the deployed sweep finds, by the minute's own schedule and with the permissions that it has.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde_json::json;
use switchyard_aws::ledger_dynamodb::{DynamoLedger, DynamoSettings};
use switchyard_core::job::{Holder, Nonce};
use switchyard_core::memory::Memory;
use switchyard_core::ports::{Room, Worker};
use switchyard_core::route::PoolName;

use crate::deployed::{Deployed, User, block, env, wait};

pub(crate) fn worker(yard: &Deployed) {
    // By its own clock it is listed for an hour: it does not go by itself.
    let now = Timestamp::try_from(SystemTime::now()).expect("a time");
    let clock = Arc::new(Memory::new(now + Duration::from_secs(3600), 1));
    let settings = DynamoSettings::new(&env("SWITCHYARD_TABLE"), Duration::from_secs(3600));
    let ledger = DynamoLedger::new(&yard.clients, settings, Arc::default(), clock);
    let holder = Holder::new("i-0123456789abcdef0", Nonce(1));
    let room = Room::default();
    // It takes nothing, so that nobody is sent to it.
    let gone = Worker {
        holder: holder.clone(),
        pool: PoolName::STANDARD,
        capacity: room,
        free: room,
        since: now,
        leaving: true,
    };
    block(ledger.enter(&gone)).expect("it is listed");
    let listed = || yard.ask(User::Operator, &["workers"]).to_string().contains("i-0123456789abcdef0");
    wait(20, "the list", || if listed() { Ok(()) } else { Err("it is not listed".to_owned()) });
    let (answer, failed) = yard.invoke("JOB_REAPER", &json!({}));
    assert!(!failed, "{answer}");
    let swept = &answer["swept"]["worker"];
    assert_eq!((&swept["found"], &swept["done"]), (&json!(1), &json!(0)), "one look never acts: {answer}");
    wait(200, "the sweep", || if listed() { Err("it is listed still".to_owned()) } else { Ok(()) });
}
