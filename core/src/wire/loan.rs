//! Loans: as they are asked for and handed over, as they are written down, and as the API shows them.

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Ms, WireCause, WireError, bad, from_hex, from_ms, hex, ms, shown};
use crate::job::{ClaimToken, Epoch, JobId};
use crate::lend::{Answer, Credential, Loan, LoanId, LoanNote, LoanOutcome, LoanRequest, Refused, RefusedCode, Scope};
use crate::ports::Voucher;

/// The version that is written.
const VERSION: u32 = 1;

/// A record of a loan, as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = Loan))]
pub struct LoanView {
    /// Its name.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = "uuid"))]
    pub id: LoanId,
    /// When (RFC 3339).
    #[cfg_attr(feature = "openapi", schema(format = "date-time"))]
    pub at: String,
    /// For which job, as whoever asked said.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = "uuid"))]
    pub job: JobId,
    /// At which epoch, as whoever asked said.
    #[cfg_attr(feature = "openapi", schema(value_type = u32))]
    pub epoch: Epoch,
    /// The job's capability; empty for a job that is not there.
    pub capability: String,
    /// Who submitted the job; empty for a job that is not there.
    pub caller: String,
    /// Who ran the job; empty where nobody did.
    pub holder: String,
    /// What was asked for.
    pub scope: Scope,
    /// `lent`, `refused` or `returned`.
    pub outcome: LoanOutcomeName,
    /// Of what was lent: until when (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(format = "date-time"))]
    pub until: Option<String>,
    /// Of what was lent: what the vendor calls it in its own records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// Of what was lent: whether its vendor can end it before its time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revocable: Option<bool>,
    /// Of what was refused: why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<RefusedCode>,
    /// Of what was refused: why, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Of what was returned: the record of when it was lent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = "uuid"))]
    pub loan: Option<LoanId>,
    /// Of what was returned: whether its vendor ended the credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<bool>,
}

/// What became of a request, or of a loan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum LoanOutcomeName {
    /// It was lent.
    Lent,
    /// It was not.
    Refused,
    /// It was given back.
    Returned,
}

impl From<&LoanNote> for LoanView {
    fn from(note: &LoanNote) -> Self {
        let mut view = Self {
            id: note.id,
            at: shown(note.at),
            job: note.job,
            epoch: note.epoch,
            capability: note.capability.clone(),
            caller: note.caller.clone(),
            holder: note.holder.clone(),
            scope: note.scope.clone(),
            outcome: LoanOutcomeName::Lent,
            until: None,
            reference: None,
            revocable: None,
            code: None,
            message: None,
            loan: None,
            revoked: None,
        };
        match &note.outcome {
            LoanOutcome::Lent { until, reference, revocable } => {
                view.revocable = Some(*revocable);
                view.until = Some(shown(*until));
                view.reference.clone_from(reference);
            }
            LoanOutcome::Refused(refused) => {
                view.outcome = LoanOutcomeName::Refused;
                view.code = Some(refused.code);
                view.message = Some(refused.message.clone());
            }
            LoanOutcome::Returned { loan, revoked } => {
                view.outcome = LoanOutcomeName::Returned;
                view.loan = Some(*loan);
                view.revoked = Some(*revoked);
            }
        }
        view
    }
}

impl TryFrom<LoanView> for LoanNote {
    type Error = WireCause;

    fn try_from(view: LoanView) -> Result<Self, WireCause> {
        let time = |text: &str, field| text.parse::<Timestamp>().map_err(|_| WireCause::Field(field));
        let outcome = match view.outcome {
            LoanOutcomeName::Lent => {
                let until = time(view.until.as_deref().unwrap_or_default(), "until")?;
                LoanOutcome::Lent { until, reference: view.reference, revocable: view.revocable.unwrap_or_default() }
            }
            LoanOutcomeName::Refused => {
                let code = view.code.ok_or(WireCause::Field("code"))?;
                LoanOutcome::Refused(Refused::new(code, view.message.unwrap_or_default()))
            }
            LoanOutcomeName::Returned => LoanOutcome::Returned {
                loan: view.loan.ok_or(WireCause::Field("loan"))?,
                revoked: view.revoked.unwrap_or_default(),
            },
        };
        Ok(Self {
            id: view.id,
            at: time(&view.at, "at")?,
            job: view.job,
            epoch: view.epoch,
            capability: view.capability,
            caller: view.caller,
            holder: view.holder,
            scope: view.scope,
            outcome,
        })
    }
}

#[derive(Serialize, Deserialize)]
struct StoredWire {
    v: u32,
    #[serde(flatten)]
    note: LoanView,
}

