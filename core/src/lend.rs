//! What credential a run may borrow, and for how long. Whoever reads secrets does it in this room, and nobody else can.
//!
//! A run asks with its claim's token. [`judge`] holds the request against the record and the capability; what passes is had
//! from a vendor, written down, and only then handed over. A loan that nobody was told of harms nobody; one that nobody can
//! read of would.

mod pattern;
mod record;
mod scope;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

pub use self::pattern::Pattern;
pub use self::record::{LoanId, LoanNote, LoanOutcome, LoanQuery, NotALoanId};
pub use self::scope::{AzureBy, Borrow, GcloudBy, GithubBy, Grant, GrantOf, Kind, Level, Scope, SecretName};
use crate::job::{Epoch, Job, JobId, State, one_line};
use crate::policies::Policies;
use crate::ports::{Lender, PortError, Vendors, Voucher, Yard, describe};

/// The longest that one loan of a kind lasts; then it is renewed if its run still lasts. AWS: a role assumed by a role
/// lasts an hour at most (STS, "Role chaining"); Google's and GitHub's tokens last an hour; those of Microsoft Entra 60 to 90
/// minutes. A global value has no end of its own: it is asked for again, so that one that was replaced is replaced here too.
pub fn longest(kind: Kind) -> Duration {
    match kind {
        Kind::Aws | Kind::Gcloud | Kind::Azure | Kind::Github | Kind::Global => Duration::from_secs(3600),
    }
}

/// How long before its end a loan is renewed, at most: AWS's SDKs ask anew five to fifteen minutes before the end, and a
/// vendor that is down for a moment must not end a run.
pub const RENEW_BEFORE: Duration = Duration::from_secs(600);

/// The shortest rest of a run for which something is lent: under it a credential would be over before it is used.
pub const SHORTEST: Duration = Duration::from_secs(1);

/// When a loan that was made at `at` and ends at `until` is renewed: at two thirds of it, or [`RENEW_BEFORE`] its end where
/// that is later.
pub fn renewed_at(at: Timestamp, until: Timestamp) -> Timestamp {
    let whole = Duration::try_from(until.duration_since(at)).unwrap_or_default();
    let before = RENEW_BEFORE.min(whole / 3);
    until - before
}

/// What a run asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoanRequest {
    /// Which run, and the right to speak of it.
    pub voucher: Voucher,
    /// What it wants to borrow.
    pub scope: Scope,
}

/// A credential. Nothing of it is ever shown: its parts are wiped from memory when they are dropped.
#[derive(Clone, Debug)]
pub enum Credential {
    /// Temporary credentials of AWS.
    Aws {
        /// Which these are; not secret, and what CloudTrail tells of them.
        access_key_id: String,
        /// What requests are signed with.
        secret_access_key: SecretString,
        /// What is sent along.
        session_token: SecretString,
    },
    /// A bearer token.
    Token(SecretString),
    /// A value.
    Value(SecretString),
}

impl PartialEq for Credential {
    /// Not to be asked about a credential that whoever asks does not hold: it takes longer the more of it is alike.
    fn eq(&self, other: &Self) -> bool {
        let same = |one: &SecretString, other: &SecretString| one.expose_secret() == other.expose_secret();
        match (self, other) {
            (
                Self::Aws { access_key_id, secret_access_key, session_token },
                Self::Aws { access_key_id: id, secret_access_key: key, session_token: token },
            ) => access_key_id == id && same(secret_access_key, key) && same(session_token, token),
            (Self::Token(one), Self::Token(other)) | (Self::Value(one), Self::Value(other)) => same(one, other),
            (Self::Aws { .. } | Self::Token(_) | Self::Value(_), _) => false,
        }
    }
}

/// A credential that a run has for a time.
#[derive(Clone, Debug, PartialEq)]
pub struct Loan {
    /// What its record is called.
    pub id: LoanId,
    /// What was borrowed.
    pub scope: Scope,
    /// It.
    pub credential: Credential,
    /// When it ends: the run's deadline, or sooner. What lasts longer by itself is not to be used after this.
    pub until: Timestamp,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// It is lent.
    Lent(Box<Loan>),
    /// It is not.
    Refused(Refused),
}

/// Why nothing is lent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    /// Which of the reasons.
    pub code: RefusedCode,
    /// It, in a sentence; no secret.
    pub message: String,
}

