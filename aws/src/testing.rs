//! Values that unit tests of several files start from.

use std::collections::BTreeMap;

use jiff::Timestamp;
use switchyard_core::catalog::Catalog;
use switchyard_core::intake::{self, Sender, Taking};
use switchyard_core::job::Job;
use switchyard_core::policies::{Policies, Situation};
use switchyard_core::route::Limits;

/// A job that waits in the fleet's standard tier, submitted by `caller` under that key.
pub(crate) fn a_job(caller: &str) -> Job {
    let text = "version: 1\ncapabilities:\n  - { name: knock, summary: Knocks, run: { command: [echo] } }\n";
    let catalog = Catalog::parse("test", text, &[], &BTreeMap::new()).unwrap();
    let policies = Policies { catalog, limits: Limits::one_machine(1024), ..Policies::default() };
    let situation = Situation { policies: policies.into(), ..Situation::default() };
    let (submission, digest) = intake::read(br#"{"capability":"knock"}"#).unwrap();
    let sender = Sender { caller, key: Some("one") };
    let now = Timestamp::from_second(1_800_000_000).unwrap();
    intake::prepare(&submission, digest, sender, &situation, Taking::default(), now, [3; 32]).unwrap().job
}