/// A record of a loan as it is stored: JSON text.
pub fn encode_loan_note(note: &LoanNote) -> String {
    let wire = StoredWire { v: VERSION, note: note.into() };
    serde_json::to_string(&wire).unwrap_or_else(|error| unreachable!("a loan's record is always JSON: {error}"))
}

/// Reads what [`encode_loan_note`] wrote.
///
/// # Errors
///
/// [`WireError`] says why it cannot be read.
pub fn decode_loan_note(text: &str) -> Result<LoanNote, WireError> {
    let wrong = |cause: WireCause| bad("the record of a loan", cause);
    check_version(text).map_err(wrong)?;
    let wire: StoredWire = serde_json::from_str(text).map_err(|error| wrong(error.into()))?;
    wire.note.try_into().map_err(wrong)
}

#[derive(Deserialize)]
struct VersionWire {
    v: u32,
}

/// Looked at first: what a newer program wrote may be of another form.
fn check_version(text: &str) -> Result<(), WireCause> {
    let VersionWire { v: found } = serde_json::from_str(text)?;
    if found == VERSION { Ok(()) } else { Err(WireCause::Version { found, known: VERSION }) }
}

/// A credential as it is handed over. It is written into texts that are wiped, and nowhere else.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum CredentialWire {
    Aws { access_key_id: String, secret_access_key: Zeroizing<String>, session_token: Zeroizing<String> },
    Token(Zeroizing<String>),
    Value(Zeroizing<String>),
}

/// A loan as it is handed over.
#[derive(Serialize, Deserialize)]
pub(super) struct LoanWire {
    id: LoanId,
    scope: Scope,
    until: Ms,
    credential: CredentialWire,
}

fn out(secret: &SecretString) -> Zeroizing<String> {
    Zeroizing::new(secret.expose_secret().to_owned())
}

fn taken(secret: &Zeroizing<String>) -> SecretString {
    SecretString::from(secret.as_str())
}

impl From<&Loan> for LoanWire {
    fn from(loan: &Loan) -> Self {
        let credential = match &loan.credential {
            Credential::Aws { access_key_id, secret_access_key, session_token } => CredentialWire::Aws {
                access_key_id: access_key_id.clone(),
                secret_access_key: out(secret_access_key),
                session_token: out(session_token),
            },
            Credential::Token(token) => CredentialWire::Token(out(token)),
            Credential::Value(value) => CredentialWire::Value(out(value)),
        };
        Self { id: loan.id, scope: loan.scope.clone(), until: ms(loan.until), credential }
    }
}

impl TryFrom<LoanWire> for Loan {
    type Error = WireCause;

    fn try_from(wire: LoanWire) -> Result<Self, WireCause> {
        let credential = match wire.credential {
            CredentialWire::Aws { access_key_id, secret_access_key, session_token } => Credential::Aws {
                access_key_id,
                secret_access_key: taken(&secret_access_key),
                session_token: taken(&session_token),
            },
            CredentialWire::Token(token) => Credential::Token(taken(&token)),
            CredentialWire::Value(value) => Credential::Value(taken(&value)),
        };
        Ok(Self { id: wire.id, scope: wire.scope, credential, until: from_ms(wire.until)? })
    }
}

/// The right to speak of a run, as it is shown.
#[derive(Serialize, Deserialize)]
pub(super) struct VoucherWire {
    job: JobId,
    epoch: Epoch,
    token: Zeroizing<String>,
}

impl From<&Voucher> for VoucherWire {
    fn from(voucher: &Voucher) -> Self {
        Self { job: voucher.id, epoch: voucher.epoch, token: Zeroizing::new(hex(voucher.token.reveal())) }
    }
}

impl TryFrom<VoucherWire> for Voucher {
    type Error = WireCause;

    fn try_from(wire: VoucherWire) -> Result<Self, WireCause> {
        let token = ClaimToken::new(from_hex(&wire.token, "token")?);
        Ok(Self { id: wire.job, epoch: wire.epoch, token })
    }
}

/// What a broker is asked.
#[derive(Clone, Debug, PartialEq)]
pub enum LoanCall {
    /// See [`crate::ports::Lender::lend`].
    Lend(LoanRequest),
    /// See [`crate::ports::Lender::take_back`].
    TakeBack(Voucher, Box<Loan>),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum LoanCallWire {
    Lend { voucher: VoucherWire, scope: Scope },
    TakeBack { voucher: VoucherWire, loan: Box<LoanWire> },
}

impl From<&LoanCall> for LoanCallWire {
    fn from(call: &LoanCall) -> Self {
        match call {
            LoanCall::Lend(request) => Self::lend(request),
            LoanCall::TakeBack(voucher, loan) => Self::take_back(voucher, loan),
        }
    }
}

impl LoanCallWire {
    /// A request.
    pub(super) fn lend(request: &LoanRequest) -> Self {
        Self::Lend { voucher: (&request.voucher).into(), scope: request.scope.clone() }
    }