/// The reasons for which nothing is lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum RefusedCode {
    /// There is no such job.
    UnknownJob,
    /// The job does not run.
    NotRunning,
    /// The job runs at another epoch.
    StaleEpoch,
    /// The token is not the run's.
    NotTheHolder,
    /// The run has been told to end.
    Stopping,
    /// The run's deadline has passed, or does in a moment.
    DeadlinePassed,
    /// What is asked for is no name of a credential.
    BadScope,
    /// The capability may not borrow that.
    ScopeNotAllowed,
    /// Nothing here lends credentials of that kind.
    NoLender,
    /// The key that it takes is not in the store of secrets, or is none.
    SecretMissing,
    /// The vendor will not lend it.
    VendorRefused,
    /// The vendor cannot be reached, or fails.
    VendorDown,
    /// The vendor's answer is none.
    VendorAnswer,
}

impl RefusedCode {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::UnknownJob,
        Self::NotRunning,
        Self::StaleEpoch,
        Self::NotTheHolder,
        Self::Stopping,
        Self::DeadlinePassed,
        Self::BadScope,
        Self::ScopeNotAllowed,
        Self::NoLender,
        Self::SecretMissing,
        Self::VendorRefused,
        Self::VendorDown,
        Self::VendorAnswer,
    ];

    /// Its name, in records and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnknownJob => "unknown_job",
            Self::NotRunning => "not_running",
            Self::StaleEpoch => "stale_epoch",
            Self::NotTheHolder => "not_the_holder",
            Self::Stopping => "stopping",
            Self::DeadlinePassed => "deadline_passed",
            Self::BadScope => "bad_scope",
            Self::ScopeNotAllowed => "scope_not_allowed",
            Self::NoLender => "no_lender",
            Self::SecretMissing => "secret_missing",
            Self::VendorRefused => "vendor_refused",
            Self::VendorDown => "vendor_down",
            Self::VendorAnswer => "vendor_answer",
        }
    }

    /// Whether the same request may be granted later.
    pub fn is_retryable(self) -> bool {
        match self {
            Self::VendorDown | Self::VendorAnswer => true,
            Self::UnknownJob
            | Self::NotRunning
            | Self::StaleEpoch
            | Self::NotTheHolder
            | Self::Stopping
            | Self::DeadlinePassed
            | Self::BadScope
            | Self::ScopeNotAllowed
            | Self::NoLender
            | Self::SecretMissing
            | Self::VendorRefused => false,
        }
    }
}

impl fmt::Display for RefusedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Refused {
    /// A refusal, its message made safe for a log and a terminal.
    pub fn new(code: RefusedCode, message: impl AsRef<str>) -> Self {
        Self { code, message: one_line(message.as_ref(), 300) }
    }
}

/// What is asked of a vendor: everything it takes to get one credential, and to tell later whose it was.
#[derive(Clone, Debug)]
pub struct Order {
    /// The grant that it goes by.
    pub grant: Grant,
    /// What is to be had.
    pub scope: Scope,
    /// For which job.
    pub job: JobId,
    /// At which epoch.
    pub epoch: Epoch,
    /// Of which capability.
    pub capability: String,
    /// The time.
    pub now: Timestamp,
    /// When it is to end at the latest.
    pub until: Timestamp,
}

/// What a vendor gave.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The credential.
    pub credential: Credential,
    /// When the vendor lets it end; `None`: it has no end of its own.
    pub expires: Option<Timestamp>,
    /// What the vendor calls it in its own records, such as an access key's id; no secret.
    pub reference: Option<String>,
    /// Whether the vendor can end it before its time.
    pub revocable: bool,
}

