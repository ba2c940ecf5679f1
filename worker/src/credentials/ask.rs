//! A run asks for a credential: how often, and what it means for the run when it gets none.

use std::time::Duration;

use switchyard_core::execute::BEAT;
use switchyard_core::job::StopCause;
use switchyard_core::lend::{Answer, Loan, Refused, RefusedCode, Scope};
use switchyard_core::ports::{Ambient, Assignment, LoanDoor, Outcome, PortError, backoff, describe};
use tokio::time::{sleep, timeout};

use super::{failed, stopped};

/// The longest that one answer is waited for: a broker asks a vendor in between, and gives that ten seconds.
const ANSWER: Duration = Duration::from_secs(20);
/// How long a run that has ended waits until a loan of it is given back. What is not then ends by itself.
pub(super) const GIVEN_BACK: Duration = Duration::from_secs(10);
/// The same where there is no time left: its machine goes, and what its program made has to be reported before.
const GIVEN_BACK_HURRIED: Duration = Duration::from_secs(1);
/// How often a program's start waits for a vendor that is down: with [`FIRST_PAUSE`] for 8 to 16 s in all, and the answers'
/// own time. A vendor that is down for longer costs an attempt, and the next comes later.
const TRIES: u32 = 6;
/// The pause after the first answer in vain; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// Why a run got no credential.
#[derive(Debug)]
pub(super) enum Unlent {
    /// It was refused.
    Refused(Refused),
    /// The desk did not ask, or nobody answered it.
    Desk(PortError),
    /// Nobody answered.
    Silence,
}

impl Unlent {
    /// Whether the same question may be answered otherwise later.
    pub(super) fn is_retryable(&self) -> bool {
        match self {
            Self::Refused(refused) => refused.code.is_retryable(),
            Self::Desk(error) => error.retryable,
            Self::Silence => true,
        }
    }

    /// It, in words.
    pub(super) fn told(&self) -> String {
        match self {
            Self::Refused(Refused { code, message }) => format!("{message} ({code})"),
            Self::Desk(error) => describe(error),
            Self::Silence => format!("no answer within {} s", ANSWER.as_secs()),
        }
    }
}

/// Asks once.
pub(super) async fn once(door: &LoanDoor<'_>, scope: &Scope) -> Result<Loan, Unlent> {
    match timeout(ANSWER, door.borrow(scope)).await {
        Ok(Ok(Answer::Lent(loan))) => Ok(*loan),
        Ok(Ok(Answer::Refused(refused))) => Err(Unlent::Refused(refused)),
        Ok(Err(error)) => Err(Unlent::Desk(error)),
        Err(_) => Err(Unlent::Silence),
    }
}

/// Asks until it is lent, refused for good, or [`TRIES`] are over.
pub(super) async fn persistently(door: &LoanDoor<'_>, ambient: &dyn Ambient, scope: &Scope) -> Result<Loan, Unlent> {
    let mut tried = 1;
    loop {
        match once(door, scope).await {
            Err(unlent) if unlent.is_retryable() && tried < TRIES => {
                ambient.pause(backoff(FIRST_PAUSE, tried, ambient.chance())).await;
                tried += 1;
            }
            answered => return answered,
        }
    }
}

/// Gives a loan back, trying again while there is time for that. Answers why it could not be.
pub(super) async fn given_back(assignment: &Assignment<'_>, ambient: &dyn Ambient, loan: &Loan) -> Result<(), String> {
    let giving = async {
        let mut tried = 1;
        loop {
            match assignment.loans.give_back(loan).await {
                Err(error) if error.retryable => {
                    ambient.pause(backoff(FIRST_PAUSE, tried, ambient.chance())).await;
                    tried += 1;
                }
                given => return given.map_err(|error| describe(&error)),
            }
        }
    };
    let too_late = async {
        let hurried = async {
            assignment.stop.hurried().await;
            sleep(GIVEN_BACK_HURRIED).await;
        };
        tokio::select! { () = sleep(GIVEN_BACK) => {}, () = hurried => {} }
    };
    tokio::select! {
        biased;
        given = giving => given,
        () = too_late => Err("nobody took it in time".to_owned()),
    }
}

/// How a run ends that is not lent what it needs.
pub(super) async fn outcome(name: &str, unlent: Unlent, assignment: &Assignment<'_>, ambient: &dyn Ambient) -> Outcome {
    let permanent = !unlent.is_retryable();
    let told = format!("loan `{name}` is not lent: {}", unlent.told());
    let Unlent::Refused(refused) = unlent else { return failed("lender_unreachable", &told, permanent) };
    match refused.code {
        // The run is somebody else's by now, or nobody's: its report will be none.
        RefusedCode::UnknownJob | RefusedCode::NotRunning | RefusedCode::StaleEpoch | RefusedCode::NotTheHolder => {
            stopped(StopCause::Stale)
        }
        RefusedCode::DeadlinePassed => Outcome::TimedOut,
        // Why it must end the next beat brings.
        RefusedCode::Stopping => tokio::select! {
            biased;
            cause = assignment.stop.raised() => stopped(cause),
            () = ambient.pause(BEAT * 2) => Outcome::Interrupted(told),
        },
        RefusedCode::BadScope
        | RefusedCode::ScopeNotAllowed
        | RefusedCode::NoLender
        | RefusedCode::SecretMissing
        | RefusedCode::VendorRefused
        | RefusedCode::VendorDown
        | RefusedCode::VendorAnswer => failed("loan_refused", &told, permanent),
    }
}
