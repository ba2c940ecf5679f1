//! A yard in memory, and somebody of each role to ask it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::http::header;
use axum::http::request::Parts;
use jiff::Timestamp;
use switchyard_core::catalog::Catalog;
use switchyard_core::intake;
use switchyard_core::job::{Holder, JobId, Nonce};
use switchyard_core::memory::Memory;
use switchyard_core::ports::{Assignment, Executor, LogSink, Outcome};
use switchyard_core::route::{Conditions, Limits};
use switchyard_core::settle::YardDesk;
use tokio::sync::Semaphore;

use crate::admit::{Caller, Callers, Role, Stranger};
use crate::{Api, Inline};

/// What the yard of the tests can run: `greet` waits for a worker, and there is none.
const CATALOG: &str = "version: 1
capabilities:
  - name: greet
    summary: says hello
    run: { command: [echo, \"{{name}}\"] }
    input: { type: object, required: [name], properties: { name: { type: string } } }
    needs: { timeout_seconds: 60 }
";

/// Each role's token is the role's name and so is the caller's.
pub(crate) fn token(role: Role) -> &'static str {
    role.as_str()
}

struct Named;

impl Callers for Named {
    fn who(&self, request: &Parts) -> Result<Caller, Stranger> {
        let shown = request.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = shown.ok_or(Stranger::Silent)?.strip_prefix("Bearer ").ok_or(Stranger::Unknown)?;
        let role = token.parse().map_err(|_| Stranger::Unknown)?;
        Ok(Caller { name: token.to_owned(), role })
    }
}

struct Idle;

#[async_trait]
impl Executor for Idle {
    async fn run(&self, _: &Assignment, _: &dyn LogSink) -> Outcome {
        Outcome::Succeeded(None)
    }
}

/// A router's state over a new yard in memory.
pub(crate) fn api() -> Arc<Api> {
    let home = Memory::new(Timestamp::from_second(1_800_000_000).unwrap(), 7);
    let catalog = Catalog::parse("c.yaml", CATALOG, &[], &std::collections::BTreeMap::new()).unwrap();
    let yard = home.yard(catalog, Limits::one_machine(1024));
    Arc::new(Api {
        inline: Inline {
            desk: Arc::new(YardDesk(yard.clone())),
            executor: Arc::new(Idle),
            holder: Holder::new("inline", Nonce(1)),
            places: Arc::new(Semaphore::new(4)),
            budget: Duration::from_secs(29),
        },
        yard,
        callers: Arc::new(Named),
        compute: "local",
    })
}

/// A job that waits, submitted by `caller`.
pub(crate) async fn a_job(api: &Api, caller: &str) -> JobId {
    let (submission, digest) = intake::read(br#"{"capability":"greet","payload":{"name":"Ada"}}"#).unwrap();
    let sender = intake::Sender { caller, key: None };
    let yard = &api.yard;
    let (now, random) = (yard.ambient.now(), yard.ambient.random());
    let conditions = Conditions::default();
    let prepared =
        intake::prepare(&submission, digest, sender, &yard.catalog, &conditions, &yard.limits, now, random).unwrap();
    intake::accept(yard, vec![prepared]).await.unwrap().remove(0).unwrap().job.id
}