/// Decides a request by the record, as it is now, and the rules in force.
///
/// # Errors
///
/// [`Refused`] says why not.
pub fn judge(job: Option<&Job>, policies: &Policies, request: &LoanRequest, now: Timestamp) -> Result<Order, Refused> {
    let refused = |code, message: String| Err(Refused::new(code, message));
    let LoanRequest { voucher, scope } = request;
    let Some(job) = job else {
        return refused(RefusedCode::UnknownJob, format!("there is no job {}", voucher.id));
    };
    let State::Running(run) = &job.state else {
        return refused(RefusedCode::NotRunning, format!("job {} is {}, and does not run", job.id, job.phase()));
    };
    if job.epoch != voucher.epoch {
        let message =
            format!("job {} runs at epoch {}, and this is asked for epoch {}", job.id, job.epoch, voucher.epoch);
        return refused(RefusedCode::StaleEpoch, message);
    }
    if run.token != voucher.token.hash() {
        return refused(RefusedCode::NotTheHolder, format!("the token shown is not that of the run of job {}", job.id));
    }
    if run.stop.is_some() {
        return refused(RefusedCode::Stopping, format!("the run of job {} has been told to end", job.id));
    }
    let rest = Duration::try_from(run.deadline.duration_since(now)).unwrap_or_default();
    if rest < SHORTEST {
        return refused(RefusedCode::DeadlinePassed, format!("the deadline of job {}'s run has passed", job.id));
    }
    if let Err((field, what)) = scope.check() {
        return refused(RefusedCode::BadScope, format!("{field}: {what}"));
    }
    let capability = &job.work.capability;
    let grants =
        policies.catalog.get(capability).map(|capability| capability.may_borrow.as_slice()).unwrap_or_default();
    let Some(grant) = grants.iter().find(|grant| grant.covers(scope)) else {
        let message = format!("capability `{capability}` may not borrow {scope}");
        return refused(RefusedCode::ScopeNotAllowed, message);
    };
    let most = grant.at_most_seconds.map_or(Duration::MAX, |seconds| Duration::from_secs(seconds.into()));
    Ok(Order {
        grant: grant.clone(),
        scope: scope.clone(),
        job: job.id,
        epoch: job.epoch,
        capability: capability.clone(),
        now,
        until: now + rest.min(longest(scope.kind())).min(most),
    })
}

/// The broker, as the yard's own lender or behind a function: the only one that has the door to the vendors.
pub struct Broker {
    /// The records and rules that it decides by.
    pub yard: Yard,
    /// Where credentials come from.
    pub vendors: Arc<dyn Vendors>,
}

#[async_trait]
impl Lender for Broker {
    async fn lend(&self, request: &LoanRequest) -> Result<Answer, PortError> {
        lend(&self.yard, self.vendors.as_ref(), request).await
    }

    async fn take_back(&self, voucher: &Voucher, loan: &Loan) -> Result<(), PortError> {
        take_back(&self.yard, self.vendors.as_ref(), voucher, loan).await
    }
}

/// Lends, or refuses; either is on record before it is answered.
///
/// # Errors
///
/// The record could not be read or written: nothing is lent, and the same request can be made again.
pub async fn lend(yard: &Yard, vendors: &dyn Vendors, request: &LoanRequest) -> Result<Answer, PortError> {
    let (now, policies) = (yard.ambient.now(), yard.policies());
    let id = LoanId::ordered(now, yard.ambient.random());
    let job = yard.ledger.load(request.voucher.id).await?;
    let decided = match judge(job.as_ref(), &policies, request, now) {
        Ok(order) => vendors.issue(&order).await.map(|issued| (order, issued)),
        Err(refused) => Err(refused),
    };
    let (order, issued) = match decided {
        Ok(lent) => lent,
        Err(refused) => return note_refusal(yard, id, job.as_ref(), request, refused).await,
    };
    let until = issued.expires.map_or(order.until, |expires| expires.min(order.until));
    let revocable = issued.revocable;
    let loan = Loan { id, scope: order.scope, credential: issued.credential, until };
    // A vendor may take its time, and the run may be told to end meanwhile: then nobody gives this back any more.
    let noted = match yard.ledger.load(request.voucher.id).await {
        Ok(job) => match judge(job.as_ref(), &policies, request, yard.ambient.now()) {
            Ok(_) => {
                let outcome = LoanOutcome::Lent { until, reference: issued.reference, revocable };
                let note = LoanNote::new(id, now, job.as_ref(), &request.voucher, &request.scope, outcome);
                yard.ledger.note_loan(&note).await.map(|()| told(yard, &note))
            }
            Err(refused) => {
                unused(vendors, &loan, revocable).await;
                return note_refusal(yard, id, job.as_ref(), request, refused).await;
            }
        },
        Err(error) => Err(error),
    };
    match noted {
        Ok(()) => Ok(Answer::Lent(Box::new(loan))),
        Err(error) => {
            unused(vendors, &loan, revocable).await;
            Err(error)
        }
    }
}

