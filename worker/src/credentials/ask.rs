//! A run asks for a credential: how often, and what it means for the run when it gets none.

use std::time::Duration;

use switchyard_core::execute::BEAT;
use switchyard_core::job::StopCause;
use switchyard_core::lend::{Answer, Loan, Refused, RefusedCode, Scope};
use switchyard_core::ports::{Ambient, Assignment, LoanDoor, Outcome, PortError, backoff, describe};
use tokio::time::{sleep, timeout};

use super::{failed, stopped};

/// The longest that one answer is waited for. A broker gives its vendor 20 s in all (`vendors/src/settings.rs`), its function
/// has 28 (template.yaml), and whoever invokes that waits for 31 (`aws/src/lender_lambda.rs`): each hears of the one behind it, or
/// what is lent would have no taker.
pub const ANSWER: Duration = Duration::from_secs(35);
/// How long a run that has ended waits until a loan of it is given back. What is not then ends by itself.
pub(super) const GIVEN_BACK: Duration = Duration::from_secs(10);
/// The same where there is no time left: its machine goes, and what its program made has to be reported before.
const GIVEN_BACK_HURRIED: Duration = Duration::from_secs(1);
/// How long a run that is over waits for answers that are under way: what is lent at that moment can only be given back by
/// whoever hears of it.
pub(super) const HEARD_OUT: Duration = Duration::from_secs(5);
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
pub(super) async fn persistently<T, Asking: Future<Output = Result<T, Unlent>>>(
    ambient: &dyn Ambient,
    mut ask: impl FnMut() -> Asking,
) -> Result<T, Unlent> {
    let mut tried = 1;
    loop {
        match ask().await {
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;
    use switchyard_core::job::{ClaimToken, Epoch, JobId};
    use switchyard_core::lend::LoanRequest;
    use switchyard_core::ports::{
        Beat, Claim, Claimed, Desk, Emission, LogLine, Order, Report, Reported, StopSignal, Voucher,
    };
    use switchyard_core::records::Emitted;

    use super::*;
    use switchyard_builtins::system::System;

    /// What is answered; `None`: nothing, ever.
    type Answering = fn() -> Option<Result<Answer, PortError>>;

    /// A desk at which a run can borrow, and nothing else: it answers as told, and the last for good. It counts.
    struct Answers(Mutex<Vec<Answering>>, Mutex<u32>);

    #[async_trait]
    impl Desk for Answers {
        async fn claim(&self, _: &Claim) -> Result<Claimed, PortError> {
            unreachable!("nobody claims")
        }

        async fn beat(&self, _: &Beat, _: Duration) -> Result<Vec<Order>, PortError> {
            unreachable!("nobody beats")
        }

        async fn log(&self, _: &Voucher, _: &[LogLine]) -> Result<(), PortError> {
            unreachable!("nobody prints")
        }

        async fn emit(&self, _: &Voucher, _: &[Emitted]) -> Result<Emission, PortError> {
            unreachable!("nobody emits")
        }

        async fn settle(&self, _: &Report) -> Result<Reported, PortError> {
            unreachable!("nobody ends")
        }

        async fn borrow(&self, _: &LoanRequest) -> Result<Answer, PortError> {
            *self.1.lock().unwrap() += 1;
            let next = {
                let mut answers = self.0.lock().unwrap();
                if answers.len() > 1 { answers.remove(0) } else { answers[0] }
            };
            match next() {
                Some(answer) => answer,
                None => std::future::pending().await,
            }
        }

        async fn give_back(&self, _: &Voucher, _: &Loan) -> Result<(), PortError> {
            unreachable!("nothing is lent")
        }
    }

    fn refused(code: RefusedCode) -> Unlent {
        Unlent::Refused(Refused::new(code, "its own reason"))
    }

    fn assignment(stop: &StopSignal) -> Assignment<'static> {
        use serde_json::json;
        use switchyard_core::intake::{self, Sender, Taking};
        use switchyard_core::policies::{Policies, Situation};
        let text = "version: 1\ncapabilities: [ { name: x, summary: Does, run: { command: [echo] } } ]";
        let catalog = switchyard_core::catalog::Catalog::parse("x", text, &[], &Default::default()).unwrap();
        let limits = switchyard_core::route::Limits::one_machine(1024);
        let policies = std::sync::Arc::new(Policies { catalog, limits, ..Policies::default() });
        let situation = Situation { policies, ..Situation::default() };
        let (submission, digest) = intake::read(json!({ "capability": "x" }).to_string().as_bytes()).unwrap();
        let sender = Sender { caller: "tests", key: None };
        let prepared =
            intake::prepare(&submission, digest, sender, &situation, Taking::default(), System.now(), [1; 32]).unwrap();
        let (job, payload, deadline) = (prepared.job, prepared.payload, System.now());
        Assignment { job, payload, deadline, stop: stop.clone(), loans: LoanDoor::NONE }
    }

    #[tokio::test(start_paused = true)]
    async fn each_reason_ends_a_run_in_its_own_way() {
        let stop = StopSignal::default();
        let run = assignment(&stop);
        let mut told = Vec::new();
        for unlent in RefusedCode::ALL.into_iter().map(refused).chain([
            Unlent::Desk(PortError::retryable("borrow at", "the desk", "it is busy")),
            Unlent::Desk(PortError::permanent("borrow at", "the desk", "it is closed")),
            Unlent::Silence,
        ]) {
            let what = unlent.told();
            told.push(match outcome("search", unlent, &run, &System).await {
                Outcome::Failed { failure, permanent } => format!("{what}\n    {failure} [for good: {permanent}]"),
                other => format!("{what}\n    {other:?}"),
            });
        }
        insta::assert_snapshot!(told.join("\n"));
        // Whoever was told to end hears why with the next beat.
        let stopping = async {
            tokio::time::sleep(BEAT).await;
            stop.raise(StopCause::Cancel);
        };
        let (outcome, ()) = tokio::join!(outcome("search", refused(RefusedCode::Stopping), &run, &System), stopping);
        assert_eq!(outcome, Outcome::Stopped(StopCause::Cancel));
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_pass_is_asked_for_again_and_nothing_else_is() {
        let voucher = Voucher { id: JobId::from_bytes([1; 16]), epoch: Epoch(1), token: ClaimToken::new([1; 32]) };
        let scope = Scope::Global { secret: "search".to_owned() };
        let busy = || Some(Err(PortError::retryable("borrow at", "the desk", "it is busy")));
        let closed = || Some(Err(PortError::permanent("borrow at", "the desk", "it is closed")));
        let down = || Some(Ok(Answer::Refused(Refused::new(RefusedCode::VendorDown, "down"))));
        let no = || Some(Ok(Answer::Refused(Refused::new(RefusedCode::ScopeNotAllowed, "no"))));
        let cases: [(Vec<Answering>, u32, bool); 6] = [
            (vec![busy], TRIES, true),
            (vec![down], TRIES, true),
            (vec![|| None], TRIES, true),
            (vec![closed], 1, false),
            (vec![no], 1, false),
            (vec![busy, down, || None, no], 4, false),
        ];
        for (answers, asked, retryable) in cases {
            let desk = Answers(Mutex::new(answers), Mutex::default());
            let door = LoanDoor::at(&desk, &voucher);
            let unlent = persistently(&System, || once(&door, &scope)).await.unwrap_err();
            assert_eq!((*desk.1.lock().unwrap(), unlent.is_retryable()), (asked, retryable), "{unlent:?}");
        }
        let nobody = once(&LoanDoor::NONE, &scope).await.unwrap_err();
        assert!(matches!(nobody, Unlent::Refused(Refused { code: RefusedCode::NoLender, .. })));
    }
}
