//! The desk of holders on this machine: a beat's answer is held back until there is an order, so that a cancelled
//! run hears of it at once although it beats only every quarter of a minute.

use std::time::Duration;

use async_trait::async_trait;
use switchyard_core::lend::{Answer, Loan, LoanRequest};
use switchyard_core::ports::{
    Beat, Claim, Claimed, Desk, Emission, LogLine, Order, PortError, Report, Reported, Voucher,
};
use switchyard_core::records::Emitted;
use switchyard_core::settle::YardDesk;

use crate::ledger_sqlite::SqliteLedger;

/// The desk in the yard's own process.
#[derive(Clone)]
pub struct LocalDesk {
    desk: YardDesk,
    ledger: SqliteLedger,
}

impl LocalDesk {
    /// The desk of a yard on `ledger`.
    pub fn new(desk: YardDesk, ledger: SqliteLedger) -> Self {
        Self { desk, ledger }
    }
}

#[async_trait]
impl Desk for LocalDesk {
    async fn claim(&self, claim: &Claim) -> Result<Claimed, PortError> {
        self.desk.claim(claim).await
    }

    async fn beat(&self, beat: &Beat, patience: Duration) -> Result<Vec<Order>, PortError> {
        let patience = tokio::time::sleep(patience);
        tokio::pin!(patience);
        loop {
            let stopped = self.ledger.bells.stops.notified();
            tokio::pin!(stopped);
            // Listening before looking: a stop in between is not missed.
            stopped.as_mut().enable();
            let orders = self.desk.beat(beat, Duration::ZERO).await?;
            if !orders.is_empty() {
                return Ok(orders);
            }
            tokio::select! {
                () = stopped => {}
                () = &mut patience => return Ok(Vec::new()),
            }
        }
    }

    async fn log(&self, voucher: &Voucher, lines: &[LogLine]) -> Result<(), PortError> {
        self.desk.log(voucher, lines).await
    }

    async fn emit(&self, voucher: &Voucher, lines: &[Emitted]) -> Result<Emission, PortError> {
        self.desk.emit(voucher, lines).await
    }

    async fn settle(&self, report: &Report) -> Result<Reported, PortError> {
        self.desk.settle(report).await
    }

    async fn borrow(&self, request: &LoanRequest) -> Result<Answer, PortError> {
        self.desk.borrow(request).await
    }

    async fn give_back(&self, voucher: &Voucher, loan: &Loan) -> Result<(), PortError> {
        self.desk.give_back(voucher, loan).await
    }
}
