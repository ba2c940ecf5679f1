//! A yard in memory behind the functions' API: what several of their tests begin with.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use switchyard_api::admit::Callers;
use switchyard_api::edge::Edge;
use switchyard_api::{Api, Budget, Inline, Invocation};
use switchyard_core::job::{Holder, Nonce};
use switchyard_core::policies::{NotReloaded, Reload, Reloaded};
use switchyard_core::ports::{Assignment, Executor, LogSink, Outcome, Yard};
use switchyard_core::settle::YardDesk;
use tokio::sync::Semaphore;

struct Idle;

#[async_trait]
impl Executor for Idle {
    async fn run(&self, _: &Assignment<'_>, _: &dyn LogSink) -> Outcome {
        Outcome::Succeeded(None)
    }
}

struct BuiltIn;

#[async_trait]
impl Reload for BuiltIn {
    async fn reload(&self) -> Result<Reloaded, NotReloaded> {
        Err(NotReloaded::BuiltIn)
    }
}

/// The API of this yard, in an invocation that has a minute. Whatever runs inline succeeds at once.
pub(crate) fn api(yard: Yard, callers: Arc<dyn Callers>) -> Arc<Api> {
    let invocation = Invocation::default();
    invocation.begin(std::time::Instant::now() + Duration::from_secs(60));
    Arc::new(Api {
        inline: Inline {
            desk: Arc::new(YardDesk(yard.clone())),
            executor: Arc::new(Idle),
            holder: Holder::new("inline", Nonce(1)),
            places: Arc::new(Semaphore::new(1)),
            budget: Budget::Rest(invocation),
        },
        yard,
        callers,
        edge: Edge::default(),
        rules: Arc::new(BuiltIn),
        compute: "lambda",
    })
}
