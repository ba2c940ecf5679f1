//! Where one run borrows credentials.

use std::fmt;

use super::{Desk, PortError, Voucher};
use crate::lend::{Answer, Loan, LoanRequest, Refused, RefusedCode, Scope};

/// The right of one run to borrow, and where. Whoever has it can speak for that run alone.
#[derive(Clone, Copy, Default)]
pub struct LoanDoor<'a>(Option<(&'a dyn Desk, &'a Voucher)>);

impl<'a> LoanDoor<'a> {
    /// A run that has nobody to ask: whatever it wants is refused.
    pub const NONE: LoanDoor<'static> = LoanDoor(None);

    /// The run of this voucher asks at this desk.
    pub fn at(desk: &'a dyn Desk, voucher: &'a Voucher) -> Self {
        Self(Some((desk, voucher)))
    }

    /// Asks for a credential.
    ///
    /// # Errors
    ///
    /// The desk could not be reached, or could not ask.
    pub async fn borrow(&self, scope: &Scope) -> Result<Answer, PortError> {
        let Some((desk, voucher)) = self.0 else {
            let message = format!("nothing here lends credentials of kind {}", scope.kind());
            return Ok(Answer::Refused(Refused::new(RefusedCode::NoLender, message)));
        };
        desk.borrow(&LoanRequest { voucher: voucher.clone(), scope: scope.clone() }).await
    }

    /// Gives one back, because the run has ended.
    ///
    /// # Errors
    ///
    /// The desk could not be reached, or could not take it.
    pub async fn give_back(&self, loan: &Loan) -> Result<(), PortError> {
        match self.0 {
            Some((desk, voucher)) => desk.give_back(voucher, loan).await,
            None => Ok(()),
        }
    }
}

impl fmt::Debug for LoanDoor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither the desk nor the voucher: its token is a credential.
        f.write_str(if self.0.is_some() { "LoanDoor(a desk)" } else { "LoanDoor(none)" })
    }
}