    /// A loan that is given back.
    pub(super) fn take_back(voucher: &Voucher, loan: &Loan) -> Self {
        Self::TakeBack { voucher: voucher.into(), loan: Box::new(loan.into()) }
    }
}

impl TryFrom<LoanCallWire> for LoanCall {
    type Error = WireCause;

    fn try_from(wire: LoanCallWire) -> Result<Self, WireCause> {
        Ok(match wire {
            LoanCallWire::Lend { voucher, scope } => Self::Lend(LoanRequest { voucher: voucher.try_into()?, scope }),
            LoanCallWire::TakeBack { voucher, loan } => {
                Self::TakeBack(voucher.try_into()?, Box::new((*loan).try_into()?))
            }
        })
    }
}

/// What a broker answers.
#[derive(Clone, Debug, PartialEq)]
pub enum LoanAnswer {
    /// To a request.
    Answer(Answer),
    /// It has taken back what was given back.
    TakenBack,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum LoanAnswerWire {
    Lent(Box<LoanWire>),
    Refused { code: RefusedCode, message: String },
    TakenBack,
}

impl From<&LoanAnswer> for LoanAnswerWire {
    fn from(answer: &LoanAnswer) -> Self {
        match answer {
            LoanAnswer::Answer(Answer::Lent(loan)) => Self::Lent(Box::new((&**loan).into())),
            LoanAnswer::Answer(Answer::Refused(Refused { code, message })) => {
                Self::Refused { code: *code, message: message.clone() }
            }
            LoanAnswer::TakenBack => Self::TakenBack,
        }
    }
}

impl TryFrom<LoanAnswerWire> for LoanAnswer {
    type Error = WireCause;

    fn try_from(wire: LoanAnswerWire) -> Result<Self, WireCause> {
        Ok(match wire {
            LoanAnswerWire::Lent(loan) => Self::Answer(Answer::Lent(Box::new((*loan).try_into()?))),
            LoanAnswerWire::Refused { code, message } => Self::Answer(Answer::Refused(Refused::new(code, message))),
            LoanAnswerWire::TakenBack => Self::TakenBack,
        })
    }
}

#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    v: u32,
    #[serde(flatten)]
    what: T,
}

fn text<T: Serialize>(what: T) -> Zeroizing<String> {
    let text = serde_json::to_string(&Versioned { v: VERSION, what });
    Zeroizing::new(text.unwrap_or_else(|error| unreachable!("a loan is always JSON: {error}")))
}

fn read<T: for<'a> Deserialize<'a>>(what: &'static str, text: &str) -> Result<T, WireError> {
    check_version(text).map_err(|cause| bad(what, cause))?;
    // The reader's message may repeat a value, and a value may be a secret: only where it stands is told.
    let read: Result<Versioned<T>, _> = serde_json::from_str(text);
    read.map(|versioned| versioned.what).map_err(|_| bad(what, WireCause::Field("a loan")))
}

/// What a broker is asked, as it is sent: JSON text with the run's token in it.
pub fn encode_loan_call(call: &LoanCall) -> Zeroizing<String> {
    text(LoanCallWire::from(call))
}

/// Reads what [`encode_loan_call`] wrote.
///
/// # Errors
///
/// [`WireError`]; it repeats nothing of what was sent.
pub fn decode_loan_call(text: &str) -> Result<LoanCall, WireError> {
    let what = "a request for a loan";
    read::<LoanCallWire>(what, text)?.try_into().map_err(|cause| bad(what, cause))
}

/// What a broker answers, as it is sent: JSON text with the credential in it.
pub fn encode_loan_answer(answer: &LoanAnswer) -> Zeroizing<String> {
    text(LoanAnswerWire::from(answer))
}

/// Reads what [`encode_loan_answer`] wrote.
///
/// # Errors
///
/// [`WireError`]; it repeats nothing of what was sent.
pub fn decode_loan_answer(text: &str) -> Result<LoanAnswer, WireError> {
    let what = "a broker's answer";
    read::<LoanAnswerWire>(what, text)?.try_into().map_err(|cause| bad(what, cause))
}