async fn note_refusal(
    yard: &Yard,
    id: LoanId,
    job: Option<&Job>,
    request: &LoanRequest,
    refused: Refused,
) -> Result<Answer, PortError> {
    let outcome = LoanOutcome::Refused(refused.clone());
    let note = LoanNote::new(id, yard.ambient.now(), job, &request.voucher, &request.scope, outcome);
    yard.ledger.note_loan(&note).await?;
    told(yard, &note);
    Ok(Answer::Refused(refused))
}

/// Ends a credential that was had and is handed to nobody.
async fn unused(vendors: &dyn Vendors, loan: &Loan, revocable: bool) {
    if !revocable {
        return;
    }
    if let Err(error) = vendors.revoke(loan).await {
        warn!(loan.id = %loan.id, loan.scope = %loan.scope, error = %describe(&error), "what nobody was handed is not ended, and lasts until its own end");
    }
}

/// Takes back what a run borrowed, because the run has ended: a credential that its vendor can end is ended there, and either
/// is on record. It is the run that the loan's own record names that may give it back, also when the job is at another
/// epoch by now; whether the policies still have the grant says nothing of a credential that was given.
///
/// # Errors
///
/// There is no such loan of that run; or the vendor could not be reached, or the record not be written: then the same can be done
/// again.
pub async fn take_back(yard: &Yard, vendors: &dyn Vendors, voucher: &Voucher, loan: &Loan) -> Result<(), PortError> {
    let subject = || format!("loan {}", loan.id);
    let noted = yard.ledger.loan(voucher.id, loan.id).await?;
    let lent = noted.filter(|note| note.epoch == voucher.epoch && note.scope == loan.scope);
    let Some(LoanOutcome::Lent { revocable, .. }) = lent.map(|note| note.outcome) else {
        return Err(PortError::permanent("take back", subject(), "it was not lent to that run"));
    };
    let job = yard.ledger.load(voucher.id).await?;
    if !is_of(job.as_ref(), voucher) {
        return Err(PortError::permanent("take back", subject(), "the token shown is not that of the run"));
    }
    let (revoked, failed) = match revocable {
        true => match vendors.revoke(loan).await {
            Ok(revoked) => (revoked, None),
            Err(error) if error.retryable => return Err(error),
            Err(error) => (false, Some(error)),
        },
        false => (false, None),
    };
    let now = yard.ambient.now();
    let id = LoanId::ordered(now, yard.ambient.random());
    let outcome = LoanOutcome::Returned { loan: loan.id, revoked };
    let note = LoanNote::new(id, now, job.as_ref(), voucher, &loan.scope, outcome);
    yard.ledger.note_loan(&note).await?;
    told(yard, &note);
    failed.map_or(Ok(()), Err)
}

/// Whether a voucher's token is that of the run it names, as far as the record still tells: of an epoch that is over it does not.
fn is_of(job: Option<&Job>, voucher: &Voucher) -> bool {
    let Some(job) = job else { return true };
    if job.epoch != voucher.epoch {
        return job.epoch > voucher.epoch;
    }
    match &job.state {
        State::Running(run) => run.token == voucher.token.hash(),
        State::Settled(settlement) => settlement.token.is_none_or(|token| token == voucher.token.hash()),
        State::Delayed { .. } | State::Held { .. } | State::Dispatched { .. } => true,
    }
}

/// What was decided, in the log and among the numbers.
fn told(yard: &Yard, note: &LoanNote) {
    let (job, epoch, kind) = (note.job, note.epoch, note.scope.kind());
    match &note.outcome {
        LoanOutcome::Lent { until, .. } => {
            info!(job.id = %job, job.epoch = %epoch, loan.id = %note.id, loan.scope = %note.scope, until = %until, "lent");
        }
        LoanOutcome::Refused(refused) => {
            let (code, error) = (refused.code, &refused.message);
            warn!(job.id = %job, job.epoch = %epoch, loan.id = %note.id, loan.scope = %note.scope, code = %code, error, "not lent");
        }
        LoanOutcome::Returned { loan, revoked } => {
            info!(job.id = %job, job.epoch = %epoch, loan.id = %loan, loan.scope = %note.scope, revoked, "given back");
        }
    }
    yard.meters.loan(kind, &note.outcome);
}
